"""The state of a fit on disk: what resuming needs, in one file."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from pyro.infer import Trace_ELBO
from torch import Tensor
from torch.optim import Optimizer

from ..common import files, ranks
from ..common.errors import RunError
from ..common.identity import describe, difference
from ..common.numbers import plain
from ..objectives.base import Objective
from ..pairs.base import Pair
from ..runs.folder import CONFIG, STATE, WEIGHTS, make_folder, read_config, write_config
from ..runs.state import restore_state, state_tensors
from .config import FitConfig, names
from .history import History


@dataclass
class State:
    """The position of a fit; with the weights and the optimiser's state, all that resuming needs."""

    epoch: int = 0
    batch: int = 0
    step: int = 0
    seen: int = 0  # examples of the current epoch
    seconds: float = 0.0  # of training so far: without validation, checkpoints, and the first step of a process
    best_bound: float | None = None
    best_epoch: int = 0
    history: History = field(default_factory=History)
    captured: str | None = None  # "all", "full" (batches) or "none": chosen at the start, kept when resumed
    products: str | None = None
    own_lr: list[float] | None = None  # base rate of each group; None in runs of older versions
    last_lr: list[float] | None = None  # set last by the schedule; any other value is from a callback
    own_beta: float | None = None  # base weight of the KL term
    scheduler: Any = None  # state of a torch scheduler, packed
    frozen: list[str] | None = None  # parameters without a gradient

    def __post_init__(self) -> None:
        self.history = History(self.history)  # a list, where it was read from a file


class Checkpoints:
    """The checkpoints of a fit in its run folder.

    All that resuming reads is in one file, so that a kill can't leave two that disagree.

    Args:
        folder: the run folder.
        pair: what is trained.
        settings: the configuration, and the identity of the data.
        config: the configuration itself.
        extends: whether a fit of more epochs is the same run: not under a schedule over the whole fit.

    Raises:
        RunError: the pair has nothing that a folder can hold.
    """

    def __init__(self, folder: Path, pair: Pair, settings: dict[str, Any], config: FitConfig, *, extends: bool) -> None:
        if not pair.state_dict():
            raise RunError("run_dir: this pair has no parameters in modules, so it can't be saved; leave run_dir out")
        self.folder = folder
        self.settings = settings
        self.config = config
        self.extends = extends

    def start(self, pair: Pair, record: Mapping[str, Any], overwrite: bool) -> None:
        """Make the folder and write the configuration."""
        state_tensors(pair)  # what a file can't hold is refused before there is a folder
        whole = {**record, "fit": self.settings}
        files.as_json(whole)
        make_folder(self.folder, overwrite)
        write_config(self.folder, pair, whole)

    def _check_settings(self) -> None:
        folder, settings = self.folder, self.settings
        config = read_config(folder)
        recorded = config.get("fit")
        if not isinstance(recorded, dict):
            raise RunError(f"{folder}: this run was not made by fit, so it can't be resumed")
        then, now = _as_recorded(recorded, settings, self.config)
        for key in now:
            found = None if key == "epochs" and self.extends else difference(then.get(key), now[key], key)
            if found is not None:
                where, was, asked = found
                what = f"the run has {where}={was!r} and you ask for {asked!r}"
                raise RunError(f"{folder}: {what}; resume with the same options, or start another run")
        if then["epochs"] != settings["epochs"] and ranks.first():
            files.write_json(folder / CONFIG, {**config, "fit": settings})

    def write(
        self, pair: Pair, optim: Any, state: State, best: Mapping[str, Tensor], epoch_loss: Tensor | None,
        done: bool = False,
    ) -> None:  # fmt: skip
        """Write the checkpoint, then the readable copies (weights, position, history), on rank 0."""
        if not ranks.first():
            return
        now = state_tensors(pair)
        tensors = {f"pair.{k}": v for k, v in now.items()}
        tensors |= {f"best.{k}": best[k].detach().cpu().contiguous().clone() for k in now if best}
        groups: list[dict[str, Any]] = []
        numbers: dict[str, dict[str, Any]] = {}  # the optimiser's state of a parameter besides tensors
        if isinstance(optim, Optimizer):
            saved = optim.state_dict()
            for index, slots in saved["state"].items():
                numbers[str(index)] = {k: v for k, v in slots.items() if _is_plain(v)}
                for key, value in slots.items():
                    if torch.is_tensor(value):
                        tensors[f"optim.{index}.{key}"] = value.detach().cpu().contiguous().clone()
            groups = [{k: v for k, v in g.items() if _is_plain(v)} for g in saved["param_groups"]]
        if epoch_loss is not None:
            tensors["running"] = epoch_loss.detach().cpu().reshape(1)
        about = {"state": asdict(state), "groups": groups, "slots": numbers, "done": done}
        files.write_tensors(self.folder / STATE, tensors, about)
        files.write_tensors(self.folder / WEIGHTS, {k: best.get(k, v).detach().cpu() for k, v in now.items()}, {})
        position = {k: v for k, v in asdict(state).items() if k != "history"}
        files.write_json(self.folder / "train_state.json", {**position, "optimizer": groups, "done": done})
        lines = "".join(json.dumps(row, allow_nan=False) + "\n" for row in map(_jsonable, state.history))
        files.write_text(self.folder / "history.jsonl", lines)

    def write_weights(self, pair: Pair) -> None:
        """Write the weights as they are now, after the last checkpoint."""
        files.write_tensors(self.folder / WEIGHTS, state_tensors(pair), {})

    def read(self, pair: Pair, optim: Any, device: torch.device) -> tuple[State, dict[str, Tensor], Tensor | None]:
        """Restore pair and optimiser from the last checkpoint; returns state, best weights and the epoch's loss."""
        self._check_settings()
        path = self.folder / STATE
        if not path.exists():  # stopped before the first checkpoint: start again, from the same seeds
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
            sizes = [[len(g["params"]) for g in groups] for groups in (about["groups"], saved)]
            if sizes[0] != sizes[1]:  # in runs of older versions the optimiser held no frozen parameters
                live = [i for i, p in enumerate(p for g in optim.param_groups for p in g["params"]) if p.requires_grad]
                if len(sizes[0]) != len(saved) or sum(sizes[0]) != len(live) or about["state"].get("frozen"):
                    raise RunError(f"{path}: the optimiser of the run held {sizes[0]} parameters, and this {sizes[1]}")
                slots = {live[i]: values for i, values in slots.items()}
            for group, then in zip(saved, about["groups"], strict=True):
                group.update({k: tuple(v) if isinstance(v, list) else v for k, v in then.items() if k != "params"})
            optim.load_state_dict({"state": slots, "param_groups": saved})
        epoch_loss = tensors.get("running")
        best = {k: v.to(device) for k, v in part["best"].items()}
        return State(**about["state"]), best, None if epoch_loss is None else epoch_loss[0].to(device)


def _as_recorded(
    then: dict[str, Any], settings: Mapping[str, Any], config: FitConfig
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The recorded settings and those of this call, in the form of the version that recorded them."""
    now = {name: settings[name] for name in names(same=True)}
    if "data" in then:  # older versions recorded no identity of the data
        now["data"] = settings["data"]
    loss = then.get("objective")
    if isinstance(loss, dict) and loss.get("name") == "MeanField" and "class" not in loss:
        loss["name"] = "AnalyticKL"  # its former name
    if "beta_schedule" not in then:  # older versions recorded little but names
        for key in ("optimizer", "schedule"):
            value = getattr(config, key)
            now[key] = value if isinstance(value, str) else getattr(value, "__name__", repr(value))
        if isinstance(loss, dict):
            now["objective"] = {k: settings["objective"].get(k) for k in loss}
    return {f.name: f.default for f in fields(FitConfig)} | {"shards": 1} | then, now


def describe_loss(loss: Any) -> dict[str, Any]:
    """An objective, for a configuration: its name and every setting; a custom bound or class by digest.

    Example:
        >>> import ppl_vae as pv
        >>> describe_loss(pv.Elbo(gradient="stl", beta=4))
        {'name': 'Elbo', 'num_particles': 1, 'grad': 'stl', 'vectorize': True, 'free_bits': 0.0, 'beta': 4.0}
    """
    whole = describe(loss)
    settings = whole.pop("settings", {})
    if isinstance(loss, Objective):  # without the attributes of Pyro's base class
        known = [k for k in vars(loss) if k in settings and k not in vars(Trace_ELBO())]
        settings = {k: settings[k] for k in ("num_particles", *known)} | {"beta": plain(loss.beta)}
        if list(settings.get("bound", ())) == ["name"]:  # one of ours, which the class implies
            del settings["bound"]
    return {"name": type(loss).__name__, **settings, **({} if list(whole) == ["name"] else {"class": whole})}


def shards_of(folder: Path) -> int:
    """The number of shards of each batch in a run."""
    then = read_config(folder).get("fit")
    return int(then.get("shards", 1)) if isinstance(then, dict) else 1


def _jsonable(row: dict[str, Any]) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str | list | tuple)
