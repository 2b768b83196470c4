"""``report``: one HTML file on a study or on a run."""

from __future__ import annotations

from pathlib import Path

from ..common.errors import RunError
from ..common.files import writable, write_text
from ..runs.folder import CONFIG
from ..strategies.results import Study
from ..strategies.saved import FILE, load_study
from . import run, study
from .page import page


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
        folder, text = Path(source.out), page("study.html", study.facts(source))
    elif (Path(source) / FILE).is_file():
        folder, text = Path(source), page("study.html", study.facts(load_study(source)))
    elif (Path(source) / CONFIG).is_file():
        folder, text = Path(source), page("run.html", run.facts(Path(source)))
    else:
        raise RunError(f"{source} holds neither a study nor a run: no {FILE}, no {CONFIG}")
    path = folder / "report.html" if out is None else Path(out)
    writable(path.parent)
    write_text(path, text)
    return path
