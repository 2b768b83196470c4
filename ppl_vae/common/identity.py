"""The identity of what was asked for: objectives, optimisers, schedules and functions as facts that JSON can hold."""

from __future__ import annotations

import ast
import dis
import functools
import hashlib
import inspect
import math
import textwrap
from collections.abc import Mapping
from contextlib import suppress
from itertools import pairwise
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import nn

from .numbers import plain

_KNOWN = {
    "builtins",
    "math",
    "cmath",
    "operator",
    "functools",
    "numpy",
    "torch",
    "pyro",
    "ppl_vae",
}  # identified by version
_CHANGES = {"append", "extend", "insert", "pop", "clear", "add", "update", "setdefault"}  # a value in place
Above: TypeAlias = tuple[Any, ...]  # classes that are described already, as a set; then the values that hold this one
_HINTS = {"max_plate_nesting", "max_iarange_nesting"}  # set by Pyro in the first step


def describe(value: Any) -> Any:
    """A value as JSON-able facts: equal facts mean the same work, in any process.

    Numbers and texts are themselves. A function is its qualified name, the sha256 of its source (without comments and
    layout), and what it holds: defaults, closure, and the globals that it reads: numbers, texts, lists and dictionaries
    of them, functions and classes as they are, other objects by their type. A partial is its function and arguments.
    An object is its class and its plain settings; a tensor, its digest. Nothing here is ever run.

    Example:
        >>> import functools, torch
        >>> describe(functools.partial(torch.optim.SGD, momentum=0.9))
        {'partial': {'name': 'torch.optim.sgd.SGD'}, 'args': [], 'keywords': {'momentum': 0.9}}
        >>> describe(lambda done: 1 - done) == describe(lambda done: 1.0)
        False
    """
    return _described(value, (set(),))


def difference(then: Any, now: Any, path: str = "") -> tuple[str, Any, Any] | None:
    """Where two descriptions differ first: the path, the value then and now; None where they do not.

    Example:
        >>> difference({"name": "Elbo", "beta": 1.0}, {"name": "Elbo", "beta": 4.0}, "objective")
        ('objective.beta', 1.0, 4.0)
    """
    if isinstance(then, Mapping) and isinstance(now, Mapping):
        for key in dict.fromkeys((*then, *now)):
            one, other = then.get(key), now.get(key)
            if key == "holds" and isinstance(other, Mapping):  # older versions recorded fewer names
                other = {k: v for k, v in other.items() if k in (one or {})} or None
            found = difference(one, other, f"{path}.{key}" if path else str(key))
            if found is not None:
                return found
        return None
    if isinstance(then, list) and isinstance(now, list) and len(then) == len(now):
        for i, (one, other) in enumerate(zip(then, now, strict=True)):
            found = difference(one, other, f"{path}[{i}]")
            if found is not None:
                return found
        return None
    return None if then == now else (path, then, now)


def _described(value: Any, above: Above) -> Any:
    value = plain(value)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if id(value) in above[1:]:  # a function that holds itself
        return {"name": "itself"}
    above = (*above, id(value))
    if isinstance(value, tuple | list):
        return [_described(v, above) for v in value]
    if isinstance(value, Mapping):
        return {str(k): _described(v, above) for k, v in value.items()}
    if isinstance(value, set | frozenset):
        return sorted((_described(v, above) for v in value), key=repr)
    if isinstance(value, torch.dtype | torch.device):
        return str(value)
    if isinstance(value, torch.Tensor | np.ndarray):
        array = value.detach().cpu() if isinstance(value, torch.Tensor) else value
        content = repr((str(array.dtype), tuple(array.shape), array.tolist()))
        return {"shape": list(array.shape), "sha256": _sha256(content)}
    if isinstance(value, functools.partial):
        return {
            "partial": _described(value.func, above), "args": _described(value.args, above),
            "keywords": _described(value.keywords, above),
        }  # fmt: skip
    if isinstance(value, MethodType):
        return {**_described(value.__func__, above), "of": _described(value.__self__, above)}
    if isinstance(value, FunctionType):
        return _function(value, above)
    if isinstance(value, type):
        return _class(value, above)
    if isinstance(value, BuiltinFunctionType):
        return {"name": _name(value)}
    about = _class(type(value), above)
    if isinstance(value, nn.Module):  # its weights are the run's, or move
        return about
    settings = {k: v for k, v in _attributes(value).items() if not k.startswith("_") and k not in _HINTS}
    return {**about, "settings": _described(settings, above)} if settings else about


def _attributes(value: Any) -> dict[str, Any]:
    slots = [s for c in type(value).__mro__ for s in getattr(c, "__slots__", ()) if isinstance(s, str)]
    return {s: getattr(value, s) for s in slots if hasattr(value, s)} | dict(getattr(value, "__dict__", {}))


def _name(thing: Any) -> str:
    return f"{getattr(thing, '__module__', None)}.{getattr(thing, '__qualname__', type(thing).__qualname__)}"


def _is_known(thing: Any) -> bool:
    """Whether a name and the versions of a run identify it."""
    package = str(getattr(thing, "__module__", None)).split(".")[0]
    return package in _KNOWN and "<lambda>" not in getattr(thing, "__qualname__", "")


def _class(cls: type, above: Above) -> dict[str, Any]:
    if _is_known(cls) or id(cls) in above[0]:
        return {"name": _name(cls)}
    above[0].add(id(cls))
    methods = {k: v for k, v in sorted(vars(cls).items()) if isinstance(v, FunctionType)}
    try:
        source = ast.unparse(ast.parse(textwrap.dedent(inspect.getsource(cls))))
    except (OSError, TypeError, SyntaxError):
        source = repr([(k, _code(v.__code__)) for k, v in methods.items()])
    bases = {f"base {b.__qualname__}": _class(b, above) for b in cls.__bases__ if b is not object and not _is_known(b)}
    held: dict[str, Any] = {}
    for method in methods.values():
        held |= _held(method)
    used = {k: held[k] for k in sorted(held) if k != "__class__"}  # which super() reads
    holds = {"holds": _described(used, above)} if used else {}
    return {"name": _name(cls), "sha256": _sha256(source), **bases, **holds}


def _function(function: FunctionType, above: Above) -> dict[str, Any]:
    about: dict[str, Any] = {"name": _name(function)}
    if not _is_known(function):
        about["sha256"] = _sha256(_source(function))
        if defaults := [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]:
            about["defaults"] = _described(defaults, above)
    if held := _held(function):
        about["holds"] = _described(held, above)
    return about


def _held(function: FunctionType) -> dict[str, Any]:
    """What a function reads from around it: its closure, and the globals that its code and the versions don't settle.

    What it sets itself, such as a counter, is not part of its identity.
    """
    code = function.__code__
    writes = {i.argval for i in dis.get_instructions(code) if i.opname in ("STORE_DEREF", "STORE_GLOBAL")}
    writes |= _grown(code)
    held = {}
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        with suppress(ValueError):  # not filled yet
            held[name] = cell.cell_contents
    if not _is_known(function):
        around = {n: function.__globals__[n] for n in _names(code) if n in function.__globals__}
        held |= {
            n: v if _has_value(v) else {"type": _name(type(v))} for n, v in around.items() if not _is_identified(v)
        }
    return {k: held[k] for k in sorted(held) if k not in writes}


def _names(code: CodeType) -> set[str]:
    """The names that a function reads, and the functions within it."""
    return {*code.co_names}.union(*(_names(c) for c in code.co_consts if isinstance(c, CodeType)))


def _grown(code: CodeType) -> set[str]:
    """The names of the values that a function changes in place, such as a record of its calls."""
    steps = list(dis.get_instructions(code))
    loads = ("LOAD_GLOBAL", "LOAD_DEREF", "LOAD_NAME")
    return {a.argval for a, b in pairwise(steps) if a.opname in loads and b.argval in _CHANGES}


def _is_identified(value: Any) -> bool:
    """Whether the code and the versions of a run identify a global: a module, or a known class or function."""
    if isinstance(value, ModuleType | BuiltinFunctionType):
        return True
    return isinstance(value, FunctionType | type) and _is_known(value)


def _has_value(value: Any) -> bool:
    """Whether the value of a global is part of the identity of a function that reads it; of others, the type is."""
    if isinstance(value, FunctionType | type):
        return True
    if isinstance(value, Mapping):
        return all(map(_has_value, value.values()))
    if isinstance(value, list | tuple | set | frozenset):
        return all(map(_has_value, value))
    return value is None or isinstance(value, bool | int | float | str | np.generic)


def _source(function: FunctionType) -> str:
    """The source of a function without comments and layout; of a lambda, only its own part of the line."""
    try:
        if function.__name__ != "<lambda>":
            return ast.unparse(ast.parse(textwrap.dedent(inspect.getsource(function))))
        lines, _ = inspect.findsource(function)
        nodes = [n for n in ast.walk(ast.parse("".join(lines))) if isinstance(n, ast.Lambda)]
    except (OSError, TypeError, SyntaxError):
        return _code(function.__code__)
    spans = [p for p in function.__code__.co_positions() if None not in p and p[3]]
    here = [n for n in nodes if n.lineno == function.__code__.co_firstlineno and all(_within(n.body, p) for p in spans)]
    if not here:
        return _code(function.__code__)
    return ast.unparse(min(here, key=lambda n: len(ast.unparse(n))))


def _within(node: ast.expr, position: Any) -> bool:
    line, end_line, column, end_column = position
    start, end = (node.lineno, node.col_offset), (node.end_lineno or 0, node.end_col_offset or 0)
    return start <= (line, column) and (end_line, end_column) <= end


def _code(code: CodeType) -> str:
    """The code of a function without source."""
    constants = [_code(c) if isinstance(c, CodeType) else repr(c) for c in code.co_consts]
    return repr((code.co_code.hex(), constants, code.co_names, code.co_varnames))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
