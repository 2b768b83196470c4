"""Names, files or tensors in; train, valid and test out; binarisation."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..common.entry import entry_point
from ..common.errors import DataError
from ..common.fields import X, device_of, each, named, num_data, rows, shape_of
from ..common.numbers import needed
from ..common.rng import seed_for, uniform
from .convert import missing, refuse
from .readers import SPLITS, Array, Parts, Source, labelled, read, x_and_y
from .tables import said

_BINARIZE = ("auto", "dynamic", "static", "none")


WHOLE = "all"  # the name of a split that is a whole source


@dataclass(frozen=True, eq=False)
class Split:
    """Data and labels that are used together, such as the test split.

    Attributes:
        x: the data, (N, *shape), or a dictionary or tuple of tensors with one leading size. Whole numbers (counts,
            tokens) are int64; NaN is a missing entry.
        y: the labels, (N,), int64 where they are integers, or vectors (N, D); None without labels.
        binarize: ``"dynamic"`` where ``x`` holds probabilities, and each visit draws x' ~ Bernoulli(x) anew.
        name: what messages call it; also names the stream of `fixed`.
        index: (N,) int64, where each datum stands in the source (in its file, or in that split of it); None where it
            did not come from one.
        drawn: whether ``x`` is a draw of Bernoulli(x), of values that were not 0 or 1.

    Example:
        >>> split = Split(torch.full((4, 2), 0.5), binarize="dynamic")
        >>> len(split.limit(3)), split.fixed(seed=0)
        (3, Split(data: x (4, 2) float32, no labels, binarised once))
    """

    x: X
    y: Tensor | None = None
    binarize: str = "none"
    name: str = "data"
    index: Tensor | None = None
    drawn: bool = False

    def __len__(self) -> int:
        return num_data(self.x)

    @property
    def rows(self) -> Tensor:
        """(N,) int64 on the CPU: ``index``, or 0, 1, ... where there is none."""
        return torch.arange(len(self)) if self.index is None else self.index.cpu()

    def __repr__(self) -> str:
        labels = "no labels" if self.y is None else f"y {str(self.y.dtype).removeprefix('torch.')}"
        x = ", ".join(f"{n} {tuple(t.shape)} {str(t.dtype).removeprefix('torch.')}" for n, t in named(self.x))
        gaps = "".join(f", {float(nan.double().mean()):.1%} of {n} missing" for n, nan in missing(self.x))
        how = "binarised once" if self.drawn else f"binarize={self.binarize!r}"
        return f"Split({self.name}: {x}{gaps}, {labels}, {how})"

    def limit(self, n: int | None) -> Split:
        """The first ``n`` data, or all where there are no more or ``n`` is None.

        Raises:
            DataError: ``n`` is below 1.
        """
        if n is None:
            return self
        n = needed("limit", n, "int")
        if n < 1:
            raise DataError(f"a limit of {n} leaves no data of {self.name}: give 1 or more")
        index = None if self.index is None else self.index[:n]
        return replace(self, x=rows(self.x, slice(n)), y=None if self.y is None else self.y[:n], index=index)

    def to(self, device: torch.device | str) -> Split:
        """The same split on ``device``."""
        return replace(self, x=each(lambda t: t.to(device), self.x), y=None if self.y is None else self.y.to(device))

    def fixed(self, seed: int = 0) -> Split:
        """One draw of Bernoulli(x), the same on every device; the split itself where it is not dynamic."""
        if self.binarize != "dynamic":
            return self
        generator = torch.Generator().manual_seed(seed_for(seed, f"binarize/{self.name}"))
        x = torch.bernoulli(self.x.cpu(), generator=generator).to(self.x.device)
        return replace(self, x=x, binarize="none", drawn=True)


@dataclass(frozen=True, eq=False)
class Data:
    """Three splits of one source; `load_data` makes them.

    Attributes:
        train: the training split; the only one that may be ``"dynamic"``.
        valid: the validation split.
        test: the test split.
        name: a name of ``ppl-vae list``, the path of a file, or ``"array"``.
        seed: the seed of the division and of the fixed draws.
        binarize: what was done: ``"dynamic"``, ``"static"`` or ``"none"``.
        reading: how the source was read, so that new data can be read like it; for JSON.

    Example:
        >>> load_data("digits")
        Data(digits: train 1258, valid 180, test 359; x (1, 8, 8) float32, labels, binarize='dynamic', seed 0)
    """

    train: Split
    valid: Split
    test: Split
    name: str
    seed: int
    binarize: str
    reading: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name} {len(self.split(name))}" for name in SPLITS)
        fields = [(n, tuple(t.shape[1:]), str(t.dtype).removeprefix("torch.")) for n, t in named(self.train.x)]
        x = ", ".join(f"{name} {shape} {dtype}" for name, shape, dtype in fields)
        labels = "no labels" if self.train.y is None else "labels"
        how = "".join(f"{part}, " for part in (labels, said(self.reading)) if part)
        return f"Data({self.name}: {sizes}; {x}, {how}binarize={self.binarize!r}, seed {self.seed})"

    def binarized(self, how: str) -> Data:
        """The same data, which hold grey values, with Bernoulli draws of them; ``how`` as for `load_data`.

        ``"auto"`` is ``"dynamic"`` for grey images and ``"none"`` for all else.

        Raises:
            DataError: values outside [0, 1], or no such way.
        """
        if how not in _BINARIZE:
            raise DataError(f"binarize={how!r}: choose one of {', '.join(_BINARIZE)}")
        splits = [self.split(name) for name in SPLITS]
        how = ("dynamic" if _are_grey_images([s.x for s in splits]) else "none") if how == "auto" else how
        if how == "none" or self.binarize != "none":
            return self
        for split in splits:
            _refuse_range(split.x, f"{self.name} ({split.name})")
        drawn = {s.name: replace(s, x=_probabilities(s.x), binarize="dynamic") for s in splits}
        drawn |= {n: s.fixed(self.seed) for n, s in drawn.items() if (how, n) != ("dynamic", "train")}
        return replace(self, train=drawn["train"], valid=drawn["valid"], test=drawn["test"], binarize=how)

    def split(self, name: str) -> Split:
        """The split of that name.

        Raises:
            DataError: ``name`` is none of train, valid, test.
        """
        if name not in SPLITS:
            raise DataError(f"no split {name!r}: choose one of {', '.join(SPLITS)}")
        return {"train": self.train, "valid": self.valid, "test": self.test}[name]

    @property
    def data_shape(self) -> Any:
        """The shape of one datum: a tuple, or for several fields a dictionary of them."""
        return shape_of(self.train.x)

    @property
    def mean(self) -> Tensor | None:
        """The mean of the training data, of shape ``data_shape``, without missing entries; None for several fields."""
        x = self.train.x
        if not torch.is_tensor(x):
            return None
        x = x if x.is_floating_point() else x.to(torch.get_default_dtype())
        return x.nanmean(0).nan_to_num() if missing(x) else x.mean(0)

    @property
    def num_classes(self) -> int | None:
        """One more than the largest label; None where labels are absent, or are not integers from 0 on."""
        labels = [self.split(name).y for name in SPLITS]
        spans = [y.aminmax() for y in labels if y is not None and y.ndim == 1 and not y.is_floating_point()]
        if len(spans) < len(labels) or min(int(low) for low, _ in spans) < 0:
            return None
        return 1 + max(int(high) for _, high in spans)

    def record(self) -> dict[str, Any]:
        """What identifies the data, for JSON: name, binarize, seed, sizes, shape, and sha256 over every tensor."""
        digest = hashlib.sha256()
        for name in SPLITS:
            for key, tensor in (*named(self.split(name).x), ("y", self.split(name).y)):
                if tensor is not None:
                    digest.update(f"{name}.{key} {tensor.dtype} {tuple(tensor.shape)};".encode())
                    digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
        return {
            "name": self.name,
            "binarize": self.binarize,
            "seed": self.seed,
            "sizes": {name: len(self.split(name)) for name in SPLITS},
            "shape": _listed(self.data_shape),
            "reading": dict(self.reading),
            "sha256": digest.hexdigest(),
        }


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

    A source with a test split of its own (every downloaded data set, ``x_train`` and ``x_test``) keeps it, and gives
    one twelfth of the rest, at most 5,000, for validation. Any other source gives 20 % for test and 10 % for
    validation. One permutation by ``seed`` divides the data; no global generator is used.

    Args:
        source: a name that ``ppl-vae list`` prints; the path of a ``.npy`` file (x), of a ``.npz`` file (``x`` and
            perhaps ``y``, or ``x_train``, ``x_test`` and perhaps ``x_valid``, ``y_train``, ...; nothing pickled is
            read), of a table (``.csv``, ``.tsv``, ``.parquet``), or of a folder of images (sub-folders are classes, in
            sorted order); an array; a table of pandas or pyarrow; ``(x, y)``; or a dict with the keys of a ``.npz``.
        root: the folder of downloaded data, in torchvision's layout.
        binarize: ``"dynamic"``: train holds probabilities that are drawn anew at each visit, valid and test are one
            draw; ``"static"``: all three are one draw; ``"none"``: values stay as they are. ``"auto"`` is ``"dynamic"``
            for grey images, (N, 1, H, W) in [0, 1] and not bits already, and ``"none"`` for all else: binarised data
            are for a Bernoulli likelihood, and any other refuses them.
        seed: of the division and the draws.
        valid: a fraction in (0, 1) or a count, of all data (of train, where test has a split of its own).
        test: likewise; only for a source that has no test split of its own.
        download: fetch a named data set that is not under ``root``.
        columns: of a table, the columns to take, in this order; None takes all but the label.
        label: of a table, the column of labels; text becomes the place of a label among the sorted ones.
        header: of a text table, whether its first row names the columns. None: it does where it has a word above a
            number, or is all words; a first row of numbers is data. ``repr`` of the data says what was taken.

    Raises:
        DataError: the source is missing, broken, not finite, outside [0, 1] where it is to be binarised, or too small
            for its splits; the message says where, and how to mend it.

    Example:
        >>> data = load_data((torch.rand(100, 3), torch.arange(100) % 4), seed=1)
        >>> len(data.train), len(data.valid), len(data.test), data.data_shape, data.num_classes, data.binarize
        (70, 10, 20, (3,), 4, 'none')
        >>> data.test.index.shape  # where each datum stands in the source
        torch.Size([20])
        >>> images = load_data(torch.rand(100, 1, 8, 8))
        >>> sorted(set(images.test.x.flatten().tolist())), images.train.binarize
        ([0.0, 1.0], 'dynamic')
    """
    if binarize not in _BINARIZE:
        raise DataError(f"binarize={binarize!r}: choose one of {', '.join(_BINARIZE)}")
    name, parts, reading = read(source, Path(root).expanduser(), download, None, columns, label, header)
    shapes = {part: shape_of(x) for part, (x, _) in parts.items()}
    if len(set(map(str, shapes.values()))) > 1:
        raise DataError(f"{name}: the splits differ in the shape of a datum ({shapes}): give all three one shape")
    if binarize in ("dynamic", "static"):
        for part, (x, _) in parts.items():
            _refuse_range(x, name if part == "all" else f"{name} ({part})")
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
    """A whole source as one split: every datum, in the order of the source. For new data, which are not divided.

    Args:
        source: as for `load_data`.
        split: which split, where the source has splits of its own; None takes test.
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
        has = "has no splits: all of it is used; leave the split out" if "all" in parts else f"has {', '.join(parts)}"
        raise DataError(f"{name}: no split {split!r}; it {has}")
    part = split or ("all" if "all" in parts else "test")
    x, y = parts[part]
    found = Split(x, y, name=WHOLE if part == "all" else part, index=torch.arange(num_data(x)))
    if record.get("binarize", "none") == "none":
        return found
    _refuse_range(x, name)
    return replace(found, x=_probabilities(found.x), binarize="dynamic").fixed(record["seed"])


def _probabilities(x: Tensor) -> Tensor:
    """Whole zeros and ones as floating ones."""
    return x if x.is_floating_point() else x.to(torch.get_default_dtype())


def _refuse_range(x: X, where: str) -> None:
    """Refuse data that can't be binarised."""
    if not torch.is_tensor(x):
        raise DataError(f"{where} has several fields, which are not binarised: give binarize='none'")
    mend = "scale the values, or keep them with binarize='none' (--binarize none)"
    refuse(x.isnan(), f"{where} has a NaN or an infinity", "repair or drop that datum, or give binarize='none'")
    refuse((x < 0) | (x > 1), f"{where} has values from {x.min():g} to {x.max():g}, outside [0, 1]", mend)


def _are_grey_images(xs: Sequence[Tensor]) -> bool:
    """Whether all are images (N, 1, H, W) of one channel in [0, 1], and some pixel is neither 0 nor 1."""
    if not all(torch.is_tensor(x) and x.dim() == 4 and x.shape[1] == 1 and min(x.shape[2:]) > 1 for x in xs):
        return False
    inside = all(bool(((x >= 0) & (x <= 1)).all()) for x in xs)
    return inside and any(bool(((x > 0) & (x < 1)).any()) for x in xs)


def _listed(shape: Any) -> Any:
    """A shape, or a structure of shapes, as JSON holds it."""
    if isinstance(shape, dict):
        return {key: _listed(value) for key, value in shape.items()}
    return [_listed(v) if isinstance(v, tuple) else v for v in shape]


def as_split(data: Data | Split | Array | tuple[Array, Array | None], scale: int | None = None) -> Split:
    """Whatever holds data, as one split: the train split of `Data`, a split itself, ``x``, or ``(x, y)``.

    Raises:
        DataError: it is none of these, or its values are not finite numbers.

    Example:
        >>> as_split((torch.zeros(5, 2), torch.arange(5)))
        Split(data: x (5, 2) float32, y int64, binarize='none')
    """
    if isinstance(data, Data):
        return data.train
    return data if isinstance(data, Split) else Split(*labelled(*x_and_y(data), "data", scale))


def visit(x: Tensor, binarize: str, key: Tensor) -> Tensor:
    """What a training step sees of ``x``: a draw of Bernoulli(x) that ``key`` decides if ``"dynamic"``, else x.

    Example:
        >>> visit(torch.tensor([0.0, 0.5, 1.0]), "dynamic", key=torch.tensor(3))
        tensor([0., 1., 1.])
    """
    return (uniform(x, key) < x).to(x.dtype) if binarize == "dynamic" else x


# ---- dividing


def _divide(
    parts: Parts, valid: float | int | None, test: float | int | None, seed: int, where: str
) -> dict[str, Split]:
    for part, share in (("valid", valid), ("test", test)):
        if part in parts and share is not None:
            raise DataError(f"{where} has a {part} split of its own: leave {part}={share} out")
    x, y = parts["train" if "train" in parts else "all"]
    n, counts = num_data(x), {}
    if "test" not in parts:
        counts["test"] = max(1, round(0.2 * n)) if test is None else _count(test, n, f"{where}: test")
    if "valid" not in parts:
        default = max(1, round(0.1 * n) if "test" in counts else min(5000, n // 12))
        counts["valid"] = default if valid is None else _count(valid, n, f"{where}: valid")
    if sum(counts.values()) >= n:
        raise DataError(f"{where}: {counts} of {n} data leave an empty train split: take fewer, or give more data")
    whole = {p: Split(*held, name=p, index=torch.arange(num_data(held[0]))) for p, held in parts.items() if p != "all"}
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
