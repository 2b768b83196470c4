"""gaps: where the gap between the ELBO and log p(x) comes from."""

from __future__ import annotations

import typer

from .options import Common, Estimating, JsonOpt, OutOpt, RunArg, Source
from .output import print_json, write_figure
from .runs import open_runs


def gaps(
    run: RunArg,
    *,
    estimating: Estimating,
    source: Source,
    common: Common,
    out: OutOpt = None,
    json_: JsonOpt = False,
) -> None:
    """Divide the gap between the ELBO and log p(x) among its causes: gaps.json, and figures/gaps.png."""
    from ..common import ranks
    from ..common.files import writable, write_json
    from ..figures.gaps import gap_bars
    from ..likelihood.gaps import gaps as gaps_of

    target = writable(out or run)
    [opened] = open_runs([run], common, source, estimating.limit)
    found = gaps_of(
        opened.pair, opened.part, None, estimating.num_samples, seed=common.seed, progress=True, resume=target,
        capture=estimating.capture,
    )  # fmt: skip
    about = {"pair": opened.name, "data": opened.data, "split": opened.part.name, "n": len(found.log_px)}
    result = {**about, "num_samples": estimating.num_samples, "seed": common.seed, "gaps": found.table()}
    ranks.broadcast_object(lambda: write_json(target / "gaps.json", result))
    figure = write_figure(target / "figures", "gaps", gap_bars(found))
    print_json(result) if json_ else typer.echo(f"{found}\n{figure}")
