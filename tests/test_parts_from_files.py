"""A user's file adds a guide, a likelihood, a network, an objective, an estimator and a proposal to a command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import FEW, call, read

import ppl_vae as pv
from ppl_vae.common import custom

SOURCE = """
import math
from pathlib import Path

import pyro.distributions as dist
import torch
from torch import nn

import ppl_vae as pv

Path(__file__).with_name("ran").touch()


class Student(nn.Module):
    def __init__(self, features, latent):
        super().__init__()
        self.linear = nn.Linear(features, 2 * latent)

    def forward(self, h):
        loc, log_scale = self.linear(h).chunk(2, -1)
        return dist.StudentT(5.0, loc, log_scale.exp()).to_event(1)


class Laplace(pv.likelihoods.Likelihood):
    def per_coordinate(self, h):
        return dist.Laplace(h, 1.0)


def gated(in_shape, out_shape, hidden, act):
    layers = [nn.Flatten(), nn.Linear(math.prod(in_shape), 2 * hidden[0]), nn.GLU(-1)]
    return nn.Sequential(*layers, *([] if out_shape is None else [nn.Linear(hidden[0], math.prod(out_shape))]))


def tight(t):
    return torch.logsumexp(t.log_w, 0) - math.log(len(t.log_w))


def largest(log_w):
    return log_w.max(0).values - math.log(len(log_w))


def doubled(model, guide, x, y, num_samples):
    return pv.terms(model, guide, x, y, num_samples=num_samples)
"""
FAST = ["--epochs", "2", "--no-figures", *FEW]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the file, data, and a run whose every part is of the file."""
    folder = tmp_path_factory.mktemp("parts")
    (folder / "mine.py").write_text(SOURCE)
    np.save(folder / "x.npy", np.random.default_rng(0).normal(size=(60, 2, 3)).astype(np.float32))
    call("train", "vae", *parts(folder), *objective(folder), *FAST, "--data", folder / "x.npy", "--out", folder / "run")
    return folder


def parts(folder: Path) -> list[str]:
    chosen = {"guide": "Student", "likelihood": "Laplace", "network": "gated"}
    options = [(f"--{option}", f"{folder}/mine.py:{name}") for option, name in chosen.items()]
    return [word for option in options for word in option] + ["--hidden", "5", "--latent", "2"]


def objective(folder: Path) -> list[str]:
    return ["--objective", f"{folder}/mine.py:tight", "--num-particles", "4"]


def handed(folder: Path, *but: str) -> list[str]:
    names = [name for name in ("Student", "Laplace", "gated") if name not in but]
    return [word for name in names for word in ("--part", f"{folder}/mine.py:{name}")]


def test_every_part_is_used_and_recorded(place: Path) -> None:
    config = json.loads((place / "run" / "config.json").read_text())
    for option, name in (("guide", "Student"), ("likelihood", "Laplace"), ("network", "gated")):
        assert config["pair"]["options"][option]["custom"]["name"].endswith(f".{name}")
        assert config["request"]["options"][option] == f"{place}/mine.py:{name}"
    assert config["fit"]["objective"]["num_particles"] == 4
    assert "tight" in str(config["fit"]["objective"])


def test_a_later_command_runs_the_parts_that_it_is_handed(place: Path) -> None:
    found = read("evaluate", place / "run", *handed(place), *FEW)
    assert found["log_px_mean"] == json.loads((place / "run" / "evaluation.json").read_text())["log_px_mean"]
    (place / "ran").unlink()
    custom._run.cache_clear()
    call("evaluate", place / "run", *FEW, code=2)
    assert not (place / "ran").exists()  # a run folder runs nothing by itself
    for left_out in ("Student", "gated"):
        error = call("evaluate", place / "run", *handed(place, left_out), *FEW, code=2).stderr
        assert f"custom code, which is not run unless you name it: --part {place}/mine.py:{left_out}" in error
    error = call("evaluate", place / "run", *handed(place), "--part", f"{place}/mine.py:tight", *FEW, code=2).stderr
    assert "mine.py:tight: it is neither the pair nor a part of a run here" in error


def test_an_estimator_and_a_proposal_of_a_file(place: Path) -> None:
    options = [*handed(place), *FEW, "--estimator", "iwae", "--estimator", f"{place}/mine.py:largest"]
    rows = {r["estimator"]: r for r in read("evaluate", place / "run", *options)["estimators"]}
    assert rows["largest"]["log_px_mean"] < rows["iwae"]["log_px_mean"]
    found = read("score", place / "run", *handed(place), *FEW, "--proposal", f"{place}/mine.py:doubled")
    assert found["proposal"] == "doubled"  # which draws as the guide does, from another stream
    assert found["log_px_mean"] == pytest.approx(rows["iwae"]["log_px_mean"], abs=2.0)


def test_a_run_resumes_with_the_code_that_it_is_handed_again(place: Path, tmp_path: Path) -> None:
    start = ["train", "vae", *parts(place), *objective(place), "--no-figures", *FEW, "--data", place / "x.npy"]
    call(*start, "--epochs", "4", "--out", tmp_path / "whole")
    call(*start, "--epochs", "2", "--out", tmp_path / "run")
    again = ["train", "--out", tmp_path / "run", "--resume", "--epochs", "4"]
    error = call(*again, code=2).stderr
    assert "likelihood and network and guide and objective: custom code, which is not run unless" in error
    assert f"--guide {place}/mine.py:Student --objective {place}/mine.py:tight" in error
    assert "run: objective: custom code" in call(*again, *parts(place), code=2).stderr
    call(*again, *parts(place), *objective(place))
    weights = [(tmp_path / name / "weights.safetensors").read_bytes() for name in ("run", "whole")]
    assert weights[0] == weights[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--guide", "{}/mine.py:none"], "mine.py has no function 'none'; give FILE.py:NAME"),
        (["--guide", "{}/absent.py:Student"], "absent.py:Student: there is no file"),
        (["--latent", "{}/mine.py:Student"], "a whole number is needed"),
        (["--objective", "{}/mine.py:tight", "--free-bits", "1"], "objective 'tight' takes no option free_bits"),
    ],
)
def test_bad_names_are_one_line(place: Path, tmp_path: Path, options: list[str], message: str) -> None:
    given = [word.format(place) for word in options]
    error = call("train", "vae", *given, *FAST, "--data", place / "x.npy", "--out", tmp_path / "run", code=2).stderr
    assert message in " ".join(error.split())
    assert not (tmp_path / "run").exists()


def test_the_same_objective_by_name_by_function_and_as_an_instance() -> None:
    """A function of Terms trains as the objective of that function does, whoever is handed it."""
    x = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))

    def bound(t: pv.Terms) -> torch.Tensor:
        return t.log_w.mean(0)

    losses = []
    for loss in ("elbo", bound, pv.Objective(bound), pv.Elbo):
        torch.manual_seed(0)
        pair = pv.build("linear", data_shape=(4,), latent=2)
        svi = pv.SVI(pair.model, pair.guide, torch.optim.SGD(pair.parameters(), lr=1e-2), loss)
        losses.append([float(svi.step(x)) for _ in range(3)])
        fitted = pv.fit(pair, x, loss, epochs=1, device="cpu", progress=False, capture=False)
        losses[-1].append(fitted[-1]["train_bound"])
    for other in losses[1:]:
        assert other == pytest.approx(losses[0], rel=1e-5)
