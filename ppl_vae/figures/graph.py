"""The graph of a pair: its sites, and what each depends on, as Pyro reads them from a trace."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from graphlib import TopologicalSorter
from typing import Any

import pyro
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, Rectangle
from pyro.infer.inspect import get_model_relations
from torch import Tensor

from ..common.rng import forked
from ..pairs.base import Pair
from .style import GREY, NotebookFigure

WIDE, HIGH, RADIUS = 1.5, 1.0, 0.28  # between columns, between rows, and of a site, in inches
Place = tuple[float, float]


def graph(pair: Pair, x: Any, y: Tensor | None = None) -> Figure:
    """The sites of the model and of the guide at the same places, with an arrow from each site to what depends on it.

    Observed sites are filled; squares are what is only given; a long row of numbered sites is shortened. Traced on two
    examples.

    Args:
        pair: a pair.
        x: data, of which two examples are used: a tensor or a dictionary of tensors.
        y: labels.

    Example:
        >>> import ppl_vae as pv
        >>> pair = pv.build("vae", data_shape=(4,), latent=2, hidden=(8,))
        >>> [ax.get_title() for ax in graph(pair, torch.zeros(2, 4)).axes]
        ['model', 'guide']
    """
    like = next(pair.parameters(), torch.empty(0))
    x = {k: v[:2].to(like.device) for k, v in x.items()} if isinstance(x, Mapping) else x[:2].to(like)
    y = None if y is None else y[:2].to(like.device)
    with forked(seed=0), torch.no_grad():
        model, guide = (relations(program, x, y) for program in (pair.model, pair.guide))
    place = places(model["sample_sample"])
    below = min((v for _, v in place.values()), default=0.0)
    others = [name for name in guide["sample_sample"] if name not in place]
    place |= {name: ((i - (len(others) - 1) / 2) * WIDE, below - HIGH) for i, name in enumerate(others)}
    across, down = (max(v) - min(v) for v in zip(*place.values(), strict=True))
    figure = NotebookFigure(figsize=(2 * (across + 2.2), down + 1.5), layout="constrained")
    for ax, title, found in zip(figure.subplots(1, 2), ("model", "guide"), (model, guide), strict=True):
        _draw(ax, place, found, set(model["observed"]))
        ax.set_title(title, fontsize=11)
        ax.set_aspect("equal")
        ax.set_axis_off()
    return figure


def relations(program: Any, x: Any, y: Tensor | None) -> dict[str, Any]:
    """What Pyro says of a program's sites, with data and labels as sites too where a site depends on them."""

    def whole(x: Any, y: Tensor | None) -> None:
        fields = {**(x if isinstance(x, Mapping) else {"x": x}), **({} if y is None else {"y": y})}
        given = {k: pyro.deterministic(f"{k}, given", v, event_dim=v.dim()) for k, v in fields.items()}
        program({k: given[k] for k in x} if isinstance(x, Mapping) else given["x"], given.get("y"))

    found = get_model_relations(whole, (x, y), include_deterministic=True)
    bare = {name: name.removesuffix(", given") for name in found["sample_sample"]}
    observed = [name for name in found["observed"] if bare[name] == name]
    inputs = {name for name in bare if bare[name] != name}
    short = shortened(bare.values())
    before: dict[str, list[str]] = {}
    for site, parents in found["sample_sample"].items():
        if site not in inputs:
            # what is observed is no input of another site: x scores itself, and its missing entries hide a part
            others = [short[bare[p]] for p in parents if p not in inputs or bare[p] not in observed]
            known = before.setdefault(short[site], [])
            known += [p for p in dict.fromkeys(others) if p not in known and p != short[site]]
    given = list(dict.fromkeys(p for parents in before.values() for p in parents if p not in before))
    before = {**{name: [] for name in given}, **before}
    return {**found, "observed": observed, "sample_sample": before, "given": given}


def shortened(names: Collection[str]) -> dict[str, str]:
    """Each name as the graph has it: of a long row of numbered sites, those between the second and the last are one.

    Example:
        >>> shortened(["x", "z_1", "z_2", "z_3", "z_4", "z_5", "z_6"])["z_4"]
        'z_…'
    """
    rows: dict[str, list[tuple[int, str]]] = {}
    for name in names:
        if found := re.fullmatch(r"(.*?)(\d+)", name):
            rows.setdefault(found[1], []).append((int(found[2]), name))
    middle = {name: f"{stem}…" for stem, row in rows.items() if len(row) > 5 for _, name in sorted(row)[2:-1]}
    return {name: middle.get(name, name) for name in names}


def places(before: Mapping[str, list[str]]) -> dict[str, Place]:
    """Where each site stands: a row below what it depends on, and rows centred.

    Example:
        >>> places({"z": [], "x": ["z"]})
        {'z': (0.0, 0.0), 'x': (0.0, -1.0)}
    """
    depth: dict[str, int] = {}
    for name in TopologicalSorter(before).static_order():
        depth[name] = max((depth[p] + 1 for p in before[name]), default=0)
    rows: dict[int, list[str]] = {}
    for name in before:
        rows.setdefault(depth[name], []).append(name)
    return {
        name: ((i - (len(names) - 1) / 2) * WIDE, -row * HIGH)
        for row, names in rows.items()
        for i, name in enumerate(names)
    }


def _draw(ax: Axes, place: Mapping[str, Place], found: Mapping[str, Any], observed: set[str]) -> None:
    """The sites of one program, on axes whose unit is an inch."""
    across, down = zip(*place.values(), strict=True)
    ax.set(xlim=(min(across) - 0.8, max(across) + 1.2), ylim=(min(down) - 0.6, max(down) + 0.6))
    before: Mapping[str, list[str]] = found["sample_sample"]
    around = 72 * RADIUS + 1  # points, where an arrow ends
    ends: dict[str, Any] = {"shrinkA": around, "shrinkB": around, "mutation_scale": 12, "color": "black"}
    for name, parents in before.items():
        a, b = place[name]
        look: dict[str, Any] = {"facecolor": "#DDDDDD" if name in observed else "white", "edgecolor": "black"}
        square = name in found["given"] and name not in observed
        side = 1.6 * RADIUS
        shape = (
            Rectangle((a - side / 2, b - side / 2), side, side, **look) if square else Circle((a, b), RADIUS, **look)
        )
        ax.add_patch(shape)
        size = 10 if len(name) < 5 else 7 if len(name) < 8 else 5
        ax.text(a, b, name, ha="center", va="center", fontsize=size)
        ax.text(a + RADIUS + 0.08, b, found["sample_dist"].get(name, ""), va="center", fontsize=8, color=GREY)
        for parent in parents:
            c, d = place[parent]
            rows = (d - b) / HIGH
            bend = 0.28 / rows + math.copysign(0.24, rows) if a == c and abs(rows) > 1 else 0  # around what is between
            if rows == 0:  # over the name of a distribution
                bend = math.copysign(0.35, c - a)
            ax.add_patch(FancyArrowPatch((c, d), (a, b), arrowstyle="-|>", connectionstyle=f"arc3,rad={bend}", **ends))
    if not before:
        ax.text(sum(across) / len(across), sum(down) / len(down), "no latents", ha="center", va="center", color=GREY)
