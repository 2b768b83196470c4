"""The latent space: grids, scatters, interpolations, traversals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from ..common.rng import forked, seed_for
from ..draws import generation
from ..pairs.base import Pair
from ..scoring import programs, trace
from ..scoring.inputs import device_and_dtype, evaluating, to_device
from ..scoring.kinds import is_masked_out
from ..scoring.support import holds
from .likelihood import bins
from .style import BLUE, SKY, canvas, need, picture_of, plain, text, tiles


def latent_grid(
    pair: Pair, data_shape: Sequence[int], site: str | None = None, size: int = 15, y: Any = None, *,
    codes: Tensor | None = None, seed: int = 0,
) -> Figure:  # fmt: skip
    """E[x|z] on a grid over a 2-D latent, in equal steps of probability under a standard normal prior.

    Args:
        pair: a pair.
        data_shape: shape of one example.
        site: the latent site, where there are several; the others are then drawn given this one.
        size: cells a side.
        y: the label of every cell, for pairs that take labels.
        codes: codes (N, 2) of data: the steps are then of equal shares of their first and second numbers.
        seed: seeds what is drawn.

    Raises:
        UserError: the pair has no such site of event shape (2,).

    Example:
        >>> import ppl_vae as pv
        >>> pair = pv.build("vae", data_shape=(1, 8, 8), latent=2, hidden=(16,))
        >>> latent_grid(pair, (1, 8, 8), size=5).axes[0].get_xlabel()
        'z[0]'
    """
    label = None if y is None else torch.as_tensor(y).reshape(1)
    found = latents_of(pair, torch.zeros(1, *data_shape), label, seed)
    name = site or (next(iter(found)) if len(found) == 1 else "")
    need(
        name in found and found[name][0].shape[1:] == (2,) and is_free(found[name], 3.0),
        f"latent_grid needs one real latent site of event shape (2,)"
        f"{'' if site is None else f' named {site!r}'}; this pair has "
        f"{', '.join(f'{k} {tuple(v[0].shape[1:])}' for k, v in found.items()) or 'no latents'}. "
        f"Train with --latent 2 (latent=2){', or name the site' if len(found) > 1 else ''}",
    )
    steps = (torch.arange(size) + 0.5) / size
    if codes is None:
        across = up = torch.special.ndtri(steps)
    else:
        across, up = plain(codes).quantile(steps.to(codes.dtype), 0).T
    z = torch.stack([across.repeat(size), up.flip(0).repeat_interleave(size)], 1)
    with forked(device_and_dtype(pair)[0], seed_for(seed, "latent_grid")):
        x = generation.decode(pair, {name: z}, _repeat(label, size * size))
    every = max(1, size // 7)
    rows, columns = (
        [text(float(q), ".1f") if (i - size // 2) % every == 0 else "" for i, q in enumerate(values)]
        for values in (up, across)
    )
    return tiles(
        x.reshape(size, size, *x.shape[1:]), rows[::-1], columns, f"{name}[0]", f"{name}[1]", pictured=picture_of(pair)
    )


def latent_scatter(mean: Tensor, y: Tensor | None = None, *, site: str = "z") -> Figure:
    """Posterior means (N, L): the two leading principal components of more than two coordinates, a histogram of one.

    At most 20 integer labels y (N,) have a colour each; other labels are coloured on a scale.

    Example:
        >>> latent_scatter(torch.randn(50, 2), torch.arange(50) % 3).axes[0].get_ylabel()
        'posterior mean of z[1]'
    """
    given = f"latent_scatter: {len(mean)} means, {'no' if y is None else len(y)} labels"
    need(len(mean) > 1 and (y is None or len(y) == len(mean)), f"{given}; give two means or more, one label each")
    z = plain(mean).double().reshape(len(mean), -1)
    size = z.shape[1]
    names = [f"posterior mean of {site}[{i}]" for i in range(size)]
    if size > 2:
        z = z - z.mean(0)
        _, s, v = torch.linalg.svd(z, full_matrices=False)
        share = 100 * s.square() / s.square().sum().clamp(min=torch.finfo(s.dtype).tiny)
        v = v * v.gather(1, v.abs().argmax(1, keepdim=True)).sign()  # the sign of a component is free: fix it
        z, names = z @ v[:2].T, [f"PC {i + 1} ({share[i]:.0f} %) of {size} posterior means of {site}" for i in range(2)]
    figure, ax = canvas(4.2 if size == 1 else 5.6)
    classes, which = np.unique(np.zeros(len(z)) if y is None else y.detach().cpu().numpy(), return_inverse=True)
    is_scale = y is not None and (y.is_floating_point() or len(classes) > 20)
    palette = (
        [BLUE if size > 1 else SKY]
        if y is None
        else [colormaps["tab10" if len(classes) <= 10 else "tab20"](i) for i in range(20)]
    )
    if size == 1:
        groups = [z.numpy()[which == i, 0] for i in range(len(classes))] if not is_scale else [z[:, 0].numpy()]
        ax.hist(groups, bins=bins(len(z)), stacked=True, color=palette[: len(groups)])
        ax.set(xlabel=names[0], ylabel="number of examples")
    else:
        color: Any = classes[which] if is_scale else [palette[i] for i in which]
        across, up = z.numpy().T
        dots = ax.scatter(across, up, float(np.clip(8000 / len(z), 5, 25)), color, linewidths=0, alpha=0.8)
        ax.set(xlabel=names[0], ylabel=names[1])
        if is_scale:
            figure.colorbar(dots, label="label")
    if y is not None and not is_scale:
        keys = [Line2D([], [], linestyle="", marker="o", color=c) for c in palette[: len(classes)]]
        figure.legend(keys, [str(k) for k in classes], title="label", frameon=False, loc="outside right upper")
    return figure


def interpolation(
    pair: Pair, x0: Tensor, x1: Tensor, steps: int = 10, y: Tensor | None = None, *, seed: int = 0
) -> Figure:
    """E[x|z] on the line between the posterior means of two examples (*shape), which are shown at its ends.

    All latent sites are interpolated together. ``y`` holds the two labels, for pairs that take them; labels that differ
    have a row each. ``seed`` is for codes whose mean has no closed form.

    Raises:
        UserError: no latents, or discrete ones.

    Example:
        >>> import ppl_vae as pv
        >>> pair = pv.build("vae", data_shape=(1, 8, 8), latent=2, hidden=(16,))
        >>> figure = interpolation(pair, torch.zeros(1, 8, 8), torch.ones(1, 8, 8), steps=3)
        >>> [label.get_text() for label in figure.axes[0].get_xticklabels()]
        ['data', '0', '0.5', '1', 'data']
    """
    need(steps > 1, f"interpolation: steps={steps}; give two or more, one for each end of the line")
    found = _continuous("interpolation", latents_of(pair, torch.stack([x0, x1]), y, seed))
    t = torch.linspace(0, 1, steps)
    z = {name: torch.stack([m[0].lerp(m[1], float(w)) for w in t]) for name, (m, _) in found.items()}
    labels = [] if y is None else list(torch.unique_consecutive(y))
    lines = [plain(generation.decode(pair, z, None if k is None else k.repeat(steps))) for k in labels or [None]]
    if torch.equal(lines[0], lines[-1]):  # the model does not depend on the labels
        labels, lines = [], lines[:1]
    cells = torch.full((len(lines), steps + 2, *x0.shape), math.nan)
    cells[:, 1:-1] = torch.stack(lines)
    cells[0, 0], cells[-1, -1] = plain(x0), plain(x1)
    columns = ["data", *(f"{float(w):.2g}" for w in t), "data"]
    line = "place on the line between the posterior means"
    return tiles(cells, [f"y = {k}" for k in labels], columns, line, pictured=picture_of(pair))


def traversal(
    pair: Pair,
    x: Tensor,
    y: Tensor | None = None,
    coordinates: int = 8,
    steps: int = 9,
    span: float = 3.0,
    *,
    seed: int = 0,
) -> Figure:
    """E[x|z] with one coordinate a row varied over [-span, span], the others at the posterior mean of x[0].

    Where the prior counts nowhere, as that of an autoencoder, values are standard deviations of the codes from their
    mean, coordinate by coordinate.

    The coordinates are those of the latent site that the model draws last, next to the data. Where there are more
    than ``coordinates``, those whose posterior mean has the largest variance over x are shown, the largest first.

    Args:
        pair: a pair.
        x: data (N, *shape).
        y: labels (N,), for pairs that take them; the first is the label of every cell.
        coordinates: rows, at most.
        steps: values of each coordinate.
        span: the largest value.
        seed: for codes whose mean has no closed form.

    Raises:
        UserError: no latents, or discrete or constrained ones.

    Example:
        >>> import ppl_vae as pv
        >>> pair = pv.build("vae", data_shape=(1, 8, 8), latent=2, hidden=(16,))
        >>> figure = traversal(pair, torch.rand(4, 1, 8, 8), steps=3)
        >>> [label.get_text() for label in figure.axes[0].get_xticklabels()]
        ['−3', '0', '3']
    """
    need(min(coordinates, steps) > 0, f"traversal: coordinates={coordinates}, steps={steps}; give at least one of each")
    found = _continuous("traversal", latents_of(pair, x, y, seed))
    site, last = list(found.items())[-1]
    need(is_free(last, span), f"traversal: site {site!r} can't be varied over [-{span:g}, {span:g}]: it is constrained")
    flat = last[0].reshape(len(x), -1)
    variance = flat.var(0, correction=0)
    by_activity = variance.argsort(descending=True, stable=True)[:coordinates].tolist()
    chosen = by_activity if flat.shape[1] > coordinates else range(flat.shape[1])
    values = torch.linspace(-span, span, steps)
    centre, unit = torch.zeros_like(variance), torch.ones_like(variance)
    if is_coded := is_masked_out(last[1]):
        centre, unit = flat.mean(0), variance.sqrt()
    z = flat[0].repeat(len(chosen), steps, 1)
    for row, i in enumerate(chosen):
        z[row, :, i] = centre[i] + unit[i] * values.to(flat)
    codes = {name: mean[:1].expand(len(chosen) * steps, *mean.shape[1:]) for name, (mean, _) in found.items()}
    decoded = generation.decode(pair, codes | {site: z.reshape(codes[site].shape)}, _repeat(y, len(chosen) * steps))
    rows = [f"{site}[{i}], variance {variance[i]:.2f}" for i in chosen]
    columns = [text(float(v), ".3g") for v in values]
    cells = decoded.reshape(len(chosen), steps, *decoded.shape[1:])
    value = "standard deviations of one code from its mean" if is_coded else "value of one coordinate"
    return tiles(cells, rows, columns, f"{value}, the others at the posterior mean", pictured=picture_of(pair))


def _repeat(y: Tensor | None, n: int) -> Tensor | None:
    """The first label, n times."""
    return None if y is None else y[:1].expand(n)


def latents_of(pair: Pair, x: Tensor, y: Tensor | None, seed: int) -> dict[str, tuple[Tensor, Any]]:
    """The posterior means (N, *event) and the prior of each latent site, in the model's order."""
    means = generation.encode(pair, x, y, seed=seed).mean
    if not means:
        return {}
    args = trace.call_args(pair.model, *to_device(pair, x, y, slice(1)))
    with evaluating(pair), forked(device_and_dtype(pair)[0], seed_for(seed, "figures")):
        sites = programs.sites(pair.model, args, values={name: mean[None, :1] for name, mean in means.items()})
    return {name: (means[name], draw.fn) for name, draw in sites.items() if name in means}


def _continuous(what: str, found: dict[str, tuple[Tensor, Any]]) -> dict[str, tuple[Tensor, Any]]:
    """The latent sites, where there are any and all are continuous.

    Raises:
        UserError: there are none, or one is discrete.
    """
    need(bool(found), f"{what}: this pair has no latents; draw samples instead")
    for name, (mean, _) in found.items():
        need(mean.is_floating_point(), f"{what}: the latent site {name!r} is discrete; a continuous one is needed")
    return found


def is_free(latent: tuple[Tensor, Any], span: float) -> bool:
    """Whether a latent site may take any value in [-span, span]."""
    mean, prior = latent
    ends = [torch.full_like(mean[:1], side * span) for side in (-1, 1)]
    return mean.is_floating_point() and all(bool(holds(prior, end).all()) for end in ends)
