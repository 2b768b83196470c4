"""The importance weights of data, batch by batch and chunk by chunk: what every estimate is made of."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

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
from ..compile.in_place import in_place
from ..compile.products import fast_products, products
from ..data.lazy import Lazy
from ..scoring import densities, observed, programs, terms, trace
from ..scoring.inputs import as_data, device_and_dtype, evaluating, fingerprint, num_rows, numbers_of, to_device
from ..scoring.param_store import modules_of
from ..scoring.quantity import refuse_binarised
from ..scoring.simulate import remember
from ..scoring.validity import refuse_outside, refuse_unweighable
from .accumulator import Accumulator, Weights, rounding_of, weights_of
from .proposals import proposal as proposal_of
from .quantiles import net_size
from .records import Proposal, ProposalLike

# samples times examples that are scored at once, and numbers of x in these, at most; part of a seed's meaning on a kind
# of device, so constants. Above 32 MiB a CPU's allocator asks the system for fresh pages at every chunk; a GPU is idle
# while a chunk is launched unless there is much in it.
SIZES = {"cpu": (4096, 2**22), "cuda": (65_536, 2**26)}
CHUNK = 512  # samples at once, at most
NET = 8192  # quasi-random points at once, at most
TOGETHER = 2**15  # weights that are summed at once, in many small operations, where a sample chunk has fewer
PROBES = 32  # draws of the prior that confirm an exact guide
T = TypeVar("T")


class Weighed(NamedTuple):
    """All samples of one data batch."""

    total: Accumulator
    log_w: Tensor  # (K, B) on the CPU where it was asked for; of a model without latents, of one chunk
    num_dims: Tensor  # (B,) numbers observed of each example


@dataclass(eq=False)
class Plan:
    """What is fixed before the first weight is drawn: the data, the proposal, and the sizes that a seed means."""

    pair: Any
    x: X | Lazy
    y: Tensor | None
    proposal: Proposal
    num_samples: int
    seed: int
    chunk: int
    block: int
    capture: bool | str = "auto"
    precision: str = "float32"
    products: str | None = None  # the routine of float32 products, where unfinished work has chosen it
    _graphs: dict[int, tuple[Captured, list[str]]] = field(default_factory=dict)  # by the number of samples

    @property
    def setting(self) -> dict[str, Any]:
        sizes = {k: getattr(self, k) for k in ("num_samples", "seed", "block", "chunk")}
        return {**sizes, "proposal": self.proposal.name}

    def each(self, label: str, progress: bool, work: Callable[[int], T]) -> list[T]:
        """``work`` at the first index of each data batch, shared by the ranks, in evaluation mode."""
        if ranks.count() > 1:
            ranks.assert_same("work", {**self.setting, "pair or data": fingerprint(self.pair, self.x, self.y)})
        keep_freed()
        label += "" if self.proposal.name == "guide" else f", {self.proposal.name}"
        device = device_and_dtype(self.pair)[0]
        fast = fast_products(device, self.products)
        with evaluating(self.pair), forked(device), fast, bar(progress) as shown:
            task = shown.add_task(label, info="")
            starts = range(0, num_rows(self.x), self.block)
            return ranks.each(work, starts, lambda local: shown.track(local, task_id=task))

    def block_at(self, start: int, hold: bool, by_graph: bool = True) -> Weighed:
        """All samples of one data batch: sums, the upper tail, and the weights where ``hold``."""
        x, y = to_device(self.pair, self.x, self.y, slice(start, start + self.block))
        device, batch = device_of(x), start // self.block
        total, held = Accumulator(self.num_samples), [torch.empty(0, num_data(x), dtype=torch.float64)]
        gathered: list[Weights] = []
        together = 1 if self.proposal.nets else TOGETHER  # of nets the mean of each counts, so each is added alone
        t: terms.Terms | None = None  # the last that were scored without a graph
        for c, done in enumerate(range(0, self.num_samples, self.chunk)):
            size = min(self.chunk, self.num_samples - done)
            captured = by_graph and self._is_captured(size, num_data(x))
            if c == 0 and captured:  # two samples are refused for what all would be
                reseed(seed_for(self.seed, "look", batch), device)
                t = self._scored(x, y, min(2, size), start)
                captured = not t.exact
            reseed(seed_for(self.seed, "log_likelihood", batch, c), device)
            weights = self._by_graph(x, y, size) if captured else None
            if weights is None:
                t = self._scored(x, y, size, start if t is None else None)
                weights = weights_of(t)
            gathered.append(weights)
            if hold:
                held.append(weights.log_w.double().cpu())
            exact = t is not None and t.exact
            enough = len(gathered) * weights.log_w.numel() >= together
            if exact or enough or done + size == self.num_samples:
                total.add(*gathered)
                gathered.clear()
            else:
                gathered[-1] = weights.copied()  # a graph of a GPU overwrites them in its next call
            if exact:
                total.repeat(self.num_samples)
                break
        assert t is not None  # the first chunk was scored without a graph, or two samples were
        if bool(total.bad.any()) and self._graphs and by_graph:
            return self.block_at(start, hold, by_graph=False)  # which names the site
        total.refuse_nonfinite("log_likelihood", start, {**t.sites, **t.observed})
        if not total.exact and self.num_samples > 1 and bool(total.equal.any()):
            reseed(seed_for(self.seed, "covered", batch), device)
            total.covered = self._covered(x, y, total.max)
        everything = torch.full((num_data(x),), float(size_of(x)), dtype=torch.float64)
        return Weighed(total, torch.cat(held), observed.num_observed(t) if t.observed else everything)

    def weights_at(self, start: int) -> Tensor:
        """The log weights (K, B) of one data batch; a model without latents scores a few of them."""
        found = self.block_at(start, hold=True)
        return found.log_w[:1].expand(self.num_samples, -1) if found.total.exact else found.log_w

    def probe(self) -> str:
        """A digest of a few weights: parameters alone do not distinguish code, closures and attributes."""
        x, y = to_device(self.pair, self.x, self.y, slice(2))
        with evaluating(self.pair), forked(device_of(x), 0), pyro.validation_enabled(False):
            return digest({"log_w": self.proposal(self.pair.model, self.pair.guide, x, y, 2).log_w})

    def _scored(self, x: X, y: Tensor | None, size: int, first: int | None) -> terms.Terms:
        """Terms of a sample chunk; checked where ``first``, the index of the first example, is given."""
        fast = in_place(size * num_data(x) * size_of(x))
        with pyro.validation_enabled(False), products(self.precision), fast:
            t = self.proposal(self.pair.model, self.pair.guide, x, y, size)
        if first is not None:
            refuse_unweighable(t)
            refuse_outside(t, first)
            if first == 0:
                remember(self.pair, x, t.observed, y)
        return t

    def _is_captured(self, size: int, num_data: int) -> bool:
        """Whether to score so many samples of so many examples by a graph: where asked, or where it pays."""
        if self.proposal.nets:  # the points are made on the host
            return False
        if self.capture != "auto":
            return self.capture is True
        calls = (self.num_samples // self.chunk) * (num_rows(self.x) // self.block)
        whole = (size, num_data) == (self.chunk, self.block)
        return whole and worthwhile(calls, size * num_data, self.pair, numbers_of(self.x))

    def _by_graph(self, x: X, y: Tensor | None, size: int) -> Weights | None:
        """The weights by a compiled graph; None where there can be none, which is said once."""
        if size not in self._graphs:
            names: list[str] = []

            def run(*data: Tensor) -> tuple[Tensor, ...]:
                given = iter(data)
                fields = filled(x, given)
                found = weights_of(self._scored(fields, next(given, None), size, None))
                names[:] = found.discrete
                return found.log_w, found.rounding, *found.discrete.values()

            modules = modules_of(self.pair.model, self.pair.guide, self.proposal.function)
            self._graphs[size] = Captured(run, modules=modules), names
        graph, names = self._graphs[size]
        try:
            log_w, rounding, *values = graph(*leaves(x), *([] if y is None else [y]))
        except UncapturableError as why:
            warnings.warn(f"the estimate is not captured, and runs as it is: {why}", stacklevel=2)
            self.capture = False
            return None
        return Weights(log_w, rounding, dict(zip(names, values, strict=True)))

    def _covered(self, x: X, y: Tensor | None, log_px: Tensor) -> Tensor:
        """(B,) bool: whether draws from the prior have the same weight too, as they have where q is the posterior.

        Equal weights say nothing of a part of the posterior where the proposal never goes; the prior goes everywhere.
        """
        if self.proposal.reach != "guide":
            return torch.full_like(log_px, self.proposal.reach == "prior", dtype=torch.bool)
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


def plan(
    pair: Any,
    x: Any,
    y: Tensor | None,
    num_samples: int,
    proposal: ProposalLike = "guide",
    seed: int = 0,
    chunk: int | None = None,
    block: int | None = None,
    capture: bool | str = "auto",
    precision: str = "float32",
    progress: bool = False,
    resume: str | Path | None = None,
) -> Plan:
    """Fix what an estimate is made of, and refuse what can't be; the arguments are those of ``log_likelihood``.

    Raises:
        UserError: no samples, or a proposal that is not known.
        DataError: no data, or labels of another number.
    """
    if num_samples < 1:
        raise UserError(f"num_samples={num_samples}: at least one is needed")
    source = proposal_of(proposal)
    if source.stages:
        raise UserError(
            f"proposal={source.name!r} differs from example to example, so it has no single set of weights: use "
            f"{' or '.join(source.stages[:-1])}, or estimate by log_likelihood, panel or compare"
        )
    refuse_binarised(pair, x)
    x, y = as_data(pair, x, y, seed)
    if source.fit is not None:
        found = source.fit(pair, x, y, seed=seed, progress=progress, resume=resume, capture=capture)
        pair = pair.with_guide(found)
    even = math.ceil(num_samples / math.ceil(num_samples / CHUNK))  # no small rest, which would want its own graph
    chunk = min(num_samples, chunk or (net_size(num_samples, NET) if source.nets else even))
    most, numbers = SIZES.get(device_and_dtype(pair)[0].type, SIZES["cpu"])
    rows = min(most, max(1, numbers // max(1, numbers_of(x))))
    block = min(num_rows(x), block or max(1, rows // chunk))
    chosen(capture)
    products(precision)  # refuse others now
    return Plan(pair, x, y, source, num_samples, seed, chunk, block, capture, precision)
