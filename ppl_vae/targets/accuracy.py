"""The table of targets and estimators: the error, the error that is claimed, and how often the interval holds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from scipy.special import bdtr
from torch import Tensor

from ..common.entry import entry_point
from ..common.errors import UserError
from ..common.progress import bar
from ..common.registry import ROWS, TARGETS
from ..common.shown import Shown
from ..likelihood.panel import Panel, panel
from ..likelihood.result import Estimate
from .base import Target, make, names as all_names

ESTIMATORS = ("exact", "iwae", "psis", "defensive", "refined", "auto", "ais")
LEVEL = 0.95  # of the intervals
LEAST = 0.90  # the coverage below which a row is wrong
CHANCE = 0.01  # of calling it so where it is that
ROUNDING = 1e-6  # nats: of log p(x) itself
FEW = 20  # draws, where all weights are the same
OTHER = ("elbo", "cubo")  # whose intervals are for a bound, not for log p(x)
Run = tuple[Tensor, Panel]  # of one repetition: log p(x), and the estimates


@dataclass(frozen=True, eq=False, repr=False)
class Accuracy(Shown):
    """How far estimates are from the truth on each target, and whether they say so.

    Attributes:
        rows: a JSON-able dictionary for each target and estimator:

            - ``error``: the mean of estimate - log p(x), in nats, and ``error_se``, its standard error;
            - ``spread``: the root mean square of that difference, and ``claimed``, that of the standard errors;
            - ``unreliable``: the share of examples whose diagnostics say so (Pareto k above its threshold);
            - ``coverage``: the share of the 95 % intervals of all others that hold log p(x); ``coverage_all``, of all.
              None for ``elbo`` and ``cubo``, whose intervals are for a bound;
            - ``silent``: whether so few of them hold that 90 % would give as few in less than one of a hundred times;
            - ``seconds``, ``n``; and ``reason``, why an estimator does not apply, with None for all figures.
        num_data: examples of a target and a repetition.
        num_samples: K.
        repeats: repetitions, each on other data.
        seed: of everything.
    """

    rows: list[dict[str, Any]]
    num_data: int
    num_samples: int
    repeats: int
    seed: int

    @property
    def silent(self) -> list[tuple[str, str]]:
        """Targets and estimators whose intervals fail, on examples that no diagnostic doubts."""
        return [(r["target"], r["estimator"]) for r in self.rows if r["silent"]]

    def cells(self) -> list[tuple[str, ...]]:
        """The table as text, its head first; rows that do not apply are left out."""
        found: list[tuple[str, ...]] = [
            ("target", "estimator", "error", "spread", "claimed", "unreliable", "coverage", "s")
        ]
        for r in self.rows:
            if r["reason"] is None:
                numbers = [_nats(r[k]) for k in ("error", "spread", "claimed")]
                shares = [_percent(r["unreliable"]), _percent(r["coverage"]) + (" !" if r["silent"] else "")]
                found.append((r["target"], r["estimator"], *numbers, *shares, f"{r['seconds']:.1f}"))
        return found

    def __str__(self) -> str:
        width = max(10, *(len(r["estimator"]) + 2 for r in self.rows))
        line = f"{{:<22}}{{:<{width}}}" + "{:>10}{:>10}{:>10}{:>12}{:>11}{:>8}"
        return "\n".join([*(line.format(*row).rstrip() for row in self.cells()), *self.notes()])

    def notes(self) -> list[str]:
        """The rows that do not apply, and how the table is read."""
        left = [f"{r['target']}: {r['estimator']} does not apply: {r['reason']}" for r in self.rows if r["reason"]]
        about = (
            f"nats; {self.num_data * self.repeats} examples a target, K = {self.num_samples}, seed {self.seed}; "
            f"coverage of 95 % intervals, of the examples that are not unreliable; ! where below 90 %, not by chance"
        )
        return [*left, about]


def _nats(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}" if abs(value) < 10 else f"{value:.1f}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


@entry_point
def table(
    names: Sequence[str] | None = None,
    estimators: Sequence[str] = ESTIMATORS,
    *,
    num_data: int = 100,
    num_samples: int = 5000,
    repeats: int = 1,
    num_chains: int = 16,
    num_temperatures: int = 100,
    seed: int = 0,
    progress: bool = False,
) -> Accuracy:
    """Compare estimates of log p(x) with the truth, for each target and estimator.

    Each repetition draws other data. So the intervals of all examples and repetitions are independent, but for what a
    batch shares.

    Use when an estimator, or a change to one, is to be tested: ``coverage`` says whether its errors can be believed.

    Args:
        names: of targets; None takes all.
        estimators: rows of :func:`ppl_vae.panel`, proposals with options among them (``"refined:family=mixture"``), and
            ``"exact"``: the K-sample bound under the exact posterior.
        num_data: examples of a target and a repetition.
        num_samples: K.
        repeats: repetitions.
        num_chains: of ``"ais"``.
        num_temperatures: of ``"ais"``.
        seed: of targets, data and estimates.
        progress: show a bar.

    Raises:
        UserError: a name that is not known, or a number below one.

    Example:
        >>> import ppl_vae as pv
        >>> found = pv.targets.table(["toy"], ["exact", "iwae"], num_data=50, num_samples=200)
        >>> [row["estimator"] for row in found.rows], found.silent
        (['exact', 'iwae'], [])
    """
    chosen, asked = _known("target", names, TARGETS, all_names()), _known("estimator", estimators, _KNOWN, [])
    for name, value in (("num_data", num_data), ("num_samples", num_samples), ("repeats", repeats)):
        if value < 1:
            raise UserError(f"{name}={value}: at least one is needed")
    options = {"num_samples": num_samples, "num_chains": num_chains, "num_temperatures": num_temperatures}
    rows = []
    with bar(progress) as shown:
        task = shown.add_task("targets", info="")
        for name in shown.track(chosen, task_id=task):
            target = make(name, seed)
            runs = [_run(target, asked, num_data, seed + r, options) for r in range(repeats)]
            rows += [_row(name, estimator, runs) for estimator in asked]
    return Accuracy(rows, num_data, num_samples, repeats, seed)


_KNOWN = {"exact": ("exact", "the K-sample bound under the exact posterior"), **ROWS}


def _known(what: str, given: Sequence[str] | None, table: Iterable[str], default: list[str]) -> list[str]:
    found = default if given is None else [given] if isinstance(given, str) else list(given)
    for name in found:
        if name.partition(":")[0] not in table:
            raise UserError(f"{what} {name!r} is not known; choose from {', '.join(table)}")
    if not found:
        raise UserError(f"no {what} was given; choose from {', '.join(table)}")
    return list(dict.fromkeys(found))


def _run(target: Target, asked: Sequence[str], num_data: int, seed: int, options: dict[str, Any]) -> Run:
    """The truth, and the estimates, of one repetition."""
    x = target.sample(num_data, seed)
    options = {**options, "seed": seed, "capture": False}
    rows = [name for name in asked if name != "exact"]
    found = _panel(target.pair, x, rows, options) if rows else Panel({}, {})
    if "exact" not in asked:
        return target.log_px(x), found
    exact = _exact(target, x, {**options, "num_samples": FEW})
    whole = Panel(found.rows | exact.rows, found.seconds | exact.seconds, found.reasons | exact.reasons)
    return target.log_px(x), whole


def _exact(target: Target, x: Any, options: dict[str, Any]) -> Panel:
    """The row ``exact``."""
    if target.exact is None:
        return Panel({}, {}, {"exact": "its posterior has no closed form"})
    made = panel(target.exact, x, estimators="iwae", **options)
    return Panel({"exact": made["iwae"]}, {"exact": made.seconds["iwae"]})


def _panel(pair: Any, x: Any, rows: list[str], options: dict[str, Any]) -> Panel:
    try:
        return panel(pair, x, estimators=rows, **options)
    except UserError as error:  # no row applies
        return Panel({}, {}, dict.fromkeys(rows, str(error)))


def _row(target: str, estimator: str, runs: Sequence[Run]) -> dict[str, Any]:
    """The figures of one estimator on one target, over all repetitions."""
    reason = next((found.reasons[estimator] for _, found in runs if estimator in found.reasons), None)
    figures = dict.fromkeys(
        ("n", "error", "error_se", "spread", "claimed", "unreliable", "coverage", "coverage_all", "seconds")
    )
    if reason is not None:
        return {"target": target, "estimator": estimator, **figures, "silent": False, "reason": reason}
    both = [(truth, found.rows[estimator]) for truth, found in runs]
    error = torch.cat([estimate.log_px - truth for truth, estimate in both])
    claimed = torch.cat([estimate.std_error for _, estimate in both])
    held = torch.cat([_holds(truth, estimate) for truth, estimate in both])
    good = ~torch.cat([estimate.unreliable for _, estimate in both])
    claims = estimator not in OTHER
    coverage = _mean(held[good]) if claims else None
    return {
        "target": target,
        "estimator": estimator,
        "n": len(error),
        "error": float(error.mean()),
        "error_se": float(error.std() / math.sqrt(len(error))) if len(error) > 1 else None,
        "spread": float(error.square().mean().sqrt()),
        "claimed": _finite(claimed.square().mean().sqrt()),
        "unreliable": float((~good).double().mean()),
        "coverage": coverage,
        "coverage_all": _mean(held) if claims else None,
        "seconds": sum(found.seconds[estimator] for _, found in runs),
        "silent": coverage is not None and bool(bdtr(int(held[good].sum()), int(good.sum()), LEAST) < CHANCE),
        "reason": None,
    }


def _holds(truth: Tensor, estimate: Estimate) -> Tensor:
    """(N,) bool: whether the interval of each example holds its log p(x)."""
    low, high = estimate.interval(LEVEL)
    return (low - ROUNDING <= truth) & (truth <= high + ROUNDING)


def _mean(held: Tensor) -> float | None:
    return float(held.double().mean()) if len(held) else None


def _finite(value: Tensor) -> float | None:
    return float(value) if bool(value.isfinite()) else None
