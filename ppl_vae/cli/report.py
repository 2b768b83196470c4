"""report: a study, or the evaluation of a run, as one HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import JsonOpt
from .output import print_json


def report(
    folder: Annotated[Path, typer.Argument(help="Of a study, or of a run that was evaluated.")],
    *,
    out: Annotated[Path | None, typer.Option("--out", help="The file. [report.html in the folder]")] = None,
    json_: JsonOpt = False,
) -> None:
    """Write one HTML file on a study or on a run: what was found, how far to trust it, figures, settings."""
    from ..strategies.report import report as write

    path = write(folder, out)
    print_json({"report": str(path)}) if json_ else typer.echo(str(path))
