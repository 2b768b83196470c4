"""Score once: the log densities of a guide and a model, of which objectives and estimates are functions."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from pyro.distributions.util import is_identically_zero, scale_and_mask
from torch import Tensor

from ..common.errors import NoWeightError, PairError, UserError
from ..common.fields import device_of, num_data
from ..common.numbers import needed
from ..data import convert
from . import stop_gradient
from .coverage import refuse_foreign
from .densities import of_shape, score_sites, sum_of, summed_sites
from .kinds import has_mask, kind, title
from .param_store import Program, frozen, own_store, unmoved
from .support import is_discrete
from .trace import PARTICLES, Detach, Values, call_args, sample_sites, trace_program

Grad = Literal["path", "stl", "score"]


@dataclass(eq=False)
class Site:
    """One sample site of a scored pair; log densities in nats, of shape (K, B), masked but never scaled.

    Attributes:
        log_p: log density under the model.
        log_q: log density under the guide; zero where the site is observed.
        score: the term of the score-function gradient, zero where the draw is reparameterised and ``grad`` is not
            ``"score"``.
        scale: the factor of plates and ``poutine.scale`` on log_p; objectives use it, estimates never do.
        scale_q: the same on log_q.
        value: the draw (K, B, *event), or the data.
        p: the distribution under the model.
        q: the distribution under the guide, None where the site is observed.
        masks: its masks by ``poutine.mask``, in the model and in the guide.
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
        """KL(q || p) in closed form, (K, B), given the site's parents; None where torch has no formula.

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
    """Whether two scales are equal: numbers, or tensors (which reads the device)."""
    if torch.is_tensor(one) or torch.is_tensor(other):
        return one is other or bool(torch.equal(torch.as_tensor(one), torch.as_tensor(other)))
    return one == other


@dataclass(eq=False)
class Terms:
    """The log densities of K particles for each of B examples, in nats, each of shape (K, B).

    ``log_w = log_lik + log_prior - log_q`` is the log importance weight: ``E_q[exp log_w] = p(x)``.

    Attributes:
        log_lik: log p(x | z), summed over the observed sites.
        log_prior: log p(z).
        log_q: log q(z | x).
        sites: the latent sites by name, in the guide's order.
        observed: the observed sites by name.
        factors: the sites that the guide observes, by name: ``pyro.factor``, and ``pyro.sample(..., obs=)``. Their
            ``log_q`` is no density of z, and so in no total; the objectives "elbo" and "analytic_kl" subtract it, as
            Pyro does.
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
        """Multiply, in the backward pass, the gradient of the scores in each z by ``factor`` (K, B).

        Only terms made with ``grad="stl"`` have gates. With the normalised weights as the factor, the gradient of
        the weighted sum of ``log_w`` is doubly reparameterised.

        Source: Tucker, Lawson, Gu, Maddison: Doubly Reparameterized Gradient Estimators for Monte Carlo
        Objectives, 2018, arXiv:1810.04152.
        """
        self._gate[0] = factor.detach()


def terms_of(
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
    with Detach() if grad == "score" else nullcontext():
        guide_sites = sample_sites(trace_program(guide, guide_args, kwargs, num_samples, values))
    latents = {name: site for name, site in guide_sites.items() if not site["is_observed"]}
    drawn: dict[str, Tensor] = {name: site["value"] for name, site in latents.items()}
    scored = latents
    gate: list[Tensor | None] = [None]
    if grad == "stl" and latents:
        for site in latents.values():
            stop_gradient.refuse(site)
        drawn = {name: stop_gradient.gated(value, gate) for name, value in drawn.items()}
        with frozen(guide), unmoved(guide):  # the scores too: some distributions use parameters only there
            again = sample_sites(trace_program(guide, guide_args, kwargs, num_samples, drawn))
            scored = {name: site for name, site in again.items() if not site["is_observed"]}
            parts = stop_gradient.guide_parts(scored)
        stop_gradient.check(latents, parts, drawn)
    else:
        parts = stop_gradient.guide_parts(scored)

    particles = num_samples if latents else 1  # without latents every particle is the same: score it once
    model_sites = sample_sites(trace_program(model, model_args, kwargs, particles, drawn))
    if not any(site["is_observed"] for site in model_sites.values()):
        raise PairError('the model observes no site; write pyro.sample("x", ..., obs=x)')
    summed = summed_sites(model_sites, drawn)
    _check_names({n: site for n, site in model_sites.items() if n not in summed}, latents)
    run = partial(trace_program, model, model_args, kwargs)
    try:
        model_sites, log_ps = score_sites(model_sites, particles, summed, run, drawn)
    except UserError:
        raise
    except (RuntimeError, IndexError, ValueError) as error:  # a draw of the guide may be no value of the model's site
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
        log_q = of_shape(name, parts[name].log_prob, shape)
        p = model_sites.get(name)
        if p is None:  # an auxiliary site of the guide has no prior
            p = {"scale": 1.0, "fn": None, "mask": None}
        score = log_q if grad == "score" else parts[name].score_function  # a cut draw has no pathwise gradient
        sites[name] = Site(
            name, log_ps.get(name, zero), log_q, score, p["scale"], q["value"], p["fn"], q["fn"],
            q["scale"], (p["mask"], q["mask"]), bool(summed),
        )  # fmt: skip
    return Terms(
        log_lik=sum_of([s.log_p for s in observed.values()], zero),
        log_prior=sum_of([s.log_p for s in sites.values()], zero),
        log_q=sum_of([s.log_q for s in sites.values()], zero),
        sites=sites,
        observed=observed,
        factors=_factors({name: site for name, site in guide_sites.items() if name not in latents}, zero),
        summed=summed,
        _gate=gate,
    )


def _refuse_draws(guide_sites: Mapping[str, Any], model_sites: Mapping[str, Any], error: Exception) -> None:
    """Refuse, by name, the draws of the guide that a distribution of the model can't score."""
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
    """What a guide observes, as sites (K, B); a factor outside the data plate is divided among the examples."""
    found: dict[str, Site] = {}
    shape = zero.shape[0], zero.shape[1]
    for name, part in stop_gradient.guide_parts(sites).items():
        q, log_q = sites[name], part.log_prob
        alone = not any(f.vectorized for f in q["cond_indep_stack"] if f.name != PARTICLES)
        if alone and log_q.shape != shape and log_q.numel() in (1, shape[0]):
            if not is_identically_zero(part.score_function):
                raise PairError(
                    f"site {name!r} is observed by the guide outside the data plate; move it inside, or, if all of it "
                    f"is reparameterised, write pyro.factor({name!r}, ..., has_rsample=True)"
                )
            log_q = (log_q.reshape(-1, 1) / shape[1]).expand(shape)
        log_q = of_shape(name, log_q, shape)
        found[name] = Site(
            name, zero, log_q, part.score_function, 1.0, q["value"], None, q["fn"], q["scale"], (None, q["mask"])
        )
    return found


def _check_names(model_sites: Mapping[str, Any], guide_sites: Mapping[str, Any]) -> None:
    """Refuse latent names that differ, which ``poutine.replay`` accepts in silence."""
    auxiliary = {name for name, site in guide_sites.items() if site["infer"].get("is_auxiliary")}
    latent = {name for name, site in model_sites.items() if not site["is_observed"]}
    if auxiliary and not any(kind(site["fn"]) == "Delta" for site in guide_sites.values()):
        raise PairError(
            f"site {min(auxiliary)!r} is auxiliary in the guide and no Delta is made from it, as in autoguides, "
            f"so p(x, z) / q would be no weight; draw it in the model too, under the same name"
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
        return terms_of(model, guide, *arguments, num_samples=num_samples, grad=grad, values=values)


def _as_tensors(x: Any, y: Any) -> tuple[Any, Tensor | None]:
    """Data and labels of any form as tensors; those that programs can take are returned as they are."""
    ready = torch.is_tensor(x) and (x.is_floating_point() or x.dtype == torch.int64)
    x = x if ready or isinstance(x, dict) else convert.data(x)
    if y is not None and not (torch.is_tensor(y) and (y.is_floating_point() or y.dtype == torch.int64)):
        y = convert.labels(y, num_data(x), device=device_of(x))
    return x, y
