"""Where a distribution lives: its support, whether a guide's is the model's, and the map to unconstrained numbers.

Importance weights need q(z|x) to be a density on the space of p(z), and positive wherever p(x, z) is. That is decided
by the structure of both supports where it can be, else by values that the guide draws. Values alone prove little: those
of a straight-through relaxation are exactly one-hot, and their density is one on the simplex.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.distributions import Transform, biject_to
from torch.distributions.transforms import AffineTransform, ExpTransform, IndependentTransform, identity_transform

from .errors import NoWeightError, PairError
from .kinds import flow_of, kind

DRAWS = 4096  # of the prior of a site, at least, that look for a place where a narrower guide never goes


def support_of(fn: Any) -> Any:
    """The support of a distribution, a constraint; None where it does not say."""
    if kind(fn) == "VonMises":  # which calls itself real, and has a density on one turn
        return constraints.independent(constraints.interval(-math.pi, math.pi), len(fn.event_shape))
    if isinstance(fn, torch.distributions.Independent):
        inner = support_of(fn.base_dist)
        return None if inner is None else constraints.independent(inner, fn.reinterpreted_batch_ndims)
    moved = _moved(fn)
    if moved is not None:
        return moved
    try:
        support = fn.support
        return None if constraints.is_dependent(support) else support
    except (NotImplementedError, AttributeError):
        pass
    flow = flow_of(fn)
    if flow is not None:  # of x, where the flow maps x to its base
        whole = _described(support_of(flow[0])) is WHOLE
        return getattr(flow[1], "domain", None) if whole else None
    for name in ("dist", "base_dist"):
        if hasattr(fn, name):
            return support_of(getattr(fn, name))
    return None


def _moved(fn: Any) -> Any:
    """The interval that shifts, scales and exponentials make of another; None for other distributions.

    The codomain of such a transform, which is what a transformed distribution names, may be larger.
    """
    if not isinstance(fn, torch.distributions.TransformedDistribution) or not fn.transforms:
        return None
    if not all(isinstance(t, AffineTransform | ExpTransform) for t in fn.transforms):
        return None
    base = _described(support_of(fn.base_dist))
    if base is None or base is WHOLE or base[0] != "real":
        return None
    low, high = (torch.as_tensor(e, dtype=torch.get_default_dtype()) for e in base[1:])
    for transform in fn.transforms:
        low, high = transform(low), transform(high)
    ends = torch.minimum(low, high), torch.maximum(low, high)
    whole = [bool(e.isinf().all()) for e in ends]
    if all(whole):
        return None
    one: Any = constraints.less_than(ends[1]) if whole[0] else constraints.interval(*ends)
    one = constraints.greater_than(ends[0]) if whole[1] else one
    return constraints.independent(one, len(fn.event_shape)) if fn.event_shape else one


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
            f"site {name!r}: the support of {kind(fn)}, {support}, has no map from unconstrained numbers, so it can't "
            f"be annealed, or sampled by hmc and nuts; use log_likelihood, or posterior(method='sir')"
        ) from None
    rest = len(fn.event_shape) - transform.codomain.event_dim
    return IndependentTransform(transform, rest) if rest > 0 else transform


def refuse_foreign(name: str, q: Any, p: Any, cover: bool = True, zeros: bool = True) -> None:
    """Raise where the guide's distribution q can't be a proposal for the model's distribution p.

    Args:
        name: of the site.
        q: under the guide.
        p: under the model.
        cover: refuse also a guide that leaves out a part of the model's support.
        zeros: let draws lie beyond the model's support where its density is zero, as a weight of zero is legal.

    Raises:
        NoWeightError: names the site and both supports.
    """
    inner, outer = support_of(q), support_of(p)
    known, mine = _described(inner), _described(outer)
    if is_discrete(q) != is_discrete(p) or (known is not None and mine is not None and _apart(known, mine)):
        raise NoWeightError(_beyond(name, q, p))
    same = known is not None and mine is not None and _within(known, mine) and _within(mine, known)
    if same:
        return
    with torch.no_grad():
        inside = known is not None and mine is not None and _within(known, mine)
        if not inside:
            value = q(_some(q))
            out = ~holds(p, value)
            if bool(out.any()) and not (zeros and _vanishes(p, value, out)):
                raise NoWeightError(_beyond(name, q, p))
        if not cover:
            return
        missed = ~holds(q, p(_some(p)))
        if bool(missed.any()):
            raise NoWeightError(
                f"site {name!r}: the guide's {kind(q)} on {_named(inner)} leaves out a part of the model's {kind(p)} "
                f"({float(missed.float().mean()):.2g} of the draws of the prior), so that no number of samples gives "
                f"log p(x); use a guide on {_named(outer)}, or proposal='defensive'"
            )


def _some(fn: Any) -> torch.Size:
    return torch.Size((max(1, DRAWS // max(1, fn.batch_shape.numel())),))


def _vanishes(fn: Any, value: Tensor, out: Tensor) -> bool:
    """Whether a density says zero of values beyond its support; some say NaN, or anything."""
    try:
        return bool((fn.log_prob(value)[out] == -math.inf).all())
    except ValueError:  # it validates
        return False


def _beyond(name: str, q: Any, p: Any) -> str:
    inner, outer = support_of(q), support_of(p)
    how = "a discrete latent" if is_discrete(p) else "a positive latent"
    what = "Categorical or OneHotCategorical" if is_discrete(p) else "LogNormal or Gamma"
    return (
        f"site {name!r}: the guide's {kind(q)} has support {_named(inner)}, beyond the model's {kind(p)} on "
        f"{_named(outer)}, so that q is no density there and gives no weight; use a distribution on the same support, "
        f"such as {what} for {how}"
    )


def _named(support: Any) -> str:
    if support is None:
        return "an unknown set"
    core = _core(support)
    found = _interval(core)
    if found is None or any(torch.is_tensor(e) and e.numel() > 1 for e in found[1:]):
        return " ".join(str(core).split())[:80]
    low, high = (float(e) for e in found[1:])
    if found[0] == "whole":
        return f"the whole numbers from {low:g} to {high:g}"
    if (low, high) == (-math.inf, math.inf):
        return "Real()"
    return f"({low:g}, {high:g})"


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


def _described(support: Any) -> Described | None:
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


def _apart(q: Described, p: Described) -> bool:
    """Whether two sets can't carry densities that compare: another dimension, or a whole line for a part of it."""
    if q[0] == p[0]:
        return q is WHOLE and not _within(q, p)
    return (q[0], p[0]) not in _INSIDE and (p[0], q[0]) not in _INSIDE


def _within(q: Described, p: Described) -> bool:
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
