"""Binarisation is the likelihood's business: grey images for a Bernoulli, nothing else unless it was asked for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from typer.testing import CliRunner

import ppl_vae as pv
from ppl_vae.cli.app import app
from ppl_vae.data.splits import Data
from ppl_vae.nn.likelihoods import LIKELIHOODS
from ppl_vae.scoring.quantity import is_binary, settled

FAST = ["--epochs", "1", "--hidden", "8", "--latent", "2", "--num-samples", "20", "--no-figures", "--device", "cpu"]


def grey(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def real(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).random(shape, dtype=np.float32)


def folder(path: Path, mode: str) -> Path:
    for i in range(20):
        shape = (6, 5) if mode == "L" else (6, 5, 3)
        Image.fromarray(np.random.default_rng(i).integers(0, 256, shape, dtype=np.uint8), mode=None).save(
            path / f"{i:02}.png"
        )
    return path


SOURCES: dict[str, tuple[Callable[[Path], Any], bool]] = {
    # name: (the source, whether these are grey images)
    "digits": (lambda p: "digits", True),
    "folder of grey images": (lambda p: folder(p, "L"), True),
    "bytes (N, H, W)": (lambda p: grey(30, 6, 5), True),
    "bytes (N, 1, H, W)": (lambda p: grey(30, 1, 6, 5), True),
    "floats (N, 1, H, W)": (lambda p: real(30, 1, 6, 5), True),
    "tensor (N, 1, H, W)": (lambda p: torch.from_numpy(real(30, 1, 6, 5)), True),
    "splits of grey images": (lambda p: {"x_train": real(30, 1, 6, 5), "x_test": real(5, 1, 6, 5)}, True),
    "folder of colour images": (lambda p: folder(p, "RGB"), False),
    "bytes in colour": (lambda p: grey(30, 3, 6, 5), False),
    "bytes in a table": (lambda p: grey(30, 6), False),
    "bits": (lambda p: grey(30, 1, 6, 5) % 2, False),
    "floats in colour": (lambda p: real(30, 3, 6, 5), False),
    "floats beyond [0, 1]": (lambda p: 2 * real(30, 1, 6, 5), False),
    "floats (N, H, W)": (lambda p: real(30, 6, 5), False),
    "a table": (lambda p: real(30, 6), False),
    "one table of two beyond [0, 1]": (lambda p: {"x_train": real(30, 1, 6, 5), "x_test": 2 * real(5, 1, 6, 5)}, False),
}


@pytest.mark.parametrize("name", SOURCES)
def test_only_grey_images_are_binarised_by_default(name: str, tmp_path: Path) -> None:
    make, is_grey = SOURCES[name]
    data = pv.load_data(make(tmp_path))
    assert data.binarize == ("dynamic" if is_grey else "none")
    assert data.train.binarize == data.binarize
    assert data.test.drawn is is_grey
    bits = bool(((data.test.x == 0) | (data.test.x == 1)).all())
    assert bits is (is_grey or name == "bits")
    assert f"binarize='{data.binarize}'" in repr(data)
    assert ("binarised once" in repr(data.test)) is is_grey
    assert data.record()["binarize"] == data.binarize


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("name", ["floats (N, 1, H, W)", "bytes (N, H, W)", "a table", "bytes in colour"])
def test_a_pair_gets_the_data_that_its_likelihood_is_of(likelihood: str, name: str, tmp_path: Path) -> None:
    make, is_grey = SOURCES[name]
    raw = pv.load_data(make(tmp_path), binarize="none")
    pair = pv.build("vae", data=raw, latent=2, hidden=(8,), likelihood=likelihood)
    data = settled(pair, raw)
    assert data.binarize == ("dynamic" if is_grey and likelihood == "bernoulli" else "none")
    if data.binarize == "none":
        assert torch.equal(data.test.x, raw.test.x)
    default = pv.load_data(make(tmp_path))
    for given in (default, pv.load_data(make(tmp_path), binarize="static"), default.train, default.test):
        done = given.binarize if isinstance(given, Data) else default.binarize
        if likelihood != "bernoulli" and done != "none":
            with pytest.raises(pv.DataError, match=r"site 'x' .* is not a Bernoulli.*binarize='none'"):
                pv.fit(pair, given, epochs=1)


@pytest.mark.parametrize("pair", ["vae", "linear", "cvae", "hierarchical", "made", "autoencoder"])
def test_every_registered_pair_is_settled_by_its_own_likelihood(pair: str) -> None:
    raw = pv.load_data((real(30, 1, 6, 5), np.arange(30) % 3), binarize="none")
    options = {} if pair in ("linear", "made") else {"latent": (2, 2) if pair == "hierarchical" else 2}
    built = pv.build(pair, data=raw, **options)
    assert settled(built, raw).binarize == ("none" if pair == "linear" else "dynamic")


class Own(nn.Module):
    """A pair of the user's: z decides all coordinates under any distribution."""

    def __init__(self, make: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.make = make
        self.bias = nn.Parameter(torch.zeros(()))

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([30]).to_event(1))
            pyro.sample("pixels", self.make(z + self.bias), obs=x.flatten(1))

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(self.bias, 1.0).expand([30]).to_event(1))


OWN: dict[str, tuple[Callable[[Tensor], Any], bool]] = {
    "Bernoulli": (lambda h: dist.Bernoulli(logits=h).to_event(1), True),
    "masked Bernoulli": (lambda h: dist.Bernoulli(logits=h).mask(torch.ones(30)).to_event(1), True),
    "Binomial of one": (lambda h: dist.Binomial(1, logits=h).to_event(1), True),
    "Categorical of two": (lambda h: dist.Categorical(logits=torch.stack([h, -h], -1)).to_event(1), True),
    "Categorical of three": (lambda h: dist.Categorical(logits=torch.stack([h, -h, h], -1)).to_event(1), False),
    "Binomial of 255": (lambda h: dist.Binomial(255, logits=h).to_event(1), False),
    "Normal": (lambda h: dist.Normal(h, 1.0).to_event(1), False),
    "Beta": (lambda h: dist.Beta(h.exp(), 1.0).to_event(1), False),
    "Poisson": (lambda h: dist.Poisson(h.exp()).to_event(1), False),
}


@pytest.mark.parametrize("name", OWN)
def test_a_users_own_likelihood_is_told_by_its_support(name: str) -> None:
    make, binary = OWN[name]
    own = Own(make)
    pair = pv.Pair(own.model, own.guide)
    data = pv.load_data(real(30, 1, 6, 5))
    assert is_binary(pair, data.train.x, None) is binary
    if binary:
        pv.fit(pair, data, epochs=1)
    for work in (
        lambda: pv.fit(pair, data, epochs=1),
        lambda: pv.log_likelihood(pair, data.test, num_samples=5),
        lambda: pv.panel(pair, data.test, estimators="iwae", num_samples=5),
        lambda: pv.compare({"a": pair}, data.test, num_samples=5),
        lambda: pv.ais(pair, data.test, num_chains=2, num_temperatures=2),
    ):
        if not binary:
            with pytest.raises(pv.DataError, match=r"site 'pixels'.*is not a Bernoulli"):
                work()


def test_a_bernoulli_on_grey_tables_is_refused_in_one_line() -> None:
    data = pv.load_data(real(40, 6))
    with pytest.raises(pv.DataError, match=r"outside the support.*binarise it.*or choose another likelihood"):
        pv.fit(pv.build("vae", data=data, latent=2, hidden=(8,)), data, epochs=1)


def run(*args: str | Path, code: int = 0) -> Any:
    result = CliRunner().invoke(app, [str(a) for a in args])
    assert result.exit_code == code, (args, result.output, result.exception)
    return result


def test_real_rows_in_the_unit_interval_are_trained_and_tested_as_they_are(tmp_path: Path) -> None:
    """Correlated normal rows scaled to [0, 1]: the default gives what --binarize none gives, to the bit."""
    g = np.random.default_rng(0)
    x = g.normal(size=(300, 6)) @ g.normal(size=(6, 6))
    np.save(tmp_path / "x.npy", ((x - x.min(0)) / (x.max(0) - x.min(0))).astype(np.float32))
    common = ["train", "vae", *FAST, "--data", tmp_path / "x.npy", "--likelihood", "gaussian_learned", "--json"]
    auto = run(*common, "--out", tmp_path / "auto")
    none = run(*common, "--out", tmp_path / "none", "--binarize", "none")
    assert "binarisation: none (auto)" in auto.stderr
    assert json.loads(auto.stdout)["log_px_mean"] == json.loads(none.stdout)["log_px_mean"]
    assert json.loads((tmp_path / "auto/config.json").read_text())["data"]["binarize"] == "none"
    refused = run(*common, "--out", tmp_path / "no", "--binarize", "dynamic", code=2)
    assert "site 'x' (Normal) is not a Bernoulli" in refused.stderr
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian", "discretized", "continuous_bernoulli"])
def test_the_command_line_settles_images_by_the_likelihood(likelihood: str, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", grey(60, 6, 5))
    out = tmp_path / "run"
    run("train", "vae", *FAST, "--data", tmp_path / "x.npy", "--likelihood", likelihood, "--out", out)
    wanted = "dynamic" if likelihood == "bernoulli" else "none"
    config = json.loads((out / "config.json").read_text())
    assert (config["request"]["binarize"], config["data"]["binarize"]) == ("auto", wanted)
    run("evaluate", out, "--num-samples", "10")  # the same data, by their checksum
    run("train", "--resume", "--out", out, "--num-samples", "10", "--no-figures")


def test_runs_from_before_there_was_a_default_still_open(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", real(60, 6))
    out = tmp_path / "run"
    run("train", "made", *FAST[:4], *FAST[6:], "--data", tmp_path / "x.npy", "--binarize", "dynamic", "--out", out)
    config = json.loads((out / "config.json").read_text())
    before = json.loads(run("evaluate", out, "--num-samples", "10", "--json").stdout)
    for key in ("columns", "label"):
        del config["request"][key]
    del config["data"]["reading"]
    (out / "config.json").write_text(json.dumps(config))
    assert json.loads(run("evaluate", out, "--num-samples", "10", "--json").stdout) == before
    run("score", out, "--data", tmp_path / "x.npy", "--num-samples", "10")
    run("train", "--resume", "--out", out, "--num-samples", "10", "--no-figures")
