"""Figures, one function each: matplotlib figures that belong to no window and change no global setting.

Images, of shape (H, W), (1, H, W) or (3, H, W), are clipped to [0, 1]; vectors (D,) are drawn as lines on one scale.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from . import draws, weights
from .data import Split
from .diagnostics import khat_threshold
from .errors import RunError
from .estimate import Curve, Estimate
from .pairs.base import Pair
from .rng import forked, seed_for
from .sandwich import Sandwich
from .setting import evaluating, home, placed
from .supports import holds
from .tiles import (
    BLUE,
    COLORS,
    DPI,
    GREEN,
    GREY,
    SKY,
    VERMILLION,
    canvas,
    is_drawable,
    name_cells,
    need,
    plain,
    text,
    tiles,
)


def loss_curves(history: Sequence[Mapping[str, Any]]) -> Figure:
    """The bounds by epoch, and the best epoch: by the validation bound, else by the training bound.

    Takes the rows of ``fit``. Epochs of KL warm-up are shaded and never the best.

    Example:
        >>> figure = loss_curves([{"epoch": 1, "train_bound": -30.0}, {"epoch": 2, "train_bound": -25.0}])
        >>> figure.axes[0].get_ylabel()
        'bound on the log-likelihood (nats per datum)'
    """
    need(len(history) > 0, "loss_curves: the history is empty; give the rows that fit returns")

    def column(key: str, default: float = math.nan) -> Any:  # None is how JSON holds a NaN
        return np.array([math.nan if row.get(key, default) is None else row.get(key, default) for row in history])

    epoch, beta, train = column("epoch"), column("beta", 1.0), column("train_bound")
    bound, elbo = column("valid_bound"), column("valid_elbo")
    curves = [(train, "training bound", BLUE), (elbo, "validation ELBO", VERMILLION)]
    if not np.allclose(bound, elbo, rtol=1e-6, equal_nan=True):
        curves.append((bound, "validation bound", GREEN))
    figure, ax = canvas(4.2)
    for values, label, color in curves:
        if np.isfinite(values).any():
            ax.plot(epoch, values, color=color, label=label, marker="." if len(epoch) <= 50 else "")
    judged = bound if np.isfinite(bound).any() else train
    ready = np.where(np.isfinite(judged) & (beta >= 1), judged, -math.inf)
    if np.isfinite(ready).any():
        i = int(ready.argmax())
        best = f"best epoch {epoch[i]:.0f}: {text(judged[i], '.2f')}"
        ring: dict[str, Any] = {"markersize": 9, "fillstyle": "none", "linestyle": "", "clip_on": False}
        ax.plot(epoch[i], judged[i], "o", color="black", label=best, **ring)
    if (beta < 1).any():
        ax.axvspan(0.5, epoch[beta < 1].max() + 0.5, color=GREY, alpha=0.15, linewidth=0, label="KL warm-up")
    drawn = np.stack([values for values, _, _ in curves])
    late = drawn[:, len(epoch) // 20 :]  # the steep start of a long fit would flatten all the rest
    hidden = 0
    if len(epoch) >= 40 and np.isfinite(late).any():
        low, high = np.nanmin(late), np.nanmax(late)
        bottom, _ = ax.set_ylim(low - 0.05 * (high - low) - 1e-6, high + 0.05 * (high - low) + 1e-6)
        hidden = int((drawn < bottom).any(0).sum())
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    ax.set(xlabel="epoch" + (f" (the first {hidden} reach below the frame)" if hidden else ""))
    ax.set(xlim=(0.5, epoch.max() + 0.5), ylabel="bound on the log-likelihood (nats per datum)")
    ax.legend(frameon=False)
    return figure


def reconstructions(x: Tensor, x_hat: Tensor, n: int = 10) -> Figure:
    """The first n of the data (N, *shape) in a row, and in the row below what ``reconstruct`` makes of them.

    Example:
        >>> figure = reconstructions(torch.zeros(3, 1, 8, 8), torch.ones(3, 1, 8, 8))
        >>> [label.get_text() for label in figure.axes[0].get_yticklabels()]
        ['data', 'reconstruction']
    """
    given = f"{tuple(x.shape)} and {tuple(x_hat.shape)}"
    need(x.shape == x_hat.shape and min(len(x), n) > 0, f"reconstructions: {given}, n={n}: give equal shapes, n >= 1")
    pairs = torch.stack([plain(x[:n]), plain(x_hat[:n])])
    return tiles(pairs, ["data", "reconstruction"], behind=pairs[:1].expand_as(pairs))


def samples(x: Tensor, columns: int = 8) -> Figure:
    """A grid of data (N, *shape), row by row.

    Example:
        >>> samples(torch.rand(10, 1, 8, 8), columns=5).axes[0].images[0].get_array().shape
        (18, 45)
    """
    need(min(len(x), columns) > 0, f"samples: {len(x)} data in {columns} columns; give at least one of each")
    columns = min(columns, len(x))
    rows = math.ceil(len(x) / columns)
    cells = torch.full((rows * columns, *x.shape[1:]), math.nan)
    cells[: len(x)] = plain(x)
    return tiles(cells.reshape(rows, columns, *x.shape[1:]))


def latent_grid(
    pair: Pair, data_shape: Sequence[int], site: str | None = None, size: int = 15, y: Any = None, *, seed: int = 0
) -> Figure:
    """E[x|z] on a grid over a 2-D latent, in equal steps of probability under a standard normal prior.

    Args:
        pair: a pair.
        data_shape: shape of one datum.
        site: the latent site, where there are several; the others are then drawn given this one.
        size: cells a side.
        y: the label of every cell, for pairs that take labels.
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
    found = _latents(pair, torch.zeros(1, *data_shape), label, seed)
    name = site or (next(iter(found)) if len(found) == 1 else "")
    need(
        name in found and found[name][0].shape[1:] == (2,) and _is_free(found[name], 3.0),
        f"latent_grid needs one real latent site of event shape (2,)"
        f"{'' if site is None else f' named {site!r}'}; this pair has "
        f"{', '.join(f'{k} {tuple(v[0].shape[1:])}' for k, v in found.items()) or 'no latents'}. "
        f"Train with --latent 2 (latent=2){', or name the site' if len(found) > 1 else ''}",
    )
    quantiles = torch.special.ndtri((torch.arange(size) + 0.5) / size)
    z = torch.stack([quantiles.repeat(size), quantiles.flip(0).repeat_interleave(size)], 1)
    with forked(home(pair)[0], seed_for(seed, "latent_grid")):
        x = draws.decode(pair, {name: z}, _repeat(label, size * size))
    every = max(1, size // 7)
    ticks = [text(float(q), ".1f") if (i - size // 2) % every == 0 else "" for i, q in enumerate(quantiles)]
    return tiles(x.reshape(size, size, *x.shape[1:]), ticks[::-1], ticks, f"{name}[0]", f"{name}[1]")


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
        ax.hist(groups, bins=_bins(len(z)), stacked=True, color=palette[: len(groups)])
        ax.set(xlabel=names[0], ylabel="number of data")
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
    """E[x|z] on the line between the posterior means of two data (*shape), which stand at its ends.

    All latent sites move together. ``y`` holds the two labels, for pairs that take them; labels that differ have a
    row each. ``seed`` is for codes whose mean has no closed form.

    Raises:
        UserError: no latents, or discrete ones.

    Example:
        >>> import ppl_vae as pv
        >>> pair = pv.build("vae", data_shape=(1, 8, 8), latent=2, hidden=(16,))
        >>> figure = interpolation(pair, torch.zeros(1, 8, 8), torch.ones(1, 8, 8), steps=3)
        >>> [label.get_text() for label in figure.axes[0].get_xticklabels()]
        ['data', '0', '0.5', '1', 'data']
    """
    need(steps > 1, f"interpolation: steps={steps}; the line has two ends")
    found = _moving("interpolation", _latents(pair, torch.stack([x0, x1]), y, seed))
    t = torch.linspace(0, 1, steps)
    z = {name: torch.stack([m[0].lerp(m[1], float(w)) for w in t]) for name, (m, _) in found.items()}
    labels = [] if y is None else list(torch.unique_consecutive(y))
    lines = [plain(draws.decode(pair, z, None if k is None else k.repeat(steps))) for k in labels or [None]]
    if torch.equal(lines[0], lines[-1]):  # the pair makes nothing of labels
        labels, lines = [], lines[:1]
    cells = torch.full((len(lines), steps + 2, *x0.shape), math.nan)
    cells[:, 1:-1] = torch.stack(lines)
    cells[0, 0], cells[-1, -1] = plain(x0), plain(x1)
    columns = ["data", *(f"{float(w):.2g}" for w in t), "data"]
    return tiles(cells, [f"y = {k}" for k in labels], columns, "place on the line between the posterior means")


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
    """E[x|z] as one coordinate a row moves over [-span, span], the others at the posterior mean of x[0].

    The coordinates are those of the latent site that the model draws last, next to the data. Where there are more
    than rows, those come first whose posterior mean has the largest variance over x.

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
    need(min(coordinates, steps) > 0, f"traversal: coordinates={coordinates}, steps={steps}; give one or more of each")
    found = _moving("traversal", _latents(pair, x, y, seed))
    site, last = list(found.items())[-1]
    need(_is_free(last, span), f"traversal: site {site!r} can't move over [-{span:g}, {span:g}]: it is constrained")
    flat = last[0].reshape(len(x), -1)
    variance = flat.var(0, correction=0)
    by_activity = variance.argsort(descending=True, stable=True)[:coordinates].tolist()
    chosen = by_activity if flat.shape[1] > coordinates else range(flat.shape[1])
    values = torch.linspace(-span, span, steps)
    z = flat[0].repeat(len(chosen), steps, 1)
    for row, i in enumerate(chosen):
        z[row, :, i] = values
    codes = {name: mean[:1].expand(len(chosen) * steps, *mean.shape[1:]) for name, (mean, _) in found.items()}
    decoded = draws.decode(pair, codes | {site: z.reshape(codes[site].shape)}, _repeat(y, len(chosen) * steps))
    rows = [f"{site}[{i}], variance {variance[i]:.2f}" for i in chosen]
    columns = [text(float(v), ".3g") for v in values]
    cells = decoded.reshape(len(chosen), steps, *decoded.shape[1:])
    return tiles(cells, rows, columns, "value of one coordinate, the others at the posterior mean")


def log_px_histogram(log_px: Estimate) -> Figure:
    """How log p(x) is spread over the data of an estimate, and its mean with the standard error over data.

    Example:
        >>> import ppl_vae as pv
        >>> pair = pv.build("linear", data_shape=(5,), latent=2)
        >>> log_px_histogram(pv.log_likelihood(pair, torch.randn(20, 5), num_samples=50)).axes[0].get_xlabel()
        'log p(x) (nats)'
    """
    about, n = log_px.summary(), len(log_px)
    shown = log_px.log_px[torch.isfinite(log_px.log_px)].numpy()
    error = "" if about["log_px_se"] is None else f" ± {about['log_px_se']:.2f}"
    figure, ax = canvas(4.2)
    ax.hist(shown, bins=_bins(len(shown)), color=SKY)
    if math.isfinite(about["log_px_mean"]):
        ax.axvline(
            about["log_px_mean"], color=VERMILLION, label=f"mean {text(about['log_px_mean'], '.2f')}{error} nats"
        )
        ax.legend(frameon=False)
    side = "exact" if about["khat_exact"] == n else "lower bound in expectation"
    hidden = f"\nnot finite, so not shown: {n - len(shown)}" if len(shown) < n else ""
    ax.set_title(
        f"{log_px.name} of n = {n} data, K = {log_px.num_samples}, seed {log_px.seed}: {side}{hidden}", fontsize=11
    )
    ax.set(xlabel=f"{log_px.name} (nats)", ylabel="number of data")
    return figure


def khat_scatter(est: Estimate) -> Figure:
    """Pareto k of each datum, with the threshold for K samples, and 1/2, below which the variance is finite.

    Data without a k count as unreliable and stand as crosses along the top. Exact ones are counted in the title.

    Source: Vehtari, Simpson, Gelman, Yao, Gabry: Pareto Smoothed Importance Sampling, 2015, arXiv:1507.02646.

    Example:
        >>> import ppl_vae as pv
        >>> pair = pv.build("made", data_shape=(4,), hidden=(8,))
        >>> print(khat_scatter(pv.log_likelihood(pair, torch.ones(3, 4), num_samples=9)).axes[0].get_title())
        0 of 3 data unreliable at K = 9
        3 exact, with no k to show
    """
    k, bad, n = est.khat.numpy(), est.unreliable.numpy(), len(est)
    index, exact, finite = np.arange(n), np.isneginf(k), np.isfinite(k)
    unknown, size = ~exact & ~finite, float(np.clip(6000 / n, 6, 25))
    figure, ax = canvas(4.6)
    for which, color, marker, label in ((~bad, BLUE, "o", "reliable"), (bad, VERMILLION, "^", "unreliable")):
        if (which & finite).any():
            ax.scatter(index[which & finite], k[which & finite], size, color, marker=marker, linewidths=0, label=label)
    if unknown.any():
        top, height = ax.get_xaxis_transform(), np.full(unknown.sum(), 0.97)
        ax.scatter(index[unknown], height, 25, VERMILLION, marker="x", transform=top, label="no k")
    threshold = khat_threshold(est.num_samples)
    if math.isfinite(threshold):
        ax.axhline(threshold, color="black", linestyle="--", label=f"threshold {threshold:.2f}")
    ax.axhline(0.5, color=GREY, linestyle=":", label="finite variance below 0.5")
    by = "" if est.proposal == "guide" else f", {est.proposal} proposal"
    words = [f"{bad.sum()} of {n} data unreliable at K = {est.num_samples}{by}"]
    words += [f"{exact.sum()} exact, with no k to show"] if exact.any() else []
    words += [f"{unknown.sum()} with no k: too few weights in the tail"] if unknown.any() else []
    ax.set_title("\n".join([words[0], "; ".join(words[1:])]).strip(), fontsize=11)
    low, high = np.min(k[finite], initial=0.0), np.max(k[finite], initial=1.0)
    ax.set(xlabel="index of the datum", ylabel="Pareto k", ylim=(low - 0.05, high + 0.1 * (high - low)))
    ax.set_xlim(-0.02 * n - 0.5, 1.02 * n - 0.5)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    figure.legend(frameon=False, loc="outside lower center", ncols=5)
    return figure


def bound_curves(curves: Mapping[str, Curve]) -> Figure:
    """The bound L_k against k under several proposals: its mean over the data, with a band of two standard errors.

    The band is the Monte Carlo error, for these data. A curve that still rises has not reached log p(x).

    Example:
        >>> import ppl_vae as pv
        >>> pair = pv.build("linear", data_shape=(5,), latent=2)
        >>> names = ("guide", "prior")
        >>> curves = {p: pv.bound_curve(pair, torch.zeros(3, 5), num_samples=50, proposal=p) for p in names}
        >>> bound_curves(curves).axes[0].get_xscale()
        'log'
    """
    need(len(curves) > 0, "bound_curves: no curve was given")
    figure, ax = canvas(4.6)
    means = {name: curve.log_px.mean(1).numpy() for name, curve in curves.items()}
    # the frame starts at the best first sample, or at the last of what ends not far below; the rest would flatten all
    low, high = max(m[0] for m in means.values()), max(m.max() for m in means.values())
    low = min([low, *(m[-1] for m in means.values() if m[-1] > high - 4 * (high - low))])
    for (name, (sizes, value, error)), color, mark in zip(curves.items(), COLORS, "os^Dvx", strict=False):
        mean = means[name]
        band = 2 * (error.square().sum(1).sqrt() / value.shape[1]).nan_to_num(0.0).numpy()
        end = f"{name}: {text(float(mean[-1]), '.2f')} at k = {sizes[-1]:,}"
        end += " (below the frame)" if mean.max() < low else ""
        ax.plot(sizes, mean, color=color, marker=mark, markersize=4, label=end)
        ax.fill_between(sizes, mean - band, mean + band, color=color, alpha=0.25, linewidth=0)
    n = next(iter(curves.values())).log_px.shape[1]
    ax.set(xscale="log", xlabel="k, samples in the bound", ylabel="L_k (nats), a lower bound in expectation")
    ax.set_title(f"mean of {n} data; bands: two Monte Carlo standard errors", fontsize=11)
    if math.isfinite(low) and high > low:
        ax.set_ylim(low - 0.05 * (high - low), high + 0.08 * (high - low))
    ax.legend(frameon=False, title="proposal")
    return figure


def sandwich(found: Sandwich) -> Figure:
    """How far the two bounds of each simulated datum are apart, in order, and what they say of the mean.

    Example:
        >>> import ppl_vae as pv
        >>> pair = pv.build("linear", data_shape=(5,), latent=2)
        >>> sandwich(pv.eubo(pair, num_data=5, num_samples=10)).axes[0].get_ylabel()
        'upper bound less lower bound (nats)'
    """
    gap = (found.upper - found.lower).sort().values.numpy()
    index = np.arange(len(gap))
    figure, ax = canvas(4.2)
    ax.vlines(index, 0, gap, color=SKY, linewidth=1.5)
    ax.plot(index, gap, "o", color=BLUE, markersize=4)
    ax.axhline(0, color="black", linewidth=1)
    ax.axhline(found.gap, color=VERMILLION, linestyle="--", label=f"mean {text(found.gap, '.3f')} nats")
    ax.set(xlabel="simulated data, in order of their gap", ylabel="upper bound less lower bound (nats)")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    low, high = text(float(found.lower.mean()), ".2f"), text(float(found.upper.mean()), ".2f")
    ax.set_title(
        f"{len(gap)} simulated data: mean {found.name} between {low} and {high} nats, in expectation", fontsize=11
    )
    ax.legend(frameon=False)
    return figure


def save_all(
    pair: Pair,
    out: str | Path,
    *,
    data: Split,
    history: Sequence[Mapping[str, Any]] | None = None,
    estimate: Estimate | None = None,
    seed: int = 0,
) -> list[Path]:
    """Write every figure that applies to a pair and to its data: PNG files, each of which appears whole.

    Args:
        pair: a pair.
        out: the folder; made where it is absent.
        data: the split to show; labels are used, and a ``"dynamic"`` one is drawn once, by ``seed``.
        history: what ``fit`` returned.
        estimate: what ``log_likelihood`` returned.
        seed: seeds everything random.

    Returns:
        The files that were written.

    Raises:
        RunError: the folder can't be written.

    Example:
        >>> import tempfile, ppl_vae as pv
        >>> pair = pv.build("made", data_shape=(4,), hidden=(8,))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     [path.name for path in save_all(pair, folder, data=pv.Split(torch.zeros(6, 4)))]
        ['samples.png']
    """
    split = data.limit(2000).fixed(seed)
    x, y, drawable = split.x, split.y, is_drawable(split.x.shape[1:])
    found = _latents(pair, x, y, seed)
    made: dict[str, Figure] = {}
    if history:
        made["loss"] = loss_curves(history)
    if found and drawable:
        few = None if y is None else y[:10]
        made["reconstructions"] = reconstructions(x[:10], draws.reconstruct(pair, x[:10], few, seed=seed))
    kinds = _kinds(pair, y, seed) if drawable else None
    if drawable:
        columns = 8 if kinds is None else len(kinds)
        labels = None if y is None else (y if kinds is None else kinds).repeat(8 * columns)[: 8 * columns]
        made["samples"] = samples(draws.sample(pair, 8 * columns, labels, mean=True, seed=seed), columns)
        if kinds is not None:
            name_cells(made["samples"].axes[0], columns=[f"y = {k}" for k in kinds])
    if found and all(mean.is_floating_point() for mean, _ in found.values()):
        site, last = list(found.items())[-1]
        if drawable and len(found) == 1 and last[0].shape[1:] == (2,) and _is_free(last, 3.0):
            made["latent_grid"] = latent_grid(pair, x.shape[1:], y=None if y is None else y[0], seed=seed)
            if y is not None and kinds is not None:
                made["latent_grid"].axes[0].set_title(f"y = {y[0]}", fontsize=11)
        if len(x) > 1:
            made["latent_scatter"] = latent_scatter(last[0], y, site=site)
        if drawable and len(x) > 1:
            other = 1 if y is None else max(1, int((y != y[0]).int().argmax()))
            ends = None if y is None else y[[0, other]]
            made["interpolation"] = interpolation(pair, x[0], x[other], y=ends, seed=seed)
        if drawable and _is_free(last, 3.0):
            made["traversal"] = traversal(pair, x, y, seed=seed)
    if estimate is not None:
        made["log_px"] = log_px_histogram(estimate)
        if bool((estimate.khat != -math.inf).any()):
            made["khat"] = khat_scatter(estimate)
    return [_write(figure, Path(out) / f"{name}.png") for name, figure in made.items()]


def _kinds(pair: Pair, y: Tensor | None, seed: int) -> Tensor | None:
    """The first ten labels, where the model makes anything of them."""
    if y is None or not weights.takes_labels(pair.model):
        return None
    kinds = torch.unique(y)[:10]
    one, other = (draws.sample(pair, len(kinds), k, mean=True, seed=seed) for k in (kinds, kinds.flip(0)))
    return None if torch.equal(one, other) else kinds


def _write(figure: Figure, path: Path) -> Path:
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(part, format="png", dpi=DPI)
        part.replace(path)
    except OSError as error:
        raise RunError(f"{path}: can't be written ({error.strerror}); choose another folder") from error
    return path


def _bins(n: int) -> int:
    return min(60, max(5, math.ceil(3 * math.cbrt(n))))


def _repeat(y: Tensor | None, n: int) -> Tensor | None:
    """The first label, n times."""
    return None if y is None else y[:1].expand(n)


def _latents(pair: Pair, x: Tensor, y: Tensor | None, seed: int) -> dict[str, tuple[Tensor, Any]]:
    """The posterior means (N, *event) and the prior of each latent site, in the model's order."""
    means = draws.encode(pair, x, y, seed=seed).mean
    if not means:
        return {}
    args = weights.call_args(pair.model, *placed(pair, x, y, slice(1)))
    with evaluating(pair), forked(home(pair)[0], seed_for(seed, "figures")):
        sites = weights.sites(pair.model, args, values={name: mean[None, :1] for name, mean in means.items()})
    return {name: (means[name], draw.fn) for name, draw in sites.items() if name in means}


def _moving(what: str, found: dict[str, tuple[Tensor, Any]]) -> dict[str, tuple[Tensor, Any]]:
    """The latent sites, if there are any and all of them can move."""
    need(bool(found), f"{what}: this pair has no latents; draw samples instead")
    for name, (mean, _) in found.items():
        need(mean.is_floating_point(), f"{what}: the latent site {name!r} is discrete, so there is no line to move on")
    return found


def _is_free(latent: tuple[Tensor, Any], span: float) -> bool:
    """Whether a latent site may take any value in [-span, span]."""
    mean, prior = latent
    ends = [torch.full_like(mean[:1], side * span) for side in (-1, 1)]
    return mean.is_floating_point() and all(bool(holds(prior, end).all()) for end in ends)
