"""Run a program under a plate of particles: the only file that uses Pyro's handlers."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import _PYRO_STACK
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn

from ..common.entry import marked
from . import enumeration
from .lineage import Lineage
from .param_store import Program, constants_beside

Values = Mapping[str, Tensor] | Callable[[str, Any], Tensor | None]  # by name, or by name and distribution


PARTICLES = "particles"  # the plate at dim -2 around the data plate of a pair at dim -1


def takes_labels(program: Program) -> bool:
    """Whether a model or a guide takes labels: a parameter named like ``y``, ``ys`` or ``labels``."""
    target = program.forward if isinstance(program, nn.Module) else program
    try:
        names = list(inspect.signature(target).parameters)
    except (TypeError, ValueError):
        return False
    return "y" in names or (len(names) > 1 and names[1].lower().startswith(("y", "label")))


def call_args(program: Program, x: Tensor | None, y: Tensor | None) -> tuple[Tensor | None, ...]:
    """The positional arguments for a program: labels only where there are any and it takes them."""
    return (x,) if y is None or not takes_labels(program) else (x, y)


def handled() -> bool:
    """Whether the caller runs inside a handler of Pyro, such as ``poutine.scale``."""
    return bool(_PYRO_STACK)


@contextmanager
def captured_params() -> Iterator[list[Tensor]]:
    """Collect, on the way out, the unconstrained parameters of the ``pyro.param`` statements that ran inside."""
    found: list[Tensor] = []
    with poutine.trace(param_only=True) as capture:
        yield found
    sites: Any = capture.trace.nodes.values()
    unique = {id(p): p for p in (site["value"].unconstrained() for site in sites)}
    found.extend(unique.values())


class Detach(Messenger):
    """Cut the gradient at each draw, before its value is used."""

    def _pyro_post_sample(self, msg: Any) -> None:
        if not msg["is_observed"] and torch.is_tensor(msg["value"]):
            value: Any = msg["value"]
            cut: Any = value.detach()
            if hasattr(value, "_unquantize"):  # the draw before rounding, at which its density is
                cut._unquantize = value._unquantize.detach()
            msg["value"] = cut


class Fill(Messenger):
    """Put given values at the sites that would be drawn; a site without one is drawn."""

    def __init__(self, values: Values) -> None:
        super().__init__()
        self.values = values

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] or msg["done"] or site_is_subsample(msg):
            return
        name = msg["name"]
        value = self.values(name, msg["fn"]) if callable(self.values) else self.values.get(name)
        if value is not None:
            msg["value"] = value
            msg["done"] = True


class Uncondition(Messenger):
    """Draw the observed sites, except those that observe what was computed from labels, which are given."""

    def __init__(self, lineage: Lineage) -> None:
        super().__init__()
        self.lineage = lineage

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] and not self.lineage.of(msg["value"]):
            msg["is_observed"] = False
            msg["infer"]["was_observed"], msg["infer"]["obs"] = True, msg["value"]
            msg["value"], msg["done"] = None, False


class Unrecorded(Messenger):
    """Leave the sites that would be summed out, beside those that are drawn, out of the trace.

    They are still drawn for each particle: a site that is hidden from the plate is drawn once for all of them.
    """

    def __init__(self, drawn: Container[str] | None) -> None:
        super().__init__()
        self.drawn = drawn

    def _pyro_sample(self, msg: Any) -> None:
        if self.drawn is not None and msg["name"] not in self.drawn and enumeration.is_marked(msg):
            msg["infer"] = {**msg["infer"], "_deterministic": True}


class Change(Messenger):
    """Put other distributions at the sites that would be drawn."""

    def __init__(self, change: Callable[[str, Any], Any]) -> None:
        super().__init__()
        self.change = change

    def _pyro_sample(self, msg: Any) -> None:
        if not msg["is_observed"] and not site_is_subsample(msg):
            msg["fn"] = self.change(msg["name"], msg["fn"])


def sample_sites(trace: Any) -> dict[str, Any]:
    """The random sites of a trace: neither a plate's subsample nor ``pyro.deterministic``."""
    return {
        name: site
        for name, site in trace.nodes.items()
        if site["type"] == "sample" and not site_is_subsample(site) and not site["infer"].get("_deterministic")
    }


def trace_program(
    program: Program, args: Any, kwargs: Any, particles: int, values: Values | None = None, inner: Any = None
) -> Any:
    """Trace a program under a plate of particles at dim -2, with given values at its latent sites.

    ``inner`` is a handler inside the plate.
    """
    # values go in last, outside the plate, so that the distribution at a filled site is broadcast like any other
    fill = Fill(values) if values is not None else nullcontext()
    plate = pyro.plate(PARTICLES, particles, dim=-2)
    with marked(program, args), constants_beside(program, *args), fill, plate, inner or nullcontext():
        return poutine.trace(program).get_trace(*args, **kwargs)


def prior_of(model: Program, drawn: Container[str] | None = None) -> Program:
    """The prior of a model, as a guide: it draws the latents without data.

    Where ``drawn``, the names of the guide's sites, is given, sites that would be summed out beside them are left out.
    """

    def program(x: Tensor, y: Tensor | None = None) -> None:
        def observed(msg: Any) -> bool:
            return msg["type"] == "sample" and bool(msg["is_observed"])

        with poutine.block(hide_fn=observed), Unrecorded(drawn):
            model(*call_args(model, x, y))

    return program


def changed(program: Program, change: Callable[[str, Any], Any]) -> Program:
    """A program whose latent sites draw from other distributions: ``change(name, distribution)``."""

    def other(x: Tensor, y: Tensor | None = None) -> None:
        with Change(change):
            program(*call_args(program, x, y))

    return other
