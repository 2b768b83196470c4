"""Changes that a graph would ignore: of attributes of modules, and of values of tensors that a program holds."""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable, Iterable
from operator import is_, itemgetter
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

READ = "the program reads a tensor's value (.item(), float(), bool(), if)"


class UncapturableError(Exception):
    """Why a computation can't be captured; the caller then runs it without a graph."""


class Attributes:
    """The attributes of modules, and their hooks: a program may branch on them, and must not set them in a graph.

    Numbers, flags, texts, tuples, functions, tensors and children; also those in lists and dictionaries.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        attributes = [vars(m) for m in modules]
        self.dicts = [d for v in attributes for d in (v, *(w for w in v.values() if type(w) in (dict, OrderedDict)))]
        self.lists = [(name, w, [*w]) for v in attributes for name, w in v.items() if type(w) is list]
        self.sizes = [*map(len, self.dicts)]
        self.before = [(d, {k: v for k, v in d.items() if isinstance(v, _PLAIN)}) for d in self.dicts]
        # one lookup for each dictionary that is not empty: this runs before every call
        # itemgetter gives a tuple for two names or more: a single one is repeated
        names = [(d, [*was] * (2 if len(was) == 1 else 1)) for d, was in self.before if was]
        self.lookups: list[tuple[Callable[[Any], Any], dict[str, Any], list[Any]]] = [
            (itemgetter(*of), d, [d[name] for name in of]) for d, of in names
        ]

    def changed(self) -> str | None:
        """The name of an attribute that has another value, is new, or was deleted; None where there is none."""
        for d, was in self.before:
            now = {k: v for k, v in d.items() if isinstance(v, _PLAIN)}
            for name in (*now, *was):
                if name not in now or name not in was or not _equal(now[name], was[name]):
                    return str(name)
        for name, now_, was_ in self.lists:
            if len(now_) != len(was_) or not all(map(_equal, now_, was_)):
                return name
        return None

    def fresh(self) -> bool:
        """Whether all attributes have the values that they had, and none is new."""
        try:
            same = all(all(map(is_, values, get(d))) for get, d, values in self.lookups)
        except KeyError:
            return False
        return (same and not self.lists and [*map(len, self.dicts)] == self.sizes) or self.changed() is None

    def give_back(self) -> None:
        """Restore all attributes and delete new ones: a trace leaves tensors without values in them."""
        for d, was in self.before:
            for name in [k for k, v in d.items() if isinstance(v, _PLAIN) and k not in was]:
                del d[name]
            d.update(was)
        for _, now, before in self.lists:
            now[:] = before


_CODE = (FunctionType, BuiltinFunctionType, MethodType, functools.partial, type)
_PLAIN = (bool, int, float, str, type(None), tuple, Tensor, nn.Module, *_CODE)


def _equal(one: Any, other: Any) -> bool:
    if one is other:
        return True
    if type(one) is not type(other) or isinstance(one, Tensor | nn.Module):
        return False
    try:
        return bool(one == other)
    except (RuntimeError, ValueError):  # arrays inside
        return False


class Held(TorchDispatchMode):
    """Restore the tensors with values (buffers, small constants) that a program changes while it is traced.

    The tracer computes on them. A program that reads a value is refused, since the value may change.

    Args:
        readable: nothing is traced, and values may be read.
    """

    def __init__(self, readable: bool = False) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.readable = readable
        self.before: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default and not self.readable:
            raise UncapturableError(READ)
        changes = func._schema.is_mutable and torch.is_tensor(args[0]) and not isinstance(args[0], FakeTensor)
        if changes and id(args[0]) not in self.before:
            with _disable_current_modes():  # of the tracer, which would give a tensor without values
                self.before[id(args[0])] = args[0], args[0].clone()
        return func(*args, **(kwargs or {}))

    def give_back(self) -> None:
        with torch.no_grad():
            for tensor, value in self.before.values():
                tensor.copy_(value)


_READS = ("_local_scalar_dense", "data-dependent", "DataDependent", ".item()")  # in torch's messages on such reads


def reason_of(error: Exception) -> str:
    """Why tracing or compiling failed, on one line."""
    text = f"{type(error).__name__}: {error}"
    if any(part in text for part in _READS):
        return READ
    return text.splitlines()[0][:160]
