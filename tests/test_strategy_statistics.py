"""Laws of comparisons over seeds and examples: coverage, type I error, power, and that each number is what it says."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import stdtrit

import ppl_vae as pv
from ppl_vae.strategies.statistics import Comparison, Difference, against, holm, paired


def simulated(
    rng: np.random.Generator, seeds: int, data: int, seed_sd: float, data_sd: float, rest_sd: float
) -> np.ndarray:
    """Differences whose mean is zero, from the model that `paired` assumes."""
    rest = rest_sd * rng.normal(size=(seeds, data))
    return seed_sd * rng.normal(size=(seeds, 1)) + data_sd * rng.normal(size=(1, data)) + rest


@pytest.mark.parametrize("sds", [(0.0, 1.0, 1.0), (0.05, 1.0, 1.0), (1.0, 1.0, 1.0), (0.2, 0.0, 0.1), (0.05, 0.5, 3.0)])
@pytest.mark.parametrize("seeds", [3, 5])
def test_intervals_of_no_difference_hold_zero_at_their_level(seeds: int, sds: tuple[float, float, float]) -> None:
    """Of 1,500 simulated studies at 5 %, at most 6.5 % find a difference that is not there (SE 0.6 %)."""
    rng = np.random.default_rng(0)
    wrong = 0
    for _ in range(1500):
        found = paired(simulated(rng, seeds, 100, *sds))
        wrong += found.p(abs(found.mean)) < 0.05
    assert 0.005 < wrong / 1500 < 0.065


def test_variances_are_those_of_the_model() -> None:
    """Over many studies their means are the variances of seeds, examples and the rest, and so is that of the mean."""
    rng = np.random.default_rng(1)
    found = [paired(simulated(rng, 5, 60, 0.5, 1.0, 2.0)) for _ in range(1500)]
    assert np.mean([f.var_rest for f in found]) == pytest.approx(4.0, rel=0.02)
    assert np.mean([f.var_data for f in found]) == pytest.approx(1.0, rel=0.05)
    assert np.mean([f.var_seed for f in found]) == pytest.approx(0.25, rel=0.08)
    assert np.mean([f.se**2 for f in found]) == pytest.approx(np.var([f.mean for f in found]), rel=0.12)


def test_the_power_is_that_of_the_seeds_that_it_asks_for() -> None:
    """With the number of seeds that `seeds_needed` gives, about 80 % of the studies tell the difference."""
    rng = np.random.default_rng(2)
    pilot = paired(simulated(rng, 400, 200, 0.5, 1.0, 1.0))  # so many that its variances are known
    seeds = pilot.seeds_needed(0.5)
    assert seeds is not None
    told = 0
    for _ in range(600):
        found = paired(0.5 + simulated(rng, seeds, 200, 0.5, 1.0, 1.0))
        told += found.mean > 0 and found.p(abs(found.mean)) < 0.05
    assert 0.74 < told / 600 < 0.9


def test_no_number_of_seeds_tells_what_the_examples_hide() -> None:
    found = paired(simulated(np.random.default_rng(3), 5, 50, 0.1, 1.0, 0.1))
    assert found.seeds_needed(0.01) is None
    assert found.seeds_needed(2.0) == 2 or found.seeds_needed(2.0) == 3
    with pytest.raises(pv.UserError, match="a difference of 0 nats: give a number above 0"):
        found.seeds_needed(0)


@pytest.mark.parametrize(("seeds", "ratio"), [(3, 0.0), (3, 1.0), (3, 5.0), (5, 1.0), (5, 5.0)])
def test_the_level_holds_far_out_in_the_tails(seeds: int, ratio: float) -> None:
    """At 5 % over 45 comparisons, however much of the error is due to seeds; by mean squares of 40,000 studies.

    Without an effect of examples, MS of seeds is (1 + ratio) chi2(S - 1) / (S - 1), of examples and rest chi2 / df.
    """
    rng, size, data = np.random.default_rng(11), 40_000, 200
    level, dfs = 0.05 / 45, (seeds - 1, data - 1, (seeds - 1) * (data - 1))
    ms = [scale * rng.chisquare(df, size) / df for scale, df in zip((1 + ratio, 1.0, 1.0), dfs, strict=True)]
    means = rng.normal(size=size) * math.sqrt((1 + ratio) / (seeds * data))
    unit = seeds * data
    told = 0
    for mean, of_seeds, of_data, rest in zip(means, *ms, strict=True):
        parts = of_seeds / unit, max(0.0, of_data - rest) / unit, of_data / unit
        told += abs(mean) > Difference(mean, 1.0, seeds, data, 0.0, 0.0, 0.0, parts).half(level)
    assert told / size < 1.5 * level  # 44 are expected at most, with an SE of 7


def test_two_seeds_have_one_degree_of_freedom() -> None:
    rng = np.random.default_rng(4)
    wrong = 0
    for _ in range(1000):
        found = paired(simulated(rng, 2, 200, 0.2, 1.0, 1.0))
        wrong += found.p(abs(found.mean)) < 0.05
    assert wrong / 1000 < 0.07


def test_holm_is_what_its_steps_give() -> None:
    """Of p = 0.01, 0.02, 0.04 at levels 0.05/3, 0.05/2, 0.05 all are below; of 0.01, 0.03, 0.04 only the first."""
    assert holm([0.04, 0.01, 0.02]) == (pytest.approx([0.04, 0.03, 0.04]), pytest.approx([0.05, 0.05 / 3, 0.025]))
    assert holm([0.04, 0.01, 0.03]) == (pytest.approx([0.06, 0.03, 0.06]), pytest.approx([0.025, 0.05 / 3, 0.025]))


@pytest.mark.parametrize(("seeds", "strategies", "seed_sd"), [(5, 4, 0.3), (3, 10, 0.1), (3, 4, 0.17)])
def test_twins_are_not_told_apart(seeds: int, strategies: int, seed_sd: float) -> None:
    """Strategies that are the same: the chance of any verdict, against the first or the best, is at most 5 %."""
    rng = np.random.default_rng(5)
    first = best = 0
    for _ in range(300):
        examples = 3 * rng.normal(size=(1, 100))
        runs = {str(n): examples + simulated(rng, seeds, 100, seed_sd, 0.0, 1.0) for n in range(strategies)}
        first += any(c.verdict != "cannot tell" for c in against(runs, "0").values())
        top = max(runs, key=lambda n: float(runs[n].mean()))
        best += any(c.verdict != "cannot tell" for c in against(runs, top, chosen_after=True).values())
    assert first / 300 < 0.08
    assert best / 300 < 0.08


def test_the_power_is_promised_for_the_comparisons_of_the_table() -> None:
    """Of six strategies one is better by 0.5 nats: with the seeds that are asked for, 80 % of the tables say so."""
    rng, told = np.random.default_rng(12), 0
    pilot = paired(simulated(rng, 400, 200, 0.3, 0.0, 1.0) - simulated(rng, 400, 200, 0.3, 0.0, 1.0))
    seeds = pilot.seeds_needed(0.5, comparisons=5)
    assert seeds is not None
    for _ in range(200):
        runs = {n: simulated(rng, seeds, 200, 0.3, 0.0, 1.0) for n in "abcdef"}
        runs["b"] += 0.5
        told += against(runs, "a")["b"].verdict == "better"
    assert 0.7 < told / 200 < 0.93


def test_seeds_are_paired_by_what_they_are() -> None:
    """a lacks seed 3 and b seed 1; b is higher by 1 nat at every seed, whose own effect is large."""
    effect = 10.0 * np.arange(5)[:, None] ** 2 + np.zeros((1, 30))
    a, b = effect.copy(), effect + 1
    a[3], b[1] = np.nan, np.nan
    found = compared(a=a, b=b)
    assert (found.diff, found.se) == (1.0, 0.0)
    assert found.paired is not None
    assert found.paired.num_seeds == 3


def test_a_verdict_and_its_interval_agree() -> None:
    rng = np.random.default_rng(6)
    verdicts = set()
    for _ in range(60):
        runs = {
            n: simulated(rng, 4, 40, 0.3, 0.0, 1.0) + shift for n, shift in zip("abcd", (0, 0.3, 0.6, -1), strict=True)
        }
        for chosen in (False, True):
            for c in against(runs, "a", chosen_after=chosen).values():
                assert (c.verdict == "better") == (c.low > 0)
                assert (c.verdict == "worse") == (c.high < 0)
                assert (c.verdict == "cannot tell") == (c.p >= 0.05)
                verdicts.add(c.verdict)
    assert verdicts == {"better", "worse", "cannot tell"}


def compared(**given: np.ndarray) -> Comparison:
    return against(given, "a")["b"]


def test_what_is_common_to_runs_of_a_seed_or_to_an_example_does_not_blur_the_difference() -> None:
    """Paired by seed and example: the error is that of the differences, whatever the two have in common."""
    rng = np.random.default_rng(7)
    common = 10 * rng.normal(size=(5, 1)) + 20 * rng.normal(size=(1, 80))
    a, b = simulated(rng, 5, 80, 0.01, 0.1, 0.1), simulated(rng, 5, 80, 0.01, 0.1, 0.1) + 0.2
    one, two = compared(a=a, b=b), compared(a=a + common, b=b + common)
    assert one.verdict == two.verdict == "better"
    assert two.se == pytest.approx(one.se, rel=1e-6)


def test_an_unreliable_bound_makes_the_interval_longer_on_its_own_side() -> None:
    """b may be up to 1 nat higher than its bound, so that it is no longer worse by 0.5; nor is it better."""
    rng = np.random.default_rng(8)
    a, b = simulated(rng, 5, 100, 0.01, 0.0, 0.1), simulated(rng, 5, 100, 0.01, 0.0, 0.1) - 0.5
    plain, wide = against({"a": a, "b": b}, "a")["b"], against({"a": a, "b": b}, "a", slack={"b": 1.0})["b"]
    assert (plain.verdict, wide.verdict) == ("worse", "cannot tell")
    assert wide.high == pytest.approx(plain.high + 1, abs=1e-9)
    assert wide.low == pytest.approx(plain.low, abs=1e-9)
    assert against({"a": a, "b": b}, "a", slack={"b": 0.1})["b"].verdict == "worse"


def test_one_seed_tells_nothing_about_a_strategy_and_zero_probability_is_worse() -> None:
    rng = np.random.default_rng(9)
    a = rng.normal(size=(5, 20))
    one = compared(a=a, b=a[:1] - 5)
    assert (one.verdict, one.low, one.high) == ("one seed", -math.inf, math.inf)
    assert math.isnan(one.p)
    lost = a.copy()
    lost[2, 3] = -math.inf
    assert compared(a=a, b=lost).verdict == "worse"
    with pytest.raises(pv.UserError, match="reference 'c' is not one of a, b"):
        against({"a": a, "b": a}, "c")
    with pytest.raises(pv.UserError, match="different numbers of examples"):
        against({"a": a, "b": a[:, :5]}, "a")


def test_the_interval_has_the_quantile_of_each_part() -> None:
    """By the mean squares, computed anew: seeds with S - 1 degrees of freedom, and what examples add with N - 1."""
    rng = np.random.default_rng(10)
    a, b = simulated(rng, 4, 30, 1.0, 1.0, 1.0), simulated(rng, 4, 30, 1.0, 1.0, 1.0)
    d, one = b - a, compared(a=a, b=b)
    rest = sum((d[s, n] - d[s].mean() - d[:, n].mean() + d.mean()) ** 2 for s in range(4) for n in range(30)) / (3 * 29)
    of_seeds = d.mean(1).var(ddof=1) / 4
    added = max(0.0, d.mean(0).var(ddof=1) / 30 - rest / 120)
    half = math.sqrt(stdtrit(3, 0.975) ** 2 * of_seeds + stdtrit(29, 0.975) ** 2 * added)
    assert (one.low, one.high) == (pytest.approx(one.diff - half), pytest.approx(one.diff + half))
    assert one.paired is not None
    assert one.paired.half(one.p) == pytest.approx(abs(one.diff), rel=1e-6)
