"""kill -9 of working processes at random moments: what resumes is the same to the bit."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

from forks import fork

from .jobs import DONE, JOBS, work

SHARES = {"train": 0.3, "evaluate": 0.2, "refine": 0.2, "ais": 0.2, "study": 0.1}


def kills(count: int, seed: int, root: Path, names: tuple[str, ...] = tuple(SHARES)) -> dict[str, Any]:
    """For each job: how many processes were killed, how many runs came to their end, and how many of these were equal.

    A process lives for a time drawn between 0 and what the whole job takes; then the next goes on in its folder.
    """
    rng, found = random.Random(seed), {}
    total = sum(SHARES[name] for name in names)
    for name in names:
        wanted = max(1, round(count * SHARES[name] / total))
        whole, files = finished(name, root / f"{name}-whole")
        began = time.monotonic()
        finished(name, root / f"{name}-again")  # the first of all had a server of forks to start
        lasts = time.monotonic() - began
        row: dict[str, Any] = {"kills": 0, "runs": 0, "equal": 0, "left over": 0, "failed": []}
        while row["kills"] < wanted:
            folder = root / f"{name}-{row['runs']}"
            row["kills"] += killed(name, folder, wanted - row["kills"], lasts, rng)
            row["runs"] += 1
            try:
                result, there = finished(name, folder)
            except RuntimeError as error:
                row["failed"].append(str(error))
                continue
            row["equal"] += result == whole
            row["left over"] += len(there - files)
        found[name] = row
        print(f"kills, {name}: {row}", flush=True)
    return found


def killed(name: str, folder: Path, most: int, lasts: float, rng: random.Random) -> int:
    """How many processes were killed on a folder until the next had come to its end, or ``most``."""
    folder.mkdir(parents=True, exist_ok=True)
    for count in range(most):
        process = fork(work, name, folder)
        process.join(rng.uniform(0.0, lasts))
        if process.exitcode is not None:
            return count
        process.kill()
        process.join()
    return most


def finished(name: str, folder: Path) -> tuple[str, set[str]]:
    """The digest of a job that is left to its end, and the names of the files in its folder.

    Raises:
        RuntimeError: it ended in another way.
    """
    folder.mkdir(parents=True, exist_ok=True)
    process = fork(work, name, folder)
    process.join(300)
    if process.exitcode != 0:
        process.kill()
        raise RuntimeError(f"{name}: the process ended with {process.exitcode}")
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    return (folder / DONE).read_text(), names


assert set(SHARES) == set(JOBS)
