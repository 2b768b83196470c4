"""A record as a figure: bars of images/s and of ms a datum, ours in colour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .stats import spread

OURS, PEERS = "#0072B2", "#B0B0B0"  # Okabe and Ito's blue; a grey
TITLES = {
    "training mlp": "Training, MLP: images/s (more is better)",
    "training conv": "Training, convolutions: images/s (more is better)",
    "likelihood": "log p(x), K = {num_samples:,}: ms a datum (less is better)",
}


def draw(record: Mapping[str, Any], path: Path) -> bool:
    """Write the figure; False where no section of the record has bars."""
    shown = [name for name in TITLES if any(r["seconds"] for r in rows_of(record, name).values())]
    if not shown:
        return False
    heights = [len(rows_of(record, name)) for name in shown]
    figure = Figure(figsize=(7.5, 0.55 * len(shown) + 0.26 * sum(heights)), dpi=120, layout="constrained")
    axes = figure.subplots(len(shown), squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0]
    options = record["options"]
    for ax, name in zip(axes, shown, strict=True):
        if name == "likelihood":
            per_round = [[1e3 * s / options["images"] for s in r["seconds"]] for r in rows_of(record, name).values()]
        else:
            images = record["sections"][name]["steps"] * options["batch"]
            per_round = [[images / s for s in r["seconds"]] for r in rows_of(record, name).values()]
        bars(ax, rows_of(record, name), per_round)
        ax.set_title(TITLES[name].format(**options), loc="left", fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return True


def rows_of(record: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """The rows of a section that ran, or none."""
    rows = record["sections"].get(name, {}).get("rows", {})
    return {who: row for who, row in rows.items() if row["seconds"]}


def bars(ax: Axes, rows: Mapping[str, Any], per_round: Sequence[Sequence[float]]) -> None:
    """One bar a row, its quartiles as a line, its median in figures."""
    spreads = [spread(values) for values in per_round]
    names = [who.replace("`", "") for who in rows]
    where = range(len(rows))
    colors = [OURS if row["ours"] else PEERS for row in rows.values()]
    errors = [[s.median - s.low for s in spreads], [s.high - s.median for s in spreads]]
    ax.barh(where, [s.median for s in spreads], color=colors, xerr=errors, error_kw={"linewidth": 0.8})
    for y, s in zip(where, spreads, strict=True):
        ax.text(s.high, y, f"  {s.median:,.0f}" if s.median >= 100 else f"  {s.median:.1f}", va="center", fontsize=8)
    ax.set_yticks(where, names, fontsize=8)
    for label, row in zip(ax.get_yticklabels(), rows.values(), strict=True):
        label.set_fontweight("bold" if row["ours"] else "normal")
    ax.invert_yaxis()
    ax.margins(x=0.12)
    ax.set_xticks([])
    ax.tick_params(length=0)
    ax.spines[["top", "right", "bottom"]].set_visible(False)
