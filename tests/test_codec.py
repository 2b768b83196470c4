"""Lossless, at the rate of the ELBO, and never read from what is damaged or foreign."""

from __future__ import annotations

import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs_under_test import CASES
from torch import Tensor, nn

import ppl_vae as pv
from ppl_vae.compression import message

pytest.importorskip("constriction")

CODED = ["vae", "vae-conv", "vae-deep-relu", "vae-discretized", "cvae", "hierarchical"]


@pytest.mark.parametrize("name", CODED)
@pytest.mark.parametrize("n", [1, 37])
def test_what_goes_in_comes_out(name: str, n: int) -> None:
    pair = CASES[name].build()
    x, y = CASES[name].draw(n)
    blob = pv.compress(pair, x, y)
    again = pv.decompress(pair, blob, y)
    assert torch.equal(again, x)
    assert again.dtype == x.dtype


@pytest.mark.parametrize("dtype", [torch.float64, torch.bool, torch.uint8])
def test_the_type_of_the_data_comes_back(dtype: torch.dtype) -> None:
    pair = pv.build("vae", data_shape=(6,), latent=2, hidden=(5,))
    x = (torch.rand(9, 6) > 0.5).to(dtype)
    again = pv.decompress(pair, pv.compress(pair, x))
    assert torch.equal(again, x)
    assert again.dtype == dtype


def trained() -> tuple[pv.Pair, pv.Data]:
    data = pv.load_data("digits", binarize="static")
    torch.manual_seed(0)
    pair = pv.build("vae", data=data, latent=8, hidden=(64,))
    pv.fit(pair, data, epochs=15, progress=False)
    return pair.eval(), data


def test_the_rate_is_the_negative_elbo() -> None:
    """Within 1 % on 1,258 digits, initial bits counted, beside a header of 350 bytes at most."""
    pair, data = trained()
    x = data.train.x
    blob = pv.compress(pair, x)
    assert torch.equal(pv.decompress(pair, blob), x)
    length = pv.description_length(pair, x, num_samples=200)
    bits = float(length.total.sum())
    assert 0.995 * bits < 8 * len(blob) < 1.01 * bits + 8 * 350
    est = pv.log_likelihood(pair, x, num_samples=200)
    assert bits == pytest.approx(-float(est.elbo.sum()) / math.log(2), rel=2e-3)


MEANS = torch.tensor([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]])


class Discrete(nn.Module):
    """A mixture: a discrete latent, and a Normal one that depends on it."""

    def forward(self, x: Tensor | None = None, y: Tensor | None = None, n: int = 1) -> Any:
        with pyro.plate("data", n if x is None else len(x), dim=-1):
            c = pyro.sample("c", dist.Categorical(torch.tensor([0.2, 0.3, 0.5])))
            z = pyro.sample("z", dist.Normal(MEANS[c], 0.5).to_event(1))  # an index, so it must be an integer
            p = dist.Binomial(5, logits=torch.cat([z, -z], -1))
            return pyro.sample("x", p.to_event(1), obs=x)


class DiscreteGuide(nn.Module):
    def forward(self, x: Tensor, y: Tensor | None = None) -> None:
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x[..., :2] / 3, 0.3).to_event(1))
            logits = -((z.sum(-1, keepdim=True) / 2 - torch.arange(3.0)) ** 2)
            pyro.sample("c", dist.Categorical(logits=logits))


def test_discrete_latents_and_counts_are_coded_too() -> None:
    """The guide draws in another order than the model."""
    pair = pv.Pair(Discrete(), DiscreteGuide())
    x = pv.sample(pair, 200, seed=0)
    blob = pv.compress(pair, x)
    assert torch.equal(pv.decompress(pair, blob), x)
    bits = float(pv.description_length(pair, x, num_samples=500).total.sum())
    assert 8 * len(blob) < 1.05 * bits + 8 * 600


class Extreme(nn.Module):
    """A guide whose mean is far out and whose scale is tiny, and a decoder that is sure."""

    def __init__(self, shift: float, scale: float) -> None:
        super().__init__()
        self.shift, self.scale = shift, scale

    def model(self, x: Tensor | None = None, y: Tensor | None = None, n: int = 1) -> Any:
        with pyro.plate("data", n if x is None else len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            return pyro.sample("x", dist.Bernoulli(logits=500 * torch.cat([z, -z], -1)).to_event(1), obs=x)

    def guide(self, x: Tensor, y: Tensor | None = None) -> None:
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(self.shift + x[..., :2], self.scale).to_event(1))


@pytest.mark.parametrize(("shift", "scale"), [(0.0, 1e-6), (100.0, 0.1), (-3.0, 10.0)])
def test_a_bad_guide_costs_bits_and_never_data(shift: float, scale: float) -> None:
    programs = Extreme(shift, scale)
    pair = pv.Pair(programs.model, programs.guide)
    x = (torch.rand(30, 4) > 0.5).float()
    assert torch.equal(pv.decompress(pair, pv.compress(pair, x)), x)


@pytest.mark.parametrize("dims", [5, 6, 7, 13, 30, 49, 101])
def test_every_length_of_data_comes_back(dims: int) -> None:
    """Kernels round by the alignment of their input: a view into a batch is not what the reader has."""
    pair = pv.build("vae", data_shape=(dims,), latent=2, hidden=(8,))
    for n in (10, 33, 70):
        x = (torch.rand(n, dims) > 0.5).float()
        assert torch.equal(pv.decompress(pair, pv.compress(pair, x)), x)


class Uneven(nn.Module):
    """Probabilistic PCA in which one coordinate of ten is known a hundred times better than the rest."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor([0.01] + 9 * [1.0]))

    def model(self, x: Tensor | None = None, y: Tensor | None = None, n: int = 1) -> Any:
        with pyro.plate("data", n if x is None else len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(10), 1.0).to_event(1))
            p = dist.Binomial(1000, logits=z[..., :1])
            return pyro.sample("x", p.to_event(1), obs=x)

    def guide(self, x: Tensor, y: Tensor | None = None) -> None:
        with pyro.plate("data", len(x), dim=-1):
            first = torch.logit((x + 0.5) / 1001)
            mean = torch.cat([first, torch.zeros_like(x).expand(*x.shape[:-1], 9)], -1)
            pyro.sample("z", dist.Normal(mean, 7 * self.scale).to_event(1))


def test_each_coordinate_has_its_own_grid() -> None:
    programs = Uneven()
    pair = pv.Pair(programs.model, programs.guide)
    x = pv.sample(pair, 300, seed=0)
    blob = pv.compress(pair, x)
    bits = float(pv.description_length(pair, x, num_samples=500).total.sum())
    assert 8 * len(blob) < 1.02 * bits + 8 * 600


def test_data_that_are_not_exactly_a_value_are_refused() -> None:
    pair = pv.build("vae", data_shape=(1, 4, 4), latent=2, hidden=(8,), likelihood="discretized")
    steps = torch.randint(256, (5, 1, 4, 4)).float()
    assert torch.equal(pv.decompress(pair, pv.compress(pair, steps / 255)), steps / 255)
    with pytest.raises(pv.DataError, match="do not come back exactly"):
        pv.compress(pair, steps.double() / 255)


def test_a_guide_that_is_not_finite_names_its_site() -> None:
    programs = Extreme(math.nan, 1.0)
    with pytest.raises(pv.NonFiniteError, match="site 'z'"):
        pv.compress(pv.Pair(programs.model, programs.guide), torch.ones(3, 4))


def test_splits_and_arrays_are_compressed_and_labels_asked_for() -> None:
    pair = CASES["cvae"].build()
    x, y = CASES["cvae"].draw(9)
    blob = pv.compress(pair, (x, y))
    assert torch.equal(pv.decompress(pair, blob, y), x)
    with pytest.raises(pv.RunError, match=r"made with labels: give the same y \(9,\)"):
        pv.decompress(pair, blob)
    vae = CASES["vae"].build()
    assert torch.equal(pv.decompress(vae, pv.compress(vae, x.numpy())), x)
    with pytest.raises(pv.RunError, match="not a message"):
        pv.decompress(vae, "text")  # type: ignore[arg-type]


def test_what_is_damaged_or_foreign_is_refused() -> None:
    pair = pv.build("vae", data_shape=(6,), latent=2, hidden=(5,))
    x = (torch.rand(9, 6) > 0.5).float()
    blob = pv.compress(pair, x)
    for bad in (blob[:-1], blob[:40], blob[:-20] + bytes(20), blob + b"0", blob[:60] + b"?" + blob[61:]):
        with pytest.raises(pv.RunError, match="truncated or damaged"):
            pv.decompress(pair, bad)
    for bad in (b"", b"\x89PNG\r\n", blob[1:]):
        with pytest.raises(pv.RunError, match=r"not a message of pv\.compress"):
            pv.decompress(pair, bad)
    with pytest.raises(pv.RunError, match="another pair, or by other weights"):
        pv.decompress(pv.build("vae", data_shape=(6,), latent=2, hidden=(5,)), blob)


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": "save"},
        {"n": -1},
        {"sizes": [[10**9, 10**9]]},
        {"sizes": "x"},
        {"shape": [7]},
        {"grid": {}},
        {"grid": {"z": [[1], 0, 0]}},
        {"data": "0" * 16},
    ],
)
def test_a_forged_header_is_refused_in_one_line(change: dict[str, Any]) -> None:
    """A message with a good checksum whose header is impossible."""
    pair = pv.build("vae", data_shape=(6,), latent=2, hidden=(5,))
    blob = pv.compress(pair, (torch.rand(9, 6) > 0.5).float())
    header, payload = message.read(blob)
    with pytest.raises(pv.RunError) as caught:
        pv.decompress(pair, message.write({**header, **change}, payload))
    assert "\n" not in str(caught.value)


def test_what_cannot_be_coded_is_refused_before_any_work() -> None:
    x = torch.rand(3, 6)
    for name, error in (
        ("gaussian", "site 'x': Normal is a density"),
        ("continuous_bernoulli", "site 'x': ContinuousBernoulli is a density"),
    ):
        with pytest.raises(pv.PairError, match=error):
            pv.compress(pv.build("vae", data_shape=(6,), latent=2, hidden=(5,), likelihood=name), x)
    with pytest.raises(pv.PairError, match="this pair has none"):
        pv.compress(pv.build("made", data_shape=(6,), hidden=(5,)), (x > 0.5).float())
    vae = pv.build("vae", data_shape=(6,), latent=2, hidden=(5,))
    with pytest.raises(pv.DataError, match="example 0 lies outside"):
        pv.compress(vae, x)
    with pytest.raises(pv.DataError, match="holds no data"):
        pv.compress(vae, x[:0])


def test_the_precision_of_products_does_not_matter() -> None:
    pair, data = trained()
    blob = pv.compress(pair, data.test.x[:100])
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        assert torch.equal(pv.decompress(pair, blob), data.test.x[:100])
    finally:
        torch.set_float32_matmul_precision(before)


def test_nothing_global_moves() -> None:
    pair = pv.build("vae", data_shape=(6,), latent=2, hidden=(5,)).train()
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    blob = pv.compress(pair, torch.ones(5, 6))
    pv.decompress(pair, blob)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.get_num_threads() == threads
    assert pair.training
    assert blob == pv.compress(pair, torch.ones(5, 6))


def test_the_two_parts_are_the_rate_and_the_distortion() -> None:
    """Probabilistic PCA with its posterior: KL in closed form, and the total is -log p(x)."""
    pair = pv.build("linear", data_shape=(6,), latent=2, guide="exact").double()
    x = pv.sample(pair, 20, seed=0)
    length = pv.description_length(pair, x, num_samples=4000)
    q = pair.model.posterior(x)
    prior = dist.MultivariateNormal(torch.zeros(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64))
    kl = torch.distributions.kl_divergence(q, prior).detach() / math.log(2)
    torch.testing.assert_close(length.bits_z, kl, rtol=0, atol=0.2)
    torch.testing.assert_close(length.total, -pair.model.evidence(x).detach() / math.log(2))
    assert not length.is_code
    assert "no code" in str(length)
    two = pv.build("hierarchical", data_shape=(4,), latent=(3, 2), hidden=(4,), hidden2=(4,))
    layers = pv.description_length(two, torch.ones(2, 4))
    assert set(layers.sites) == {"z1", "z2"}
    torch.testing.assert_close(layers.sites["z1"] + layers.sites["z2"], layers.bits_z)
    assert layers.is_code
    made = pv.description_length(pv.build("made", data_shape=(4,), hidden=(5,)), torch.ones(2, 4))
    assert made.bits_z.tolist() == [0.0, 0.0]
