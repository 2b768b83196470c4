"""Objectives: each is a small function of Terms; one adapter makes it a ``pyro.infer.ELBO``."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from pyro.infer import ELBO, Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.util import is_validation_enabled
from torch import Tensor

from . import weights
from .errors import PairError, UserError
from .kinds import kind
from .registry import OBJECTIVES, resolve
from .rng import forked
from .store import Program
from .weights import Grad, Site, Terms

Beta = float | Tensor


def elbo(t: Terms, beta: Beta = 1.0) -> Tensor:
    r"""The evidence lower bound of each datum, (B,) nats, with Pyro's gradient.

    .. math:: E_q[\log p(x|z) + \beta (\log p(z) - \log q(z|x))]

    Where a latent has no ``rsample``, its log q carries the learning signal, as in ``pyro.infer.Trace_ELBO``. As there,
    what the guide observes is subtracted: ``pyro.factor``, a classifier's ``pyro.sample(..., obs=y)``; beta leaves it.
    """
    bound = sum(_times(s.log_p, s.scale) for s in t.observed.values()) + torch.zeros_like(t.log_lik)
    for s in t.sites.values():
        bound = bound + beta * _log_ratio(s)
    signal: Tensor = bound.detach()  # as in Pyro, without the factors
    bound = _less_factors(bound, t)
    for s in (*t.sites.values(), *t.factors.values()):
        if not s.has_rsample:
            # log q has no pathwise gradient here; the score carries all of it
            entropy = _times(s.log_q, s.scale_q) * (1 if s.name in t.factors else beta)
            bound = bound + _gradient_only(signal * s.score + entropy)
    return bound.mean(0)


def meanfield(t: Terms, beta: Beta = 1.0) -> Tensor:
    r"""The evidence lower bound with each KL in closed form where torch knows it, (B,) nats.

    .. math:: E_q[\log p(x|z)] - \beta \sum_i KL(q(z_i) || p(z_i))

    Right only where no site's model parent follows it in the guide, which :class:`MeanField` checks.
    """
    bound = sum(_times(s.log_p, s.scale) for s in t.observed.values()) + torch.zeros_like(t.log_lik)
    for s in t.sites.values():
        _needs_rsample(s, "meanfield")
        kl = s.kl
        bound = bound + beta * (_log_ratio(s) if kl is None else -_times(kl, s.scale_q))
    for s in t.factors.values():
        _needs_rsample(s, "meanfield")
    return _less_factors(bound, t).mean(0)


def iwae(t: Terms, beta: Beta = 1.0, gradient: str = "path") -> Tensor:
    r"""The importance-weighted bound of each datum, (B,) nats.

    .. math:: \log \frac1K \sum_k w_k, \qquad w_k = p(x|z_k) (p(z_k) / q(z_k|x))^\beta

    A plate's scale multiplies the bound, never the weights inside the logarithm. The gradient ``"stl"`` is biased for
    the guide where K > 1; ``"dreg"`` is not.

    Source: Burda, Grosse, Salakhutdinov: Importance Weighted Autoencoders, 2015, arXiv:1509.00519. The gradient
    ``"dreg"``: Tucker, Lawson, Gu, Maddison, 2018, arXiv:1810.04152; ``"stl"``: Roeder, Wu, Duvenaud, 2017,
    arXiv:1703.09194.
    """
    for s in t.sites.values():
        _needs_rsample(s, "iwae")
    if t.factors:
        raise PairError(
            f"site {next(iter(t.factors))!r}: the guide observes it (pyro.factor?), and iwae has no place for a term "
            f"that is no density of a latent; use the objective 'elbo', or add the term to the loss"
        )
    log_w = t.log_lik + beta * (t.log_prior - t.log_q)
    bound = torch.logsumexp(log_w, 0) - math.log(log_w.shape[0])
    if gradient != "path":
        w = torch.softmax(log_w, 0).detach()
        bound = bound.detach() + _gradient_only((w * log_w).sum(0))
        if gradient == "dreg":
            t.gate((1 - beta) + beta * w)  # w alone at beta = 1; a KL weight leaves part of the draws' gradient single
    scales = [s.scale for s in (*t.observed.values(), *t.sites.values())] + [s.scale_q for s in t.sites.values()]
    if not all(weights.same_scale(scales[0], scale) for scale in scales):
        raise PairError(
            "iwae: the sites have different scales, and a scale inside the logarithm gives no bound; "
            "scale the data plate alone, or use the objective 'elbo'"
        )
    return _times(bound, scales[0])


def _gradient_only(surrogate: Tensor) -> Tensor:
    return surrogate - surrogate.detach()


def _is_one(scale: float | Tensor) -> bool:
    return not torch.is_tensor(scale) and scale == 1.0


def _times(value: Tensor, scale: float | Tensor) -> Tensor:
    return value if _is_one(scale) else value * scale


def _log_ratio(site: Site) -> Tensor:
    """log p - log q of a site, each under its own scale."""
    return _times(site.log_p, site.scale) - _times(site.log_q, site.scale_q)


def _less_factors(bound: Tensor, t: Terms) -> Tensor:
    for s in t.factors.values():
        if kind(s.q) == "Unit" and "has_rsample" not in vars(s.q) and is_validation_enabled():
            raise PairError(
                f"site {s.name!r}: a pyro.factor of a guide must say where it comes from: has_rsample=True, if all of "
                f"it is reparameterised, or has_rsample=False"
            )
        bound = bound - _times(s.log_q, s.scale_q)
    return bound


def _needs_rsample(site: Site, objective: str) -> None:
    if not site.has_rsample:
        raise PairError(
            f"site {site.name!r}: the objective {objective!r} differentiates through the draws, and "
            + (
                "this pyro.factor does not say has_rsample=True, so its gradient would be wrong; say so where all of "
                "it is reparameterised, or use the objective 'elbo'"
                if kind(site.q) == "Unit"
                else f"{kind(site.q)} has no rsample, so its gradient would be wrong; use the objective 'elbo'"
            )
        )


class Objective(ELBO):
    """A function of Terms as a ``pyro.infer.ELBO``: for ``pv.SVI``, for stock SVI, and for a plain torch loop.

    In a plain loop, ``objective(model, guide)(x)`` is the loss to differentiate, in nats, summed over the data.
    ``beta`` (1, or a 0-d tensor that a schedule moves) weighs the KL term while training; estimates ignore it.

    Args:
        bound: a function of (Terms, beta) that returns (B,) nats.
        num_particles: the number K of particles.
        grad: how :func:`ppl_vae.terms` builds the graph.
        vectorize: score the particles together; otherwise one after another, averaging the bound.

    Raises:
        PairError: ``loss_and_grads`` found no ``pyro.param``, so that stock SVI would move nothing.
    """

    def __init__(
        self, bound: Callable[..., Tensor], *, num_particles: int = 1, grad: Grad = "path", vectorize: bool = True
    ) -> None:
        if num_particles < 1:
            raise ValueError(f"num_particles={num_particles}: at least one is needed")
        super().__init__(num_particles=num_particles)  # type: ignore[no-untyped-call]
        self.bound = bound
        self.grad = grad
        self.vectorize = vectorize
        self.beta: Beta = 1.0

    def bounds(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """The bound of each datum, (B,) nats, with the gradient of this objective."""
        at_once = self.num_particles if self.vectorize else 1
        total: Tensor | None = None
        for _ in range(self.num_particles // at_once):
            t = weights.score(model, guide, args, args, kwargs, num_samples=at_once, grad=self.grad)
            bound = self.bound(t, self.beta)
            total = bound if total is None else total + bound
        assert total is not None
        return total if at_once == self.num_particles else total / self.num_particles

    def look(self, model: Program, guide: Program, *args: Any) -> None:
        """Refuse a pair that the objective can't train, once and before a graph is made of it.

        Raises:
            PairError: the pair is of the wrong kind.
        """

    def differentiable_loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """Minus the bound, summed over the data: a 0-d tensor in nats whose gradient trains the pair."""
        return -self.bounds(model, guide, *args, **kwargs).sum()

    def loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """Minus the bound, summed over the data, in nats."""
        with torch.no_grad():
            return float(self.differentiable_loss(model, guide, *args, **kwargs))

    def loss_and_grads(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """For stock ``pyro.infer.SVI``: the loss, with gradients left on the ``pyro.param`` parameters."""
        with weights.captured_params() as params:
            loss = self.differentiable_loss(model, guide, *args, **kwargs)
        if not params:
            raise PairError(
                "stock SVI sees only pyro.param sites and this pair has none, so it would move no parameter; "
                "train pair.as_pyro(), or use pv.SVI"
            )
        if loss.requires_grad:
            loss.backward()
        return float(loss.detach())

    def _get_trace(self, *args: Any) -> Any:
        raise TypeError(f"{type(self).__name__} is a function of Terms and keeps no traces")


class Elbo(Objective):
    """The ELBO, the same estimate and gradient as ``pyro.infer.Trace_ELBO``, without host reads.

    Args:
        num_particles: particles to average over.
        gradient: ``"path"``, or ``"stl"`` to stop the score term, whose mean is zero.
        vectorize: score the particles together.

    Source: Kingma, Welling: Auto-Encoding Variational Bayes, 2013, arXiv:1312.6114.

    Example:
        >>> import torch, ppl_vae as pv
        >>> pair = pv.build("linear", data_shape=(5,), latent=2)
        >>> loss = pv.Elbo(num_particles=8)(pair.model, pair.guide)(torch.zeros(3, 5))
        >>> loss.backward()
    """

    def __init__(self, num_particles: int = 1, gradient: str = "path", vectorize: bool = True) -> None:
        super().__init__(
            elbo, num_particles=num_particles, grad=_choose(gradient, ("path", "stl")), vectorize=vectorize
        )


class MeanField(Objective):
    """The ELBO with the KL of each site in closed form, as ``pyro.infer.TraceMeanField_ELBO``.

    Args:
        num_particles: particles to average over.
        vectorize: score the particles together.

    Raises:
        PairError: the guide samples a site before its model parent; the value would not be the ELBO.

    Example:
        >>> import torch, ppl_vae as pv
        >>> pair = pv.build("vae", data_shape=(5,), latent=2, hidden=(4,))
        >>> bool(pv.MeanField()(pair.model, pair.guide)(torch.zeros(3, 5)).isfinite())
        True
    """

    def __init__(self, num_particles: int = 1, vectorize: bool = True) -> None:
        super().__init__(meanfield, num_particles=num_particles, vectorize=vectorize)
        self._seen: tuple[Program, Program] | None = None

    def differentiable_loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """Minus the bound, summed over the data, after a look at the order of the sites, once for each pair."""
        self.look(model, guide, *args)
        return super().differentiable_loss(model, guide, *args, **kwargs)

    def look(self, model: Program, guide: Program, *args: Any) -> None:
        """Refuse a guide that samples a site before its model parent.

        Raises:
            PairError: see the class.
        """
        programs = getattr(model, "__wrapped__", model), getattr(guide, "__wrapped__", guide)
        if self._seen == programs:
            return
        device = next((a.device for a in args if torch.is_tensor(a)), "cpu")
        with torch.no_grad(), forked(device):  # looking must not move the noise of the step
            one, two = (weights.score(model, guide, args, args).sites for _ in range(2))
            for site in one.values():
                _needs_rsample(site, "meanfield")
            order = list(one)
            above = weights.parents(model, args, *({n: s.value for n, s in d.items()} for d in (one, two)))
        for child, its_parents in above.items():
            for parent in its_parents:
                if order.index(child) < order.index(parent):
                    raise PairError(
                        f"meanfield: the guide samples {child!r} before {parent!r}, its parent in the model, so the "
                        f"sum of closed-form KLs is not the ELBO; sample {parent!r} first, or use the objective 'elbo'"
                    )
        self._seen = programs


class IWAE(Objective):
    """The K-sample importance-weighted bound, per datum, right under mini-batches.

    Args:
        num_particles: the number K of samples inside the logarithm.
        gradient: ``"path"``; ``"dreg"``, unbiased like it, whose signal-to-noise for the guide grows with K; or
            ``"stl"``, which is biased for the guide where K > 1.

    Source: Burda, Grosse, Salakhutdinov: Importance Weighted Autoencoders, 2015, arXiv:1509.00519.

    Example:
        >>> import torch, ppl_vae as pv
        >>> pair = pv.build("linear", data_shape=(5,), latent=2)
        >>> loss = pv.IWAE(num_particles=8, gradient="dreg")(pair.model, pair.guide)(torch.zeros(3, 5))
        >>> loss.backward()
    """

    def __init__(self, num_particles: int = 10, gradient: str = "path") -> None:
        kind = _choose(gradient, ("path", "stl", "dreg"))
        self.gradient = kind

        def bound(t: Terms, beta: Beta) -> Tensor:
            return iwae(t, beta, kind)

        super().__init__(bound, num_particles=num_particles, grad="path" if kind == "path" else "stl")


def _choose(gradient: str, choices: tuple[str, ...]) -> Any:
    if gradient not in choices:
        raise ValueError(f"gradient={gradient!r}: choose one of {', '.join(map(repr, choices))}")
    return gradient


def objective(name: str, num_particles: int | None = None, **options: Any) -> Objective:
    """An objective by name: ``"elbo"``, ``"meanfield"`` or ``"iwae"``.

    Args:
        name: one of the names that ``ppl-vae list`` prints.
        num_particles: samples of each datum; None takes the objective's own default.
        options: its other arguments, such as ``gradient="dreg"``.

    Raises:
        UserError: no such name, or no such option.

    Example:
        >>> import ppl_vae as pv
        >>> pv.objective("iwae", num_particles=5).num_particles
        5
    """
    make = resolve("objective", name, OBJECTIVES)
    if num_particles is not None:
        options["num_particles"] = num_particles
    try:
        made: Objective = make(**options)
    except TypeError:
        raise UserError(f"objective {name!r} takes no option {', '.join(sorted(options))}") from None
    except ValueError as error:
        raise UserError(f"objective {name!r}: {error}") from None
    return made


def ours(loss: Any) -> Objective | None:
    """A loss as one of our objectives where we compute the same thing, else None (Pyro then runs it)."""
    if isinstance(loss, Objective):
        return loss
    if type(loss) not in (Trace_ELBO, TraceMeanField_ELBO):
        return None
    kind = Elbo if type(loss) is Trace_ELBO else MeanField
    return kind(loss.num_particles, vectorize=bool(loss.vectorize_particles or loss.num_particles == 1))
