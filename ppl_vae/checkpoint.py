"""Run folders: the configuration and the weights of a pair, as JSON and safetensors."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from .errors import RunError, UserError
from .fields import each
from .files import as_json, first_line, read_json, read_tensors, writable, write_json, write_tensors
from .memory import assign
from .pairs.base import Pair, build
from .registry import PAIRS
from .rng import forked

CONFIG = "config.json"
WEIGHTS = "weights.safetensors"
STATE = "train_state.safetensors"
FORMAT = 1
UNHELD = (torch.complex128, torch.float8_e8m0fnu)  # dtypes that safetensors has no name for


def save(run_dir: str | Path, pair: Pair, *, overwrite: bool = False, **record: Any) -> Path:
    """Write a pair to a run folder: ``config.json`` and ``weights.safetensors``.

    Args:
        run_dir: the folder; made where it is absent.
        pair: a pair; its parameters must live in modules.
        overwrite: replace a run that is there.
        record: JSON-able facts to keep in the configuration.

    Returns:
        The folder.

    Raises:
        RunError: a run is there already, the pair has no parameters in modules, a lazy layer has seen no data yet, or
            a module keeps what is not a tensor (``get_extra_state``).
        UserError: a fact that JSON can't hold.

    Example:
        >>> import tempfile, torch, ppl_vae as pv
        >>> pair = pv.build("vae", data_shape=(1, 8, 8), latent=2, hidden=(16,))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     run = pv.save(folder + "/run", pair)
        ...     again = pv.load(run)
        >>> bool((again.guide.head.linear.weight == pair.guide.head.linear.weight).all())
        True
    """
    tensors = state_of(pair)
    if not tensors:
        raise RunError(
            "this pair has no parameters in modules, so there is nothing to save; write the networks as attributes of "
            "an nn.Module (bare pyro.param values live in Pyro's store)"
        )
    as_json(_about(pair, record))  # refused before a folder is made, or emptied
    folder = make_folder(run_dir, overwrite)
    write_config(folder, pair, record)
    write_tensors(folder / WEIGHTS, tensors, {})
    return folder


def load(run_dir: str | Path, pair: Pair | None = None, *, device: str | torch.device = "cpu") -> Pair:
    """Read a pair from a run folder, in evaluation mode.

    Only registered names are rebuilt; nothing that the folder names is imported. A pair of your own is loaded into
    the instance that you hand over.

    Args:
        run_dir: the folder.
        pair: an instance to load into, for a pair that is not registered.
        device: where to put it.

    Raises:
        RunError: a file is missing, truncated, edited, or made by something else.
        UserError: there is no such device.

    Example:
        >>> import ppl_vae as pv
        >>> pv.load("no/such/run")
        Traceback (most recent call last):
        ppl_vae.errors.RunError: no/such/run is not a run: there is no config.json; `ppl-vae train --out` makes one
    """
    folder = Path(run_dir)
    config = read_config(folder)
    tensors, _ = read_tensors(folder / WEIGHTS)
    if pair is None:
        about = config["pair"]
        if about["name"] not in PAIRS or about.get("options") is None:
            raise RunError(
                f"{folder / CONFIG}: the pair {about['name']!r} is not registered; build it yourself and call "
                f"pv.load(run_dir, pair=yours)"
            )
        try:
            with forked():
                pair = build(about["name"], **about["options"])
        except (UserError, TypeError, ValueError, RuntimeError) as error:
            raise RunError(f"{folder / CONFIG}: the pair can't be rebuilt from it: {first_line(error)}") from error
    restore(pair, tensors, folder / WEIGHTS)
    form = config["pair"].get("data")
    if form is not None and pair.template is None:
        pair.template = _form_of(form, folder / CONFIG)
    if (scale := config["pair"].get("byte_scale")) is not None:
        if scale not in (1, 255):
            raise RunError(f"{folder / CONFIG}: byte_scale={scale!r} is neither 1 nor 255; the file was edited")
        pair.byte_scale = scale
    if (columns := config["pair"].get("columns")) is not None:
        if not isinstance(columns, list) or not all(isinstance(c, str) for c in columns):
            raise RunError(f"{folder / CONFIG}: the columns of the pair are no list of names; the file was edited")
        pair.columns = columns
    try:
        return pair.to(torch.device(device)).eval()
    except (RuntimeError, AssertionError, TypeError) as error:
        raise UserError(f"device={device!r}: {first_line(error)}") from error


def _form_of(form: Any, where: Path) -> Any:
    """Rows of data without any, from their description in a configuration."""
    try:
        if isinstance(form, list):
            return tuple(_form_of(value, where) for value in form)
        if set(form) == {"shape", "dtype"} and isinstance(form["dtype"], str):
            dtype = getattr(torch, form["dtype"].removeprefix("torch."))
            return torch.empty(0, *form["shape"], dtype=dtype)
        return {key: _form_of(value, where) for key, value in form.items()}
    except (AttributeError, TypeError, RuntimeError) as error:
        raise RunError(
            f"{where}: the form of the data is not one ({first_line(error)}); the file was edited"
        ) from error


def state_of(pair: nn.Module, prefix: str = "") -> dict[str, Tensor]:
    """Parameters and buffers by name, on the CPU; a tensor with several names is kept once.

    Raises:
        RunError: a layer has not seen data yet, or a module keeps what is not a tensor; names it.
    """
    state = pair.state_dict()
    for name, value in state.items():
        if (why := _unfit(value)) is not None:
            raise RunError(f"{name!r} {why}")
    kept = {name: state[name] for name, first in _firsts(state).items() if name == first}
    return {
        prefix + name: value.detach().cpu().contiguous().resolve_conj().resolve_neg().clone()
        for name, value in kept.items()
    }


def _unfit(value: Any) -> str | None:
    """Why a value of a ``state_dict`` can't be kept in a file of tensors; None where it can."""
    if not torch.is_tensor(value):
        return (
            f"is a {type(value).__name__}, which a module keeps by get_extra_state and a file of tensors can't hold; "
            f"keep it in a buffer, or leave it out"
        )
    if is_lazy(value):
        return "belongs to a lazy layer that has seen no data; run check_pair(model, guide, x) once before it is saved"
    if value.layout != torch.strided or value.is_quantized or value.is_meta or value.dtype in UNHELD:
        kind = (
            "on no device (meta)"
            if value.is_meta
            else str(value.dtype if value.layout == torch.strided else value.layout)
        )
        return (
            f"is {kind}, which a file of tensors can't hold; keep it as a plain tensor of float, int, bool or complex64"
        )
    return None


def _firsts(state: Mapping[str, Any]) -> dict[str, str]:
    """Each name of a state, and the first name of the same numbers: at one place, in one shape, order and dtype."""
    seen: dict[Any, str] = {}
    firsts = {}
    for name, value in state.items():
        key: Any = id(value)
        if torch.is_tensor(value) and not is_lazy(value):
            key = (value.data_ptr(), value.shape, value.stride(), value.dtype, value.device) if value.numel() else name
        firsts[name] = seen.setdefault(key, name)
    return firsts


def restore(pair: nn.Module, tensors: Mapping[str, Tensor], where: Path) -> None:
    """Put tensors of :func:`state_of` back, each in its own dtype, after checking every name and shape.

    Raises:
        RunError: a tensor is missing, is one too many, or has another shape or kind of number.
    """
    current = pair.state_dict(keep_vars=True)
    firsts = _firsts(current)
    needed = set(firsts.values())
    shared = {
        k for k in set(tensors) - needed if k in firsts and torch.equal(tensors[k], tensors.get(firsts[k], tensors[k]))
    }
    if odd := sorted(needed ^ (set(tensors) - shared)):
        raise RunError(f"{where}: not the weights of this pair: {odd[0]!r} is on one side only ({len(odd)} such names)")
    for name, value in tensors.items():
        now = current[name]
        if not torch.is_tensor(now):
            raise RunError(f"{where}: {name!r} {_unfit(now)}")
        if not is_lazy(now) and value.shape != now.shape:
            raise RunError(f"{where}: {name!r} has shape {tuple(value.shape)}, this pair needs {tuple(now.shape)}")
        if _number(value) != _number(now):
            raise RunError(f"{where}: {name!r} is {value.dtype}, this pair needs {now.dtype}")
    other = [name for name, value in tensors.items() if value.dtype != current[name].dtype]
    kinds = {value.dtype for value in tensors.values() if value.is_floating_point() or value.is_complex()}
    if other and len(kinds) == 1:
        pair.to(dtype=kinds.pop())  # with what is in no file
    elif other:
        for name, first in firsts.items():
            if not is_lazy(current[name]):
                current[name].data = current[name].data.to(tensors[first].dtype)
    try:
        put(pair, {name: tensors[first] for name, first in firsts.items()})
    except RuntimeError as error:
        raise RunError(f"{where}: not the weights of this pair: {first_line(error)}") from error


def _number(value: Tensor) -> str:
    return "real" if value.is_floating_point() else "complex" if value.is_complex() else "whole"


def put(pair: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Give parameters and buffers these values, in place; a name that is left out shares its tensor with another."""
    current = pair.state_dict(keep_vars=True)
    whole = {}
    for name, first in _firsts(current).items():
        value = tensors.get(name, tensors.get(first))
        now = current[name]
        if value is None or is_lazy(now) or now.is_contiguous():
            whole[name] = value
        else:
            assign(now.data, value)
    pair.load_state_dict({name: value for name, value in whole.items() if value is not None}, strict=False)


def make_folder(run_dir: str | Path, overwrite: bool) -> Path:
    """A folder for a new run.

    Raises:
        RunError: a run, or something else, is there and ``overwrite`` is not set.
    """
    folder = Path(run_dir)
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder} is a file; choose another folder for the run")
    if folder.exists() and any(folder.iterdir()):
        if not (folder / CONFIG).exists():
            raise RunError(f"{folder} holds other files and no run; choose another folder for the run")
        if not overwrite:
            raise RunError(f"{folder} holds a run already; pass --overwrite (overwrite=True) or another folder")
        for name in (STATE, "train_state.json", WEIGHTS, "history.jsonl", "evaluation.json", "log_px.csv", CONFIG):
            (folder / name).unlink(missing_ok=True)
        patterns = ("figures/*.png", "unfinished-*.safetensors", "log_px-*.csv", "evaluation-*.json")
        for other in (path for pattern in patterns for path in folder.glob(pattern)):
            other.unlink()
    return writable(folder)


def versions() -> dict[str, str]:
    """The versions that a result depends on."""
    names = ("ppl_vae", "torch", "pyro-ppl", "numpy")
    found = {"python": platform.python_version()}
    for name in names:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def write_config(folder: Path, pair: Pair, record: Mapping[str, Any]) -> None:
    """Write everything that is needed to rebuild the pair and to redo the run."""
    write_json(folder / CONFIG, _about(pair, record))


def _about(pair: Pair, record: Mapping[str, Any]) -> dict[str, Any]:
    about: dict[str, Any] = {"name": pair.name, "options": pair.config}
    if pair.byte_scale is not None:  # so that bytes mean what they meant
        about["byte_scale"] = pair.byte_scale
    if pair.columns is not None:
        about["columns"] = pair.columns
    if pair.config is None and pair.template is not None:  # the form of its data, so that it can be sampled
        about["data"] = each(lambda t: {"shape": list(t.shape[1:]), "dtype": str(t.dtype)}, pair.template)
    return {"format": FORMAT, "pair": about, **record, "versions": versions()}


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration of a run.

    Raises:
        RunError: there is none, or it is not one of ours.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise RunError(f"{folder} is not a run: there is no {CONFIG}; `ppl-vae train --out` makes one")
    config = read_json(path)
    about = config.get("pair") if isinstance(config, dict) else None
    if not isinstance(about, dict) or not isinstance(about.get("name"), str) or config.get("format") != FORMAT:
        raise RunError(f"{path}: not a configuration of this program (format {FORMAT}); it was edited, or is foreign")
    if not isinstance(about.get("options"), dict | None):
        raise RunError(f"{path}: the options of the pair are not a table; the file was edited")
    found: dict[str, Any] = config
    return found
