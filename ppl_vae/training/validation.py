"""The bound and the ELBO of held-out data after each epoch, always on the same noise."""

from __future__ import annotations

import functools
import operator
from typing import Any

import pyro
from torch import Tensor

from ..common import ranks
from ..common.errors import DataError, UserError
from ..common.rng import reseed, seed_for
from ..data.batches import fitting
from ..data.lazy import Lazy
from ..data.splits import Data, Split
from ..objectives.elbo import elbo as elbo_of
from ..pairs.base import Pair
from ..scoring import terms, trace
from ..scoring.inputs import as_data, device_and_dtype, evaluating, num_rows, to_device
from ..scoring.param_store import own_store, unmoved
from .svi import SVI

HeldOut = tuple[Any, Tensor | None]  # data and labels; or Lazy rows, and None


def held_out(pair: Pair, data: Any, seed: int) -> HeldOut | None:
    """Validation data as the pair takes them, on its device where they fit.

    Raises:
        UserError: the data have several splits.
        DataError: there are none.
    """
    if data is None:
        return None
    if isinstance(data, Data):
        raise UserError("valid: name a split of the data: data.valid or data.test")
    if isinstance(data, Split) and not len(data):
        raise DataError("the validation split is empty")
    x, y = as_data(pair, data, None, seed)
    if isinstance(x, Lazy):
        return x, y
    split = fitting(Split(x, y), device_and_dtype(pair)[0])
    return split.x, split.y


def validate(pair: Pair, svi: SVI, held: HeldOut | None, seed: int, beta: float) -> dict[str, float]:
    """The bound that is trained and the ELBO, in nats per example; empty without validation data."""
    if held is None:
        return {}
    device, _ = device_and_dtype(pair)
    size = max(1, 8192 // (svi.objective.draws if svi.objective else svi.loss.num_particles))

    def sums_of(start: int) -> tuple[float, float]:
        reseed(seed_for(seed, "validate", start // size), device)
        x, y = to_device(pair, *held, slice(start, start + size))
        of_model, of_guide = trace.call_args(pair.model, x, y), trace.call_args(pair.guide, x, y)
        if svi.objective is None:
            bound = -svi.evaluate_loss(*of_model)
            return bound, bound
        t = terms.terms_of(pair.model, pair.guide, of_model, of_guide, num_samples=svi.objective.draws)
        return float(svi.objective.value(t, beta).double().sum()), float(elbo_of(t).double().sum())

    with evaluating(pair), unmoved(pair.model, pair.guide), pyro.validation_enabled(False), own_store():
        parts = ranks.each(sums_of, range(0, num_rows(held[0]), size))
    bound, elbo = (functools.reduce(operator.add, column, 0.0) for column in zip(*parts, strict=True))
    n = num_rows(held[0])
    return {"valid_bound": bound / n, "valid_elbo": elbo / n}
