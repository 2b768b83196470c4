"""A mixture of Gaussians that is fitted to codes after training: what an autoencoder is sampled from."""

from __future__ import annotations

import warnings
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ..common.errors import UserError
from ..common.rng import quiet_import


class Fitted(nn.Module):
    r"""An ex-post density: Gaussians with every covariance, fitted by EM to the codes of the training data.

    .. math:: p(z) = \sum_c \pi_c N(z; \mu_c, \Sigma_c)

    It is masked, so it counts nothing in training. ``fit`` ends by fitting it, and it is saved with the weights. Until
    then it is N(0, I). By hand: ``pair.model.prior.fit_codes(pv.encode(pair, x).mean["z"])``.

    Use for autoencoders, whose codes are free: draws of N(0, I) fall beside them.

    Args:
        latent: width of z.
        components: Gaussians in the mixture.

    Source: Ghosh, Sajjadi, Vergari, Black, Schölkopf: From Variational to Deterministic Autoencoders, 2019,
    arXiv:1903.12436.

    Raises:
        UserError: no components.

    Example:
        >>> prior = Fitted(2, components=3)
        >>> prior.fit_codes(torch.randn(50, 2))
        >>> prior.told
        'a mixture of 3 Gaussians, fitted to the codes of 50 training examples'
    """

    logits: Tensor
    loc: Tensor
    scale_tril: Tensor
    num_codes: Tensor

    def __init__(self, latent: int, components: int = 10) -> None:
        super().__init__()
        if components < 1:
            raise UserError(f"components={components}: a mixture needs at least one")
        self.register_buffer("logits", torch.zeros(components))
        self.register_buffer("loc", torch.zeros(components, latent))
        self.register_buffer("scale_tril", torch.eye(latent).repeat(components, 1, 1))
        self.register_buffer("num_codes", torch.tensor(0))

    def forward(self) -> Any:
        each = dist.MultivariateNormal(self.loc, scale_tril=self.scale_tril)
        return dist.MixtureSameFamily(dist.Categorical(logits=self.logits), each).mask(False)

    @torch.no_grad()
    def fit_codes(self, z: Tensor, seed: int = 0) -> None:
        """Fit the mixture to codes (N, latent), N > 1, by EM from k-means, in units of their standard deviations."""
        z = z.detach().cpu().double()
        centre, unit = z.mean(0), z.std(0)
        unit = unit.clamp(min=1e-6 * float(unit.max()) + 1e-12)  # a code may be constant
        count = min(len(self.logits), len(z))
        with warnings.catch_warnings():  # of codes that coincide
            warnings.simplefilter("ignore", quiet_import("sklearn.exceptions").ConvergenceWarning)
            em = quiet_import("sklearn.mixture").GaussianMixture(count, reg_covar=1e-4, random_state=seed)
            em.fit(((z - centre) / unit).numpy())
        weights, loc, covariance = map(torch.from_numpy, (em.weights_, em.means_, em.covariances_))
        self.logits.fill_(-torch.inf)[:count] = weights.log()  # fewer codes than components leave some empty
        self.loc[:count] = centre + unit * loc
        self.scale_tril[:count] = unit[:, None] * torch.linalg.cholesky(covariance)
        self.num_codes.fill_(len(z))

    @property
    def told(self) -> str:
        """What z is drawn from, in words."""
        n = int(self.num_codes)
        if n == 0:
            return "N(0, I): no mixture was fitted to codes yet, which the end of a fit does"
        return f"a mixture of {len(self.logits)} Gaussians, fitted to the codes of {n} training examples"
