"""A panel of estimators on the same data: one row each, and a sentence on how far to trust them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..common.entry import entry_point
from ..common.errors import DataError, RunError, UserError
from ..common.registry import ESTIMATORS
from ..common.rng import forked
from ..data.sets import Split
from ..scoring import programs, trace
from ..scoring.inputs import as_data, device_and_dtype, evaluating, to_device
from ..scoring.quantity import refuse_binarised
from .annealing import ais
from .diagnostics import khat_threshold
from .estimate import Estimate, estimates, refuse_mismatch
from .estimators import JVI2_MOST, STATISTICS
from .proposals import PROPOSALS, Proposal

LEVEL = 0.975  # of each end of the interval
ESTIMATES = ("iwae", "psis", "jvi1", "jvi2")  # of log p(x) itself, not of a looser bound


@dataclass(eq=False)
class Panel:
    """Estimates of log p(x) for the same data, by estimator, and the seconds that each took.

    Estimators of the same weights share one pass, and its time.

    Attributes:
        rows: the estimates by name.
        seconds: of each.
        reasons: why an estimator that was asked for has no row: it does not apply to the pair or the setting.
        index: where each datum stands in its source, for the sentences; None counts from 0.
    """

    rows: dict[str, Estimate]
    seconds: dict[str, float]
    reasons: dict[str, str] = field(default_factory=dict)
    index: Tensor | None = None

    def __getitem__(self, name: str) -> Estimate:
        if name in self.reasons:
            raise UserError(f"the panel has no {name}: {self.reasons[name]}")
        return self.rows[name]

    @property
    def name(self) -> str:
        """What is estimated, see :class:`~ppl_vae.Estimate`."""
        return next(iter(self.rows.values())).name

    def table(self) -> list[dict[str, Any]]:
        """One JSON-able row an estimator: its side, mean, both standard errors, diagnostics and time.

        ``log_px_se`` is the error from the choice of data, ``mc_error`` that from the draws. ``reason`` says why an
        estimator has no figures.
        """
        rows = [
            {
                "estimator": name,
                "quantity": e.name,
                "side": e.side,
                "proposal": e.proposal,
                "num_samples": e.num_samples,
                "num_temperatures": e.num_temperatures,
                "log_px_mean": _finite(float(e.log_px.mean())),
                "log_px_se": _finite(float(e.log_px.std()) / math.sqrt(len(e)) if len(e) > 1 else math.nan),
                "mc_error": _finite(e.monte_carlo_error),
                "unreliable": None if e.estimator == "ais" else int(e.unreliable.sum()),
                "ess_min": _finite(float(e.ess.min())),
                "seconds": self.seconds[name],
                "reason": None,
            }
            for name, e in self.rows.items()
        ]
        nothing = dict.fromkeys(rows[0])
        side = {name: ESTIMATORS[name][0] for name in self.reasons}
        rows += [{**nothing, "estimator": n, "side": side[n], "reason": why} for n, why in self.reasons.items()]
        return rows

    def at_least(self) -> tuple[str, float]:
        r"""The best lower confidence limit of the mean log p(x), at 97.5 %, and the estimator that gives it.

        Each estimate :math:`\hat p_n` is unbiased, so by Markov's inequality
        :math:`\Pr(\sum_n \log \hat p_n - \log p(x_n) \ge t) \le e^{-t}`: the limit is the mean less
        :math:`\log(40) / N`, whatever the tails of the weights. Looking at several rows is paid for by their number.

        Source: Grosse, Ghahramani, Adams, 2015, arXiv:1511.02543, section 3.1.

        Raises:
            UserError: no row is a lower bound.
        """
        lower = {n: e for n, e in self.rows.items() if e.side in ("lower", "exact")}
        if not lower:
            raise UserError("no row of the panel is a lower bound; add the estimator iwae")
        best = max(lower, key=lambda n: float(lower[n].log_px.mean()))
        one = lower[best]
        slack = 0.0 if one.side == "exact" else math.log(len(lower) / (1 - LEVEL)) / len(one)
        return best, float(one.log_px.mean()) - slack

    def sentences(self) -> list[str]:
        """What the rows say, in plain words: the interval, the unreliable data and why, and the K that is needed."""
        first = next(iter(self.rows.values()))
        found: list[str] = []
        if first.side == "exact":
            return [f"Every weight equals {first.name.removeprefix('log ')}: the figures are exact."]
        if any(e.side == "lower" for e in self.rows.values()):
            name, limit = self.at_least()
            found.append(
                f"At least: the mean {first.name} of these {len(first)} data is above {limit:.3f} nats (97.5 %, by "
                f"{name} and Markov's inequality, whatever the tails of the weights)."
            )
        weighed: dict[str, Estimate] = {}  # one row for each set of weights
        for e in sorted(self.rows.values(), key=lambda e: e.estimator == "jvi2"):
            if e.estimator != "ais":
                weighed.setdefault(e.proposal, e)
        good = {n: e for n, e in self.rows.items() if e.estimator in ESTIMATES and not bool(e.unreliable.any())}
        if good:
            name, end = max(((n, _upper_end(e)) for n, e in good.items()), key=lambda pair: pair[1])
            found.append(
                f"No sign of more than {end:.3f} nats ({name}; k is good for all data); what was not drawn is not "
                "seen: eubo and bdmc look for it."
            )
        elif weighed:
            found.append(f"From above: nothing. {first.name} may lie well above the rows whose k is bad.")
        found += [_why(e, self.index) for e in weighed.values() if bool(e.unreliable.any())]
        found += [text for text in (self._remedy(weighed, bool(good)), self._rivals()) if text]
        doubtful = [int((~(e.khat < 0.25)).sum()) for e in self.rows.values() if e.estimator == "cubo"]
        if doubtful and doubtful[0]:
            found.append(
                f"cubo is no bound here: for {doubtful[0]} of {len(first)} data k is not below 1/4, so its estimate "
                f"is too noisy, and it is biased downwards."
            )
        if "jvi2" in self.rows and len({e.num_samples for e in self.rows.values() if e.estimator != "ais"}) > 1:
            found.append(f"jvi2 took {self.rows['jvi2'].num_samples} samples: its cost is their square.")
        return found

    def _remedy(self, weighed: dict[str, Estimate], is_good: bool) -> str:
        """What to do about k, where no row is good."""
        if is_good or not weighed:
            return ""
        bad = torch.cat([e.khat[e.unreliable] for e in weighed.values()])
        if bool((bad < 0.7).all()):
            return (
                f"Remedy: more samples, --num-samples {math.ceil(float(10 ** (1 / (1 - bad.max()))))} (num_samples=)."
            )
        if "ais" in self.rows:
            return "Believe ais before the rest: it does not live on the guide's weights."
        rest = [e for e in ("defensive", "tempered", "ais") if e not in self.rows and e not in self.reasons]
        if not rest:
            return "Remedy: train the guide longer, or make it richer."
        return f"Remedy: try {', '.join(rest)}; or train the guide longer, or make it richer."

    def _rivals(self) -> str:
        """Rows that should not lie below others."""
        lower = {n: float(e.log_px.mean()) for n, e in self.rows.items() if e.side == "lower"}
        best = max(lower, key=lambda n: lower[n]) if lower else ""
        guide = {n: v for n, v in lower.items() if self.rows[n].proposal == "guide" and n != "elbo"}
        if "ais" in lower and best != "ais" and lower["ais"] < lower[best] - 3 * self.rows["ais"].monte_carlo_error:
            return f"ais lies below {best}, and both are lower bounds: give ais more temperatures."
        if "prior" in lower and guide and lower["prior"] > max(guide.values()):
            return "The prior beats the guide: train longer, or look for a guide that is collapsed or wrong."
        return ""

    def cells(self) -> list[tuple[str, ...]]:
        """The table as text, its head first; an estimator without a row is in ``reasons``."""
        rows: list[tuple[str, ...]] = [("estimator", "side", self.name, "± data", "± draws", "unreliable", "K", "s")]
        for r in self.table()[: len(self.rows)]:
            numbers = (r["log_px_mean"], r["log_px_se"], r["mc_error"])
            shown = ["-" if v is None else f"{v:.3f}" for v in numbers]
            bad = "-" if r["unreliable"] is None else str(r["unreliable"])
            if r["unreliable"]:  # the drawn weights know too little of their own scatter
                shown[2] = f">{shown[2]}"
            size = f"{r['num_samples']}" + (f"x{r['num_temperatures']}" if r["num_temperatures"] else "")
            rows.append((r["estimator"], r["side"], *shown, bad, size, f"{r['seconds']:.1f}"))
        return rows

    def __str__(self) -> str:
        left = "{:<10} {:<8}{:>13}{:>9}{:>9}{:>12}{:>9}{:>9}"
        return "\n".join([*(left.format(*row) for row in self.cells()), *self.left_out(), *self.sentences()])

    def left_out(self) -> list[str]:
        """A line for each estimator that has no row, with its reason."""
        return [f"{name:<10} not applicable: {why}" for name, why in self.reasons.items()]


def _upper_end(e: Estimate) -> float:
    """The mean, its bias to leading order where it is a bound, and two Monte Carlo errors."""
    bias = float(e.std_error.square().mean()) / 2 if e.side == "lower" else 0.0
    return float(e.log_px.mean()) + bias + 2 * e.monte_carlo_error


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _why(e: Estimate, index: Tensor | None = None) -> str:
    """Which data are unreliable under a proposal, and what K they would need."""
    bad = torch.nonzero(e.unreliable)[:, 0]
    k = e.khat[bad]
    where = bad[:8] if index is None else index.cpu()[bad[:8]]
    listed = ", ".join(map(str, where.tolist())) + (", ..." if len(bad) > 8 else "")
    who, limit = f"The {e.proposal} weights", khat_threshold(e.num_samples)
    none = int(k.isnan().sum())
    if none == len(e):
        few = f"K = {e.num_samples} is too small" if e.num_samples < 25 else "too few distinct weights in the tail"
        return f"{who}: no k for any of the data ({few}), so nothing says how far to trust them."
    within, beyond = k[k < 0.7], int((k >= 0.7).sum())
    parts = [f"{len(bad)} of {len(e)} data unreliable, Pareto k >= {limit:.2f} (index {listed})"]
    if len(within):
        parts.append(f"{len(within)} of them need K = {math.ceil(float(10 ** (1 / (1 - within.max())))):,}")
    if beyond:
        which = "" if beyond == len(bad) else f"for {beyond} k >= 0.7, where "
        parts.append(f"{which}more samples hardly help")
    if none:
        parts.append(f"{none} have no k: too few distinct weights in the tail")
    if e.proposal == "defensive":
        parts.append("their variance is finite all the same, as no weight exceeds ten times the likelihood")
    return f"{who}: {'; '.join(parts)}."


@entry_point
def panel(
    pair: Any,
    x: Any,
    y: Tensor | None = None,
    estimators: str | Sequence[str] = ("iwae", "psis", "defensive", "ais"),
    num_samples: int = 5000,
    *,
    proposal: str | Proposal = "guide",
    num_chains: int = 16,
    num_temperatures: int = 1000,
    seed: int = 0,
    progress: bool = False,
    resume: str | Path | None = None,
    capture: bool | str = "auto",
    precision: str = "float32",
) -> Panel:
    """Estimate log p(x) of the same data by several estimators, and say how far to trust them.

    Args:
        pair: a pair.
        x: data (N, *shape), or a split.
        y: labels (N,), for pairs that take them.
        estimators: names that ``ppl-vae list`` prints: what is made of the weights (``elbo``, ``iwae``, ``psis``,
            ``jvi1``, ``jvi2``, ``cubo``), the bound under other proposals (``prior``, ``defensive``, ``tempered``,
            ``qmc``), or ``ais``.
        num_samples: K; ``jvi2`` takes at most 1,000.
        proposal: where the weights of the first kind come from.
        num_chains: of ``ais``.
        num_temperatures: of ``ais``.
        seed: of each estimate.
        progress: show bars.
        resume: a folder for unfinished work, see :func:`~ppl_vae.log_likelihood`.
        capture: score by a compiled graph, see :func:`~ppl_vae.log_likelihood`.
        precision: of the matrix products of weights; annealing stays in float32.

    Returns:
        Panel: by name the estimates; ``print`` shows the table and the sentences. An estimator that does not apply
        to the pair or the setting is in ``.reasons``, and the others are made all the same.

    Raises:
        UserError: an estimator that is not known or is named twice; or none applies.

    Example:
        >>> import torch, ppl_vae as pv
        >>> pair = pv.build("linear", data_shape=(5,), latent=2)
        >>> found = pv.panel(pair, torch.zeros(3, 5), estimators=("iwae", "psis", "qmc"), num_samples=100)
        >>> [row["side"] for row in found.table()]
        ['lower', 'neither', 'lower']
    """
    estimators = (estimators,) if isinstance(estimators, str) else tuple(estimators)
    unknown = [e for e in estimators if e not in ESTIMATORS]
    if unknown or not estimators:
        about = f"estimator {unknown[0]!r} is not known" if unknown else "no estimator was given"
        raise UserError(f"{about}; choose from {', '.join(ESTIMATORS)}")
    if len(set(estimators)) < len(estimators):
        raise UserError(f"an estimator is named twice: {', '.join(estimators)}")
    if proposal != "guide" and not any(e in STATISTICS for e in estimators):
        raise UserError(f"proposal={proposal!r} is for {', '.join(STATISTICS)}, and none of them was asked for")
    refuse_binarised(pair, x)
    index = x.index if isinstance(x, Split) else None
    x, y = as_data(pair, x, y, seed)
    common: dict[str, Any] = {"seed": seed, "progress": progress, "resume": resume, "capture": capture}
    rows: dict[str, Estimate] = {}
    seconds: dict[str, float] = {}
    failed: dict[str, UserError] = {}

    def attempt(names: Sequence[str], work: Callable[[], Any]) -> None:
        """Make the rows of one pass, or keep the reason why it does not apply."""
        began = time.perf_counter()
        try:
            made = work()
        except (DataError, RunError):  # at fault whatever the estimator
            raise
        except UserError as error:
            failed.update(dict.fromkeys(names, error))
        except NotImplementedError as error:  # of a distribution
            failed.update(dict.fromkeys(names, UserError(f"a distribution of the pair can't do it ({error})")))
        else:
            rows.update(zip(names, made, strict=True))
            seconds.update(dict.fromkeys(names, time.perf_counter() - began))

    def weigh(names: Sequence[str], size: int, proposal: str | Proposal) -> None:
        options = {**common, "proposal": proposal, "precision": precision}
        made = [n if n in STATISTICS else "iwae" for n in names]
        attempt(names, lambda: estimates(pair, x, y, size, made, **options).values())

    shared: list[str] = []
    for name in (e for e in estimators if e in STATISTICS):
        try:
            refuse_mismatch((name,), proposal, min(num_samples, JVI2_MOST) if name == "jvi2" else num_samples)
            shared.append(name)
        except UserError as error:
            failed[name] = error
    short = [e for e in shared if e == "jvi2" and num_samples > JVI2_MOST]
    for names, size in (([e for e in shared if e not in short], num_samples), (short, JVI2_MOST)):
        if names:
            weigh(names, size, proposal)
    for name in (e for e in estimators if e in PROPOSALS):
        weigh([name], num_samples, name)
    if "ais" in estimators:
        setting: dict[str, Any] = {"num_chains": num_chains, "num_temperatures": num_temperatures}
        attempt(["ais"], lambda: [ais(pair, x, y, start=_start(pair, x, y), **setting, **common)])
    if not rows:
        raise failed[estimators[0]]
    kept = [e for e in estimators if e in rows]
    reasons = {e: str(failed[e]) for e in estimators if e in failed}
    return Panel({e: rows[e] for e in kept}, {e: seconds[e] for e in kept}, reasons, index)


def _start(pair: Any, x: Tensor, y: Tensor | None) -> str:
    """Where annealing starts: at the guide, where there is one."""
    one = to_device(pair, x, y, slice(1))
    with evaluating(pair), forked(device_and_dtype(pair)[0], 0):
        found = programs.sites(pair.guide, trace.call_args(pair.guide, *one))
    return "prior" if all(d.is_observed for d in found.values()) else "guide"
