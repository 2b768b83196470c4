"""A support as a set that can be compared with another: an interval of numbers, or a family."""

from __future__ import annotations

import math
from typing import Any

import torch
from pyro.distributions import constraints

Described = tuple[str, Any, Any]
WHOLE = "real", -math.inf, math.inf

_NUMBERS = tuple(
    c if isinstance(c, type) else type(c)
    for c in (
        constraints.integer_interval, constraints.nonnegative_integer, constraints.integer, constraints.greater_than,
        constraints.greater_than_eq, constraints.less_than, constraints.interval, constraints.half_open_interval,
    )
)  # fmt: skip
_FAMILIES = {
    type(c)
    for c in (
        constraints.simplex, constraints.one_hot, constraints.lower_cholesky, constraints.corr_cholesky,
        constraints.positive_definite, constraints.corr_matrix, constraints.ordered_vector,
        constraints.positive_ordered_vector, constraints.sphere, constraints.unit_lower_cholesky,
    )
}  # fmt: skip
_INSIDE = {("_OrderedVector", "real"), ("_PositiveOrderedVector", "real"), ("_PositiveOrderedVector", "_OrderedVector")}


def core_of(support: Any) -> Any:
    """A constraint without the wrappers that only count dimensions, and of a mixture that of its components.

    None where the support is unknown, or is a union of intervals.
    """
    while True:
        if isinstance(support, constraints.MixtureSameFamilyConstraint):
            support = _common(core_of(support.base_constraint))
        elif isinstance(support, constraints.independent):
            support = support.base_constraint
        else:
            return support


def _common(support: Any) -> Any:
    """The support that the components of a mixture share, or None: its bounds may not differ along the components."""
    bounds = vars(support)
    if not any(torch.is_tensor(v) and v.dim() for v in bounds.values()):
        return support
    first = {k: v.flatten()[0] if torch.is_tensor(v) else v for k, v in bounds.items()}
    same = all(bool((torch.as_tensor(v) == first[k]).all()) for k, v in bounds.items())
    return type(support)(**first) if same else None


def interval_of(core: Any) -> Described | None:
    """A set of numbers as its kind and its ends; None for other sets."""
    if isinstance(core, type(constraints.real)):
        return WHOLE
    if isinstance(core, type(constraints.boolean)):
        return "whole", 0, 1
    if not isinstance(core, _NUMBERS):
        return None
    kind = "whole" if core.is_discrete else "real"
    return kind, getattr(core, "lower_bound", -math.inf), getattr(core, "upper_bound", math.inf)


def as_set(support: Any) -> Described | None:
    """A support as an interval, or as the family of another set; None for an unknown one."""
    core = core_of(support)
    family = next((k for k in type(core).__mro__ if k in _FAMILIES), None)
    return interval_of(core) if family is None else (family.__name__, 0, 0)


def are_apart(q: Described | None, p: Described | None) -> bool:
    """Whether densities on two sets can't be compared: another dimension, or the real line for a part of it."""
    if q is None or p is None:
        return False
    if q[0] == p[0]:
        return q is WHOLE and not is_within(q, p)
    return (q[0], p[0]) not in _INSIDE and (p[0], q[0]) not in _INSIDE


def is_within(q: Described | None, p: Described | None) -> bool:
    """Whether every value of the first set is in the second; false where the structure does not decide it."""
    if q is None or p is None or q[0] != p[0]:
        return False
    try:
        low = bool((torch.as_tensor(q[1]) >= torch.as_tensor(p[1])).all())
        return low and bool((torch.as_tensor(q[2]) <= torch.as_tensor(p[2])).all())
    except RuntimeError:  # ends of other shapes
        return False


def named_set(support: Any) -> str:
    """A support, for messages."""
    core = core_of(support)
    if core is None:
        return "an unknown set"
    found = interval_of(core)
    if found is None:
        return " ".join(str(core).split())[:80]
    low, high = map(_range, found[1:])
    if found[0] == "whole":
        return f"the whole numbers from {low} to {high}"
    return "Real()" if (low, high) == ("-inf", "inf") else f"({low}, {high})"


def _range(end: Any) -> str:
    """An end of an interval: a number, or the least and the largest of several."""
    ends = torch.as_tensor(end, dtype=torch.float64)
    least, most = f"{float(ends.min()):g}", f"{float(ends.max()):g}"
    return least if least == most else f"{least}..{most}"
