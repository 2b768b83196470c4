"""What a graph would not see change: attributes of modules, and the values of tensors that a program holds."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from operator import is_, itemgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

READ = "the program reads a tensor's value (.item(), float(), bool(), if)"


class UncapturableError(Exception):
    """Why a computation can't be captured; whoever asked for it runs it as it is."""


class Attributes:
    """Numbers, flags, tensors and children of modules: what a program decides by, and must not set in a graph."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        dicts = [
            d for m in modules for d in (vars(m), *(v for v in vars(m).values() if type(v) in (dict, OrderedDict)))
        ]
        self.before = [(d, {k: v for k, v in d.items() if isinstance(v, _PLAIN)}) for d in dicts]
        # one lookup for all of a dictionary, and none for the empty ones: this runs before every call
        names = [(d, [*was] * (2 if len(was) == 1 else 1)) for d, was in self.before if was]  # of one it's no tuple
        self.lookups: list[tuple[Callable[[Any], Any], dict[str, Any], list[Any]]] = [
            (itemgetter(*of), d, [d[name] for name in of]) for d, of in names
        ]

    def changed(self) -> str | None:
        """The name of one that has another value now, is new, or is gone."""
        for d, was in self.before:
            now = {k: v for k, v in d.items() if isinstance(v, _PLAIN)}
            for name in (*now, *was):
                if name not in now or name not in was or not _equal(now[name], was[name]):
                    return str(name)
        return None

    def fresh(self) -> bool:
        """Whether all that there were have the values that they had."""
        try:
            same = all(all(map(is_, values, get(d))) for get, d, values in self.lookups)
        except KeyError:
            return False
        return same or self.changed() is None

    def give_back(self) -> None:
        """Put all back, and take new ones away: a trace leaves tensors without values in them."""
        for d, was in self.before:
            for name in [k for k, v in d.items() if isinstance(v, _PLAIN) and k not in was]:
                del d[name]
            d.update(was)


_PLAIN = (bool, int, float, str, type(None), Tensor, nn.Module)


def _equal(one: Any, other: Any) -> bool:
    plain = type(one) is type(other) and not isinstance(one, Tensor | nn.Module)
    return one is other or (plain and bool(one == other))


class Held(TorchDispatchMode):
    """What a program does, while it is traced, to tensors that have values, such as buffers and small constants.

    The tracer computes on them: what it changes is put back. A program that reads one is refused: it may change.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.before: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            raise UncapturableError(READ)
        if func._schema.is_mutable and torch.is_tensor(args[0]) and id(args[0]) not in self.before:
            with _disable_current_modes():  # the tracer's, which would give a tensor without values
                self.before[id(args[0])] = args[0], args[0].clone()
        return func(*args, **(kwargs or {}))

    def give_back(self) -> None:
        with torch.no_grad():
            for tensor, value in self.before.values():
                tensor.copy_(value)
