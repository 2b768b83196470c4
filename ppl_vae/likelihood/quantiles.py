"""Draws of a distribution from points of the unit cube, and the points: scrambled Sobol sequences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy import special
from torch import Tensor

from ..common.errors import PairError, UserError
from ..scoring.kinds import flow_of, kind

BITS = 30  # of a coordinate of torch's Sobol sequence
MOST = torch.quasirandom.SobolEngine.MAXDIM


def sobol(num_points: int, batch: int, dims: int) -> Tensor:
    """Scrambled Sobol points (num_points, batch, dims) in (0, 1), float64; seeded by torch's global generator.

    All examples share one scrambled sequence, and each shifts it by different random digits. So each point is uniform,
    and means over the sequence are uncorrelated between examples.

    Source: Owen: Randomly Permuted (t,m,s)-Nets and (t,s)-Sequences, 1995. Matousek: On the L2-Discrepancy for Anchored
    Boxes, 1998, for torch's linear scrambling.

    Raises:
        UserError: more dimensions than the sequence has.
    """
    if dims > MOST:
        raise UserError(f"qmc: {dims} latent dimensions, and a Sobol sequence has {MOST}; use another proposal")
    seed = int(torch.randint(2**31, ()))
    points = torch.quasirandom.SobolEngine(dims, scramble=True, seed=seed).draw(num_points, dtype=torch.float64)
    digits = (points * 2.0**BITS).long().unsqueeze(1) ^ torch.randint(2**BITS, (batch, dims))
    spread: Tensor = (digits.double() + 0.5) / 2.0**BITS
    return spread


def noise_shape(fn: Any) -> torch.Size:
    """The shape of the uniforms that :func:`quantile` turns into one draw for one example."""
    if kind(fn) == "Delta":
        return torch.Size([0])
    if isinstance(fn, torch.distributions.TransformedDistribution):
        base = fn.base_dist
        return torch.Size((base.batch_shape + base.event_shape)[len(fn.batch_shape) :])
    flow = flow_of(fn)
    if flow is not None:
        return noise_shape(flow[0])
    if kind(fn) == "GaussianMixture":  # one more, which chooses the component
        return torch.Size([fn.event_shape[0] + 1])
    return torch.Size(fn.event_shape)


def _by_scipy(inverse: Callable[..., Any], *parts: Tensor) -> Tensor:
    return torch.from_numpy(np.asarray(inverse(*(p.detach().double().cpu().numpy() for p in parts))))


_SPECIAL: dict[str, Callable[[Any, Tensor], Tensor]] = {
    # torch has no inverse distribution function for these; draws need no gradient here
    "Gamma": lambda d, u: _by_scipy(special.gammaincinv, d.concentration, u).to(u.device) / d.rate,
    "Beta": lambda d, u: _by_scipy(special.betaincinv, d.concentration1, d.concentration0, u).to(u.device),
    "Normal": lambda d, u: d.loc + d.scale * torch.special.ndtri(u),
    "MultivariateNormal": lambda d, u: _correlated(d, u),
    "LowRankMultivariateNormal": lambda d, u: _correlated(d, u),
    "GaussianMixture": lambda d, u: _of_mixture(d, u),
}


def _correlated(d: Any, u: Tensor) -> Tensor:
    moved: Tensor = d.loc + (d.scale_tril.double() @ torch.special.ndtri(u).unsqueeze(-1)).squeeze(-1)
    return moved


def _of_mixture(d: Any, u: Tensor) -> Tensor:
    ends = d.logits.double().exp().cumsum(-1)[..., :-1]
    which = (u[..., :1] > ends).sum(-1)[..., None, None].expand(*u.shape[:-1], 1, u.shape[-1] - 1)
    loc, scale = (p.expand(*u.shape[:-1], *p.shape[-2:]).gather(-2, which).squeeze(-2) for p in (d.loc, d.scale))
    moved: Tensor = loc + scale * torch.special.ndtri(u[..., 1:])
    return moved


def quantile(name: str, fn: Any, u: Tensor) -> Tensor:
    """The draw of a distribution that uniforms u (K, B, *noise) stand for: its inverse distribution function.

    Raises:
        PairError: torch knows no such function; names the site.
    """
    if isinstance(fn, torch.distributions.TransformedDistribution):
        value = quantile(name, fn.base_dist, u)
        for transform in fn.transforms:
            value = torch.as_tensor(transform(value))
        return value
    flow = flow_of(fn)
    if flow is not None:
        moved: Tensor = flow[1].inv(quantile(name, flow[0], u))
        return moved
    inner: Any = getattr(fn, "base_dist", None)
    if inner is not None:
        return quantile(name, inner, u)
    try:
        draw = _SPECIAL[kind(fn)](fn, u) if kind(fn) in _SPECIAL else fn.icdf(u)
    except NotImplementedError:
        raise PairError(
            f"site {name!r}: {kind(fn)} has no inverse distribution function, so quasi-random points can't be turned "
            f"into draws; use another proposal"
        ) from None
    typed: Tensor = draw.to(getattr(fn, next(iter(fn.arg_constraints))).dtype)  # that of its first parameter
    info = torch.finfo(typed.dtype)
    ends = {"Gamma": (info.tiny, info.max), "Beta": (info.tiny, 1 - info.eps / 2)}.get(kind(fn))
    return typed if ends is None else typed.clamp(*ends)  # the support is open, and rounding may reach its ends


def net_size(num_samples: int, most: int) -> int:
    """Points of one scrambling: the largest power of two that leaves at least four scramblings, and ``most``.

    Example:
        >>> net_size(4096, 8192), net_size(100, 8192), net_size(100_000, 8192)
        (1024, 16, 8192)
    """
    return min(1 << (max(1, num_samples // 4).bit_length() - 1), most)
