"""What a study found: estimates by strategy, seed and example, verdicts, and tables of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..common.errors import UserError
from ..common.files import writable, write_bytes, write_text
from ..common.shown import Shown
from ..likelihood.gaps import NAMES as CAUSES
from ..reports.study import facts
from ..reports.write import write_report
from . import tables, texts
from .curves import curve, first
from .statistics import Array, Comparison, against, paired

TABLES = ("table.md", "table.tex", "results.csv", "results.nc")
QUANTITIES = ("log_px", "elbo", "gap")


@dataclass(frozen=True, eq=False, repr=False)
class Study(Shown):
    """What :func:`ppl_vae.study` found; :func:`load_study` reads it from its folder.

    Attributes:
        strategies: by name, after tuning, as facts; ``given`` are the options that differ from their defaults.
        seeds: that were asked for.
        reference: the strategy that the others are compared with.
        results: by strategy and seed, of each cell that is complete: ``status``, ``reason`` where it failed, ``log_px``
            (N,) and the rest of its estimate, ``elbo`` (N,) of its guide, ``history``, ``steps``, ``train_seconds``,
            ``folder`` and more.
        out: the folder.
        budget: of each cell.
        evaluation: of each cell.
        data: the record of the data.
        tuned: the options that were chosen on the validation data, by strategy.
        folders: of the cells of each strategy, within ``out``.
    """

    strategies: Mapping[str, Mapping[str, Any]]
    seeds: tuple[int, ...]
    reference: str
    results: tables.Results
    out: Path
    budget: Mapping[str, float]
    evaluation: Mapping[str, Any]
    data: Mapping[str, Any]
    tuned: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    folders: Mapping[str, str] = field(default_factory=dict)

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
        return self._stacked("log_px")

    @cached_property
    def elbo(self) -> dict[str, Array]:
        """Estimates of the ELBO of the guide by strategy, (seeds, examples); nats."""
        return self._stacked("elbo")

    @property
    def gap(self) -> dict[str, Array]:
        """How far the ELBO of the guide lies below log p(x), by strategy, (seeds, examples); nats."""
        return {name: values - self.elbo[name] for name, values in self.log_px.items()}

    @cached_property
    def causes(self) -> dict[str, dict[str, Array]]:
        """The gap by its causes (:func:`ppl_vae.gaps`), of strategies whose cells have it: each (seeds, examples)."""
        return self.of_gaps(tuple(CAUSES))

    def of_gaps(self, names: tuple[str, ...]) -> dict[str, dict[str, Array]]:
        """Variables of :func:`ppl_vae.gaps`, of strategies whose cells have them: each (seeds, examples)."""
        found = {}
        for name in self.log_px:
            cells = list(self.done(name).values())
            if all(f"gap.{each}" in r for r in cells for each in names):
                found[name] = {each: np.stack([r[f"gap.{each}"].numpy() for r in cells]) for each in names}
        return found

    def _stacked(self, key: str) -> dict[str, Array]:
        found = {name: self.done(name) for name in self.results}
        return {n: np.stack([r[key].double().numpy() for r in some.values()]) for n, some in found.items() if some}

    @cached_property
    def slack(self) -> dict[str, float]:
        """How much higher the mean log p(x) of a strategy may lie: what its unreliable examples gained over their ELBO.

        That is the ELBO of the proposal, the mean log weight.
        """
        found = {}
        for name in self.log_px:
            cells = self.done(name).values()
            gaps = [torch.where(r["unreliable"].bool(), r["log_px"] - r["mean_log_w"], 0.0) for r in cells]
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
        whose = [n for n in self.log_px if self.quantity(n) == self.quantity(self._first)]
        return max(whose, key=lambda name: float(self.log_px[name].mean()))

    @property
    def _first(self) -> str:
        """The reference, or the first strategy that has estimates."""
        return self.reference if self.reference in self.log_px else next(iter(self.log_px))

    def compare(self, other: str | None = None, of: str = "log_px") -> dict[str, Comparison]:
        """Each strategy against another one, simultaneously at 5 %: None takes the reference.

        Paired by seed and example, see :func:`ppl_vae.strategies.statistics.against`. Against the best, which the
        figures chose, the correction is for all pairs of strategies. A difference of ELBOs is that of the models,
        ``"log_px"``, less that of inference, ``"gap"``.

        Args:
            other: the strategy to compare with.
            of: ``"log_px"``, ``"elbo"`` of the guide, or ``"gap"`` between the two, of which less is better.

        Raises:
            UserError: no cell of the other is done, or another quantity.
        """
        other = self.reference if other is None else other
        if of not in QUANTITIES:
            raise UserError(f"compare: of={of!r}: choose one of {', '.join(QUANTITIES)}")
        if other not in self.log_px:
            raise UserError(f"study: no cell of {other!r} was trained and evaluated" + self._why())
        slack = {} if of == "elbo" else self.slack
        same = {n: v for n, v in getattr(self, of).items() if self.quantity(n) == self.quantity(other)}
        found = against(self._by_seed(same), other, slack=slack, chosen_after=other != self.reference)
        return {name: one.flipped() for name, one in found.items()} if of == "gap" else found

    def quantity(self, name: str) -> str:
        """What the estimates of a strategy are of: ``"log p(x)"``, ``"log p(x | y)"`` or ``"log p(x, y)"``."""
        return str(next(iter(self.done(name).values()))["quantity"])

    def _by_seed(self, values: Mapping[str, Array]) -> dict[str, Array]:
        """Values of each strategy with a row for every seed: of NaN where a cell is not done."""
        found = {}
        for name, some in values.items():
            found[name] = np.full((len(self.seeds), some.shape[1]), np.nan)
            found[name][[self.seeds.index(seed) for seed in self.done(name)]] = some
        return found

    def parts(self) -> list[dict[str, Any]]:
        """Where each difference of ELBOs to the reference comes from: a dictionary a strategy, nats.

        ``elbo`` is the difference, ``model`` the part of log p(x), and ``inference`` that of the guide, how much
        smaller its gap is: ``elbo = model + inference``. Each has its ends ``low`` and ``high``, and a verdict.
        """
        names = {"elbo": "elbo", "model": "log_px", "inference": "gap"}
        found = {part: self.compare(of=of) for part, of in names.items()}
        rows = []
        for name in found["elbo"]:
            row: dict[str, Any] = {"strategy": name}
            for part, some in found.items():
                one = some[name].negated() if part == "inference" else some[name]
                row[part] = {k: _finite(getattr(one, k)) for k in ("diff", "low", "high")} | {"verdict": one.verdict}
            rows.append(row)
        return rows

    def reached(self, elbo: float | None = None, against: str = "seconds") -> dict[str, list[float]]:
        """How much training each run took to reach a validation ELBO; infinite where it did not.

        Between two epochs the bound is taken to rise evenly. Seeds are in the order of :meth:`done`.

        Args:
            elbo: nats per example; None takes what the reference has at its end, on average.
            against: ``"seconds"`` of training, ``"steps"``, ``"epochs"`` or ``"decoder_evaluations"``.

        Raises:
            UserError: no run has a validation bound, or another axis.
        """
        curves = {name: some for name in self.log_px if (some := self.curves(name, against))}
        if elbo is None:
            if self.reference not in curves:
                raise UserError(f"study: the runs of {self.reference!r} have no validation bound; give elbo=")
            elbo = float(np.mean([bounds[-1] for _, bounds in curves[self.reference]]))
        return {name: [first(places, bounds, elbo) for places, bounds in some] for name, some in curves.items()}

    def curves(self, name: str, against: str = "steps") -> list[tuple[Array, Array]]:
        """The validation ELBO of each run of a strategy: where each epoch ends on an axis, and the bound there, nats.

        Empty where the runs have none.

        Raises:
            UserError: another axis.
        """
        found = [curve(r, against) for r in self.done(name).values()]
        return [one for one in found if one is not None] if all(found) else []

    def _why(self) -> str:
        return f": {self.failed[0][0]}, seed {self.failed[0][1]}: {self.failed[0][2]}" if self.failed else ""

    @property
    def table(self) -> Any:
        """The table as an ``xarray.Dataset`` over ``strategy``: what :meth:`rows` has, NaN where it has nothing."""
        return tables.by_strategy(self.rows(), self.reference)

    def rows(self) -> list[dict[str, Any]]:
        """The table as JSON-able dictionaries, one a strategy.

        ``log_px`` is the mean over seeds and examples, ``log_px_se`` its standard error over both, ``sd_seeds`` the
        standard deviation of a training run's mean. ``diff``, ``diff_se``, ``low`` and ``high``, the ends of its
        interval, ``p`` and ``verdict`` are against the best, as in :func:`ppl_vae.compare`; with ``_to_reference``
        they are against the reference. ``unreliable`` is the share of examples whose diagnostics say so, ``elbo`` that
        of the guide, ``active`` how many dimensions of the latents vary with the data, and ``seconds`` those of
        training a cell.
        """
        first = self.compare() if self.reference in self.log_px else {}
        best = self.compare(self.best) if self.log_px and self.best != self.reference else first
        rows = []
        for name in self.results:
            done = self.done(name)
            row: dict[str, Any] = {"strategy": name, "seeds": len(done), "failed": len(self.results[name]) - len(done)}
            row |= _figures(self.log_px.get(name), list(done.values()))
            row |= _against(best.get(name), "best" if done and name == self.best else "")
            of_reference = _against(first.get(name), "reference" if name == self.reference else "")
            rows.append(row | {f"{k}_to_reference": v for k, v in of_reference.items()})
        return rows

    def record(self) -> dict[str, Any]:
        """The study as JSON holds it, with its table."""
        return {
            "reference": self.reference, "seeds": list(self.seeds), "budget": dict(self.budget),
            "evaluation": dict(self.evaluation), "data": dict(self.data), "table": self.rows(),
            "strategies": {name: dict(facts) for name, facts in self.strategies.items()},
            "tuned": {name: dict(some) for name, some in self.tuned.items()},
            "failed": [{"strategy": n, "seed": s, "reason": why} for n, s, why in self.failed],
            "folders": dict(self.folders),
        }  # fmt: skip

    def sentences(self) -> list[str]:
        """What the table says, in plain words, with how many seeds would tell what it does not."""
        if not self.log_px:
            return ["No cell was trained and evaluated" + self._why() + "."]
        found = []
        if self.reference in self.log_px:
            found += texts.of_comparisons(self.compare().values(), self.slack, len(self.log_px) - 1)
            found += texts.of_quantities({name: self.quantity(name) for name in self.log_px}, self.reference)
        found += texts.of_unreliable(self.rows(), self.slack)
        found += texts.of_failures(self.failed, self.log_px) + texts.of_tuning(self.tuned)
        if self.missing:
            found.append(f"{len(self.missing)} cells were not run yet; the same call runs them.")
        return found

    def cells(self) -> list[list[str]]:
        """The table as text, its head first."""
        return texts.cells(self.rows())

    def __str__(self) -> str:
        return "\n".join([*texts.aligned(self.cells()), *self.notes()])

    def drawn(self) -> list[list[str]]:
        """The table with each interval as a drawing, on one axis with a line at zero; its ends are in the sentences."""
        return texts.drawn(self.rows())

    def notes(self) -> list[str]:
        """What the table says, and of what it is."""
        about = f"nats; {self._about()}; verdicts together at 5 %, paired by seed and example"
        return [*self.sentences(), about]

    def _about(self) -> str:
        budget = ", ".join(f"{amount:g} {kind.replace('_', ' ')}" for kind, amount in self.budget.items())
        e = self.evaluation
        n = len(next(iter(self.log_px.values()))[0]) if self.log_px else 0
        return (
            f"{n} {e['split']} examples, K = {e['num_samples']}, proposal {e['proposal']}; budget {budget or 'epochs'}"
        )

    @property
    def files(self) -> list[str]:
        """The paths of ``study.json`` and of the tables."""
        return [str(Path(self.out) / name) for name in ("study.json", *TABLES)]

    def write(self) -> None:
        """Write the tables: ``table.md``, ``table.tex``, ``results.csv`` by cell, ``results.nc``, and the report."""
        folder = writable(Path(self.out))
        write_text(folder / "table.md", tables.markdown(self.cells(), self.sentences()))
        write_text(folder / "table.tex", tables.latex(self.cells()))
        write_text(folder / "results.csv", tables.by_cell(self.results))
        write_bytes(folder / "results.nc", bytes(self.dataset().to_netcdf(engine="scipy")))
        if self.log_px:
            self.report()

    def dataset(self) -> Any:
        """The estimates and the table as an ``xarray.Dataset`` over strategy, seed and example; NaN where none is."""
        sheet, table = tables.dataset(self.results, self.seeds), self.table
        about = {f"evaluation_{k}": str(v) for k, v in self.evaluation.items()}
        return sheet.merge(table.drop_vars([k for k in table if k in sheet])).assign_attrs(table.attrs | about)

    def report(self, out: str | Path | None = None) -> Path:
        """Write a report on this study, one HTML file, see :func:`ppl_vae.report`; returns its path.

        Args:
            out: the file; None takes ``report.html`` in the folder.
        """
        return write_report("study.html", facts(self), Path(self.out) / "report.html" if out is None else Path(out))


def _against(one: Comparison | None, otherwise: str) -> dict[str, Any]:
    """The figures of a comparison; those of a strategy with itself are zero, and those of none are None."""
    keys = {"diff": "diff", "diff_se": "se", "low": "low", "high": "high", "p": "p"}
    if one is not None:
        return {k: _finite(getattr(one, of)) for k, of in keys.items()} | {"verdict": one.verdict}
    return dict.fromkeys(keys, 0.0 if otherwise else None) | {"p": None, "verdict": otherwise}


def _figures(log_px: Array | None, results: list[Mapping[str, Any]]) -> dict[str, Any]:
    """The figures of a strategy by itself."""
    if log_px is None:
        return dict.fromkeys(("log_px", "log_px_se", "sd_seeds", "elbo", "unreliable", "active", "steps", "seconds"))
    several = len(log_px) > 1 and log_px.shape[1] > 1 and bool(np.isfinite(log_px).all())
    return {
        "log_px": _finite(float(log_px.mean())),
        "log_px_se": paired(log_px).se if several else None,
        "sd_seeds": float(log_px.mean(1).std(ddof=1)) if several else None,
        "elbo": _finite(float(np.mean([float(r["elbo"].mean()) for r in results]))),
        "unreliable": float(np.mean([float(r["unreliable"].double().mean()) for r in results])),
        "active": float(np.mean([r["latents"]["active"] for r in results])) if "latents" in results[0] else None,
        "steps": float(np.mean([r["steps"] for r in results])),
        "seconds": float(np.mean([r["train_seconds"] for r in results])),
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
