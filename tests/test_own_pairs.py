"""A custom pair on the command line, as FILE.py:NAME; nothing runs that the user does not name."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import FEW, call, read

import ppl_vae as pv
from ppl_vae.pairs.options import read as read_builder

SOURCE = '''
from collections.abc import Sequence
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

import ppl_vae as pv
from beside import SCALE

Path(__file__).with_name("ran").touch()


class Model(nn.Module):
    def __init__(self, latent, size):
        super().__init__()
        self.latent, self.rate = latent, nn.Linear(latent, size)

    def forward(self, x=None, y=None, n=1):
        with pyro.plate("data", n if x is None else len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(self.latent), 1.0).to_event(1))
            return pyro.sample("x", dist.Poisson(self.rate(z).exp() * SCALE).to_event(1), obs=x)


class Guide(nn.Module):
    def __init__(self, latent, size, widths):
        super().__init__()
        sizes = (size,) + widths
        layers = [layer for a, b in zip(sizes, sizes[1:]) for layer in (nn.Linear(a, b), nn.Tanh())]
        self.net = nn.Sequential(*layers, nn.Linear(sizes[-1], 2 * latent))

    def forward(self, x, y=None):
        loc, log_scale = self.net(x.log1p()).chunk(2, -1)
        with pyro.plate("data", len(x), dim=-1):
            return pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


def counts(
    *, data_shape: Sequence[int], data_mean: Tensor | None = None, latent: int = 2, widths: tuple[int, ...] = (8,)
) -> pv.Pair:
    """Counts with a normal latent.

    Args:
        latent: latent dimensions.
        widths: hidden layers of the guide.
    """
    pair = pv.Pair(Model(latent, *data_shape), Guide(latent, *data_shape, widths))
    pair.model.rate.bias.data.copy_(data_mean.clamp(min=1e-3).log() if data_mean is not None else 0.0)
    return pair


def nothing(*, data_shape):
    return pv.Pair


def broken(*, data_shape, latent=2):
    return [][latent]


def shapeless(*, latent=2):
    """No data_shape."""


def secret(*, data_shape, latent=SCALE):
    """A default that only running tells."""


def clash(*, data_shape, epochs=2):
    """An option that train has."""
'''
FAST = ["--epochs", "1", "--no-figures", *FEW]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a builder's file, data, and two runs."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "mine.py").write_text(SOURCE)
    (folder / "beside.py").write_text("SCALE = 1.0\n")
    np.save(folder / "x.npy", np.random.default_rng(0).poisson(3.0, (60, 5)).astype(np.float32))
    for name, latent in (("run", "3"), ("other", "2")):
        call(
            "train", f"{folder}/mine.py:counts", "--latent", latent, "--widths", "6,4", *FAST,
            "--data", folder / "x.npy", "--out", folder / name,
        )  # fmt: skip
    return folder


@pytest.fixture
def mine(place: Path) -> list[str]:
    return ["--pair", f"{place}/mine.py:counts"]


def test_a_run_records_its_builder_by_path_name_and_checksum(place: Path) -> None:
    pair = json.loads((place / "run" / "config.json").read_text())["pair"]
    assert pair["name"] == "counts"
    assert pair["options"] == {"latent": 3, "widths": [6, 4], "data_shape": [5]}
    assert pair["source"]["builder"] == f"{place}/mine.py:counts"
    assert len(pair["source"]["sha256"]) == 64


def test_options_and_help_are_read_without_running_the_file(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(place / "mine.py", tmp_path)
    monkeypatch.chdir(tmp_path)
    text = call("train", "./mine.py:counts", "--help").stdout
    assert "--widths" in text
    assert "hidden layers of the guide [counts: 8]" in " ".join(text.split())
    assert (
        "takes no --sigma; it takes --latent, --widths" in call("train", "mine.py:counts", "--sigma", 1, code=2).stderr
    )
    assert "--latent 'two': a whole number" in call("train", "mine.py:counts", "--latent", "two", code=2).stderr
    assert not (tmp_path / "ran").exists()
    builder = read_builder("mine.py:counts")
    assert (builder.name, builder.summary) == ("counts", "Counts with a normal latent.")


def test_every_later_command_takes_the_builder(place: Path, mine: list[str], tmp_path: Path) -> None:
    run, out = place / "run", ["--out", tmp_path]
    found = read("evaluate", run, *mine, *FEW, *out)
    assert (found["pair"], found["n"]) == ("counts", 10)
    assert read("evaluate", run, *mine, *FEW, *out, "--estimator", "psis")["estimators"][0]["estimator"] == "psis"
    assert read("score", run, *mine, *FEW, *out)["log_px_mean"] == found["log_px_mean"]
    data = np.load(read("sample", run, *mine, "-n", 4, *out)["files"][0])
    assert data.shape == (4, 5)
    assert read("reconstruct", run, *mine, "-n", 3, *out)["n"] == 3
    assert read("figures", run, *mine, "--num-samples", 5, "--limit", 5, *out)["figures"]
    compared = read("compare", run, place / "other", *mine, *FEW)
    assert [row["run"] for row in compared["strategies"]] == ["run", "other"]


def test_what_only_a_run_folder_names_is_not_run(place: Path, mine: list[str], tmp_path: Path) -> None:
    (place / "ran").unlink()
    for command in ("evaluate", "score", "sample", "reconstruct", "figures"):
        line = call(command, place / "run", "--out", tmp_path, code=2).stderr.strip().splitlines()[-1]
        named = shlex.quote(f"{place}/mine.py:counts")
        assert line.endswith(f"custom code, which is not run unless you name it: --pair {named}")
    call("compare", place / "run", place / "other", code=2)
    assert "which is not run unless you name it" in call("train", "--out", place / "run", "--resume", code=2).stderr
    with pytest.raises(pv.RunError, match=r"'counts' was built by custom code.*pv.load\(run_dir, pair=yours\)"):
        pv.load(place / "run")
    assert not (place / "ran").exists()
    shutil.copytree(place / "run", tmp_path / "run")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    config["pair"]["name"] = "vae"  # a custom builder that is called as one of ours
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    with pytest.raises(pv.RunError, match="built by custom code"):
        pv.load(tmp_path / "run")
    assert "which is not run unless you name it" in call("evaluate", tmp_path / "run", *mine, code=2).stderr


def test_a_path_from_another_folder(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "code dir").mkdir()
    for name in ("mine.py", "beside.py"):
        shutil.copy(place / name, tmp_path / "code dir")
    monkeypatch.chdir(tmp_path)
    done = call("evaluate", place / "run", "--pair", "code dir/mine.py:counts", *FEW, "--out", ".")
    assert "warning" not in done.stderr
    line = call("evaluate", place / "run", "--pair", "mine.py:counts", *FEW, code=2).stderr
    assert "mine.py:counts: there is no file 'mine.py' in this folder" in line


def test_a_file_that_changed_is_a_warning(place: Path, tmp_path: Path) -> None:
    shutil.copy(place / "beside.py", tmp_path)
    (tmp_path / "mine.py").write_text(SOURCE + "\n# later\n")
    pair = ["--pair", f"{tmp_path}/mine.py:counts"]
    done = call("evaluate", place / "run", *pair, *FEW, "--out", tmp_path, "--json")
    assert f"warning: {tmp_path}/mine.py has changed since {place}/run was trained" in done.stderr
    assert json.loads(done.stdout)["n"] == 10
    both = [*pair, "--pair", f"{place}/mine.py:counts"]  # the unchanged one is taken, and the other is left
    line = call("evaluate", place / "run", *both, *FEW, code=2).stderr
    assert "it is neither the pair nor a part of a run here" in line


def test_a_run_is_resumed_bit_for_bit(place: Path, tmp_path: Path) -> None:
    command = ["train", f"{place}/mine.py:counts", "--data", place / "x.npy", *FAST, "--schedule", "constant"]
    call(*command, "--out", tmp_path / "whole", "--epochs", 3)
    call(*command, "--out", tmp_path / "cut")
    again = ["train", "--resume", "--out", tmp_path / "cut", "--epochs", 3, "--no-figures"]
    call(*again, "--pair", f"{place}/mine.py:counts")
    names = [tmp_path / name / "weights.safetensors" for name in ("whole", "cut")]
    assert names[0].read_bytes() == names[1].read_bytes()
    call(*again[:1], f"{place}/mine.py:counts", *again[1:])  # as an argument too
    assert "which is not run unless you name it" in call(*again, "--pair", f"{place}/mine.py:broken", code=2).stderr
    assert (
        "the pair is 'vae', and --pair is" in call("train", "vae", "--pair", f"{place}/mine.py:counts", code=2).stderr
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent", "has no function 'absent'; its functions are counts, nothing, broken"),
        ("", "is to be followed by :NAME"),
        ("Model", "has no function 'Model'"),
        ("nothing", "its builder returned a type; return pv.Pair(model, guide)"),
        ("broken", "mine.py, line 59: IndexError: list index out of range"),
        ("shapeless", "its builder takes no data_shape; write def shapeless(*, data_shape, ...)"),
        ("secret", "the default of latent is SCALE, which can't be read without running the file"),
        ("clash", "--epochs is an option of train; rename 'epochs' in the builder"),
    ],
)
def test_a_bad_builder_is_one_line(name: str, message: str, place: Path, tmp_path: Path) -> None:
    line = call("train", f"{place}/mine.py:{name}", "--data", place / "x.npy", *FAST, "--out", tmp_path / "run", code=2)
    assert message in line.stderr
    assert not (tmp_path / "run").exists()


def test_a_bad_file_is_one_line(place: Path, tmp_path: Path) -> None:
    def error(text: str, *more: Any) -> str:
        (tmp_path / "bad.py").write_text(text)
        return str(call("train", f"{tmp_path}/bad.py:f", "--data", place / "x.npy", *more, code=2).stderr)

    assert "bad.py, line 2: this is not Python" in error("\ndef f(:\n")
    raising = error("import no_such_module\n\n\ndef f(*, data_shape): ...\n")
    assert "bad.py, line 1: ModuleNotFoundError: No module named 'no_such_module'" in raising
    assert "there is no file" in call("train", f"{tmp_path}/absent.py:f", code=2).stderr
    assert "choose one of autoencoder" in call("train", "mine.counts", code=2).stderr


def test_a_pair_that_no_run_needs_is_refused(place: Path, mine: list[str], tmp_path: Path) -> None:
    call("train", "linear", "--data", place / "x.npy", *FAST, "--out", tmp_path / "linear")
    line = call("evaluate", tmp_path / "linear", *mine, *FEW, code=2).stderr
    assert "mine.py:counts: it is neither the pair nor a part of a run here" in line
    compared = read("compare", tmp_path / "linear", place / "run", *mine, *FEW)
    assert len(compared["strategies"]) == 2


def test_build_takes_a_builder(place: Path, tmp_path: Path) -> None:
    sys.path.insert(0, str(place))
    import mine

    x = np.load(place / "x.npy")
    pair = pv.build(mine.counts, data=pv.load_data(x), latent=np.int64(3), widths=[6, 4])
    assert (pair.name, pair.config["latent"]) == ("counts", 3)
    run = pv.save(tmp_path / "run", pair)
    again = pv.load(run, pair=pv.build(mine.counts, data_shape=(5,), latent=3, widths=(6, 4)))
    assert torch.equal(again.model.rate.weight, pair.model.rate.weight)
    with pytest.raises(pv.UserError, match="returned a type"):
        pv.build(mine.nothing, data_shape=(5,))
    with pytest.raises(pv.UserError, match="no option lr"):
        pv.build(mine.counts, data_shape=(5,), lr=1)


def test_ctrl_c_says_how_to_resume_a_custom_pair(place: Path, tmp_path: Path) -> None:
    import signal
    import time

    command = [sys.executable, "-m", "ppl_vae", "train", f"{place}/mine.py:counts", *FAST, "--data", f"{place}/x.npy"]
    with subprocess.Popen([*command, "--epochs", "20000", "--out", tmp_path / "run"], stderr=subprocess.PIPE) as p:
        while not (tmp_path / "run" / "config.json").exists():
            assert p.poll() is None
            time.sleep(0.01)
        time.sleep(0.5)
        p.send_signal(signal.SIGINT)
        _, err = p.communicate(timeout=60)
    assert p.returncode == 1
    assert f"--resume --pair {place}/mine.py:counts" in err.decode()
