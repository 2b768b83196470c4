"""Where batches come from: tensors on the device, or a loader; addressed by epoch and position."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from .data import Batches, Split, as_split
from .errors import DataError
from .rng import reseed, seed_for


class Batch(NamedTuple):
    """Data and labels of a step: all of them, or the rows ``at`` an index of a whole split, for the step to select."""

    x: Tensor
    y: Tensor | None
    at: Tensor | None = None

    def __len__(self) -> int:
        return len(self.x if self.at is None else self.at)

    def split(self, of: int) -> list[Batch]:
        """The parts of a batch, of which some may be empty."""
        if self.at is not None:
            return [Batch(self.x, self.y, part) for part in self.at.tensor_split(of)]
        ys = [None] * of if self.y is None else self.y.tensor_split(of)
        return [Batch(x, y) for x, y in zip(self.x.tensor_split(of), ys, strict=True)]

    def rows(self) -> tuple[Tensor, Tensor | None]:
        """The data (B, *shape) and labels (B,) themselves."""
        return selected(*self)


def selected(x: Tensor, y: Tensor | None, index: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """The rows at an index, or all."""
    if index is None:
        return x, y
    return x.index_select(0, index), None if y is None else y.index_select(0, index)


class Feed:
    """The batches of an epoch.

    Attributes:
        length: batches in an epoch, or None where a loader doesn't say.
        batch_size: data in a full batch, or None where a loader doesn't say.
        binarize: what a visit does to the data, see ``data.visit``.
    """

    binarize = "none"
    length: int | None
    batch_size: int | None = None

    def num_data(self) -> int:
        """Data in an epoch; a loader knows it at the epoch's end."""
        return 0

    def visits(self, epoch: int, start: int) -> Iterator[Batch]:
        """The batches of an epoch from position ``start`` on."""
        raise TypeError(epoch, start)


class TensorFeed(Feed):
    """One tensor, on the device where it fits; a batch is a slice of a permutation."""

    def __init__(self, split: Split, batch_size: int, seed: int, device: torch.device, dtype: torch.dtype) -> None:
        if len(split) == 0:
            raise DataError("there are no data to train on; give x of shape (N, *data_shape) with N >= 1")
        self.split = cast(split, dtype)
        self.device = device
        self.batch_size = batch_size
        self.binarize = split.binarize
        self.batches = Batches(placed(self.split, device), batch_size, seed)
        self.length: int | None = len(self.batches)

    def num_data(self) -> int:
        return len(self.split)

    def visits(self, epoch: int, start: int) -> Iterator[Batch]:
        held = self.batches.split
        for i in range(start, len(self.batches)):
            if held.x.device == self.device:
                yield Batch(held.x, held.y, self.batches.index(epoch, i))
            else:
                x, y = self.batches.get(epoch, i)
                moved = None if y is None else y.to(self.device, non_blocking=True)
                yield Batch(x.to(self.device, non_blocking=True), moved)


class LoaderFeed(Feed):
    """Any ``DataLoader``: data that do not fit, or that are made on the way."""

    def __init__(self, loader: Any, seed: int, device: torch.device, dtype: torch.dtype) -> None:
        self.loader = loader
        self.seed = seed
        self.device = device
        self.dtype = dtype
        self.length = None if isinstance(getattr(loader, "dataset", None), IterableDataset) else len(loader)
        self.batch_size = getattr(loader, "batch_size", None)
        self.seen = 0

    def num_data(self) -> int:
        return self.seen

    def visits(self, epoch: int, start: int) -> Iterator[Batch]:
        self.seen = 0
        seed = seed_for(self.seed, "epoch", epoch)
        reseed(seed)  # a loader shuffles from torch's global generator, if it has none of its own
        for owner in (self.loader, getattr(self.loader, "sampler", None)):
            if isinstance(generator := getattr(owner, "generator", None), torch.Generator):
                generator.manual_seed(seed)
        batches = iter(self.loader)
        i = 0
        while True:
            reseed(seed_for(self.seed, "load", epoch, i))
            batch = next(batches, None)
            if batch is None:
                return
            x, y = _unpacked(batch)
            self.seen += len(x)
            if i >= start:
                x = x.to(self.device, non_blocking=True)
                yield Batch(x.to(self.dtype) if x.is_floating_point() else x, None if y is None else y.to(self.device))
            i += 1


def _unpacked(batch: Any) -> tuple[Tensor, Tensor | None]:
    parts = tuple(batch) if isinstance(batch, tuple | list) else (batch,)
    if len(parts) not in (1, 2) or not all(torch.is_tensor(p) for p in parts):
        kinds = ", ".join(type(p).__name__ for p in parts)
        raise DataError(f"a batch of the loader is ({kinds}); it must be a tensor x, or (x, y)")
    return parts[0], parts[1] if len(parts) == 2 else None


def feed(data: Any, batch_size: int, seed: int, device: torch.device, dtype: torch.dtype) -> Feed:
    """Whatever holds training data, as a feed.

    Raises:
        DataError: it holds none.
    """
    if isinstance(data, DataLoader):
        return LoaderFeed(data, seed, device, dtype)
    if isinstance(data, Dataset):
        shuffle = not isinstance(data, IterableDataset)
        return LoaderFeed(DataLoader(data, batch_size, shuffle=shuffle), seed, device, dtype)
    return TensorFeed(as_split(data), batch_size, seed, device, dtype)


def cast(split: Split, dtype: torch.dtype) -> Split:
    """The split in the floating type of a pair."""
    return replace(split, x=split.x.to(dtype)) if split.x.is_floating_point() else split


def placed(split: Split, device: torch.device) -> Split:
    """The split on the device where it takes less than half of the memory that is free there."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        if split.x.numel() * split.x.element_size() > free / 2:
            return split
    return split.to(device)
