"""SVI with the interface of ``pyro.infer.SVI``: one fused optimiser, no host reads in a step, a step as a graph."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pyro
import torch
from pyro.infer import ELBO, Trace_ELBO
from pyro.optim import PyroOptim
from torch import Tensor
from torch.optim import Optimizer

from ..common import ranks
from ..common.errors import NonFiniteError, PairError, UserError
from ..common.numbers import plain
from ..compile.guards import UncapturableError
from ..compile.products import products
from ..objectives.base import Objective
from ..objectives.names import objective, ours
from ..scoring.arguments import Arguments
from ..scoring.param_store import Program, constants_beside, own_store, unmoved, with_params
from . import gradients
from .step import Guard, clip, update
from .step_graph import StepGraphs

Gradient = tuple[Tensor, list[Tensor], Tensor | None]
"""The loss, the parameters to update, and the norm of the gradient where a graph has checked it."""

READ_EVERY = 50  # steps between two reads of the device, for which the host waits


class SVI:
    r"""Stochastic variational inference on plain modules and on stock Pyro code; drop-in for ``pyro.infer.SVI``.

    Each step takes the gradient of the loss, summed over the batch as in Pyro, and updates the parameters. For the
    losses that this package computes itself (``Trace_ELBO``, ``TraceMeanField_ELBO`` and its own objectives) a step
    reads nothing back from the device; any other ``pyro.infer.ELBO`` is run as it is. The first step runs with
    Pyro's validation on, later ones with it off.

    A non-finite loss or gradient never reaches the parameters: from that step on, every update is skipped on the
    device, and :meth:`check`, which runs every 50 steps, raises. Parameters of modules live in the modules; bare
    ``pyro.param`` values stay in Pyro's store, and nothing else does.

    Args:
        model: ``model(*args)``: a module, a function or a bound method.
        guide: ``guide(*args)``.
        optim: a ``torch.optim`` optimiser that holds the parameters; or a callable that takes a list of them and
            returns one, such as ``functools.partial(torch.optim.Adam, lr=1e-3)``; or a Pyro optimiser. With
            ``fused=True`` (Adam, AdamW, SGD, Adagrad) a bad step is skipped without a host read.
        loss: a ``pyro.infer.ELBO``, or what :func:`~ppl_vae.objective` takes: a name, or a function of Terms; None
            takes ``Trace_ELBO()``.
        clip_norm: the largest norm of the whole gradient; None leaves it alone.
        capture: after the first step, run loss and gradient as a compiled graph, one for each shape of the arguments:
            the same numbers to rounding, on the same noise, without running Python. Branches in Python are
            fixed when the graph is made; a changed attribute of a module makes another. Compiling takes seconds. What
            can't be captured runs as it is, after one warning that says why (also in ``eager_because``).
        precision: ``"float32"``, or ``"bf16"`` for matrix products and convolutions in bfloat16.
        prepare: makes the arguments of model and guide from those of :meth:`step`; part of the graph, so that
            choosing the rows of a batch, binarising or augmenting is compiled too.

    Raises:
        UserError: ``optim`` is none of these, or another precision.
        PairError: the pair breaks the contract, or the loss can't train it.

    Example:
        >>> import functools, torch, ppl_vae as pv
        >>> pair = pv.build("linear", data_shape=(5,), latent=2)
        >>> adam = torch.optim.Adam(pair.parameters(), lr=1e-2, fused=True)
        >>> svi = pv.SVI(pair.model, pair.guide, adam)
        >>> svi.step(torch.randn(8, 5)).shape
        torch.Size([])
    """

    def __init__(
        self,
        model: Program,
        guide: Program,
        optim: Optimizer | PyroOptim | Callable[[Iterable[Tensor]], Optimizer],
        loss: ELBO | str | Callable[..., Any] | None = None,
        *,
        clip_norm: float | None = None,
        capture: bool = False,
        precision: str = "float32",
        prepare: Callable[..., tuple[Any, ...]] | None = None,
    ) -> None:
        capture, clip_norm, precision = plain((capture, clip_norm, precision))
        products(precision)  # refuse others now
        if not isinstance(capture, bool):
            raise UserError(f"capture={capture!r}: choose True or False; pv.fit takes 'auto' too")
        self.model = model
        self.guide = guide
        self.loss: Any = Trace_ELBO() if loss is None else loss if isinstance(loss, ELBO) else objective(loss)
        if clip_norm is not None and not (isinstance(clip_norm, int | float) and clip_norm > 0):
            raise UserError(f"clip_norm={clip_norm!r}: the largest norm must be positive; leave it out for no clipping")
        if not (isinstance(optim, Optimizer | PyroOptim) or callable(optim)):
            raise UserError(f"optim: {type(optim).__name__} is neither a torch.optim nor a pyro.optim optimiser")
        self.objective: Objective | None = ours(self.loss)
        self.clip_norm = clip_norm
        self.capture = capture
        self.precision = precision
        self.prepare = prepare
        self._arguments = Arguments(model, guide)
        self.eager_because: str | None = None
        self.steps = 0
        self._optim = optim
        self._guard: Guard | None = None
        self._graphs: StepGraphs | None = None
        self._graphs_of: tuple[Any, ...] = ()  # the objects that the graphs were made of

    @property
    def optimizer(self) -> Optimizer | PyroOptim | None:
        """The optimiser in use; None before the first step where a factory was given."""
        return self._optim if isinstance(self._optim, Optimizer | PyroOptim) else None

    def step(self, *args: Any, **kwargs: Any) -> Tensor:
        """Take one gradient step and return the loss before it: a detached 0-d tensor, in nats, summed over the batch.

        Data of any form are taken, as by :func:`~ppl_vae.fit`; a tensor of the parameters' dtype is passed on at once.

        Raises:
            DataError: the data are no numbers.
            NonFiniteError: a loss or a gradient of the last 50 steps was not finite.
            PairError: see the class.
        """
        args = self._given(args)
        found = self._captured(args, kwargs)
        with nullcontext() if found else self._store():  # a graph needs none of Pyro's state
            loss, params, norm = found or self._eager(args, kwargs)
            self._update(loss, params, norm)
        return self._count(loss)

    def step_parts(self, parts: Iterable[tuple[Any, ...]]) -> Tensor:
        """Take one gradient step on the sum of the losses of several parts of a batch: gradient accumulation.

        Inside ``ranks.joined()`` the sum is over the parts of all ranks, and every rank takes the same step; a rank
        may have no part. A parameter that no part depends on has a gradient of zero.

        Args:
            parts: the arguments of the programs for each part, such as ``[(x[:64],), (x[64:],)]``. They are taken one
                by one, so a generator can seed before each.

        Returns:
            The sum of the losses before the step, as :meth:`step` does.

        Raises:
            NonFiniteError: see :meth:`step`.
            PairError: see the class.
            UserError: there is no part, or an optimiser that several ranks can't share.
            RankError: a rank was lost.

        Example:
            >>> import torch, ppl_vae as pv
            >>> pair = pv.build("linear", data_shape=(5,), latent=2)
            >>> svi = pv.SVI(pair.model, pair.guide, torch.optim.Adam(pair.parameters(), fused=True))
            >>> svi.step_parts((x,) for x in torch.randn(8, 5).split(4)).shape
            torch.Size([])
        """
        with self._store():
            loss: Tensor | None = None
            params = self._held() or []
            for args in map(self._given, parts):
                part, params, _ = self._captured(args, {}, add=True) or self._eager(args, {})
                loss = part if loss is None else loss + part
            loss = self._sum_over_ranks(loss, params)
            self._update(loss, params)
        return self._count(loss)

    def evaluate_loss(self, *args: Any, **kwargs: Any) -> float:
        """The loss in nats, summed over the data; changes neither parameters nor running averages."""
        args = self._arguments(args)
        with own_store(), torch.no_grad(), unmoved(self.model, self.guide):
            if self.objective is not None:
                return float(self.objective.differentiable_loss(self.model, self.guide, *args, **kwargs))
            with constants_beside(self.model, *args):
                programs = with_params(self.model, "model"), with_params(self.guide, "guide")
                return gradients.number(self.loss.loss(*programs, *args, **kwargs))

    def check(self) -> None:
        """Read the device once and raise where a step was not finite.

        Raises:
            NonFiniteError: names the first bad step.
        """
        step = self.first_bad_step()
        if step is not None:
            raise NonFiniteError(
                f"step {step}: the loss or a gradient is not finite; no parameter was changed since. Lower the "
                f"learning rate or clip the gradient; pv.fit names the site and the batch"
            )

    def first_bad_step(self) -> int | None:
        """The first step whose loss or gradient was not finite, or None; reads the device."""
        return None if self._guard is None else self._guard.first_bad_step()

    def _given(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """The arguments of a step, converted where there is no ``prepare``."""
        return self._arguments(args) if self.prepare is None else args

    def _held(self) -> list[Tensor] | None:
        """The parameters of a torch optimiser."""
        if not isinstance(self._optim, Optimizer):
            return None
        return [p for group in self._optim.param_groups for p in group["params"]]

    @contextmanager
    def _store(self) -> Iterator[None]:
        """Pyro's parameter store with only the bare parameters, and validation in the first step only."""
        with own_store(keep=True), pyro.validation_enabled(self.steps == 0):
            yield

    def _eager(self, args: Any, kwargs: Any) -> Gradient:
        """Leave gradients on the parameters, beside those that are there."""
        held = self._held()
        with products(self.precision):
            if self.prepare is not None:
                args, kwargs = self.prepare(*args, **kwargs), {}
            if self.objective is not None and held is not None and self.steps > 0:
                return gradients.eager(self.objective, self.model, self.guide, held, args, kwargs), held, None
            return *gradients.stock(self.loss, self.objective, self.model, self.guide, held, args, kwargs), None

    def _captured(self, args: Any, kwargs: Any, add: bool = False) -> Gradient | None:
        """As :meth:`_eager`, by a graph; None where the step runs as it is."""
        if not self.capture or self.steps == 0 or self.eager_because is not None:
            return None
        held = self._held()
        try:
            if self.objective is None:
                raise UncapturableError(f"Pyro computes the loss {type(self.loss).__name__}, and reads values")
            if held is None:
                raise UncapturableError(f"the optimiser {type(self._optim).__name__} is not a torch.optim optimiser")
            parts = (self.objective, self.model, self.guide, self.precision, self.prepare)
            if self._graphs is None or any(map(operator.is_not, parts, self._graphs_of)):
                dtype = torch.promote_types(held[0].dtype, torch.float32)
                guard, programs = self._guard_on(held[0].device), (self.model, self.guide)
                self._graphs = StepGraphs(self.objective, programs, guard, self.precision, self.prepare, dtype=dtype)
                self._graphs_of = parts
            loss, norm, updated = self._graphs(held, args, kwargs, add=add)
        except UncapturableError as why:
            self.eager_because = str(why)
            warnings.warn(f"the step is not captured, and runs as it is: {why}", stacklevel=3)
            return None
        return (loss, held, None) if add else (loss, updated, norm)

    def _guard_on(self, device: torch.device) -> Guard:
        if self._guard is None:
            self._guard = Guard(device, self.steps)
        return self._guard

    def _update(self, loss: Tensor, params: list[Tensor], norm: Tensor | None = None) -> None:
        if not isinstance(self._optim, Optimizer | PyroOptim):
            self._optim = self._optim(params)
        grads = [p.grad for p in params if p.grad is not None]
        if not grads:
            raise PairError(
                "the optimiser holds no parameter that the loss depends on; build it from the parameters of this pair"
            )
        guard = self._guard_on(grads[0].device)
        if norm is None:
            norm = torch.nn.utils.get_total_norm(grads)
            guard.check(loss, norm)
        if self.clip_norm is not None:
            clip(grads, norm, self.clip_norm)
        update(self._optim, params, guard)

    def _sum_over_ranks(self, loss: Tensor | None, params: list[Tensor]) -> Tensor:
        """The loss, and in place the gradients, over all ranks."""
        if ranks.count() > 1 and not isinstance(self._optim, Optimizer):
            raise UserError("several ranks need a torch.optim optimiser that holds the parameters of modules")
        if loss is None:
            if ranks.count() == 1:
                raise UserError("step_parts: there is no part to take a step on")
            loss = torch.zeros(())
        elif all(p.grad is None for p in params):
            return loss  # which the update refuses
        for p in params:
            if p.grad is None and p.requires_grad:
                p.grad = torch.zeros_like(p)
        loss = loss.to(params[0], copy=True)
        ranks.all_reduce_sum([*(p.grad for p in params if p.grad is not None), loss])
        return loss

    def _count(self, loss: Tensor) -> Tensor:
        self.steps += 1
        if self.steps % READ_EVERY == 0:
            self.check()
        return loss
