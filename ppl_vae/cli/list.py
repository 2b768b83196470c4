"""list: everything that has a name, or one pair."""

from __future__ import annotations

import re
from collections.abc import Mapping
from textwrap import indent
from typing import Annotated, Any

import typer

from ..common.errors import UserError
from ..common.registry import AXES, FAMILIES, ROWS, installed
from ..pairs.options import flag, read, shown
from .options import JsonOpt
from .output import print_json


def list_(
    pair: Annotated[str | None, typer.Argument(help="A pair, or a custom builder as FILE.py:NAME.")] = None,
    *,
    json_: JsonOpt = False,
) -> None:
    """Print everything that has a name, with a line on when to use it; or what one pair is, and its options."""
    if pair is not None:
        one_pair(pair, json_)
        return
    packages = {name: package for name, (_, package) in installed().items()}
    axes = {axis: {name: line(entry) for name, entry in table.items()} for axis, table in AXES.items()}
    axes["pairs"] |= {name: summary(name) for name in packages}
    sides = {name: ROWS[name][0] for name in axes["estimators"]}
    if not json_:
        after = {name: f" (package {package})" for name, package in packages.items()}
        after |= {name: f" ({side})" for name, side in sides.items()}
        for axis, lines in axes.items():
            typer.echo(axis)
            if axis != "pairs":
                show(lines, after if axis == "estimators" else {})
                continue
            for family, names in FAMILIES.items():
                typer.echo(f"  {family}")
                show({name: lines[name] for name in names}, {}, "    ")
            if packages:
                typer.echo("  of installed packages")
                show({name: lines[name] for name in packages}, after, "    ")
        return
    found: dict[str, Any] = {axis: list(lines) for axis, lines in axes.items()}
    families = {name: one for one, names in FAMILIES.items() for name in names}
    found["pairs"] = [
        {"name": k, "family": families.get(k), "summary": v, "package": packages.get(k, "ppl_vae")}
        for k, v in axes["pairs"].items()
    ]
    found["estimators"] = [{"name": k, "side": sides[k], "summary": v} for k, v in axes["estimators"].items()]
    print_json({**found, "use_when": axes})


def one_pair(name: str, json_: bool) -> None:
    """Print what a pair is: its summary, formula and reference, its options, and a command that trains it."""
    builder = read(name)
    family = next((family for family, names in FAMILIES.items() if name in names), None)
    if json_:
        options = {
            k: {"type": o.annotation, "default": shown(o.default), "help": o.help} for k, o in builder.options.items()
        }
        facts = {"name": name, "family": family, "summary": builder.summary, "about": builder.about}
        print_json({**facts, "options": options, "command": builder.command})
        return
    about = indent(plain(builder.about), "  ").strip("\n")
    typer.echo(f"{name}: {plain(builder.summary)}\n" + (f"\n{about}\n" if about.strip() else ""))
    typer.echo(f"family\n  {family or 'of its own'}\n\noptions")
    show({f"{flag(k)} {shown(o.default)}": o.help for k, o in builder.options.items()}, {}, width=34)
    if builder.command:
        typer.echo(f"\ncommand\n  {builder.command}")


def plain(about: str) -> str:
    """A docstring without the marks of its markup.

    Example:
        >>> plain("The :func:`log` of ``x``.\\n\\n.. math:: p(x)")
        'The log of x.\\n\\n  p(x)'
    """
    return re.sub(r"(?::\w+:)?(`{1,2})(.+?)\1", r"\2", re.sub(r"^\.\. math::", " ", about, flags=re.MULTILINE))


def show(lines: Mapping[str, str], after: Mapping[str, str], before: str = "  ", width: int = 22) -> None:
    """Print names with a line on each."""
    for name, text in lines.items():
        typer.echo(f"{before}{name:<{width - len(before)}} {text}{after.get(name, '')}")


def line(entry: str | tuple[str, str]) -> str:
    """When to use an entry of the registry."""
    return entry if isinstance(entry, str) else entry[1]


def summary(pair: str) -> str:
    """The first line of an installed builder's docstring, or why it can't be read: a broken package hides no other."""
    try:
        return read(pair).summary
    except UserError as error:
        return f"can't be read: {error}"
