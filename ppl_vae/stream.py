"""The importance weights of data, block by block and chunk by chunk: what every estimate is made of."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import pyro
import torch
from torch import Tensor

from . import proposals, ranks, weights
from .errors import PairError, UserError
from .files import digest
from .progress import bar
from .proposals import PROPOSALS, Draw
from .quantiles import net_size
from .rng import forked, reseed, seed_for
from .running import Running, rounding_of
from .setting import as_data, evaluating, fingerprint, home, placed, refuse_delta, refuse_outside

ROWS = 8192  # particles times data that are scored at once; part of a seed's meaning, so a constant
CHUNK = 256  # particles at once
OWN = (
    "a proposal is a function that gives Terms, such as "
    "lambda model, guide, x, y, k: pv.terms(model, wider_guide, x, y, num_samples=k)"
)
PROBES = 32  # draws of the prior that confirm an exact guide
T = TypeVar("T")


@dataclass(eq=False)
class Plan:
    """What is settled before the first weight is drawn: the data, the proposal, and the sizes that a seed means."""

    pair: Any
    x: Tensor
    y: Tensor | None
    draw: Draw
    proposal: str
    num_samples: int
    seed: int
    chunk: int
    block: int

    @property
    def setting(self) -> dict[str, Any]:
        return {k: getattr(self, k) for k in ("num_samples", "seed", "block", "chunk", "proposal")}

    def each(self, label: str, progress: bool, work: Callable[[int], T]) -> list[T]:
        """``work`` at the first index of each block, shared by the ranks; in evaluation mode, generators put back."""
        if ranks.count() > 1:
            ranks.alike("work", {**self.setting, "pair or data": fingerprint(self.pair, self.x, self.y)})
        label += "" if self.proposal == "guide" else f", {self.proposal}"
        with evaluating(self.pair), forked(home(self.pair)[0]), bar(progress) as shown:
            task = shown.add_task(label, info="")
            return ranks.each(work, range(0, len(self.x), self.block), lambda starts: shown.track(starts, task_id=task))

    def block_at(self, start: int, hold: bool) -> tuple[Running, Tensor]:
        """All samples of one block of data: sums, the upper tail, and the weights (K, B) where ``hold``."""
        x, y = placed(self.pair, self.x, self.y, slice(start, start + self.block))
        total = Running(self.num_samples)
        held = []
        for c, done in enumerate(range(0, self.num_samples, self.chunk)):
            reseed(seed_for(self.seed, "log_likelihood", start // self.block, c), x.device)
            with pyro.validation_enabled(False):
                size = min(self.chunk, self.num_samples - done)
                t = self.draw(self.pair.model, self.pair.guide, x, y, size)
            if not isinstance(t, weights.Terms) or t.log_w.shape != (size, len(x)):
                found = (
                    f"Terms of shape {tuple(t.log_w.shape)}"
                    if isinstance(t, weights.Terms)
                    else f"a {type(t).__name__}"
                )
                raise UserError(f"the proposal gave {found} for {size} particles of {len(x)} data; {OWN}")
            if c == 0:
                refuse_delta(t)
                refuse_outside(t, start)
            total.add(t)
            if hold:
                held.append(t.log_w.double().cpu())
            if t.exact:
                total.repeat(self.num_samples)
                break
        if not t.exact and self.num_samples > 1 and bool(total.equal.any()):
            reseed(seed_for(self.seed, "covered", start // self.block), x.device)
            total.covered = self._covered(x, y, total.max)
        total.refuse_nonfinite(t, start)
        return total, torch.cat(held) if held else torch.empty(0, len(x))

    def weights_at(self, start: int) -> Tensor:
        """The log weights (K, B) of one block of data; a model without latents scores a few of them."""
        total, held = self.block_at(start, hold=True)
        return held[:1].expand(self.num_samples, -1) if total.exact else held

    def probe(self) -> str:
        """A digest of a few weights: parameters alone don't tell code, closures and attributes apart."""
        x, y = placed(self.pair, self.x, self.y, slice(2))
        with evaluating(self.pair), forked(x.device, 0), pyro.validation_enabled(False):
            return digest({"log_w": self.draw(self.pair.model, self.pair.guide, x, y, 2).log_w})

    def _covered(self, x: Tensor, y: Tensor | None, log_px: Tensor) -> Tensor:
        """(B,) bool: whether draws from the prior have the same weight too, as they have where q is the posterior.

        Equal weights say nothing of a part of the posterior where the proposal never goes; the prior goes everywhere.
        """
        if self.draw in (proposals.prior, proposals.defensive):
            return torch.ones_like(log_px, dtype=torch.bool)
        if self.draw not in (proposals.guide, proposals.qmc):
            return torch.zeros_like(log_px, dtype=torch.bool)
        with pyro.validation_enabled(False):
            try:
                t = weights.terms(self.pair.model, weights.prior_of(self.pair.model), x, y, num_samples=PROBES)
                values = {name: site.value for name, site in t.sites.items()}
                args = weights.call_args(self.pair.guide, x, y)
                t.log_q = weights.log_densities(self.pair.guide, args, values)[1]
            except PairError:  # auxiliary sites and the like: nothing is proven
                return torch.zeros_like(log_px, dtype=torch.bool)
        return ((t.log_w.double() - log_px).abs() <= 64 * rounding_of(t).double()).all(0)


def plan(
    pair: Any, x: Any, y: Tensor | None, num_samples: int, proposal: str | Draw, seed: int, chunk: int | None,
    block: int | None,
) -> Plan:  # fmt: skip
    """Settle what an estimate is made of, and refuse what can't be.

    Raises:
        UserError: no samples, or a proposal that is not known.
        DataError: no data, or labels of another number.
    """
    if num_samples < 1:
        raise UserError(f"num_samples={num_samples}: at least one is needed")
    draw, name = _proposal(proposal)
    x, y = as_data(x, y, seed)
    chunk = min(num_samples, chunk or (net_size(num_samples, ROWS) if draw is proposals.qmc else CHUNK))
    block = min(len(x), block or max(1, ROWS // chunk))
    return Plan(pair, x, y, draw, name, num_samples, seed, chunk, block)


def _proposal(proposal: str | Draw) -> tuple[Draw, str]:
    if callable(proposal):
        try:
            inspect.signature(getattr(proposal, "forward", proposal)).bind(*range(5))
        except TypeError:
            raise UserError(
                f"the proposal {proposal!r:.60} does not take (model, guide, x, y, num_samples); {OWN}"
            ) from None
        return proposal, getattr(proposal, "__name__", type(proposal).__name__)
    if proposal not in PROPOSALS:
        raise UserError(f"proposal={proposal!r}: choose one of {', '.join(PROPOSALS)}")
    return PROPOSALS[proposal], proposal
