"""A target: a pair with its exact log p(x), its exact posterior where there is one, and data from its model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ..common.entry import entry_point
from ..common.errors import UserError
from ..common.fields import X, num_data
from ..common.registry import TARGETS, resolve
from ..common.rng import forked, seed_for
from ..pairs.base import Pair
from ..scoring.simulate import remember
from ..scoring.terms import terms


class Program(nn.Module):
    """A model or a guide: ``function(program, x)`` under the data plate; its numbers are parameters in float64.

    Example:
        >>> guide = Program(lambda p, x: pyro.sample("z", normal(x, p.scale)), scale=0.5)
        >>> guide(torch.zeros(3, 2)).shape, guide.scale.item()
        (torch.Size([3, 2]), 0.5)
    """

    origin: Tensor

    def __init__(self, function: Callable[[Any, Any], Any], **numbers: Any) -> None:
        super().__init__()
        self.function = function
        self.register_buffer("origin", torch.zeros((), dtype=torch.float64), persistent=False)
        for name, value in numbers.items():
            self.register_parameter(name, nn.Parameter(torch.as_tensor(value, dtype=torch.float64).clone()))

    def standard(self, size: int) -> Any:
        """N(0, I) with event shape (size,)."""
        return normal(self.origin.expand(size), self.origin + 1)

    def forward(self, x: Any = None, y: Tensor | None = None, n: int = 1) -> Any:
        with pyro.plate("data", n if x is None else num_data(x), dim=-1):
            return self.function(self, x)


def normal(loc: Any, scale: Any) -> Any:
    """Independent Gaussians over the last dimension."""
    return dist.Normal(loc, scale).to_event(1)


@dataclass(frozen=True, eq=False)
class Target:
    """A pair with a known answer, in nats and in float64.

    Attributes:
        pair: the model, and a guide that is imperfect in a way that the summary of its function states.
        evidence: x to log p(x), (N,), exact; with a gradient for the parameters of the model.
        guide: the exact posterior as a guide, or None.
        defeats: why the guide can't give the answer; empty where it can.
        draw: n to data from the model; None runs the model alone.
        name: its name in the table.
        summary: a line on it.
        seed: of its weights and of its data.
    """

    pair: Pair
    evidence: Callable[[X], Any]
    guide: Program | None = None
    defeats: str = ""
    draw: Callable[[int], X] | None = None
    name: str = ""
    summary: str = ""
    seed: int = 0

    @property
    def exact(self) -> Pair | None:
        """The model with its exact posterior as the guide, or None: every weight is p(x) then."""
        return None if self.guide is None else self.pair.with_guide(self.guide)

    @torch.no_grad()
    def sample(self, n: int, seed: int = 0) -> X:
        """Data from the model, (n, ...): the same for the same seed. No global generator moves.

        Raises:
            UserError: fewer than one.
        """
        if n < 1:
            raise UserError(f"n={n}: draw at least one example")
        with forked(seed=seed_for(self.seed, "targets data", seed)):
            return self.pair.model(n=n) if self.draw is None else self.draw(n)

    @torch.no_grad()
    def log_px(self, x: X) -> Tensor:
        """log p(x) of each example, exact, (N,) float64."""
        found: Tensor = self.evidence(x)
        return found.double()


def names() -> list[str]:
    """The names of all targets.

    Example:
        >>> import ppl_vae as pv
        >>> pv.targets.names()[:3]
        ['ppca', 'missing', 'views']
    """
    return list(TARGETS)


@entry_point
def make(name: str, seed: int = 0) -> Target:
    """The target of a name.

    Use when an estimator, a proposal or a guide is to be compared with the truth.

    Args:
        name: one of :func:`names`.
        seed: of its weights, where they are random, and of its data.

    Returns:
        Target: ``.pair``, ``.sample(n)``, ``.log_px(x)``, and ``.exact``, the pair with its exact posterior.

    Raises:
        UserError: a name that is not known.

    Example:
        >>> import ppl_vae as pv
        >>> t = pv.targets.make("gamma_poisson")
        >>> x = t.sample(5)
        >>> estimate = pv.log_likelihood(t.exact, x, num_samples=10)
        >>> bool((estimate.log_px - t.log_px(x)).abs().max() < 1e-9)
        True
    """
    with forked(seed=seed_for(seed, "targets weights")):
        target: Target = resolve("target", name, TARGETS)()
    target.pair.name = name
    target = replace(target, name=name, summary=TARGETS[name][1], seed=seed)
    x = target.sample(2)
    with forked(seed=0), torch.no_grad():  # the pair knows the form of its data, and can be sampled in it
        remember(target.pair, x, terms(target.pair.model, target.pair.guide, x).observed, None)
    return target
