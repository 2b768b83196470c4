"""The arguments of a training step: data of any form, as a model and a guide take them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from ..common.fields import leaves, num_data
from ..data.convert import data, labels
from ..data.lazy import as_floating
from .inputs import Needs, as_pair, first_floating, to_device
from .param_store import Program
from .trace import takes_labels

WHOLE = {torch.int64}


class Arguments:
    """The arguments of model and guide from those of a step: data of any form, and labels.

    The first argument is data, where it holds numbers; the second is labels, where the model names it so. Tensors that
    the programs can use are returned as they are, and so are other arguments of a custom program.

    Args:
        model: the model of a pair.
        guide: its guide.
    """

    def __init__(self, model: Program, guide: Program) -> None:
        pair = as_pair(model, guide)
        pair.byte_scale = pair.columns = None
        self.programs = model, guide
        self.needs = Needs(pair)
        self.labelled = takes_labels(model)
        self.like = first_floating(pair)

    def __call__(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """The arguments as model and guide take them.

        Raises:
            DataError: the first argument can't be read as data; says what it is.
        """
        x: Any = args[0] if args else None
        y: Any = args[1] if self.labelled and len(args) > 1 else None
        floating = torch.get_default_dtype() if self.like is None else self.like.dtype
        labels_ready = y is None or (torch.is_tensor(y) and y.dtype in (torch.int64, floating))
        fields = isinstance(x, Mapping | tuple)
        dtypes = {floating, torch.bool} if fields else {floating}
        parts = leaves(x) if fields else [x]
        usable = dtypes if self.needs.floating is not False else dtypes | WHOLE
        if labels_ready and all(self._usable(t, usable) for t in parts):
            return args
        if not _holds_numbers(x):
            return args
        if not all(self._usable(t, dtypes | WHOLE, anywhere=True) for t in parts):  # reads from the device
            x = self.needs.by_name(x)
            x = data(x, scale=self.needs.scale_of(x))
        if not labels_ready:
            y = labels(y, num_data(x))
            y = self.needs.labels(y)
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
    """Whether an argument is data, of any of the forms that :mod:`ppl_vae.data.convert` reads."""
    if isinstance(x, Mapping | tuple):
        return bool(x) and all(map(_holds_numbers, x.values() if isinstance(x, Mapping) else x))
    if isinstance(x, list) and len({v.shape for v in x if torch.is_tensor(v)}) > 1:
        return False  # series of different lengths, for a custom program
    return torch.is_tensor(x) or isinstance(x, list | np.ndarray) or hasattr(x, "toarray") or hasattr(x, "dtypes")
