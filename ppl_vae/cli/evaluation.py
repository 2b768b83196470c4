"""The report of an evaluation: its keys, its table on the screen, its files."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from ..common.errors import NoWeightError
from ..common.files import writable, write_json, write_text
from ..data.convert import WHOLE
from ..likelihood.classify import JOINT
from ..likelihood.estimate import log_likelihood
from ..likelihood.result import SOURCES
from ..objectives.elbo import Elbo
from ..scoring.inputs import Needs, evaluating, to_device
from ..scoring.param_store import own_store
from ..scoring.quantity import LOG_PX, MIXED
from ..scoring.trace import call_args
from .output import label_of


def evaluate(
    pair: Any, name: str, data: str, part: Any, num_samples: int, seed: int, proposal: Any = "guide", **options: Any
) -> tuple[dict[str, Any], Any]:
    """The keys of an evaluation; without an estimate, and with the reason, where the pair has no log p(x).

    ``options`` are those of `log_likelihood`, such as ``capture``.
    """
    about = {"pair": name, "data": data, "split": part.name}
    about |= {} if proposal == "guide" else {"proposal": getattr(proposal, "__name__", str(proposal))}
    try:
        estimate = log_likelihood(
            pair, part, num_samples=num_samples, proposal=proposal, seed=seed, progress=True, **options
        )
    except NoWeightError as error:
        with evaluating(pair), own_store():
            x, y = to_device(pair, *Needs(pair)(part.x, part.y))
            bounds = Elbo().bounds(pair.model, pair.guide, *call_args(pair.model, x, y)).double()
        bound = None if "pyro.factor" in str(error) else float(bounds.mean())  # it counts a factor, which is no ELBO
        empty = ("quantity", "log_px_mean", "log_px_se", "bits_per_dim", "ess_min", "khat_max")
        known = {"n": len(part), "num_samples": num_samples, "seed": seed, "elbo_mean": bound, "khat_exact": 0}
        rest = {"khat_fraction_unreliable": None, "note": str(error)}
        return {**about, **dict.fromkeys(empty), **known, **rest}, None
    return {**about, **{k: finite(v) for k, v in estimate.summary().items()}}, estimate


def of_panel(name: str, data: str, part: Any, panel: Any) -> tuple[dict[str, Any], Any]:
    """The keys of an evaluation with a panel of estimators: those of its iwae row, or else of its first."""
    estimate = panel.rows.get("iwae") or next(iter(panel.rows.values()))
    about = {"pair": name, "data": data, "split": part.name}
    result = {**about, **{k: finite(v) for k, v in estimate.summary().items()}, "estimator": estimate.estimator}
    return {**result, "estimators": panel.table(), "sentences": panel.sentences()}, estimate


def finite(value: Any) -> Any:
    """A value that JSON can hold: None for an infinity or NaN."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def record(folder: Path, result: dict[str, Any], estimate: Any, part: Any, suffix: str = "") -> None:
    """Write ``evaluation.json`` and ``log_px.csv``, with ``suffix`` at the end of their names."""
    writable(folder)
    if estimate is not None:
        write_csv(folder, estimate, part, suffix)
    write_json(folder / f"evaluation{suffix}.json", result)


def write_csv(folder: Path, estimate: Any, part: Any, suffix: str = "") -> Path:
    """log_px.csv: a row for each example; ``index`` is its row in the source."""
    writable(folder)
    columns = (estimate.log_px, estimate.std_error, estimate.ess, estimate.khat, estimate.elbo)
    unreliable = estimate.unreliable.tolist()
    rows = ["index,label,log_px,std_error,ess,khat,elbo,reliable,quantity"]
    sources = None if estimate.source is None else [SOURCES[i] for i in estimate.source.tolist()]
    rows[0] += ",proposal" if sources else ""
    index = part.rows.tolist()
    for i, values in enumerate(zip(*(c.tolist() for c in columns), strict=True)):
        label, quantity = label_of(part.y, i), estimate.name
        if quantity == MIXED:
            quantity = LOG_PX if label == "-1" else JOINT
        reliable = "no" if unreliable[i] else "yes"
        last = [sources[i]] if sources else []
        rows.append(",".join([str(index[i]), label, *map(repr, values), reliable, f'"{quantity}"', *last]))
    path = folder / f"log_px{suffix}.csv"
    write_text(path, "\n".join(rows) + "\n")
    return path


def side(result: dict[str, Any]) -> str:
    """Exact, or a lower bound."""
    return "exact" if result["khat_exact"] == result["n"] else "a lower bound in expectation"


def which(result: dict[str, Any]) -> str:
    """The number of examples and their split, for messages."""
    n, split = result["n"], result["split"]
    return f"all {n} examples" if split == WHOLE else f"{n} {split} examples"


def panel_table(panel: Any) -> Table:
    """The table of a panel: a row for each estimator."""
    head, *rows = panel.cells()
    shown = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for i, title in enumerate(head):
        shown.add_column(title, no_wrap=True, justify="left" if i < 2 else "right")
    for row in rows:
        shown.add_row(*row)
    return shown


def table(result: dict[str, Any], figures: int = 0) -> Table:
    """The table at the end of an evaluation."""
    shown = Table(show_header=False, box=None)
    r, proposal = result, result.get("proposal", "guide")
    about = f"{which(r)}, K = {r['num_samples']}, seed {r['seed']}"
    about += "" if proposal == "guide" else f", {proposal} proposal"
    name = "ELBO" if proposal == "guide" else "mean log weight"
    if "(Delta)" in r.get("note", ""):
        name, about = "log p(x, z)", f"at the code z of x, no bound on log p(x); {about}"
    if r["elbo_mean"] is not None:
        shown.add_row(name, f"{r['elbo_mean']:.3f} nats", about)
    if r["log_px_mean"] is None:
        shown.add_row("log p(x)", "none", Text(str(r["note"])))
    else:
        se = "" if r["log_px_se"] is None else f" ± {r['log_px_se']:.3f}"
        shown.add_row(r["quantity"], f"{r['log_px_mean']:.3f}{se} nats", side(r))
        shown.add_row("bits per dimension", f"{r['bits_per_dim']:.4f}", "")
        shown.add_row("smallest ESS", f"{r['ess_min']:.1f}", f"of {r['num_samples']}")
        bad = f"{100 * r['khat_fraction_unreliable']:.1f} % of the examples unreliable"
        if r["khat_max"] is not None:
            shown.add_row("largest Pareto k", f"{r['khat_max']:.2f}", bad)
        elif r["khat_exact"]:
            shown.add_row("Pareto k", "exact", bad)
        else:
            shown.add_row("Pareto k", "none", "too few samples to estimate it")
    if r.get("sources"):
        shown.add_row("proposals", ", ".join(f"{n} {name}" for name, n in r["sources"].items()), "examples")
    if "run" in r:
        shown.add_row("run folder", r["run"], "")
        shown.add_row("figures", f"{r['run']}/figures" if figures else "none", f"{figures} files" if figures else "")
    return shown
