"""Operations of a graph in terms of others: on a CPU of fast ones, equal to rounding; on a GPU of the same noise."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten

# log(1 + e) / e for e in [0, 1]: the polynomial of least relative error, 5e-9
LOG1P = (
    0.9999999952872105, -0.4999990242264694, 0.33329962413186665, -0.24954133620863067, 0.1967593907805461,
    -0.1530559205560434, 0.1060365401263771, -0.056959525670972885, 0.019851457793369637, -0.0032440241639527523,
)  # fmt: skip


def fast(device: torch.device) -> dict[Any, Any]:
    """The replacements of operations of torch in a graph, for the device that runs it."""
    return CPU if device.type == "cpu" else GPU


def _log1p_exp(x: Tensor) -> Tensor:
    """log(1 + exp(-|x|)), in float32 with no logarithm and no division.

    By exp2, since inductor stores an exp that is read more than once. Its relative error grows with |x|, as it does
    for an exp of an x that was rounded.
    """
    if x.dtype != torch.float32:
        e = torch.exp(-x.abs())
        u = 1 + e
        return torch.log(u) + (e - (u - 1)) / u  # corrected for the rounding of 1 + e
    e = torch.exp2(x.abs() * -math.log2(math.e))
    p = LOG1P[-1] * e + LOG1P[-2]
    for c in LOG1P[-3::-1]:
        p = p * e + c
    return p * e


def _log1p(x: Tensor) -> Tensor:
    """log(1 + x), corrected for the rounding of 1 + x; torch's log1p takes 14 times as long as its log."""
    u = 1 + x
    lost = (x - (u - 1)) / u
    return torch.log(u) + torch.where((u > 0) & (u < torch.inf), lost, 0.0)


def _expm1(x: Tensor) -> Tensor:
    return torch.tanh(x / 2) * (torch.exp(x) + 1)


def _softplus(x: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Any:
    if threshold != 20:
        return NotImplemented
    z = x if beta == 1 else beta * x
    value = z.clamp(min=0) + _log1p_exp(z)
    value = value if beta == 1 else value / beta
    return torch.where(z > threshold, x, value) if x.dtype == torch.float64 else value  # in float32 it equals x there


def _softplus_backward(g: Tensor, x: Tensor, beta: float, threshold: float) -> Any:
    if threshold != 20:
        return NotImplemented
    z = x if beta == 1 else beta * x
    slope = g * torch.sigmoid(z)
    return torch.where(z > threshold, g, slope) if x.dtype == torch.float64 else slope


def _log_sigmoid(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.clamp(max=0) - _log1p_exp(x), x.new_empty(0)


def _log_sigmoid_backward(g: Tensor, x: Tensor, buffer: Tensor) -> Tensor:
    return g * torch.sigmoid(-x)


def _cross_entropy(
    x: Tensor, target: Tensor, weight: Tensor | None = None, pos_weight: Tensor | None = None, reduction: int = 1
) -> Any:
    if weight is not None or pos_weight is not None or reduction != 0:
        return NotImplemented
    log_sigmoid = x.clamp(max=0) - _log1p_exp(x)
    return (1 - target) * x - log_sigmoid  # torch's order of terms, which gives its values at infinities


def _linear(bias: Tensor, x: Tensor, weight: Tensor, beta: float = 1, alpha: float = 1) -> Any:
    """A product and a bias, which is fused with the next operations; torch copies it in a separate pass.

    Subtracted, since inductor would make torch's operation again of a product and a sum.
    """
    return x @ weight - (-bias) if beta == alpha == 1 else NotImplemented


def _bernoulli(p: Tensor, generator: Any = None) -> Any:
    """The draw as one operation: inductor would compare p with uniform numbers, which on a GPU are others."""
    if generator is not None:  # the tracer refuses it
        return NotImplemented
    return aten.bernoulli.Tensor(torch.empty_like(p, memory_format=torch.contiguous_format), p)


GPU: dict[Any, Any] = {aten.bernoulli.default: _bernoulli}
CPU: dict[Any, Any] = {
    aten.addmm.default: _linear,
    aten.log1p.default: _log1p,
    aten.expm1.default: _expm1,
    aten.softplus.default: _softplus,
    aten.softplus_backward.default: _softplus_backward,
    aten.log_sigmoid_forward.default: _log_sigmoid,
    aten.log_sigmoid_backward.default: _log_sigmoid_backward,
    aten.binary_cross_entropy_with_logits.default: _cross_entropy,
}
