"""The density that the estimates of a pair are of, and whether its likelihood is binary, from a run of its model."""

from __future__ import annotations

from typing import Any

import pyro
import torch
from torch.utils._pytree import tree_map

from ..common.entry import entry_point
from ..common.errors import DataError
from ..common.rng import forked
from ..data.splits import Data, Split
from . import terms, trace
from .domains import as_set
from .inputs import Needs, device_and_dtype, evaluating, to_device
from .kinds import kind
from .lineage import Lineage

LOG_PX = "log p(x)"
MIXED = "log p(x, y), or log p(x) where y is not known"


def _followed(pair: Any, x: Any, y: Any) -> tuple[terms.Terms, Lineage]:
    """The sites of the model, scored at the first two examples, and which of ``x`` and ``y`` each was computed from.

    The latents are drawn from the prior before: the densities are those at given latents.
    """
    x, y = to_device(pair, x, y, slice(2))
    given = {name: value for name, value in (("x", x), ("y", y)) if value is not None}
    roots = {n: tree_map(lambda v: v.clone() if torch.is_tensor(v) else v, value) for n, value in given.items()}
    x, y = roots["x"], roots.get("y")
    with evaluating(pair), forked(device_and_dtype(pair)[0], 0), pyro.validation_enabled(False):
        try:
            guide = trace.prior_of(pair.model)
            drawn = terms.terms(pair.model, guide, x, y)
        except NotImplementedError:  # a prior that can't be drawn from, such as an improper one
            guide = pair.guide
            drawn = terms.terms(pair.model, guide, x, y)
        values = {name: site.value.clone() for name, site in drawn.sites.items()}
        with Lineage(roots) as lineage:
            found = terms.terms(pair.model, guide, x, y, values=values)
    return found, lineage


def name_of(pair: Any, x: Any, y: Any) -> str:
    """The name of what the weights of a pair estimate, from a run of its model.

    ``"log p(x, y)"`` where the model observes what was made from the labels, all of them or some; else
    ``"log p(x | y)"`` where a density of the model depends on them; else ``"log p(x)"``. A model that observes labels
    alone, given the data, has ``"log p(y | x)"``. Where some labels are not known (-1), it is :data:`MIXED`.

    Args:
        pair: a pair.
        x: data, of which two are used.
        y: labels, or None.

    Example:
        >>> import torch, ppl_vae as pv
        >>> pair = pv.build("cvae", data_shape=(6,), num_classes=3, latent=2, hidden=(4,))
        >>> name_of(pair, torch.zeros(2, 6), torch.tensor([0, 2]))
        'log p(x | y)'
    """
    if not trace.takes_labels(pair.model) or to_device(pair, x, y, slice(2))[1] is None:
        return LOG_PX
    unknown = y < 0 if getattr(pair.model, "missing_labels", False) and torch.is_tensor(y) else None
    if unknown is not None and bool(unknown.any()):
        return LOG_PX if bool(unknown.all()) else MIXED
    found, lineage = _followed(pair, x, y)
    observed = set().union(*(lineage.of(site.value) for site in found.observed.values()))
    scored = set().union(*(lineage.of(site.log_p) for site in (*found.observed.values(), *found.sites.values())))
    scored |= lineage.escaped
    if "y" in observed:
        return "log p(x, y)" if "x" in observed or "x" not in scored else "log p(y | x)"
    return "log p(x | y)" if "y" in scored else LOG_PX


def is_binary(pair: Any, x: Any, y: Any) -> bool:
    """Whether the likelihood of the data is one of zeros and ones alone."""
    return not _other_supports(pair, x, y)


def _other_supports(pair: Any, x: Any, y: Any) -> list[str]:
    """The sites that observe the data and whose support is known to be other than {0, 1}: name and distribution."""
    found, lineage = _followed(pair, x, y)
    sites = {n: s for n, s in found.observed.items() if "x" in lineage.of(s.value)}
    return [f"{n!r} ({kind(s.p)})" for n, s in sites.items() if not _is_binary(s.p)]


def _is_binary(distribution: Any) -> bool:
    """Whether a distribution is of zeros and ones; one of unknown support may be."""
    try:
        found = as_set(distribution.support)
    except (AttributeError, NotImplementedError):
        return True
    if found is None or found[0] != "whole":
        return False
    return all(bool((torch.as_tensor(end) == i).all()) for i, end in enumerate(found[1:]))


def refuse_binarised(pair: Any, data: Any) -> None:
    """Refuse a split of binarised data where the support of the likelihood is not {0, 1}.

    Raises:
        DataError: names the site.
    """
    split = data.train if isinstance(data, Data) else data
    if not isinstance(split, Split) or not (split.drawn or split.binarize != "none") or not len(split):
        return
    for site in _other_supports(pair, split.x, split.y):
        raise DataError(
            f"site {site} is not a Bernoulli, and the data ({split.name}) are binarised: load them with "
            f"binarize='none' (--binarize none), or choose likelihood='bernoulli'"
        )


@entry_point
def settled(pair: Any, data: Data) -> Data:
    """Data that hold grey values, binarised where they are grey images and the pair's likelihood is Bernoulli."""
    return data.binarized("auto") if is_binary(pair, *Needs(pair)(data.train.x, data.train.y)) else data
