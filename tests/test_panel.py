"""The panel: what its rows are, and whether its sentences are true."""

from __future__ import annotations

import math

import pytest
import torch
from exact import DIMS, toy, toy_evidence

import ppl_vae as pv
from ppl_vae.common.registry import ROWS


def test_every_estimator_has_a_row_equal_to_its_own_call() -> None:
    x = torch.randn(6, DIMS, dtype=torch.float64)
    found = pv.panel(toy(1.0), x, None, tuple(ROWS), 400, num_chains=4, num_temperatures=10)
    assert list(found.rows) == list(ROWS)
    for name in ("elbo", "iwae", "psis", "jvi1", "jvi2", "cubo"):
        assert torch.equal(found[name].log_px, pv.log_likelihood(toy(1.0), x, num_samples=400, estimator=name).log_px)
    for name in ("prior", "defensive", "tempered", "qmc"):
        assert torch.equal(found[name].log_px, pv.log_likelihood(toy(1.0), x, num_samples=400, proposal=name).log_px)
    annealed = pv.ais(toy(1.0), x, num_chains=4, num_temperatures=10, start="guide")
    assert torch.equal(found["ais"].log_px, annealed.log_px)
    for row in found.table():
        assert row["side"] == ROWS[row["estimator"]][0]
        assert row["seconds"] >= 0
        assert row["log_px_mean"] == pytest.approx(float(found[row["estimator"]].log_px.mean()))
    assert len(str(found).splitlines()) > len(ROWS)


def test_the_second_jackknife_gets_the_samples_that_it_can_use() -> None:
    x = torch.randn(3, DIMS, dtype=torch.float64)
    found = pv.panel(toy(), x, None, ("iwae", "jvi2"), 3000)
    assert (found["iwae"].num_samples, found["jvi2"].num_samples) == (3000, 1000)


def test_the_lower_limit_holds_whatever_the_tails() -> None:
    """A guide far too narrow (k > 1): over 300 panels the limit is above the truth in at most 2.5 % (here: none)."""
    above = 0
    for seed in range(300):
        x = torch.randn(5, DIMS, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        found = pv.panel(toy(0.15), x, None, ("iwae", "prior"), 50, seed=seed)
        _, limit = found.at_least()
        above += limit > float(toy_evidence(x).mean())
    assert above <= 0.025 * 300 + 3 * math.sqrt(0.025 * 300)


def test_the_lower_limit_pays_for_chance() -> None:
    """One datum, one draw: the mean itself is above the truth in half of all runs, the limit in 2.5 % at most."""
    x = torch.zeros(1, DIMS, dtype=torch.float64)
    truth = float(toy_evidence(x))
    runs = [pv.panel(toy(0.45), x, None, ("iwae",), 1, seed=s) for s in range(400)]
    assert sum(float(r["iwae"].log_px) > truth for r in runs) > 100
    assert sum(r.at_least()[1] > truth for r in runs) <= 10 + 3 * math.sqrt(10)


def test_good_weights_give_an_interval_that_holds_the_truth() -> None:
    covered = 0
    torch.manual_seed(0)
    for seed in range(40):
        x = torch.randn(20, DIMS, dtype=torch.float64)
        found = pv.panel(toy(), x, None, ("iwae",), 2000, seed=seed)
        text = "\n".join(found.sentences())
        assert "At least" in text
        assert "From above: nothing" not in text
        end = float(text.split("No sign of more than ")[1].split(" nats")[0])
        covered += found.at_least()[1] <= float(toy_evidence(x).mean()) <= end
    assert covered >= 36


def test_bad_weights_are_named_with_their_remedy() -> None:
    x = torch.randn(10, DIMS, dtype=torch.float64)
    text = "\n".join(pv.panel(toy(0.1), x, None, ("iwae", "cubo"), 1000).sentences())
    assert "From above: nothing" in text
    assert "10 of 10 examples unreliable, Pareto k >= 0.67 (index 0, 1, 2, 3, 4, 5, 6, 7, ...)" in text
    assert "more samples hardly help" in text
    assert "Remedy: try refined, defensive, ais" in text
    assert "cubo is no bound here: for 10 of 10 examples" in text
    assert pv.panel(toy(0.5), x, None, ("iwae",), 100).sentences() == [
        "Every weight equals p(x): the figures are exact."
    ]


def test_the_sample_size_that_would_do_is_named() -> None:
    """k = 0.5 to 0.6 asks for some hundreds: with fewer, the sentence says how many."""
    x = torch.randn(10, DIMS, dtype=torch.float64)
    found = pv.panel(toy(0.45), x, None, ("iwae",), 60)
    needing = found["iwae"].khat[found["iwae"].unreliable]
    assert len(needing[needing < 0.7]) > 0
    text = "\n".join(found.sentences())
    size = math.ceil(float(pv.min_samples(needing[needing < 0.7]).max()))
    assert f"need K = {size:,}" in text
    if bool((needing < 0.7).all()):
        assert f"Remedy: more samples, --num-samples {size} " in text


def test_a_row_that_should_not_lie_below_another_is_named() -> None:
    x = torch.randn(20, DIMS, dtype=torch.float64)
    beaten = pv.panel(toy(0.005), x, None, ("iwae", "prior"), 3000)
    assert "The prior beats the guide" in "\n".join(beaten.sentences())
    cold = pv.panel(toy(0.9), x, None, ("iwae", "ais"), 3000, num_chains=2, num_temperatures=1)
    assert "ais lies below iwae" in "\n".join(cold.sentences())
    assert "2x1" in str(cold)


def test_errors_that_the_weights_cannot_know_are_marked() -> None:
    x = torch.randn(5, DIMS, dtype=torch.float64)
    head, bad = pv.panel(toy(0.1), x, None, "iwae", 200).cells()
    assert bad[head.index("SE (MC)")].startswith(">")
    good = pv.panel(toy(), x, None, ("iwae",), 2000).cells()[1]
    assert not good[head.index("SE (MC)")].startswith(">")


def test_too_few_samples_say_that_and_no_more() -> None:
    x = torch.randn(2, DIMS, dtype=torch.float64)
    text = "\n".join(pv.panel(toy(), x, None, ("iwae",), 1).sentences())
    assert "no k for any of the examples (K = 1 is too small)" in text
    assert "inf" not in text


def test_the_mixtures_finite_variance_is_said() -> None:
    x = torch.randn(20, DIMS, dtype=torch.float64)
    text = "\n".join(pv.panel(toy(0.05), x, None, ("defensive",), 1000).sentences())
    assert "their variance is finite all the same" in text


def test_a_model_without_a_guide_is_annealed_from_the_prior_and_labels_are_passed_on() -> None:
    pair = pv.build("linear", data_shape=(5,), latent=2)

    def nothing(x: torch.Tensor) -> None:
        """No guide."""

    found = pv.panel(pv.Pair(pair.model, nothing), torch.zeros(2, 5), None, ("ais",), num_chains=2, num_temperatures=5)
    assert found["ais"].proposal == "annealed prior"
    labelled = pv.build("cvae", data_shape=(6,), num_classes=3, latent=2, hidden=(4,))
    y = torch.tensor([0, 2])
    both = pv.panel(labelled, torch.zeros(2, 6), y, ("iwae", "ais"), 20, num_chains=2, num_temperatures=5)
    assert both["iwae"].conditional
    assert both["ais"].proposal == "annealed guide"


@pytest.mark.parametrize(
    ("estimators", "message"),
    [
        (("mode",), "estimator 'mode' is not known; choose from elbo, iwae"),
        ((), "no estimator was given"),
        (("iwae", "iwae"), "an estimator is named twice: iwae, iwae"),
        ("mean", "estimator 'mean' is not known"),
    ],
)
def test_bad_names_are_one_line(estimators: str | tuple[str, ...], message: str) -> None:
    with pytest.raises(pv.UserError, match="proposal='qmc' is for elbo, iwae"):
        pv.panel(toy(), torch.zeros(2, DIMS), None, ("prior",), proposal="qmc")
    with pytest.raises(pv.UserError, match=message):
        pv.panel(toy(), torch.zeros(2, DIMS), None, estimators)
    with pytest.raises(pv.UserError, match="no row of the panel is a lower bound"):
        pv.panel(toy(), torch.zeros(2, DIMS), None, ("psis",), 50).at_least()
