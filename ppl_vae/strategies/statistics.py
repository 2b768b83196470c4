"""Differences between strategies over seeds and examples: which are real, and how many seeds would tell."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.special import stdtr, stdtrit

from ..common.errors import UserError

LEVEL = 0.05  # of a verdict, two-sided, over all comparisons of a table together
POWER = 0.8  # with which a number of seeds tells a difference
MOST = 10_000  # seeds that are thought of
Array: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Difference:
    r"""The mean of differences d (S, N), paired by seed and by example, and what its error is made of; nats.

    .. math:: d_{sn} = \delta + a_s + b_n + e_{sn}, \qquad
              Var(\bar d) = \frac{\sigma_a^2}{S} + \frac{\sigma_b^2}{N} + \frac{\sigma_e^2}{S N}

    Attributes:
        mean: :math:`\bar d`.
        se: its standard error, over seeds and examples.
        df: its degrees of freedom.
        num_seeds: S.
        num_data: N.
        var_seed: :math:`\sigma_a^2`, of training runs.
        var_data: :math:`\sigma_b^2`, of examples.
        var_rest: :math:`\sigma_e^2`, of examples that a run changes, and of the draws of the estimates.
    """

    mean: float
    se: float
    df: float
    num_seeds: int
    num_data: int
    var_seed: float
    var_data: float
    var_rest: float

    def seeds_needed(self, nats: float, comparisons: int = 1) -> int | None:
        """How many seeds tell a difference of so many nats at 5 %, with a power of 80 %; None where none do.

        None means that the examples are too few: their part of the error does not get smaller with seeds.

        Args:
            nats: the difference, above 0.
            comparisons: in the table, by Bonferroni's correction.

        Raises:
            UserError: a difference that is not positive.

        Example:
            >>> rng = np.random.default_rng(0)
            >>> found = paired(rng.normal(size=(5, 1)) + 0.1 * rng.normal(size=(5, 400)))
            >>> found.seeds_needed(2.0) < found.seeds_needed(1.0)
            True
        """
        if not nats > 0:
            raise UserError(f"a difference of {nats} nats: give a number above 0")

        def tells(seeds: int) -> bool:
            parts = (self.var_seed + self.var_rest / self.num_data) / seeds, self.var_data / self.num_data
            df = _satterthwaite(parts, (seeds - 1, self.num_data - 1))
            reach = stdtrit(df, 1 - LEVEL / (2 * comparisons)) + stdtrit(df, POWER)
            return bool(reach * math.sqrt(sum(parts)) <= nats)

        if not tells(MOST):
            return None
        low, high = 1, MOST  # of which low does not tell, or is a single seed
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if tells(middle) else (middle, high)
        return high


def paired(d: Array) -> Difference:
    """The mean difference of d (S, N), with its error by the analysis of variance of two crossed random factors.

    Mean squares of seeds, of examples and of the rest estimate the three variances. The error is never taken to be
    smaller than by seeds alone, or by examples alone; its degrees of freedom are Satterthwaite's, or one of two seeds,
    from which it is not known how much of it is due to seeds.

    Assumes that seeds are independent, that examples are, and that neither's effects have tails so heavy that means
    are not nearly normal. With few seeds the t distribution has few degrees of freedom, and intervals are long.

    Raises:
        UserError: fewer than two seeds or examples.

    Source: Searle, Casella, McCulloch: Variance Components, 1992, chapter 4. Satterthwaite: An Approximate
    Distribution of Estimates of Variance Components, 1946.

    Example:
        >>> found = paired(np.array([[1.0, 2.0, 3.0], [2.0, 3.0, 4.0]]))
        >>> found.mean, round(found.se, 3), found.var_rest
        (2.5, 0.764, 0.0)
    """
    num_seeds, num_data = d.shape
    if num_seeds < 2 or num_data < 2:
        raise UserError(f"differences of {num_seeds} seeds and {num_data} examples: at least two of each are needed")
    mean = d.mean()
    by_seed, by_data = d.mean(1), d.mean(0)
    rest = d - by_seed[:, None] - by_data + mean
    ms_seed = num_data * by_seed.var(ddof=1)
    ms_data = num_seeds * by_data.var(ddof=1)
    ms_rest = (rest**2).sum() / ((num_seeds - 1) * (num_data - 1))
    size = num_seeds * num_data
    dfs = num_seeds - 1, num_data - 1
    variance, df = (ms_seed + ms_data - ms_rest) / size, 0.0
    if variance > max(ms_seed, ms_data) / size:
        parts = ms_seed / size, ms_data / size, ms_rest / size
        spread = sum(p**2 / k for p, k in zip(parts, (*dfs, dfs[0] * dfs[1]), strict=True))
        df = variance**2 / spread
    else:
        variance, df = max((ms_seed / size, dfs[0]), (ms_data / size, dfs[1]))
    df = max(df, 1.0) if num_seeds > 2 else 1.0
    return Difference(
        float(mean), math.sqrt(variance), float(df), num_seeds, num_data,
        max(0.0, float(ms_seed - ms_rest) / num_data), max(0.0, float(ms_data - ms_rest) / num_seeds), float(ms_rest),
    )  # fmt: skip


def _satterthwaite(parts: Sequence[float], dfs: Sequence[int]) -> float:
    """Degrees of freedom of a sum of independent variances."""
    spread = sum(p**2 / k for p, k in zip(parts, dfs, strict=True))
    return sum(parts) ** 2 / spread if spread > 0 else float(max(dfs))


def holm(p: Sequence[float]) -> tuple[list[float], list[float]]:
    """p-values that are adjusted for their number, and the level at which each is judged, by Holm's steps.

    The chance of one false verdict or more is at most 5 %. An adjusted value is below 5 % where its own is below its
    level; from the first that is not, all have the same level.

    Source: Holm: A Simple Sequentially Rejective Multiple Test Procedure, 1979.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        ([0.03, 0.06, 0.06], [0.016666666666666666, 0.025, 0.025])
    """
    adjusted, levels = np.empty(len(p)), np.empty(len(p))
    largest, level = 0.0, LEVEL
    for rank, i in enumerate(np.argsort(p)):
        if largest < LEVEL:
            level = LEVEL / (len(p) - rank)
        largest = max(largest, min(1.0, (len(p) - rank) * p[i]))
        adjusted[i], levels[i] = largest, level
    return adjusted.tolist(), levels.tolist()


@dataclass(frozen=True)
class Comparison:
    """A strategy against another: the difference of their mean log p(x), its interval, and a verdict.

    Attributes:
        strategy: the one.
        other: the other.
        diff: how much higher the mean log p(x) of the one is, nats.
        se: its standard error; NaN with one seed.
        low: the lower end of the interval that belongs to the verdict: above 0 where it is ``"better"``.
        high: the upper end, below 0 where it is ``"worse"``.
        p: two-sided, adjusted for all comparisons of the table; NaN with one seed.
        verdict: ``"better"``, ``"worse"``, ``"cannot tell"``, or ``"one seed"``.
        paired: the difference and what its error is made of; None with one seed, or where one is infinite.
    """

    strategy: str
    other: str
    diff: float
    se: float
    low: float
    high: float
    p: float
    verdict: str
    paired: Difference | None = None

    def negated(self) -> Comparison:
        """The same comparison of a quantity with the other sign; the verdict stays."""
        return replace(self, diff=-self.diff, low=-self.high, high=-self.low)

    def flipped(self) -> Comparison:
        """The same comparison of a quantity of which less is better."""
        other = {"better": "worse", "worse": "better"}
        return replace(self, verdict=other.get(self.verdict, self.verdict))


def against(
    log_px: Mapping[str, Array], other: str, *, slack: Mapping[str, float] | None = None, chosen_after: bool = False
) -> dict[str, Comparison]:
    r"""Compare each strategy with one of them, paired by seed and example, simultaneously at 5 %.

    Seeds of two strategies are paired in their order; where one has more, the first are taken. A strategy whose bounds
    are unreliable may have a mean log p(x) up to its slack higher: an interval is longer by that, and a difference
    within it is not told.

    Args:
        log_px: by strategy, estimates (S, N) for each seed and example.
        other: the one to compare with.
        slack: by strategy, nats.
        chosen_after: whether ``other`` was chosen by its figures, as the best is: then the correction is Bonferroni's
            over all pairs of strategies; else Holm's.

    Raises:
        UserError: there is no such strategy, or numbers of examples differ.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> runs = {"a": rng.normal(size=(5, 100)), "b": rng.normal(size=(5, 100)) + 1}
        >>> against(runs, "a")["b"].verdict
        'better'
    """
    if other not in log_px:
        raise UserError(f"reference {other!r} is not one of {', '.join(log_px)}")
    sizes = {name: values.shape[1] for name, values in log_px.items()}
    if len(set(sizes.values())) > 1:
        raise UserError(f"strategies were evaluated on different numbers of examples: {sizes}")
    slack = slack or {}
    raw = {name: _compared(name, other, log_px, slack) for name in log_px if name != other}
    told = [name for name, one in raw.items() if not math.isnan(one.p)]
    p = [raw[name].p for name in told]
    if chosen_after:
        pairs = len(log_px) * (len(log_px) - 1) // 2
        adjusted, levels = [min(1.0, pairs * each) for each in p], [LEVEL / pairs for _ in p]
    else:
        adjusted, levels = holm(p)
    judged = dict(zip(told, zip(adjusted, levels, strict=True), strict=True))
    return {name: _judged(one, *judged[name], slack) if name in judged else one for name, one in raw.items()}


def _compared(name: str, other: str, log_px: Mapping[str, Array], slack: Mapping[str, float]) -> Comparison:
    """A comparison by itself; its interval is still empty."""
    seeds = min(len(log_px[name]), len(log_px[other]))
    one, two = log_px[name][:seeds], log_px[other][:seeds]
    if not np.isfinite(one.mean()) or not np.isfinite(two.mean()):  # an example of probability zero
        diff = float(one.mean() - two.mean()) if np.isfinite(one.mean()) or np.isfinite(two.mean()) else 0.0
        return Comparison(name, other, diff, math.nan, diff, diff, 0.0 if diff else 1.0, "")
    diff = float((one - two).mean())
    if seeds < 2:
        return Comparison(name, other, diff, math.nan, -math.inf, math.inf, math.nan, "one seed")
    found = paired(one - two)
    beyond = max(0.0, diff - slack.get(other, 0.0), -diff - slack.get(name, 0.0))
    p = 2 * float(stdtr(found.df, -beyond / found.se)) if found.se > 0 else float(beyond == 0)
    return Comparison(name, other, diff, found.se, diff, diff, p, "", found)


def _judged(one: Comparison, p: float, level: float, slack: Mapping[str, float]) -> Comparison:
    """A comparison with its adjusted p-value, the interval at its level, and the verdict."""
    verdict = "cannot tell" if one.p >= level else "better" if one.diff > 0 else "worse"
    if one.paired is None:
        return replace(one, p=p, verdict=verdict)
    half = float(stdtrit(one.paired.df, 1 - level / 2)) * one.se
    low, high = one.diff - half - slack.get(one.other, 0.0), one.diff + half + slack.get(one.strategy, 0.0)
    return replace(one, p=p, low=low, high=high, verdict=verdict)
