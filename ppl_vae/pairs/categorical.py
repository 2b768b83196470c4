r"""Latents that are classes, several at once; while training, each is relaxed to a point between the classes.

.. math:: c_i \sim \operatorname{Cat}(\pi_i), \qquad x \sim p(x|c); \qquad
    \text{relaxed: } s_i = \operatorname{softmax}((\log \pi_i + g_i) / \tau), \quad g \sim \operatorname{Gumbel}

Training differentiates through s, by the ELBO of the model in which s stands for c. In evaluation mode, so in every
estimate, code and sample, latents are classes. Maddison, Mnih, Teh: The Concrete Distribution, 2016, arXiv:1611.00712.
Jang, Gu, Poole: Categorical Reparameterization with Gumbel-Softmax, 2016, arXiv:1611.01144.
"""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ..common.errors import UserError
from ..nn.distributions import Concrete
from .base import Pair
from .networks import Networks, with_networks
from .vae import Guide, Model


class Classes(nn.Module):
    """Logits (*, groups, classes) to a one-hot vector for each group; while training, to the log of a relaxed one."""

    temperature: Tensor

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.register_buffer("temperature", torch.tensor(float(temperature)), persistent=False)
        self.can_relax = temperature > 0

    def forward(self, logits: Tensor) -> Any:
        p: Any = Concrete(self.temperature, logits=logits) if self.relaxed else dist.OneHotCategorical(logits=logits)
        return p.to_event(1)

    @property
    def relaxed(self) -> bool:
        return self.training and self.can_relax


class Prior(nn.Module):
    """Learned logits for each group, which start at 0."""

    def __init__(self, groups: int, classes: int, family: Classes) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(groups, classes))
        self.family = family

    def forward(self) -> Any:
        return self.family(self.logits)


class FromClasses(nn.Module):
    """The decoder of the vectors of all groups."""

    def __init__(self, decoder: nn.Module, family: Classes) -> None:
        super().__init__()
        self.decoder = decoder
        self.family = family

    def forward(self, z: Tensor) -> Any:
        return self.decoder((z.exp() if self.family.relaxed else z).flatten(-2))


@with_networks
def categorical(networks: Networks, *, latent: int = 20, classes: int = 10, temperature: float = 0.5) -> Pair:
    """A VAE with categorical latents, which are relaxed while training (Gumbel-softmax).

    Args:
        latent: groups, of which each is in one class.
        classes: classes in each group.
        temperature: of the relaxation; a lower one is nearer to classes, with noisier gradients. At 0 training draws
            classes: by vimco, rws, score or tvo.

    Example:
        $ ppl-vae train categorical --latent 10 --classes 8 --warmup 10 --epochs 100 --batch-size 64 --lr 2e-3
            --schedule linear --num-samples 500
    """
    if latent < 1 or classes < 2 or not 0 <= temperature < float("inf"):
        raise UserError(
            f"latent={latent}, classes={classes}, temperature={temperature}: at least one group of two classes, and a "
            f"temperature from 0 on"
        )
    p, encoder, decoder = networks.make(latent * classes)
    family = Classes(temperature)
    logits = nn.Linear(encoder.features, latent * classes)
    head = nn.Sequential(logits, nn.Unflatten(-1, (latent, classes)), family)
    return Pair(Model(Prior(latent, classes, family), FromClasses(decoder, family), p), Guide(encoder, head))
