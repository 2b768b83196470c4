"""Hostile places: a disk that is full, a folder that can't be written, another process in the folder, a clock set back.

Each is a scene that returns None where it held, and else a line that says what did not.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from forks import fork
from typer.testing import CliRunner

from ppl_vae.cli.app import app

from .damage import a_run, no_line
from .here import NotHere
from .jobs import work
from .kills import finished
from .machines import two_machines


@contextmanager
def disk(folder: Path, size: str) -> Iterator[Path]:
    """A disk of its own.

    Raises:
        NotHere: this process may not mount one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "stress", folder], capture_output=True, text=True
    )
    if done.returncode:
        raise NotHere(done.stderr.strip() or "mount failed")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def full_disk(root: Path) -> str | None:
    """A disk fills while a run is trained: one line; with room again, the run goes on to the same bits."""
    whole, _ = finished("train", root / "whole")
    with disk(root / "disk", "1m") as folder:
        filler = folder / "filler"
        for share in (0.2, 0.6, 0.9):
            filler.write_bytes(b"x" * int(share * 2**20))
            process = fork(work, "train", folder)
            process.join(120)
            if process.exitcode != 0:
                break
        filler.unlink()
        result, names = finished("train", folder)
        left = [name for name in names if name.endswith(".part")]
    if result != whole:
        return "the run went on to other numbers"
    return f"left over: {left}" if left else None


def full_disk_in_a_line(root: Path) -> str | None:
    """A command whose folder has no room ends with 2 and one line."""
    run = a_run(root)
    with disk(root / "disk", "64k") as folder:
        (folder / "filler").write_bytes(b"x" * 60 * 1024)
        return _refused(["train", "vae", "--data", str(root / "x.npy"), "--epochs", "1", "--likelihood", "gaussian",
                         "--no-figures", "--out", str(folder / "run")]) or _refused(
            ["evaluate", str(run), "--num-samples", "5", "--out", str(folder / "out")]
        )  # fmt: skip


def read_only(root: Path) -> str | None:
    """Commands on a run in a place that can't be written say so in one line, and reading goes on."""
    with disk(root / "disk", "4m") as folder:
        run = a_run(folder)
        subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
        wrong = _refused(["evaluate", str(run), "--num-samples", "5"])
        wrong = wrong or _refused(["train", "--resume", "--out", str(run), "--epochs", "3"])
        there = CliRunner().invoke(app, ["evaluate", str(run), "--num-samples", "5", "--out", str(root / "out")])
        subprocess.run(["mount", "-o", "remount,rw", folder], check=True)
    return wrong or (None if there.exit_code == 0 else f"evaluate --out elsewhere ended with {there.exit_code}")


def _refused(words: list[str]) -> str | None:
    done = CliRunner().invoke(app, words)
    if done.exit_code != 2:
        return f"{words[0]} ended with {done.exit_code}: {done.exception!r:.150}"
    return no_line(done) or None


def two_processes(root: Path) -> str | None:
    """Two processes on one run: whatever the second is told, the run has the bits of one."""
    whole, files = finished("train", root / "whole")
    for wait in (0.0, 0.2, 0.5):
        folder = root / f"both-{wait}"
        folder.mkdir()
        first = fork(work, "train", folder)
        time.sleep(wait)
        second = fork(work, "train", folder)
        for process in (first, second):
            process.join(300)
        if 0 not in (first.exitcode, second.exitcode):
            return f"neither came to its end, {wait} s apart"
        result, names = finished("train", folder)
        if result != whole:
            return f"other numbers, {wait} s apart"
        if names - files:
            return f"left over: {sorted(names - files)}"
    return None


LOADER = """
import signal, sys, torch, ppl_vae as pv
from torch.utils.data import DataLoader, TensorDataset
x = (torch.rand(600, 36, generator=torch.Generator().manual_seed(0)) > 0.5).float()
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background work ignores it
    torch.manual_seed(0)
    pair = pv.build("vae", data_shape=(36,), latent=4, hidden=(32,))
    loader = DataLoader(TensorDataset(x), batch_size=20, num_workers=2, multiprocessing_context="fork")
    fit = pv.fit  # imports, during which torch swallows an interrupt now and then
    print("begin", flush=True)
    try:
        fit(pair, loader, epochs=400, progress=False, device="cpu", run_dir=sys.argv[1], checkpoint_every=0.05)
    except KeyboardInterrupt:
        sys.exit(7)
"""


def interrupted_loader(root: Path) -> str | None:
    """Ctrl-C reaches a run and the workers of its loader: it ends at once, with no process left, and can be loaded."""
    script = root / "loader.py"
    script.write_text(LOADER)
    for wait in (0.3, 1.0, 2.0):
        run = root / f"run-{wait}"
        process = subprocess.Popen(
            [sys.executable, script, run], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            start_new_session=True,
        )  # fmt: skip
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(wait)
        os.killpg(process.pid, signal.SIGINT)
        try:
            _, said = process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return f"it did not end within a minute, {wait} s after its begin"
        if process.returncode != 7:
            return f"it ended with {process.returncode}: {said[-200:]!r}"
        try:
            os.killpg(process.pid, 0)
            return "a process is left"
        except ProcessLookupError:
            pass
    return None


def clock_set_back(root: Path) -> str | None:
    """Between two parts of the work the clock goes back by a day."""
    for name in ("train", "evaluate", "ais"):
        whole, _ = finished(name, root / f"{name}-whole")
        folder = root / name
        folder.mkdir()
        process = fork(work, name, folder)
        process.join(0.8)
        process.kill()
        process.join()
        process = fork(work, name, folder, 24.0)
        process.join(300)
        result, _ = finished(name, folder)
        if process.exitcode != 0 or result != whole:
            return f"{name}: ended with {process.exitcode}, {'same' if result == whole else 'other'} numbers"
    return None


SCENES: dict[str, Callable[[Path], str | None]] = {
    "a disk that fills up": full_disk,
    "no room for a command": full_disk_in_a_line,
    "a folder that can't be written": read_only,
    "two processes on one run": two_processes,
    "Ctrl-C with workers of a loader": interrupted_loader,
    "a clock set back by a day": clock_set_back,
    "two machines": two_machines,
}


def places(root: Path, names: tuple[str, ...] = tuple(SCENES)) -> dict[str, str]:
    """What each scene came to: held, not here (and why), or what went wrong."""
    found = {}
    for i, name in enumerate(names):
        folder = root / str(i)
        folder.mkdir()
        try:
            found[name] = SCENES[name](folder) or "held"
        except NotHere as why:
            found[name] = f"not here: {why}"
        print(f"{name}: {found[name]}", flush=True)
    return found
