"""Training reaches the optimum that is known, keeps its schedules, stops early, resumes, and never trains on NaN."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs_under_test import CASES
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import ppl_vae as pv
from ppl_vae.training.schedules import SCHEDULES


def small(seed: int = 0) -> tuple[pv.Pair, Tensor]:
    torch.manual_seed(seed)
    return pv.build("vae", data_shape=(9,), latent=2, hidden=(8,)), (torch.rand(100, 9) > 0.5).float()


def fit(pair: pv.Pair, data: Any, **options: Any) -> list[dict[str, Any]]:
    return pv.fit(pair, data, **{"progress": False, "device": "cpu", "batch_size": 32, "epochs": 3} | options)


def weights(pair: pv.Pair) -> Tensor:
    return torch.cat([p.detach().flatten() for p in pair.parameters()])


def test_a_linear_vae_reaches_the_maximum_likelihood_of_pca() -> None:
    """Lucas et al. 2019: the optimum of the linear VAE's ELBO is that of probabilistic PCA."""
    g = torch.Generator().manual_seed(1)
    x = torch.randn(400, 2, generator=g) @ torch.randn(2, 6, generator=g) + 0.3 * torch.randn(400, 6, generator=g)
    best = pv.build("linear", data_shape=(6,), latent=2).double()
    best.model.set_maximum_likelihood(x.double())
    ceiling = float(best.model.evidence(x.double()).mean().detach())
    pair = pv.build("linear", data_shape=(6,), latent=2)
    history = fit(pair, x, epochs=300, batch_size=100, lr=3e-2, schedule="cosine")
    reached = float(pair.double().model.evidence(x.double()).mean().detach())
    assert ceiling - 0.02 < reached <= ceiling + 1e-9
    assert history[-1]["train_bound"] == pytest.approx(ceiling, abs=0.05)
    assert history[0]["train_bound"] < ceiling - 1


def test_the_maximum_likelihood_solution_is_a_maximum() -> None:
    """Tipping and Bishop 1999: no small move of W, m or s raises the evidence."""
    x = torch.randn(200, 5, dtype=torch.float64) @ torch.randn(5, 5, dtype=torch.float64)
    model = pv.build("linear", data_shape=(5,), latent=2).double().model
    model.set_maximum_likelihood(x)
    model.evidence(x).mean().backward()
    for name, p in model.named_parameters():
        assert float(p.grad.abs().max()) < 1e-8, name


def test_history_has_a_row_an_epoch_and_is_written_as_json_lines(tmp_path: Path) -> None:
    pair, x = small()
    data = pv.load_data(x, seed=0)
    seen: list[int] = []
    history = fit(pair, data, run_dir=tmp_path / "run", callbacks=[lambda row, p: seen.append(row["epoch"])])
    keys = {"epoch", "step", "train_bound", "valid_bound", "valid_elbo", "beta", "lr", "seconds", "train_seconds"}
    assert [set(row) for row in history] == [keys] * 3
    assert [row["epoch"] for row in history] == seen == [1, 2, 3]
    assert [row["step"] for row in history] == [3, 6, 9]
    lines = (tmp_path / "run" / "history.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == history
    assert "valid_elbo" not in fit(small()[0], x)[0]


def test_the_result_depends_on_the_seed_and_on_nothing_that_ran_before(untouched: None) -> None:
    state = torch.get_rng_state()
    ends = []
    for seed, noise in ((0, 1), (0, 2), (1, 1)):
        pair, x = small()
        torch.manual_seed(noise)
        fit(pair, pv.load_data(x), seed=seed)
        ends.append(weights(pair))
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])
    torch.set_rng_state(state)


def test_generators_modes_and_gradients_come_out_as_they_went_in() -> None:
    pair, x = small()
    pair.eval()
    pair.guide.train()
    modes = [m.training for m in pair.modules()]
    state = torch.get_rng_state()
    with pyro.get_param_store().scope():
        pyro.param("mine", torch.tensor(1.0))
        fit(pair, x)
        assert list(pyro.get_param_store().keys()) == ["mine"]
    assert torch.equal(torch.get_rng_state(), state)
    assert [m.training for m in pair.modules()] == modes
    assert all(p.grad is None for p in pair.parameters())


def test_dynamic_binarisation_is_drawn_anew_and_validation_is_fixed() -> None:
    seen: list[Tensor] = []

    class Spy(nn.Module):
        def __init__(self, guide: nn.Module) -> None:
            super().__init__()
            self.guide = guide

        def forward(self, x: Tensor, y: Tensor | None = None) -> None:
            if self.training:
                seen.append(x.clone())
            self.guide(x)

    pair = pv.build("vae", data_shape=(9,), latent=2, hidden=(8,))
    data = pv.load_data(torch.full((100, 9), 0.3), seed=0, binarize="dynamic")
    history = fit(pv.Pair(pair.model, Spy(pair.guide)), data, lr=1e-12)
    assert all(set(x.unique().tolist()) <= {0.0, 1.0} for x in seen)
    means = [float(x.mean()) for x in seen]
    assert len(set(means)) > len(means) // 2
    assert sum(means) / len(means) == pytest.approx(0.3, abs=0.05)
    assert history[0]["valid_elbo"] == pytest.approx(history[2]["valid_elbo"], abs=1e-4)
    assert set(data.valid.x.unique().tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize("objective", ["elbo", "iwae", "analytic_kl", None, pyro.infer.TraceGraph_ELBO()])
def test_every_objective_raises_its_bound(objective: Any) -> None:
    pair, x = small()
    x[:, :4] = 1.0
    history = fit(pair, x, objective=objective, epochs=20, lr=1e-2)
    assert history[-1]["train_bound"] > history[0]["train_bound"] + 0.5


def test_the_warm_up_ends_at_one_and_is_refused_where_it_would_not() -> None:
    pair, x = small()
    objective = pv.Elbo()
    history = fit(pair, x, objective=objective, epochs=4, warmup=2)
    per_epoch = 4
    assert [row["beta"] for row in history] == [per_epoch / (2 * per_epoch), 1.0, 1.0, 1.0]
    assert objective.beta == 1.0
    assert fit(pair, x, epochs=2, warmup=2)[-1]["beta"] == 1.0
    with pytest.raises(pv.UserError, match=r"warmup=3 epochs of 2: .*never reach 1"):
        fit(pair, x, epochs=2, warmup=3)
    with pytest.raises(pv.UserError, match="TraceGraph_ELBO has no weight"):
        fit(pair, x, objective=pyro.infer.TraceGraph_ELBO(), epochs=2, warmup=1)


def test_the_warm_up_moves_the_gradient() -> None:
    ends = []
    for warmup in (0, 3):
        pair, x = small()
        fit(pair, x, warmup=warmup)
        ends.append(weights(pair))
    assert not torch.equal(*ends)


def test_schedules_go_where_they_say() -> None:
    assert [SCHEDULES["linear"](d) for d in (0.0, 0.5)] == [1.0, 0.5]
    assert SCHEDULES["cosine"](0.5) == pytest.approx(0.5)
    # eight stages of 3^(i-1) epochs of 3280, at 10^(-(i-1)/7)
    edges = [0, 1, 4, 13, 40, 121, 364, 1093, 3280]
    for i, (a, b) in enumerate(itertools.pairwise(edges)):
        for epoch in (a, b - 1):
            assert SCHEDULES["iwae"](epoch / 3280) == pytest.approx(10 ** (-i / 7))
    pair, x = small()
    assert [row["lr"] for row in fit(pair, x, schedule=lambda done: 0.1)] == [pytest.approx(1e-4)] * 3


def test_early_stopping_keeps_the_best_weights() -> None:
    """A rate that blows up after some steps: the bound gets worse, and the best epoch comes back."""
    pair, x = small()
    data = pv.load_data(x, seed=0)
    kept: dict[int, Tensor] = {}
    history = fit(
        pair, data, epochs=60, patience=3, lr=1e-2, schedule=lambda done: 1.0 if done < 0.2 else 30.0,
        callbacks=[lambda row, p: kept.__setitem__(row["epoch"], weights(p))],
    )  # fmt: skip
    bounds = [row["valid_bound"] for row in history]
    best = max(range(len(bounds)), key=bounds.__getitem__) + 1
    assert len(history) == best + 3 < 60
    assert torch.equal(weights(pair), kept[best])
    with pytest.raises(pv.UserError, match="patience needs validation data"):
        fit(pair, x, patience=3)


def test_a_callback_can_stop() -> None:
    pair, x = small()
    assert len(fit(pair, x, epochs=9, callbacks=[lambda row, p: row["epoch"] == 2])) == 2


@pytest.mark.parametrize("kind", ["tensor", "tuple", "split", "dataset", "loader", "iterable"])
def test_any_source_of_data_is_fit(kind: str) -> None:
    pair = CASES["cvae"].build()
    x, y = CASES["cvae"].draw(40)
    assert y is not None

    class Stream(IterableDataset):  # type: ignore[type-arg]
        def __iter__(self) -> Any:
            return iter(zip(x, y, strict=True))

    sources: dict[str, Any] = {
        "tuple": (x, y),
        "split": pv.Split(x, y),
        "dataset": TensorDataset(x, y),
        "loader": DataLoader(TensorDataset(x, y), batch_size=16, shuffle=True),
        "iterable": DataLoader(Stream(), batch_size=16),
        "tensor": x,
    }
    if kind == "tensor":
        pair = CASES["vae"].build()
    history = fit(pair, sources[kind], epochs=10, lr=1e-2)
    assert history[-1]["train_bound"] > history[0]["train_bound"]
    assert history[-1]["train_bound"] / 36 > -0.8  # nats a pixel: the sum is divided by the number of data


def test_double_precision_pairs_take_single_precision_data() -> None:
    pair, x = small()
    pair.double()
    assert math.isfinite(fit(pair, pv.load_data(x))[-1]["valid_elbo"])


@pytest.mark.parametrize("stop_after", [1, 2, 5])
@pytest.mark.parametrize(
    "options",
    [{}, {"optimizer": "sgd", "lr": 1e-4}, {"patience": 2}, {"warmup": 2, "schedule": "cosine"}, {"clip_norm": 1.0}],
    ids=str,
)
def test_a_stopped_fit_goes_on_bit_for_bit(options: dict[str, Any], stop_after: int, tmp_path: Path) -> None:
    def run(folder: str, **more: Any) -> tuple[Tensor, list[dict[str, Any]]]:
        pair, x = small()
        if more.get("resume"):
            for p in pair.parameters():
                p.data.fill_(99.0)  # what is resumed comes from the folder
        history = fit(pair, pv.load_data(x, seed=0), run_dir=tmp_path / folder, epochs=6, **options, **more)
        return weights(pair), [{k: v for k, v in row.items() if "seconds" not in k} for row in history]

    whole, rows = run("whole")

    def interrupt(row: dict[str, Any], pair: pv.Pair) -> None:
        if row["epoch"] == stop_after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run("broken", callbacks=[interrupt])
    again, rows_again = run("broken", resume=True)
    assert torch.equal(whole, again)
    assert rows == rows_again


def test_a_fit_stopped_within_an_epoch_goes_on_bit_for_bit(tmp_path: Path) -> None:
    import signal

    def run(folder: str, bell: int | None = None, resume: bool = False) -> Tensor:
        pair, x = small()
        calls = itertools.count()
        if bell is not None:
            hook = pair.guide.encoder.register_forward_hook(
                lambda *a: signal.raise_signal(signal.SIGINT) if next(calls) == bell else None
            )
        try:
            fit(pair, pv.load_data(x, seed=0), run_dir=tmp_path / folder, epochs=5, resume=resume)
        finally:
            if bell is not None:
                hook.remove()
        return weights(pair)

    whole = run("whole")
    with pytest.raises(KeyboardInterrupt):
        run("broken", bell=9)
    position = json.loads((tmp_path / "broken" / "train_state.json").read_text())
    assert position["batch"] > 0
    assert torch.equal(run("broken", resume=True), whole)


def test_resuming_with_other_options_is_refused(tmp_path: Path) -> None:
    pair, x = small()
    fit(pair, x, run_dir=tmp_path / "run")
    with pytest.raises(pv.RunError, match=r"the run has lr=0.001 and you ask for 0.5"):
        fit(pair, x, run_dir=tmp_path / "run", resume=True, lr=0.5)
    with pytest.raises(pv.RunError, match=r"holds a run already; pass --overwrite"):
        fit(pair, x, run_dir=tmp_path / "run")
    with pytest.raises(pv.RunError, match="is not a run"):
        fit(pair, x, run_dir=tmp_path / "other", resume=True)
    assert not (tmp_path / "other").exists()
    assert len(fit(pair, x, run_dir=tmp_path / "run", resume=True, epochs=5)) == 5  # longer is the same run, going on
    assert len(fit(pair, x, run_dir=tmp_path / "run", overwrite=True)) == 3


class Fragile(nn.Module):
    """A decoder that breaks on one datum, in the loss or only in the gradient."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(3))
        self.where = where

    def forward(self, x: Tensor, y: Tensor | None = None) -> None:
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            mean = z * self.w
            bad = (x[:, :1] == 7).expand(len(x), 3)
            if self.where == "loss":
                mean = mean + torch.where(bad, math.nan, 0.0)
            else:  # the derivative of the square root at zero
                mean = mean + torch.where(bad, torch.zeros_like(x) * self.w, torch.ones_like(x)).abs().sqrt()
            pyro.sample("x", dist.Normal(mean, 1.0, validate_args=False).to_event(1), obs=x)


class FragileGuide(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.loc = nn.Linear(3, 3)

    def forward(self, x: Tensor, y: Tensor | None = None) -> None:
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(self.loc(x), 1.0).to_event(1))


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_nan_stops_the_fit_and_names_step_batch_and_site(where: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(300, 3)
    x[200, 0] = 7.0
    pair = pv.Pair(Fragile(where), FragileGuide())
    expected = "site 'x': the log density" if where == "loss" else "gradient of parameter 'model.w'"
    before = weights(pair)
    batches = pv.Batches(pv.Split(x), 10, 0)
    at = next(i for i in range(30) if bool((batches.get(0, i)[0][:, 0] == 7).any()))
    with pytest.raises(pv.NonFiniteError, match=f"step {at} .epoch 1, batch {at}.*{expected}"):
        # the look at all data before training would find a bad loss; a gradient is only seen in training
        fit(pair, DataLoader(Shuffled(x), batch_size=10) if where == "loss" else x, batch_size=10, epochs=9)
    assert bool(weights(pair).isfinite().all())
    assert at == 0 or not torch.equal(weights(pair), before)


class Shuffled(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """The data in the order of the first epoch of Batches."""

    def __init__(self, x: Tensor) -> None:
        batches = pv.Batches(pv.Split(x), len(x), 0)
        self.x = batches.get(0, 0)[0]

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> Tensor:
        return self.x[i]


def test_after_nan_the_last_good_checkpoint_is_kept(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(100, 3)
    pair = pv.Pair(Fragile("gradient"), FragileGuide())
    poison = {"at": 3}

    def spoil(row: dict[str, Any], p: pv.Pair) -> None:
        if row["epoch"] == poison["at"]:
            x[:] = 7.0

    class Live(torch.utils.data.Dataset):  # type: ignore[type-arg]
        def __len__(self) -> int:
            return 100

        def __getitem__(self, i: int) -> Tensor:
            return x[i]

    with pytest.raises(pv.NonFiniteError):
        fit(pair, Live(), epochs=9, run_dir=tmp_path / "run", callbacks=[spoil], checkpoint_every=0.0)
    position = json.loads((tmp_path / "run" / "train_state.json").read_text())
    assert position["epoch"] == 3
    fresh = pv.Pair(Fragile("gradient"), FragileGuide())
    assert bool(weights(pv.load(tmp_path / "run", pair=fresh)).isfinite().all())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs=0"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"lr": 0.0}, "lr=0.0: the learning rate"),
        ({"lr": math.inf}, "lr=inf: the learning rate"),
        ({"epochs": 1.5}, "epochs=1.5: a whole number"),
        ({"clip_norm": -1.0}, "clip_norm=-1.0"),
        ({"patience": 0}, "patience=0"),
        ({"optimizer": "lion"}, "optimizer='lion': choose one of adam"),
        ({"schedule": "steps"}, "schedule='steps': choose one of constant"),
        ({"objective": "vae"}, "objective 'vae' is not known"),
        ({"device": "gpu"}, "device='gpu'"),
        ({"device": "cuda:99"}, "device='cuda:99'"),
        ({"tensorboard": True}, "tensorboard=True needs run_dir"),
    ],
)
def test_options_that_make_no_sense_are_one_line(options: dict[str, Any], message: str) -> None:
    pair, x = small()
    with pytest.raises(pv.UserError, match=message) as caught:
        fit(pair, x, **options)
    assert "\n" not in str(caught.value)


def test_data_outside_the_support_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    pair, x = small()
    x[77, 3] = 0.5
    with pytest.raises(pv.DataError, match="example 77 lies outside the support of site 'x'"):
        fit(pair, x, run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_broken_pair_is_refused_before_training() -> None:
    pair, x = small()
    with pytest.raises(pv.PairError, match="must agree"):
        fit(pv.Pair(pair.model, lambda x: None), x)
    with pytest.raises(pv.PairError, match=r"'z1' before 'z2'"):
        fit(CASES["hierarchical"].build(), CASES["hierarchical"].draw(20)[0], objective="analytic_kl")


def test_batches_of_a_loader_are_checked_too() -> None:
    pair, x = small()
    bad: list[tuple[Any, str]] = [
        (TensorDataset(x * 16), "outside the support of site 'x'"),
        (TensorDataset(x, x[:, 0], x[:, 0]), "a batch of the loader is .Tensor, Tensor, Tensor."),
        ([{"x": row} for row in x], "the guide fails on x of shapes x .3, 9."),
    ]
    for data, message in bad:
        with pytest.raises(pv.UserError, match=message):
            fit(pair, DataLoader(data, batch_size=10))
    with pytest.raises(pv.UserError, match=r"write pv.Pair\(model, guide\)"):
        fit((pair.model, pair.guide), x)  # type: ignore[arg-type]


def test_a_fit_that_stopped_early_goes_on_longer_from_its_last_weights(tmp_path: Path) -> None:
    """The best weights are kept beside the last ones, which a longer fit goes on from, as an unbroken one would."""

    def run(folder: str, epochs: int, resume: bool = False) -> Tensor:
        pair, x = small()
        fit(
            pair, pv.load_data(x, seed=0), run_dir=tmp_path / folder, epochs=epochs, patience=50, resume=resume, lr=0.03
        )
        return weights(pair)

    whole = run("whole", 12)
    run("cut", 7)
    assert torch.equal(run("cut", 12, resume=True), whole)
