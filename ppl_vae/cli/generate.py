"""sample, reconstruct and figures: draws from a run's model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from ..common.errors import RunError, UserError
from .options import Common, JsonOpt, OutOpt, RunArg, Source
from .output import log, print_json, write_examples
from .runs import load_pairs, open_runs

SHOWN = 256  # images in a figure; the array holds all


def sample(
    run: RunArg,
    *,
    num: Annotated[int, typer.Option("--num", "-n", help="How many.")] = 64,
    label: Annotated[
        str | None, typer.Option("--label", help="The label, for pairs that take one: its name or its number.")
    ] = None,
    mean: Annotated[bool, typer.Option("--mean/--draw", help="E[x|z], as pictures show, or draws of x.")] = False,
    common: Common,
    out: OutOpt = None,
    json_: JsonOpt = False,
) -> None:
    """Draw data from the model: samples.npy and samples.png; of several fields samples.npz."""
    import torch

    from ..common.fields import each
    from ..draws import generation
    from ..figures import images

    [(pair, config)] = load_pairs([run], common)
    y = None if label is None else torch.full((num,), class_of(run, pair, config, label))
    x = each(torch.Tensor.cpu, generation.sample(pair, num, y, mean=mean, seed=common.seed))
    about: dict[str, Any] = {"n": num, "seed": common.seed}
    if told := generation.drawn_from(pair):
        about["drawn_from"] = told
        log.print(f"z is drawn from {told}", markup=False, soft_wrap=True)
    figure = images.samples(x[:SHOWN]) if torch.is_tensor(x) else None
    write_examples(out or run, "samples", x, figure, json_, about)


def class_of(run: Path, pair: Any, config: dict[str, Any], label: str) -> int:
    """The class that a label stands for: by the name in the run's table, or by its number.

    Raises:
        UserError: there is no such class; lists the classes.
    """
    count = getattr(pair.model, "num_classes", None)
    if count is None:
        raise UserError(f"--label {label}: the pair of {run} takes no labels; leave it out")
    names = ((config.get("data") or {}).get("reading") or {}).get("classes") or []
    if label in names:
        return int(names.index(label))
    numbered = not any(name.isdigit() for name in names)  # else 1 may be the name of a class
    if numbered and label.isdigit() and int(label) < count:
        return int(label)
    known = f"this run has the classes {', '.join(names)}" if names else f"this pair takes the labels 0 to {count - 1}"
    raise UserError(f"--label {label}: {known}")


def reconstruct(
    run: RunArg,
    *,
    num: Annotated[int | None, typer.Option("--num", "-n", help="How many. [10; of a file: all]")] = None,
    source: Source,
    common: Common,
    out: OutOpt = None,
    json_: JsonOpt = False,
) -> None:
    """Encode data and decode them again: reconstructions.npy and reconstructions.png; of several fields an .npz."""
    import torch

    from ..common.fields import each
    from ..draws import generation
    from ..figures import images

    [opened] = open_runs([run], common, source, num, few=10)
    part = opened.part
    x_hat = each(torch.Tensor.cpu, generation.reconstruct(opened.pair, part.x, part.y, seed=common.seed))
    one = torch.is_tensor(x_hat)
    figure = images.reconstructions(part.x[:SHOWN], x_hat[:SHOWN], n=min(len(part), 20)) if one else None
    write_examples(out or run, "reconstructions", x_hat, figure, json_, {"n": len(part), "seed": common.seed})


def figures(
    run: RunArg,
    *,
    num_samples: Annotated[int, typer.Option("--num-samples", help="K, the samples of each example.")] = 1000,
    limit: Annotated[
        int | None, typer.Option("--limit", help="Use the first N examples only. [1000; of a file: all]")
    ] = None,
    source: Source,
    common: Common,
    out: OutOpt = None,
    json_: JsonOpt = False,
) -> None:
    """Draw every figure that applies to a run."""
    from ..common import ranks
    from ..figures.write import save_all
    from . import evaluation

    [opened] = open_runs([run], common, source, limit, few=1000)
    _, estimate = evaluation.evaluate(opened.pair, opened.name, opened.data, opened.part, num_samples, common.seed)
    path = run / "history.jsonl"
    try:
        history = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else None
    except ValueError as error:
        raise RunError(f"{path}: not JSON lines ({error}); delete it to draw the other figures") from None
    about = {"data": opened.part, "history": history or None, "estimate": estimate, "seed": common.seed}
    paths = ranks.broadcast_object(lambda: save_all(opened.pair, (out or run) / "figures", **about))
    if json_:
        print_json({"run": str(run), "figures": [str(p) for p in paths]})
    else:
        typer.echo("\n".join(map(str, paths)))
