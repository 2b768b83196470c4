"""pyro.factor: in a guide it trains as under stock Trace_ELBO; in no estimate is it part of log p(x)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from torch import Tensor, nn

import ppl_vae as pv
from ppl_vae.cli.evaluation import evaluate
from ppl_vae.data.splits import Split

X = torch.linspace(-1, 1, 12).reshape(6, 2)
Y = torch.tensor([0, 1, 2, 0, 1, 2])


class Semi(nn.Module):
    """A classifier inside the guide, as M2's; the kind of term is an argument."""

    def __init__(self, term: str, discrete: bool = False) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.term, self.discrete = term, discrete
        self.decode, self.encode, self.classify = nn.Linear(2, 2), nn.Linear(2, 4), nn.Linear(2, 3)

    def model(self, x: Tensor, y: Tensor | None = None) -> None:
        pyro.module("semi", self)
        with pyro.plate("data", len(x), dim=-1):
            if self.discrete:
                pyro.sample("c", dist.Bernoulli(torch.full((2,), 0.3)).to_event(1))
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decode(z), 1.0).to_event(1), obs=x)
            if self.term == "model":
                pyro.factor("term", -0.3 * z.square().sum(-1))

    def guide(self, x: Tensor, y: Tensor | None = None) -> None:
        pyro.module("semi", self)
        logits = self.classify(x)
        loss = nn.functional.cross_entropy(logits, Y[: len(x)], reduction="none")
        loc, scale = self.encode(x).chunk(2, -1)
        if self.term == "outside":
            pyro.factor("term", 0.7 * loss.sum(), has_rsample=True)
        with pyro.plate("data", len(x), dim=-1):
            if self.discrete:
                pyro.sample("c", dist.Bernoulli(logits=logits[:, :2]).to_event(1))
            z = pyro.sample("z", dist.Normal(loc, scale.exp()).to_event(1))
            if self.term == "classifier":
                pyro.factor("term", 46 * loss, has_rsample=False)
            elif self.term == "reparameterised":
                pyro.factor("term", loss + z.square().sum(-1), has_rsample=True)
            elif self.term == "unsaid":
                pyro.factor("term", loss)
            elif self.term == "observed":
                pyro.sample("term", dist.Categorical(logits=logits), obs=Y[: len(x)])
            elif self.term == "scaled":
                with pyro.poutine.scale(scale=2.5):
                    pyro.factor("term", loss, has_rsample=True)
            elif self.term == "masked":
                with pyro.poutine.mask(mask=Y[: len(x)] > 0):
                    pyro.factor("term", loss, has_rsample=True)


IN_GUIDES = ("classifier", "reparameterised", "unsaid", "observed", "scaled", "masked", "outside")


def loss_and_gradient(loss: Any, semi: Semi) -> tuple[float, dict[str, Tensor]]:
    semi.zero_grad()
    pyro.clear_param_store()
    torch.manual_seed(7)
    # with validation Pyro refuses the terms that are "unsaid", and warns of those that are "observed"
    with pyro.validation_enabled(semi.term not in ("unsaid", "observed")):
        value = loss.loss_and_grads(semi.model, semi.guide, X)
    pyro.clear_param_store()
    return value, {n: p.grad.clone() for n, p in semi.named_parameters() if p.grad is not None}


def agree(one: tuple[float, dict[str, Tensor]], two: tuple[float, dict[str, Tensor]]) -> None:
    assert one[0] == pytest.approx(two[0], rel=1e-6)
    for name in one[1] | two[1]:
        zero = torch.zeros(())
        assert torch.allclose(one[1].get(name, zero), two[1].get(name, zero), rtol=1e-4, atol=1e-4), name


@pytest.mark.parametrize("discrete", [False, True])
@pytest.mark.parametrize("term", [*IN_GUIDES, "model", "none"])
def test_loss_and_gradient_are_those_of_stock_trace_elbo(term: str, discrete: bool) -> None:
    semi = Semi(term, discrete)
    agree(loss_and_gradient(pv.Elbo(), semi), loss_and_gradient(Trace_ELBO(), semi))


@pytest.mark.parametrize("term", ["reparameterised", "scaled", "masked", "outside"])
def test_the_closed_form_kl_counts_them_as_stock_does(term: str) -> None:
    semi = Semi(term)
    agree(loss_and_gradient(pv.AnalyticKL(), semi), loss_and_gradient(TraceMeanField_ELBO(), semi))


def test_several_particles_average_the_factor_as_stock_does() -> None:
    semi = Semi("reparameterised")
    stock = Trace_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=1)
    agree(loss_and_gradient(pv.Elbo(3), semi), loss_and_gradient(stock, semi))


def test_svi_moves_a_classifier_that_only_the_factor_trains() -> None:
    semi = Semi("classifier")
    before = semi.classify.weight.clone()
    svi = pv.SVI(semi.model, semi.guide, torch.optim.Adam(semi.parameters(), lr=0.1), loss=Trace_ELBO())
    losses = [float(svi.step(X)) for _ in range(30)]
    assert not torch.equal(before, semi.classify.weight)
    assert losses[-1] != losses[0]


@pytest.mark.parametrize("term", ["classifier", "outside"])
def test_stopping_the_score_leaves_the_factors_gradient(term: str) -> None:
    semi = Semi(term).eval()  # Pyro warns of parameters that are stopped in training mode
    path = loss_and_gradient(pv.Elbo(), semi)
    stl = loss_and_gradient(pv.Elbo(gradient="stl"), semi)
    assert stl[0] == pytest.approx(path[0], rel=1e-6)
    assert torch.allclose(stl[1]["classify.weight"], path[1]["classify.weight"], rtol=1e-4)


def test_a_factor_that_does_not_say_where_it_comes_from_is_refused_as_in_pyro() -> None:
    semi = Semi("unsaid")
    svi = pv.SVI(semi.model, semi.guide, torch.optim.Adam(semi.parameters()))
    with pytest.raises(pv.PairError, match=r"'term'.*has_rsample=True"):
        svi.step(X)


def test_what_has_no_meaning_is_refused_by_name() -> None:
    semi = Semi("scaled")
    with pytest.raises(pv.PairError, match=r"'term'.*iwae has no place.*'elbo'"):
        pv.check_pair(semi.model, semi.guide, X, objective=pv.IWAE(3))
    semi = Semi("classifier")
    with pytest.raises(pv.PairError, match=r"'term'.*does not have has_rsample=True"):
        pv.check_pair(semi.model, semi.guide, X[:3], objective=pv.AnalyticKL())


def estimates(pair: pv.Pair) -> dict[str, Callable[[], Any]]:
    return {
        "log_likelihood": lambda: pv.log_likelihood(pair, X, num_samples=5).log_px,
        "prior": lambda: pv.log_likelihood(pair, X, num_samples=5, proposal="prior").log_px,
        "defensive": lambda: pv.log_likelihood(pair, X, num_samples=5, proposal="defensive").log_px,
        "qmc": lambda: pv.log_likelihood(pair, X, num_samples=8, proposal="qmc").log_px,
        "ais": lambda: pv.ais(pair, X, num_chains=2, num_temperatures=2, start="guide").log_px,
        "from the prior": lambda: pv.ais(pair, X, num_chains=2, num_temperatures=2).log_px,
        "hmc": lambda: pv.posterior(pair, X, method="hmc", num_samples=4, warmup=2)["z"],
        "guide": lambda: pv.posterior(pair, X, num_samples=4).log_weight,
        "description_length": lambda: pv.description_length(pair, X, num_samples=4).total,
        "to_arviz": lambda: torch.as_tensor(pv.to_arviz(pair, X, num_samples=4)["sample_stats"]["lp"].values),
    }


def test_a_factor_of_the_guide_is_in_no_estimate() -> None:
    with_term, without = Semi("classifier"), Semi("none")
    pairs = [pv.Pair(s.model, s.guide) for s in (with_term, without)]
    for (name, one), two in zip(estimates(pairs[0]).items(), estimates(pairs[1]).values(), strict=True):
        torch.manual_seed(0)
        first = one()
        torch.manual_seed(0)
        assert torch.equal(first, two()), name
    code = pv.encode(pairs[0], X)
    assert set(code.mean) == set(code.sample) == {"z"}


@pytest.mark.parametrize("name", estimates(pv.Pair(lambda x: None, lambda x: None)))
def test_a_factor_of_the_model_is_refused_by_name_in_every_estimate(name: str) -> None:
    semi = Semi("model")
    pv.check_pair(semi.model, semi.guide, X)
    with pytest.raises(pv.PairError, match=r"'term' is a pyro.factor of the model.*no part of log p\(x\)") as caught:
        estimates(pv.Pair(semi.model, semi.guide))[name]()
    assert "\n" not in str(caught.value)


def test_log_joint_refuses_a_factor_of_the_model() -> None:
    semi = Semi("model")
    with pytest.raises(pv.PairError, match=r"'term' is a pyro.factor of the model"):
        pv.log_joint(semi.model, X, None, {"z": torch.ones(1, 6, 2)})


def test_a_factor_of_zero_changes_nothing() -> None:
    def model(x: Tensor) -> None:
        semi.model(x)
        with pyro.plate("other", len(x), dim=-1):
            pyro.factor("nothing", torch.zeros(len(x)))

    semi = Semi("none")
    one, two = (pv.log_likelihood(pv.Pair(m, semi.guide), X, num_samples=5).log_px for m in (model, semi.model))
    assert torch.equal(one, two)


def test_an_evaluation_says_why_there_is_no_log_px_and_does_not_stop() -> None:
    semi = Semi("model")
    found, estimate = evaluate(pv.Pair(semi.model, semi.guide), "own", "file", Split(X), 5, 0)
    assert estimate is None
    assert found["log_px_mean"] is None
    assert found["elbo_mean"] is None
    assert "pyro.factor of the model" in found["note"]
