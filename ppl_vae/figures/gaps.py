"""The gap of the ELBO by its causes."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..likelihood.gaps import NAMES, Gaps
from .style import BLUE, SKY, VERMILLION, canvas, text


def gap_bars(found: Gaps) -> Figure:
    """Stacked bars: what each example's ELBO lacks, by cause, in order of the whole gap.

    Example:
        >>> import torch, ppl_vae as pv
        >>> pair = pv.build("linear", data_shape=(5,), latent=2)
        >>> figure = gap_bars(pv.gaps(pair, torch.randn(4, 5), num_samples=100))
        >>> figure.axes[0].get_ylabel()
        'log p(x) - ELBO (nats)'
    """
    order = found["total"].values.argsort()
    figure, ax = canvas(4.6)
    above, below = np.zeros(len(order)), np.zeros(len(order))
    for name, color in zip(NAMES, (VERMILLION, SKY, BLUE), strict=True):
        gap = found[name].values[order]
        start = np.where(gap >= 0, above, below)  # a negative part hangs from zero
        label = f"{name}: {text(float(gap.mean()), '.2f')}"
        ax.bar(np.arange(len(gap)), gap, 1.0, start, color=color, label=label, linewidth=0)
        above, below = above + gap.clip(min=0), below + gap.clip(max=0)
    ax.axhline(0, color="black", linewidth=1)
    ax.set(xlabel="examples, in order of the whole gap", ylabel=f"{found.attrs['quantity']} - ELBO (nats)")
    mean = text(float(found["total"].mean()), ".2f")
    ax.set_title(f"what the ELBO of {len(order)} examples lacks: {mean} nats on average", fontsize=11)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend(frameon=False, title="mean (nats); below zero: a negative part" if below.any() else "mean (nats)")
    return figure
