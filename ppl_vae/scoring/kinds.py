"""What a distribution is, under its wrappers."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor


def kind(distribution: Any) -> str:
    """The name of a distribution under its wrappers."""
    while hasattr(distribution, "base_dist"):
        distribution = distribution.base_dist
    if type(distribution).__name__ == "ZukoToPyro":
        return type(distribution.dist).__name__
    return type(distribution).__name__


def title(distribution: Any) -> str:
    """The name of a distribution as its user wrote it: without what only masks it or counts its dimensions."""
    while type(distribution).__name__ in ("Independent", "MaskedDistribution", "ExpandedDistribution"):
        distribution = distribution.base_dist
    name = type(distribution).__name__
    if name == "ZukoToPyro":
        return type(distribution.dist).__name__
    return (
        f"{name}({title(distribution.base_dist)})"
        if name in ("TransformedDistribution", "FoldedDistribution")
        else name
    )


def quantised(distribution: Any) -> bool:
    """Whether draws are rounded, and scored as they were before: only the tensor that was drawn knows its density."""
    while distribution is not None:
        if isinstance(
            distribution, dist.RelaxedBernoulliStraightThrough | dist.RelaxedOneHotCategoricalStraightThrough
        ):
            return True
        distribution = getattr(distribution, "base_dist", None)
    return False


def has_mask(distribution: Any) -> bool:
    """Whether a distribution is masked under its wrappers."""
    while distribution is not None:
        if hasattr(distribution, "_mask"):
            return True
        distribution = getattr(distribution, "base_dist", None)
    return False


def bare(distribution: Any) -> Any:
    """A distribution without what masks it."""
    if hasattr(distribution, "_mask"):
        return bare(distribution.base_dist)
    if isinstance(distribution, torch.distributions.Independent) and has_mask(distribution):
        return dist.Independent(bare(distribution.base_dist), distribution.reinterpreted_batch_ndims)
    return distribution


def mean_of(distribution: Any) -> Tensor | None:
    """The mean of a distribution, else its mode, or None where it has neither in closed form."""
    for name in ("mean", "mode"):
        try:
            value: Tensor = getattr(distribution, name)
        except (NotImplementedError, AttributeError):
            continue
        if bool(torch.isfinite(value).all()):
            return value
    return None


def no_density(name: str) -> str:
    """Why a ``pyro.factor`` of a model is in no estimate, in a line that names the site."""
    return (
        f"site {name!r} is a pyro.factor of the model: training counts it, but it is no part of log p(x); leave it out "
        f"of the model outside training (if self.training: ...), or, if it is a likelihood, write it as a "
        f"distribution: pyro.sample({name!r}, ..., obs=...)"
    )


def flow_of(distribution: Any) -> tuple[Any, Any] | None:
    """The base of a zuko flow and its transform from x to the base, under ``ZukoToPyro``; else None."""
    inner = getattr(distribution, "dist", None)
    if inner is None or not (hasattr(inner, "base") and hasattr(inner, "transform")):
        return None
    return inner.base, inner.transform


def unscorable(name: str, distribution: Any, value: Tensor) -> str:
    """Why a distribution has no log density of a value that it did not draw, in a line that names the site."""
    culprit = _without_inverse(distribution, value)
    if culprit is None:
        why = f"{kind(distribution)} has no log density in closed form"
    else:
        why = f"{culprit} has no inverse, so it can't score a value that it did not draw"
    return (
        f"site {name!r}: {why}; gradient='path' and proposal='guide' need no such score, and a flow that can be "
        f"inverted (affine coupling, spline, autoregressive, zuko's) does all"
    )


def _without_inverse(distribution: Any, value: Tensor) -> str | None:
    """The name of the first transform, from the value on, that can't be undone."""
    while distribution is not None:
        if isinstance(distribution, torch.distributions.TransformedDistribution):
            for transform in _flat(reversed(distribution.transforms)):
                try:
                    value = transform._inverse(value)
                except (KeyError, NotImplementedError):
                    return type(transform).__name__.removeprefix("Conditioned")
        distribution = getattr(distribution, "base_dist", None)
    return None


def _flat(transforms: Any) -> Any:
    for transform in transforms:
        yield from _flat(reversed(transform.parts)) if hasattr(transform, "parts") else (transform,)
