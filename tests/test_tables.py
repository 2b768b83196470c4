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
from ppl_vae.cli.app import app
from ppl_vae.data.tables import read_table

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
    header, classes = None if suffix == "parquet" else True, ["ape", "cat", "dog"]
    how = {"header": header, "whole": False, "columns": NUMBERS, "label": "kind", "classes": classes}
    assert data.reading == {"scale": None, **how}


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
        ('"a\nin m",b\n1,2\n3,4\n', ["a\nin m", "b"], [1, 2]),
        ("\n\na,b\n1,2\n3,4\n", ["a", "b"], [1, 2]),
        ("2019_20,2020_21\n1,2\n3,4\n", ["2019_20", "2020_21"], [1, 2]),
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
    x, _, reading = read_table(path)
    assert (x[0].tolist(), len(x), reading["columns"]) == (first, 2, names)


def test_a_header_is_not_made_of_a_row_with_a_text_label(tmp_path: Path) -> None:
    path = text(tmp_path, "5.1,3.5,setosa\n4.9,3.0,setosa\n6.2,2.9,virginica\n")
    whole = pv.load_split(path, label="2")
    assert whole.x.tolist() == [[5.1, 3.5], [4.9, 3.0], [6.2, 2.9]]
    assert whole.y.tolist() == [0, 0, 1]


def test_missing_cells_are_nan_and_never_another_number(tmp_path: Path) -> None:
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


# ---- the first row


@pytest.mark.parametrize("content", ["0,1\n1,0\n1,1\n", "400,410\n1,0\n1,1\n", "0\n5\n7\n", "1.5\n5\n7\n"])
def test_a_first_row_of_numbers_is_data_unless_it_is_called_a_header(content: str, tmp_path: Path) -> None:
    path = text(tmp_path, content)
    x, _, reading = read_table(path)
    assert (len(x), x[0].tolist(), reading["header"]) == (3, [float(v) for v in content.split()[0].split(",")], False)
    x, _, reading = read_table(path, header=True)
    assert (len(x), reading["columns"], reading["header"]) == (2, content.split()[0].split(","), True)
    assert len(read_table(text(tmp_path, "a,b\n1,2\n"), header=True)[0]) == 1
    with pytest.raises(pv.DataError, match=r"column '0' is text .'a' in row 0"):
        read_table(text(tmp_path, "a,b\n1,2\n"), header=False)


def test_what_was_taken_for_the_header_is_said_and_holds_for_new_files(tmp_path: Path) -> None:
    rows = "".join(f"{i},{i % 3}\n" for i in range(20))
    named = pv.load_data(text(tmp_path, "400,410\n" + rows), header=True)
    bare = pv.load_data(text(tmp_path, rows))
    assert "header 400, 410," in repr(named)
    assert "no header," in repr(bare)
    assert "header" not in repr(pv.load_data(np.zeros((20, 2))))
    new = text(tmp_path, "410,400\n1,2\n", "new.csv")
    assert pv.load_split(new, like=named.record()).x.tolist() == [[2, 1]]
    assert pv.load_split(new, like=bare).x.tolist() == [[410, 400], [1, 2]]
    with pytest.raises(pv.DataError, match="no column '0', '1': it has '410', '400'"):
        pv.load_split(new, like=bare, header=True)
    with pytest.raises(
        pv.DataError, match=r"no column 'b' .*it has '0', '1' .no header: the first row is data, unless"
    ):
        pv.load_split(text(tmp_path, "1,x\n2,y\n"), label="b")


def test_header_is_for_text_tables(tmp_path: Path) -> None:
    for source in (write(frame(), tmp_path / "t.parquet"), np.zeros((9, 2)), frame(), "digits"):
        with pytest.raises(pv.DataError, match=r"header is for text tables \(.csv, .tsv\)"):
            pv.load_data(source, header=True)


def test_a_first_column_without_a_name_is_left_out_only_where_it_counts_the_rows(tmp_path: Path) -> None:
    for numbers in ((0, 1, 2), (1, 2, 3)):
        path = text(tmp_path, ",a\n" + "".join(f"{i},{i + 0.5}\n" for i in numbers))
        assert read_table(path)[0].tolist() == [[i + 0.5] for i in numbers]
    for numbers in ((5, 3, 8), (0.5, 1.5, 2.5), (0, 1, ""), ("x", "y", "z"), (0, 2, 1)):
        path = text(tmp_path, ",a\n" + "".join(f"{i},1.5\n" for i in numbers))
        with pytest.raises(pv.DataError, match="the first column has no name, and does not count the rows"):
            read_table(path)
        assert read_table(path, "a")[0].tolist() == [[1.5]] * 3


@pytest.mark.parametrize("name", ["t.csv", "t.tsv"])
def test_a_blank_cell_of_one_column_is_missing_and_no_row_is_lost(name: str, tmp_path: Path) -> None:
    for content in ("a\n1\n\n3\n", '"a"\n1\n""\n3\n', "1\n\n3\n", "a\n1\nNA\n3\n"):
        x, _, _ = read_table(text(tmp_path, content, name))
        assert np.array_equal(x[:, 0], [1, np.nan, 3], equal_nan=True), content


def test_the_type_of_a_column_is_that_of_all_its_rows(tmp_path: Path) -> None:
    x, _, _ = read_table(text(tmp_path, "a,b\n" + "1,2\n" * 400_000 + "1.5,2\n"))
    assert (x.dtype, x[-1].tolist()) == (np.float64, [1.5, 2])


# ---- labels and numbers of every type


@pytest.mark.parametrize("cell", ["", "NA", "nan", "NaN", "null", "N/A"])
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_text_labels_that_are_missing_are_no_class(cell: str, suffix: str, tmp_path: Path) -> None:
    table = pd.DataFrame({"a": [1.0, 2, 3], "k": ["cat", cell, "dog"]})
    with pytest.raises(pv.DataError, match="label 'k' is missing in row 1: fill it in"):
        read_table(write(table, tmp_path / f"t.{suffix}"), label="k")


def test_labels_that_are_no_labels_are_one_line(tmp_path: Path) -> None:
    from datetime import date
    from decimal import Decimal

    import pyarrow as pa

    days = [date(2020, 1, 1), date(2020, 1, 2)]
    stamps = pd.to_datetime(["2020-01-01 00:00:00.000000001", None])
    with pytest.raises(pv.DataError, match="label 'k' is missing in row 0"):
        pv.load_split(pa.table({"a": [1.0, 2.0], "k": [None, None]}), label="k")
    for values in (days, stamps, pd.to_datetime(days), [[1], [2]], [{"b": 1}] * 2, [Decimal("1.5")] * 2, [b"x", b"y"]):
        table = pa.table({"a": [1.0, 2.0], "k": values})
        with pytest.raises(pv.DataError, match=r"label 'k' is of type [^\n]*: give text or whole numbers") as caught:
            pv.load_split(table, label="k")
        assert "\n" not in str(caught.value)
    with pytest.raises(pv.DataError, match="label 'k' is of type date"):
        pv.load_split(text(tmp_path, "a,k\n1,2020-01-01\n2,2020-01-02\n"), label="k")
    with pytest.raises(pv.DataError, match="label 'k' has a number above 2"):
        pv.load_split(pa.table({"a": [1.0], "k": pa.array([2**63], pa.uint64())}), label="k")
    with pytest.raises(pv.DataError, match="column 'a' has a number above 2"):
        pv.load_split(pa.table({"a": pa.array([2**63], pa.uint64())}))


def test_times_and_identifiers_are_no_classes() -> None:
    x = torch.rand(40, 3)
    data = pv.load_data((x, torch.arange(40) + 1577836761))
    with pytest.raises(pv.UserError, match="labels run from 1577836761 to 1577836800 for 40 examples"):
        pv.build("cvae", data=data, latent=2)
    pv.build("vae", data=data, latent=2)
    pv.build("cvae", data=pv.load_data((x, torch.arange(40))), latent=2)
    assert pv.build("cvae", data=data, latent=2, num_classes=3).model.num_classes == 3


@pytest.mark.parametrize("suffix", ["csv", "tsv", "parquet"])
def test_whole_numbers_stay_whole_where_all_are_and_none_is_missing(suffix: str, tmp_path: Path) -> None:
    table = pd.DataFrame({"a": [1, 2, 2**53 + 1], "b": np.array([3, 4, 5], np.int8), "c": [1.0, 2.5, 3.0]})
    path = write(table, tmp_path / f"t.{suffix}")
    whole = pv.load_split(path, columns="a,b")
    assert whole.x.dtype == torch.int64
    assert whole.x.tolist() == [[1, 3], [2, 4], [2**53 + 1, 5]]
    assert pv.load_split(path).x.dtype == torch.float64
    few = pd.DataFrame({"a": [1, None, 3], "b": [3, 4, 5]}).astype("Int64")
    gaps = pv.load_split(write(few, tmp_path / f"g.{suffix}"))
    assert gaps.x.dtype == torch.float64
    assert gaps.x.isnan().sum() == 1
    real = pv.load_data(write(pd.DataFrame({"a": np.arange(20) / 2, "b": 1}), tmp_path / f"r.{suffix}"))
    assert pv.load_split(write(table[["a", "b"]], tmp_path / f"n.{suffix}"), like=real).x.dtype == torch.float64


@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli"])
def test_whole_tables_train_pairs_that_take_floating_numbers(likelihood: str, tmp_path: Path) -> None:
    g = np.random.default_rng(0)
    bits = pd.DataFrame(g.integers(0, 2, (60, 4)), columns=list("abcd"))
    data = pv.load_data(write(bits, tmp_path / "t.csv"))
    assert data.train.x.dtype == torch.int64
    assert torch.allclose(data.mean, data.train.x.float().mean(0))
    found = []
    for each in (data, pv.load_data(bits.to_numpy(float))):
        torch.manual_seed(0)
        pair = pv.build("vae", data=each, latent=2, hidden=(4,), likelihood=likelihood)
        pv.fit(pair, each, epochs=1, device="cpu", seed=0)
        found.append(pv.log_likelihood(pair, each.test, num_samples=10, seed=0).log_px)
    assert torch.allclose(*found, atol=1e-4)


def test_python_integers_stay_whole_and_large_ones_are_refused() -> None:
    from ppl_vae.data.convert import data, labels, tensor

    assert tensor(np.array([[1, 2], [3, 2**53 + 1]], object), "x").tolist() == [[1, 2], [3, 2**53 + 1]]
    assert tensor(np.array([1, 2.5], object), "x").dtype == torch.float64
    mixed = pd.DataFrame({"a": np.array([1, 2], np.int32), "b": np.array([3, 4], np.int64)})
    assert data(mixed).dtype == torch.int64
    top = 2**63 - 1
    assert data(np.array([[top]], np.uint64)).item() == labels(np.array([top], np.uint64), 1).item() == top
    for large in (np.array([1, 2**63], np.uint64), [1, 2**63], np.array([1, 2**64], object), [1, 2**70]):
        for read in (data, lambda v: labels(v, 2)):
            with pytest.raises(pv.DataError, match="whole number outside the range of int64"):
                read(large)
    assert data([1.0, 2.0**70]).dtype == torch.float64
    with pytest.raises(pv.DataError, match="whole number outside the range of int64"):
        data(torch.tensor([1, 2**63], dtype=torch.uint64))


# ---- tables in memory


@pytest.mark.parametrize("form", ["pandas", "category", "pyarrow"])
def test_a_table_in_memory_is_read_as_its_file_is(form: str, tmp_path: Path) -> None:
    import pyarrow as pa

    def given(table: pd.DataFrame) -> Any:
        if form == "category" and "kind" in table:
            return table.astype({"kind": "category"})
        return pa.Table.from_pandas(table) if form == "pyarrow" else table

    table = frame()
    like = pv.load_data(write(table, tmp_path / "t.parquet"), label="kind", columns="height,age", seed=3)
    data = pv.load_data(given(table), label="kind", columns=["height", "age"], seed=3)
    assert data.reading == like.reading
    assert torch.equal(data.test.x, like.test.x)
    assert torch.equal(data.test.y, like.test.y)
    new = frame(6, seed=1)
    assert torch.equal(
        pv.load_split(given(new), like=data).x, pv.load_split(given(new[["age", "height"]]), like=data).x
    )
    assert same(pv.load_split(given(new), like=data.record()).x, new[["height", "age"]])
    with pytest.raises(pv.DataError, match="the table has no column 'kin' for the label"):
        pv.load_data(given(table), label="kin")
    with pytest.raises(pv.DataError, match="the table: column 'kind' is text"):
        pv.load_data(given(table), columns="kind")


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


def test_the_command_line_says_and_takes_the_header_and_names_of_labels(tmp_path: Path) -> None:
    g = np.random.default_rng(0)
    table = pd.DataFrame({"400": g.normal(size=60), "410": g.normal(size=60), "kind": ["cat", "dog", "emu"] * 20})
    out, new = tmp_path / "run", text(tmp_path, "410,400\n1,2\n3,4\n", "new.csv")
    size = ["--epochs", "1", "--hidden", "4", "--latent", "2", "--likelihood", "gaussian", "--no-figures", *FEW]
    old = write(table, tmp_path / "old.csv")
    said = call("train", "cvae", *size, "--data", old, "--header", "--label", "kind", "--out", out)
    assert "table: header 400, 410" in said.stderr
    assert json.loads((out / "config.json").read_text())["data"]["reading"]["header"] is True
    drawn = []
    for label in ("dog", "1", "emu"):
        call("sample", out, "-n", "3", "--draw", "--label", label, "--device", "cpu")
        drawn.append(np.load(out / "samples.npy").tolist())
    assert drawn[0] == drawn[1] != drawn[2]
    for label in ("cow", "3", "-1"):
        line = call("sample", out, f"--label={label}", "--device", "cpu", code=2).stderr
        assert f"error: --label {label}: this run has the classes cat, dog, emu" in line
    line = call("evaluate", out, "--no-header", *FEW, code=2).stderr
    assert "--header and --no-header are for a file that --data names" in line
    bare = tmp_path / "bare"
    said = call("train", "vae", *size, "--data", write(table[["400", "410"]], tmp_path / "o.csv"), "--out", bare)
    assert "table: no header" in said.stderr
    assert json.loads(call("evaluate", bare, "--data", new, *FEW, "--json").stdout)["n"] == 3
    assert "has no column" in call("evaluate", bare, "--data", new, "--header", *FEW, code=2).stderr
    call("evaluate", bare, *FEW)
    call("train", "--resume", "--out", bare, *FEW, "--no-figures")


@pytest.mark.parametrize("pair", ["made", "autoencoder"])
def test_whole_tables_go_through_the_command_line(pair: str, tmp_path: Path) -> None:
    bits = pd.DataFrame(np.random.default_rng(0).integers(0, 2, (60, 4)), columns=list("abcd"))
    path, out = write(bits, tmp_path / "t.csv"), tmp_path / "run"
    call("train", pair, "--data", path, "--epochs", "1", "--hidden", "4", "--no-figures", "--out", out, *FEW)
    assert json.loads((out / "evaluation.json").read_text())["n"] == 12


def frames() -> tuple[Any, Any, Any]:
    """A table, the same with its columns in another order, and one that lacks a column."""
    one = pd.DataFrame(np.random.default_rng(0).normal(size=(40, 3)), columns=["a", "b", "c"])
    return one, one[["c", "a", "b"]], one.rename(columns={"a": "q"})


@pytest.mark.parametrize("form", ["table", "table and labels", "bytes"])
def test_a_table_in_memory_is_matched_by_name_however_it_was_given(form: str, tmp_path: Path) -> None:
    one, other, lacking = frames()
    if form == "bytes":
        one, other, lacking = ((f * 50).clip(0, 255).astype(np.uint8) for f in (one, other, lacking))
    y = np.arange(40) % 3
    data = pv.load_data((one, y) if form == "table and labels" else one, binarize="none")
    whole = pv.load_split(one.to_numpy(), like=data)
    for source in (other, (other, y)):
        assert torch.allclose(pv.load_split(source, like=data).x.double(), whole.x.double())
    other.to_csv(tmp_path / "other.csv", index=False)
    if form != "bytes":
        assert torch.allclose(pv.load_split(tmp_path / "other.csv", like=data).x, whole.x)
    with pytest.raises(pv.DataError, match="no column 'a'"):
        pv.load_split(lacking, like=data)


@pytest.mark.parametrize("through", ["the table", "load_data"])
def test_a_pair_takes_the_columns_of_a_table_by_name_from_its_first_one_on(through: str, tmp_path: Path) -> None:
    one, other, lacking = frames()
    torch.manual_seed(0)
    pair = pv.build("linear", data_shape=(3,), latent=1)
    data = one if through == "the table" else pv.load_data(one)
    pv.fit(pair, data, epochs=1, progress=False, device="cpu", run_dir=tmp_path / "run")
    expected = pv.log_likelihood(pair, one.to_numpy(), num_samples=5).log_px
    for found in (pair, pair.with_guide(pair.guide), pv.load(tmp_path / "run")):
        for table in (other, one, other.assign(more=1.0), (other, None)):
            assert torch.equal(pv.log_likelihood(found, table, num_samples=5).log_px, expected)
        with pytest.raises(pv.DataError, match="no column 'a', and this pair was given 'a', 'b', 'c' before"):
            pv.log_likelihood(found, lacking, num_samples=5)


def test_columns_without_names_are_those_of_an_array() -> None:
    one, _, _ = frames()
    data = pv.load_data(pd.DataFrame(one.to_numpy()))
    assert data.reading == {"scale": None}
    assert torch.equal(pv.load_split(one, like=data).x, torch.tensor(one.to_numpy()))
