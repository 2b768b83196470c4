"""The splits of a source as one file, for the processes that share them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch import Tensor

from ..common.errors import RunError
from ..common.fields import each, leaves
from ..common.files import read_tensors, write_tensors
from .convert import SPLITS
from .splits import Data, Split


def write_data(path: Path, data: Data) -> str:
    """Write the splits to a safetensors file, unless they are there; returns their digest.

    Raises:
        RunError: the file holds other data.

    Example:
        >>> import tempfile, ppl_vae as pv
        >>> data = pv.load_data("digits")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "data.safetensors")
        ...     read_data(path, write_data(path, data))
        Data(digits: train 1258, valid 180, test 359; x (1, 8, 8) float32, labels, binarize='dynamic', seed 0)
    """
    record = data.record()
    if path.is_file():
        read_data(path, record["sha256"])
        return str(record["sha256"])
    tensors: dict[str, Tensor] = {}
    splits: dict[str, Any] = {}
    for name in SPLITS:
        split = data.split(name)
        count = itertools.count()
        about = {"x": each(lambda _, count=count: next(count), split.x)}  # type: ignore[misc]
        splits[name] = about | {"binarize": split.binarize, "name": split.name, "drawn": split.drawn}
        tensors |= {f"{name}.x.{i}": leaf.cpu() for i, leaf in enumerate(leaves(split.x))}
        tensors |= {f"{name}.{k}": v.cpu() for k in ("y", "index") if (v := getattr(split, k)) is not None}
    write_tensors(path, tensors, {"record": record, "splits": splits})
    return str(record["sha256"])


@lru_cache(maxsize=2)
def read_data(path: Path, sha256: str) -> Data:
    """The data that :func:`write_data` wrote, with this digest; kept in memory for the next call.

    Raises:
        RunError: the file is damaged, or holds other data.
    """
    tensors, about = read_tensors(path)
    record = about["record"]
    if record["sha256"] != sha256:
        raise RunError(f"{path}: it holds other data; choose another folder for the study")
    splits = {}
    for name in SPLITS:
        one = about["splits"][name]
        x = _filled(one["x"], tensors, f"{name}.x.")
        y, index = tensors.get(f"{name}.y"), tensors.get(f"{name}.index")
        splits[name] = Split(x, y, one["binarize"], one["name"], index, one["drawn"])
    train, valid, test = (splits[name] for name in SPLITS)
    return Data(train, valid, test, record["name"], record["seed"], record["binarize"], record["reading"])


def _filled(structure: Any, tensors: Mapping[str, Tensor], prefix: str) -> Any:
    """The structure with tensors in place of their numbers."""
    if isinstance(structure, Mapping):
        return {key: _filled(value, tensors, prefix) for key, value in structure.items()}
    if isinstance(structure, list):
        return tuple(_filled(value, tensors, prefix) for value in structure)
    return tensors[f"{prefix}{structure}"]
