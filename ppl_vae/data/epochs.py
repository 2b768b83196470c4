"""Shuffled batches of a split, addressed by epoch and position."""

from __future__ import annotations

import torch
from torch import Tensor

from ..common.errors import DataError
from ..common.fields import device_of, rows
from ..common.rng import seed_for
from .convert import Labelled
from .splits import Split


class Batches:
    """Shuffled batches of a split, addressed by (epoch, i), so that a run can resume from any of them.

    The order of an epoch is a permutation by (seed, epoch), drawn on the device of the data; it differs between types
    of device. Nothing is binarised here (see `visit`), and nothing is read back to the host.

    Args:
        split: the data, on the device where they are used.
        batch_size: data in a batch; the last batch of an epoch may hold fewer.
        seed: of every epoch's order.

    Raises:
        DataError: the batch size is below 1, or the split is empty.

    Example:
        >>> batches = Batches(Split(torch.arange(5.0)[:, None]), batch_size=2, seed=0)
        >>> sorted(v for i in range(len(batches)) for v in batches.get(0, i)[0].flatten().tolist())
        [0.0, 1.0, 2.0, 3.0, 4.0]
    """

    def __init__(self, split: Split, batch_size: int, seed: int) -> None:
        if batch_size < 1:
            raise DataError(f"a batch size of {batch_size}: give 1 or more")
        if not len(split):
            raise DataError(f"{split.name} holds no data: give at least one example")
        self.split, self.batch_size, self.seed = split, batch_size, seed
        self._epoch: int | None = None
        self._order: tuple[Tensor, ...] = ()

    def __len__(self) -> int:
        return -(-len(self.split) // self.batch_size)

    def get(self, epoch: int, i: int) -> Labelled:
        """Batch ``i`` of ``epoch``: x (B, *shape), y (B,) or None.

        Raises:
            IndexError: there is no batch ``i``.
        """
        x, y = self.split.x, self.split.y
        index = self.index(epoch, i)
        return rows(x, index), None if y is None else y.index_select(0, index)

    def index(self, epoch: int, i: int) -> Tensor:
        """Where batch ``i`` of ``epoch`` is in the split: (B,) int64.

        Raises:
            IndexError: there is no batch ``i``.
        """
        if not 0 <= i < len(self):
            raise IndexError(f"batch {i} of {len(self)}")
        device = device_of(self.split.x)
        if epoch != self._epoch:
            generator = torch.Generator(device).manual_seed(seed_for(self.seed, "epoch", epoch))
            self._order = torch.randperm(len(self.split), generator=generator, device=device).split(self.batch_size)
            self._epoch = epoch
        return self._order[i]
