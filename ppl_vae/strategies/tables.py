"""The tables of a study as files: Markdown, LaTeX, CSV and an xarray dataset."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

COSTS = ("steps", "epochs", "train_seconds", "evaluation_seconds", "decoder_evaluations", "num_parameters")
BY_EXAMPLE = ("log_px", "std_error", "elbo", "khat", "unreliable")
BY_CELL = ("steps", "train_seconds", "decoder_evaluations")
Results = Mapping[str, Mapping[int, Mapping[str, Any]]]


def markdown(cells: Sequence[Sequence[str]], sentences: Sequence[str]) -> str:
    """A table, its head first, and the sentences below it, one a line of a list."""
    head, *rows = ([text.replace("|", "\\|") for text in row] for row in cells)
    lines = ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)]
    return "\n".join([*lines, "", *(f"- {sentence}" for sentence in sentences), ""])


def latex(cells: Sequence[Sequence[str]]) -> str:
    """The table as a ``tabular``; the first and the last column are text."""
    head, *rows = (" & ".join(map(escaped, row)) + r" \\" for row in cells)
    begin = rf"\begin{{tabular}}{{l{'r' * (len(cells[0]) - 2)}l}}"
    return "\n".join([begin, r"\hline", head, r"\hline", *rows, r"\hline", r"\end{tabular}", ""])


def escaped(text: str) -> str:
    """A text with the characters that LaTeX reads as commands escaped, and a minus sign as one."""
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    text = "".join("\\" + c if c in "%_&#${}" else special.get(c, c) for c in text)
    return re.sub(r"(?<![\w.])([+<-])(?= ?\d)", r"$\1$", text)


def by_cell(results: Results) -> str:
    """CSV with a row for each cell."""
    lines = [["strategy", "seed", "status", "log_px", "elbo", "unreliable", *COSTS, "reason"]]
    for name, some in results.items():
        for seed, r in sorted(some.items()):
            done = r["status"] == "done"
            means = [f"{float(r[k].double().mean()):.6g}" if done else "" for k in ("log_px", "elbo", "unreliable")]
            costs = [f"{r[k]:.6g}" if done else "" for k in COSTS]
            lines.append([name, str(seed), r["status"], *means, *costs, r.get("reason", "")])
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()


def by_strategy(rows: Sequence[Mapping[str, Any]], reference: str) -> Any:
    """The rows of a table as an ``xarray.Dataset`` over ``strategy``; NaN where there is no number."""
    import xarray as xr

    found = {}
    for key in (k for k in rows[0] if k != "strategy"):
        values = [row[key] for row in rows]
        text = key.startswith("verdict")
        found[key] = ("strategy", np.array(values) if text else np.array(values, dtype=float))  # None is NaN
    return xr.Dataset(found, {"strategy": [r["strategy"] for r in rows]}, {"reference": reference, "units": "nats"})


def dataset(results: Results, seeds: Sequence[int]) -> Any:
    """The estimates as an ``xarray.Dataset`` over strategy, seed and example; NaN where none is."""
    import xarray as xr

    done = {(n, s): r for n, some in results.items() for s, r in some.items() if r["status"] == "done"}
    names, size = list(results), max((len(r["log_px"]) for r in done.values()), default=0)
    shape = (len(names), len(seeds), size)
    examples = {k: np.full(shape, np.nan) for k in BY_EXAMPLE}
    costs = {k: np.full(shape[:2], np.nan) for k in BY_CELL}
    for (name, seed), r in done.items():
        at = names.index(name), list(seeds).index(seed)
        for k, values in examples.items():
            values[at] = r[k].double().numpy()
        for k, values in costs.items():
            values[at] = r[k]
    found: dict[str, Any] = {k: (("strategy", "seed", "example"), v) for k, v in examples.items()}
    found |= {k: (("strategy", "seed"), v) for k, v in costs.items()}
    rows = next((r["index"].numpy() for r in done.values() if len(r.get("index", ())) == size), np.arange(size))
    coords = {"strategy": names, "seed": list(seeds), "example": rows}
    return xr.Dataset(found, coords=coords)
