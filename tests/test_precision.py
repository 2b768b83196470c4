"""Products in other precision, and by another library, with every setting given back."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import ppl_vae as pv
from ppl_vae.compile import products as module
from ppl_vae.compile.products import fast_products, products


def test_bf16_rounds_the_factors_of_products_and_nothing_else() -> None:
    """8 bits of each factor: an error of about 2^-9 a factor, forwards and backwards; sums stay float32."""
    torch.manual_seed(0)
    layer, x = nn.Linear(64, 64), torch.randn(32, 64)
    wanted = layer(x)
    (gradient,) = torch.autograd.grad(wanted.square().sum(), layer.weight)
    with products("bf16"):
        found = layer(x)
        (low,) = torch.autograd.grad(found.square().sum(), layer.weight)
        total = torch.ones(10_000).sum() + 0.125
    for one, other in ((found, wanted), (low, gradient)):
        error = float(((one - other).norm() / other.norm()).detach())
        assert one.dtype == torch.float32
        assert 1e-4 < error < 1e-2
    assert float(total) == 10_000.125


def test_other_precisions_are_refused_before_anything_is_done() -> None:
    pair = pv.build("vae", data_shape=(4,), latent=2, hidden=(3,))
    before = [p.detach().clone() for p in pair.parameters()]
    for call in (pv.fit, pv.log_likelihood):
        with pytest.raises(pv.UserError, match="float32, bf16"):
            call(pair, torch.zeros(3, 4), precision="fp16")
    assert all(torch.equal(p, q) for p, q in zip(before, pair.parameters(), strict=True))


def test_bf16_moves_a_fit_and_an_estimate_by_little() -> None:
    torch.manual_seed(0)
    x = (torch.rand(64, 12) > 0.6).float()
    found = {}
    for name in ("float32", "bf16"):
        torch.manual_seed(1)
        pair = pv.build("vae", data_shape=(12,), latent=2, hidden=(16,))
        history = pv.fit(pair, x, epochs=5, batch_size=16, lr=1e-2, progress=False, precision=name, device="cpu")
        found[name] = history[-1]["train_bound"]
        low = pv.log_likelihood(pair, x, num_samples=100, precision="bf16").log_px
        high = pv.log_likelihood(pair, x, num_samples=100).log_px
        assert 0 < float((low - high).abs().max()) < 0.05
    assert found["bf16"] != found["float32"]
    assert found["bf16"] == pytest.approx(found["float32"], rel=0.01)


@pytest.mark.parametrize("chosen", ["medium", "highest"])
def test_the_setting_of_products_is_given_back(monkeypatch: pytest.MonkeyPatch, chosen: str) -> None:
    monkeypatch.setattr(module, "faster", lambda before: chosen)
    monkeypatch.setattr(module, "as_exact", lambda before: True)  # whatever this processor's oneDNN does
    before = torch.get_float32_matmul_precision()

    def work() -> None:
        with fast_products(torch.device("cpu")) as now:
            assert now == torch.get_float32_matmul_precision() == chosen
            raise KeyError

    with pytest.raises(KeyError):
        work()
    assert torch.get_float32_matmul_precision() == before
    with fast_products(torch.device("cpu"), before) as now:  # what an earlier run chose is kept, without a look
        assert now == torch.get_float32_matmul_precision() == before


def test_products_are_never_made_less_precise_unasked() -> None:
    """Whatever is chosen here has at most three times the error of what was set."""
    a, b = torch.randn(128, 512), torch.randn(512, 512)
    exact = a.double() @ b.double()
    plain = float((a @ b - exact).norm())
    with fast_products(torch.device("cpu")):
        assert float((a @ b - exact).norm()) <= 3 * plain
