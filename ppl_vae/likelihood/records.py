"""The two axes of an estimate as records: what is made of the weights, and where the draws come from."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..common.errors import UserError
from ..common.fields import num_data
from ..scoring.param_store import Program
from ..scoring.terms import Terms

SIDES = ("lower", "upper", "neither")
EXAMPLE = (
    "a proposal is a function that gives Terms, such as "
    "lambda model, guide, x, y, k: pv.terms(model, wider_guide, x, y, num_samples=k)"
)


@dataclass(frozen=True)
class Estimator:
    """What is made of the log weights of each example.

    Attributes:
        name: what its row in a panel is called.
        function: log weights (K, B) of B examples, in nats and float64, to a value (B,), or to a value and its standard
            error; without an error that is nan.
        side: which side of log p(x) the value lies on in expectation: ``"lower"``, ``"upper"`` or ``"neither"``.
        independent: whether it needs independent draws.
        most: the largest K that it takes; None takes any.
        use_when: one sentence.
        least: the smallest K that it takes.

    Example:
        >>> import torch, ppl_vae as pv
        >>> pair = pv.build("linear", data_shape=(5,), latent=2)
        >>> largest = pv.estimators.Estimator("largest", lambda log_w: log_w.amax(0))
        >>> pv.log_likelihood(pair, torch.zeros(2, 5), num_samples=9, estimator=largest).side
        'neither'
    """

    name: str
    function: Callable[[Tensor], Any]
    side: str = "neither"
    independent: bool = False
    most: int | None = None
    use_when: str = ""
    least: int = 1

    def __post_init__(self) -> None:
        _check_side(self.name, self.side)

    def __call__(self, log_w: Tensor) -> tuple[Tensor, Tensor]:
        """The value and its standard error, (B,) each.

        Raises:
            UserError: the function gives something else.
        """
        found = self.function(log_w)
        value, error = found if isinstance(found, tuple) and len(found) == 2 else (found, None)
        error = torch.full_like(log_w[0], math.nan) if error is None else error
        for part in (value, error):
            if not isinstance(part, Tensor) or part.shape != log_w.shape[1:]:
                what = f"a tensor of shape {tuple(part.shape)}" if isinstance(part, Tensor) else f"{part!r:.60}"
                raise UserError(
                    f"estimator {self.name!r} gave {what} for log weights of shape {tuple(log_w.shape)}: give one "
                    f"value for each example, (B,), or a value and its standard error"
                )
        return value.double(), error.double()


@dataclass(frozen=True)
class Proposal:
    """Where the draws come from.

    Attributes:
        name: what it is called.
        function: (model, guide, x, y, K) to Terms of K draws for each example, whose weights average to p(x).
        side: which side of log p(x) the log of the mean weight lies on: ``"lower"`` where the weights are unbiased.
        independent: whether the draws are independent of each other.
        nets: whether each call gives one randomised point set: the error then comes from the scatter of the calls,
            which serves the mean weight alone.
        fit: what makes another guide for the data before the first draw: (pair, x, y, seed=, progress=, resume=,
            capture=) to a guide; None where that of the pair serves.
        stages: proposals to try in turn, for the examples whose Pareto k is not good under those before.
        chains: options of annealing, where it is a stage.
        reach: where draws can fall, which decides whether equal weights prove an estimate exact: ``"prior"``, wherever
            the prior's do; ``"guide"``, where the guide's do; ``""``, not known.
        use_when: one sentence.

    Raises:
        UserError: the function does not take those five arguments.
    """

    name: str
    function: Callable[..., Any]
    side: str = "lower"
    independent: bool = True
    nets: bool = False
    reach: str = ""
    use_when: str = ""
    fit: Callable[..., Any] | None = None
    stages: tuple[str, ...] = ()
    chains: tuple[tuple[str, int], ...] = ()

    def __post_init__(self) -> None:
        _check_side(self.name, self.side)
        try:
            inspect.signature(getattr(self.function, "forward", self.function)).bind(*range(5))
        except TypeError:
            raise UserError(
                f"the proposal {self.name!r:.60} does not take (model, guide, x, y, num_samples); {EXAMPLE}"
            ) from None

    def __call__(self, model: Program, guide: Program, x: Any, y: Tensor | None, num_samples: int) -> Terms:
        """Terms of so many draws for each example.

        Raises:
            UserError: the function gives something else.
        """
        found = self.function(model, guide, x, y, num_samples)
        if not isinstance(found, Terms) or found.log_w.shape != (num_samples, num_data(x)):
            what = f"Terms of shape {tuple(found.log_w.shape)}" if isinstance(found, Terms) else type(found).__name__
            raise UserError(
                f"the proposal {self.name!r:.60} gave {what} for {num_samples} draws of {num_data(x)} examples; "
                f"{EXAMPLE}"
            )
        return found


EstimatorLike = str | Callable[[Tensor], Any] | Estimator
ProposalLike = str | Callable[..., Any] | Proposal
R = TypeVar("R", Estimator, Proposal)


def resolve(record: type[R], given: Any, table: Mapping[str, R]) -> R:
    """The record that a name, a function or a record stands for.

    Raises:
        UserError: the table has no such name.
    """
    if isinstance(given, record):
        return given
    if callable(given):
        named = (one for one in table.values() if one.function is given)
        return next(named, None) or record(getattr(given, "__name__", type(given).__name__), given)
    if isinstance(given, str) and given in table:
        return table[given]
    raise UserError(f"{record.__name__.lower()}={given!r}: choose one of {', '.join(table)}, or give a function")


def _check_side(name: str, side: str) -> None:
    if side not in SIDES:
        raise UserError(f"{name}: side={side!r}; choose one of {', '.join(SIDES)}")
