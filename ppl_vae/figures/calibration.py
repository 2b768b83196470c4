"""Ranks of simulation-based calibration against the uniform distribution."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from ..draws.calibration import DENSITIES, Calibration
from ..draws.uniformity import counts, cuts, envelope
from .style import COLORS, GREY, SKY, canvas, text


def rank_ecdf(found: Calibration) -> Figure:
    """The empirical distribution of the ranks of each quantity, less the uniform one, and the envelope for all.

    A hill and then a valley are the ranks of draws that are too narrow, a valley and then a hill those of draws that
    are too wide; a curve on one side is that of biased draws. Quantities that leave the envelope have a name, up to
    six of them; the rest are grey.

    Source: Säilynoja, Bürkner, Vehtari: Graphical Test for Discrete Uniformity and its Applications in Goodness-of-Fit
    Evaluation and Multiple Sample Comparison, 2021, arXiv:2103.10522.

    Example:
        >>> import ppl_vae as pv
        >>> pair = pv.build("linear", data_shape=(5,), latent=2, guide="exact")
        >>> rank_ecdf(pv.sbc(pair, num_data=50, num_samples=19)).axes[0].get_xlabel()
        'rank of the exact draw among those of guide, over L + 1 = 20'
    """
    figure, ax = canvas(4.2)
    size = found.num_samples + 1
    at = cuts(found.num_samples)
    share = np.concatenate([[0.0], at / size, [1.0]])

    def difference(below: np.ndarray, n: int) -> np.ndarray:
        return np.concatenate([[0.0], below / n - at / size, [0.0]])

    low, high = (difference(e, len(found)) for e in envelope(len(found), found.num_samples, found.level))
    label = f"envelope: 95 % for all {len(found.quantities)}"
    ax.fill_between(share, low, high, color=SKY, alpha=0.35, linewidth=0, label=label)
    failed = found.failed
    # a joint quantity beside entries of latents
    shown = [name for name in failed if name in DENSITIES][:2]
    shown += [name for name in failed if name not in shown][: len(COLORS) - len(shown)]
    named = dict(zip(shown, COLORS, strict=False))
    for name in sorted(found.quantities, key=lambda name: name in named):
        ranks = found[name]
        color, width = named.get(name, GREY), 1.6 if name in named else 0.7
        curve = difference(counts(ranks, found.num_samples), len(ranks))
        ax.plot(share, curve, color=color, linewidth=width, label=name if name in named else None)
    ax.axhline(0, color="black", linewidth=0.8)
    ax.set(xlabel=f"rank of the exact draw among those of {found.method}, over L + 1 = {size}", xlim=(0, 1))
    ax.set_ylabel("share of ranks below, less the uniform share")
    least = min(found.p_values.values())
    smallest = f"smallest p {text(least, '.2g')}" if least >= 1e-9 else "smallest p below 1e−9"
    verb = "leaves" if len(failed) == 1 else "leave"
    outside = f"{len(failed)} of {len(found.quantities)} quantities {verb} the envelope"
    ax.set_title(f"{outside}; {len(found)} simulated examples, {smallest}", fontsize=11)
    figure.legend(frameon=False, loc="outside lower center", ncols=4)
    return figure
