"""A fit that was interrupted leaves a pair that can be used, and the process as it was."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import torch

import ppl_vae as pv
from ppl_vae.training import optimisers

OPTIONS: dict[str, Any] = {"epochs": 3, "batch_size": 8, "lr": 1e-2, "progress": False, "device": "cpu"}


def small() -> tuple[pv.Pair, pv.Data]:
    torch.manual_seed(1)
    x = (torch.rand(40, 6) < 0.5).float()
    data = pv.load_data(x, seed=0)
    return pv.build("vae", data=data, latent=2, hidden=(5,)), data


class Interrupts:
    """Raises KeyboardInterrupt within a call of a module: in the middle of a step, as a second Ctrl-C does."""

    def __init__(self, at: int) -> None:
        self.calls, self.at = 0, at

    def __call__(self, *given: Any) -> None:
        self.calls += 1
        if self.calls == self.at:
            raise KeyboardInterrupt


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("place", ["guide.encoder", "model.decoder"])
@pytest.mark.parametrize("saved", [False, True])
@pytest.mark.usefixtures("untouched")
def test_an_interrupted_pair_is_usable(place: str, saved: bool, training: bool, tmp_path: Path) -> None:
    """It keeps its mode, evaluates, samples and trains on; handlers, flags and generators are as before."""
    with torch.random.fork_rng(devices=[]):
        pair, data = small()
        pair.train(training)
    start = [p.detach().clone() for p in pair.parameters()]
    folder: dict[str, Any] = {"run_dir": tmp_path / "run"} if saved else {}
    handler = signal.getsignal(signal.SIGINT)
    hook = pair.get_submodule(place).register_forward_hook(Interrupts(at=9))
    with pytest.raises(KeyboardInterrupt):
        pv.fit(pair, data, "elbo", **OPTIONS, **folder)
    hook.remove()
    assert signal.getsignal(signal.SIGINT) is handler
    assert all(module.training == training for module in pair.modules())
    assert any(not torch.equal(p, q) for p, q in zip(pair.parameters(), start, strict=True))  # some steps were taken
    assert all(bool(p.isfinite().all()) for p in pair.parameters())
    assert bool(pv.log_likelihood(pair, data.test, num_samples=20).log_px.isfinite().all())
    assert pv.sample(pair, 3, seed=0).shape == (3, 6)
    assert len(pv.fit(pair, data, "elbo", **OPTIONS)) == 3


@pytest.mark.parametrize("place", ["guide.encoder", "model.decoder"])
def test_an_interrupted_run_goes_on_as_if_it_had_not_been(place: str, tmp_path: Path) -> None:
    pair, data = small()
    pv.fit(pair, data, "elbo", **OPTIONS, run_dir=tmp_path / "whole")
    whole = torch.cat([p.detach().flatten() for p in pair.parameters()])
    pair, data = small()
    hook = pair.get_submodule(place).register_forward_hook(Interrupts(at=9))
    with pytest.raises(KeyboardInterrupt):
        pv.fit(pair, data, "elbo", **OPTIONS, run_dir=tmp_path / "run")
    hook.remove()
    history = pv.fit(pair, data, "elbo", **OPTIONS, run_dir=tmp_path / "run", resume=True)
    assert [row["epoch"] for row in history] == [1, 2, 3]
    assert isinstance(history, pv.History)
    assert torch.equal(torch.cat([p.detach().flatten() for p in pair.parameters()]), whole)


def test_an_interrupt_while_the_optimiser_is_made_waits_for_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch imports its compiler there, and swallows an interrupt now and then."""
    pair, data = small()
    start = [p.detach().clone() for p in pair.parameters()]
    make = optimisers.make

    def interrupted(*given: Any, **options: Any) -> Any:
        signal.raise_signal(signal.SIGINT)
        return make(*given, **options)

    monkeypatch.setattr(optimisers, "make", interrupted)
    was = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background work ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            pv.fit(pair, data, "elbo", **OPTIONS)
    finally:
        signal.signal(signal.SIGINT, was)
    assert any(not torch.equal(p, q) for p, q in zip(pair.parameters(), start, strict=True))
