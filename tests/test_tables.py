"""Tables: which row is the header, which columns are numbers, what a label means, and what a new table must have."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

import ppl_vae as pv
from ppl_vae.cli import app

FEW = ["--num-samples", "20", "--device", "cpu"]


def frame(n: int = 40, seed: int = 0) -> pd.DataFrame:
    g = np.random.default_rng(seed)
    named = {"age": g.normal(size=n), "height": g.normal(size=n), "weight": g.integers(40, 90, n)}
    return pd.DataFrame({**named, "kind": g.choice(["cat", "dog", "ape"], n)})


NUMBERS = ["age", "height", "weight"]


def write(table: pd.DataFrame, path: Path, **options: Any) -> Path:
    if path.suffix == ".parquet":
        table.to_parquet(path, index=False)
    else:
        table.to_csv(path, **{"index": False, "sep": "\t" if path.suffix == ".tsv" else ",", **options})
    return path


def same(x: torch.Tensor, table: pd.DataFrame) -> bool:
    return np.array_equal(x.double().numpy(), table.to_numpy(float), equal_nan=True)


def text(tmp_path: Path, content: str, name: str = "t.csv") -> Path:
    (tmp_path / name).write_text(content)
    return tmp_path / name


@pytest.mark.parametrize("suffix", ["csv", "tsv", "parquet"])
def test_columns_and_labels_are_chosen_by_name(suffix: str, tmp_path: Path) -> None:
    table = frame()
    path = write(table, tmp_path / f"t.{suffix}")
    whole = pv.load_split(path, label="kind")
    assert same(whole.x, table[NUMBERS])
    assert whole.y.tolist() == [["ape", "cat", "dog"].index(k) for k in table.kind]
    for columns in (["weight", "age"], "weight, age"):
        assert same(pv.load_split(path, columns=columns).x, table[["weight", "age"]])
    data = pv.load_data(path, label="kind", seed=3)
    assert (data.data_shape, data.num_classes, data.binarize) == ((3,), 3, "none")
    assert same(data.test.x, table[NUMBERS].iloc[data.test.index.numpy()])
    assert data.reading == {"scale": None, "columns": NUMBERS, "label": "kind", "classes": ["ape", "cat", "dog"]}


@pytest.mark.parametrize("suffix", ["csv", "tsv", "parquet"])
def test_a_new_table_has_the_same_columns_in_any_order_and_the_same_classes(suffix: str, tmp_path: Path) -> None:
    like = pv.load_data(write(frame(), tmp_path / f"old.{suffix}"), label="kind")
    new = frame(6, seed=1)
    new["kind"] = ["dog"] * 6  # one class of three: still the third
    new["note"] = "free text"
    mixed = pv.load_split(write(new[["note", "weight", "kind", "age", "height"]], tmp_path / f"n.{suffix}"), like=like)
    assert same(mixed.x, new[NUMBERS])
    assert mixed.y.tolist() == [2] * 6
    assert pv.load_split(write(new[NUMBERS], tmp_path / f"u.{suffix}"), like=like.record()).y is None
    for broken, message in (
        (new.drop(columns=["age", "weight"]), "no column 'age', 'weight': it has 'height', 'kind'"),
        (new.assign(kind="cow"), "label 'cow' in row 0 is not among those of the run .'ape', 'cat', 'dog'"),
        (new.assign(age="old"), "column 'age' is text .'old' in row 0"),
    ):
        with pytest.raises(pv.DataError, match=message):
            pv.load_split(write(broken, tmp_path / f"b.{suffix}"), like=like)
    with pytest.raises(pv.DataError, match="by the columns and the label of the run; leave them out"):
        pv.load_split(tmp_path / f"n.{suffix}", like=like, columns="age")


def test_labels_that_look_like_numbers_mean_the_classes_of_the_run(tmp_path: Path) -> None:
    old = text(tmp_path, "a,k\n" + "".join(f"{i}.5,{k}\n" for i, k in enumerate(["10", "9", "x"] * 5)), "old.csv")
    like = pv.load_data(old, label="k")
    assert like.reading["classes"] == ["10", "9", "x"]
    assert pv.load_split(text(tmp_path, "a,k\n1,9\n2,10\n"), like=like).y.tolist() == [1, 0]
    whole = pv.load_data(text(tmp_path, "a,k\n" + "1,7\n" * 9), label="k")
    assert whole.test.y.tolist() == [7, 7]
    with pytest.raises(pv.DataError, match="label 'k' is text, and the labels that it is read like are numbers"):
        pv.load_split(text(tmp_path, "a,k\n1,seven\n"), like=whole)


@pytest.mark.parametrize(
    ("content", "names", "first"),
    [
        ("a,b\n1,2\n3,4\n", ["a", "b"], [1, 2]),
        ("1,2\n3,4\n", ["0", "1"], [1, 2]),
        ("1.5,2e-3\n3,4\n", ["0", "1"], [1.5, 0.002]),
        ("a;b\n1;2\n3;4\n", ["a", "b"], [1, 2]),
        ('"a, in m","b"\n1,2\n3,4\n', ["a, in m", "b"], [1, 2]),
        ("﻿a,b\n1,2\n3,4\n", ["a", "b"], [1, 2]),
        (" a , b \n1, 2\n3, 4\n", ["a", "b"], [1, 2]),
        ("id,2019,2020\n7,1,2\n8,3,4\n", ["id", "2019", "2020"], [7, 1, 2]),
        ("0,1\n0.5,0.25\n3,4\n", ["0", "1"], [0.5, 0.25]),  # as pandas names columns without names
        (",0,1\n0,0.5,0.25\n1,3,4\n", ["0", "1"], [0.5, 0.25]),  # and numbers the rows
        (",a,b\n0,1,2\n1,3,4\n", ["a", "b"], [1, 2]),
        ('"","a","b"\n"1",1,2\n"2",3,4\n', ["a", "b"], [1, 2]),  # as R does
        ("a\n1\n3\n", ["a"], [1]),
        ("a,b\n1,true\n3,false\n", ["a", "b"], [1, 1]),
        ("a,b\n\n1,2\n3,4\n", ["a", "b"], [1, 2]),
        ("a,b\r\n1,2\r\n3,4\r\n", ["a", "b"], [1, 2]),
    ],
)
def test_the_header_is_found(content: str, names: list[str], first: list[float], tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(content.encode())
    whole = pv.load_split(path)
    assert whole.x[0].tolist() == first
    assert len(whole) == 2
    data = pv.load_data(text(tmp_path, content + (content.splitlines()[-1] + "\n") * 8))
    assert data.reading["columns"] == names


def test_a_header_is_not_made_of_a_row_with_a_text_label(tmp_path: Path) -> None:
    path = text(tmp_path, "5.1,3.5,setosa\n4.9,3.0,setosa\n6.2,2.9,virginica\n")
    whole = pv.load_split(path, label="2")
    assert whole.x.tolist() == [[5.1, 3.5], [4.9, 3.0], [6.2, 2.9]]
    assert whole.y.tolist() == [0, 0, 1]


def test_missing_cells_are_nan_and_never_another_number(tmp_path: Path) -> None:
    from ppl_vae.tables import read_table

    for cell in ("", "NA", "NaN", "nan", "null"):
        x, _, _ = read_table(text(tmp_path, f"a,b\n1,{cell}\n3,4\n"), None, None)
        assert np.isnan(x[0, 1]), cell
        assert np.isfinite(x).sum() == 3
    write(pd.DataFrame({"a": [1, None], "b": [None, None], "c": [1, 2]}), tmp_path / "t.parquet")
    x, _, _ = read_table(tmp_path / "t.parquet", None, None)
    assert np.isnan(x).tolist() == [[False, True, False], [True, True, False]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("a,b\n", "no rows"),
        ("a,b\n1,2\n3\n", "cannot be read .*same number of cells"),
        ("a,b\n1,2\n3,4,5\n", "cannot be read .*same number of cells"),
        ("a,a\n1,2\n", "more than one column 'a'"),
        ("a,,c\n1,2,3\n", "column 2 has no name"),
        ("a,b\n1,x\n2,3\n", r"column 'b' is text \('x' in row 0\): leave it out \(columns=, --columns\)"),
        ("a,b\n1,?\n2,3\n", "column 'b' is text .'.' in row 0"),
        ("a,b\n1,2020-01-01\n2,2020-01-02\n", "column 'b' is of type date"),
        ('a,b\n1,"2,5"\n2,"3,5"\n', "column 'b' is text .'2,5' in row 0"),
        ("a,b\n1,inf\n2,3\n", "an infinity, first at index 0"),
    ],
)
def test_tables_that_are_no_data_are_one_line(content: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(pv.DataError, match=message) as caught:
        pv.load_split(text(tmp_path, content))
    assert "t.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"columns": "age,size"}, "no column 'size': it has 'age', 'height'"),
        ({"label": "class"}, "no column 'class' for the label"),
        ({"columns": "age,kind", "label": "kind"}, "name each column once"),
        ({"columns": "age,age"}, "name each column once"),
        ({}, "column 'kind' is text .*make it the label"),
        ({"columns": []}, "no column beside the label"),
    ],
)
def test_a_choice_that_makes_no_sense_is_one_line(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(pv.DataError, match=message):
        pv.load_data(write(frame(), tmp_path / "t.csv"), **options)


def test_labels_that_are_missing_are_named(tmp_path: Path) -> None:
    with pytest.raises(pv.DataError, match="label 'k' is missing in row 1"):
        pv.load_split(text(tmp_path, "a,k\n1,2\n2,\n"), label="k")


def test_columns_are_for_tables(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((9, 2)))
    for source in (tmp_path / "x.npy", "digits", np.zeros((9, 2))):
        with pytest.raises(pv.DataError, match="columns and label are for tables"):
            pv.load_data(source, columns="a")


def test_broken_and_other_files_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "t.parquet").write_bytes(b"PAR1 and no more")
    (tmp_path / "latin.csv").write_bytes("größe\n1\n".encode("latin-1"))
    for name in ("t.parquet", "latin.csv"):
        with pytest.raises(pv.DataError, match=f"{name} cannot be read"):
            pv.load_data(tmp_path / name)
    with pytest.raises(pv.DataError, match="does not exist"):
        pv.load_data(tmp_path / "none.csv")


def test_without_pyarrow_a_line_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("pyarrow", "pyarrow.csv", "pyarrow.parquet"):
        monkeypatch.setitem(sys.modules, module, None)
    for name in ("t.csv", "t.parquet"):
        (tmp_path / name).write_text("a,b\n1,2\n")
        with pytest.raises(pv.DataError, match=r"pip install 'ppl_vae\[tables\]'"):
            pv.load_data(tmp_path / name)


# ---- the command line


def call(*args: Any, code: int = 0) -> Any:
    result = CliRunner().invoke(app, [str(a) for a in args])
    assert result.exit_code == code, (args, result.output, result.exception)
    return result


def test_a_table_is_trained_on_evaluated_and_scored(tmp_path: Path) -> None:
    old = write(frame(60), tmp_path / "old.csv")
    size = ["--epochs", "1", "--hidden", "8", "--latent", "2", "--likelihood", "gaussian_learned", "--no-figures", *FEW]
    out = tmp_path / "run"
    call("train", "cvae", *size, "--data", old, "--label", "kind", "--columns", "height,age", "--out", out)
    config = json.loads((out / "config.json").read_text())
    assert config["data"]["reading"]["columns"] == ["height", "age"]
    assert config["data"]["reading"]["classes"] == ["ape", "cat", "dog"]
    call("evaluate", out, *FEW)
    call("train", "--resume", "--out", out, *FEW, "--no-figures")
    new = frame(7, seed=2)[["age", "kind", "height"]]
    for suffix in ("csv", "parquet"):
        path = write(new, tmp_path / f"new.{suffix}")
        found = json.loads(call("score", out, "--data", path, *FEW, "--json").stdout)
        assert (found["n"], found["quantity"]) == (7, "log p(x | y)")
        labels = pd.read_csv(found["csv"])
        assert labels["index"].tolist() == list(range(7))
        assert labels["label"].tolist() == [["ape", "cat", "dog"].index(k) for k in new.kind]
        assert json.loads(call("evaluate", out, "--data", path, *FEW, "--json").stdout)["n"] == 7
    missing = call("score", out, "--data", write(new[["age", "kind"]], tmp_path / "short.csv"), *FEW, code=2)
    assert "no column 'height': it has 'age', 'kind'" in missing.stderr
    bare = call("score", out, "--data", write(new[["age", "height"]], tmp_path / "bare.csv"), *FEW, code=2)
    assert "give labels y" in bare.stderr
