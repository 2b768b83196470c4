"""Differences between strategies over seeds and examples: which are real, and how many seeds would tell."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit

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
        num_seeds: S.
        num_data: N.
        var_seed: :math:`\sigma_a^2`, of training runs.
        var_data: :math:`\sigma_b^2`, of examples.
        var_rest: :math:`\sigma_e^2`, of examples that a run changes, and of the draws of the estimates.
        parts: the variances of the mean that seeds show, that examples add, and that examples show.
    """

    mean: float
    se: float
    num_seeds: int
    num_data: int
    var_seed: float
    var_data: float
    var_rest: float
    parts: tuple[float, float, float]

    def half(self, level: float) -> float:
        r"""Half the length of the interval at a level, such as 0.05.

        .. math:: h^2 = t_{S-1}^2\,\hat v_{seeds} + t_{N-1}^2\,\hat v_{examples}

        With t quantiles of each part's own degrees of freedom, the level holds whatever the shares of the two are; a
        quantile at degrees of freedom that are estimated from the shares (Satterthwaite's) is too short far out in the
        tails, where many comparisons need it, if there are few seeds.

        Source: Banerjee: Approximate Confidence Interval for Linear Functions of Means of k Populations when the
        Population Variances are Not Equal, 1960.
        """
        seeds, data = (-float(stdtrit(n - 1, level / 2)) for n in (self.num_seeds, self.num_data))
        of_seeds, added, of_data = self.parts
        return math.sqrt(max(seeds**2 * of_seeds + data**2 * added, data**2 * of_data))

    def p(self, size: float) -> float:
        """The level, at most 1, at which the interval's half has a size: the p-value of a mean that far from zero."""
        if not size > 0 or self.se == 0:
            return float(not size > 0)
        low, high = -700.0, 0.0  # of log p
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (low, middle) if self.half(math.exp(middle)) < size else (middle, high)
        return math.exp(high)

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
        seeds = np.arange(2, MOST)
        of_seeds, of_data = (self.var_seed + self.var_rest / self.num_data) / seeds, self.var_data / self.num_data

        def reach(upper: float) -> Array:
            one, other = stdtrit(seeds - 1, upper), stdtrit(self.num_data - 1, upper)
            return np.asarray(np.sqrt(one**2 * of_seeds + other**2 * of_data))

        tells = reach(1 - LEVEL / (2 * comparisons)) + reach(POWER) <= nats
        return int(seeds[tells.argmax()]) if tells.any() else None


def paired(d: Array) -> Difference:
    """The mean difference of d (S, N), with its error by the analysis of variance of two crossed random factors.

    Mean squares of seeds, of examples and of the rest estimate the three variances. The error is never taken to be
    smaller than by seeds alone, or by examples alone.

    Assumes that seeds are independent, that examples are, and that neither's effects have tails so heavy that means
    are not nearly normal. With few seeds the t distribution has few degrees of freedom, and intervals are long.

    Raises:
        UserError: fewer than two seeds or examples.

    Source: Searle, Casella, McCulloch: Variance Components, 1992, chapter 4.

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
    ms_seed = float(num_data * by_seed.var(ddof=1))
    ms_data = float(num_seeds * by_data.var(ddof=1))
    ms_rest = float((rest**2).sum() / ((num_seeds - 1) * (num_data - 1)))
    size = num_seeds * num_data
    of_seeds, added, of_data = ms_seed / size, max(0.0, ms_data - ms_rest) / size, ms_data / size
    return Difference(
        float(mean), math.sqrt(max(of_seeds + added, of_data)), num_seeds, num_data,
        max(0.0, ms_seed - ms_rest) / num_data, max(0.0, ms_data - ms_rest) / num_seeds, ms_rest,
        (of_seeds, added, of_data),
    )  # fmt: skip


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

    Row s is the same seed in every array, and a row of NaN is a seed that is missing: a comparison is of the seeds that
    both have. Verdicts hold together at 5 %; an interval has the level at which its comparison is judged, so that it
    excludes zero where the verdict is ``"better"`` or ``"worse"``. A strategy whose bounds are unreliable may have a
    mean log p(x) up to its slack higher: an interval is longer by that, and a difference within it is not told.

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
    rows = min(len(log_px[name]), len(log_px[other]))
    one, two = log_px[name][:rows], log_px[other][:rows]
    both = ~(np.isnan(one).all(1) | np.isnan(two).all(1))
    one, two = one[both], two[both]
    if len(one) < 2:
        diff = float((one - two).mean()) if len(one) else math.nan
        return Comparison(name, other, diff, math.nan, -math.inf, math.inf, math.nan, "one seed")
    if not np.isfinite(one.mean()) or not np.isfinite(two.mean()):  # an example of probability zero
        diff = float(one.mean() - two.mean()) if np.isfinite(one.mean()) or np.isfinite(two.mean()) else 0.0
        return Comparison(name, other, diff, math.nan, diff, diff, 0.0 if math.isinf(diff) else 1.0, "")
    diff, found = float((one - two).mean()), paired(one - two)
    beyond = max(0.0, diff - slack.get(other, 0.0), -diff - slack.get(name, 0.0))
    return Comparison(name, other, diff, found.se, diff, diff, found.p(beyond), "", found)


def _judged(one: Comparison, p: float, level: float, slack: Mapping[str, float]) -> Comparison:
    """A comparison with its adjusted p-value, the interval at its level, and the verdict."""
    verdict = "cannot tell" if one.p >= level else "better" if one.diff > 0 else "worse"
    if one.paired is None:
        return replace(one, p=p, verdict=verdict)
    half = one.paired.half(level)
    low, high = one.diff - half - slack.get(one.other, 0.0), one.diff + half + slack.get(one.strategy, 0.0)
    return replace(one, p=p, low=low, high=high, verdict=verdict)
