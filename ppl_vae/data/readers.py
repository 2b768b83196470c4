"""A name, a file, a folder or arrays in; tensors out, in the parts that the source has, and how they were read."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from ..common.errors import DataError
from ..common.fields import leaves
from ..common.files import reason
from . import convert, tables
from .convert import SPLITS, WHOLE, Array, Parts, labelled
from .images import read_folder
from .named import READERS
from .toys import TOYS

Source: TypeAlias = str | os.PathLike[str] | Array | tuple[Array, Array | None] | Mapping[str, Array]
Reading: TypeAlias = dict[str, Any]  # how a source was read, for JSON: new data are read like it


def read(
    source: Any,
    root: Path,
    download: bool,
    like: Mapping[str, Any] | None = None,
    columns: Any = None,
    label: Any = None,
    header: bool | None = None,
) -> tuple[str, Parts, Reading]:
    """The name of a source, the parts that it has, and how it was read: like ``like``, where that is given.

    ``scale`` of a reading is what bytes were divided by, None where there were none. A table has its columns, its
    label column and the classes of that, whether it has a header and whether its numbers are whole.
    """
    is_path = isinstance(source, str | os.PathLike)
    chosen = columns is not None or label is not None
    like = like or {}
    table, beside = x_and_y(source)
    table, beside = (table, beside) if tables.is_table(table) else (None, None)
    by_name = chosen or like.get("columns")
    if hasattr(source, "column_names") or (table is not None and by_name and not (chosen and beside is not None)):
        x, y, reading = tables.read_table(table, columns, label, like, header)
        if like.get("scale") is not None:  # its columns were bytes
            x = x / like["scale"]
        return "array", {WHOLE: labelled(x, y if beside is None else beside, "array")}, reading
    path = Path(source).expanduser() if is_path else None
    if path is not None and path.suffix.lower() in tables.SUFFIXES and path.is_file():
        x, y, reading = tables.read_table(path, columns, label, like, header)
        return str(source), {WHOLE: labelled(x, y, str(source))}, reading
    for given, what, kinds in (
        (header is not None, "header is for text tables", tables.TEXT),
        (chosen, "columns and label are for tables", tables.SUFFIXES),
    ):
        if given:
            shown = source if is_path else f"a {type(source).__name__}"
            raise DataError(f"{what} ({', '.join(kinds)}), which {shown} is not")
    name, parts, scale = _read(source, root, download, like.get("scale"))
    if "scale" in like:
        _refuse_other_scale(name, parts, like["scale"], scale)
    reading = {"scale": scale}
    if table is not None and (names := tables.names_of(table)) is not None:
        whole = not parts[WHOLE][0].is_floating_point()
        reading |= {"columns": names, "label": None, "classes": None, "header": None, "whole": whole}
    return name, parts, reading


def _refuse_other_scale(name: str, parts: Parts, wanted: int | None, found: int | None) -> None:
    """Refuse new data on another scale than the data that they are to be read like."""
    tensors = [leaf for x, _ in parts.values() for leaf in leaves(x)]
    top = max(float(t.max()) for t in tensors)
    then = "the data it is read like are"
    if wanted == 255 and top > 1:
        raise DataError(f"{name} has values up to {top:g}, and {then} pixels in [0, 1]: divide it by 255")
    if wanted == 1 and found != 1 and any(bool(((t != 0) & (t != 1)).any()) for t in tensors):
        raise DataError(f"{name} has grey values, and {then} bits, 0 or 1: binarise it first")
    if wanted is None and found == 255:
        raise DataError(f"{name} holds 8-bit numbers, and {then} not: save it in their type, on their scale")


def _read(source: Any, root: Path, download: bool, scale: int | None) -> tuple[str, Parts, int | None]:
    if isinstance(source, str) and source in READERS:
        return source, READERS[source](root, download), None if source in TOYS else 255
    if not isinstance(source, str | os.PathLike):
        return "array", *_arrays(source, "array", scale)
    path = Path(source).expanduser()
    if path.is_dir():
        return str(source), read_folder(path), 255
    if path.suffix.lower() in (".npy", ".npz") and path.is_file():
        return str(source), *_numpy_file(path, scale)
    what = "does not exist"
    if path.exists():
        what = "is not a .npy or .npz file, a table (.csv, .tsv, .parquet) or a folder of images"
    raise DataError(f"{source} {what}, nor is it a data set: give one, or a name of {', '.join(READERS)}")


def x_and_y(source: Any) -> tuple[Any, Any]:
    """Data and labels of an array, or of a pair of arrays."""
    return source if isinstance(source, tuple) and len(source) == 2 else (source, None)


def _arrays(arrays: Any, where: str, scale: int | None) -> tuple[Parts, int | None]:
    """The parts of arrays, and what their bytes were divided by: the same in every part."""
    if isinstance(arrays, np.lib.npyio.NpzFile) and _has_fields(arrays, where):
        arrays = {k: v for k, v in arrays.items() if v.shape[:1] == arrays["x"].shape[:1]}
    if not isinstance(arrays, Mapping) or not _names_splits(arrays):
        x, y = x_and_y(arrays)
        if tables.is_table(x) and all(str(t) == "uint8" for t in x.dtypes):
            x = x.to_numpy()
        used = convert.byte_scale(x, asked=scale)
        return {WHOLE: labelled(x, y, where, used)}, used
    keys = {part: f"_{part}" for part in SPLITS if f"x_{part}" in arrays} or {WHOLE: ""}
    if ("x" in arrays) != (WHOLE in keys) or (WHOLE not in keys and not {"train", "test"} <= set(keys)):
        found = ", ".join(map(str, arrays)) or "nothing"
        raise DataError(f"{where} holds {found}: give x (and y), or x_train and x_test (and x_valid, y_train, ...)")
    absent = [f"y{key}" for key in keys.values() if f"y{key}" not in arrays]
    if 0 < len(absent) < len(keys):
        raise DataError(f"{where} has labels, but no {', '.join(absent)}: label every split, or none")
    xs = {p: arrays[f"x{k}"] for p, k in keys.items()}
    used = convert.byte_scale(*xs.values(), asked=scale)
    return {p: labelled(xs[p], arrays.get(f"y{k}"), f"{where}: x{k}", used) for p, k in keys.items()}, used


def _has_fields(arrays: Any, where: str) -> bool:
    """Whether a .npz holds fields of the data beside x, such as lengths: arrays of numbers with a row for each example.

    Raises:
        DataError: it holds splits, and such an array too.
    """
    if not any(name in arrays for name in ("x", "x_train")):
        return False
    sizes = {arrays[name].shape[0] for name in arrays if name in NAMES and name.startswith("x")}
    rows = [name for name in arrays if name not in NAMES and arrays[name].shape[:1] and len(arrays[name]) in sizes]
    rows = [name for name in rows if arrays[name].dtype.kind in "biuf"]
    if rows and "x_train" in arrays:
        raise DataError(f"{where} holds {rows[0]!r} beside the data of splits, which can't be divided: leave it out")
    return bool(rows)


NAMES = {f"{kind}{part}" for kind in "xy" for part in ("", *(f"_{s}" for s in SPLITS))}  # of splits, in a .npz


def _names_splits(arrays: Any) -> bool:
    """Whether a mapping holds data and labels under the names of a .npz; else it is the fields of the data."""
    known = NAMES
    return not isinstance(arrays, dict) or (
        bool(arrays) and set(arrays) <= known and ("x" in arrays or "x_train" in arrays)
    )


def _numpy_file(path: Path, scale: int | None) -> tuple[Parts, int | None]:
    try:
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)  # never a pickle: reading one can run code
            return _arrays(loaded, str(path), scale)
    except DataError:
        raise
    except Exception as error:
        objects = "holds Python objects, which are not read: save arrays of numbers"
        broken = f"cannot be read ({reason(error)}): save it again with numpy.save or numpy.savez"
        raise DataError(f"{path} {objects if 'Object arrays' in str(error) else broken}") from error
