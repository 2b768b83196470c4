"""The progress display of a fit, and interrupts between two steps."""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..common import ranks
from ..common.errors import UserError
from ..common.progress import bar


class Display:
    """A bar, and scalars for TensorBoard; a context.

    Raises:
        UserError: TensorBoard has no folder, or is not installed.
    """

    def __init__(self, enabled: bool, tensorboard: bool, run_dir: str | Path | None) -> None:
        self.bar = bar(enabled)
        self.make_writer = _make_writer(run_dir) if tensorboard else lambda: None
        self.writer: Any = None

    def begin(self, step: int, total: int | None) -> Display:
        """Set the position; the total is None where it is not known."""
        self.task = self.bar.add_task("training", total=total, completed=step, info="")
        return self

    def __enter__(self) -> Display:
        self.bar.start()
        self.writer = self.make_writer() if ranks.first() else None
        return self

    def __exit__(self, *error: Any) -> None:
        self.bar.stop()
        if self.writer is not None:
            self.writer.close()

    def show(self, step: int, info: str) -> None:
        """Move the bar to a step."""
        self.bar.update(self.task, completed=step, info=info)

    def epoch(self, row: Mapping[str, Any]) -> None:
        """Show a row of the history, and write its finite numbers."""
        held = row.get("valid_elbo")
        valid = "" if held is None else f"  valid {held:.2f}"
        self.show(row["step"], f"epoch {row['epoch']}  train {row['train_bound']:.2f}{valid}")
        for key, value in row.items() if self.writer is not None else ():
            if isinstance(value, float) and math.isfinite(value):
                self.writer.add_scalar(key, value, row["epoch"])


def _make_writer(run_dir: str | Path | None) -> Callable[[], Any]:
    if run_dir is None:
        raise UserError("tensorboard=True needs run_dir, where the scalars go")
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UserError("tensorboard is not installed; pip install 'ppl_vae[tensorboard]'") from None
    return lambda: SummaryWriter(str(Path(run_dir) / "tensorboard"))


@contextmanager
def deferred_interrupt() -> Iterator[threading.Event]:
    """Defer Ctrl-C to the end of a step, so that a checkpoint is complete; a second one stops at once.

    Yields a flag that is set by an interrupt. With several ranks SIGTERM does the same: a launcher sends it to all
    when one is lost.
    """
    flag = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return

    def interrupt(signum: int, frame: Any) -> None:
        if flag.is_set():
            raise KeyboardInterrupt
        flag.set()

    kinds = (signal.SIGINT,) if ranks.count() == 1 else (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(kind, interrupt) for kind in kinds]
    try:
        yield flag
    finally:
        for kind, handler in zip(kinds, before, strict=True):
            signal.signal(kind, handler)
