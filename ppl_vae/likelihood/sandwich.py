"""log p(x) of simulated data between a lower and an upper bound."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from ..common.fields import X
from ..common.shown import Shown
from ..scoring.quantity import LOG_PX


@dataclass(eq=False, repr=False)
class Sandwich(Shown):
    """log p(x) of simulated data between two bounds, in nats; (N,) float64 each.

    Attributes:
        x: the simulated data.
        lower: forward estimates, a lower bound in expectation.
        upper: reverse estimates from exact posterior draws, an upper bound in expectation.
        seed: the seed.
        name: what lies between them, see :class:`~ppl_vae.Estimate`.
    """

    x: X
    lower: Tensor
    upper: Tensor
    seed: int
    name: str = LOG_PX

    @property
    def gap(self) -> float:
        """Mean of upper - lower: what either bound can be off by, on data of the model."""
        return float((self.upper - self.lower).mean())

    @property
    def gap_se(self) -> float:
        """Standard error of the gap over the data."""
        return _error(self.upper - self.lower)

    def __str__(self) -> str:
        return (
            f"on {len(self.lower)} simulated examples (seed {self.seed}), mean {self.name} lies in expectation between "
            f"{float(self.lower.mean()):.3f} ± {_error(self.lower):.3f} and {float(self.upper.mean()):.3f} ± "
            f"{_error(self.upper):.3f} nats: a gap of {self.gap:.3f} ± {self.gap_se:.3f} (errors over the examples)"
        )


def _error(values: Tensor) -> float:
    """The standard error of a mean over data; nan for one."""
    return float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else math.nan
