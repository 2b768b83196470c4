"""Data and labels that are used together: one split, and the three of a source."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..common.errors import DataError
from ..common.fields import X, each, named, num_data, rows, shape_of
from ..common.numbers import needed
from ..common.rng import seed_for
from .binarisation import WAYS, are_grey_images, probabilities, refuse_range
from .convert import SPLITS, Array, labelled, missing
from .readers import x_and_y
from .tables import header_of


@dataclass(frozen=True, eq=False)
class Split:
    """Data and labels that are used together, such as the test split.

    Attributes:
        x: the data, (N, *shape), or a dictionary or tuple of tensors with one leading size. Whole numbers (counts,
            tokens) are int64; NaN is a missing entry.
        y: the labels, (N,), int64 where they are integers, or vectors (N, D); None without labels.
        binarize: ``"dynamic"`` where ``x`` holds probabilities, and each visit draws x' ~ Bernoulli(x) anew.
        name: its name in messages, and of the random stream of `fixed`.
        index: (N,) int64, where each example is in the source (in its file, or in that split of it); None where it
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
        return self.at(slice(n))

    def at(self, where: slice | Tensor) -> Split:
        """The data at some places."""
        y, index = (None if t is None else t[where] for t in (self.y, self.index))
        return replace(self, x=rows(self.x, where), y=y, index=index)

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
    """Three splits of one source, as `load_data` makes them.

    Attributes:
        train: the training split; the only one that may be ``"dynamic"``.
        valid: the validation split.
        test: the test split.
        name: a name of ``ppl-vae list``, the path of a file, or ``"array"``.
        seed: the seed of the division and of the fixed draws.
        binarize: what was done: ``"dynamic"``, ``"static"`` or ``"none"``.
        reading: how the source was read, so that new data can be read like it; for JSON.

    Example:
        >>> from ppl_vae import load_data
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
        how = "".join(f"{part}, " for part in (labels, header_of(self.reading)) if part)
        return f"Data({self.name}: {sizes}; {x}, {how}binarize={self.binarize!r}, seed {self.seed})"

    def binarized(self, how: str) -> Data:
        """The same data, which hold grey values, with Bernoulli draws of them; ``how`` as for `load_data`.

        ``"auto"`` is ``"dynamic"`` for grey images and ``"none"`` for all else.

        Raises:
            DataError: values outside [0, 1], or no such way.
        """
        if how not in WAYS:
            raise DataError(f"binarize={how!r}: choose one of {', '.join(WAYS)}")
        splits = [self.split(name) for name in SPLITS]
        how = ("dynamic" if are_grey_images([s.x for s in splits]) else "none") if how == "auto" else how
        if how == "none" or self.binarize != "none":
            return self
        for split in splits:
            refuse_range(split.x, f"{self.name} ({split.name})")
        drawn = {s.name: replace(s, x=probabilities(s.x), binarize="dynamic") for s in splits}
        drawn |= {n: s.fixed(self.seed) for n, s in drawn.items() if (how, n) != ("dynamic", "train")}
        return replace(self, **drawn, binarize=how)  # type: ignore[arg-type]

    def partly_labelled(self, count: int, seed: int | None = None, repeat: int = 1) -> Data:
        """The same data with ``count`` labels of the training data, as many of each class; others are -1, not known.

        Labels of the validation data are hidden too, so that nothing is chosen by them. Those of the test data stay.

        Args:
            count: how many labels are kept.
            seed: which ones; None takes the seed of the data.
            repeat: how often the training data have each example with a label, so that every batch has some. Each
                counts so often in the objective too.

        Raises:
            DataError: the labels are no classes, a class has too few examples, or ``repeat`` is below 1.

        Example:
            >>> from ppl_vae import load_data
            >>> data = load_data("digits").partly_labelled(50)
            >>> int((data.train.y >= 0).sum()), int((data.valid.y >= 0).sum()), data.num_classes
            (50, 0, 10)
            >>> often = load_data("digits").partly_labelled(50, repeat=3)
            >>> len(often.train) - len(data.train), int((often.train.y >= 0).sum())
            (100, 150)
        """
        if needed("repeat", repeat, "int") < 1:
            raise DataError(f"repeat={repeat}: each example is there once at least; give 1 or more")
        total, y = self.num_classes, self.train.y
        if total is None or y is None:
            raise DataError(
                f"{self.name}: labels can be hidden where they are classes 0, 1, 2 ..., which these are not"
            )
        kept = torch.full_like(y, -1)
        generator = torch.Generator().manual_seed(seed_for(self.seed if seed is None else seed, "labels"))
        order = torch.randperm(len(y), generator=generator).to(y.device)
        for c in range(total):
            share = count // total + (c < count % total)
            of_class = order[y[order] == c][:share]
            if len(of_class) < share or count < total:
                raise DataError(
                    f"{self.name}: {count} labels are {share} of class {c}, which has {int((y == c).sum())} training "
                    f"examples; give from {total} to {total * int(torch.bincount(y[y >= 0], minlength=total).min())}"
                )
            kept[of_class] = c
        valid = None if self.valid.y is None else torch.full_like(self.valid.y, -1)
        train, labelled = replace(self.train, y=kept), torch.nonzero(kept >= 0)[:, 0]
        if repeat > 1:
            train = train.at(torch.cat([torch.arange(len(y), device=y.device), labelled.repeat(repeat - 1)]))
        return replace(self, train=train, valid=replace(self.valid, y=valid))

    def split(self, name: str) -> Split:
        """The split of that name.

        Raises:
            DataError: ``name`` is none of train, valid, test.
        """
        if name not in SPLITS:
            raise DataError(f"no split {name!r}: choose one of {', '.join(SPLITS)}")
        found: Split = getattr(self, name)
        return found

    @property
    def data_shape(self) -> Any:
        """The shape of one example: a tuple, or for several fields a dictionary of them."""
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
    def scale(self) -> Tensor | None:
        """The standard deviation of the training data, of shape ``data_shape``; 1 where it is 0. As for ``mean``."""
        x, mean = self.train.x, self.mean
        if mean is None:
            return None
        spread: Tensor = (x.to(mean) - mean).square().nanmean(0).sqrt().nan_to_num()
        return torch.where(spread > 0, spread, torch.ones_like(spread))

    @property
    def column_classes(self) -> tuple[int, ...] | None:
        """The number of values of each column of a table (N, D); 0 where it is real; None for other data.

        A column is categorical where its numbers are 0, 1, ..., C - 1, C at most 20, and none of these is absent.
        """
        xs = [self.split(name).x for name in SPLITS]
        if not torch.is_tensor(xs[0]) or xs[0].ndim != 2:
            return None
        columns = [c[~c.isnan()].unique() for c in torch.cat([x.double() for x in xs]).unbind(1)]
        whole = [len(c) <= 20 and torch.equal(c, torch.arange(len(c)).to(c)) for c in columns]
        return tuple(len(c) if is_whole else 0 for c, is_whole in zip(columns, whole, strict=True))

    @property
    def vocabulary(self) -> int | None:
        """One more than the largest of whole numbers from 0 on, such as tokens; None for other data."""
        xs = [self.split(name).x for name in SPLITS]
        if not torch.is_tensor(xs[0]) or any(x.is_floating_point() or bool((x < 0).any()) for x in xs):
            return None
        return 1 + max(int(x.max()) for x in xs)

    @property
    def num_classes(self) -> int | None:
        """One more than the largest label; None where labels are absent, or are not integers from 0 on.

        -1 is a label that is not known, where others are 0.
        """
        labels = [self.split(name).y for name in SPLITS]
        spans = [y.aminmax() for y in labels if y is not None and y.ndim == 1 and not y.is_floating_point()]
        if len(spans) < len(labels) or min(int(low) for low, _ in spans) < -1:
            return None
        if min(int(low) for low, _ in spans) == -1 and not any(bool((y == 0).any()) for y in labels if y is not None):
            return None  # -1 and 1, and not -1 for a label that is not known
        return 1 + max(int(high) for _, high in spans)

    @property
    def label_size(self) -> int | None:
        """Numbers of a label that is a vector, or one number that is no class; None where it is a class, or absent."""
        y = self.train.y
        return None if y is None or not y.is_floating_point() else y[0].numel()

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
