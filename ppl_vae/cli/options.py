"""Options that several commands share, each defined once, as fields of dataclasses."""
# ruff: noqa: RUF009 (each default is a field)

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from ..common.custom import as_given
from ..common.errors import UserError
from ..common.registry import DATASETS, PROPOSALS
from ..pairs.options import flag
from ..training.config import option

RunArg = Annotated[Path, typer.Argument(help="A run folder, as `train` makes one.")]
OutOpt = Annotated[Path | None, typer.Option("--out", help="Folder for what is written. [the run folder]")]
JsonOpt = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output, all else elsewhere.")]
TYPES: dict[str, Any] = {"list[str]": list[str], "Path": Path, "int": int, "float": float, "str": str, "bool": bool}


@dataclass(frozen=True)
class Source:
    """The data that a command reads for a run."""

    data: str | None = option(None, f"{', '.join(DATASETS)}, or a path. [that of the run]")
    data_root: Path | None = option(None, "Folder of downloaded data sets. [that of the run]")
    split: str | None = option(None, "train, valid or test, of data that have splits. [test; a file: all]")
    header: bool | None = option(None, "Of a .csv or .tsv: whether its first row names the columns. [found from it]")


@dataclass(frozen=True)
class Common:
    """The options of every command that reads a run."""

    pair: list[str] | None = option(
        None, "FILE.py:NAME, the builder of the run's custom pair; once for each of several."
    )
    part: list[str] | None = option(
        None, "FILE.py:NAME, a custom guide, likelihood or network of the run; once for each of several."
    )
    seed: int = option(0, "Seeds everything that is random.")
    device: str = option("auto", "auto, cpu or cuda.")


@dataclass(frozen=True)
class Estimating:
    """How log p(x) is estimated."""

    num_samples: int = option(5000, "K, the samples of each example.")
    limit: int | None = option(None, "Use the first N examples only.")
    capture: bool | str = option("auto", "Run the work as a compiled graph: auto (where it pays), on or off.")
    precision: str = option("float32", "Of matrix products: float32 or bf16.")

    def switches(self) -> dict[str, Any]:
        """The options of `log_likelihood` for how its work is run."""
        return {"capture": self.capture, "precision": self.precision}


PROPOSAL_HELP = (
    f"Where samples come from: {', '.join(PROPOSALS)}, or FILE.py:NAME; options follow: refined:family=diagonal."
)
ProposalOpt = Annotated[str, typer.Option("--proposal", help=PROPOSAL_HELP)]
SWITCH: dict[Any, bool | str] = {"auto": "auto", "on": True, "off": False, True: True, False: False}


def as_switch(name: str, value: bool | str) -> bool | str:
    """on and off as True and False.

    Raises:
        UserError: it is neither, nor auto.
    """
    if value not in SWITCH:
        raise UserError(f"{flag(name)} {value}: choose one of auto, on, off")
    return SWITCH[value]


def positive(**counts: int | None) -> None:
    """Refuse counts below 1, before the work that precedes their use.

    Raises:
        UserError: names the first of them.
    """
    for name, value in counts.items():
        if value is not None and value < 1:
            raise UserError(f"{flag(name)} {value}: at least 1 is needed")


def is_switch(kind: str) -> bool:
    """Whether a type is that of a switch: True, False or a text."""
    return kind.startswith("bool | ") and kind != "bool | None"


def as_parameter(name: str, kind: str, default: Any, help: str) -> inspect.Parameter:
    """An option as a parameter that Typer reads; ``kind`` is a type as an annotation writes it, or a union of them."""
    found = str if is_switch(kind) else next((TYPES[k] for k in kind.split(" | ") if k in TYPES), str)
    flags = f"{flag(name)}/{flag('no_' + name)}" if found is bool and default is not False else flag(name)
    hint: Any = Annotated[found | None if default is None else found, typer.Option(flags, help=help)]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hint)


def _value(field: dataclasses.Field[Any], given: Any) -> Any:
    """The value of a field: a switch as True or False, and FILE.py:NAME as the function, where it has names."""
    if is_switch(str(field.type)):
        return as_switch(field.name, given)
    return as_given(given) if field.metadata["choices"] else given


def with_groups(function: Callable[..., None]) -> Callable[..., None]:
    """A command with an option for each field of each parameter that is a dataclass."""
    hints = get_type_hints(function, include_extras=True)
    groups: dict[str, Any] = {name: kind for name, kind in hints.items() if dataclasses.is_dataclass(kind)}
    parameters: list[inspect.Parameter] = []
    for p in inspect.signature(function).parameters.values():
        for f in dataclasses.fields(groups[p.name]) if p.name in groups else ():
            names = ", ".join(map(str, f.metadata["choices"]))
            names += ", or FILE.py:NAME" if "Callable" in str(f.type) else ""
            text = re.sub(r"\bTrue\b", "on", f.metadata["help"]).replace("False", "off")
            text += f" One of {names}." if f.metadata["choices"] else ""
            parameters.append(as_parameter(f.name, str(f.type), f.default, text))
        if p.name not in groups:
            parameters.append(p.replace(annotation=hints[p.name]))

    @functools.wraps(function)
    def whole(**given: Any) -> None:
        for name, kind in groups.items():
            values = {f: given.pop(f.name) for f in dataclasses.fields(kind)}
            given[name] = kind(**{f.name: _value(f, v) for f, v in values.items()})
        function(**given)

    whole.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    whole.__annotations__ = {p.name: p.annotation for p in parameters}
    return whole
