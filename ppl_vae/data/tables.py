"""Tables: CSV, TSV and Parquet files to arrays of numbers, with their columns and labels by name."""

from __future__ import annotations

import csv
import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..common.errors import DataError
from ..common.files import reason

SUFFIXES = (".csv", ".tsv", ".parquet")
TEXT = (".csv", ".tsv")
_MISSING = ("", "NA", "<NA>", "N/A", "n/a", "#N/A", "NaN", "nan", "NULL", "null")  # text that stands for no label


def is_table(source: Any) -> bool:
    """Whether an object is a table with named columns, of pandas or pyarrow."""
    return hasattr(source, "columns") and (hasattr(source, "dtypes") or hasattr(source, "column_names"))


def names_of(source: Any) -> list[str] | None:
    """The names of the columns of a table of pandas; None where they only count 0, 1, ..., as those of an array do."""
    return named_only(list(map(str, source.columns)))


def named_only(names: list[str]) -> list[str] | None:
    """Names of columns; None where they only count 0, 1, ..."""
    return None if names == [str(i) for i in range(len(names))] else names


def in_order(source: Any, names: list[str]) -> Any:
    """The named columns of a table of pandas, in this order; the table itself where its columns have no names.

    Raises:
        DataError: it lacks one of them, or has one twice.
    """
    found = names_of(source)
    if found is None or found == names:
        return source
    wrong = [n for n in names if found.count(n) != 1]
    if wrong:
        has = "no" if wrong[0] not in found else "more than one"
        raise DataError(
            f"the table has {has} column {wrong[0]!r}, and this pair was given {_listed(names)} before: name the "
            f"columns so, or give an array, x.to_numpy()"
        )
    return source.iloc[:, [found.index(n) for n in names]]


def read_table(
    source: Any,
    columns: str | Sequence[str] | None = None,
    label: str | None = None,
    like: Mapping[str, Any] | None = None,
    header: bool | None = None,
) -> tuple[npt.NDArray[Any], npt.NDArray[Any] | None, dict[str, Any]]:
    """The numbers (N, D) of a table, its labels (N,), and how it was read, for JSON.

    The numbers are int64 where every column that is taken holds whole numbers and none is missing, and else float64
    with NaN for a missing cell.

    Args:
        source: the path of a .csv, .tsv or .parquet file, or a table of pandas or pyarrow.
        columns: those to take, in this order, as a sequence or separated by commas; None takes all but the label.
        label: the column of labels. Text becomes the place of a label among the sorted ones.
        like: how another table was read: the same columns are taken, in any order that they stand in, and the same
            labels mean the same classes. Its label column may be absent.
        header: whether the first row of a text file names the columns. None: it does where it has a word above a
            number, or is all words; a first row of numbers is data. Without a header the columns are called 0, 1, ...
            A first column without a name in the header is left out where it counts the rows from 0 or 1.

    Raises:
        DataError: the file is broken, a column is missing, doubled or holds no numbers, or a label is not known.
    """
    like = like if like and like.get("columns") else None
    where = "the table" if is_table(source) else source
    is_text = not is_table(source) and source.suffix.lower() in TEXT
    if header is not None and not is_text:
        raise DataError(f"header is for text tables ({', '.join(TEXT)}), which {where} is not: leave it out")
    if like is not None:
        if columns is not None or label is not None:
            raise DataError(f"{where} is read by the columns and the label of the run; leave them out")
        columns, label = like["columns"], like["label"]
        header = like.get("header") if header is None and is_text else header
    classes: list[str] | None = like["classes"] if like else None
    label = None if label is None else str(label)
    if is_text:
        table, header = _read_text(source, label if classes else None, header)
    else:
        table = _read_arrow(source, where)
    if not len(table):
        raise DataError(f"{where} has no rows: give at least one")
    hint = " (no header: the first row is data, unless header=True, --header)" if header is False else ""
    taken, has_label = _columns(table.column_names, columns, label, like is not None, where, hint)
    picked = {name: _plain(table[name]) for name in taken}
    whole = all(map(_is_whole, picked.values())) and not (like and like.get("whole") is False)
    x = np.stack([_numbers(column, f"{where}: column {name!r}", whole) for name, column in picked.items()], axis=1)
    y = None
    if has_label:
        y, classes = _labels(_plain(table[label]), label, where, classes, like is not None)
    reading = {"columns": taken, "label": like["label"] if like else label, "classes": classes}
    return x, y, {"scale": None, **reading, "header": header, "whole": whole}


def header_of(reading: Mapping[str, Any]) -> str:
    """What was taken for the header of a text table, for messages; nothing for other data.

    Example:
        >>> header_of({"columns": ["a", "b"], "header": True}), header_of({"columns": ["0"], "header": False})
        ('header a, b', 'no header')
    """
    if reading.get("header") is None:
        return ""
    names = [*map(str, reading["columns"][:10]), *(["..."] if len(reading["columns"]) > 10 else [])]
    return f"header {', '.join(names)}" if reading["header"] else "no header"


def _columns(
    names: list[str], columns: str | Sequence[str] | None, label: str | None, is_new: bool, where: Any, hint: str
) -> tuple[list[str], bool]:
    """The columns to take, and whether the column of labels is there."""
    has = f"it has {_listed(names)}{hint}"
    if doubled := sorted({n for n in names if names.count(n) > 1}):
        raise DataError(f"{where} has more than one column {doubled[0]!r}: rename all but one")
    if label is not None and label not in names and not is_new:
        raise DataError(f"{where} has no column {label!r} for the label: {has}")
    columns = [c.strip() for c in columns.split(",")] if isinstance(columns, str) else columns
    taken = [n for n in names if n != label] if columns is None else [str(c) for c in columns]
    absent = [c for c in taken if c not in names]
    if absent or not taken:
        what = f"no column {_listed(absent)}" if absent else "no column beside the label"
        raise DataError(f"{where} has {what}: {has}")
    if label in taken or len(set(taken)) < len(taken):
        raise DataError(f"columns {_listed(taken)}, label {label!r}: name each column once")
    if columns is None and "" in taken:
        raise DataError(
            f"{where}: the first column has no name, and does not count the rows from 0 or 1: name it in the header, "
            f"or choose the columns to take (columns=, --columns)"
        )
    return taken, label in names


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:20])) + (", ..." if len(names) > 20 else "")


def arrow_module(module: str, where: Any) -> Any:
    """A module of pyarrow, which is an extra.

    Args:
        module: such as ``"pyarrow.parquet"``.
        where: what it is needed for, in the message.

    Raises:
        DataError: pyarrow is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        raise DataError(f"{where}: this needs pyarrow, which is missing: pip install 'ppl_vae[tables]'") from None


def _read_arrow(source: Any, where: Any) -> Any:
    """A Parquet file, or a table of pandas or pyarrow, without the index of pandas."""
    arrow, parquet = arrow_module("pyarrow", where), arrow_module("pyarrow.parquet", where)
    if hasattr(source, "column_names"):
        return source
    try:
        if is_table(source):
            return arrow.Table.from_pandas(source, preserve_index=False)
        table = parquet.ParquetFile(source).read()
    except Exception as error:
        fix = "give each column one type" if is_table(source) else "save it again"
        raise DataError(f"{where} cannot be read ({reason(error)}): {fix}") from error
    return table.select([i for i, n in enumerate(table.column_names) if not n.startswith("__index_level_")])


def _read_text(path: Path, text_column: str | None, header: bool | None) -> tuple[Any, bool]:
    """A table of a text file, and whether it has a header; ``text_column`` is text even where it looks like numbers."""
    reader, arrow = arrow_module("pyarrow.csv", path), arrow_module("pyarrow", path)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            top = next((line for line in file if line.strip()), "")
            delimiter = "\t" if path.suffix.lower() == ".tsv" else max(",;\t", key=top.count)
            file.seek(0)
            lines = csv.reader(file, delimiter=delimiter)
            rows = [(row, lines.line_num) for row, _ in zip(lines, range(20), strict=False)]
    except (OSError, UnicodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read ({reason(error)}): save it as UTF-8 text") from error
    if not any(row for row, _ in rows):
        raise DataError(f"{path} is empty: give a table with at least one row")
    one = max(len(row) for row, _ in rows) == 1  # where a blank line is a missing cell
    rows = [(row or [""], line) for row, line in rows if row or one]
    first, line = rows[0]
    header = _is_header([row for row, _ in rows]) if header is None else header
    names = [name.strip() for name in first] if header else [str(i) for i in range(len(first))]
    unnamed = header and not names[0] and len(names) > 1  # as pandas and R head the numbers of the rows
    if not all(names[unnamed:]):
        raise DataError(f"{path}: column {names.index('', int(unnamed)) + 1} has no name: name it in the header")
    unique = [f"{i}" for i in range(len(names))]  # pyarrow refuses doubled names
    types = {unique[names.index(text_column)]: arrow.string()} if text_column in names else {}
    block = min(max(path.stat().st_size + 1, 1 << 20), (1 << 31) - 1)  # one: the type of a column is that of all of it
    try:
        table = reader.read_csv(
            path,
            read_options=reader.ReadOptions(column_names=unique, skip_rows=line if header else 0, block_size=block),
            parse_options=reader.ParseOptions(delimiter=delimiter, newlines_in_values=True, ignore_empty_lines=not one),
            convert_options=reader.ConvertOptions(column_types=types),
        )
    except Exception as error:
        if "Empty CSV" in str(error):
            raise DataError(f"{path} has no rows: give at least one") from error
        raise DataError(f"{path} cannot be read ({reason(error)}): give each row the same number of cells") from error
    counted = unnamed and _counts(table.column(0))
    return table.rename_columns(names).select(range(int(counted), len(names))), header


def _counts(column: Any) -> bool:
    """Whether a column is 0 ... N - 1, or 1 ... N."""
    if not _is_whole(column):
        return False
    found = column.to_numpy()
    return bool(found[0] in (0, 1) and (found - found[0] == np.arange(len(found))).all())


def _is_header(rows: list[list[str]]) -> bool:
    """Whether the first row names the columns: it has a word above a number, or is all words.

    A row of numbers does so only where it counts 0, 1, 2, ... beside an empty corner above the numbers of the rows, as
    pandas writes columns without names.
    """
    first, rest = rows[0], rows[1:]
    corner = not first[0].strip() and len(first) > 1
    numbered = [row[0].strip() for row in rest] in ([str(i + k) for i in range(len(rest))] for k in (0, 1))
    if corner and rest and numbered and [c.strip() for c in first[1:]] == [str(i) for i in range(len(first) - 1)]:
        return True
    words = [not _is_number(cell) for cell in first]
    above = [
        word and any(_is_number(row[i]) and row[i].strip() for row in rest if i < len(row))
        for i, word in enumerate(words)
    ]
    return any(above) or all(words) or (corner and any(words[1:]))


def _is_number(cell: str) -> bool:
    """Whether a cell is a number, or missing."""
    try:
        float(cell)
    except ValueError:
        return cell.strip().lower() in ("", "na", "n/a", "#n/a", "null", "none")
    return "_" not in cell  # 2019_20 is a number of Python only


def _kind(column: Any) -> str:
    """What a column holds: whole, real, decimal, truth, text, nothing, or the name of another type."""
    from pyarrow import types

    tests = {
        "whole": (types.is_integer,),
        "real": (types.is_floating,),
        "decimal": (types.is_decimal,),
        "truth": (types.is_boolean,),
        "text": (types.is_string, types.is_large_string, types.is_string_view),
        "nothing": (types.is_null,),
    }
    return next((name for name, are in tests.items() if any(is_one(column.type) for is_one in are)), str(column.type))


def _plain(column: Any) -> Any:
    """A column that holds its values themselves, not their places among categories."""
    kind = column.type
    return column.cast(kind.value_type) if hasattr(kind, "value_type") and hasattr(kind, "index_type") else column


def _is_whole(column: Any) -> bool:
    """Whether a column holds whole numbers, and one in every row."""
    return _kind(column) == "whole" and not column.null_count


def _numbers(column: Any, where: str, whole: bool) -> npt.NDArray[Any]:
    """A column as whole numbers, or as real ones with NaN where a cell is missing."""
    kind = _kind(column)
    if kind not in ("whole", "real", "decimal", "truth", "nothing"):
        what = f"of type {kind}"
        if kind == "text":
            cells = ((i, c) for i, c in enumerate(column.to_pylist()) if c is not None and not _is_number(c))
            what = "text" + next((f" ({cell[:40]!r} in row {i})" for i, cell in cells), "")
        raise DataError(
            f"{where} is {what}: leave it out (columns=, --columns), write it as numbers, or make it the label "
            f"(label=, --label)"
        )
    try:
        found: npt.NDArray[Any] = column.cast("int64" if whole else "float64", safe=whole).to_numpy()
    except ValueError as error:  # of pyarrow
        raise DataError(f"{where} has a number above 2^63 - 1, the largest whole one: write smaller numbers") from error
    return found


def _labels(
    column: Any, name: Any, where: Any, classes: list[str] | None, is_new: bool
) -> tuple[npt.NDArray[Any], list[str] | None]:
    """Labels as numbers, and the classes that text stands for."""
    kind, values, about = _kind(column), column.to_pylist(), f"{where}: the label {name!r}"
    if kind not in ("whole", "real", "truth", "text", "nothing"):
        raise DataError(f"{about} is of type {kind}: give text or whole numbers for classes, or floating ones")
    row = next((i for i, v in enumerate(values) if v is None or str(v).strip() in _MISSING), None)
    if row is not None:
        raise DataError(f"{about} is missing in row {row}: fill it in, or drop that row")
    if classes is None and kind != "text":
        return _numbers(column, about, whole=kind != "real"), None
    if classes is None and is_new:
        raise DataError(f"{about} is text, and the labels that it is read like are numbers")
    values = column.cast("string").to_pylist()
    known = sorted(set(values)) if classes is None else classes
    place = {v: i for i, v in enumerate(known)}
    unknown = next((i for i, v in enumerate(values) if v not in place), None)
    if unknown is not None:
        raise DataError(
            f"{where}: the label {values[unknown]!r} in row {unknown} is not among those of the run ({_listed(known)})"
        )
    return np.array([place[v] for v in values], np.int64), known
