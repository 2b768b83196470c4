"""What moves in a fit: each group's own learning rate, what others move, torch schedulers, and thawed parameters."""

from __future__ import annotations

import functools
import itertools
import json
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.optim import SGD, Adam, lr_scheduler

import ppl_vae as pv
from ppl_vae.common.rng import reseed, seed_for
from ppl_vae.training.schedules import BETA_SCHEDULES, SCHEDULES
from ppl_vae.training.step_graph import StepGraphs
from ppl_vae.training.torch_schedulers import packed, unpacked

PER_EPOCH = 3  # batches of 32 of 90


@pytest.fixture(autouse=True)
def graphs_are_run_as_they_were_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the compiler, whose ten seconds tell nothing here: the graph reads the same tensors."""
    monkeypatch.setattr("ppl_vae.training.svi.StepGraphs", functools.partial(StepGraphs, compiled=False))


def small() -> tuple[pv.Pair, Tensor]:
    torch.manual_seed(0)
    return pv.build("linear", data_shape=(4,), latent=2), torch.randn(90, 4)


def fit(pair: pv.Pair, data: Any, objective: Any = None, **options: Any) -> list[dict[str, Any]]:
    return pv.fit(
        pair, data, objective, **{"progress": False, "device": "cpu", "batch_size": 32, "epochs": 4} | options
    )


def weights(module: torch.nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters()])


class Made:
    """A factory that keeps what it made, and the rates at every step."""

    def __init__(self, make: Callable[..., Any]) -> None:
        self.make = make
        self.seen: list[list[float]] = []

    def __call__(self, params: Any, lr: float) -> Any:
        self.optimizer = self.make(params, lr)
        self.optimizer.register_step_pre_hook(lambda o, *a: self.seen.append([float(g["lr"]) for g in o.param_groups]))
        return self.optimizer


def groups(*rates: Any, kind: Any = Adam, **options: Any) -> Callable[..., Any]:
    def make(params: list[Tensor], lr: float) -> Any:
        parts = [params[i :: len(rates)] for i in range(len(rates))]
        return kind([{"params": p, "lr": r} for p, r in zip(parts, rates, strict=True)], lr=lr, **options)

    return make


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine", lambda done: 0.5 if done > 0.5 else 1.0])
@pytest.mark.parametrize("kind", [Adam, functools.partial(Adam, fused=True), SGD, torch.optim.RMSprop])
def test_each_group_keeps_its_own_rate_times_the_schedule(schedule: Any, kind: Any) -> None:
    pair, x = small()
    frozen = [p.detach().clone() for p in list(pair.parameters())[2::3]]
    made = Made(groups(1e-5, 1e-3, 0.0, kind=kind))
    history = fit(pair, x, optimizer=made, schedule=schedule)
    factor = schedule if callable(schedule) else SCHEDULES[schedule]
    steps = 4 * PER_EPOCH
    expected = [[r * factor(i / steps) for r in (1e-5, 1e-3, 0.0)] for i in range(steps)]
    assert made.seen == [pytest.approx(row) for row in expected]
    assert all(map(torch.equal, frozen, list(pair.parameters())[2::3]))  # a rate of 0 moves nothing
    assert history[-1]["lr"] == made.seen[-1][0]
    assert history[-1]["lrs"] == made.seen[-1]


def test_a_rate_that_is_a_tensor_is_taken_as_its_number() -> None:
    made = Made(groups(torch.tensor(0.01), torch.tensor(0.02), capturable=False, foreach=False))
    fit(small()[0], small()[1], optimizer=made, schedule="linear", epochs=1)
    assert made.seen[0] == pytest.approx([0.01, 0.02])
    with pytest.raises(pv.UserError, match="the lr of group 0 is a"):
        fit(small()[0], small()[1], optimizer=lambda p, lr: _with(SGD(p, lr), lr=torch.ones(2)))


def _with(optimizer: Any, **values: Any) -> Any:
    optimizer.param_groups[0].update(values)
    return optimizer


@pytest.mark.parametrize("capture", [False, True])
def test_a_rate_that_a_callback_moves_holds_and_is_resumed(capture: bool, tmp_path: Path) -> None:
    def run(folder: str, stop: int | None = None, resume: bool = False) -> tuple[list[list[float]], Tensor]:
        pair, x = small()
        made = Made(groups(1e-2, 1e-3))

        def lower(row: dict[str, Any], p: pv.Pair) -> None:
            if row["epoch"] == 2:
                made.optimizer.param_groups[0]["lr"] = 5e-4
            if row["epoch"] == stop:
                raise KeyboardInterrupt

        options = {"optimizer": made, "schedule": "cosine", "callbacks": [lower], "capture": capture}
        try:
            fit(pair, x, run_dir=tmp_path / folder, resume=resume, **options)
        except KeyboardInterrupt:
            assert stop is not None
        return made.seen, weights(pair)

    seen, whole = run("whole")
    steps = 4 * PER_EPOCH
    cosine = [(1 + math.cos(math.pi * i / steps)) / 2 for i in range(steps)]
    assert [s[1] for s in seen] == pytest.approx([1e-3 * f for f in cosine])
    assert seen[2 * PER_EPOCH][0] == pytest.approx(5e-4)  # the next step takes what was set, and the schedule goes on
    half = 2 * PER_EPOCH
    assert [s[0] for s in seen[half:]] == pytest.approx([5e-4 * f / cosine[half] for f in cosine[half:]])
    for stop in (2,) if capture else (1, 2, 3):
        first, _ = run(f"broken{stop}", stop)
        second, again = run(f"broken{stop}", resume=True)
        assert first + second == seen
        assert torch.equal(again, whole)


def test_a_torch_scheduler_in_a_callback_holds() -> None:
    pair, x = small()
    made = Made(lambda params, lr: SGD(params, lr))
    kept: list[Any] = []

    def step(row: dict[str, Any], p: pv.Pair) -> None:
        if not kept:
            kept.append(lr_scheduler.ReduceLROnPlateau(made.optimizer, factor=0.1, patience=0))
        kept[0].step(1.0)  # never better than the first

    fit(pair, x, optimizer=made, lr=1e-4, callbacks=[step])
    per_epoch = [made.seen[i * PER_EPOCH][0] for i in range(4)]
    assert per_epoch == pytest.approx([1e-4, 1e-4, 1e-5, 1e-6])


LAMBDA = lr_scheduler.LambdaLR
TORCH: dict[str, Any] = {
    "StepLR": functools.partial(lr_scheduler.StepLR, step_size=2, gamma=0.5),
    "MultiStepLR": functools.partial(lr_scheduler.MultiStepLR, milestones=[1, 3, 3], gamma=0.5),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.9),
    "LambdaLR": functools.partial(LAMBDA, lr_lambda=lambda epoch: 1 / (1 + epoch)),
    "ConstantLR": functools.partial(lr_scheduler.ConstantLR, total_iters=2),
    "LinearLR": functools.partial(lr_scheduler.LinearLR, total_iters=3),
    "PolynomialLR": functools.partial(lr_scheduler.PolynomialLR, total_iters=4),
    "CosineAnnealingLR": functools.partial(lr_scheduler.CosineAnnealingLR, T_max=4),
    "CosineAnnealingWarmRestarts": functools.partial(lr_scheduler.CosineAnnealingWarmRestarts, T_0=2),
    "OneCycleLR": functools.partial(lr_scheduler.OneCycleLR, max_lr=0.01, total_steps=4 * PER_EPOCH),
    "CyclicLR": functools.partial(
        lr_scheduler.CyclicLR, base_lr=1e-4, max_lr=1e-2, step_size_up=4, cycle_momentum=False
    ),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.ConstantLR(o, 0.1, 2), lr_scheduler.ExponentialLR(o, 0.9)], [2]
    ),
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.StepLR(o, 2, 0.5), lr_scheduler.ExponentialLR(o, 0.9)]
    ),
    "ReduceLROnPlateau": functools.partial(lr_scheduler.ReduceLROnPlateau, patience=0, threshold=1.0, factor=0.5),
}


@pytest.mark.parametrize("name", TORCH)
def test_a_torch_scheduler_gives_the_rates_of_a_plain_torch_loop_and_is_resumed(name: str, tmp_path: Path) -> None:
    by_step = name in ("OneCycleLR", "CyclicLR")

    def run(folder: str | None, stop: int | None = None, resume: bool = False) -> Any:
        pair, x = small()
        made = Made(groups(1e-2, 3e-3, kind=functools.partial(Adam, fused=True)))

        def halt(row: dict[str, Any], p: pv.Pair) -> None:
            if row["epoch"] == stop:
                raise KeyboardInterrupt

        where = {} if folder is None else {"run_dir": tmp_path / folder}
        try:
            rows = fit(
                pair, pv.load_data(x, valid=0.2, test=0.1, seed=0, binarize="none"), optimizer=made,
                schedule=TORCH[name], callbacks=[halt], resume=resume, **where,
            )  # fmt: skip
        except KeyboardInterrupt:
            assert stop is not None
            rows = []
        return made.seen, weights(pair), [{k: v for k, v in r.items() if "seconds" not in k} for r in rows]

    seen, whole, rows = run("whole")
    parameters = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optimizer = Adam([{"params": [p], "lr": lr} for p, lr in zip(parameters, (1e-2, 3e-3), strict=True)])
    plain = TORCH[name](optimizer)
    per_epoch = len(seen) // 4
    expected = []
    for epoch in range(4):
        for _ in range(per_epoch):
            expected.append([g["lr"] for g in optimizer.param_groups])
            optimizer.step()
            if by_step:
                plain.step()
        if not by_step:
            plain.step(*([-rows[epoch]["valid_bound"]] if name == "ReduceLROnPlateau" else []))
    assert seen == expected
    assert len({tuple(s) for s in seen}) > 1
    assert [row.get("lrs", [row["lr"]] * 2) for row in rows] == [seen[per_epoch * (i + 1) - 1] for i in range(4)]
    for stop in (1, 3):
        first, _, _ = run(f"broken{stop}", stop)
        second, again, rows_again = run(f"broken{stop}", resume=True)
        assert first + second == seen
        assert torch.equal(again, whole)
        assert rows_again == rows


def test_without_validation_data_the_plateau_is_that_of_the_training_loss() -> None:
    pair, x = small()
    made = Made(lambda params, lr: SGD(params, lr))
    seen: list[float] = []
    plateau = lr_scheduler.ReduceLROnPlateau

    class Watched(plateau):  # type: ignore[misc, valid-type]
        def step(self, metrics: Any, epoch: Any = None) -> None:
            seen.append(float(metrics))
            super().step(metrics)

    rows = fit(pair, x, optimizer=made, lr=1e-5, schedule=Watched)
    assert seen == [-row["train_bound"] for row in rows]
    seen.clear()
    fit(pair, x, optimizer=made, lr=1e-5, schedule=Watched, warmup=2.5)
    assert len(seen) == 2  # while the weight of the KL grows the loss does too, which is no plateau


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schedule": lr_scheduler.StepLR}, "StepLR can't be made: .*step_size"),
        ({"schedule": 0.5}, "schedule: a float is neither a name, a function nor a torch scheduler"),
        ({"schedule": lambda done: done.missing}, "schedule: neither a function of the share of steps"),
        ({"schedule": lambda done: "fast"}, "schedule: it makes a str"),
        ({"schedule": lambda done: -1.0}, "schedule: the factor at 0 of the steps is -1"),
        ({"schedule": lambda done: math.nan}, "schedule: the factor at 0 of the steps is nan"),
        ({"schedule": lambda done: 1 / (done - 1 / 6) if done else 1.0}, "schedule: .* of the steps"),
        (
            {"schedule": functools.partial(lr_scheduler.ReduceLROnPlateau, mode="max")},
            "ReduceLROnPlateau follows a loss, which falls",
        ),
        (
            {"schedule": functools.partial(lr_scheduler.OneCycleLR, max_lr=0.1, total_steps=5)},
            "OneCycleLR stops: .*Tried to step 6 times",
        ),
        (
            {"schedule": lambda o: lr_scheduler.SequentialLR(
                o, [lr_scheduler.OneCycleLR(o, 0.1, 9), lr_scheduler.ConstantLR(o)], [4]
            )},
            "SequentialLR joins schedulers of batches and of epochs",
        ),
        ({"beta_schedule": "cycle"}, "beta_schedule='cycle': choose one of constant, cyclic"),
        ({"beta_schedule": lambda done: 1 - done}, "ends at 0, not at 1"),
        ({"beta_schedule": lambda done: 2 * done}, "ends at 2, not at 1"),
        ({"beta_schedule": lambda done: -1.0 if done < 1 else 1.0}, "beta_schedule: the factor at .* is -1"),
        ({"beta_schedule": 3}, "beta_schedule: a int is neither"),
        ({"optimizer": lambda params: SGD(params, 0.1)}, "optimizer: .* fails: .*lr"),
        ({"optimizer": lambda params, lr: params}, "it makes a list; a torch.optim optimiser is needed"),
        ({"optimizer": torch.optim.LBFGS}, "LBFGS runs the loss several times"),
        ({"optimizer": 3}, "optimizer: a int is neither a name, a torch.optim optimiser, nor a callable"),
        ({"optimizer": SGD([torch.zeros(1, requires_grad=True)], 0.1)}, "this SGD holds no parameter of the pair"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_one_line(options: dict[str, Any], message: str) -> None:
    pair, x = small()
    with pytest.raises(pv.UserError, match=message) as caught:
        fit(pair, x, **options)
    assert "\n" not in str(caught.value)


def test_a_scheduler_of_another_optimiser_is_refused() -> None:
    pair, x = small()
    other = lr_scheduler.StepLR(SGD(pair.parameters(), 0.1), 3)
    with pytest.raises(pv.UserError, match="this StepLR belongs to another optimiser"):
        fit(pair, x, schedule=other)


def test_a_state_that_json_cannot_hold_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    class Own(lr_scheduler.StepLR):
        def __init__(self, optimizer: Any) -> None:
            super().__init__(optimizer, 2)
            self.kept = object()

    pair, x = small()
    with pytest.raises(pv.UserError, match="state of the scheduler holds a object"):
        fit(pair, x, schedule=Own, run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    fit(pair, x, schedule=Own, epochs=1)


@pytest.mark.parametrize(
    "value",
    [
        None, True, 3, 0.1, math.inf, -math.inf, "a", [1, [2.0]], (1, (2,)), {"a": {3: (4, [5])}},
        Counter({3: 2, 1: 1}), {"float": 1}, {"tuple": [1]}, {"dict": {}}, [],
    ],
)  # fmt: skip
def test_a_packed_state_comes_out_as_it_went_in(value: Any) -> None:
    again = unpacked(json.loads(json.dumps(packed(value), allow_nan=False)))
    assert again == value
    assert type(again) is type(value)


# The weight of the KL term


def test_the_cyclic_schedule_is_that_of_its_paper() -> None:
    """Fu et al. 2019, equations 6 and 7, with M = 4, R = 1/2: tau = mod(t - 1, ceil(T/M)) / (T/M), beta = tau / R."""
    cyclic = BETA_SCHEDULES["cyclic"]
    for k, (share, expected) in itertools.product(range(4), [(0.25, 0.5), (0.5, 1.0), (0.75, 1.0), (1.0, 1.0)]):
        assert cyclic((k + share) / 4) == pytest.approx(expected)
    assert cyclic(1.0) == 1.0


def test_a_cycle_weighs_the_kl_and_only_epochs_at_its_end_count() -> None:
    pair, x = small()
    data = pv.load_data(x, valid=0.3, test=0.1, seed=0, binarize="none")
    saw: list[float] = []
    loss = pv.Elbo(beta=2.0)
    rows = fit(
        pair, data, loss, epochs=16, batch_size=8, beta_schedule="cyclic", patience=99,
        callbacks=[lambda row, p: saw.append(float(loss.beta))],
    )  # fmt: skip
    assert [row["beta"] for row in rows] == pytest.approx([1.0, 2.0, 2.0, 2.0] * 4)
    assert saw == [row["beta"] for row in rows]
    assert loss.beta == 2.0
    # patience counts the three epochs of each cycle that end at the whole weight
    pair, x = small()
    short = fit(pair, data, epochs=16, batch_size=8, beta_schedule="cyclic", patience=4, schedule=lambda done: 0.0)
    # nothing moves: epoch 2 is the best, and 3, 4, 6, 7 are not better
    assert len(short) == 7
    assert all(row["beta"] == (0.5 if row["epoch"] % 4 == 1 else 1.0) for row in short)


def test_warm_up_and_schedule_multiply_the_objectives_own_beta() -> None:
    pair, x = small()
    rows = fit(pair, x, pv.Elbo(beta=4.0), warmup=2, beta_schedule=lambda done: min(1.0, 2 * done))
    assert [row["beta"] for row in rows] == pytest.approx([4 * 0.5 * 0.5, 4.0, 4.0, 4.0])


@pytest.mark.parametrize(
    ("capture", "how"),
    [(True, "attribute"), *((False, how) for how in ("argument", "attribute", "numpy", "tensor", "by name"))],
)
def test_the_objectives_own_beta_is_trained_and_validated(capture: bool, how: str, tmp_path: Path) -> None:
    """beta = 0 in the limit: training with a beta of 4 is not training with 1, however it was given."""

    def objective() -> Any:
        if how in ("argument", "by name"):
            return pv.Elbo(beta=4) if how == "argument" else pv.objective("elbo", beta=4)
        loss = pv.Elbo()
        loss.beta = {"attribute": 4, "numpy": np.float32(4), "tensor": torch.tensor(4.0)}[how]
        return loss

    pair, x = small()
    data = pv.load_data(x, valid=0.3, test=0.1, seed=0, binarize="none")
    rows = fit(pair, data, objective(), run_dir=tmp_path / "run", capture=capture)
    assert [row["beta"] for row in rows] == [4.0] * 4
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["fit"]["objective"]["beta"] == 4.0
    valid = data.valid
    reseed(seed_for(0, "validate", 0))
    t = pv.terms(pair.model, pair.guide, valid.x, num_samples=1)
    weighed = float((t.log_lik + 4 * (t.log_prior - t.log_q)).mean().detach())
    assert rows[-1]["valid_bound"] == pytest.approx(weighed, abs=1e-4)
    assert rows[-1]["valid_elbo"] == pytest.approx(float(t.log_w.mean().detach()), abs=1e-4)
    assert abs(weighed - float(t.log_w.mean().detach())) > 1
    other, _ = small()
    fit(other, data)
    assert not torch.allclose(weights(other), weights(pair), atol=1e-4)


def test_a_beta_that_a_callback_sets_holds_and_is_resumed(tmp_path: Path) -> None:
    def run(folder: str, stop: int | None = None, resume: bool = False) -> Any:
        pair, x = small()
        loss = pv.Elbo(beta=2.0)

        def raise_it(row: dict[str, Any], p: pv.Pair) -> None:
            if row["epoch"] == 2:
                loss.beta = 3.0
            if row["epoch"] == stop:
                raise KeyboardInterrupt

        try:
            rows = fit(pair, x, loss, run_dir=tmp_path / folder, resume=resume, callbacks=[raise_it], warmup=3)
        except KeyboardInterrupt:
            return None
        return weights(pair), [row["beta"] for row in rows]

    whole, betas = run("whole")
    assert betas == pytest.approx([2 / 3, 4 / 3, 3.0, 3.0])
    for stop in (1, 2, 3):
        run(f"broken{stop}", stop)
        again, betas_again = run(f"broken{stop}", resume=True)
        assert torch.equal(again, whole)
        assert betas_again == betas


@pytest.mark.parametrize("beta", [-1.0, math.nan, math.inf, "4", torch.ones(2), None])
def test_a_beta_that_is_no_weight_is_refused(beta: Any) -> None:
    with pytest.raises(pv.UserError, match="the weight of the KL term is a finite number"):
        pv.Elbo(beta=beta)


def test_a_bound_without_a_place_for_beta_is_trained_and_refused_where_it_needs_one() -> None:
    pair, x = small()
    objective = pv.Objective(lambda t: t.log_w.mean(0), num_particles=2)
    assert fit(pair, x, objective, lr=1e-2)[-1]["train_bound"] > -20
    for options in ({"warmup": 1}, {"beta_schedule": "cyclic"}):
        with pytest.raises(pv.UserError, match="function of Terms alone"):
            fit(pair, x, objective, **options)
    objective.beta = 2
    with pytest.raises(pv.UserError, match="beta: the bound is a function of Terms alone"):
        fit(pair, x, objective)


# Parameters that are thawed


@pytest.mark.parametrize(
    ("capture", "optimizer"),
    [(True, "adam"), (False, "adam"), (False, SGD), (False, functools.partial(Adam, amsgrad=True))],
)
def test_a_thawed_encoder_trains_from_then_on_and_is_resumed(capture: bool, optimizer: Any, tmp_path: Path) -> None:
    def run(folder: str, stop: int | None = None, resume: bool = False) -> Any:
        pair, x = small()
        for p in pair.guide.parameters():
            p.requires_grad_(False)
        seen = [weights(pair.guide)]

        def thaw(row: dict[str, Any], p: pv.Pair) -> None:
            seen.append(weights(p.guide))
            if row["epoch"] == 2:
                for q in p.guide.parameters():
                    q.requires_grad_(True)
            if row["epoch"] == stop:
                raise KeyboardInterrupt

        options = {"optimizer": optimizer, "lr": 1e-4, "capture": capture, "epochs": 5}
        try:
            fit(pair, x, run_dir=tmp_path / folder, resume=resume, callbacks=[thaw], **options)
        except KeyboardInterrupt:
            assert stop is not None
        return weights(pair), seen

    whole, seen = run("whole")
    assert torch.equal(seen[0], seen[2])
    assert not torch.equal(seen[2], seen[3])
    assert not torch.equal(seen[3], seen[5])
    for stop in (2,) if capture else (1, 2, 4):
        run(f"broken{stop}", stop)
        assert torch.equal(run(f"broken{stop}", resume=True)[0], whole)


def test_a_thawed_parameter_that_the_optimiser_does_not_hold_is_refused() -> None:
    pair, x = small()
    for p in pair.guide.parameters():
        p.requires_grad_(False)

    def thaw(row: dict[str, Any], p: pv.Pair) -> None:
        for q in p.guide.parameters():
            q.requires_grad_(True)

    with pytest.raises(pv.UserError, match=r"parameter 'guide\..*' .* is not in the optimiser"):
        fit(pair, x, optimizer=lambda params, lr: SGD([p for p in params if p.requires_grad], lr), callbacks=[thaw])
