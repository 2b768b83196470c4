"""What a study measures of a trained pair: estimates by example, samples, latents in use, the gaps of its ELBO."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..common.errors import UserError
from ..common.files import write_tensors
from ..common.identity import describe
from ..data.splits import Data, Split
from ..draws.generation import sample
from ..likelihood.estimate import log_likelihood
from ..likelihood.gaps import BOUNDS, NAMES, gaps
from ..likelihood.information import information
from ..pairs.base import Pair

ESTIMATE = "estimate.safetensors"
FIELDS = ("log_px", "std_error", "khat", "ess", "unreliable")  # of an estimate, by example
SAMPLES = 8  # of each cell, for the report
LATENTS = 500  # examples at most, from which it is told which dimensions of the latents are active


@dataclass(frozen=True)
class Evaluation:
    """How a trained pair is evaluated.

    Attributes:
        num_samples: K.
        proposal: where the draws come from; ``"auto"`` leaves few examples unreliable.
        limit: the first so many examples; None takes all.
        gaps: the gap of the ELBO is divided among its causes for the first so many of them; 0 leaves that out.
        seed: of the draws, the same in every cell.
        split: of the data.
    """

    num_samples: int = 1000
    proposal: Any = "auto"
    limit: int | None = None
    gaps: int = 0
    seed: int = 0
    split: str = "test"

    def record(self) -> dict[str, Any]:
        """The evaluation as facts for JSON; custom code counts by its source."""
        names = ("num_samples", "proposal", "limit", "gaps", "seed", "split")
        return {name: describe(getattr(self, name)) for name in names}


def evaluated(pair: Pair, data: Data, how: Evaluation, folder: Path) -> dict[str, Any]:
    """Evaluate a trained pair; writes its tensors to a folder, and returns the facts.

    The tensors, in nats: those of the estimate and ``mean_log_w``, of its proposal, (N,); ``elbo`` (N,), of the guide;
    ``index`` (N,), where each example is in its source;
    ``gap.*`` (G,), of the first G examples; and ``samples`` (8, *shape), means of p(x|z) at draws of the prior, of data
    that are one tensor.
    """
    began, part = time.perf_counter(), data.split(how.split).limit(how.limit)
    options: dict[str, Any] = {"num_samples": how.num_samples, "seed": how.seed, "resume": folder}
    estimate = log_likelihood(pair, part, proposal=how.proposal, **options)
    of_guide = estimate if how.proposal == "guide" else log_likelihood(pair, part, estimator="elbo", **options)
    tensors = {name: getattr(estimate, name) for name in FIELDS}
    tensors |= {"mean_log_w": estimate.elbo, "elbo": of_guide.elbo.clone(), "index": torch.as_tensor(part.rows).clone()}
    facts: dict[str, Any] = {"quantity": estimate.name, "side": estimate.side}
    if estimate.source is not None:
        facts["sources"] = estimate.sources
    with suppress(UserError):  # without latents, or with latents that have no mean
        told = information(pair, part.limit(LATENTS), seed=how.seed)
        layers = told.layers.values()
        facts["latents"] = {
            "active": sum(int(x.active.sum()) for x in layers),
            "of": sum(len(x.active) for x in layers),
        }
        facts["latents"]["kl"] = sum(float(x.kl.mean()) for x in layers)
    with suppress(UserError):  # from a model that needs data
        tensors |= _samples(pair, part, how.seed)
    if how.gaps:
        try:
            found = gaps(pair, part.limit(how.gaps), num_samples=how.num_samples, seed=how.seed, resume=folder)
            tensors |= {f"gap.{name}": torch.from_numpy(found[name].values) for name in (*NAMES, *BOUNDS)}
        except UserError as error:
            facts["no_gaps"] = str(error)
    write_tensors(folder / ESTIMATE, tensors, {"quantity": estimate.name})
    return facts | {"evaluation_seconds": time.perf_counter() - began}


def _samples(pair: Pair, part: Split, seed: int) -> dict[str, Tensor]:
    """Means of p(x|z) at draws of the prior, of data that are one tensor."""
    if not torch.is_tensor(part.x):
        return {}
    labels = None if part.y is None else part.y[torch.arange(SAMPLES) % len(part)]
    found = sample(pair, SAMPLES, labels, mean=True, seed=seed)
    return {"samples": found.float().cpu()} if torch.is_tensor(found) else {}
