"""Progress bars, on standard error, for work that takes long."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

T = TypeVar("T")


def bar(enabled: bool) -> Progress:
    """A bar with count, text, time spent and time left; silent where not enabled."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[info]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not enabled,
    )


def track(items: Sequence[T], description: str, enabled: bool) -> Iterator[T]:
    """Iterate with a bar."""
    with bar(enabled) as b:
        task = b.add_task(description, total=len(items), info="")
        for item in items:
            yield item
            b.advance(task)
