r"""M2: a class c and a style z, independent a priori; labels are known for some examples, and else summed out.

.. math:: p(x, z) = p(z) \sum_c p(c) \, p(x|z, c), \qquad q(z|x) = \sum_c q(c|x) \, q(z|x, c)

While it is trained, the guide draws c, so that the model is told the class that z was drawn for; the objective
``enumerated`` sums over that draw. In evaluation it is the mixture over c, a density of z alone; the model sums c out.

Kingma, Rezende, Mohamed, Welling: Semi-Supervised Learning with Deep Generative Models, 2014, arXiv:1406.5298.
"""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ..nn.distributions import GaussianMixture
from ..nn.likelihoods import Likelihood
from ..nn.networks import cat, linears
from ..priors.standard import StandardNormal
from .base import Pair, data_plate, drawn_class
from .networks import Networks, with_networks

NEVER = -100.0  # a log weight whose exp is nothing beside 1


class Model(nn.Module):
    """c ~ uniform; z ~ N(0, I); x ~ likelihood(decoder(z, c))."""

    missing_labels = True  # -1: the class is summed out
    codes: Tensor
    logits: Tensor

    def __init__(self, num_classes: int, latent: int, decoder: nn.Module, likelihood: Likelihood) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.register_buffer("codes", torch.eye(num_classes), persistent=False)
        self.register_buffer("logits", torch.zeros(num_classes), persistent=False)  # uniform
        self.prior = StandardNormal(latent)
        self.decoder = decoder
        self.likelihood = likelihood

    def forward(self, x: Tensor | None = None, y: Tensor | None = None, n: int = 1) -> Any:
        with data_plate(x, n):
            c = drawn_class(self.logits, x, y)
            z = pyro.sample("z", self.prior())
            return pyro.sample("x", self.likelihood(self.decoder(cat(z, self.codes[c]))), obs=x)


class Guide(nn.Module):
    """c ~ q(c|x), or the label where it is known; z ~ N(mu_c(x), sigma_c(x)^2). In evaluation, c is summed out."""

    codes: Tensor

    def __init__(self, classifier: nn.Module, styles: nn.Module, num_classes: int, latent: int, alpha: float) -> None:
        super().__init__()
        self.alpha, self.shape = alpha, (num_classes, latent)
        self.register_buffer("codes", torch.eye(num_classes), persistent=False)
        self.classifier = classifier  # x to logits (B, C)
        self.styles = styles  # x to (B, 2 * C * latent)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Any:
        log_q = self.classifier(x).log_softmax(-1)
        loc, log_scale = (part.unflatten(-1, self.shape) for part in self.styles(x).chunk(2, -1))  # (B, C, latent)
        with data_plate(x, 1):
            if y is not None:
                code, known = self.codes[y.clamp(min=0)], (y >= 0).unsqueeze(-1)
                pyro.factor("labels", -self.alpha * (log_q * code * known).sum(-1), has_rsample=True)
                log_q = torch.where(known, NEVER * (1 - code), log_q)
            if not self.training:
                return pyro.sample("z", GaussianMixture(log_q, loc, log_scale.exp()))
            c = self.codes[pyro.sample("c", dist.Categorical(logits=log_q))].unsqueeze(-1)
            return pyro.sample("z", dist.Normal((c * loc).sum(-2), (c * log_scale).sum(-2).exp()).to_event(1))


@with_networks
def m2(networks: Networks, *, num_classes: int, latent: int = 10, alpha: float = 50.0) -> Pair:
    """A VAE with a class and a style, for data of which some have labels; ``pv.classify`` gives p(c | x).

    Args:
        num_classes: labels 0 ... num_classes - 1; y is -1 where the label is not known.
        latent: latent dimensions of the style.
        alpha: weight of the log probability that the guide's classifier gives to a known label; about
            the number of examples for each label.

    Example:
        $ ppl-vae train m2 --labels 100 --latent 10 --epochs 50 --batch-size 64 --lr 2e-3 --schedule linear
            --num-samples 1000
    """
    p, encoder, decoder = networks.make(latent, extra=num_classes, encodes=False)
    _, encoder_of_class, _ = networks.make(latent, encodes=False)
    styles = nn.Sequential(encoder, linears(encoder.features, *[latent] * (2 * num_classes)))
    classifier = nn.Sequential(encoder_of_class, linears(encoder.features, num_classes))
    return Pair(Model(num_classes, latent, decoder, p), Guide(classifier, styles, num_classes, latent, alpha))
