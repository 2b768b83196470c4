"""The KL of each latent dimension."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from ..likelihood.information import Information
from .style import BLUE, GREY, canvas, need, text

MOST = 60  # dimensions whose numbers can be read


def kl_bars(found: Information) -> Figure:
    """Bars: the KL of each latent dimension, largest first, layer after layer; those that are not active in grey.

    Raises:
        UserError: no layer has a KL for each dimension.

    Example:
        >>> import torch, ppl_vae as pv
        >>> pair = pv.build("vae", data_shape=(5,), latent=2, hidden=(4,))
        >>> figure = kl_bars(pv.information(pair, torch.rand(20, 5).round()))
        >>> figure.axes[0].get_ylabel()
        'KL (nats per example)'
    """
    layers = {name: layer for name, layer in found.layers.items() if layer.per_dimension is not None}
    need(bool(layers), "no latent of this pair has independent dimensions, so that there is no KL for each")
    figure, ax = canvas(3.6)
    start = 0
    ticks: dict[float, int] = {}  # by place, the number of a dimension
    for name, layer in layers.items():
        kl = layer.per_dimension
        assert kl is not None
        order = kl.argsort(descending=True)
        at = start + np.arange(len(kl))
        colors = [BLUE if active else GREY for active in layer.active[order].tolist()]
        ax.bar(at, kl[order].numpy(), 0.8, color=colors)
        label = f"{name}: {text(float(layer.kl.mean()), '.2f')} nats, {int(layer.active.sum())} of {len(kl)} active"
        ax.annotate(label, (at[0] - 0.4, float(kl.max())), xytext=(0, 12), textcoords="offset points")
        ticks |= dict(zip(at.tolist(), order.tolist(), strict=True))
        start = int(at[-1]) + 3
    ax.set(xlabel="latent dimensions, in order of their KL", ylabel="KL (nats per example)")
    few = len(ticks) <= MOST
    ax.set_xticks(list(ticks) if few else [], [str(i) for i in ticks.values()] if few else [], fontsize=8)
    ax.margins(y=0.2)
    return figure
