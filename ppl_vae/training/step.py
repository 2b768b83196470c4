"""A move of the parameters: skipped on the device from the first bad step on, and without an optimiser's Python."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam, AdamW, Optimizer, optimizer


class Guard:
    """Stops every move from the first step on whose loss or gradient is not finite; reads nothing from the device.

    Attributes:
        stop: 0-d float32, 1 from that step on: what a fused optimiser takes as ``found_inf``.
        good: 0-d int64, steps before it.

    Example:
        >>> import torch
        >>> guard = Guard(torch.device("cpu"))
        >>> for loss in (1.0, torch.inf, 1.0):
        ...     guard.look(torch.tensor(loss), torch.tensor(1.0))
        >>> guard.stop, guard.good
        (tensor(1.), tensor(1))
    """

    def __init__(self, device: torch.device) -> None:
        self.stop = torch.zeros((), dtype=torch.float32, device=device)  # the kernels know no other
        self.good = torch.zeros((), dtype=torch.int64, device=device)

    def look(self, loss: Tensor, norm: Tensor) -> None:
        """Count a step of this loss and norm of its gradient, or stop."""
        bad = ~torch.isfinite(norm + loss.to(norm.device))
        self.stop.copy_(torch.maximum(self.stop, bad.to(self.stop.dtype)))
        self.good.add_((1 - self.stop).to(self.good.dtype))


class Adams:
    """The update of a fused Adam or AdamW, by the kernel that its ``step`` calls, on lists that are made once.

    ``step`` gathers parameters and state anew each time, which takes longer than the update of a small network.
    """

    def __init__(self, optim: Optimizer, params: Sequence[Tensor]) -> None:
        self.optim = optim
        self.params = list(params)
        known = {id(p) for p in params}
        self.groups: list[tuple[dict[str, Any], tuple[list[Tensor], ...], list[int]]] = []
        self.slots: list[tuple[Tensor, str, Tensor]] = []
        place = {id(p): i for i, p in enumerate(params)}
        for group in optim.param_groups:
            moved = [p for p in group["params"] if id(p) in known]
            names = ("exp_avg", "exp_avg_sq", *(("max_exp_avg_sq",) if group["amsgrad"] else ()), "step")
            avgs, squares, *most, steps = ([optim.state[p][name] for p in moved] for name in names)
            lists = (moved, avgs, squares, most[0] if most else [], steps)
            self.slots += [(p, name, optim.state[p][name]) for p in moved for name in names]
            self.groups.append((group, lists, [place[id(p)] for p in moved]))

    @staticmethod
    def fit(optim: Optimizer, params: Sequence[Tensor]) -> bool:
        """Whether the update is nothing but the kernel's: no hook, no replaced ``step``, a state for each parameter."""
        return (
            type(optim) in (Adam, AdamW)
            and _bare(optim)
            and all("exp_avg" in optim.state.get(p, {}) for p in params)
            and len({(p.device, p.dtype) for p in params}) == 1
            and all(g["fused"] and not g["differentiable"] for g in optim.param_groups)
            and not any(torch.is_tensor(b) for g in optim.param_groups for b in g["betas"])
        )

    def fresh(self, optim: Optimizer, params: Sequence[Tensor]) -> bool:
        """Whether these are still the parameters, and the state, that the lists hold."""
        same = len(params) == len(self.params) and all(map(operator.is_, params, self.params))
        state = optim.state
        held = all(state.get(p, {}).get(name) is value for p, name, value in self.slots)
        return same and held and optim is self.optim and _bare(optim)

    @torch.no_grad()
    def __call__(self, grads: Sequence[Tensor], stop: Tensor) -> None:
        """Move the parameters by their gradients, where ``stop`` is 0."""
        for group, (params, avgs, squares, most, steps), places in self.groups:
            if not params:
                continue
            torch._foreach_add_(steps, 1 - stop)
            kernel = torch._fused_adamw_ if _decoupled(self.optim, group) else torch._fused_adam_
            kernel(
                params, [grads[i] for i in places], avgs, squares, most, steps,
                lr=group["lr"], beta1=group["betas"][0], beta2=group["betas"][1], weight_decay=group["weight_decay"],
                eps=group["eps"], amsgrad=group["amsgrad"], maximize=group["maximize"], grad_scale=None, found_inf=stop,
            )  # fmt: skip


def _decoupled(optim: Optimizer, group: dict[str, Any]) -> bool:
    """Whether the weights decay by themselves, not through the gradient."""
    return isinstance(optim, AdamW) or bool(group.get("decoupled_weight_decay", False))


def _bare(optim: Optimizer) -> bool:
    """Whether nothing is hung on an optimiser's ``step``."""
    hooks = (
        optim._optimizer_step_pre_hooks, optim._optimizer_step_post_hooks,
        optimizer._global_optimizer_pre_hooks, optimizer._global_optimizer_post_hooks,
    )  # fmt: skip
    return not any(hooks) and "step" not in vars(optim)
