"""The importance weights of data, block by block and chunk by chunk: what every estimate is made of."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pyro
import torch
from torch import Tensor

from ..common import ranks
from ..common.errors import PairError, UserError
from ..common.fields import X, device_of, filled, leaves, num_data, size_of
from ..common.files import digest
from ..common.memory import keep_freed
from ..common.progress import bar
from ..common.rng import forked, reseed, seed_for
from ..compile.capture import Captured, chosen, worthwhile
from ..compile.guards import UncapturableError
from ..compile.products import fast_products, products
from ..data.lazy import Lazy
from ..scoring import densities, observed, programs, terms, trace
from ..scoring.inputs import as_data, device_and_dtype, evaluating, fingerprint, num_rows, numbers_of, to_device
from ..scoring.param_store import modules_of
from ..scoring.quantity import refuse_binarised
from ..scoring.simulate import remember
from ..scoring.validity import refuse_outside, refuse_unweighable
from . import proposals
from .accumulator import Running, Weighed, rounding_of, weighed
from .proposals import PROPOSALS, Proposal
from .quantiles import net_size

ROWS = 4096  # particles times data that are scored at once, at most; part of a seed's meaning, so a constant
NUMBERS = 2**22  # of x in these: above 32 MiB an allocator asks the system for fresh pages at every chunk
CHUNK = 512  # particles at once, at most
NET = 8192  # quasi-random points at once, at most
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
    x: X | Lazy
    y: Tensor | None
    draw: Proposal
    proposal: str
    num_samples: int
    seed: int
    chunk: int
    block: int
    capture: bool | str = "auto"
    precision: str = "float32"
    observed: dict[int, Tensor] = field(default_factory=dict)  # by block: numbers observed of each datum, (B,)
    products: str | None = None  # the routine of float32 products, where unfinished work has chosen it
    _graphs: dict[int, tuple[Captured, list[str]]] = field(default_factory=dict)  # by the number of particles

    @property
    def setting(self) -> dict[str, Any]:
        return {k: getattr(self, k) for k in ("num_samples", "seed", "block", "chunk", "proposal")}

    def each(self, label: str, progress: bool, work: Callable[[int], T]) -> list[T]:
        """``work`` at the first index of each block, shared by the ranks; in evaluation mode, generators put back."""
        if ranks.count() > 1:
            ranks.assert_same("work", {**self.setting, "pair or data": fingerprint(self.pair, self.x, self.y)})
        keep_freed()
        label += "" if self.proposal == "guide" else f", {self.proposal}"
        device = device_and_dtype(self.pair)[0]
        look = fast_products(device, self.products)
        with evaluating(self.pair), forked(device), look, bar(progress) as shown:
            task = shown.add_task(label, info="")
            return ranks.each(
                work, range(0, num_rows(self.x), self.block), lambda starts: shown.track(starts, task_id=task)
            )

    def block_at(self, start: int, hold: bool, by_graph: bool = True) -> tuple[Running, Tensor]:
        """All samples of one block of data: sums, the upper tail, and the weights (K, B) where ``hold``."""
        x, y = to_device(self.pair, self.x, self.y, slice(start, start + self.block))
        device, size_of_block = device_of(x), num_data(x)
        total = Running(self.num_samples)
        held = []
        t: terms.Terms | None = None
        for c, done in enumerate(range(0, self.num_samples, self.chunk)):
            size = min(self.chunk, self.num_samples - done)
            captured = by_graph and self._captured(size, size_of_block)
            if c == 0 and captured:  # what is refused is seen by two particles as well as by all
                reseed(seed_for(self.seed, "look", start // self.block), device)
                few = self._terms(x, y, min(2, size), start)
                captured = not few.exact
            reseed(seed_for(self.seed, "log_likelihood", start // self.block, c), device)
            found = self._by_graph(x, y, size) if captured else None
            if found is None:
                t = self._terms(x, y, size, start if t is None else None)
                found = weighed(t)
            total.add(found)
            if hold:
                held.append(found.log_w.double().cpu())
            if t is not None and t.exact:
                total.repeat(self.num_samples)
                break
        if bool(total.bad.any()) and self._graphs and by_graph:
            return self.block_at(start, hold, by_graph=False)  # which names the site
        if not total.exact and self.num_samples > 1 and bool(total.equal.any()):
            reseed(seed_for(self.seed, "covered", start // self.block), device)
            total.covered = self._covered(x, y, total.max)
        if t is not None:
            total.refuse_nonfinite(t, start)
        last = t if t is not None else few
        self.observed[start] = observed.num_observed(last) if last.observed else _all_of(x)
        return total, torch.cat(held) if held else torch.empty(0, size_of_block)

    def _terms(self, x: X, y: Tensor | None, size: int, first: int | None) -> terms.Terms:
        """Terms of some particles; where ``first``, the index of the first datum, is given, refused where need be."""
        with pyro.validation_enabled(False), products(self.precision):
            t = self.draw(self.pair.model, self.pair.guide, x, y, size)
        if not isinstance(t, terms.Terms) or t.log_w.shape != (size, num_data(x)):
            what = f"Terms of shape {tuple(t.log_w.shape)}" if isinstance(t, terms.Terms) else f"a {type(t).__name__}"
            raise UserError(f"the proposal gave {what} for {size} particles of {num_data(x)} data; {OWN}")
        if first is not None:
            refuse_unweighable(t)
            refuse_outside(t, first)
            if first == 0:
                remember(self.pair, x, t.observed, y)
        return t

    def _captured(self, size: int, num_data: int) -> bool:
        """Whether to score so many particles of so many data by a graph: where asked, or where it pays."""
        if self.draw is proposals.qmc:  # its points are made on the host
            return False
        if self.capture != "auto":
            return self.capture is True
        calls = (self.num_samples // self.chunk) * (num_rows(self.x) // self.block)
        whole = (size, num_data) == (self.chunk, self.block)
        return whole and worthwhile(calls, size * num_data, self.pair, numbers_of(self.x))

    def _by_graph(self, x: X, y: Tensor | None, size: int) -> Weighed | None:
        """The weights by a compiled graph; None where there can be none, which is said once."""
        if size not in self._graphs:
            names: list[str] = []

            def run(*data: Tensor) -> tuple[Tensor, ...]:
                given = iter(data)
                fields = filled(x, given)
                found = weighed(self._terms(fields, next(given, None), size, None))
                names[:] = found.discrete
                return found.log_w, found.rounding, *found.discrete.values()

            self._graphs[size] = Captured(run, modules=modules_of(self.pair.model, self.pair.guide, self.draw)), names
        graph, names = self._graphs[size]
        try:
            log_w, rounding, *values = graph(*leaves(x), *([] if y is None else [y]))
        except UncapturableError as why:
            warnings.warn(f"the estimate is not captured, and runs as it is: {why}", stacklevel=2)
            self.capture = False
            return None
        return Weighed(log_w, rounding, dict(zip(names, values, strict=True)))

    def weights_at(self, start: int) -> Tensor:
        """The log weights (K, B) of one block of data; a model without latents scores a few of them."""
        total, held = self.block_at(start, hold=True)
        return held[:1].expand(self.num_samples, -1) if total.exact else held

    def probe(self) -> str:
        """A digest of a few weights: parameters alone don't tell code, closures and attributes apart."""
        x, y = to_device(self.pair, self.x, self.y, slice(2))
        with evaluating(self.pair), forked(device_of(x), 0), pyro.validation_enabled(False):
            return digest({"log_w": self.draw(self.pair.model, self.pair.guide, x, y, 2).log_w})

    def _covered(self, x: X, y: Tensor | None, log_px: Tensor) -> Tensor:
        """(B,) bool: whether draws from the prior have the same weight too, as they have where q is the posterior.

        Equal weights say nothing of a part of the posterior where the proposal never goes; the prior goes everywhere.
        """
        if self.draw in (proposals.prior, proposals.defensive):
            return torch.ones_like(log_px, dtype=torch.bool)
        if self.draw not in (proposals.guide, proposals.qmc):
            return torch.zeros_like(log_px, dtype=torch.bool)
        with pyro.validation_enabled(False):
            try:
                args = trace.call_args(self.pair.guide, x, y)
                prior = trace.prior_of(self.pair.model, programs.sites(self.pair.guide, args))
                t = terms.terms(self.pair.model, prior, x, y, num_samples=PROBES)
                values = {name: site.value for name, site in t.sites.items()}
                t.log_q = densities.log_densities(self.pair.guide, args, values, anywhere=True)[1]
            except PairError:  # auxiliary sites and the like: nothing is proven
                return torch.zeros_like(log_px, dtype=torch.bool)
        return ((t.log_w.double() - log_px).abs() <= 64 * rounding_of(t).double()).all(0)


def _all_of(x: X) -> Tensor:
    """The numbers in each datum, (B,), where a proposal does not say what is observed."""
    return torch.full((num_data(x),), float(size_of(x)), dtype=torch.float64)


def plan(
    pair: Any, x: Any, y: Tensor | None, num_samples: int, proposal: str | Proposal, seed: int, chunk: int | None,
    block: int | None, capture: bool | str = "auto", precision: str = "float32",
) -> Plan:  # fmt: skip
    """Settle what an estimate is made of, and refuse what can't be.

    Raises:
        UserError: no samples, or a proposal that is not known.
        DataError: no data, or labels of another number.
    """
    if num_samples < 1:
        raise UserError(f"num_samples={num_samples}: at least one is needed")
    draw, name = _proposal(proposal)
    refuse_binarised(pair, x)
    x, y = as_data(pair, x, y, seed)
    even = math.ceil(num_samples / math.ceil(num_samples / CHUNK))  # no small rest, which would want its own graph
    chunk = min(num_samples, chunk or (net_size(num_samples, NET) if draw is proposals.qmc else even))
    rows = min(ROWS, max(1, NUMBERS // max(1, numbers_of(x))))
    block = min(num_rows(x), block or max(1, rows // chunk))
    chosen(capture)
    products(precision)  # refuse others now
    return Plan(pair, x, y, draw, name, num_samples, seed, chunk, block, capture, precision)


def _proposal(proposal: str | Proposal) -> tuple[Proposal, str]:
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
