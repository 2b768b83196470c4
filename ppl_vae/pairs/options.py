"""The options of a pair, read from its builder's signature without importing it."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ..common.errors import UserError
from ..common.registry import PAIRS

FROM_DATA = ("data_shape", "data_mean", "num_classes")  # filled in from the data, so no options of the command line


@dataclass(frozen=True)
class Option:
    """One keyword of a builder: its type as written, its default, and its line of the docstring."""

    name: str
    annotation: str
    default: Any
    help: str


@cache
def options_of(pair: str) -> dict[str, Option]:
    """The options of a registered pair, by name.

    Example:
        >>> options_of("vae")["latent"]
        Option(name='latent', annotation='int', default=50, help='latent dimensions')
    """
    module, function = PAIRS[pair][0].split(":")
    node = _definition(module, function)
    assert isinstance(node, ast.FunctionDef)
    own = [(a.arg, a.annotation, d) for a, d in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)]
    return (_shared() if node.args.args else {}) | _options(node, own)  # its first argument holds the shared ones


def _definition(module: str, name: str) -> ast.FunctionDef | ast.ClassDef:
    path = Path(__file__).parents[2].joinpath(*module.split(".")).with_suffix(".py")
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return next(n for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef) and n.name == name)


def _shared() -> dict[str, Option]:
    """The options of ``pairs.networks.Networks``."""
    node = _definition("ppl_vae.pairs.networks", "Networks")
    fields = [n for n in node.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)]
    return _options(node, [(n.target.id, n.annotation, n.value) for n in fields])  # type: ignore[union-attr]


def _options(node: ast.FunctionDef | ast.ClassDef, entries: list[Any]) -> dict[str, Option]:
    doc = re.sub(r"\n {8,}", " ", ast.get_docstring(node) or "")  # a line of Args may go on in the next
    lines = dict(re.findall(r"^ {4}(\w+): (.+?)\.?$", doc, re.MULTILINE))
    return {
        name: Option(name, ast.unparse(kind), ast.literal_eval(default), lines.get(name, ""))
        for name, kind, default in entries
        if name not in FROM_DATA and kind is not None and default is not None
    }


@cache
def all_options() -> dict[str, list[tuple[str, Option]]]:
    """Every option of every registered pair: name to the pairs that take it."""
    found: dict[str, list[tuple[str, Option]]] = {}
    for pair in PAIRS:
        for name, option in options_of(pair).items():
            found.setdefault(name, []).append((pair, option))
    return found


def describe(name: str) -> str:
    """The help of an option: what it is, and its default for each pair."""
    entries = all_options()[name]
    defaults: dict[str, list[str]] = {}
    for pair, option in entries:
        defaults.setdefault(_shown(option.default), []).append(pair)
    text = entries[0][1].help.replace("``", "").replace('"', "")
    return f"{text} [" + "; ".join(f"{', '.join(p)}: {d}" for d, p in defaults.items()) + "]"


def convert(pair: str, given: dict[str, str]) -> dict[str, Any]:
    """Texts of the command line to the types that the builder asks for.

    Raises:
        UserError: the pair takes no such option, or the text is not of its type.

    Example:
        >>> convert("vae", {"latent": "10", "hidden": "200,200"})
        {'latent': 10, 'hidden': (200, 200)}
    """
    if pair not in PAIRS:
        raise UserError(f"pair {pair!r} is not known; choose one of {', '.join(PAIRS)}")
    known = options_of(pair)
    values = {}
    for name, text in given.items():
        flag = "--" + name.replace("_", "-")
        if name not in known:
            takes = ", ".join("--" + k.replace("_", "-") for k in known)
            raise UserError(f"the pair {pair!r} takes no {flag}; it takes {takes}")
        values[name] = _parse(flag, text, known[name].annotation)
    return values


def _parse(flag: str, text: str, annotation: str) -> Any:
    item = re.fullmatch(r"(?:Sequence|list|tuple)\[(\w+)(?:, \.\.\.)?\]", annotation)
    if item:
        return tuple(_parse(flag, part.strip(), item.group(1)) for part in text.split(",") if part.strip())
    try:
        if annotation == "bool":
            return {"true": True, "false": False, "1": True, "0": False}[text.lower()]
        return {"int": int, "float": float, "str": str, "Choice": str}[annotation](text)
    except (KeyError, ValueError):
        wanted = {"int": "a whole number", "float": "a number", "bool": "true or false"}.get(annotation, annotation)
        raise UserError(f"{flag} {text!r}: {wanted} is needed (several: separate them by commas)") from None


def _shown(default: Any) -> str:
    return ",".join(map(str, default)) if isinstance(default, tuple | list) else str(default)
