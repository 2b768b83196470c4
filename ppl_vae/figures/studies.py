"""A study: differences with their intervals, and learning curves with bands over seeds."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from ..strategies.curves import AXES
from ..strategies.results import Study
from .style import BLUE, COLORS, GREY, VERMILLION, canvas, need, text


def forest(found: Study, other: str | None = None) -> Figure:
    """A forest plot: how much higher the log p(x) of each strategy is than that of another, with its interval.

    Better is blue, worse is red, and what cannot be told is grey.

    Args:
        found: a study.
        other: the strategy to compare with; None takes the reference.

    Raises:
        UserError: nothing can be compared.
    """
    other = found.reference if other is None else other
    rows = list(found.compare(other).values())
    need(bool(rows), f"only {other!r} was trained and evaluated; there is nothing to compare it with")
    colors = {"better": BLUE, "worse": VERMILLION}
    figure, ax = canvas(0.9 + 0.3 * len(rows))
    ends = np.array([[one.low, one.high] for one in rows])
    reach = np.abs(ends[np.isfinite(ends)]).max(initial=1e-3)
    for i, one in enumerate(rows):
        color = colors.get(one.verdict, GREY)
        low, high = (float(np.clip(end, -2 * reach, 2 * reach)) for end in (one.low, one.high))  # of one seed, infinite
        ax.plot([low, high], [i, i], color=color, linewidth=1.6)
        ax.plot(one.diff, i, "o", color=color, markersize=5)
        ax.annotate(one.verdict, (1, i), xycoords=("axes fraction", "data"), xytext=(4, -3), textcoords="offset points")
    ax.axvline(0, color="black", linewidth=0.8)
    ax.set_yticks(range(len(rows)), [one.strategy for one in rows])
    ax.set(ylim=(len(rows) - 0.5, -0.5), xlabel=f"log p(x) less that of {other} (nats per example)")
    ax.set_title("95 % intervals, together, paired by seed and example", fontsize=11)
    return figure


def learning_curves(found: Study, against: str = "steps") -> Figure:
    """The validation ELBO of each strategy while it is trained: the mean over seeds, and a band from least to most.

    Args:
        found: a study of data with a validation split.
        against: ``"steps"``, ``"seconds"`` of training, ``"epochs"``, or ``"decoder_evaluations"``.

    Raises:
        UserError: another axis, or no run has a validation bound.
    """
    figure, ax = canvas(3.8)
    drawn, lows = 0, []
    for name in found.log_px:
        runs = found.curves(name, against)
        if not runs:
            continue
        places, bounds = [p for p, _ in runs], [b for _, b in runs]
        grid = np.linspace(max(p[0] for p in places), min(p[-1] for p in places), 200)
        curves = np.stack([np.interp(grid, p, b) for p, b in zip(places, bounds, strict=True)])
        color, style = COLORS[drawn % len(COLORS)], ("-", "--", ":")[drawn // len(COLORS) % 3]
        ax.plot(grid, curves.mean(0), style, color=color, label=f"{name}: {text(float(curves[:, -1].mean()), '.2f')}")
        ax.fill_between(grid, curves.min(0), curves.max(0), color=color, alpha=0.15, linewidth=0)
        lows.append(float(np.quantile(curves.mean(0), 0.15)))
        drawn += 1
    need(drawn > 0, "no run of the study has a validation bound")
    ax.set(xlabel=AXES[against], ylabel="validation ELBO (nats per example)")
    ax.set_ylim(bottom=min(lows))  # the first steps are far below the rest
    ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5), fontsize=9, title="at the end")
    return figure
