"""Where a distribution lives: its support, and the map to unconstrained numbers."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.distributions import Independent, Transform, TransformedDistribution, biject_to
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
from .domains import WHOLE, Described, as_set, core_of, interval_of, is_within
from .kinds import flow_of, kind, parts_of, title


def support_of(fn: Any) -> Any:
    """The support of a distribution, a constraint; None where it is not known."""
    if kind(fn) == "VonMises":  # which calls itself real, and has a density on one turn
        return constraints.independent(constraints.interval(-math.pi, math.pi), len(fn.event_shape))
    if hasattr(fn, "_mask"):
        return support_of(fn.base_dist)
    if isinstance(fn, Independent):
        inner = support_of(fn.base_dist)
        return None if inner is None else constraints.independent(inner, fn.reinterpreted_batch_ndims)
    if isinstance(fn, TransformedDistribution) and type(fn).support is TransformedDistribution.support:
        # which names the codomain of its last transform; that may be too large: an affine map calls itself real
        parts = list(parts_of(fn.transforms))
        ends = _pushed(as_set(support_of(fn.base_dist)), parts) if fn.transforms else None
        if ends is not None:
            return _between(*ends, len(fn.event_shape))
        if parts and isinstance(parts[-1], AffineTransform):
            return None
    try:
        support = fn.support
        return None if constraints.is_dependent(support) else support
    except (NotImplementedError, AttributeError):
        pass
    flow = flow_of(fn)
    if flow is not None:  # of x, where the flow maps x to its base
        whole = as_set(support_of(flow[0])) is WHOLE
        return getattr(flow[1], "domain", None) if whole else None
    inner = getattr(fn, "dist", getattr(fn, "base_dist", None))
    return None if inner is None else support_of(inner)


def _between(low: Tensor, high: Tensor, event_dim: int) -> Any:
    """The constraint of an interval, or of a half-line or the line where its ends are infinite."""
    # a single number of a CPU as a float, which maps that are made from the constraint take to any device
    ends = [float(end) if end.dim() == 0 and end.device.type == "cpu" else end for end in (low, high)]
    found: Any = constraints.interval(*ends)
    if bool(high.isinf().all()):
        found = constraints.real if bool(low.isinf().all()) else constraints.greater_than(ends[0])
    elif bool(low.isinf().all()):
        found = constraints.less_than(ends[1])
    return constraints.independent(found, event_dim) if event_dim else found


_MONOTONE: dict[type[Transform], Callable[[Any, Tensor], Tensor]] = {  # transforms clip what is at their ends
    AffineTransform: lambda t, end: t.loc + t.scale * end,
    ExpTransform: lambda _, end: end.exp(),
    SigmoidTransform: lambda _, end: end.sigmoid(),
    TanhTransform: lambda _, end: end.tanh(),
    SoftplusTransform: lambda _, end: softplus(end),
    PowerTransform: lambda t, end: end.pow(t.exponent),
}


def _pushed(base: Described | None, parts: list[Any]) -> tuple[Tensor, Tensor] | None:
    """The ends of an interval after transforms; None where the structure does not tell."""
    if base is None or base[0] != "real":
        return None
    low, high = (torch.as_tensor(e, dtype=torch.get_default_dtype()).detach() for e in base[1:])
    device = high.device if low.device.type == "cpu" else low.device  # one end may be a number, the other of a GPU
    low, high = low.to(device), high.to(device)
    for part in parts:
        image = next((f for kind_of, f in _MONOTONE.items() if isinstance(part, kind_of)), None)
        if image is not None:
            with torch.no_grad():
                low, high = torch.broadcast_tensors(image(part, low), image(part, high))
            low, high = torch.minimum(low, high), torch.maximum(low, high)
        else:  # a map of its whole domain, such as a flow
            domain, codomain, now = as_set(part.domain), as_set(part.codomain), ("real", low, high)
            if codomain is None or codomain[0] != "real" or not (is_within(now, domain) and is_within(domain, now)):
                return None
            low, high = (torch.as_tensor(e, dtype=low.dtype) for e in codomain[1:])
        if bool(low.isnan().any()) or bool(high.isnan().any()):
            return None
    return low, high


def is_discrete(fn: Any) -> bool:
    """Whether the values of a distribution are discrete; one of unknown support is taken to be continuous."""
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

    None for the latter where there is nothing to do: the support has no ends, or is not a set of numbers.
    """
    core = core_of(support_of(fn))
    ends = interval_of(core)
    if ends is None or ends is WHOLE:
        return value, None
    low, high = (torch.as_tensor(e, dtype=torch.float64, device=value.device) for e in ends[1:])
    middle = torch.where(low.isinf(), high - 1, torch.where(high.isinf(), low + 1, (low + high) / 2))
    middle = torch.where(middle.isinf(), 0.0, middle.floor() if ends[0] == "whole" else middle).to(value.dtype)
    return torch.where(core.check(value), value, middle), holds(fn, value)


class _PositiveExp(ExpTransform):
    """exp, whose values are above zero and finite also where exp is not.

    A density may be infinite at zero, and with it a weight; and the log of infinity is no number to go back to.
    """

    def _call(self, x: Tensor) -> Tensor:
        most = torch.finfo(x.dtype)
        return x.exp().clamp(most.tiny, most.max)


def unconstraining(name: str, fn: Any, first: bool = False) -> Transform:
    """The map from unconstrained numbers to the support of a distribution; ``first`` takes that of its first example.

    Raises:
        PairError: there is none; names the site.
    """
    support = core_of(support_of(fn))
    if support is None:
        return identity_transform  # beyond its support a density is zero, and a move there is not taken
    if first:
        support = _first(support, len(fn.event_shape))
    try:
        transform = biject_to(support)
    except NotImplementedError:
        raise PairError(
            f"site {name!r}: the support of {title(fn)}, {support}, has no map from unconstrained numbers, so it can't "
            f"be annealed or refined, or sampled by hmc and nuts; use log_likelihood, or posterior(method='sir')"
        ) from None
    if isinstance(transform, ComposeTransform) and transform.parts:  # exp and a shift; the identity has no parts
        transform = ComposeTransform([_PositiveExp() if isinstance(t, ExpTransform) else t for t in transform.parts])
    transform = _PositiveExp() if isinstance(transform, ExpTransform) else transform
    rest = len(fn.event_shape) - transform.codomain.event_dim
    return IndependentTransform(transform, rest) if rest > 0 else transform


def _first(support: Any, event_dim: int) -> Any:
    """A constraint whose bounds are those of the first draw of the first example, without dimensions for either."""
    found = copy.copy(support)
    for name, part in vars(support).items():
        if isinstance(part, Tensor) and part.dim() > event_dim:
            setattr(found, name, part[(0,) * (part.dim() - event_dim)])
        elif isinstance(part, constraints.Constraint):
            setattr(found, name, _first(part, event_dim))
    return found


def legal_number(fn: Any) -> Tensor:
    """A number inside the support of a distribution, to stand where an entry does not count."""
    support = core_of(support_of(fn))
    if support is None or is_discrete(fn):
        return torch.zeros(())
    transform = biject_to(support)
    number: Tensor = torch.zeros(()) if transform.codomain.event_dim else transform(torch.zeros(()))
    return number
