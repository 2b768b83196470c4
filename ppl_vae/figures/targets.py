"""How often the intervals of estimates hold, on targets with a known answer."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from ..targets.accuracy import Accuracy
from .style import COLORS, GREY, VERMILLION, canvas, need

LOW, HIGH = 0.90, 0.99  # the band in which the coverage of a 95 % interval should lie


def accuracy(found: Accuracy) -> Figure:
    """Coverage of the 95 % intervals by target and estimator, on the examples that no diagnostic doubts.

    A point is hollow where more than half of the examples are unreliable; a cross stands where all of them are. The
    name of a target is red where an estimator fails without a sign.

    Example:
        >>> import ppl_vae as pv
        >>> figure = accuracy(pv.targets.table(["toy"], ["iwae"], num_data=20, num_samples=50))
        >>> figure.axes[0].get_xlabel()
        'coverage of 95 % intervals'
    """
    whole = [r for r in found.rows if r["reason"] is None]
    rows = [r for r in whole if r["coverage"] is not None or r["unreliable"] == 1]
    need(bool(rows), "no row of the table applies; there is nothing to draw")
    targets, estimators = (list(dict.fromkeys(r[k] for r in rows)) for k in ("target", "estimator"))
    figure, ax = canvas(1.2 + 0.28 * len(targets))
    ax.axvspan(LOW, HIGH, color=GREY, alpha=0.15, linewidth=0, label="90 to 99 %")
    ax.axvline(0.95, color=GREY, linewidth=0.8)
    for i, name in enumerate(estimators):
        color = (*COLORS, GREY)[i % 7]
        offset = 0.7 * ((i + 0.5) / len(estimators) - 0.5)
        mine = [r for r in rows if r["estimator"] == name]
        at = np.array([targets.index(r["target"]) for r in mine]) + offset
        coverage = np.array([np.nan if r["coverage"] is None else r["coverage"] for r in mine])
        doubted = np.array([r["unreliable"] > 0.5 for r in mine])
        ax.scatter(coverage[~doubted], at[~doubted], s=16, color=color, label=name, zorder=3)
        ax.scatter(coverage[doubted], at[doubted], s=16, facecolors="none", edgecolors=color, zorder=3)
        empty = np.isnan(coverage)
        ax.scatter(np.full(int(empty.sum()), 1.04), at[empty], s=16, marker="x", color=color, zorder=3, linewidths=1)
    for row, name in enumerate(targets):
        bad = any(t == name for t, _ in found.silent)
        ax.axhline(row + 0.5, color=GREY, linewidth=0.3)
        ax.text(-0.03, row, name, ha="right", va="center", fontsize=9, color=VERMILLION if bad else "black")
    ax.set(xlim=(-0.02, 1.08), ylim=(len(targets) - 0.5, -0.5), xlabel="coverage of 95 % intervals")
    ax.set_yticks([])
    ax.set_xticks([0, 0.25, 0.5, 0.75, 0.9, 1.0], ["0", "25", "50", "75", "90", " 100 %"], fontsize=9)
    ax.set_title("how often intervals hold log p(x), of the examples whose diagnostics are good", fontsize=11)
    ax.scatter([], [], s=16, facecolors="none", edgecolors=GREY, label="more than half are unreliable")
    ax.scatter([], [], s=16, marker="x", color=GREY, label="all are unreliable")
    if found.silent:
        ax.scatter([], [], s=0, label="red: below 90 %, and k is good")
    ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5), fontsize=9)
    return figure
