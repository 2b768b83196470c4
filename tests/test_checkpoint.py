"""Runs survive kill -9, refuse what is broken, and never hold anything that can run code."""

from __future__ import annotations

import json
import os
import pickle
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
from forks import fork
from safetensors.torch import save_file

import ppl_vae as pv
from ppl_vae.common.files import read_tensors


def train(folder: Path, mode: str) -> None:
    torch.manual_seed(0)
    pair = pv.build("vae", data_shape=(64,), latent=4, hidden=(64,))
    data = pv.load_data((torch.rand(600, 64) > 0.5).float(), seed=0)
    pv.fit(pair, data, epochs=12, batch_size=16, lr=3e-3, schedule="linear", patience=9, seed=1, progress=False,
           device="cpu", run_dir=folder, resume=mode == "resume", checkpoint_every=0.15)  # fmt: skip


def finish(process: BaseProcess) -> None:
    process.join(120)
    assert process.exitcode == 0


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "unbroken"
    finish(fork(train, folder, "new"))
    return folder


@pytest.mark.parametrize("kills", [(0.02,), (0.3, 0.2), (0.5, 0.1, 0.4)], ids=str)
def test_killed_at_any_moment_a_run_goes_on_bit_for_bit(
    kills: tuple[float, ...], unbroken: Path, tmp_path: Path
) -> None:
    """kill -9 of a real process, seconds after its configuration or its last checkpoint appeared."""
    folder = tmp_path / "run"
    mode, ends = "new", []
    for wait in kills:
        process = fork(train, folder, mode)
        _wait_for_progress(folder, process)
        time.sleep(wait)
        process.kill()
        process.join()
        ends.append(process.exitcode)
        mode = "resume"
        if (folder / "train_state.safetensors").exists():  # whatever the moment, what is there is whole
            read_tensors(folder / "train_state.safetensors")
    assert -signal.SIGKILL in ends  # one kill at least found it at work
    finish(fork(train, folder, "resume"))
    assert (folder / "weights.safetensors").read_bytes() == (unbroken / "weights.safetensors").read_bytes()
    ours, theirs = (
        [{k: v for k, v in row.items() if "seconds" not in k} for row in map(json.loads, lines(f))]
        for f in (folder, unbroken)
    )
    assert ours == theirs
    assert not list(folder.glob("*.part"))


def lines(folder: Path) -> list[str]:
    return (folder / "history.jsonl").read_text().splitlines()


def _wait_for_progress(folder: Path, process: BaseProcess) -> None:
    def stamp() -> tuple[bool, float]:
        state = folder / "train_state.safetensors"
        return (folder / "config.json").exists(), state.stat().st_mtime if state.exists() else 0.0

    before = stamp()
    deadline = time.monotonic() + 60
    while stamp() == before and process.is_alive():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def saved(tmp_path: Path) -> Path:
    return pv.save(tmp_path / "run", pv.build("vae", data_shape=(4,), latent=2, hidden=(3,)))


def broken(tmp_path: Path, name: str) -> Path:
    run = saved(tmp_path)
    path = run / "weights.safetensors"
    whole = path.read_bytes()
    config = json.loads((run / "config.json").read_text())
    if name == "truncated weights":
        path.write_bytes(whole[:-7])
    elif name == "truncated header":
        path.write_bytes(whole[:5])
    elif name == "empty weights":
        path.write_bytes(b"")
    elif name == "one bit flipped":
        path.write_bytes(whole[:-3] + bytes([whole[-3] ^ 1]) + whole[-2:])
    elif name == "foreign weights":
        save_file({"a": torch.zeros(2)}, path)
    elif name == "a pickle":
        path.write_bytes(pickle.dumps(Trap()))
    elif name == "a torch file":
        torch.save({"a": torch.zeros(2)}, path)
    elif name == "missing weights":
        path.unlink()
    elif name == "missing config":
        (run / "config.json").unlink()
    elif name == "truncated config":
        (run / "config.json").write_text(json.dumps(config)[:30])
    elif name == "a config that is a list":
        (run / "config.json").write_text("[]")
    elif name == "another size in the config":
        config["pair"]["options"]["latent"] = 3
        (run / "config.json").write_text(json.dumps(config))
    elif name == "another option in the config":
        config["pair"]["options"]["depth"] = 3
        (run / "config.json").write_text(json.dumps(config))
    elif name == "a type that makes no sense":
        config["pair"]["options"]["latent"] = "many"
        (run / "config.json").write_text(json.dumps(config))
    elif name == "a module to import":
        config["pair"]["name"] = "os:system"
        (run / "config.json").write_text(json.dumps(config))
    elif name == "another format":
        config["format"] = 99
        (run / "config.json").write_text(json.dumps(config))
    return run


class Trap:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch trapped",)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("truncated weights", "weights.safetensors: not a whole safetensors file"),
        ("truncated header", "weights.safetensors: not a whole safetensors file"),
        ("empty weights", "weights.safetensors: not a whole safetensors file"),
        ("one bit flipped", "the checksum does not match"),
        ("foreign weights", "a safetensors file of another program"),
        ("a pickle", "not a whole safetensors file"),
        ("a torch file", "not a whole safetensors file"),
        ("missing weights", "is missing"),
        ("missing config", "is not a run: there is no config.json"),
        ("truncated config", "config.json: can't be read"),
        ("a config that is a list", "not a configuration of this program"),
        ("another size in the config", "has shape"),
        ("another option in the config", "no option depth"),
        ("a type that makes no sense", "can't be rebuilt.*latent='many' is not of the type int"),
        ("a module to import", "'os:system' is not registered"),
        ("another format", "not a configuration of this program"),
    ],
)
def test_a_broken_run_is_refused_in_one_line(
    name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = broken(tmp_path, name)
    with pytest.raises(pv.RunError, match=message) as caught:
        pv.load(run)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "trapped").exists()


def test_a_run_is_never_overwritten_unasked(tmp_path: Path) -> None:
    run = saved(tmp_path)
    before = (run / "weights.safetensors").read_bytes()
    pair = pv.build("vae", data_shape=(4,), latent=2, hidden=(3,))
    with pytest.raises(pv.RunError, match="holds a run already; pass --overwrite"):
        pv.save(run, pair)
    assert (run / "weights.safetensors").read_bytes() == before
    pv.save(run, pair, overwrite=True)
    assert (run / "weights.safetensors").read_bytes() != before
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers" / "thesis.tex").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(pv.RunError, match="holds other files and no run"):
            pv.save(tmp_path / "papers", pair, overwrite=overwrite)
    with pytest.raises(pv.RunError, match="is a file"):
        pv.save(tmp_path / "papers" / "thesis.tex", pair)


def test_a_run_that_was_killed_before_its_first_file_was_whole_can_be_begun(tmp_path: Path) -> None:
    """What an interrupted write leaves is no file of another program."""
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json.part").write_text('{"format"')
    pair = pv.build("linear", data_shape=(5,), latent=2)
    pv.fit(pair, torch.randn(20, 5), epochs=1, run_dir=run, progress=False, device="cpu")
    assert not list(run.glob("*.part"))
    pv.load(run)


def test_a_pair_of_another_shape_is_refused(tmp_path: Path) -> None:
    run = saved(tmp_path)
    with pytest.raises(pv.RunError, match="has shape"):
        pv.load(run, pair=pv.build("vae", data_shape=(4,), latent=3, hidden=(3,)))
    with pytest.raises(pv.RunError, match="is on one side only"):
        pv.load(run, pair=pv.build("made", data_shape=(4,)))


def test_shared_weights_and_double_precision_come_back(tmp_path: Path) -> None:
    pair = pv.build("linear", data_shape=(5,), latent=2, guide="exact").double()
    again = pv.load(pv.save(tmp_path / "run", pair))
    assert again.model.W.dtype == torch.float64
    assert again.guide.model is again.model
    assert torch.equal(again.model.W, pair.model.W)
    assert not again.training


def test_loading_draws_nothing(tmp_path: Path) -> None:
    run = saved(tmp_path)
    state = torch.get_rng_state()
    pv.load(run)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_run_holds_no_pickle(tmp_path: Path) -> None:
    pair = pv.build("vae", data_shape=(4,), latent=2, hidden=(3,))
    pv.fit(pair, torch.zeros(20, 4), epochs=1, progress=False, device="cpu", run_dir=tmp_path / "run")
    names = {p.name for p in (tmp_path / "run").iterdir()}
    assert names == {
        "config.json", "weights.safetensors", "train_state.safetensors", "train_state.json", "history.jsonl"
    }  # fmt: skip
    source = "".join(p.read_text() for p in Path(pv.__file__).parent.rglob("*.py"))
    for word in ("import pickle", "torch.load(", "torch.save(", "allow_pickle=True", "eval(", "exec("):
        assert word not in source.replace(".eval(", "").replace("literal_eval(", ""), word


def test_nothing_to_save_is_said() -> None:
    with pytest.raises(pv.RunError, match="no parameters in modules"):
        pv.save("never", pv.Pair(lambda x: None, lambda x: None))
    assert not Path("never").exists()


def test_bytes_mean_after_loading_what_they_meant_in_the_fit(tmp_path: Path) -> None:
    """Pixels were divided by 255, so bytes of 0 and 1 are dark pixels, and not bits, before and after."""
    torch.manual_seed(0)
    pair = pv.build("vae", data_shape=(1, 4, 4), latent=2, hidden=(4,), likelihood="gaussian")
    pixels, dark = (torch.randint(0, top, (20, 1, 4, 4), dtype=torch.uint8) for top in (256, 2))
    pv.fit(pair, pixels, epochs=1, progress=False, device="cpu", run_dir=tmp_path / "run")
    again = pv.load(pv.save(tmp_path / "saved", pv.load(tmp_path / "run")))
    expected = pv.log_likelihood(pair, dark.float() / 255, num_samples=5).log_px
    assert torch.equal(pv.log_likelihood(pair, dark, num_samples=5).log_px, expected)
    assert torch.equal(pv.log_likelihood(again, dark, num_samples=5).log_px, expected)
    path = tmp_path / "run" / "config.json"
    path.write_text(path.read_text().replace('"byte_scale": 255', '"byte_scale": 7'))
    with pytest.raises(pv.RunError, match="byte_scale=7"):
        pv.load(tmp_path / "run")
