"""The guarded step: a loss or a gradient that is not finite never reaches the parameters."""

from __future__ import annotations

from typing import Any

import torch
from pyro.optim import PyroOptim
from torch import Tensor
from torch.optim import Optimizer


class Guard:
    """Stops every update from the first step on whose loss or gradient is not finite; reads nothing from the device.

    Attributes:
        stop: 0-d float32, 1 from that step on: what a fused optimiser takes as ``found_inf``.
        good: 0-d int64, steps before it.

    Example:
        >>> import torch
        >>> guard = Guard(torch.device("cpu"))
        >>> for loss in (1.0, torch.inf, 1.0):
        ...     guard.check(torch.tensor(loss), torch.tensor(1.0))
        >>> guard.stop, guard.first_bad_step()
        (tensor(1.), 1)
    """

    def __init__(self, device: torch.device, first: int = 0) -> None:
        self.stop = torch.zeros((), dtype=torch.float32, device=device)  # the dtype that the fused kernels take
        self.good = torch.zeros((), dtype=torch.int64, device=device)
        self.first = first  # the number of the first step that is checked

    def check(self, loss: Tensor, norm: Tensor) -> None:
        """Count a step by its loss and the norm of its gradient, or stop."""
        bad = ~torch.isfinite(norm + loss.to(norm.device))
        self.stop.copy_(torch.maximum(self.stop, bad.to(self.stop.dtype)))
        self.good.add_((1 - self.stop).to(self.good.dtype))

    def first_bad_step(self) -> int | None:
        """The number of the step that stopped it, or None; reads the device."""
        return self.first + int(self.good) if bool(self.stop) else None


def clip(grads: list[Tensor], norm: Tensor, largest: float) -> None:
    """Scale gradients of this total norm in place, so that it is at most ``largest``."""
    torch._foreach_mul_(grads, (largest / (norm + 1e-6)).clamp(max=1.0))


def update(optimizer: Optimizer | PyroOptim, params: list[Tensor], guard: Guard) -> None:
    """Update the parameters by their gradients, unless the guard has stopped, and clear the gradients.

    A fused optimiser takes ``found_inf`` and skips the update on the device; for any other the host reads the guard.
    """
    optim: Any = optimizer
    if isinstance(optim, Optimizer) and all(group.get("fused") for group in optim.param_groups):
        optim.found_inf, optim.grad_scale = guard.stop, None  # type: ignore[attr-defined]
        optim.step()
        del optim.found_inf, optim.grad_scale  # type: ignore[attr-defined]
    elif not bool(guard.stop):
        optim(params) if isinstance(optim, PyroOptim) else optim.step()
    for p in params:
        p.grad = None
