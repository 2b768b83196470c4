"""Views: the evidence of linear ones is known, experts join as they should, a missing one does not exist."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from commands import call, read
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal

import ppl_vae as pv
from ppl_vae.pairs.views import mixture, product

SHAPE = {"one": (3,), "two": (2,)}


def linear(**options: str) -> pv.Pair:
    torch.manual_seed(0)
    return pv.build("views", data_shape=SHAPE, latent=2, hidden=(), **options).double()


def data() -> dict[str, Tensor]:
    """Both views; the first; the second; the first with a gap."""
    x = {name: torch.randn(4, *shape, dtype=torch.float64) for name, shape in SHAPE.items()}
    x["two"][1] = x["one"][2] = x["two"][3] = x["one"][3, 0] = torch.nan
    return x


def evidence(pair: pv.Pair, x: dict[str, Tensor]) -> Tensor:
    """log N(x; b, W W' + s^2 I) of the numbers that were seen."""
    layers = [decoder.last for decoder in pair.model.decoders.values()]
    W, b = torch.cat([m.weight for m in layers]), torch.cat([m.bias for m in layers])
    noise = torch.cat([p.log_sigma.exp().expand(*SHAPE[name]) for name, p in pair.model.likelihoods.items()])
    found = []
    for value in torch.cat(list(x.values()), -1):
        on = ~value.isnan()
        covariance = W[on] @ W[on].T + torch.diag(noise[on].square())
        found.append(MultivariateNormal(b[on], covariance).log_prob(value[on]))
    return torch.stack(found).detach()


@pytest.mark.parametrize("experts", ["product", "mixture"])
def test_linear_views_have_the_evidence_of_a_gaussian(experts: str) -> None:
    pair, x = linear(experts=experts), data()
    est = pv.log_likelihood(pair, x, num_samples=10_000, proposal="defensive")
    assert bool(((est.log_px - evidence(pair, x)).abs() < 4 * est.std_error + 1e-6).all())
    assert float(est.std_error.max()) < 0.1


def parts() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Means and log scales of three experts in two dimensions for three examples, which of them are on, and a z."""
    on = torch.tensor([[True, True, True], [True, False, True], [False, False, False]])
    return torch.randn(3, 3, 2).double(), torch.randn(3, 3, 2).double(), on, torch.randn(50, 3, 2).double()


def scores(loc: Tensor, log_scale: Tensor, z: Tensor) -> Tensor:
    """log N(z) of each expert, (50, 3, experts)."""
    return Normal(loc, log_scale.exp()).log_prob(z.unsqueeze(-2)).sum(-1)


def test_a_product_is_the_prior_times_every_expert_that_is_on() -> None:
    loc, log_scale, on, z = parts()
    each = torch.where(on, scores(loc, log_scale, z), 0.0).sum(-1)
    constant = product(loc, log_scale, on).log_prob(z) - each - Normal(0.0, 1.0).log_prob(z).sum(-1)
    torch.testing.assert_close(constant, constant[:1].expand(50, 3))
    torch.testing.assert_close(constant[0, 2], torch.tensor(0.0).double())


def test_a_mixture_is_the_average_of_the_experts_that_are_on() -> None:
    loc, log_scale, on, z = parts()
    found = mixture(loc, log_scale, on).log_prob(z)
    each = scores(loc, log_scale, z)
    torch.testing.assert_close(found[:, 0].exp(), each[:, 0].exp().mean(-1))
    torch.testing.assert_close(found[:, 1].exp(), each[:, 1, [0, 2]].exp().mean(-1))
    torch.testing.assert_close(found[:, 2], Normal(0.0, 1.0).log_prob(z[:, 2]).sum(-1))


@pytest.mark.parametrize("experts", ["product", "mixture"])
def test_the_expert_of_a_missing_view_says_nothing(experts: str) -> None:
    pair, x = linear(experts=experts), data()
    with pv.rng.forked(seed=1):
        one = pv.terms(pair.model, pair.guide, x, num_samples=3).log_w
    for p in pair.guide.experts["two"].parameters():
        p.data.add_(1.0)
    with pv.rng.forked(seed=1):
        two = pv.terms(pair.model, pair.guide, x, num_samples=3).log_w
    same = (one == two).all(0)
    assert same.tolist() == [False, True, False, True]


def test_gradients_are_finite_where_views_are_missing() -> None:
    for experts in ("product", "mixture"):
        pair, x = linear(experts=experts), data()
        x["one"][3], x["two"][3] = torch.nan, torch.nan  # nothing was seen
        pv.Elbo(4)(pair.model, pair.guide)(x).backward()
        assert all(bool(p.grad.isfinite().all()) for p in pair.parameters() if p.grad is not None)
        assert float(pv.log_likelihood(pair, x, num_samples=100).log_px[3]) == 0


def test_a_missing_view_is_drawn_from_the_others() -> None:
    pair, x = linear(), data()
    drawn = pv.reconstruct(pair, x)
    assert {name: v.shape for name, v in drawn.items()} == {name: v.shape for name, v in x.items()}
    assert not any(bool(v.isnan().any()) for v in drawn.values())


def test_each_view_may_have_its_own_likelihood() -> None:
    pair = pv.build("views", data_shape={"a": (1, 4, 4), "b": ()}, likelihood=("bernoulli", "gaussian"), hidden=(3,))
    x = pv.sample(pair, 5)
    assert bool(((x["a"] == 0) | (x["a"] == 1)).all())
    assert x["b"].shape == (5,)
    assert bool(pv.log_likelihood(pair, x, num_samples=5).log_px.isfinite().all())


def test_what_it_does_not_take() -> None:
    for options in ({"data_shape": {"z": (2,)}}, {"likelihood": ("gaussian",) * 3}, {"experts": "sum"}):
        with pytest.raises(pv.UserError, match="name no view z"):
            pv.build("views", **{"data_shape": SHAPE, **options})
    with pytest.raises(pv.UserError, match="a dictionary"):
        pv.build("views", data_shape=(3,))
    with pytest.raises(pv.UserError, match="has no option guide"):
        linear().with_guide("full")


def test_the_command_line_trains_draws_and_reconstructs_several_fields(tmp_path: Path) -> None:
    run, quick = tmp_path / "run", ("--epochs", "1", "--latent", "2", "--hidden", "4", "--device", "cpu")
    call("train", "views", "--data", "views", *quick, "--num-samples", "5", "--limit", "20", "--out", run)
    for command in ("sample", "reconstruct"):
        [file] = read(command, run, "-n", "3")["files"]
        with np.load(file, allow_pickle=False) as found:
            assert {name: found[name].shape for name in found} == {"one": (3, 10), "two": (3, 6)}
    assert "latent_scatter.png" in {path.name for path in (run / "figures").iterdir()}
