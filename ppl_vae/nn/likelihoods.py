"""Decoder output to p(x|z): one small class a likelihood."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from ..common.choices import Choice, construct
from ..common.errors import UserError
from ..common.registry import LIKELIHOODS as LIKELIHOODS
from . import distributions


class Likelihood(nn.Module):
    """p(x|z) for data of one shape, from decoder output h of shape (*, multiple, *data_shape).

    Args:
        data_shape: shape of one example; where it is left out, a pair's builder fills it in.
        options: what else it was made with.

    Attributes:
        multiple: numbers that it needs for each coordinate.
    """

    multiple = 1

    def __init__(self, data_shape: Sequence[int] | None = None, **options: Any) -> None:
        super().__init__()
        self.event_dim: Any = None if data_shape is None else len(data_shape)
        self.options = options

    def forward(self, h: Tensor) -> Any:
        """The distribution of x, with event shape ``data_shape``."""
        return self.per_coordinate(*h.unbind(-1 - self.event_dim)).to_event(self.event_dim)

    def per_coordinate(self, *h: Tensor) -> Any:
        """The distribution of each coordinate, from ``multiple`` tensors of shape (*, *data_shape)."""
        raise TypeError(f"{type(self).__name__} defines no distribution")

    def start(self, mean: Tensor) -> Tensor:
        """The output (multiple, *data_shape) whose distribution has this mean; other numbers start at zero."""
        return torch.stack([mean, *[torch.zeros_like(mean)] * (self.multiple - 1)])

    def expected(self, p: Any) -> Tensor:
        """E[x] under what this likelihood gave; nearly, where the exact mean is a long sum."""
        mean: Tensor = p.mean
        return mean

    def seen(self, mean: Tensor, scale: Tensor, value: Tensor, noise: Tensor) -> Tensor:
        """The output (multiple, *) for x of this mean and scale, of which value ~ N(x, noise^2) is known.

        Here the mean is that of a Gaussian x; a likelihood with a better answer gives its own.
        """
        return self.start(posterior(mean, scale, value, noise)[0])


def posterior(mean: Tensor, scale: Tensor, value: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of x ~ N(mean, scale^2) given value ~ N(x, noise^2)."""
    share = scale**2 / (scale**2 + noise**2)
    return mean + share * (value - mean), share.sqrt() * noise


class Bernoulli(Likelihood):
    """x in {0, 1}; the output is the logit of p(x = 1)."""

    def per_coordinate(self, *h: Tensor) -> Any:
        return dist.Bernoulli(logits=h[0])

    def start(self, mean: Tensor) -> Tensor:
        return torch.logit(mean.clamp(1e-3, 1 - 1e-3)).unsqueeze(0)

    def seen(self, mean: Tensor, scale: Tensor, value: Tensor, noise: Tensor) -> Tensor:
        """Bayes' rule for a bit: the log odds grow by log N(value; 1, noise^2) - log N(value; 0, noise^2)."""
        return self.start(mean) + (value - 0.5) / noise**2


class Gaussian(Likelihood):
    """x real; the output is the mean, ``sigma`` is fixed."""

    sigma: Tensor

    def __init__(self, data_shape: Sequence[int] | None = None, sigma: float = 1.0) -> None:
        super().__init__(data_shape, sigma=positive("sigma", sigma))
        self.register_buffer("sigma", torch.tensor(float(sigma)))

    def per_coordinate(self, *h: Tensor) -> Any:
        return dist.Normal(h[0], self.sigma)


class GaussianLearned(Likelihood):
    """x real; the output is the mean, one sigma for all coordinates is learned from ``sigma`` on."""

    def __init__(self, data_shape: Sequence[int] | None = None, sigma: float = 1.0) -> None:
        super().__init__(data_shape, sigma=positive("sigma", sigma))
        if data_shape is not None:
            self.log_sigma = nn.Parameter(torch.full(self.sigma_shape(data_shape), math.log(sigma)))

    def sigma_shape(self, data_shape: Sequence[int]) -> tuple[int, ...]:
        """The shape of the learned sigma."""
        return (1,) * len(data_shape)

    def per_coordinate(self, *h: Tensor) -> Any:
        return dist.Normal(h[0], self.log_sigma.exp())


class GaussianDiagonal(GaussianLearned):
    """x real; the output is the mean, one sigma for each coordinate is learned from ``sigma`` on."""

    def sigma_shape(self, data_shape: Sequence[int]) -> tuple[int, ...]:
        return tuple(data_shape)


class GaussianNetwork(Likelihood):
    """x real; the outputs are the mean and log sigma, which is kept above 0.01.

    Without a floor this likelihood has no bound: Mattei, Frellsen: Leveraging the Exact Likelihood of Deep Latent
    Variable Models, 2018, arXiv:1802.04826.
    """

    multiple = 2

    def per_coordinate(self, *h: Tensor) -> Any:
        return dist.Normal(h[0], 0.01 + h[1].exp())

    def seen(self, mean: Tensor, scale: Tensor, value: Tensor, noise: Tensor) -> Tensor:
        loc, width = posterior(mean, scale, value, noise)
        return torch.stack([loc, width.log().expand_as(loc)])


class ContinuousBernoulli(Likelihood):
    """x in [0, 1]; the output is the logit of the parameter.

    Source: Loaiza-Ganem, Cunningham: The continuous Bernoulli: fixing a pervasive error in variational autoencoders,
    2019, arXiv:1907.06845.
    """

    def per_coordinate(self, *h: Tensor) -> Any:
        return distributions.ContinuousBernoulli(h[0])

    def start(self, mean: Tensor) -> Tensor:
        return distributions.logit_of_mean(mean.clamp(1e-2, 1 - 1e-2)).unsqueeze(0)


class Discretized(Likelihood):
    """8-bit pixels, as x in {0, 1/255, ..., 1}: the exact probability of the integers; bits per dimension mean bits."""

    multiple = 2

    def per_coordinate(self, *h: Tensor) -> Any:
        return distributions.DiscretizedLogistic(h[0], h[1].clamp(-7.0, 3.0))

    def start(self, mean: Tensor) -> Tensor:
        log_scale = torch.full_like(mean, -1.5)
        s, m = log_scale.exp(), mean.clamp(1e-3, 1 - 1e-3)
        loc = 1 - m + s * (torch.expm1(m / s).log() - torch.expm1((1 - m) / s).log())  # solves expected = m
        return torch.stack([loc, log_scale])

    def expected(self, p: Any) -> Tensor:
        """The integral for the sum over the 255 steps of the distribution function."""
        p = getattr(p, "base_dist", p)
        s: Tensor = p.log_scale.exp()
        return 1 - s * (softplus((1 - p.loc) / s) - softplus(-p.loc / s))

    def seen(self, mean: Tensor, scale: Tensor, value: Tensor, noise: Tensor) -> Tensor:
        loc, width = posterior(mean, scale, value, noise)
        return torch.stack([loc, (width * 3**0.5 / math.pi).log().expand_as(loc)])  # a logistic of this deviation


class Poisson(Likelihood):
    """x in {0, 1, 2, ...}; the output is the log of the mean."""

    def per_coordinate(self, *h: Tensor) -> Any:
        return dist.Poisson(h[0].exp())

    def start(self, mean: Tensor) -> Tensor:
        return mean.clamp(min=1e-3).log().unsqueeze(0)


class NegativeBinomial(Likelihood):
    r"""x in {0, 1, 2, ...}, more spread than Poisson; the output is the log of the mean, ``total_count`` r is learned.

    .. math:: \operatorname{E} x = m, \qquad \operatorname{var} x = m + m^2 / r

    Source: Lopez, Regier, Cole, Jordan, Yosef: Deep generative modeling for single-cell transcriptomics, 2018.
    """

    def __init__(self, data_shape: Sequence[int] | None = None, total_count: float = 10.0) -> None:
        super().__init__(data_shape, total_count=positive("total_count", total_count))
        if data_shape is not None:
            self.log_count = nn.Parameter(torch.full(tuple(data_shape), math.log(total_count)))

    def per_coordinate(self, *h: Tensor) -> Any:
        return dist.NegativeBinomial(self.log_count.exp(), logits=h[0] - self.log_count)  # logit = log(mean / r)

    def start(self, mean: Tensor) -> Tensor:
        return mean.clamp(min=1e-3).log().unsqueeze(0)


class ZeroInflated(NegativeBinomial):
    """Negative binomial, or 0 with a probability whose logit is the second output; the first is log m as there.

    Source: Lopez, Regier, Cole, Jordan, Yosef: Deep generative modeling for single-cell transcriptomics, 2018.
    """

    multiple = 2

    def per_coordinate(self, *h: Tensor) -> Any:
        return dist.ZeroInflatedDistribution(super().per_coordinate(h[0]), gate_logits=h[1])

    def start(self, mean: Tensor) -> Tensor:
        gate = torch.full_like(mean, -3.0)
        return torch.cat([super().start(mean) + softplus(gate), gate.unsqueeze(0)])  # E x = sigmoid(-gate) m


def positive(name: str, value: float) -> float:
    """A number that is positive.

    Raises:
        UserError: it is not.
    """
    if not value > 0:
        meaning = {"sigma": "the standard deviation"}.get(name, name)
        raise UserError(f"{name}={value}: {meaning} must be positive")
    return float(value)


def seen(p: Any, x: Tensor | None) -> Any:
    """p(x|z) of the entries that are not missing (NaN); all of them where there are no data.

    Example:
        >>> p = seen(dist.Normal(torch.zeros(2, 3), 1.0).to_event(1), torch.full((2, 3), torch.nan))
        >>> p.log_prob(torch.zeros(2, 3))
        tensor([0., 0.])
    """
    if x is None:
        return p
    entries, dims = (p.base_dist, p.reinterpreted_batch_ndims) if p.event_shape else (p, 0)
    masked: Any = Seen
    return masked(entries, ~x.isnan()).to_event(dims)


class Seen(dist.MaskedDistribution):
    """A masked distribution that is given 0 in place of NaN, whose gradient would be NaN."""

    def log_prob(self, value: Tensor) -> Tensor:
        masked: Any = super()
        log_p: Tensor = masked.log_prob(value.nan_to_num())
        return log_p


def make(given: Choice, data_shape: Sequence[int], sigma: float | None = None) -> Likelihood:
    """A likelihood for data of one shape.

    Args:
        given: a name of ``registry.LIKELIHOODS``, with options or without; a callable ``data_shape -> Likelihood``; or
            a Likelihood, made with a shape or without.
        data_shape: shape of one example.
        sigma: the standard deviation of a Gaussian likelihood given without one; others warn that they have none.

    Raises:
        UserError: no such name, an option that it does not take, or no likelihood for such data.

    Example:
        >>> import torch
        >>> make("bernoulli", (1, 8, 8))(torch.zeros(5, 1, 1, 8, 8)).event_shape
        torch.Size([1, 8, 8])
        >>> float(make("gaussian:sigma=0.5", (3,)).sigma), float(make(Gaussian(sigma=0.5), (3,)).sigma)
        (0.5, 0.5)
    """
    found = construct("likelihood", given, tuple(data_shape), fallback={} if sigma is None else {"sigma": sigma})
    if not isinstance(found, Likelihood):
        raise UserError(
            f"likelihood: a Likelihood is needed (a subclass of pv.likelihoods.Likelihood), not {found!r:.60}"
        )
    if found.event_dim is None:
        found = type(found)(data_shape, **found.options)
    if sigma is not None and "sigma" not in inspect.signature(type(found)).parameters:
        warnings.warn(f"sigma={sigma:g} has no effect: the likelihood {given} has none", stacklevel=2)
    if found.event_dim != len(data_shape):
        raise UserError(f"likelihood: it was made for {found.event_dim} dimensions; data_shape={tuple(data_shape)}")
    return found
