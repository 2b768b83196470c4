"""SVI with the interface of ``pyro.infer.SVI``: one fused optimiser, no host reads in a step, a step as a graph."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from pyro.infer import ELBO, Trace_ELBO
from pyro.optim import PyroOptim
from torch import Tensor, nn
from torch.optim import Optimizer

from . import ranks, weights
from .errors import NonFiniteError, PairError, UserError
from .moves import Adams, Guard
from .numbers import plain
from .objectives import Objective, objective, ours
from .precision import products
from .setting import Arguments
from .step_graph import StepGraphs
from .store import Program, constants_beside, own_store, unmoved, with_params
from .watched import UncapturableError

READ_EVERY = 50  # steps between looks at the device; a look waits for it


class SVI:
    r"""Stochastic variational inference on plain modules and on stock Pyro code; drop-in for ``pyro.infer.SVI``.

    Each step takes the gradient of the loss, summed over the batch as in Pyro, and moves the parameters. For the
    losses that this package understands (``Trace_ELBO``, ``TraceMeanField_ELBO`` and its own objectives) a step
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
        loss: a ``pyro.infer.ELBO``, or the name of an objective; None takes ``Trace_ELBO()``.
        clip_norm: the largest norm of the whole gradient; None leaves it alone.
        capture: after the first step, run loss and gradient as a compiled graph, one for each shape of the arguments:
            the same numbers to rounding, on the same noise, without running Python. What Python decides is decided when
            the graph is made; a changed attribute of a module makes another. Compiling takes seconds. What can't be
            captured runs as it is, after one warning that says why (also in ``eager_because``).
        precision: ``"float32"``, or ``"bf16"`` for matrix products and convolutions in bfloat16.
        prepare: makes the arguments of model and guide from those of :meth:`step`; part of the graph, so what it does
            (choosing the rows of a batch, binarising, augmenting) is compiled too.

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
        loss: ELBO | str | None = None,
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
        self.loss: Any = Trace_ELBO() if loss is None else objective(loss) if isinstance(loss, str) else loss
        if not isinstance(self.loss, ELBO):
            what = f"the class {loss.__name__}" if isinstance(loss, type) else f"a {type(loss).__name__}"
            raise UserError(f"loss: {what} is not an instance of pyro.infer.ELBO; pass one, such as pv.IWAE()")
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
        self._began = 0  # the step that the guard looked at first
        self._adams: Adams | None = None
        self._declared = (with_params(model, "model"), with_params(guide, "guide"))
        self._graphs: StepGraphs | None = None
        self._parts: tuple[Any, ...] = ()  # that the graphs were made of

    @property
    def optimizer(self) -> Optimizer | PyroOptim | None:
        """The optimiser in use; None before the first step where a factory was given."""
        return self._optim if isinstance(self._optim, Optimizer | PyroOptim) else None

    def step(self, *args: Any, **kwargs: Any) -> Tensor:
        """Take one gradient step and return the loss before it: a detached 0-d tensor, in nats, summed over data.

        Data of any form are taken, as by :func:`~ppl_vae.fit`; a tensor of the parameters' dtype is passed on at once.

        Raises:
            DataError: the data are no numbers.
            NonFiniteError: a loss or a gradient of the last 50 steps was not finite.
            PairError: see the class.
        """
        args = self._given(args)
        captured = self._captured(args, kwargs)
        if captured is not None:
            self._move(*captured)
            return self._counted(captured[0])
        with own_store(keep=True), _validated(self.steps == 0):
            loss, params = self._backward(args, kwargs)
            self._move(loss, params)
        return self._counted(loss)

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
        with own_store(keep=True), _validated(self.steps == 0):
            loss: Tensor | None = None
            params = _held(self._optim) if isinstance(self._optim, Optimizer) else []
            for args in map(self._given, parts):
                captured = self._captured(args, {}, several=True)
                part, params = self._backward(args, {}) if captured is None else captured[:2]
                loss = part if loss is None else loss + part
            loss = self._summed(loss, params)
            self._move(loss, params)
        return self._counted(loss)

    def _summed(self, loss: Tensor | None, params: list[Tensor]) -> Tensor:
        """The loss, and in place the gradients, over all ranks."""
        if ranks.count() > 1 and not isinstance(self._optim, Optimizer):
            raise UserError("several ranks need a torch.optim optimiser that holds the parameters of modules")
        if loss is None:
            if ranks.count() == 1:
                raise UserError("step_parts: there is no part to take a step on")
            loss = torch.zeros(())
        elif all(p.grad is None for p in params):
            return loss  # the move says what is wrong
        for p in params:
            if p.grad is None and p.requires_grad:
                p.grad = torch.zeros_like(p)
        loss = loss.to(params[0], copy=True)
        ranks.total([*(p.grad for p in params if p.grad is not None), loss])
        return loss

    def _counted(self, loss: Tensor) -> Tensor:
        self.steps += 1
        if self.steps % READ_EVERY == 0:
            self.check()
        return loss

    def evaluate_loss(self, *args: Any, **kwargs: Any) -> float:
        """The loss in nats, summed over the data; moves nothing, neither parameters nor running averages."""
        args = self._arguments(args)
        with own_store(), torch.no_grad(), unmoved(self.model, self.guide):
            if self.objective is not None:
                return float(self.objective.differentiable_loss(self.model, self.guide, *args, **kwargs))
            with constants_beside(self.model, *args):
                return _number(self.loss.loss(*self._declared, *args, **kwargs))

    def check(self) -> None:
        """Read the device once and raise where a step was not finite.

        Raises:
            NonFiniteError: names the first bad step, which is also in its ``step``.
        """
        step = self.first_bad_step()
        if step is not None:
            raise NonFiniteError(
                f"step {step}: the loss or a gradient is not finite; no parameter was moved since. Lower the learning "
                f"rate or clip the gradient; pv.fit names the site and the batch"
            )

    def first_bad_step(self) -> int | None:
        """The first step whose loss or gradient was not finite, or None; reads the device."""
        if self._guard is None or not bool(self._guard.stop):
            return None
        return self._began + int(self._guard.good)

    def _given(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """The arguments of a step; those of ``prepare`` are its own."""
        return self._arguments(args) if self.prepare is None else args

    def _captured(
        self, args: Any, kwargs: Any, several: bool = False
    ) -> tuple[Tensor, list[Tensor], Tensor | None] | None:
        """As :meth:`_backward`, by a graph, with the gradient's norm; None where there can be none."""
        if not self.capture or self.steps == 0 or self.eager_because is not None:
            return None
        try:
            if self.objective is None:
                raise UncapturableError(f"Pyro computes the loss {type(self.loss).__name__}, and reads values")
            if not isinstance(self._optim, Optimizer):
                raise UncapturableError(f"the optimiser {type(self._optim).__name__} is not a torch.optim optimiser")
            params = _held(self._optim)
            parts = (self.objective, self.model, self.guide, self.precision, self.prepare)
            if self._graphs is None or any(map(operator.is_not, parts, self._parts)):
                guard, self._parts = self._guarded(params[0].device), parts
                programs = self.model, self.guide
                dtype = torch.promote_types(params[0].dtype, torch.float32)
                self._graphs = StepGraphs(self.objective, programs, guard, self.precision, self.prepare, dtype=dtype)
            loss, norm, moved = self._graphs(params, args, kwargs, add=several)
            return (loss, params, None) if several else (loss, moved, norm)
        except UncapturableError as why:
            self.eager_because = str(why)
            warnings.warn(f"the step is not captured, and runs as it is: {why}", stacklevel=3)
            return None

    def _guarded(self, device: torch.device) -> Guard:
        if self._guard is None:
            self._guard, self._began = Guard(device), self.steps
        return self._guard

    def _backward(self, args: Any, kwargs: Any) -> tuple[Tensor, list[Tensor]]:
        """Leave gradients on the parameters; return the loss and the parameters to move."""
        with products(self.precision):
            if self.prepare is not None:
                args, kwargs = self.prepare(*args, **kwargs), {}
            return self._loss_and_grads(args, kwargs)

    def _loss_and_grads(self, args: Any, kwargs: Any) -> tuple[Tensor, list[Tensor]]:
        held = _held(self._optim) if isinstance(self._optim, Optimizer) else None
        if self.objective is not None and held is not None and self.steps > 0:
            loss = self.objective.differentiable_loss(self.model, self.guide, *args, **kwargs)
            params = held
        else:
            # stock losses and optimisers look for pyro.param statements; a plain module has none of its own
            with weights.captured_params() as found:
                if self.objective is not None:
                    loss = self.objective.differentiable_loss(*self._declared, *args, **kwargs)
                else:
                    with constants_beside(self.model, *args):
                        value = self.loss.loss_and_grads(*self._declared, *args, **kwargs)
                    loss = torch.as_tensor(_number(value), dtype=torch.float64)
            params = [p for p in found if p.requires_grad]
            if not params:
                raise PairError("the pair has no parameter to train: no module with parameters and no pyro.param")
            if held is not None:
                _refuse_missing(params, held)
                params = held
        if self.objective is not None:
            if not loss.requires_grad:
                raise PairError("the loss depends on no parameter of the pair, so there is nothing to train")
            live = [p for p in params if p.requires_grad]
            if live:  # nobody would take the gradients of others away again
                loss.backward(inputs=live)
        return loss.detach(), params

    def _move(self, loss: Tensor, params: list[Tensor], norm: Tensor | None = None) -> None:
        if not isinstance(self._optim, Optimizer | PyroOptim):
            self._optim = self._optim(params)
        grads = [p.grad for p in params if p.grad is not None]
        if not grads:
            raise PairError(
                "the optimiser holds no parameter that the loss depends on; build it from the parameters of this pair"
            )
        guard = self._guarded(grads[0].device)
        looked = norm is not None  # by the graph that computed it
        if norm is None:
            norm = torch.nn.utils.get_total_norm(grads)
            guard.look(loss, norm)
        if self.clip_norm is not None:
            torch._foreach_mul_(grads, (self.clip_norm / (norm + 1e-6)).clamp(max=1.0))
        optim: Any = self._optim
        if looked and self._quick(optim, params):
            assert self._adams is not None
            self._adams(grads, guard.stop)
        elif isinstance(optim, Optimizer) and _skips_on_device(optim):
            optim.found_inf = guard.stop  # type: ignore[attr-defined]
            optim.grad_scale = None  # type: ignore[attr-defined]
            optim.step()
            del optim.found_inf, optim.grad_scale  # type: ignore[attr-defined]
        elif not bool(guard.stop):
            optim(params) if isinstance(optim, PyroOptim) else optim.step()
        for p in params:
            p.grad = None

    def _quick(self, optim: Any, moved: list[Tensor]) -> bool:
        """Whether the update can do without the optimiser's Python; makes its lists where they are not there."""
        if self._adams is None or not self._adams.fresh(optim, moved):
            self._adams = Adams(optim, moved) if Adams.fit(optim, moved) else None
        return self._adams is not None


def _held(optimizer: Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def _refuse_missing(params: list[Tensor], held: list[Tensor]) -> None:
    """A bare ``pyro.param`` that the optimiser does not hold would stay where it is, in silence."""
    known = {id(p) for p in held}
    for p in params:
        if id(p) not in known and not isinstance(p, nn.Parameter):
            name = pyro.get_param_store().param_name(p)
            raise PairError(
                f"pyro.param {name!r} is not among the parameters of the optimiser, so it would not move; make it an "
                f"nn.Parameter of a module, or give SVI a callable, functools.partial(torch.optim.Adam, lr=1e-3)"
            )


def _skips_on_device(optimizer: Optimizer) -> bool:
    """Fused optimisers take ``found_inf`` and then do nothing, on the device."""
    return all(group.get("fused") for group in optimizer.param_groups)


def _number(loss: Any) -> float:
    """A loss as Pyro returns it: a number, a 0-d tensor, or a tuple of these (wake-sleep)."""
    if isinstance(loss, tuple):
        return sum(map(_number, loss))
    return float(loss)


@contextmanager
def _validated(enabled: bool) -> Iterator[None]:
    with pyro.validation_enabled(enabled):
        yield
