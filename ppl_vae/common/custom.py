"""Custom code from a file that the user names, as FILE.py:NAME."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from .errors import UserError

FILE = re.compile(r"(?P<path>.+\.py)(?::(?P<name>\w*))?")


def parts(text: str) -> tuple[Path, str]:
    """The path and the name of FILE.py:NAME.

    Raises:
        UserError: it has another form, or there is no such file.

    Example:
        >>> parts("mine.py:counts")
        Traceback (most recent call last):
        ppl_vae.common.errors.UserError: mine.py:counts: there is no file 'mine.py' in this folder
    """
    found = FILE.fullmatch(text)
    if found is None:
        raise UserError(f"{text!r}: give FILE.py:NAME, a file and a function in it")
    path = Path(found["path"]).expanduser()
    if not path.is_file():
        where = "" if path.is_absolute() else " in this folder"
        raise UserError(f"{text}: there is no file '{path}'{where}")
    return path.resolve(), found["name"] or ""


def function_of(text: str) -> Callable[..., Any]:
    """The function or class NAME of FILE.py, which is run: only for a text of the user's, never for one of a record.

    Raises:
        UserError: there is no such file or function, or the file fails.
    """
    path, name = parts(text)
    function = getattr(_run(path, sha256_of(path)), name, None)
    if not callable(function):
        raise UserError(f"{path} has no function {name!r}; give FILE.py:NAME")
    return function  # type: ignore[no-any-return]


def as_given(value: Any) -> Any:
    """A choice as an object: a text FILE.py:NAME of the user's is the function or class, any other value is itself.

    Example:
        >>> as_given("iwae")
        'iwae'
    """
    return function_of(value) if isinstance(value, str) and FILE.fullmatch(value) else value


def absolute(value: Any) -> Any:
    """A text FILE.py:NAME with its absolute path; any other value is itself."""
    if not isinstance(value, str) or not FILE.fullmatch(value):
        return value
    path, name = parts(value)
    return f"{path}:{name}"


@functools.cache
def _run(path: Path, sha256: str) -> ModuleType:
    """The module of a file, run once for each content, so that its classes are the same in every option."""
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))  # as `python FILE` does, for the files beside it
    spec = importlib.util.spec_from_file_location(f"ppl_vae_file_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for the annotations of a class
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # of any kind
        raise UserError(failure(error, path)) from error
    return module


def failure(error: Exception, path: Path) -> str:
    """The error of a custom file, with its line."""
    lines, trace = [], error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            lines.append(trace.tb_lineno)
        trace = trace.tb_next
    return f"{path}{f', line {lines[-1]}' if lines else ''}: {type(error).__name__}: {error}"


def sha256_of(path: Path) -> str:
    """The sha256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def origin(function: Callable[..., Any]) -> dict[str, Any]:
    """The source of a function, for a record: FILE.py:NAME and the sha256 of the file, None where there is none.

    Example:
        >>> origin(parts)["builder"].endswith("custom.py:parts")
        True
    """
    name = getattr(function, "__name__", type(function).__name__)
    try:
        path = Path(inspect.getfile(inspect.unwrap(function))).resolve()
        return {"builder": f"{path}:{name}", "sha256": sha256_of(path)}
    except (TypeError, OSError):  # written at a prompt
        return {"builder": name, "sha256": None}


def kind_of(default: Any) -> str:
    """The type of a default, as an annotation writes it.

    Example:
        >>> kind_of(2), kind_of((200, 200))
        ('int', 'Sequence[int]')
    """
    if isinstance(default, tuple | list):
        return f"Sequence[{type(default[0]).__name__ if default else 'str'}]"
    return "Any" if default in (None, ...) else type(default).__name__


def annotation_of(parameter: inspect.Parameter) -> str:
    """The type of a parameter, as text: its annotation, or else the type of its default."""
    kind = parameter.annotation
    if kind is parameter.empty:
        return kind_of(parameter.default)
    text = kind if isinstance(kind, str) else inspect.formatannotation(kind).replace("collections.abc.", "")
    return re.sub(r"tuple\[(\w+), \.\.\.\]", r"Sequence[\1]", text)
