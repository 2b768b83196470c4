"""The latent space: codes as features, directions, the probe, disentangling scores, the factors, and their command."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import call, read

import ppl_vae as pv
from ppl_vae.data.factors import FACTORS


def small(**options: object) -> pv.Pair:
    torch.manual_seed(0)
    return pv.build("vae", **{"data_shape": (6,), "latent": 3, "hidden": (7,), **options})


def test_codes_are_the_means_side_by_side() -> None:
    pair = pv.build("hierarchical", data_shape=(6,), latent=(4, 2), hidden=(7,), hidden2=(5,))
    x = torch.rand(5, 6)
    found, means = pv.codes(pair, x), pv.encode(pair, x).mean
    assert found.names == (*(f"z1[{i}]" for i in range(4)), *(f"z2[{i}]" for i in range(2)))
    torch.testing.assert_close(found.values, torch.cat([means["z1"], means["z2"]], 1))
    with pytest.raises(pv.UserError, match="no latents"):
        pv.codes(pv.build("made", data_shape=(6,), hidden=(8,)), x)


def test_a_direction_leads_from_one_group_to_the_other() -> None:
    """The mean code of the one group, moved along it, is that of the other; by nothing, it is the reconstruction."""
    pair, x = small(), torch.rand(8, 6)
    where = x[:, 0] > x[:, 0].median()
    step = pv.direction(pair, x, None, where)
    z = pv.encode(pair, x).mean["z"]
    torch.testing.assert_close(z[~where].mean(0) + step["z"], z[where].mean(0))
    torch.testing.assert_close(pv.moved(pair, x, along=step, by=0.0), pv.decode(pair, {"z": z}))
    torch.testing.assert_close(pv.moved(pair, x, along=step), pv.decode(pair, {"z": z + step["z"]}))
    for wrong in (torch.ones(8), torch.zeros(8), torch.tensor([True, False])):
        with pytest.raises(pv.UserError, match="mark some, and not all"):
            pv.direction(pair, x, None, wrong)


def test_the_probe_reads_what_a_linear_code_holds() -> None:
    """Codes that are the label are read without an error, the data and their PCA as well; noise is read as noise."""
    pair, n = small(latent=2, likelihood="gaussian", hidden=()), 300
    y = torch.arange(n) % 2
    x = torch.randn(n, 6)
    x[:, 0] += 20 * y
    head = next(m for m in pair.guide.head.modules() if isinstance(m, torch.nn.Linear))
    with torch.no_grad():
        head.weight.zero_()
        head.weight[0, 0] = 1.0
    train, test = pv.Split(x[:200], y[:200]), pv.Split(x[200:], y[200:])
    found = pv.probe(pair, train, test)
    assert found.accuracy["codes"] == found.accuracy["data"] == found.accuracy["pca"] == 1.0
    assert found.accuracy["majority"] == 0.5
    assert found.size == {"codes": 2, "data": 6, "pca": 2, "majority": 0}
    with torch.no_grad():
        head.weight.zero_()
        head.weight[0, 1] = 1.0  # of a column that is noise
    assert pv.probe(pair, train, test).accuracy["codes"] < 0.7
    with pytest.raises(pv.UserError, match="no labels"):
        pv.probe(pair, pv.Split(x), test)
    with pytest.raises(pv.UserError, match="labels"):
        pv.probe(pv.build("cvae", data_shape=(6,), num_classes=2, latent=2, hidden=(4,)), train, test)


def test_factors_are_all_their_combinations_once() -> None:
    data = pv.load_data("factors")
    splits = (data.train, data.valid, data.test)
    x, y = (torch.cat([getattr(split, name) for split in splits]) for name in ("x", "y"))
    assert x.shape == (576, 1, 16, 16)
    assert y.shape == (576, 4)
    assert len(x.unique(dim=0)) == len(y.unique(dim=0)) == 576
    assert (y.amax(0) + 1).tolist() == list(FACTORS.values())
    down = pv.load_data("factors").test
    centre = (down.x[:, 0] * torch.arange(16.0)[:, None]).sum((1, 2)) / down.x.sum((1, 2, 3))
    torch.testing.assert_close(centre, 4 + down.y[:, 3])


def test_the_scores_at_their_ends() -> None:
    """Codes that are the factors score one; copies have no gap; a rotation is informative and not disentangled."""
    y = torch.cartesian_prod(torch.arange(4), torch.arange(4), torch.arange(8)).float()
    assert pv.mig(y, y) == pytest.approx(1.0, abs=1e-9)
    assert pv.mig(torch.cat([y, y], 1), y) == pytest.approx(0.0, abs=1e-9)
    exact = pv.dci(y, y, trees=10)
    assert min(exact[:3]) > 0.99
    torch.testing.assert_close(exact.importance, torch.eye(3).double(), atol=1e-6, rtol=0)
    torch.manual_seed(0)
    turned = y @ torch.linalg.qr(torch.randn(3, 3)).Q
    mixed = pv.dci(turned, y, trees=10)
    assert mixed.disentanglement < 0.6
    assert mixed.completeness < 0.6
    assert pv.mig(turned, y) < 0.5
    with pytest.raises(pv.UserError, match="factor 0 has one value"):
        pv.mig(y, torch.zeros(len(y), 2))


def test_what_has_no_meaning_is_refused_in_one_line() -> None:
    """Class numbers as a mask, a direction that is none, continuous factors, and codes that say nothing."""
    pair, x = pv.build("vae", data_shape=(4,), latent=2, hidden=(3,)), torch.rand(6, 4).round()
    factors = torch.tensor([[0, 0], [1, 0], [2, 0], [0, 1], [1, 1], [2, 1]])
    z = torch.randn(6, 2)
    for attempt, message in (
        (lambda: pv.direction(pair, x, None, torch.arange(6) % 3), "booleans, such as y == 3"),
        (lambda: pv.moved(pair, x, along=torch.zeros(2)), "a dictionary by site: z"),
        (lambda: pv.mig(z, torch.randn(6, 2)), "factor 0 has 6 values in 6 examples: it is continuous"),
        (lambda: pv.mig(z * torch.nan, factors), "example 0 has a code that is not finite"),
        (lambda: pv.dci(torch.zeros(6, 2), factors), "every example has the same code"),
    ):
        with pytest.raises(pv.UserError, match=message):
            attempt()
    assert pv.direction(pair, x, None, torch.tensor([0, 1, 0, 1, 1, 0]))["z"].shape == (2,)


def test_the_information_of_a_gap_is_exact() -> None:
    """Of a code that tells two of four values apart: log 2 of log 4 nats, and nothing in the other code."""
    v = torch.arange(4).repeat(25)
    codes = torch.stack([(v >= 2).float(), torch.arange(100) // 4 % 2], 1)
    assert pv.mig(codes, v) == pytest.approx(0.5, abs=0.01)


def test_the_command(tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = ["--data", "factors", "--latent", 3, "--hidden", 8, "--epochs", 1, "--no-figures"]
    call("train", "vae", *options, "--num-samples", 5, "--limit", 10, "--out", run)
    found = read("encode", run, "--disentangling", "--out", tmp_path / "a.npz")
    assert found["size"] == 3
    assert 0 <= found["mig"] <= 1
    assert {"disentanglement", "completeness", "informativeness"} < set(found)
    with np.load(tmp_path / "a.npz") as held:
        codes = held["x"]
    assert codes.shape == (found["n"], 3)
    assert pv.load_data(str(tmp_path / "a.npz")).train.y.shape[1] == 4  # it can be read again
    call("encode", run, "--out", tmp_path / "a.csv")
    head, *rows = list(csv.reader((tmp_path / "a.csv").read_text().splitlines()))
    assert head == ["index", *(f"label[{i}]" for i in range(4)), "z[0]", "z[1]", "z[2]"]
    assert np.allclose(np.array(rows)[:, 5:].astype(float), codes, atol=1e-6)
    assert ".npz" in call("encode", run, "--out", tmp_path / "a.txt", code=2).stderr
    assert "classes" in call("encode", run, "--probe", "--out", tmp_path / "a.npz", code=2).stderr
