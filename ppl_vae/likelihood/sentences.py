"""What the rows of a panel say, in plain words: how far to trust them, why not further, and what to do."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from .diagnostics import khat_threshold
from .result import Estimate

Rows = Mapping[str, Estimate]

LEVEL = 0.975  # of each end of the interval
CONSISTENT = ("iwae", "psis", "jvi1", "jvi2")  # estimates of log p(x) itself, not of a looser bound
LEAST = 25  # samples, of which a k can be computed
WANTED = 0.1  # nats: the standard error of an example that annealing is asked for
RICHER = "train the guide longer, or make it richer."


def sentences(rows: Rows, reasons: Mapping[str, str], index: Tensor | None = None) -> list[str]:
    """The limits, the unreliable examples and why, the K that is needed, and the remedy.

    Args:
        rows: the estimates by the name of their row.
        reasons: why a row that was asked for is missing.
        index: where each example stands in its source; None counts from 0.
    """
    first = next(iter(rows.values()))
    if first.side == "exact":
        return [f"Every weight equals {first.name.removeprefix('log ')}: the figures are exact."]
    weighed: dict[str, Estimate] = {}  # one row for each set of weights, that of the largest K
    for e in sorted((e for e in rows.values() if not e.annealed), key=lambda e: -e.num_samples):
        weighed.setdefault(e.proposal, e)
    good = {n: e for n, e in rows.items() if e.estimator in CONSISTENT and not bool(e.unreliable.any())}
    most = max((e.num_samples for e in weighed.values()), default=0)
    fewer = [(n, e.num_samples) for n, e in rows.items() if not e.annealed and e.num_samples < most]
    found = [
        _from_below(rows),
        _from_above(first, weighed, good),
        *(_why(e, index) for e in weighed.values() if bool(e.unreliable.any())),
        _remedy(rows, reasons, weighed) if weighed and not good else "",
        _rivals(rows),
        *(_chains(name, e) for name, e in rows.items() if e.annealed),
        _chi_square(rows),
        *(f"{name} took {k} samples, the most that it can use." for name, k in fewer),
    ]
    return [sentence for sentence in found if sentence]


def lower_limit(rows: Rows) -> tuple[str, float] | None:
    """The row with the best lower limit of the mean log p(x), and the limit; None where no row is a lower bound."""
    # where draws decide between proposals, the estimate is not quite unbiased, which Markov's inequality asks for
    lower = {n: e for n, e in rows.items() if e.side in ("lower", "exact") and e.source is None}
    if not lower:
        return None
    best = max(lower, key=lambda n: float(lower[n].log_px.mean()))
    one = lower[best]
    slack = 0.0 if one.side == "exact" else math.log(len(lower) / (1 - LEVEL)) / len(one)
    return best, float(one.log_px.mean()) - slack


def _from_below(rows: Rows) -> str:
    limit = lower_limit(rows)
    if limit is None:
        return ""
    one = rows[limit[0]]
    return (
        f"At least: the mean {one.name} of these {len(one)} examples is above {limit[1]:.3f} nats (97.5 %, by "
        f"{limit[0]} and Markov's inequality, whatever the tails of the weights)."
    )


def _from_above(first: Estimate, weighed: Rows, good: Rows) -> str:
    if good:
        name, end = max(((n, _upper_end(e)) for n, e in good.items()), key=lambda pair: pair[1])
        return (
            f"No sign of more than {end:.3f} nats ({name}; k is good for all examples); what was not drawn is not "
            f"seen: eubo and bdmc look for it."
        )
    return f"From above: nothing. {first.name} may lie well above the rows whose k is bad." if weighed else ""


def _upper_end(e: Estimate) -> float:
    """The mean, its bias to leading order where it is a bound, and two Monte Carlo errors."""
    bias = float(e.std_error.square().mean()) / 2 if e.side == "lower" else 0.0
    return float(e.log_px.mean()) + bias + 2 * e.monte_carlo_error


def _needed(khat: Tensor) -> int:
    """The K that the largest of these k asks for."""
    return math.ceil(float(10 ** (1 / (1 - khat.max()))))


def _why(e: Estimate, index: Tensor | None) -> str:
    """Which examples are unreliable under a proposal, and what K they would need."""
    bad = torch.nonzero(e.unreliable)[:, 0]
    k = e.khat[bad]
    none = int(k.isnan().sum())
    if none == len(e):
        few = f"K = {e.num_samples} is too small" if e.num_samples < LEAST else "too few distinct weights in the tail"
        return f"The {e.proposal} weights: no k for any of the examples ({few}), so nothing says how far to trust them."
    where = bad[:8] if index is None else index.cpu()[bad[:8]]
    listed = ", ".join(map(str, where.tolist())) + (", ..." if len(bad) > 8 else "")
    within, beyond = k[k < 0.7], int((k >= 0.7).sum())
    limit = khat_threshold(e.num_samples)
    parts = [f"{len(bad)} of {len(e)} examples unreliable, Pareto k >= {limit:.2f} (index {listed})"]
    if len(within):
        parts.append(f"{len(within)} of them need K = {_needed(within):,}")
    if beyond:
        parts.append(("" if beyond == len(bad) else f"for {beyond} k >= 0.7, where ") + "more samples hardly help")
    if none:
        parts.append(f"{none} have no k: too few distinct weights in the tail")
    if e.proposal == "defensive":
        parts.append("their variance is finite all the same, as no weight exceeds ten times the likelihood")
    return f"The {e.proposal} weights: {'; '.join(parts)}."


def _remedy(rows: Rows, reasons: Mapping[str, str], weighed: Rows) -> str:
    """What to do about k, where no row is good."""
    if all(e.num_samples < LEAST for e in weighed.values()):
        return f"Remedy: more samples, --num-samples 1000 (num_samples=): k needs {LEAST} at least."
    bad = torch.cat([e.khat[e.unreliable] for e in weighed.values()])
    if bool((bad < 0.7).all()):
        return f"Remedy: more samples, --num-samples {_needed(bad)} (num_samples=)."
    if any(e.annealed for e in rows.values()):
        return "Believe ais before the rest: it does not live on the guide's weights."
    rest = [name for name in ("refined", "defensive", "ais") if name not in rows and name not in reasons]
    return f"Remedy: try {', '.join(rest)}; or {RICHER}" if rest else f"Remedy: {RICHER}"


def _rivals(rows: Rows) -> str:
    """Rows that should not lie below others."""
    lower = {n: float(e.log_px.mean()) for n, e in rows.items() if e.side == "lower"}
    best = max(lower, key=lambda n: lower[n], default="")
    guide = [v for n, v in lower.items() if rows[n].proposal == "guide" and n != "elbo"]
    if "ais" in lower and best != "ais" and lower["ais"] < lower[best] - 3 * rows["ais"].monte_carlo_error:
        return f"ais lies below {best}, and both are lower bounds: give ais more temperatures."
    if "prior" in lower and guide and lower["prior"] > max(guide):
        return "The prior beats the guide: train longer, or look for a guide that is collapsed or wrong."
    return ""


def _chains(name: str, e: Estimate) -> str:
    """How many chains a standard error of ``WANTED`` takes for each example, where it is larger for some."""
    if not bool((e.std_error > WANTED).any()):
        return ""
    least, some = (int(end.max()) for end in e.chains_needed(WANTED))
    return (
        f"{name}: a standard error of at most {WANTED} nats for each example takes at least {least:,} chains, and some "
        f"{some:,} were the log weights normal; more temperatures may be cheaper."
    )


def _chi_square(rows: Rows) -> str:
    doubtful = int((~(rows["cubo"].khat < 0.25)).sum()) if "cubo" in rows else 0
    if not doubtful:
        return ""
    return (
        f"cubo is no bound here: for {doubtful} of {len(rows['cubo'])} examples k is not below 1/4, so its estimate is "
        f"too noisy, and it is biased downwards."
    )
