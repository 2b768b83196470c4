"""``report``: one HTML file on a study or on a run."""

from __future__ import annotations

from pathlib import Path

from ..common.errors import RunError
from ..reports import run
from ..reports.write import write_report
from ..runs.folder import CONFIG
from .results import Study
from .saved import FILE, load_study


def report(source: Study | str | Path, out: str | Path | None = None) -> Path:
    """Write a report as one HTML file, which needs no other file and loads nothing; returns its path.

    Of a study: the verdicts, the table, where differences come from, curves, samples, settings. Of a run: its
    evaluation, how far to trust it, its figures. Nothing is computed but figures: what a report shows is in the folder.

    Args:
        source: what :func:`~ppl_vae.study` returned, or the folder of a study or of a run that was evaluated.
        out: the file; None takes ``report.html`` in the folder.

    Raises:
        RunError: there is no study or run in the folder, or the run was not evaluated.

    Example:
        >>> import ppl_vae as pv
        >>> pv.report("no/such/folder")
        Traceback (most recent call last):
        ppl_vae.common.errors.RunError: no/such/folder holds neither a study nor a run: no study.json, no config.json
    """
    if isinstance(source, Study):
        return source.report(out)
    folder = Path(source)
    if (folder / FILE).is_file():
        return load_study(folder).report(out)
    if (folder / CONFIG).is_file():
        return write_report("run.html", run.facts(folder), folder / "report.html" if out is None else Path(out))
    raise RunError(f"{source} holds neither a study nor a run: no {FILE}, no {CONFIG}")
