"""An objective: a function of Terms as a ``pyro.infer.ELBO``, and the arithmetic that several objectives share."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from pyro.infer import ELBO
from pyro.infer.elbo import ELBOModule
from pyro.infer.util import is_validation_enabled
from torch import Tensor

from ..common.errors import PairError, UserError
from ..common.numbers import plain
from ..scoring import terms, trace
from ..scoring.arguments import Arguments
from ..scoring.kinds import kind
from ..scoring.param_store import Program, unmoved
from ..scoring.terms import Grad, Site, Terms

Beta = float | Tensor


def gradient_only(surrogate: Tensor) -> Tensor:
    """Zero, with the gradient of ``surrogate``."""
    return surrogate - surrogate.detach()


def times(value: Tensor, scale: float | Tensor) -> Tensor:
    """The product; a scale that is the number 1 costs no operation."""
    return value if not torch.is_tensor(scale) and scale == 1.0 else value * scale


def log_ratio(site: Site) -> Tensor:
    """log p - log q of a site, each under its own scale."""
    return times(site.log_p, site.scale) - times(site.log_q, site.scale_q)


def less_factors(bound: Tensor, t: Terms) -> Tensor:
    """A bound (B,) or (K, B) in nats, less the log densities of what the guide observes, as in Pyro's ELBO.

    Raises:
        PairError: a factor has no ``has_rsample``.
    """
    for s in t.factors.values():
        if kind(s.q) == "Unit" and "has_rsample" not in vars(s.q) and is_validation_enabled():
            raise PairError(
                f"site {s.name!r}: a pyro.factor of a guide needs has_rsample: has_rsample=True where all of it is "
                f"reparameterised, else has_rsample=False"
            )
        bound = bound - times(s.log_q, s.scale_q)
    return bound


def needs_rsample(site: Site, objective: str) -> None:
    """Refuse a site whose draws have no gradient, for an objective that differentiates through them.

    Without gradients, as on validation data, the value is right all the same.

    Raises:
        PairError: names the site.
    """
    if not site.has_rsample and torch.is_grad_enabled():
        raise PairError(
            f"site {site.name!r}: the objective {objective!r} differentiates through the draws, and "
            + (
                "this pyro.factor does not have has_rsample=True, so its gradient would be wrong; set it where all of "
                "it is reparameterised, or use the objective 'elbo'"
                if kind(site.q) == "Unit"
                else f"{kind(site.q)} has no rsample, so its gradient would be wrong; use the objective 'elbo', "
                f"score, vimco, rws or tvo"
            )
        )


def needs_density(site: Site, objective: str) -> None:
    """Refuse a Delta, for an objective that trains the guide through its log density: it would never move.

    Raises:
        PairError: names the site.
    """
    if site.q is not None and kind(site.q) == "Delta":
        raise PairError(
            f"site {site.name!r}: {objective} trains the guide through its density, and a Delta has none, so that the "
            f"guide would never move; use the objective 'elbo'"
        )


def no_factors(t: Terms, objective: str) -> None:
    """Refuse what the guide observes, for a bound that has no place for it.

    Raises:
        PairError: names the site.
    """
    if t.factors:
        raise PairError(
            f"site {next(iter(t.factors))!r}: the guide observes it (pyro.factor?), and {objective} has no place for a "
            f"term that is no density of a latent; use the objective 'elbo', or add the term to the loss"
        )


def one_scale(t: Terms, objective: str) -> float | Tensor:
    """The scale of all sites, which multiplies a bound and never the weights inside its logarithm.

    Raises:
        PairError: the sites have different scales.
    """
    scales = [s.scale for s in (*t.observed.values(), *t.sites.values())] + [s.scale_q for s in t.sites.values()]
    if not all(terms.same_scale(scales[0], scale) for scale in scales):
        raise PairError(
            f"{objective}: the sites have different scales, and a scale inside the logarithm gives no bound; "
            f"scale the data plate alone, or use the objective 'elbo'"
        )
    return scales[0]


def log_weights(t: Terms, beta: Beta, objective: str, reparameterised: bool = True) -> Tensor:
    """The log weights of a bound that is a function of them, (K, B) nats, with ``beta`` on the KL term.

    Raises:
        PairError: a factor in the guide; where gradients pass through the draws, a latent without ``rsample``; where
            they do not, a Delta.
    """
    no_factors(t, objective)
    for s in t.sites.values():
        (needs_rsample if reparameterised else needs_density)(s, objective)
    return t.log_lik + beta * (t.log_prior - t.log_q)


def scored(t: Terms) -> tuple[Tensor, Tensor]:
    """log q, (K, B) nats, of the sites that have the score function, and of those with a pathwise gradient."""
    by_score, by_path = torch.zeros_like(t.log_q), torch.zeros_like(t.log_q)
    for s in t.sites.values():
        if s.has_rsample:
            by_path = by_path + s.log_q
        else:
            by_score = by_score + s.score
    return by_score, by_path


def finite(log_w: Tensor) -> Tensor:
    """Log weights with 0, which has no gradient, in place of minus infinity: for products with weights, then zero."""
    return log_w.masked_fill(log_w.detach() == -math.inf, 0.0)


def log_mean_exp(log_w: Tensor) -> Tensor:
    """The log of the mean of exp over the first dimension."""
    return torch.logsumexp(log_w, 0) - math.log(log_w.shape[0])


def weighted(t: Terms, bound: Tensor, log_w: Tensor, theta: Tensor, phi: Tensor) -> Tensor:
    r"""A bound (B,) whose gradient is weighted by hand, for terms made with ``grad="stl"``.

    .. math:: \sum_k \theta_k \frac{\partial \log w_k}{\partial \text{model}}, \qquad
        \sum_k \phi_k \frac{\partial \log w_k}{\partial z_k} \frac{\partial z_k}{\partial \text{guide}}

    Args:
        t: the terms, whose gate is set.
        bound: the value.
        log_w: the log weights (K, B).
        theta: weights (K, B) of the gradient of the model's parameters, at least 0.
        phi: weights (K, B) of the gradient that passes through the draws.
    """
    theta, phi = theta.detach().clamp(min=1e-20), phi.detach()  # a quotient of what underflows is no number
    t.gate(phi / theta)
    return bound.detach() + gradient_only((theta * finite(log_w)).sum(0))


class Objective(ELBO):
    """A function of Terms as a ``pyro.infer.ELBO``: for ``pv.SVI``, for stock SVI, and for a plain torch loop.

    In a plain loop, ``objective(model, guide)(x)`` is the loss to differentiate, in nats, summed over the examples.
    ``beta`` is the weight of the KL term in training; estimates ignore it. It may be set at any time: ``fit``
    multiplies it by the warm-up and by ``beta_schedule``, and trains and validates with it after the warm-up.

    Args:
        bound: a function of (Terms, beta), or of Terms alone, that returns (B,) nats.
        num_particles: the number K of particles.
        grad: how :func:`ppl_vae.terms` builds the graph.
        vectorize: score the particles together; otherwise one after another, averaging the bound.
        beta: the weight of the KL term.

    Raises:
        PairError: ``loss_and_grads`` found no ``pyro.param``, so that stock SVI would train nothing.
        UserError: an argument of another type or out of range.
    """

    free_bits: float = 0.0
    _arguments: Arguments | None = None

    def __init__(
        self, bound: Callable[..., Tensor], *, num_particles: int = 1, grad: Grad = "path", vectorize: bool = True,
        beta: float = 1.0,
    ) -> None:  # fmt: skip
        num_particles, vectorize = plain(num_particles), plain(vectorize)
        if not callable(bound):
            raise UserError(f"Objective: {type(bound).__name__} is not a function of Terms that returns (B,) nats")
        if type(num_particles) is not int or num_particles < 1:
            raise UserError(f"num_particles={num_particles!r}: a whole number is needed, at least one")
        if grad not in ("path", "stl", "score"):
            raise UserError(f"grad={grad!r}: choose one of 'path', 'stl', 'score'")
        if not isinstance(vectorize, bool):
            raise UserError(f"vectorize={vectorize!r}: choose True or False")
        super().__init__(num_particles=num_particles)  # type: ignore[no-untyped-call]
        self.bound = bound
        self._arity: tuple[Any, bool] = (bound, _takes_two(bound))
        self.grad = grad
        self.vectorize = vectorize
        self.beta = beta

    def __repr__(self) -> str:
        names = [name for name in inspect.signature(type(self)).parameters if hasattr(self, name)]
        shown = {name: getattr(self, name) for name in names}
        text = ", ".join(f"{k}={getattr(v, '__name__', None) or repr(plain(v))}" for k, v in shown.items())
        return f"{type(self).__name__}({text})"

    @property
    def beta(self) -> Beta:
        """The weight of the KL term, a number >= 0; a 0-d tensor while a schedule sets it."""
        return self._beta

    @beta.setter
    def beta(self, value: Any) -> None:
        if torch.is_tensor(value) and value.dim() == 0 and value.is_floating_point():
            self._beta: Beta = value
            return
        number = plain(value)
        if type(number) not in (int, float) or not 0 <= number < math.inf:
            raise UserError(f"beta={value!r}: the weight of the KL term is a finite number, at least 0")
        self._beta = float(number)

    @property
    def draws(self) -> int:
        """Draws of each example in a step."""
        return int(self.num_particles)

    @property
    def weighs(self) -> bool:
        """Whether the bound takes ``beta``; a function of Terms alone does not."""
        if self._arity[0] is not self.bound:
            self._arity = self.bound, _takes_two(self.bound)
        return self._arity[1]

    def bounds(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """The bound of each example, (B,) nats, with the gradient of this objective."""
        at_once = self.draws if self.vectorize else 1
        total: Tensor | None = None
        for _ in range(self.draws // at_once):
            t = terms.terms_of(model, guide, args, args, kwargs, num_samples=at_once, grad=self.grad)
            bound = self.value(t, self.beta)
            total = bound if total is None else total + bound
        assert total is not None
        return total if at_once == self.draws else total / self.draws

    def value(self, t: Terms, beta: Beta) -> Tensor:
        """The bound of each example, (B,) nats, at a weight of the KL term that need not be that of the objective.

        Raises:
            UserError: the bound has another shape.
        """
        found = self.bound(t, beta) if self.weighs else self.bound(t)
        wanted = t.log_q.shape[1:]
        if not torch.is_tensor(found) or found.shape != wanted:
            name = getattr(self.bound, "__name__", type(self.bound).__name__)
            what = f"of shape {tuple(found.shape)}" if torch.is_tensor(found) else f"a {type(found).__name__}"
            raise UserError(
                f"objective {name!r} returned {what} for {tuple(t.log_q.shape)} particles and examples: return the "
                f"bound of each example, {tuple(wanted)}, such as t.log_w.mean(0)"
            )
        return found

    def validate(self, model: Program, guide: Program, *args: Any) -> None:
        """Refuse a pair that the objective can't train; called before a graph is made of a step.

        Raises:
            PairError: the objective can't train this pair.
        """

    def differentiable_loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """Minus the bound, summed over the examples: a 0-d tensor in nats whose gradient trains the pair."""
        return -self.bounds(model, guide, *args, **kwargs).sum()

    def __call__(self, model: Program, guide: Program) -> ELBOModule:
        """The loss of a pair as a module, for a plain torch loop."""
        return _Loss(model, guide, self)

    def given(self, model: Program, guide: Program, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Data of any form as model and guide take them; a tensor of their dtype is returned as it is."""
        if self._arguments is None or self._arguments.programs != (model, guide):
            self._arguments = Arguments(model, guide)
        return self._arguments(args)

    def loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """Minus the bound, summed over the examples, in nats; no parameter or running average changes."""
        args = self.given(model, guide, args)
        with torch.no_grad(), unmoved(model, guide):
            return float(self.differentiable_loss(model, guide, *args, **kwargs))

    def loss_and_grads(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """For stock ``pyro.infer.SVI``: the loss, with gradients left on the ``pyro.param`` parameters."""
        args = self.given(model, guide, args)
        with trace.captured_params() as params:
            loss = self.differentiable_loss(model, guide, *args, **kwargs)
        if not params:
            raise PairError(
                "stock SVI trains only pyro.param sites and this pair has none, so it would train no parameter; "
                "train pair.as_pyro(), or use pv.SVI"
            )
        if loss.requires_grad:
            loss.backward()
        return float(loss.detach())

    def _get_trace(self, *args: Any) -> Any:
        raise TypeError(f"{type(self).__name__} is a function of Terms and keeps no traces")


class _Loss(ELBOModule):
    """The loss of a pair as a module, of data of any form."""

    def __init__(self, model: Any, guide: Any, elbo: Objective) -> None:
        super().__init__(model, guide, elbo)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        elbo: Any = self.elbo
        loss: Tensor = elbo.differentiable_loss(
            self.model, self.guide, *elbo.given(self.model, self.guide, args), **kwargs
        )
        return loss


def choose(gradient: str, choices: tuple[str, ...]) -> Any:
    """The option ``gradient``, if it is one of the choices.

    Raises:
        UserError: it is none of them.
    """
    return choose_from("gradient", gradient, choices)


def choose_from(option: str, value: str, choices: tuple[str, ...]) -> str:
    """The value of an option, if it is one of the choices.

    Raises:
        UserError: it is none of them.
    """
    if value not in choices:
        raise UserError(f"{option}={value!r}: choose one of {', '.join(map(repr, choices))}")
    return value


def _takes_two(function: Callable[..., Any]) -> bool:
    """Whether a function can be called with two arguments.

    Raises:
        UserError: it can be called with neither one nor two.
    """
    try:
        signature = inspect.signature(function)
    except ValueError:  # a builtin without a signature
        return True
    for count in (2, 1):
        with suppress(TypeError):
            signature.bind(*range(count))
            return count == 2
    name = getattr(function, "__name__", type(function).__name__)
    raise UserError(f"objective {name!r} takes {signature}: write a function of (Terms), or of (Terms, beta)")
