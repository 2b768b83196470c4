"""The gradient of every objective on two small problems, beside the exact one: is it unbiased, and how noisy is it?"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ..common.entry import entry_point
from ..common.rng import forked, reseed, seed_for
from .names import objective

X = 1.3  # the one example of both problems
BATCHES = 20  # of the copies, for the standard error
NUMBERS = (1, 2, 4, 8, 16, 32, 64, 128, 256)  # of particles
Expectation = Callable[[Tensor], Tensor]  # of K log weights (K, n): (n,) nats


def _value(number: Any) -> nn.Parameter:
    return nn.Parameter(torch.as_tensor(number, dtype=torch.float64))


class Line(nn.Module):
    """z ~ N(m, 1), x ~ N(z, 0.8), with the guide N(c, exp(s)): expectations by Gauss-Hermite quadrature."""

    of_guide = ("c", "s")

    def __init__(self) -> None:
        super().__init__()
        self.m, self.c, self.s = _value(0.4), _value(0.5), _value(-0.5)

    def model(self, x: Tensor, y: Tensor | None = None) -> None:
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(self.m, 1.0))
            pyro.sample("x", dist.Normal(z, 0.8), obs=x)

    def guide(self, x: Tensor, y: Tensor | None = None) -> None:
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(self.c, self.s.exp()))

    def expected(self, function: Expectation, count: int, nodes: int = 40) -> Tensor:
        """E of a function of K log weights, over K draws of the guide."""
        at, mass = (torch.as_tensor(v) for v in np.polynomial.hermite_e.hermegauss(nodes))
        z = self.c + self.s.exp() * at
        joint = dist.Normal(self.m, 1.0).log_prob(z) + dist.Normal(z, 0.8).log_prob(torch.full_like(z, X))
        log_w = joint - dist.Normal(self.c, self.s.exp()).log_prob(z)
        return (_grid(mass / mass.sum(), count).prod(0) * function(_grid(log_w, count))).sum()


class Bits(nn.Module):
    """Two bits z with logits a, x ~ N(z_1 + 2 z_2 + m, 1), with a guide of logits b: expectations by the sum."""

    of_guide = ("b",)

    def __init__(self) -> None:
        super().__init__()
        self.m, self.a, self.b = _value(0.2), _value([-0.5, 0.4]), _value([0.3, -0.2])

    def model(self, x: Tensor, y: Tensor | None = None) -> None:
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Bernoulli(logits=self.a).to_event(1))
            pyro.sample("x", dist.Normal(z[..., 0] + 2 * z[..., 1] + self.m, 1.0), obs=x)

    def guide(self, x: Tensor, y: Tensor | None = None) -> None:
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Bernoulli(logits=self.b.expand(len(x), 2)).to_event(1))

    def states(self) -> tuple[Tensor, Tensor, Tensor]:
        """log p(z), log p(x, z) and log q(z) of the four values of z."""
        z = torch.tensor(list(itertools.product([0.0, 1.0], repeat=2)), dtype=torch.float64)
        prior = dist.Bernoulli(logits=self.a).to_event(1).log_prob(z)
        likelihood = dist.Normal(z[:, 0] + 2 * z[:, 1] + self.m, 1.0).log_prob(torch.full((4,), X).double())
        return prior, prior + likelihood, dist.Bernoulli(logits=self.b).to_event(1).log_prob(z)

    def expected(self, function: Expectation, count: int) -> Tensor:
        """E of a function of K log weights, over K draws of the guide."""
        _, joint, log_q = self.states()
        return (_grid(log_q, count).sum(0).exp() * function(_grid(joint - log_q, count))).sum()

    def reweighted(self, which: int, count: int) -> Tensor:
        """A number with the gradient E[sum_k w_k grad log p(x, z_k)] (1), or of log q (2), the w normalised."""
        _, joint, log_q = self.states()
        mass, w = _grid(log_q, count).sum(0).exp(), torch.softmax(_grid(joint - log_q, count), 0)
        return ((mass * w).detach() * _grid((joint, log_q)[which - 1], count)).sum()


def _grid(values: Tensor, count: int) -> Tensor:
    """All choices of K of the values (n,), with repetition: (K, n^K)."""
    return torch.stack(torch.meshgrid(*[values] * count, indexing="ij")).flatten(1)


def log_mean_exp(log_w: Tensor, power: float = 1.0) -> Tensor:
    """The log of the mean power, over that power."""
    return (torch.logsumexp(power * log_w, 0) - math.log(len(log_w))) / power


def mean(log_w: Tensor) -> Tensor:
    """The ELBO of each set of draws."""
    return log_w.mean(0)


def _mixture(log_w: Tensor) -> Tensor:
    return 0.3 * mean(log_w) + 0.7 * log_mean_exp(log_w)


def gradient(problem: nn.Module, bound: Tensor) -> dict[str, Tensor]:
    """The gradient of a bound by parameter."""
    params = dict(problem.named_parameters())
    found = torch.autograd.grad(bound, list(params.values()), allow_unused=True)
    return {n: torch.zeros_like(p) if g is None else g for (n, p), g in zip(params.items(), found, strict=True)}


def _of(function: Expectation, count: int) -> Callable[[Any], dict[str, Tensor]]:
    return lambda problem: gradient(problem, problem.expected(function, count))


def _apart(theta: Callable[[Any], Tensor], phi: Callable[[Any], Tensor]) -> Callable[[Any], dict[str, Tensor]]:
    """The gradient of the model by one number, and of the guide by another."""

    def found(problem: Any) -> dict[str, Tensor]:
        model, guide = gradient(problem, theta(problem)), gradient(problem, phi(problem))
        return {n: guide[n] if n in problem.of_guide else g for n, g in model.items()}

    return found


def _sleep(problem: Bits) -> Tensor:
    """E_p(z)[log q(z)]: the guide of the bits does not depend on x."""
    prior, _, log_q = problem.states()
    return (prior.detach().exp() * log_q).sum()


def _wake(which: int) -> Callable[[Any], Tensor]:
    return lambda problem: problem.reweighted(which, 2)


half = partial(log_mean_exp, power=0.5)
EXACT: dict[str, tuple[type, Callable[[Any], dict[str, Tensor]]]] = {
    # objective: the problem, and the exact expectation of its gradient
    "elbo": (Line, _of(mean, 1)),
    "elbo:gradient=stl": (Line, _of(mean, 1)),
    "iwae:num_particles=2": (Line, _of(log_mean_exp, 2)),
    "iwae:num_particles=2,gradient=dreg": (Line, _of(log_mean_exp, 2)),
    "renyi:num_particles=2": (Line, _of(half, 2)),
    "renyi:num_particles=2,gradient=dreg": (Line, _of(half, 2)),
    "miwae:num_particles=2,groups=2": (Line, _of(log_mean_exp, 2)),
    "miwae:num_particles=2,groups=2,gradient=dreg": (Line, _of(log_mean_exp, 2)),
    "piwae:num_particles=2,groups=2": (
        Line, _apart(lambda p: p.expected(log_mean_exp, 4), lambda p: p.expected(log_mean_exp, 2))
    ),
    "ciwae:num_particles=2,share=0.3": (Line, _of(_mixture, 2)),
    "ciwae:num_particles=2,share=0.3,gradient=dreg": (Line, _of(_mixture, 2)),
    "elbo:num_particles=2": (Bits, _of(mean, 1)),
    "score:num_particles=2,baseline=none": (Bits, _of(mean, 1)),
    "score:num_particles=2,baseline=batch": (Bits, _of(mean, 1)),
    "score:num_particles=2": (Bits, _of(mean, 1)),
    "vimco:num_particles=2": (Bits, _of(log_mean_exp, 2)),
    "vimco:num_particles=3": (Bits, _of(log_mean_exp, 3)),
    "vimco:num_particles=3,baseline=arithmetic": (Bits, _of(log_mean_exp, 3)),
    "vimco:num_particles=3,baseline=ovis": (Bits, _of(log_mean_exp, 3)),
    "rws:num_particles=2": (Bits, _apart(_wake(1), _wake(2))),
    "rws:num_particles=2,phi=sleep": (Bits, _apart(_wake(1), _sleep)),
    "rws:num_particles=2,phi=both": (Bits, _apart(_wake(1), lambda p: (_sleep(p) + p.reweighted(2, 2)) / 2)),
    "tvo:num_particles=2,partitions=1": (Bits, _of(mean, 1)),
}  # fmt: skip


@dataclass(frozen=True)
class Gradient:
    """The gradient of an objective for the model, or for the guide; means are of draws of one example.

    Attributes:
        objective: its name and options.
        problem: ``"line"``, a Gaussian latent, or ``"bits"``.
        of: ``"model"`` or ``"guide"``.
        exact: the length of the exact gradient.
        mean: the length of the mean of the draws.
        z: the largest difference of a coordinate from the exact one, in standard errors.
        snr: the mean over coordinates of \\|mean\\| / standard deviation of one draw.
    """

    objective: str
    problem: str
    of: str
    exact: float
    mean: float
    z: float
    snr: float


def draws(problem: Any, loss: Any, copies: int, seed: int = 0) -> dict[str, Tensor]:
    """The mean gradient of a bound over copies of the example, in ``BATCHES`` parts: by parameter (BATCHES, ...)."""
    rows: dict[str, list[Tensor]] = {}
    x = torch.full((copies // BATCHES,), X, dtype=torch.float64)
    with forked(x.device):
        for part in range(BATCHES):
            reseed(seed_for(seed, "gradients", part), x.device)
            for name, g in gradient(problem, -loss(problem.model, problem.guide)(x) / len(x)).items():
                rows.setdefault(name, []).append(g)
    return {name: torch.stack(g) for name, g in rows.items()}


@entry_point
def gradients(names: Any = None, copies: int = 60_000, *, seed: int = 0) -> list[Gradient]:
    """The gradients of objectives on two problems whose exact gradients are known.

    One row for the model and one for the guide. The exact gradient is that of the expectation that the objective
    claims, by quadrature over its draws (a Gaussian latent) or by the sum over them (two bits): a z-score above 4 is a
    bias. The signal-to-noise ratio is that of one example and one step.

    Args:
        names: objectives, among those of ``EXACT``; None takes all.
        copies: independent draws of each gradient.
        seed: of the draws.

    Raises:
        KeyError: an objective without an exact gradient here.

    Source: Rainforth et al.: Tighter Variational Bounds are Not Necessarily Better, 2018, arXiv:1802.04537, for the
    signal-to-noise ratio.

    Example:
        >>> rows = gradients(["vimco:num_particles=2"], copies=2000)
        >>> [(r.of, r.z < 5) for r in rows]
        [('model', True), ('guide', True)]
    """
    found = []
    for name in EXACT if names is None else names:
        make, truth = EXACT[name]
        problem = make()
        exact, parts = truth(problem), draws(problem, objective(name), copies, seed)
        for of in ("model", "guide"):
            keys = [n for n in exact if (n in problem.of_guide) is (of == "guide")]
            g = torch.cat([exact[n].reshape(-1) for n in keys]).detach()
            rows = torch.cat([parts[n].reshape(BATCHES, -1) for n in keys], 1)
            average, error = rows.mean(0), rows.std(0) / math.sqrt(BATCHES)
            spread = rows.std(0) * math.sqrt(copies // BATCHES)
            found.append(
                Gradient(
                    name, make.__name__.lower(), of, float(g.norm()), float(average.norm()),
                    float(((average - g).abs() / error.clamp(min=1e-12)).max()), float((average.abs() / spread).mean()),
                )
            )  # fmt: skip
    return found


@entry_point
def signal_to_noise(
    numbers: Any = NUMBERS,
    names: Any = ("iwae:gradient=path", "iwae:gradient=stl", "iwae:gradient=dreg"),
    copies: int = 2000,
    *,
    seed: int = 0,
) -> dict[str, list[float]]:
    r"""The signal-to-noise ratio of the guide's gradient for each number K of particles, by objective.

    .. math:: \frac{|E[g]|}{\sqrt{Var[g]}}

    of one draw of the gradient g for one example, averaged over the parameters of the guide of :class:`Line`. For IWAE
    it falls as :math:`1/\sqrt K` by ``"path"`` and rises as :math:`\sqrt K` by ``"dreg"``.

    Args:
        numbers: the numbers K.
        names: objectives that take ``num_particles``.
        copies: independent draws of each gradient.
        seed: of the draws.

    Source: Rainforth et al.: Tighter Variational Bounds are Not Necessarily Better, 2018, arXiv:1802.04537. Tucker,
    Lawson, Gu, Maddison: Doubly Reparameterized Gradient Estimators for Monte Carlo Objectives, 2018, arXiv:1810.04152.

    Example:
        >>> {name: len(ratios) for name, ratios in signal_to_noise([1, 8], ["iwae:gradient=dreg"], copies=200).items()}
        {'iwae:gradient=dreg': 2}
    """
    problem = Line()
    found: dict[str, list[float]] = {}
    for name in names:
        for count in numbers:
            parts = draws(problem, objective(name, num_particles=count), copies, seed)
            rows = torch.stack([parts[n] for n in problem.of_guide], 1)  # (BATCHES, parameters)
            spread = rows.std(0) * math.sqrt(copies // BATCHES)
            found.setdefault(name, []).append(float((rows.mean(0).abs() / spread).mean()))
    return found
