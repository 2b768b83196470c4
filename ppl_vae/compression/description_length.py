"""The ELBO read as a code: the bits for z, and the bits for x given z."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from torch import Tensor

from ..common.entry import entry_point
from ..common.rng import forked, reseed, seed_for
from ..common.shown import Shown
from ..likelihood.result import mean_size
from ..scoring import observed, terms
from ..scoring.inputs import as_data, device_and_dtype, evaluating, num_rows, to_device
from ..scoring.quantity import LOG_PX, name_of
from ..scoring.support import is_discrete
from ..scoring.validity import refuse_outside, refuse_unweighable

ROWS = 8192  # particles times examples that are scored at once


@dataclass(eq=False, repr=False)
class DescriptionLength(Shown):
    r"""The bits that a pair needs for each example, on average over its guide; (N,) float64 on the CPU.

    Attributes:
        bits_z: what the latents cost, :math:`\mathbb{E}_q[\log_2 q(z|x) - \log_2 p(z)]`: the rate.
        bits_x: what the observed sites cost given the latents, :math:`-\mathbb{E}_q[\log_2 p(x|z)]`: the distortion. Of
            a model that observes the labels too, theirs are among them: ``name`` is then ``"log p(x, y)"``.
        std_error: of their sum, from the draws.
        sites: ``bits_z`` by latent site.
        num_dims: observed numbers of one example, labels among them where they are observed.
        num_samples: draws of the guide for each example.
        seed: the seed.
        is_code: whether the data are discrete, so that ``pv.compress`` reaches this length; the bits of a density are
            relative to a unit of x, and may be negative.
        name: the log density that the code is for, see :class:`~ppl_vae.Estimate`.
    """

    bits_z: Tensor
    bits_x: Tensor
    std_error: Tensor
    sites: dict[str, Tensor]
    num_dims: float
    num_samples: int
    seed: int
    is_code: bool
    name: str = LOG_PX

    @property
    def total(self) -> Tensor:
        """(N,) ``bits_z + bits_x``: the negative ELBO in bits."""
        return self.bits_z + self.bits_x

    @property
    def bits_per_dim(self) -> float:
        """The mean total, per observed number."""
        return float(self.total.mean()) / self.num_dims

    def __str__(self) -> str:
        by_site = ", ".join(f"{n} {float(v.mean()):.2f}" for n, v in self.sites.items())
        code = "" if self.name == LOG_PX else f" for {self.name}"
        names = self.name.removeprefix("log p(").split("|")[0].strip(" )")  # x, or "x, y" where labels are observed
        relative = "" if self.is_code else f"; {names} is continuous: bits relative to a unit of {names}, no code"
        return (
            f"{float(self.total.mean()):.2f} bits per example{code} ({self.bits_per_dim:.4f} bits/dim): z "
            f"{float(self.bits_z.mean()):.2f}{f' ({by_site})' if len(self.sites) > 1 else ''}, {names} given z "
            f"{float(self.bits_x.mean()):.2f}{relative} ({len(self.bits_x)} examples, K = {self.num_samples}, "
            f"seed {self.seed})"
        )


@entry_point
def description_length(
    pair: Any, x: Any, y: Tensor | None = None, num_samples: int = 100, *, seed: int = 0
) -> DescriptionLength:
    r"""The length of the two-part code of which the ELBO is the negative length.

    .. math:: \frac{-\mathrm{ELBO}}{\log 2}
              = \underbrace{\mathbb{E}_q[\log_2 q(z|x) - \log_2 p(z)]}_{\text{z}}
              + \underbrace{\mathbb{E}_q[-\log_2 p(x|z)]}_{\text{x given z}}

    Bits-back coding reaches it (see :func:`~ppl_vae.compress`): the sender gets the bits of q back.

    Args:
        pair: a pair.
        x: data (N, *shape), or a split.
        y: labels (N,), for pairs that take them.
        num_samples: draws of the guide for each example; memory grows with it beyond 8192.
        seed: seeds each data batch on its own.

    Raises:
        PairError: the guide is deterministic, so that its z has no finite code, or has another support than the
            prior; or the model has a ``pyro.factor``.
        DataError: x has no data, or lies outside the support of the likelihood.

    Source: Hinton, van Camp: Keeping Neural Networks Simple by Minimizing the Description Length of the Weights, 1993.

    Example:
        >>> import torch, ppl_vae as pv
        >>> pair = pv.build("vae", data_shape=(6,), latent=2, hidden=(8,))
        >>> found = pv.description_length(pair, torch.zeros(3, 6))
        >>> found.total.shape
        torch.Size([3])
    """
    x, y = as_data(pair, x, y, seed)
    device, _ = device_and_dtype(pair)
    parts: list[dict[str, Tensor]] = []
    is_code = True
    with evaluating(pair), forked(device), pyro.validation_enabled(False):
        block = max(1, ROWS // num_samples)
        for n, start in enumerate(range(0, num_rows(x), block)):
            reseed(seed_for(seed, "description_length", n), device)
            xb, yb = to_device(pair, x, y, slice(start, start + block))
            t = terms.terms(pair.model, pair.guide, xb, yb, num_samples=num_samples)
            refuse_unweighable(t, cover=False)
            refuse_outside(t, start)
            is_code = all(is_discrete(s.p) for s in t.observed.values())
            log_w = t.log_w.double()
            part = {f"z.{name}": (s.log_q - s.log_p).double().mean(0) for name, s in t.sites.items()}
            part |= {"x": -t.log_lik.double().mean(0), "se": log_w.std(0) / math.sqrt(num_samples)}
            part = {k: v.cpu() / math.log(2) for k, v in part.items()}
            parts.append({**part, "num_dims": observed.num_observed(t)})
    whole = {k: torch.cat([p[k] for p in parts]) for k in parts[0]}
    sites = {k.removeprefix("z."): v for k, v in whole.items() if k.startswith("z.")}
    bits_z = torch.stack(list(sites.values())).sum(0) if sites else torch.zeros_like(whole["x"])
    dims = mean_size(whole["num_dims"])
    return DescriptionLength(
        bits_z, whole["x"], whole["se"], sites, dims, num_samples, seed, is_code, name_of(pair, x, y)
    )
