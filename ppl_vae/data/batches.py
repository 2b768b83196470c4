"""Batches, from tensors on the device or from a loader; addressed by epoch and position."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from ..common.errors import DataError
from ..common.fields import X, device_of, each, filled, leaves, named, num_data, shape_of, size_of
from ..common.files import digest, reason
from ..common.rng import reseed, seed_for
from . import lazy
from .binarisation import probabilities, refuse_range
from .epochs import Batches
from .splits import Split, as_split


class Needs(Protocol):
    """The form of data that a pair takes, see ``scoring.inputs.Needs``, which converts what was read to it."""

    def scale_of(self, raw: Any) -> int | None: ...

    def by_name(self, raw: Any) -> Any: ...

    def __call__(self, x: X, y: Tensor | None) -> tuple[X, Tensor | None]: ...


class Batch(NamedTuple):
    """Data and labels of a step: themselves, or a whole split with the rows ``at`` an index for the step to select."""

    x: X
    y: Tensor | None
    at: Tensor | None = None

    def __len__(self) -> int:
        return num_data(self.x) if self.at is None else len(self.at)

    def split(self, of: int) -> list[Batch]:
        """The parts of a batch, of which some may be empty."""
        if self.at is not None:
            return [Batch(self.x, self.y, part) for part in self.at.tensor_split(of)]
        ys = [None] * of if self.y is None else self.y.tensor_split(of)
        fields = zip(*(leaf.tensor_split(of) for leaf in leaves(self.x)), strict=True)
        return [Batch(filled(self.x, iter(part)), y) for part, y in zip(fields, ys, strict=True)]

    def rows(self) -> tuple[X, Tensor | None]:
        """The data (B, *shape) and labels (B,) themselves."""
        return selected(*self)


def selected(x: X, y: Tensor | None, index: Tensor | None) -> tuple[X, Tensor | None]:
    """The rows at an index, or all."""
    if index is None:
        return x, y
    return each(lambda t: t.index_select(0, index), x), None if y is None else y.index_select(0, index)


class Feed(Protocol):
    """The batches of each epoch.

    Attributes:
        length: batches in an epoch; None for a loader without a length.
        batch_size: examples in a full batch; None for a loader without one.
        binarize: how each visit binarises the data, see ``data.binarisation.visit``.
        shape: of an example, see ``common.fields.shape_of``; of a loader that of the first batch, None before that.
        size: numbers of an example, likewise.
    """

    binarize: str = "none"
    shape: Any = None
    size: int = 0
    length: int | None
    batch_size: int | None

    def is_full(self, batch: Batch) -> bool:
        """Whether a batch is one of those that a graph is made for."""
        return len(batch) == self.batch_size and shape_of(batch.x) == self.shape

    def num_data(self) -> int:
        """Examples in an epoch; of a loader, known at the epoch's end."""
        ...

    def identity(self) -> Any:
        """What identifies the data, for JSON: a digest of tensors, the sizes of a loader."""

    def visits(self, epoch: int, start: int) -> Iterator[Batch]:
        """The batches of an epoch from position ``start`` on."""
        ...


class TensorFeed(Feed):
    """One tensor, on the device where it fits; a batch is a slice of a permutation."""

    def __init__(
        self, split: Split, batch_size: int, seed: int, device: torch.device, dtype: torch.dtype, needs: Needs
    ) -> None:
        if len(split) == 0:
            raise DataError("there are no data to train on; give x of shape (N, *data_shape) with N >= 1")
        x, y = cast(*needs(split.x, split.y), dtype)
        self.split = replace(split, x=x, y=y)
        self.device = device
        self.batch_size = batch_size
        self.binarize = split.binarize
        self.batches = Batches(fitting(self.split, device), batch_size, seed)
        self.length: int | None = len(self.batches)
        self.shape, self.size = shape_of(x), size_of(x)

    def num_data(self) -> int:
        return len(self.split)

    def identity(self) -> Any:
        labels = {} if self.split.y is None else {"y": self.split.y}
        return {"binarize": self.binarize, "sha256": digest(dict(named(self.split.x)) | labels)}

    def visits(self, epoch: int, start: int) -> Iterator[Batch]:
        held = self.batches.split
        for i in range(start, len(self.batches)):
            if device_of(held.x) == self.device:
                yield Batch(held.x, held.y, self.batches.index(epoch, i))
            else:
                yield moved(*self.batches.get(epoch, i), self.device)


class LoaderFeed(Feed):
    """Any ``DataLoader``: data that do not fit in memory, or are made on demand."""

    def __init__(self, loader: Any, seed: int, device: torch.device, dtype: torch.dtype, needs: Needs) -> None:
        self.loader = loader
        self.needs = needs
        self.seed = seed
        self.device = device
        self.dtype = dtype
        self.length = None if isinstance(getattr(loader, "dataset", None), IterableDataset) else len(loader)
        self.batch_size = getattr(loader, "batch_size", None)
        self.binarize = lazy.binarize_of(getattr(loader, "dataset", None))
        self.seen = 0

    def num_data(self) -> int:
        return self.seen

    def identity(self) -> Any:
        sized = hasattr(getattr(self.loader, "dataset", None), "__len__")
        how = {} if self.binarize == "none" else {"binarize": self.binarize}
        return {"batches": self.length, "data": len(self.loader.dataset) if sized else None, **how}

    def visits(self, epoch: int, start: int) -> Iterator[Batch]:
        self.seen = 0
        seed = seed_for(self.seed, "epoch", epoch)
        reseed(seed)  # a loader without a generator shuffles from torch's global one
        for owner in (self.loader, getattr(self.loader, "sampler", None)):
            if isinstance(generator := getattr(owner, "generator", None), torch.Generator):
                generator.manual_seed(seed)
        batches = iter(self.loader)
        for i in itertools.count():
            reseed(seed_for(self.seed, "load", epoch, i))
            try:
                batch = next(batches, None)
            except (TypeError, RuntimeError) as error:  # of torch's collation, mostly
                raise DataError(f"the loader makes no batch of its items: {lazy.COLLATE} ({reason(error)})") from error
            if batch is None:
                return
            x, y = lazy.unpacked(batch, self.needs.scale_of)
            if self.binarize == "dynamic":
                refuse_range(x, f"batch {i + 1} of the loader")
                x = probabilities(x)
            self.seen += num_data(x)
            if self.shape is None:
                self.shape, self.size = shape_of(x), size_of(x)
            if i >= start:
                yield moved(*cast(*self.needs(x, y), self.dtype), self.device)


def feed(data: Any, batch_size: int, seed: int, device: torch.device, dtype: torch.dtype, needs: Needs) -> Feed:
    """Training data of any form, as a feed.

    Raises:
        DataError: there are none.
    """
    if isinstance(data, DataLoader):
        return LoaderFeed(data, seed, device, dtype, needs)
    if isinstance(data, Dataset):
        shuffle = not isinstance(data, IterableDataset)
        return LoaderFeed(DataLoader(data, batch_size, shuffle=shuffle), seed, device, dtype, needs)
    data = needs.by_name(data)
    return TensorFeed(as_split(data, needs.scale_of(data)), batch_size, seed, device, dtype, needs)


def cast(x: X, y: Tensor | None, dtype: torch.dtype) -> tuple[X, Tensor | None]:
    """Data and labels in the floating type of a pair; whole numbers stay."""
    y = y.to(dtype) if y is not None and y.is_floating_point() else y
    return each(lambda t: t.to(dtype) if t.is_floating_point() else t, x), y


def moved(x: X, y: Tensor | None, device: torch.device) -> Batch:
    """A batch on the device, without waiting for the copy."""
    x = each(lambda t: t.to(device, non_blocking=True), x)
    return Batch(x, None if y is None else y.to(device, non_blocking=True))


def fitting(split: Split, device: torch.device) -> Split:
    """The split on the device where it takes less than half of the memory that is free there."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        if sum(t.numel() * t.element_size() for t in leaves(split.x)) > free / 2:
            return split
    return split.to(device)
