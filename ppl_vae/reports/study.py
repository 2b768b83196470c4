"""What the report of a study says: the answer, where differences come from, curves, samples, settings."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from ..common.errors import UserError
from ..figures import studies
from ..likelihood.gaps import BOUNDS
from .page import Picture, drawn

if TYPE_CHECKING:
    from ..strategies.results import Study

COMMAND = "command.txt"  # in the folder of a study: what repeats it


def facts(found: Study) -> dict[str, Any]:
    """The facts of the template of a study."""
    compared = list(found.compare().values()) if found.reference in found.log_px else []
    verdicts = [one.verdict for one in compared]
    said = found.sentences()
    cross, size = _cross(found)
    return {
        "title": f"Which of {len(found.results)} strategies is better?" if len(found.results) > 1 else "One strategy",
        "about": _about(found),
        "sentences": list(zip(said, verdicts + [""] * len(said), strict=False)),
        "table": found.cells(),
        "differences": _differences(found),
        "parts": _parts(found),
        "gaps": _maybe("The gap of the ELBO", _alt_gaps(found), studies.gap_by_strategy, found),
        "cross": cross,
        "cross_size": size,
        "curves": _curves(found),
        "reached": _reached(found),
        "reached_about": "Seconds of training until the validation ELBO is that of the reference at its end: the "
        "median over seeds, and the range.",
        "sweep": _maybe("The sweep", _alt_sweep(found), studies.sweep, found),
        "samples": _maybe(
            "Samples",
            f"Eight draws of each strategy: {', '.join(found.log_px)}",
            studies.samples_by_strategy,
            found,
            note="Means of p(x|z) at draws of the prior, of the first seed.",
        ),
        "examples": _maybe(
            "Example by example",
            "Scatter plot: the difference of log p(x) of each test example against its log p(x) under the reference",
            studies.difference_by_example,
            found,
            note="A point is a test example, its mean over seeds.",
        ),
        "settings": _settings(found),
        "command": _command(found),
    }


def _about(found: Study) -> str:
    budget = ", ".join(f"{amount:g} {kind.replace('_', ' ')}" for kind, amount in found.budget.items())
    sizes = found.data.get("sizes", {})
    n = len(next(iter(found.log_px.values()))[0]) if found.log_px else 0
    e = found.evaluation
    return (
        f"{found.data.get('name', 'data')}: {sizes.get('train', '?')} training examples, evaluated on {n} {e['split']} "
        f"examples with K = {e['num_samples']}, proposal {_plain(e['proposal'])}; {len(found.seeds)} seeds, "
        f"{budget or 'the epochs of each strategy'} a run; reference {found.reference}."
    )


def _maybe(title: str, alt: str, make: Callable[..., Figure], *args: Any, note: str = "") -> list[Picture]:
    """A picture, or none where the study has nothing to draw."""
    try:
        return [drawn(title, alt, make(*args), note)]
    except UserError:
        return []


def _differences(found: Study) -> list[Picture]:
    if not found.log_px:
        return []
    pictures = []
    for other in dict.fromkeys((found.reference, found.best)):
        if other in found.log_px and len(found.log_px) > 1:
            ends = "; ".join(f"{c.strategy} {c.diff:+.2f} ({c.verdict})" for c in found.compare(other).values())
            alt = f"Forest plot of differences in log p(x) to {other}, nats: {ends}"
            pictures += _maybe(other, alt, studies.forest, found, other)
    return pictures


def _parts(found: Study) -> list[list[str]]:
    if found.reference not in found.log_px or len(found.compare()) == 0:
        return []
    rows = [["strategy", "ELBO", "= model", "+ inference", "verdict on the ELBO", "on the model", "on inference"]]
    for row in found.parts():
        kinds = ("elbo", "model", "inference")
        numbers = ["-" if row[k]["diff"] is None else f"{row[k]['diff']:+.3f}" for k in kinds]
        rows.append([row["strategy"], *numbers, *(row[k]["verdict"] for k in kinds)])
    return rows


def _cross(found: Study) -> tuple[list[list[str]], int]:
    """Each strategy's model under its own guide, the best diagonal and the best full Gaussian, and log p(x)."""
    under = found.of_gaps(BOUNDS)
    if not under:
        return [], 0
    head = ["model of", "own guide", "best diagonal Gaussian", "best full Gaussian", "log p(x)"]
    rows = [[name, *(f"{values.mean():.2f}" for values in some.values())] for name, some in under.items()]
    return [head, *rows], next(iter(under.values()))["elbo"].shape[1]


def _curves(found: Study) -> list[Picture]:
    ends = []
    for name in found.log_px:
        if runs := found.curves(name):
            ends.append(f"{name} {np.mean([bounds[-1] for _, bounds in runs]):.2f}")
    pictures = []
    for axis in ("seconds", "decoder_evaluations"):
        about = axis.replace("_", " ")
        alt = f"Validation ELBO against {about}; at the end: {', '.join(ends)}"
        pictures += _maybe(about, alt, studies.learning_curves, found, axis)
    return pictures


def _reached(found: Study) -> list[list[str]]:
    try:
        times = found.reached()
    except UserError:
        return []
    rows = [["strategy", "median", "least", "most", "runs that reach it"]]
    for name, some in times.items():
        numbers = (float(np.median(some)), min(some), max(some))
        shown = ("-" if math.isinf(value) else f"{value:.1f}" for value in numbers)
        rows.append([name, *shown, f"{sum(map(math.isfinite, some))} of {len(some)}"])
    return rows


def _alt_gaps(found: Study) -> str:
    gaps = ", ".join(f"{name} {values.mean():.2f}" for name, values in found.gap.items())
    return f"Bars: how far the ELBO of each guide lies below log p(x), nats: {gaps}"


def _alt_sweep(found: Study) -> str:
    return f"log p(x) and ELBO of {', '.join(f'{n} {v.mean():.2f}' for n, v in found.log_px.items())}"


def _settings(found: Study) -> list[tuple[str, str]]:
    rows = [(name, _options(one.get("given", {}))) for name, one in found.strategies.items()]
    rows += [(f"{name}, tuned", _options(some)) for name, some in found.tuned.items()]
    rows += [("seeds", ", ".join(map(str, found.seeds))), ("evaluation", _options(found.evaluation))]
    rows += [("data", _options({k: v for k, v in found.data.items() if k in ("name", "binarize", "sizes", "sha256")}))]
    cells = [r for some in found.results.values() for r in some.values() if "versions" in r]
    versions = cells[0]["versions"] if cells else {}
    return [*rows, ("versions", _options(versions))]


def _options(given: Any) -> str:
    return ", ".join(f"{k}={_plain(v)}" for k, v in given.items() if v is not None)


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return str(value["name"]) if "name" in value else f"({_options(value)})"
    return ",".join(map(_plain, value)) if isinstance(value, list | tuple) else str(value)


def _command(found: Study) -> str:
    path = Path(found.out) / COMMAND
    if path.is_file():
        return path.read_text(encoding="utf-8").strip()
    return "pv.study(...), called from Python with the settings above"
