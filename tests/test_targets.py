"""The targets: each answer against another way to it, and data that come from the model."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import call, read
from scipy import integrate
from torch import Tensor

import ppl_vae as pv
from ppl_vae.common.fields import leaves, num_data
from ppl_vae.targets import nonlinear, sequences

NAMES = pv.targets.names()
EXACT = [name for name in NAMES if pv.targets.make(name).exact is not None]


@pytest.mark.parametrize("name", EXACT)
def test_every_weight_under_the_exact_posterior_is_p_of_x(name: str) -> None:
    """p(x, z) / q(z) is the same for all z where, and only where, q is the posterior; it is then p(x)."""
    target = pv.targets.make(name, seed=3)
    x = target.sample(6)
    pv.check_pair(target.pair.model, target.pair.guide, x)
    log_w = pv.log_weights(target.exact, x, num_samples=5)
    assert log_w.dtype == torch.float64
    assert float((log_w - target.log_px(x)).abs().max()) < 1e-9


def joint(target: Any, x: Tensor, z: Any) -> Tensor:
    """log p(x, z) of one example at nodes z (G, ...), by the Pyro program itself, (G,)."""
    nodes = torch.as_tensor(z, dtype=torch.float64)
    return pv.log_joint(target.pair.model, x, None, {"z": nodes.unsqueeze(1)}).detach()[:, 0]


@pytest.mark.parametrize("name", ["curve", "modes", "heavy_tail"])
def test_one_dimension_by_adaptive_quadrature(name: str) -> None:
    target = pv.targets.make(name)
    x = target.sample(2)
    truth = target.log_px(x)
    for i in range(2):
        row = x[i : i + 1]
        places = [-3.0, -1.0, 0.0, 1.0, 3.0]

        def density(z: float, row: Tensor = row) -> float:
            return math.exp(float(joint(target, row, [[z]])))

        ends = [-math.inf, *places, math.inf]
        total = sum(
            integrate.quad(density, a, b, epsabs=1e-10, epsrel=1e-9, limit=100)[0] for a, b in itertools.pairwise(ends)
        )
        assert math.log(total) == pytest.approx(float(truth[i]), abs=1e-7)


def test_two_dimensions_by_another_rule() -> None:
    target = pv.targets.make("surface")
    x = target.sample(4)
    node, weight = (9 * torch.as_tensor(a) for a in np.polynomial.legendre.leggauss(120))
    nodes = torch.cartesian_prod(node, node)
    log_dz = torch.cartesian_prod(weight, weight).log().sum(-1)
    for row, truth in zip(x, target.log_px(x), strict=True):
        found = torch.logsumexp(joint(target, row.unsqueeze(0), nodes) + log_dz, 0)
        assert float(found) == pytest.approx(float(truth), abs=1e-7)


@pytest.mark.parametrize("name", ["curve", "modes", "surface", "heavy_tail"])
def test_twice_as_many_nodes_change_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x = pv.targets.make(name).sample(5)
    coarse = pv.targets.make(name).log_px(x)
    for rule in ("even", "plane", "by_quantiles"):
        function = getattr(nonlinear, rule)
        count = 2 * function.__defaults__[0]
        monkeypatch.setattr(function, "__defaults__", (count,))
    assert float((pv.targets.make(name).log_px(x) - coarse).abs().max()) < 1e-9


def compositions(total: int, parts: int) -> list[tuple[int, ...]]:
    return [c for c in itertools.product(range(total + 1), repeat=parts) if sum(c) == total]


COUNTS: dict[str, Any] = {
    "gamma_poisson": lambda: itertools.product(range(30), repeat=3),
    "beta_binomial": lambda: itertools.product(range(10), repeat=2),
    "dirichlet_multinomial": lambda: compositions(12, 4),
    "heavy_tail": lambda: itertools.product(range(2), repeat=4),
}


@pytest.mark.parametrize("name", COUNTS)
def test_probabilities_of_all_counts_sum_to_one(name: str) -> None:
    x = torch.tensor(list(COUNTS[name]()), dtype=torch.float64)
    log_px = pv.targets.make(name).log_px(x)
    assert float(log_px.logsumexp(0)) == pytest.approx(0.0, abs=1e-7)


@pytest.mark.parametrize("name", ["spike_slab", "modes"])
def test_the_density_of_a_number_integrates_to_one(name: str) -> None:
    x = torch.linspace(-8, 16, 4001, dtype=torch.float64)
    shown = x if name == "spike_slab" else x.unsqueeze(-1)
    total = pv.targets.make(name).log_px(shown).exp().sum() * 24 / 4000
    assert float(total) == pytest.approx(1.0, abs=1e-6)


def test_the_kalman_filter_is_the_gaussian_of_what_was_seen() -> None:
    """By the covariance of the whole series, a^|s - t| s^2 / (1 - a^2), and the noise; the padding is cut off."""
    target = pv.targets.make("kalman")
    x = target.sample(5)
    lag = torch.arange(60.0, dtype=torch.float64)
    covariance = 0.9 ** (lag.unsqueeze(1) - lag).abs() * 0.5**2 / (1 - 0.9**2) + 0.5**2 * torch.eye(60).double()
    for series, length, found in zip(x["series"], x["length"].tolist(), target.log_px(x), strict=True):
        assert bool((series[length:] == 0).all())
        law = torch.distributions.MultivariateNormal(torch.zeros(length).double(), covariance[:length, :length])
        assert float(found) == pytest.approx(float(law.log_prob(series[:length])), abs=1e-9)


def test_the_forward_algorithm_is_the_sum_over_all_paths() -> None:
    """Each of the 81 paths of four steps, by hand."""
    target = sequences.hmm(steps=4)
    x, m = target.sample(3), target.pair.model
    parts = []
    for path in itertools.product(range(3), repeat=4):
        log_p = m.first.log_softmax(-1)[path[0]]  # type: ignore[operator, union-attr]
        for a, b in itertools.pairwise(path):
            log_p = log_p + m.moves.log_softmax(-1)[a, b]  # type: ignore[operator, union-attr]
        at = m.means[list(path)]  # type: ignore[index]
        parts.append(log_p + torch.distributions.Normal(at, 0.7).log_prob(x).sum(-1))
    assert torch.allclose(target.log_px(x), torch.stack(parts).logsumexp(0).detach(), atol=1e-9)


def test_a_moment_of_the_data_is_that_of_the_model() -> None:
    """The mean of log p(x) over data is minus the entropy, here of a Gaussian, and the missing share is 0.3."""
    target = pv.targets.make("ppca")
    W = target.pair.model.W.detach()  # type: ignore[union-attr, operator]
    covariance = W @ W.T + 0.25 * torch.eye(8).double()
    law = torch.distributions.MultivariateNormal(torch.zeros(8).double(), covariance)
    log_px = target.log_px(target.sample(4000))
    assert float(log_px.mean()) == pytest.approx(-float(law.entropy()), abs=4 * 2 / math.sqrt(4000))
    share = float(pv.targets.make("missing").sample(2000).isnan().double().mean())
    assert share == pytest.approx(0.3, abs=0.02)


@pytest.mark.usefixtures("untouched")
def test_data_and_weights_follow_the_seeds_alone() -> None:
    for name in NAMES:
        target = pv.targets.make(name, seed=5)
        x = target.sample(4)
        again = pv.targets.make(name, seed=5)
        assert num_data(x) == 4
        assert all(
            torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(leaves(x), leaves(again.sample(4)), strict=True)
        )
        assert not torch.equal(leaves(x)[0].nan_to_num(), leaves(target.sample(4, seed=1))[0].nan_to_num())
        assert torch.equal(target.log_px(x), again.log_px(x))
        assert target.log_px(x).dtype == torch.float64
        assert target.log_px(x).shape == (4,)
        assert not target.log_px(x).requires_grad


def test_the_evidence_has_a_gradient_for_the_model() -> None:
    """Fisher's identity: that of log p(x) is the mean of that of log p(x, z) over the posterior."""
    target = pv.targets.make("ppca")
    x, m = target.sample(2), target.pair.model
    [exact] = torch.autograd.grad(target.evidence(x).sum(), [m.W])  # type: ignore[union-attr, list-item]
    terms = pv.terms(m, target.exact.guide, x, num_samples=20_000)  # type: ignore[union-attr]
    [found] = torch.autograd.grad(terms.log_w.mean(0).sum(), [m.W])  # type: ignore[union-attr, list-item]
    assert float(exact.abs().max()) > 0.5
    assert torch.allclose(found, exact, atol=0.1)


@pytest.mark.parametrize("name", ["views", "kalman", "hmm", "missing"])
def test_a_pair_can_be_sampled_in_the_form_of_its_data(name: str) -> None:
    target = pv.targets.make(name)
    x = target.sample(4)
    again = pv.sample(target.exact, 4, like=x, seed=1)
    assert [t.shape for t in leaves(again)] == [t.shape for t in leaves(x)]
    assert type(again) is type(x)


def test_a_name_that_is_not_known_is_one_line() -> None:
    with pytest.raises(pv.UserError, match="target 'pca' is not known; choose one of ppca"):
        pv.targets.make("pca")
    with pytest.raises(pv.UserError, match="at least one"):
        pv.targets.make("ppca").sample(0)


@pytest.fixture(scope="module")
def found() -> Any:
    """Every target whose guide can give the answer, and three whose guide can't."""
    defeated = [name for name in NAMES if pv.targets.make(name).defeats]
    assert defeated == ["kalman_steps", "heavy_tail_gaussian", "narrow", "modes"]
    rows = ["exact", "iwae", "elbo"]
    easy = pv.targets.table([n for n in NAMES if n not in defeated], rows, num_data=60, num_samples=300)
    hard = pv.targets.table(["kalman_steps", "narrow", "modes"], rows, num_data=20, num_samples=300)
    return easy, hard, {(r["target"], r["estimator"]): r for r in (*easy.rows, *hard.rows)}


def test_intervals_hold_log_px_where_k_is_good(found: Any) -> None:
    """95 % of them: 960 are pooled, whose share has a standard error of 0.7 %."""
    easy, _, rows = found
    held = [r["coverage"] * (1 - r["unreliable"]) * r["n"] for r in easy.rows if r["estimator"] == "iwae"]
    good = [(1 - r["unreliable"]) * r["n"] for r in easy.rows if r["estimator"] == "iwae"]
    assert sum(good) > 0.95 * 960
    assert 0.925 < sum(held) / sum(good) < 0.985
    assert easy.silent == []
    toy = rows["toy", "iwae"]
    assert toy["spread"] / toy["claimed"] == pytest.approx(1.0, abs=0.3)
    assert rows["toy", "exact"]["spread"] < 1e-9
    assert "no closed form" in rows["curve", "exact"]["reason"]
    assert rows["curve", "exact"]["error"] is None


def test_a_defeated_guide_is_doubted_but_for_what_no_draw_shows(found: Any) -> None:
    _, hard, rows = found
    for name in ("narrow", "kalman_steps"):
        assert rows[name, "iwae"]["unreliable"] > 0.9
        assert rows[name, "iwae"]["error"] < -1
        assert not rows[name, "iwae"]["silent"]
    assert rows["modes", "iwae"]["error"] == pytest.approx(-math.log(2), abs=0.02)
    assert hard.silent == [("modes", "iwae")]
    assert " !" in str(hard)
    assert rows["modes", "elbo"]["coverage"] is None  # its interval is for the ELBO


def test_defensive_draws_are_independent_where_a_class_is_summed_out() -> None:
    """Their error is as large as they claim: each draw from the prior has a class of its own."""
    [row] = pv.targets.table(["gmm"], ["defensive"], num_data=300, num_samples=200).rows
    assert row["spread"] / row["claimed"] == pytest.approx(1.0, abs=0.15)


def test_the_figure_shows_what_fails(found: Any) -> None:
    """A point for each row with a coverage, a cross for the others, and a red name for a failure without a sign."""
    _, hard, _ = found
    [ax] = pv.figures.accuracy(hard).axes
    points = np.concatenate([np.asarray(c.get_offsets()) for c in ax.collections if len(c.get_offsets()) > 0])
    drawn = points[np.isfinite(points[:, 0])]
    assert sum(drawn[:, 0] < 1.02) == sum(r["coverage"] is not None for r in hard.rows)
    names = {text.get_text(): text.get_color() for text in ax.texts}
    assert names["narrow"] == "black"
    assert names["modes"] != "black"


def test_on_the_command_line(tmp_path: Path) -> None:
    few = ("--num-data", 5, "--num-samples", 20, "--estimator", "iwae", "--estimator", "refined")
    result = read("targets", "--names", "toy,hmm", *few, "--out", tmp_path)
    assert [(r["target"], r["estimator"]) for r in result["rows"]] == list(
        itertools.product(["toy", "hmm"], ["iwae", "refined"])
    )
    assert result["rows"][2]["error"] == pytest.approx(0.0, abs=1e-9)
    assert "sums out all its latents" in result["rows"][3]["reason"]
    assert json.loads((tmp_path / "targets.json").read_text()) == result
    assert (tmp_path / "figures" / "targets.png").exists()
    assert "toy " in call("targets", "--names", "toy", *few).stdout
    assert "target 'pca' is not known" in call("targets", "--names", "pca", code=2).stderr
    assert "estimator 'mean' is not known" in call("targets", "--estimator", "mean", code=2).stderr
    assert "--num-data 0" in call("targets", "--num-data", 0, code=2).stderr


@pytest.mark.parametrize("name", ["gmm", "spike_slab"])
def test_summed_classes_are_those_of_brute_force(name: str) -> None:
    """Each value of the class put into the model by hand: the terms, the ELBO, IWAE's bound, and the posterior."""
    t = pv.targets.make(name)
    x = t.sample(6)
    found = pv.terms(t.pair.model, t.pair.guide, x, num_samples=5)
    (site,) = found.summed
    z = {n: s.value for n, s in found.sites.items()}
    drawn = pv.posterior(t.pair, x, num_samples=20)
    support = drawn.support[site]

    def joint(at: dict[str, torch.Tensor]) -> torch.Tensor:
        """log p(x, z, c) of each value of c, (n, K, B)."""
        shape = next(iter(at.values())).shape[:2]
        return torch.stack([pv.log_joint(t.pair.model, x, None, {**at, site: v.expand(shape)}) for v in support])

    log_w = torch.logsumexp(joint(z), 0) - found.log_q
    assert torch.allclose(found.log_w, log_w, rtol=0, atol=1e-10)
    for loss, bound in ((pv.Elbo(5), log_w.mean(0)), (pv.IWAE(5), torch.logsumexp(log_w, 0) - math.log(5))):
        assert torch.allclose(loss.value(found, 1.0), bound, rtol=0, atol=1e-10)
    weights = torch.softmax(drawn.log_weight, 0)
    at = {n: v for n, v in drawn.samples.items() if n != site}
    exact = (weights * torch.softmax(joint(at), 0)).sum(1)  # (n, B)
    assert torch.allclose(drawn.probs[site], exact.mT, rtol=0, atol=1e-10)


REPARAMETERISED = ["elbo", "iwae", "iwae:gradient=dreg", "renyi", "miwae:groups=2", "piwae:groups=2", "ciwae", "cubo"]
BY_SCORE = ["elbo", "score", "vimco", "rws", "tvo"]


@pytest.mark.parametrize("name", sorted(set(pv.targets.names()) - {"hmm", "kalman_steps"}))
def test_every_objective_has_a_finite_gradient_on_every_target(name: str) -> None:
    t = pv.targets.make(name)
    x = t.sample(3)
    for objective in dict.fromkeys([*REPARAMETERISED, *BY_SCORE]):
        t.pair.zero_grad()
        loss = pv.objective(objective, num_particles=3)(t.pair.model, t.pair.guide)(x)
        loss.backward()
        grads = [p.grad for p in t.pair.parameters() if p.grad is not None]
        assert grads, objective
        assert all(g.isfinite().all() for g in [loss, *grads]), objective
