"""Rows of .npy files that stay on disk, for data larger than memory."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch.utils.data import Dataset

from ..common.errors import DataError
from ..common.files import reason

Files: TypeAlias = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


class OnDisk(Dataset[Any]):
    """The rows of .npy files, mapped into memory and read when they are asked for: a data set for ``DataLoader``.

    :func:`~ppl_vae.fit` and the estimates take it, or a loader of it, in place of data. Bytes are pixels: divided by
    255, unless none of the first ones that the pair is given exceeds 1. A loader with ``shuffle=True`` reads rows in
    any order, which a solid-state disk serves; on a rotating one, leave the shuffling out, and shuffle the rows when
    the files are written.

    Args:
        source: a ``.npy`` file (N, *shape), a folder of such files, in the order of their names, or a list of them.
        labels: the same for labels: of each file of data one file (N,) or (N, D), in the same order.
        binarize: ``"dynamic"`` where rows are probabilities, of which each visit of a training step draws anew; such
            rows are for training alone.

    Raises:
        DataError: there is no file, one is not an array of numbers, or they differ in type, in the shape of an
            example, or in the number of labels.

    Example:
        >>> import tempfile, ppl_vae as pv
        >>> folder = tempfile.mkdtemp()
        >>> for i in range(2):
        ...     np.save(f"{folder}/{i}.npy", np.full((3, 5), i, dtype=np.float32))
        >>> rows = pv.OnDisk(folder)
        >>> len(rows), rows[4], len(rows.__getitems__([0, 5]))
        (6, tensor([1., 1., 1., 1., 1.]), 2)
    """

    def __init__(self, source: Files, labels: Files | None = None, binarize: str = "none") -> None:
        if binarize not in ("none", "dynamic"):
            raise DataError(f"binarize={binarize!r}: choose 'none' or 'dynamic'; rows on disk can't be changed")
        self.binarize = binarize
        self.files = _files(source)
        self.label_files = [] if labels is None else _files(labels)
        self._open()
        if labels is not None:
            _refuse_other_lengths(self.files, self._x, self.label_files, self._y)
        self.starts = [0, *accumulate(map(len, self._x))]

    def __len__(self) -> int:
        return self.starts[-1]

    @property
    def is_bytes(self) -> bool:
        """Whether rows are bytes, which are pixels."""
        return bool(self._x[0].dtype == np.uint8)

    def __getitem__(self, i: int | Sequence[int]) -> Any:
        """Row i, and its label where there are labels; of a list of places, those rows as one batch."""
        if isinstance(i, int | np.integer):
            x, y = self._rows([range(len(self))[int(i)]])
            return x[0] if y is None else (x[0], y[0])
        x, y = self._rows(i)
        return x if y is None else (x, y)

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """Several rows at once, by which a loader reads a batch."""
        x, y = self._rows(indices)
        return list(x) if y is None else list(zip(x, y, strict=True))

    def _rows(self, indices: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor | None]:
        at = np.asarray(indices)
        if at.ndim != 1 or at.dtype.kind not in "iu" or (at < 0).any() or (at >= len(self)).any():
            raise IndexError(f"{indices!r:.60}: give places from 0 to {len(self) - 1}, as whole numbers")
        return _taken(self._x, self.starts, at), _taken(self._y, self.starts, at) if self._y else None

    def _open(self) -> None:
        self._x, self._y = _mapped(self.files), _mapped(self.label_files)

    def __getstate__(self) -> dict[str, Any]:
        """Without the maps, which would be copied to each worker of a loader as arrays."""
        return {k: v for k, v in vars(self).items() if k not in ("_x", "_y")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._open()


def _files(source: Files) -> list[Path]:
    """The .npy files of a source.

    Raises:
        DataError: there is none.
    """
    if not isinstance(source, str | os.PathLike):
        if not isinstance(source, list | tuple) or not all(isinstance(one, str | os.PathLike) for one in source):
            raise DataError(f"rows on disk are a .npy file, a folder or a list of files, not a {type(source).__name__}")
        files = [Path(one).expanduser() for one in source]
    else:
        path = Path(source).expanduser()
        files = sorted(path.glob("*.npy")) if path.is_dir() else [path]
    if not files:
        raise DataError(f"{source}: there is no .npy file; save arrays of numbers by numpy.save")
    return files


def _mapped(files: list[Path]) -> list[Any]:
    """The arrays of files, read-only and not read yet.

    Raises:
        DataError: a file is no array of numbers, has no rows, or differs from the first.
    """
    found: list[Any] = []
    for path in files:
        try:
            array = np.lib.format.open_memmap(path, mode="r")  # which refuses Python objects: reading them can run code
        except FileNotFoundError:
            raise DataError(f"{path} does not exist; give a .npy file, or a folder of them") from None
        except Exception as error:  # NumPy raises several kinds
            fix = (
                "join files, or raise ulimit -n" if "Too many open" in str(error) else "save it by numpy.save, not .npz"
            )
            raise DataError(f"{path} can't be mapped ({reason(error)}): {fix}") from error
        if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8 or array.ndim < 1 or not len(array):
            what = f"{array.dtype} of shape {array.shape}"
            raise DataError(f"{path} holds {what}: save real numbers of at most 64 bits, (N, *shape), by numpy.save")
        if found and (array.shape[1:], array.dtype) != (found[0].shape[1:], found[0].dtype):
            one, other = (f"{a.shape[1:]} {a.dtype}" for a in (array, found[0]))
            raise DataError(f"{path}: its rows are {one}, those of {files[0]} {other}: give all one shape and one type")
        found.append(array.view(np.ndarray))  # the same rows, which NumPy takes faster
    return found


def _refuse_other_lengths(files: list[Path], xs: list[Any], label_files: list[Path], ys: list[Any]) -> None:
    if len(files) != len(label_files):
        raise DataError(f"{len(label_files)} files of labels for {len(files)} of data: give one for each")
    for path, x, y in zip(label_files, xs, ys, strict=True):
        if len(x) != len(y):
            raise DataError(f"{path}: {len(y)} labels for {len(x)} rows; give one for each row")


def _taken(arrays: list[Any], starts: list[int], at: Any) -> torch.Tensor:
    """(B, *shape): rows by their number among those of all files."""
    if len(arrays) == 1:
        return torch.from_numpy(_native(arrays[0][at]))
    which = np.searchsorted(starts, at, side="right") - 1
    out = np.empty((len(at), *arrays[0].shape[1:]), arrays[0].dtype)
    for f in np.unique(which):
        here = which == f
        out[here] = arrays[f][at[here] - starts[f]]
    return torch.from_numpy(_native(out))


def _native(array: Any) -> Any:
    """In the byte order of the machine, which torch needs."""
    return array.astype(array.dtype.newbyteorder("="), copy=False)
