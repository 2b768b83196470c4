"""Progress bars on standard error."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from . import ranks
from .rng import quiet_import

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress


def _console() -> Console:
    """Standard error; as plain text in a notebook without ipywidgets, where rich would show a warning and no bar."""
    from rich.console import Console

    console = Console(stderr=True)
    if console.is_jupyter and find_spec("ipywidgets") is None:
        return Console(stderr=True, force_jupyter=False, force_terminal=True, width=100)
    return console


def bar(enabled: bool) -> Progress:
    """A bar with a count, the time left, and a text; only rank 0 shows it, and only where enabled."""
    quiet_import("rich.console")
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    class Bar(Progress):
        """Leaves no line where the work was refused before any of it was done."""

        def __exit__(self, kind: Any, *rest: Any) -> None:
            for task in self.tasks:
                task.visible = kind is None or task.completed > 0
            super().__exit__(kind, *rest)

    return Bar(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True),
        TextColumn("left"),
        TextColumn("{task.fields[info]}"),
        console=_console(),
        disable=not (enabled and ranks.first()),
    )
