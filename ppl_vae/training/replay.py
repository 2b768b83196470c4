"""The first step that was not finite, computed again to find the site or the gradient, and the batch."""

from __future__ import annotations

import pyro
import torch
from torch import Tensor

from ..common.errors import NonFiniteError
from ..common.fields import X
from ..data.binarisation import visit
from ..pairs.base import Pair
from ..scoring import terms, trace
from ..scoring.param_store import own_store, unmoved
from .check import nonfinite_site
from .svi import SVI
from .trainer import Trainer, seeded_shards


def explain(error: NonFiniteError, trainer: Trainer) -> NonFiniteError:
    """The error with the site and the batch of the first bad step, whose parameters no update has changed since."""
    svi, source, shards = trainer.svi, trainer.source, trainer.shards
    step = svi.first_bad_step()
    if step is None or not source.length:
        return error
    epoch, batch = divmod(step, source.length)
    rows = next(iter(source.visits(epoch, batch)))
    what, where = None, f"epoch {epoch + 1}, batch {batch}"
    for shard, part, key in seeded_shards(rows, shards, range(shards), trainer.config.seed, step):
        x, y = part.rows()
        what = _nonfinite_part(svi, trainer.pair, visit(x, source.binarize, key), y)
        if what is not None:
            where += f", shard {shard}" if shards > 1 else ""
            break
    return NonFiniteError(
        f"training stopped at step {step} ({where}): {what or 'the loss is not finite'}. "
        f"No parameter was changed from that step on; the last checkpoint is kept. "
        + ("Look at the objective" if what and "objective" in what else "Lower the learning rate or clip the gradient")
    )


def _nonfinite_part(svi: SVI, pair: Pair, x: X, y: Tensor | None) -> str | None:
    """The first site, else the first gradient, that is not finite on these data; None where all are finite."""
    of_model, of_guide = trace.call_args(pair.model, x, y), trace.call_args(pair.guide, x, y)
    grad = svi.objective.grad if svi.objective is not None else "path"
    draws = svi.objective.draws if svi.objective is not None else svi.loss.num_particles
    with unmoved(pair.model, pair.guide), pyro.validation_enabled(False), own_store():
        t = terms.terms_of(pair.model, pair.guide, of_model, of_guide, num_samples=draws, grad=grad)
        what = nonfinite_site(t)
        if what is not None or svi.objective is None:
            return what
        loss = -svi.objective.value(t, svi.objective.beta).sum()
        if not bool(loss.isfinite()):
            return f"the objective is {-float(loss)}, where every density is finite"
        live = {n: p for n, p in pair.named_parameters() if p.requires_grad}
        grads = torch.autograd.grad(loss, list(live.values()), allow_unused=True)
    bad = [n for n, g in zip(live, grads, strict=True) if g is not None and not bool(g.isfinite().all())]
    return f"the gradient of parameter {bad[0]!r} is not finite" if bad else None
