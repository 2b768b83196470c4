"""Refined guides: the best Gaussian for each example, by closed forms; valid as any guide; for these data only."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from commands import call, read
from exact import CONJUGATE
from torch import Tensor, nn

import ppl_vae as pv
from ppl_vae.common.errors import DataError, PairError, UserError
from ppl_vae.likelihood.diagnostics import khat_threshold


def linear(latent: int = 3, n: int = 6) -> tuple[pv.Pair, Tensor, Any]:
    """Probabilistic PCA with a guide that was never trained, data, and the exact posterior."""
    torch.manual_seed(1)
    pair = pv.build("linear", data_shape=(5,), latent=latent, sigma=0.5).double()
    x = torch.randn(n, 5, dtype=torch.float64)
    with torch.no_grad():
        return pair, x, pair.model.posterior(x)  # type: ignore[union-attr]


def evidence(pair: pv.Pair, x: Tensor) -> Tensor:
    return pair.model.evidence(x).detach()  # type: ignore[attr-defined, no-any-return]


class NearZero(nn.Module):
    """z ~ Gamma(0.1, 1), whose density is infinite at zero; x ~ Poisson(z): the posterior is a Gamma too."""

    def forward(self, x: Any = None, y: Any = None, n: int = 1) -> None:
        with pyro.plate("data", n if x is None else len(x), dim=-1):
            z = pyro.sample("z", dist.Gamma(torch.full((2,), 0.1), 1.0).to_event(1))
            pyro.sample("x", dist.Poisson(z).to_event(1), obs=x)


class NearZeroGuide(nn.Module):
    def forward(self, x: Any, y: Any = None) -> None:
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Gamma(0.1 + x, 2.0).to_event(1))


@pytest.mark.parametrize("family", ["full", "mixture"])
def test_a_draw_whose_exp_is_zero_has_a_weight(family: str) -> None:
    """log p(x) is that of the negative binomial, though half of the mass of log z lies below -7."""
    x = torch.tensor([[0.0, 0.0], [0.0, 3.0]])
    exact = dist.NegativeBinomial(0.1, torch.tensor(0.5)).log_prob(x.double()).sum(-1)
    pair, proposal = pv.Pair(NearZero(), NearZeroGuide()), pv.proposals.refined(family=family)
    found = pv.log_likelihood(pair, x, num_samples=5000, proposal=proposal)
    assert found.log_px.numpy() == pytest.approx(exact.numpy(), abs=0.15)


def test_the_full_gaussian_is_the_posterior() -> None:
    """Where the posterior is a Gaussian, the natural gradient ends at it: its noise vanishes there."""
    pair, x, posterior = linear()
    guide = pv.refine(pair, x, widen=1.0, df=math.inf, steps=200)
    assert float((guide.loc - posterior.loc).abs().max()) < 1e-4
    covariance = guide.root @ guide.root.mT
    assert float((covariance - posterior.covariance_matrix).abs().max()) < 1e-4
    est = pv.log_likelihood(pair.with_guide(guide), x, num_samples=50)
    assert float((est.elbo - evidence(pair, x)).abs().max()) < 1e-5


def test_a_perfect_fit_is_kept_though_its_weights_have_no_tail() -> None:
    """In single precision the weights of the posterior differ by rounding alone, and k is no number."""
    torch.manual_seed(5)
    pair, x = pv.build("linear", data_shape=(5,), latent=2), torch.randn(40, 5)
    guide = pv.refine(pair, x, widen=1.0, df=math.inf, steps=200, rounds=1)
    exact = pair.model.posterior(x).loc.detach()  # type: ignore[operator, union-attr]
    assert float((guide.loc - exact).abs().max()) < 1e-3
    assert float(guide.khat.max()) < 0.5


def test_the_diagonal_gaussian_has_the_mean_and_the_precisions_of_the_posterior() -> None:
    r"""The best factorised Gaussian has variances 1 / Lambda_ii; its gap is (sum log Lambda_ii - log |Lambda|) / 2."""
    pair, x, posterior = linear()
    guide = pv.refine(pair, x, family="diagonal", widen=1.0, df=math.inf, steps=1000, num_particles=32, rounds=1)
    precision = posterior.precision_matrix[0]
    assert float((guide.loc - posterior.loc).abs().max()) < 0.02
    assert float((guide.root * precision.diag().sqrt() - 1).abs().max()) < 0.02
    gap = 0.5 * float(precision.diag().log().sum() - precision.logdet())
    est = pv.log_likelihood(pair.with_guide(guide), x, num_samples=20_000)
    assert gap > 0.1  # or the law is void
    assert float((evidence(pair, x) - est.elbo).mean()) == pytest.approx(gap, rel=0.05)


def test_widening_multiplies_every_standard_deviation() -> None:
    pair, x, _ = linear()
    plain, wide = (pv.refine(pair, x, widen=w) for w in (1.0, 1.5))
    assert torch.equal(wide.loc, plain.loc)
    assert torch.allclose(wide.root, 1.5 * plain.root)
    usual = pv.refine(pair, x)
    assert torch.allclose(usual.root, (1 + min(0.1, 0.7 / math.sqrt(3))) * plain.root)


class TwoLayers(nn.Module):
    """z1 ~ N(0, 1), z2 ~ N(z1, 1) in three dimensions, x ~ N(z2, 1/4): jointly Gaussian, x ~ N(0, 2.25)."""

    def forward(self, x: Tensor | None = None, y: Tensor | None = None, n: int = 1) -> Any:
        with pyro.plate("data", n if x is None else len(x), dim=-1):
            zero = torch.zeros(3, dtype=torch.float64)
            z1 = pyro.sample("z1", dist.Normal(zero, 1.0).to_event(1))
            z2 = pyro.sample("z2", dist.Normal(z1, 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(z2, 0.5).to_event(1), obs=x)


class Apart(nn.Module):
    """Both latents from their priors: the correlation is missed, and the mean."""

    def forward(self, x: Tensor, y: Tensor | None = None) -> None:
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z2", dist.Normal(torch.zeros_like(x), 1.5).to_event(1))
            pyro.sample("z1", dist.Normal(torch.zeros_like(x), 1.0).to_event(1))


def test_several_latents_are_correlated_in_one_gaussian() -> None:
    pair = pv.Pair(TwoLayers(), Apart())
    x = torch.randn(5, 3, dtype=torch.float64)
    exact = dist.Normal(0.0, 1.5).log_prob(x).sum(-1)
    better = pair.with_guide(pv.refine(pair, x, widen=1.0, df=math.inf, steps=200))
    est = pv.log_likelihood(better, x, num_samples=40)
    assert float((est.elbo - exact).abs().max()) < 1e-4
    apart = pair.with_guide(pv.refine(pair, x, widen=1.0, df=math.inf, steps=200, family="diagonal"))
    assert float((exact - pv.log_likelihood(apart, x, num_samples=2000).elbo).min()) > 0.1
    z = pyro.poutine.trace(better.guide).get_trace(x).nodes
    assert {name for name, site in z.items() if site["type"] == "sample"} == {"data", "z1", "z2"}


class Simplex(nn.Module):
    """p ~ Dirichlet(2, 2, 2), x the counts of 20 draws."""

    def forward(self, x: Tensor | None = None, y: Tensor | None = None, n: int = 1) -> Any:
        with pyro.plate("data", n if x is None else len(x), dim=-1):
            p = pyro.sample("p", dist.Dirichlet(torch.full((3,), 2.0, dtype=torch.float64)))
            return pyro.sample("x", dist.Multinomial(20, p), obs=x)


class SimplexGuide(nn.Module):
    def forward(self, x: Tensor, y: Tensor | None = None) -> None:
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("p", dist.Dirichlet(torch.full_like(x, 3.0)))


@pytest.mark.parametrize("name", ["gamma-poisson", "beta-binomial", "dirichlet-multinomial"])
def test_constrained_latents_are_refined_in_their_unconstrained_space(name: str) -> None:
    """The estimate is within its error of the evidence, and k is good."""
    if name in CONJUGATE:
        model, guide = (part() if i == 0 else part(0.3) for i, part in enumerate(CONJUGATE[name]))
        pair, x = pv.Pair(model, guide), torch.tensor([[0.0, 3.0], [5.0, 1.0], [9.0, 8.0]])
        exact = model.evidence(x)
    else:
        pair = pv.Pair(Simplex(), SimplexGuide())
        x = torch.tensor([[20.0, 0.0, 0.0], [7.0, 6.0, 7.0]], dtype=torch.float64)
        exact = dist.DirichletMultinomial(torch.full((3,), 2.0, dtype=torch.float64), 20).log_prob(x)
    est = pv.log_likelihood(pair, x, num_samples=4000, proposal="refined")
    assert float(((est.log_px - exact).abs() / est.std_error.clamp(min=1e-6)).max()) < 4
    assert float(est.khat.max()) < 0.5
    assert float(est.std_error.max()) < 0.02


def test_fresh_draws_keep_the_weights_unbiased() -> None:
    """E[p_hat] = p(x) for each example, however the guide was fitted: over 50 seeds of K = 4."""
    pair, x, _ = linear(n=4)
    ratios = []
    for seed in range(50):
        proposal = pv.proposals.refined(steps=30, rounds=1)
        est = pv.log_likelihood(pair, x, num_samples=4, proposal=proposal, seed=seed)
        ratios.append((est.log_px - evidence(pair, x)).exp())
    found = torch.stack(ratios)
    error = found.std(0) / math.sqrt(len(found))
    assert float(((found.mean(0) - 1).abs() / error).max()) < 3.5


def test_an_example_is_found_by_its_content() -> None:
    """Any order, any subset, twice, at any dtype of the same numbers; other data are refused."""
    pair, x, _ = linear()
    guide = pv.refine(pair, x, steps=5)
    order = torch.tensor([4, 1, 1, 0])
    assert guide.rows(x[order]).tolist() == order.tolist()
    whole = pv.terms(pair.model, guide, x, values={"z": torch.zeros(1, 6, 3, dtype=torch.float64)}).log_q
    some = pv.terms(pair.model, guide, x[order], values={"z": torch.zeros(1, 4, 3, dtype=torch.float64)}).log_q
    assert torch.equal(some, whole[:, order])
    with pytest.raises(DataError, match="example 1 of 2 is none of the 6 that this guide was refined for"):
        pv.log_likelihood(pair.with_guide(guide), torch.stack([x[0], x[0] + 1e-3]), num_samples=3)
    zeros = torch.zeros(1, 5, dtype=torch.float64)
    assert pv.refine(pair, zeros, steps=1).rows(-zeros).tolist() == [0]


def test_labels_tell_equal_data_apart() -> None:
    torch.manual_seed(0)
    pair = pv.build("cvae", data_shape=(6,), latent=2, hidden=(8,), num_classes=3)
    x, y = torch.ones(3, 6), torch.arange(3)
    guide = pv.refine(pair, x, y, steps=5)
    assert guide.rows(x, y).tolist() == [0, 1, 2]
    assert guide.rows(x[1:], y[1:]).tolist() == [1, 2]
    est = pv.log_likelihood(pair, x, y, num_samples=2000, proposal="refined")
    assert float(est.khat.max()) < 0.5
    assert est.name == "log p(x | y)"


def test_a_seed_gives_the_same_bits_and_unfinished_work_resumes_to_them(tmp_path: Path) -> None:
    pair, x, _ = linear(n=9)
    whole = pv.refine(pair, x, block=3, seed=5)
    again = pv.refine(pair, x, block=3, seed=5)
    assert all(torch.equal(a, b) for a, b in zip(whole.buffers(), again.buffers(), strict=True))
    assert not torch.equal(whole.root, pv.refine(pair, x, block=3, seed=6).root)
    from ppl_vae.likelihood import refine as module

    calls, real = [], module._Fit.__call__

    def interrupted(self: Any, *args: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module._Fit, "__call__", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pv.refine(pair, x, block=3, seed=5, resume=tmp_path)
        assert len(list(tmp_path.iterdir())) == 1
        resumed = pv.refine(pair, x, block=3, seed=5, resume=tmp_path)
    assert len(calls) == 4  # two that were kept are not made again
    assert all(torch.equal(a, b) for a, b in zip(whole.buffers(), resumed.buffers(), strict=True))
    assert list(tmp_path.iterdir()) == []


def test_a_captured_estimate_and_a_captured_fit_are_the_eager_ones() -> None:
    torch.manual_seed(0)
    pair = pv.build("vae", data_shape=(6,), latent=2, hidden=(5,))
    x = (torch.rand(8, 6) > 0.5).float()
    one, other = (pv.refine(pair, x, capture=c) for c in (True, False))
    assert torch.allclose(one.loc, other.loc, atol=1e-4)
    assert torch.allclose(one.root, other.root, atol=1e-4)
    better = pair.with_guide(other)
    a, b = (pv.log_likelihood(better, x, num_samples=64, capture=c) for c in (True, False))
    assert torch.allclose(a.log_px, b.log_px, atol=1e-5)
    with pytest.raises(DataError, match="none of the 8"):  # not NaN
        pv.log_likelihood(better, 0.5 * x, num_samples=64, capture=True)


def test_data_that_are_read_row_by_row_are_refined_too() -> None:
    pair, x, _ = linear()
    rows = torch.utils.data.TensorDataset(x)

    class Rows(torch.utils.data.Dataset[Tensor]):
        def __len__(self) -> int:
            return len(rows)

        def __getitem__(self, i: int) -> Tensor:
            return rows[i][0]

    found = pv.log_likelihood(pair, Rows(), num_samples=50, proposal="refined")
    assert torch.equal(found.log_px, pv.log_likelihood(pair, x, num_samples=50, proposal="refined").log_px)


# ---- what it is for


def test_a_bad_guide_becomes_a_good_proposal() -> None:
    """A guide with a fifth of the scale has tails that are too light: k is large until it is refined."""
    pair, x, _ = linear(n=40)
    with torch.no_grad():
        pair.guide.log_s -= math.log(5)  # type: ignore[operator, union-attr]
    bad = pv.log_likelihood(pair, x, num_samples=1000)
    good = pv.log_likelihood(pair, x, num_samples=1000, proposal="refined")
    assert float(bad.unreliable.double().mean()) > 0.5
    assert not bool(good.unreliable.any())
    assert float((good.log_px - evidence(pair, x)).abs().max()) < 0.1
    assert good.proposal == "refined"
    assert good.refined == {"family": "full", "steps_mean": 60.0, "steps_max": 60}


def test_auto_takes_each_stage_for_those_that_need_it() -> None:
    """Those that the guide serves keep it; the rest are refined; all are near the evidence, and none has a bad k."""
    pair, x, _ = linear(n=40)
    far_ones = x[20:]

    class Halfway(nn.Module):
        """The posterior, a little too wide, for the first twenty, and far away from it for the rest."""

        def forward(self, x: Tensor, y: Tensor | None = None) -> None:
            q = pair.model.posterior(x)  # type: ignore[operator, union-attr]
            far = (x.unsqueeze(1) == far_ones).all(-1).any(-1, keepdim=True)
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", dist.MultivariateNormal(q.loc + 3 * far, scale_tril=1.05 * q.scale_tril))

    mixed = pair.with_guide(Halfway())
    auto = pv.log_likelihood(mixed, x, num_samples=500, proposal="auto")
    assert auto.source is not None
    assert auto.source.tolist() == 20 * [0] + 20 * [1]
    assert auto.sources == auto.summary()["sources"] == {"guide": 20, "refined": 20}
    assert not bool(auto.unreliable.any())
    assert auto.num_samples == 500
    assert float((auto.log_px - evidence(pair, x)).abs().max()) < 0.1
    kept = pv.log_likelihood(mixed, x[:20], num_samples=500)  # with fresh draws, not those that decided
    assert torch.equal(auto.log_px[:20], kept.log_px)


def test_the_choice_of_auto_leaves_a_lower_bound() -> None:
    """E[p_hat] <= p(x), where draws send some examples to the next stage by chance: 40 seeds of 8 examples."""
    pair, x, _ = linear(n=8)

    class Narrow(nn.Module):
        def forward(self, x: Tensor, y: Tensor | None = None) -> None:
            q = pair.model.posterior(x)  # type: ignore[operator, union-attr]
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", dist.MultivariateNormal(q.loc, scale_tril=0.7 * q.scale_tril))

    narrow, ratios, sources = pair.with_guide(Narrow()), [], []
    for seed in range(40):
        est = pv.log_likelihood(narrow, x, num_samples=500, proposal="auto", seed=seed)
        ratios.append((est.log_px - evidence(pair, x)).exp())
        sources.append(est.source)
    share = float((torch.stack(sources) == 1).double().mean())
    assert 0.1 < share < 0.9  # or the law is void
    found = torch.stack(ratios).flatten()
    assert -0.05 < float(found.mean() - 1) < 4 * float(found.std()) / math.sqrt(len(found))


def test_a_k_that_is_not_a_number_is_passed_on_and_a_single_chain_is_no_evidence() -> None:
    """A guide of no width under a posterior of no width: no number is dropped, and what is off is called unreliable."""

    class Model(nn.Module):
        def forward(self, x: Tensor | None = None, y: Tensor | None = None, n: int = 1) -> Any:
            with pyro.plate("data", n if x is None else len(x), dim=-1):
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                return pyro.sample("x", dist.Normal(z, 1e-4).to_event(1), obs=x)

    class Point(nn.Module):
        def forward(self, x: Tensor, y: Tensor | None = None) -> None:
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", dist.Normal(torch.zeros_like(x), 1e-7).to_event(1))

    x = torch.tensor([[0.3, 1.2], [-2.0, 0.1], [0.5, 0.5]])
    found = pv.log_likelihood(pv.Pair(Model(), Point()), x, num_samples=1000, proposal="auto")
    exact = dist.Normal(0.0, math.sqrt(1 + 1e-8)).log_prob(x).sum(-1)
    assert bool(found.log_px.isfinite().all())
    off = (found.log_px - exact).abs() > 1
    assert bool(off.any())  # or the law is void
    assert bool(found.unreliable[off].all())


def test_what_is_not_by_example_is_of_all_examples_under_auto() -> None:
    """The numbers observed are averaged over all examples, whichever stage serves them."""

    class Model(nn.Module):
        def forward(self, x: Tensor | None = None, y: Tensor | None = None, n: int = 1) -> Any:
            assert x is not None
            with pyro.plate("data", len(x), dim=-1):
                z = pyro.sample("z", dist.Normal(torch.zeros(4, dtype=x.dtype), 1.0).to_event(1))
                return pyro.sample("x", dist.NanMaskedNormal(z, 1.0).to_event(1), obs=x)

    class Half(nn.Module):
        """The posterior where all four numbers are observed; far too narrow where one is."""

        def forward(self, x: Tensor, y: Tensor | None = None) -> None:
            few = x.isnan().any(-1, keepdim=True)
            with pyro.plate("data", len(x), dim=-1):
                scale = torch.where(few, 0.2, 0.75).expand_as(x)
                pyro.sample("z", dist.Normal(x.nan_to_num() / 2, scale).to_event(1))

    x = torch.randn(6, 4, dtype=torch.float64)
    x[3:, 1:] = math.nan
    found = pv.log_likelihood(pv.Pair(Model(), Half()), x, num_samples=500, proposal="auto")
    assert found.sources == {"guide": 3, "refined": 3}
    assert found.num_dims == 2.5


def test_with_few_samples_the_verdict_of_the_pilot_stands() -> None:
    pair, x, _ = linear(n=6)
    few = pv.log_likelihood(pair, x, num_samples=5, proposal="auto")
    assert "ais" not in few.sources


def test_an_example_that_is_there_twice_has_one_k() -> None:
    pair, x, _ = linear(n=3)
    guide = pv.refine(pair, x[[0, 1, 0, 2]], steps=5)
    assert guide.khat[0] == guide.khat[2]


def test_keys_tell_numbers_of_opposite_bits_apart_and_fields_come_in_any_order() -> None:
    from ppl_vae.guides.refined import factors_of, row_keys

    bits = torch.tensor([0x3FF0000000000000, ~0x3FF0000000000000])
    assert len(row_keys([bits], factors_of(bits)).unique()) == 2
    numbers = torch.cat([torch.randn(20_000), torch.arange(20_000.0)]).unique().unsqueeze(1)
    assert len(row_keys([numbers], factors_of(numbers)).unique()) == len(numbers)
    nans = torch.tensor([[math.nan], [-math.nan]])
    assert len(row_keys([nans], factors_of(nans)).unique()) == 1


def test_binarised_data_of_a_real_likelihood_are_refused_by_every_proposal() -> None:
    data = pv.load_data("digits", binarize="dynamic")
    pair = pv.build("vae", data_shape=data.data_shape, latent=2, hidden=(8,), likelihood="gaussian")
    for proposal in ("guide", "refined", "auto"):
        with pytest.raises(DataError, match="binarised"):
            pv.log_likelihood(pair, data.test.limit(5), num_samples=30, proposal=proposal)


def test_unfinished_work_of_another_program_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two pairs without parameters, the same data and folder: the second begins anew."""
    from ppl_vae.likelihood import refine as module

    def pair_at(mean: float) -> pv.Pair:
        def model(x: Tensor) -> None:
            with pyro.plate("data", len(x), dim=-1):
                z = pyro.sample("z", dist.Normal(torch.full((1,), mean), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

        def guide(x: Tensor) -> None:
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", dist.Normal(x, 1.0).to_event(1))

        return pv.Pair(model, guide)

    x, real, calls = torch.randn(6, 1), module._Fit.__call__, []

    def interrupted(self: Any, *args: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(self, *args)

    monkeypatch.setattr(module._Fit, "__call__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pv.refine(pair_at(0.0), x, block=2, resume=tmp_path)
    found = pv.refine(pair_at(5.0), x, block=2, resume=tmp_path)
    assert float((found.loc - (x + 5) / 2).abs().max()) < 0.5


def test_a_support_that_another_data_batch_does_not_share_is_one_line() -> None:
    class Model(nn.Module):
        def forward(self, x: Tensor | None = None, y: Tensor | None = None, n: int = 1) -> Any:
            assert x is not None
            with pyro.plate("data", len(x), dim=-1):
                z = pyro.sample("z", dist.Uniform(torch.zeros_like(x), x.round()))
                return pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    class Guide(nn.Module):
        def forward(self, x: Tensor, y: Tensor | None = None) -> None:
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", dist.Uniform(torch.zeros_like(x), x.round()))

    x = torch.tensor([1.1, 0.9, 2.1])
    with pytest.raises(PairError, match="its support depends on the example"):
        pv.refine(pv.Pair(Model(), Guide()), x, block=2)


class Banana(nn.Module):
    """a ~ N(0, 1), b ~ N(a^2, 0.02^2), x ~ N(b, 1): a posterior that no Gaussian is close to."""

    def forward(self, x: Tensor | None = None, y: Tensor | None = None, n: int = 1) -> Any:
        with pyro.plate("data", n if x is None else len(x), dim=-1):
            a = pyro.sample("a", dist.Normal(torch.zeros((), dtype=torch.float64), 1.0))
            b = pyro.sample("b", dist.Normal(a.square(), 0.02))
            return pyro.sample("x", dist.Normal(b, 1.0), obs=x)


class Round(nn.Module):
    def forward(self, x: Tensor, y: Tensor | None = None) -> None:
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("a", dist.Normal(torch.zeros_like(x), 1.0))
            pyro.sample("b", dist.Normal(torch.ones_like(x), 1.0))


def test_what_no_gaussian_serves_is_said_by_k_and_annealed_by_auto() -> None:
    pair, x = pv.Pair(Banana(), Round()), torch.tensor([0.5, 1.5], dtype=torch.float64)
    a = torch.linspace(-6, 6, 20_001, dtype=torch.float64)
    spread = math.sqrt(1 + 0.02**2)
    joint = dist.Normal(0.0, 1.0).log_prob(a) + dist.Normal(a.square(), spread).log_prob(x[:, None])
    exact = joint.logsumexp(1) + math.log(12 / 20_000)
    refined = pv.log_likelihood(pair, x, num_samples=5000, proposal="refined")
    assert bool(refined.unreliable.all())
    auto = pv.log_likelihood(pair, x, num_samples=5000, proposal="auto")
    assert auto.sources == {"ais": 2}
    assert not bool(auto.unreliable.any())
    assert float((auto.log_px - exact).abs().max()) < 0.5
    table = pv.compare({"auto": auto, "refined": refined}, x)
    assert math.isnan(float(table.khat.sel(strategy="auto")))  # no example has a k
    assert float(table.khat.sel(strategy="refined")) == float(refined.khat.max())


def test_auto_leaves_alone_what_is_exact_or_cannot_be_refined() -> None:
    made = pv.build("made", data_shape=(6,))
    x = (torch.rand(4, 6) > 0.5).float()
    assert pv.log_likelihood(made, x, proposal="auto", num_samples=10).side == "exact"
    with pytest.raises(PairError, match="no latents"):
        pv.log_likelihood(made, x, proposal="refined", num_samples=10)


class Discrete(nn.Module):
    def forward(self, x: Tensor | None = None, y: Tensor | None = None, n: int = 1) -> Any:
        with pyro.plate("data", n if x is None else len(x), dim=-1):
            c = pyro.sample("c", dist.Bernoulli(torch.tensor(0.3)))
            return pyro.sample("x", dist.Normal(c, 1.0), obs=x)


class DiscreteGuide(nn.Module):
    def forward(self, x: Tensor, y: Tensor | None = None) -> None:
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("c", dist.Bernoulli(torch.full_like(x, 0.01)))


class Bounded(nn.Module):
    """The second latent lies below the first."""

    def forward(self, x: Tensor | None = None, y: Tensor | None = None, n: int = 1) -> Any:
        with pyro.plate("data", n if x is None else len(x), dim=-1):
            a = pyro.sample("a", dist.Gamma(torch.tensor(2.0), 1.0))
            b = pyro.sample("b", dist.Uniform(torch.zeros_like(a), a))
            return pyro.sample("x", dist.Normal(b, 1.0), obs=x)


class BoundedGuide(nn.Module):
    def forward(self, x: Tensor, y: Tensor | None = None) -> None:
        with pyro.plate("data", len(x), dim=-1):
            a = pyro.sample("a", dist.Gamma(torch.full_like(x, 2.0), 1.0))
            pyro.sample("b", dist.Uniform(torch.zeros_like(a), a))


@pytest.mark.parametrize(
    ("pair", "words", "is_tried"),
    [
        (lambda: pv.Pair(Discrete(), DiscreteGuide()), "site 'c' is discrete", True),
        (
            lambda: pv.Pair(Bounded(), BoundedGuide()),
            "site 'b': its support depends on the example or on another",
            False,
        ),
    ],
)
def test_what_cannot_be_refined_is_one_line_and_auto_goes_without(pair: Any, words: str, is_tried: bool) -> None:
    x = torch.tensor([0.5, 2.0])
    with pytest.raises(PairError, match=words):
        pv.refine(pair(), x)
    auto = pv.log_likelihood(pair(), x, num_samples=200, proposal="auto")
    assert "refined" not in auto.sources
    assert ("refined" in auto.left_out) is is_tried  # the guide serves the second pair
    assert (f"without refined: {words}" in str(auto)) is is_tried
    assert auto.summary().get("left_out", {}) == auto.left_out


def test_the_refined_proposal_draws_from_no_other_guide() -> None:
    pair, x, _ = linear()
    with pytest.raises(UserError, match="refined draws from a guide fitted to these data"):
        pv.proposals.PROPOSALS["refined"](pair.model, pair.guide, x, None, 5)
    guide = pv.refine(pair, x, steps=5)
    assert pv.proposals.PROPOSALS["refined"](pair.model, guide, x, None, 5).log_w.shape == (5, len(x))


def test_bounds_that_are_the_same_for_all_are_no_dependence() -> None:
    class Model(nn.Module):
        def forward(self, x: Tensor | None = None, y: Tensor | None = None, n: int = 1) -> Any:
            n = n if x is None else len(x)
            with pyro.plate("data", n, dim=-1):
                z = pyro.sample("z", dist.Uniform(torch.zeros(n, 2), 3 * torch.ones(n, 2)).to_event(1))
                return pyro.sample("x", dist.Normal(z, 0.3).to_event(1), obs=x)

    class Guide(nn.Module):
        def forward(self, x: Tensor, y: Tensor | None = None) -> None:
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", dist.Uniform(torch.zeros_like(x), 3 * torch.ones_like(x)).to_event(1))

    x = torch.tensor([[0.1, 1.5], [2.0, 2.9], [1.0, 1.0]])
    normal = torch.distributions.Normal(x, 0.3)
    exact = ((normal.cdf(torch.tensor(3.0)) - normal.cdf(torch.tensor(0.0))).log() - math.log(3)).sum(-1)
    est = pv.log_likelihood(pv.Pair(Model(), Guide()), x, num_samples=4000, proposal="refined", block=2)
    assert float((est.log_px - exact).abs().max()) < 0.05


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"family": "round"}, "choose one of 'full', 'diagonal'"),
        ({"steps": 0}, "steps=0"),
        ({"num_particles": 0}, "num_particles=0"),
        ({"rounds": 0}, "rounds=0"),
        ({"widen": 0.0}, "widen=0.0"),
        ({"capture": "maybe"}, "capture='maybe'"),
    ],
)
def test_a_setting_that_makes_no_sense_is_one_line(options: dict[str, Any], words: str) -> None:
    pair, x, _ = linear()
    with pytest.raises(UserError, match=words):
        pv.refine(pair, x, **options)


def test_auto_gives_the_bound_alone() -> None:
    pair, x, _ = linear()
    with pytest.raises(UserError, match="proposal='auto' gives the K-sample bound"):
        pv.log_likelihood(pair, x, num_samples=50, proposal="auto", estimator="psis")
    with pytest.raises(UserError, match="differs from example to example"):
        pv.log_weights(pair, x, num_samples=50, proposal="auto")
    with pytest.raises(UserError, match="refined has no option step; it takes family"):
        pv.proposals.refined(step=3)


def test_rows_of_a_panel_and_of_a_comparison() -> None:
    pair, x, _ = linear(n=12)
    found = pv.panel(pair, x, estimators=("iwae", "psis"), num_samples=500, proposals=("guide", "refined", "auto"))
    assert {"refined", "refined psis", "auto"} <= set(found.rows)
    assert "auto psis" in found.reasons
    table = pv.compare({"a": pair, "b": pair}, x, num_samples=500, proposal="refined")
    assert float(table.unreliable.max()) == 0
    assert khat_threshold(500) > float(table.khat.max())


def test_on_the_command_line(tmp_path: Path) -> None:
    out = tmp_path / "run"
    call("train", "vae", "--data", "digits", "--epochs", 1, "--hidden", "8", "--latent", 2, "--out", out)
    for proposal in ("refined", "auto"):
        found = read("evaluate", out, "--proposal", proposal, "--limit", 20, "--num-samples", 1000)
        assert found["proposal"] == proposal
        assert found["khat_fraction_unreliable"] == 0
    assert sum(found["sources"].values()) == 20
    head, *rows = (out / "log_px.csv").read_text().splitlines()
    assert head.endswith(",proposal")
    assert {row.rpartition(",")[2] for row in rows} == set(found["sources"])
    call("evaluate", out, "--proposal", "auto", "--limit", 10, "--num-samples", 500, "--figures")


def test_what_needs_gradients_has_them_in_inference_mode() -> None:
    pair, x, _ = linear()
    there = pv.log_likelihood(pair, x, num_samples=50, proposal="refined").log_px
    with torch.inference_mode():
        made_inside = x * 1
        assert torch.equal(pv.log_likelihood(pair, made_inside, num_samples=50, proposal="refined").log_px, there)
        assert pv.ais(pair, made_inside, num_chains=2, num_temperatures=2).log_px.isfinite().all()
        assert torch.is_inference_mode_enabled()
