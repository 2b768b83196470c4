"""`ppl-vae study`: strategies from a TOML file or from options, its tables, and dask's executor."""

from __future__ import annotations

import csv
import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from typer.testing import CliRunner

import ppl_vae as pv
from ppl_vae.cli.app import app
from ppl_vae.cli.study import values

SPEC = """
seeds = 2
reference = "elbo"
[budget]
steps = 3
[base]
latent = 2
hidden = [8]
[strategies.elbo]
[strategies."50 % & more"]
objective = "{path}:half"
guide = "{path}:Head"
[evaluation]
num_samples = 30
proposal = "guide"
limit = 20
"""


MINE = """
import torch
from ppl_vae.guides.diagonal import Diagonal

def half(t):
    return 0.5 * t.log_w.mean(0)

class Head(Diagonal):
    pass
"""


def call(*args: str | Path, code: int = 0) -> Any:
    result = CliRunner().invoke(app, [str(a) for a in args])
    assert result.exit_code == code, (args, result.output, result.exception)
    return result


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "study.toml").write_text(SPEC.format(path=tmp_path / "mine.py"))
    return tmp_path / "study.toml"


def test_a_study_of_a_file_and_its_tables(spec: Path, tmp_path: Path) -> None:
    """Custom code is run where the user names it too; the tables hold what the JSON says; a cell is a run."""
    out, mine = tmp_path / "out", f"{tmp_path}/mine.py:half"
    text = call("study", spec, "--out", out, code=2).stderr
    assert f"names custom code, which is not run unless you name it too: --part {mine}" in text
    assert not out.exists()
    trusted = ("--part", mine, "--part", f"{tmp_path}/mine.py:Head")
    found = json.loads(call("study", spec, *trusted, "--out", out, "--workers", 1, "--json").stdout)
    assert [(r["strategy"], r["seeds"], r["verdict_to_reference"]) for r in found["table"]] == [
        ("elbo", 2, "reference"), ("50 % & more", 2, "cannot tell"),
    ]  # fmt: skip
    with (out / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(r["strategy"], r["seed"], r["steps"]) for r in rows[:2]] == [("elbo", "0", "3"), ("elbo", "1", "3")]
    mean = np.mean([float(r["log_px"]) for r in rows[:2]])
    assert found["table"][0]["log_px"] == pytest.approx(mean, rel=1e-5)
    assert [Path(p).name for p in found["files"][-3:]] == ["forest.png", "learning_curves.png", "report.html"]
    assert (out / "table.md").read_text().startswith("| strategy | seeds | log p(x) |")
    assert r"50 \% \& more & 2 & $-$" in (out / "table.tex").read_text()
    with xr.open_dataset(out / "results.nc", engine="scipy") as sheet:
        assert sheet["log_px"].shape == (2, 2, 20)
    cell = out / found["folders"]["elbo"] / "seed-1"
    again = json.loads(call("evaluate", cell, "--limit", 20, "--num-samples", 30, "--json").stdout)
    with (out / "results.csv").open() as file:
        assert again["log_px_mean"] == pytest.approx(float(rows[1]["log_px"]), rel=1e-5)
    own = out / found["folders"]["50 % & more"] / "seed-1"
    text = call("evaluate", own, "--limit", 20, "--num-samples", 30, code=2).stderr
    option = f"--part {tmp_path}/mine.py:Head"
    assert f"guide: custom code, which is not run unless you name it: {option}" in text
    again = call("evaluate", own, *option.split(), "--limit", 20, "--num-samples", 30, "--json")
    assert "has changed" not in again.stderr
    assert json.loads(again.stdout)["log_px_mean"] == pytest.approx(float(rows[3]["log_px"]), rel=1e-5)


def test_strategies_from_options(tmp_path: Path) -> None:
    options = (
        "--base",
        "latent=2",
        "--vary",
        "objective=elbo,iwae:num_particles=5,gradient=dreg",
        "--vary",
        "lr=1e-3,0.01",
    )
    shown = call("study", *options, "--seeds", 3, "--limit", 4, "--num-samples", 10, "--dry-run")
    text = " ".join(shown.stdout.split())
    assert "objective=elbo, lr=0.001 pair=vae, latent=2, objective=elbo" in text
    assert text.count("pair=vae") == 4
    assert "4 strategies, 3 seeds: 12 cells; about" in shown.stderr
    assert values("a:b=1,c=2,d,3") == ["a:b=1,c=2", "d", 3]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ((), "give strategies in a TOML file, or by --vary"),
        (("--vary", "latnt=3"), "there is no option 'latnt'; did you mean 'latent'?"),
        (("--vary", "latent=two"), "--latent 'two': a whole number is needed"),
        (("--vary", "latent"), "write OPTION=VALUE"),
        (("--vary", "latent=2,3"), "--out DIR is needed"),
        (("--vary", "latent=2,3", "--out", "x", "--only", "1"), "--only 1: write I/N"),
        (
            ("--vary", "latent=2,3", "--out", "x", "--budget", "steps=many"),
            "--budget steps=many: 'many' is not a number",
        ),
        (("--vary", "latent=2,3", "--out", "x", "--budget", "days=2"), "give one of epochs, steps, seconds"),
        (("--vary", "latent=2,3", "--out", "x", "--proposal", "nope"), "nope"),
        (("--vary", "latent=2,3", "--out", "x", "--limit", "1"), "evaluation: limit=1: give 2 or more"),
        (
            ("--vary", "latent=2,3", "--out", "x", "--tune", "latent=1,2"),
            "tune: the strategies differ in latent (2, 3)",
        ),
        (("--vary", "epochs=2,3", "--out", "x", "--budget", "steps=9"), "has epochs=2, which the budget replaces"),
        (("--watch", "x"), "x is not a study: there is no study.json"),
    ],
)
def test_what_makes_no_sense_is_one_line(args: tuple[str, ...], words: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    text = call("study", *args, code=2)
    assert words in text.stderr
    assert "Traceback" not in text.output
    assert not list(tmp_path.glob("x/*/seed-*"))


def test_a_file_that_is_no_study_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("[base\n")
    assert "this is not TOML" in call("study", tmp_path / "bad.toml", code=2).stderr
    (tmp_path / "other.toml").write_text("[bases]\n")
    assert "there is no section 'bases'; the sections are base" in call("study", tmp_path / "other.toml", code=2).stderr


def test_dask_runs_a_study_and_a_lost_worker_loses_nothing(tmp_path: Path) -> None:
    """Two workers, one of which is killed in its first cell: the figures are those of local processes."""
    distributed = pytest.importorskip("distributed")
    data = pv.load_data(torch.randn(60, 5, generator=torch.Generator().manual_seed(0)))
    mark = tmp_path / "killed"

    def deadly(t: pv.Terms) -> torch.Tensor:
        if not mark.exists():
            mark.write_text("")
            os.kill(os.getpid(), signal.SIGKILL)
        return t.log_w.mean(0)

    base = pv.Strategy("linear", latent=2, batch_size=20)
    strategies = {"plain": base, "deadly": base.replace(objective=deadly)}
    how: dict[str, Any] = {
        "budget": {"steps": 3}, "seeds": 2, "evaluation": {"num_samples": 20, "proposal": "guide"}, "progress": False
    }  # fmt: skip
    options = {
        "n_workers": 2,
        "threads_per_worker": 1,
        "processes": True,
        "dashboard_address": None,
        "silence_logs": 50,
    }
    with distributed.LocalCluster(**options) as cluster, distributed.Client(cluster) as client:
        found = pv.study(strategies, data, out=tmp_path / "study", executor=client.get_executor(), **how)
    assert mark.exists()
    assert not found.missing
    np.testing.assert_allclose(found.log_px["deadly"], found.log_px["plain"], rtol=1e-5)
