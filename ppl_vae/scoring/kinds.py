"""Properties of a distribution under its wrappers: its kind, its mean, whether it is masked or quantised."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions.transforms import ComposeTransform, IndependentTransform

_STRAIGHT_THROUGH = dist.RelaxedBernoulliStraightThrough, dist.RelaxedOneHotCategoricalStraightThrough


def layers(distribution: Any) -> Iterator[Any]:
    """A distribution and those that it wraps, from the outside in."""
    while distribution is not None:
        yield distribution
        distribution = getattr(distribution, "base_dist", None)


def _name(distribution: Any) -> str:
    name = type(distribution).__name__
    return type(distribution.dist).__name__ if name == "ZukoToPyro" else name


def kind(distribution: Any) -> str:
    """The name of a distribution under its wrappers."""
    *_, core = layers(distribution)
    return _name(core)


def title(distribution: Any) -> str:
    """The name of a distribution as its user wrote it: without wrappers that mask it or count dimensions."""
    while type(distribution).__name__ in ("Independent", "MaskedDistribution", "Seen", "ExpandedDistribution"):
        distribution = distribution.base_dist
    name = _name(distribution)
    named_with_base = name in ("TransformedDistribution", "FoldedDistribution")
    return f"{name}({title(distribution.base_dist)})" if named_with_base else name


def quantised(distribution: Any) -> bool:
    """Whether draws are rounded and their density is that before rounding, which only the drawn tensor holds."""
    return any(isinstance(layer, _STRAIGHT_THROUGH) for layer in layers(distribution))


def has_mask(distribution: Any) -> bool:
    """Whether a distribution is masked under its wrappers."""
    return any(hasattr(layer, "_mask") for layer in layers(distribution))


def is_masked_out(distribution: Any) -> bool:
    """Whether a distribution counts nowhere, as the prior of a deterministic code."""
    return any(getattr(layer, "_mask", None) is False for layer in layers(distribution))


def bare(distribution: Any) -> Any:
    """A distribution without its masks."""
    if hasattr(distribution, "_mask"):
        return bare(distribution.base_dist)
    if isinstance(distribution, torch.distributions.Independent) and has_mask(distribution):
        return dist.Independent(bare(distribution.base_dist), distribution.reinterpreted_batch_ndims)
    return distribution


def mean_of(distribution: Any) -> Tensor | None:
    """The mean of a distribution, else its mode, or None where it has neither in closed form."""
    for name in ("mean", "mode"):
        with suppress(NotImplementedError, AttributeError):
            value: Tensor = getattr(distribution, name)
            if bool(torch.isfinite(value).all()):
                return value
    return None


def flow_of(distribution: Any) -> tuple[Any, Any] | None:
    """The base of a zuko flow and its transform from x to the base, under ``ZukoToPyro``; else None."""
    inner: Any = getattr(distribution, "dist", None)
    return (inner.base, inner.transform) if hasattr(inner, "base") and hasattr(inner, "transform") else None


def parts_of(transforms: Any) -> Iterator[Any]:
    """Single transforms, in the order in which they act."""
    for transform in transforms:
        if isinstance(transform, ComposeTransform):
            yield from parts_of(transform.parts)
        elif isinstance(transform, IndependentTransform):
            yield from parts_of([transform.base_transform])
        else:
            yield transform


def is_factor(distribution: Any) -> bool:
    """Whether this is a ``pyro.factor`` that is not zero; reads the device."""
    return kind(distribution) == "Unit" and bool((distribution.log_factor != 0).any())


def no_density(name: str) -> str:
    """The message, of one line, on a ``pyro.factor`` of a model, which is in no estimate."""
    return (
        f"site {name!r} is a pyro.factor of the model, which counts in training and is no part of log p(x); call it in "
        f"training only (if self.training: ...), or write a likelihood as pyro.sample({name!r}, ..., obs=...)"
    )


def unscorable(name: str, distribution: Any, value: Tensor) -> str:
    """The message, of one line, on a distribution without a log density at values that it did not draw."""
    culprit = _without_inverse(distribution, value)
    why = (
        f"{kind(distribution)} has no log density in closed form"
        if culprit is None
        else f"{culprit} has no inverse, so it can't score a value that it did not draw"
    )
    return (
        f"site {name!r}: {why}; use gradient='path' and proposal='guide', which need no such score, or a flow with an "
        f"inverse (affine coupling, spline, autoregressive, zuko's)"
    )


def _without_inverse(distribution: Any, value: Tensor) -> str | None:
    """The name of the first transform without an inverse, from the value inwards."""
    for layer in layers(distribution):
        if isinstance(layer, torch.distributions.TransformedDistribution):
            for transform in reversed([*parts_of(layer.transforms)]):
                try:
                    value = transform._inverse(value)
                except (KeyError, NotImplementedError):
                    return type(transform).__name__.removeprefix("Conditioned")
    return None
