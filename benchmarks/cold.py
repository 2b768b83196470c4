"""What a user waits for: from the start of a process to the end of so many epochs of MNIST, or to an NLL of 95 nats.

Imports, reading, compiling and training count; the estimates that find out when 95 nats are reached do not.
``python -m benchmarks.cold NAME EPOCHS ROOT [NLL]`` is one such process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple

from .job import Job, Training

EPOCHS, REACHED = (1, 5, 30), 95.0
SHORT, LONG, LONG_ROUNDS = ("1", "5"), ("30", "nll"), 1  # the long tasks take minutes, and their ends differ by little
IMAGES, SAMPLES = 500, 100  # of the estimate that tells whether an NLL is reached


class Row(NamedTuple):
    """A contender: a file, options, the tasks that it is timed at, and whether torch's compiler has no files yet."""

    module: str
    options: dict[str, Any]
    tasks: tuple[str, ...] = ("1", "5", "30")
    fresh: bool = False


ROWS = {
    "ppl_vae, `pv.fit`": Row("ppl_vae", {}, ("1", "5", "30", "nll")),
    "ppl_vae, `pv.fit(capture=True)`": Row("ppl_vae", {"capture": True}),
    "ppl_vae, `pv.fit`, the first time on a machine": Row("ppl_vae", {}, ("1", "5"), fresh=True),
    "NumPyro, jitted epoch": Row("numpyro", {}, ("1", "5", "30", "nll")),
    "Pyro, `pyro.infer.SVI`": Row("pyro", {}, ("1", "5")),
}


def cold(job: Job, quick: bool, rounds: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Seconds of each row for each number of epochs, and to the NLL; rows take turns."""
    rows: dict[str, Any] = {name: {"ours": row.module == "ppl_vae", "seconds": {}} for name, row in ROWS.items()}
    with tempfile.TemporaryDirectory() as kept:
        for turn in range(rounds + 1):  # the first fills the caches of the disk and of the compiler
            for task in SHORT[:1] if quick else SHORT + LONG * (1 <= turn <= LONG_ROUNDS):
                for name, row in ROWS.items():
                    if task not in row.tasks or (row.fresh and turn == 0):
                        continue
                    with tempfile.TemporaryDirectory() as fresh:
                        found = timed(name, task, job, fresh if row.fresh else kept)
                    if "error" in found:
                        rows[name]["error"] = found["error"]
                    elif turn:
                        rows[name]["seconds"].setdefault(task, []).append(found["seconds"])
                        if task == "nll":
                            rows[name].setdefault("epochs", []).append(found["epochs"])
                say(f"  round {turn} of {rounds}, {task}")
    return {"rows": rows}


def timed(name: str, task: str, job: Job, cache: str) -> dict[str, Any]:
    """Seconds of a process, from its start to its last word; the files of torch's compiler are in ``cache``."""
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": cache, "TMPDIR": cache}
    words = [name, str(max(EPOCHS)), job.root, str(REACHED)] if task == "nll" else [name, task, job.root]
    began = time.perf_counter()
    with tempfile.TemporaryFile("w+") as errors:  # a pipe that nobody reads would fill, and the process wait
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.cold", *words], env=environment, text=True,
            stdout=subprocess.PIPE, stderr=errors,
        )  # fmt: skip
        assert process.stdout is not None
        line = process.stdout.readline()
        seconds = time.perf_counter() - began
        process.communicate()
        errors.seek(0)
        last = (errors.read().strip().splitlines() or ["failed"])[-1]
    if not line.startswith("{"):
        return {"error": last}
    said = json.loads(line)
    if task == "nll" and not said["reached"]:
        return {"error": f"an NLL of {REACHED:g} was not reached in {said['epochs']} epochs"}
    return {"seconds": seconds - said["besides"], "epochs": said["epochs"]}


def main(name: str, epochs: str, root: str, nll: str | None = None) -> None:
    """One process: train, and say how many epochs it took and the seconds that do not count."""
    job, row = Job(root=root, images=IMAGES, num_samples=SAMPLES), ROWS[name]
    least = None if nll is None else float(nll)
    module = import_module(f"benchmarks.contenders.{row.module}")
    besides, done, good = 0.0, 0, False

    def reached(estimate: Callable[[], float]) -> bool:
        nonlocal besides, done, good
        done += 1
        if least is not None:
            began = time.perf_counter()
            good = estimate() <= least
            besides += time.perf_counter() - began
        return good

    if row.module == "ppl_vae":
        module.epochs(job, int(epochs), reached, **row.options)
    else:
        play = module.training(job, **row.options)
        while done < int(epochs):
            play()
            if reached(play.nll if isinstance(play, Training) else float):
                break
    print(json.dumps({"besides": besides, "epochs": done, "reached": good}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
