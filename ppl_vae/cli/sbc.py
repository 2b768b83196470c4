"""sbc: whether draws of z come from the posterior, on data simulated from the model."""

from __future__ import annotations

from typing import Annotated

import typer

from .options import Common, JsonOpt, OutOpt, RunArg, Source, positive
from .output import print_json, write_figure
from .runs import open_runs


def sbc(
    run: RunArg,
    *,
    num_data: Annotated[int, typer.Option("--num-data", help="N, examples to simulate.")] = 1000,
    num_samples: Annotated[int, typer.Option("--num-samples", help="L, draws for each.")] = 199,
    method: Annotated[str, typer.Option("--method", help="What draws: guide, refined, sir or hmc.")] = "guide",
    warmup: Annotated[int, typer.Option("--warmup", help="Moves of each chain of hmc before its draw.")] = 200,
    source: Source,
    common: Common,
    out: OutOpt = None,
    json_: JsonOpt = False,
) -> None:
    """Test whether draws of z come from the posterior, by simulation-based calibration: sbc.json, and figures/sbc.png.

    Simulated examples have the labels, masks and missing entries of the data.
    """
    import torch

    from ..common.files import writable, write_json
    from ..draws.sbc import sbc as calibration_of
    from ..figures.calibration import rank_ecdf

    positive(num_data=num_data, num_samples=num_samples)
    target = writable(out or run)
    [opened] = open_runs([run], common, source, None)
    part = opened.part
    y = None if part.y is None else part.y[torch.arange(num_data) % len(part)]
    found = calibration_of(
        opened.pair, num_data, num_samples, y, method=method, warmup=warmup, like=part.x, seed=common.seed,
        progress=True,
    )  # fmt: skip
    result = {"pair": opened.name, "data": opened.data, **found.summary()}
    write_json(target / "sbc.json", result)
    figure = write_figure(target / "figures", "sbc", rank_ecdf(found))
    print_json(result) if json_ else typer.echo(f"{found}\n{figure}")
