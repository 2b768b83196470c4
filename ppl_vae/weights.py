"""Score once: run a guide and a model, and keep the log densities that everything else is made of.

This is the only file that handles Pyro's effects. The rest of the package is arithmetic on :class:`Terms`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import pyro
import torch
from pyro import poutine
from pyro.distributions.util import is_identically_zero, scale_and_mask
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import _PYRO_STACK
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn
from torch.distributions import constraints

from . import enumeration, inputs, stopping
from .errors import NoWeightError, PairError, UserError
from .fields import device_of, num_data
from .kinds import bare, has_mask, kind, mean_of, no_density, title, unscorable
from .lineage import Lineage
from .lines import marked
from .numbers import needed
from .store import Program, constants_beside, frozen, own_store, unmoved
from .supports import drawn_in, is_discrete, legal_number, refuse_foreign, support_of

Grad = Literal["path", "stl", "score"]
Values = Mapping[str, Tensor] | Callable[[str, Any], Tensor | None]  # by name, or by name and distribution

PARTICLES = "particles"  # the plate at dim -2 that we put around the user's data plate at dim -1


@dataclass(eq=False)
class Site:
    """One sample site of a scored pair; log densities in nats, of shape (K, B), masked but never scaled.

    Attributes:
        log_p: log density under the model.
        log_q: log density under the guide; zero where the site is observed.
        score: what the score-function gradient differentiates, zero where the draw is reparameterised: never where
            ``grad="score"`` cut it.
        scale: the factor on log_p that plates and ``poutine.scale`` ask for; objectives use it, estimates never do.
        scale_q: the same on log_q.
        value: the draw (K, B, *event), or the data.
        p: the distribution under the model.
        q: the distribution under the guide, None where the site is observed.
        masks: what ``poutine.mask`` put on it, in the model and in the guide.
        marginal: whether ``log_p`` is summed over discrete sites that p depends on.
    """

    name: str
    log_p: Tensor
    log_q: Tensor
    score: Tensor | float
    scale: float | Tensor
    value: Tensor
    p: Any
    q: Any = None
    scale_q: float | Tensor = 1.0
    masks: tuple[Any, Any] = (None, None)
    marginal: bool = False

    @property
    def has_rsample(self) -> bool:
        """Whether gradients pass through the draw."""
        return bool(is_identically_zero(self.score))

    @property
    def kl(self) -> Tensor | None:
        """KL(q || p) in closed form, (K, B), given the site's parents; None where torch knows no formula.

        None also where the guide is a Delta, or where model and guide mask or scale the site differently.
        """
        if self.q is None or self.p is None or kind(self.q) == "Delta" or self.marginal:
            return None
        (mask_p, mask_q), scales = self.masks, (self.scale, self.scale_q)
        if mask_p is not mask_q or has_mask(self.p) or has_mask(self.q) or not same_scale(*scales):
            return None
        try:
            kl: Tensor = torch.distributions.kl_divergence(self.q, self.p)
        except NotImplementedError:
            return None
        masked: Tensor = scale_and_mask(kl, 1.0, mask_q)
        return masked.expand(self.log_p.shape)


def same_scale(one: float | Tensor, other: float | Tensor) -> bool:
    """Whether two scales are one: equal numbers, or equal tensors (which reads the device)."""
    if torch.is_tensor(one) or torch.is_tensor(other):
        return one is other or bool(torch.equal(torch.as_tensor(one), torch.as_tensor(other)))
    return one == other


@dataclass(eq=False)
class Terms:
    """The log densities of K particles for each of B data, in nats, each of shape (K, B).

    ``log_w = log_lik + log_prior - log_q`` is the log importance weight: ``E_q[exp log_w] = p(x)``.

    Attributes:
        log_lik: log p(x | z), summed over the observed sites.
        log_prior: log p(z).
        log_q: log q(z | x).
        sites: the latent sites by name, in the guide's order.
        observed: the observed sites by name.
        factors: what the guide observes by name: ``pyro.factor``, and ``pyro.sample(..., obs=)``. Their ``log_q`` is
            no density of z, and so is in no total; the objectives "elbo" and "meanfield" subtract it, as Pyro does.
        summed: the names of the discrete sites that were summed out.
    """

    log_lik: Tensor
    log_prior: Tensor
    log_q: Tensor
    sites: dict[str, Site] = field(default_factory=dict)
    observed: dict[str, Site] = field(default_factory=dict)
    factors: dict[str, Site] = field(default_factory=dict)
    summed: tuple[str, ...] = ()
    _gate: list[Tensor | None] = field(default_factory=lambda: [None])

    @property
    def log_w(self) -> Tensor:
        """Log importance weights, (K, B)."""
        return self.log_lik + self.log_prior - self.log_q

    @property
    def exact(self) -> bool:
        """Whether the model has no latents, so that log_w = log p(x)."""
        return not self.sites

    def gate(self, factor: Tensor) -> None:
        """Multiply, in the backward pass, what flows from the scores into each z by ``factor`` (K, B).

        Only terms made with ``grad="stl"`` have gates. With the normalised weights as the factor, the gradient of
        the weighted sum of ``log_w`` is doubly reparameterised.

        Source: Tucker, Lawson, Gu, Maddison: Doubly Reparameterized Gradient Estimators for Monte Carlo
        Objectives, 2018, arXiv:1810.04152.
        """
        self._gate[0] = factor.detach()


def takes_labels(program: Program) -> bool:
    """Whether a model or a guide has a place for labels: a parameter named like ``y``, ``ys`` or ``labels``."""
    target = program.forward if isinstance(program, nn.Module) else program
    try:
        names = list(inspect.signature(target).parameters)
    except (TypeError, ValueError):
        return False
    return "y" in names or (len(names) > 1 and names[1].lower().startswith(("y", "label")))


def call_args(program: Program, x: Tensor | None, y: Tensor | None) -> tuple[Tensor | None, ...]:
    """The positional arguments for a program: labels only where there are any and it takes them."""
    return (x,) if y is None or not takes_labels(program) else (x, y)


def handled() -> bool:
    """Whether the caller runs inside a handler of Pyro, such as ``poutine.scale``."""
    return bool(_PYRO_STACK)


@contextmanager
def captured_params() -> Iterator[list[Tensor]]:
    """Collect, on the way out, the unconstrained parameters of the ``pyro.param`` statements that ran inside."""
    found: list[Tensor] = []
    with poutine.trace(param_only=True) as capture:
        yield found
    sites: Any = capture.trace.nodes.values()
    unique = {id(p): p for p in (site["value"].unconstrained() for site in sites)}
    found.extend(unique.values())


class _Detach(Messenger):
    """Cut the gradient at each draw, before anything else sees it."""

    def _pyro_post_sample(self, msg: Any) -> None:
        if not msg["is_observed"] and torch.is_tensor(msg["value"]):
            value: Any = msg["value"]
            cut: Any = value.detach()
            if hasattr(value, "_unquantize"):  # what a straight-through draw was before, which its density is of
                cut._unquantize = value._unquantize.detach()
            msg["value"] = cut


class _Fill(Messenger):
    """Put given values at the sites that would be drawn; a site without one is drawn."""

    def __init__(self, values: Values) -> None:
        super().__init__()
        self.values = values

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] or msg["done"] or site_is_subsample(msg):
            return
        name = msg["name"]
        value = self.values(name, msg["fn"]) if callable(self.values) else self.values.get(name)
        if value is not None:
            msg["value"] = value
            msg["done"] = True


class _Uncondition(Messenger):
    """Draw what is observed, but for what was made from labels: they are given, not data to be drawn."""

    def __init__(self, lineage: Lineage) -> None:
        super().__init__()
        self.lineage = lineage

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] and not self.lineage.of(msg["value"]):
            msg["is_observed"] = False
            msg["infer"]["was_observed"], msg["infer"]["obs"] = True, msg["value"]
            msg["value"], msg["done"] = None, False


class _Change(Messenger):
    """Put other distributions at the sites that would be drawn."""

    def __init__(self, change: Callable[[str, Any], Any]) -> None:
        super().__init__()
        self.change = change

    def _pyro_sample(self, msg: Any) -> None:
        if not msg["is_observed"] and not site_is_subsample(msg):
            msg["fn"] = self.change(msg["name"], msg["fn"])


def _sampled(trace: Any) -> dict[str, Any]:
    """The random sites of a trace: neither a plate's subsample nor ``pyro.deterministic``."""
    return {
        name: site
        for name, site in trace.nodes.items()
        if site["type"] == "sample" and not site_is_subsample(site) and not site["infer"].get("_deterministic")
    }


def _run(
    program: Program, args: Any, kwargs: Any, particles: int, values: Values | None = None, inner: Any = None
) -> Any:
    """Trace a program under a plate of particles at dim -2, with given values at its latent sites.

    ``inner`` is a handler inside the plate.
    """
    # values go in last, outside the plate, so that the distribution at a filled site is broadcast like any other
    fill = _Fill(values) if values is not None else nullcontext()
    plate = pyro.plate(PARTICLES, particles, dim=-2)
    with marked(program, args), constants_beside(program, *args), fill, plate, inner or nullcontext():
        return poutine.trace(program).get_trace(*args, **kwargs)


def _batch(site: Any, particles: int) -> tuple[int, int]:
    """(K, B) as the plates of a site declare it."""
    frames = [f for f in site["cond_indep_stack"] if f.vectorized and f.name != PARTICLES]
    if len(frames) != 1 or frames[0].dim != -1:
        found = ", ".join(f"{f.name!r} at dim {f.dim}" for f in frames) or "none"
        raise PairError(
            f"site {site['name']!r} is under the plates [{found}]; a pair opens exactly one plate, "
            f'pyro.plate("data", B, dim=-1), around every sample site, and declares other dimensions with .to_event'
        )
    return particles, frames[0].size


def _log_prob(site: Any, shape: tuple[int, int]) -> Tensor:
    fn, value = site["fn"], site["value"]
    wanted = (shape[1], *fn.event_shape)
    if site["is_observed"] and kind(fn) != "Unit" and tuple(value.shape[-len(wanted) :]) != wanted:
        raise PairError(
            f"site {site['name']!r} observes data of shape {tuple(value.shape)} where (data, *event) = {wanted} is "
            f"needed; reshape the data, or declare the dimensions of one datum with .to_event"
        )
    log_p: Tensor = scale_and_mask(_density(site, fn), 1.0, site["mask"])
    return _shaped(site["name"], log_p, shape)


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
    """Data with something legal in the place of a missing entry (NaN) that is masked: its gradient would be NaN.

    Nothing is read from the device.
    """
    hidden = masked_at(fn, mask, value)
    if hidden is None:
        return value
    return torch.where(hidden & value.isnan(), legal_number(fn).to(value), value)


def _bare_log_prob(site: Any, shape: tuple[int, int]) -> Tensor:
    """The log density of a latent site as if nothing were masked: what is masked integrates to one."""
    return _shaped(site["name"], _density(site, bare(site["fn"])), shape)


def _shaped(name: str, log_p: Tensor, shape: tuple[int, int]) -> Tensor:
    if log_p.shape != shape:
        raise PairError(
            f"site {name!r} has a log density of shape {tuple(log_p.shape)} where (particles, data) = {shape} is "
            f"needed; put it inside the data plate and declare its event dimensions with .to_event"
        )
    return log_p


def score(
    model: Program,
    guide: Program,
    model_args: tuple[Any, ...],
    guide_args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None = None,
    *,
    num_samples: int = 1,
    grad: Grad = "path",
    values: Values | None = None,
) -> Terms:
    """:func:`terms` on any arguments, in Pyro's parameter store as it is; objectives and ``SVI`` call this."""
    if grad not in ("path", "stl", "score"):
        raise ValueError(f"grad={grad!r}: choose one of 'path', 'stl', 'score'")
    kwargs = kwargs or {}
    with _Detach() if grad == "score" else nullcontext():
        guide_sites = _sampled(_run(guide, guide_args, kwargs, num_samples, values))
    latents = {name: site for name, site in guide_sites.items() if not site["is_observed"]}
    drawn: dict[str, Tensor] = {name: site["value"] for name, site in latents.items()}
    scored = latents
    gate: list[Tensor | None] = [None]
    if grad == "stl" and latents:
        for site in latents.values():
            stopping.refuse(site)
        drawn = {name: stopping.gated(value, gate) for name, value in drawn.items()}
        with frozen(guide), unmoved(guide):  # the scores too: some distributions use their parameters only then
            again = _sampled(_run(guide, guide_args, kwargs, num_samples, drawn))
            scored = {name: site for name, site in again.items() if not site["is_observed"]}
            parts = stopping.guide_parts(scored)
        stopping.check(latents, parts, drawn)
    else:
        parts = stopping.guide_parts(scored)

    particles = num_samples if latents else 1  # without latents every particle is the same: score it once
    model_sites = _sampled(_run(model, model_args, kwargs, particles, drawn))
    if not any(site["is_observed"] for site in model_sites.values()):
        raise PairError('the model observes no site; write pyro.sample("x", ..., obs=x)')
    summed = _summed(model_sites, drawn)
    _check_names({n: site for n, site in model_sites.items() if n not in summed}, latents)
    run = partial(_run, model, model_args, kwargs)
    try:
        model_sites, log_ps = _scored(model_sites, particles, summed, run, drawn)
    except UserError:
        raise
    except (RuntimeError, IndexError, ValueError) as error:  # a draw of the guide that is no value of the model's
        _refuse_draws(scored, model_sites, error)
        raise

    sites: dict[str, Site] = {}
    observed: dict[str, Site] = {}
    zero: Tensor | None = None
    for name, p in model_sites.items():
        if p["is_observed"]:
            log_p = log_ps[name].expand(num_samples, -1)
            zero = torch.zeros_like(log_p) if zero is None else zero
            observed[name] = Site(name, log_p, zero, 0.0, p["scale"], p["value"], p["fn"], masks=(p["mask"], None))
    assert zero is not None
    shape = (num_samples, zero.shape[1])
    for name, q in scored.items():
        log_q = _shaped(name, parts[name].log_prob, shape)
        p = model_sites.get(name)
        if p is None:  # an auxiliary site of the guide has no prior
            p = {"scale": 1.0, "fn": None, "mask": None}
        score = log_q if grad == "score" else parts[name].score_function  # no gradient passes through a cut draw
        sites[name] = Site(
            name, log_ps.get(name, zero), log_q, score, p["scale"], q["value"], p["fn"], q["fn"],
            q["scale"], (p["mask"], q["mask"]), bool(summed),
        )  # fmt: skip
    return Terms(
        log_lik=_total([s.log_p for s in observed.values()], zero),
        log_prior=_total([s.log_p for s in sites.values()], zero),
        log_q=_total([s.log_q for s in sites.values()], zero),
        sites=sites,
        observed=observed,
        factors=_factors({name: site for name, site in guide_sites.items() if name not in latents}, zero),
        summed=summed,
        _gate=gate,
    )


def _refuse_draws(guide_sites: Mapping[str, Any], model_sites: Mapping[str, Any], error: Exception) -> None:
    """Say which of the guide's draws a distribution of the model could not score, where one is known not to."""
    for name, q in guide_sites.items():
        if name not in model_sites or kind(q["fn"]) == "Delta":
            continue
        p = model_sites[name]["fn"]
        refuse_foreign(name, q["fn"], p, cover=False, zeros=False)
        try:
            p.log_prob(q["value"])
        except (RuntimeError, IndexError, ValueError):
            raise NoWeightError(
                f"site {name!r}: the model's {title(p)} can't score the draws of the guide's {title(q['fn'])} "
                f"({str(q['value'].dtype).removeprefix('torch.')} numbers): {str(error).splitlines()[0]}; use the "
                f"same family in both"
            ) from error


def _factors(sites: Mapping[str, Any], zero: Tensor) -> dict[str, Site]:
    """What a guide observes, as sites (K, B); a factor outside the data plate is shared out among the data."""
    found: dict[str, Site] = {}
    shape = zero.shape[0], zero.shape[1]
    for name, part in stopping.guide_parts(sites).items():
        q, log_q = sites[name], part.log_prob
        alone = not any(f.vectorized for f in q["cond_indep_stack"] if f.name != PARTICLES)
        if alone and log_q.shape != shape and log_q.numel() in (1, shape[0]):
            if not is_identically_zero(part.score_function):
                raise PairError(
                    f"site {name!r} is observed by the guide outside the data plate; move it inside, or, if all of it "
                    f"is reparameterised, write pyro.factor({name!r}, ..., has_rsample=True)"
                )
            log_q = (log_q.reshape(-1, 1) / shape[1]).expand(shape)
        log_q = _shaped(name, log_q, shape)
        found[name] = Site(
            name, zero, log_q, part.score_function, 1.0, q["value"], None, q["fn"], q["scale"], (None, q["mask"])
        )
    return found


def _summed(sites: Mapping[str, Any], known: Container[str]) -> tuple[str, ...]:
    """The names of the sites that are marked to be summed out, and that nobody has a value for."""
    return tuple(name for name, site in sites.items() if name not in known and enumeration.is_marked(site))


def _scored(
    sites: dict[str, Any],
    particles: int,
    summed: tuple[str, ...],
    run: Callable[..., Any],
    values: Mapping[str, Tensor],
    unmasked: bool = False,
    anywhere: bool = False,
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The sites of a model without those that are summed out, and their log densities (K, B), summed where need be.

    ``run`` runs the model again with so many particles and values at its sites; ``unmasked`` leaves out what masks the
    latent sites.
    """
    size = _batch(next((s for s in sites.values() if s["is_observed"]), next(iter(sites.values()))), particles)[1]
    whole = (particles, size)
    if summed:
        assigned, count = _assigned(sites, summed)
        particles *= count
        sites = _sampled(run(particles, enumeration.repeated(values, assigned, whole)))
    found: dict[str, Tensor] = {}
    for name, site in sites.items():
        if site["is_observed"]:
            found[name] = _log_prob(site, _batch(site, particles))
        elif name in summed or unmasked:
            found[name] = _bare_log_prob(site, (particles, size))
        elif name in values:
            value, inside = drawn_in(site["fn"], site["value"]) if anywhere else (None, None)
            log_p = _log_prob(site if inside is None else {**site, "value": value}, (particles, size))
            found[name] = log_p if inside is None else torch.where(inside, log_p, -math.inf)
    if summed:
        found = {n: log_p.reshape(-1, *whole) for n, log_p in found.items()}
        classes = _total([found.pop(n) for n in summed], next(iter(found.values())))
        order = sorted(found, key=lambda n: bool(sites[n]["is_observed"]))  # latents first
        found = enumeration.shared(classes, {n: found[n] for n in order})
    return {n: site for n, site in sites.items() if n not in summed}, found


def _total(parts: list[Tensor], zero: Tensor) -> Tensor:
    total = zero
    for i, part in enumerate(parts):
        total = part if i == 0 else total + part
    return total


def _assigned(sites: Mapping[str, Any], summed: tuple[str, ...]) -> tuple[dict[str, Tensor], int]:
    return enumeration.assignments({n: enumeration.support_values(n, sites[n]["fn"]) for n in summed})


def _classes(
    sites: dict[str, Any],
    particles: int,
    summed: tuple[str, ...],
    run: Callable[..., Any],
    values: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """A draw (K, B, *event) of the sites that are summed out, given the values of others and what is observed."""
    assigned, count = _assigned(sites, summed)
    whole = _batch(next(iter(sites.values())), particles)
    again = _sampled(run(count * particles, enumeration.repeated(values, assigned, whole)))
    shape = (count * particles, whole[1])
    log_ps = [_bare_log_prob(again[n], shape) for n in summed]
    log_ps += [_log_prob(s, shape) for n, s in again.items() if s["is_observed"] or n in values]
    log_p = _total(log_ps, log_ps[0]).reshape(count, *whole)
    chosen = torch.distributions.Categorical(logits=log_p.movedim(0, -1)).sample()  # (K, B)
    return {n: v[chosen.to(v.device)] for n, v in assigned.items()}


def _check_names(model_sites: Mapping[str, Any], guide_sites: Mapping[str, Any]) -> None:
    """``poutine.replay`` accepts differing names in silence, and then trains something else."""
    auxiliary = {name for name, site in guide_sites.items() if site["infer"].get("is_auxiliary")}
    latent = {name for name, site in model_sites.items() if not site["is_observed"]}
    if auxiliary and not any(kind(site["fn"]) == "Delta" for site in guide_sites.values()):
        raise PairError(
            f"site {min(auxiliary)!r} is auxiliary in the guide and nothing is made from it by a Delta, as autoguides "
            f"do, so p(x, z) / q would be no weight; draw it in the model too, under the same name"
        )
    drawn = set(guide_sites) - auxiliary
    if latent == drawn:
        return
    for name in sorted(drawn - latent):
        if name in model_sites:
            raise PairError(f"site {name!r} is drawn by the guide but observed by the model; remove it from the guide")
    for name in sorted(latent - drawn):
        base = name.removesuffix("_unobserved")
        if base != name and f"{base}_observed" in model_sites:
            raise PairError(
                f"site {base!r} has an obs_mask, so Pyro draws what is missing at {name!r} and passes no infer on to "
                f"it; to leave it out of p(x), observe {base!r} without obs_mask under its distribution's .mask(mask), "
                f"or draw {name!r} in the guide"
            )
    rest = [name for name in sorted(latent - drawn) if is_discrete(model_sites[name]["fn"])]
    mark = 'infer={"enumerate": "parallel"} (pyro.infer.config_enumerate does)'
    discrete = f"; or mark {rest[0]!r} {mark} to sum it out" if rest else ""
    raise PairError(
        f"the model draws {sorted(latent)} and the guide draws {sorted(drawn)}; the latent names must agree: "
        f"rename {sorted(latent ^ drawn)} so that model and guide use the same names{discrete}"
    )


def terms(
    model: Program,
    guide: Program,
    x: Tensor,
    y: Tensor | None = None,
    *,
    num_samples: int = 1,
    grad: Grad = "path",
    values: Values | None = None,
) -> Terms:
    r"""Run the guide and the model once under a plate of K particles and score them.

    .. math:: \log w_{kb} = \log p(x_b | z_{kb}) + \log p(z_{kb}) - \log q(z_{kb} | x_b)

    The encoder runs once, not K times. Masks count; plate scales never do. A model without latents is scored once
    and expanded. Draws from torch's global generators, as Pyro does, and leaves Pyro's parameter store as it was.

    Args:
        model: ``model(x, y)`` with Pyro statements; see the contract of a pair.
        guide: ``guide(x, y)``.
        x: data (B, *shape).
        y: labels (B,), for programs that take them.
        num_samples: the number K of particles.
        grad: ``"path"`` differentiates through the draws; ``"stl"`` also stops the guide's parameters in log q and
            puts a gate on each draw (see :meth:`Terms.gate`); ``"score"`` cuts the gradient at each draw.
        values: latents to score instead of drawing them: a value (K, B, *event) by site, or a function of a site's
            name and distribution that gives one, or None to draw.

    Returns:
        Terms, whose totals are (K, B) in nats.

    Raises:
        PairError: the pair breaks the contract; the message names the site.

    Source: Roeder, Wu, Duvenaud: Sticking the Landing, 2017, arXiv:1703.09194, for ``"stl"``.

    Example:
        >>> import torch, ppl_vae as pv
        >>> pair = pv.build("linear", data_shape=(5,), latent=2)
        >>> t = pv.terms(pair.model, pair.guide, torch.zeros(3, 5), num_samples=4)
        >>> t.log_w.shape
        torch.Size([4, 3])
    """
    num_samples = needed("num_samples", num_samples, "int")
    x, y = _as_tensors(x, y)
    if num_samples < 1:
        raise ValueError(f"num_samples={num_samples}: at least one particle is needed")
    with own_store(), unmoved(model, guide):
        arguments = call_args(model, x, y), call_args(guide, x, y)
        return score(model, guide, *arguments, num_samples=num_samples, grad=grad, values=values)


def _as_tensors(x: Any, y: Any) -> tuple[Any, Tensor | None]:
    """Data and labels of any form; tensors that programs take stay what they are, and nothing is read of them."""
    ready = torch.is_tensor(x) and (x.is_floating_point() or x.dtype == torch.int64)
    x = x if ready or isinstance(x, dict) else inputs.data(x)
    if y is not None and not (torch.is_tensor(y) and (y.is_floating_point() or y.dtype == torch.int64)):
        y = inputs.labels(y, num_data(x), device=device_of(x))
    return x, y


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
    summed out. ``unmasked`` gives what is masked at latent sites its own density. ``anywhere`` expects values that
    another program drew, outside the support too, where a density of zero may be computed as NaN. ``factors`` says
    whether a ``pyro.factor`` is legal.

    Raises:
        PairError: a latent site has no value.
    """
    if particles is None:
        particles = next(iter(latents.values())).shape[0] if not callable(latents) and latents else 1
    with own_store():
        sites = _sampled(_run(program, args, {}, particles, latents))
        if not sites:
            raise PairError("the program has no sample site")
        held = (
            latents
            if not callable(latents)
            else {n: s["value"] for n, s in sites.items() if not enumeration.is_marked(s)}
        )
        summed = _summed(sites, held)
        for name, site in sites.items():
            if not site["is_observed"] and name not in held and name not in summed:
                raise PairError(f"the latent site {name!r} has no value; give one in latents[{name!r}]")
            if not factors and kind(site["fn"]) == "Unit" and bool((site["fn"].log_factor != 0).any()):
                raise PairError(no_density(name))
        values = {n: v for n, v in held.items() if n in sites and not sites[n]["is_observed"]}
        sites, found = _scored(sites, particles, summed, partial(_run, program, args, {}), values, unmasked, anywhere)
    observed = [found[n] for n, s in sites.items() if s["is_observed"]]
    latent = [found[n] for n, s in sites.items() if not s["is_observed"]]
    zero = torch.zeros_like((observed or latent)[0])
    return _total(observed, zero), _total(latent, zero)


def prior_of(model: Program, drawn: Container[str] | None = None) -> Program:
    """The prior of a model, as a guide: it draws the latents and looks at no data.

    Where the names that the guide draws are given, sites that would be summed out beside them are not shown.
    """

    def program(x: Tensor, y: Tensor | None = None) -> None:
        def hidden(msg: Any) -> bool:
            if msg["type"] != "sample":
                return False
            return bool(msg["is_observed"]) or (
                drawn is not None and msg["name"] not in drawn and enumeration.is_marked(msg)
            )

        with poutine.block(hide_fn=hidden):
            model(*call_args(model, x, y))

    return program


def changed(program: Program, change: Callable[[str, Any], Any]) -> Program:
    """A program whose latent sites draw from other distributions: ``change(name, distribution)``."""

    def other(x: Tensor, y: Tensor | None = None) -> None:
        with _Change(change):
            program(*call_args(program, x, y))

    return other


def first_outside(site: Site) -> int | None:
    """The index of the first datum that lies outside the support of an observed site, or None; reads the device.

    What is missing (NaN) or masked is passed over.
    """
    support: Any = support_of(site.p)
    if support is None:
        return None
    while isinstance(support, constraints.independent):  # to leave out entries, ask for each by itself
        support = support.base_constraint
    inside = support.check(site.value)
    left_out = site.value.isnan() if site.value.is_floating_point() else torch.zeros_like(site.value, dtype=torch.bool)
    hidden = masked_at(site.p, site.masks[0], site.value)
    left_out = left_out if hidden is None else left_out | hidden.reshape(-1, *site.value.shape)[0]
    while left_out.dim() > inside.dim():  # a part of an event is no event
        left_out = left_out.any(-1)
    return _first(_over_event(~(inside | left_out), site))


def _over_event(bad: Tensor, site: Site) -> Tensor:
    """Whether anything in an event is bad, (*, B)."""
    while bad.dim() > site.value.dim() - len(site.p.event_shape):
        bad = bad.any(-1)
    return bad


def first_missing(site: Site) -> int | None:
    """The index of the first datum with a missing entry (NaN) that makes its log density NaN, or None."""
    value = site.value
    if not (torch.is_tensor(value) and value.is_floating_point()) or not bool(value.isnan().any()):
        return None
    return _first(site.log_p.isnan().any(0))


def _first(bad: Tensor) -> int | None:
    """The index of the first datum (*, B) of which something is bad."""
    while bad.dim() > 1:
        bad = bad.any(0)
    found = torch.nonzero(bad)
    return int(found[0]) if len(found) else None


def num_observed(t: Terms) -> Tensor:
    """Numbers that are observed of each datum, (B,) float64: without missing entries, and without what is masked."""
    total = torch.zeros(t.log_w.shape[1], dtype=torch.float64)
    for site in t.observed.values():
        if kind(site.p) == "Unit" or not torch.is_tensor(site.value):
            continue
        seen = ~site.value.isnan() if site.value.is_floating_point() else torch.ones_like(site.value, dtype=torch.bool)
        hidden = masked_at(site.p, site.masks[0], site.value)
        seen = seen if hidden is None else seen & ~hidden
        total = total + seen.reshape(-1, len(total), site.p.event_shape.numel())[0].sum(1).cpu()
    return total


@dataclass(eq=False)
class Draw:
    """A site of a program that was run once: its value (K, B, *event) and its distribution."""

    value: Tensor
    fn: Any
    is_observed: bool
    frames: tuple[Any, ...] = ()
    scale: float | Tensor = 1.0
    mask: Any = None  # what poutine.mask put on it
    summed: bool = False  # marked infer={"enumerate": ...}
    given: Tensor | None = None  # what an observed site observed
    kept: bool = False  # observes labels, in a run that draws the data

    @property
    def masked(self) -> Tensor | None:
        """Where the value is masked, a bool of its shape; None where nowhere."""
        return masked_at(self.fn, self.mask, self.value)


def masked_at(fn: Any, mask: Any, value: Tensor) -> Tensor | None:
    """Where a value (K, B, *event) is masked: by ``poutine.mask``, or by the distribution; None where nowhere."""
    found: Tensor | None = None
    parts = [(mask, value.dim() - len(fn.event_shape))]
    while fn is not None:
        if hasattr(fn, "_mask"):
            parts.append((fn._mask, value.dim() - len(fn.event_shape)))
        fn = getattr(fn, "base_dist", None)
    for part, dims in parts:
        if part is None or part is True:
            continue
        seen = torch.as_tensor(part, device=value.device).bool()
        wide = seen.reshape(*seen.shape, *(1,) * (value.dim() - dims))
        hidden = ~wide.expand(torch.broadcast_shapes(wide.shape, value.shape))  # data have no particles, masks may
        found = hidden if found is None else found | hidden
    return found


def sites(
    program: Program,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None = None,
    *,
    num_samples: int = 1,
    values: Values | None = None,
    means: bool = False,
    uncondition: bool = False,
) -> dict[str, Draw]:
    """Run one program under K particles and return its sample sites by name, in order.

    Args:
        program: a model or a guide.
        args: its positional arguments.
        kwargs: its keyword arguments.
        num_samples: the number K of particles.
        values: values (K, B, *event) to put at sites instead of drawing them, as :func:`terms` takes them.
        means: put each site's mean instead of a draw, where it has one.
        uncondition: draw the observed sites too, as for sampling from a model that needs data to run, but for those
            that observe labels, the second argument. Sites that are summed out are then drawn given the values and
            the data, where there are any.

    Returns:
        The sites; draws come from torch's global generators.
    """
    kwargs = kwargs or {}
    labels = args[1].clone() if uncondition and len(args) > 1 and torch.is_tensor(args[1]) else None
    args = args if labels is None else (args[0], labels, *args[2:])  # which share no memory with the data
    lineage = Lineage({} if labels is None else {"y": labels})
    inner = _Uncondition(lineage) if uncondition else None
    with own_store(), lineage if labels is not None else nullcontext():
        if means:
            with _Fill(lambda name, fn: mean_of(fn)):
                trace = _run(program, args, kwargs, num_samples, values, inner)
        else:
            trace = _run(program, args, kwargs, num_samples, values, inner)
        if uncondition and isinstance(values, dict) and (loose := _summed(_sampled(trace), values)):
            held = {n: v for n, v in values.items() if n in trace.nodes}
            run = partial(_run, program, args, kwargs)
            found = _classes(_sampled(run(num_samples, held)), num_samples, loose, run, held)
            trace = _run(program, args, kwargs, num_samples, {**held, **found}, inner)
    return {
        name: Draw(
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
        for name, site in _sampled(trace).items()
    }


def parents(
    model: Program, args: tuple[Any, ...], values: Mapping[str, Tensor], other: Mapping[str, Tensor]
) -> dict[str, set[str]]:
    """For each latent site of a model, the latent sites that its distribution depends on.

    Each site in turn gets another value; a site whose log density moves depends on it. Gradients would miss what
    passes through a comparison or a detached tensor.

    Args:
        model: the model of a pair.
        args: its positional arguments.
        values: a value (K, B, *event) for each latent site.
        other: another one.
    """
    particles = next(iter(values.values())).shape[0] if values else 1
    first = _sampled(_run(model, args, {}, particles, values))
    rest = {n: s["value"] for n, s in first.items() if n not in values and not s["is_observed"]}  # summed out

    def densities(at: Mapping[str, Tensor]) -> dict[str, Tensor]:
        sites = _sampled(_run(model, args, {}, particles, {**rest, **at}))
        # the distribution may move while the value stays: always score the first value
        return {n: sites[n]["fn"].log_prob(values[n]) for n in values if n in sites}

    start = densities(values)
    found: dict[str, set[str]] = {name: set() for name in start}
    for moved in start:
        for name, log_p in densities({**values, moved: other[moved]}).items():
            if name != moved and not torch.equal(log_p, start[name]):
                found[name].add(moved)
    return found
