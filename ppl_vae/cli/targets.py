"""targets: estimates of log p(x) against the truth, on pairs where it is known."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..common.registry import ROWS, TARGETS
from .options import JsonOpt, positive
from .output import print_json, write_figure

Names = Annotated[
    str | None, typer.Option("--names", help=f"Targets, with commas: {', '.join(TARGETS)}. [all of them]")
]
Rows = Annotated[
    list[str] | None,
    typer.Option(
        "--estimator",
        help=f"A row; repeatable: exact, {', '.join(ROWS)}. [exact, iwae, psis, defensive, refined, auto, ais]",
    ),
]


def targets(
    *,
    names: Names = None,
    estimator: Rows = None,
    num_samples: Annotated[int, typer.Option("--num-samples", help="K, the samples of each example.")] = 5000,
    num_data: Annotated[int, typer.Option("--num-data", help="Examples of each target.")] = 100,
    repeats: Annotated[int, typer.Option("--repeats", help="Repetitions, each on other data.")] = 1,
    num_chains: Annotated[int, typer.Option("--num-chains", help="Of the estimator ais.")] = 16,
    num_temperatures: Annotated[int, typer.Option("--num-temperatures", help="Of the estimator ais.")] = 100,
    seed: Annotated[int, typer.Option("--seed", help="Seeds everything that is random.")] = 0,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for targets.json and figures/targets.png. [not written]")
    ] = None,
    json_: JsonOpt = False,
) -> None:
    """Compare estimates of log p(x) with the truth, on pairs where it is known."""
    positive(num_samples=num_samples, num_data=num_data, repeats=repeats, num_temperatures=num_temperatures)
    from ..common.files import writable, write_json
    from ..figures.targets import accuracy
    from ..targets.accuracy import ESTIMATORS, table

    folder = None if out is None else writable(out)
    chosen = names.split(",") if names else None
    found = table(
        chosen, tuple(estimator or ESTIMATORS), num_data=num_data, num_samples=num_samples, repeats=repeats,
        num_chains=num_chains, num_temperatures=num_temperatures, seed=seed, progress=True,
    )  # fmt: skip
    result = {
        "num_data": num_data, "num_samples": num_samples, "repeats": repeats, "seed": seed,
        "num_chains": num_chains, "num_temperatures": num_temperatures,
        "silent": [{"target": t, "estimator": e} for t, e in found.silent], "rows": found.rows,
    }  # fmt: skip
    if folder is not None:
        write_json(folder / "targets.json", result)
        write_figure(folder / "figures", "targets", accuracy(found))
    print_json(result) if json_ else typer.echo(found)
