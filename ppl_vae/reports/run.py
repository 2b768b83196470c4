"""What the report of a run says: its evaluation, how far to trust it, its figures, its settings."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import Any

import torch

from ..common.errors import RunError
from ..common.files import read_json
from ..figures.likelihood import khat_scatter, log_px_histogram, loss_curves
from ..likelihood.diagnostics import khat_threshold
from ..likelihood.result import SOURCES, Estimate
from ..runs.folder import read_config
from .page import Picture, drawn, embedded

PNGS = {  # written by evaluate and train: a heading, and what is seen
    "samples": ("Samples", "Draws from the model"),
    "reconstructions": ("Reconstructions", "Ten test examples, and below each its reconstruction"),
    "latent_grid": ("The latent plane", "Means of p(x|z) on a grid of the two latents"),
    "latent_scatter": ("Codes", "Scatter plot of the codes of test examples, coloured by label"),
    "interpolation": ("Between two examples", "Means of p(x|z) on the line between the codes of two examples"),
    "traversal": ("One latent at a time", "Means of p(x|z) as one latent moves and the others stay"),
    "bound_curves": ("The bound against K", "Curves of the K-sample bound under several proposals"),
    "sandwich": ("Between two bounds", "Lower and upper bounds of examples that the model drew"),
    "gaps": ("The gap of the ELBO", "Stacked bars: what the ELBO of each example lacks, by cause"),
    "kl": ("KL by dimension", "Bars: the KL that each latent dimension carries"),
}


def facts(folder: Path) -> dict[str, Any]:
    """The facts of the template of a run.

    Raises:
        RunError: there is no run, or it was not evaluated.
    """
    config, path = read_config(folder), folder / "evaluation.json"
    if not path.is_file():
        raise RunError(f"{folder}: it was not evaluated yet; first run: ppl-vae evaluate {quote(str(folder))}")
    result = read_json(path)
    estimate = _estimate(folder, result)
    return {
        "title": f"{result['pair']} on {result['data']}: {_headline(result)}",
        "about": f"{result['n']} {result['split']} examples, K = {result['num_samples']}, seed {result['seed']}, "
        f"proposal {result.get('proposal', 'guide')}.",
        "evaluation": _rows(result),
        "estimators": _estimators(result),
        "sentences": result.get("sentences") or trust(result),
        "pictures": _pictures(folder, estimate),
        "settings": _settings(config),
        "command": _commands(folder, config, result),
    }


def trust(result: Mapping[str, Any]) -> list[str]:
    """How far an evaluation can be trusted, in sentences."""
    if result["log_px_mean"] is None:
        return [str(result["note"])]
    n, share, exact = result["n"], result["khat_fraction_unreliable"], result["khat_exact"] == result["n"]
    quantity, found = result["quantity"], []
    if exact:
        return [f"{quantity} is exact."]
    found.append(f"{quantity} is a lower bound in expectation: on average the truth lies at or above it.")
    if result["log_px_se"] is not None:
        found.append(f"± {result['log_px_se']:.3f} nats is the standard error over the choice of examples.")
    threshold = khat_threshold(result["num_samples"])
    if share == 0:
        found.append(f"No example is unreliable: Pareto k is below {threshold:.2f} wherever there is one.")
    else:
        found.append(
            f"{round(share * n)} of {n} examples are unreliable (Pareto k at or above {threshold:.2f}): their "
            f"{quantity} may lie well above the bound."
        )
        if result.get("proposal", "guide") == "guide":
            found.append("Better draws help: evaluate with --proposal auto.")
    if sources := result.get("sources"):
        listed = ", ".join(f"{count} by {name}" for name, count in sources.items())
        found.append(f"Each example has the first proposal that its k accepts: {listed}.")
        if sources.get("ais"):
            found.append("Annealed examples have no k; they are unreliable where one chain is nearly all of the sum.")
    return found


def _headline(result: Mapping[str, Any]) -> str:
    if result["log_px_mean"] is None:
        return "no log p(x)"
    error = "" if result["log_px_se"] is None else f" ± {result['log_px_se']:.2f}"
    return f"{result['quantity']} {result['log_px_mean']:.2f}{error} nats"


def _rows(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    names = {
        "log_px_mean": "log p(x), mean", "log_px_se": "standard error (data)", "elbo_mean": "mean log weight",
        "bits_per_dim": "bits per dimension", "ess_min": "smallest ESS", "khat_max": "largest Pareto k",
        "khat_fraction_unreliable": "share of unreliable examples", "estimator": "estimator",
    }  # fmt: skip
    rows = []
    for key, title in names.items():
        value = result.get(key)
        if value is not None:
            rows.append((title, f"{value:.4g}" if isinstance(value, float) and abs(value) < 1 else _number(value)))
    return rows


def _number(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _estimators(result: Mapping[str, Any]) -> list[list[str]]:
    """The table of a panel of estimators."""
    rows = result.get("estimators") or []
    if not rows:
        return []
    keys = [k for k in rows[0] if all(not isinstance(row.get(k), dict | list) for row in rows)]
    return [keys, *([_number(row.get(k)) if row.get(k) is not None else "-" for k in keys] for row in rows)]


def _estimate(folder: Path, result: Mapping[str, Any]) -> Estimate | None:
    """The estimate of log_px.csv; None where there is none."""
    path = folder / "log_px.csv"
    if not path.is_file() or result["log_px_mean"] is None:
        return None
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    try:
        columns: dict[str, Any] = {
            k: torch.tensor([float(row[k]) for row in rows], dtype=torch.float64)
            for k in ("log_px", "std_error", "ess", "khat", "elbo")
        }
        names = [row.get("proposal") for row in rows]
        source = None if None in names else torch.tensor([SOURCES.index(str(name)) for name in names])
    except (KeyError, ValueError) as error:
        raise RunError(f"{path}: it is not what evaluate writes ({error}); evaluate the run anew") from None
    bits = result["bits_per_dim"]
    size = -result["log_px_mean"] / (bits * math.log(2)) if bits else 1.0
    about: dict[str, Any] = {k: result[k] for k in ("num_samples", "seed")} | {"name": result["quantity"]}
    about |= {"num_dims": size, "block": 0, "chunk": 0, "proposal": result.get("proposal", "guide"), "source": source}
    return Estimate(**columns, **about)


def _pictures(folder: Path, estimate: Estimate | None) -> list[Picture]:
    found, path = [], folder / "history.jsonl"
    if path.is_file():
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        last = rows[-1].get("valid_elbo") or rows[-1]["train_bound"]
        alt = f"Bounds against epochs, from 1 to {len(rows)}; the last is {last:.2f} nats"
        found.append(drawn("Training", alt, loss_curves(rows)))
    if estimate is not None:
        low, high = float(estimate.log_px.min()), float(estimate.log_px.max())
        alt = f"Histogram of {estimate.name} of {len(estimate)} examples, from {low:.1f} to {high:.1f} nats"
        found.append(drawn(f"{estimate.name} by example", alt, log_px_histogram(estimate)))
        if bool((estimate.khat != -math.inf).any()):
            bad = int(estimate.unreliable.sum())
            alt = f"Pareto k of {len(estimate)} examples; {bad} are unreliable"
            found.append(drawn("Diagnostics", alt, khat_scatter(estimate)))
    for name, (title, alt) in PNGS.items():
        if (png := folder / "figures" / f"{name}.png").is_file():
            found.append(embedded(title, alt, png))
    return found


def _settings(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    def listed(given: Any) -> str:
        return ", ".join(f"{k}={v}" for k, v in given.items() if v is not None and not isinstance(v, dict))

    pair = config["pair"]
    rows = [("pair", pair["name"]), ("options", listed(pair.get("options") or {}))]
    if fit := config.get("fit"):
        rows += [("objective", listed(fit["objective"])), ("training", listed(fit))]
    rows += [("data", listed(config["data"]))] if isinstance(config.get("data"), dict) else []
    return [*rows, ("versions", listed(config.get("versions", {})))]


def _commands(folder: Path, config: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    """How to make the run and its evaluation."""
    request, run = config.get("request"), quote(str(folder))
    lines = ["pv.fit(...), called from Python with the settings above"]
    if isinstance(request, dict) and "stored" not in request:
        given = {**request, **(request.get("options") or {})}
        skipped = ("pair", "options", "data_root", "num_samples", "limit", "figures", "proposal")
        plain = {k: v for k, v in given.items() if k not in skipped and v not in (None, False, "auto")}
        flags = " ".join(f"--{k.replace('_', '-')} {quote(str(v))}" for k, v in plain.items() if v is not True)
        lines = [f"ppl-vae train {quote(str(request['pair']))} {flags} --out {run}"]
    how = f"--num-samples {result['num_samples']} --seed {result['seed']}"
    how += f" --proposal {quote(str(result['proposal']))}" if "proposal" in result else ""
    return "\n".join([*lines, f"ppl-vae evaluate {run} {how}", f"ppl-vae report {run}"])
