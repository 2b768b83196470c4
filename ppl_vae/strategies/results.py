"""What a study found: estimates by strategy, seed and example, verdicts, and tables of them."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..common.errors import UserError
from ..common.files import writable, write_bytes, write_text
from ..common.shown import Shown, interval
from .statistics import Array, Comparison, against, paired
from .strategy import Strategy, shown

Results = Mapping[str, Mapping[int, Mapping[str, Any]]]


@dataclass(frozen=True, eq=False, repr=False)
class Study(Shown):
    """What :func:`ppl_vae.study` found.

    Attributes:
        strategies: by name, after tuning.
        seeds: that were asked for.
        reference: the strategy that the others are compared with.
        results: by strategy and seed, of each cell that is complete: ``status``, ``reason`` where it failed, ``log_px``
            (N,) and the rest of its estimate, ``history``, ``steps``, ``train_seconds``, ``folder`` and more.
        out: the folder.
        budget: of each cell.
        evaluation: of each cell.
        data: the record of the data.
        tuned: the options that were chosen on the validation data, by strategy.
    """

    strategies: Mapping[str, Strategy]
    seeds: tuple[int, ...]
    reference: str
    results: Results
    out: Path
    budget: Mapping[str, float]
    evaluation: Mapping[str, Any]
    data: Mapping[str, Any]
    tuned: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def done(self, name: str) -> dict[int, Mapping[str, Any]]:
        """The cells of a strategy that were trained and evaluated, by seed."""
        return {seed: r for seed, r in sorted(self.results[name].items()) if r["status"] == "done"}

    @property
    def failed(self) -> list[tuple[str, int, str]]:
        """Strategy, seed and reason of each cell that failed."""
        cells = ((name, seed, r) for name, some in self.results.items() for seed, r in sorted(some.items()))
        return [(name, seed, str(r["reason"])) for name, seed, r in cells if r["status"] == "failed"]

    @property
    def missing(self) -> list[tuple[str, int]]:
        """Strategy and seed of each cell that was not run yet."""
        return [(name, seed) for name, some in self.results.items() for seed in self.seeds if seed not in some]

    @cached_property
    def log_px(self) -> dict[str, Array]:
        """Estimates of log p(x) by strategy, (seeds, examples), of the strategies that have any; nats."""
        found = {name: self.done(name) for name in self.results}
        return {n: np.stack([r["log_px"].numpy() for r in some.values()]) for n, some in found.items() if some}

    @cached_property
    def slack(self) -> dict[str, float]:
        """How much higher the mean log p(x) of a strategy may lie: the gap to the ELBO of its unreliable examples."""
        found = {}
        for name in self.log_px:
            gaps = [(r["log_px"] - r["elbo"]) * r["unreliable"] for r in self.done(name).values()]
            found[name] = float(np.mean([float(gap.clamp(min=0).mean()) for gap in gaps]))
        return found

    @property
    def best(self) -> str:
        """The strategy with the highest mean log p(x).

        Raises:
            UserError: no cell is done.
        """
        if not self.log_px:
            raise UserError("study: no cell was trained and evaluated" + self._why())
        return max(self.log_px, key=lambda name: float(self.log_px[name].mean()))

    def compare(self, other: str | None = None) -> dict[str, Comparison]:
        """Each strategy against another one, simultaneously at 5 %: None takes the reference.

        Paired by seed and example, see :func:`ppl_vae.strategies.statistics.against`. Against the best, which the
        figures chose, the correction is for all pairs of strategies.

        Raises:
            UserError: no cell of the other is done.
        """
        other = self.reference if other is None else other
        if other not in self.log_px:
            raise UserError(f"study: no cell of {other!r} was trained and evaluated" + self._why())
        chosen_after = other != self.reference
        return against(self._common(), other, slack=self.slack, chosen_after=chosen_after)

    def _common(self) -> dict[str, Array]:
        """The estimates of each strategy, those of the seeds that all have first."""
        seeds = [set(self.done(name)) for name in self.log_px]
        shared = set.intersection(*seeds) if seeds else set()
        found = {}
        for name, values in self.log_px.items():
            is_own = [seed not in shared for seed in self.done(name)]
            found[name] = values[np.argsort(is_own, kind="stable")]
        return found

    def _why(self) -> str:
        return f": {self.failed[0][0]}, seed {self.failed[0][1]}: {self.failed[0][2]}" if self.failed else ""

    def table(self) -> list[dict[str, Any]]:
        """One JSON-able dictionary a strategy.

        ``log_px`` is the mean over seeds and examples, ``se`` its standard error over both, ``sd_seeds`` the standard
        deviation of a training run's mean; ``diff``, its ``low`` and ``high`` end, ``p`` and ``verdict`` are against
        the reference, and ``verdict_best`` against the best. ``unreliable`` is the share of examples whose diagnostics
        say so, ``elbo`` that of the guide, ``seconds`` those of training a cell.
        """
        first = self.compare() if self.reference in self.log_px else {}
        best = self.compare(self.best) if self.log_px and self.best != self.reference else first
        rows = []
        for name in self.results:
            done = self.done(name)
            row: dict[str, Any] = {"strategy": name, "seeds": len(done), "failed": len(self.results[name]) - len(done)}
            row |= _figures(self.log_px.get(name), list(done.values()))
            one = first.get(name)
            keys = ("diff", "low", "high", "p")
            row |= {k: None if one is None else _finite(getattr(one, k)) for k in keys}
            row["verdict"] = "reference" if name == self.reference else "" if one is None else one.verdict
            row["verdict_best"] = "best" if done and name == self.best else best[name].verdict if name in best else ""
            rows.append(row)
        return rows

    def record(self) -> dict[str, Any]:
        """The study as JSON holds it, with its table."""
        return {
            "reference": self.reference, "seeds": list(self.seeds), "budget": dict(self.budget),
            "evaluation": dict(self.evaluation), "data": dict(self.data), "table": self.table(),
            "strategies": {name: s.record() for name, s in self.strategies.items()},
            "tuned": {name: {k: shown(v) for k, v in some.items()} for name, some in self.tuned.items()},
            "failed": [{"strategy": n, "seed": s, "reason": why} for n, s, why in self.failed],
            "cells": {name: {str(s): r["folder"] for s, r in some.items()} for name, some in self.results.items()},
        }  # fmt: skip

    def sentences(self) -> list[str]:
        """What the table says, in plain words, with how many seeds would tell what it does not."""
        if not self.log_px:
            return ["No cell was trained and evaluated" + self._why() + "."]
        found = []
        if self.reference in self.log_px:
            found += [_sentence(one, self.slack) for one in self.compare().values()]
        bad = {r["strategy"]: r["unreliable"] for r in self.table() if r["unreliable"]}
        found += [
            f"{name}: {_percent(share)} of its examples are unreliable, and its log p(x) may lie "
            f"{self.slack[name]:.2f} nats higher; intervals allow for that."
            for name, share in bad.items()
        ]
        reasons: dict[tuple[str, str], list[int]] = {}
        for name, seed, why in self.failed:
            reasons.setdefault((name, why), []).append(seed)
        found += [f"{name} failed ({_seeds(seeds)}): {why}" for (name, why), seeds in reasons.items()]
        if self.missing:
            found.append(f"{len(self.missing)} cells were not run yet; the same call runs them.")
        return found

    def cells(self) -> list[list[str]]:
        """The table as text, its head first."""
        found = [["strategy", "seeds", "log p(x)", "SE", "SD seeds", "bad k", "difference", "95 %", "p", "verdict"]]
        for r in self.table():
            numbers = [_shown(r[k], 3) for k in ("log_px", "se", "sd_seeds")]
            diff = "" if r["diff"] is None else f"{r['diff']:+.3f}"
            ends = "" if r["low"] is None or r["high"] is None else f"{r['low']:.2f} to {r['high']:.2f}"
            p = "" if r["p"] is None else "< 0.001" if r["p"] < 0.001 else f"{r['p']:.3f}"
            bad = _percent(r["unreliable"])
            found.append([r["strategy"], str(r["seeds"]), *numbers, bad, diff, ends, p, r["verdict"]])
        return found

    def __str__(self) -> str:
        width = max(8, *(len(name) for name in self.results))
        line = f"{{:<{width}}}  {{:>5}}{{:>11}}{{:>8}}{{:>9}}{{:>8}}{{:>12}}{{:>18}}{{:>9}}  {{:<12}}"
        lines = [line.format(*row).rstrip() for row in self.cells()]
        return "\n".join([*lines, *self.notes()])

    def drawn(self) -> list[list[str]]:
        """The table with each interval as a drawing, on one axis with a line at zero; its ends are in the sentences."""
        head, *rows = self.cells()
        found = [(r["low"], r["diff"], r["high"]) for r in self.table()]
        reach = max((abs(end) for ends in found for end in ends if end is not None), default=0.0)
        drawings = ["" if diff is None else interval(_end(low), diff, _end(high), reach) for low, diff, high in found]
        at = head.index("95 %")
        return [head, *([*r[:at], d, *r[at + 1 :]] for r, d in zip(rows, drawings, strict=True))]

    def notes(self) -> list[str]:
        """What the table says, and of what it is."""
        about = f"nats; {self._about()}; intervals and p-values together at 5 %, paired by seed and example"
        return [*self.sentences(), about]

    def _about(self) -> str:
        budget = ", ".join(f"{amount:g} {kind.replace('_', ' ')}" for kind, amount in self.budget.items())
        e = self.evaluation
        n = len(next(iter(self.log_px.values()))[0]) if self.log_px else 0
        return (
            f"{n} {e['split']} examples, K = {e['num_samples']}, proposal {e['proposal']}; budget {budget or 'epochs'}"
        )

    def write(self, folder: str | Path) -> list[str]:
        """Write the tables: ``table.md``, ``table.tex``, ``results.csv`` by cell, ``results.nc``; returns paths."""
        folder = writable(Path(folder))
        head, *rows = self.cells()
        marks = ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)]
        write_text(folder / "table.md", "\n".join([*marks, "", *self.sentences(), ""]))
        lines = [" & ".join(map(_tex, row)) + r" \\" for row in (head, *rows)]
        begin = rf"\begin{{tabular}}{{l{'r' * (len(head) - 2)}l}}"
        text = [begin, r"\hline", lines[0], r"\hline", *lines[1:], r"\hline", r"\end{tabular}", ""]
        write_text(folder / "table.tex", "\n".join(text))
        write_text(folder / "results.csv", self._csv())
        write_bytes(folder / "results.nc", bytes(self.dataset().to_netcdf(engine="scipy")))
        return [str(folder / name) for name in ("study.json", "table.md", "table.tex", "results.csv", "results.nc")]

    def _csv(self) -> str:
        """A row for each cell."""
        keys = ("steps", "epochs", "train_seconds", "evaluation_seconds", "decoder_evaluations", "num_parameters")
        lines = [["strategy", "seed", "status", "log_px", "elbo", "unreliable", *keys, "reason"]]
        for name, some in self.results.items():
            for seed, r in sorted(some.items()):
                done = r["status"] == "done"
                means = [f"{float(r[k].double().mean()):.6g}" if done else "" for k in ("log_px", "elbo", "unreliable")]
                costs = [f"{r[k]:.6g}" if done else "" for k in keys]
                lines.append([name, str(seed), r["status"], *means, *costs, r.get("reason", "")])
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(lines)
        return text.getvalue()

    def dataset(self) -> Any:
        """The estimates and the table as an ``xarray.Dataset`` over strategy, seed and example; NaN where none is."""
        import xarray as xr

        names, n = list(self.results), max((values.shape[1] for values in self.log_px.values()), default=0)
        shape = (len(names), len(self.seeds), n)
        cells = {k: np.full(shape, np.nan) for k in ("log_px", "std_error", "elbo", "khat", "unreliable")}
        costs = {k: np.full(shape[:2], np.nan) for k in ("steps", "train_seconds", "decoder_evaluations")}
        for i, name in enumerate(names):
            for seed, r in self.done(name).items():
                at = i, self.seeds.index(seed)
                for k, values in cells.items():
                    values[at] = r[k].double().numpy()
                for k, values in costs.items():
                    values[at] = r[k]
        found: dict[str, Any] = {k: (("strategy", "seed", "example"), v) for k, v in cells.items()}
        found |= {k: (("strategy", "seed"), v) for k, v in costs.items()}
        table = self.table()
        for k in ("diff", "low", "high", "p"):
            found[k] = ("strategy", np.array([np.nan if row[k] is None else row[k] for row in table], dtype=float))
        found["verdict"] = ("strategy", np.array([row["verdict"] for row in table]))
        coords = {"strategy": names, "seed": list(self.seeds), "example": np.arange(n)}
        return xr.Dataset(found, coords=coords, attrs={"reference": self.reference, "units": "nats"})


def _figures(log_px: Array | None, results: list[Mapping[str, Any]]) -> dict[str, Any]:
    """The figures of a strategy by itself."""
    if log_px is None:
        return dict.fromkeys(("log_px", "se", "sd_seeds", "elbo", "unreliable", "steps", "seconds"))
    several = len(log_px) > 1 and log_px.shape[1] > 1 and bool(np.isfinite(log_px).all())
    return {
        "log_px": _finite(float(log_px.mean())),
        "se": paired(log_px).se if several else None,
        "sd_seeds": float(log_px.mean(1).std(ddof=1)) if several else None,
        "elbo": _finite(float(np.mean([float(r["elbo"].mean()) for r in results]))),
        "unreliable": float(np.mean([float(r["unreliable"].double().mean()) for r in results])),
        "steps": float(np.mean([r["steps"] for r in results])),
        "seconds": float(np.mean([r["train_seconds"] for r in results])),
    }


def _sentence(one: Comparison, slack: Mapping[str, float]) -> str:
    """A comparison in words."""
    if one.verdict == "one seed":
        return f"{one.strategy}: one seed proves nothing about a strategy; train at least three."
    if one.paired is None:
        return f"{one.strategy} is {one.verdict} than {one.other}: an example has probability zero."
    ends = f"{one.diff:+.2f} nats, 95 % interval {one.low:.2f} to {one.high:.2f}"
    if one.verdict != "cannot tell":
        return f"{one.strategy} is {one.verdict} than {one.other}: {ends}."
    if one.diff == 0 and one.se == 0:
        return f"{one.strategy} and {one.other} have the same figures."
    if abs(one.diff) <= max(slack[one.strategy], slack[one.other]):
        return f"{one.strategy} and {one.other} cannot be told apart: {ends}; unreliable examples may hide as much."
    size = max(abs(one.diff), 0.01)
    seeds = one.paired.seeds_needed(size)
    seeds = None if seeds is None else max(seeds, one.paired.num_seeds + 1)
    tell = f"some {seeds} seeds would" if seeds else "on so few examples no number of seeds would"
    more = f"{tell} tell {size:.2f} nats"
    return f"{one.strategy} and {one.other} cannot be told apart: {ends}; {more}."


def _tex(text: str) -> str:
    """A text with the characters that LaTeX reads as commands escaped, and a minus sign as one."""
    text = "".join("\\" + c if c in "%_&#$" else c for c in text)
    return re.sub(r"(?<![\w.])([+<-])(?= ?\d)", r"$\1$", text)


def _seeds(seeds: list[int]) -> str:
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _end(value: float | None) -> float:
    """The end of an interval; one that is not known reaches out of the drawing."""
    return math.nan if value is None else value


def _shown(value: float | None, places: int) -> str:
    return "-" if value is None else f"{value:.{places}f}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"
