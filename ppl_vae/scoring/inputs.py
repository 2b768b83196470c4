"""The inputs of a pair: its mode and device, and data as its programs take them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from ..common.errors import UserError
from ..common.fields import X, device_of, each, leaves, named, num_data, rows, size_of
from ..common.files import digest
from ..common.rng import forked
from ..data.convert import byte_scale, classes, data, labels
from ..data.lazy import Lazy, as_floating, is_lazy, opened
from ..data.splits import Data, Split
from ..data.tables import in_order, is_table, named_only, names_of
from . import terms
from .param_store import Program, modules_of

ALL = slice(None)
FEW = 4096  # up to so many examples, a pair is tried on all of them: a program may depend on their number


@contextmanager
def modes_kept(pair: nn.Module) -> Iterator[None]:
    """Restore the mode, training or evaluation, of each module on the way out."""
    modes = [(m, m.training) for m in pair.modules()]
    try:
        yield
    finally:
        for m, training in modes:
            m.training = training


@contextmanager
def evaluating(pair: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; the mode of each module is restored on the way out."""
    with modes_kept(pair), torch.no_grad():
        pair.eval()
        yield


def device_and_dtype(pair: nn.Module) -> tuple[torch.device, torch.dtype]:
    """The device and the dtype of :func:`first_floating`; the CPU and the default dtype where there is none."""
    p = first_floating(pair)
    return (torch.device("cpu"), torch.get_default_dtype()) if p is None else (p.device, p.dtype)


def first_floating(pair: nn.Module) -> Tensor | None:
    """The first floating parameter or buffer of a pair."""
    return next((p for p in (*pair.parameters(), *pair.buffers()) if p.is_floating_point()), None)


def as_pair(model: Program, guide: Program) -> Any:
    """Two programs as one module, for functions that take a pair."""
    pair: Any = nn.Module()
    pair.held, pair.model, pair.guide = nn.ModuleList(modules_of(model, guide)), model, guide
    return pair


class Needs:
    """Data as the programs of a pair can use them, and labels as its classes.

    Whole numbers stay whole where the pair runs on them, as an embedding of tokens does, and become floating ones
    where it does not, as a linear layer on counts. This is tried once, on the first data, or on two of many examples.
    """

    def __init__(self, pair: Any, missing: bool = True) -> None:
        self.pair = pair
        self.num_classes = _num_classes(pair)
        # -1 is a label that is not known, which data may have, and an example to draw may not
        self.least = -1 if missing and getattr(pair.model, "missing_labels", False) else 0
        self.floating: bool | None = None  # whether whole numbers become floating ones; None before that was tried
        self.labels_checked = False  # whether fields were given in place of labels is checked once

    def scale_of(self, raw: Any) -> int | None:
        """The divisor of bytes: that of the first bytes that the pair was given."""
        if isinstance(raw, tuple) and len(raw) == 2:
            raw = raw[0]
        known: int | None = getattr(self.pair, "byte_scale", None)
        if known is None and (known := byte_scale(raw)) is not None and hasattr(self.pair, "byte_scale"):
            self.pair.byte_scale = known
        return known

    def by_name(self, raw: Any) -> Any:
        """Data as given, but a table with its columns in the order of the first table that the pair was given.

        Raises:
            DataError: a column of the first table is missing.
        """
        table, *rest = raw if isinstance(raw, tuple) and len(raw) == 2 else (raw,)
        if not hasattr(self.pair, "columns"):
            return raw
        if isinstance(table, Data) and self.pair.columns is None:
            self.pair.columns = named_only(list(table.reading.get("columns") or []))
        if not is_table(table) or not hasattr(table, "dtypes"):
            return raw
        if self.pair.columns is None:
            self.pair.columns = names_of(table)
            return raw
        table = in_order(table, self.pair.columns)
        return (table, *rest) if rest else table

    def __call__(self, x: X, y: Tensor | None) -> tuple[X, Tensor | None]:
        """Data and labels from the tensors of :mod:`ppl_vae.data.convert`.

        Raises:
            DataError: a label that is no class of the pair.
            UserError: two arrays of one shape, for a pair without labels: fields, not labels.
        """
        y = self.labels(y)
        if not self.labels_checked:  # the batches of a loader are alike
            _refuse_fields(self.pair, x, y)
            self.labels_checked = True
        if any(t.dtype == torch.int64 for t in leaves(x)):
            if self.floating is None:
                few = (x, y) if num_data(x) <= FEW else (rows(x, slice(2)), None if y is None else y[:2])
                self.floating = _fails(self.pair, *few) and not _fails(self.pair, as_floating(few[0]), few[1])
            x = as_floating(x) if self.floating else x
        return x, y

    def labels(self, y: Tensor | None) -> Tensor | None:
        """Labels as classes, for a pair that has them.

        Raises:
            DataError: a label that is no class of the pair.
        """
        return y if y is None or self.num_classes is None else classes(y, self.num_classes, least=self.least)


def _num_classes(pair: Any) -> int | None:
    found = getattr(getattr(pair, "model", None), "num_classes", None)
    return found if isinstance(found, int) and not isinstance(found, bool) else None


def _refuse_fields(pair: Any, x: X, y: Tensor | None) -> None:
    """Refuse a mask that is given in place of labels: a pair that ignores labels would drop it in silence."""
    if y is None or y.ndim < 2 or not torch.is_tensor(x) or y.shape != x.shape:
        return
    few = slice(None) if len(x) <= FEW else slice(2)
    try:
        ignored = torch.equal(*(_log_w(pair, x[few], labels) for labels in (y[few], y[few] + 1)))
    except Exception:  # the next run of the pair reports the error
        return
    if ignored:
        raise UserError(
            f"(x, y) are data and labels, and y has the shape {tuple(y.shape)} of x while this pair ignores "
            f"labels; several fields of an example are one dictionary, {{'values': ..., 'mask': ...}}"
        )


def _log_w(pair: Any, x: X, y: Tensor | None) -> Tensor:
    """The log weights of one particle, with a fixed seed."""
    with evaluating(pair), forked(device_and_dtype(pair)[0], 0), pyro.validation_enabled(False):
        return terms.terms(pair.model, pair.guide, *to_device(pair, x, y)).log_w


def _fails(pair: Any, x: X, y: Tensor | None) -> bool:
    try:
        _log_w(pair, x, y)
    except Exception:  # a user's program may raise anything on numbers of another type
        return True
    return False


def as_data(pair: Any, x: Any, y: Any = None, seed: int = 0) -> tuple[X | Lazy, Tensor | None]:
    """Data and labels of any form, as tensors that the pair takes, or as rows that are read when needed.

    Raises:
        DataError: x can't be read as numbers, or the labels do not fit.
        UserError: x is all splits, or labels are given twice.
    """
    if isinstance(x, Data):
        raise UserError("name a split of the data: data.test, data.valid or data.train")
    if isinstance(x, Lazy):  # opened already
        return x, y
    needs = Needs(pair)
    if is_lazy(x):
        if y is not None:
            raise UserError("labels beside a data set: let its items be (x, y)")
        found = opened(x, needs.scale_of)
        if isinstance(found, Lazy):
            two, labels_of_two = found.take(slice(2))
            needs(two, labels_of_two)
            found.floating, found.num_classes = bool(needs.floating), needs.num_classes
            found.least = needs.least
            return found, None
        x, y = needs(*found)
    else:
        if isinstance(x, Split):
            split = x.fixed(seed)
            x, y = split.x, split.y if y is None else y
        elif isinstance(x, tuple) and len(x) == 2:
            if y is not None and x[1] is not None:
                raise UserError("labels are given twice: in (x, y), and as y")
            x, y = x[0], x[1] if y is None else y
        x = needs.by_name(x)
        x = data(x, scale=needs.scale_of(x))
        x, y = needs(x, labels(y, num_data(x), device=device_of(x)))
    return x, y


def num_rows(x: X | Lazy) -> int:
    """N, of data from :func:`as_data`."""
    return len(x) if isinstance(x, Lazy) else num_data(x)


def numbers_of(x: X | Lazy) -> int:
    """Numbers in one example."""
    return size_of(x.take(slice(1))[0] if isinstance(x, Lazy) else x)


def to_device(pair: Any, x: X | Lazy, y: Tensor | None = None, part: slice = ALL) -> tuple[X, Tensor | None]:
    """A part of data and labels on the device of a pair; floating tensors in its dtype, where it has one."""
    device, dtype = device_and_dtype(pair)
    has_dtype = first_floating(pair) is not None

    def moved(t: Tensor) -> Tensor:
        t = t.to(device)
        return t.to(dtype) if t.is_floating_point() and has_dtype else t

    x, y = x.take(part) if isinstance(x, Lazy) else (rows(x, part), None if y is None else y[part])
    return each(moved, x), None if y is None else moved(y)


def everything(pair: Any, x: Any, y: Any = None, seed: int = 0) -> tuple[X, Tensor | None]:
    """All data and labels as tensors; rows that are read when needed are all read."""
    found, ys = as_data(pair, x, y, seed)
    return found.take(ALL) if isinstance(found, Lazy) else (found, ys)


def fingerprint(pair: nn.Module, x: X | Lazy, y: Tensor | None) -> str:
    """A digest of the parameters of a pair and of data, which identifies the work on them."""
    found = {f"pair.{k}": v for k, v in pair.state_dict().items()}
    if isinstance(x, Lazy):
        for start in range(0, len(x), 4096):
            xs, ys = x.take(slice(start, start + 4096))
            parts = dict(named(xs)) | ({} if ys is None else {"y": ys})
            found[f"rows {start}"] = torch.frombuffer(bytearray(digest(parts), "ascii"), dtype=torch.uint8)
        return digest(found)
    return digest(found | dict(named(x)) | ({} if y is None else {"y": y}))
