"""list: everything that has a name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import typer

from ..common.errors import UserError
from ..common.registry import AXES, FAMILIES, ROWS, installed
from ..pairs.options import read
from .options import JsonOpt
from .output import print_json


def list_(json_: JsonOpt = False) -> None:
    """Print everything that has a name, with a line on when to use it."""
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


def show(lines: Mapping[str, str], after: Mapping[str, str], indent: str = "  ") -> None:
    """Print names with a line on each."""
    for name, text in lines.items():
        typer.echo(f"{indent}{name:<{22 - len(indent)}} {text}{after.get(name, '')}")


def line(entry: str | tuple[str, str]) -> str:
    """When to use an entry of the registry."""
    return entry if isinstance(entry, str) else entry[1]


def summary(pair: str) -> str:
    """The first line of an installed builder's docstring, or why it can't be read: a broken package hides no other."""
    try:
        return read(pair).summary
    except UserError as error:
        return f"can't be read: {error}"
