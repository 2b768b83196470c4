"""Laws of the data: what comes out of every source, and one clear line for whatever cannot be read."""

from __future__ import annotations

import doctest
import hashlib
import io
import json
import pickle
import random
import struct
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ppl_vae.common.errors import DataError
from ppl_vae.common.registry import DATASETS
from ppl_vae.common.rng import forked, seed_for
from ppl_vae.data import binarisation, sets, splits
from ppl_vae.data.binarisation import visit
from ppl_vae.data.epochs import Batches
from ppl_vae.data.sets import load_data
from ppl_vae.data.splits import Data, Split, as_split

SHARED = Path(__file__).parents[2] / "shared" / "data"
SPLITS = ("train", "valid", "test")


@pytest.fixture
def rows() -> tuple[torch.Tensor, torch.Tensor]:
    """100 distinct examples in [0, 1]; the label is the place of the example."""
    y = torch.arange(100)
    return torch.stack([y / 100, 1 - y / 100], dim=1), y


def fails(message: str, *args, **kwargs) -> str:
    """`load_data` refuses with one line that matches ``message``; returns the line."""
    with pytest.raises(DataError, match=message) as caught:
        load_data(*args, **kwargs)
    line = str(caught.value)
    assert "\n" not in line
    return line


def everything(data: Data) -> torch.Tensor:
    return torch.cat([data.split(name).x for name in SPLITS])


# ---- files to read


def write_idx(path: Path, array: np.ndarray, magic: int | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    head = struct.pack(f">{1 + array.ndim}I", 0x0800 + array.ndim if magic is None else magic, *array.shape)
    path.write_bytes(head + array.astype(np.uint8).tobytes())


def write_mnist(root: Path, name: str = "MNIST", train: int = 24, test: int = 5) -> Path:
    raw = root / name / "raw"
    for prefix, n, first in (("train", train, 0), ("t10k", test, 100)):
        images = np.broadcast_to(np.arange(first, first + n)[:, None, None], (n, 28, 28))
        write_idx(raw / f"{prefix}-images-idx3-ubyte", images)
        write_idx(raw / f"{prefix}-labels-idx1-ubyte", np.arange(n) % 10)
    return raw


def write_image(path: Path, value: int | tuple[int, ...], mode: str = "L", size: tuple[int, int] = (4, 3)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value).save(path)
    return path


class Trap:
    """Unpickling one calls `Trap.spring`."""

    sprung = False

    @classmethod
    def spring(cls) -> None:
        cls.sprung = True

    def __reduce__(self):
        return Trap.spring, ()


@pytest.fixture(autouse=True)
def trap():
    Trap.sprung = False
    yield
    assert not Trap.sprung


# ---- division


def test_default_sizes_and_every_datum_once(rows):
    data = load_data(rows, binarize="none")
    assert [len(data.split(name)) for name in SPLITS] == [70, 10, 20]
    assert sorted(everything(data)[:, 0].tolist()) == sorted(rows[0][:, 0].tolist())


@pytest.mark.parametrize(
    ("valid", "test", "sizes"),
    [(0.25, 0.5, [25, 25, 50]), (7, None, [73, 7, 20]), (1, 98, [1, 1, 98]), (None, 3, [87, 10, 3])],
)
def test_shares_are_fractions_or_counts(rows, valid, test, sizes):
    data = load_data(rows, binarize="none", valid=valid, test=test)
    assert [len(data.split(name)) for name in SPLITS] == sizes
    assert len(set(everything(data)[:, 0].tolist())) == 100


def test_labels_follow_their_data(rows):
    data = load_data(rows, binarize="none", seed=3)
    for name in SPLITS:
        split = data.split(name)
        assert torch.equal((split.x[:, 0] * 100).round().long(), split.y)
        assert split.y.dtype == torch.int64


def test_the_seed_decides_the_division(rows):
    first, again, other = (load_data(rows, seed=seed) for seed in (5, 5, 6))
    for name in SPLITS:
        assert torch.equal(first.split(name).x, again.split(name).x)
    assert not torch.equal(first.train.y, other.train.y)
    assert set(first.test.y.tolist()) != set(other.test.y.tolist())


def test_the_division_does_not_depend_on_binarisation(rows):
    divisions = [load_data(rows, seed=1, binarize=b).test.y.tolist() for b in ("none", "static", "dynamic")]
    assert divisions[0] == divisions[1] == divisions[2]


def test_a_limit_takes_a_random_part_of_sorted_data(rows):
    first = load_data(rows).train.limit(20)
    assert len(first) == len(first.y) == 20
    assert first.y.float().mean() > 25  # the first twenty of the source have a mean of 9.5


@pytest.mark.parametrize("share", [0.0, 1.0, 1.5, 5000.0, 0, -3, 0.001, 100, 0.9])
@pytest.mark.parametrize("which", ["valid", "test"])
def test_a_share_that_empties_a_split_is_refused(rows, share, which):
    assert which in fails("fraction|empty", rows, **{which: share})


def test_one_datum_cannot_be_divided():
    fails("empty train split", torch.zeros(1, 2))


# ---- binarisation


def test_what_each_binarisation_keeps(rows):
    for binarize, grey in (("none", SPLITS), ("dynamic", ("train",)), ("static", ())):
        data = load_data(rows, binarize=binarize)
        for name in SPLITS:
            split = data.split(name)
            binary = bool(((split.x == 0) | (split.x == 1)).all())
            assert binary == (name not in grey), (binarize, name)
            assert split.binarize == ("dynamic" if (binarize, name) == ("dynamic", "train") else "none")


def test_visits_differ_and_have_the_right_mean():
    p = torch.linspace(0, 1, 11).repeat(200, 1)
    visits = torch.stack([visit(p, "dynamic", torch.tensor(key)) for key in range(50)])
    assert not torch.equal(visits[0], visits[1])
    sigma = (p[0] * (1 - p[0]) / 10_000).sqrt()
    assert ((visits.mean((0, 1)) - p[0]).abs() <= 5 * sigma).all()


def test_a_visit_is_a_function_of_its_key_and_touches_no_generator(untouched):
    p = torch.full((100,), 0.5)
    first = visit(p, "dynamic", torch.tensor(4))
    assert torch.equal(visit(p, "dynamic", torch.tensor(4)), first)
    assert not torch.equal(visit(p, "dynamic", torch.tensor(5)), first)
    assert visit(p, "none", torch.tensor(4)) is p


def test_fixed_draws():
    split = Split(torch.full((500, 4), 0.3), torch.arange(500), binarize="dynamic", name="valid")
    drawn = split.fixed(seed=2)
    assert torch.equal(drawn.x, split.fixed(seed=2).x)
    assert not torch.equal(drawn.x, split.fixed(seed=3).x)
    assert not torch.equal(drawn.x, Split(split.x, binarize="dynamic", name="test").fixed(seed=2).x)
    assert abs(drawn.x.mean() - 0.3) < 5 * (0.21 / 2000) ** 0.5
    assert drawn.fixed(seed=9) is drawn
    assert torch.equal(drawn.y, split.y)
    with forked(seed=seed_for(2, "binarize/valid")):  # the seed that is written down gives this draw
        assert torch.equal(torch.bernoulli(split.x), drawn.x)


def test_the_fixed_splits_of_a_source_follow_the_seed():
    x = torch.full((100, 50), 0.5)
    first, again, other = (load_data(x, seed=seed, binarize="dynamic").test.x for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_binary_data_are_left_as_they_are():
    x = (torch.arange(40).reshape(20, 2) % 3 == 0).float()
    grey, drawn = (load_data(x, binarize=b) for b in ("none", "static"))
    assert torch.equal(everything(grey), everything(drawn))
    assert torch.equal(visit(x, "dynamic", torch.tensor(0)), x)


@pytest.mark.parametrize("value", [-0.01, 1.01, 255.0])
def test_values_outside_the_unit_interval_are_not_binarised(rows, value):
    x = rows[0].clone()
    x[17, 1] = value
    assert "index 17" in fails(r"outside \[0, 1\].*--binarize none", x, binarize="dynamic")
    for kept in ("none", "auto"):
        assert (everything(load_data(x, binarize=kept)) == torch.tensor(value)).any()


def test_an_unknown_binarisation_is_refused(rows):
    fails("auto, dynamic, static, none", rows, binarize="Dynamic")


# ---- global generators


def test_global_generators_are_untouched(rows, tmp_path):
    write_mnist(tmp_path)

    def states():
        _, keys, *position = np.random.get_state()  # noqa: NPY002
        return torch.get_rng_state().tolist(), keys.tolist(), position, random.getstate()

    before = states()
    for source in (rows, "mnist", "digits"):
        data = load_data(source, root=tmp_path, seed=1)
        data.train.fixed(seed=1)
        Batches(data.train, 4, seed=1).get(0, 0)
    assert states() == before


# ---- batches


def batches_of(batches: Batches, epoch: int) -> list[torch.Tensor]:
    return [batches.get(epoch, i)[1] for i in range(len(batches))]


@pytest.mark.parametrize("batch_size", [1, 7, 10, 100, 1000])
def test_an_epoch_has_every_datum_once(rows, batch_size):
    batches = Batches(Split(*rows), batch_size, seed=0)
    sizes = [len(y) for y in batches_of(batches, 0)]
    assert len(sizes) == len(batches) == -(-100 // batch_size)
    assert set(sizes[:-1]) <= {batch_size}
    for epoch in (0, 1):
        assert sorted(torch.cat(batches_of(batches, epoch)).tolist()) == list(range(100))


def test_batches_pair_data_with_their_labels(rows):
    x, y = Batches(Split(*rows), 32, seed=0).get(1, 2)
    assert torch.equal(x, rows[0][y])
    assert Batches(Split(rows[0]), 32, seed=0).get(0, 0)[1] is None


def test_epochs_and_seeds_have_orders_of_their_own(rows):
    orders = {
        (seed, epoch): tuple(torch.cat(batches_of(Batches(Split(*rows), 10, seed), epoch)).tolist())
        for seed in (0, 1)
        for epoch in (0, 1, 2)
    }
    assert len(set(orders.values())) == 6
    assert tuple(range(100)) not in orders.values()


def test_batches_resume_from_anywhere(rows):
    batches = Batches(Split(*rows), 16, seed=7)
    straight = [batches.get(epoch, i)[0] for epoch in range(3) for i in range(len(batches))]
    fresh = Batches(Split(*rows), 16, seed=7)
    for epoch, i in ((2, 4), (0, 0), (1, 6), (2, 0)):  # in another order, and from a new object
        assert torch.equal(fresh.get(epoch, i)[0], straight[epoch * len(batches) + i])


def test_batches_do_not_binarise():
    x, _ = Batches(Split(torch.full((6, 2), 0.5), binarize="dynamic"), 6, seed=0).get(0, 0)
    assert (x == 0.5).all()


def test_batches_outside_an_epoch(rows):
    batches = Batches(Split(*rows), 50, seed=0)
    for i in (-1, 2):
        with pytest.raises(IndexError):
            batches.get(0, i)
    with pytest.raises(DataError, match="batch size"):
        Batches(Split(*rows), 0, seed=0)
    with pytest.raises(DataError, match="no data"):
        Batches(Split(torch.zeros(0, 2)), 1, seed=0)


# ---- splits and records


def test_limit(rows):
    split = Split(*rows, binarize="dynamic", name="test")
    assert split.limit(None) is split
    assert len(split.limit(1000)) == 100
    first = split.limit(3)
    assert (len(first), first.y.tolist(), first.binarize, first.name) == (3, [0, 1, 2], "dynamic", "test")
    for n in (0, -1):
        with pytest.raises(DataError, match="1 or more"):
            split.limit(n)


def test_to_moves_data_and_labels(rows):
    moved = Split(*rows, binarize="dynamic").to("meta")
    assert moved.x.device.type == moved.y.device.type == "meta"
    assert moved.binarize == "dynamic"


def test_as_split(rows):
    data = load_data(rows)
    assert as_split(data) is data.train
    assert as_split(data.valid) is data.valid
    assert as_split(rows[0]).y is None
    assert torch.equal(as_split(rows).y, rows[1])
    assert torch.equal(as_split(rows[0].numpy()).x, rows[0])
    for wrong in ("mnist", None, 3j):
        with pytest.raises(DataError, match="give a tensor or a NumPy array"):
            as_split(wrong)


def test_split_by_name(rows):
    data = load_data(rows)
    assert data.split("valid") is data.valid
    with pytest.raises(DataError, match="train, valid, test"):
        data.split("val")


def test_shape_classes_and_mean(rows):
    data = load_data(rows, binarize="none")
    assert (data.data_shape, data.num_classes) == ((2,), 100)
    assert torch.allclose(data.mean, data.train.x.sum(0) / 70)
    for labels in (None, rows[1] - 2, 2 * (rows[1] % 2) - 1, rows[1].float()):
        assert load_data((rows[0], labels)).num_classes is None
    assert load_data((rows[0], rows[1] - 1)).num_classes == 99  # -1 is a label that is not known


def test_a_record_is_json_and_its_fingerprint_sees_everything(rows):
    x, y = rows
    record = load_data(rows, seed=4, binarize="none").record()
    assert json.loads(json.dumps(record)) == record
    assert record == load_data(rows, seed=4, binarize="none").record()
    expected = {"name": "array", "binarize": "none", "seed": 4, "shape": [2]}
    assert expected.items() <= record.items()
    assert record["sizes"] == {"train": 70, "valid": 10, "test": 20}
    prints = {record["sha256"]}
    for example in (0, 50, 99):
        pixel, label = x.clone(), y.clone()
        pixel[example, 0] += 1e-6
        label[example] += 1
        prints |= {load_data(d, seed=4, binarize="none").record()["sha256"] for d in ((pixel, y), (x, label))}
    for same_bytes in ((x.reshape(100, 1, 2), y), (x, None)):
        prints.add(load_data(same_bytes, seed=4, binarize="none").record()["sha256"])
    prints.add(load_data(rows, seed=5, binarize="none").record()["sha256"])
    assert len(prints) == 1 + 6 + 2 + 1


# ---- arrays


@pytest.mark.parametrize(
    ("x", "shape", "dtype"),
    [
        (np.full((10, 5, 4), 255, np.uint8), (1, 5, 4), torch.float32),
        (np.full((10, 3, 5, 4), 255, np.uint8), (3, 5, 4), torch.float32),
        (np.full((10, 5), 255, np.uint8), (5,), torch.float32),
        (torch.full((10, 5, 4), 255, dtype=torch.uint8), (1, 5, 4), torch.float32),
        (np.ones((10, 5, 4), np.uint8), (1, 5, 4), torch.float32),  # bits: not 1/255
        (np.ones((10, 5, 4)), (5, 4), torch.float64),
        (np.ones((10, 4), ">f4")[::-1], (4,), torch.float32),
        (np.broadcast_to(np.float32(1), (10, 2)), (2,), torch.float32),
        (np.ones((10, 4), np.int64), (4,), torch.int64),
        (np.ones((10, 4), np.uint16), (4,), torch.int64),
        (np.ones((10, 4), bool), (4,), torch.float32),
        (torch.ones(10, 4, dtype=torch.bfloat16), (4,), torch.bfloat16),
        (torch.ones(10, 4, requires_grad=True), (4,), torch.float32),
    ],
)
def test_shapes_and_types_of_arrays(x, shape, dtype):
    for binarize in ("none", "dynamic"):
        data = load_data(x, binarize=binarize)
        whole = dtype == torch.int64 and binarize == "dynamic"  # probabilities, not counts
        assert (data.data_shape, data.train.x.requires_grad) == (shape, False)
        assert data.train.x.dtype == (torch.float32 if whole else dtype)
        assert (everything(data) == 1).all()


def test_bytes_are_divided_by_255():
    x = np.arange(256, dtype=np.uint8).reshape(64, 4)
    values = everything(load_data(x, binarize="none")).flatten().sort().values
    assert torch.equal(values, torch.arange(256) / 255)


def test_the_users_arrays_are_not_written_to():
    x = np.arange(200, dtype=np.uint8).reshape(100, 2)
    load_data(x)
    as_split(x)
    assert x.flatten().tolist() == list(range(200))


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.array(["a", "b"]), "real numbers"),
        (np.ones((5, 2), complex), "real numbers"),
        (torch.ones(5, 2, dtype=torch.complex64), "real numbers"),
        (np.array([[1], ["a"]], dtype=object), "real numbers"),
        ([[1.0], [2.0, 3.0]], "parts of different sizes"),
        (np.ones((0, 3)), r"\(0, 3\)"),
        (np.ones((3, 0)), r"\(3, 0\)"),
        ((np.ones((5, 2)), np.ones(4)), r"4 labels for 5 data, of shape \(4,\)"),
        ((np.ones((5, 2)), np.array([0, 1, np.nan, 0, 0])), r"array: labels: a NaN.*index 2"),
        ((np.ones((5, 2)), np.array(list("abcde"))), r"array: labels are text"),
    ],
)
def test_arrays_that_are_no_data(x, message):
    fails(message, x)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("binarize", ["none", "dynamic"])
def test_the_first_value_that_is_not_finite_is_named(tmp_path, value, binarize):
    x = np.full((30, 2, 2), 0.5)
    x[13, 1, 0] = x[20] = value
    np.save(tmp_path / "bad.npy", x)
    if np.isnan(value) and binarize == "none":  # a missing entry: the likelihood has to allow for it
        data = load_data(tmp_path / "bad.npy", binarize=binarize)
        assert int(everything(data).isnan().sum()) == int(np.isnan(x).sum())
        assert "missing" in repr(as_split(x))
        return
    assert "bad.npy" in fails("infinity, first at index 13", tmp_path / "bad.npy", binarize=binarize)
    fails("index 13", torch.from_numpy(x), binarize=binarize)
    if np.isinf(value):
        with pytest.raises(DataError, match="index 13"):
            as_split(x)


# ---- .npy and .npz


def test_npy(tmp_path, rows):
    np.save(tmp_path / "x.npy", rows[0].numpy())
    for path in (tmp_path / "x.npy", str(tmp_path / "x.npy")):
        data = load_data(path)
        assert (data.name, len(data.train), data.train.y) == (str(path), 70, None)
        assert torch.equal(data.train.x, load_data(rows[0]).train.x)


def test_npz(tmp_path, rows):
    x, y = (t.numpy() for t in rows)
    np.savez_compressed(tmp_path / "xy.npz", x=x, y=y.astype(np.uint8), note=np.array("kept out"))
    data = load_data(tmp_path / "xy.npz")
    assert torch.equal(data.test.y, load_data(rows).test.y)
    assert torch.equal(load_data({"x": x, "y": y}).test.y, data.test.y)


def test_npz_with_a_row_of_another_array_for_each_example_holds_fields(tmp_path, rows):
    """Lengths beside x are a field, as in a dictionary; a note, or an array of another length, is kept out."""
    x, _ = (t.numpy() for t in rows)
    length = np.arange(len(x))
    np.savez(tmp_path / "fields.npz", x=x, length=length, note=np.array("kept out"), edges=np.zeros(3))
    found, wanted = load_data(tmp_path / "fields.npz"), load_data({"x": x, "length": length})
    assert set(found.test.x) == {"x", "length"}
    assert all(torch.equal(found.test.x[k], wanted.test.x[k]) for k in wanted.test.x)
    np.savez(tmp_path / "splits.npz", x_train=x, x_test=x, length=length)
    assert "'length' beside the data of splits" in fails("leave it out", tmp_path / "splits.npz")


def test_npz_with_splits_of_its_own(tmp_path, rows):
    x, y = (t.numpy() for t in rows)
    three = {"x_train": x[:60], "x_valid": x[60:70], "x_test": x[70:], "y_train": y[:60], "y_valid": y[60:70]}
    np.savez(tmp_path / "three.npz", **three, y_test=y[70:])
    data = load_data(tmp_path / "three.npz", binarize="none", seed=8)
    assert [data.split(name).y.tolist() for name in SPLITS] == [y[:60].tolist(), y[60:70].tolist(), y[70:].tolist()]
    two = {"x_train": x[:60], "x_test": x[60:]}
    data = load_data(two, valid=0.5, binarize="dynamic")
    assert [len(data.split(name)) for name in SPLITS] == [30, 30, 40]
    assert len(load_data(two).valid) == 5
    assert set(data.test.x[:, 0].tolist()) <= {0.0, 1.0}
    fails("test split already", two, test=0.2)
    fails("valid split already", tmp_path / "three.npz", valid=0.2)
    fails("no y_test: label", three)
    fails(r"one shape", {"x_train": x, "x_test": x[:, :1]})
    fails(r"array \(test\).*outside", {"x_train": x, "x_test": x + 1}, binarize="static")
    fails(r"y_test: 3 labels for 40 data", two | {"y_train": y[:60], "y_test": y[:3]})


@pytest.mark.parametrize("keys", [(), ("arr_0",), ("x_train",), ("x_train", "x_valid"), ("x", "x_train", "x_test")])
def test_npz_keys(tmp_path, keys):
    np.savez(tmp_path / "keys.npz", **{key: np.zeros((4, 2)) for key in keys})
    assert "keys.npz" in fails("give x .* or x_train and x_test", tmp_path / "keys.npz")


def test_pickles_are_refused_and_not_run(tmp_path):
    objects = np.array([Trap()], dtype=object)
    np.save(tmp_path / "o.npy", objects, allow_pickle=True)
    np.savez(tmp_path / "x.npz", x=objects)
    np.savez(tmp_path / "y.npz", x=np.zeros((1, 2)), y=objects)
    (tmp_path / "raw.npy").write_bytes(pickle.dumps(Trap()))
    (tmp_path / "raw.npz").write_bytes(pickle.dumps(Trap()))
    for name in ("o.npy", "x.npz", "y.npz"):
        assert name in fails("Python objects, which are not read", tmp_path / name)
    for name in ("raw.npy", "raw.npz"):
        assert name in fails("cannot be read", tmp_path / name)
    with pytest.raises(TypeError):  # the trap itself works: numpy with pickles allowed would have sprung it
        len(np.load(tmp_path / "o.npy", allow_pickle=True)[0])
    assert Trap.sprung
    Trap.sprung = False


def test_broken_numpy_files(tmp_path):
    np.save(tmp_path / "whole.npy", np.zeros((50, 3)))
    np.savez_compressed(tmp_path / "whole.npz", x=np.random.default_rng(0).random((50, 3)))
    npy, npz = ((tmp_path / f"whole.{s}").read_bytes() for s in ("npy", "npz"))
    broken = {"cut.npy": npy[:-9], "empty.npy": b"", "text.npy": b"1,2\n3,4\n", "cut.npz": npz[:200], "empty.npz": b""}
    flipped = bytearray(npz)
    flipped[150:160] = b"\0" * 10
    for name, content in {**broken, "flipped.npz": bytes(flipped)}.items():
        (tmp_path / name).write_bytes(content)
        assert name in fails("cannot be read", tmp_path / name)


def test_names_that_are_nothing(tmp_path):
    line = fails("does not exist", "minst")
    assert all(name in line for name in DATASETS)
    fails("does not exist", tmp_path / "no.npy")
    (tmp_path / "x.xls").write_text("1,2")
    assert "digits" in fails("x.xls is not a .npy or .npz file", tmp_path / "x.xls")


# ---- folders of images


def test_a_folder_of_grey_images(tmp_path):
    for i in range(10):
        write_image(tmp_path / f"{i}.png", 25 * i)
    (tmp_path / "notes.txt").write_text("not an image")
    write_image(tmp_path / ".hidden.png", 3, size=(9, 9))
    data = load_data(tmp_path, binarize="none")
    assert (data.data_shape, data.train.y, data.num_classes) == ((1, 3, 4), None, None)
    values = sorted(everything(data)[:, 0, 0, 0].tolist())
    assert values == pytest.approx([25 * i / 255 for i in range(10)])


def test_sub_folders_are_classes_in_sorted_order(tmp_path):
    for label, name in ((1, "b"), (0, "a"), (2, "c")):
        for i in range(4):
            write_image(tmp_path / name / f"{i}.PNG", (10 * label, 100, i), mode="RGB")
    (tmp_path / ".cache").mkdir()
    data = load_data(tmp_path, binarize="none")
    assert (data.data_shape, data.num_classes) == ((3, 3, 4), 3)
    for name in SPLITS:
        split = data.split(name)
        assert torch.equal((split.x[:, 0, 0, 0] * 255 / 10).round().long(), split.y)
        assert torch.allclose(split.x[:, 1], torch.tensor(100 / 255))


def test_one_coloured_image_makes_all_three_channels(tmp_path):
    for i in range(8):
        write_image(tmp_path / f"{i}.png", 50)
    write_image(tmp_path / "8.png", (50, 50, 50, 128), mode="RGBA")
    write_image(tmp_path / "9.png", 1, mode="1")
    x = everything(load_data(tmp_path, binarize="none"))
    assert x.shape == (10, 3, 3, 4)
    assert sorted(x[:, 0, 0, 0].tolist()) == pytest.approx([50 / 255] * 9 + [1.0])


def test_images_of_two_sizes(tmp_path):
    for i in range(5):
        write_image(tmp_path / f"{i}.png", i, size=(4, 3) if i < 3 else (5, 3))
    fails(r"0\.png is 4 x 3, .*3\.png is 5 x 3", tmp_path)


def test_images_that_cannot_be_read(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (40, 40), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    whole = (tmp_path / "a.png").read_bytes()
    for content in (b"", b"hello", whole[:50], whole[: len(whole) // 2], pickle.dumps(Trap())):
        (tmp_path / "b.png").write_bytes(content)
        fails("b.png is not a readable image", tmp_path)
    write_image(tmp_path / "b.png", 7, mode="I;16", size=(40, 40))
    fails("b.png has more than 8 bits", tmp_path)


def test_folders_that_are_no_data(tmp_path):
    fails("no images", tmp_path)
    write_image(tmp_path / "a" / "0.png", 1)
    write_image(tmp_path / "0.png", 1)
    fails("beside sub-folders", tmp_path)
    write_image(tmp_path / "both" / "train" / "0.png", 1)
    write_image(tmp_path / "both" / "test" / "0.png", 1)
    fails("two classes", tmp_path / "both")


# ---- named data sets


def test_digits():
    from sklearn.datasets import load_digits

    data = load_data("digits", binarize="none")
    assert [len(data.split(name)) for name in SPLITS] == [1258, 180, 359]
    assert (data.data_shape, data.num_classes, data.name) == ((1, 8, 8), 10, "digits")
    x = everything(data)
    assert (x.dtype, x.min().item(), x.max().item()) == (torch.float32, 0.0, 1.0)
    assert x.sum().item() == pytest.approx(load_digits().images.sum() / 16)


@pytest.mark.parametrize(
    ("name", "folder"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST"), ("kmnist", "KMNIST")]
)
def test_a_small_mnist(tmp_path, name, folder):
    write_mnist(tmp_path, folder)
    data = load_data(name, root=tmp_path, binarize="none")
    assert [len(data.split(s)) for s in SPLITS] == [22, 2, 5]
    assert (data.data_shape, data.num_classes) == ((1, 28, 28), 10)
    assert (data.test.x[:, 0, 0, 0] * 255).round().tolist() == [100, 101, 102, 103, 104]  # the official test split
    assert data.test.y.tolist() == [0, 1, 2, 3, 4]
    assert sorted((everything(data)[:24, 0, 5, 5] * 255).round().tolist()) == list(range(24))
    assert torch.equal((data.train.x[:, 0, 9, 9] * 255).round().long() % 10, data.train.y)
    assert len(load_data(name, root=tmp_path, valid=10).valid) == 10
    fails("test split already", name, root=tmp_path, test=3)


def test_small_mnist_agrees_with_torchvision(tmp_path):
    from torchvision.datasets import MNIST

    write_mnist(tmp_path)
    theirs = MNIST(tmp_path, train=False)
    ours = load_data("mnist", root=tmp_path, binarize="none").test
    assert torch.equal(ours.x, theirs.data[:, None] / 255)
    assert torch.equal(ours.y, theirs.targets)


def test_broken_idx_files(tmp_path):
    raw = write_mnist(tmp_path)
    images, labels = raw / "train-images-idx3-ubyte", raw / "t10k-labels-idx1-ubyte"
    for file in (images, labels):
        whole = file.read_bytes()
        for content, message in (
            (whole[:-1], "its header says"),
            (whole + b"\0", "its header says"),
            (whole[:6], "its header says|magic"),
            (b"", "magic number 0,"),
            (b"\x1f\x8b\x08\0" + whole[4:], "magic number"),
            ((images if file == labels else labels).read_bytes(), "magic number 20(49|51), not 20(51|49)"),
        ):
            file.write_bytes(content)
            assert str(file) in fails(message, "mnist", root=tmp_path)
        file.write_bytes(whole)
    write_idx(labels, np.zeros(4))
    fails("5 t10k images, 4 labels", "mnist", root=tmp_path)
    labels.unlink()
    assert str(raw) in fails("lacks t10k-labels-idx1-ubyte", "mnist", root=tmp_path, download=False)
    labels.mkdir()
    assert str(labels) in fails("cannot be read", "mnist", root=tmp_path)


@pytest.mark.parametrize("name", ["mnist", "omniglot", "cifar10"])
def test_a_download_that_fails_says_what_to_put_where(tmp_path, monkeypatch, name):
    datasets = pytest.importorskip("torchvision.datasets")

    def no_network(_):
        raise OSError("no route\nto host")

    cls, folder = {
        "mnist": (datasets.MNIST, tmp_path / "MNIST" / "raw"),
        "omniglot": (datasets.Omniglot, tmp_path / "omniglot-py"),
        "cifar10": (datasets.CIFAR10, tmp_path / "cifar-10-batches-py"),
    }[name]
    monkeypatch.setattr(cls, "download", no_network)
    assert str(folder) in fails("no route to host.*: put .* into", name, root=tmp_path)
    assert str(folder) in fails("put ", name, root=tmp_path, download=False)


def test_a_download_is_read(tmp_path, monkeypatch):
    datasets = pytest.importorskip("torchvision.datasets")
    monkeypatch.setattr(datasets.KMNIST, "download", lambda self: write_mnist(Path(self.root), "KMNIST"))
    assert len(load_data("kmnist", root=tmp_path / "new").test) == 5


def write_cifar(root: Path, entry) -> dict[str, str]:
    """The layout of CIFAR-10; returns the checksum of each file."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    sums = {}
    for i, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta"]):
        content = pickle.dumps(entry(i) if name != "batches.meta" else {"label_names": list("abcdefghij")})
        (folder / name).write_bytes(content)
        sums[name] = hashlib.md5(content).hexdigest()
    return sums


def test_cifar10(tmp_path, monkeypatch):
    cls = pytest.importorskip("torchvision.datasets").CIFAR10

    def entry(i):  # channel c of batch i is 10 i + c
        channels = np.repeat(np.arange(3, dtype=np.uint8) + 10 * i, 1024)
        return {"data": np.tile(channels, (4, 1)), "labels": [i] * 4}

    sums = write_cifar(tmp_path, entry)
    monkeypatch.setattr(cls, "train_list", [[name, s] for name, s in sums.items() if name.startswith("data")])
    monkeypatch.setattr(cls, "test_list", [["test_batch", sums["test_batch"]]])
    monkeypatch.setattr(cls, "meta", {**cls.meta, "md5": sums["batches.meta"]})
    data = load_data("cifar10", root=tmp_path, binarize="none", download=False)
    assert [len(data.split(name)) for name in SPLITS] == [19, 1, 4]
    assert data.data_shape == (3, 32, 32)
    for name in SPLITS:
        split = data.split(name)
        assert torch.equal((split.x[:, :, 7, 9] * 255).round().long(), 10 * split.y[:, None] + torch.arange(3))


def test_unknown_cifar10_pickles_are_not_opened(tmp_path):
    pytest.importorskip("torchvision")
    write_cifar(tmp_path, lambda _: Trap())
    fails("not found or corrupted.*cifar-10-python.tar.gz", "cifar10", root=tmp_path, download=False)


def test_omniglot(tmp_path, monkeypatch):
    cls = pytest.importorskip("torchvision.datasets").Omniglot
    folder, sums = tmp_path / "omniglot-py", {}
    for kind, alphabets in (("images_background", ("Latin", "Greek")), ("images_evaluation", ("Tifinagh",))):
        path = folder / f"{kind}.zip"
        folder.mkdir(exist_ok=True)
        with zipfile.ZipFile(path, "w") as archive:
            for alphabet in alphabets:
                for character in (2, 1):
                    for drawing in range(3):
                        page = np.full((105, 105), True)
                        page[: 15 * (character + 2 * (alphabet == "Latin")), :] = False  # so many rows of ink
                        buffer = io.BytesIO()
                        Image.fromarray(page).save(buffer, "png")
                        name = f"{kind}/{alphabet}/character0{character}/{drawing}.png"
                        archive.writestr(name, buffer.getvalue())
            archive.extractall(folder)
        sums[kind] = hashlib.md5(path.read_bytes()).hexdigest()
    fails("not found or corrupted", "omniglot", root=tmp_path, download=False)  # not the published archive
    monkeypatch.setattr(cls, "zips_md5", sums)
    data = load_data("omniglot", root=tmp_path, binarize="none", download=False)
    assert [len(data.split(name)) for name in SPLITS] == [11, 1, 6]
    assert (data.data_shape, data.num_classes) == ((1, 28, 28), 6)
    assert data.test.y.tolist() == [4, 4, 4, 5, 5, 5]  # no character of test is one of train
    x, y = torch.cat([data.train.x, data.valid.x]), torch.cat([data.train.y, data.valid.y])
    assert torch.equal((x.mean((1, 2, 3)) * 7).round().long(), y + 1)  # Greek 1, 2, Latin 1, 2: ink is 1
    assert x.max() == 1


def test_reading_idx_files_needs_no_torchvision(tmp_path, monkeypatch):
    write_mnist(tmp_path)
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.setitem(sys.modules, "torchvision.datasets", None)
    assert len(load_data("mnist", root=tmp_path).test) == 5
    fails("torchvision cannot give cifar10.*halted", "cifar10", root=tmp_path)


@pytest.mark.skipif(not (SHARED / "MNIST" / "raw").is_dir(), reason="the MNIST files are not at ../shared/data")
def test_mnist_itself():
    data = load_data("mnist", root=SHARED, download=False)
    assert [len(data.split(name)) for name in SPLITS] == [55_000, 5_000, 10_000]
    assert (data.data_shape, data.num_classes) == ((1, 28, 28), 10)
    assert data.test.y[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert data.mean.mean().item() == pytest.approx(0.1307, abs=0.001)
    assert data.test.x.mean().item() == pytest.approx(0.1325, abs=0.001)


def test_examples_in_the_docstrings():
    results = [doctest.testmod(module) for module in (sets, splits, binarisation)]
    assert sum(r.attempted for r in results) >= 8
    assert not any(r.failed for r in results)
