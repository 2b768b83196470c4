r"""Sums over discrete latents, one at a time: the terms that depend on one are added up and summed over it.

.. math:: \sum_{c_1, c_2, c_3} f(c_1, c_2) \, g(c_2, c_3) = \sum_{c_3} \sum_{c_2} g(c_2, c_3) \sum_{c_1} f(c_1, c_2)

A chain of T steps with n states costs :math:`T n^2`, not :math:`n^T`: the forward algorithm is the case of a chain.

Source: Zhang, Poole: A Simple Approach to Bayesian Network Computations, 1994. Here in logarithms.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import reduce
from operator import add
from typing import NamedTuple

import torch
from torch import Tensor

from ..common.errors import PairError

MOST = 4096  # entries of a table, for each particle and example


class Factor(NamedTuple):
    """A log density for all values of the summed sites that it depends on.

    Attributes:
        sites: the numbers of these sites, ascending.
        table: nats, (n_1, ..., n_m, K, B): a dimension for each of them.
    """

    sites: tuple[int, ...]
    table: Tensor


def log_sum_exp(table: Tensor, dim: int) -> Tensor:
    """``torch.logsumexp``, with a gradient of zero, not NaN, where every term is zero."""
    top = table.detach().amax(dim, keepdim=True)
    top = torch.where(top.isfinite(), top, torch.zeros_like(top))
    total = (table - top).exp().sum(dim)
    none = total == 0  # NaN passes
    found = torch.where(none, torch.ones_like(total), total).log() + top.squeeze(dim)
    return torch.where(none, torch.full_like(found, -torch.inf), found)


def chain_rule(classes: Mapping[int, Factor], others: Mapping[str, Factor]) -> dict[str, Tensor]:
    r"""The log densities (K, B) of other sites, one given those before it, with all classes summed out.

    .. math:: \log p(v_j | v_1, \dots, v_{j-1}) = \log \sum_c p(c) \, p(v_1, \dots, v_j | c)
        - \log \sum_c p(c) \, p(v_1, \dots, v_{j-1} | c)

    Args:
        classes: log p(c_i | its parents), by the number of the site.
        others: the log density of each other site given the classes, in the order of the chain rule.
    """
    steps: list[list[Factor]] = []
    seen: set[int] = set()
    for factor in others.values():  # what no site so far depends on sums to one, and is left out
        above = _ancestors(factor.sites, classes) - seen
        seen |= above
        steps.append([*(classes[c] for c in sorted(above)), factor])
    last = {c: i for i, added in enumerate(steps) for factor in added for c in factor.sites}
    state: list[Factor] = []  # divided by the density so far, so that its sum is the next conditional
    found: dict[str, Tensor] = {}
    for i, name in enumerate(others):
        state += steps[i]
        found[name] = total(state)
        scale = torch.where(found[name].isfinite(), found[name], torch.zeros_like(found[name]))
        state[-1] = Factor(state[-1].sites, state[-1].table - scale)
        for c in [c for c, final in last.items() if final == i]:
            state, _ = _summed_over(state, c)
        free = [factor.table for factor in state if not factor.sites]
        state = [factor for factor in state if factor.sites] + ([Factor((), reduce(add, free))] if free else [])
    return found


def total(factors: Iterable[Factor]) -> Tensor:
    """The log of the sum of the product of all factors over all values of all sites, (K, B)."""
    state = list(factors)
    while (site := _next(state)) is not None:
        state, _ = _summed_over(state, site)
    return reduce(add, (factor.table for factor in state))


def probabilities(factors: Iterable[Factor]) -> dict[int, Tensor]:
    """The marginal distribution of each site, (n, K, B): the gradient of the log sum in an added term of zeros."""
    state = list(factors)
    zeros: dict[int, Tensor] = {}
    with torch.enable_grad():
        for sites, table in state:
            for site, n in zip(sites, table.shape, strict=False):
                zeros.setdefault(site, table.new_zeros(n, *table.shape[-2:]).requires_grad_())
        detached = [Factor(sites, table.detach()) for sites, table in state]
        whole = total([*detached, *(Factor((site,), zero) for site, zero in zeros.items())])
        slopes = torch.autograd.grad(whole.sum(), list(zeros.values()))
    return dict(zip(zeros, slopes, strict=True))


def draw(factors: Iterable[Factor]) -> dict[int, Tensor]:
    """A joint draw of all sites: the number (K, B) of the value of each. Draws from torch's global generators.

    Sites are summed out one after another, and drawn in the opposite order, each given those that were drawn.
    """
    state = list(factors)
    orders: list[tuple[int, Factor]] = []
    while (site := _next(state)) is not None:
        state, whole = _summed_over(state, site)
        orders.append((site, whole))
    found: dict[int, Tensor] = {}
    for site, (sites, table) in reversed(orders):
        at = sites.index(site)
        table = table.movedim(at, -1)  # (..., K, B, n)
        for other in (s for s in sites if s != site):  # each takes away the first dimension
            index = found[other].reshape(1, *(1,) * (table.dim() - 4), *found[other].shape, 1)
            table = table.gather(0, index.expand(1, *table.shape[1:])).squeeze(0)
        found[site] = torch.distributions.Categorical(logits=table).sample()
    return found


def _ancestors(sites: Iterable[int], classes: Mapping[int, Factor]) -> set[int]:
    """Sites, and all that they depend on."""
    found: set[int] = set()
    stack = list(sites)
    while stack:
        site = stack.pop()
        if site not in found:
            found.add(site)
            stack += classes[site].sites
    return found


def _next(factors: Iterable[Factor]) -> int | None:
    """The site whose sum needs the smallest table; None where no site is left."""
    around: dict[int, dict[int, int]] = {}  # for each site, the sizes of all sites that share a factor with it
    for sites, table in factors:
        sizes = dict(zip(sites, table.shape, strict=False))
        for site in sites:
            around.setdefault(site, {}).update(sizes)
    if not around:
        return None

    def cost(site: int) -> tuple[int, int]:
        return math.prod(around[site].values()), site

    return min(around, key=cost)


def _summed_over(factors: list[Factor], site: int) -> tuple[list[Factor], Factor]:
    """The factors with a site summed out, and the product that was summed.

    Raises:
        PairError: the product has more than ``MOST`` entries.
    """
    inside = [f for f in factors if site in f.sites]
    sites = tuple(sorted({s for f in inside for s in f.sites}))
    sizes = {s: n for f in inside for s, n in zip(f.sites, f.table.shape, strict=False)}
    entries = math.prod(sizes.values())
    if entries > MOST:
        raise PairError(
            f"summing out {len(sites)} discrete sites that depend on one another takes a table of {entries:,} entries, "
            f"more than {MOST:,}; let the guide draw some of them"
        )

    def wide(factor: Factor) -> Tensor:
        shape = (sizes[s] if s in factor.sites else 1 for s in sites)
        return factor.table.reshape(*shape, *factor.table.shape[-2:])

    whole = Factor(sites, reduce(add, map(wide, inside)))
    at = sites.index(site)
    rest = Factor(sites[:at] + sites[at + 1 :], log_sum_exp(whole.table, at))
    return [*(f for f in factors if site not in f.sites), rest], whole
