"""gaps: where the gap between the ELBO and log p(x) comes from, and what the latents tell about the data."""

from __future__ import annotations

import typer

from .options import Common, Estimating, JsonOpt, OutOpt, RunArg, Source
from .output import print_json, resumable, write_figure
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
    """Divide the gap between the ELBO and log p(x) among its causes; say which latents are used: gaps.json, figures."""
    from ..common import ranks
    from ..common.files import writable, write_json
    from ..draws.error_bounds import error_bounds
    from ..figures.gaps import gap_bars
    from ..figures.information import kl_bars
    from ..likelihood.gaps import gaps as gaps_of
    from ..likelihood.information import information

    target = writable(out or run)
    [opened] = open_runs([run], common, source, estimating.limit)
    with resumable():
        found = gaps_of(
            opened.pair, opened.part, None, estimating.num_samples, seed=common.seed, progress=True, resume=target,
            capture=estimating.capture,
        )  # fmt: skip
    bounds = error_bounds(opened.pair, opened.part, num_samples=estimating.num_samples, seed=common.seed, progress=True)
    told = information(opened.pair, opened.part, seed=common.seed, progress=True)
    about = {"pair": opened.name, "data": opened.data, "split": opened.part.name, "n": found.sizes["example"]}
    result = {**about, "num_samples": estimating.num_samples, "seed": common.seed, "gaps": found.table()}
    result |= {"information": told.record(), "error_bounds": bounds.record()}
    ranks.broadcast_object(lambda: write_json(target / "gaps.json", result))
    paths = [write_figure(target / "figures", "gaps", gap_bars(found))]
    if any(layer.per_dimension is not None for layer in told.layers.values()):
        paths.append(write_figure(target / "figures", "kl", kl_bars(told)))
    print_json(result) if json_ else typer.echo(
        "\n".join(map(str, (found, told, f"distance of the guide from the posterior: {bounds}", *paths)))
    )
