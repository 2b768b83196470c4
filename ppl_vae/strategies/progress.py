"""How far a study is, and how long the rest will take."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from .cells import lock_of
from .saved import load_study


@dataclass(frozen=True)
class Progress:
    """How many cells of a strategy are at which point.

    Attributes:
        done: trained and evaluated.
        failed: with a reason.
        running: a process is at them.
        left: not begun, or stopped.
        seconds: of a cell that is done, on average; NaN where none is.
    """

    done: int
    failed: int
    running: int
    left: int
    seconds: float


def progress(folder: str | Path) -> dict[str, Progress]:
    """How far each strategy of a study is, from its folder.

    Raises:
        RunError: there is no study.
    """
    found = load_study(folder)
    rows = {}
    for name, some in found.results.items():
        open_ = [seed for seed in found.seeds if seed not in some]
        running = sum(is_held(found.out / found.folders[name] / f"seed-{seed}") for seed in open_)
        costs = [r["train_seconds"] + r["evaluation_seconds"] for r in found.done(name).values()]
        mean = sum(costs) / len(costs) if costs else math.nan
        done = len(costs)
        rows[name] = Progress(done, len(some) - done, running, len(open_) - running, mean)
    return rows


def seconds_left(rows: Mapping[str, Progress]) -> float:
    """How long the open cells will take with as many processes as there are now; NaN before a cell is done.

    A strategy of which none is done takes the mean of the others; a cell that runs is taken to be half done.
    """
    known = [row.seconds for row in rows.values() if not math.isnan(row.seconds)]
    if not known:
        return math.nan
    mean = sum(known) / len(known)
    work = sum((r.left + r.running / 2) * (mean if math.isnan(r.seconds) else r.seconds) for r in rows.values())
    return work / max(1, sum(row.running for row in rows.values()))


def is_held(cell: Path) -> bool:
    """Whether a process is at a cell."""
    lock = lock_of(cell)
    if not lock.exists():
        return False
    try:
        with FileLock(lock, timeout=0):
            return False
    except Timeout:
        return True
