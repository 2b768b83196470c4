"""The data of an observed site: missing entries, entries outside the support, and how many numbers there are."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from .densities import masked_at
from .kinds import kind
from .support import support_of
from .terms import Site, Terms


def first_outside(site: Site) -> int | None:
    """The index of the first example outside the support of an observed site, or None; reads the device.

    Entries that are missing (NaN) or masked do not count.
    """
    support: Any = support_of(site.p)
    if support is None:
        return None
    while isinstance(support, constraints.independent):  # entries are masked one by one
        support = support.base_constraint
    event = site.value.shape[-1 - len(site.p.event_shape) :]
    inside = support.check(site.value.reshape(-1, *event))  # bounds may have particles
    left_out = _left_out(site).reshape(-1, *event)
    while left_out.dim() > inside.dim():  # of an event that is partly left out
        left_out = left_out.any(-1)
    return _first(~(inside | left_out), 1)


def alone(site: Site, x: Any) -> bool:
    """Whether data can be judged without a run of the programs: the site observes all of x, on a fixed set."""
    base = site.p
    while isinstance(base, torch.distributions.Independent):
        base = base.base_dist
    support = inspect.getattr_static(type(base), "support", None)
    is_fixed = isinstance(support, constraints.Constraint) and not constraints.is_dependent(support)
    is_whole = torch.is_tensor(x) and site.value.shape == x.shape and site.value.data_ptr() == x.data_ptr()
    return is_fixed and is_whole and site.masks == (None, None)


def first_missing(site: Site) -> int | None:
    """The index of the first example with a missing entry (NaN) that makes its log density NaN, or None."""
    if not torch.is_tensor(site.value) or not bool(site.value.isnan().any()):
        return None
    return _first(site.log_p.isnan(), 1)


def _left_out(site: Site) -> Tensor:
    """Where a value is missing (NaN) or masked, of its shape; of a mask with particles the first counts."""
    hidden = masked_at(site.p, site.masks[0], site.value)
    missing = site.value.isnan()
    return missing if hidden is None else missing | hidden.reshape(-1, *site.value.shape)[0]


def _first(bad: Tensor, dim: int) -> int | None:
    """The first index along one dimension at which any entry is true."""
    rest = [d for d in range(bad.dim()) if d != dim]
    found = torch.nonzero(bad.any(rest) if rest else bad)
    return int(found[0]) if len(found) else None


def num_observed(t: Terms) -> Tensor:
    """The number of observed entries of each example, (B,) float64, without missing and masked ones."""
    total = torch.zeros(t.log_w.shape[1], dtype=torch.float64)
    for site in t.observed.values():
        if kind(site.p) != "Unit" and torch.is_tensor(site.value):
            kept = ~_left_out(site)
            total = total + kept.reshape(-1, len(total), site.p.event_shape.numel())[0].sum(1).cpu()
    return total
