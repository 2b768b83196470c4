"""Options of `train` that move the weight of the KL term: recorded, resumed, and refused in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyro
import pytest
import torch
from typer.testing import CliRunner

import ppl_vae as pv
from ppl_vae.cli.app import app
from ppl_vae.common.files import read_tensors

TINY = ["--data", "digits", "--latent", "2", "--hidden", "6", "--epochs", "2", "--num-samples", "5", "--limit", "20"]


def train(out: Path, *more: str) -> Any:
    return CliRunner().invoke(app, ["train", "vae", *TINY, "--no-figures", "--json", "--out", str(out), *more])


def test_beta_free_bits_and_cycles_are_trained_recorded_and_resumed(tmp_path: Path) -> None:
    options = ("--beta", "4", "--free-bits", "0.5", "--beta-schedule", "cyclic")
    done = train(tmp_path / "run", *options)
    assert done.exit_code == 0, done.output
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["fit"]["objective"]["beta"] == 4.0
    assert config["fit"]["objective"]["free_bits"] == 0.5
    assert config["fit"]["beta_schedule"] == "cyclic"
    rows = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    assert [row["beta"] for row in rows] == [4.0, 4.0]
    assert train(tmp_path / "run", "--resume").exit_code == 0
    other = train(tmp_path / "run", "--resume", "--beta", "2")
    assert other.exit_code == 2
    assert "the run has beta=4.0, you ask for 2.0" in other.output
    plain = train(tmp_path / "plain")
    assert plain.exit_code == 0
    ends = [read_tensors(tmp_path / name / "weights.safetensors")[0] for name in ("run", "plain")]
    assert not all(torch.equal(ends[0][k], ends[1][k]) for k in ends[0])


def test_a_request_of_an_older_version_is_resumed(tmp_path: Path) -> None:
    assert train(tmp_path / "run").exit_code == 0
    path = tmp_path / "run" / "config.json"
    config = json.loads(path.read_text())
    for name in ("beta", "free_bits", "beta_schedule"):
        del config["request"][name]
    path.write_text(json.dumps(config))
    done = train(tmp_path / "run", "--resume")
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--beta", "-1"], "objective 'elbo': beta=-1.0"),
        (["--free-bits", "-1"], "free_bits=-1.0"),
        (["--objective", "iwae", "--free-bits", "1"], "takes no option free_bits"),
        (["--beta-schedule", "cycle"], "beta_schedule='cycle': choose one of constant, cyclic"),
    ],
)
def test_what_makes_no_sense_is_one_line(options: list[str], message: str, tmp_path: Path) -> None:
    done = train(tmp_path / "run", *options)
    assert done.exit_code == 2
    assert message in done.output
    assert "Traceback" not in done.output
    assert not (tmp_path / "run").exists()


def test_a_weight_that_is_set_on_a_stock_loss_is_refused() -> None:
    loss = pyro.infer.Trace_ELBO()
    loss.beta = 4.0
    pair = pv.build("linear", data_shape=(3,), latent=2)
    with pytest.raises(pv.UserError, match=r"Trace_ELBO has no weight on its KL.*pv.Elbo\(beta="):
        pv.fit(pair, torch.zeros(8, 3), loss, epochs=1, progress=False, device="cpu")
