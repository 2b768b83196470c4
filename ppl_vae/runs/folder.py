"""Run folders: the configuration and the weights of a pair, as JSON and safetensors."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from ..common.errors import RunError, UserError
from ..common.fields import each
from ..common.files import PART, as_json, first_line, read_json, read_tensors, writable, write_json, write_tensors
from ..common.registry import pairs
from ..common.rng import forked
from ..pairs.base import Pair, build
from .state import restore_state, state_tensors

CONFIG = "config.json"
WEIGHTS = "weights.safetensors"
STATE = "train_state.safetensors"
FORMAT = 1


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
        RunError: a run is there already, the pair has no parameters in modules, a lazy layer was not run yet, or
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
    tensors = state_tensors(pair)
    if not tensors:
        raise RunError(
            "this pair has no parameters in modules, so there is nothing to save; write the networks as attributes of "
            "an nn.Module (bare pyro.param values live in Pyro's store)"
        )
    as_json(_about(pair, record))  # an error comes before a folder is made or emptied
    folder = make_folder(run_dir, overwrite)
    write_config(folder, pair, record)
    write_tensors(folder / WEIGHTS, tensors, {})
    return folder


def load(run_dir: str | Path, pair: Pair | None = None, *, device: str | torch.device = "cpu") -> Pair:
    """Read a pair from a run folder, in evaluation mode.

    Only registered names are rebuilt; nothing that the folder names is imported. A custom pair is loaded into
    an instance, ``pair``.

    Args:
        run_dir: the folder.
        pair: an instance to load into, for a pair that is not registered.
        device: where to put it.

    Raises:
        RunError: a file is missing, truncated, edited, or made by something else.
        UserError: there is no such device.

    Example:
        >>> import ppl_vae as pv
        >>> pv.load("no/such/run")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ppl_vae.common.errors.RunError: no/such/run is not a run: there is no config.json; ...
    """
    folder = Path(run_dir)
    config = read_config(folder)
    tensors, _ = read_tensors(folder / WEIGHTS)
    if pair is None:
        about = config["pair"]
        if "source" in about or about["name"] not in pairs() or about.get("options") is None:
            why = "was built by custom code" if "source" in about else "is not registered"
            if "source" not in about and about.get("options") is None:
                why = "was made from a model and a guide, by no builder, so no command can build it"
            raise RunError(
                f"{folder / CONFIG}: the pair {about['name']!r} {why}; build it yourself and call "
                f"pv.load(run_dir, pair=yours)"
            )
        try:
            with forked():
                pair = build(about["name"], **about["options"])
        except (UserError, TypeError, ValueError, RuntimeError) as error:
            raise RunError(f"{folder / CONFIG}: the pair can't be rebuilt from it: {first_line(error)}") from error
    restore_state(pair, tensors, folder / WEIGHTS)
    form = config["pair"].get("data")
    if form is not None and pair.template is None:
        pair.template = _empty_rows(form, folder / CONFIG)
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


def _empty_rows(form: Any, where: Path) -> Any:
    """Data of zero rows, from the description of their form in a configuration."""
    try:
        if isinstance(form, list):
            return tuple(_empty_rows(value, where) for value in form)
        if set(form) == {"shape", "dtype"} and isinstance(form["dtype"], str):
            dtype = getattr(torch, form["dtype"].removeprefix("torch."))
            return torch.empty(0, *form["shape"], dtype=dtype)
        return {key: _empty_rows(value, where) for key, value in form.items()}
    except (AttributeError, TypeError, RuntimeError) as error:
        raise RunError(
            f"{where}: the form of the data is not one ({first_line(error)}); the file was edited"
        ) from error


def make_folder(run_dir: str | Path, overwrite: bool) -> Path:
    """A folder for a new run.

    Raises:
        RunError: a run, or something else, is there and ``overwrite`` is not set.
    """
    folder = Path(run_dir)
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder} is a file; choose another folder for the run")
    if folder.exists() and any(path.suffix != PART for path in folder.iterdir()):  # one is left by kill -9
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
    found = {"python": platform.python_version()}
    for name in ("ppl_vae", "torch", "pyro-ppl", "numpy"):
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def write_config(folder: Path, pair: Pair, record: Mapping[str, Any]) -> None:
    """Write the configuration: what rebuilding the pair and repeating the run need."""
    write_json(folder / CONFIG, _about(pair, record))


def _about(pair: Pair, record: Mapping[str, Any]) -> dict[str, Any]:
    about: dict[str, Any] = {"name": pair.name, "options": pair.config}
    if pair.source is not None:
        about["source"] = pair.source
    if pair.byte_scale is not None:  # so that bytes are divided as in training
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
