r"""Discrete latents that are summed out: which values the program is run at, and the tables that come out of it.

A site that the model marks ``infer={"enumerate": "parallel"}``, and the guide does not draw, takes all its values. With
c for all such sites, and z_1, ..., z_m, x_1, ... for the others, latents first,

.. math:: L_j = \log \sum_c p(c) \, p(z_1, \dots, z_j | c), \qquad \log p(z_j | z_1, \dots, z_{j-1}) = L_j - L_{j-1},

and so on through the observed sites: the parts are marginals of one joint, and add up to log p(x, z).

The program runs once, under more particles. Two sites that no term depends on together take their values side by side:
all sites are coloured so that those of one term differ, and the runs are the combinations of colours, not of sites. A
chain needs two colours, so n^2 runs for any number of steps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..common.errors import PairError
from .elimination import MOST, Factor
from .kinds import kind

FEW = 32  # assignments that are run without asking which term depends on which site


def is_marked(site: Any) -> bool:
    """Whether a site of a trace is marked to be summed out."""
    return bool(site["infer"].get("enumerate")) and not site["is_observed"]


def support_values(name: str, fn: Any) -> Tensor:
    """All values (n, *event) of a discrete distribution.

    Raises:
        PairError: there are too many, or the distribution does not list them; names the site.
    """
    leaf = fn
    while isinstance(leaf, torch.distributions.Independent) or hasattr(leaf, "_mask"):
        leaf = leaf.base_dist
    if not getattr(leaf, "has_enumerate_support", False):
        raise PairError(
            f"site {name!r} is marked infer={{'enumerate': ...}}, and the values of {kind(fn)} can't be listed; let "
            f"the guide draw it"
        )
    one = leaf.enumerate_support(expand=False)
    one = one.reshape(len(one), *leaf.event_shape)
    outer = fn.event_shape[: len(fn.event_shape) - len(leaf.event_shape)].numel()
    _refuse_many(name, len(one) ** outer)
    values: Tensor = one[_product([len(one)] * outer).to(one.device)]
    return values.reshape(-1, *fn.event_shape)


@dataclass(frozen=True, eq=False)
class Plan:
    """The runs that give every term for all values of the sites that it depends on.

    Attributes:
        supports: the values (n, *event) of each summed site.
        scopes: for each site that is scored, the summed sites that its density depends on.
        colours: a number for each summed site; those of one scope differ.
        sizes: the number of values of each colour, the most of its sites.
    """

    supports: dict[str, Tensor]
    scopes: dict[str, set[str]]
    colours: dict[str, int]
    sizes: tuple[int, ...]

    @property
    def count(self) -> int:
        """The number A of runs."""
        return math.prod(self.sizes)

    def values(self) -> dict[str, Tensor]:
        """For each summed site its value in each run, (A, *event)."""
        rows = _product(self.sizes)
        found = {}
        for name, support in self.supports.items():
            at = rows[:, self.colours[name]] % len(support)
            found[name] = support[at.to(support.device)]
        return found

    def factor(self, name: str, log_p: Tensor) -> Factor:
        """The term of a site, from its log density (A, K, B) in all runs."""
        by_colour = {self.colours[s]: s for s in self.scopes[name]}
        table = log_p.reshape(*self.sizes, *log_p.shape[1:])
        for colour in reversed(range(len(self.sizes))):
            site = by_colour.get(colour)
            table = table.select(colour, 0) if site is None else table.narrow(colour, 0, len(self.supports[site]))
        numbers = {site: i for i, site in enumerate(self.supports)}
        sites = [numbers[by_colour[colour]] for colour in sorted(by_colour)]
        ascending = sorted(range(len(sites)), key=sites.__getitem__)
        return Factor(tuple(sorted(sites)), table.permute(*ascending, -2, -1))


def plan(supports: dict[str, Tensor], scopes: Mapping[str, set[str]] | None, scored: list[str]) -> Plan:
    """The runs for these sites; without scopes, every term may depend on all of them.

    Raises:
        PairError: there are more than ``MOST``.
    """
    found = {name: set(supports) for name in scored} if scopes is None else dict(scopes)
    near: dict[str, set[str]] = {name: set() for name in supports}
    for scope in found.values():
        for name in scope:
            near[name] |= scope - {name}
    colours: dict[str, int] = {}
    for name in supports:
        taken = {colours[other] for other in near[name] if other in colours}
        colours[name] = next(colour for colour in range(len(taken) + 1) if colour not in taken)
    sizes = [0] * (1 + max(colours.values()))
    for name, colour in colours.items():
        sizes[colour] = max(sizes[colour], len(supports[name]))
    made = Plan(supports, found, colours, tuple(sizes))
    _refuse_many(", ".join(supports), made.count)
    return made


def _product(sizes: Sequence[int]) -> Tensor:
    """Every choice of an index below each size, (choices, sizes) int64."""
    return torch.cartesian_prod(*map(torch.arange, sizes)).reshape(-1, len(sizes))


def _refuse_many(names: str, count: int) -> None:
    if count > MOST:
        raise PairError(
            f"summing out {names} takes {count:,} assignments, more than {MOST:,}; let the guide draw some of "
            f"them, or train by TraceEnum_ELBO"
        )


def repeated(values: Mapping[str, Tensor], assigned: Mapping[str, Tensor], shape: tuple[int, int]) -> dict[str, Tensor]:
    """Values (K, B, *event) of the other sites beside each assignment (A, *event), all as (A K, B, *event)."""
    count = len(next(iter(assigned.values())))
    found = {n: v.expand(count, *v.shape).reshape(count * v.shape[0], *v.shape[1:]) for n, v in values.items()}
    for name, v in assigned.items():
        wide = v.reshape(count, 1, 1, *v.shape[1:]).expand(count, *shape, *v.shape[1:])
        found[name] = wide.reshape(count * shape[0], shape[1], *v.shape[1:])
    return found
