"""The output of a command: the screen, one JSON object, files."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

screen = Console(width=None if sys.stdout.isatty() else 120)  # a file or a pipe has no width to fit
log = Console(stderr=True)


@contextmanager
def resumable() -> Iterator[None]:
    """Say after Ctrl-C that what was done is kept, where it is."""
    try:
        yield
    except KeyboardInterrupt:
        log.print("stopped; the same command resumes from here")
        raise typer.Exit(1) from None


def print_json(value: dict[str, Any]) -> None:
    """One object on one line of standard output."""
    sys.stdout.write(json.dumps(value, allow_nan=False) + "\n")


def label_of(y: Any, i: int) -> str:
    """The label of an example as text, empty where there is none: the numbers of a vector with spaces between them."""
    return "" if y is None else " ".join(str(v) for v in y[i].reshape(-1).tolist())


def write_figure(folder: Path, name: str, figure: Any) -> Path:
    """A figure as a PNG file; rank 0 writes."""
    from ..common import ranks
    from ..common.files import writable, write_bytes

    def write() -> None:
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=120)
        write_bytes(writable(folder) / f"{name}.png", buffer.getvalue())

    ranks.broadcast_object(write)
    return folder / f"{name}.png"


def write_examples(folder: Path, name: str, x: Any, figure: Any | None, json_: bool, about: dict[str, Any]) -> None:
    """Examples as an array, or an archive of one a field, and as a figure where there is one."""
    import numpy as np

    from ..common.files import writable, write_bytes

    buffer = io.BytesIO()
    if isinstance(x, dict):
        np.savez(buffer, **{field: value.numpy() for field, value in x.items()})
    else:
        np.save(buffer, x.numpy(), allow_pickle=False)
    file = f"{name}.{'npz' if isinstance(x, dict) else 'npy'}"
    write_bytes(writable(folder) / file, buffer.getvalue())
    paths = [str(folder / file), *([] if figure is None else [str(write_figure(folder, name, figure))])]
    if json_:
        print_json({**about, "files": paths})
    else:
        typer.echo("\n".join(paths))
