"""The options of a pair, read from the source of its builder: nothing is imported."""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from ..common.custom import FILE, as_given, kind_of, parts
from ..common.errors import UserError
from ..common.registry import pairs

FROM_DATA = (
    "data_shape",
    "data_mean",
    "data_scale",
    "num_classes",
    "label_size",
    "vocabulary",
)  # so not on the command line


@dataclass(frozen=True)
class Option:
    """One keyword of a builder: its type as written, its default, and its line of the docstring."""

    name: str
    annotation: str
    default: Any
    help: str


@dataclass(frozen=True)
class Builder:
    """A builder of pairs: the name of its pair, the first line of its docstring, and its options by name.

    ``about`` is the docstring of its file, with formula and reference; ``command`` is the one of its example, or empty.
    """

    name: str
    summary: str
    options: dict[str, Option]
    about: str = ""
    command: str = ""


def read(pair: str) -> Builder:
    """The builder of a registered pair, or of FILE.py:NAME.

    Raises:
        UserError: there is no such pair, file or function, or its options can't be read without running it.

    Example:
        >>> read("vae").options["latent"].default
        50
    """
    if is_file := bool(FILE.fullmatch(pair)):
        path, name = parts(pair)
    else:
        table = pairs()
        if pair not in table:
            known = ", ".join(table)
            raise UserError(f"pair {pair!r} is not known; choose one of {known}, or give a builder as FILE.py:NAME")
        module, _, name = table[pair][0].partition(":")
        path = _source_of(module)
    found = _find(path, name)
    if found is None or not isinstance(found[1], ast.FunctionDef):
        functions = [n.name for n in _parsed(path).body if isinstance(n, ast.FunctionDef) and n.name[0] != "_"]
        named = f"no function {name!r}" if name else "to be followed by :NAME, a function in it"
        verb = "has" if name else "is"
        raise UserError(f"pair {pair!r}: {path} {verb} {named}; its functions are {', '.join(functions) or 'none'}")
    options = {option.name: option for option in _options(*found)}
    if "data_shape" not in options:
        raise UserError(f"pair {pair!r}: its builder takes no data_shape; write def {name}(*, data_shape, ...)")
    doc, about = (ast.get_docstring(node) or "" for node in (found[1], _parsed(found[0])))
    example = re.search(r"^ *\$ (ppl-vae .+?)(?:\n *\n|\Z)", doc, re.MULTILINE | re.DOTALL)
    command = " ".join(example[1].split()) if example else ""
    kept = {k: v for k, v in options.items() if k not in FROM_DATA}
    return Builder(name if is_file else pair, doc.split("\n")[0], kept, about, command)


def _source_of(module: str) -> Path:
    """The file of a module; no package is imported."""
    name, *rest = module.split(".")
    spec = importlib.util.find_spec(name)
    for part in rest:
        name = f"{name}.{part}"
        spec = PathFinder.find_spec(name, spec.submodule_search_locations) if spec else None
    if spec is None or spec.origin is None:
        raise UserError(f"there is no module {module!r}; reinstall the package that names it")
    return Path(spec.origin)


def _parsed(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError) as error:
        line = f", line {error.lineno}" if isinstance(error, SyntaxError) else ""
        raise UserError(f"{path}{line}: this is not Python ({error.args[0]}); correct it") from None


def _find(path: Path, name: str) -> tuple[Path, ast.FunctionDef | ast.ClassDef] | None:
    """A function or a class of a file, or of the file that it is imported from."""
    for node in _parsed(path).body if path.suffix == ".py" else ():
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name:
            return path, node
        if isinstance(node, ast.ImportFrom):
            original = next((a.name for a in node.names if (a.asname or a.name) == name), None)
            if original is not None:
                return _find(_imported(path, node), original)
    return None


def _imported(path: Path, node: ast.ImportFrom) -> Path:
    """The file that a ``from ... import`` names."""
    if not node.level:
        return _source_of(node.module or "")
    base = path.parents[node.level - 1].joinpath(*(node.module or "").split("."))
    return base / "__init__.py" if base.is_dir() else base.with_suffix(".py")


def _options(path: Path, node: ast.FunctionDef | ast.ClassDef) -> Iterator[Option]:
    """The keywords of a function, or the fields of a dataclass; what a function takes by position is a dataclass."""
    doc = re.sub(r"\n {8,}", " ", ast.get_docstring(node) or "")  # an entry of Args may have several lines
    lines = dict(re.findall(r"^ {4}(\w+): (.+?)\.?$", doc, re.MULTILINE))
    if isinstance(node, ast.ClassDef):
        fields = [n for n in node.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)]
        keywords: list[Any] = [(ast.unparse(n.target), n.annotation, n.value) for n in fields]
    else:
        a = node.args
        positional = len(a.args) - len(a.defaults)
        for argument in a.args[:positional]:
            shared = _find(path, ast.unparse(argument.annotation)) if argument.annotation else None
            if shared is not None and isinstance(shared[1], ast.ClassDef):
                yield from _options(*shared)
        named = [*a.args[positional:], *a.kwonlyargs]
        keywords = [(n.arg, n.annotation, v) for n, v in zip(named, [*a.defaults, *a.kw_defaults], strict=True)]
    for name, annotation, default in keywords:
        try:
            value = ... if default is None else ast.literal_eval(default)
        except ValueError:
            raise UserError(
                f"{path}, line {node.lineno}: the default of {name} is {ast.unparse(default)}, which can't be read "
                f"without running the file; write a number, a text, True, False, None or a tuple of them"
            ) from None
        yield Option(name, ast.unparse(annotation) if annotation else kind_of(value), value, lines.get(name, ""))


def help_of(builders: Iterable[Builder]) -> dict[str, str]:
    """Every option of some builders: name to help, with its default in each pair that takes it."""
    helps: dict[str, str] = {}
    defaults: dict[str, dict[str, list[str]]] = {}
    custom: set[str] = set()
    for builder in builders:
        for name, option in builder.options.items():
            helps[name] = helps.get(name) or option.help.replace("``", "").replace('"', "")
            custom |= {name} if takes_parts(option.annotation) else set()
            defaults.setdefault(name, {}).setdefault(shown(option.default), []).append(builder.name)
    return {
        name: f"{helps[name]}{', or FILE.py:NAME' if name in custom else ''} ["
        + "; ".join(f"{', '.join(p)}: {d}" for d, p in found.items())
        + "]"
        for name, found in defaults.items()
    }


def convert(builder: Builder, given: Mapping[str, str]) -> dict[str, Any]:
    """Texts of the command line as the types of a builder's options; FILE.py:NAME as the function, where one is legal.

    Raises:
        UserError: an unknown option, or a text that is not of its type.

    Example:
        >>> convert(read("vae"), {"latent": "10", "hidden": "200,200"})
        {'latent': 10, 'hidden': (200, 200)}
    """
    values = {}
    for name, text in given.items():
        if name not in builder.options:
            takes = ", ".join(map(flag, builder.options)) or "none"
            raise UserError(f"the pair {builder.name!r} takes no {flag(name)}; it takes {takes}")
        kind = builder.options[name].annotation
        values[name] = as_given(text) if takes_parts(kind) else _converted(flag(name), text, kind)
    return values


def takes_parts(kind: str) -> bool:
    """Whether an option of this type takes a callable, which the command line writes as FILE.py:NAME.

    Example:
        >>> takes_parts("Choice"), takes_parts("str | Callable[..., nn.Module]"), takes_parts("str")
        (True, True, False)
    """
    return "Choice" in kind or "Callable" in kind


def flag(name: str) -> str:
    """An option as the command line has it."""
    return "--" + name.replace("_", "-")


READERS: dict[str, Any] = {
    "None": {"none": None}.__getitem__,
    "bool": {"true": True, "false": False, "1": True, "0": False}.__getitem__,
    "int": int,
    "float": float,
}
NEEDED = {"None": "none", "bool": "true or false", "int": "a whole number", "float": "a number"}
SEQUENCE = re.compile(r"(?:Sequence|list|tuple)\[(\w+)(?:, \.\.\.)?\]")


def _converted(flag: str, text: str, annotation: str) -> Any:
    """A text as the first type of a union that it fits."""
    kinds = sorted(annotation.split(" | "), key=lambda kind: kind != "None")
    for kind in kinds:
        try:
            return _read(text.strip(), kind)
        except (KeyError, ValueError):
            continue
    items = [found[1] if (found := SEQUENCE.fullmatch(kind)) else kind for kind in kinds]
    several = " (several: separate them by commas)" if items != kinds else ""
    raise UserError(f"{flag} {text!r}: {' or '.join(NEEDED[item] for item in items)} is needed{several}")


def _read(text: str, kind: str) -> Any:
    """A text as one type; of an unknown type it stays a text."""
    if item := SEQUENCE.fullmatch(kind):
        return tuple(_read(part.strip(), item[1]) for part in text.split(",") if part.strip())
    return READERS[kind](text.lower()) if kind in READERS else text


def shown(default: Any) -> str:
    """A default as the command line writes it."""
    if default is ...:
        return "needed"
    return ",".join(map(str, default)) if isinstance(default, tuple | list) else str(default)
