"""Arrays, lists, tables, sparse matrices and labels of any form, as the tensors that a pair takes.

Every entry point converts its data here, so that the same data give the same numbers everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..common.errors import DataError
from ..common.fields import X, device_of, leaves, named, num_data

Array: TypeAlias = Tensor | npt.NDArray[Any]
Labelled: TypeAlias = tuple[X, Tensor | None]  # x (N, *shape), y (N,)
Parts: TypeAlias = dict[str, Labelled]  # WHOLE, or the splits that a source has

SPLITS = ("train", "valid", "test")
WHOLE = "all"  # the part of a source without splits
_REAL = "give a tensor or a NumPy array of real numbers"
_TOO_LARGE = "has a whole number outside the range of int64, -2^63 to 2^63 - 1: give smaller or floating numbers"


def refuse(bad: Tensor, what: str, fix: str) -> None:
    """Raise where any entry is bad, (N, *shape) bool: what is wrong, the index of the first, and how to fix it.

    Raises:
        DataError: an entry is bad.
    """
    if bool(bad.any()):
        index = int(bad.reshape(len(bad), -1).any(1).nonzero()[0])
        raise DataError(f"{what}, first at index {index}: {fix}")


def tensor(value: Any, where: str) -> Tensor:
    """Numbers of any form as a dense tensor without gradient, in their own type; never a view of an array.

    Raises:
        DataError: they are not numbers; names their type.

    Example:
        >>> tensor([[1, 2], [3, 4]], "x").dtype
        torch.int64
    """
    if isinstance(value, list | tuple):
        value = _of_list(value, where)
    found = _of_tensor(value, where) if torch.is_tensor(value) else torch.from_numpy(_array(value, where))
    if found.dtype == torch.uint64 and bool((found.contiguous().view(torch.int64) < 0).any()):
        raise DataError(f"{where} {_TOO_LARGE}")
    return found


def _of_tensor(value: Tensor, where: str) -> Tensor:
    if value.is_nested or value.is_meta:
        raise DataError(f"{where} is a {'nested' if value.is_nested else 'meta'} tensor: give numbers of one shape")
    if value.is_complex():
        raise DataError(f"{where} is of {value.dtype}: {_REAL}")
    dense = value.detach().to_dense() if value.layout != torch.strided else value.detach()
    return dense.dequantize() if dense.is_quantized else dense


def _array(value: Any, where: str) -> Any:
    """A copy as an array of a type that torch has."""
    if hasattr(value, "toarray"):  # scipy.sparse
        value = value.toarray()
    elif hasattr(value, "dtypes") and hasattr(value, "columns"):
        value = _of_table(value, where)
    elif hasattr(value, "to_numpy"):
        value = value.to_numpy()
    if isinstance(value, np.ma.MaskedArray):
        value = np.ma.filled(value.astype(np.float64), np.nan)
    if not isinstance(value, int | float) and not hasattr(value, "__array__"):
        raise DataError(f"{where} is a {type(value).__name__}: {_REAL}")
    array = np.asarray(value)
    if array.dtype == object:
        array = _of_objects(array, where)
    if array.dtype.kind not in "biuf":
        raise DataError(f"{where} is {'text' if array.dtype.kind in 'US' else f'of {array.dtype}'}: {_REAL}")
    kind = array.dtype.newbyteorder("=") if array.dtype.itemsize <= 8 else np.dtype(np.float64)
    return np.array(array, dtype=kind, order="C")


def _of_table(table: Any, where: str) -> Any:
    """The numbers of a table of pandas: int64 where columns of several types are whole numbers, else float64."""
    kinds = [getattr(t, "kind", "O") for t in table.dtypes]
    text = [str(c) for c, kind in zip(table.columns, kinds, strict=True) if kind not in "biuf"]
    if text:
        raise DataError(f"{where}: the column {text[0]!r} does not hold numbers: leave it out, or turn it into numbers")
    if len(set(table.dtypes)) == 1 and isinstance(table.dtypes.iloc[0], np.dtype):
        return table.to_numpy()
    whole = all(kind in "iu" and str(t).lower() != "uint64" for kind, t in zip(kinds, table.dtypes, strict=True))
    if whole and not table.isna().to_numpy().any():
        return table.to_numpy(np.int64)
    return table.to_numpy(dtype=np.float64, na_value=np.nan)


def _of_list(value: Sequence[Any], where: str) -> Any:
    try:
        if value and all(map(torch.is_tensor, value)):
            return torch.stack([v.detach() for v in value])
        found = np.asarray(value)
        rounded = found.dtype == np.float64 and bool((np.abs(found) >= 2.0**63).any())  # Python ints may have become so
        return np.asarray(value, dtype=object) if rounded else found
    except (ValueError, RuntimeError, TypeError) as error:
        raise DataError(f"{where} is a list of parts of different sizes: give one array (N, *shape)") from error


def _of_objects(array: Any, where: str) -> Any:
    try:
        whole = array.size and all(isinstance(v, int | np.integer) and not isinstance(v, bool) for v in array.flat)
        return array.astype(np.int64 if whole else np.float64)
    except OverflowError as error:
        raise DataError(f"{where} {_TOO_LARGE}") from error
    except (ValueError, TypeError) as error:
        raise DataError(f"{where} holds Python objects: {_REAL}") from error


def data(value: Any, where: str = "x", scale: int | None = None) -> X:
    """Data as tensors (N, *shape): one, or a dictionary or tuple of them with one leading size.

    Bytes are pixels: divided by 255 unless none exceeds 1, or by ``scale`` (255, or 1 for bits); (N, H, W)
    becomes (N, 1, H, W). In a dictionary, bytes (N,) or (N, D) are whole numbers.
    Whole numbers stay whole (int64), booleans become 0 and 1, but stay what they are in a dictionary, where they are
    masks. NaN is a missing entry, which the likelihood has to allow for; an infinity is refused.

    Raises:
        DataError: no data, not numbers, an infinity, or fields of different lengths.

    Example:
        >>> data([[0.5, 1.0]]).dtype, data(np.array([[3, 4]])).dtype, data({"a": [1.0], "m": [True]})["m"].dtype
        (torch.float64, torch.int64, torch.bool)
    """
    if isinstance(value, Mapping):
        found: X = {key: _part(v, f"{where}[{key!r}]", scale) for key, v in value.items()}
    elif isinstance(value, tuple) and not all(isinstance(v, int | float) for v in value):
        if len(value) == 2:  # which everywhere else is data and labels
            raise DataError(f"{where} is a tuple of two fields: give a dictionary, {{'values': ..., 'mask': ...}}")
        found = tuple(_part(v, f"{where}[{i}]", scale) for i, v in enumerate(value))
    else:
        t = _field(value, where, scale)
        return t.to(torch.get_default_dtype()) if t.dtype == torch.bool else t
    if not leaves(found):
        raise DataError(f"{where} holds no data; give tensors of shape (N, *shape) with N >= 1")
    sizes = {name: len(t) for name, t in named(found, where)}
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{name} {n}" for name, n in sizes.items())
        raise DataError(f"the fields of {where} have different numbers of data ({listed}): give one leading size")
    return found


def _part(value: Any, where: str, scale: int | None) -> X:
    nested = isinstance(value, Mapping) or (isinstance(value, tuple) and any(hasattr(v, "shape") for v in value))
    return data(value, where, scale) if nested else _field(value, where, scale, inside=True)


def _field(value: Any, where: str, scale: int | None, inside: bool = False) -> Tensor:
    t = tensor(value, where)
    if t.ndim < 1 or not t.numel():
        raise DataError(f"{where} has shape {tuple(t.shape)}, which holds no data: give (N, *shape), with N >= 1")
    if t.dtype == torch.uint8 and not (inside and t.ndim < 3):  # pixels, and no count, mask or covariate
        if scale == 1 and t.max() > 1:
            raise DataError(
                f"{where} holds bytes up to {int(t.max())}, and those given before were bits, 0 or 1: give floating "
                f"numbers, divided by 255 where they are pixels"
            )
        t = t.unsqueeze(1) if t.ndim == 3 else t
        return t.to(torch.get_default_dtype()) / (scale or byte_scale(t) or 1)
    if t.is_floating_point():
        refuse(t.isinf(), f"{where} has an infinity", "repair or drop that example")
        return t
    return t if t.dtype == torch.bool else t.long()


def byte_scale(*arrays: Any, asked: int | None = None) -> int | None:
    """What bytes are to be divided by: 255, or 1 where all are 0 or 1, unless 255 is asked for; None for other data."""
    dtypes = [str(getattr(x, "dtype", "")).removeprefix("torch.") for x in arrays]
    tops = [int(x.max()) for x, dtype in zip(arrays, dtypes, strict=True) if dtype == "uint8" and 0 not in x.shape]
    if not tops:
        return None
    return 255 if asked == 255 or max(tops) > 1 else 1  # 8-bit 0/1 data are bits, not nearly black


def missing(x: X) -> list[tuple[str, Tensor]]:
    """The fields of x that have missing entries, and where: (N, *shape) bool."""
    found = [(name, t.isnan()) for name, t in named(x) if t.is_floating_point()]
    return [(name, nan) for name, nan in found if bool(nan.any())]


def labels(value: Any, n: int, where: str = "labels", device: torch.device | None = None) -> Tensor | None:
    """Labels as a tensor (N,) int64, or as numbers (N,) or vectors (N, D); None stays None.

    Whole numbers and booleans of any type become int64, and a column (N, 1) of them (N,). A single number stands for
    all data. Floating labels stay: they are conditions, such as an angle.

    Raises:
        DataError: text, another number of labels than data, NaN.

    Example:
        >>> labels([[3], [4]], 2), labels(7, 2)
        (tensor([3, 4]), tensor([7, 7]))
    """
    if value is None:
        return None
    try:
        y = tensor(value, where)
    except DataError as error:
        given = np.asarray(value.to_numpy() if hasattr(value, "to_numpy") else value, dtype=object).ravel()
        if any(isinstance(v, str | bytes) for v in given[:100]):
            numbers = "numpy.unique(labels, return_inverse=True)[1]"
            raise DataError(f"{where} are text: give class numbers, such as {numbers}") from error
        raise
    y = y.unsqueeze(0).expand(n) if y.ndim == 0 else y
    if not y.is_floating_point():
        y = _column(y.long())
    if len(y) != n:
        raise DataError(
            f"{where}: {len(y)} labels for {n} data, of shape {tuple(y.shape)}; give one label for each example"
        )
    refuse(~y.isfinite(), f"{where}: a NaN or an infinity", "repair or drop that example")
    return y if device is None else y.to(device)


def _column(y: Tensor) -> Tensor:
    """A column (N, 1) as (N,)."""
    return y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y


def classes(y: Tensor, num_classes: int, where: str = "labels", least: int = 0) -> Tensor:
    """Labels of a pair with the classes 0 ... C - 1, as int64 (N,): from numbers, a column, or one-hot rows.

    ``least`` is -1 for a pair that takes it for a label that is not known.

    Raises:
        DataError: a label that is no such class; names the first.

    Example:
        >>> classes(torch.eye(3)[[2, 0]], 3), classes(torch.tensor([2.0, 0.0]), 3)
        (tensor([2, 0]), tensor([2, 0]))
    """
    y = _column(y)
    if y.ndim == 2 and y.shape[1] == num_classes and bool(((y == 0) | (y == 1)).all() & (y.sum(1) == 1).all()):
        return y.argmax(1)
    if y.ndim != 1:
        raise DataError(
            f"{where} have shape {tuple(y.shape)}: this pair takes a class for each example, (N,) or one-hot "
            f"(N, {num_classes})"
        )
    whole = y.long()
    bad = (whole != y) | (whole < least) | (whole >= num_classes)
    if bool(bad.any()):
        i = int(bad.nonzero()[0])
        told = "; m2 and clusters take -1 for a label that is not known" if least == 0 and y[i] == -1 else ""
        raise DataError(
            f"{where}: {y[i].item():g} at index {i} is no class of this pair: labels must be whole numbers from "
            f"{least} to {num_classes - 1}{told}"
        )
    return whole


def labelled(x: Any, y: Any, where: str, scale: int | None = None) -> Labelled:
    """Data and labels as tensors, checked, of one length; bytes divided by ``scale``, or 255 unless bits."""
    found = data(x, where, scale)
    place, _, key = where.rpartition(": x")  # an array of a file, whose labels have the name of y in place of x
    name = f"{place}: y{key}" if place else f"{where}: labels"
    return found, labels(y, num_data(found), name, device_of(found))
