"""posterior: what the latents of each example are, with their spread, and the probabilities of classes."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from .options import Common, JsonOpt, OutOpt, RunArg, Source, positive
from .output import print_json
from .runs import open_runs, suffix


def posterior(
    run: RunArg,
    *,
    method: Annotated[
        str, typer.Option("--method", help="What draws: guide (with weights), sir, hmc or nuts.")
    ] = "guide",
    num_samples: Annotated[int, typer.Option("--num-samples", help="Draws of each example, over all chains.")] = 1000,
    num_chains: Annotated[int, typer.Option("--num-chains", help="Of hmc and nuts.")] = 4,
    warmup: Annotated[
        int, typer.Option("--warmup", help="Steps of each chain of hmc and nuts before its draws.")
    ] = 500,
    limit: Annotated[int | None, typer.Option("--limit", help="Use the first N examples only.")] = None,
    draws: Annotated[bool, typer.Option("--draws", help="Write the draws too: posterior.npz, by site.")] = False,
    source: Source,
    common: Common,
    out: OutOpt = None,
    json_: JsonOpt = False,
) -> None:
    """Draw from p(z|x): means, standard deviations and class probabilities of each example, in posterior.csv."""
    import numpy as np

    from ..common.files import writable, write_bytes, write_text
    from ..draws.posterior import posterior as posterior_of

    positive(num_samples=num_samples, num_chains=num_chains)
    target = writable(out or run)
    [opened] = open_runs([run], common, source, limit)
    found = posterior_of(
        opened.pair, opened.part, None, method, num_samples=num_samples, num_chains=num_chains, warmup=warmup,
        seed=common.seed, progress=True,
    )  # fmt: skip
    end = suffix(run, opened, source, out)
    paths = [target / f"posterior{end}.csv"]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows_of(found, opened.part))
    write_text(paths[0], text.getvalue())
    if draws:
        paths.append(target / f"posterior{end}.npz")
        weight = {} if found.log_weight is None else {"log_weight": found.log_weight}
        arrays: Any = {name: v.numpy() for name, v in (found.samples | weight).items()}
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        write_bytes(paths[1], buffer.getvalue())
    about = {"n": len(opened.part), "method": method, "num_samples": num_samples, "seed": common.seed}
    khat = {} if found.khat is None else {"khat_max": float(found.khat.max())}
    print_json({**about, **khat, "files": [*map(str, paths)]}) if json_ else typer.echo(
        "\n".join(map(str, (found, *paths)))
    )


def rows_of(found: Any, part: Any) -> Iterator[list[Any]]:
    """A row for each example, their head first."""
    columns: dict[str, list[float]] = {} if found.khat is None else {"khat": found.khat.tolist()}
    for site in found.samples:
        if site in found.probs:
            values = [v.tolist() for v in found.support[site]]
            columns |= {f"p({site}={v})": found.probs[site][:, i].tolist() for i, v in enumerate(values)}
            continue
        mean, sd = found.moments(site)  # (N, *event)
        for at in itertools.product(*map(range, mean.shape[1:])):
            name = site + "".join(f"[{i}]" for i in at)
            columns |= {
                f"{name}_mean": mean[(slice(None), *at)].tolist(),
                f"{name}_sd": sd[(slice(None), *at)].tolist(),
            }
    yield ["index", "label", *columns]
    labels = ["" for _ in part.rows] if part.y is None else part.y.tolist()
    yield from map(list, zip(part.rows.tolist(), labels, *columns.values(), strict=True))
