"""An option that is a name, a name with options, a callable or an instance: read, resolved and recorded here."""

from __future__ import annotations

import ast
import functools
import inspect
from collections.abc import Mapping
from typing import Any, TypeAlias

from torch import nn

from .custom import annotation_of
from .errors import UserError
from .identity import describe
from .numbers import convert, plain
from .registry import TABLES, resolve

Choice: TypeAlias = Any  # str | Mapping[str, Any] | Callable[..., Any] | nn.Module


def construct(
    what: str, given: Choice, *args: Any, fallback: Mapping[str, Any] | None = None, instance: bool = True
) -> Any:
    """The object of an option.

    Args:
        what: a key of ``registry.TABLES``: guide, likelihood, network or activation.
        given: a name (``"gaussian"``), a name with options (``"gaussian:sigma=0.5"``, or
            ``{"name": "gaussian", "sigma": 0.5}``), a callable of ``args`` that makes the object, or the object.
        args: the arguments of every such callable.
        fallback: defaults of options, for a name that takes them.
        instance: whether a module itself may be given.

    Raises:
        UserError: a name or an option that is not known, a value of another type, or a module where none may be given.

    Example:
        >>> construct("activation", "leaky_relu:negative_slope=0.2")
        LeakyReLU(negative_slope=0.2)
    """
    if isinstance(given, nn.Module):
        if instance:
            return given
        raise UserError(f"{what}: one module can't serve in two places; give a callable that makes one, or a name")
    if not isinstance(given, str | Mapping):
        if callable(given):
            return given(*args)
        raise UserError(
            f"{what}={plain(given)!r}: give a name ({', '.join(TABLES[what])}), a name with options "
            f"('name:option=value', or a dictionary), or a callable"
        )
    name, options = named(what, given)
    function = resolve(what, name, TABLES[what])
    known = dict(list(inspect.signature(function).parameters.items())[len(args) :])
    return function(
        *args, **{k: v for k, v in (fallback or {}).items() if k in known}
        | checked(f"{what} {name!r}", known, options)
    )  # fmt: skip


def named(what: str, given: str | Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The name and the options of a choice that has a name.

    Raises:
        UserError: the table has no such name, or the option has another form.

    Example:
        >>> named("likelihood", "gaussian:sigma=0.5")
        ('gaussian', {'sigma': 0.5})
    """
    if isinstance(given, str):
        name, options = parsed(given)
    else:
        if "custom" in given:
            raise UserError(
                f"{what}: {given['custom'].get('name', 'it')} is custom code, which a record does not hold; build the "
                f"pair with it: pv.load(run_dir, pair=yours)"
            )
        options = {str(k): v for k, v in given.items() if k != "name"}
        name = str(given.get("name"))
    if name not in TABLES[what]:
        raise UserError(f"{what}={name!r}: choose one of {', '.join(TABLES[what])}, or give a callable")
    return name, options


def parsed(given: str) -> tuple[str, dict[str, Any]]:
    """``name:a=1,b=2,3`` to ``name, {"a": 1, "b": (2, 3)}``.

    Raises:
        UserError: the options have another form.
    """
    name, _, text = given.partition(":")
    options: dict[str, Any] = {}
    for part in text.split(",") if text else ():
        key, equals, value = part.partition("=")
        if equals:
            last = key.strip()
            if last in options:
                raise UserError(f"{given!r}: the option {last} is given twice")
            options[last] = literal(value)
        elif not options:
            raise UserError(f"{given!r}: options are written name:option=value,option=value")
        else:  # one more value of the option before it
            held = options[last] if isinstance(options[last], tuple) else (options[last],)
            options[last] = (*held, literal(part)) if part.strip() else held
    return name, options


def literal(text: str) -> Any:
    """A text as the Python value that it writes, or itself.

    Example:
        >>> literal("0.5"), literal("elbo")
        (0.5, 'elbo')
    """
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError):
        return text.strip()


def checked(owner: str, known: Mapping[str, inspect.Parameter], options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as the types of a signature.

    Raises:
        UserError: an option that the signature does not have, or a value of another type.
    """
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise UserError(f"{owner} has no option {', '.join(unknown)}; it takes {', '.join(known)}")
    found = {}
    for key, value in options.items():
        kind = annotation_of(known[key])
        try:
            found[key] = convert(value, kind)
        except ValueError:
            raise UserError(f"{owner}: {key}={plain(value)!r} is not of the type {kind}") from None
    return found


def record(value: Choice) -> Any:
    """A choice as JSON holds it: its name and options, or the description of custom code.

    Example:
        >>> from ppl_vae.nn.likelihoods import Gaussian
        >>> record(Gaussian), record(functools.partial(Gaussian, sigma=0.5)), record(Gaussian(sigma=0.5))
        ('gaussian', {'name': 'gaussian', 'sigma': 0.5}, {'name': 'gaussian', 'sigma': 0.5})
    """
    if isinstance(value, Mapping):
        return {str(k): record(v) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return [record(v) for v in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    maker, options = value, {}  # type: Any, Any
    if isinstance(value, functools.partial) and not value.args:
        maker, options = value.func, value.keywords
    elif isinstance(value, nn.Module) and hasattr(value, "options"):
        maker, options = type(value), value.options
    where = f"{getattr(maker, '__module__', None)}:{getattr(maker, '__qualname__', None)}"
    for name, (place, _) in (entry for table in TABLES.values() for entry in table.items()):
        if place == where:
            return {"name": name, **record(options)} if options else name
    return {"custom": describe(value)}
