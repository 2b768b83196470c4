"""Several processes give what one gives: gradients, weights, likelihoods, decisions and errors; none waits for ever."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from forks import FORKS, fork
from pairs_under_test import CASES
from pyro.infer import Trace_ELBO, TraceGraph_ELBO
from torch import Tensor, nn
from typer.testing import CliRunner

import ppl_vae as pv
from ppl_vae.cli.app import app
from ppl_vae.common import ranks
from ppl_vae.common.rng import forked, reseed, seed_for
from ppl_vae.compile import products
from ppl_vae.data.binarisation import visit
from ppl_vae.data.epochs import Batches
from ppl_vae.data.splits import Split
from ppl_vae.likelihood import streaming

Flat = dict[str, Tensor]


# ---- two processes that stay, and what they are asked to do


def environment(rank: int, of: int, port: int) -> dict[str, str]:
    """What torchrun sets."""
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": of, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return {k: str(v) for k, v in names.items()}


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def serve(rank: int, of: int, port: int, pipe: Any) -> None:
    os.environ |= environment(rank, of, port)
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    with ranks.joined():
        while (job := pipe.recv()) is not None:
            try:
                pipe.send(job[0](*job[1:]))
            except BaseException as error:
                pipe.send(error)
    threads = Path("/proc/self/task")
    pipe.send(sum("gloo" in (t / "comm").read_text() for t in threads.iterdir()) if threads.exists() else 0)


Run = Callable[..., list[Any]]


def start(of: int) -> tuple[list[Any], Run]:
    """Ranks that run a function, all at once, and give what it returns or raises."""
    port = free_port()
    pipes = [FORKS.Pipe() for _ in range(of)]
    children = [fork(serve, rank, of, port, far) for rank, (_, far) in enumerate(pipes)]
    for _, far in pipes:
        far.close()

    def run(function: Callable[..., Any], *args: Any) -> list[Any]:
        for near, _ in pipes:
            near.send((function, *args))
        found: list[Any] = []
        for near, _ in pipes:
            assert near.poll(60), "a rank hangs"
            try:
                found.append(near.recv())
            except EOFError:
                found.append("dead")
        return found

    return [*zip(children, pipes, strict=True)], run


def end(parts: list[Any]) -> None:
    for child, (near, _) in parts:
        with suppress(OSError):
            near.send(None)
        child.join(20)
        if child.is_alive():
            child.kill()


@pytest.fixture(scope="module")
def two() -> Iterator[Run]:
    parts, run = start(2)
    yield run
    end(parts)


def flat(pair: nn.Module) -> Flat:
    return {k: v.detach().clone() for k, v in pair.state_dict().items()}


def same(a: Flat, b: Flat) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def close(a: Flat, b: Flat) -> None:
    """To 1e-6 of the whole."""
    one, other = (torch.cat([t.double().flatten() for t in flat.values()]) for flat in (a, b))
    assert float((one - other).norm() / other.norm()) < 1e-6


def place() -> tuple[int, int, bool]:
    return ranks.rank(), ranks.count(), ranks.first()


def test_no_thread_outlives_the_ranks() -> None:
    """One that does can end the process by abort() while Python ends."""
    parts, run = start(2)
    try:
        run(asked, {"epochs": 1})
        for _, (near, _) in parts:
            near.send(None)
        assert [near.recv() for _, (near, _) in parts] == [0, 0]
    finally:
        end(parts)


def test_every_rank_knows_its_place(two: Run) -> None:
    assert two(place) == [(0, 2, True), (1, 2, False)]
    assert place() == (0, 1, True)


# ---- gradients and training


class Keep(torch.optim.SGD):
    """Keeps the gradients that it is given."""

    grads: Flat

    def step(self, closure: Any = None) -> None:
        self.grads = {str(i): p.grad.clone() for i, p in enumerate(self.param_groups[0]["params"])}
        super().step(closure)


OBJECTIVES: dict[str, Callable[[], Any]] = {
    "elbo": pv.Elbo,
    "iwae": lambda: pv.IWAE(5),
    "dreg": lambda: pv.IWAE(5, gradient="dreg"),
    "foreign": TraceGraph_ELBO,
}


def gradients(name: str, objective: str, size: int, shards: int) -> list[tuple[float, Flat]]:
    """Loss and gradient of two steps; each shard has noise of its own."""
    torch.manual_seed(3)
    pair = CASES[name].build()
    x, _ = CASES[name].draw(size)
    keep = Keep(pair.parameters(), lr=1e-3)
    svi = pv.SVI(pair.model, pair.guide, keep, OBJECTIVES[objective]())
    found = []
    for step in range(2):

        def parts(step: int = step) -> Iterator[tuple[Tensor]]:
            for shard in ranks.local_units(range(shards)):
                if len(part := x.tensor_split(shards)[shard]):
                    reseed(seed_for(0, "train", shard, step))
                    yield (part,)

        loss = float(svi.step_parts(parts()))
        found.append((loss, keep.grads))
    return found


@pytest.mark.parametrize(("size", "shards"), [(8, 2), (7, 4), (1, 2)], ids=["even", "uneven", "none for rank 1"])
@pytest.mark.parametrize("objective", list(OBJECTIVES))
def test_gradients_of_two_ranks_are_those_of_one_process(two: Run, objective: str, size: int, shards: int) -> None:
    alone = gradients("vae", objective, size, shards)
    for together in two(gradients, "vae", objective, size, shards):
        for (loss, grads), (expected, wanted) in zip(together, alone, strict=True):
            assert loss == pytest.approx(expected, rel=1e-6)
            close(grads, wanted)


def test_the_gradient_is_the_sum_that_pyro_minimises_and_not_the_mean(two: Run) -> None:
    """Without noise, shards are the batch: Pyro's own loss on all of it."""
    torch.manual_seed(3)
    pair = CASES["autoencoder"].build()
    x, _ = CASES["autoencoder"].draw(8)
    whole = Trace_ELBO().differentiable_loss(pair.model, pair.guide, x)
    wanted = {str(i): g for i, g in enumerate(torch.autograd.grad(whole, list(pair.parameters())))}
    for together in two(gradients, "autoencoder", "elbo", 8, 2):
        loss, grads = together[0]
        assert loss == pytest.approx(float(whole.detach()), rel=1e-6)
        close(grads, wanted)


class Centred(nn.Module):
    """A guide with batch norm, whose averages are buffers, and with parameters that nothing depends on."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.out, self.spare = nn.BatchNorm1d(9), nn.Linear(9, 2), nn.Linear(3, 3)

    def forward(self, x: Tensor, y: Tensor | None = None) -> None:
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(self.out(self.norm(x)), 1.0).to_event(1))


def made(kind: str = "vae") -> tuple[pv.Pair, Any]:
    """A pair and 33 data for training: with batches of 16 the last holds one datum, and no shard for rank 1."""
    torch.manual_seed(5)
    if kind == "loader":
        kind, x = "vae", (torch.rand(32, 9) > 0.5).float()
        data: Any = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x), batch_size=16, shuffle=True)
    else:
        data = pv.load_data(torch.rand(57 if kind == "norm" else 47, 9), seed=0, binarize="dynamic")
    pair = pv.build("vae", data_shape=(9,), latent=2, hidden=(6,))
    return (pv.Pair(pair.model, Centred()) if kind == "norm" else pair), data


def trained(kind: str = "vae", **options: Any) -> tuple[Flat, list[dict[str, Any]]]:
    pair, data = made(kind)
    if ranks.rank():
        with torch.no_grad():  # all start from rank 0
            for p in pair.parameters():
                p.add_(1.0)
    plain = {"epochs": 3, "batch_size": 16, "lr": 1e-2, "device": "cpu", "progress": False}
    history = pv.fit(pair, data, **plain | options)
    return flat(pair), [{k: v for k, v in row.items() if "seconds" not in k} for row in history]


def asked(options: dict[str, Any], kind: str = "vae") -> Any:
    return trained(kind, **options)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("vae", {}),
        ("vae", {"optimizer": "sgd", "lr": 1e-3, "clip_norm": 5.0}),
        ("vae", {"objective": "iwae", "warmup": 1, "shards": 4}),
        ("vae", {"optimizer": "adamw", "patience": 2, "lr": 0.2, "epochs": 8}),
        ("loader", {"schedule": "linear"}),
    ],
    ids=["adam", "sgd, clipped", "four shards", "early stop", "loader"],
)
def test_weights_after_a_fit_are_those_of_one_process(two: Run, kind: str, options: dict[str, Any]) -> None:
    (w0, h0), (w1, h1) = two(asked, options, kind)
    assert same(w0, w1)
    assert h0 == h1
    weights, history = trained(kind, **{"shards": 2} | options)
    close(w0, weights)
    assert len(h0) == len(history)
    for row, expected in zip(h0, history, strict=True):
        assert row == pytest.approx(expected, rel=1e-6)
    assert not same(weights, trained(kind, **options | {"shards": 1})[0])  # a shard has noise of its own


def key_of(shard: int, step: int) -> Tensor:
    return torch.tensor(seed_for(0, "visit", shard, step))


@pytest.mark.parametrize("shards", [1, 2, 3])
def test_the_seed_of_a_shard_is_its_number_and_the_step(shards: int) -> None:
    """fit is a plain loop over steps and shards; with one shard, over SVI.step."""
    pair, data = made()
    svi = pv.SVI(pair.model, pair.guide, torch.optim.Adam(pair.parameters(), lr=1e-2, fused=True))
    batches, step = Batches(data.train, 16, 0), 0
    with forked():
        for epoch in range(3):
            for i in range(len(batches)):
                x, _ = batches.get(epoch, i)
                if shards == 1:
                    reseed(seed_for(0, "train", 0, step))
                    svi.step(visit(x, "dynamic", key_of(0, step)))
                else:
                    svi.step_parts(
                        (reseed(seed_for(0, "train", s, step)), visit(part, "dynamic", key_of(s, step)))[1:]
                        for s, part in enumerate(x.tensor_split(shards))
                        if len(part)
                    )
                step += 1
    assert same(flat(pair), trained(shards=shards)[0])


def test_a_parameter_without_a_use_decays_alike(two: Run) -> None:
    """AdamW moves what has a gradient of zero, and not what has none."""
    alone, _ = trained("norm", optimizer="adamw", shards=2)
    for weights, _ in two(asked, {"optimizer": "adamw"}, "norm"):
        close(*({k: v for k, v in w.items() if "norm.r" not in k and "num" not in k} for w in (weights, alone)))


def test_buffers_are_those_of_rank_0(two: Run) -> None:
    """Batch norm averages what a rank sees; all ranks judge, and save, with the same."""
    (w0, h0), (w1, h1) = two(asked, {}, "norm")
    assert same(w0, w1)
    assert h0 == h1
    assert float(w0["guide.norm.running_mean"].abs().sum()) > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shards": 3}, "shards=3 on 2 ranks: give a multiple"),
        ({"shards": 32}, "shards=32 of batch_size=16"),
        ({"shards": 0}, "shards=0 of batch_size=16"),
    ],
)
def test_shards_that_do_not_divide_are_refused(two: Run, options: dict[str, Any], message: str) -> None:
    for error in two(asked, options):
        assert isinstance(error, pv.UserError)
        assert message in str(error)


# ---- validation and estimates


def validated() -> list[dict[str, Any]]:
    """Blocks of two data: 8192 rows of 4096 particles."""
    held_out = made()[1].test.x[:7]
    return trained(objective=pv.IWAE(4096), epochs=1, lr=1e-9, valid=held_out, shards=2)[1]


def test_validation_gives_the_same_bits(two: Run) -> None:
    alone = validated()[0]
    for rows in two(validated):
        for key in ("valid_bound", "valid_elbo"):
            assert rows[0][key] == alone[key]


def estimated(what: str, resume: Path | None = None) -> Flat:
    pair, data = made()
    x = data.test.x[:7]
    if what == "ais":
        e = pv.ais(pair, x, num_chains=3, num_temperatures=5, block=2, resume=resume)
        return {k: getattr(e, k) for k in ("log_px", "std_error", "ess", "elbo")}
    if what == "weights":
        return {"log_w": pv.log_weights(pair, x, num_samples=20, block=2)}
    if what == "curve":
        c = pv.bound_curve(pair, x, num_samples=5000, sizes=(1, 10))
        return {"log_px": c.log_px, "std_error": c.std_error}
    if what == "panel":
        rows = pv.panel(pair, x, estimators=("psis", "qmc", "ais"), num_samples=64, num_temperatures=5).rows
        return {f"{n}.{k}": getattr(e, k) for n, e in rows.items() for k in ("log_px", "std_error")}
    if what == "compare":
        table = pv.compare({"a": pair, "b": pair}, x, num_samples=64)
        return {"log_px": torch.as_tensor(table.log_px_datum.values)}
    e = pv.log_likelihood(pair, x, num_samples=40, chunk=16, block=2, estimator=what, resume=resume)
    return {k: getattr(e, k) for k in ("log_px", "std_error", "ess", "khat", "elbo", "max_share")}


@pytest.mark.parametrize("what", ["iwae", "psis", "ais", "weights", "curve", "panel", "compare"])
def test_estimates_of_two_ranks_have_the_bits_of_one(two: Run, what: str) -> None:
    alone = estimated(what)
    for together in two(estimated, what):
        assert together.keys() == alone.keys()
        for key in alone:
            torch.testing.assert_close(together[key], alone[key], rtol=0, atol=0, equal_nan=True)


class Stop(Exception):
    """A rank has sent its part."""


def test_estimates_depend_on_no_number_and_no_order_of_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three ranks, in another order, and each block by one of them: put together, the bits of one process."""
    pair, data = made()
    plan = streaming.plan(pair, data.test.x[:7], None, 40, "guide", 0, 16, 2)
    whole = plan.each("", False, plan.weights_at)
    sent: dict[int, Tensor] = {}

    def send(what: str, value: Any, failed: Any) -> Any:
        assert not failed
        assert not set(sent) & set(value)
        sent.update(value)
        raise Stop

    monkeypatch.setattr(ranks, "_exchange", send)
    monkeypatch.setattr(ranks, "assert_same", lambda what, facts: None)
    monkeypatch.setattr(ranks, "all_reduce_any", lambda *flags: flags)
    monkeypatch.setattr(ranks, "count", lambda: 3)
    for rank in (2, 0, 1):
        monkeypatch.setattr(ranks, "rank", lambda rank=rank: rank)
        with pytest.raises(Stop):
            plan.each("", False, plan.weights_at)
    assert sorted(sent) == list(range(len(whole))) == [0, 1, 2, 3]
    assert all(torch.equal(sent[n], whole[n]) for n in sent)


def outside() -> Any:
    pair, data = made()
    x = data.test.x[:7].clone()
    x[3], x[4] = 0.5, 0.5  # in block 1, of rank 1, and in block 2, of rank 0
    return pv.log_likelihood(pair, x, num_samples=10, block=2)


def test_an_error_on_one_rank_is_that_of_one_process_on_all(two: Run) -> None:
    with pytest.raises(pv.DataError, match="example 3 lies outside") as alone:
        outside()
    for error in two(outside):
        assert isinstance(error, pv.DataError)
        assert str(error) == str(alone.value)


def of_its_own() -> Any:
    torch.manual_seed(ranks.rank())
    pair = pv.build("linear", data_shape=(9,), latent=2)
    with ranks.alone():
        mine = pv.log_likelihood(pair, torch.zeros(3, 9), num_samples=10).log_px
    return mine, pv.log_likelihood(pair, torch.zeros(3, 9), num_samples=10)


def on_its_own() -> Tensor:
    torch.manual_seed(ranks.rank())
    with ranks.alone():
        assert ranks.count() == 1
        pair = pv.build("linear", data_shape=(9,), latent=2)
        return pv.log_likelihood(pair, torch.zeros(3, 9), num_samples=10).log_px


def test_ranks_that_hold_different_pairs_are_refused_and_may_work_alone(two: Run) -> None:
    for error in two(of_its_own):
        assert isinstance(error, pv.UserError)
        assert "different work (pair or data)" in str(error)
    a, b = two(on_its_own)
    assert not torch.equal(a, b)


def astray() -> Any:
    if ranks.first():
        return ranks.broadcast_object(lambda: 1)
    return ranks.each(lambda n: n, range(3))


def broken() -> Any:
    return ranks.each(lambda n: 1 // (1 - n), range(3))


def test_ranks_that_go_apart_or_fail_say_so(two: Run) -> None:
    assert all("different things" in str(e) and isinstance(e, pv.RankError) for e in two(astray))
    other, own = two(broken)
    assert isinstance(own, ZeroDivisionError)
    assert isinstance(other, pv.RankError)
    assert "rank 1 failed: ZeroDivisionError" in str(other)
    assert two(place) == [(0, 2, True), (1, 2, False)]  # they still talk


def left(what: str, folder: Path) -> Any:
    """Ctrl-C once each rank has done one block."""
    real, calls = streaming.Plan.block_at, 0

    def once(self: Any, *args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        return real(self, *args)

    streaming.Plan.block_at = once  # type: ignore[method-assign]
    try:
        return estimated(what, folder)
    finally:
        streaming.Plan.block_at = real  # type: ignore[method-assign]


def test_unfinished_work_of_two_ranks_goes_on_in_one(two: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = estimated("iwae")
    assert all(isinstance(e, KeyboardInterrupt) for e in two(left, "iwae", tmp_path))
    assert len(list(tmp_path.iterdir())) == 2
    real, done = streaming.Plan.block_at, []
    monkeypatch.setattr(streaming.Plan, "block_at", lambda self, s, hold: (done.append(s), real(self, s, hold))[1])
    assert same({k: v.nan_to_num() for k, v in estimated("iwae", tmp_path).items()},
                {k: v.nan_to_num() for k, v in whole.items()})  # fmt: skip
    assert done == [4, 6]  # of blocks 0, 2, 4, 6
    assert list(tmp_path.iterdir()) == []


# ---- decisions, bad steps, interruptions


class Asks:
    """A callback that asks one rank alone to stop, or that interrupts or kills it."""

    def __init__(self, rank: int, epoch: int, how: str) -> None:
        self.rank, self.epoch, self.how = rank, epoch, how

    def __call__(self, row: dict[str, Any], pair: Any) -> bool:
        if (ranks.rank(), row["epoch"]) != (self.rank, self.epoch):
            return False
        if self.how != "stop":
            os.kill(os.getpid(), {"int": signal.SIGINT, "term": signal.SIGTERM, "kill": signal.SIGKILL}[self.how])
        return self.how == "stop"


def test_a_rank_that_asks_to_stop_stops_all(two: Run) -> None:
    for _, history in two(asked, {"callbacks": [Asks(1, 2, "stop")]}):
        assert [row["epoch"] for row in history] == [1, 2]


@pytest.mark.parametrize("how", ["int", "term"])
def test_an_interruption_of_one_rank_checkpoints_and_stops_all(two: Run, tmp_path: Path, how: str) -> None:
    run = {"run_dir": tmp_path / "run", "schedule": "linear"}
    whole, history = trained(schedule="linear", shards=2)
    assert all(isinstance(e, KeyboardInterrupt) for e in two(asked, {"callbacks": [Asks(1, 1, how)], **run}))
    position = json.loads((tmp_path / "run" / "train_state.json").read_text())
    assert (position["epoch"], position["batch"]) == (1, 1)  # at the end of the step that followed
    weights, rows = trained(**run, resume=True)  # in one process, with the shards of the run
    close(weights, whole)
    assert len(rows) == len(history) == 3


def test_a_run_of_one_process_goes_on_in_two(two: Run, tmp_path: Path) -> None:
    run = {"run_dir": tmp_path / "run", "shards": 2}
    trained(**run, callbacks=[Asks(0, 1, "stop")])
    whole, _ = trained(shards=2)
    (w0, _), (w1, _) = two(asked, {**run, "resume": True})
    assert same(w0, w1)
    close(w0, whole)
    for error in two(asked, {**run, "resume": True, "shards": 4}):
        assert isinstance(error, pv.RunError)
        assert "the run has shards=2 and you ask for 4" in str(error)


def test_the_folder_is_refused_to_all_ranks_alike(two: Run, tmp_path: Path) -> None:
    (tmp_path / "note").write_text("mine")
    for error in two(asked, {"run_dir": tmp_path}):
        assert isinstance(error, pv.RunError)
        assert "holds other files" in str(error)


class Fragile(nn.Module):
    """A model whose scale is not a number where a datum is the marked one."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(2, 9)

    def forward(self, x: Tensor | None = None, y: Tensor | None = None, n: int = 1) -> Any:
        with pyro.plate("data", n if x is None else len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            mean = self.out(z)
            if x is not None and self.training:
                mean = mean + torch.where(x[:, :1] == 7, torch.nan, 0.0)
            return pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x)


def bad(shards: int | None) -> Any:
    pair, _ = made("norm")
    x = torch.randn(64, 9)
    batches = Batches(Split(x), 16, 0)
    x[batches.index(0, 2)[12]] = 7.0  # epoch 1, batch 2, in the second half: that of rank 1
    options: dict[str, Any] = {"batch_size": 16, "epochs": 2, "progress": False, "device": "cpu", "shards": shards}
    pv.fit(pv.Pair(Fragile(), pair.guide), x, **options)


def test_a_bad_step_on_one_rank_stops_all_with_the_message_of_one_process(two: Run) -> None:
    with pytest.raises(pv.NonFiniteError, match=r"at step 2 \(epoch 1, batch 2, shard 1\): site 'x'") as alone:
        bad(2)
    for error in two(bad, None):
        assert isinstance(error, pv.NonFiniteError)
        assert str(error) == str(alone.value)


# ---- a rank that dies


def test_a_killed_rank_ends_the_others_and_the_run_can_be_resumed(tmp_path: Path) -> None:
    parts, run = start(2)
    try:
        options = {"run_dir": tmp_path / "run", "checkpoint_every": 0.0}
        began = time.monotonic()
        error, dead = run(asked, {**options, "callbacks": [Asks(1, 2, "kill")]})
        assert time.monotonic() - began < 60
    finally:
        end(parts)
    assert dead == "dead"
    assert isinstance(error, pv.RankError)
    assert str(error) == "a rank was lost at step 6; the run can be resumed with --resume (resume=True)"
    assert not list((tmp_path / "run").glob("*.part"))
    weights, history = trained(run_dir=tmp_path / "run", resume=True)
    close(weights, trained(shards=2)[0])
    assert [row["epoch"] for row in history] == [1, 2, 3]


# ---- the command line

TRAIN = ("train", "linear", "--num-samples", "50", "--limit", "40", "--no-figures", "--device", "cpu")


def says(*args: str) -> str:
    """What a command prints, in this process."""
    done = CliRunner().invoke(app, args)
    assert done.exit_code == 0, done.output
    return done.stdout


def says_as_rank(rank: int, port: int, pipe: Any, *args: str) -> None:
    os.environ |= environment(rank, 2, port)
    pipe.send(says(*args))


def test_torchrun_trains_and_evaluates_what_one_process_does(tmp_path: Path) -> None:
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    together = subprocess.run(
        [*torchrun, "-m", "ppl_vae", *TRAIN, "--epochs", "1", "--out", a, "--json"],
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert together.returncode == 0, together.stderr
    result = json.loads(together.stdout)  # one object, and nothing else
    alone = json.loads(says(*TRAIN, "--epochs", "1", "--out", b, "--json", "--shards", "2"))
    assert {**result, "run": ""} == {**alone, "run": ""}
    of_one = (Path(b) / "log_px.csv").read_bytes()
    assert (Path(a) / "log_px.csv").read_bytes() == of_one


def test_ranks_score_what_one_process_does(tmp_path: Path) -> None:
    """The variables that torchrun sets are all that the command knows of it."""
    a, b, scoring = str(tmp_path / "a"), str(tmp_path / "b"), ("--num-samples", "50", "--limit", "40")
    says(*TRAIN, "--epochs", "1", "--out", a)
    shutil.copytree(a, b)
    says("score", b, *scoring, "--seed", "3")
    port, pipes = free_port(), [FORKS.Pipe() for _ in range(2)]
    for rank, (_, far) in enumerate(pipes):
        fork(says_as_rank, rank, port, far, "score", a, *scoring, "--seed", "3", "--device", "cpu")
    assert all(near.poll(60) for near, _ in pipes)
    assert "".join(near.recv() for near, _ in pipes).count("least likely examples") == 1
    scored, wanted = ((Path(f) / "log_px.csv").read_bytes() for f in (a, b))
    assert scored == wanted


def test_a_rank_killed_from_outside_ends_the_command_with_one_line(tmp_path: Path) -> None:
    port, folder = free_port(), tmp_path / "run"
    args = [sys.executable, "-m", "ppl_vae", *TRAIN, "--epochs", "100000", "--out", str(folder)]
    workers = [
        subprocess.Popen(
            args,
            env=os.environ | environment(r, 2, port) | {"OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for r in range(2)
    ]
    try:
        limit = time.monotonic() + 100
        while not (folder / "train_state.json").exists() and time.monotonic() < limit:
            time.sleep(0.02)
        time.sleep(0.2)
        workers[1].kill()
        out, err = workers[0].communicate(timeout=60)
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()
    assert workers[0].returncode == 1
    assert out == ""
    assert "Traceback" not in err
    last = err.strip().splitlines()[-1]
    assert last.startswith("error: a rank was lost at step ")
    assert last.endswith("; the run can be resumed with --resume (resume=True)")


def multiplied_by(makers: tuple[str, str]) -> str:
    """The routine of products on a machine whose processors are of these makers, one a rank."""
    kept = products.faster
    products.faster = lambda before: "medium" if makers[ranks.rank()] == "AMD" else before  # type: ignore[assignment]
    try:
        with products.fast_products(torch.device("cpu")) as now:
            return now
    finally:
        products.faster = kept


def test_all_ranks_multiply_by_the_same_routine(two: Run) -> None:
    before = torch.get_float32_matmul_precision()
    both = "medium" if products.as_exact(before) else before
    assert two(multiplied_by, ("AMD", "AMD")) == [both, both]
    assert two(multiplied_by, ("AMD", "Intel")) == two(multiplied_by, ("Intel", "AMD")) == [before, before]
