"""Refusals of pairs and data without a log p(x), before anything is estimated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ..common.errors import DataError, NoWeightError
from . import observed, terms
from .coverage import refuse_foreign
from .densities import masked_at
from .domains import core_of
from .kinds import is_factor, kind, no_density, title
from .support import support_of


def refuse_unweighable(t: terms.Terms, cover: bool = True) -> None:
    """Raise where there are no importance weights: a deterministic guide, one on another space, a factor in the model.

    ``cover`` also refuses a guide that leaves out a part of the prior's support, where the weights are p(x, z) / q.

    Raises:
        NoWeightError: names the site.
    """
    auxiliary = any(s.p is None for s in t.sites.values())
    for s in t.sites.values():
        # the Delta of an autoguide holds the draw of its auxiliary site; one whose value is constant is a code
        varies = auxiliary and (len(s.value) == 1 or not torch.equal(s.value[0], s.value[1]))
        if kind(s.q) == "Delta" and not varies:
            raise NoWeightError(
                f"site {s.name!r}: the guide is deterministic (Delta), so q(z|x) has no density, there is no "
                f"importance weight and no log p(x) to estimate; report the reconstruction, E[log p(x|z)], or use a "
                f"guide with noise"
            )
    refuse_support(t, cover)
    refuse_factor(t.observed)


def refuse_missing(t: terms.Terms, first: int = 0) -> None:
    """Raise where the likelihood does not leave out a missing entry (NaN) of the data.

    Raises:
        DataError: names the site and the example.
    """
    for name, site in t.observed.items():
        i = observed.first_missing(site)
        if i is not None:
            raise DataError(
                f"example {first + i} has a missing entry (NaN) at site {name!r}, and {title(site.p)} does not leave "
                f"it out: repair or drop the example, or observe it through a mask or a likelihood that skips NaN, "
                f"such as pyro.distributions.NanMaskedNormal"
            )


def refuse_support(t: terms.Terms, cover: bool = False) -> None:
    """Raise where a latent's distribution in the guide is no proposal for that in the model.

    Training needs the guide's support inside the model's. An estimate (``cover``) also needs all of the model's, as
    :math:`E_q[w] = p(x, z \\in \\mathrm{supp}\\, q)`; a mixture with the prior has it, whatever the guide.

    Raises:
        NoWeightError: names the site, and both supports.
    """
    plain = cover and torch.equal(t.log_q, sum((s.log_q for s in t.sites.values()), torch.zeros_like(t.log_q)))
    for name, s in t.sites.items():
        if s.p is None or s.q is None or kind(s.q) == "Delta":
            continue
        q = s.q if s.masks[1] is None else s.q.mask(s.masks[1])  # masked entries have no weight
        # where others are summed out, p is that of each of their values
        refuse_foreign(name, q, s.p, plain and not s.marginal, zeros=cover)
        if not cover or s.marginal:
            continue
        none = torch.zeros_like(s.value, dtype=torch.bool)
        found = (masked_at(fn, mask, s.value) for fn, mask in zip((s.p, s.q), s.masks, strict=True))
        if not torch.equal(*(none if at is None else at for at in found)):
            raise NoWeightError(
                f"site {name!r}: the model and the guide mask different entries, so p / q is no weight there; put the "
                f"same mask on both"
            )


def refuse_factor(observed: Mapping[str, Any]) -> None:
    """Raise where the model has a ``pyro.factor`` that is not zero: it is no part of a density of the data.

    Raises:
        NoWeightError: names the site.
    """
    for name, s in observed.items():
        if is_factor(s.p if isinstance(s, terms.Site) else s.fn):
            raise NoWeightError(no_density(name))


def refuse_outside(t: terms.Terms, first: int = 0) -> None:
    """Raise where data lie outside the support of the site that observes them; ``first`` is that of the first example.

    Raises:
        DataError: names the site and the example.
    """
    refuse_missing(t, first)
    for name, site in t.observed.items():
        i = observed.first_outside(site) if site.value.numel() else None
        if i is not None:
            binarise = "binarise it (load_data(..., binarize='static'), split.fixed(seed))"
            fix = binarise if kind(site.p) == "Bernoulli" else "scale or round the data"
            if levels := getattr(core_of(support_of(site.p)), "levels", None):
                fix += f" to 0, 1/{levels - 1}, ..., 1, give the number of their levels where that is an option"
            raise DataError(
                f"example {first + i} lies outside the support of site {name!r} ({title(site.p)}): {fix}, or choose "
                f"another likelihood"
            )
