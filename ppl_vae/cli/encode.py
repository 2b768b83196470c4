"""encode: the codes of data as a table or as arrays, a probe of the labels, and disentangling scores."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from ..common.errors import UserError
from .options import Common, JsonOpt, RunArg, Source
from .output import print_json
from .runs import open_runs, suffix


def encode(
    run: RunArg,
    *,
    limit: Annotated[int | None, typer.Option("--limit", help="Use the first N examples only.")] = None,
    probe: Annotated[
        bool, typer.Option("--probe", help="Fit logistic regression to the train split's codes; its accuracy here.")
    ] = False,
    disentangling: Annotated[
        bool, typer.Option("--disentangling", help="MIG and DCI, of data whose labels are factors.")
    ] = False,
    source: Source,
    common: Common,
    out: Annotated[Path | None, typer.Option("--out", help="FILE.npz or FILE.csv. [codes.npz in the run]")] = None,
    json_: JsonOpt = False,
) -> None:
    """Write the means of q(z|x): a .npz of x (the codes) and y, which --data reads again, or a .csv with names."""
    import numpy as np

    from ..common.files import writable, write_bytes, write_text
    from ..draws.codes import codes

    if out is not None and out.suffix not in (".npz", ".csv"):
        raise UserError(f"--out {out}: name a file that ends in .npz or in .csv")
    [opened] = open_runs([run], common, source, limit)
    path = out or run / f"codes{suffix(run, opened, source, None)}.npz"
    writable(path.parent)
    part = opened.part
    found = codes(opened.pair, part.x, part.y, seed=common.seed)
    if path.suffix == ".csv":
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows_of(found, part))
        write_text(path, text.getvalue())
    else:
        arrays: Any = {"x": found.values.numpy()} | ({} if part.y is None else {"y": part.y.cpu().numpy()})
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        write_bytes(path, buffer.getvalue())
    about: dict[str, Any] = {"n": len(part), "size": len(found.names), "file": str(path)}
    shown = [str(path)]
    if probe:
        from ..draws.probe import probe as probe_of

        [train] = open_runs([run], common, replace(source, split="train"), None)
        probed = probe_of(opened.pair, train.part, part, seed=common.seed)
        about["probe"] = probed.accuracy
        shown.append(str(probed))
    if disentangling:
        about |= scores(found, part, common.seed)
        shown += [f"{name} {about[name]:.3f}" for name in ("mig", "disentanglement", "completeness", "informativeness")]
    print_json(about) if json_ else typer.echo("\n".join(shown))


def scores(found: Any, part: Any, seed: int) -> dict[str, float]:
    """MIG and DCI by name.

    Raises:
        UserError: the data have no factors.
    """
    from ..draws.disentangling import dci, mig

    if part.y is None or part.y.dim() != 2:
        raise UserError("--disentangling: labels of several factors are needed, such as those of --data factors")
    each = dci(found.values, part.y, seed=seed)
    return {"mig": mig(found.values, part.y), **{k: v for k, v in each._asdict().items() if k != "importance"}}


def rows_of(found: Any, part: Any) -> Iterator[list[Any]]:
    """A row for each example, their head first."""
    labels = [] if part.y is None else part.y.reshape(len(part), -1).T.tolist()
    heads = ["label"] if len(labels) == 1 else [f"label[{i}]" for i in range(len(labels))]
    yield ["index", *heads, *found.names]
    yield from map(list, zip(part.rows.tolist(), *labels, *found.values.T.tolist(), strict=True))
