"""study: strategies from several seeds under an equal budget, and which difference between them is real."""

# ruff: noqa: RUF009 (each default is a field)

from __future__ import annotations

import shlex
import sys
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from ..common.custom import FILE, absolute, as_given
from ..common.errors import UserError
from ..pairs.options import convert, read as read_builder
from ..training.config import option
from .options import JsonOpt, positive
from .output import print_json, resumable, write_figure
from .runs import load_as
from .train import Data
from .watch import show_cells, watch as show_progress

SECTIONS = ("base", "strategies", "vary", "budget", "evaluation", "tune", "data", "seeds", "reference")


@dataclass(frozen=True)
class Question:
    """What is compared, and how; each takes the place of what the TOML file says."""

    seeds: int | None = option(None, "How many. [5]")
    base: list[str] | None = option(None, "OPTION=VALUE of every strategy, as latent=10; repeatable.")
    vary: list[str] | None = option(None, "OPTION=VALUE,VALUE: a strategy for each combination; repeatable.")
    tune: list[str] | None = option(None, "OPTION=VALUE,VALUE: the best on the validation data; repeatable.")
    budget: str | None = option(None, "Of each cell: epochs=N, steps=N, seconds=S or decoder_evaluations=N.")
    reference: str | None = option(None, "The strategy to compare the others with. [the first]")
    num_samples: int | None = option(None, "K of the evaluation. [1000]")
    proposal: str | None = option(None, "Of the evaluation. [auto]")
    limit: int | None = option(None, "Evaluate on the first N test examples only.")
    gaps: int | None = option(None, "Divide the gap of the ELBO of the first N among its causes. [0]")


@dataclass(frozen=True)
class Running:
    """Where the cells run."""

    workers: int | None = option(None, "Local processes. [one for each core]")
    only: str | None = option(None, "I/N: run the I-th of N shares of the cells, for array jobs.")
    scheduler: str | None = option(None, "Run the cells on dask's scheduler at this address.")
    part: list[str] | None = option(None, "FILE.py:NAME of the TOML file that may be run; repeatable.")


def study(
    spec: Annotated[Path | None, typer.Argument(help="A TOML file with the strategies. [--vary alone]")] = None,
    *,
    question: Question,
    data: Data,
    running: Running,
    out: Annotated[Path | None, typer.Option("--out", help="The folder of the study.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the cells and the time that they take.")] = False,
    watch: Annotated[Path | None, typer.Option("--watch", help="Show how far the study in this folder is.")] = None,
    json_: JsonOpt = False,
) -> None:
    """Train strategies from several seeds under an equal budget; say which difference is real, and write the tables."""
    if watch is not None:
        show_progress(watch, json_)
        return
    positive(**{k: getattr(question, k) for k in ("seeds", "num_samples", "limit")}, workers=running.workers)
    asked = read(spec, running.part or [])
    from ..common.files import writable, write_text
    from ..reports.study import COMMAND
    from ..strategies.study import study as run

    strategies = strategies_of(asked, question)
    seeds = question.seeds or asked.get("seeds", 5)
    budget = dict([numbered(question.budget)]) if question.budget else asked.get("budget")
    given = {k: getattr(question, k) for k in ("num_samples", "proposal", "limit", "gaps")}
    evaluation = asked.get("evaluation", {}) | {k: as_given(v) for k, v in given.items() if v is not None}
    if dry_run:
        dry(strategies, data_of(asked, data, strategies), seeds, budget, evaluation, running.workers)
        return
    if out is None:
        raise UserError("study: --out DIR is needed: where do the runs and the tables go?")
    write_text(writable(out) / COMMAND, command(spec))
    with resumable():
        found = run(
            strategies, data_of(asked, data, strategies), out=writable(out), seeds=seeds, budget=budget,
            evaluation=evaluation, reference=question.reference or asked.get("reference"),
            tune=asked.get("tune", {}) | {k: values(v) for k, v in map(assigned, question.tune or [])},
            executor=None if running.scheduler is None else dask(running.scheduler), workers=running.workers,
            only=None if running.only is None else share(running.only), progress=True,
        )  # fmt: skip
    if not found.log_px and not found.missing:
        raise UserError(found.sentences()[0])
    paths = [*found.files, *drawn(found, out), str(out / "report.html")]
    print_json(found.record() | {"files": paths}) if json_ else typer.echo("\n".join([str(found), *paths]))


def command(spec: Path | None) -> str:
    """The command as it was typed, and the file that it names: what is needed to repeat it."""
    text = f"ppl-vae {shlex.join(sys.argv[1:])}\n"
    return text if spec is None else f"{text}\n# {spec.name}\n{spec.read_text(encoding='utf-8')}"


def drawn(found: Any, out: Path) -> list[str]:
    """The figures of a study that apply to it, as PNG files; their paths."""
    from ..figures import studies

    paths = []
    for name in ("forest", "learning_curves"):
        with suppress(UserError):  # of one strategy, or without validation data
            paths.append(str(write_figure(out / "figures", name, getattr(studies, name)(found))))
    return paths


def strategies_of(asked: Mapping[str, Any], question: Question) -> dict[str, Any]:
    """The strategies of a TOML file and of ``--base`` and ``--vary``, by name.

    Raises:
        UserError: there is none, or an option is not known.
    """
    from ..strategies.strategy import Strategy, grid

    texts = dict(map(assigned, question.base or []))
    pair = texts.pop("pair", asked.get("base", {}).get("pair", "vae"))
    known = read_builder(pair).options if isinstance(pair, str) else {}
    base = asked.get("base", {}) | {
        k: convert(read_builder(pair), {k: v})[k] if k in known else one_value(v) for k, v in texts.items()
    }
    varied = dict(asked.get("vary", {}))
    for k, text in map(assigned, question.vary or []):
        varied[k] = [convert(read_builder(pair), {k: v})[k] if k in known else one_value(v) for v in tokens(text)]
    first = Strategy(as_given(pair), **{k: v for k, v in base.items() if k != "pair"})
    strategies = {name: first.replace(**options) for name, options in asked.get("strategies", {}).items()}
    if varied:
        made = {name: grid(one, **varied) for name, one in (strategies or {"": first}).items()}
        strategies = {f"{n}, {which}" if n else which: one for n, some in made.items() for which, one in some.items()}
    if not strategies:
        raise UserError("study: give strategies in a TOML file, or by --vary, as in --vary objective=elbo,iwae")
    return strategies


def data_of(asked: Mapping[str, Any], data: Data, strategies: Mapping[str, Any]) -> Any:
    """The data, binarised where the likelihood of the first strategy needs it."""
    from ..scoring.quantity import settled

    given = asked.get("data", {})
    given = {"data": given} if isinstance(given, str) else given
    request = asdict(data) | {"seed": 0}
    if unknown := [k for k in given if k not in request]:
        raise UserError(f"[data] has no option {unknown[0]!r}; it takes {', '.join(request)}")
    request |= given
    if request["binarize"] != "auto":
        return load_as(request)
    source = load_as({**request, "binarize": "none"})
    return settled(next(iter(strategies.values())).build(source, 0), source)


def read(spec: Path | None, parts: Sequence[str]) -> dict[str, Any]:
    """A TOML file as a dictionary; its FILE.py:NAME are run where the user names them too.

    Raises:
        UserError: it can't be read, has an unknown section, or names code that the user did not.
    """
    if spec is None:
        return {}
    try:
        found = tomllib.loads(spec.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{spec}: this is not TOML ({error}); correct it") from None
    for name in found:
        if name not in SECTIONS:
            raise UserError(f"{spec}: there is no section {name!r}; the sections are {', '.join(SECTIONS)}")
    trusted = {absolute(text) for text in parts}

    def resolved(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {k: resolved(v) for k, v in value.items()}
        if isinstance(value, list):
            return [resolved(v) for v in value]
        if not isinstance(value, str) or not FILE.fullmatch(value):
            return value
        if absolute(value) not in trusted:
            raise UserError(f"{spec} names custom code, which is not run unless you name it too: --part {value}")
        return as_given(absolute(value))

    whole: dict[str, Any] = resolved(found)
    return whole


def assigned(text: str) -> tuple[str, str]:
    """``option=value`` in its two parts.

    Raises:
        UserError: it has another form.
    """
    name, equals, value = text.partition("=")
    if not equals or not name or not value:
        raise UserError(f"{text!r}: write OPTION=VALUE, as in latent=10 or objective=elbo,iwae")
    return name.strip().replace("-", "_"), value


def values(text: str) -> list[Any]:
    """The values of an option, as numbers, switches or functions where they are that."""
    return [one_value(token) for token in tokens(text)]


def tokens(text: str) -> list[str]:
    """The parts between commas; a comma before ``option=`` belongs to the options of a name.

    Example:
        >>> tokens("elbo,iwae:num_particles=5,gradient=dreg,rws")
        ['elbo', 'iwae:num_particles=5,gradient=dreg', 'rws']
    """
    found: list[str] = []
    for token in text.split(","):
        if found and "=" in token and ":" not in token and ":" in found[-1]:
            found[-1] += f",{token}"
        else:
            found.append(token)
    return found


def one_value(text: str) -> Any:
    """A number, a switch or a sequence as what it is; FILE.py:NAME as the function; any other text as itself."""
    from ..common.choices import literal

    return as_given(literal(text))


def numbered(text: str) -> tuple[str, float]:
    """A budget, ``kind=amount``.

    Raises:
        UserError: the amount is no number.
    """
    kind, amount = assigned(text)
    try:
        return kind, float(amount)
    except ValueError:
        raise UserError(f"--budget {text}: {amount!r} is not a number") from None


def share(text: str) -> tuple[int, int]:
    """I/N as two numbers.

    Raises:
        UserError: it has another form.
    """
    first, _, of = text.partition("/")
    if not (first.isdigit() and of.isdigit()):
        raise UserError(f"--only {text}: write I/N, as in 3/16")
    return int(first), int(of)


def dask(address: str) -> Any:
    """The executor of dask's scheduler at an address.

    Raises:
        UserError: dask is not installed, or no scheduler answers.
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise UserError(f"--scheduler needs dask: pip install 'ppl_vae[cluster]' ({error})") from None
    try:
        return Client(address, timeout=10).get_executor()  # type: ignore[no-untyped-call]
    except (OSError, ValueError) as error:
        raise UserError(f"--scheduler {address}: no scheduler answers ({error})") from None


def dry(
    strategies: Mapping[str, Any], data: Any, seeds: Any, budget: Any, evaluation: Mapping[str, Any], workers: Any
) -> None:
    """Print what would be trained, and how long it takes."""
    from ..common.progress import bar
    from ..strategies.pilot import pilot
    from ..strategies.study import budget_of, cores, evaluation_of

    how, limits, costs = evaluation_of(evaluation), budget_of(budget or {}), {}
    with bar(True) as shown:
        task = shown.add_task("a second of each strategy", total=len(strategies), info="")
        for name, one in strategies.items():
            costs[name] = pilot(one, data, limits, how)
            shown.advance(task)
    show_cells(strategies, seeds if isinstance(seeds, int) else len(seeds), costs, workers or cores())
