"""The log densities (K, B) of the sites of a traced program, discrete ones summed out."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Mapping
from functools import partial, reduce
from operator import add
from typing import Any

import pyro
import torch
from pyro.distributions.util import scale_and_mask
from torch import Tensor

from ..common.errors import PairError
from . import elimination, enumeration
from .elimination import Factor
from .kinds import bare, is_factor, kind, layers, no_density, unscorable
from .lineage import HostReads, Lineage
from .param_store import Program, own_store, unmoved
from .support import drawn_in, legal_number
from .trace import PARTICLES, Values, call_args, sample_sites, trace_program


def batch_shape(site: Any, particles: int) -> tuple[int, int]:
    """(K, B) as the plates of a site declare it."""
    frames = [f for f in site["cond_indep_stack"] if f.vectorized and f.name != PARTICLES]
    if len(frames) != 1 or frames[0].dim != -1:
        found = ", ".join(f"{f.name!r} at dim {f.dim}" for f in frames) or "none"
        raise PairError(
            f"site {site['name']!r} is under the plates [{found}]; a pair opens exactly one plate, "
            f'pyro.plate("data", B, dim=-1), around every sample site, and declares other dimensions with .to_event'
        )
    return particles, frames[0].size


def log_prob_of(site: Any, shape: tuple[int, int]) -> Tensor:
    """The log density of a site, (K, B) in nats, under its mask and without its scale.

    Raises:
        PairError: the data or the density have another shape, or the distribution can't score them.
    """
    fn, value = site["fn"], site["value"]
    wanted = (shape[1], *fn.event_shape)
    if not torch.is_tensor(value):
        fields = f" of {', '.join(map(str, value))}" if isinstance(value, dict) else ""
        raise PairError(
            f"site {site['name']!r} observes a {type(value).__name__}{fields}, and needs one tensor: give "
            f"the data as one, or a pair that observes each field at a site of its own"
        )
    if site["is_observed"] and kind(fn) != "Unit" and tuple(value.shape[-len(wanted) :]) != wanted:
        raise PairError(
            f"site {site['name']!r} observes data of shape {tuple(value.shape)} where (data, *event) = {wanted} is "
            f"needed; reshape the data (x[None] is one example), or declare the dimensions of one with .to_event"
        )
    log_p: Tensor = scale_and_mask(_density(site, fn), 1.0, site["mask"])
    return of_shape(site["name"], log_p, shape)


def _density(site: Any, fn: Any) -> Tensor:
    value = site["value"]
    if site["is_observed"] and value.is_floating_point():
        value = _filled(fn, site["mask"], value)
    try:
        log_p: Tensor = fn.log_prob(value, *site["args"], **site["kwargs"])
    except (KeyError, NotImplementedError) as error:
        raise PairError(unscorable(site["name"], fn, site["value"])) from error
    return log_p


def _filled(fn: Any, mask: Any, value: Tensor) -> Tensor:
    """Data with a legal number in place of each missing entry (NaN) that is masked, whose gradient would be NaN.

    Nothing is read from the device.
    """
    hidden = masked_at(fn, mask, value)
    return value if hidden is None else torch.where(hidden & value.isnan(), legal_number(fn).to(value), value)


def bare_log_prob(site: Any, shape: tuple[int, int]) -> Tensor:
    """The log density of a latent site as if nothing were masked: what is masked integrates to one."""
    return of_shape(site["name"], _density(site, bare(site["fn"])), shape)


def of_shape(name: str, log_p: Tensor, shape: tuple[int, int]) -> Tensor:
    """A log density, where it has the shape (K, B).

    Raises:
        PairError: it has another; names the site.
    """
    if log_p.shape != shape:
        raise PairError(
            f"site {name!r} has a log density of shape {tuple(log_p.shape)} where (particles, data) = {shape} is "
            f"needed; put it inside the data plate and declare its event dimensions with .to_event"
        )
    return log_p


def summed_sites(sites: Mapping[str, Any], known: Container[str]) -> tuple[str, ...]:
    """The names of the sites that are marked to be summed out and have no given value."""
    return tuple(name for name, site in sites.items() if name not in known and enumeration.is_marked(site))


def score_sites(
    sites: dict[str, Any],
    particles: int,
    summed: tuple[str, ...],
    run: Callable[..., Any],
    values: Mapping[str, Tensor],
    unmasked: bool = False,
    anywhere: bool = False,
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The sites of a model without those that are summed out, and their log densities (K, B), summed where need be.

    ``run(particles, values)`` runs the model again; ``unmasked`` ignores the masks of latent sites.
    """
    score = partial(_log_densities, values=values, summed=summed, unmasked=unmasked, anywhere=anywhere)
    if not summed:
        return sites, score(sites, batch_shape(_any_observed(sites), particles))
    sites, factors, _ = factors_of(sites, particles, summed, run, values, score)
    classes = {i: factors.pop(name) for i, name in enumerate(summed)}
    order = sorted(factors, key=lambda n: bool(sites[n]["is_observed"]))  # latents first
    found = elimination.chain_rule(classes, {n: factors[n] for n in order})
    return {n: site for n, site in sites.items() if n not in summed}, found


def _any_observed(sites: dict[str, Any]) -> Any:
    return next((s for s in sites.values() if s["is_observed"]), next(iter(sites.values())))


def _log_densities(
    sites: dict[str, Any],
    shape: tuple[int, int],
    *,
    values: Container[str],
    summed: Container[str] = (),
    unmasked: bool = False,
    anywhere: bool = False,
) -> dict[str, Tensor]:
    """The log densities (K, B) of the observed sites, of those with given values, and of those that are summed out."""
    found: dict[str, Tensor] = {}
    for name, site in sites.items():
        if site["is_observed"]:
            found[name] = log_prob_of(site, batch_shape(site, shape[0]))
        elif name in summed or (unmasked and name in values):
            found[name] = bare_log_prob(site, shape)
        elif name in values:
            value, inside = drawn_in(site["fn"], site["value"]) if anywhere else (None, None)
            log_p = log_prob_of(site if inside is None else {**site, "value": value}, shape)
            found[name] = log_p if inside is None else torch.where(inside, log_p, -math.inf)
    return found


def factors_of(
    sites: dict[str, Any],
    particles: int,
    summed: tuple[str, ...],
    run: Callable[..., Any],
    values: Mapping[str, Tensor],
    score: Callable[..., dict[str, Tensor]] | None = None,
) -> tuple[dict[str, Any], dict[str, Factor], dict[str, Tensor]]:
    """The sites of a model in the runs that sum others out, the term of each, and the values of those summed out.

    The number of a summed site in a term is its place in ``summed``.
    """
    score = score or partial(_log_densities, values=values, summed=summed)
    shape = batch_shape(_any_observed(sites), particles)
    supports = {n: enumeration.support_values(n, sites[n]["fn"]) for n in summed}
    scored = [n for n, s in sites.items() if s["is_observed"] or n in summed or n in values]
    few = math.prod(map(len, supports.values())) <= enumeration.FEW
    scopes = None if few else _scopes(supports, shape[1], run, values, score)
    plan = enumeration.plan(supports, scopes, scored)
    wide = plan.count * particles
    sites = sample_sites(run(wide, enumeration.repeated(values, plan.values(), shape)))
    found = score(sites, (wide, shape[1]))
    factors = {n: plan.factor(n, log_p.reshape(plan.count, *shape)) for n, log_p in found.items()}
    return sites, factors, supports


def _scopes(
    supports: Mapping[str, Tensor],
    size: int,
    run: Callable[..., Any],
    values: Mapping[str, Tensor],
    score: Callable[..., dict[str, Tensor]],
) -> dict[str, set[str]] | None:
    """For each site the summed sites that its log density was computed from; None where that can't be followed.

    The run has as many particles as the largest support, so that every site takes all its values, as in the runs that
    follow: a branch on whether one of them is there goes the same way. None where the model reads a site back to the
    host, since what is computed there leaves no trace.
    """
    count = max(map(len, supports.values()))
    roots = {}
    for name, v in supports.items():
        column = v[torch.arange(count, device=v.device) % len(v)].unsqueeze(1)
        roots[name] = column.expand(count, size, *v.shape[1:]).clone()
    rest = {n: v[:1].expand(count, *v.shape[1:]) for n, v in values.items()}
    with torch.no_grad(), pyro.validation_enabled(False), Lineage(roots) as lineage, HostReads(lineage) as reads:
        log_ps = score(sample_sites(run(count, {**rest, **roots})), (count, size))
    if reads.names:
        return None
    return {name: lineage.of(log_p) for name, log_p in log_ps.items()}


def sum_of(parts: list[Tensor], zero: Tensor) -> Tensor:
    """The sum of tensors, ``zero`` where there are none."""
    return reduce(add, parts) if parts else zero


def log_joint(model: Program, x: Tensor, y: Tensor | None, latents: Mapping[str, Tensor]) -> Tensor:
    """log p(x, z) in nats, (K, B), at given latents.

    Args:
        model: the model of a pair.
        x: data (B, *shape).
        y: labels or None.
        latents: a value (K, B, *event) for each latent site, in its constrained space.

    Raises:
        PairError: a latent site has no value, or the model has a ``pyro.factor``.

    Example:
        >>> import torch, ppl_vae as pv
        >>> pair = pv.build("linear", data_shape=(5,), latent=2)
        >>> pv.log_joint(pair.model, torch.zeros(3, 5), None, {"z": torch.zeros(4, 3, 2)}).shape
        torch.Size([4, 3])
    """
    with unmoved(model):
        likelihood, prior = log_densities(model, call_args(model, x, y), latents, factors=False)
    return likelihood + prior


def log_densities(
    program: Program,
    args: tuple[Any, ...],
    latents: Values,
    particles: int | None = None,
    unmasked: bool = False,
    anywhere: bool = False,
    factors: bool = True,
) -> tuple[Tensor, Tensor]:
    """The log densities (K, B) of a program at given latents: of its observed sites, and of its latent ones.

    Where ``latents`` is a function, ``particles`` is K, and the function has a value for every site but those that are
    summed out. ``unmasked`` ignores the masks of latent sites. ``anywhere`` accepts values of another program outside
    the support, where a density of zero may be computed as NaN. ``factors`` makes a ``pyro.factor`` legal.

    Raises:
        PairError: a latent site has no value.
    """
    if particles is None:
        particles = next(iter(latents.values())).shape[0] if not callable(latents) and latents else 1
    with own_store():
        sites = sample_sites(trace_program(program, args, {}, particles, latents))
        if not sites:
            raise PairError("the program has no sample site")
        held = (
            latents
            if not callable(latents)
            else {n: s["value"] for n, s in sites.items() if not enumeration.is_marked(s)}
        )
        summed = summed_sites(sites, held)
        for name, site in sites.items():
            if not site["is_observed"] and name not in held and name not in summed:
                raise PairError(f"the latent site {name!r} has no value; give one in latents[{name!r}]")
            if not factors and is_factor(site["fn"]):
                raise PairError(no_density(name))
        values = {n: v for n, v in held.items() if n in sites and not sites[n]["is_observed"]}
        sites, found = score_sites(
            sites, particles, summed, partial(trace_program, program, args, {}), values, unmasked, anywhere
        )
    observed = [found[n] for n, s in sites.items() if s["is_observed"]]
    latent = [found[n] for n, s in sites.items() if not s["is_observed"]]
    zero = torch.zeros_like((observed or latent)[0])
    return sum_of(observed, zero), sum_of(latent, zero)


def masked_at(fn: Any, mask: Any, value: Tensor) -> Tensor | None:
    """Where a value (K, B, *event) is masked: by ``poutine.mask``, or by the distribution; None where nowhere."""
    found: Tensor | None = None
    parts = [(mask, fn), *((layer._mask, layer) for layer in layers(fn) if hasattr(layer, "_mask"))]
    for part, layer in parts:
        if part is None or part is True:
            continue
        shown = torch.as_tensor(part, device=value.device).bool()
        wide = shown.reshape(*shown.shape, *(1,) * len(layer.event_shape))
        hidden = ~wide.expand(torch.broadcast_shapes(wide.shape, value.shape))  # data have no particles, masks may
        found = hidden if found is None else found | hidden
    return found
