"""Whether a guide's distribution is a proposal for the model's.

Importance weights need q(z|x) to be a density on the space of p(z), and positive wherever p(x, z) is. The structure of
both supports decides this where it can, else draws of the guide. Draws alone are not enough: those of a
straight-through relaxation are exactly one-hot, and their density is one on the simplex.
"""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Binomial, Categorical, Independent, OneHotCategorical

from ..common.errors import NoWeightError
from .domains import are_apart, as_set, is_within, named_set
from .kinds import kind, parts_of, quantised, title
from .support import drawn_in, holds, is_discrete, support_of

DRAWS = 4096  # draws of the prior of a site, at least, among which values are sought that the guide never draws
_CLAMPED = Bernoulli, Binomial, Categorical, OneHotCategorical  # see _clamped


def refuse_foreign(name: str, q: Any, p: Any, cover: bool = True, zeros: bool = True) -> None:
    """Raise where the guide's distribution can't be a proposal for the model's.

    Args:
        name: the name of the site.
        q: its distribution under the guide.
        p: its distribution under the model.
        cover: also refuse a guide that leaves out a part of what the model's distribution draws.
        zeros: accept draws beyond the model's support where its density is zero, as a weight of zero is legal.

    Raises:
        NoWeightError: names the site and both supports.
    """
    inner, outer = support_of(q), support_of(p)
    set_q, set_p = as_set(inner), as_set(outer)
    if is_discrete(q) != is_discrete(p) or are_apart(set_q, set_p):
        raise NoWeightError(_support_message(name, q, p))
    if q.event_shape != p.event_shape:  # else they would be broadcast
        raise NoWeightError(
            f"site {name!r}: a draw of the guide's {title(q)} has shape {tuple(q.event_shape)}, and one of the model's "
            f"{title(p)} {tuple(p.event_shape)}; write the same shape in both"
        )
    if quantised(q) != quantised(p):
        names = [f"the guide's {title(q)}", f"the model's {title(p)}"]
        one, other = names if quantised(q) else reversed(names)
        raise NoWeightError(
            f"site {name!r}: {one} rounds its draws and has a density of what they were before, and {other} has one of "
            f"the rounded draws, so p / q is no weight; use a straight-through distribution in both, or in neither"
        )
    if cover and (flow := _narrow(q)) is not None:
        raise NoWeightError(
            f"site {name!r}: the guide's {type(flow).__name__} sums {type(flow.T).__name__.removesuffix('Transform')} "
            f"units, so its range has an end and may leave out a part of the model's {title(p)}, and no number of "
            f"samples gives log p(x); give it residual='normal' or 'gated', or activation='LeakyReLU'"
        )
    inside = is_within(set_q, set_p)
    if inside and is_within(set_p, set_q) and not (cover and is_discrete(p)):
        return
    with torch.no_grad():
        if not inside:
            value = q(_enough(q))
            out = ~holds(p, value)  # densities may be NaN or any number there
            if bool(out.any()) and not (zeros and bool((~out | (_scores(p, value) == -math.inf)).all())):
                raise NoWeightError(_support_message(name, q, p))
        share = _left_out(q, p) if cover else 0.0
    if share:
        raise NoWeightError(
            f"site {name!r}: the guide's {title(q)} on {named_set(inner)} leaves out a part of the model's {title(p)} "
            f"({share:.2g} of the draws of the prior), so no number of samples gives log p(x); use a guide on "
            f"{named_set(outer)}, or proposal='defensive'"
        )


def refuse_quantised(name: str, *distributions: Any, what: str) -> None:
    """Raise where one of the distributions of a latent rounds its draws, which ``what`` can't use.

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
    """A transform whose range is smaller than its codomain: a weighted sum of bounded units.

    Source: De Cao, Titov, Aziz: Block Neural Autoregressive Flow, 2019, arXiv:1904.04676, which adds a residual.
    """
    for part in parts_of(getattr(_leaf(fn), "transforms", ())):
        if kind(part) == "BlockAutoregressive" and part.residual is None and kind(part.T) != "LeakyReLUTransform":
            return part
    return None


def _left_out(q: Any, p: Any) -> float:
    """The probability under p of values that q never draws: exact where the values are few, else among draws of p."""
    one, other = _leaf(q), _leaf(p)
    values = _listed(other) if len(one.event_shape) == len(other.event_shape) else None
    if values is None:
        return float(_is_never_drawn(q, p(_enough(p))).float().mean())
    mass = torch.where(_is_never_drawn(other, values), 0.0, _scores(other, values).double().exp())
    listed = _listed(one)
    lost = (mass * _is_never_drawn(one, values if listed is None else values.to(listed.dtype))).sum(0)
    rest = len(p.event_shape) - len(other.event_shape)
    kept = 1 - lost.clamp(max=1.0)
    return float(1 - (kept.flatten(-rest).prod(-1) if rest else kept).mean())


def _listed(fn: Any) -> Tensor | None:
    """The values of a discrete distribution, (n, 1, ..., *event), where they are few."""
    if not getattr(fn, "has_enumerate_support", False) or not is_discrete(fn):
        return None
    with suppress(NotImplementedError):  # the elements have different values
        found: Tensor = fn.enumerate_support(expand=False)
        return found if len(found) <= DRAWS else None
    return None


def _leaf(fn: Any) -> Any:
    """A distribution without the wrappers that count event dimensions."""
    while isinstance(fn, Independent):
        fn = fn.base_dist
    return fn


def _scores(fn: Any, value: Tensor) -> Tensor:
    """Log densities of values; zero where they can't be computed."""
    with suppress(NotImplementedError, KeyError, ValueError, IndexError, RuntimeError):
        found: Tensor = fn.log_prob(value)
        return found
    return torch.zeros(())


def _is_never_drawn(fn: Any, value: Tensor) -> Tensor:
    """Whether a distribution never draws values: they lie outside its support, or have no probability."""
    if isinstance(fn, Independent):
        each = _is_never_drawn(fn.base_dist, value)
        ndims = fn.reinterpreted_batch_ndims
        return each.flatten(-ndims).any(-1) if ndims else each
    if hasattr(fn, "_mask"):  # what is masked has no weight
        shown: Tensor = torch.as_tensor(fn._mask, device=value.device)
        return _is_never_drawn(fn.base_dist, value) & shown
    inside = holds(fn, value)
    at = drawn_in(fn, value)[0]
    none: Tensor = ~inside | (_scores(fn, at) == -math.inf)
    return none | _clamped(fn, at) if isinstance(fn, _CLAMPED) else none


def _clamped(fn: Any, value: Tensor) -> Tensor:
    """Which values have a probability of zero that torch scores by its smallest positive one.

    Such probabilities are drawn as zeros and scored as ``log eps``. Logits are scored as they are.
    """
    probs, logits = fn.probs, fn.logits  # type: Tensor, Tensor
    least = math.log(torch.finfo(probs.dtype).eps) - 0.1
    if isinstance(fn, Bernoulli | Binomial):
        scored = logits.abs() <= -least
        count = getattr(fn, "total_count", 1)
        return scored & (((probs == 0) & (value > 0)) | ((probs == 1) & (value < count)))
    none = (probs == 0) & (logits >= least)  # (..., classes)
    if isinstance(fn, OneHotCategorical):
        return (none & (value > 0)).any(-1)
    index = value.long().unsqueeze(-1)
    shape = torch.broadcast_shapes(index.shape[:-1], none.shape[:-1])
    return none.expand(*shape, none.shape[-1]).gather(-1, index.expand(*shape, 1)).squeeze(-1)


def _enough(fn: Any) -> torch.Size:
    """The sample shape that gives at least ``DRAWS`` values, over the batch of a distribution."""
    return torch.Size((max(1, DRAWS // max(1, fn.batch_shape.numel())),))


def _support_message(name: str, q: Any, p: Any) -> str:
    such = "Categorical for a discrete latent" if is_discrete(p) else "LogNormal for a positive latent"
    return (
        f"site {name!r}: the guide's {title(q)} has support {named_set(support_of(q))}, beyond the model's {title(p)} "
        f"on {named_set(support_of(p))}, so there is no weight; use a distribution on the same support, such as {such}"
    )
