"""What a user's program raised on the data that it was given, in one line that says which program and which data."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

from .errors import PairError, UserError
from .fields import leaves, shapes
from .numbers import plainly

P = ParamSpec("P")
T = TypeVar("T")
MARK = "_ppl_vae_program"  # on an exception: the program that raised it, and its arguments


@contextmanager
def marked(program: Any, args: tuple[Any, ...]) -> Iterator[None]:
    """Note on whatever is raised inside which program raised it, and on what; the exception stays what it is."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if not hasattr(error, MARK):
            setattr(error, MARK, (program, args))
        raise


def entry_point(function: Callable[P, T]) -> Callable[P, T]:
    """A function that users call: it takes numbers of NumPy, and says in one line what their program raised.

    What a user's program raised becomes one PairError, with the cause behind it. An error of this package, or of a
    machine that ran out of memory, stays what it is.
    """

    @functools.wraps(function)
    def entry(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except UserError:
            raise
        except Exception as error:
            found = getattr(error, MARK, None)
            if found is None or isinstance(error, MemoryError) or "out of memory" in str(error):
                raise
            program, given = found
            raise PairError(failing(program, given, error)) from error

    return plainly(entry)


def failing(program: Any, args: tuple[Any, ...], error: Exception, role: str | None = None) -> str:
    """The line: which program, on what, what it said, and what is usually the matter."""
    what = ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])
    name = getattr(program, "__qualname__", type(program).__qualname__)
    x, y = (*args, None, None)[:2]
    given = ("" if x is None else f" on x of {_shapes(x)}") + ("" if y is None else f" and y of {_shapes(y)}")
    hint = (
        "every dimension but the data's must be declared with .to_event, and networks must accept z of shape "
        "(particles, data, latent)"
    )
    if _has_missing(x):
        hint = "x has missing entries (NaN), which it may not leave out: fill them in, and tell it which they are"
    elif len(args) == 1:
        hint += "; if it needs labels, pass y"
    return f"{role or name} fails{given}: {what}; {hint}"


def _has_missing(x: Any) -> bool:
    try:
        return any(bool(leaf.isnan().any()) for leaf in leaves(x) if leaf.is_floating_point())
    except (AttributeError, TypeError):
        return False


def _shapes(x: Any) -> str:
    try:
        return shapes(x)
    except (AttributeError, IndexError, TypeError):
        return f"type {type(x).__name__}"
