"""The end of a fit: a prior that is fitted to the codes of the training data."""

from __future__ import annotations

from typing import Any

import pyro
import torch
from torch import Tensor

from ..common import ranks
from ..common.rng import seed_for
from ..scoring import programs
from ..scoring.inputs import evaluating
from ..scoring.param_store import own_store, unmoved
from .resume import State
from .trainer import Trainer, seeded_shards

LIMIT = 10_000  # codes


def fit_prior(trainer: Trainer, state: State) -> bool:
    """Fit the prior of the model, where it has a method ``fit_codes(z, seed)``, to the codes of training examples.

    Returns:
        Whether it was fitted.
    """
    prior: Any = getattr(trainer.pair.model, "prior", None)
    if not hasattr(prior, "fit_codes"):
        return False

    def work() -> bool:
        codes = _codes(trainer, state.epoch)
        if len(codes) > 1:
            prior.fit_codes(codes, seed_for(trainer.config.seed, "ex_post"))
        return len(codes) > 1

    fitted = ranks.broadcast_object(work)
    ranks.broadcast(list(prior.buffers()))
    return fitted


def _codes(trainer: Trainer, epoch: int) -> Tensor:
    """The codes of at most 10,000 examples, in the order of an epoch: (N, latent)."""
    pair, svi = trainer.pair, trainer.svi
    assert svi.prepare is not None
    parts: list[Tensor] = []
    with evaluating(pair), unmoved(pair.model, pair.guide), pyro.validation_enabled(False), own_store():
        for step, batch in enumerate(trainer.source.visits(epoch, 0)):
            for _, part, key in seeded_shards(batch, 1, [0], trainer.config.seed, step):
                found = programs.sites(pair.guide, svi.prepare(*part, key))
                parts.append(next(s.value[0].cpu() for s in found.values() if not s.is_observed))
            if sum(map(len, parts)) >= LIMIT:
                break
    return torch.cat(parts)[:LIMIT] if parts else torch.empty(0, 0)
