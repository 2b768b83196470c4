"""Laws that hold for every registered pair, crossed with constructors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyro
import pytest
import torch
from pairs_under_test import CASES, Case

import ppl_vae as pv
from ppl_vae.common.fields import each, leaves, num_data, rows, shape_of, shapes
from ppl_vae.common.registry import FAMILIES, PAIRS
from ppl_vae.runs.state import state_tensors

pytestmark = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def test_it_keeps_the_contract(case: Case) -> None:
    pair = case.build()
    x, y = case.draw(5)
    state, generator = {k: v.clone() for k, v in state_tensors(pair).items()}, torch.get_rng_state()
    pv.check_pair(pair.model, pair.guide, x, y)  # which raises where it does not
    assert [k for k, v in state_tensors(pair).items() if not torch.equal(v, state[k])] == []
    assert torch.equal(torch.get_rng_state(), generator)


def test_terms_are_particles_by_data_and_add_up(case: Case) -> None:
    pair = case.build()
    x, y = case.draw(5)
    t = pv.terms(pair.model, pair.guide, x, y, num_samples=4)
    assert t.log_lik.shape == t.log_prior.shape == t.log_q.shape == t.log_w.shape == (4, 5)
    assert tuple(sorted(t.sites)) == tuple(sorted(case.latents))
    for site in t.sites.values():
        assert site.log_p.shape == site.log_q.shape == (4, 5)
    zero = torch.zeros(4, 5)
    torch.testing.assert_close(sum((s.log_p for s in t.sites.values()), zero), t.log_prior)
    torch.testing.assert_close(sum((s.log_q for s in t.sites.values()), zero), t.log_q)
    torch.testing.assert_close(sum((s.log_p for s in t.observed.values()), zero), t.log_lik)


def test_an_example_is_scored_alone(case: Case) -> None:
    """log p(x, z) of an example does not depend on the others in its batch."""
    pair = case.build().double()
    x, y = case.draw(5)
    x = each(torch.Tensor.double, x)
    t = pv.terms(pair.model, pair.guide, x, y, num_samples=4)
    values = {name: site.value for name, site in t.sites.items()}
    whole = pv.log_joint(pair.model, x, y, values)
    scored = slice(0, 1) if not case.latents else slice(None)
    torch.testing.assert_close(whole, (t.log_lik + t.log_prior)[scored])
    one = rows(x, slice(2, 3))
    alone = pv.log_joint(pair.model, one, None if y is None else y[2:3], {k: v[:, 2:3] for k, v in values.items()})
    torch.testing.assert_close(alone, whole[:, 2:3])


def test_every_parameter_has_a_finite_gradient(case: Case) -> None:
    pair = case.build()
    x, y = case.draw(6)
    args = (x,) if y is None else (x, y)
    particles = {"num_particles": 3} if case.objective == "elbo" else {}
    pv.objective(case.objective, **particles)(pair.model, pair.guide)(*args).backward()
    for name, parameter in pair.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.isfinite().all()), name
        assert bool((parameter.grad != 0).any()), name


def test_samples_have_the_shape_and_the_support_of_the_data(case: Case) -> None:
    pair = case.build()
    y = torch.arange(7) % case.labels if case.labels else None
    if not case.draws:
        with pytest.raises(pv.UserError, match="draws no x"):
            pv.sample(pair, 7, y, seed=0)
        return
    x = pv.sample(pair, 7, y, seed=0)
    assert shape_of(x) == case.shape
    assert num_data(x) == 7
    t = pv.terms(pair.model, pair.guide, x, y)
    assert bool(t.log_lik.isfinite().all())
    values = x if isinstance(x, dict) else {"x": x}
    assert all(bool(t.observed[name].p.support.check(value).all()) for name, value in values.items())
    again, other = (leaves(pv.sample(pair, 7, y, seed=seed)) for seed in (0, 1))
    assert all(map(torch.equal, leaves(x), again))
    assert case.name == "made" or not any(map(torch.equal, leaves(x), other))


def test_codes_and_reconstructions(case: Case, untouched: None) -> None:
    state = torch.get_rng_state()
    pair = case.build()
    torch.set_rng_state(state)
    x, y = case.zeros(4), (torch.zeros(4, dtype=torch.long) if case.labels else None)
    code = pv.encode(pair, x, y, seed=0)
    codes = case.latents if case.codes is None else case.codes
    assert set(code.mean) == set(code.sample) == set(codes)
    for name in codes:
        assert code.mean[name].shape == code.sample[name].shape
        assert len(code.mean[name]) == 4
    if case.latents:
        assert shapes(pv.reconstruct(pair, x, y, seed=0)) == shapes(x)
        assert shapes(pv.decode(pair, code.mean, y)) == shapes(x)
    else:
        with pytest.raises(pv.UserError, match="no latents"):
            pv.reconstruct(pair, x, y, seed=0)


def test_saved_and_loaded_it_is_the_same(case: Case, tmp_path: Path) -> None:
    pair = case.build().eval()  # as loaded pairs are: noise of training is off
    x, y = case.draw(5)
    pv.save(tmp_path / "run", pair)
    again = pv.load(tmp_path / "run")
    with pv.rng.forked(seed=1):
        one = pv.terms(pair.model, pair.guide, x, y, num_samples=3).log_w
    with pv.rng.forked(seed=1):
        two = pv.terms(again.model, again.guide, x, y, num_samples=3).log_w
    assert torch.equal(one, two)


def test_a_step_moves_every_parameter(case: Case) -> None:
    pair = case.build()
    x, y = case.draw(6)
    before = {k: v.clone() for k, v in pair.named_parameters()}
    svi = pv.SVI(pair.model, pair.guide, torch.optim.Adam(pair.parameters(), lr=1e-2, fused=True), case.objective)
    for _ in range(3):
        svi.step(*((x,) if y is None else (x, y)))
    for name, parameter in pair.named_parameters():
        assert not torch.equal(parameter, before[name]), name


def test_stopped_and_resumed_it_ends_as_it_would_have(case: Case, tmp_path: Path) -> None:
    """Bit for bit, from the folder alone; also where an objective has an optimiser of its own, or a prior is fitted."""
    x, y = case.draw(20)

    def stop(row: dict[str, Any], pair: pv.Pair) -> None:
        if row["epoch"] == 2:
            raise KeyboardInterrupt

    def run(folder: str, **options: Any) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        pair = case.build()
        if "resume" in options:
            with torch.no_grad():
                for t in pair.parameters():
                    t.fill_(3)
        pv.fit(
            pair, pv.Split(x, y), run_dir=tmp_path / folder, epochs=3, batch_size=8, lr=1e-2, device="cpu",
            progress=False, **options,
        )  # fmt: skip
        return state_tensors(pair)

    whole = run("whole")
    with pytest.raises(KeyboardInterrupt):
        run("stopped", callbacks=[stop])
    again = run("stopped", resume=True)
    assert whole.keys() == again.keys()
    assert [name for name in whole if not torch.equal(whole[name], again[name])] == []


def test_stock_svi_moves_every_parameter_of_as_pyro(case: Case) -> None:
    pair = case.build()
    x, y = case.draw(6)
    before = {k: v.clone() for k, v in pair.named_parameters()}
    elbo = pyro.infer.TraceEnum_ELBO() if case.name == "clusters" else pyro.infer.Trace_ELBO()
    with pyro.get_param_store().scope():
        loss = elbo if case.objective == "elbo" else pv.objective(case.objective)
        svi = pyro.infer.SVI(*pair.as_pyro(), pyro.optim.Adam({"lr": 1e-2}), loss)
        for _ in range(3):
            svi.step(*((x,) if y is None else (x, y)))
    for name, parameter in pair.named_parameters():
        assert not torch.equal(parameter, before[name]), name


def test_estimates_change_nothing(case: Case) -> None:
    pair = case.build()
    x, y = case.draw(5)
    list(pair.modules())[-1].training = False  # modes differ between modules, and must all come back
    modes = [m.training for m in pair.modules()]
    weights = {k: v.clone() for k, v in pair.state_dict().items()}
    state = torch.get_rng_state()
    if case.delta:
        with pytest.raises(pv.PairError, match="Delta"):
            pv.log_likelihood(pair, x, y, num_samples=20)
    else:
        est = pv.log_likelihood(pair, x, y, num_samples=20)
        assert est.log_px.shape == est.std_error.shape == est.ess.shape == est.khat.shape == est.elbo.shape == (5,)
        assert est.log_px.dtype == torch.float64
        assert bool((est.log_px >= est.elbo - 1e-6).all())  # Jensen, which holds sample by sample
    assert torch.equal(torch.get_rng_state(), state)
    assert [m.training for m in pair.modules()] == modes
    assert all(torch.equal(v, weights[k]) for k, v in pair.state_dict().items())


def test_the_encoder_runs_once_not_k_times(case: Case) -> None:
    pair = case.build()
    x, y = case.draw(5)
    seen: list[tuple[int, ...]] = []
    encoder = getattr(pair.guide, "encoder", getattr(pair.guide, "styles", None))
    if encoder is not None:
        encoder.register_forward_hook(lambda module, args, out: seen.append(tuple(args[0].shape)))
        pv.terms(pair.model, pair.guide, x, y, num_samples=50)
        pseudo = [] if "vamp" not in str(case.options.get("prior")) else [(4, *case.shape)]
        assert seen == [tuple(x.shape), *pseudo]
    else:
        assert case.name in ("linear", "flow", "diffusion", "gan", "views") or not case.latents


def test_every_registered_pair_is_here(case: Case) -> None:
    assert {c.name for c in CASES.values()} == set(PAIRS)
    assert case.name in PAIRS
    assert sorted(name for names in FAMILIES.values() for name in names) == sorted(PAIRS)
