"""Operations outside a graph, on a CPU: in place and in parts, where torch's own are slow."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten

LEAST = 2**14  # numbers of a tensor from which on it pays
PIECE = 2**18  # numbers at once: the allocator keeps their memory, and the cache has room for them


def in_place(numbers: int) -> AbstractContextManager[Any]:
    """Softplus, log-sigmoid and the cross entropy of float32 logits by ``log``, where torch's ``log1p`` is slow.

    That is where torch uses AVX-512; by AVX2 its own operations are the faster ones, and nothing is replaced.

    Equal to torch's to rounding, and so are gradients, which torch computes from what it would have kept.

    Args:
        numbers: those of an example times the number of rows; with few, nothing is replaced, as each operation of
            torch would take some microseconds longer.

    Example:
        >>> import torch
        >>> x = torch.linspace(-30, 30, 2**18)
        >>> with torch.no_grad(), in_place(len(x)):
        ...     found = torch.nn.functional.softplus(x)
        >>> bool(torch.allclose(found, torch.nn.functional.softplus(x), rtol=1e-6, atol=0))
        True
    """
    slow = torch.backends.cpu.get_cpu_capability() == "AVX512"
    return _InPlace() if slow and numbers >= PIECE else nullcontext()  # type: ignore[no-untyped-call]


class _InPlace(TorchDispatchMode):
    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """A part of a program that its author compiles stays compiled."""
        return True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        replacement = REPLACEMENTS.get(func)
        if replacement is not None and _slow(args[0]):
            found = replacement(*args, **(kwargs or {}))
            if found is not NotImplemented:
                return found
        return func(*args, **(kwargs or {}))


def _slow(x: Tensor) -> bool:
    return type(x) is Tensor and x.device.type == "cpu" and x.dtype == torch.float32 and x.numel() >= LEAST


def _pieces(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Parts of tensors of one shape that fit the processor's cache."""
    count = max(1, PIECE * len(tensors[0]) // tensors[0].numel())
    return zip(*(t.split(count) for t in tensors), strict=True)


def _log1p_exp(x: Tensor) -> Tensor:
    """log(1 + exp(-|x|)): log u plus what rounding took from u = 1 + e, which is less than a rounding if not over u."""
    e = x.abs().neg_().exp_()
    u = e + 1
    return e.sub_(u - 1).add_(u.log_())


def _softplus(x: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Any:
    if beta != 1 or threshold != 20:
        return NotImplemented
    out = torch.empty_like(x)
    for a, value in _pieces(x, out):
        torch.clamp(a, min=0, out=value).add_(_log1p_exp(a))
    return out


def _log_sigmoid(x: Tensor) -> tuple[Tensor, Tensor]:
    out, kept = torch.empty_like(x), x.abs().neg_().exp_()  # what torch's gradient reads
    for a, value in _pieces(x, out):
        torch.clamp(a, max=0, out=value).sub_(_log1p_exp(a))
    return out, kept


def _cross_entropy(
    x: Tensor, target: Tensor, weight: Tensor | None = None, pos_weight: Tensor | None = None, reduction: int = 1
) -> Any:
    alike = type(target) is Tensor and target.dtype == x.dtype and target.shape == x.shape
    if weight is not None or pos_weight is not None or reduction != 0 or not alike:
        return NotImplemented  # such as a target in double precision, which makes the result one
    out = torch.empty_like(x)
    for a, t, value in _pieces(x, target, out):
        log_sigmoid = a.clamp(max=0).sub_(_log1p_exp(a))
        torch.sub(1, t, out=value).mul_(a).sub_(log_sigmoid)  # torch's order, which gives its values at infinities
    return out


REPLACEMENTS: dict[Any, Any] = {
    aten.softplus.default: _softplus,
    aten.log_sigmoid_forward.default: _log_sigmoid,
    aten.binary_cross_entropy_with_logits.default: _cross_entropy,
}
