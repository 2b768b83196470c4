"""Bounds by epoch, estimates by example, bounds by the number of samples."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..likelihood.curves import Curve
from ..likelihood.diagnostics import khat_threshold
from ..likelihood.result import Estimate
from ..likelihood.sandwich import Sandwich
from .style import BLUE, COLORS, GREEN, GREY, SKY, VERMILLION, canvas, need, text


def loss_curves(history: Sequence[Mapping[str, Any]]) -> Figure:
    """The bounds by epoch, and the best epoch: by the validation bound, else by the training bound.

    Takes the rows of ``fit``. Epochs of KL warm-up are shaded and never the best.

    Example:
        >>> figure = loss_curves([{"epoch": 1, "train_bound": -30.0}, {"epoch": 2, "train_bound": -25.0}])
        >>> figure.axes[0].get_ylabel()
        'bound on the log-likelihood (nats per example)'
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
    selected = bound if np.isfinite(bound).any() else train
    ready = np.where(np.isfinite(selected) & (beta >= 1), selected, -math.inf)
    if np.isfinite(ready).any():
        i = int(ready.argmax())
        best = f"best epoch {epoch[i]:.0f}: {text(selected[i], '.2f')}"
        ring: dict[str, Any] = {"markersize": 9, "fillstyle": "none", "linestyle": "", "clip_on": False}
        ax.plot(epoch[i], selected[i], "o", color="black", label=best, **ring)
    if (beta < 1).any():
        ax.axvspan(0.5, epoch[beta < 1].max() + 0.5, color=GREY, alpha=0.15, linewidth=0, label="KL warm-up")
    drawn = np.stack([values for values, _, _ in curves])
    late = drawn[:, len(epoch) // 20 :]  # the steep start of a long fit would flatten the rest
    hidden = 0
    if len(epoch) >= 40 and np.isfinite(late).any():
        low, high = np.nanmin(late), np.nanmax(late)
        bottom, _ = ax.set_ylim(low - 0.05 * (high - low) - 1e-6, high + 0.05 * (high - low) + 1e-6)
        hidden = int((drawn < bottom).any(0).sum())
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    ax.set(xlabel="epoch" + (f" (the first {hidden} reach below the frame)" if hidden else ""))
    ax.set(xlim=(0.5, epoch.max() + 0.5), ylabel="bound on the log-likelihood (nats per example)")
    ax.legend(frameon=False)
    return figure


def log_px_histogram(log_px: Estimate) -> Figure:
    """The distribution of log p(x) over the examples of an estimate, and its mean with SE (data).

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
    ax.hist(shown, bins=bins(len(shown)), color=SKY)
    if math.isfinite(about["log_px_mean"]):
        ax.axvline(
            about["log_px_mean"], color=VERMILLION, label=f"mean {text(about['log_px_mean'], '.2f')}{error} nats"
        )
        ax.legend(frameon=False)
    side = "exact" if about["khat_exact"] == n else "lower bound in expectation"
    hidden = f"\nnot finite, so not shown: {n - len(shown)}" if len(shown) < n else ""
    ax.set_title(
        f"{log_px.name} of n = {n} examples, K = {log_px.num_samples}, seed {log_px.seed}: {side}{hidden}", fontsize=11
    )
    ax.set(xlabel=f"{log_px.name} (nats)", ylabel="number of examples")
    return figure


def khat_scatter(est: Estimate) -> Figure:
    """Pareto k of each example, with the threshold for K samples, and 1/2, below which the variance is finite.

    Examples without a k count as unreliable and are crosses along the top. Exact ones are counted in the title.

    Source: Vehtari, Simpson, Gelman, Yao, Gabry: Pareto Smoothed Importance Sampling, 2015, arXiv:1507.02646.

    Example:
        >>> import ppl_vae as pv
        >>> pair = pv.build("made", data_shape=(4,), hidden=(8,))
        >>> print(khat_scatter(pv.log_likelihood(pair, torch.ones(3, 4), num_samples=9)).axes[0].get_title())
        0 of 3 examples unreliable at K = 9
        3 exact, with no k to show
    """
    k, bad, n = est.khat.numpy(), est.unreliable.numpy(), len(est)
    index, exact, finite = np.arange(n), np.isneginf(k), np.isfinite(k)
    annealed = est.annealed_examples.numpy()
    unknown, size = ~exact & ~finite & ~annealed, float(np.clip(6000 / n, 6, 25))
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
    words = [f"{bad.sum()} of {n} examples unreliable at K = {est.num_samples}{by}"]
    words += [f"{exact.sum()} exact, with no k to show"] if exact.any() else []
    words += [f"{annealed.sum()} annealed, with no k"] if annealed.any() else []
    words += [f"{unknown.sum()} with no k: too few weights in the tail"] if unknown.any() else []
    ax.set_title("\n".join([words[0], "; ".join(words[1:])]).strip(), fontsize=11)
    low, high = np.min(k[finite], initial=0.0), np.max(k[finite], initial=1.0)
    ax.set(xlabel="index of the example", ylabel="Pareto k", ylim=(low - 0.05, high + 0.1 * (high - low)))
    ax.set_xlim(-0.02 * n - 0.5, 1.02 * n - 0.5)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    figure.legend(frameon=False, loc="outside lower center", ncols=5)
    return figure


def bound_curves(curves: Mapping[str, Curve]) -> Figure:
    """The bound L_k against k under several proposals: its mean over the examples, with a band of two SE (MC).

    The band is the Monte Carlo error for these examples. A curve that still rises has not reached log p(x).

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
    # the frame starts at the best first value, or at the last value of curves that end not far below it: a frame for
    # all curves would flatten them
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
    ax.set_title(f"mean of {n} examples; bands: two SE (MC)", fontsize=11)
    if math.isfinite(low) and high > low:
        ax.set_ylim(low - 0.05 * (high - low), high + 0.08 * (high - low))
    ax.legend(frameon=False, title="proposal")
    return figure


def sandwich(found: Sandwich) -> Figure:
    """The gap between the two bounds of each simulated example, in ascending order, and the bounds of the mean.

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
    ax.set(xlabel="simulated examples, in order of their gap", ylabel="upper bound less lower bound (nats)")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    low, high = text(float(found.lower.mean()), ".2f"), text(float(found.upper.mean()), ".2f")
    ax.set_title(
        f"{len(gap)} simulated examples: mean {found.name} between {low} and {high} nats, in expectation", fontsize=11
    )
    ax.legend(frameon=False)
    return figure


def bins(n: int) -> int:
    """Bars of a histogram of n numbers: three times the cube root of n, between 5 and 60."""
    return min(60, max(5, math.ceil(3 * math.cbrt(n))))
