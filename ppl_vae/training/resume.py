"""The state of a fit on disk: what resuming needs, in one file."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from ..common import files, ranks
from ..common.errors import RunError
from ..common.identity import difference
from ..pairs.base import Pair
from ..runs.folder import CONFIG, STATE, WEIGHTS, make_folder, read_config, write_config
from ..runs.state import restore_state, state_tensors

History = list[dict[str, Any]]


@dataclass
class State:
    """Where a fit stands; with the weights and the optimiser's state, all that resuming needs."""

    epoch: int = 0
    batch: int = 0
    step: int = 0
    best_bound: float | None = None
    best_epoch: int = 0
    history: History = field(default_factory=list)
    captured: str | None = None  # "all", "full" (batches) or "none": settled at the start, and kept when resumed
    products: str | None = None
    own_lr: list[float] | None = None  # of each group, without the schedule; None in runs of older versions
    last_lr: list[float] | None = None  # that the schedule set last; another one was moved by somebody else
    own_beta: float | None = None  # of the objective, without warm-up
    scheduler: Any = None  # of a torch scheduler, packed
    frozen: list[str] | None = None  # parameters without a gradient


class Run:
    """The folder of a fit. The truth for resuming is one file, so that a kill can't leave two that disagree."""

    def __init__(
        self, folder: Path, pair: Pair, settings: dict[str, Any], formerly: dict[str, Any], longer: bool
    ) -> None:
        """``formerly``: settings as older versions wrote them; ``longer``: whether a fit of more epochs is the same."""
        if not pair.state_dict():
            raise RunError("run_dir: this pair has no parameters in modules, so it can't be saved; leave run_dir out")
        self.folder = folder
        self.settings = settings
        self.formerly = formerly
        self.longer = longer

    def start(self, pair: Pair, record: dict[str, Any], overwrite: bool) -> None:
        """Make the folder and write the configuration."""
        state_tensors(pair)  # what a file can't hold is refused before there is a folder
        files.as_json({**record, "fit": self.settings})
        make_folder(self.folder, overwrite)
        write_config(self.folder, pair, {**record, "fit": self.settings})

    def _check_settings(self) -> None:
        folder, settings = self.folder, self.settings
        config = read_config(folder)
        then = config.get("fit")
        if not isinstance(then, dict):
            raise RunError(f"{folder}: this run was not made by fit, so it can't be resumed")
        then, now = {"shards": 1, "precision": "float32", **then}, dict(settings)  # there were runs before these
        if "beta_schedule" not in then:  # nor did objectives, optimisers and schedules tell all of themselves
            then["beta_schedule"] = "constant"
            told = then.get("objective")
            now |= self.formerly
            if isinstance(told, dict):
                now["objective"] = {k: settings["objective"].get(k) for k in told}
        if "data" not in then:  # nor did runs know their data
            now.pop("data", None)
        for key in now:
            found = None if key == "epochs" and self.longer else difference(then.get(key), now[key], key)
            if found is not None:
                where, was, asked = found
                raise RunError(
                    f"{folder}: the run has {where}={was!r} and you ask for {asked!r}; resume with the same "
                    f"options, or start another run"
                )
        if then["epochs"] != settings["epochs"] and ranks.first():
            files.write_json(folder / CONFIG, {**config, "fit": settings})

    def write(
        self, pair: Pair, optim: Any, state: State, best: Mapping[str, Tensor], running: Tensor | None,
        done: bool = False,
    ) -> None:  # fmt: skip
        """Write the checkpoint, then the readable copies: weights, position, history. Rank 0 does."""
        if not ranks.first():
            return
        now = state_tensors(pair)
        tensors = {f"pair.{k}": v for k, v in now.items()}
        tensors |= {f"best.{k}": best[k].detach().cpu().contiguous().clone() for k in now if best}
        groups: list[dict[str, Any]] = []
        plain: dict[str, dict[str, Any]] = {}  # what an optimiser keeps for a parameter besides tensors
        if isinstance(optim, Optimizer):
            saved = optim.state_dict()
            for index, slots in saved["state"].items():
                plain[str(index)] = {k: v for k, v in slots.items() if _is_plain(v)}
                for key, value in slots.items():
                    if torch.is_tensor(value):
                        tensors[f"optim.{index}.{key}"] = value.detach().cpu().contiguous().clone()
            groups = [{k: v for k, v in g.items() if _is_plain(v)} for g in saved["param_groups"]]
        if running is not None:
            tensors["running"] = running.detach().cpu().reshape(1)
        about = {"state": asdict(state), "groups": groups, "slots": plain, "done": done}
        files.write_tensors(self.folder / STATE, tensors, about)
        files.write_tensors(self.folder / WEIGHTS, {k: best.get(k, v).detach().cpu() for k, v in now.items()}, {})
        position = {k: v for k, v in asdict(state).items() if k != "history"}
        files.write_json(self.folder / "train_state.json", {**position, "optimizer": groups, "done": done})
        lines = "".join(json.dumps(row, allow_nan=False) + "\n" for row in map(_jsonable, state.history))
        files.write_text(self.folder / "history.jsonl", lines)

    def read(self, pair: Pair, optim: Any, device: torch.device) -> tuple[State, dict[str, Tensor], Tensor | None]:
        """Put the pair and the optimiser back where the last checkpoint left them."""
        self._check_settings()
        path = self.folder / STATE
        if not path.exists():  # killed before the first checkpoint: start again, from the same seeds
            return State(), {}, None
        tensors, about = files.read_tensors(path)
        part = {
            kind: {k.removeprefix(kind + "."): v for k, v in tensors.items() if k.startswith(kind + ".")}
            for kind in ("pair", "best", "optim")
        }
        restore_state(pair, part["pair"], path)
        pair.to(device)
        if isinstance(optim, Optimizer):
            saved = optim.state_dict()["param_groups"]
            slots: dict[int, dict[str, Any]] = {int(i): dict(values) for i, values in about.get("slots", {}).items()}
            for name, value in part["optim"].items():
                index, key = name.split(".", 1)
                slots.setdefault(int(index), {})[key] = value
            slots = _placed(slots, optim, about, path)
            for group, then in zip(saved, about["groups"], strict=True):
                group.update({k: tuple(v) if isinstance(v, list) else v for k, v in then.items() if k != "params"})
            optim.load_state_dict({"state": slots, "param_groups": saved})
        running = tensors.get("running")
        best = {k: v.to(device) for k, v in part["best"].items()}
        return State(**about["state"]), best, None if running is None else running[0].to(device)


def _placed(
    slots: dict[int, dict[str, Any]], optim: Optimizer, about: Mapping[str, Any], path: Path
) -> dict[int, dict[str, Any]]:
    """What an optimiser keeps, by parameter; in runs of older versions it held no frozen ones."""
    then = [len(group.get("params", ())) for group in about["groups"]]
    now = [len(group["params"]) for group in optim.param_groups]
    if then == now:
        return slots
    held = [p for group in optim.param_groups for p in group["params"]]
    live = [i for i, p in enumerate(held) if p.requires_grad]
    if len(then) != len(now) or sum(then) != len(live) or about["state"].get("frozen") is not None:
        raise RunError(f"{path}: the optimiser of the run held {then} parameters in its groups, and this one {now}")
    return {live[i]: values for i, values in slots.items()}


def shards_of(folder: Path) -> int:
    """Into how many shards a run divides its batches."""
    then = read_config(folder).get("fit")
    return int(then.get("shards", 1)) if isinstance(then, dict) else 1


def _jsonable(row: dict[str, Any]) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str | list | tuple)
