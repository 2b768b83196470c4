"""Data larger than memory: rows that stay on disk, and scores that are written as they are made."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import commands
import numpy as np
import pytest
import torch
from filelock import FileLock
from torch import Tensor, nn
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    SequentialSampler,
    TensorDataset,
    random_split,
)  # fmt: skip

import ppl_vae as pv
from ppl_vae.common.rng import seed_for
from ppl_vae.compile import capture
from ppl_vae.likelihood import streaming

pq = pytest.importorskip("pyarrow.parquet")
N, D = 50, 5


def on_disk(folder: Path, x: Any, parts: int = 3, **options: Any) -> pv.OnDisk:
    """The rows of an array in several files."""
    folder.mkdir()
    for i, part in enumerate(np.array_split(np.asarray(x), parts)):
        np.save(folder / f"{i:03d}.npy", part)
    return pv.OnDisk(folder, **options)


def exact() -> pv.Pair:
    torch.manual_seed(0)
    return pv.build("linear", data_shape=(D,), latent=2, guide="exact").double()


def amortised() -> pv.Pair:
    torch.manual_seed(0)
    return pv.build("linear", data_shape=(D,), latent=2)


def read(folder: Path) -> Any:
    return pq.read_table(folder).to_pandas()


# ---- rows on disk


@pytest.mark.parametrize("parts", [1, 3, N])
def test_rows_on_disk_are_those_of_the_array(parts: int, tmp_path: Path) -> None:
    x = np.arange(N * D, dtype=np.float32).reshape(N, D)
    rows = on_disk(tmp_path / "x", x, parts)
    at = torch.randperm(N).tolist()
    assert len(rows) == N
    assert np.array_equal(torch.stack(rows.__getitems__(at)), x[at])
    assert np.array_equal(torch.stack([rows[i] for i in range(-3, 3)]), x[[-3, -2, -1, 0, 1, 2]])
    with pytest.raises(IndexError):
        rows[N]


@pytest.mark.parametrize("parts", [1, 3])
def test_places_that_are_none_are_refused(parts: int, tmp_path: Path) -> None:
    rows = on_disk(tmp_path / "x", torch.randn(N, D), parts)
    for at in ([True, False], [1.5], [-1], [N], [[1]], "a", np.ones(N, dtype=bool)):
        with pytest.raises(IndexError, match="give places from 0 to 49"):
            rows.__getitems__(at)  # type: ignore[arg-type]
    assert torch.equal(rows[[3, 1]], torch.stack([rows[3], rows[1]]))  # a whole batch, by a sampler of batches


def test_labels_lie_beside_rows(tmp_path: Path) -> None:
    x, y = torch.randn(N, D), torch.arange(N)
    on_disk(tmp_path / "x", x)
    rows = pv.OnDisk(tmp_path / "x", labels=on_disk(tmp_path / "y", y).files)
    found = list(DataLoader(rows, batch_size=20))
    assert torch.equal(torch.cat([x for x, _ in found]), x)
    assert torch.equal(torch.cat([y for _, y in found]), y)


def test_a_worker_gets_no_copy_of_the_rows(tmp_path: Path) -> None:
    rows = on_disk(tmp_path / "x", torch.randn(10_000, D))
    assert len(pickle.dumps(rows)) < 2_000
    assert torch.equal(pickle.loads(pickle.dumps(rows))[9_999], rows[9_999])


def test_other_byte_orders_and_whole_numbers_are_read(tmp_path: Path) -> None:
    x = np.arange(N * D).reshape(N, D)
    for kind in (">f4", ">i2", "<f8", "u1"):
        rows = on_disk(tmp_path / kind.replace(">", "big").replace("<", "little"), (x % 200).astype(kind))
        assert np.array_equal(torch.stack(list(rows.__getitems__(range(N)))), x % 200), kind


def broken(folder: Path) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    files = {
        "text": np.array(["a"]), "number": np.zeros(()), "empty": np.zeros((0, 2)), "objects": np.array([{}]),
        "wide": np.zeros((2, 3)), "narrow": np.zeros((2, 2)), "double": np.zeros((2, 2), np.float32),
    }  # fmt: skip
    for name, array in files.items():
        np.save(folder / f"{name}.npy", array)
    np.savez(folder / "several.npz", x=np.zeros(3))
    (folder / "none").mkdir(exist_ok=True)
    return {name: folder / f"{name}.npy" for name in files} | {"npz": folder / "several.npz", "none": folder / "none"}


def test_a_missing_file_and_other_objects_are_told_so(tmp_path: Path) -> None:
    with pytest.raises(pv.DataError, match=r"none\.npy does not exist"):
        pv.OnDisk(tmp_path / "none.npy")
    with pytest.raises(pv.DataError, match="not a ndarray"):
        pv.OnDisk(np.zeros((3, 2)))  # type: ignore[arg-type]
    np.save(tmp_path / "wide.npy", np.zeros((3, 2), np.longdouble))
    with pytest.raises(pv.DataError, match="at most 64 bits"):
        pv.OnDisk(tmp_path / "wide.npy")


@pytest.mark.parametrize("name", ["text", "number", "empty", "objects", "npz", "none"])
def test_what_is_no_array_of_numbers_is_refused_in_a_line(name: str, tmp_path: Path) -> None:
    path = broken(tmp_path / "x")[name]
    with pytest.raises(pv.DataError, match=r"numpy\.save") as found:
        pv.OnDisk(path)
    assert str(path) in str(found.value)
    assert "\n" not in str(found.value)


def test_files_that_do_not_fit_together_are_refused(tmp_path: Path) -> None:
    files = broken(tmp_path / "x")
    with pytest.raises(pv.DataError, match=r"wide\.npy: its rows are \(3,\) float64, those of .*narrow\.npy"):
        pv.OnDisk([files["narrow"], files["wide"]])
    with pytest.raises(pv.DataError, match="one type"):
        pv.OnDisk([files["narrow"], files["double"]])
    with pytest.raises(pv.DataError, match="2 files of labels for 1"):
        pv.OnDisk(files["narrow"], labels=[files["wide"]] * 2)
    np.save(tmp_path / "y.npy", np.zeros(3))
    with pytest.raises(pv.DataError, match=r"y\.npy: 3 labels for 2 rows"):
        pv.OnDisk(files["narrow"], labels=tmp_path / "y.npy")
    with pytest.raises(pv.DataError, match="'none' or 'dynamic'"):
        pv.OnDisk(files["narrow"], binarize="static")


# ---- training on them


def trained(data: Any, **options: Any) -> pv.Pair:
    pair = amortised()
    pv.fit(pair, data, **{"epochs": 3, "batch_size": 16, "device": "cpu", "progress": False, **options})
    return pair


@pytest.mark.parametrize("workers", [0, 1])
def test_training_on_rows_on_disk_is_training_on_the_rows(workers: int, tmp_path: Path) -> None:
    x = torch.randn(N, D)
    stored = on_disk(tmp_path / "x", x)
    one, other = (
        trained(DataLoader(data, batch_size=16, shuffle=True, num_workers=workers))  # type: ignore[arg-type]
        for data in (stored, TensorDataset(x))
    )
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    est = [pv.log_likelihood(one, data, num_samples=20).log_px for data in (stored, x)]
    assert torch.equal(*est)


class Seen(nn.Module):
    """A model that keeps what it is given."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.given = model, []  # type: ignore[var-annotated]

    def forward(self, x: Tensor | None = None, y: Any = None, n: int = 1) -> Any:
        if x is not None:
            self.given.append(x.detach())
        return self.model(x, y, n)


def test_each_visit_of_grey_rows_is_a_draw_of_its_own(tmp_path: Path) -> None:
    grey = torch.full((N, D), 0.25)
    bits = pv.build("vae", data_shape=(D,), latent=2, hidden=(4,), likelihood="bernoulli")
    with pytest.raises(pv.DataError, match="support"):
        pv.fit(bits, on_disk(tmp_path / "grey", grey), epochs=1, device="cpu", progress=False)
    pair = pv.Pair(Seen(bits.model), bits.guide)
    rows = on_disk(tmp_path / "x", grey, binarize="dynamic")
    pv.fit(pair, DataLoader(rows, batch_size=N), epochs=40, device="cpu", progress=False, capture=False)
    steps = [x for x in pair.model.given if len(x) == N][-40:]
    drawn = torch.stack(steps)
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    assert abs(float(drawn.mean()) - 0.25) < 5 * (0.25 * 0.75 / drawn.numel()) ** 0.5
    assert len({tuple(x.flatten().tolist()) for x in steps}) == 40  # no two epochs alike
    with pytest.raises(pv.DataError, match=r"batch 1 of the loader has values from 0 to 7, outside \[0, 1\]"):
        pv.fit(bits, on_disk(tmp_path / "pixels", 7 * grey.round() + 7 * (torch.rand(N, D) < 0.5), binarize="dynamic"))
    gaussian = pv.build("vae", data_shape=(D,), latent=2, hidden=(4,), likelihood="gaussian")
    with pytest.raises(pv.DataError, match="not a Bernoulli"):
        pv.fit(gaussian, rows, epochs=1, device="cpu", progress=False)


def test_grey_rows_are_for_training_alone_and_a_part_of_them_is_grey_too(tmp_path: Path) -> None:
    rows = on_disk(tmp_path / "x", torch.full((N, D), 0.25), binarize="dynamic")
    bits = pv.build("vae", data_shape=(D,), latent=2, hidden=(4,), likelihood="bernoulli")
    part, _ = random_split(rows, [N - 10, 10])
    pv.fit(bits, part, epochs=1, device="cpu", progress=False)
    for evaluated in (rows, part, DataLoader(part)):
        with pytest.raises(pv.DataError, match="is for training: evaluate on one draw"):
            pv.log_likelihood(bits, evaluated, num_samples=5)
        with pytest.raises(pv.DataError, match="is for training"):
            pv.fit(bits, part, valid=evaluated, epochs=1, device="cpu", progress=False)
    with pytest.raises(pv.DataError, match="drawn anew at each visit, and others not"):
        pv.fit(bits, ConcatDataset([rows, TensorDataset(torch.zeros(3, D))]), epochs=1)


class Counted(Dataset[Tensor]):
    def __init__(self, x: Tensor) -> None:
        self.x, self.taken = x, []  # type: ignore[var-annotated]

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> Tensor:
        self.taken.append(i)
        return self.x[i]


class OfAUser(Counted):
    """A data set with an attribute of that name, which means something else."""

    binarize = False


def test_an_attribute_of_a_users_data_set_means_nothing() -> None:
    gaussian = pv.build("vae", data_shape=(D,), latent=2, hidden=(4,), likelihood="gaussian")
    pv.fit(gaussian, OfAUser(torch.randn(20, D)), epochs=1, device="cpu", progress=False)
    assert len(pv.log_likelihood(gaussian, OfAUser(torch.randn(20, D)), num_samples=5)) == 20


def test_a_loader_with_a_sampler_of_batches_is_evaluated_by_its_own_collation() -> None:
    pair, x = amortised(), torch.randn(20, D)
    data = TensorDataset(x)
    loader = DataLoader(data, batch_sampler=BatchSampler(SequentialSampler(data), 5, False), collate_fn=doubled)
    est = pv.log_likelihood(pair, loader, num_samples=10)
    assert torch.equal(est.log_px, pv.log_likelihood(pair, 2 * x, num_samples=10).log_px)


def doubled(items: list[Any]) -> Tensor:
    return 2 * torch.stack([x for (x,) in items])


class Ragged(Dataset[Tensor]):
    """Batches of two widths, in turn."""

    def __len__(self) -> int:
        return 64

    def __getitem__(self, i: int) -> Tensor:
        return torch.ones(5 if (i // 16) % 2 else 7)


class Summed(nn.Module):
    """A program for rows of any width: of their sum."""

    def __init__(self, of: nn.Module) -> None:
        super().__init__()
        self.of = of

    def forward(self, x: Tensor | None = None, *rest: Any) -> Any:
        return self.of(None if x is None else x.sum(-1, keepdim=True), *rest)


def test_long_training_on_a_loader_is_captured_where_batches_have_one_shape(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By default, as on tensors; and with the numbers of the program, to rounding."""
    x = torch.randn(64, D)
    plain = trained(DataLoader(on_disk(tmp_path / "x", x), batch_size=16), capture=False)
    monkeypatch.setattr(capture, "MIN_WORK", 1.0)
    made: list[tuple[int, ...]] = []
    graph = capture._Graph

    def counted(function: Any, args: Any, *rest: Any) -> Any:
        made.append(tuple(args[0].shape))
        return graph(function, args, False, *rest[1:])  # without the compiler

    monkeypatch.setattr(capture, "_Graph", counted)
    by_graph = trained(DataLoader(pv.OnDisk(tmp_path / "x"), batch_size=16))
    assert made == [(16, D)]
    for a, b in zip(plain.parameters(), by_graph.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-6)
    made.clear()
    one = pv.build("linear", data_shape=(1,), latent=1)
    pair = pv.Pair(Summed(one.model), Summed(one.guide))
    pv.fit(pair, DataLoader(Ragged(), batch_size=16), epochs=3, device="cpu", progress=False)
    assert made == [(16, 7)]


# ---- scores


class Stream(IterableDataset[Any]):
    def __init__(self, x: Tensor, stop: int | None = None) -> None:
        self.x, self.stop = x, stop

    def __iter__(self) -> Iterator[Tensor]:
        for i, row in enumerate(self.x):
            if i == self.stop:
                raise KeyboardInterrupt
            yield row


@pytest.mark.parametrize("kind", ["tensor", "on disk", "loader", "stream", "stream behind a loader", "split"])
def test_scores_of_any_source_are_the_evidence(kind: str, tmp_path: Path) -> None:
    """Under the exact posterior every weight is p(x), which has a closed form."""
    pair, x = exact(), torch.randn(N, D, dtype=torch.float64)
    index = torch.arange(N)
    sources: dict[str, Any] = {
        "tensor": x, "loader": DataLoader(TensorDataset(x), batch_size=7, shuffle=True), "stream": Stream(x),
        "stream behind a loader": DataLoader(Stream(x), batch_size=7), "split": pv.load_data(x.float()).test,
    }  # fmt: skip
    if kind == "on disk":
        sources[kind] = on_disk(tmp_path / "x", x)
    if kind == "split":
        index = sources[kind].index
        x = x.float().double()
    files = pv.write_scores(tmp_path / "scores", pair, sources[kind], num_samples=3, rows=8)
    table = read(tmp_path / "scores")
    assert [len(pq.read_table(f)) for f in files] == [8] * (len(index) // 8) + [len(index) % 8] * bool(len(index) % 8)
    assert table["index"].tolist() == index.tolist()
    truth = pair.model.evidence(x[index])
    assert np.abs(table["log_px"].to_numpy() - truth.detach().numpy()).max() < 1e-9
    assert table["reliable"].all()


def test_the_numbers_of_a_file_are_those_of_an_estimate_with_its_seed(tmp_path: Path) -> None:
    pair, x = amortised(), torch.randn(20, D)
    pv.write_scores(tmp_path / "a", pair, x, num_samples=30, rows=8, seed=3)
    table = read(tmp_path / "a")
    for i in range(3):
        part = slice(8 * i, 8 * i + 8)
        est = pv.log_likelihood(pair, x[part], num_samples=30, seed=seed_for(3, "scores", i))
        for name in ("log_px", "std_error", "ess", "khat", "elbo"):
            assert np.array_equal(table[name].to_numpy()[part], getattr(est, name).numpy(), equal_nan=True), name
    assert not (table["log_px"][:8].to_numpy() == table["log_px"][8:16].to_numpy()).any()


def test_labels_have_a_column_of_their_own(tmp_path: Path) -> None:
    pair = pv.build("cvae", data_shape=(D,), latent=2, hidden=(4,), num_classes=3, likelihood="bernoulli")
    x, y = (torch.rand(10, D) < 0.5).float(), torch.arange(10) % 3
    pv.write_scores(tmp_path / "a", pair, pv.Split(x, y), num_samples=5, rows=4)
    assert read(tmp_path / "a")["label"].tolist() == y.tolist()
    about = json.loads(pq.read_schema(tmp_path / "a" / "part-000000.parquet").metadata[b"ppl_vae"])
    assert about["quantity"] == "log p(x | y)"


def test_stopped_work_goes_on_where_it_was(tmp_path: Path) -> None:
    """Files that are whole are not made again, and the whole is what unbroken work gives, byte for byte."""
    pair, x = amortised(), torch.randn(40, D)
    whole = pv.write_scores(tmp_path / "whole", pair, x, num_samples=10, rows=8)
    with pytest.raises(KeyboardInterrupt):
        pv.write_scores(tmp_path / "scores", pair, Stream(x, stop=20), num_samples=10, rows=8)
    there = sorted((tmp_path / "scores").glob("part-*"))
    assert [f.name for f in there] == ["part-000000.parquet", "part-000001.parquet"]
    made = [f.stat().st_mtime_ns for f in there]
    files = pv.write_scores(tmp_path / "scores", pair, Stream(x), num_samples=10, rows=8)
    assert [f.stat().st_mtime_ns for f in there] == made
    assert [f.read_bytes() for f in files] == [f.read_bytes() for f in whole]


def test_files_that_are_there_are_not_read_again(tmp_path: Path) -> None:
    data = Counted(torch.randn(40, D))
    pv.write_scores(tmp_path, amortised(), data, num_samples=10, rows=8)
    (tmp_path / "part-000003.parquet").unlink()
    data.taken.clear()
    pv.write_scores(tmp_path, amortised(), data, num_samples=10, rows=8)
    ends = {*range(16), *range(24, 40)}  # by its first and last 16 rows the data set is known again
    assert {*range(24, 32)} <= set(data.taken) <= ends
    assert len(pq.read_table(tmp_path / "part-000003.parquet")) == 8


class Louder(nn.Module):
    """A model of data that are multiplied by a number, of which no weight tells."""

    def __init__(self, model: nn.Module, factor: float) -> None:
        super().__init__()
        self.model, self.factor = model, factor

    def forward(self, x: Tensor | None = None, *rest: Any) -> Any:
        return self.model(None if x is None else self.factor * x, *rest)


class Stopped(Exception):
    pass


def test_work_within_a_file_goes_on_too_and_readers_see_whole_files_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair, x = amortised(), torch.randn(40, D)
    setting: Any = {"num_samples": 10, "rows": 20, "block": 5}
    whole = pv.write_scores(tmp_path / "whole", pair, x, **setting)
    block_at, seen = streaming.Plan.block_at, []

    def stopping(self: Any, start: int, *args: Any, **rest: Any) -> Any:
        if len(seen) == 6:
            raise Stopped
        seen.append(start)
        return block_at(self, start, *args, **rest)

    with monkeypatch.context() as patch:
        patch.setattr(streaming.Plan, "block_at", stopping)
        with pytest.raises(Stopped):
            pv.write_scores(tmp_path / "scores", pair, x, **setting)
        assert len(list((tmp_path / "scores" / "_unfinished").iterdir())) == 1
        assert len(read(tmp_path / "scores")) == 20
        seen[:] = [0] * 4  # two blocks more
        assert [f.read_bytes() for f in pv.write_scores(tmp_path / "scores", pair, x, **setting)] == [
            f.read_bytes() for f in whole
        ]
    assert len(seen) == 6  # the two that were done of the second file are not done again
    assert not (tmp_path / "scores" / "_unfinished").exists()


def test_other_data_or_another_pair_in_a_folder_of_scores_is_refused(tmp_path: Path) -> None:
    pair, x = amortised(), torch.randn(60, D)
    pv.write_scores(tmp_path / "a", pair, x, num_samples=10)
    other = x.clone()
    other[-1, 0] += 1
    for data in (x[:30], other, torch.cat([x, x]), TensorDataset(other)):
        with pytest.raises(pv.RunError, match="other data; choose another folder"):
            pv.write_scores(tmp_path / "a", pair, data, num_samples=10)
    for folder, factor in (("c", 1.0), ("c", 2.0)):  # the same weights under other code
        altered = pv.Pair(Louder(pair.model, factor), pair.guide)
        with nullcontext() if factor == 1 else pytest.raises(pv.RunError, match="other pair"):
            pv.write_scores(tmp_path / folder, altered, x, num_samples=10)
    pv.write_scores(tmp_path / "b", pair, Stream(x), num_samples=10, rows=25)
    with pytest.raises(pv.RunError, match="other data"):
        pv.write_scores(tmp_path / "b", pair, Stream(x + 1), num_samples=10, rows=25)


def test_a_stream_that_has_grown_is_completed(tmp_path: Path) -> None:
    pair, x = amortised(), torch.randn(60, D)
    pv.write_scores(tmp_path / "a", pair, Stream(x[:30]), num_samples=10, rows=20)
    pv.write_scores(tmp_path / "a", pair, Stream(x), num_samples=10, rows=20)
    pv.write_scores(tmp_path / "b", pair, x, num_samples=10, rows=20)
    assert np.array_equal(*(read(tmp_path / name)["log_px"].to_numpy() for name in "ab"))


def test_a_call_that_is_refused_leaves_the_folder_to_the_next(tmp_path: Path) -> None:
    pair, x = amortised(), torch.randn(20, D)
    for wrong in ({"num_samples": 0}, {"proposal": "giude"}, {"resume": tmp_path}, {"K": 10}, {"capture": 3}):
        with pytest.raises(pv.UserError):
            pv.write_scores(tmp_path / "a", pair, x, **{"num_samples": 10, **wrong})
    first = pv.write_scores(tmp_path / "a", pair, x, num_samples=10)[0]
    made = first.stat().st_mtime_ns
    pv.write_scores(tmp_path / "a", pair, x, num_samples=10, proposal="guide", capture="auto")  # the defaults
    assert first.stat().st_mtime_ns == made


def test_what_would_double_or_lose_rows_is_refused(tmp_path: Path) -> None:
    pair, x = amortised(), torch.randn(20, D)
    for name, loader in (
        ("drop_last=True", DataLoader(Stream(x), batch_size=7, drop_last=True)),
        ("num_workers=2", DataLoader(Stream(x), batch_size=7, num_workers=2)),
    ):
        with pytest.raises(pv.UserError, match=name):
            pv.write_scores(tmp_path / name, pair, loader, num_samples=5)
    with pytest.raises(pv.DataError, match="gave no data"):
        pv.write_scores(tmp_path / "none", pair, Stream(x[:0]), num_samples=5)
    binarised = pv.load_data(torch.rand(40, 1, 3, 3)).test
    gaussian = pv.build("vae", data_shape=(1, 3, 3), latent=2, hidden=(4,), likelihood="gaussian")
    with pytest.raises(pv.DataError, match="not a Bernoulli"):
        pv.write_scores(tmp_path / "bits", gaussian, binarised, num_samples=5)


def test_an_error_names_its_rows(tmp_path: Path) -> None:
    bits = pv.build("vae", data_shape=(D,), latent=2, hidden=(4,), likelihood="bernoulli")
    x = torch.zeros(20, D)
    x[13, 2] = 0.5
    with pytest.raises(pv.DataError, match=r"example 3 .*\(rows 10 to 19, of which this counts from 0\)"):
        pv.write_scores(tmp_path, bits, x, num_samples=5, rows=10)


def test_two_processes_do_not_write_into_one_folder(tmp_path: Path) -> None:
    with FileLock(tmp_path / "_lock"), pytest.raises(pv.RunError, match="another process writes its scores"):
        pv.write_scores(tmp_path, amortised(), torch.randn(5, D), num_samples=5)


def test_a_folder_of_other_scores_is_refused(tmp_path: Path) -> None:
    pair, x = amortised(), torch.randn(10, D)
    pv.write_scores(tmp_path / "a", pair, x, num_samples=10)
    for options, what in (({"num_samples": 11}, "num_samples"), ({"seed": 1}, "seed"), ({"rows": 5}, "rows")):
        with pytest.raises(pv.RunError, match=f"other {what}; choose another folder"):
            pv.write_scores(tmp_path / "a", pair, x, **{"num_samples": 10, **options})
    with pytest.raises(pv.RunError, match="other pair"):
        pv.write_scores(tmp_path / "a", trained(x), x, num_samples=10)
    pv.write_scores(tmp_path / "a", pair, x, num_samples=10)  # as it was
    (tmp_path / "a" / "_scores.json").write_text("[1]")
    with pytest.raises(pv.RunError, match="it was edited"):
        pv.write_scores(tmp_path / "a", pair, x, num_samples=10)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "part-0.parquet").write_bytes(b"")
    with pytest.raises(pv.RunError, match="a file can't be read"):
        pv.write_scores(tmp_path / "b", pair, x, num_samples=10)
    (tmp_path / "a" / "part-000000.parquet").replace(tmp_path / "b" / "part-0.parquet")
    with pytest.raises(pv.RunError, match="another program"):
        pv.write_scores(tmp_path / "b", pair, x, num_samples=10)
    with pytest.raises(pv.UserError, match="rows=0"):
        pv.write_scores(tmp_path / "c", pair, x, rows=0)
    assert not (tmp_path / "c").exists()


def test_the_command_writes_the_rows_of_a_file_that_is_not_read_at_once(tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((60, D)).astype(np.float32)
    for name, rows in (("x", x), ("new", 2 * x)):
        np.save(tmp_path / f"{name}.npy", rows)
    run, few = tmp_path / "run", ("--num-samples", 20, "--device", "cpu")
    commands.call("train", "linear", "--data", tmp_path / "x.npy", "--epochs", 1, "--out", run, "--no-figures", *few)
    score = ("score", run, "--data", tmp_path / "new.npy", "--parquet", *few)
    said = commands.read(*score)
    assert (said["n"], said["parquet"]) == (60, str(run / "log_px-new"))
    est = pv.log_likelihood(pv.load(run), torch.from_numpy(2 * x), num_samples=20, seed=seed_for(0, "scores", 0))
    assert np.array_equal(read(Path(said["parquet"]))["log_px"].to_numpy(), est.log_px.numpy())
    assert "log_px-new, files: 1" in commands.call(*score).stdout  # which are there
    commands.call("score", run, "--parquet", "--limit", 5, *few)
    assert len(read(run / "log_px")) == 5
    assert "no splits" in commands.call(*score, "--split", "test", code=2).stderr
    np.save(tmp_path / "wide.npy", np.zeros((3, D + 1), np.float32))
    np.save(tmp_path / "bytes.npy", np.full((3, D), 7, np.uint8))
    for name, what in (("wide", "data of shape"), ("bytes", "8-bit numbers")):
        said = commands.call("score", run, "--data", tmp_path / f"{name}.npy", "--parquet", *few, code=2).stderr
        assert what in said
