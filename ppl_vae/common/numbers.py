"""Numbers of NumPy and torch, 0-d arrays and 0-d tensors as numbers of Python."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np
import torch

from .errors import UserError

F = TypeVar("F", bound=Callable[..., Any])


def plain(value: Any) -> Any:
    """NumPy scalars, 0-d arrays and 0-d tensors as a Python int, float, bool or str; all else as it is.

    Also those inside lists, tuples and dictionaries.

    Example:
        >>> import numpy as np, torch
        >>> plain([np.int64(3), torch.tensor(0.5), {"on": np.bool_(True)}, None, "adam"])
        [3, 0.5, {'on': True}, None, 'adam']
    """
    if isinstance(value, int | float | str) and not isinstance(value, np.generic):
        return value
    if type(value) in (list, tuple):
        return type(value)(map(plain, value))
    if type(value) is dict:
        return {plain(k): plain(v) for k, v in value.items()}
    if isinstance(value, np.floating):
        return float(value)  # .item() of a long double is a long double
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray | torch.Tensor) and value.ndim == 0):
        return value.item()
    return value


def convert(value: Any, annotation: str) -> Any:
    """A value as the type that an annotation writes: int, float, bool, str, Sequence of them, or one of several.

    Whole floats are ints; True and False are not numbers; arrays and tensors of one dimension are sequences.

    Raises:
        ValueError: it is not of that type.

    Example:
        >>> import numpy as np
        >>> convert(np.array([3.0, 2.0]), "Sequence[int]"), convert(np.float32(0.5), "float | None")
        ((3, 2), 0.5)
    """
    value = plain(value)
    items = value.tolist() if isinstance(value, np.ndarray | torch.Tensor) else value
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    fits = {
        "int": is_number and (isinstance(value, int) or value.is_integer()),
        "float": is_number,
        "bool": isinstance(value, int) and value in (0, 1),
        "str": isinstance(value, str),
        "None": value is None,
    }
    for kind in annotation.split(" | "):
        if kind.startswith("Sequence["):
            if isinstance(items, list | tuple | range):
                return tuple(convert(v, kind[len("Sequence[") : -1]) for v in items)
        elif fits.get(kind, True):  # other types are not checked
            return int(value) if kind == "int" else bool(value) if kind == "bool" else value
    raise ValueError(f"{value!r} is not of the type {annotation}")


NEEDED = {"int": "a whole number", "float": "a number", "bool": "True or False", "Sequence[int]": "whole numbers"}


def needed(name: str, value: Any, kind: str) -> Any:
    """:func:`convert` of an argument, with an error that names it.

    Raises:
        UserError: it is not of that type.
    """
    try:
        return convert(value, kind)
    except ValueError:
        wanted = " or ".join(NEEDED.get(k, k) for k in kind.split(" | "))
        raise UserError(f"{name}={plain(value)!r}: {wanted} is needed") from None


def plainly(function: F) -> F:
    """Let a function accept NumPy's and torch's numbers wherever its signature has a number.

    Raises:
        UserError: on a call, a fraction, a boolean or a text where a number is needed.

    Example:
        >>> @plainly
        ... def draw(n: int) -> str:
        ...     return repr(n)
        >>> draw(np.int64(3))
        '3'
        >>> draw(2.5)
        Traceback (most recent call last):
        ppl_vae.common.errors.UserError: n=2.5: a whole number is needed
    """
    signature = inspect.signature(function)
    kinds = {name: str(p.annotation) for name, p in signature.parameters.items()}
    kinds = {name: kind for name, kind in kinds.items() if set(kind.split(" | ")) & set(NEEDED)}
    choices = {name for name, kind in kinds.items() if "str" in kind.split(" | ")}  # the function checks the names

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            given = signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{function.__name__}() {error}") from None
        for name, kind in kinds.items():
            if name in given.arguments:
                value = plain(given.arguments[name])
                given.arguments[name] = value if name in choices else needed(name, value, kind)
        return function(*given.args, **given.kwargs)

    return cast(F, wrapped)
