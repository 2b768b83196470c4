"""The proposal "auto": the guide where its k is good, a refined guide elsewhere, annealing where neither serves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..common.errors import PairError
from ..common.fields import num_data, rows
from ..common.rng import seed_for
from ..runs.partial import together
from ..scoring.inputs import as_data, everything
from ..scoring.quantity import refuse_binarised
from .annealing import ais
from .refine import GOOD, PILOT, refine
from .result import SOURCES, Estimate

EACH = ("log_px", "std_error", "ess", "khat", "elbo", "max_share")  # the fields of an estimate by example


def staged(
    estimate: Callable[..., Estimate], pair: Any, x: Any, y: Tensor | None, num_samples: int, name: str,
    chains: dict[str, Any], **options: Any,
) -> Estimate:  # fmt: skip
    r"""Estimate each example by the first stage that serves it.

    Pilot draws decide, and the estimate is made of fresh ones, so that the choice does not bias it. An example whose
    fresh draws have a bad k all the same goes on to the next stage; with e the expected number of such passings,
    :math:`E[\hat p] \le (1 + e)\, p(x)`. A stage that does not apply to the pair (discrete latents, masks) is left out;
    what none serves has the estimate under the guide.

    Args:
        estimate: (pair, x, y, num_samples, seed) to the estimate from draws of the pair's guide.
        pair: the pair.
        x: data, as ``log_likelihood`` takes them.
        y: labels.
        num_samples: K.
        name: of the proposal.
        chains: ``num_chains`` and ``num_temperatures`` of annealing.
        options: ``seed``, ``progress``, ``resume`` and ``capture``.
    """
    seed = options["seed"]
    refuse_binarised(pair, x)
    x, y = everything(pair, *as_data(pair, x, y, seed))
    whole = {k: torch.full((num_data(x),), torch.nan, dtype=torch.float64) for k in EACH}
    source = torch.zeros(num_data(x), dtype=torch.int64)
    made: dict[str, Estimate] = {}
    refined: dict[str, Any] = {}
    left_out: dict[str, str] = {}

    def at(which: Tensor) -> tuple[Any, Tensor | None]:
        return rows(x, which), None if y is None else y[which]

    def put(name: str, which: Tensor, found: Estimate) -> Tensor:
        """Keep an estimate of some examples; those whose k is bad are returned."""
        made[name] = found
        for k in EACH:
            whole[k][which] = getattr(found, k)
        source[which] = SOURCES.index(name)
        return which[found.unreliable & ~found.khat.isnan()]  # without a k, the pilot's verdict stands

    with together():
        pilot = estimate(pair, x, y, PILOT, seed_for(seed, "pilot"))
        good, left = (torch.nonzero(mask)[:, 0] for mask in (~pilot.unreliable, pilot.unreliable))
        if len(good):
            left = torch.cat([left, put("guide", good, estimate(pair, *at(good), num_samples, seed))]).sort().values
        if len(left):
            try:
                guide = refine(pair, *at(left), **options)
            except PairError as error:
                left_out["refined"] = str(error)
            else:
                refined = guide.summary()
                served = (guide.khat < GOOD).cpu()
                if bool(served.any()):
                    good = left[served]
                    better, own = pair.with_guide(guide), seed_for(seed, "refined")
                    bad = put("refined", good, estimate(better, *at(good), num_samples, own))
                    left = torch.cat([left[~served], bad]).sort().values
        if len(left):
            try:  # from the guide: chains that start at a refined one stay in the mode that it was fitted to
                put("ais", left, ais(pair, *at(left), start="guide", **(chains | options)))
            except PairError as error:
                left_out["ais"] = str(error)
                put("guide", left, estimate(pair, *at(left), num_samples, seed))
    first = next(made[name] for name in SOURCES if name in made)
    changed: dict[str, Any] = {**whole, "proposal": name, "estimator": "iwae", "num_samples": num_samples}
    facts: dict[str, Any] = {
        "num_dims": pilot.num_dims,
        "num_temperatures": 0,
        "num_chains": made["ais"].num_chains if "ais" in made else 0,
        "refined": refined,
        "left_out": left_out,
    }
    return replace(first, **changed, **facts, source=source)
