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


@pytest.mark.parametrize(
    "objective", [pv.Elbo(), pv.IWAE(3), pv.IWAE(3, gradient="dreg"), pv.AnalyticKL(), pv.RWS(3, phi="both")]
)
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
            total = sum(pyro.sample(f"c{i}", dist.Categorical(torch.ones(10)), infer=PARALLEL) for i in range(5))
            pyro.sample("x", dist.Normal(total.unsqueeze(-1) * torch.ones(2), 1.0).to_event(1), obs=x)

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


def test_runs_are_the_combinations_of_colours_not_of_sites() -> None:
    supports = {"a": torch.arange(2), "b": torch.eye(3), "c": torch.arange(2)}
    whole = enumeration.plan(supports, None, ["x"])
    assert whole.count == 12
    plan = enumeration.plan(supports, {"a": {"a"}, "x": {"a", "b"}, "y": {"b", "c"}}, ["a", "x", "y"])
    assert plan.count == 6  # a and c are in no term together
    values = plan.values()
    assert values["a"].tolist() == values["c"].tolist() == [0, 0, 0, 1, 1, 1]
    assert torch.equal(values["b"], torch.eye(3).repeat(2, 1))
    log_p = torch.arange(6.0).reshape(6, 1, 1)
    assert plan.factor("y", log_p).sites == (1, 2)
    assert plan.factor("y", log_p).table[:, :, 0, 0].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert plan.factor("a", log_p).table[:, 0, 0].tolist() == [0, 3]


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


JUMP = torch.tensor([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.1, 0.3, 0.6]], dtype=torch.float64)


class Chain(nn.Module):
    """c_t | c_{t-1} ~ Cat(J), x_t ~ N(mean[c_t], 1); where ``moves``, z_t ~ N(c_t, 1) and x_t has mean[c_t] + z_t."""

    def __init__(self, steps: int, moves: bool = False) -> None:
        super().__init__()
        self.steps, self.moves = steps, moves
        self.means = nn.Parameter(torch.tensor([-2.0, 0.0, 2.0], dtype=torch.float64))
        self.first = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)

    def model(self, x: Tensor, y: Tensor | None = None) -> None:
        with pyro.plate("data", len(x), dim=-1):
            c = None
            for t in range(self.steps):
                c = pyro.sample(f"c{t}", dist.Categorical(self.first if c is None else JUMP[c]), infer=PARALLEL)
                mean = self.means[c]
                if self.moves:
                    mean = mean + pyro.sample(f"z{t}", dist.Normal(c.double(), 1.0))
                pyro.sample(f"x{t}", dist.Normal(mean, 1.0), obs=x[:, t])

    def guide(self, x: Tensor, y: Tensor | None = None) -> None:
        with pyro.plate("data", len(x), dim=-1):
            for t in range(self.steps if self.moves else 0):
                pyro.sample(f"z{t}", dist.Normal(x[:, t] / 2, 1.3))

    def forward_algorithm(self, x: Tensor, z: Tensor | None = None, see: bool = True) -> Tensor:
        """log p(x, z) at z (K, B, T), or log p(z) where x is not seen."""
        states = torch.arange(3.0, dtype=torch.float64)
        alpha = self.first.log()
        for t in range(self.steps):
            alpha = alpha if t == 0 else torch.logsumexp(alpha[..., None] + JUMP.log(), -2)
            mean = self.means
            if z is not None:
                alpha = alpha + dist.Normal(states, 1.0).log_prob(z[..., t, None])
                mean = mean + z[..., t, None]
            alpha = alpha + dist.Normal(mean, 1.0).log_prob(x[:, t, None]) if see else alpha
        return torch.logsumexp(alpha, -1)


def test_a_chain_of_sixty_steps_is_summed_as_by_the_forward_algorithm() -> None:
    """3^60 assignments in 9 runs: the value and the gradient."""
    chain, x = Chain(60), 2 * torch.randn(4, 60, dtype=torch.float64)
    t = pv.terms(chain.model, chain.guide, x)
    truth = chain.forward_algorithm(x)
    assert torch.allclose(t.log_w[0], truth, rtol=0, atol=1e-10)
    slopes = [torch.autograd.grad(value.sum(), chain.means)[0] for value in (t.log_w, truth)]
    assert torch.allclose(*slopes, atol=1e-8)
    # one x given those before it: the first is a mixture of three
    first = torch.logsumexp(chain.first.log() + dist.Normal(chain.means, 1.0).log_prob(x[:, :1]), -1)
    assert torch.allclose(t.observed["x0"].log_p[0], first)


def test_a_chain_with_continuous_sites_is_summed_given_them() -> None:
    chain, x = Chain(6, moves=True), 2 * torch.randn(4, 6, dtype=torch.float64)
    t = pv.terms(chain.model, chain.guide, x, num_samples=5)
    z = torch.stack([t.sites[f"z{i}"].value for i in range(6)], -1)
    assert torch.allclose(t.log_prior, chain.forward_algorithm(x, z, see=False))
    assert torch.allclose(t.log_prior + t.log_lik, chain.forward_algorithm(x, z))


def test_the_posterior_of_a_chain_is_that_of_all_its_paths() -> None:
    """p(c_t | x), and the pairs that draws make: a draw of one step alone would lose how they depend on each other."""
    chain, x = Chain(4), 2 * torch.randn(2, 4, dtype=torch.float64)
    paths = list(itertools.product(range(3), repeat=4))
    log_ps = []
    for path in paths:
        log_p = chain.first[path[0]].log() + sum(JUMP[a, b].log() for a, b in itertools.pairwise(path))
        log_ps.append(log_p + sum(dist.Normal(chain.means[c], 1.0).log_prob(x[:, t]) for t, c in enumerate(path)))
    p = torch.softmax(torch.stack(log_ps), 0).detach()  # (paths, B)
    found = pv.posterior(pv.Pair(chain.model, chain.guide), x, num_samples=4000)
    for t in range(4):
        exact = torch.stack([p[[path[t] == c for path in paths]].sum(0) for c in range(3)], -1)
        assert torch.allclose(found.probs[f"c{t}"], exact, atol=1e-10)
        assert found.support[f"c{t}"].tolist() == [0, 1, 2]
    tree = pv.to_arviz(pv.Pair(chain.model, chain.guide), x, num_samples=5)
    assert tree["posterior"]["c3"].shape == (1, 5, 2)
    number = sum(found[f"c{t}"] * 3 ** (3 - t) for t in range(4))
    share = torch.stack([(number == i).double().mean(0) for i in range(81)])
    assert ((share - p).abs() < 5 * (p * (1 - p) / 4000).sqrt() + 1e-3).all()


@pytest.mark.parametrize("method", ["guide", "sir", "hmc"])
def test_the_probabilities_of_a_class_are_averaged_over_the_draws_of_z(method: str) -> None:
    both = Mixture(0.7)
    mean = MU + 0.7 * torch.arange(3.0)[:, None]
    exact = torch.softmax(PI.log() + dist.Normal(mean, 2**0.5).to_event(1).log_prob(X[:, None]), -1)
    found = pv.posterior(pv.Pair(both.model, both.guide), X, method=method, num_samples=400, num_chains=40, warmup=30)
    assert torch.allclose(found.probs["c"], exact.double(), atol=0.08)
    assert torch.allclose(found.probs["c"].sum(-1), torch.ones(3, dtype=torch.float64))
    assert found["c"].shape == (400, 3)


def test_a_term_that_sees_a_site_only_at_one_value_of_another_depends_on_both() -> None:
    """Dependence is followed through the operations: at most draws a product of bits does not change with a bit."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            bits = [pyro.sample(f"b{i}", dist.Bernoulli(0.5), infer=PARALLEL) for i in range(6)]
            pyro.sample("x", dist.Normal(3 * torch.stack(bits).prod(0), 1.0), obs=x)

    x = torch.tensor([3.0, 0.0])
    ends = dist.Normal(torch.tensor([3.0, 0.0]), 1.0).log_prob(x[:, None])
    truth = torch.logsumexp(ends + torch.tensor([1 / 64, 63 / 64]).log(), -1)
    assert torch.allclose(pv.terms(model, nothing, x).log_w[0], truth, atol=1e-5)


def test_a_path_of_probability_zero_has_a_gradient_of_zero() -> None:
    """A chain that starts in one state, by logits of minus infinity: no NaN from the others."""
    start = nn.Parameter(torch.zeros(()))

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            c = None
            for t in range(5):
                closed = torch.full((3, 3), -torch.inf).triu(1).masked_fill(~torch.ones(3, 3).triu(1).bool(), 0.0)
                c = pyro.sample(f"c{t}", dist.Categorical(logits=closed[0] if c is None else closed[c]), infer=PARALLEL)
                pyro.sample(f"x{t}", dist.Normal(start + c, 1.0), obs=x[:, t])

    value = pv.terms(model, nothing, torch.zeros(2, 5)).log_w.sum()
    value.backward()  # only state 0 is reached, so every x is N(start, 1)
    assert float(value.detach()) == pytest.approx(10 * float(dist.Normal(0.0, 1.0).log_prob(torch.zeros(()))), abs=1e-4)
    assert start.grad == 0


def test_a_table_that_grows_is_refused() -> None:
    """Each of seven sites meets each of seven others: two colours, and no order of sums has small tables."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            sites = [pyro.sample(f"b{i}", dist.Categorical(torch.ones(4)), infer=PARALLEL) for i in range(14)]
            for i, (a, b) in enumerate(itertools.product(sites[:7], sites[7:])):
                pyro.sample(f"x{i}", dist.Normal((a * b).float(), 1.0), obs=x[:, 0])

    with pytest.raises(pv.PairError, match="takes a table of 65,536 entries, more than 4,096; let the guide draw some"):
        pv.terms(model, nothing, X)


def test_what_a_model_decides_on_the_host_is_no_lost_dependence() -> None:
    """81 paths, so that scopes are followed: numbers that leave torch, and branches on whether a value is there."""
    x = torch.randn(3, 4, dtype=torch.float64)
    means = torch.tensor([0.0, 1.0, 3.0], dtype=torch.float64)

    def host(c: Tensor) -> Tensor:
        return torch.as_tensor(means.numpy()[c.numpy()])

    def listed(c: Tensor) -> Tensor:
        return torch.tensor([float(means[v]) for v in c.flatten().tolist()], dtype=torch.float64).reshape(c.shape)

    def sparse(c: Tensor) -> Tensor:
        found = torch.where(c == 1, 1.0, 0.0).double()
        if (c == 2).any():
            found[c == 2] = 3.0
        return found

    def chain(mean: Any) -> Any:
        def model(x: Tensor) -> None:
            with pyro.plate("data", len(x), dim=-1):
                c = None
                for t in range(4):
                    c = pyro.sample(f"c{t}", dist.Categorical(JUMP[0] if c is None else JUMP[c]), infer=PARALLEL)
                    pyro.sample(f"x{t}", dist.Normal(mean(c), 1.0), obs=x[:, t])

        return model

    truth = pv.terms(chain(lambda c: means[c]), nothing, x).log_w
    for mean in (host, listed, sparse):
        assert torch.allclose(pv.terms(chain(mean), nothing, x).log_w, truth, rtol=0, atol=1e-10), mean.__name__


def test_a_number_that_is_none_is_not_summed_to_zero() -> None:
    """A NaN in a term stays NaN, and the error names the site."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            c = pyro.sample("c", dist.Categorical(PI), infer=PARALLEL)
            pyro.sample("x", dist.Normal(c + torch.tensor(-1.0).log(), 1.0, validate_args=False), obs=x[:, 0])

    with pyro.validation_enabled(False):
        assert pv.terms(model, nothing, X).log_w.isnan().all()
