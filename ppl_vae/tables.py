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
    where: Any = "the table" if is_table(source) else source
    is_file = not is_table(source)
    is_text = is_file and source.suffix.lower() in TEXT
    if header is not None and not is_text:
        raise DataError(f"header is for text tables ({', '.join(TEXT)}), which {where} is not: leave it out")
    classes: list[str] | None = None
    if like is not None:
        if columns is not None or label is not None:
            raise DataError(f"{where} is read by the columns and the label of the run; leave them out")
        columns, label, classes = like["columns"], like["label"], like["classes"]
        header = like.get("header") if header is None and is_text else header
    columns = [c.strip() for c in columns.split(",")] if isinstance(columns, str) else columns
    label = None if label is None else str(label)
    if is_text:
        table, header = _text(source, label if classes else None, header)
    else:
        table = _parquet(source) if is_file else _arrow_table(source)
    if not len(table):
        raise DataError(f"{where} has no rows: give at least one")
    names = list(table.column_names)
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise DataError(f"{where} has more than one column {twice[0]!r}: give each a name of its own")
    hint = "" if header is not False else " (no header: the first row is data, unless header=True, --header)"
    if label is not None and label not in names:
        if like is None:
            raise DataError(f"{where} has no column {label!r} for the label: it has {_listed(names)}{hint}")
        label = None
    taken = [n for n in names if n != label] if columns is None else [str(c) for c in columns]
    missing = [c for c in taken if c not in names]
    if missing or not taken:
        what = f"no column {_listed(missing)}" if missing else "no column beside the label"
        raise DataError(f"{where} has {what}: it has {_listed(names)}{hint}")
    if label in taken or len(set(taken)) < len(taken):
        raise DataError(f"columns {_listed(taken)}, label {label!r}: name each column once")
    if columns is None and "" in taken:
        raise DataError(
            f"{where}: the first column has no name, and does not count the rows from 0 or 1: name it in the header, "
            f"or choose the columns to take (columns=, --columns)"
        )
    whole = all(_is_whole(table[name]) for name in taken) and not (like and like.get("whole") is False)
    x = np.stack([_numbers(table[name], name, where, whole) for name in taken], axis=1)
    y = None
    if label is not None:
        y, classes = _labels(table[label], label, classes, where, like is not None)
    reading = {"columns": taken, "label": like["label"] if like else label, "classes": classes}
    return x, y, {"scale": None, **reading, "header": header, "whole": whole}


def said(reading: Mapping[str, Any]) -> str:
    """What was taken for the header of a text table; nothing of other data.

    Example:
        >>> said({"columns": ["a", "b"], "header": True}), said({"columns": ["0"], "header": False}), said({})
        ('header a, b', 'no header', '')
    """
    if reading.get("header") is None:
        return ""
    names = [*map(str, reading["columns"][:10]), *(["..."] if len(reading["columns"]) > 10 else [])]
    return f"header {', '.join(names)}" if reading["header"] else "no header"


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
    return _plain(table.select([i for i, n in enumerate(table.column_names) if not n.startswith("__index_level_")]))


def _arrow_table(source: Any) -> Any:
    """A table of pandas or pyarrow as one of pyarrow, without the index."""
    arrow = _arrow("pyarrow", Path("the table"))
    if hasattr(source, "column_names"):
        return _plain(source)
    try:
        return _plain(arrow.Table.from_pandas(source, preserve_index=False))
    except Exception as error:
        raise DataError(f"the table cannot be read ({_reason(error)}): give each column one type") from error


def _plain(table: Any) -> Any:
    """A table whose columns hold their values themselves, not their places among categories."""
    for i, kind in enumerate(table.schema.types):
        if hasattr(kind, "value_type") and hasattr(kind, "index_type"):
            table = table.set_column(i, table.column_names[i], table.column(i).cast(kind.value_type))
    return table


def _text(path: Path, text_column: str | None, header: bool | None) -> tuple[Any, bool]:
    """A table of a text file, and whether it has a header; ``text_column`` is text even where it looks like numbers."""
    reader, arrow = _arrow("pyarrow.csv", path), _arrow("pyarrow", path)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            top = next((line for line in file if line.strip()), "")
            delimiter = "\t" if path.suffix.lower() == ".tsv" else max(",;\t", key=top.count)
            file.seek(0)
            lines = csv.reader(file, delimiter=delimiter)
            rows = [(row, lines.line_num) for row, _ in zip(lines, range(20), strict=False)]
    except (OSError, UnicodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read ({_reason(error)}): save it as UTF-8 text") from error
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
    unique = [f"{i}" for i in range(len(names))]  # pyarrow refuses doubled names with a line of its own
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
        raise DataError(f"{path} cannot be read ({_reason(error)}): give each row the same number of cells") from error
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


def _is_whole(column: Any) -> bool:
    """Whether a column holds whole numbers, and one in every row."""
    import pyarrow as arrow

    return bool(arrow.types.is_integer(column.type)) and not column.null_count


def _numbers(column: Any, name: str, where: Any, whole: bool = False) -> npt.NDArray[Any]:
    """A column as numbers; NaN where a cell is missing."""
    import pyarrow as arrow

    kind = column.type
    types = arrow.types
    if not (types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind) or types.is_decimal(kind)):
        if types.is_null(kind):
            return np.full(len(column), np.nan)
        what = "text" if _is_text(kind) else f"of type {kind}"
        raise DataError(
            f"{where}: column {name!r} is {what}{_example(column, what)}: leave it out (columns=, --columns), write it "
            f"as numbers, or make it the label (label=, --label)"
        )
    if whole:
        return _int64(column, f"{where}: column {name!r}")
    if types.is_boolean(kind):
        column = column.cast(arrow.int8())
    found: npt.NDArray[Any] = column.cast(arrow.float64(), safe=False).to_numpy()
    return found


def _int64(column: Any, where: str) -> npt.NDArray[np.int64]:
    import pyarrow as arrow

    try:
        found: npt.NDArray[np.int64] = column.cast(arrow.int64()).to_numpy()
    except arrow.ArrowInvalid as error:
        raise DataError(f"{where} has a number above 2^63 - 1, the largest whole one: write smaller numbers") from error
    return found


def _is_text(kind: Any) -> bool:
    import pyarrow as arrow

    return bool(arrow.types.is_string(kind) or arrow.types.is_large_string(kind) or arrow.types.is_string_view(kind))


def _example(column: Any, what: str) -> str:
    """The first cell of a text column that is no number."""
    if what != "text":
        return ""
    for i, cell in enumerate(column.to_pylist()):
        if cell is not None and not _is_number(cell):
            return f" ({cell[:40]!r} in row {i})"
    return ""


def _labels(
    column: Any, name: str, classes: list[str] | None, where: Any, is_new: bool
) -> tuple[npt.NDArray[Any], list[str] | None]:
    """Labels as numbers, and the classes that text stands for."""
    import pyarrow as arrow

    types, kind = arrow.types, column.type
    if not (
        types.is_null(kind)
        or _is_text(kind)
        or types.is_integer(kind)
        or types.is_boolean(kind)
        or types.is_floating(kind)
    ):
        raise DataError(
            f"{where}: the label {name!r} is of type {kind}: give text or whole numbers for classes, or floating ones"
        )
    row = next((i for i, v in enumerate(column.to_pylist()) if v is None or str(v).strip() in _MISSING), None)
    if row is not None:
        raise DataError(f"{where}: the label {name!r} is missing in row {row}: fill it in, or drop that row")
    if classes is not None:
        column = column.cast(arrow.string())
    elif types.is_floating(kind):
        return _numbers(column, name, where), None
    elif not _is_text(kind):
        return _int64(column.combine_chunks(), f"{where}: the label {name!r}"), None
    values = column.to_pylist()
    if classes is None and is_new:
        raise DataError(f"{where}: the label {name!r} is text, and the labels that it is read like are numbers")
    known = sorted(set(values)) if classes is None else classes
    place = {v: i for i, v in enumerate(known)}
    unknown = next((i for i, v in enumerate(values) if v not in place), None)
    if unknown is not None:
        raise DataError(
            f"{where}: the label {values[unknown]!r} in row {unknown} is not among those of the run ({_listed(known)})"
        )
    return np.array([place[v] for v in values], np.int64), known


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
