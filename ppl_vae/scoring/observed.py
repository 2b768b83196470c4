"""What a site observes: what is missing, what lies outside the support, how many numbers there are."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from .densities import masked_at
from .kinds import kind
from .support import support_of
from .terms import Site, Terms


def first_outside(site: Site) -> int | None:
    """The index of the first datum that lies outside the support of an observed site, or None; reads the device.

    What is missing (NaN) or masked is passed over.
    """
    support: Any = support_of(site.p)
    if support is None:
        return None
    while isinstance(support, constraints.independent):  # to leave out entries, ask for each by itself
        support = support.base_constraint
    inside = support.check(site.value)
    left_out = site.value.isnan() if site.value.is_floating_point() else torch.zeros_like(site.value, dtype=torch.bool)
    hidden = masked_at(site.p, site.masks[0], site.value)
    left_out = left_out if hidden is None else left_out | hidden.reshape(-1, *site.value.shape)[0]
    while left_out.dim() > inside.dim():  # a part of an event is no event
        left_out = left_out.any(-1)
    return _first(_over_event(~(inside | left_out), site))


def _over_event(bad: Tensor, site: Site) -> Tensor:
    """Whether anything in an event is bad, (*, B)."""
    while bad.dim() > site.value.dim() - len(site.p.event_shape):
        bad = bad.any(-1)
    return bad


def first_missing(site: Site) -> int | None:
    """The index of the first datum with a missing entry (NaN) that makes its log density NaN, or None."""
    value = site.value
    if not (torch.is_tensor(value) and value.is_floating_point()) or not bool(value.isnan().any()):
        return None
    return _first(site.log_p.isnan().any(0))


def _first(bad: Tensor) -> int | None:
    """The index of the first datum (*, B) of which something is bad."""
    while bad.dim() > 1:
        bad = bad.any(0)
    found = torch.nonzero(bad)
    return int(found[0]) if len(found) else None


def num_observed(t: Terms) -> Tensor:
    """Numbers that are observed of each datum, (B,) float64: without missing entries, and without what is masked."""
    total = torch.zeros(t.log_w.shape[1], dtype=torch.float64)
    for site in t.observed.values():
        if kind(site.p) == "Unit" or not torch.is_tensor(site.value):
            continue
        seen = ~site.value.isnan() if site.value.is_floating_point() else torch.ones_like(site.value, dtype=torch.bool)
        hidden = masked_at(site.p, site.masks[0], site.value)
        seen = seen if hidden is None else seen & ~hidden
        total = total + seen.reshape(-1, len(total), site.p.event_shape.numel())[0].sum(1).cpu()
    return total
