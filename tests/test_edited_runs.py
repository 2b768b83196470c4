"""A run folder that somebody edited: no command runs code that only the folder names."""

from __future__ import annotations

import json
import shutil
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from ppl_vae.cli.app import app
from ppl_vae.cli.train import Data, Loss
from ppl_vae.training.config import FitConfig

CODE = """
from pathlib import Path

Path(__file__).with_name("ran").touch()


def vae(*, data_shape, latent=2): ...


def part(*args): ...
"""
SMALL = ["--latent", "2", "--hidden", "4", "--likelihood", "gaussian", "--num-samples", "5", "--device", "cpu"]
COMMANDS = (
    "evaluate RUN", "score RUN", "sample RUN -n 2", "reconstruct RUN", "figures RUN", "compare RUN COPY",
    "train --resume --no-figures --out RUN", "train --resume --no-figures --epochs 2 --device cpu --out RUN",
)  # fmt: skip
FIELDS = [f.name for kind in (Data, Loss, FitConfig) for f in fields(kind)]


def call(*words: Any) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("edited")
    np.save(folder / "x.npy", np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32))
    options = [*SMALL, "--epochs", "1", "--no-figures"]
    done = call("train", "vae", *options, "--data", folder / "x.npy", "--out", folder / "run")
    assert done.exit_code == 0, done.output
    (folder / "run" / "code.py").write_text(CODE)
    return folder / "run"


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A run of the pair vae, whose folder holds a file that no command may run."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def edit(run: Path, *path: str, value: Any) -> None:
    """Change one entry of a run's configuration."""
    config = entry = json.loads((run / "config.json").read_text())
    for key in path[:-1]:
        entry = entry[key]
    entry[path[-1]] = value
    (run / "config.json").write_text(json.dumps(config))


def assert_nothing_runs(run: Path, *more: str, commands: tuple[str, ...] = COMMANDS) -> None:
    """Every command on a run: it may succeed or fail."""
    copy = Path(shutil.copytree(run, run.with_name("copy"), dirs_exist_ok=True))
    for command in commands:
        words = [{"RUN": str(run), "COPY": str(copy)}.get(word, word) for word in command.split()]
        done = call(*words, *more, *(["--num-samples", "5"] if words[0] in ("evaluate", "score", "compare") else []))
        assert not (run / "ran").exists(), (words, done.output)
        assert not (copy / "ran").exists(), (words, done.output)


@pytest.mark.parametrize("name", [*FIELDS, "num_samples", "limit", "figures", "pair"])
def test_no_field_of_a_request_is_run(name: str, run: Path) -> None:
    edit(run, "request", name, value=f"{run}/code.py:vae")
    assert_nothing_runs(run, commands=COMMANDS[-2:])


@pytest.mark.parametrize(
    ("name", "value"), [("num_samples", "many"), ("data_root", 0.5), ("figures", []), ("labels", {})]
)
def test_a_request_of_other_types_is_one_line(name: str, value: Any, run: Path) -> None:
    edit(run, "request", name, value=value)
    done = call("train", "--resume", "--out", run)
    assert done.exit_code == 2
    assert f"config.json: request.{name}: {value!r} is not of the type" in " ".join(done.stderr.split())


@pytest.mark.parametrize("name", ["num_samples", "limit", "proposal", "figures"])
def test_a_request_of_an_older_version_takes_the_defaults(name: str, run: Path) -> None:
    config = json.loads((run / "config.json").read_text())
    del config["request"][name]
    (run / "config.json").write_text(json.dumps(config))
    more = {"num_samples": ["--num-samples", 5], "figures": ["--no-figures"]}.get(name, [])
    assert call("train", "--resume", "--out", run, *more).exit_code == 0


@pytest.mark.parametrize("name", ["objective", "device", "pair"])
@pytest.mark.parametrize("end", ["", ":"])
def test_no_file_without_a_function_is_run(name: str, end: str, run: Path) -> None:
    edit(run, "request", name, value=f"{run}/code.py{end}")
    assert_nothing_runs(run, commands=COMMANDS[-2:])


@pytest.mark.parametrize("option", ["latent", "likelihood", "network", "guide"])
def test_no_option_of_a_pair_is_run(option: str, run: Path) -> None:
    text = f"{run}/code.py:part"
    edit(run, "request", "options", option, value=text)
    assert_nothing_runs(run, commands=COMMANDS[-2:])
    for value in (text, {"name": text}, {"custom": {"name": text}}):
        edit(run, "pair", "options", option, value=value)
        assert_nothing_runs(run)


def test_no_builder_of_a_request_is_run(run: Path) -> None:
    edit(run, "request", "pair", value=f"{run}/code.py:vae")
    done = call("train", "--resume", "--out", run)
    assert done.exit_code == 2
    assert "custom code, which is not run unless you name it: --pair" in done.stderr
    assert_nothing_runs(run)


def test_no_builder_is_run_beside_a_part_that_the_user_names(run: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def part(*args): ...\n")
    edit(run, "pair", "name", value=f"{run}/code.py:vae")
    edit(run, "pair", "options", "guide", value={"custom": {"name": "mine.part"}})
    done = call("evaluate", run, "--part", f"{tmp_path}/mine.py:part")
    assert done.exit_code == 2
    assert "custom code, which is not run unless you name it: --pair" in done.stderr
    assert_nothing_runs(run, "--part", f"{tmp_path}/mine.py:part", commands=COMMANDS[:6])
    edit(run, "pair", "source", value={"builder": f"{run}/code.py:vae", "sha256": "0"})
    assert_nothing_runs(run, "--part", f"{tmp_path}/mine.py:part", commands=COMMANDS[:6])
