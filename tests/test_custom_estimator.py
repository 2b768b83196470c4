"""A custom estimator, and a custom proposal, go wherever those of the package go, and are recorded by identity."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from exact import DIMS, toy, toy_evidence
from torch import Tensor

import ppl_vae as pv
from ppl_vae.common.registry import ESTIMATORS, PROPOSALS, ROWS


def median_of_means(log_w: Tensor) -> tuple[Tensor, Tensor]:
    """The median of ten group means, and the error of a median."""
    groups = torch.logsumexp(log_w.reshape(10, -1, log_w.shape[1]), 1) - math.log(len(log_w) / 10)
    return groups.median(0).values, 1.25 * groups.std(0) / math.sqrt(10)


X = torch.randn(6, DIMS, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_custom_estimator_in_log_likelihood() -> None:
    """What it makes of the weights, across chunks and data batches; no side is claimed for it."""
    est = pv.log_likelihood(toy(), X, num_samples=1000, chunk=300, block=4, estimator=median_of_means)
    value, error = median_of_means(pv.log_weights(toy(), X, num_samples=1000, chunk=300, block=4))
    torch.testing.assert_close(est.log_px, value)
    torch.testing.assert_close(est.std_error, error)
    assert (est.estimator, est.side) == ("median_of_means", "neither")
    assert "median_of_means, " in str(est)
    assert float((est.log_px - toy_evidence(X)).abs().max()) < 0.5


def test_custom_estimator_without_an_error_has_none() -> None:
    est = pv.log_likelihood(toy(), X, num_samples=50, estimator=lambda log_w: log_w.median(0).values)
    assert bool(est.std_error.isnan().all())
    row = pv.panel(toy(), X, estimators=lambda log_w: log_w.median(0).values, num_samples=50).table()[0]
    assert (row["estimator"], row["mc_error"]) == ("<lambda>", None)


def test_custom_estimator_in_panel_shares_the_weights() -> None:
    found = pv.panel(toy(1.0), X, estimators=("iwae", median_of_means, "prior"), num_samples=400)
    assert list(found.rows) == ["iwae", "median_of_means", "prior"]
    alone = pv.log_likelihood(toy(1.0), X, num_samples=400, estimator=median_of_means)
    assert torch.equal(found["median_of_means"].log_px, alone.log_px)
    assert found.seconds["iwae"] == found.seconds["median_of_means"]
    assert "median_of_means neither" in str(found)


def test_custom_estimator_in_compare() -> None:
    table = pv.compare({"right": toy(), "wide": toy(1.5)}, X, num_samples=400, estimator=median_of_means)
    alone = pv.log_likelihood(toy(), X, num_samples=400, estimator=median_of_means)
    assert table.log_px_datum.sel(strategy="right").values.tolist() == alone.log_px.tolist()
    assert (table.attrs["estimator"], table.attrs["bound"]) == ("median_of_means", "log_px is neither bound")
    mixed = pv.compare({"a": alone, "b": pv.log_likelihood(toy(), X, num_samples=400)}, X)
    assert mixed.attrs["estimator"] == "median_of_means, iwae"


def test_record_says_its_side_and_its_limits() -> None:
    few = pv.estimators.Estimator("few", lambda log_w: log_w.amax(0), side="upper", independent=True, most=20, least=5)
    assert pv.log_likelihood(toy(1.0), X, num_samples=10, estimator=few).side == "upper"
    for setting, message in (
        ({"num_samples": 4}, "'few' needs at least 5 samples"),
        ({"num_samples": 21}, "give at most 20 samples"),
        ({"num_samples": 10, "proposal": "defensive"}, "'few' needs independent draws"),
    ):
        with pytest.raises(pv.UserError, match=message):
            pv.log_likelihood(toy(1.0), X, estimator=few, **setting)
    found = pv.panel(toy(1.0), X, estimators=("iwae", few), num_samples=300)
    assert (found["few"].num_samples, found["iwae"].num_samples) == (20, 300)
    assert "few took 20 samples" in str(found)


@pytest.mark.parametrize("wrong", [lambda w: w, lambda w: 3.0, lambda w: (w[0], w), lambda w: w.mean()])
def test_what_is_no_estimator_is_refused_in_a_line(wrong: Any) -> None:
    with pytest.raises(pv.UserError, match=r"gave .* for log weights of shape \(9, 6\): give one value") as caught:
        pv.log_likelihood(toy(), X, num_samples=9, estimator=wrong)
    assert "\n" not in str(caught.value)
    with pytest.raises(pv.UserError, match="side='above'; choose one of lower, upper, neither"):
        pv.estimators.Estimator("x", wrong, side="above")


def test_custom_functions_are_recorded_by_their_source() -> None:
    """Two functions of one name are told apart; what has a name in the package needs no more than that."""

    def made(shift: float) -> pv.Estimate:
        def shifted(log_w: Tensor) -> Tensor:
            return log_w.mean(0) + shift

        return pv.log_likelihood(toy(1.0), X, num_samples=9, estimator=shifted)

    one, other = made(0.0), made(1.0)
    assert one.estimator == other.estimator == "shifted"
    assert one.summary()["custom"]["estimator"]["settings"]["function"]["sha256"]
    assert one.custom != other.custom
    assert pv.log_likelihood(toy(1.0), X, num_samples=9, estimator=pv.estimators.cubo).estimator == "cubo"
    assert "custom" not in pv.log_likelihood(toy(1.0), X, num_samples=9, estimator="cubo").summary()


def test_unfinished_work_of_another_estimator_is_not_resumed(tmp_path: Path) -> None:
    def stopping(log_w: Tensor) -> Tensor:
        if float(log_w.sum()) == seen[-1]:
            raise KeyboardInterrupt
        return log_w.mean(0)

    log_w = pv.log_weights(toy(1.0), X, num_samples=9, block=2)
    seen = [float(log_w[:, 2:4].sum())]
    with pytest.raises(KeyboardInterrupt):
        pv.log_likelihood(toy(1.0), X, num_samples=9, block=2, estimator=stopping, resume=tmp_path)
    kept = set(tmp_path.iterdir())
    assert len(kept) == 1
    other = pv.estimators.Estimator("stopping", lambda log_w: log_w.amax(0))  # of the same name
    largest = pv.log_likelihood(toy(1.0), X, num_samples=9, block=2, estimator=other, resume=tmp_path)
    torch.testing.assert_close(largest.log_px, log_w.amax(0))
    assert set(tmp_path.iterdir()) == kept


def test_each_estimator_under_each_proposal() -> None:
    """Two axes: a row is named by its estimator, by its proposal, or by both."""
    found = pv.panel(toy(1.0), X, estimators=("iwae", "psis", "jvi1"), proposals=("guide", "defensive"), num_samples=90)
    assert list(found.rows) == ["iwae", "psis", "jvi1", "defensive", "defensive psis"]
    assert list(found.reasons) == ["defensive jvi1"]
    for name, row in found.rows.items():
        *source, estimator = name.split() if name != "defensive" else ("defensive", "iwae")
        options = {"estimator": estimator, "proposal": source[0] if source else "guide"}
        assert torch.equal(row.log_px, pv.log_likelihood(toy(1.0), X, num_samples=90, **options).log_px)
    assert "independent draws" in found.table()[-1]["reason"]
    old = pv.panel(toy(1.0), X, estimators=("iwae", "psis"), proposal="prior", num_samples=90)
    new = pv.panel(toy(1.0), X, estimators=("iwae", "psis"), proposals="prior", num_samples=90)
    assert list(old.rows) == list(new.rows) == ["iwae", "psis"]
    assert all(torch.equal(old[n].log_px, new[n].log_px) for n in old.rows)


def test_custom_proposal_in_panel() -> None:
    def wider(model: Any, guide: Any, x: Tensor, y: Tensor | None, num_samples: int) -> pv.Terms:
        return pv.terms(model, toy(1.0).guide, x, y, num_samples=num_samples)

    found = pv.panel(toy(0.45), X, estimators=("iwae", "psis"), proposals=("guide", wider), num_samples=400)
    assert list(found.rows) == ["iwae", "psis", "wider", "wider psis"]
    assert found["wider"].side == "lower"
    assert "proposal" in found["wider"].custom
    biased = pv.proposals.Proposal("biased", wider, side="neither")
    assert pv.log_likelihood(toy(0.45), X, num_samples=9, proposal=biased).side == "neither"


def test_names_and_records_are_the_same() -> None:
    """The strings that --help prints are those of the records, each with one sentence on when to use it."""
    for strings, records in ((ESTIMATORS, pv.estimators.ESTIMATORS), (PROPOSALS, pv.proposals.PROPOSALS)):
        assert {name: (one.side, one.use_when) for name, one in records.items()} == strings
    assert set(ROWS) == {*ESTIMATORS, *PROPOSALS, "ais"} - {"guide"}
    assert all("use it" in sentence for _, sentence in ROWS.values())
