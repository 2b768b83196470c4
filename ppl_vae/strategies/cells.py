"""A cell of a study: one strategy trained from one seed, evaluated, and kept in a folder."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from ..common.errors import UserError
from ..common.files import first_line, read_json, read_tensors, writable, write_json
from ..data.splits import Data
from ..data.stored import read_data
from ..pairs.base import Pair
from ..runs.folder import CONFIG, versions
from ..training.config import FitConfig
from ..training.loop import fit
from .evaluation import ESTIMATE, Evaluation, evaluated
from .strategy import Strategy, digest

BUDGETS = ("epochs", "steps", "seconds", "decoder_evaluations")
RESULT, DATA = "cell.json", "data.safetensors"
# of one cell, not of a study
FAILURES = (UserError, RuntimeError, MemoryError, ArithmeticError, ValueError, TypeError, ImportError)


@dataclass(frozen=True)
class Cell:
    """One strategy and one seed, and all that the result depends on; a process can be given it.

    Attributes:
        strategy: the strategy.
        name: of the strategy in the study.
        seed: of the weights, the order of the data and the noise of training.
        budget: one of ``BUDGETS`` and its amount; empty leaves the epochs of the strategy.
        evaluation: how it is evaluated.
        out: the folder of the study.
        folder: its run folder, see :func:`folder_of`.
        about: the record of the evaluation.
        data: the digest of the data.
        code: of the strategy, see :meth:`Strategy.code`.
        threads: of torch, while it runs.
    """

    strategy: Strategy
    name: str
    seed: int
    budget: Mapping[str, float]
    evaluation: Evaluation
    out: Path
    folder: Path
    about: Mapping[str, Any]
    data: str
    code: Mapping[str, Any]
    threads: int = 1


def config_of(strategy: Strategy, seed: int, budget: Mapping[str, float], num_data: int) -> FitConfig:
    """The configuration of a fit, with the budget; decoder evaluations are steps of so many draws each."""
    config = strategy.config.replace(seed=seed)
    if not budget:
        return config
    [(kind, amount)] = budget.items()
    if kind == "decoder_evaluations":
        size, examples = config.batch_size, amount / strategy.objective.draws
        whole, rest = divmod(examples, num_data)
        kind, amount = "steps", max(1, int(whole) * math.ceil(num_data / size) + round(rest / size))
    return config.replace(**{kind: amount if kind == "seconds" else int(amount)})


def examples_seen(steps: int, num_data: int, size: int) -> int:
    """How many examples the steps of a fit see, with a batch at the end of each epoch that may be smaller.

    Example:
        >>> examples_seen(4, 300, 299)
        600
    """
    epochs, rest = divmod(steps, math.ceil(num_data / size))
    return epochs * num_data + min(rest * size, num_data)


def folder_of(out: Path, name: str, strategy: Strategy, budget: Mapping[str, float], data: str) -> Path:
    """The folder of the cells of a strategy: one that changes, or its budget or data, has another.

    Custom code counts by its source, which only the process that wrote it can read: workers are given the folder.
    """
    facts = [strategy.record(), dict(budget), data]
    plain = "".join(c if c.isalnum() or c in "-_.=" else "-" for c in name)[:60].strip("-.") or "strategy"
    return out / f"{plain}-{digest(facts)}"


def result_of(folder: Path, about: Mapping[str, Any]) -> dict[str, Any] | None:
    """The result of a cell that is complete, from its folder: its facts, and the tensors of its evaluation; else None.

    Args:
        folder: of the cell.
        about: the record of the evaluation; the result of another one does not count.
    """
    path = folder / RESULT
    if not path.is_file():
        return None
    facts: dict[str, Any] = read_json(path)
    if facts.get("evaluation") != dict(about) or facts["status"] == "stopped":
        return None
    if facts["status"] != "done":
        return facts
    tensors, _ = read_tensors(folder / ESTIMATE)
    return {**facts, **tensors, "history": history_of(folder)}


def history_of(folder: Path) -> list[dict[str, Any]]:
    """The rows of the epochs of a run."""
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


def run_cell(cell: Cell) -> str:
    """Train and evaluate a cell, from where it was left; returns its status.

    A cell that fails has the status ``"failed"`` and its reason; Ctrl-C leaves it to be resumed. Another process that
    is at the same cell is waited for, and nothing is done twice.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(cell.threads)
    try:
        with _alone(cell.folder):
            found = result_of(cell.folder, cell.about)
            if found is None:
                found = _run(cell)
            return str(found["status"])
    finally:
        torch.set_num_threads(threads)


def _run(cell: Cell) -> dict[str, Any]:
    """The facts of a cell, which are written last."""
    facts: dict[str, Any] = {"strategy": cell.name, "seed": cell.seed, "evaluation": dict(cell.about)}
    try:
        data = read_data(cell.out / DATA, cell.data)
        facts["built"] = False
        pair = cell.strategy.build(data, cell.seed)
        facts["built"] = True
        facts |= {"status": "done", **_trained_and_evaluated(cell, pair, data)}
    except FAILURES as error:
        facts |= {"status": "failed", "reason": first_line(error), "error": type(error).__name__}
    write_json(writable(cell.folder) / RESULT, facts)
    return facts


def forget_unbuilt(folder: Path) -> None:
    """Forget that a cell failed since its pair could not be built, where it now can: a package may have been absent."""
    path = folder / RESULT
    if path.is_file():
        with _alone(folder):
            if path.is_file() and read_json(path).get("built") is False:
                path.unlink()


def _trained_and_evaluated(cell: Cell, pair: Pair, data: Data) -> dict[str, Any]:
    pair.source, pair.config = cell.code["source"], {**(pair.config or {}), **cell.code["records"]}
    folder = cell.folder
    resume = (folder / CONFIG).is_file()
    stored = {"data": data.name, "data_root": "data", "seed": data.seed, "stored": f"../../{DATA}"}
    stored["options"] = cell.code["options"]
    record = {"data": data.record(), "strategy": cell.name, "request": stored}
    config = config_of(cell.strategy, cell.seed, cell.budget, len(data.train))
    objective = cell.strategy.objective
    history = fit(pair, data, objective, config=config, run_dir=folder, resume=resume, record=record, progress=False)
    last = history[-1]
    if last["step"] < config.warmup * math.ceil(len(data.train) / config.batch_size):
        raise UserError(f"the budget ended within the warm-up, at beta = {last['beta']:.3g}; give more, or warmup=0")
    return evaluated(pair.eval(), data, cell.evaluation, folder) | {
        "steps": last["step"], "epochs": last["epoch"], "train_seconds": last["train_seconds"],
        "decoder_evaluations": examples_seen(last["step"], len(data.train), config.batch_size) * objective.draws,
        "num_parameters": sum(p.numel() for p in pair.parameters()), "valid_elbo": _finite(last.get("valid_elbo")),
        "versions": versions(),
    }  # fmt: skip


def _finite(value: Any) -> float | None:
    return value if isinstance(value, float) and math.isfinite(value) else None


def lock_of(folder: Path) -> Path:
    """The file that a process locks while it is at a cell."""
    return folder.parent / f".{folder.name}.lock"


def _alone(folder: Path) -> FileLock:
    """Keeps other processes out of a cell; the lock ends with the process that holds it."""
    writable(folder.parent)
    return FileLock(lock_of(folder), poll_interval=0.2)
