"""Objectives by name, and losses of Pyro as ours."""

from __future__ import annotations

import inspect
from typing import Any

from pyro.infer import Trace_ELBO, TraceMeanField_ELBO

from ..common.errors import UserError
from ..common.registry import OBJECTIVES, resolve
from .analytic_kl import AnalyticKL
from .base import Objective
from .elbo import Elbo


def objective(name: str, num_particles: int | None = None, **options: Any) -> Objective:
    """An objective by name: ``"elbo"``, ``"analytic_kl"`` or ``"iwae"``.

    Args:
        name: one of the names that ``ppl-vae list`` prints.
        num_particles: samples of each datum; None takes the objective's own default.
        options: its other arguments, such as ``gradient="dreg"`` or ``beta=4``.

    Raises:
        UserError: no such name, or no such option.

    Example:
        >>> import ppl_vae as pv
        >>> pv.objective("iwae", num_particles=5).num_particles
        5
    """
    make = resolve("objective", name, OBJECTIVES)
    if num_particles is not None:
        options["num_particles"] = num_particles
    known = inspect.signature(make).parameters
    strange = sorted(set(options) - set(known))
    if strange:
        raise UserError(f"objective {name!r} takes no option {', '.join(strange)}; it takes {', '.join(known)}")
    try:
        made: Objective = make(**options)
    except UserError as error:
        raise UserError(f"objective {name!r}: {error}") from None
    return made


def ours(loss: Any) -> Objective | None:
    """A loss as one of our objectives where we compute the same thing, else None (Pyro then runs it)."""
    if isinstance(loss, Objective):
        return loss
    if type(loss) not in (Trace_ELBO, TraceMeanField_ELBO):
        return None
    if "beta" in vars(loss):
        raise UserError(f"{type(loss).__name__} has no weight on its KL, and beta is set on it: use pv.Elbo(beta=...)")
    kind = Elbo if type(loss) is Trace_ELBO else AnalyticKL
    return kind(loss.num_particles, vectorize=bool(loss.vectorize_particles or loss.num_particles == 1))
