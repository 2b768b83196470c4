"""Files: written atomically and checked when read; none of their formats can run code."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor
from torch.nn.parameter import is_lazy

from .errors import RunError, UserError
from .numbers import plain


def first_line(error: BaseException) -> str:
    """The first line of an error's message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def reason(error: BaseException) -> str:
    """The type of an error and its message, on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def writable(folder: Path) -> Path:
    """The folder, made where it is absent; called before the work whose results it takes.

    Raises:
        RunError: it is a file, or can't be made or written to.
    """
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder} is a file; choose a folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{folder}: can't make the folder ({error.strerror}); choose another") from error
    if not os.access(folder, os.W_OK):
        raise RunError(f"{folder}: can't be written to; choose another folder, or change its permissions")
    return folder


# ---- writing


PART = ".part"  # at the end of the name of a file that is not whole yet


@contextmanager
def atomic(path: Path) -> Iterator[IO[bytes]]:
    """A binary file to write to, renamed once it is whole: an interruption leaves the old file or the new one.

    Raises:
        RunError: the disk is full, or the folder can't be written to; the old file is kept.
    """
    part = path.with_name(path.name + PART)
    try:
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        handle = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise RunError(
            f"{path}: can't be written ({error.strerror}); free some space, or choose another folder"
        ) from error


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically."""
    with atomic(path) as file:
        file.write(content)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically; infinities and NaN are written as null by the caller, never here."""
    write_text(path, as_json(value) + "\n")


def as_json(value: Any) -> str:
    """JSON of facts; numbers of NumPy and torch, arrays and tensors, tuples and paths as plain ones.

    Raises:
        UserError: a value that JSON can't hold; names it.

    Example:
        >>> import numpy as np
        >>> as_json({"widths": np.array([3, 2]), "lr": np.float64(0.5)}).split()
        ['{', '"widths":', '[', '3,', '2', '],', '"lr":', '0.5', '}']
    """

    def simple(value: Any) -> Any:
        if isinstance(value, np.ndarray | Tensor):
            return value.tolist()
        if isinstance(value, Path):
            return str(value)
        raise TypeError(f"{value!r:.60} is of type {type(value).__name__}")

    try:
        return json.dumps(plain(value), indent=2, allow_nan=False, default=simple)
    except (TypeError, ValueError) as error:
        raise UserError(f"can't be kept as JSON ({first_line(error)}); give finite numbers, texts, lists") from error


def write_tensors(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Write named tensors and JSON-able facts to one safetensors file, atomically, with a checksum."""
    facts = json.dumps(about, allow_nan=False)
    # one key only: safetensors writes several in no fixed order, and equal runs must have equal files
    seal = json.dumps({"about": facts, "sha256": digest(tensors, facts)})
    write_bytes(path, to_bytes({k: v.contiguous() for k, v in tensors.items()}, metadata={"ppl_vae": seal}))


# ---- reading


def read_json(path: Path) -> Any:
    """A JSON file.

    Raises:
        RunError: it is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: can't be read ({first_line(error)}); it is missing, truncated or edited") from error


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors on the CPU and the facts beside them.

    Raises:
        RunError: the file is missing, truncated, edited, or not of this package.
    """
    if not path.is_file():
        raise RunError(f"{path} is missing; the run was not finished, or is not one")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            seal = (file.metadata() or {}).get("ppl_vae")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise RunError(f"{path}: not a whole safetensors file ({first_line(error)}); restore it from a copy") from error
    if seal is None:
        raise RunError(f"{path}: a safetensors file of another program")
    with suppress(ValueError, KeyError, TypeError):
        sealed = json.loads(seal)
        if sealed["sha256"] == digest(tensors, sealed["about"]):
            return tensors, json.loads(sealed["about"])
    raise RunError(f"{path}: the checksum does not match; the file was edited or damaged; restore it from a copy")


def digest(tensors: Mapping[str, Tensor], facts: str = "") -> str:
    """The sha256 of named tensors and of a text; a lazy tensor, or another object, counts by its name."""
    h = hashlib.sha256(facts.encode())
    for name in sorted(tensors):
        value = tensors[name]
        if not torch.is_tensor(value) or is_lazy(value):
            h.update(name.encode())
            continue
        value = (value if value.layout == torch.strided else value.to_dense()).detach().cpu().contiguous()
        value = value.resolve_conj().resolve_neg()
        h.update(repr((name, str(value.dtype), tuple(value.shape))).encode())
        h.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return h.hexdigest()
