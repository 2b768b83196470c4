"""The paired comparison: its arithmetic, its error, and its verdicts."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import ppl_vae as pv
from ppl_vae.strategies.compare import tabulate
from ppl_vae.strategies.statistics import against


def estimate(log_px: torch.Tensor) -> pv.Estimate:
    n = len(log_px)
    one = torch.ones(n, dtype=torch.float64)
    return pv.Estimate(log_px, 0.01 * one, 50 * one, 0.3 * one, log_px - 1, 100, 0, 4, n, 100)


def test_the_table_is_the_paired_arithmetic() -> None:
    a = torch.randn(200, dtype=torch.float64)
    b = a - 0.1 + 0.05 * torch.randn(200, dtype=torch.float64)
    table = tabulate({"a": estimate(a), "b": estimate(b)})
    d = (b - a).numpy()
    assert table.verdict.sel(strategy="a") == "best"
    assert float(table["diff"].sel(strategy="b")) == pytest.approx(d.mean())
    assert float(table.diff_se.sel(strategy="b")) == pytest.approx(d.std(ddof=1) / math.sqrt(200))
    assert float(table.diff_se.sel(strategy="b")) < 0.1 * float(table.log_px_se.sel(strategy="b"))  # why it is paired
    assert table.verdict.sel(strategy="b") == "worse"
    assert float(table.log_px.sel(strategy="b")) == pytest.approx(float(b.mean()))
    assert float(table.elbo.sel(strategy="a")) == pytest.approx(float(a.mean()) - 1)
    assert float(table["diff"].sel(strategy="a")) == 0
    assert table.log_px_datum.shape == (2, 200)
    assert table.attrs["num_samples"] == 100


@pytest.mark.parametrize(("strategies", "data"), [(2, 100), (2, 5), (6, 100)])
def test_equal_pairs_are_called_worse_at_most_as_often_as_promised(strategies: int, data: int) -> None:
    """5 % of the comparisons between equals call any of them worse, although the best is chosen after looking."""
    g = torch.Generator().manual_seed(0)
    worse = 0
    for _ in range(1000):
        rows = torch.randn(strategies, data, generator=g, dtype=torch.float64)
        worse += "worse" in tabulate({str(i): estimate(row) for i, row in enumerate(rows)}).verdict.values
    assert 15 < worse < 75


def test_a_datum_of_probability_zero_decides() -> None:
    a = torch.randn(50, dtype=torch.float64)
    b = a.clone()
    b[3] = -math.inf
    assert tabulate({"a": estimate(a), "b": estimate(b)}).verdict.values.tolist() == ["best", "worse"]
    both = tabulate({"a": estimate(b), "b": estimate(b)}).verdict.values.tolist()
    assert sorted(both) == ["best", "cannot tell"]


def test_a_real_difference_is_found() -> None:
    x = torch.randn(300, 6) @ torch.randn(6, 6)
    good, bad = (pv.build("linear", data_shape=(6,), latent=2, guide="exact") for _ in range(2))
    good.model.set_maximum_likelihood(x)
    table = pv.compare({"bad": bad, "good": good}, x, num_samples=20)
    assert table.verdict.values.tolist() == ["worse", "best"]
    exact = (bad.model.evidence(x) - good.model.evidence(x)).mean().detach()
    assert float(table["diff"].sel(strategy="bad")) == pytest.approx(float(exact), rel=1e-4)
    assert np.isneginf(table.khat.values).all()
    same = pv.compare({"one": good, "two": good}, x, num_samples=20)
    assert set(same.verdict.values) == {"best", "cannot tell"}


def test_mistakes_are_named() -> None:
    pair = pv.build("linear", data_shape=(6,), latent=2)
    with pytest.raises(pv.UserError, match="no pair"):
        pv.compare({}, torch.zeros(3, 6))
    with pytest.raises(pv.UserError, match="1 data give no error"):
        pv.compare({"a": pair}, torch.zeros(1, 6))


def test_runs_of_a_strategy_are_compared_as_strategies() -> None:
    """Lists of estimates: differences, their error and the verdict are those of `against`, over runs and examples."""
    rng = np.random.default_rng(0)
    first = pv.log_likelihood(pv.build("linear", data_shape=(5,), latent=2), torch.randn(40, 5), num_samples=20)

    def runs(shift: float) -> list[pv.Estimate]:
        return [replace(first, log_px=torch.tensor(common + shift + 0.1 * rng.normal(size=40))) for _ in range(4)]

    common = 3 * rng.normal(size=40)
    given = {"low": runs(0.0), "high": runs(0.5), "one": runs(0.2)[:1]}
    table = pv.compare(given, torch.zeros(40, 5))
    assert table.verdict.values.tolist() == ["worse", "best", "one run"]
    assert table.runs.values.tolist() == [4, 4, 1]
    arrays = {name: torch.stack([e.log_px for e in some]).numpy() for name, some in given.items()}
    wanted = against(arrays, "high", chosen_after=True)["low"]
    assert float(table["diff"][0]) == pytest.approx(wanted.diff)
    assert float(table["diff_se"][0]) == pytest.approx(wanted.se)
    np.testing.assert_allclose(table["log_px_datum"][0], arrays["low"].mean(0))
    with pytest.raises(pv.UserError, match="'low' has no run"):
        pv.compare({"low": []}, torch.zeros(40, 5))
