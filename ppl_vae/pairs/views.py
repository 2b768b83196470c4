r"""Several views of one thing: z ~ p(z), x_v ~ p_v(x_v | z). Each view has an expert, N(m_v, diag s_v^2), in the guide.

.. math:: q(z|x) \propto N(z; 0, I) \prod_v N(z; m_v, s_v^2), \qquad q(z|x) = \frac{1}{V} \sum_v N(z; m_v, s_v^2)

A view whose numbers are all NaN is missing: it has no expert, and is left out of log p(x).

Wu, Goodman: Multimodal Generative Models for Scalable Weakly-Supervised Learning, 2018, arXiv:1802.05335 (product).
Shi, Siddharth, Paige, Torr: Variational Mixture-of-Experts Autoencoders, 2019, arXiv:1911.03393 (mixture).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ..common.choices import Choice
from ..common.errors import UserError
from ..nn.distributions import GaussianMixture
from ..nn.likelihoods import seen
from ..nn.networks import Encoder, flat, linears
from ..priors.choice import make_prior
from .base import Pair, data_plate
from .networks import Networks

Views = dict[str, Tensor]


class Model(nn.Module):
    """z ~ prior; x_v ~ likelihood_v(decoder_v(z)) at a site of the name of each view."""

    def __init__(self, prior: nn.Module, decoders: nn.ModuleDict, likelihoods: nn.ModuleDict) -> None:
        super().__init__()
        self.prior, self.decoders, self.likelihoods = prior, decoders, likelihoods

    def forward(self, x: Views | None = None, y: Tensor | None = None, n: int = 1) -> Any:
        x = x or {}
        with data_plate(x or None, n):
            z = pyro.sample("z", self.prior())
            p = {name: self.likelihoods[name](decoder(z)) for name, decoder in self.decoders.items()}
            return {name: pyro.sample(name, seen(p[name], x.get(name)), obs=x.get(name)) for name in p}


class Expert(nn.Module):
    """One view to its mean and log scale, and whether it was seen: (B, L), (B, L), (B,)."""

    def __init__(self, encoder: Encoder, latent: int) -> None:
        super().__init__()
        self.encoder, self.linear = encoder, linears(encoder.features, latent, latent)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        loc, log_scale = self.linear(self.encoder(x.nan_to_num())).chunk(2, -1)
        return loc, log_scale, ~flat(x, x.dim() - 1).isnan().all(-1)


def product(loc: Tensor, log_scale: Tensor, on: Tensor) -> Any:
    """The product of N(0, I) and the experts (B, V, L) that are on (B, V)."""
    precision = (-2 * log_scale).exp() * on.unsqueeze(-1)
    total = 1 + precision.sum(-2)
    return dist.Normal((precision * loc).sum(-2) / total, total.rsqrt()).to_event(1)


def mixture(loc: Tensor, log_scale: Tensor, on: Tensor) -> Any:
    """The average of the experts that are on; N(0, I) where none is."""
    none = ~on.any(-1, keepdim=True)
    zero = torch.zeros_like(loc[..., :1, :])
    logits = torch.where(torch.cat([none, on], -1), 0.0, -torch.inf).to(loc)
    return GaussianMixture(logits, torch.cat([zero, loc], -2), torch.cat([zero, log_scale], -2).exp())


EXPERTS = {"product": product, "mixture": mixture}


class Guide(nn.Module):
    """z ~ what the experts of the views that were seen say together."""

    def __init__(self, experts: nn.ModuleDict, together: str) -> None:
        super().__init__()
        self.experts, self.together = experts, together

    def forward(self, x: Views, y: Tensor | None = None) -> Any:
        loc, log_scale, on = zip(*(expert(x[name]) for name, expert in self.experts.items()), strict=True)
        with data_plate(x, 1):
            q = EXPERTS[self.together](torch.stack(loc, -2), torch.stack(log_scale, -2), torch.stack(on, -1))
            return pyro.sample("z", q)


def views(
    *,
    data_shape: Mapping[str, Sequence[int]],
    latent: int = 4,
    hidden: Sequence[int] = (64,),
    likelihood: Sequence[str] = ("gaussian_learned",),
    experts: str = "product",
    network: Choice = "mlp",
    activation: Choice = "tanh",
    prior: Choice = "standard",
) -> Pair:
    """Several views of one thing, any of which may be missing: a product or a mixture of experts.

    Args:
        data_shape: shape of an example of each view, by its name.
        latent: latent dimensions.
        hidden: widths (or channels) of the networks of a view, from the data inwards.
        likelihood: of every view, or of each in the order of the data.
        experts: product or mixture.
        network: mlp, resnet or conv.
        activation: tanh, relu, gelu, silu, softplus or leaky_relu.
        prior: family of p(z): standard, mixture, flow or laplace.

    Raises:
        UserError: a view with the name of a latent, another number of likelihoods, or no such way to join experts.

    Example:
        $ ppl-vae train views --data views --latent 3 --epochs 30 --lr 3e-3 --num-samples 500
    """
    each = tuple(likelihood) * (len(data_shape) if len(likelihood) == 1 else 1)
    if "z" in data_shape or len(each) != len(data_shape) or experts not in EXPERTS:
        raise UserError(
            f"views {', '.join(data_shape)}, likelihood={tuple(likelihood)}, experts={experts!r}: name no view z, give "
            f"one likelihood or one a view, and {' or '.join(EXPERTS)}"
        )
    made = {
        name: Networks(shape, None, hidden, p, network=network, activation=activation).make(latent)
        for (name, shape), p in zip(data_shape.items(), each, strict=True)
    }
    decoders = nn.ModuleDict({name: decoder for name, (_, _, decoder) in made.items()})
    likelihoods = nn.ModuleDict({name: p for name, (p, _, _) in made.items()})
    said = nn.ModuleDict({name: Expert(encoder, latent) for name, (_, encoder, _) in made.items()})
    return Pair(Model(make_prior(prior, latent, None, ()), decoders, likelihoods), Guide(said, experts))
