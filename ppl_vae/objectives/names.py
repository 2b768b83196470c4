"""Objectives by name, and losses of Pyro as objectives of this package."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from pyro.infer import ELBO, Trace_ELBO, TraceMeanField_ELBO

from ..common.choices import named
from ..common.errors import UserError
from ..common.registry import FORMER, OBJECTIVES, resolve
from .analytic_kl import AnalyticKL
from .base import Objective
from .elbo import Elbo


def objective(given: Any, num_particles: int | None = None, **options: Any) -> Objective:
    """An objective from its name, from a function of Terms, or from a class; an instance is itself.

    Args:
        given: one of the names that ``ppl-vae list`` prints, with options or without (``"renyi:alpha=0.3"``); a
            function of Terms, as :class:`Objective` takes; a class of objectives; or an objective.
        num_particles: samples of each example; None takes the default of the objective.
        options: its other arguments, such as ``gradient="dreg"`` or ``beta=4``.

    Raises:
        UserError: an unknown name or option, or options given with an instance.

    Example:
        >>> import ppl_vae as pv
        >>> pv.objective("iwae", num_particles=5).num_particles
        5
        >>> pv.objective(lambda t: t.log_w.mean(0), num_particles=2).num_particles
        2
    """
    options |= {} if num_particles is None else {"num_particles": num_particles}
    if isinstance(given, ELBO):
        found = ours(given)
        if options or found is None:
            what = f"has {', '.join(options)} already" if options else "is a loss of Pyro; pass it to pv.SVI or pv.fit"
            raise UserError(f"objective: this {type(given).__name__} {what}")
        return found
    is_class = isinstance(given, type)
    if not (isinstance(given, str) or (issubclass(given, ELBO) if is_class else callable(given))):
        what = f"the class {given.__name__}" if is_class else f"a {type(given).__name__}"
        raise UserError(f"objective: {what} is neither a name, a function of Terms, nor an objective such as pv.IWAE()")
    name = given if isinstance(given, str) else getattr(given, "__name__", type(given).__name__)
    make: Callable[..., Any] = given if is_class else partial(Objective, given)
    if isinstance(given, str):
        name, _, text = given.partition(":")
        if ".py:" in given:
            raise UserError(
                f"objective {given!r}: custom code has no options in its name (on the command line: --num-particles, "
                f"--beta); in Python, give the function itself"
            )
        make = resolve("objective", name, OBJECTIVES)
        written = named("objective", f"{FORMER.get(name, name)}:{text}")[1]
        if twice := [k for k in written if k in options and written[k] != options[k]]:
            one, two = written[twice[0]], options[twice[0]]
            raise UserError(f"objective {given!r}: {twice[0]} is given twice, as {one} and as {two}")
        options = written | options
    known = [k for k in inspect.signature(make).parameters if k != "bound"]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise UserError(f"objective {name!r} takes no option {', '.join(unknown)}; it takes {', '.join(known)}")
    try:
        made: Objective = make(**options)
    except UserError as error:
        raise UserError(f"objective {name!r}: {error}") from None
    return made


def ours(loss: Any) -> Objective | None:
    """A loss as the objective that computes the same, or None: Pyro then computes it."""
    if isinstance(loss, Objective):
        return loss
    if type(loss) not in (Trace_ELBO, TraceMeanField_ELBO):
        return None
    if "beta" in vars(loss):
        raise UserError(f"{type(loss).__name__} has no weight on its KL, and beta is set on it: use pv.Elbo(beta=...)")
    kind = Elbo if type(loss) is Trace_ELBO else AnalyticKL
    return kind(loss.num_particles, vectorize=bool(loss.vectorize_particles or loss.num_particles == 1))
