"""Whether a guide's distribution is a proposal for the model's.

Importance weights need q(z|x) to be a density on the space of p(z), and positive wherever p(x, z) is. That is decided
by the structure of both supports where it can be, else by values that the guide draws. Values alone prove little: those
of a straight-through relaxation are exactly one-hot, and their density is one on the simplex.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..common.errors import NoWeightError
from .kinds import kind, quantised, title
from .support import are_apart, as_set, drawn_in, holds, is_discrete, is_within, named_set, parts_of, support_of

DRAWS = 4096  # of the prior of a site, at least, that look for a place where a narrower guide never goes


def refuse_foreign(name: str, q: Any, p: Any, cover: bool = True, zeros: bool = True) -> None:
    """Raise where the guide's distribution q can't be a proposal for the model's distribution p.

    Args:
        name: of the site.
        q: under the guide.
        p: under the model.
        cover: refuse also a guide that leaves out a part of what the model's distribution draws.
        zeros: let draws lie beyond the model's support where its density is zero, as a weight of zero is legal.

    Raises:
        NoWeightError: names the site and both supports.
    """
    inner, outer = support_of(q), support_of(p)
    known, mine = as_set(inner), as_set(outer)
    if is_discrete(q) != is_discrete(p) or (known is not None and mine is not None and are_apart(known, mine)):
        raise NoWeightError(_beyond(name, q, p))
    if q.event_shape != p.event_shape:  # which would be broadcast
        raise NoWeightError(
            f"site {name!r}: a draw of the guide's {title(q)} has shape {tuple(q.event_shape)}, and one of the model's "
            f"{title(p)} {tuple(p.event_shape)}; write the same shape in both"
        )
    if quantised(q) != quantised(p):
        one = f"the guide's {title(q)}" if quantised(q) else f"the model's {title(p)}"
        raise NoWeightError(
            f"site {name!r}: {one} rounds its draws and has a density of what they were before, where the "
            f"{'model' if quantised(q) else 'guide'}'s {title(p if quantised(q) else q)} has one of the rounded draws, "
            f"so that p / q is no weight; use a straight-through distribution in both, or in neither"
        )
    if cover and (flow := _narrow(q)) is not None:
        raise NoWeightError(
            f"site {name!r}: the guide's {type(flow).__name__} sums {type(flow.T).__name__.removesuffix('Transform')} "
            f"units, so its range has an end and may leave out a part of the model's {title(p)}, and no number of "
            f"samples gives log p(x); give it residual='normal' or 'gated', or activation='LeakyReLU'"
        )
    inside = known is not None and mine is not None and is_within(known, mine)
    same = inside and known is not None and mine is not None and is_within(mine, known)
    if same and not (cover and is_discrete(p)):
        return
    with torch.no_grad():
        if not inside:
            value = q(_some(q))
            out = ~holds(p, value)
            if bool(out.any()) and not (zeros and _vanishes(p, value, out)):
                raise NoWeightError(_beyond(name, q, p))
        share = _left_out(q, p) if cover else 0.0
    if share:
        raise NoWeightError(
            f"site {name!r}: the guide's {title(q)} on {named_set(inner)} leaves out a part of the model's {title(p)} "
            f"({share:.2g} of the draws of the prior), so that no number of samples gives log p(x); use a guide on "
            f"{named_set(outer)}, or proposal='defensive'"
        )


def refuse_quantised(name: str, *distributions: Any, what: str) -> None:
    """Raise where one of the distributions of a latent rounds its draws; ``what`` can't use such draws.

    Raises:
        NoWeightError: names the site and the distribution.
    """
    for fn in distributions:
        if quantised(fn):
            raise NoWeightError(
                f"site {name!r}: {title(fn)} rounds its draws and has a density of what they were before, which {what} "
                f"can't use; use log_likelihood, or a distribution that is not straight-through"
            )


def _narrow(fn: Any) -> Any:
    """A transform whose range is less than the codomain that it names: a weighted sum of units that are bounded.

    Source: De Cao, Titov, Aziz: Block Neural Autoregressive Flow, 2019, arXiv:1904.04676, which adds a residual.
    """
    for part in parts_of(getattr(_leaf(fn), "transforms", ())):
        if kind(part) == "BlockAutoregressive" and part.residual is None and kind(part.T) != "LeakyReLUTransform":
            return part
    return None


def _left_out(q: Any, p: Any) -> float:
    """The probability under p, over all values where they are few, else among draws, of values that q never draws."""
    one, other = _leaf(q), _leaf(p)
    values = _listed(other) if len(one.event_shape) == len(other.event_shape) else None
    if values is None:
        return float(_never(q, p(_some(p))).float().mean())
    mass = torch.where(_never(other, values), 0.0, _scores(other, values).double().exp())
    listed = _listed(one)
    lost = (mass * _never(one, values if listed is None else values.to(listed.dtype))).sum(0)
    rest = len(p.event_shape) - len(other.event_shape)
    kept = 1 - lost.clamp(max=1.0)
    return float(1 - (kept.flatten(-rest).prod(-1) if rest else kept).mean())


def _listed(fn: Any) -> Tensor | None:
    """The values of a discrete distribution, (n, 1, ..., *event), where they are few."""
    if not getattr(fn, "has_enumerate_support", False) or not is_discrete(fn):
        return None
    try:
        found: Tensor = fn.enumerate_support(expand=False)
    except NotImplementedError:  # the elements have different values
        return None
    return found if len(found) <= DRAWS else None


def _leaf(fn: Any) -> Any:
    while isinstance(fn, torch.distributions.Independent):
        fn = fn.base_dist
    return fn


def _scores(fn: Any, value: Tensor) -> Tensor:
    """Log densities of values; zero where they can't be computed."""
    try:
        found: Tensor = fn.log_prob(value)
    except (NotImplementedError, KeyError, ValueError, IndexError, RuntimeError):
        return torch.zeros(())
    return found


def _never(fn: Any, value: Tensor) -> Tensor:
    """Whether a distribution never draws values: they lie outside its support, or have no probability."""
    if isinstance(fn, torch.distributions.Independent):
        each = _never(fn.base_dist, value)
        ndims = fn.reinterpreted_batch_ndims
        return each.flatten(-ndims).any(-1) if ndims else each
    if hasattr(fn, "_mask"):  # what is masked has no weight
        shown: Tensor = torch.as_tensor(fn._mask, device=value.device)
        return _never(fn.base_dist, value) & shown
    inside = holds(fn, value)
    at = drawn_in(fn, value)[0]
    none: Tensor = ~inside | (_scores(fn, at) == -math.inf)
    return none | _clamped(fn, at) if isinstance(fn, CLAMPED) else none


def _clamped(fn: Any, value: Tensor) -> Tensor:
    """Which values have a probability of zero that torch scores by its smallest positive one.

    Such probabilities are drawn as zeros and scored as ``log eps``. Logits are scored as they are.
    """
    probs: Tensor = fn.probs
    logits: Tensor = fn.logits
    least = math.log(torch.finfo(probs.dtype).eps) - 0.1
    if isinstance(fn, torch.distributions.Bernoulli | torch.distributions.Binomial):
        scored = logits.abs() <= -least
        count = getattr(fn, "total_count", 1)
        return scored & (((probs == 0) & (value > 0)) | ((probs == 1) & (value < count)))
    none = (probs == 0) & (logits >= least)  # (..., classes)
    if isinstance(fn, torch.distributions.OneHotCategorical):
        return (none & (value > 0)).any(-1)
    index = value.long().unsqueeze(-1)
    shape = torch.broadcast_shapes(index.shape[:-1], none.shape[:-1])
    return none.expand(*shape, none.shape[-1]).gather(-1, index.expand(*shape, 1)).squeeze(-1)


CLAMPED = (
    torch.distributions.Bernoulli,
    torch.distributions.Binomial,
    torch.distributions.Categorical,
    torch.distributions.OneHotCategorical,
)


def _some(fn: Any) -> torch.Size:
    return torch.Size((max(1, DRAWS // max(1, fn.batch_shape.numel())),))


def _vanishes(fn: Any, value: Tensor, out: Tensor) -> bool:
    """Whether a density says zero of values beyond its support; some say NaN, or anything."""
    try:
        return bool((fn.log_prob(value)[out] == -math.inf).all())
    except (ValueError, IndexError, RuntimeError):  # it validates, or looks the value up in a table
        return False


def _beyond(name: str, q: Any, p: Any) -> str:
    inner, outer = support_of(q), support_of(p)
    how = "a discrete latent" if is_discrete(p) else "a positive latent"
    what = "Categorical or OneHotCategorical" if is_discrete(p) else "LogNormal or Gamma"
    return (
        f"site {name!r}: the guide's {title(q)} has support {named_set(inner)}, beyond the model's {title(p)} on "
        f"{named_set(outer)}, so that q is no density there and gives no weight; use a distribution on the same "
        f"support, such as {what} for {how}"
    )
