"""Grey values as Bernoulli probabilities: what may be binarised, and what a visit of the data draws."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..common.errors import DataError
from ..common.fields import X
from ..common.rng import uniform
from .convert import refuse

WAYS = ("auto", "dynamic", "static", "none")


def visit(x: Tensor, binarize: str, key: Tensor) -> Tensor:
    """What a training step sees of ``x``: a draw of Bernoulli(x) that ``key`` decides if ``"dynamic"``, else x.

    Example:
        >>> visit(torch.tensor([0.0, 0.5, 1.0]), "dynamic", key=torch.tensor(3))
        tensor([0., 1., 1.])
    """
    return (uniform(x, key) < x).to(x.dtype) if binarize == "dynamic" else x


def probabilities(x: Tensor) -> Tensor:
    """Whole zeros and ones as floating ones."""
    return x if x.is_floating_point() else x.to(torch.get_default_dtype())


def refuse_range(x: X, where: str) -> None:
    """Refuse data that can't be binarised."""
    if not torch.is_tensor(x):
        raise DataError(f"{where} has several fields, which are not binarised: give binarize='none'")
    low, high = x.aminmax()
    if bool((low >= 0) & (high <= 1)):  # one pass over the data, and false for NaN
        return
    fix = "scale the values, or keep them with binarize='none' (--binarize none)"
    refuse(x.isnan(), f"{where} has a NaN or an infinity", "repair or drop that example, or give binarize='none'")
    refuse((x < 0) | (x > 1), f"{where} has values from {x.min():g} to {x.max():g}, outside [0, 1]", fix)


def are_grey_images(xs: Sequence[Tensor]) -> bool:
    """Whether all are images (N, 1, H, W) of one channel in [0, 1], and some pixel is neither 0 nor 1."""
    if not all(torch.is_tensor(x) and x.dim() == 4 and x.shape[1] == 1 and min(x.shape[2:]) > 1 for x in xs):
        return False
    inside = all(bool(((x >= 0) & (x <= 1)).all()) for x in xs)
    return inside and any(bool(((x > 0) & (x < 1)).any()) for x in xs)
