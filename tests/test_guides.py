"""Families of guides: each is a density, draws what it scores, and is differentiated right in every pair."""

from __future__ import annotations

import json
import math
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from captured import assert_captured_weights_agree
from torch import Tensor, nn

import ppl_vae as pv
from ppl_vae.common.choices import construct
from ppl_vae.guides.diagonal import Diagonal
from ppl_vae.nn.distributions import GaussianMixture

FAMILIES = {
    "diagonal": "diagonal",
    "full": "full",
    "nsf": "flow:transforms=2,hidden=8,8",
    "maf": "flow:kind=maf,transforms=2,hidden=8,8",
    "mixture": "mixture:components=3",
}
PAIRS: dict[str, dict[str, Any]] = {
    "vae": {"latent": 3, "hidden": (6,)},
    "cvae": {"latent": 2, "hidden": (6,), "num_classes": 2},
    "hierarchical": {"latent": (3, 2), "hidden": (6,), "hidden2": (5,)},
}
H = torch.tensor([0.7, -0.4, 1.1], dtype=torch.float64)  # the features of one example
LINEAR: dict[str, Any] = {"data_shape": (6,), "latent": 2, "sigma": 0.7}


def head(family: str, latent: int) -> nn.Module:
    """A family in double precision, away from where it starts."""
    torch.manual_seed(3)
    found: nn.Module = construct("guide", FAMILIES[family], len(H), latent).double()
    with torch.no_grad():
        for p in found.parameters():
            p.mul_(0.5).add_(0.15 * torch.randn_like(p))
    return found


def smooth(z: Tensor) -> Tensor:
    """A bounded function of z (*, latent) that sees location, scale, correlation and shape."""
    return torch.sin(z).sum(-1) + torch.tanh(z.prod(-1)) + torch.cos(z.sum(-1))


def by_quadrature(q: Any, f: Any, latent: int) -> Tensor:
    axis = torch.linspace(-12, 12, 4001 if latent == 1 else 401, dtype=torch.float64)
    z = torch.cartesian_prod(*[axis] * latent).reshape(-1, latent)
    total: Tensor = (q.log_prob(z).exp() * f(z)).sum() * (axis[1] - axis[0]) ** latent
    return total


@pytest.mark.parametrize("latent", [1, 2])
@pytest.mark.parametrize("family", FAMILIES)
def test_log_prob_integrates_to_one(family: str, latent: int) -> None:
    with torch.no_grad():
        q = head(family, latent)(H)
        assert float(by_quadrature(q, lambda z: 1.0, latent)) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("latent", [1, 2])
@pytest.mark.parametrize("family", FAMILIES)
def test_draws_follow_log_prob(family: str, latent: int) -> None:
    with torch.no_grad():
        q, n = head(family, latent)(H), 40_000
        found = smooth(q.expand([n])())
        wanted = float(by_quadrature(q, smooth, latent))
    assert float(found.mean()) == pytest.approx(wanted, abs=5 * float(found.std()) / math.sqrt(n) + 1e-3)


@pytest.mark.parametrize("latent", [1, 2])
@pytest.mark.parametrize("family", FAMILIES)
def test_rsample_has_the_gradient_of_the_expectation(family: str, latent: int) -> None:
    """Along three directions of parameter space, against central differences of E f by quadrature."""
    q = head(family, latent)
    parameters = list(q.parameters())
    batches = []
    for _ in range(16):
        grads = torch.autograd.grad(smooth(q(H).expand([2000])()).mean(), parameters)
        batches.append(torch.cat([g.flatten() for g in grads]))
    start = nn.utils.parameters_to_vector(parameters).detach().clone()
    for _ in range(3):
        along, values = torch.randn_like(start) / math.sqrt(len(start)), []
        with torch.no_grad():
            for step in (1e-2, -1e-2):
                nn.utils.vector_to_parameters(start + step * along, parameters)
                values.append(float(by_quadrature(q(H), smooth, latent)))
        nn.utils.vector_to_parameters(start, parameters)
        found = torch.stack(batches) @ along
        error = float(found.std()) / math.sqrt(len(found))
        assert float(found.mean()) == pytest.approx((values[0] - values[1]) / 2e-2, abs=5 * error + 2e-3)


def test_a_mixture_of_one_is_a_gaussian_with_its_gradient() -> None:
    loc, scale = torch.randn(4, 1, 3, dtype=torch.float64), torch.rand(4, 1, 3, dtype=torch.float64) + 0.2
    loc.requires_grad_()
    scale.requires_grad_()
    q = GaussianMixture(torch.zeros(4, 1, dtype=torch.float64), loc, scale)
    z = q.rsample(torch.Size([5]))
    assert z.shape == (5, 4, 3)
    normal = dist.Normal(loc[:, 0], scale[:, 0]).to_event(1)
    torch.testing.assert_close(q.log_prob(z), normal.log_prob(z))
    torch.testing.assert_close(q.mean, normal.mean)
    torch.testing.assert_close(q.variance, normal.variance)
    weight = torch.randn_like(z)
    dl, ds = torch.autograd.grad((weight * z).sum(), (loc, scale))
    torch.testing.assert_close(dl[:, 0], weight.sum(0))
    torch.testing.assert_close(ds[:, 0], (weight * (z - loc[:, 0]) / scale[:, 0]).detach().sum(0))


def test_the_gradient_of_a_mixture_is_precise_in_its_tails() -> None:
    """In single precision, 6 standard deviations out on either side."""
    grads = []
    for dtype in (torch.float32, torch.float64):
        logits = torch.tensor([0.3, -0.5], dtype=dtype, requires_grad=True)
        loc = torch.tensor([[-1.0], [1.0]], dtype=dtype)
        q = GaussianMixture(logits.expand(2, 2), loc.expand(2, 2, 1), torch.ones(2, 2, 1, dtype=dtype))
        z = q._with_gradient(torch.tensor([[7.0], [-7.0]], dtype=dtype))
        grads.append(torch.stack([torch.autograd.grad(v, logits, retain_graph=True)[0] for v in z.flatten()]).double())
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-3, atol=1e-6)


def built(name: str, family: Any, **options: Any) -> pv.Pair:
    torch.manual_seed(0)
    guide = FAMILIES.get(family, family) if isinstance(family, str) else family
    return pv.build(name, data_shape=(5,), guide=guide, **{**PAIRS[name], **options})


def binary(n: int = 8) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(1)
    return torch.rand(n, 5, generator=g).round(), torch.arange(n) % 2


@pytest.mark.parametrize("gradient", ["path", "stl", "dreg"])
@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_gradient_of_every_family_is_finite_and_moves_its_head(family: str, name: str, gradient: str) -> None:
    pair, (x, y) = built(name, family), binary()
    data = (x, y) if name == "cvae" else (x,)
    objective = pv.IWAE(3, gradient=gradient)
    pv.check_pair(pair.model, pair.guide, *data, objective=objective)
    objective(pair.model, pair.guide)(*data).backward()
    for key, p in pair.named_parameters():
        assert p.grad is not None, key
        assert bool(p.grad.isfinite().all()), key
    heads = pair.guide.up if name == "hierarchical" else pair.guide.head
    assert any(bool((p.grad != 0).any()) for p in heads.parameters())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("one", "two"),
    [
        (pv.Elbo(gradient="path"), pv.Elbo(gradient="stl")),
        (pv.IWAE(3, gradient="path"), pv.IWAE(3, gradient="dreg")),
    ],
    ids=["stl", "dreg"],
)
def test_gradients_agree_in_the_mean(family: str, one: Any, two: Any) -> None:
    """The terms that stl and dreg leave out or replace have the same mean, so that a wrong rsample shows."""
    torch.manual_seed(0)
    pair = pv.build("linear", **LINEAR, guide=FAMILIES[family]).double()
    with torch.no_grad():
        for p in pair.guide.parameters():
            p.add_(0.1 * torch.randn_like(p))
    x = torch.randn(1, 6, dtype=torch.float64).expand(1000, 6)
    parameters = list(pair.guide.parameters())
    found: list[list[Tensor]] = [[], []]
    for _ in range(12):
        for objective, kept in zip((one, two), found, strict=True):
            grads = torch.autograd.grad(objective(pair.model, pair.guide)(x) / len(x), parameters)
            kept.append(torch.cat([g.flatten() for g in grads]))
    a, b = (torch.stack(kept) for kept in found)
    for _ in range(5):
        along = torch.randn(a.shape[1], dtype=torch.float64)
        error = math.sqrt(float((a @ along).var() + (b @ along).var()) / len(a))
        assert abs(float((a @ along).mean() - (b @ along).mean())) < 5 * error
        assert error < 0.3 * float(b.mean(0).norm()) * float(along.norm())  # so that the test has power


def interrupt(row: dict[str, Any], pair: pv.Pair) -> None:
    if row["epoch"] == 1:
        raise KeyboardInterrupt


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_saved_loaded_and_resumed(family: str, name: str, tmp_path: Path) -> None:
    (x, y), whole, parts = binary(), built(name, family), built(name, family)
    data = (x, y) if name == "cvae" else x
    options: dict[str, Any] = {"batch_size": 4, "lr": 1e-2, "device": "cpu", "progress": False, "capture": False}
    pv.fit(whole, data, epochs=3, run_dir=tmp_path / "whole", **options)
    with pytest.raises(KeyboardInterrupt):
        pv.fit(parts, data, epochs=3, run_dir=tmp_path / "parts", callbacks=[interrupt], **options)
    parts = built(name, family)
    pv.fit(parts, data, epochs=3, run_dir=tmp_path / "parts", resume=True, **options)
    for (key, a), b in zip(whole.state_dict().items(), parts.state_dict().values(), strict=True):
        assert torch.equal(a, b), key
    again = pv.load(tmp_path / "whole")
    assert again.config is not None
    assert again.config["guide"] == FAMILIES[family]
    labels = y if name == "cvae" else None
    one, two = (pv.log_likelihood(p, x, labels, num_samples=7, capture=False).log_px for p in (whole, again))
    assert torch.equal(one, two)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_finds_the_evidence_by_every_proposal(family: str) -> None:
    torch.manual_seed(0)
    pair = pv.build("linear", **LINEAR, guide=FAMILIES[family])
    with torch.no_grad():  # near the posterior, so that 4,000 draws are enough
        pair.model.W.mul_(0.5)
        for p in pair.guide.parameters():
            p.mul_(0.3)
    x = 0.5 * torch.randn(3, 6)
    truth = pair.model.evidence(x).detach().double()
    pv.check_pair(pair.model, pair.guide, x)
    for proposal in ("guide", "prior", "defensive", "tempered", "qmc"):
        est = pv.log_likelihood(pair, x, num_samples=4000, proposal=proposal)
        assert ((est.log_px - truth).abs() < 6 * est.std_error + 0.02).all(), proposal
    annealed = pv.ais(pair, x, num_chains=32, num_temperatures=20, start="guide")
    assert ((annealed.log_px - truth).abs() < 6 * annealed.std_error + 0.05).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_serves_the_posterior(family: str) -> None:
    torch.manual_seed(0)
    pair = pv.build("linear", **LINEAR, guide=FAMILIES[family])
    x = 0.5 * torch.randn(2, 6)
    exact = pair.model.posterior(x)
    for method in ("sir", "hmc"):
        z = pv.posterior(pair, x, method=method, num_samples=400, num_chains=20, warmup=30)["z"]
        assert ((z.mean(0) - exact.mean).abs() < 0.35 * exact.stddev + 0.1).all(), method
    assert pv.encode(pair, x).mean["z"].shape == (2, 2)


def test_the_full_guide_reaches_the_exact_evidence_and_the_diagonal_one_its_own_gap() -> None:
    r"""The posterior of probabilistic PCA has one precision P, so the best diagonal guide is off by
    (sum log P_ii - log det P) / 2, and a full one by nothing."""
    torch.manual_seed(0)
    start = pv.build("linear", **LINEAR).double()
    start.model.W.data.copy_(torch.tensor([[0.6, 0.4]] * 6) + 0.4 * torch.randn(6, 2))
    x = pv.sample(start, 64, seed=0)
    precision = start.model.posterior(x).precision_matrix.detach().reshape(-1, 2, 2)[0]
    wanted = {"full": 0.0, "diagonal": 0.5 * float(precision.diagonal().log().sum() - precision.logdet())}
    assert wanted["diagonal"] > 0.1
    for family, gap in wanted.items():
        pair = start.with_guide(family)
        nn.init.zeros_(pair.guide.head.linear.weight)  # the scales of random weights are far off for some data
        assert trained_gap(pair, x) == pytest.approx(gap, abs=1e-3 if family == "full" else 1e-2), family
    assert trained_gap(start, x) == pytest.approx(wanted["diagonal"], abs=1e-2)  # linear: one scale for all x


def trained_gap(pair: pv.Pair, x: Tensor) -> float:
    """log p(x) - ELBO, in nats per example, after training the guide alone."""
    steps, objective = 600, pv.Elbo(num_particles=4, gradient="stl")
    optimizer = torch.optim.Adam(pair.guide.parameters(), lr=0.03)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    with pyro.validation_enabled(False):
        for _ in range(steps):
            optimizer.zero_grad()
            (objective(pair.model, pair.guide)(x) / len(x)).backward()
            optimizer.step()
            schedule.step()
    elbo = pv.log_likelihood(pair, x, num_samples=2000).elbo
    return float((pair.model.evidence(x).detach() - elbo).mean())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", PAIRS)
def test_training_raises_the_bound(name: str, family: str) -> None:
    pair, (x, y) = built(name, family), binary(64)
    data = (x, y) if name == "cvae" else x
    history = pv.fit(pair, data, "iwae", epochs=15, batch_size=16, lr=1e-2, device="cpu", progress=False, capture=False)
    assert history[-1]["train_bound"] > history[0]["train_bound"]


class Laplace(nn.Module):
    """A family of the user's: independent Laplace distributions."""

    def __init__(self, features: int, latent: int, width: float = 1.0) -> None:
        super().__init__()
        self.loc, self.width = nn.Linear(features, latent), width

    def forward(self, h: Tensor) -> Any:
        return dist.Laplace(self.loc(h), self.width).to_event(1)


def half(features: int, latent: int) -> nn.Module:
    return Laplace(features, latent, 0.5)


GIVEN: dict[str, tuple[Any, Any]] = {
    "name": ("mixture:components=2", "mixture:components=2"),
    "table": ({"name": "mixture", "components": 2}, {"name": "mixture", "components": 2}),
    "class": (Diagonal, "diagonal"),
    "custom class": (Laplace, "test_guides.Laplace"),
    "custom partial": (partial(Laplace, width=0.5), "test_guides.Laplace"),
    "function": (half, "test_guides.half"),
    "instance": (Laplace(6, 3), "test_guides.Laplace"),
}


@pytest.mark.parametrize("key", GIVEN)
def test_a_guide_is_a_name_a_table_a_callable_or_an_instance(key: str, tmp_path: Path) -> None:
    (given, recorded), (x, _) = GIVEN[key], binary()
    pair = built("vae", given)
    assert pair.config is not None
    pv.fit(pair, x, epochs=1, device="cpu", progress=False, capture=False, run_dir=tmp_path / "run")
    if key in ("name", "table", "class"):
        assert pair.config["guide"] == recorded
        again = pv.load(tmp_path / "run")
    else:
        assert recorded in json.dumps(pair.config["guide"])
        with pytest.raises(pv.RunError, match=r"guide: .* is custom.*pv.load\(run_dir, pair=yours\)"):
            pv.load(tmp_path / "run")
        again = pv.load(tmp_path / "run", pair=built("vae", given))
    one, two = (pv.log_likelihood(p, x, num_samples=5, capture=False).log_px for p in (pair, again))
    assert torch.equal(one, two)


@pytest.mark.parametrize(
    ("name", "guide", "message"),
    [
        ("vae", "gaussian", "guide='gaussian': choose one of diagonal, full, flow, mixture, or give a callable"),
        ("vae", "mixture:size=3", "guide 'mixture' has no option size; it takes components"),
        ("vae", "mixture:components=two", "guide 'mixture': components='two' is not of the type int"),
        ("vae", "flow:kind=glow", "kind='glow'; choose one of nsf, maf"),
        ("vae", 3, "guide=3: give a name"),
        ("hierarchical", Diagonal(6, 3), "guide: one module can't serve in two places"),
        ("linear", "exactly", "guide='exactly': choose one of linear, exact, diagonal"),
    ],
    ids=str,
)
def test_what_is_no_guide_is_one_line(name: str, guide: Any, message: str) -> None:
    with pytest.raises(pv.UserError, match=message) as caught:
        pv.build(name, data_shape=(5,), guide=guide)
    assert "\n" not in str(caught.value)


def test_a_flow_without_zuko_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zuko", None)
    with pytest.raises(pv.UserError, match=r"guide 'flow' needs zuko: pip install 'ppl_vae\[flows\]'"):
        pv.build("vae", data_shape=(5,), guide="flow")


def program(x: Tensor, y: Tensor | None = None) -> None:
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("z", dist.Normal(torch.zeros(len(x), 3, dtype=x.dtype), 1.0).to_event(1))


@pytest.mark.parametrize(
    "guide", ["full", partial(Laplace, width=0.7), half, program], ids=["full", "partial", "half", "program"]
)
def test_another_guide_under_a_model_keeps_what_the_pair_is(guide: Any) -> None:
    x, _ = binary()
    pair = built("vae", "diagonal").double().eval()
    other = pair.with_guide(guide)
    assert other.model is pair.model
    assert (other.name, other.data_shape, other.training) == ("vae", (5,), False)
    assert other.config is not None
    assert pair.config is not None
    assert {k: v for k, v in other.config.items() if v != pair.config[k]} == {"guide": other.config["guide"]}
    assert {p.dtype for p in other.parameters()} == {torch.float64}
    assert pv.log_likelihood(other, x.double(), num_samples=5).log_px.isfinite().all()


def test_a_guide_that_reads_the_model_reads_the_one_it_is_put_under() -> None:
    pca, x = pv.build("linear", **LINEAR), torch.randn(4, 6)
    found = pv.log_likelihood(pca.with_guide("exact"), x, num_samples=2).log_px
    torch.testing.assert_close(found, pca.model.evidence(x).detach().double(), rtol=0, atol=1e-4)


def test_with_guide_says_what_it_needs() -> None:
    pair = built("vae", "diagonal")
    own = pv.Pair(pair.model, pair.guide, name="own")
    assert own.with_guide(program).name == "own"
    with pytest.raises(pv.UserError, match="this pair was not made by build"):
        own.with_guide("full")
    with pytest.raises(pv.UserError, match="has no option guide"):
        pv.build("made", data_shape=(5,)).with_guide("full")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_captured_to_the_same_numbers(family: str) -> None:
    assert_captured_weights_agree(built("vae", family), binary()[0])


def test_quasi_random_draws_of_a_mixture_have_its_moments() -> None:
    """The first uniform chooses the component, the others the place in it."""
    from ppl_vae.likelihood.quantiles import noise_shape, quantile, sobol

    torch.manual_seed(0)
    q = GaussianMixture(torch.tensor([0.0, 1.0, -1.0]), torch.randn(3, 2), torch.rand(3, 2) + 0.2)
    u = sobol(1 << 14, 1, *noise_shape(q))
    z = quantile("z", q, u)[:, 0]
    torch.testing.assert_close(z.mean(0), q.mean, atol=2e-3, rtol=0)
    torch.testing.assert_close(z.var(0), q.variance, atol=5e-3, rtol=0)
