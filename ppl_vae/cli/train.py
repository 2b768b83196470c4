"""train: a run from a pair and data, or the rest of one that was stopped."""
# ruff: noqa: RUF009 (each default is a field)

from __future__ import annotations

import inspect
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from pathlib import Path
from shlex import quote
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from ..common.custom import FILE, absolute, as_given
from ..common.errors import RunError, UserError
from ..common.registry import DATASETS, PAIRS, PROPOSALS, installed, objective_of
from ..pairs.options import convert, flag, help_of, read, takes_parts
from ..training.config import FitConfig, option
from .options import JsonOpt, as_parameter, as_switch, positive
from .output import log, print_json, screen
from .runs import build_pair, handed_over, is_custom, load_as


@dataclass(frozen=True)
class Data:
    """The training data, and how they are read."""

    data: str = option("digits", f"{', '.join(DATASETS)}, or a path.")
    data_root: Path = option(Path("data"), "Folder of downloaded data sets.")
    binarize: str = option("auto", "auto (grey images, for a Bernoulli likelihood), dynamic, static or none.")
    columns: str | None = option(None, "Of a table: the columns to take, as a,b,c. [all]")
    label: str | None = option(None, "Of a table: the column of labels.")
    header: bool | None = option(None, "Of a .csv or .tsv: whether its first row names the columns. [found from it]")
    valid: str | None = option(None, "Validation data: a share or a count.")
    labels: int | None = option(None, "Labels of the training data that are known; the others are hidden. [all]")


@dataclass(frozen=True)
class Loss:
    """The options of the objective; None leaves an option at the objective's own default."""

    num_particles: int | None = option(None, "Samples of each example in a step. [elbo: 1; most others: 10]")
    gradient: str | None = option(
        None, "path; elbo, iwae: stl; iwae, renyi, miwae, ciwae: dreg. [path; of vimco and score: score]"
    )
    beta: float | None = option(None, "Weight of the KL: other than 1 trains a beta-VAE. [1]")
    free_bits: float | None = option(
        None, "elbo, analytic_kl: nats of KL of each latent site that cost nothing more. [0]"
    )


class TrainCommand(TyperCommand):
    """`train`, with an option for each option of the registered pairs, and of another pair that is named."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        others = installed()
        flags = {text for p in self.params if getattr(p, "is_flag", False) for text in (*p.opts, *p.secondary_opts)}
        words = [
            word.removeprefix("--pair=")
            for before, word in pairwise(("", *args))
            if not before.startswith("--") or before == "--pair" or before in flags  # else it is an option's value
        ]
        builders = [read(word) for word in words if word[:1] != "-" and (FILE.fullmatch(word) or word in others)]
        taken = {parameter.name for parameter in self.params}
        for builder in builders:
            if clash := sorted(taken & set(builder.options)):
                what = f"{flag(clash[0])} is an option of train"
                raise UserError(f"pair {builder.name!r}: {what}; rename {clash[0]!r} in the builder")
        one = [read(word) for word in words if word in PAIRS] or builders if "--help" in args else []
        helps = help_of(one or [*builders, *map(read, PAIRS)])
        self.params = [*self.params, *_click_options(helps)]
        rest = super().parse_args(ctx, args)
        ctx.obj = {name: text for name in helps if (text := ctx.params.pop(name, None)) is not None}
        return rest


def _click_options(helps: dict[str, str]) -> list[Any]:
    """Options of a command, as Typer makes them from a signature."""

    def probe(**_: Any) -> None:
        """Only its signature is read."""

    parameters = [as_parameter(name, "str", None, text) for name, text in helps.items()]
    probe.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    probe.__annotations__ = {p.name: p.annotation for p in parameters}
    made = typer.Typer(add_completion=False)
    made.command()(probe)
    return list(typer.main.get_command(made).params)


def train(
    ctx: typer.Context,
    pair: Annotated[str, typer.Argument(help=f"{', '.join(PAIRS)}, or a custom builder as FILE.py:NAME.")] = "vae",
    *,
    data: Data,
    loss: Loss,
    config: FitConfig,
    handed: Annotated[str | None, typer.Option("--pair", help="The argument, as other commands take it.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="The run folder. [runs/PAIR-DATA]")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a run that is there.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Resume the run in --out, with its own options.")] = False,
    num_samples: Annotated[int, typer.Option("--num-samples", help="K of the evaluation at the end.")] = 5000,
    limit: Annotated[int | None, typer.Option("--limit", help="Evaluate on the first N test examples only.")] = None,
    proposal: Annotated[str, typer.Option("--proposal", help=f"Of that evaluation: {', '.join(PROPOSALS)}.")] = "guide",
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write scalars for TensorBoard.")] = False,
    figures: Annotated[bool, typer.Option("--figures/--no-figures", help="Draw the figures.")] = True,
    json_: JsonOpt = False,
) -> None:
    """Train a pair, evaluate it on the test data, and draw its figures."""
    positive(num_samples=num_samples, limit=limit)  # needed only after the training
    for length in ("steps", "seconds"):
        if _is_given(ctx, "epochs") and _is_given(ctx, length):
            raise UserError(f"--epochs and --{length}: each says how long to train; give one of them")
    if proposal.partition(":")[0] not in PROPOSALS:
        raise UserError(f"--proposal {proposal}: choose one of {', '.join(PROPOSALS)}; evaluate takes FILE.py:NAME too")
    if ":" in proposal:
        from ..likelihood.proposals import proposal as checked

        checked(proposal)
    if handed is not None and _is_given(ctx, "pair") and handed != pair:
        raise UserError(f"the pair is {pair!r}, and --pair is {handed!r}; give one of them")
    builder = absolute(handed or pair)
    parts = part_options(builder)
    options = {name: absolute(text) if name in parts else text for name, text in ctx.obj.items()}
    request: dict[str, Any] = {
        "pair": builder, "options": options,
        **asdict(data), **asdict(loss), **{f.name: getattr(config, f.name) for f in fields(FitConfig)},
        "num_samples": num_samples, "limit": limit, "proposal": proposal, "figures": figures,
    }  # fmt: skip
    request |= {name: absolute(ctx.params[name]) for name in CHOICES}  # as written: a record holds no function
    request["objective"] = request["objective"] or objective_of(builder)
    if data.data not in DATASETS and Path(data.data).exists():
        request["data"] = str(Path(data.data).resolve())
    request["data_root"] = str(data.data_root.expanduser().resolve())  # so that the run is read from any folder
    if resume:
        if out is None:
            raise UserError("--resume needs --out RUN: which run is to be resumed?")
        request = resumed(ctx, out, request)
    folder, result, drawn = trained(request, out, resume=resume, overwrite=overwrite, tensorboard=tensorboard)
    result["run"] = str(folder)
    if json_:
        print_json(result)
        return
    from . import evaluation

    screen.print(evaluation.table(result, drawn))


def trained(
    request: dict[str, Any], out: Path | None, *, resume: bool, **options: Any
) -> tuple[Path, dict[str, Any], int]:
    """Train as a request says: the folder, the evaluation at the end, and how many figures were drawn."""
    pair_options = convert(read(request["pair"]), request["options"])

    from ..common import ranks
    from ..common.rng import forked, seed_for
    from ..data.tables import header_of
    from ..objectives.names import objective
    from ..scoring.quantity import settled
    from ..training.loop import fit

    own = {f.name: request[f.name] for f in fields(Loss) if request[f.name] is not None}
    loss = objective(as_given(request["objective"]), **own)
    if request["shards"] is None:
        request["shards"] = ranks.count()
    auto = request["binarize"] == "auto"
    data = ranks.after_first(  # which may download
        lambda: load_as({**request, "binarize": "none" if auto else request["binarize"]})
    )
    with forked(seed=seed_for(request["seed"], "build")):
        pair = build_pair(request["pair"], data=data, **pair_options)
    data = settled(pair, data) if auto else data
    if resume:
        _check_same_data(out, data)
    folder = out or ranks.broadcast_object(lambda: _fresh(Path("runs") / f"{pair.name}-{Path(request['data']).stem}"))
    log.print(f"training {pair.name} on {request['data']} ({len(data.train)} examples), run folder {folder}")
    log.print(f"binarisation: {data.binarize}{' (auto)' if auto else ''}")
    if header := header_of(data.reading):
        log.print(f"table: {header}", markup=False)
    options |= {"run_dir": folder, "resume": resume, "record": {"request": request, "data": data.record()}}
    settings = {f.name: request[f.name] for f in fields(FitConfig) if f.name != "objective"}
    config = FitConfig(**{k: as_given(v) if k in CHOICES else v for k, v in settings.items()})
    try:
        history = fit(pair, data, loss, config=config, **options)
    except KeyboardInterrupt:
        more = "".join(f" {flag(name)} {quote(text)}" for name, text in custom_in(request).items())
        log.print(f"stopped; resume with: ppl-vae train --out {folder} --resume{more}", markup=False, soft_wrap=True)
        raise typer.Exit(1) from None
    return folder, *_finished(pair.eval(), request, data.test.limit(request["limit"]), history, folder)


def _finished(pair: Any, request: dict[str, Any], test: Any, history: Any, folder: Path) -> tuple[dict[str, Any], int]:
    """The evaluation of a trained pair, and how many figures of it were drawn."""
    from ..common import ranks
    from . import evaluation

    seed = request["seed"]
    how = request["num_samples"], seed, request["proposal"]
    result, estimate = evaluation.evaluate(pair, pair.name, request["data"], test, *how, resume=folder)
    ranks.broadcast_object(lambda: evaluation.record(folder, result, estimate, test))
    if not request["figures"]:
        return result, 0
    from ..figures.write import save_all

    about = {"data": test, "history": history, "estimate": estimate, "seed": seed}
    return result, len(ranks.broadcast_object(lambda: save_all(pair, folder / "figures", **about)))


# may change when a run is resumed; the data are compared by their checksum
CHANGEABLE = {
    "epochs", "device", "data", "data_root", "num_samples", "limit", "proposal", "figures",
    *(f.name for f in fields(FitConfig) if not f.compare),
}  # fmt: skip


def resumed(ctx: typer.Context, folder: Path, request: dict[str, Any]) -> dict[str, Any]:
    """The request of a run that is resumed, with what may change from the new one.

    Raises:
        RunError: the new request disagrees with that of the run, or does not name its custom code.
    """
    from ..common.numbers import convert as typed
    from ..runs.folder import read_config

    config = read_config(folder)
    recorded = config.get("request")
    kinds = {"pair": str, "options": dict, "data": str}
    if not isinstance(recorded, dict) or any(not isinstance(recorded.get(k), kind) for k, kind in kinds.items()):
        raise RunError(f"{folder}: this run was not made by `ppl-vae train`; resume it from Python")
    defaults = {f.name: f.default for kind in (Data, Loss, FitConfig) for f in fields(kind)} | EVALUATION
    then: dict[str, Any] = {**defaults, **recorded}  # older versions had fewer options
    for name, kind in TYPES.items():
        try:
            then[name] = typed(then[name], kind)
        except ValueError as error:
            wrong = f"{folder}/config.json: request.{name}: {error}"
            raise RunError(f"{wrong}; mend it there, or start another run") from None
    then["capture"] = as_switch("capture", then["capture"])
    if is_custom(config, then["pair"]):
        handed = [request["pair"]] if FILE.fullmatch(request["pair"]) else []
        then["pair"] = handed_over(folder, config, handed)
    _hand_over(folder, then, request)
    for key, value in request.items():
        if key == "options":
            value = {**then["options"], **value}  # what is not asked for is as it was
        asked = key == "options" or _is_given(ctx, key, "handed" if key == "pair" else key)
        if asked and key in CHANGEABLE:
            then[key] = value
        elif asked and then[key] != value:
            raise RunError(
                f"{folder}: the run has {key}={then[key]!r}, you ask for {value!r}; leave it out, or start another run"
            )
    return then


EVALUATION: dict[str, Any] = {"num_samples": 5000, "limit": None, "proposal": "guide", "figures": True}
TYPES = {f.name: str(f.type).replace("Path", "str") for kind in (Data, Loss) for f in fields(kind)}
TYPES |= {"num_samples": "int", "limit": "int | None", "proposal": "str", "figures": "bool"}
CHOICES = [f.name for f in fields(FitConfig) if f.metadata["choices"]]  # options that take a name, or FILE.py:NAME


def part_options(pair: str) -> list[str]:
    """The options of a pair that take FILE.py:NAME."""
    return [name for name, option in read(pair).options.items() if takes_parts(option.annotation)]


def custom_in(request: dict[str, Any]) -> dict[str, str]:
    """The options of a request that name custom code, as FILE.py:NAME."""
    named = {name: request["options"].get(name) for name in part_options(request["pair"])}
    named |= {name: request[name] for name in ("pair", *CHOICES)}
    return {name: text for name, text in named.items() if isinstance(text, str) and FILE.fullmatch(text)}


def _hand_over(folder: Path, then: dict[str, Any], request: dict[str, Any]) -> None:
    """Take custom code from where the new request names it: what only the run folder names is not run.

    Raises:
        RunError: the new request does not name it; gives the options to add.
    """
    then_by, now_by = (custom_in({**r, "pair": then["pair"]}) for r in (then, request))
    then_by.pop("pair", None)  # handed over already
    absent = [
        name for name, text in then_by.items()
        if name not in now_by or now_by[name].rpartition(":")[2] != text.rpartition(":")[2]
    ]  # fmt: skip
    if absent:
        again = " ".join(f"{flag(name)} {quote(then_by[name])}" for name in absent)
        raise RunError(
            f"{folder}: {' and '.join(absent)}: custom code, which is not run unless you name it again: {again}"
        )
    for name in then_by:
        (then if name in CHOICES else then["options"])[name] = now_by[name]


def _is_given(ctx: typer.Context, *names: str) -> bool:
    """Whether the user wrote one of these options."""
    sources = [ctx.get_parameter_source(name) for name in names]
    return any(source is not None and source.name == "COMMANDLINE" for source in sources)


def _check_same_data(folder: Path | None, data: Any) -> None:
    from ..runs.folder import read_config

    assert folder is not None
    record = read_config(folder).get("data")
    if not isinstance(record, dict) or record.get("sha256") != data.record()["sha256"]:
        raise RunError(
            f"{folder}: the data are no longer those of the run, so it can't be resumed; name the right ones by --data"
        )


def _fresh(folder: Path) -> Path:
    """The folder, or the first of folder-2, folder-3 ... that is not there."""
    if not folder.exists():
        return folder
    return next(p for i in range(2, 10**6) if not (p := folder.with_name(f"{folder.name}-{i}")).exists())
