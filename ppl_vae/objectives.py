"""Objectives: each is a small function of Terms; one adapter makes it a ``pyro.infer.ELBO``."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from pyro.infer import ELBO, Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.elbo import ELBOModule
from pyro.infer.util import is_validation_enabled
from torch import Tensor

from . import weights
from .errors import PairError, UserError
from .kinds import kind
from .numbers import plain
from .registry import OBJECTIVES, resolve
from .rng import forked
from .setting import Arguments
from .store import Program, unmoved
from .weights import Grad, Site, Terms

Beta = float | Tensor


def elbo(t: Terms, beta: Beta = 1.0, free_bits: float = 0.0) -> Tensor:
    r"""The evidence lower bound of each datum, (B,) nats, with Pyro's gradient.

    .. math:: E_q[\log p(x|z) + \beta (\log p(z) - \log q(z|x))]

    Where a latent has no ``rsample``, its log q carries the learning signal, as in ``pyro.infer.Trace_ELBO``. As there,
    what the guide observes is subtracted: ``pyro.factor``, a classifier's ``pyro.sample(..., obs=y)``; beta leaves it.
    What ``free_bits`` makes of it: :class:`Elbo`.
    """
    bound = sum(_times(s.log_p, s.scale) for s in t.observed.values()) + torch.zeros_like(t.log_lik)
    for s in t.sites.values():
        bound = bound + beta * _paid(s, _log_ratio(s), s.log_q - s.log_p if free_bits else None, free_bits)
    signal: Tensor = bound.detach()  # as in Pyro, without the factors
    bound = _less_factors(bound, t)
    for s in (*t.sites.values(), *t.factors.values()):
        if not s.has_rsample:
            # log q has no pathwise gradient here; the score carries all of it
            entropy = _times(s.log_q, s.scale_q)
            if s.name not in t.factors:
                entropy = beta * _paid(s, entropy, s.log_q - s.log_p if free_bits else None, free_bits)
            bound = bound + _gradient_only(signal * s.score + entropy)
    return bound.mean(0)


def meanfield(t: Terms, beta: Beta = 1.0, free_bits: float = 0.0) -> Tensor:
    r"""The evidence lower bound with each KL in closed form where torch knows it, (B,) nats.

    .. math:: E_q[\log p(x|z)] - \beta \sum_i KL(q(z_i) || p(z_i))

    Right only where no site's model parent follows it in the guide, which :class:`MeanField` checks.
    """
    bound = sum(_times(s.log_p, s.scale) for s in t.observed.values()) + torch.zeros_like(t.log_lik)
    for s in t.sites.values():
        _needs_rsample(s, "meanfield")
        kl = s.kl
        ratio = _log_ratio(s) if kl is None else -_times(kl, s.scale_q)
        if free_bits:
            kl = s.log_q - s.log_p if kl is None else kl
        bound = bound + beta * _paid(s, ratio, kl, free_bits)
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


def _paid(site: Site, value: Tensor, kl: Tensor | None, free_bits: float) -> Tensor:
    """What a site adds to the bound, (K, B): ``value``, or minus the free nats where its mean KL does not exceed them.

    The mean is over particles and data, as the paper takes it over a mini-batch, so that the choice is one for the
    whole site and the sum over data is -B max(free_bits, mean KL).
    """
    if not free_bits or kl is None:
        return value
    free = _times(torch.full_like(value, -free_bits), site.scale_q)
    return torch.where(kl.detach().mean() > free_bits, value, free)


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
    ``beta`` weighs the KL term while training; estimates ignore it. It may be set at any time: ``fit`` multiplies it by
    the warm-up and by ``beta_schedule``, and trains and validates with it in the end.

    Args:
        bound: a function of (Terms, beta), or of Terms alone, that returns (B,) nats.
        num_particles: the number K of particles.
        grad: how :func:`ppl_vae.terms` builds the graph.
        vectorize: score the particles together; otherwise one after another, averaging the bound.
        beta: the weight of the KL term.

    Raises:
        PairError: ``loss_and_grads`` found no ``pyro.param``, so that stock SVI would move nothing.
        UserError: an argument that makes no sense.
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

    @property
    def beta(self) -> Beta:
        """The weight of the KL term, a number >= 0; a 0-d tensor while a schedule moves it."""
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
    def weighs(self) -> bool:
        """Whether the bound has a place for ``beta``: a bound of Terms alone has none."""
        if self._arity[0] is not self.bound:
            self._arity = self.bound, _takes_two(self.bound)
        return self._arity[1]

    def bounds(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """The bound of each datum, (B,) nats, with the gradient of this objective."""
        at_once = self.num_particles if self.vectorize else 1
        total: Tensor | None = None
        for _ in range(self.num_particles // at_once):
            t = weights.score(model, guide, args, args, kwargs, num_samples=at_once, grad=self.grad)
            bound = self.value(t, self.beta)
            total = bound if total is None else total + bound
        assert total is not None
        return total if at_once == self.num_particles else total / self.num_particles

    def value(self, t: Terms, beta: Beta) -> Tensor:
        """The bound of each datum, (B,) nats, at another weight of the KL term than the objective's own."""
        return self.bound(t, beta) if self.weighs else self.bound(t)

    def look(self, model: Program, guide: Program, *args: Any) -> None:
        """Refuse a pair that the objective can't train, once and before a graph is made of it.

        Raises:
            PairError: the pair is of the wrong kind.
        """

    def differentiable_loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """Minus the bound, summed over the data: a 0-d tensor in nats whose gradient trains the pair."""
        return -self.bounds(model, guide, *args, **kwargs).sum()

    def __call__(self, model: Program, guide: Program) -> ELBOModule:
        """The loss of a pair as a module, for a plain torch loop."""
        return _Loss(model, guide, self)

    def given(self, model: Program, guide: Program, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Data of any form as model and guide take them; a tensor of their own dtype is passed on at once."""
        if self._arguments is None or self._arguments.programs != (model, guide):
            self._arguments = Arguments(model, guide)
        return self._arguments(args)

    def loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """Minus the bound, summed over the data, in nats; moves nothing, running averages included."""
        args = self.given(model, guide, args)
        with torch.no_grad(), unmoved(model, guide):
            return float(self.differentiable_loss(model, guide, *args, **kwargs))

    def loss_and_grads(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """For stock ``pyro.infer.SVI``: the loss, with gradients left on the ``pyro.param`` parameters."""
        args = self.given(model, guide, args)
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


class _Elbos(Objective):
    """What :class:`Elbo` and :class:`MeanField` share: the free nats of each site."""

    def __init__(self, bound: Callable[..., Tensor], free_bits: float, **options: Any) -> None:
        super().__init__(bound, **options)
        self.free_bits = plain(free_bits)
        if type(self.free_bits) not in (int, float) or not 0 <= self.free_bits < math.inf:
            raise UserError(f"free_bits={free_bits!r}: nats of each latent site, a finite number, at least 0")
        if self.free_bits and self.num_particles > 1 and not self.vectorize:
            raise UserError("free_bits: the mean KL is over all particles; score them together (vectorize=True)")

    def value(self, t: Terms, beta: Beta) -> Tensor:
        """The bound of each datum, (B,) nats, less what is free."""
        return self.bound(t, beta, self.free_bits) if self.free_bits else self.bound(t, beta)


class Elbo(_Elbos):
    r"""The ELBO, the same estimate and gradient as ``pyro.infer.Trace_ELBO``, without host reads.

    With :math:`KL_i` the estimate of :math:`E_q[\log q(z_i|x) - \log p(z_i)]` of latent site i, averaged over
    particles and over the B data of a step, and :math:`\lambda` the free bits in nats, the loss of the step is

    .. math:: -\sum_b E_q[\log p(x_b|z)] + \beta B \sum_i \max(\lambda, KL_i).

    A site whose mean KL is at most :math:`\lambda` costs :math:`\lambda` and has no gradient. Free bits are for
    training (and for ``valid_bound``, over blocks of the validation data): estimates, ``est.elbo`` and ``valid_elbo``
    are those of the pair, with beta = 1 and nothing free.

    Args:
        num_particles: particles to average over.
        gradient: ``"path"``, or ``"stl"`` to stop the score term, whose mean is zero.
        beta: the weight of the KL term; other than 1, the bound is none of log p(x).
        free_bits: nats of KL of each latent site, as a mean over the step's data, that cost nothing more.
        vectorize: score the particles together.

    Raises:
        UserError: an argument that makes no sense.

    Source: Kingma, Welling: Auto-Encoding Variational Bayes, 2013, arXiv:1312.6114. ``beta``: Higgins et al.:
    beta-VAE, 2017. ``free_bits``: Kingma et al.: Improving Variational Inference with Inverse Autoregressive Flow,
    2016, arXiv:1606.04934, equation 15, with a latent site as a subset.

    Example:
        >>> import torch, ppl_vae as pv
        >>> pair = pv.build("linear", data_shape=(5,), latent=2)
        >>> loss = pv.Elbo(num_particles=8, beta=4.0, free_bits=0.5)(pair.model, pair.guide)(torch.zeros(3, 5))
        >>> loss.backward()
    """

    def __init__(
        self, num_particles: int = 1, gradient: str = "path", beta: float = 1.0, free_bits: float = 0.0, *,
        vectorize: bool = True,
    ) -> None:  # fmt: skip
        grad = _choose(gradient, ("path", "stl"))
        super().__init__(elbo, free_bits, num_particles=num_particles, grad=grad, vectorize=vectorize, beta=beta)


class MeanField(_Elbos):
    """The ELBO with the KL of each site in closed form, as ``pyro.infer.TraceMeanField_ELBO``.

    Args:
        num_particles: particles to average over.
        beta: the weight of the KL term.
        free_bits: as in :class:`Elbo`, with the KL in closed form.
        vectorize: score the particles together.

    Raises:
        PairError: the guide samples a site before its model parent; the value would not be the ELBO.

    Example:
        >>> import torch, ppl_vae as pv
        >>> pair = pv.build("vae", data_shape=(5,), latent=2, hidden=(4,))
        >>> bool(pv.MeanField()(pair.model, pair.guide)(torch.zeros(3, 5)).isfinite())
        True
    """

    def __init__(
        self, num_particles: int = 1, beta: float = 1.0, free_bits: float = 0.0, *, vectorize: bool = True
    ) -> None:
        super().__init__(meanfield, free_bits, num_particles=num_particles, vectorize=vectorize, beta=beta)
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
        with torch.no_grad(), forked(device), unmoved(model, guide):  # nor may looking move the noise of the step
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
        beta: the weight of the KL term: each w_k is p(x|z_k) (p(z_k) / q(z_k|x))^beta.

    Source: Burda, Grosse, Salakhutdinov: Importance Weighted Autoencoders, 2015, arXiv:1509.00519.

    Example:
        >>> import torch, ppl_vae as pv
        >>> pair = pv.build("linear", data_shape=(5,), latent=2)
        >>> loss = pv.IWAE(num_particles=8, gradient="dreg")(pair.model, pair.guide)(torch.zeros(3, 5))
        >>> loss.backward()
    """

    def __init__(self, num_particles: int = 10, gradient: str = "path", beta: float = 1.0) -> None:
        kind = _choose(gradient, ("path", "stl", "dreg"))
        self.gradient = kind

        def bound(t: Terms, beta: Beta) -> Tensor:
            return iwae(t, beta, kind)

        super().__init__(bound, num_particles=num_particles, grad="path" if kind == "path" else "stl", beta=beta)


def _choose(gradient: str, choices: tuple[str, ...]) -> Any:
    if gradient not in choices:
        raise UserError(f"gradient={gradient!r}: choose one of {', '.join(map(repr, choices))}")
    return gradient


def _takes_two(function: Callable[..., Any]) -> bool:
    """Whether a function can be called with two arguments."""
    try:
        inspect.signature(function).bind(None, None)
    except TypeError:
        return False
    except ValueError:  # a builtin that does not say
        pass
    return True


def objective(name: str, num_particles: int | None = None, **options: Any) -> Objective:
    """An objective by name: ``"elbo"``, ``"meanfield"`` or ``"iwae"``.

    Args:
        name: one of the names that ``ppl-vae list`` prints.
        num_particles: samples of each datum; None takes the objective's own default.
        options: its other arguments, such as ``gradient="dreg"`` or ``beta=4``.

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
    known = inspect.signature(make).parameters
    strange = sorted(set(options) - set(known))
    if strange:
        raise UserError(f"objective {name!r} takes no option {', '.join(strange)}; it takes {', '.join(known)}")
    try:
        made: Objective = make(**options)
    except UserError as error:
        raise UserError(f"objective {name!r}: {error}") from None
    return made


def ours(loss: Any) -> Objective | None:
    """A loss as one of our objectives where we compute the same thing, else None (Pyro then runs it)."""
    if isinstance(loss, Objective):
        return loss
    if type(loss) not in (Trace_ELBO, TraceMeanField_ELBO):
        return None
    if "beta" in vars(loss):
        raise UserError(f"{type(loss).__name__} has no weight on its KL, and beta is set on it: use pv.Elbo(beta=...)")
    kind = Elbo if type(loss) is Trace_ELBO else MeanField
    return kind(loss.num_particles, vectorize=bool(loss.vectorize_particles or loss.num_particles == 1))
