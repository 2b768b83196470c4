"""Which tensors were computed from which, recorded from the operations while a program runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# these take a tensor for its shape or its type alone
_SHAPED = {
    f"aten::{name}"
    for name in (
        "zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like", "randint_like",
        "new_zeros", "new_ones", "new_empty", "new_full", "new_empty_strided",
    )
}  # fmt: skip


# methods by which a program takes numbers of a tensor to the host, or decides by them
_READS = {
    "item", "tolist", "numpy", "__array__", "__bool__", "__int__", "__float__", "__complex__", "__index__",
    "__contains__",
}  # fmt: skip


class Lineage(TorchDispatchMode):
    """A context that follows tensors through every operation: what is computed from a followed tensor is followed.

    A tensor is identified by its storage, which its views share. Every followed storage is kept alive, so that no other
    has its address. A number that is read back to the host (``int(y[0])``) can't be followed further;
    ``escaped`` names what it was read from.

    Args:
        roots: what to follow, by name: a tensor, or tensors in dictionaries, tuples or lists. Two names must not share
            storage.

    Example:
        >>> y = torch.ones(3)
        >>> with Lineage({"y": y}) as lineage:
        ...     made, other = y * 2, torch.zeros_like(y) + 1
        >>> lineage.of(made), lineage.of(other)
        ({'y'}, set())
    """

    def __init__(self, roots: Mapping[str, Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.escaped: set[str] = set()
        self._names: dict[int, set[str]] = {}
        self._kept: list[Any] = []
        for name, root in roots.items():
            for leaf in _tensors(root):
                self._mark(leaf, {name})

    def of(self, tensor: Any) -> set[str]:
        """The names of the roots that a tensor was made from."""
        return set(self._names.get(_key(tensor), ())) if torch.is_tensor(tensor) else set()

    def _mark(self, tensor: Tensor, names: set[str]) -> None:
        if _key(tensor) not in self._names:
            self._names[_key(tensor)] = set()
            self._kept.append(tensor.untyped_storage() if tensor.layout == torch.strided else tensor)
        self._names[_key(tensor)] |= names

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        names = set().union(*map(self.of, _tensors((args, kwargs))))
        result = func(*args, **kwargs)
        if not names or func._schema.name in _SHAPED:
            return result
        made = _tensors(result)
        for leaf in made:
            self._mark(leaf, names)
        if not made and not func._schema.is_mutable:
            self.escaped |= names
        for argument, value in zip(func._schema.arguments, args, strict=False):
            if argument.alias_info is not None and argument.alias_info.is_write:
                for leaf in _tensors(value):
                    self._mark(leaf, names)
        return result


class HostReads(TorchFunctionMode):
    """A context that notes which roots a program itself reads back to the host; what is computed there is not followed.

    Reads inside an operation of torch, such as the check of ``one_hot``, do not count.

    Args:
        lineage: what follows the tensors, entered before.

    Example:
        >>> y = torch.ones(3)
        >>> with Lineage({"y": y}) as lineage, HostReads(lineage) as reads:
        ...     found = (2 * y).tolist()
        >>> reads.names
        {'y'}
    """

    def __init__(self, lineage: Lineage) -> None:
        super().__init__()
        self.lineage = lineage
        self.names: set[str] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in _READS and args:
            self.names |= self.lineage.of(args[0])
        return func(*args, **(kwargs or {}))


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if torch.is_tensor(leaf)]


def _key(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata) if tensor.layout == torch.strided else id(tensor)
