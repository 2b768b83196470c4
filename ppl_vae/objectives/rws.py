"""Reweighted wake-sleep: the model and the guide each by its own objective, with no gradient through the draws."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..common.errors import PairError, UserError
from ..common.rng import forked
from ..scoring import programs, simulate, trace
from ..scoring.param_store import Program, unmoved
from ..scoring.stop_gradient import guide_parts
from ..scoring.terms import Terms
from .base import Objective, choose_from, finite, gradient_only, log_mean_exp, log_weights, one_scale, times


def wake(t: Terms, phi: float = 1.0) -> Tensor:
    r"""The K-sample bound of each example, (B,) nats, of terms made with ``grad="score"``.

    .. math:: \nabla_\theta = \sum_k \tilde w_k \nabla_\theta \log p(x, z_k), \qquad
        \nabla_\phi = \sum_k \tilde w_k \nabla_\phi \log q(z_k|x)

    The second, times ``phi``, lowers KL(p(z|x) || q(z|x)). The weights are normalised for each example.
    """
    log_w = log_weights(t, 1.0, "rws", reparameterised=False).detach()
    surrogate = torch.softmax(log_w, 0) * (finite(t.log_lik + t.log_prior) + phi * t.log_q)
    return times(log_mean_exp(log_w) + gradient_only(surrogate.sum(0)), one_scale(t, "rws"))


def sleep(model: Program, guide: Program, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """log q(z|x), (B,) nats, of as many examples that the model draws with their latents."""
    with torch.no_grad():
        sites = programs.sites(model, args, kwargs, uncondition=True, inside=True)
        drawn = simulate.rerun(sites, args[0])._replace(kept=True)  # missing entries, masks, lengths: as in the data
        x = simulate.assembled(drawn, simulate.value_of, whole=True)
    latents = {name: d.value for name, d in sites.items() if name not in drawn.data and not d.is_observed}
    scored = trace.sample_sites(trace.trace_program(guide, (x, *args[1:]), kwargs, 1, latents))
    parts = guide_parts({name: scored[name] for name in latents if name in scored})  # others are summed out
    log_q: Tensor = torch.stack([part.log_prob[0] for part in parts.values()]).sum(0)
    return log_q


class RWS(Objective):
    """Reweighted wake-sleep: the model by weighted draws, the guide by weighted draws or by the model's own.

    The value is the bound of :class:`IWAE`, of which wake-theta is the gradient for the model. The guide lowers
    KL(p || q), which covers the posterior; it is no gradient of the bound. Weights are self-normalised, so that both
    wake phases are biased by a term that falls as 1/K; the sleep phase is unbiased, for the model's data.

    Use when latents are discrete, or when the guide is to be a proposal: it does not vanish as K grows.

    Args:
        num_particles: the number K of samples.
        phi: how the guide is trained: ``"wake"``, by the weighted draws for the data; ``"sleep"``, by draws (x, z) of
            the model; or ``"both"``, half of each.

    Raises:
        UserError: an argument of another type or out of range; a model that does not draw all that the guide takes.

    Source: Bornschein, Bengio: Reweighted Wake-Sleep, 2014, arXiv:1406.2751. Le et al.: Revisiting Reweighted
    Wake-Sleep for Models with Stochastic Control Flow, 2018, arXiv:1805.10469.

    Example:
        >>> import torch, ppl_vae as pv
        >>> pair = pv.build("linear", data_shape=(5,), latent=2)
        >>> pv.objective("rws:phi=both", num_particles=8)(pair.model, pair.guide)(torch.zeros(3, 5)).backward()
    """

    def __init__(self, num_particles: int = 10, phi: str = "wake") -> None:
        self.phi = chosen = choose_from("phi", phi, ("wake", "sleep", "both"))
        self._scale: float | Tensor = 1.0
        self._validated: tuple[Program, Program] | None = None
        self.asleep = {"wake": 0.0, "sleep": 1.0, "both": 0.5}[chosen]

        def bound(t: Terms) -> Tensor:
            self._scale = one_scale(t, "rws")  # of the plate, for the sleep phase too
            return wake(t, 1 - self.asleep)

        super().__init__(bound, num_particles=num_particles, grad="score")

    def bounds(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """The bound of each example, (B,) nats, with the gradient of this objective."""
        bound = super().bounds(model, guide, *args, **kwargs)
        if not self.asleep:
            return bound
        self.validate(model, guide, *args)
        return bound + gradient_only(self.asleep * times(sleep(model, guide, args, kwargs), self._scale))

    def validate(self, model: Program, guide: Program, *args: Any) -> None:
        """Refuse a sleep phase where the model observes labels given its latents: its draws are then none given them.

        Raises:
            PairError: names the site.
        """
        programs_ = getattr(model, "__wrapped__", model), getattr(guide, "__wrapped__", guide)
        if not self.asleep or self._validated == programs_:
            return
        device = next((a.device for a in args if torch.is_tensor(a)), "cpu")
        with torch.no_grad(), forked(device), unmoved(model, guide):
            sites = programs.sites(model, args, {}, uncondition=True, inside=True)
            try:
                simulate.refuse_dependent(model, args, {}, sites, inside=True)
            except UserError as error:
                raise PairError(f"rws, phi={self.phi!r}: {error}, or use phi='wake'") from None
        self._validated = programs_
