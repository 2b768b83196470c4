"""A run is resumed as what it was: objectives, optimisers and schedules tell all of themselves."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from torch import Tensor
from torch.optim import SGD, Adam, lr_scheduler

import ppl_vae as pv
from ppl_vae.common.identity import describe, difference

RATE = 0.5


def half(done: float) -> float:
    return RATE * (1 - done)


def twice_half(done: float) -> float:
    return 2 * half(done)


def adam(params: Any, lr: float) -> Adam:
    return Adam(params, lr=lr, eps=1e-4)


def sgd(params: Any, lr: float) -> SGD:
    return SGD(params, lr=lr)


def power(k: float) -> Any:
    return lambda done: (1 - done) ** k


class Own(pv.Elbo):
    """A user's objective under another name."""


class Half:
    def __init__(self, rate: float) -> None:
        self.rate = rate

    def __call__(self, done: float) -> float:
        return self.rate

    def method(self, done: float) -> float:
        return self.rate


def first(t: Any, beta: Any = 1.0) -> Tensor:
    return t.log_w.mean(0)


def second(t: Any, beta: Any = 1.0) -> Tensor:
    return t.log_w.amin(0)


STEP = functools.partial(lr_scheduler.StepLR, step_size=2)

# what the run was made with, what it is resumed with, and what differs
OTHERS: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"objective": pv.Elbo()}, {"objective": pv.Elbo(gradient="stl")}, "objective.grad='path'.*'stl'"),
    ({"objective": pv.Elbo()}, {"objective": pv.Elbo(beta=4)}, "objective.beta=1.0.*4.0"),
    ({"objective": pv.Elbo()}, {"objective": pv.Elbo(free_bits=0.5)}, "objective.free_bits=0.0.*0.5"),
    ({"objective": pv.Elbo()}, {"objective": pv.Elbo(2)}, "objective.num_particles=1.*2"),
    ({"objective": pv.Elbo(2)}, {"objective": pv.Elbo(2, vectorize=False)}, "objective.vectorize=True.*False"),
    ({"objective": pv.Elbo()}, {"objective": pv.AnalyticKL()}, "objective.name='Elbo'.*'AnalyticKL'"),
    ({"objective": pv.Elbo()}, {"objective": None}, "objective.name='Elbo'.*'Trace_ELBO'"),
    ({"objective": pv.Elbo()}, {"objective": Own()}, "objective.name='Elbo'.*'Own'"),
    ({"objective": pv.IWAE(3)}, {"objective": pv.IWAE(3, gradient="dreg")}, "objective.gradient='path'.*'dreg'"),
    ({"objective": pv.Objective(first)}, {"objective": pv.Objective(second)}, "objective.bound.name=.*first.*second"),
    ({"objective": pv.Objective(lambda t: t.log_w.mean(0))}, {"objective": pv.Objective(lambda t: t.log_w.amin(0))},
     "objective.bound.sha256"),
    ({"objective": pyro.infer.RenyiELBO(alpha=0.5)}, {"objective": pyro.infer.RenyiELBO(alpha=0.2)},
     "objective.alpha=0.5.*0.2"),
    ({"objective": pyro.infer.TraceGraph_ELBO()}, {"objective": pyro.infer.TraceEnum_ELBO(max_plate_nesting=1)},
     "objective.name"),
    ({"optimizer": "adam"}, {"optimizer": adam}, "optimizer='adam'"),
    ({"optimizer": adam}, {"optimizer": sgd}, "optimizer.made_by.name"),
    ({"optimizer": functools.partial(SGD, momentum=0.9)}, {"optimizer": functools.partial(SGD, momentum=0.5)},
     "optimizer.made_by.keywords.momentum=0.9.*0.5"),
    ({"optimizer": lambda p, lr: SGD(p, lr)}, {"optimizer": lambda p, lr: SGD(p, lr / 2)}, "optimizer.made_by.sha256"),
    ({"schedule": "linear"}, {"schedule": half}, "schedule='linear'"),
    ({"schedule": half}, {"schedule": twice_half}, "schedule.name"),
    ({"schedule": power(1)}, {"schedule": power(2)}, "schedule.holds.k=1.*2"),
    ({"schedule": lambda done, k=1: k}, {"schedule": lambda done, k=2: k}, "schedule."),
    ({"schedule": Half(1.0)}, {"schedule": Half(0.5)}, "schedule.settings.rate=1.0.*0.5"),
    ({"schedule": Half(1.0).method}, {"schedule": Half(0.5).method}, "schedule.of.settings.rate=1.0.*0.5"),
    ({"schedule": STEP}, {"schedule": functools.partial(STEP, gamma=0.5)}, "schedule.made_by.keywords.gamma=None.*0.5"),
    ({"beta_schedule": "constant"}, {"beta_schedule": "cyclic"}, "beta_schedule='constant'.*'cyclic'"),
    ({"beta_schedule": lambda done: min(1.0, 2 * done)}, {"beta_schedule": lambda done: min(1.0, 3 * done)},
     "beta_schedule.sha256"),
]  # fmt: skip


def start(folder: Path, epochs: int = 1, **options: Any) -> list[dict[str, Any]]:
    torch.manual_seed(0)
    pair = pv.build("linear", data_shape=(3,), latent=1)
    x = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    options = {"progress": False, "device": "cpu", "batch_size": 10, **options}
    return pv.fit(pair, x, epochs=epochs, run_dir=folder, **options)


@pytest.mark.parametrize(("then", "now", "what"), OTHERS, ids=[what for _, _, what in OTHERS])
def test_another_one_is_refused_by_name_and_the_same_goes_on(
    then: dict[str, Any], now: dict[str, Any], what: str, tmp_path: Path
) -> None:
    start(tmp_path / "run", **then)
    config = (tmp_path / "run" / "config.json").read_text()
    with pytest.raises(pv.RunError, match=what) as caught:
        start(tmp_path / "run", resume=True, **now)
    assert "\n" not in str(caught.value)
    assert (tmp_path / "run" / "config.json").read_text() == config
    assert len(start(tmp_path / "run", resume=True, **then)) == 1


def test_a_longer_fit_is_the_same_run_where_no_schedule_spans_it(tmp_path: Path) -> None:
    for i, options in enumerate(({}, {"schedule": STEP}, {"optimizer": adam})):
        start(tmp_path / str(i), **options)
        assert len(start(tmp_path / str(i), epochs=2, resume=True, **options)) == 2
    for i, options in enumerate(({"schedule": half}, {"beta_schedule": "cyclic"})):
        start(tmp_path / f"spans{i}", **options)
        with pytest.raises(pv.RunError, match="epochs=1"):
            start(tmp_path / f"spans{i}", epochs=2, resume=True, **options)


@pytest.mark.parametrize(
    "options", [{}, {"objective": pv.IWAE(3, "dreg")}, {"optimizer": adam, "schedule": half, "epochs": 1}]
)
def test_a_run_of_an_older_version_is_resumed_to_the_same_weights(options: dict[str, Any], tmp_path: Path) -> None:
    """Its configuration has names alone, and its state no rates of groups."""
    from ppl_vae.common import files

    whole = start(tmp_path / "whole", **{"epochs": 3, **options})

    def stop(row: dict[str, Any], pair: pv.Pair) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        start(tmp_path / "old", **{"epochs": 3, **options}, callbacks=[stop])
    path = tmp_path / "old" / "config.json"
    config = json.loads(path.read_text())
    told = config["fit"]
    del told["beta_schedule"], told["shards"]
    told["objective"] = {k: v for k, v in told["objective"].items() if k in ("name", "num_particles", "gradient")}
    for key in ("optimizer", "schedule"):
        told[key] = options[key].__name__ if key in options else told[key]
    path.write_text(json.dumps(config))
    state = tmp_path / "old" / "train_state.safetensors"
    tensors, about = files.read_tensors(state)
    for key in ("own_lr", "last_lr", "own_beta", "scheduler", "frozen"):
        del about["state"][key]
    files.write_tensors(state, tensors, about)
    other = {**options, "objective": pv.Elbo(7)}
    with pytest.raises(pv.RunError, match=r"objective\.(name|num_particles)"):
        start(tmp_path / "old", **{"epochs": 3, **other}, resume=True)
    again = start(tmp_path / "old", **{"epochs": 3, **options}, resume=True)
    assert [r["train_bound"] for r in again] == [r["train_bound"] for r in whole]
    ends = [files.read_tensors(tmp_path / name / "weights.safetensors")[0] for name in ("whole", "old")]
    assert all(torch.equal(ends[0][k], ends[1][k]) for k in ends[0])


def test_a_description_is_json_and_depends_on_nothing_but_the_work() -> None:
    def outer(k: Any) -> Any:
        count = 0

        def inner(done: float) -> float:
            nonlocal count
            count += 1  # of calls: no part of what it is
            return k * done

        return inner

    function = outer(2)
    before = describe(function)
    function(0.5)
    assert describe(function) == before == describe(outer(np.int64(2)))
    assert describe(outer(3)) != before
    one, other = (lambda done: done + 1), (lambda done: done + 2)
    assert describe(one)["sha256"] != describe(other)["sha256"]
    # the same words on other lines, with other spaces and comments
    again = lambda done: (  # noqa: E731
        done + 1  # one
    )
    assert describe(again)["sha256"] == describe(one)["sha256"]
    for value in (
        function,
        one,
        Half,
        Half(2.0),
        torch.ones(2),
        np.ones(2),
        {"a": (1, {2, 1})},
        float("inf"),
        len,
        None,
        torch.float32,
        torch.nn.Linear(2, 2),
        functools.partial(half, 3),
        eval("lambda done: done"),
    ):
        assert json.loads(json.dumps(describe(value), allow_nan=False)) == describe(value)
    assert describe(eval("lambda t: t + 1")) != describe(eval("lambda t: t + 2"))  # without a source, by what it does
    assert describe(torch.ones(2)) != describe(torch.zeros(2))


def test_a_global_that_a_function_reads_is_part_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    before, calls = describe(half), describe(twice_half)
    monkeypatch.setitem(globals(), "RATE", 0.25)
    assert difference(before, describe(half)) == ("holds.RATE", 0.5, 0.25)
    assert difference(calls, describe(twice_half)) == ("holds.half.holds.RATE", 0.5, 0.25)


WEIGHTS = [1.0, {"tail": [0.5, 2]}]
PARTS = torch.nn.Linear(1, 1)
CALLS: list[float] = []


def weighed(t: Any, beta: Any = 1.0) -> Tensor:
    CALLS.append(1.0)
    return WEIGHTS[1]["tail"][0] * t.log_w.mean(0) + 0 * PARTS.bias.sum()  # type: ignore[index]


def test_the_lists_and_dictionaries_that_a_function_reads_are_part_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An objective of other weights is another one; a record that it keeps, and the state of a module, are not."""
    start(tmp_path / "run", objective=pv.Objective(weighed))
    assert CALLS
    with torch.no_grad():
        PARTS.bias.add_(1.0)
    start(tmp_path / "run", objective=pv.Objective(weighed), resume=True)
    assert describe(weighed)["holds"] == {"PARTS": {"type": "torch.nn.modules.linear.Linear"}, "WEIGHTS": WEIGHTS}
    monkeypatch.setitem(globals(), "WEIGHTS", [1.0, {"tail": [0.25, 2]}])
    with pytest.raises(pv.RunError, match=r"objective.bound.holds.WEIGHTS\[1\].tail\[0\]=0.5 .* 0.25"):
        start(tmp_path / "run", objective=pv.Objective(weighed), resume=True)
    older = {k: v for k, v in describe(weighed).items() if k != "holds"}
    assert difference(older, describe(weighed)) is None  # of a version that told nothing of them
    monkeypatch.setitem(globals(), "PARTS", [torch.nn.Linear(1, 1)])
    assert describe(weighed)["holds"]["PARTS"] == {"type": "builtins.list"}


def test_a_function_that_holds_itself_is_described() -> None:
    def walk(n: int) -> int:
        return 0 if n == 0 else walk(n - 1)

    assert describe(walk)["holds"] == {"walk": {"name": "itself"}}


# Numbers of NumPy and torch as options


NUMBERS: dict[str, list[Any]] = {
    "epochs": [np.int64(1), torch.tensor(1), np.array(1)],
    "batch_size": [np.int32(10), torch.tensor(10)],
    "lr": [np.float32(1e-3), np.float64(1e-3), torch.tensor(1e-3)],
    "seed": [np.int64(3), np.uint8(3), torch.tensor(3)],
    "shards": [np.int64(2), torch.tensor(2)],
    "warmup": [np.float32(1), np.int64(1), torch.tensor(1.0)],
    "clip_norm": [np.float32(5.0), torch.tensor(5.0)],
    "checkpoint_every": [np.float32(9.0)],
    "capture": [np.bool_(False)],
    "precision": [np.str_("float32")],
    "progress": [np.bool_(False)],
    "overwrite": [np.bool_(True)],
    "optimizer": [np.str_("sgd")],
    "schedule": [np.str_("linear")],
    "record": [{"mean": np.float32(0.5), "n": [np.int64(3)]}],
}


@pytest.mark.parametrize(("name", "value"), [(k, v) for k, values in NUMBERS.items() for v in values], ids=str)
def test_numbers_of_numpy_and_torch_do_what_pythons_do(name: str, value: Any, tmp_path: Path) -> None:
    from ppl_vae.common.numbers import plain

    rows = []
    for i, (given, folder) in enumerate(((value, None), (value, "numpy"), (plain(value), "plain"))):
        where = {} if folder is None else {"run_dir": tmp_path / folder}
        torch.manual_seed(0)
        pair = pv.build("linear", data_shape=(3,), latent=1)
        x = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
        options = {"progress": False, "device": "cpu", "batch_size": 10, "epochs": 1, name: given, **where}
        found = pv.fit(pair, x, **options)
        rows.append([{k: v for k, v in row.items() if "seconds" not in k} for row in found])
        assert i == 0 or rows[i] == rows[0]
    config = json.loads((tmp_path / "numpy" / "config.json").read_text())
    assert config == json.loads((tmp_path / "plain" / "config.json").read_text())


def test_a_seed_of_numpy_or_torch_is_the_seed_and_others_are_one_line() -> None:
    from ppl_vae.common.rng import seed_for

    assert len({seed_for(s, "train", 1) for s in (3, np.int64(3), np.uint8(3), torch.tensor(3), np.array(3))}) == 1
    pair = pv.build("linear", data_shape=(3,), latent=1)
    for seed in (0.5, "0", None, torch.ones(2)):
        with pytest.raises(pv.UserError, match=r"seed=.*: a whole number"):
            pv.log_likelihood(pair, torch.zeros(2, 3), num_samples=5, seed=seed)  # type: ignore[arg-type]


def test_patience_and_objectives_take_numbers_of_numpy_too() -> None:
    x = torch.randn(30, 3)
    data = pv.load_data(x, valid=0.3, test=0.1, seed=np.int64(0), binarize="none")
    for objective in (
        pv.Elbo(np.int64(2), beta=np.float32(2), free_bits=np.float64(0.1), vectorize=np.bool_(True)),
        pv.IWAE(torch.tensor(3), beta=np.array(0.5)), pv.objective("analytic_kl", num_particles=np.int64(2)),
    ):  # fmt: skip
        pair = pv.build("linear", data_shape=(3,), latent=1)
        rows = pv.fit(pair, data, objective, epochs=2, patience=np.int64(1), progress=False, device="cpu")
        assert type(rows[0]["beta"]) is float
    svi = pv.SVI(pair.model, pair.guide, Adam(pair.parameters()), clip_norm=np.float32(1.0), capture=np.bool_(False))
    assert svi.step(x).isfinite()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": True}, "epochs=True: a whole number"),
        ({"epochs": np.ones(2)}, "epochs=.*: a whole number"),
        ({"seed": 0.5}, "seed=0.5: a whole number"),
        ({"seed": "a"}, "seed='a': a whole number"),
        ({"patience": 1.5}, "patience=1.5: a whole number"),
        ({"shards": 1.5}, "shards=1.5: a whole number"),
        ({"lr": "fast"}, "lr='fast': a number"),
        ({"lr": float("nan")}, "lr=nan: a number"),
        ({"lr": torch.ones(2)}, "lr=.*: a number"),
        ({"warmup": "2"}, "warmup='2': a number"),
        ({"clip_norm": "2"}, "clip_norm='2': a number"),
        ({"checkpoint_every": None}, "checkpoint_every=None: a number"),
        ({"lr": None}, "lr=None: a number"),
        ({"epochs": None}, "epochs=None: a whole number"),
    ],
)
def test_what_is_no_number_is_one_line(options: dict[str, Any], message: str) -> None:
    pair = pv.build("linear", data_shape=(3,), latent=1)
    with pytest.raises(pv.UserError, match=message) as caught:
        pv.fit(pair, torch.randn(9, 3), progress=False, device="cpu", **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("other", [torch.ones(16, 3), torch.zeros(8, 3), (torch.zeros(16, 3), torch.zeros(16))])
def test_a_run_is_not_resumed_with_other_data(tmp_path: Path, other: Any) -> None:
    def fit(data: Any, epochs: int, **options: Any) -> None:
        torch.manual_seed(0)
        pair = pv.build("linear", data_shape=(3,), latent=1)
        pv.fit(pair, data, epochs=epochs, run_dir=tmp_path / "run", progress=False, device="cpu", **options)

    fit(torch.zeros(16, 3), 1)
    with pytest.raises(pv.RunError, match="the run has data"):
        fit(other, 2, resume=True)
    fit(torch.zeros(16, 3), 2, resume=True)
