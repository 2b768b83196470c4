"""Pairs of installed packages: the entry-point group ppl_vae.pairs, faked by a dist-info folder on the path."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import ppl_vae as pv
from ppl_vae.cli.app import app

BUILDER = '''
from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from torch import nn

import ppl_vae as pv


class Model(nn.Module):
    def __init__(self, size, floors):
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(size))
        self.floors = floors

    def forward(self, x=None, y=None, n=1):
        with pyro.plate("data", n if x is None else len(x), dim=-1):
            return pyro.sample("x", dist.Normal(self.loc, 1.0).to_event(1), obs=x)


def guide(x, y=None):
    with pyro.plate("data", len(x), dim=-1):
        pass


def builder(*, data_shape, floors: int = 3) -> pv.Pair:
    """Independent normals, for baselines.

    Args:
        floors: how many floors.
    """
    return pv.Pair(Model(*data_shape, floors), guide)
'''
POINTS = """[ppl_vae.pairs]
normals = otherpack.deep.pairs:builder
exported = otherpack:exported
vae = otherpack.deep.pairs:builder
lost = otherpack.deep.nowhere:builder
unwritten = otherpack.deep.pairs:absent
"""
FEW = ["--num-samples", "5", "--limit", "5", "--device", "cpu"]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package with four entry points, two of which are broken."""
    site = tmp_path / "site"
    (site / "otherpack" / "deep").mkdir(parents=True)
    (site / "otherpack" / "__init__.py").write_text(
        "from pathlib import Path\n\nPath(__file__).with_name('ran').touch()\n"
        "from .deep.pairs import builder as exported\n"
    )
    (site / "otherpack" / "deep" / "__init__.py").touch()
    (site / "otherpack" / "deep" / "pairs.py").write_text(BUILDER)
    info = site / "other_pack-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other-pack\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(POINTS)
    monkeypatch.syspath_prepend(str(site))
    for name in [name for name in sys.modules if name.startswith("otherpack")]:
        monkeypatch.delitem(sys.modules, name)
    return site / "otherpack"


def call(*args: Any, code: int = 0) -> Any:
    result = CliRunner().invoke(app, [str(a) for a in args])
    assert result.exit_code == code, (args, result.output, result.exception)
    return result


def test_list_shows_them_with_their_package_without_importing_it(package: Path) -> None:
    found = {p["name"]: p for p in json.loads(call("list", "--json").stdout)["pairs"]}
    assert found["normals"] == {
        "name": "normals",
        "family": None,
        "summary": "Independent normals, for baselines.",
        "package": "other-pack",
    }
    assert found["exported"]["summary"] == found["normals"]["summary"]
    assert found["vae"]["package"] == "ppl_vae"  # a name of ours stays ours
    assert "can't be read: there is no module 'otherpack.deep.nowhere'" in found["lost"]["summary"]
    assert "has no function 'absent'" in found["unwritten"]["summary"]
    assert "Independent normals, for baselines. (package other-pack)" in call("list").stdout
    text = " ".join(call("train", "normals", "--help").stdout.split())
    assert "--floors <str> how many floors [normals: 3]" in text
    assert "--floors 'deep': a whole number" in call("train", "normals", "--floors", "deep", code=2).stderr
    assert not (package / "ran").exists()


def test_they_are_built_trained_and_loaded_by_name(package: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32))
    run = tmp_path / "run"
    call(
        "train",
        "normals",
        "--floors",
        5,
        "--data",
        tmp_path / "x.npy",
        "--epochs",
        1,
        "--no-figures",
        *FEW,
        "--out",
        run,
    )
    config = json.loads((run / "config.json").read_text())
    assert config["pair"] == {"name": "normals", "options": {"floors": 5, "data_shape": [4]}}
    assert json.loads(call("evaluate", run, *FEW, "--json").stdout)["khat_exact"] == 5
    call("train", "--resume", "--out", run, "--no-figures", *FEW)
    pair = pv.build("exported", data_shape=(4,), floors=7)
    assert (pair.name, pair.model.floors) == ("exported", 7)
    assert torch.equal(pv.load(run).model.loc, pv.load(run).model.loc)
    assert pv.load(run).model.floors == 5


def test_a_broken_package_is_one_line_and_hides_no_other(package: Path, tmp_path: Path) -> None:
    assert "no module 'otherpack.deep.nowhere'; reinstall the package" in call("train", "lost", code=2).stderr
    with pytest.raises(pv.UserError, match="'lost' of the package other-pack can't be imported"):
        pv.build("lost", data_shape=(4,))
    with pytest.raises(pv.UserError, match="'unwritten' of the package other-pack can't be imported"):
        pv.build("unwritten", data_shape=(4,))
    with pytest.raises(pv.UserError, match=r"'none' is not known; choose one of .*vae, .*normals"):
        pv.build("none", data_shape=(4,))
    call("train", "--help")
    assert pv.build("vae", data_shape=(4,)).name == "vae"


def test_a_run_of_a_package_that_is_gone_is_refused(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = pv.save(tmp_path / "run", pv.build("normals", data_shape=(4,)))
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p != str(package.parent)])
    with pytest.raises(pv.RunError, match="the pair 'normals' is not registered"):
        pv.load(run)
