"""Missing entries, masks, several observed sites: log p of what was observed, against closed forms, everywhere."""

from __future__ import annotations

import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

import ppl_vae as pv
from ppl_vae.common.fields import rows

D, L = 4, 2
W = torch.tensor([[1.0, 0.5], [-0.3, 0.8], [0.2, -1.0], [0.7, 0.1]], dtype=torch.float64)
SCALE = 0.6


def marginal(x: Tensor, observed: Tensor) -> Tensor:
    """log N(x_o; 0, W_o W_o' + s2 I) of the observed entries of each row."""
    out = []
    for row, seen in zip(x.double(), observed, strict=True):
        w = W[seen]
        cov = w @ w.T + SCALE**2 * torch.eye(len(w), dtype=torch.float64)
        out.append(
            torch.distributions.MultivariateNormal(torch.zeros(len(w), dtype=torch.float64), cov).log_prob(row[seen])
            if len(w)
            else torch.zeros((), dtype=torch.float64)
        )
    return torch.stack(out)


def posterior(x: Tensor, seen: Tensor) -> Any:
    """The exact posterior of the factors given the observed entries, as a guide's distribution."""
    m = seen.double()
    precision = torch.eye(L, dtype=torch.float64) + torch.einsum("bd,dl,dk->blk", m, W, W) / SCALE**2
    rhs = torch.einsum("bd,dl->bl", m * x.double().nan_to_num(), W) / SCALE**2
    mean = torch.linalg.solve(precision, rhs.unsqueeze(-1)).squeeze(-1)
    return dist.MultivariateNormal(mean, precision_matrix=precision)


class Forms:
    """One model of factors, whose data come in three forms: NaN, a mask beside the values, both in one tensor."""

    @staticmethod
    def nan(x: Tensor, seen: Tensor) -> Any:
        return torch.where(seen, x, math.nan)

    @staticmethod
    def fields(x: Tensor, seen: Tensor) -> Any:
        return {"values": torch.where(seen, x, 99.0), "mask": seen}

    @staticmethod
    def stacked(x: Tensor, seen: Tensor) -> Any:
        return torch.stack([torch.where(seen, x, 99.0), seen.to(x)], 1)


def parts(form: str, x: Any) -> tuple[Tensor, Tensor]:
    if form == "nan":
        return x, ~x.isnan()
    if form == "fields":
        return x["values"], x["mask"]
    return x[:, 0], x[:, 1] > 0


class Model(nn.Module):
    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form
        self.register_buffer("W", W.clone())
        self.bias = nn.Parameter(torch.zeros(D, dtype=torch.float64))

    def forward(self, x: Any = None, y: Tensor | None = None, n: int = 1) -> Any:
        values, seen = (None, None) if x is None else parts(self.form, x)
        with pyro.plate("data", n if values is None else len(values), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(L, dtype=torch.float64), 1.0).to_event(1))
            loc = z @ self.W.T + self.bias
            if self.form == "nan":
                return pyro.sample("x", dist.NanMaskedNormal(loc, SCALE).to_event(1), obs=values)
            normal = dist.Normal(loc, SCALE)
            return pyro.sample("x", (normal if seen is None else normal.mask(seen)).to_event(1), obs=values)


class Guide(nn.Module):
    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form

    def forward(self, x: Any, y: Tensor | None = None) -> Any:
        values, seen = parts(self.form, x)
        with pyro.plate("data", len(values), dim=-1):
            return pyro.sample("z", posterior(torch.where(seen, values, 0.0), seen))


FORMS = ["nan", "fields", "stacked"]


def sample_data(n: int = 40) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    z = torch.randn(n, L, generator=generator, dtype=torch.float64)
    x = z @ W.T + SCALE * torch.randn(n, D, generator=generator, dtype=torch.float64)
    return x, torch.rand(n, D, generator=generator) > 0.3


@pytest.mark.parametrize("form", FORMS)
def test_log_px_is_that_of_the_observed_entries(form: str) -> None:
    x, seen = sample_data()
    data, truth = getattr(Forms, form)(x, seen), marginal(x, seen)
    pair = pv.Pair(Model(form), Guide(form))
    pv.check_pair(pair.model, pair.guide, data)
    est = pv.log_likelihood(pair, data, num_samples=20)
    assert torch.allclose(est.log_px, truth, atol=1e-8)
    assert est.num_dims == pytest.approx(float(seen.double().sum(1).mean()))
    assert est.bits_per_dim == pytest.approx(-float(truth.mean()) / float(seen.double().sum(1).mean()) / math.log(2))
    assert torch.allclose(pv.ais(pair, data, start="guide", num_chains=2, num_temperatures=3).log_px, truth, atol=1e-8)
    total = pv.description_length(pair, data, num_samples=2)
    assert torch.allclose(-total.total * math.log(2), truth, atol=1e-8)


@pytest.mark.parametrize("form", FORMS)
def test_missing_entries_go_through_every_entry_point(form: str) -> None:
    x, seen = sample_data(12)
    data = getattr(Forms, form)(x, seen)
    pair = pv.Pair(Model(form), Guide(form))
    history = pv.fit(pair, data, valid=data, epochs=2, batch_size=5, progress=False, device="cpu", lr=1e-2)
    assert math.isfinite(history[-1]["valid_elbo"])
    assert pv.encode(pair, data).mean["z"].shape == (12, L)
    assert pv.posterior(pair, data, method="hmc", num_samples=4, warmup=3)["z"].shape == (4, 12, L)
    imputed = pv.reconstruct(pair, data)
    values = imputed["values"] if isinstance(imputed, dict) else imputed
    assert values.shape == (12, D)
    assert bool(values.isfinite().all())
    tree = pv.to_arviz(pair, data, method="guide", num_samples=3)
    assert tree["posterior"]["z"].shape == (1, 3, 12, L)
    assert tree["posterior_predictive"]["x"].shape == (1, 3, 12, D)
    drawn = pv.sample(pair, 5, like=data, seed=0)
    assert torch.equal(parts(form, drawn)[1], parts(form, rows(data, slice(5)))[1])
    t = pv.terms(pair.model, pair.guide, data, num_samples=2)
    assert t.log_w.shape == (2, 12)


@pytest.mark.parametrize("form", FORMS)
def test_simulated_data_keep_the_masks_they_are_given_and_the_bounds_meet(form: str) -> None:
    x, seen = sample_data(10)
    data = getattr(Forms, form)(x, seen)
    pair = pv.Pair(Model(form), Guide(form))
    both = pv.eubo(pair, 10, 5, like=data)
    assert both.gap == pytest.approx(0.0, abs=1e-8)
    values, mask = parts(form, both.x)
    assert torch.equal(mask, seen)
    assert torch.allclose(both.lower, marginal(values, mask), atol=1e-8)
    annealed = pv.bdmc(pair, 10, like=data, start="guide", num_chains=2, num_temperatures=3)
    assert annealed.gap == pytest.approx(0.0, abs=1e-7)


def test_what_the_model_does_not_draw_is_asked_for_by_name() -> None:
    x, seen = sample_data(10)
    pair = pv.Pair(Model("fields"), Guide("fields"))
    pv.log_likelihood(pair, Forms.fields(x, seen), num_samples=2)
    with pytest.raises(pv.UserError, match=r"does not draw all of x\['mask'\]; give like="):
        pv.eubo(pair, 10, 5)
    assert pv.sample(pair, 3).shape == (3, D)  # what it does draw


def test_a_missing_entry_that_the_likelihood_does_not_leave_out_is_named() -> None:
    x, seen = sample_data(12)
    pair = pv.build("linear", data_shape=(D,), latent=2)
    first = int((~seen).any(1).nonzero()[0])
    for call in (lambda d: pv.log_likelihood(pair, d), lambda d: pv.fit(pair, d, epochs=1, progress=False)):
        with pytest.raises(pv.DataError, match=rf"example {first} has a missing entry \(NaN\) at site 'x'"):
            call(Forms.nan(x, seen))


# ---- two modalities under names of their own


class TwoModel(nn.Module):
    """z -> counts and reals; the evidence is a one-dimensional integral."""

    def __init__(self, names: tuple[str, str]) -> None:
        super().__init__()
        self.names = names
        self.weight = nn.Parameter(torch.tensor([0.5, 0.2, -0.3], dtype=torch.float64))

    def forward(self, x: Any = None, y: Tensor | None = None, n: int = 1) -> Any:
        one, two = (None, None) if x is None else (x[self.names[0]], x[self.names[1]])
        with pyro.plate("data", n if one is None else len(one), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(1, dtype=torch.float64), 1.0).to_event(1))
            pyro.sample(self.names[0], dist.Poisson((z * self.weight).exp()).to_event(1), obs=one)
            pyro.sample(self.names[1], dist.Normal(z.expand(*z.shape[:-1], 2), 1.0).to_event(1), obs=two)


class TwoGuide(nn.Module):
    def __init__(self, names: tuple[str, str]) -> None:
        super().__init__()
        self.names = names
        self.net = nn.Linear(5, 1).double()

    def forward(self, x: Any, y: Tensor | None = None) -> Any:
        one, two = x[self.names[0]], x[self.names[1]]
        with pyro.plate("data", len(one), dim=-1):
            loc = self.net(torch.cat([one.to(two), two], -1))
            return pyro.sample("z", dist.Normal(loc, 0.7).to_event(1))


def evidence(model: TwoModel, one: Tensor, two: Tensor) -> Tensor:
    z = torch.linspace(-8, 8, 4001, dtype=torch.float64)[:, None, None]
    log_p = dist.Normal(0.0, 1.0).log_prob(z)[..., 0]
    log_p = log_p + dist.Poisson((z * model.weight).exp()).log_prob(one).sum(-1)
    log_p = log_p + dist.Normal(z, 1.0).log_prob(two).sum(-1)
    return torch.logsumexp(log_p, 0) + math.log(16 / 4000)


@pytest.mark.parametrize("names", [("counts", "reals"), ("x", "rna"), ("rna", "x")])
def test_two_observed_sites_under_any_names(names: tuple[str, str]) -> None:
    torch.manual_seed(0)
    pair = pv.Pair(TwoModel(names), TwoGuide(names))
    data = {names[0]: torch.tensor([[0, 1, 2], [3, 1, 0]] * 4), names[1]: torch.randn(8, 2, dtype=torch.float64)}
    pv.fit(pair, data, epochs=40, batch_size=8, lr=0.05, progress=False, device="cpu")
    est = pv.log_likelihood(pair, data, num_samples=20_000)
    truth = evidence(pair.model, data[names[0]], data[names[1]]).detach()
    assert bool(((est.log_px - truth).abs() < 5 * est.std_error + 1e-3).all())
    assert est.num_dims == 5
    drawn = pv.sample(pair, 7, seed=0)
    assert {k: tuple(v.shape) for k, v in drawn.items()} == {names[0]: (7, 3), names[1]: (7, 2)}
    rebuilt = pv.reconstruct(pair, data, seed=0)
    assert {k: tuple(v.shape) for k, v in rebuilt.items()} == {names[0]: (8, 3), names[1]: (8, 2)}
    assert bool((rebuilt[names[0]] != rebuilt[names[0]].round()).any())  # means of counts are no counts
    assert set(pv.decode(pair, {"z": torch.zeros(2, 1)})) == set(names)
    both = pv.eubo(pair, 20, 200)
    assert bool((both.lower <= both.upper + 0.5).all())
    simulated = evidence(pair.model, both.x[names[0]], both.x[names[1]]).detach()
    assert abs(float((both.lower - simulated).mean())) < 0.1
    annealed = pv.bdmc(pair, 10, num_chains=4, num_temperatures=50)
    simulated = evidence(pair.model, annealed.x[names[0]], annealed.x[names[1]]).detach()
    assert abs(float((annealed.lower - simulated).mean())) < 0.2
    tree = pv.to_arviz(pair, data, method="guide", num_samples=3)
    assert set(tree["posterior_predictive"].data_vars) == set(names)
    densities = tree["log_likelihood"]
    z = torch.tensor(tree["posterior"]["z"].values)[0]
    reals = dist.Normal(z, 1.0).log_prob(data[names[1]]).sum(-1)
    assert torch.allclose(torch.tensor(densities[names[1]].values)[0], reals)
    assert set(densities.data_vars) == set(names)
    assert set(tree["observed_data"].data_vars) == set(names)


def test_two_parts_of_one_tensor_are_drawn_into_one_tensor() -> None:
    class Parts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(1, 5)

        def forward(self, x: Tensor | None = None, y: Tensor | None = None, n: int = 1) -> None:
            with pyro.plate("data", n if x is None else len(x), dim=-1):
                z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
                h = self.net(z)
                pyro.sample("left", dist.Normal(h[..., :2], 1.0).to_event(1), obs=None if x is None else x[:, :2])
                pyro.sample("right", dist.Normal(h[..., 2:], 1.0).to_event(1), obs=None if x is None else x[:, 2:])

    class Code(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(5, 1)

        def forward(self, x: Tensor, y: Tensor | None = None) -> None:
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", dist.Normal(self.net(x), 1.0).to_event(1))

    torch.manual_seed(0)
    pair, x = pv.Pair(Parts(), Code()), torch.randn(9, 5)
    pv.log_likelihood(pair, x, num_samples=5)
    assert pv.sample(pair, 4).shape == (4, 5)
    assert pv.reconstruct(pair, x).shape == (9, 5)
    assert pv.eubo(pair, 6, 5).x.shape == (6, 5)


def test_a_run_folder_of_fields_is_resumed_and_sampled(tmp_path: Any) -> None:
    names = ("counts", "reals")
    data = {names[0]: torch.tensor([[0, 1, 2], [3, 1, 0]] * 10), names[1]: torch.randn(20, 2, dtype=torch.float64)}

    def pair() -> pv.Pair:
        torch.manual_seed(0)
        return pv.Pair(TwoModel(names), TwoGuide(names))

    split = pv.load_data(data, binarize="none")
    assert (len(split.train), len(split.valid), len(split.test)) == (14, 2, 4)
    whole, halved = pair(), pair()
    pv.fit(whole, split, epochs=4, progress=False, device="cpu")
    pv.fit(
        halved, split, epochs=2, progress=False, device="cpu", run_dir=tmp_path / "run", record={"data": split.record()}
    )
    again = pair()
    pv.fit(again, split, epochs=4, progress=False, device="cpu", run_dir=tmp_path / "run", resume=True)
    assert all(map(torch.equal, whole.state_dict().values(), again.state_dict().values()))
    loaded = pv.load(tmp_path / "run", pair=pair())
    assert set(pv.sample(loaded, 3)) == set(names)


@pytest.mark.parametrize("capture", [False, True])
def test_fields_train_and_are_scored_captured(capture: bool) -> None:
    x, seen = sample_data(20)
    data = Forms.fields(x, seen)
    torch.manual_seed(0)
    pair = pv.Pair(Model("fields"), Guide("fields"))
    pv.fit(pair, data, epochs=3, batch_size=10, progress=False, device="cpu", capture=capture)
    est = pv.log_likelihood(pair, data, num_samples=10, capture=capture)
    assert bool(est.log_px.isfinite().all())
    assert bool((pair.model.bias != 0).any())


@pytest.mark.parametrize("how", ["distribution", "handler"])
def test_a_masked_entry_may_be_nan(how: str) -> None:
    """Values stored as NaN under a mask give the numbers of values that are filled in, gradients and chains too."""

    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.zeros(D, dtype=torch.float64))

        def forward(self, x: Any = None, y: Any = None, n: int = 1) -> None:
            with pyro.plate("data", len(x["v"]), dim=-1):
                z = pyro.sample("z", dist.Normal(torch.zeros(L, dtype=torch.float64), 1.0).to_event(1))
                loc = z @ W.T + self.bias
                if how == "distribution":
                    pyro.sample("v", dist.Normal(loc, SCALE).mask(x["m"]).to_event(1), obs=x["v"])
                    return
                for d in range(D):
                    with pyro.poutine.mask(mask=x["m"][:, d]):
                        pyro.sample(f"v{d}", dist.Normal(loc[..., d], SCALE), obs=x["v"][:, d])

    class Fill(nn.Module):
        def forward(self, x: Any, y: Any = None) -> Any:
            with pyro.plate("data", len(x["v"]), dim=-1):
                return pyro.sample("z", posterior(torch.where(x["m"], x["v"], 0.0), x["m"]))

    x, seen = sample_data(16)
    found = []
    for gap in (math.nan, 7.0):
        data = {"v": torch.where(seen, x, gap), "m": seen}
        pair = pv.Pair(Masked(), Fill())
        pv.check_pair(pair.model, pair.guide, data)
        annealed = pv.ais(pair, data, num_chains=3, num_temperatures=8, seed=0).log_px
        chains = pv.posterior(pair, data, method="hmc", num_samples=8, warmup=4, seed=0)["z"]
        pv.fit(pair, data, epochs=2, batch_size=8, progress=False, device="cpu", seed=0)
        est = pv.log_likelihood(pair, data, num_samples=5)
        found.append((annealed, chains, pair.model.bias.detach(), est.log_px, torch.tensor(est.num_dims)))
    assert all(map(torch.equal, *found))
    assert bool((found[0][2] != 0).all())


def test_a_tuple_of_fields_is_saved_and_sampled_too(tmp_path: Any) -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, x: Any = None, y: Any = None, n: int = 1) -> None:
            one, two, _ = (None, None, None) if x is None else x
            with pyro.plate("data", n if one is None else len(one), dim=-1):
                z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
                pyro.sample("one", dist.Normal(z.expand(*z.shape[:-1], 2), self.scale.exp()).to_event(1), obs=one)
                pyro.sample("two", dist.Poisson(z.exp()).to_event(1), obs=two)

    class Code(nn.Module):
        def forward(self, x: Any, y: Any = None) -> None:
            with pyro.plate("data", len(x[0]), dim=-1):
                pyro.sample("z", dist.Normal(x[0][:, :1], 1.0).to_event(1))

    x = (torch.randn(12, 2), torch.randint(0, 4, (12, 1)), torch.ones(12))
    pair = pv.Pair(Both(), Code())
    with pytest.raises(pv.DataError, match="a tuple of two fields: give a dictionary"):
        pv.fit(pair, (x[:2], None), epochs=1, progress=False)
    pv.fit(pair, (x, None), epochs=1, progress=False, device="cpu", run_dir=tmp_path / "run")
    loaded = pv.load(tmp_path / "run", pair=pv.Pair(Both(), Code()))
    assert [tuple(part.shape) for part in pv.sample(loaded, 5, like=x)] == [(5, 2), (5, 1), (5,)]
    assert len(loaded.template) == 3


class Nested(Guide):
    """The fields are read by a network inside."""

    def forward(self, x: Any, y: Tensor | None = None) -> None:
        def encoder(both: Any) -> Tensor:
            return both["values"] * both["mask"]

        encoder(x)


class TwoFields(nn.Module):
    def forward(self, x: Any, y: Tensor | None = None, n: int = 1) -> None:
        with pyro.plate("data", len(x["values"]), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(D), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).mask(x["mask"]).to_event(1), obs=x["values"])


@pytest.mark.parametrize("given", ["tensor", "one field"])
def test_a_program_that_reads_fields_says_which_are_missing(given: str) -> None:
    x = sample_data(4)[0]
    data: Any = x if given == "tensor" else {"values": x}
    pair = pv.Pair(TwoFields(), Nested("nan"))
    for call in (lambda: pv.log_likelihood(pair, data), lambda: pv.check_pair(pair.model, pair.guide, data)):
        with pytest.raises(pv.PairError) as caught:
            call()
        line = str(caught.value)
        assert "{'values': ..., 'mask': ...}" in line
        assert "no 'mask'" in line
        assert ("no 'values'" in line) == (given == "tensor")
        assert "to_event" not in line


def test_a_mask_of_pyros_is_one_line_and_the_mend_that_it_names_leaves_out_the_missing() -> None:
    class Model(nn.Module):
        def __init__(self, how: str) -> None:
            super().__init__()
            self.how = how

        def forward(self, x: Any, y: Tensor | None = None, n: int = 1) -> None:
            with pyro.plate("data", len(x["values"]), dim=-1):
                pyro.sample("z", dist.Normal(0.0, 1.0))
                fn, how = dist.Bernoulli(0.3), {"obs_mask": x["mask"], "infer": {"enumerate": "parallel"}}
                if self.how == "pyro":
                    pyro.sample("x", fn, obs=x["values"], **how)
                else:
                    pyro.sample("x", fn.mask(x["mask"]), obs=x["values"])

    class Guide(nn.Module):
        def forward(self, x: Any, y: Tensor | None = None) -> None:
            with pyro.plate("data", len(x["values"]), dim=-1):
                pyro.sample("z", dist.Normal(0.0, 1.0))

    x = {"values": torch.tensor([1.0, 0.0, 1.0]), "mask": torch.tensor([True, True, False])}
    with pytest.raises(pv.PairError, match=r"^site 'x' has an obs_mask.*'x_unobserved'.*\.mask\(mask\)"):
        pv.log_likelihood(pv.Pair(Model("pyro"), Guide()), x, num_samples=2)
    found = pv.log_likelihood(pv.Pair(Model("mask"), Guide()), x, num_samples=2).log_px
    assert torch.allclose(found, torch.tensor([0.3, 0.7, 1.0], dtype=torch.float64).log(), atol=1e-6)


def test_new_data_and_splits_of_several_fields_are_read_whole() -> None:
    x = {"a": torch.rand(40, 3), "m": torch.ones(40, 3, dtype=torch.bool)}
    new = pv.load_split(x, like=pv.load_data(x, binarize="none"))
    assert torch.equal(new.x["a"], x["a"])
    parts = pv.load_data({"x_train": x, "x_test": x}, binarize="none")
    assert parts.test.index.tolist() == list(range(40))
