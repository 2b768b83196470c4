"""Data that are not held in memory, in a ``Dataset`` or behind a ``DataLoader``: read block by block."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from ..common.errors import DataError
from ..common.fields import X, each, joined, num_data
from ..common.files import reason
from . import convert

COLLATE = "give tensors of one shape"
ScaleOf = Callable[[Any], int | None]


class Lazy:
    """The rows of a data set, in its order; only the data set itself is held.

    Args:
        dataset: has a length and items x, or (x, y).
        scale_of: what the bytes of a batch are divided by.
        collate: makes a batch of a list of items.
    """

    def __init__(self, dataset: Any, scale_of: ScaleOf, collate: Callable[[list[Any]], Any] = default_collate) -> None:
        self.dataset = dataset
        self.scale_of = scale_of
        self.collate = collate
        self.floating = False  # whether the pair takes whole numbers as floating ones
        self.num_classes: int | None = None
        self.least = 0  # the least label: -1 for one that is not known

    def __len__(self) -> int:
        return len(self.dataset)

    def take(self, part: slice) -> tuple[X, Tensor | None]:
        """Some rows, as tensors: x (B, *shape) and labels."""
        indices = list(range(*part.indices(len(self))))
        at_once = getattr(self.dataset, "__getitems__", None)  # as torch's loader reads a batch
        items = at_once(indices) if at_once else [self.dataset[i] for i in indices]
        x, y = unpacked(_batch(items, self.collate), self.scale_of)
        x = as_floating(x) if self.floating else x
        return x, y if y is None or self.num_classes is None else convert.classes(y, self.num_classes, least=self.least)


def binarize_of(dataset: Any) -> str:
    """``"dynamic"`` where each visit of a data set is to draw anew, as its ``binarize`` says, or that of the whole
    of which it is a part; else ``"none"``.

    Example:
        >>> from torch.utils.data import Subset, TensorDataset
        >>> whole = TensorDataset(torch.zeros(3, 2))
        >>> whole.binarize = "dynamic"
        >>> binarize_of(Subset(whole, [0])), binarize_of(TensorDataset(torch.zeros(3, 2)))
        ('dynamic', 'none')
    """
    found = getattr(dataset, "binarize", None)
    if isinstance(found, str):
        return "dynamic" if found == "dynamic" else "none"
    inner = getattr(dataset, "datasets", None) or [d for d in [getattr(dataset, "dataset", None)] if d is not None]
    ways = {binarize_of(one) for one in inner} if isinstance(inner, list) else set()
    if len(ways) > 1:
        raise DataError(
            "some of the data sets that are joined are drawn anew at each visit, and others not: give one kind"
        )
    return ways.pop() if ways else "none"


def is_lazy(data: Any) -> bool:
    """Whether data are a data set or a loader."""
    return isinstance(data, Dataset | DataLoader)


def opened(data: Any, scale_of: ScaleOf) -> Lazy | tuple[X, Tensor | None]:
    """A data set or a loader as rows to be read later; an iterable data set is read now.

    A loader's order and its dropped remainder are for training: the rows are those of its data set, in its order.

    Raises:
        DataError: it has no rows, its items are not x or (x, y), or they are to be drawn anew at each visit.
    """
    loader = data if isinstance(data, DataLoader) else None
    dataset = data if loader is None else loader.dataset
    if binarize_of(dataset) == "dynamic":
        raise DataError("a data set with binarize='dynamic' is for training: evaluate on one draw, bits of their own")
    if isinstance(dataset, IterableDataset):
        batches = loader if loader is not None else DataLoader(dataset, batch_size=256)
        parts = [unpacked(batch, scale_of) for batch in batches]
        if not parts:
            raise DataError("the data set gave no data; give at least one example")
        ys = [y for _, y in parts if y is not None]
        return joined([x for x, _ in parts]), joined(ys) if ys else None
    if not len(dataset):  # type: ignore[arg-type]
        raise DataError("the data set holds no data; give at least one example")
    plain = loader is None or loader.batch_sampler is None or loader.collate_fn is None  # items, and not batches
    return Lazy(dataset, scale_of) if plain else Lazy(dataset, scale_of, loader.collate_fn)  # type: ignore[union-attr]


def _batch(items: list[Any], collate: Callable[[list[Any]], Any]) -> Any:
    try:
        return collate(items)
    except (TypeError, RuntimeError) as error:
        raise DataError(f"the items of the data set can't be joined to a batch: {COLLATE} ({reason(error)})") from error


def unpacked(batch: Any, scale_of: ScaleOf) -> tuple[X, Tensor | None]:
    """A batch as data and labels: x, (x,) or (x, y), where x may be a dictionary of tensors.

    Raises:
        DataError: it is none of these.
    """
    parts = tuple(batch) if isinstance(batch, tuple | list) else (batch,)
    is_data = isinstance(parts[0], Mapping | tuple) or hasattr(parts[0], "shape") if parts else False
    if len(parts) not in (1, 2) or not is_data:
        kinds = ", ".join(type(p).__name__ for p in parts)
        raise DataError(
            f"a batch of the loader is ({kinds}); it must be a tensor x, or (x, y); several fields of an example are "
            f"one dictionary, ({{'values': ..., 'mask': ...}}, y)"
        )
    x = convert.data(parts[0], "a batch of the loader", scale_of(parts[0]))
    y = parts[1] if len(parts) == 2 else None
    return x, convert.labels(y, num_data(x), "labels of the loader")


def as_floating(x: X) -> X:
    """Whole numbers as floating ones of the default type; masks stay masks."""
    whole = (torch.int64, torch.int32)
    return each(lambda t: t.to(torch.get_default_dtype()) if t.dtype in whole else t, x)
