"""Distributions that torch or Pyro lacks or has wrong: of pixels, of numbers in [0, 1], mixtures, relaxed classes."""

from __future__ import annotations

import math
from typing import Any

import torch
from pyro.distributions import constraints
from pyro.distributions.torch_distribution import TorchDistribution, TorchDistributionMixin
from torch import Tensor
from torch.distributions.relaxed_categorical import ExpRelaxedCategorical
from torch.nn.functional import logsigmoid


class Pixels(constraints.Constraint):
    """The values {0, 1/(levels - 1), ..., 1}, 256 of them by default."""

    is_discrete = True

    def __init__(self, levels: int = 256) -> None:
        self.levels = levels

    def check(self, value: Tensor) -> Tensor:
        """Which values lie on the grid."""
        v = (self.levels - 1) * value
        return ((v - v.round()).abs() < 1e-3) & (value >= 0) & (value <= 1)


def grid(levels: int) -> Any:
    """The set {0, 1/(levels - 1), ..., 1}: of two levels that of binary data."""
    return constraints.boolean if levels == 2 else Pixels(levels)


class DiscretizedLogistic(TorchDistribution):
    r"""The exact probability of 8-bit pixels, given as x in {0, 1/255, ..., 1}.

    .. math:: P(v) = \sigma((v + \tfrac12 - \mu)/s) - \sigma((v - \tfrac12 - \mu)/s), \qquad v = 255 x

    The first and the last value take the tails, so that the 256 probabilities sum to one.

    Args:
        loc: the centre on the scale of x, (*,).
        log_scale: log of the scale on the scale of x, (*,).

    Source: Kingma, Salimans, Jozefowicz, Chen, Sutskever, Welling: Improving Variational Inference with Inverse
    Autoregressive Flow, 2016, arXiv:1606.04934.

    Example:
        >>> import torch
        >>> p = DiscretizedLogistic(torch.tensor(0.3), torch.tensor(-2.0))
        >>> float(p.log_prob(torch.arange(256) / 255).exp().sum().round(decimals=5))
        1.0
    """

    arg_constraints = {"loc": constraints.real, "log_scale": constraints.real}  # noqa: RUF012
    support = Pixels()
    has_rsample = False
    has_enumerate_support = True

    loc: Tensor
    log_scale: Tensor

    def __init__(self, loc: Tensor, log_scale: Tensor, validate_args: bool | None = None) -> None:
        self.loc, self.log_scale = torch.broadcast_tensors(loc, log_scale)
        super().__init__(self.loc.shape, validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        """E[x]: the sum over v of P(V >= v), divided by 255."""
        inv = torch.exp(-self.log_scale) / 255
        total = torch.zeros_like(self.loc)
        for v in range(1, 256):  # a loop: a tensor of all 256 values would take 256 times the memory
            total = total + torch.sigmoid((255 * self.loc - v + 0.5) * inv)
        return total / 255

    def expand(self, batch_shape: Any, _instance: Any = None) -> DiscretizedLogistic:
        return DiscretizedLogistic(
            self.loc.expand(batch_shape), self.log_scale.expand(batch_shape), validate_args=False
        )

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """The 256 values, (256, *batch_shape), or (256, 1, ...) where not expanded."""
        values = torch.arange(256, dtype=self.loc.dtype, device=self.loc.device) / 255
        values = values.reshape(-1, *(1 for _ in self.loc.shape))
        return values.expand(256, *self.loc.shape) if expand else values

    def sample(self, sample_shape: Any = ()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        with torch.no_grad():
            u = torch.rand(shape, dtype=self.loc.dtype, device=self.loc.device).clamp(1e-7, 1 - 1e-7)
            x = self.loc + self.log_scale.exp() * torch.logit(u)
            pixels: Tensor = (255 * x).round().clamp(0, 255) / 255
        return pixels

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        v = (255 * value).round()
        inv = torch.exp(-self.log_scale) / 255
        centre = v - 255 * self.loc
        upper, lower = (centre + 0.5) * inv, (centre - 0.5) * inv
        # log(sigma(b) - sigma(a)) = log sigma(b) + log sigma(-a) + log(1 - exp(a - b)), exact in both tails
        inner = logsigmoid(upper) + logsigmoid(-lower) + torch.log(-torch.expm1(-inv))
        return torch.where(v <= 0, logsigmoid(upper), torch.where(v >= 255, logsigmoid(-lower), inner))


class ContinuousBernoulli(TorchDistribution):
    r"""The continuous Bernoulli on [0, 1] by its logit l, normalised for every l.

    .. math:: \log p(x) = x l - \log \frac{e^l - 1}{l}

    That of torch clamps its probabilities: in single precision its error is 0.2 nats a pixel at a logit of -20.

    Args:
        logits: l, (*,).

    Source: Loaiza-Ganem, Cunningham: The continuous Bernoulli: fixing a pervasive error in variational autoencoders,
    2019, arXiv:1907.06845.

    Example:
        >>> import torch
        >>> bool(ContinuousBernoulli(torch.tensor(0.0)).log_prob(torch.tensor(0.3)) == 0)  # uniform
        True
    """

    arg_constraints = {"logits": constraints.real}  # noqa: RUF012
    support = constraints.unit_interval
    has_rsample = True

    def __init__(self, logits: Tensor, validate_args: bool | None = None) -> None:
        self.logits = logits
        super().__init__(logits.shape, validate_args=validate_args)

    def _parts(self) -> tuple[Tensor, Tensor]:
        """Whether l is too small for the plain formulas, and an l that is safe in them."""
        small = self.logits.abs() < 0.05
        return small, torch.where(small, torch.ones_like(self.logits), self.logits)

    @property
    def mean(self) -> Tensor:
        """E[x] = 1 / (1 - e^-l) - 1 / l."""
        small, l = self._parts()  # noqa: E741
        return torch.where(small, 0.5 + self.logits / 12 - self.logits**3 / 720, -1 / torch.expm1(-l) - 1 / l)

    def expand(self, batch_shape: Any, _instance: Any = None) -> ContinuousBernoulli:
        return ContinuousBernoulli(self.logits.expand(batch_shape), validate_args=False)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        u = torch.rand(shape, dtype=self.logits.dtype, device=self.logits.device)
        small, l = self._parts()  # noqa: E741
        # the inverse of F(x) = (e^(lx) - 1) / (e^l - 1), by the tail that does not overflow
        size = l.abs()
        x = 1 + torch.log(u + (1 - u) * torch.exp(-size)) / size
        x = torch.where(l > 0, x, 1 - x)
        return torch.where(small, u + self.logits * u * (u - 1) / -2, x).clamp(0, 1)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        small, l = self._parts()  # noqa: E741
        half = l.abs() / 2
        # log(sinh(h) / h), whose series for small h is h^2/6 - h^4/180
        sinh = half + torch.log1p(-torch.exp(-2 * half)) - torch.log(2 * half)
        series = self.logits**2 / 24 - self.logits**4 / 2880
        return self.logits * (value - 0.5) - torch.where(small, series, sinh)


def logit_of_mean(mean: Tensor) -> Tensor:
    r"""The logit l of a continuous Bernoulli of this mean, to 1e-5 of it.

    .. math:: l = 2 L^{-1}(2 m - 1), \qquad L(t) = \coth t - 1/t \quad \text{(of Langevin)}

    From a rational approximation, which is off by 5 %, by two steps of Newton's method.

    Source: Cohen: A Pade approximant to the inverse Langevin function, 1991.

    Example:
        >>> l = logit_of_mean(torch.tensor([0.02, 0.5, 0.7]))
        >>> ContinuousBernoulli(l).mean.round(decimals=4)
        tensor([0.0200, 0.5000, 0.7000])
    """
    m = 2 * mean - 1
    t = m * (3 - m**2) / (1 - m**2)
    for _ in range(2):
        small = t.abs() < 0.1
        u = torch.where(small, 1.0, t)
        value = torch.where(small, t / 3 - t**3 / 45, 1 / torch.tanh(u) - 1 / u)
        slope = torch.where(small, 1 / 3 - t**2 / 15, 1 / u**2 - 1 / torch.sinh(u.clamp(-40, 40)) ** 2)
        t = t - (value - m) / slope
    return 2 * t


class GaussianMixture(TorchDistribution):
    r"""A mixture of diagonal Gaussians whose draws have exact pathwise gradients.

    .. math:: q(z) = \sum_c \pi_c \prod_i N(z_i; \mu_{ci}, \sigma_{ci}^2)

    Draws are differentiated implicitly: z stays where the distribution functions :math:`u_i = F_i(z_i | z_{<i})` are
    constant, so :math:`dz = -(\partial F / \partial z)^{-1} dF`, with a Jacobian that is triangular. (The draws of
    ``pyro.distributions.MixtureOfDiagNormals`` have a wrong gradient in the logits unless every scale is 1, and need
    two dimensions.)

    Args:
        logits: log weights of the components, up to a constant, (*, C).
        loc: their means, (*, C, L).
        scale: their standard deviations, (*, C, L).

    Source: Graves: Stochastic Backpropagation through Mixture Density Distributions, 2016, arXiv:1607.05690. Figurnov,
    Mohamed, Mnih: Implicit Reparameterization Gradients, 2018, arXiv:1805.08498.

    Example:
        >>> import torch
        >>> q = GaussianMixture(torch.zeros(2), torch.tensor([[-1.0], [1.0]]), torch.ones(2, 1))
        >>> q.rsample(torch.Size([4])).shape, float(q.mean)
        (torch.Size([4, 1]), 0.0)
    """

    arg_constraints = {  # noqa: RUF012
        "logits": constraints.real_vector,
        "loc": constraints.independent(constraints.real, 2),
        "scale": constraints.independent(constraints.positive, 2),
    }
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, logits: Tensor, loc: Tensor, scale: Tensor, validate_args: bool | None = None) -> None:
        self.logits, self.loc, self.scale = logits.log_softmax(-1), loc, scale
        super().__init__(logits.shape[:-1], loc.shape[-1:], validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        """E[z]: the mean of the components' means."""
        return (self.logits.exp().unsqueeze(-1) * self.loc).sum(-2)

    @property
    def variance(self) -> Tensor:
        """The variance of each coordinate."""
        second = self.scale.square() + self.loc.square()
        return (self.logits.exp().unsqueeze(-1) * second).sum(-2) - self.mean.square()

    def expand(self, batch_shape: Any, _instance: Any = None) -> GaussianMixture:
        to = torch.Size(batch_shape)
        logits = self.logits.expand(to + self.logits.shape[-1:])
        loc, scale = (p.expand(to + p.shape[-2:]) for p in (self.loc, self.scale))
        return GaussianMixture(logits, loc, scale, validate_args=False)

    def _parts(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Standardised coordinates under each component, and their log densities: (*, C, L) each."""
        e = (z.unsqueeze(-2) - self.loc) / self.scale
        return e, -0.5 * e.square() - self.scale.log() - 0.5 * math.log(2 * math.pi)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        return torch.logsumexp(self.logits + self._parts(value)[1].sum(-1), -1)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        with torch.no_grad():
            which = torch.distributions.Categorical(logits=self.logits, validate_args=False).sample(sample_shape)
            index = which[..., None, None].expand(*which.shape, 1, self.event_shape[0])
            parts = (
                p.expand(*which.shape, *p.shape[-2:]).gather(-2, index).squeeze(-2) for p in (self.loc, self.scale)
            )
            loc, scale = parts
            z = loc + scale * torch.randn_like(loc)
        return self._with_gradient(z) if torch.is_grad_enabled() else z

    def _with_gradient(self, z: Tensor) -> Tensor:
        """z (*, L), without a gradient, as a function of the parameters."""
        e, log_n = self._parts(z)
        log_w = (self.logits.unsqueeze(-1) + log_n.cumsum(-1) - log_n).log_softmax(-2)  # given the coordinates before
        w = log_w.exp()
        upper = (w * torch.erf(e)).sum(-2, keepdim=True) > 0
        sign = torch.where(upper, -1.0, 1.0).to(e.dtype)  # of the smaller tail, which is precise
        below = sign * 0.5 * torch.erfc(-sign * e / math.sqrt(2))  # the distribution functions, up to a constant
        u = (w * below).sum(-2)
        with torch.no_grad():
            density = torch.logsumexp(log_w + log_n, -2).exp()  # dF_i / dz_i
            slope = torch.einsum("...ci,...cj->...ij", w * (below - u.unsqueeze(-2)), -e / self.scale)
            jacobian = slope / density.unsqueeze(-1)  # dF_i / dz_j over dF_i / dz_i, used where j < i
        moved = ((u - u.detach()) / density).unsqueeze(-1)
        step: Tensor = torch.linalg.solve_triangular(jacobian, moved, upper=False, unitriangular=True).squeeze(-1)
        return z - step


class Concrete(ExpRelaxedCategorical, TorchDistributionMixin):
    r"""The logarithms of a relaxed one-hot vector: torch's distribution, as Pyro takes it.

    .. math:: z = \log \operatorname{softmax}((\log \alpha + g) / \tau), \qquad g_c \sim \operatorname{Gumbel}(0, 1)

    The entry that is largest is c with probability in proportion to :math:`\alpha_c`, at any temperature. At a low one
    exp(z) is rounded to 0 and 1, where a density of the vector itself, of which all are ratios, is not finite.

    Args:
        temperature: tau, a tensor; as it falls to 0, exp(z) becomes one-hot.
        logits: log alpha, up to a constant, (*, C).

    Source: Maddison, Mnih, Teh: The Concrete Distribution: A Continuous Relaxation of Discrete Random Variables, 2016,
    arXiv:1611.00712. Jang, Gu, Poole: Categorical Reparameterization with Gumbel-Softmax, 2016, arXiv:1611.01144.

    Example:
        >>> import torch
        >>> p = Concrete(torch.tensor(0.5), logits=torch.zeros(4, 3))
        >>> p.batch_shape, p.event_shape, p.rsample().exp().sum(-1).round().tolist()
        (torch.Size([4]), torch.Size([3]), [1.0, 1.0, 1.0, 1.0])
    """
