"""A panel of estimates of the same data: a row for each, and sentences on how far to trust them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from ..common.entry import entry_point
from ..common.errors import DataError, RunError, UserError
from ..common.registry import ROWS
from ..common.rng import forked
from ..common.shown import Shown
from ..data.splits import Split
from ..scoring import programs, trace
from ..scoring.inputs import as_data, device_and_dtype, evaluating, to_device
from ..scoring.quantity import refuse_binarised
from .annealing import ais
from .estimate import estimates, refuse_mismatch
from .estimators import ESTIMATORS
from .proposals import proposal as proposal_of
from .records import Estimator, EstimatorLike, Proposal, ProposalLike, resolve
from .result import Estimate
from .sentences import lower_limit, sentences

Method = tuple[Estimator, Proposal]  # of a row; annealing has neither
Pass = tuple[Proposal, int, dict[str, Estimator]]  # the rows that share weights: where these come from, K, and the rows
Work = tuple[tuple[str, ...], Callable[[], Sequence[Estimate]]]  # the rows, and what makes them


@dataclass(frozen=True, eq=False, repr=False)
class Panel(Shown):
    """Estimates of log p(x) for the same data, by row, and the seconds that each took.

    Estimators of the same weights share one pass, and its time.

    Attributes:
        rows: the estimates by the name of their row.
        seconds: of each.
        reasons: why a row that was asked for is missing: it does not apply to the pair or the setting.
        index: where each example stands in its source, for the sentences; None counts from 0.
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
        """One JSON-able dictionary a row: its side, mean, both standard errors, diagnostics and time.

        ``log_px_se`` is the error from the choice of data, SE (data); ``mc_error`` that from the draws, SE (MC).
        ``reason`` says why a row has no figures.
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
                "log_px_se": _finite(e.data_error),
                "mc_error": _finite(e.monte_carlo_error),
                "unreliable": None if e.annealed or e.estimator == "elbo" else int(e.unreliable.sum()),
                "ess_min": _finite(float(e.ess.min())),
                "seconds": self.seconds[name],
                "reason": None,
            }
            for name, e in self.rows.items()
        ]
        empty = dict.fromkeys(rows[0])
        sides = {name: ROWS.get(name, (None,))[0] for name in self.reasons}
        return rows + [{**empty, "estimator": n, "side": sides[n], "reason": why} for n, why in self.reasons.items()]

    def at_least(self) -> tuple[str, float]:
        r"""The best lower confidence limit of the mean log p(x), at 97.5 %, and the row that gives it.

        Each estimate :math:`\hat p_n` is unbiased, so by Markov's inequality
        :math:`\Pr(\sum_n \log \hat p_n - \log p(x_n) \ge t) \le e^{-t}`: the limit is the mean less
        :math:`\log(40) / N`, whatever the tails of the weights. A choice among rows is paid for by their number.

        Source: Grosse, Ghahramani, Adams, 2015, arXiv:1511.02543, section 3.1.

        Raises:
            UserError: no row is a lower bound.
        """
        found = lower_limit(self.rows)
        if found is None:
            raise UserError("no row of the panel is a lower bound; add the estimator iwae")
        return found

    def sentences(self) -> list[str]:
        """What the rows say, in plain words: the interval, the unreliable data and why, and the K that is needed."""
        return sentences(self.rows, self.reasons, self.index)

    def cells(self) -> list[tuple[str, ...]]:
        """The table as text, its head first; a row that is missing is in ``reasons``."""
        cells: list[tuple[str, ...]] = [
            ("estimator", "side", self.name, "SE (data)", "SE (MC)", "unreliable", "K", "s")
        ]
        for r in self.table()[: len(self.rows)]:
            mean, se, mc = ("-" if r[k] is None else f"{r[k]:.3f}" for k in ("log_px_mean", "log_px_se", "mc_error"))
            if r["unreliable"] and mc != "-":
                mc = f">{mc}"  # the weights that were drawn say too little of their own scatter
            bad = "-" if r["unreliable"] is None else str(r["unreliable"])
            size = f"{r['num_samples']}" + (f"x{r['num_temperatures']}" if r["num_temperatures"] else "")
            cells.append((r["estimator"], r["side"], mean, se, mc, bad, size, f"{r['seconds']:.1f}"))
        return cells

    def __str__(self) -> str:
        line = f"{{:<{self._width}}} {{:<8}}{{:>13}}{{:>11}}{{:>9}}{{:>12}}{{:>9}}{{:>9}}"
        return "\n".join([*(line.format(*row) for row in self.cells()), *self.notes()])

    def notes(self) -> list[str]:
        """The rows that are missing, and what the others say."""
        return [*self.left_out(), *self.sentences()]

    @property
    def _width(self) -> int:
        return max(10, *map(len, (*self.rows, *self.reasons)))

    def left_out(self) -> list[str]:
        """A line for each row that is missing, with its reason."""
        return [f"{name:<{self._width}} not applicable: {why}" for name, why in self.reasons.items()]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


@entry_point
def panel(
    pair: Any,
    x: Any,
    y: Tensor | None = None,
    estimators: EstimatorLike | Sequence[EstimatorLike] = ("iwae", "psis", "defensive", "ais"),
    num_samples: int = 5000,
    *,
    proposals: ProposalLike | Sequence[ProposalLike] = (),
    proposal: ProposalLike = "guide",
    num_chains: int = 16,
    num_temperatures: int = 1000,
    seed: int = 0,
    progress: bool = False,
    resume: str | Path | None = None,
    capture: bool | str = "auto",
    precision: str = "float32",
) -> Panel:
    """Estimate log p(x) of the same data in several ways, and say how far to trust them.

    Args:
        pair: a pair.
        x: data (N, *shape), or a split.
        y: labels (N,), for pairs that take them.
        estimators: what is made of the weights, as in :func:`~ppl_vae.log_likelihood`. Here ``"ais"`` asks for
            annealing, and the name of a proposal for the K-sample bound under it (``"refined:family=mixture"``).
        num_samples: K; an estimator that takes no more than fewer gets those.
        proposals: where the draws come from: each estimator is made under each. One row is named by its estimator under
            the first of them, by the proposal where it is the K-sample bound under another, and else by both.
        proposal: the same, for one.
        num_chains: of ``ais``.
        num_temperatures: of ``ais``.
        seed: of each estimate.
        progress: show bars.
        resume: a folder for unfinished work, see :func:`~ppl_vae.log_likelihood`.
        capture: score by a compiled graph, see :func:`~ppl_vae.log_likelihood`.
        precision: of the matrix products of weights; annealing stays in float32.

    Returns:
        Panel: the estimates by row; ``print`` shows the table and the sentences. A row that does not apply to the pair
        or the setting is in ``.reasons``, and the others are made all the same.

    Raises:
        UserError: a name that is not known or is given twice; or no row applies.

    Example:
        >>> import torch, ppl_vae as pv
        >>> pair = pv.build("linear", data_shape=(5,), latent=2)
        >>> found = pv.panel(pair, torch.zeros(3, 5), proposals=("guide", "qmc"), estimators="iwae", num_samples=100)
        >>> list(found.rows)
        ['iwae', 'qmc']
    """
    asked = _asked(_several(estimators), _several(proposals) or (proposal,))
    refuse_binarised(pair, x)
    index = x.index if isinstance(x, Split) else None
    x, y = as_data(pair, x, y, seed)
    common: dict[str, Any] = {"seed": seed, "progress": progress, "resume": resume, "capture": capture}
    weights = partial(estimates, pair, x, y, precision=precision, **common)
    chains: dict[str, Any] = {"num_chains": num_chains, "num_temperatures": num_temperatures}
    passes, failed = _passes(asked, num_samples)
    work: list[Work] = [
        (tuple(rows), partial(weights, k, tuple(rows.values()), proposal=source)) for source, k, rows in passes
    ]
    if "ais" in asked:
        work.append((("ais",), lambda: [ais(pair, x, y, start=_start(pair, x, y), **chains, **common)]))
    return _made(work, asked, failed, index)


def _several(given: Any) -> tuple[Any, ...]:
    return tuple(given) if isinstance(given, Sequence) and not isinstance(given, str) else (given,)


def _asked(estimators: Sequence[EstimatorLike], proposals: Sequence[ProposalLike]) -> dict[str, Method | None]:
    """The estimator and the proposal of each row, by its name; None of annealing."""
    first, *others = (proposal_of(one) for one in proposals)
    bound = ESTIMATORS["iwae"]
    statistics: list[Estimator] = []
    found: list[tuple[str, Method | None]] = []
    for one in estimators:
        if isinstance(one, str) and one.partition(":")[0] not in ROWS:
            raise UserError(f"estimator {one!r} is not known; choose from {', '.join(ROWS)}, or give a function")
        if one == "ais":
            found.append((one, None))
        elif isinstance(one, str) and one.partition(":")[0] not in ESTIMATORS:
            found.append((one, (bound, proposal_of(one))))
        else:
            statistics.append(resolve(Estimator, one, ESTIMATORS))
            found.append((statistics[-1].name, (statistics[-1], first)))
    if not found:
        raise UserError(f"no estimator was given; choose from {', '.join(ROWS)}")
    if not statistics and first.name != "guide":
        raise UserError(f"proposal={first.name!r} is for {', '.join(ESTIMATORS)}, and none of them was asked for")
    found += [(p.name if e == bound else f"{p.name} {e.name}", (e, p)) for p in others for e in statistics]
    names = [name for name, _ in found]
    if len(set(names)) < len(names):
        raise UserError(
            f"an estimator is named twice: {', '.join(names)}; a custom one gets a name by "
            f"pv.estimators.Estimator(name, function)"
        )
    return dict(found)


def _passes(asked: Mapping[str, Method | None], num_samples: int) -> tuple[list[Pass], dict[str, UserError]]:
    """The rows that share weights, and the rows that don't apply."""
    passes: dict[tuple[int, int], Pass] = {}
    failed: dict[str, UserError] = {}
    for name, (estimator, source) in ((n, method) for n, method in asked.items() if method is not None):
        size = min(num_samples, estimator.most or num_samples)
        try:
            refuse_mismatch(estimator, source, size)
        except UserError as error:
            failed[name] = error
        else:
            passes.setdefault((id(source), size), (source, size, {}))[2][name] = estimator
    return list(passes.values()), failed


def _made(work: Sequence[Work], asked: Collection[str], failed: dict[str, UserError], index: Tensor | None) -> Panel:
    """The rows of every pass, or the reason why it does not apply.

    Raises:
        UserError: no row applies; or the data or the folder are at fault, whatever the estimator.
    """
    rows: dict[str, Estimate] = {}
    seconds: dict[str, float] = {}
    for names, make in work:
        began = time.perf_counter()
        try:
            rows |= zip(names, make(), strict=True)
        except (DataError, RunError):
            raise
        except UserError as error:
            failed.update(dict.fromkeys(names, error))
        except NotImplementedError as error:  # of a distribution
            failed.update(dict.fromkeys(names, UserError(f"a distribution of the pair can't do it ({error})")))
        seconds |= dict.fromkeys(names, time.perf_counter() - began)
    if not rows:
        raise failed[next(iter(asked))]
    made = [name for name in asked if name in rows]
    reasons = {name: str(failed[name]) for name in asked if name in failed}
    return Panel({n: rows[n] for n in made}, {n: seconds[n] for n in made}, reasons, index)


def _start(pair: Any, x: Tensor, y: Tensor | None) -> str:
    """Where annealing starts: at the guide, where there is one."""
    one = to_device(pair, x, y, slice(1))
    with evaluating(pair), forked(device_and_dtype(pair)[0], 0):
        found = programs.sites(pair.guide, trace.call_args(pair.guide, *one))
    return "prior" if all(d.is_observed for d in found.values()) else "guide"
