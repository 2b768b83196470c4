"""A fit of so many steps or seconds in place of epochs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import ppl_vae as pv
from ppl_vae.training.loop import Loop


def trained(x: torch.Tensor, **options: Any) -> tuple[pv.Pair, list[dict[str, Any]]]:
    torch.manual_seed(0)
    pair = pv.build("linear", data_shape=(5,), latent=2)
    return pair, pv.fit(pair, x, progress=False, batch_size=10, **options)


def weights(pair: pv.Pair) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in pair.parameters()])


X = torch.randn(40, 5, generator=torch.Generator().manual_seed(1))


def test_steps_are_those_of_epochs_and_may_end_within_one() -> None:
    """Four steps are an epoch: eight have the weights of two epochs, and six end within the second."""
    pair, history = trained(X, steps=6)
    assert [(row["epoch"], row["step"]) for row in history] == [(1, 4), (2, 6)]
    whole, _ = trained(X, epochs=2)
    assert not torch.equal(weights(pair), weights(whole))
    exact, rows = trained(X, steps=8)
    assert torch.equal(weights(exact), weights(whole))
    assert rows[0]["train_bound"] == history[0]["train_bound"]


def test_the_bound_of_a_part_of_an_epoch_is_a_mean_over_what_was_seen() -> None:
    """Under a learning rate that moves nothing, over equal examples, a half epoch has the bound of each example."""
    x = torch.zeros(40, 5)
    _, history = trained(x, steps=6, lr=1e-12, objective="analytic_kl")
    assert history[1]["train_bound"] == pytest.approx(history[0]["train_bound"], rel=0.2)


def test_schedules_run_over_the_steps_and_more_than_the_epochs() -> None:
    """Sixty steps are fifteen epochs, whatever `epochs` says; the linear schedule ends at the sixtieth."""
    _, history = trained(X, steps=60, epochs=2, schedule="linear", lr=0.6)
    assert (len(history), history[-1]["step"]) == (15, 60)
    assert history[-1]["lr"] == pytest.approx(0.01)


def test_seconds_stop_soon_after_they_are_spent() -> None:
    _, history = trained(X, seconds=0.3)
    spent = sum(row["seconds"] for row in history)
    assert 0.3 < spent < 5
    assert history[-1]["step"] > 10


@pytest.mark.parametrize("at", [7, 10])
def test_a_run_of_steps_is_resumed_bit_for_bit(at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the last step too, before the row of its epoch was written."""
    whole, history = trained(X, steps=10, run_dir=tmp_path / "whole")
    take = Loop.step

    def stopping(loop: Any, *args: Any) -> bool:
        finished = take(loop, *args)
        if loop.state.step == at:
            raise KeyboardInterrupt
        return finished

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "step", stopping)
        with pytest.raises(KeyboardInterrupt):
            trained(X, steps=10, run_dir=tmp_path / "part")
    resumed, again = trained(X, steps=10, run_dir=tmp_path / "part", resume=True)
    assert torch.equal(weights(resumed), weights(whole))
    assert [row["train_bound"] for row in again] == [row["train_bound"] for row in history]
    with pytest.raises(pv.RunError, match="the run has steps=10 and you ask for 12"):
        trained(X, steps=12, run_dir=tmp_path / "part", resume=True)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"steps": 0}, "steps=0: at least 1 is needed"),
        ({"seconds": 0}, "seconds=0: give a positive number of seconds"),
        ({"seconds": 5, "steps": 5}, "steps=5 and seconds=5: give one of them"),
        ({"seconds": 5, "schedule": "linear"}, "schedule: it needs the number of steps, which seconds=5 leaves open"),
        ({"steps": 5, "warmup": 2.0}, "warmup=2.0 epochs of 5 steps: the weight of the KL term would never reach 1"),
    ],
)
def test_budgets_that_make_no_sense_are_one_line(options: dict[str, Any], words: str) -> None:
    with pytest.raises(pv.UserError, match=words):
        trained(X, **options)
