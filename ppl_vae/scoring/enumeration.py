r"""Discrete latents that are summed out: each assignment of values is scored, and the chain rule divides the sum.

A site that the model marks ``infer={"enumerate": "parallel"}``, and the guide does not draw, takes all its values. With
c for all such sites, and z_1, ..., z_m, x_1, ... for the others, latents first,

.. math:: L_j = \log \sum_c p(c) \, p(z_1, \dots, z_j | c), \qquad \log p(z_j | z_1, \dots, z_{j-1}) = L_j - L_{j-1},

and so on through the observed sites: the parts are marginals of one joint, and add up to log p(x, z).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..common.errors import PairError
from .kinds import kind

MOST = 4096  # assignments


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


def assignments(supports: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], int]:
    """Every assignment of values to sites: for each site its value in each of them, (A, *event); and A.

    Raises:
        PairError: there are more than ``MOST``.
    """
    sizes = [len(v) for v in supports.values()]
    _refuse_many(", ".join(supports), math.prod(sizes))
    rows = _product(sizes)
    return {n: v[i.to(v.device)] for (n, v), i in zip(supports.items(), rows.unbind(1), strict=True)}, len(rows)


def _product(sizes: list[int]) -> Tensor:
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


def shared(classes: Tensor, others: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The chain rule of the module: log p(c) and the other sites' log densities, (A, K, B), to marginals (K, B)."""
    found: dict[str, Tensor] = {}
    joint = classes
    before: Tensor | None = None  # the sum of p(c) is one
    for name, log_p in others.items():
        joint = joint + log_p
        total = torch.logsumexp(joint, 0)
        found[name] = total if before is None else total - before
        before = total
    return found
