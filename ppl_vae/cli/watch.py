"""The cells of a study on the screen: those that will be, with the time that they take, and those that are."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.live import Live
from rich.table import Table

from .output import log, print_json, screen

EVERY = 2.0  # seconds


def watch(folder: Path, json_: bool) -> None:
    """Show how far a study is, until it is complete; once, where the output is no terminal."""
    from ..strategies.progress import progress
    from .evaluation import finite

    rows = progress(folder)
    if json_:
        print_json({name: {k: finite(v) for k, v in vars(row).items()} for name, row in rows.items()})
        return
    if not sys.stdout.isatty():
        screen.print(_table(rows))
        return
    with Live(_table(rows), console=screen, auto_refresh=False) as live:
        while any(row.left or row.running for row in rows.values()):
            time.sleep(EVERY)
            rows = progress(folder)
            live.update(_table(rows), refresh=True)


def _table(rows: Mapping[str, Any]) -> Table:
    """A row for each strategy, and the time left below."""
    from ..strategies.progress import seconds_left

    shown = Table(box=SIMPLE_HEAD, pad_edge=False, caption_justify="left", caption=_left(rows, seconds_left(rows)))
    shown.add_column("strategy")
    for title in ("done", "failed", "running", "left", "a cell"):
        shown.add_column(title, justify="right", no_wrap=True)
    for name, row in rows.items():
        counts = (str(n) if n else "-" for n in (row.done, row.failed, row.running, row.left))
        shown.add_row(name, *counts, span(row.seconds))
    return shown


def _left(rows: Mapping[str, Any], seconds: float) -> str:
    """A line on what is left."""
    left, running = (sum(getattr(row, key) for row in rows.values()) for key in ("left", "running"))
    if not left + running:
        return "complete"
    if not running:
        return f"{left} cells left, and no process is at any of them: the same call of study resumes"
    return f"about {span(seconds)} left" if math.isfinite(seconds) else "no cell is done yet"


def show_cells(
    strategies: Mapping[str, Any], seeds: int, costs: Mapping[str, tuple[float, float]], workers: int
) -> None:
    """Print what would be trained, and how long it takes."""
    shown = Table(box=SIMPLE_HEAD, pad_edge=False)
    for title in ("strategy", "options"):
        shown.add_column(title)
    for title in ("training", "evaluation"):
        shown.add_column(title, justify="right", no_wrap=True)
    for name, one in strategies.items():
        given = ", ".join(f"{k}={getattr(v, '__name__', v)}" for k, v in one.given.items())
        shown.add_row(name, given, *map(span, costs[name]))
    screen.print(shown, highlight=False)
    whole = seeds * sum(map(sum, costs.values())) / workers
    cells = f"{len(strategies)} strategies, {seeds} seeds: {len(strategies) * seeds} cells"
    processes = f"{workers} process{'es' if workers > 1 else ''}"
    log.print(f"{cells}; about {span(whole)} on {processes} like this one", highlight=False)


def span(seconds: float) -> str:
    """A time to two figures, as a reader says it.

    Example:
        >>> span(80.0), span(3.21), span(9000.0)
        ('1.3 min', '3.2 s', '2.5 h')
    """
    if not math.isfinite(seconds):
        return "-"
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.2g} {unit}"
    return f"{seconds:.2g} s"
