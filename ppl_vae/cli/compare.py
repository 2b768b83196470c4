"""compare: which differences between runs are real."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from ..common.custom import as_given
from ..common.errors import UserError
from .options import Common, Estimating, JsonOpt, ProposalOpt, Source
from .output import print_json, screen
from .runs import open_runs

NUMBERS = ("elbo", "elbo_se", "log_px", "log_px_se", "ess", "khat", "unreliable", "diff", "diff_se")


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Two or more run folders.")],
    *,
    proposal: ProposalOpt = "guide",
    estimating: Estimating,
    source: Source,
    common: Common,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for comparison.json. [not written]")] = None,
    json_: JsonOpt = False,
) -> None:
    """Compare runs on the same data: which differences are real."""
    from ..common import ranks
    from ..common.files import writable, write_json
    from ..strategies.compare import compare as compare_pairs
    from . import evaluation

    names = names_of(runs)
    opened = dict(zip(names, open_runs(runs, common, source, estimating.limit), strict=True))
    refuse_different({name: each.config["data"] for name, each in opened.items()}, source.data)
    part = opened[names[0]].part
    how = {"proposal": as_given(proposal), "num_samples": estimating.num_samples, "seed": common.seed}
    options = {**how, **estimating.switches()}
    groups = grouped({name: each.config for name, each in opened.items()})
    pairs = {label: [opened[name].pair for name in some] for label, some in groups.items()}
    table = compare_pairs(pairs, part, progress=not json_, **options)
    rows = [
        {"run": label, "runs": len(groups[label])}
        | {k: evaluation.finite(float(table[k][i])) for k in NUMBERS}
        | {"verdict": str(table.verdict.values[i])}
        for i, label in enumerate(groups)
    ]
    result = {
        "quantity": str(table.attrs["quantity"]), "n": len(part), "split": part.name,
        "num_samples": estimating.num_samples, "seed": common.seed, "strategies": rows,
    }  # fmt: skip
    if out is not None:
        ranks.broadcast_object(lambda: write_json(writable(out) / "comparison.json", result))
    if json_:
        print_json(result)
    else:
        show(result)


def names_of(runs: Sequence[Path]) -> list[str]:
    """Names for the runs: those of their folders, or the paths where two are the same.

    Raises:
        UserError: there is only one, or one is given twice.
    """
    if len(runs) < 2:
        raise UserError("compare: one run was given; give two or more")
    names = [run.name for run in runs]
    names = names if len(set(names)) == len(names) else [str(run) for run in runs]
    if len(set(names)) < len(names):
        raise UserError("a run is given twice; give different run folders")
    return names


def grouped(configs: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    """The runs of each strategy, which have the same settings and other seeds, under the name of the first.

    Runs that are all of one strategy stand by themselves.
    """
    groups: dict[str, list[str]] = {}
    for name, config in configs.items():
        fit = {k: v for k, v in config.get("fit", {}).items() if k not in ("seed", "device")}
        groups.setdefault(json.dumps([config["pair"], fit], sort_keys=True), []).append(name)
    if len(groups) == 1:
        return {name: [name] for name in configs}
    labels = [str(configs[some[0]].get("strategy") or some[0]) for some in groups.values()]
    if len(set(labels)) < len(labels):
        labels = [some[0] for some in groups.values()]
    return dict(zip(labels, groups.values(), strict=True))


def refuse_different(records: dict[str, dict[str, Any]], data: str | None) -> None:
    """Refuse runs that were made on different data; ``data`` is what is read in place of their data."""
    if data is None and len({record["sha256"] for record in records.values()}) > 1:
        keys = ("name", "seed", "binarize", "shape", "sizes", "reading")
        differ = [k for k in keys if len({str(r.get(k)) for r in records.values()}) > 1] or ["name"]
        about = "; ".join(f"{n}: " + ", ".join(f"{k} {r.get(k)}" for k in differ) for n, r in records.items())
        raise UserError(f"the runs were made on different data ({about}); train them on the same data and data seed")
    ways = [(r.get("binarize", "none") != "none", as_values(r.get("reading"))) for r in records.values()]
    if any(way != ways[0] for way in ways):
        about = "; ".join(f"{n}: binarize={r.get('binarize')}" for n, r in records.items())
        raise UserError(
            f"the runs read {data} in different ways ({about}), so their figures would be of different data; train "
            f"them with the same --binarize"
        )


def as_values(reading: dict[str, Any] | None) -> dict[str, Any]:
    """How the numbers of a source are read, whatever the form of its file."""
    return {k: v for k, v in (reading or {}).items() if k not in ("header", "whole")}


def show(result: dict[str, Any]) -> None:
    """Print the table, and what its columns mean."""
    from . import evaluation

    rows, quantity, k = result["strategies"], result["quantity"], result["num_samples"]
    shown = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    several = any(r["runs"] > 1 for r in rows)
    count = ["runs"] if several else []
    for title in ("run", *count, "ELBO", quantity, "min ESS", "unreliable", "difference", "verdict"):
        shown.add_column(title, no_wrap=True)
    for r in rows:
        means = f"{r['elbo']:.2f}", f"{r['log_px']:.2f} ± {r['log_px_se']:.2f}", f"{r['ess']:.0f}"
        se = "" if r["diff_se"] is None else f" ± {r['diff_se']:.3f}"
        diff = "" if r["verdict"] == "best" else f"{r['diff']:.3f}{se}"
        bad = f"{100 * r['unreliable']:.1f} %"
        shown.add_row(r["run"], *(str(r[k]) for k in count), *means, bad, diff, r["verdict"])
    screen.print(shown)
    typer.echo(
        f"nats; {evaluation.which(result)}, K = {k}, seed {result['seed']}; {quantity} is a lower bound in "
        f"expectation, unreliable where Pareto k is not below its threshold.\n"
        + (
            "Differences are paired by run and example, and their errors cover both."
            if several
            else "Differences are paired by example. Each run is one training run: a verdict is on these weights."
        )
    )
    doubtful = [r["run"] for r in rows if r["verdict"] == "worse" and r["unreliable"] > 0.05]
    if doubtful:
        typer.echo(
            f"The verdict on {', '.join(doubtful)} is on the {k}-sample bounds: more than 5 % of the examples are "
            f"unreliable, and {quantity} may lie well above the bound."
        )
