"""Progress bars on standard error."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import ranks
from .rng import quiet_import

if TYPE_CHECKING:
    from rich.progress import Progress


def bar(enabled: bool) -> Progress:
    """A bar with a count, the time left, and a text; only rank 0 shows it, and only where enabled."""
    quiet_import("rich.console")
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True),
        TextColumn("left"),
        TextColumn("{task.fields[info]}"),
        console=Console(stderr=True),
        disable=not (enabled and ranks.first()),
    )
