"""An estimate of log p(x): a number for each example, with its error and its diagnostics."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from scipy.special import ndtri, stdtrit
from torch import Tensor

from ..common.errors import UserError
from ..common.shown import Shown
from ..scoring.quantity import LOG_PX
from . import intervals
from .diagnostics import khat_threshold, min_samples

SIDES = {
    "exact": "exact",
    "lower": "a lower bound in expectation",
    "upper": "an upper bound as K grows, whose estimate is biased downwards",
    "neither": "neither bound",
}


SOURCES = ("guide", "refined", "ais")  # the stages of the proposal "auto"


@dataclass(frozen=True, eq=False, repr=False)
class Estimate(Shown):
    """log p(x) of each example, in nats, with its error and its diagnostics; all (N,) float64 on the CPU.

    Which side of the truth ``log_px`` lies on is said by ``side``. By default it is a lower bound in expectation:
    ``E[log_px] <= log p(x)``, and the gap shrinks as K grows.

    Attributes:
        log_px: the estimate; by default the log of the mean weight.
        std_error: its standard error by the delta method; nan where K = 1. Under ``"qmc"`` it comes from the scatter
            of the scramblings.
        ess: effective sample size, between 1 and K.
        khat: Pareto k; -inf where the estimate is exact, nan where too few weights are in the tail.
        elbo: the mean log weight, which is an unbiased estimate of the ELBO.
        num_samples: K.
        seed: the seed.
        num_dims: numbers that are observed of one example, on average: without missing entries and what is masked.
        block: examples in a data batch, scored together; with ``chunk`` it is part of what the seed means.
        chunk: samples in a sample chunk, scored together.
        name: what ``log_px`` is: ``"log p(x)"``, ``"log p(x | y)"`` where labels only condition the model, or
            ``"log p(x, y)"`` where the model observes them.
        proposal: the name of the proposal; under another than the guide, ``elbo`` is of that proposal.
        estimator: the name of the estimator.
        bound: which side of log p(x) the estimator lies on under the proposal, in expectation.
        max_share: the share of the largest weight in the sum of all, between 1/K and 1.
        num_temperatures: of annealing; 0 without.
        num_chains: of annealing, for each example that was annealed; 0 without.
        precision: of the matrix products, see :func:`~ppl_vae.log_likelihood`.
        scramblings: independent point sets, from whose scatter ``std_error`` comes; 0 where draws are independent.
        refined: of a refined guide, its family and the steps that were spent.
        source: (N,) where the draws of each example come from under ``"auto"``: the place of the name in ``SOURCES``.
        left_out: stages of ``"auto"`` that do not apply to the pair, by name, and why.
        custom: what identifies a custom estimator or proposal: its qualified name and the digest of its source.
    """

    log_px: Tensor
    std_error: Tensor
    ess: Tensor
    khat: Tensor
    elbo: Tensor
    num_samples: int
    seed: int
    num_dims: float
    block: int
    chunk: int
    name: str = LOG_PX
    proposal: str = "guide"
    estimator: str = "iwae"
    bound: str = "lower"
    max_share: Tensor | None = None
    num_temperatures: int = 0
    num_chains: int = 0
    precision: str = "float32"
    scramblings: int = 0
    custom: dict[str, Any] = field(default_factory=dict)
    refined: dict[str, Any] = field(default_factory=dict)
    source: Tensor | None = None
    left_out: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.log_px)

    @property
    def conditional(self) -> bool:
        """Whether the number is a density given something, such as labels."""
        return "|" in self.name

    @property
    def annealed(self) -> bool:
        """Whether the weights are those of annealing, of which Pareto k of the guide says nothing."""
        return self.num_temperatures > 0

    @property
    def unreliable(self) -> Tensor:
        """(N,) bool: examples whose k is not below the threshold for this K; exact ones never are.

        Of annealed examples k says nothing; they are unreliable where one chain is nearly all of the sum (ESS < 2).
        """
        annealed = self.annealed_examples
        return torch.where(annealed, ~(self.ess >= 2), ~(self.khat < khat_threshold(self.num_samples)))

    @property
    def annealed_examples(self) -> Tensor:
        """(N,) bool: examples that were annealed: all, or those that ``"auto"`` chose for it."""
        if self.source is None:
            return torch.full_like(self.khat, self.annealed, dtype=torch.bool)
        return self.source == SOURCES.index("ais")

    @property
    def sources(self) -> dict[str, int]:
        """How many examples were estimated by each proposal, under ``"auto"``."""
        if self.source is None:
            return {}
        return {name: n for i, name in enumerate(SOURCES) if (n := int((self.source == i).sum()))}

    @property
    def side(self) -> str:
        """Which side of log p(x) the estimate lies on in expectation: "exact", "lower", "upper" or "neither"."""
        return "exact" if bool((self.khat == -math.inf).all()) else self.bound

    @property
    def needed(self) -> Tensor:
        """(N,) the sample size that each k asks for; see :func:`~ppl_vae.likelihood.diagnostics.min_samples`."""
        return min_samples(self.khat)

    @property
    def bits_per_dim(self) -> float:
        """``-mean(log_px) / (D log 2)``; bits where x is discrete."""
        return -float(self.log_px.mean()) / (self.num_dims * math.log(2))

    @property
    def data_error(self) -> float:
        """Standard error of ``mean(log_px)`` over the choice of data, SE (data); nan for one example."""
        return float(self.log_px.std() / math.sqrt(len(self))) if len(self) > 1 else math.nan

    @property
    def monte_carlo_error(self) -> float:
        """Standard error of ``mean(log_px)`` for these data, from the K draws of each alone, SE (MC)."""
        return float(self.std_error.square().sum().sqrt()) / len(self)

    def interval(self, level: float = 0.95) -> tuple[Tensor, Tensor]:
        """The ends (N,) of the interval that the K draws give, by the normal law: for what the estimator estimates.

        That is log p(x), but for ``"elbo"`` and ``"cubo"``, whose bounds it is for. Under ``"qmc"`` by Student's t with
        one degree of freedom less than scramblings. Read it where k is good: the interval knows nothing of weights
        that were not drawn. Annealed examples have a longer one, which reaches higher: see
        :func:`ppl_vae.likelihood.intervals.annealed`.

        Raises:
            UserError: a level outside (0, 1).
        """
        if not 0 < level < 1:
            raise UserError(f"level={level}: give a share between 0 and 1")
        p = (1 + level) / 2
        half = float(stdtrit(max(1, self.scramblings - 1), p) if self.scramblings else ndtri(p)) * self.std_error
        low, high = self.log_px - half, self.log_px + half
        which = self.annealed_examples
        if bool(which.any()):
            ends = intervals.annealed(self.log_px, self.std_error, self.elbo, self.num_chains, level)
            low, high = torch.where(which, ends[0], low), torch.where(which, ends[1], high)
        return low, high

    def chains_needed(self, std_error: float) -> tuple[Tensor, Tensor]:
        """How many chains (N,) a standard error needs, of annealed examples: at least, and some; nan of others.

        See :func:`ppl_vae.likelihood.intervals.chains_needed`.

        Raises:
            UserError: a standard error that is not positive.
        """
        if not std_error > 0:
            raise UserError(f"std_error={std_error}: give a number of nats above 0")
        ends = intervals.chains_needed(self.std_error, self.log_px - self.elbo, self.num_chains, std_error)
        least, most = (torch.where(self.annealed_examples, end, math.nan) for end in ends)
        return least, most

    def summary(self) -> dict[str, Any]:
        """The figures that an evaluation prints; None stands for what JSON can't hold."""
        finite = self.khat[torch.isfinite(self.khat)]
        found = {
            "quantity": self.name,
            "n": len(self),
            "num_samples": self.num_samples,
            "seed": self.seed,
            "log_px_mean": float(self.log_px.mean()),
            "log_px_se": self.data_error if len(self) > 1 else None,
            "elbo_mean": float(self.elbo.mean()),
            "bits_per_dim": self.bits_per_dim,
            "ess_min": float(self.ess.min()),
            "khat_max": float(finite.max()) if len(finite) else None,
            "khat_fraction_unreliable": float(self.unreliable.double().mean()),
            "khat_exact": int((self.khat == -math.inf).sum()),
        }
        found |= {"refined": self.refined} if self.refined else {}
        found |= {"sources": self.sources} if self.sources else {}
        found |= {"left_out": self.left_out} if self.left_out else {}
        found |= {} if self.precision == "float32" else {"precision": self.precision}
        return found | ({"custom": self.custom} if self.custom else {})

    def __str__(self) -> str:
        figures = (
            f"{self.name} {float(self.log_px.mean()):.3f} ± {self.data_error:.3f} nats ({SIDES[self.side]}; "
            f"{self._how()}K = {self.num_samples}, seed {self.seed}, {len(self)} examples)\n"
            f"{self._mean} {float(self.elbo.mean()):.3f} nats; {self.bits_per_dim:.4f} bits/dim; "
            f"smallest ESS {float(self.ess.min()):.1f}"
        )
        return "\n".join([figures, *self.notes()])

    def cells(self) -> list[list[str]]:
        """The figures of an evaluation, a row each, under a head without words."""
        about = f"{self._how()}K = {self.num_samples}, seed {self.seed}, {len(self)} examples"
        se = f" ± {self.data_error:.3f}" if len(self) > 1 else ""
        largest = self.summary()["khat_max"]
        k = ("exact" if self.side == "exact" else "none") if largest is None else f"{largest:.2f}"
        bad = 100 * float(self.unreliable.double().mean())
        return [
            ["", "", ""],
            [self._mean, f"{float(self.elbo.mean()):.3f} nats", about],
            [self.name, f"{float(self.log_px.mean()):.3f}{se} nats", SIDES[self.side]],
            ["bits per dimension", f"{self.bits_per_dim:.4f}", ""],
            ["smallest ESS", f"{float(self.ess.min()):.1f}", f"of {self.num_samples}"],
            ["largest Pareto k", k, f"{bad:.1f} % of the examples unreliable"],
        ]

    def notes(self) -> list[str]:
        """How far to trust it; and the stages of ``"auto"`` that do not apply."""
        return [self._trust(), *self._empty(), *(f"without {name}: {why}" for name, why in self.left_out.items())]

    @property
    def _mean(self) -> str:
        return "ELBO" if self.proposal == "guide" else "mean log weight"

    def _how(self) -> str:
        """What is not as by default, before the number of samples."""
        sources = ", ".join(f"{n} {name}" for name, n in self.sources.items())
        how = "" if self.estimator in ("iwae", "ais") else f"{self.estimator}, "
        how += "" if self.proposal == "guide" else f"{self.proposal} proposal, "
        how += "" if self.precision == "float32" else f"{self.precision} products, "
        return how + (f"{sources}; " if sources else "")

    def _empty(self) -> list[str]:
        """A line where every weight of an example is zero: either x can't occur, or no draw came where it can."""
        empty = int(self.log_px.isneginf().sum())
        found = f"{empty} of {len(self)} examples have probability zero at every draw, and so log p(x) = -inf"
        return [f"{found}; if they can occur, take another proposal or more samples"] if empty else []

    def _trust(self) -> str:
        """What Pareto k says of the estimate, in a line."""
        annealed = self.annealed_examples
        if bool((self.khat.isnan() & ~annealed).all()):
            return f"Pareto k needs more than {self.num_samples} samples: nothing says how far to trust this"
        bad = torch.nonzero(self.unreliable)[:, 0].tolist()
        listed = f": {', '.join(map(str, bad[:8]))}{' ...' if len(bad) > 8 else ''}" if bad else ""
        threshold = khat_threshold(self.num_samples)
        rules = [] if bool(annealed.all()) else [f"Pareto k >= {threshold:.2f}"]
        rules += ["one chain is nearly all of the sum"] if bool(annealed.any()) else []
        return f"{len(bad)} of {len(self)} examples unreliable ({', or '.join(rules)}){listed}"


def mean_size(num_dims: Tensor) -> float | int:
    """Numbers observed of an example, on average; whole where it is."""
    mean = float(num_dims.mean())
    return int(mean) if mean.is_integer() else mean
