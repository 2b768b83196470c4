"""A study: differences with their intervals, and learning curves with bands over seeds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from matplotlib.figure import Figure

from ..likelihood.gaps import NAMES as CAUSES
from .style import BLUE, COLORS, GREEN, GREY, SKY, VERMILLION, canvas, canvases, need, short, text, tiles

if TYPE_CHECKING:
    from ..strategies.results import Study


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
    ax.set_yticks(range(len(rows)), [short(one.strategy) for one in rows])
    ax.set(ylim=(len(rows) - 0.5, -0.5), xlabel=f"log p(x) less that of {short(other)} (nats per example)")
    ax.set_title("intervals at the level of each verdict, together 5 %, paired by seed and example", fontsize=11)
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
        ax.plot(
            grid, curves.mean(0), style, color=color, label=f"{short(name)}: {text(float(curves[:, -1].mean()), '.2f')}"
        )
        ax.fill_between(grid, curves.min(0), curves.max(0), color=color, alpha=0.15, linewidth=0)
        lows.append(float(np.quantile(curves.mean(0), 0.15)))
        drawn += 1
    need(drawn > 0, "no run of the study has a validation bound")
    about = "seconds of training" if against == "seconds" else against.replace("_", " ")
    ax.set(xlabel=about, ylabel="validation ELBO (nats per example)")
    ax.set_ylim(bottom=min(lows))  # the first steps are far below the rest
    ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5), fontsize=9, title="at the end")
    return figure


def gap_by_strategy(found: Study) -> Figure:
    """How far the ELBO of each strategy's guide lies below its log p(x), by cause where the cells have causes.

    Args:
        found: a study; with ``evaluation={"gaps": n}`` the bars are divided among causes.

    Raises:
        UserError: no cell was trained and evaluated.
    """
    names = list(found.log_px)
    need(bool(names), "no cell of the study was trained and evaluated")
    divided = bool(found.causes) and set(found.causes) == set(names)
    parts = {cause: [found.causes[n][cause].mean() for n in names] for cause in CAUSES} if divided else {}
    parts = parts or {"gap": [found.gap[n].mean() for n in names]}
    figure, ax = canvas(1.0 + 0.3 * len(names))
    above, below = np.zeros(len(names)), np.zeros(len(names))
    for (cause, widths), color in zip(parts.items(), (VERMILLION, SKY, BLUE), strict=False):
        width = np.array(widths)
        start = np.where(width >= 0, above, below)  # a negative part goes to the left
        ax.barh(range(len(names)), width, 0.7, start, color=color, label=cause)
        above, below = above + width.clip(min=0), below + width.clip(max=0)
    ax.axvline(0, color="black", linewidth=0.8)
    ax.set_yticks(range(len(names)), [short(n) for n in names])
    ax.set(ylim=(len(names) - 0.5, -0.5), xlabel="log p(x) less the ELBO of the guide (nats per example)")
    if divided:
        ax.legend(frameon=False, ncols=3, loc="lower left", bbox_to_anchor=(0, 1))
    return figure


def samples_by_strategy(found: Study) -> Figure:
    """Means of p(x|z) at draws of the prior, a row for each strategy, from its first seed that is done.

    Args:
        found: a study of images or vectors.

    Raises:
        UserError: no cell has samples.
    """
    first = {name: next(iter(found.done(name).values())) for name in found.log_px}
    rows = {name: r["samples"] for name, r in first.items() if "samples" in r}
    need(bool(rows), "no cell of the study has samples")
    return tiles(torch.stack(list(rows.values())), rows=[short(name) for name in rows])


def difference_by_example(found: Study, name: str | None = None) -> Figure:
    """How much higher log p(x) of each example is than under the reference, against the latter; means over seeds.

    Args:
        found: a study.
        name: the strategy; None takes the best, or the next to it where that is the reference.

    Raises:
        UserError: no strategy can be compared with the reference.
    """
    compared = found.compare()
    need(bool(compared), f"only {found.reference!r} was trained and evaluated; there is nothing to compare it with")
    name = max(compared, key=lambda one: compared[one].diff) if name is None else name
    need(name in compared, f"strategy {name!r} can't be compared with {found.reference!r}")
    here, there = found.log_px[found.reference].mean(0), found.log_px[name].mean(0)
    figure, ax = canvas(3.6)
    ax.plot(here, there - here, "o", color=BLUE, markersize=4.5, alpha=0.7, markeredgewidth=0)
    ax.axhline(0, color="black", linewidth=0.8)
    share = float((there > here).mean())
    ax.set_title(f"{short(name)}: higher for {100 * share:.0f} % of {len(here)} examples", fontsize=11)
    ax.set(xlabel=f"log p(x) of {short(found.reference)} (nats)", ylabel="difference (nats)")
    return figure


def sweep(found: Study) -> Figure:
    """log p(x), the ELBO and the active latents against the one number in which strategies differ.

    Points are means over seeds, bands reach from least to most. A strategy without the number is a dashed line.

    Args:
        found: a study whose strategies differ in one number, as ``pv.grid(base, latent=[2, 8, 32])`` makes them.

    Raises:
        UserError: they differ in something else.
    """
    option, values = number_that_differs({name: found.strategies[name]["given"] for name in found.log_px})
    order = sorted(values, key=lambda name: values[name])
    x = np.array([values[name] for name in order])
    active = [[r["latents"]["active"] for r in found.done(n).values() if "latents" in r] for n in order]
    figure, axes = canvases(2 if all(active) else 1)
    for label, some, color, style in (("log p(x)", found.log_px, BLUE, "o-"), ("ELBO", found.elbo, VERMILLION, "s--")):
        means = [some[name].mean(1) for name in order]
        axes[0].plot(x, [m.mean() for m in means], style, color=color, markersize=4, label=label)
        axes[0].fill_between(x, [m.min() for m in means], [m.max() for m in means], color=color, alpha=0.2, linewidth=0)
        for other in set(some) - set(order):
            axes[0].axhline(some[other].mean(), color=color, linestyle=":", label=f"{label}, {short(other)}")
    axes[0].set_ylabel("nats per example")
    axes[0].legend(frameon=False)
    if all(active):
        axes[1].plot(x, [np.mean(some) for some in active], "o-", color=GREEN, markersize=4)
        lows, highs = ([f(some) for some in active] for f in (min, max))
        axes[1].fill_between(x, lows, highs, color=GREEN, alpha=0.2, linewidth=0)
        axes[1].set_ylabel("active latents")
    if x.min() > 0 and x.max() >= 10 * x.min():
        axes[0].set_xscale("log")
    axes[-1].set_xlabel(option)
    return figure


def number_that_differs(given: Mapping[str, Mapping[str, Any]]) -> tuple[str, dict[str, float]]:
    """The one number in which strategies differ, and its value for those that have one.

    Example:
        >>> number_that_differs({"a": {"latent": 2}, "b": {"latent": 8}})
        ('latent', {'a': 2.0, 'b': 8.0})
        >>> number_that_differs({"a": {"likelihood": "gaussian:sigma=0.1"}, "b": {"likelihood": "gaussian:sigma=1"}})
        ('sigma', {'a': 0.1, 'b': 1.0})
    """
    facts = {name: _flat(some) for name, some in given.items()}
    keys = dict.fromkeys(key for some in facts.values() for key in some)
    differ = [k for k in keys if len({repr(some.get(k)) for some in facts.values()}) > 1]
    numbers = [k for k in differ if sum(isinstance(some.get(k), float) for some in facts.values()) > 1]
    need(len(numbers) == 1, f"sweep: strategies differ in {', '.join(differ) or 'nothing'}; one number is needed")
    [option] = numbers
    values = {name: some[option] for name, some in facts.items() if isinstance(some.get(option), float)}
    others = {k: {repr(facts[name].get(k)) for name in values} for k in differ if k != option}
    need(all(len(some) == 1 for some in others.values()), f"sweep: strategies differ in {', '.join(differ)}")
    return option, values


def _flat(given: Mapping[str, Any]) -> dict[str, Any]:
    """Options with those that follow the name of another, as in ``gaussian:sigma=0.1``, by themselves."""
    found: dict[str, Any] = {}
    for key, value in given.items():
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            found[key] = value
            continue
        if isinstance(value, int | float):
            found[key] = float(value)
            continue
        found[key], _, options = value.partition(":")
        for option in filter(None, options.split(",")):
            name, _, text_ = option.partition("=")
            try:
                found[name] = float(text_)
            except ValueError:
                found[name] = text_
    return found
