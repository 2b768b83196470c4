"""A new file is used whole: every example, with the order and row numbers of the file, read as the run's data were."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import ppl_vae as pv
from ppl_vae.cli.app import app

FEW = ["--num-samples", "20", "--device", "cpu"]


def call(*args: str | Path, code: int = 0) -> Any:
    result = CliRunner().invoke(app, [str(a) for a in args])
    assert result.exit_code == code, (args, result.output, result.exception)
    return result


def read(*args: str | Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(call(*args, "--json").stdout)
    return found


def table(path: str | Path) -> list[dict[str, str]]:
    with Path(path).open() as file:
        return list(csv.DictReader(file))


def rows(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A linear pair trained on 100 rows of 4 numbers."""
    folder = tmp_path_factory.mktemp("new")
    np.savez(folder / "train.npz", x=rows(100), y=np.arange(100))
    call(
        "train",
        "linear",
        "--epochs",
        "1",
        *FEW,
        "--no-figures",
        "--data",
        folder / "train.npz",
        "--out",
        folder / "run",
    )
    return folder / "run"


@pytest.fixture
def new(tmp_path: Path) -> Path:
    """Ten rows; row 3 is 50 standard deviations away."""
    x = rows(10, seed=1)
    x[3] = 50
    np.save(tmp_path / "new.npy", x)
    return tmp_path / "new.npy"


def test_every_row_of_a_file_is_scored_under_its_own_number(run: Path, new: Path, tmp_path: Path) -> None:
    found = read("score", run, "--data", new, *FEW, "--out", tmp_path)
    scored = table(found["csv"])
    assert [int(r["index"]) for r in scored] == list(range(10))
    assert min(scored, key=lambda r: float(r["log_px"]))["index"] == "3"
    assert found["lowest"][0]["index"] == 3
    assert (found["n"], found["split"]) == (10, "all")
    est = pv.log_likelihood(pv.load(run), np.load(new), num_samples=20)
    assert [float(r["log_px"]) for r in scored] == est.log_px.tolist()


def test_every_command_takes_the_whole_file(run: Path, new: Path, tmp_path: Path) -> None:
    out = ["--out", tmp_path]
    assert read("evaluate", run, "--data", new, *FEW, *out)["n"] == 10
    assert read("evaluate", run, "--data", new, *FEW, *out, "--estimator", "iwae")["n"] == 10
    assert read("reconstruct", run, "--data", new, *out)["n"] == 10
    assert len(np.load(tmp_path / "reconstructions.npy")) == 10
    assert read("figures", run, "--data", new, *FEW, *out)["figures"]
    big = tmp_path / "big.npy"
    np.save(big, rows(25))
    assert read("reconstruct", run, "--data", big, *out)["n"] == 25
    assert read("reconstruct", run, *out)["n"] == 10  # of its own data, a few
    assert read("evaluate", run, "--data", new, "--limit", "4", *FEW, *out)["n"] == 4


def test_one_row_is_enough(run: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", rows(1))
    for command in ("score", "evaluate", "figures"):
        read(command, run, "--data", tmp_path / "one.npy", *FEW, "--out", tmp_path)
    assert [r["index"] for r in table(tmp_path / "log_px.csv")] == ["0"]
    assert read("reconstruct", run, "--data", tmp_path / "one.npy", "--out", tmp_path)["n"] == 1


def test_compare_takes_the_whole_file(run: Path, new: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "twin")
    found = read("compare", run, tmp_path / "twin", "--data", new, *FEW)
    assert (found["n"], found["split"], found["quantity"]) == (10, "all", "log p(x)")


def test_a_split_is_for_data_that_have_splits(run: Path, new: Path, tmp_path: Path) -> None:
    for command in ("score", "evaluate", "reconstruct", "figures"):
        line = call(command, run, "--data", new, "--split", "test", code=2).stderr.strip().splitlines()[-1]
        assert "no split 'test'; it has no splits: all of it is used" in line
    np.savez(tmp_path / "two.npz", x_train=rows(9), x_test=rows(5, 2))
    two = ["--data", tmp_path / "two.npz", *FEW, "--out", tmp_path]
    assert read("score", run, *two)["n"] == 5
    assert [r["index"] for r in table(tmp_path / "log_px.csv")] == list("01234")
    assert read("score", run, *two, "--split", "train")["n"] == 9
    assert "it has train, test" in call("score", run, *two, "--split", "valid", code=2).stderr


def test_the_index_of_a_runs_own_data_is_the_row_of_the_source(run: Path, tmp_path: Path) -> None:
    for split, n in (("test", 20), ("valid", 10), ("train", 70)):
        found = read("score", run, "--split", split, *FEW, "--out", tmp_path)
        scored = table(found["csv"])
        assert len(scored) == n
        assert all(r["index"] == r["label"] for r in scored)  # the label is the row, in this source
        assert {r["index"] for r in found["lowest"]} <= {int(r["index"]) for r in scored}


def test_labels_of_a_new_file_are_kept(run: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "new.npz", x=rows(6), y=np.array([5, 4, 3, 2, 1, 0]))
    found = read("score", run, "--data", tmp_path / "new.npz", *FEW, "--out", tmp_path)
    assert [r["label"] for r in table(found["csv"])] == list("543210")


# ---- from Python


def test_a_division_tells_where_each_datum_came_from() -> None:
    x = rows(50)
    data = pv.load_data((x, np.arange(50)))
    for part in (data.train, data.valid, data.test, data.test.limit(3), data.test.to("cpu"), data.test.fixed()):
        assert part.index is not None
        assert torch.equal(part.x, torch.from_numpy(x)[part.index])
        assert torch.equal(part.index, part.y)
        assert torch.equal(part.rows, part.index)
    everything = torch.cat([data.train.index, data.valid.index, data.test.index])
    assert everything.sort().values.tolist() == list(range(50))
    assert pv.Split(torch.zeros(3, 2)).rows.tolist() == [0, 1, 2]
    two = pv.load_data({"x_train": x[:30], "x_test": x[30:]})
    assert torch.equal(two.test.x, torch.from_numpy(x[30:])[two.test.index])
    assert torch.equal(two.valid.x, torch.from_numpy(x[:30])[two.valid.index])


def test_a_file_is_read_whole(new: Path) -> None:
    data = pv.load_data(rows(40))
    for like in (None, data, data.record()):
        whole = pv.load_split(new, like=like)
        assert torch.equal(whole.x, torch.from_numpy(np.load(new)))
        assert whole.rows.tolist() == list(range(10))
    pair = pv.build("linear", data_shape=(4,), latent=2)
    assert int(pv.log_likelihood(pair, whole, num_samples=10).log_px.argmin()) == 3
    assert len(pv.encode(pair, whole).mean["z"]) == len(pv.reconstruct(pair, whole)) == 10


# ---- new data are taken as those of the run were


def images(n: int, top: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, top + 1, (n, 4, 5), dtype=np.uint8)


def test_bytes_are_scaled_as_those_of_the_run_were() -> None:
    dark = images(5, 1)  # two grey levels that are nearly black, and no bits
    pixels = pv.load_data(images(40, 255), binarize="none")
    assert torch.equal(pv.load_split(dark, like=pixels).x, torch.from_numpy(dark[:, None]) / 255)
    bits = pv.load_data(images(40, 1), binarize="none")
    assert torch.equal(pv.load_split(dark, like=bits).x, torch.from_numpy(dark[:, None]).float())
    assert torch.equal(
        pv.load_split(dark[:, None].astype(float), like=bits).x.float(), torch.from_numpy(dark[:, None]).float()
    )
    reals = pv.load_data(rows(40).reshape(40, 1, 2, 2))
    for new, like, message in (
        (images(5, 255), bits, "grey values, and the data it is read like are bits"),
        (images(5, 255).astype(np.float32), pixels, r"values up to 2\d\d.*divide it by 255"),
        (images(5, 255).astype(np.int64), pixels, r"values up to 2\d\d.*divide it by 255"),
        (images(5, 255), reals, "8-bit numbers, and the data it is read like are not"),
    ):
        with pytest.raises(pv.DataError, match=message):
            pv.load_split(new, like=like)


def test_the_splits_of_one_source_have_one_scale() -> None:
    data = pv.load_data({"x_train": images(20, 255), "x_test": images(5, 1)}, binarize="none")
    assert torch.equal(data.test.x, torch.from_numpy(images(5, 1)[:, None]) / 255)


def test_images_are_read_like_images(tmp_path: Path) -> None:
    for i, image in enumerate(images(3, 255)):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    like = pv.load_data(images(40, 255), binarize="none")
    assert torch.equal(pv.load_split(tmp_path, like=like).x, pv.load_split(images(3, 255), like=like).x)


@pytest.mark.parametrize("binarize", ["none", "static", "dynamic"])
def test_new_data_are_binarised_as_the_runs_test_data_were(binarize: str) -> None:
    data = pv.load_data(images(40, 255), binarize=binarize)
    new = pv.load_split(images(30, 255), like=data)
    bits = bool(((new.x == 0) | (new.x == 1)).all())
    assert bits is new.drawn is (binarize != "none")
    assert torch.equal(new.x, pv.load_split(images(30, 255), like=data.record()).x)
    if binarize != "none":
        with pytest.raises(pv.DataError, match=r"outside \[0, 1\]|values up to"):
            pv.load_split(images(30, 255)[:, None] / 100.0, like=data)


def test_numbers_of_numpy_are_options_of_reading_and_of_tables() -> None:
    x = rows(60)
    plain = pv.load_data(x, seed=3, valid=0.25, test=10)
    other = pv.load_data(x, seed=np.int64(3), valid=np.float32(0.25), test=torch.tensor(10))
    assert plain.record() == json.loads(json.dumps(other.record()))
    pair = pv.build("linear", data_shape=(4,), latent=2)
    one = pv.panel(pair, plain.test, estimators="iwae", num_samples=20, seed=1).table()
    two = pv.panel(pair, other.test, estimators="iwae", num_samples=np.int32(20), seed=np.uint8(1)).table()
    for table_ in (one, two):
        del table_[0]["seconds"]
    assert json.loads(json.dumps(two)) == one
    attrs = pv.compare({"a": pair}, plain.test, num_samples=np.int64(5), seed=torch.tensor(2)).attrs
    assert json.loads(json.dumps(attrs))["seed"] == 2


@pytest.mark.parametrize("command", ["score", "evaluate"])
def test_figures_of_other_data_stand_beside_the_runs_own(run: Path, new: Path, tmp_path: Path, command: str) -> None:
    """The result of the test data stays; a folder of one's own has the plain names; the test data replace their own."""
    own = tmp_path / "run"
    shutil.copytree(run, own)
    names = ("log_px.csv", "evaluation.json")
    before = {name: (own / name).read_bytes() for name in names}
    read(command, own, "--data", new, *FEW)
    read(command, own, "--split", "valid", *FEW)
    assert {name: (own / name).read_bytes() for name in names} == before
    assert [r["index"] for r in table(own / f"log_px-{new.stem}.csv")] == list(map(str, range(10)))
    assert len(table(own / "log_px-valid.csv")) == 10
    assert (own / f"evaluation-{new.stem}.json").exists() == (command == "evaluate")
    read(command, own, "--data", new, *FEW, "--out", tmp_path / "other")
    assert len(table(tmp_path / "other" / "log_px.csv")) == 10
    read(command, own, *FEW, "--num-samples", "30")
    assert (own / "log_px.csv").read_bytes() != before["log_px.csv"]
