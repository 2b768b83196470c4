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
IMAGES, SAMPLES = 500, 100  # of the estimate that tells whether an NLL is reached


class Row(NamedTuple):
    """A contender: a file, options, and whether torch's compiler has its files of an earlier run."""

    module: str
    options: dict[str, Any]
    fresh: bool = False


ROWS = {
    "ppl_vae, `pv.fit`": Row("ppl_vae", {}),
    "ppl_vae, `pv.fit(capture=True)`": Row("ppl_vae", {"capture": True}),
    "ppl_vae, `pv.fit(capture=True)`, the first time on a machine": Row("ppl_vae", {"capture": True}, fresh=True),
    "NumPyro, jitted epoch": Row("numpyro", {}),
    "Pyro, `pyro.infer.SVI`": Row("pyro", {}),
}


def cold(job: Job, quick: bool, rounds: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Seconds of each row for each number of epochs, and to the NLL; rows take turns."""
    asked = [(n, None) for n in ((1,) if quick else EPOCHS)] + ([] if quick else [(max(EPOCHS), REACHED)])
    rows: dict[str, Any] = {name: {"ours": row.module == "ppl_vae", "seconds": {}} for name, row in ROWS.items()}
    with tempfile.TemporaryDirectory() as kept:
        for turn in range(rounds + 1):  # the first fills the caches of the disk and of the compiler
            for epochs, nll in asked[:2] if turn == 0 else asked:
                for name, row in ROWS.items():
                    if nll is not None and row.module == "pyro":
                        continue
                    with tempfile.TemporaryDirectory() as fresh:
                        found = timed(name, epochs, nll, job, fresh if row.fresh else kept)
                    if "error" in found:
                        rows[name]["error"] = found["error"]
                    elif turn:
                        key = f"{epochs}" if nll is None else "nll"
                        rows[name]["seconds"].setdefault(key, []).append(found["seconds"])
                        rows[name].setdefault("epochs", []).extend([found["epochs"]] if nll is not None else [])
                say(f"  round {turn} of {rounds}, {epochs} epochs" + ("" if nll is None else f" or {nll:g} nats"))
    return {"rows": rows}


def timed(name: str, epochs: int, nll: float | None, job: Job, cache: str) -> dict[str, Any]:
    """Seconds of a process, from its start to its last word."""
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": cache}
    words = [name, str(epochs), job.root, *([] if nll is None else [str(nll)])]
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.cold", *words], env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    line = process.stdout.readline()
    seconds = time.perf_counter() - began
    _, errors = process.communicate()
    if not line.startswith("{"):
        return {"error": (errors.strip().splitlines() or ["failed"])[-1]}
    said = json.loads(line)
    return {"seconds": seconds - said["besides"], "epochs": said["epochs"]}


def main(name: str, epochs: str, root: str, nll: str | None = None) -> None:
    """One process: train, and say how many epochs it took and the seconds that do not count."""
    job, row = Job(root=root, images=IMAGES, num_samples=SAMPLES), ROWS[name]
    least = None if nll is None else float(nll)
    module = import_module(f"benchmarks.contenders.{row.module}")
    besides, done = 0.0, 0

    def reached(estimate: Callable[[], float]) -> bool:
        nonlocal besides, done
        done += 1
        if least is None:
            return False
        began = time.perf_counter()
        found = estimate() <= least
        besides += time.perf_counter() - began
        return found

    if row.module == "ppl_vae":
        module.epochs(job, int(epochs), reached, **row.options)
    else:
        play = module.training(job, **row.options)
        while done < int(epochs):
            play()
            if reached(play.nll if isinstance(play, Training) else float):
                break
    print(json.dumps({"besides": besides, "epochs": done}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
