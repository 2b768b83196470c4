"""The arguments of a training step: data of any form, as a model and a guide take them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from ..common.fields import leaves, num_data
from ..data.convert import classes, data, labels
from ..data.lazy import as_floating
from .inputs import Needs, to_device
from .param_store import Program, modules_of
from .trace import takes_labels

WHOLE = {torch.int64}


class Arguments:
    """The arguments of two programs from those of a step: data as the other entry points take them, and labels.

    Data are the first argument, where it holds numbers; the second is labels, where the model calls it so. Tensors that
    the programs can use already are passed on at once, and so is all else that a custom program may take.

    Args:
        model: the model of a pair.
        guide: its guide.
    """

    def __init__(self, model: Program, guide: Program) -> None:
        pair: Any = nn.Module()
        pair.held, pair.model, pair.guide = nn.ModuleList(modules_of(model, guide)), model, guide
        pair.byte_scale = pair.columns = None
        self.programs = model, guide
        self.needs = Needs(pair)
        self.labelled = takes_labels(model)
        self.like = next((p for p in (*pair.parameters(), *pair.buffers()) if p.is_floating_point()), None)

    def __call__(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """The arguments as model and guide take them.

        Raises:
            DataError: what was given is no data; says what it is.
        """
        x: Any = args[0] if args else None
        y: Any = args[1] if self.labelled and len(args) > 1 else None
        floating = torch.get_default_dtype() if self.like is None else self.like.dtype
        told = y is None or (torch.is_tensor(y) and y.dtype in (torch.int64, floating))
        fields = isinstance(x, Mapping | tuple)
        dtypes = {floating, torch.bool} if fields else {floating}
        parts = leaves(x) if fields else [x]
        if told and all(self._usable(t, dtypes if self.needs.floating is not False else dtypes | WHOLE) for t in parts):
            return args
        if not _holds_numbers(x):
            return args
        if not all(self._usable(t, dtypes | WHOLE, anywhere=True) for t in parts):  # which reads from the device
            x = self.needs.by_name(x)
            x = data(x, scale=self.needs.scale_of(x))
        if not told:
            y = labels(y, num_data(x))
            y = y if y is None or self.needs.num_classes is None else classes(y, self.needs.num_classes)
        if any(t.dtype == torch.int64 for t in leaves(x)):
            if self.needs.floating is None:
                x, _ = self.needs(x, y)
            x = as_floating(x) if self.needs.floating else x
        x, y = to_device(self.needs.pair, x, y) if self.like is not None else (x, y)
        return (x, *args[1:]) if y is None else (x, y, *args[2:])

    def _usable(self, t: Any, dtypes: set[torch.dtype], anywhere: bool = False) -> bool:
        """Whether a value is a tensor of one of these dtypes, where the parameters are."""
        if not torch.is_tensor(t) or t.layout is not torch.strided:
            return False
        return t.dtype in dtypes and (anywhere or self.like is None or t.device == self.like.device)


def _holds_numbers(x: Any) -> bool:
    """Whether an argument is data, of any of the forms that :mod:`ppl_vae.data.convert` knows."""
    if isinstance(x, Mapping | tuple):
        return bool(x) and all(map(_holds_numbers, x.values() if isinstance(x, Mapping) else x))
    if isinstance(x, list) and len({v.shape for v in x if torch.is_tensor(v)}) > 1:
        return False  # such as series of different lengths, for a custom program
    return torch.is_tensor(x) or isinstance(x, list | np.ndarray) or hasattr(x, "toarray") or hasattr(x, "dtypes")
