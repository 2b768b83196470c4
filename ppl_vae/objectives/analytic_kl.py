"""The evidence lower bound with each KL in closed form."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..common.errors import PairError
from ..common.rng import forked
from ..scoring import terms
from ..scoring.param_store import Program, unmoved
from ..scoring.programs import parents
from ..scoring.terms import Terms
from .base import Beta, less_factors, log_ratio, needs_rsample, times
from .elbo import WithFreeBits, with_free_bits


def analytic_kl(t: Terms, beta: Beta = 1.0, free_bits: float = 0.0) -> Tensor:
    r"""The evidence lower bound with each KL in closed form where torch has one, (B,) nats.

    .. math:: E_q[\log p(x|z)] - \beta \sum_i KL(q(z_i) || p(z_i))

    Valid only where no site's model parent follows it in the guide, which :class:`AnalyticKL` checks.
    """
    bound = sum(times(s.log_p, s.scale) for s in t.observed.values()) + torch.zeros_like(t.log_lik)
    for s in t.sites.values():
        needs_rsample(s, "analytic_kl")
        kl = s.kl
        ratio = log_ratio(s) if kl is None else -times(kl, s.scale_q)
        if free_bits:
            kl = s.log_q - s.log_p if kl is None else kl
        bound = bound + beta * with_free_bits(s, ratio, kl, free_bits)
    for s in t.factors.values():
        needs_rsample(s, "analytic_kl")
    return less_factors(bound, t).mean(0)


class AnalyticKL(WithFreeBits):
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
        >>> bool(pv.AnalyticKL()(pair.model, pair.guide)(torch.zeros(3, 5)).isfinite())
        True
    """

    def __init__(
        self, num_particles: int = 1, beta: float = 1.0, free_bits: float = 0.0, *, vectorize: bool = True
    ) -> None:
        super().__init__(analytic_kl, free_bits, num_particles=num_particles, vectorize=vectorize, beta=beta)
        self._validated: tuple[Program, Program] | None = None

    def differentiable_loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """Minus the bound, summed over the examples; the order of the sites is checked once for each pair."""
        self.validate(model, guide, *args)
        return super().differentiable_loss(model, guide, *args, **kwargs)

    def validate(self, model: Program, guide: Program, *args: Any) -> None:
        """Refuse a guide that samples a site before its model parent.

        Raises:
            PairError: names both sites.
        """
        programs = getattr(model, "__wrapped__", model), getattr(guide, "__wrapped__", guide)
        if self._validated == programs:
            return
        device = next((a.device for a in args if torch.is_tensor(a)), "cpu")
        with torch.no_grad(), forked(device), unmoved(model, guide):  # the check must not change the noise of the step
            one, two = (terms.terms_of(model, guide, args, args).sites for _ in range(2))
            order = list(one)
            above = parents(model, args, *({n: s.value for n, s in d.items()} for d in (one, two)))
        for site in one.values():
            needs_rsample(site, "analytic_kl")
        for child, its_parents in above.items():
            for parent in its_parents:
                if order.index(child) < order.index(parent):
                    raise PairError(
                        f"analytic_kl: the guide samples {child!r} before {parent!r}, its parent in the model, so the "
                        f"sum of closed-form KLs is not the ELBO; sample {parent!r} first, or use the objective 'elbo'"
                    )
        self._validated = programs


MeanField = AnalyticKL  # the former name
