"""Discrete latents that the model marks and the guide leaves out are summed out, exactly, in whatever scores."""

from __future__ import annotations

import itertools
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import TraceEnum_ELBO, config_enumerate
from torch import Tensor, nn

import ppl_vae as pv
from ppl_vae.scoring import enumeration

PARALLEL = {"enumerate": "parallel"}
X = torch.tensor([[0.5, -1.0], [1.5, 0.2], [-0.3, 0.1]])
PI, MU = torch.tensor([0.2, 0.5, 0.3]), torch.tensor([[-1.0, 0.0], [0.5, 1.0], [2.0, -1.0]])


class Mixture(nn.Module):
    """c ~ Cat(pi), z | c ~ N(mu_c, I), x | z, c ~ N(z + shift c, I): GMVAE, whose x sees c where shift > 0."""

    def __init__(self, shift: float = 0.0) -> None:
        super().__init__()
        self.shift = shift
        self.means = nn.Parameter(MU.clone())

    def model(self, x: Tensor | None = None, y: Tensor | None = None, n: int = 1) -> Any:
        with pyro.plate("data", n if x is None else len(x), dim=-1):
            c = pyro.sample("c", dist.Categorical(PI), infer=PARALLEL)
            z = pyro.sample("z", dist.Normal(self.means[c], 1.0).to_event(1))
            mean = z + self.shift * c.unsqueeze(-1)
            return pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor, y: Tensor | None = None) -> None:
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x / 2, 1.2).to_event(1))

    def evidence(self, x: Tensor) -> Tensor:
        mean = MU + self.shift * torch.arange(3.0)[:, None]
        return torch.logsumexp(PI.log() + dist.Normal(mean, 2**0.5).to_event(1).log_prob(x[:, None]), -1)

    def joint(self, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """log p(z) and log p(x, z) at z (K, B, 2), by hand."""
        prior = PI.log() + dist.Normal(MU, 1.0).to_event(1).log_prob(z[..., None, :])
        mean = z[..., None, :] + self.shift * torch.arange(3.0)[:, None]
        both = prior + dist.Normal(mean, 1.0).to_event(1).log_prob(x[:, None])
        return torch.logsumexp(prior, -1), torch.logsumexp(both, -1)


@pytest.mark.parametrize("shift", [0.0, 0.7])
def test_the_terms_are_marginals_of_one_joint(shift: float) -> None:
    pair = Mixture(shift)
    t = pv.terms(pair.model, pair.guide, X, num_samples=4)
    log_prior, log_joint = pair.joint(X, t.sites["z"].value)
    assert t.summed == ("c",)
    assert set(t.sites) == {"z"}
    assert torch.allclose(t.log_prior, log_prior, atol=1e-5)
    assert torch.allclose(t.log_lik, log_joint - log_prior, atol=1e-5)
    assert torch.allclose(pv.log_joint(pair.model, X, None, {"z": t.sites["z"].value}), log_joint, atol=1e-5)


@pytest.mark.parametrize("shift", [0.0, 0.7])
def test_every_estimate_finds_the_evidence_of_a_mixture(shift: float) -> None:
    both = Mixture(shift)
    pair, truth = pv.Pair(both.model, both.guide), both.evidence(X)
    pv.check_pair(pair.model, pair.guide, X)
    for proposal in ("guide", "prior", "defensive", "qmc"):
        est = pv.log_likelihood(pair, X, num_samples=4096, proposal=proposal)
        assert ((est.log_px - truth).abs() < 6 * est.std_error + 0.01).all(), proposal
    for start in ("prior", "guide"):
        est = pv.ais(pair, X, num_chains=64, num_temperatures=8, start=start)
        assert ((est.log_px - truth).abs() < 6 * est.std_error + 0.02).all(), start
    assert pv.posterior(pair, X, method="hmc", num_samples=8, num_chains=2, warmup=4)["z"].isfinite().all()
    assert abs(pv.bdmc(pair, num_data=4, num_chains=8, num_temperatures=8).gap) < 1.5
    assert pv.eubo(pair, num_data=20, num_samples=50).gap > -0.1
    assert pv.description_length(pair, X, num_samples=4).total.isfinite().all()


@pytest.mark.parametrize("shift", [0.0, 0.7])
def test_loss_and_gradient_are_those_of_trace_enum_elbo(shift: float) -> None:
    both = Mixture(shift)
    found = []
    for loss in (pv.Elbo(), TraceEnum_ELBO(max_plate_nesting=1)):
        both.zero_grad()
        torch.manual_seed(5)
        value = loss.differentiable_loss(both.model, both.guide, X)
        value.backward()
        found.append((float(value.detach()), both.means.grad.clone()))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    assert torch.allclose(found[0][1], found[1][1], atol=1e-4)


@pytest.mark.parametrize("objective", [pv.Elbo(), pv.IWAE(3), pv.IWAE(3, gradient="dreg"), pv.AnalyticKL()])
def test_a_pair_with_a_summed_class_trains(objective: Any) -> None:
    both = Mixture(0.5)
    pair = pv.Pair(both.model, both.guide)
    before = both.means.detach().clone()
    pv.fit(
        pair, X.repeat(4, 1), objective=objective, epochs=1, batch_size=6, device="cpu", progress=False, capture=False
    )
    assert not torch.equal(before, both.means)


def hmm(x: Tensor) -> None:
    """Three steps of a two-state chain, without a guide: log p(x) is exact."""
    jump = torch.tensor([[0.9, 0.1], [0.3, 0.7]])
    with pyro.plate("data", len(x), dim=-1):
        state = None
        for t in range(3):
            p = torch.tensor([0.5, 0.5]) if state is None else jump[state]
            state = pyro.sample(f"s{t}", dist.Categorical(p), infer=PARALLEL)
            pyro.sample(f"x{t}", dist.Normal(2.0 * state, 1.0), obs=x[:, t])


def nothing(x: Tensor) -> None:
    pass


def forward_algorithm(x: Tensor) -> Tensor:
    jump, means = torch.tensor([[0.9, 0.1], [0.3, 0.7]]), torch.tensor([0.0, 2.0])
    alpha = torch.tensor([0.5, 0.5]).log() + dist.Normal(means, 1.0).log_prob(x[:, :1])
    for t in range(1, 3):
        alpha = torch.logsumexp(alpha[:, :, None] + jump.log(), 1)
        alpha = alpha + dist.Normal(means, 1.0).log_prob(x[:, t : t + 1])
    return torch.logsumexp(alpha, -1)


def test_a_hidden_markov_chain_has_the_evidence_of_the_forward_algorithm() -> None:
    x = torch.randn(4, 3)
    pair = pv.Pair(hmm, nothing)
    pv.check_pair(hmm, nothing, x)
    est = pv.log_likelihood(pair, x, num_samples=7)
    assert torch.allclose(est.log_px, forward_algorithm(x).double(), atol=1e-5)
    assert est.side == "exact"


def test_padded_steps_of_a_chain_are_no_part_of_the_evidence() -> None:
    x, lengths = torch.randn(4, 3), torch.tensor([1, 2, 3, 3])

    def padded(x: Tensor) -> None:
        jump = torch.tensor([[0.9, 0.1], [0.3, 0.7]])
        with pyro.plate("data", len(x), dim=-1):
            state = None
            for t in range(3):
                with pyro.poutine.mask(mask=t < lengths):
                    p = torch.tensor([0.5, 0.5]) if state is None else jump[state]
                    state = pyro.sample(f"s{t}", dist.Categorical(p), infer=PARALLEL)
                    pyro.sample(f"x{t}", dist.Normal(2.0 * state, 1.0), obs=x[:, t])

    found = pv.log_likelihood(pv.Pair(padded, nothing), x, num_samples=2).log_px
    two = dist.Normal(torch.tensor([0.0, 2.0]), 1.0).log_prob(x[0, :1])
    assert found[0] == pytest.approx(float(torch.logsumexp(two - torch.tensor(2.0).log(), 0)), abs=1e-5)
    assert torch.allclose(found[2:], forward_algorithm(x[2:]).double(), atol=1e-5)


def test_several_independent_sites_of_all_kinds_are_summed_by_brute_force() -> None:
    logits = torch.tensor([0.3, -0.4])

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            a = pyro.sample("a", dist.Bernoulli(0.3), infer=PARALLEL)
            b = pyro.sample("b", dist.OneHotCategorical(PI), infer=PARALLEL)
            d = pyro.sample("d", dist.Bernoulli(logits=logits).to_event(1), infer=PARALLEL)
            mean = a + (b @ MU[:, 0]) + d.sum(-1)
            pyro.sample("x", dist.Normal(mean.unsqueeze(-1), 1.0).to_event(1), obs=x)

    x = torch.tensor([[0.4], [2.0]])
    parts = []
    for a, b, d in itertools.product(range(2), range(3), itertools.product(range(2), repeat=2)):
        bits = torch.tensor(d, dtype=torch.float)
        prior = dist.Bernoulli(0.3).log_prob(torch.tensor(float(a))) + PI[b].log()
        prior = prior + dist.Bernoulli(logits=logits).log_prob(bits).sum()
        parts.append(prior + dist.Normal(a + MU[b, 0] + bits.sum(), 1.0).log_prob(x[:, 0]))
    t = pv.terms(model, nothing, x)
    assert torch.allclose(t.log_w[0], torch.logsumexp(torch.stack(parts), 0), atol=1e-5)


def test_a_class_that_the_guide_draws_is_drawn() -> None:
    both = Mixture()

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x / 2, 1.2).to_event(1))
            pyro.sample("c", dist.Categorical(torch.ones(3) / 3), infer=PARALLEL)

    t = pv.terms(both.model, guide, X, num_samples=2)
    assert t.summed == ()
    assert set(t.sites) == {"z", "c"}
    est = pv.log_likelihood(pv.Pair(both.model, guide), X, num_samples=8000)
    assert ((est.log_px - both.evidence(X)).abs() < 6 * est.std_error).all()


def test_what_can_not_be_summed_is_one_line() -> None:
    def counts(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            c = pyro.sample("c", dist.Poisson(2.0), infer=PARALLEL)
            pyro.sample("x", dist.Normal(c.unsqueeze(-1) * torch.ones(2), 1.0).to_event(1), obs=x)

    def many(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("c", dist.Bernoulli(torch.full((20,), 0.5)).to_event(1), infer=PARALLEL)
            pyro.sample("x", dist.Normal(torch.zeros(2), 1.0).to_event(1), obs=x)

    def several(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            for i in range(5):
                pyro.sample(f"c{i}", dist.Categorical(torch.ones(10)), infer=PARALLEL)
            pyro.sample("x", dist.Normal(torch.zeros(2), 1.0).to_event(1), obs=x)

    def unmarked(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("c", dist.Categorical(PI))
            pyro.sample("x", dist.Normal(torch.zeros(2), 1.0).to_event(1), obs=x)

    for model, message in (
        (counts, "'c' is marked .* values of Poisson can't be listed"),
        (many, "summing out c takes 1,048,576 assignments"),
        (several, "summing out c0, c1, c2, c3, c4 takes 100,000 assignments"),
        (unmarked, r"mark 'c' infer=.*\(pyro.infer.config_enumerate does\) to sum it out"),
    ):
        with pytest.raises(pv.PairError, match=message) as caught:
            pv.check_pair(model, nothing, X)
        assert "\n" not in str(caught.value)


def test_assignments_are_the_product_of_the_supports() -> None:
    found, count = enumeration.assignments({"a": torch.arange(2), "b": torch.eye(3)})
    assert count == 6
    assert found["a"].tolist() == [0, 0, 0, 1, 1, 1]
    assert torch.equal(found["b"], torch.eye(3).repeat(2, 1))


def test_what_is_generated_from_a_code_has_the_class_that_the_code_and_the_data_say() -> None:
    """c ~ p(c | z, x) in a reconstruction, p(c | z) in a decoding: not the prior's."""

    def model(x: Tensor | None = None, y: Tensor | None = None, n: int = 1) -> Any:
        with pyro.plate("data", n if x is None else len(x), dim=-1):
            c = pyro.sample("c", dist.Categorical(torch.tensor([0.5, 0.5])), infer=PARALLEL)
            z = pyro.sample("z", dist.Normal(3.0 * c.unsqueeze(-1), 1.0).to_event(1))
            mean = z + 100.0 * c.unsqueeze(-1)
            return pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x)

    def guide(x: Tensor, y: Tensor | None = None) -> None:
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(torch.where(x > 50, x - 100, x), 0.5).to_event(1))

    pair = pv.Pair(model, guide)
    x = torch.tensor([[0.0], [103.0]]).repeat(50, 1)
    assert ((pv.reconstruct(pair, x, seed=0) - x).abs() < 5).all()
    decoded = pv.decode(pair, {"z": torch.zeros(4000, 1)}, seed=0)
    share = (decoded > 50).float().mean()
    log_odds = dist.Normal(3.0, 1.0).log_prob(torch.zeros(())) - dist.Normal(0.0, 1.0).log_prob(torch.zeros(()))
    assert share == pytest.approx(float(torch.sigmoid(log_odds)), abs=0.01)
    tree = pv.to_arviz(pair, x[:2], num_samples=20)
    predicted = torch.as_tensor(tree["posterior_predictive"]["x"].values)
    assert ((predicted - x[:2]).abs() < 8).all()


def test_labels_that_are_partly_observed_are_summed_where_they_are_not() -> None:
    """M2 with the class summed out: log p(x, y) where y is known, log p(x) where it is not."""
    known, labels = torch.tensor([True, False, True]), torch.tensor([2, 0, 1])

    @config_enumerate  # Pyro drops the mark of a site that has an obs_mask
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            y = pyro.sample("y", dist.Categorical(PI), obs=labels[: len(x)], obs_mask=known[: len(x)])
            pyro.sample("x", dist.Normal(z + MU[y], 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x / 2, 1.5).to_event(1))

    joint = PI.log() + dist.Normal(MU, 2**0.5).to_event(1).log_prob(X[:, None])  # (B, classes)
    truth = torch.where(known, joint.gather(1, labels[:, None])[:, 0], torch.logsumexp(joint, -1))
    pair = pv.Pair(model, guide)
    pv.check_pair(model, guide, X)
    for proposal in ("guide", "defensive", "prior"):
        est = pv.log_likelihood(pair, X, num_samples=8000, proposal=proposal)
        assert ((est.log_px - truth).abs() < 6 * est.std_error + 0.01).all(), proposal
    est = pv.ais(pair, X, num_chains=64, num_temperatures=8)
    assert ((est.log_px - truth).abs() < 6 * est.std_error + 0.02).all()
