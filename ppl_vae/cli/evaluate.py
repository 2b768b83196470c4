"""evaluate and score: log p(x) of held-out or new data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from ..common.custom import as_given
from ..common.errors import UserError
from ..common.registry import AXES, PROPOSALS
from .options import PROPOSAL_HELP, Common, Estimating, JsonOpt, OutOpt, ProposalOpt, RunArg, Source
from .output import label_of, log, print_json, resumable, screen, write_figure
from .runs import Opened, open_runs, rows_to_score, suffix


def evaluate(
    run: RunArg,
    *,
    estimator: Annotated[
        list[str] | None,
        typer.Option(
            "--estimator", help=f"A row of a table; repeatable: {', '.join(AXES['estimators'])}, or FILE.py:NAME."
        ),
    ] = None,
    proposal: Annotated[
        list[str] | None,
        typer.Option("--proposal", help=f"{PROPOSAL_HELP} Repeatable: a row for each further one. [guide]"),
    ] = None,
    estimating: Estimating,
    source: Source,
    common: Common,
    num_chains: Annotated[int, typer.Option("--num-chains", help="Of the estimator ais.")] = 16,
    num_temperatures: Annotated[int, typer.Option("--num-temperatures", help="Of the estimator ais.")] = 1000,
    draw: Annotated[
        bool, typer.Option("--figures", help="Draw L_k against k, Pareto k of each example, and the sandwich.")
    ] = False,
    out: OutOpt = None,
    json_: JsonOpt = False,
) -> None:
    """Estimate log p(x) of held-out data, with its error and its diagnostics: evaluation.json, and log_px.csv.

    In the run folder, the files of other data than the test data of the run have the name of the data at the end.
    """
    from ..common import ranks
    from ..common.files import writable
    from . import evaluation

    first, *further = map(as_given, proposal or ["guide"])
    rows = [as_given(name) for name in estimator or ["iwae"]]
    target = writable(out or run)  # before minutes are spent
    [opened] = open_runs([run], common, source, estimating.limit)
    found = None
    if estimator or further or draw:
        from ..likelihood.panel import panel

        with resumable():
            found = panel(
                opened.pair, opened.part, None, rows, estimating.num_samples,
                proposals=[first, *further], num_chains=num_chains, num_temperatures=num_temperatures, seed=common.seed,
                progress=True, resume=target, **estimating.switches(),
            )  # fmt: skip
        result, estimate = evaluation.of_panel(opened.name, opened.data, opened.part, found)
        if draw:
            result["figures"] = trust_figures(opened, target / "figures", estimating.num_samples, common.seed, found)
    else:
        result, estimate = evaluated(opened, estimating, common.seed, first, target)
    end = suffix(run, opened, source, out)
    ranks.broadcast_object(lambda: evaluation.record(target, result, estimate, opened.part, end))
    if json_ or found is None:
        print_json(result) if json_ else screen.print(evaluation.table(result))
        return
    screen.print(evaluation.panel_table(found))
    typer.echo("\n".join([*found.left_out(), *found.sentences(), *result.get("figures", [])]))
    typer.echo(f"nats; {evaluation.which(result)}, seed {common.seed}; a lower bound is one in expectation")


def score(
    run: RunArg,
    *,
    proposal: ProposalOpt = "guide",
    estimating: Estimating,
    source: Source,
    common: Common,
    parquet: Annotated[
        bool,
        typer.Option(
            "--parquet",
            help="For millions of examples: a folder of Parquet files, written one by one, in place of one CSV. "
            "A .npy file, or a folder of them, is read where it is needed.",
        ),
    ] = False,
    out: OutOpt = None,
    json_: JsonOpt = False,
) -> None:
    """Write log p(x) of each example to log_px.csv, least likely first on the screen; of a file, of all its rows.

    In the run folder, the file of other data than the test data of the run is log_px-NAME.csv.
    """
    from ..common import ranks
    from ..common.files import writable
    from . import evaluation

    target = writable(out or run)
    if parquet:
        _write_parquet(run, as_given(proposal), estimating, source, common, out, json_)
        return
    [opened] = open_runs([run], common, source, estimating.limit)
    result, estimate = evaluated(opened, estimating, common.seed, as_given(proposal), target)
    path = ranks.broadcast_object(
        lambda: evaluation.write_csv(target, estimate, opened.part, suffix(run, opened, source, out))
    )
    order = estimate.log_px.argsort()[:10].tolist()
    index, y = opened.part.rows.tolist(), opened.part.y
    if json_:
        lowest = [{"index": index[i], "log_px": float(estimate.log_px[i])} for i in order]
        print_json({**result, "csv": str(path), "lowest": lowest})
        return
    table = Table("index", "label", estimate.name, "± se", "ESS", "Pareto k", title="least likely examples")
    for i in order:
        row = (estimate.log_px[i], estimate.std_error[i], estimate.ess[i], estimate.khat[i])
        table.add_row(str(index[i]), label_of(y, i), *(f"{float(v):.2f}" for v in row))
    screen.print(table)
    about = f"{evaluation.side(result)}, K = {estimating.num_samples}, seed {common.seed}"
    typer.echo(f"{len(estimate)} rows in {path}; {about}")


def _write_parquet(
    run: Path, proposal: Any, estimating: Estimating, source: Source, common: Common, out: Path | None, json_: bool
) -> None:
    """The folder log_px of Parquet files, in a run folder or another one."""
    from ..likelihood.scores import write_scores

    pair, part, end = rows_to_score(run, source, common, estimating.limit, out)
    options = estimating.switches()
    with resumable():
        files = write_scores(
            (out or run) / f"log_px{end}", pair, part, estimating.num_samples, proposal=proposal, seed=common.seed,
            progress=True, **options,
        )  # fmt: skip
    n, folder = len(part), files[0].parent
    if json_:
        print_json({"n": n, "num_samples": estimating.num_samples, "seed": common.seed, "parquet": str(folder)})
    else:
        typer.echo(f"{n} rows in {folder}, files: {len(files)}; K = {estimating.num_samples}, seed {common.seed}")


def evaluated(
    opened: Opened, estimating: Estimating, seed: int, proposal: Any, folder: Path
) -> tuple[dict[str, Any], Any]:
    """The keys of an evaluation, and the estimate; unfinished work is kept in the folder.

    Raises:
        UserError: the pair has no log p(x).
    """
    from . import evaluation

    with resumable():
        result, estimate = evaluation.evaluate(
            opened.pair, opened.name, opened.data, opened.part, estimating.num_samples, seed, proposal,
            resume=folder, **estimating.switches(),
        )  # fmt: skip
    if estimate is None:
        raise UserError(str(result["note"]))
    return result, estimate


def trust_figures(opened: Opened, folder: Path, num_samples: int, seed: int, found: Any) -> list[str]:
    """L_k against k by proposal, Pareto k of each example, and the sandwich of simulated data: PNG files."""
    from ..figures import likelihood
    from ..likelihood.bounds import eubo
    from ..likelihood.curves import bound_curve

    curves, pair, part = {}, opened.pair, opened.part
    asked = [e for e in found.rows if e in PROPOSALS]
    for proposal in dict.fromkeys(("guide", "prior", "defensive", "qmc", *asked)):
        try:
            curves[proposal] = bound_curve(pair, part, None, num_samples, proposal=proposal, seed=seed, progress=True)
        except UserError as error:
            log.print(f"no curve for {proposal}: {error}")
    weighed = next((e for e in found.rows.values() if e.estimator != "ais"), None)
    drawn = {"bound_curves": likelihood.bound_curves(curves)} if curves else {}
    drawn |= {} if weighed is None else {"khat": likelihood.khat_scatter(weighed)}
    try:
        few = min(100, len(part))
        labels = None if part.y is None else part.y[:few]
        drawn["sandwich"] = likelihood.sandwich(eubo(pair, few, num_samples, labels, seed=seed, progress=True))
    except UserError as error:
        log.print(f"no sandwich: {error}")
    return [str(write_figure(folder, name, figure)) for name, figure in drawn.items()]
