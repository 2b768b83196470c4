"""One program, run once: its sites, and which of them depend on which."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import elimination, enumeration
from .densities import factors_of, masked_at, summed_sites
from .kinds import mean_of
from .lineage import Lineage
from .param_store import Program, own_store
from .trace import PARTICLES, Fill, Uncondition, Values, sample_sites, trace_program


class Classes(NamedTuple):
    """The sites of a model that are summed out, given the others: each by name.

    Attributes:
        draws: a joint draw (K, B, *event).
        probs: the probability of each value, (K, B, n).
        support: the values (n, *event).
    """

    draws: dict[str, Tensor]
    probs: dict[str, Tensor]
    support: dict[str, Tensor]


def classes(
    model: Program,
    args: tuple[Any, ...],
    values: Mapping[str, Tensor],
    particles: int,
    kwargs: Mapping[str, Any] | None = None,
) -> Classes:
    """p(c | z, x) of the sites that are summed out, given values (K, B, *event) of the others."""
    with own_store():
        run = partial(trace_program, model, args, kwargs or {})
        sites = sample_sites(run(particles, values))
        summed = summed_sites(sites, values)
        if not summed:
            return Classes({}, {}, {})
        _, factors, supports = factors_of(sites, particles, summed, run, values)
    chosen = elimination.draw(factors.values())
    probs = elimination.probabilities(factors.values())
    names = dict(enumerate(summed))
    return Classes(
        {name: supports[name][chosen[i].to(supports[name].device)] for i, name in names.items()},
        {name: probs[i].movedim(0, -1) for i, name in names.items()},
        supports,
    )


@dataclass(eq=False)
class TracedSite:
    """A site of a program that was run once: its value (K, B, *event) and its distribution."""

    value: Tensor
    fn: Any
    is_observed: bool
    frames: tuple[Any, ...] = ()
    scale: float | Tensor = 1.0
    mask: Any = None  # of poutine.mask
    summed: bool = False  # marked infer={"enumerate": ...}
    given: Tensor | None = None  # the data of an observed site
    kept: bool = False  # observes labels, in a run that draws the data

    @property
    def masked(self) -> Tensor | None:
        """Where the value is masked, a bool of its shape; None where nowhere."""
        return masked_at(self.fn, self.mask, self.value)


def sites(
    program: Program,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None = None,
    *,
    num_samples: int = 1,
    values: Values | None = None,
    means: bool = False,
    uncondition: bool = False,
    inside: bool = False,
) -> dict[str, TracedSite]:
    """Run one program under K particles and return its sample sites by name, in order.

    Args:
        program: a model or a guide.
        args: its positional arguments.
        kwargs: its keyword arguments.
        num_samples: the number K of particles.
        values: values (K, B, *event) to put at sites instead of drawing them, as :func:`terms` takes them.
        means: put each site's mean instead of a draw, where it has one.
        uncondition: draw the observed sites too, as for sampling from a model that needs data to run, except
            those that observe labels, the second argument. Sites that are summed out are then drawn given the values
            and the data, where there are any.
        inside: run in Pyro's parameter store as it is, as a part of a step.

    Returns:
        The sites; draws come from torch's global generators.
    """
    kwargs = kwargs or {}
    labels = args[1].clone() if uncondition and len(args) > 1 and torch.is_tensor(args[1]) else None
    args = args if labels is None else (args[0], labels, *args[2:])  # a copy: labels may share memory with the data
    lineage = Lineage({} if labels is None else {"y": labels})
    inner = Uncondition(lineage) if uncondition else None
    with nullcontext() if inside else own_store(), lineage if labels is not None else nullcontext():
        with Fill(lambda name, fn: mean_of(fn)) if means else nullcontext():
            trace = trace_program(program, args, kwargs, num_samples, values, inner)
        if uncondition and isinstance(values, dict) and summed_sites(sample_sites(trace), values):
            held = {n: v for n, v in values.items() if n in trace.nodes}
            found = classes(program, args, held, num_samples, kwargs).draws
            trace = trace_program(program, args, kwargs, num_samples, {**held, **found}, inner)
    return {
        name: TracedSite(
            site["value"],
            site["fn"],
            bool(site["is_observed"] or site["infer"].get("was_observed")),
            tuple(f for f in site["cond_indep_stack"] if f.name != PARTICLES),
            site["scale"],
            site["mask"],
            enumeration.is_marked(site),
            site["infer"].get("obs", site["value"] if site["is_observed"] else None),
            uncondition and bool(site["is_observed"]),
        )
        for name, site in sample_sites(trace).items()
    }


def parents(
    model: Program, args: tuple[Any, ...], values: Mapping[str, Tensor], other: Mapping[str, Tensor]
) -> dict[str, set[str]]:
    """For each latent site of a model, the latent sites that its distribution depends on.

    Each site in turn is given another value; a site whose log density changes depends on it. Gradients would miss a
    dependence through a comparison or a detached tensor.

    Args:
        model: the model of a pair.
        args: its positional arguments.
        values: a value (K, B, *event) for each latent site.
        other: another value for each.
    """
    particles = next(iter(values.values())).shape[0] if values else 1
    first = sample_sites(trace_program(model, args, {}, particles, values))
    rest = {n: s["value"] for n, s in first.items() if n not in values and not s["is_observed"]}  # summed out

    def densities(at: Mapping[str, Tensor]) -> dict[str, Tensor]:
        sites = sample_sites(trace_program(model, args, {}, particles, {**rest, **at}))
        # only the distribution may change, so always score the first value
        return {n: sites[n]["fn"].log_prob(values[n]) for n in values if n in sites}

    start = densities(values)
    found: dict[str, set[str]] = {name: set() for name in start}
    for changed in start:
        for name, log_p in densities({**values, changed: other[changed]}).items():
            if name != changed and not torch.equal(log_p, start[name]):
                found[name].add(changed)
    return found
