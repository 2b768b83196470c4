"""A run and the data to evaluate it on."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

from ..common.custom import FILE, failure, function_of, parts, sha256_of
from ..common.errors import RunError, UserError
from ..common.registry import DATASETS
from .options import Common, Source
from .output import log


@dataclass(frozen=True)
class Opened:
    """A run: its pair, its configuration, and the data to evaluate it on."""

    pair: Any
    config: dict[str, Any]
    part: Any
    data: str

    @property
    def name(self) -> str:
        """The name of the pair."""
        return str(self.config["pair"]["name"])


def open_runs(
    runs: Sequence[Path], common: Common, source: Source, limit: int | None, few: int | None = None
) -> list[Opened]:
    """Runs and their data: a split of a run's own, or a file as a whole. ``few`` is the limit on a run's own data.

    Raises:
        UserError: a run or its data can't be read, or the data don't fit the pair.
    """
    from ..common.fields import shape_of

    opened = []
    for run, (pair, config) in zip(runs, load_pairs(runs, common), strict=True):
        part = _part_of(run, config, source, limit, few)
        shape = shape_of(part.x)
        if pair.data_shape is not None and shape != pair.data_shape:
            raise UserError(
                f"{source.data or run}: data of shape {shape} for a pair that was made for {pair.data_shape}"
            )
        opened.append(Opened(pair, config, part, source.data or str(config["data"]["name"])))
    return opened


def load_pairs(runs: Sequence[Path], common: Common) -> list[tuple[Any, dict[str, Any]]]:
    """The pairs and the configurations of runs; custom pairs by the builders that ``--pair`` hands over.

    Raises:
        UserError: a run can't be read, its custom pair was not handed over, or a pair of none of them was.
    """
    from ..common.rng import forked
    from ..runs.folder import load, read_config
    from ..training.loop import resolve_device

    device, handed = resolve_device(common.device), [*(common.pair or []), *(common.part or [])]
    used: set[str] = set()
    found: list[tuple[Any, dict[str, Any]]] = []
    for run in runs:
        config, pair = read_config(run), None
        builder, options = config["pair"]["name"], config["pair"].get("options") or {}
        custom = custom_parts(run, config, common.part or [])
        if is_custom(config, builder):
            builder = handed_over(run, config, common.pair or [])
        if builder != config["pair"]["name"] or custom:
            used |= {builder, *custom.values()}
            with forked():
                pair = build_pair(builder, **{**options, **{k: function_of(text) for k, text in custom.items()}})
        found.append((load(run, pair, device=device), config))
    if unused := [text for text in handed if text not in used]:
        known = ", ".join(f"{run}: {config['pair']['name']}" for run, (_, config) in zip(runs, found, strict=True))
        raise UserError(f"{unused[0]}: it is neither the pair nor a part of a run here ({known}); leave it out")
    return found


def build_pair(pair: str, data: Any = None, **options: Any) -> Any:
    """A pair by its name, or by FILE.py:NAME, which runs the file.

    Raises:
        UserError: there is no such pair, file or function, or it fails; gives the line.
    """
    from ..pairs.base import build

    if not FILE.fullmatch(pair):
        return build(pair, data=data, **options)
    function = function_of(pair)
    try:
        return build(function, data=data, **options)
    except UserError:
        raise
    except Exception as error:  # whatever a custom builder raises
        raise UserError(failure(error, parts(pair)[0])) from error


def is_custom(config: dict[str, Any], builder: str) -> bool:
    """Whether a run's pair is of custom code: recorded as such, or named as FILE.py:NAME in an edited record."""
    return "source" in config["pair"] or FILE.fullmatch(builder) is not None


def handed_over(run: Path, config: dict[str, Any], handed: Sequence[str]) -> str:
    """The builder of a run's custom pair among those that the user names; what only the run folder names is not run.

    Raises:
        RunError: none of them; names the option to add.
    """
    source, name = config["pair"].get("source"), config["pair"]["name"]
    source = source if isinstance(source, dict) else {}
    named = [text for text in handed if parts(text)[1] == name]
    if not named:
        raise RunError(
            f"{run}: its pair {name!r} was built by custom code, which is not run unless you name it: "
            f"--pair {quote(str(source.get('builder', name)))}"
        )
    same = [text for text in named if sha256_of(parts(text)[0]) == source.get("sha256")]
    if not same:
        warn_changed(named[0], run)
    return (same or named)[0]


def warn_changed(text: str, run: Path) -> None:
    """Warn that the file of FILE.py:NAME is not the one that a run was trained with."""
    log.print(f"warning: {parts(text)[0]} has changed since {run} was trained", markup=False, soft_wrap=True)


def custom_parts(run: Path, config: dict[str, Any], handed: Sequence[str]) -> dict[str, str]:
    """The custom parts of a run's pair among the functions that the user names, by the option that took each.

    Raises:
        RunError: one of them was not named; names the option to add.
    """
    from ..common.choices import record

    request = config.get("request")
    asked = request.get("options") if isinstance(request, dict) else None
    asked = asked if isinstance(asked, dict) else {}
    found, absent = {}, []
    for key, value in (config["pair"].get("options") or {}).items():
        if not isinstance(value, dict) or not isinstance(about := value.get("custom"), dict):
            continue
        text = str(asked.get(key) or about.get("name"))  # FILE.py:NAME, or a dotted name where Python made it
        named = [one for one in handed if parts(one)[1] == re.split(r"[:.]", text)[-1]]
        if not named:
            absent.append((key, f"--part {quote(text)}"))
            continue
        found[key] = named[0]
        if not absent and record(function_of(named[0])) != value:
            warn_changed(named[0], run)
    if absent:
        keys, options = " and ".join(k for k, _ in absent), " ".join(o for _, o in absent)
        raise RunError(f"{run}: {keys}: custom code, which is not run unless you name it: {options}")
    return found


def is_other(source: Source, request: dict[str, Any]) -> bool:
    """Whether the user names data to read as a whole, not the data set of a run."""
    return source.data is not None and not (source.data in DATASETS and source.data == request["data"])


def suffix(run: Path, opened: Opened, source: Source, out: Path | None) -> str:
    """The end of the names of files of other data than the test data of a run, which has files in the same folder."""
    if out is not None and out.resolve() != run.resolve():
        return ""
    if is_other(source, opened.config["request"]):
        return f"-{Path(str(source.data)).stem}" + (f"-{source.split}" if source.split else "")
    return "" if source.split in (None, "test") else f"-{source.split}"


def rows_to_score(
    run: Path, source: Source, common: Common, limit: int | None, out: Path | None
) -> tuple[Any, Any, str]:
    """A pair, its examples, and the end of the names of their files; what lies in .npy files stays on disk.

    Files on another scale than the data of the run are read as a whole, and refused as any others.

    Raises:
        UserError: see :func:`open_runs`.
    """
    from torch.utils.data import Subset

    from ..common.fields import shape_of
    from ..data.on_disk import OnDisk
    from ..runs.folder import read_config
    from ..scoring.inputs import as_data

    path = None if source.data is None else Path(source.data).expanduser()
    rows: Any = OnDisk(path) if path is not None and (path.suffix == ".npy" or any(path.glob("*.npy"))) else None
    record = read_config(run).get("data") or {}
    scale = (record.get("reading") or {}).get("scale")
    alike = rows is not None and rows.is_bytes == (scale is not None) and record.get("binarize", "none") == "none"
    if path is None or not alike or source.split is not None:
        [opened] = open_runs([run], common, source, limit)
        return opened.pair, opened.part, suffix(run, opened, source, out)
    [(pair, _)] = load_pairs([run], common)
    pair.byte_scale = scale
    if source.header is not None:
        raise UserError(f"{path} has no header: leave --header and --no-header out")
    rows = rows if limit is None else Subset(rows, range(min(limit, len(rows))))
    shape = shape_of(as_data(pair, rows)[0].take(slice(1))[0])
    if pair.data_shape is not None and shape != pair.data_shape:
        raise UserError(f"{path}: data of shape {shape} for a pair that was made for {pair.data_shape}")
    return pair, rows, "" if out is not None and out.resolve() != run.resolve() else f"-{path.stem}"


def _part_of(run: Path, config: dict[str, Any], source: Source, limit: int | None, few: int | None) -> Any:
    """The examples to evaluate a run on."""
    from ..data.sets import load_split
    from ..data.stored import read_data

    request, record = config.get("request"), config.get("data")
    if not isinstance(request, dict) or not isinstance(record, dict):
        raise RunError(f"{run}: this run does not record its data; evaluate it from Python")
    if source.data is None and source.header is not None:
        raise UserError("--header and --no-header are for a file that --data names; that of the run is read as then")
    try:
        root = source.data_root or request["data_root"]
        if is_other(source, request):
            part = load_split(str(source.data), split=source.split, like=record, root=root, header=source.header)
            return part.limit(limit)
        if "stored" in request:  # a cell of a study
            loaded = read_data((run / request["stored"]).resolve(), record["sha256"])
        else:
            loaded = load_as({**request, "data_root": root, "binarize": record.get("binarize", request["binarize"])})
        if loaded.record()["sha256"] != record.get("sha256"):
            raise RunError(
                f"{run}: the data at {request['data']!r} are no longer those of the run; name others by --data"
            )
        return loaded.split(source.split or "test").fixed(request["seed"]).limit(few if limit is None else limit)
    except KeyError as error:
        raise RunError(f"{run}: config.json has no {error} in its request; it was edited") from None


def load_as(request: dict[str, Any]) -> Any:
    """The data that a request of `train` names."""
    from ..data.sets import load_data

    table: dict[str, Any] = {name: request.get(name) for name in ("columns", "label", "header")}
    data = load_data(
        request["data"], root=request["data_root"], binarize=str(request["binarize"]), seed=request["seed"],
        valid=as_share(request["valid"]), **table,
    )  # fmt: skip
    return data if request.get("labels") is None else data.partly_labelled(request["labels"])


def as_share(text: str | None) -> float | int | None:
    """A share or a count.

    Raises:
        UserError: it is no number.
    """
    try:
        return None if text is None else int(text) if text.isdigit() else float(text)
    except ValueError:
        raise UserError(f"--valid {text!r}: give a share such as 0.1 or a count such as 5000") from None
