"""Where a distribution lives: its support as a set, and the map to unconstrained numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.distributions import Transform, biject_to
from torch.distributions.transforms import (
    AffineTransform,
    ComposeTransform,
    ExpTransform,
    IndependentTransform,
    PowerTransform,
    SigmoidTransform,
    SoftplusTransform,
    TanhTransform,
    identity_transform,
)
from torch.nn.functional import softplus

from ..common.errors import PairError
from .kinds import flow_of, kind, title


def support_of(fn: Any) -> Any:
    """The support of a distribution, a constraint; None where it does not say."""
    if kind(fn) == "VonMises":  # which calls itself real, and has a density on one turn
        return constraints.independent(constraints.interval(-math.pi, math.pi), len(fn.event_shape))
    if isinstance(fn, torch.distributions.Independent):
        inner = support_of(fn.base_dist)
        return None if inner is None else constraints.independent(inner, fn.reinterpreted_batch_ndims)
    moved = _moved(fn)
    if moved is not None:
        return None if moved is UNKNOWN else moved
    try:
        support = fn.support
        return None if constraints.is_dependent(support) else support
    except (NotImplementedError, AttributeError):
        pass
    flow = flow_of(fn)
    if flow is not None:  # of x, where the flow maps x to its base
        whole = as_set(support_of(flow[0])) is WHOLE
        return getattr(flow[1], "domain", None) if whole else None
    for name in ("dist", "base_dist"):
        if hasattr(fn, name):
            return support_of(getattr(fn, name))
    return None


def _moved(fn: Any) -> Any:
    """The interval that the transforms of a transformed distribution make of its base's; None for other distributions.

    The codomain of the last transform, which is what such a distribution names, may be larger: an affine map calls
    itself real. UNKNOWN where the structure does not say.
    """
    if not isinstance(fn, torch.distributions.TransformedDistribution) or not fn.transforms:
        return None
    if type(fn).support is not torch.distributions.TransformedDistribution.support:  # a family that says itself
        return None
    parts = list(parts_of(fn.transforms))
    ends = _pushed(as_set(support_of(fn.base_dist)), parts)
    if ends is None:
        return UNKNOWN if parts and isinstance(parts[-1], AffineTransform) else None
    low, high = ends
    one: Any = constraints.interval(low, high)
    if bool(high.isinf().all()):
        one = constraints.real if bool(low.isinf().all()) else constraints.greater_than(low)
    elif bool(low.isinf().all()):
        one = constraints.less_than(high)
    return constraints.independent(one, len(fn.event_shape)) if fn.event_shape else one


UNKNOWN = object()


def parts_of(transforms: Any) -> Iterator[Any]:
    """Single transforms, in the order in which they act."""
    for transform in transforms:
        if isinstance(transform, ComposeTransform):
            yield from parts_of(transform.parts)
        elif isinstance(transform, IndependentTransform):
            yield from parts_of([transform.base_transform])
        else:
            yield transform


_MONOTONE: dict[type[Transform], Callable[[Any, Tensor], Tensor]] = {  # transforms clip what is at their ends
    AffineTransform: lambda t, end: t.loc + t.scale * end,
    ExpTransform: lambda _, end: end.exp(),
    SigmoidTransform: lambda _, end: end.sigmoid(),
    TanhTransform: lambda _, end: end.tanh(),
    SoftplusTransform: lambda _, end: softplus(end),
    PowerTransform: lambda t, end: end.pow(t.exponent),
}


def _pushed(base: Described | None, parts: list[Any]) -> tuple[Tensor, Tensor] | None:
    """The ends of an interval after transforms; None where the structure does not say."""
    if base is None or base[0] != "real":
        return None
    low, high = (torch.as_tensor(e, dtype=torch.get_default_dtype()).detach() for e in base[1:])
    for part in parts:
        image = next((f for kind_of, f in _MONOTONE.items() if isinstance(part, kind_of)), None)
        if image is not None:
            with torch.no_grad():
                low, high = torch.broadcast_tensors(image(part, low), image(part, high))
            low, high = torch.minimum(low, high), torch.maximum(low, high)
        else:  # a map of its whole domain, such as a flow
            domain, codomain = as_set(part.domain), as_set(part.codomain)
            if domain is None or codomain is None or domain[0] != "real" or codomain[0] != "real":
                return None
            if not (is_within(("real", low, high), domain) and is_within(domain, ("real", low, high))):
                return None
            low, high = (torch.as_tensor(e, dtype=low.dtype) for e in codomain[1:])
        if bool(low.isnan().any()) or bool(high.isnan().any()):
            return None
    return low, high


def is_discrete(fn: Any) -> bool:
    """Whether the values of a distribution are discrete; one that does not say is taken to be continuous."""
    try:
        return bool(support_of(fn).is_discrete)
    except (NotImplementedError, AttributeError):
        return False


def holds(fn: Any, value: Tensor) -> Tensor:
    """Whether values lie in the support of a distribution, of its batch shape."""
    support = support_of(fn)
    if support is None:
        inside: Tensor = torch.isfinite(fn.log_prob(value))
        return inside
    found: Tensor = support.check(value)
    while found.dim() > max(len(fn.batch_shape), value.dim() - len(fn.event_shape)):  # elementwise in an event
        found = found.all(-1)
    return found


def drawn_in(fn: Any, value: Tensor) -> tuple[Tensor, Tensor | None]:
    """Values with those outside an interval, where a density may be NaN, put inside; and which were inside, (K, B).

    None where there is nothing to look for: the support has no ends, or is not a set of numbers.
    """
    core = _core(support_of(fn))
    ends = None if core is None else _interval(core)
    if ends is None or ends is WHOLE:
        return value, None
    low, high = (torch.as_tensor(e, dtype=torch.float64, device=value.device) for e in ends[1:])
    middle = torch.where(low.isinf(), high - 1, torch.where(high.isinf(), low + 1, (low + high) / 2))
    middle = torch.where(middle.isinf(), 0.0, middle.floor() if ends[0] == "whole" else middle).to(value.dtype)
    whole = holds(fn, value)
    each = core.check(value)
    return torch.where(each, value, middle), whole


def unconstraining(name: str, fn: Any) -> Transform:
    """The map from unconstrained numbers to the support of a distribution.

    Raises:
        PairError: there is none; names the site.
    """
    support = _core(support_of(fn))
    if support is None:
        return identity_transform  # beyond its support a density is zero, and a move there is not taken
    try:
        transform = biject_to(support)
    except NotImplementedError:
        raise PairError(
            f"site {name!r}: the support of {title(fn)}, {support}, has no map from unconstrained numbers, so it can't "
            f"be annealed, or sampled by hmc and nuts; use log_likelihood, or posterior(method='sir')"
        ) from None
    rest = len(fn.event_shape) - transform.codomain.event_dim
    return IndependentTransform(transform, rest) if rest > 0 else transform


def named_set(support: Any) -> str:
    core = None if support is None else _core(support)
    if core is None:
        return "an unknown set"
    found = _interval(core)
    if found is None:
        return " ".join(str(core).split())[:80]
    low, high = (_range(e) for e in found[1:])
    if found[0] == "whole":
        return f"the whole numbers from {low} to {high}"
    if (low, high) == ("-inf", "inf"):
        return "Real()"
    return f"({low}, {high})"


def _range(end: Any) -> str:
    """An end of an interval: a number, or the least and the largest of several."""
    ends = torch.as_tensor(end, dtype=torch.float64)
    least, most = f"{float(ends.min()):g}", f"{float(ends.max()):g}"
    return least if least == most else f"{least}..{most}"


def _core(support: Any) -> Any:
    """A constraint without the wrappers that only count dimensions, and of a mixture that of its components.

    Raises:
        PairError: the components of a mixture have different supports.
    """
    while True:
        if isinstance(support, constraints.MixtureSameFamilyConstraint):
            support = _common(_core(support.base_constraint))
        elif isinstance(support, constraints.independent):
            support = support.base_constraint
        else:
            return support


def _common(support: Any) -> Any:
    """The support that the components of a mixture share: its bounds may not differ along the components."""
    bounds = {k: v for k, v in vars(support).items() if torch.is_tensor(v) and v.dim()}
    if not bounds:
        return support
    if all(bool((v == v.flatten()[0]).all()) for v in bounds.values()):
        return type(support)(**{k: v.flatten()[0] for k, v in bounds.items()} | _plain(support, bounds))
    return None  # a union of intervals: values say what lies in it


def _plain(support: Any, bounds: dict[str, Tensor]) -> dict[str, Any]:
    return {k: v for k, v in vars(support).items() if k not in bounds}


def _interval(core: Any) -> tuple[str, Any, Any] | None:
    """A set of numbers as its kind and its ends; None for other sets."""
    inf = math.inf
    if isinstance(core, type(constraints.boolean)):
        return "whole", 0, 1
    if isinstance(core, constraints.integer_interval):
        return "whole", core.lower_bound, core.upper_bound
    if isinstance(core, type(constraints.nonnegative_integer)):
        return "whole", core.lower_bound, inf
    if isinstance(core, type(constraints.integer)):
        return "whole", -inf, inf
    if isinstance(core, type(constraints.real)):
        return WHOLE
    if isinstance(core, constraints.greater_than | constraints.greater_than_eq):
        return "real", core.lower_bound, inf
    if isinstance(core, constraints.less_than):
        return "real", -inf, core.upper_bound
    if isinstance(core, constraints.interval | constraints.half_open_interval):
        return "real", core.lower_bound, core.upper_bound
    return None


Described = tuple[str, Any, Any]


WHOLE = "real", -math.inf, math.inf


def as_set(support: Any) -> Described | None:
    """What can be compared: the ends of numbers, or the family of another set; None where nothing is known."""
    core = _core(support)
    if core is None:
        return None
    found = _interval(core)
    if found is not None:
        return found
    family = next((k for k in type(core).__mro__ if k in _FAMILIES), None)
    return None if family is None else (family.__name__, 0, 0)


_FAMILIES = {
    type(c)
    for c in (
        constraints.simplex, constraints.one_hot, constraints.lower_cholesky, constraints.corr_cholesky,
        constraints.positive_definite, constraints.corr_matrix, constraints.ordered_vector,
        constraints.positive_ordered_vector, constraints.sphere, constraints.unit_lower_cholesky,
    )
}  # fmt: skip


_INSIDE = {("_OrderedVector", "real"), ("_PositiveOrderedVector", "real"), ("_PositiveOrderedVector", "_OrderedVector")}


def are_apart(q: Described, p: Described) -> bool:
    """Whether two sets can't carry densities that compare: another dimension, or a whole line for a part of it."""
    if q[0] == p[0]:
        return q is WHOLE and not is_within(q, p)
    return (q[0], p[0]) not in _INSIDE and (p[0], q[0]) not in _INSIDE


def is_within(q: Described, p: Described) -> bool:
    """Whether every value of the first set is in the second; false where structure does not say."""
    if q[0] != p[0]:
        return False
    try:
        low = bool((torch.as_tensor(q[1]) >= torch.as_tensor(p[1])).all())
        return low and bool((torch.as_tensor(q[2]) <= torch.as_tensor(p[2])).all())
    except RuntimeError:  # ends of other shapes
        return False


def legal_number(fn: Any) -> Tensor:
    """A number inside the support of a distribution, to stand where an entry does not count."""
    support = _core(support_of(fn))
    if support is None or is_discrete(fn):
        return torch.zeros(())
    transform = biject_to(support)
    number: Tensor = torch.zeros(()) if transform.codomain.event_dim else transform(torch.zeros(()))
    return number
