"""What a distribution is, under its wrappers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def kind(distribution: Any) -> str:
    """The name of a distribution under its wrappers."""
    while hasattr(distribution, "base_dist"):
        distribution = distribution.base_dist
    return type(distribution).__name__


def has_mask(distribution: Any) -> bool:
    """Whether a distribution is masked under its wrappers."""
    while distribution is not None:
        if hasattr(distribution, "_mask"):
            return True
        distribution = getattr(distribution, "base_dist", None)
    return False


def masks_of(distribution: Any) -> list[tuple[Any, int]]:
    """The masks under the wrappers of a distribution, each with the number of event dimensions that it reaches into."""
    found, inside = [], 0
    while distribution is not None:
        if hasattr(distribution, "_mask"):
            found.append((distribution._mask, inside))
        inside += getattr(distribution, "reinterpreted_batch_ndims", 0)
        distribution = getattr(distribution, "base_dist", None)
    return found


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
