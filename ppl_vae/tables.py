"""Tables: CSV, TSV and Parquet files to arrays of numbers, with their columns and labels by name."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import DataError

SUFFIXES = (".csv", ".tsv", ".parquet")


def read_table(
    path: Path, columns: str | Sequence[str] | None, label: str | None, like: Mapping[str, Any] | None = None
) -> tuple[npt.NDArray[np.float64], npt.NDArray[Any] | None, dict[str, Any]]:
    """The numbers (N, D) of a table, its labels (N,), and how it was read: ``columns``, ``label`` and ``classes``.

    Args:
        path: a .csv, .tsv or .parquet file. A text file may have a header; a first column without a name in it holds
            the numbers of the rows, and is left out. Without a header the columns are called 0, 1, ...
        columns: those to take, in this order, as a sequence or separated by commas; None takes all but the label.
        label: the column of labels. Text becomes the place of a label among the sorted ones.
        like: how another table was read: the same columns are taken, in any order that they stand in, and the same
            labels mean the same classes. Its label column may be absent.

    Raises:
        DataError: the file is broken, a column is missing, doubled or holds no numbers, or a label is not known.
    """
    like = like if like and like.get("columns") else None
    classes: list[str] | None = None
    if like is not None:
        if columns is not None or label is not None:
            raise DataError(f"{path} is read by the columns and the label of the run; leave them out")
        columns, label, classes = like["columns"], like["label"], like["classes"]
    columns = [c.strip() for c in columns.split(",")] if isinstance(columns, str) else columns
    table = _parquet(path) if path.suffix.lower() == ".parquet" else _text(path, label if classes else None)
    if not len(table):
        raise DataError(f"{path} has no rows: give at least one")
    names = list(table.column_names)
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise DataError(f"{path} has more than one column {twice[0]!r}: give each a name of its own")
    if label is not None and label not in names:
        if like is None:
            raise DataError(f"{path} has no column {label!r} for the label: it has {_listed(names)}")
        label = None
    taken = [n for n in names if n != label] if columns is None else list(columns)
    missing = [c for c in taken if c not in names]
    if missing or not taken:
        what = f"no column {_listed(missing)}" if missing else "no column beside the label"
        raise DataError(f"{path} has {what}: it has {_listed(names)}")
    if label in taken or len(set(taken)) < len(taken):
        raise DataError(f"columns {_listed(taken)}, label {label!r}: name each column once")
    x = np.stack([_numbers(table[name], name, path) for name in taken], axis=1)
    y = None
    if label is not None:
        y, classes = _labels(table[label], label, classes, path, like is not None)
    return x, y, {"scale": None, "columns": taken, "label": like["label"] if like else label, "classes": classes}


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:20])) + (", ..." if len(names) > 20 else "")


def _arrow(module: str, path: Path) -> Any:
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError:
        raise DataError(
            f"{path}: tables are read by pyarrow, which is missing: pip install 'ppl_vae[tables]'"
        ) from None


def _parquet(path: Path) -> Any:
    parquet = _arrow("pyarrow.parquet", path)
    try:
        table = parquet.ParquetFile(path).read()
    except Exception as error:
        raise DataError(f"{path} cannot be read ({_reason(error)}): save it again") from error
    return table.select([i for i, n in enumerate(table.column_names) if not n.startswith("__index_level_")])


def _text(path: Path, text_column: str | None) -> Any:
    """A table of a text file; ``text_column`` is read as text even where it looks like numbers."""
    reader, arrow = _arrow("pyarrow.csv", path), _arrow("pyarrow", path)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            top = file.readline()
            delimiter = "\t" if path.suffix.lower() == ".tsv" else max(",;\t", key=top.count)
            file.seek(0)
            rows = [row for row, _ in zip(csv.reader(file, delimiter=delimiter), range(20), strict=False)]
    except (OSError, UnicodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read ({_reason(error)}): save it as UTF-8 text") from error
    rows = [row for row in rows if row]
    if not rows:
        raise DataError(f"{path} is empty: give a table with at least one row")
    has_header = _is_header(rows)
    names = [name.strip() for name in rows[0]] if has_header else [str(i) for i in range(len(rows[0]))]
    numbered = has_header and not names[0] and len(names) > 1  # the row numbers that pandas and R write
    if not all(names[numbered:]):
        raise DataError(f"{path}: column {names.index('', int(numbered)) + 1} has no name: name it in the header")
    unique = [f"{i}" for i in range(len(names))]  # pyarrow refuses doubled names with a line of its own
    types = {unique[names.index(text_column)]: arrow.string()} if text_column in names else {}
    try:
        table = reader.read_csv(
            path,
            read_options=reader.ReadOptions(column_names=unique, skip_rows=int(has_header)),
            parse_options=reader.ParseOptions(delimiter=delimiter, newlines_in_values=True),
            convert_options=reader.ConvertOptions(column_types=types),
        )
    except Exception as error:
        raise DataError(f"{path} cannot be read ({_reason(error)}): give each row the same number of cells") from error
    return table.rename_columns(names).select(range(int(numbered), len(names)))


def _is_header(rows: list[list[str]]) -> bool:
    """Whether the first row names the columns.

    It does where a column has a word above numbers, where all of it is words, or where it counts 0, 1, 2, ... as
    pandas does for columns without names.
    """
    first, rest = rows[0], rows[1:]
    counted = first[1:] if not first[0].strip() else first
    if [c.strip() for c in counted] == [str(i) for i in range(len(counted))] and (rest and len(first) > 1):
        return True
    words = [not _is_number(cell) for cell in first]
    above = [
        word and any(_is_number(row[i]) and row[i].strip() for row in rest if i < len(row))
        for i, word in enumerate(words)
    ]
    return any(above) or all(words) or (not first[0].strip() and len(first) > 1 and any(words[1:]))


def _is_number(cell: str) -> bool:
    """Whether a cell is a number, or missing."""
    try:
        float(cell)
    except ValueError:
        return cell.strip().lower() in ("", "na", "n/a", "#n/a", "null", "none")
    return True


def _numbers(column: Any, name: str, path: Path) -> npt.NDArray[np.float64]:
    """A column as numbers; NaN where a cell is missing."""
    import pyarrow as arrow

    kind = column.type
    types = arrow.types
    if not (types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind) or types.is_decimal(kind)):
        if types.is_null(kind):
            return np.full(len(column), np.nan)
        what = "text" if _is_text(kind) else f"of type {kind}"
        raise DataError(
            f"{path}: column {name!r} is {what}{_example(column, what)}: leave it out (columns=, --columns), write it "
            f"as numbers, or make it the label (label=, --label)"
        )
    if types.is_boolean(kind):
        column = column.cast(arrow.int8())
    found: npt.NDArray[np.float64] = column.cast(arrow.float64(), safe=False).to_numpy()
    return found


def _is_text(kind: Any) -> bool:
    import pyarrow as arrow

    kind = kind.value_type if arrow.types.is_dictionary(kind) else kind
    return bool(arrow.types.is_string(kind) or arrow.types.is_large_string(kind))


def _example(column: Any, what: str) -> str:
    """The first cell of a text column that is no number."""
    if what != "text":
        return ""
    for i, cell in enumerate(column.to_pylist()):
        if cell is not None and not _is_number(cell):
            return f" ({cell[:40]!r} in row {i})"
    return ""


def _labels(
    column: Any, name: str, classes: list[str] | None, path: Path, is_new: bool
) -> tuple[npt.NDArray[Any], list[str] | None]:
    """Labels as numbers, and the classes that text stands for."""
    import pyarrow as arrow

    if column.null_count:
        row = column.is_null().to_pylist().index(True)
        raise DataError(f"{path}: the label {name!r} is missing in row {row}: fill it in, or drop that row")
    if classes is not None:
        column = column.cast(arrow.string())
    if not _is_text(column.type):
        return _numbers(column, name, path) if arrow.types.is_floating(column.type) else np.array(
            column.cast(arrow.int64()).to_pylist(), np.int64
        ), None
    values = column.to_pylist()
    if classes is None and is_new:
        raise DataError(f"{path}: the label {name!r} is text, and the labels that it is read like are numbers")
    known = sorted(set(values)) if classes is None else classes
    place = {v: i for i, v in enumerate(known)}
    unknown = next((i for i, v in enumerate(values) if v not in place), None)
    if unknown is not None:
        raise DataError(
            f"{path}: the label {values[unknown]!r} in row {unknown} is not among those of the run ({_listed(known)})"
        )
    return np.array([place[v] for v in values], np.int64), known


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
