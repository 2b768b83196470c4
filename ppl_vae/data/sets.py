"""Names, files or arrays in; train, valid and test out, or one split of a whole source."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..common.entry import entry_point
from ..common.errors import DataError
from ..common.fields import device_of, num_data, rows, shape_of
from ..common.rng import seed_for
from .binarisation import WAYS, probabilities, refuse_range
from .convert import WHOLE, Parts
from .readers import Source, read
from .splits import Data, Split


@entry_point
def load_data(
    source: Source,
    *,
    root: str | os.PathLike[str] = "data",
    binarize: str = "auto",
    seed: int = 0,
    valid: float | int | None = None,
    test: float | int | None = None,
    download: bool = True,
    columns: str | Sequence[str] | None = None,
    label: str | None = None,
    header: bool | None = None,
) -> Data:
    """Train, valid and test splits of a named data set, a file, a folder of images, or arrays.

    Pixels of images are scaled to [0, 1], (N, C, H, W). Arrays keep their shape (N, *shape) and their floating type,
    with two exceptions for uint8: (N, H, W) becomes (N, 1, H, W), and values are divided by 255 unless none exceeds 1.
    A table is (N, D), a column each; its missing cells are NaN, and it is int64 where all its numbers are whole.

    A source that has a test split (every downloaded data set, ``x_train`` and ``x_test``) keeps it, and gives
    one twelfth of the rest, at most 5,000, for validation. Any other source gives 20 % for test and 10 % for
    validation. One permutation by ``seed`` divides the data; no global generator is used.

    Args:
        source: a name that ``ppl-vae list`` prints; the path of a ``.npy`` file (x), of a ``.npz`` file (``x`` and
            perhaps ``y``, or ``x_train``, ``x_test`` and perhaps ``x_valid``, ``y_train``, ...; beside ``x``, arrays
            with a row for each example are fields of the data; nothing pickled is read), of a table (``.csv``,
            ``.tsv``, ``.parquet``), or of a folder of images (sub-folders are classes, in sorted order); an array; a
            table of pandas or pyarrow; ``(x, y)``; or a dict with the keys of a ``.npz``.
        root: the folder of downloaded data, in torchvision's layout.
        binarize: ``"dynamic"``: train holds probabilities that are drawn anew at each visit, valid and test are one
            draw; ``"static"``: all three are one draw; ``"none"``: values stay as they are. ``"auto"`` is ``"dynamic"``
            for grey images, (N, 1, H, W) in [0, 1] and not bits already, and ``"none"`` for all else: binarised data
            are for a Bernoulli likelihood, and any other refuses them.
        seed: of the division and the draws.
        valid: a fraction in (0, 1) or a count, of all data (of train, where the source has a test split).
        test: likewise; only for a source that has no test split.
        download: fetch a named data set that is not under ``root``.
        columns: of a table, the columns to take, in this order; None takes all but the label.
        label: of a table, the column of labels; text becomes the place of a label among the sorted ones.
        header: of a text table, whether its first row names the columns. None: it does where it has a word above a
            number, or is all words; a first row of numbers is data. ``repr`` of the data shows what was taken.

    Raises:
        DataError: the source is missing, broken, not finite, outside [0, 1] where it is to be binarised, or too small
            for its splits; names the place, and how to fix it.

    Example:
        >>> data = load_data((torch.rand(100, 3), torch.arange(100) % 4), seed=1)
        >>> len(data.train), len(data.valid), len(data.test), data.data_shape, data.num_classes, data.binarize
        (70, 10, 20, (3,), 4, 'none')
        >>> data.test.index.shape  # where each example is in the source
        torch.Size([20])
        >>> images = load_data(torch.rand(100, 1, 8, 8))
        >>> sorted(set(images.test.x.flatten().tolist())), images.train.binarize
        ([0.0, 1.0], 'dynamic')
    """
    if binarize not in WAYS:
        raise DataError(f"binarize={binarize!r}: choose one of {', '.join(WAYS)}")
    name, parts, reading = read(source, Path(root).expanduser(), download, None, columns, label, header)
    shapes = {part: shape_of(x) for part, (x, _) in parts.items()}
    if len(set(map(str, shapes.values()))) > 1:
        raise DataError(f"{name}: the splits differ in the shape of an example ({shapes}): give all three one shape")
    if binarize in ("dynamic", "static"):
        for part, (x, _) in parts.items():
            refuse_range(x, name if part == WHOLE else f"{name} ({part})")
    splits = _divide(parts, valid, test, seed, name)
    return Data(**splits, name=name, seed=seed, binarize="none", reading=reading).binarized(binarize)


@entry_point
def load_split(
    source: Source,
    *,
    split: str | None = None,
    like: Data | Mapping[str, Any] | None = None,
    root: str | os.PathLike[str] = "data",
    columns: str | Sequence[str] | None = None,
    label: str | None = None,
    header: bool | None = None,
    download: bool = True,
) -> Split:
    """A whole source as one split: every example, in the order of the source. For new data, which are not divided.

    Args:
        source: as for `load_data`.
        split: which split, where the source has splits; None takes test.
        like: the data that a pair was trained on (what `load_data` gave, or its ``record()``): the source is scaled,
            binarised and its columns chosen as those were. None keeps values, and scales bytes as `load_data` does.
        root: the folder of downloaded data.
        columns: of a table, see `load_data`; with ``like``, those of the other table are taken.
        label: likewise.
        header: see `load_data`; None with ``like`` takes the first row for what it was there.
        download: fetch a named data set that is not under ``root``.

    Returns:
        Split: with ``index`` 0, 1, ..., N - 1.

    Raises:
        DataError: the source is missing, broken, or can't be read like the other; a split that it does not have.

    Example:
        >>> data = load_data(torch.randn(100, 3))
        >>> load_split(torch.randn(1, 3), like=data)
        Split(all: x (1, 3) float32, no labels, binarize='none')
    """
    record: Mapping[str, Any] = {} if like is None else like.record() if isinstance(like, Data) else like
    reading = record.get("reading")
    name, parts, _ = read(source, Path(root).expanduser(), download, reading, columns, label, header)
    if split is not None and split not in parts:
        has = "has no splits: all of it is used; leave the split out" if WHOLE in parts else f"has {', '.join(parts)}"
        raise DataError(f"{name}: no split {split!r}; it {has}")
    part = split or (WHOLE if WHOLE in parts else "test")
    x, y = parts[part]
    found = Split(x, y, name=part, index=torch.arange(num_data(x)))
    if record.get("binarize", "none") == "none":
        return found
    refuse_range(x, name)
    return replace(found, x=probabilities(found.x), binarize="dynamic").fixed(record["seed"])


def _divide(
    parts: Parts, valid: float | int | None, test: float | int | None, seed: int, where: str
) -> dict[str, Split]:
    for part, share in (("valid", valid), ("test", test)):
        if part in parts and share is not None:
            raise DataError(f"{where} has a {part} split already: leave {part}={share} out")
    x, y = parts["train" if "train" in parts else WHOLE]
    n, counts = num_data(x), {}
    if "test" not in parts:
        counts["test"] = max(1, round(0.2 * n)) if test is None else _count(test, n, f"{where}: test")
    if "valid" not in parts:
        default = max(1, round(0.1 * n) if "test" in counts else min(5000, n // 12))
        counts["valid"] = default if valid is None else _count(valid, n, f"{where}: valid")
    if sum(counts.values()) >= n:
        raise DataError(f"{where}: {counts} of {n} data leave an empty train split: take fewer, or give more data")
    whole = {p: Split(x, y, name=p, index=torch.arange(num_data(x))) for p, (x, y) in parts.items() if p != WHOLE}
    if not counts:
        return whole
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed_for(seed, "split"))).to(device_of(x))
    for part, count in (*counts.items(), ("train", n)):
        index, order = order[:count], order[count:]
        whole[part] = Split(rows(x, index), None if y is None else y[index], name=part, index=index)
    return whole


def _count(share: float | int, n: int, where: str) -> int:
    if isinstance(share, float) and not 0 < share < 1:
        raise DataError(f"{where}={share}: give a fraction between 0 and 1, or a count (an integer)")
    count = round(share * n) if isinstance(share, float) else share
    if count < 1:
        raise DataError(f"{where}={share} of {n} data is an empty split: give a larger share")
    return count
