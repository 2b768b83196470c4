"""gradients: every objective's gradient beside the exact one."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ..common.errors import UserError
from .options import JsonOpt
from .output import print_json, write_figure


def gradients(
    objective: Annotated[list[str] | None, typer.Argument(help="Names, as the whole table has them. [all]")] = None,
    *,
    copies: Annotated[int, typer.Option(help="Independent draws of each gradient.", min=40)] = 60_000,
    seed: Annotated[int, typer.Option(help="Of the draws.")] = 0,
    figure: Annotated[
        Path | None, typer.Option(help="Draw the SNR against K by path, stl and dreg: a .png file.")
    ] = None,
    json_: JsonOpt = False,
) -> None:
    """Each objective's gradient on two problems whose exact one is known: z above 4 is a bias; the SNR is per draw."""
    from ..objectives.gradients import EXACT, gradients as gradients_of

    for name in objective or ():
        if name not in EXACT:
            raise UserError(f"no exact gradient of {name!r} is known here; choose from {', '.join(EXACT)}")
    if figure is not None and figure.suffix != ".png":
        raise UserError(f"--figure {figure}: the name of a .png file is needed")
    rows = [asdict(row) for row in gradients_of(objective or None, copies, seed=seed)]
    path = None if figure is None else str(_draw(figure, seed))
    if json_:
        print_json({"gradients": rows, "copies": copies, "seed": seed} | ({} if path is None else {"figure": path}))
        return
    typer.echo(f"{'objective':<46}{'problem':<8}{'of':<7}{'exact':>8}{'mean':>8}{'z':>6}{'SNR':>7}")
    for r in rows:
        typer.echo(
            f"{r['objective']:<46}{r['problem']:<8}{r['of']:<7}{r['exact']:>8.4f}{r['mean']:>8.4f}{r['z']:>6.1f}"
            f"{r['snr']:>7.3f}"
        )
    typer.echo(
        f"{copies} draws each, seed {seed}. exact and mean: lengths of the gradient of the model or the guide; z: the "
        f"largest difference of a parameter, in standard errors; SNR: of one draw"
    )
    if path is not None:
        typer.echo(path)


def _draw(path: Path, seed: int) -> Path:
    from ..figures.gradients import signal_to_noise_curves
    from ..objectives.gradients import NUMBERS, signal_to_noise

    return write_figure(path.parent, path.stem, signal_to_noise_curves(signal_to_noise(seed=seed), NUMBERS))
