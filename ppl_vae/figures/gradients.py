"""The signal-to-noise ratio of gradients against the number of particles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from .style import COLORS, canvas, need


def signal_to_noise_curves(found: Mapping[str, Sequence[float]], numbers: Sequence[int]) -> Figure:
    """A line for each objective of :func:`ppl_vae.objectives.gradients.signal_to_noise`, on logarithmic axes.

    Example:
        >>> figure = signal_to_noise_curves({"iwae:gradient=path": [0.5, 0.3]}, [1, 8])
        >>> figure.axes[0].get_xlabel()
        'particles K'
    """
    for name, ratios in found.items():
        need(len(ratios) == len(numbers), f"{name!r} has {len(ratios)} ratios for {len(numbers)} numbers of particles")
    figure, ax = canvas(3.8)
    for color, (name, ratios) in zip(COLORS, found.items(), strict=False):
        ax.plot(numbers, ratios, marker="o", markersize=4, color=color, label=name)
    ax.set(xscale="log", yscale="log", xlabel="particles K", ylabel="signal-to-noise ratio, guide")
    ax.set_title("one draw of the guide's gradient, linear Gaussian problem", fontsize=11)
    ax.legend(frameon=False)
    return figure
