"""The ELBO with a discrete latent of the guide summed over its values, for an exact gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..common.errors import PairError
from ..common.fields import num_data
from ..scoring import terms, trace
from ..scoring.kinds import title
from ..scoring.param_store import Program
from ..scoring.support import is_discrete
from ..scoring.terms import Terms
from .base import Beta, Objective, finite, less_factors, one_scale, times


def enumerated(t: Terms, beta: Beta = 1.0) -> Tensor:
    r"""The bound of each example, (B,) nats, of terms whose discrete site has each value equally often.

    Without a discrete site it is the ELBO.
    """
    bound = times(t.log_lik + beta * (t.log_prior - t.log_q), one_scale(t, "enumerated"))
    bound = less_factors(bound, t)  # (K, B)
    classes = [s for s in t.sites.values() if is_discrete(s.q)]
    if not classes:
        return bound.mean(0)
    q = classes[0].log_q.exp()
    return (q * finite(bound)).sum(0) / q.detach().sum(0)  # q sums to the particles of each value


class Enumerated(Objective):
    r"""The ELBO with the guide's discrete latent summed out exactly, in value and gradient.

    .. math:: \sum_c q(c|x) \, E_{q(z|x,c)} \left[\log \frac{p(x, c, z)}{q(c|x)\, q(z|x, c)}\right]

    Each value of c has its own particles. A step costs as many decoder evaluations as c has values; there is no score
    function, and so no noise of it. Where the guide draws no discrete latent, it is the ELBO.

    Use for a guide with one class of few values, such as that of m2.

    Args:
        num_particles: particles for each value.
        beta: the weight of the KL term.

    Raises:
        PairError: the guide has several discrete latents, or one whose values can't be listed.

    Source: Kingma, Rezende, Mohamed, Welling: Semi-Supervised Learning with Deep Generative Models, 2014,
    arXiv:1406.5298.

    Example:
        >>> import torch, ppl_vae as pv
        >>> pair = pv.build("m2", data_shape=(5,), num_classes=3, latent=2, hidden=(8,))
        >>> loss = pv.objective("enumerated")(pair.model, pair.guide)
        >>> loss(torch.zeros(4, 5), torch.tensor([0, -1, 2, -1])).backward()
    """

    def __init__(self, num_particles: int = 1, beta: float = 1.0) -> None:
        super().__init__(enumerated, num_particles=num_particles, beta=beta)

    def bounds(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """The bound of each example, (B,) nats, with its exact gradient in q(c|x)."""
        with torch.no_grad():  # a run of the guide alone finds the values
            sites = trace.sample_sites(trace.trace_program(guide, args, kwargs, 1))
        found = {name: s["fn"] for name, s in sites.items() if not s["is_observed"] and is_discrete(s["fn"])}
        if not found:
            return super().bounds(model, guide, *args, **kwargs)
        name, support = listed(found)
        n = num_data(args[0])
        every = support.repeat(self.draws, *[1] * (support.dim() - 1)).unsqueeze(1)  # (K, 1, *event)
        values = {name: every.expand(len(every), n, *support.shape[1:])}
        t = terms.terms_of(model, guide, args, args, kwargs, num_samples=len(every), values=values)
        return self.value(t, self.beta)


def listed(found: dict[str, Any]) -> tuple[str, Tensor]:
    """The one discrete site, and its values (C, *event).

    Raises:
        PairError: there are several, or its values can't be listed.
    """
    if len(found) > 1:
        raise PairError(f"enumerated: the guide draws {', '.join(found)}, and one discrete latent can be summed over")
    [(name, fn)] = found.items()
    try:
        support: Tensor = fn.enumerate_support(expand=False)
    except NotImplementedError:
        raise PairError(
            f"enumerated: the values of site {name!r} ({title(fn)}) can't be listed; use score or rws"
        ) from None
    return name, support.reshape(-1, *fn.event_shape)
