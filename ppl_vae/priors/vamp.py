"""VampPrior: the average of the guide over learned pseudo-inputs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from pyro.distributions import constraints
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn

from ..common.errors import UserError
from ..nn.distributions import GaussianMixture


class Vamp(nn.Module):
    r"""A mixture of the guide at pseudo-inputs u, which are learned with the model.

    .. math:: p(z) = \frac{1}{C} \sum_c q(z|u_c)

    The prior that maximises the ELBO is the average of the guide over the data; this is one that fits into memory.
    Pseudo-inputs start at the mean of the data, with noise.

    Use when the standard normal leaves many latents unused, or draws of it look worse than reconstructions.

    Args:
        latent: width of z.
        components: pseudo-inputs C.

    Source: Tomczak, Welling: VAE with a VampPrior, 2017, arXiv:1705.07120.

    Example:
        >>> import ppl_vae as pv
        >>> pair = pv.build("vae", data_shape=(1, 8, 8), latent=2, hidden=(16,), prior="vamp:components=20")
        >>> pair.model.prior.inputs.shape
        torch.Size([20, 1, 8, 8])
    """

    def __init__(self, latent: int, components: int = 100) -> None:
        super().__init__()
        self.components = components

    def attach(self, encode: nn.Module, data_shape: Sequence[int], data_mean: Tensor | None) -> None:
        """Take the guide, a module from x to q(z|x), and where the pseudo-inputs start."""
        mean = torch.full(tuple(data_shape), 0.5) if data_mean is None else data_mean
        self.encode = encode
        self.inputs = nn.Parameter(mean + 0.1 * torch.randn(self.components, *data_shape))

    def forward(self) -> Any:
        if not hasattr(self, "inputs"):
            raise UserError("prior 'vamp' is an average of the guide: it is for pairs that give it theirs")
        q = self.encode(self.inputs)  # batch shape (C,), event shape (latent,)
        base = getattr(q, "base_dist", None)
        if isinstance(base, torch.distributions.Normal):
            return GaussianMixture(base.loc.new_zeros(self.components), base.loc, base.scale)
        return Average(q)


class Average(TorchDistribution):
    """The average of the distributions of a batch (C,) with event shape (latent,)."""

    arg_constraints = {}  # noqa: RUF012
    support = constraints.real_vector
    has_rsample = False

    def __init__(self, parts: Any, batch_shape: Any = ()) -> None:
        self.parts = parts
        super().__init__(torch.Size(batch_shape), parts.event_shape, validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Average:
        return Average(self.parts, batch_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        each: Tensor = self.parts.log_prob(value.unsqueeze(-2))  # (*, C)
        log_p: Tensor = each.logsumexp(-1) - math.log(each.shape[-1])
        found: Tensor = log_p.expand(torch.broadcast_shapes(log_p.shape, self.batch_shape))
        return found

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        shape = torch.Size(sample_shape) + self.batch_shape
        draws: Tensor = self.parts(shape)  # (*, C, latent)
        which = torch.randint(draws.shape[-2], (*shape, 1, 1), device=draws.device)
        return draws.gather(-2, which.expand(*shape, 1, draws.shape[-1])).squeeze(-2)
