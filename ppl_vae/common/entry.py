"""An error of a user's program as one line, with the program and the shapes of its data."""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, ParamSpec, TypeVar

import torch
from torch.utils._pytree import tree_map_only

from .errors import PairError, UserError
from .fields import leaves, shapes
from .numbers import plainly

P = ParamSpec("P")
T = TypeVar("T")
MARK = "_ppl_vae_program"  # on an exception: the program that raised it, and its arguments


@contextmanager
def marked(program: Any, args: tuple[Any, ...]) -> Iterator[None]:
    """Note on an exception raised inside which program raised it, and on which arguments; it stays what it is."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if not hasattr(error, MARK):
            setattr(error, MARK, (program, args))
        raise


def entry_point(function: Callable[P, T]) -> Callable[P, T]:
    """A function that users call: it takes numbers of NumPy, and reports an error of their program in one line.

    An exception of a user's program becomes a PairError, with the cause behind it. An error of this package, or for
    lack of memory, stays what it is. Under ``torch.inference_mode`` it runs outside, as moves and fits need gradients.
    """

    @functools.wraps(function)
    def entry(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            if torch.is_inference_mode_enabled():
                with torch.inference_mode(False), torch.no_grad():
                    given, named = tree_map_only(torch.Tensor, _ordinary, (args, kwargs))
                    return function(*given, **named)
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


def _ordinary(x: torch.Tensor) -> torch.Tensor:
    """A tensor that autograd accepts: a copy, where it was made in inference mode."""
    return x.clone() if x.is_inference() else x


def failing(program: Any, args: tuple[Any, ...], error: Exception, role: str | None = None) -> str:
    """The line: the program, the shapes of its data, its error, and the usual cause."""
    what = ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])
    name = getattr(program, "__qualname__", type(program).__qualname__)
    x, y = (*args, None, None)[:2]
    given = ("" if x is None else f" on x of {_shapes(x)}") + ("" if y is None else f" and y of {_shapes(y)}")
    hint = (
        "every dimension but the data's must be declared with .to_event, and networks must accept z of shape "
        "(particles, data, latent)"
    )
    if fields := _fields_read(error, x):
        lacks = [f for f in fields if not isinstance(x, Mapping) or f not in x]
        shown = ", ".join(f"{f!r}: ..." for f in fields)
        hint = f"x has no {' and no '.join(map(repr, lacks))}, which it reads: give a dictionary, {{{shown}}}"
    elif 'list (not "torch.Size")' in what:
        hint = (
            "an expand takes no list, as Pyro's plates give it (zuko's mixtures, such as GMM): derive from ZukoToPyro, "
            "with def expand(self, shape, _=None): return type(self)(self.dist.expand(torch.Size(shape)))"
        )
    elif _has_missing(x):
        hint = "x has missing entries (NaN), which it may not allow for: fill them in, and pass it a mask of them"
    elif len(args) == 1:
        hint += "; if it needs labels, pass y"
    return f"{role or name} fails{given}: {what}; {hint}"


def _fields_read(error: BaseException, x: Any) -> list[str]:
    """The fields that the code under an error reads of x, by name, where x lacks one; in the order of the code."""
    found: dict[str, None] = {}
    trace = error.__traceback__ if isinstance(error, KeyError | IndexError | TypeError) else None
    while trace is not None:
        names = {n for n, v in trace.tb_frame.f_locals.items() if v is x}
        with suppress(OSError, TypeError, SyntaxError):
            code = ast.parse(textwrap.dedent(inspect.getsource(trace.tb_frame.f_code))) if names else ast.Module([], [])
            for node in ast.walk(code):
                match node:
                    case ast.Subscript(value=ast.Name(id=name), slice=ast.Constant(value=str(key))) if name in names:
                        found[key] = None
        trace = trace.tb_next
    return [] if isinstance(x, Mapping) and set(found) <= set(x) else list(found)


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
