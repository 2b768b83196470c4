"""Unfinished work resumes where it stopped, to the same bits, and never from other work."""

from __future__ import annotations

import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from forks import fork
from torch import Tensor

import ppl_vae as pv
from ppl_vae.likelihood import annealing, streaming
from ppl_vae.runs import partial
from ppl_vae.runs.partial import PartialResults


def parts(folder: Path) -> list[Path]:
    return sorted(folder.glob("unfinished-*.safetensors"))


def left_in_the_middle(folder: Path, about: dict[str, int]) -> None:
    with suppress(KeyboardInterrupt), PartialResults(folder, about) as one:
        one.put("0", {"a": torch.arange(3.0)})
        raise KeyboardInterrupt


def test_parts_come_back_and_the_end_removes_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partial, "WRITE_EVERY", 0.0)
    left_in_the_middle(tmp_path, {"work": 1})
    assert len(parts(tmp_path)) == 1
    with PartialResults(tmp_path, {"work": 2}) as other:  # another name, so nothing is there
        assert other.get("0") is None
    with PartialResults(tmp_path, {"work": 1}) as again:
        kept = again.get("0")
        assert kept is not None
        assert torch.equal(kept["a"], torch.arange(3.0))
        again.put("1", {"a": torch.zeros(1)}, instead_of="0")
        assert again.get("0") is None
    assert parts(tmp_path) == []


def test_a_damaged_file_is_refused_with_the_remedy(tmp_path: Path) -> None:
    left_in_the_middle(tmp_path, {})
    path = parts(tmp_path)[0]
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(pv.RunError, match="or delete it to start this work anew"):
        PartialResults(tmp_path, {})


def stop_after(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, calls: int) -> None:
    """Ctrl-C at the n-th call of a function."""
    real, count = getattr(module, name), 0

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal count
        count += 1
        if count == calls:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(module, name, counted)


@pytest.mark.parametrize("calls", [3, 30, 47, 75])
def test_annealing_resumes_to_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: int) -> None:
    """Stopped while it adapts, while it counts, or in the second block."""
    pair = pv.build("linear", data_shape=(5,), latent=2)
    x = pv.sample(pair, 6, seed=0)

    def run(resume: Path | None) -> Tensor:
        return pv.ais(pair, x, num_chains=3, num_temperatures=20, block=4, start="guide", resume=resume).log_px

    whole = run(None)
    with monkeypatch.context() as patched:
        stop_after(patched, annealing, "move", calls)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path)
    assert len(parts(tmp_path)) == 1
    moves: list[int] = []
    real = annealing.move
    monkeypatch.setattr(annealing, "move", lambda *a: moves.append(1) or real(*a))  # type: ignore[func-returns-value]
    assert torch.equal(run(tmp_path), whole)
    assert len(moves) == 80 - (calls - 1)  # and nothing was done twice
    assert parts(tmp_path) == []


def test_an_estimate_resumes_to_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = pv.build("linear", data_shape=(5,), latent=2)
    x = pv.sample(pair, 20, seed=0)

    def run(resume: Path | None, **other: Any) -> Tensor:
        setting = {"num_samples": 50, "block": 4, **other}
        return pv.log_likelihood(pair, x, resume=resume, **setting).log_px

    whole = run(None)
    with monkeypatch.context() as patched:
        stop_after(patched, streaming, "refuse_outside", 4)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path)
    for other in ({"num_samples": 60}, {"seed": 1}, {"proposal": "prior"}, {"estimator": "psis"}, {"block": 5}):
        assert torch.equal(run(tmp_path, **other), run(None, **other))
    with torch.no_grad():
        pair.model.m.add_(0.1)
    assert not torch.equal(run(tmp_path), whole)  # other parameters are other work
    with torch.no_grad():
        pair.model.m.sub_(0.1)
    assert len(parts(tmp_path)) == 1
    assert torch.equal(run(tmp_path), whole)


class Shifted(torch.nn.Module):
    """A guide that differs in a plain attribute, which no parameter shows."""

    def __init__(self, shift: float) -> None:
        super().__init__()
        self.shift = shift

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x[:, :2] + self.shift, 1.0).to_event(1))


def test_what_parameters_do_not_show_is_other_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attributes, bare parameters, and functions of one name are told apart by a few weights."""
    model = pv.build("linear", data_shape=(5,), latent=2).model
    x = torch.randn(20, 5)
    pairs = [pv.Pair(model, Shifted(s)) for s in (0.0, 0.3)]
    setting: dict[str, Any] = {"num_samples": 50, "block": 4}
    chains: dict[str, Any] = {"num_chains": 2, "num_temperatures": 5, "block": 4, "start": "guide"}
    with monkeypatch.context() as patched:
        stop_after(patched, streaming, "refuse_outside", 4)
        with pytest.raises(KeyboardInterrupt):
            pv.log_likelihood(pairs[0], x, resume=tmp_path, proposal=pv.proposals.tempered(4.0), **setting)
    with monkeypatch.context() as patched:
        stop_after(patched, annealing, "move", 15)
        with pytest.raises(KeyboardInterrupt):
            pv.ais(pairs[0], x, resume=tmp_path, **chains)
    assert len(parts(tmp_path)) == 2
    for pair, temperature in ((pairs[1], 4.0), (pairs[0], 2.0)):
        proposal = pv.proposals.tempered(temperature)
        resumed = pv.log_likelihood(pair, x, resume=tmp_path, proposal=proposal, **setting)
        assert torch.equal(resumed.log_px, pv.log_likelihood(pair, x, proposal=proposal, **setting).log_px)
    assert torch.equal(pv.ais(pairs[1], x, resume=tmp_path, **chains).log_px, pv.ais(pairs[1], x, **chains).log_px)
    assert len(parts(tmp_path)) == 2


def annealed_in(folder: Path) -> list[float]:
    torch.manual_seed(0)
    pair = pv.build("linear", data_shape=(5,), latent=2)
    return pv.ais(pair, torch.zeros(2, 5), num_chains=2, num_temperatures=120, resume=folder).log_px.tolist()


def writes_at_once(folder: Path) -> None:
    partial.WRITE_EVERY = 0.05
    annealed_in(folder)


def test_a_kill_loses_seconds(tmp_path: Path) -> None:
    """kill -9 in the middle: the file is whole, and the same call takes it from there, in another process."""
    job = fork(writes_at_once, tmp_path)
    while not parts(tmp_path) and job.is_alive():
        time.sleep(0.01)
    job.kill()
    job.join()
    assert job.exitcode == -signal.SIGKILL
    assert len(parts(tmp_path)) == 1
    resumed = annealed_in(tmp_path)
    assert parts(tmp_path) == []
    assert resumed == annealed_in(tmp_path / "other")
