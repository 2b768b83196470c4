"""The command line: arguments to the functions of the package. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import functools
import inspect
import io
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from . import __version__, options
from .errors import RankError, RunError, UserError
from .registry import DATASETS, ESTIMATORS, OBJECTIVES, PAIRS

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Variational autoencoders as Pyro programs, and a log-likelihood that you can believe.",
)
SHOWN = 256  # images in a figure; the array holds all
SHARED = {"train", "evaluate", "score", "figures", "compare"}  # commands whose work the ranks share

screen = Console()
log = Console(stderr=True)

RunArg = Annotated[Path, typer.Argument(help="A run folder, as `train` makes one.")]
DataOpt = Annotated[str | None, typer.Option("--data", help=f"{', '.join(DATASETS)}, or a path. [that of the run]")]
RootOpt = Annotated[Path, typer.Option("--data-root", help="Folder of downloaded data sets.")]
SeedOpt = Annotated[int, typer.Option("--seed", help="Seeds everything that is random.")]
DeviceOpt = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")]
OutOpt = Annotated[Path | None, typer.Option("--out", help="Folder for what is written. [the run folder]")]
JsonOpt = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output, all else elsewhere.")]
SamplesOpt = Annotated[int, typer.Option("--num-samples", help="K, the samples of each datum.")]
ProposalOpt = Annotated[
    str, typer.Option("--proposal", help="guide, prior, defensive (a tenth from the prior), tempered or qmc.")
]
LimitOpt = Annotated[int | None, typer.Option("--limit", help="Use the first N data only.")]
CAPTURE: dict[str, bool | str] = {"auto": "auto", "on": True, "off": False}
CaptureOpt = Annotated[
    str, typer.Option("--capture", help="Run the work as a compiled graph: auto (where it pays), on or off.")
]
PrecisionOpt = Annotated[str, typer.Option("--precision", help="Of matrix products: float32 or bf16.")]
SplitOpt = Annotated[
    str | None, typer.Option("--split", help="train, valid or test, of data that have splits. [test; a file: all]")
]
ColumnsOpt = Annotated[str | None, typer.Option("--columns", help="Of a table: the columns to take, as a,b,c. [all]")]
LabelOpt = Annotated[str | None, typer.Option("--label", help="Of a table: the column of labels.")]
HeaderOpt = Annotated[
    bool | None,
    typer.Option(
        "--header/--no-header", help="Of a .csv or .tsv: whether its first row names the columns. [told by it]"
    ),
]


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Register a command; what the user can mend is one line on standard error and exit code 2."""

    @functools.wraps(function)
    def guarded(*args: Any, **kwargs: Any) -> None:
        try:
            with _ranks(function.__name__) as wanted:
                if wanted:
                    function(*args, **kwargs)
        except UserError as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(2) from None
        except RankError as error:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun sends it meanwhile, and would hide the exit code
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(1) from None
        except OSError as error:
            typer.echo(f"error: {error.filename or 'a file'}: {error.strerror or error}", err=True)
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            typer.echo("stopped", err=True)
            raise typer.Exit(1) from None

    return app.command(name=function.__name__.rstrip("_"))(guarded)


@contextmanager
def _ranks(name: str) -> Iterator[bool]:
    """Under ``torchrun``, join the other ranks; only the first speaks. Gives whether this one has any work."""
    if "RANK" not in os.environ:
        yield True
        return
    from . import ranks

    if name not in SHARED:
        yield os.environ["RANK"] == "0" or not ranks.started()
        return
    with ranks.joined(), ExitStack() as quiet:
        if not ranks.first():
            quiet.enter_context(redirect_stdout(quiet.enter_context(Path(os.devnull).open("w"))))
            log.quiet = True
        yield True


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


def _with_pair_options(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command an option for each option of each registered pair."""
    own = inspect.signature(function, eval_str=True)
    fixed = [p for p in own.parameters.values() if p.kind is not p.VAR_KEYWORD]
    extra = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[
                str | None,
                typer.Option("--" + name.replace("_", "-"), help=options.describe(name)),
            ],
        )
        for name in options.all_options()
    ]

    @functools.wraps(function)
    def whole(*args: Any, **kwargs: Any) -> None:
        function(*args, **kwargs)

    whole.__signature__ = own.replace(parameters=[*fixed, *extra])  # type: ignore[attr-defined]
    whole.__annotations__ = {p.name: p.annotation for p in (*fixed, *extra)}
    return whole


@command
@_with_pair_options
def train(
    ctx: typer.Context,
    pair: Annotated[str, typer.Argument(help=f"{', '.join(PAIRS)}.")] = "vae",
    *,
    data: Annotated[str, typer.Option("--data", help=f"{', '.join(DATASETS)}, or a path.")] = "digits",
    data_root: RootOpt = Path("data"),
    binarize: Annotated[
        str, typer.Option(help="auto (grey images, for a Bernoulli likelihood), dynamic, static or none.")
    ] = "auto",
    columns: ColumnsOpt = None,
    label: LabelOpt = None,
    header: HeaderOpt = None,
    valid: Annotated[str | None, typer.Option(help="Validation data: a share or a count.")] = None,
    objective: Annotated[str, typer.Option(help=f"{', '.join(OBJECTIVES)}.")] = "elbo",
    num_particles: Annotated[
        int | None, typer.Option(help="Samples of each datum in a step. [elbo: 1; iwae: 10]")
    ] = None,
    gradient: Annotated[str | None, typer.Option(help="elbo: path, stl; iwae: path, stl, dreg.")] = None,
    beta: Annotated[float | None, typer.Option(help="Weight of the KL: other than 1 trains a beta-VAE.")] = None,
    free_bits: Annotated[
        float | None, typer.Option(help="elbo, meanfield: nats of KL of each latent site that cost nothing more.")
    ] = None,
    epochs: Annotated[int, typer.Option(help="Passes over the data.")] = 100,
    batch_size: Annotated[int, typer.Option(help="Data in a step.")] = 64,
    lr: Annotated[float, typer.Option(help="Learning rate.")] = 2e-3,
    schedule: Annotated[str, typer.Option(help="constant, linear, cosine or iwae.")] = "linear",
    optimizer: Annotated[str, typer.Option(help="adam, adamw, sgd or adagrad.")] = "adam",
    clip_norm: Annotated[float | None, typer.Option(help="Largest norm of the gradient.")] = None,
    warmup: Annotated[float, typer.Option(help="Epochs over which the KL weight grows to beta.")] = 0.0,
    beta_schedule: Annotated[str, typer.Option(help="A factor on the KL weight: constant or cyclic.")] = "constant",
    patience: Annotated[int | None, typer.Option(help="Stop after so many epochs without progress.")] = None,
    shards: Annotated[
        int | None, typer.Option(help="Parts of a batch whose gradients are summed. [the ranks of torchrun, or 1]")
    ] = None,
    capture: CaptureOpt = "auto",
    precision: PrecisionOpt = "float32",
    seed: SeedOpt = 0,
    device: DeviceOpt = "auto",
    out: Annotated[Path | None, typer.Option("--out", help="The run folder. [runs/PAIR-DATA]")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a run that is there.")] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --out, with its own options.")
    ] = False,
    num_samples: Annotated[int, typer.Option("--num-samples", help="K of the evaluation at the end.")] = 5000,
    limit: Annotated[int | None, typer.Option("--limit", help="Evaluate on the first N test data only.")] = None,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write scalars for TensorBoard.")] = False,
    figures: Annotated[bool, typer.Option("--figures/--no-figures", help="Draw the figures.")] = True,
    json_: JsonOpt = False,
    **pair_options: str | None,
) -> None:
    """Train a pair, evaluate it on the test data, and draw its figures."""
    for flag, value in (("--num-samples", num_samples), ("--limit", limit)):  # needed only after the training
        if value is not None and value < 1:
            raise UserError(f"{flag} {value}: at least 1 is needed")
    _switches(capture, precision)
    given = {k: v for k, v in pair_options.items() if v is not None}
    data = data if data in DATASETS or not Path(data).exists() else str(Path(data).resolve())
    data_root = data_root.expanduser().resolve()  # so that the run can be judged from another folder
    request: dict[str, Any] = {
        "pair": pair, "options": given, "data": data, "data_root": str(data_root), "binarize": binarize, "valid": valid,
        "columns": columns, "label": label, "header": header,
        "objective": objective, "num_particles": num_particles, "gradient": gradient, "beta": beta,
        "free_bits": free_bits, "beta_schedule": beta_schedule, "epochs": epochs, "batch_size": batch_size,
        "lr": lr, "schedule": schedule, "optimizer": optimizer, "clip_norm": clip_norm,
        "warmup": warmup, "patience": patience, "shards": shards, "capture": capture, "precision": precision,
        "seed": seed, "device": device, "num_samples": num_samples, "limit": limit, "figures": figures,
    }  # fmt: skip
    if resume:
        if out is None:
            raise UserError("--resume needs --out RUN: which run is to go on?")
        request = _resumed(ctx, out, request)
    pair_args = options.convert(request["pair"], request["options"])

    from . import build, fit, load_data, ranks, report
    from .objectives import objective as make_objective
    from .quantity import settled
    from .rng import forked, seed_for
    from .tables import said

    loss_options = {k: request[k] for k in ("gradient", "beta", "free_bits") if request[k] is not None}
    loss = make_objective(request["objective"], request["num_particles"], **loss_options)
    if request["shards"] is None:
        request["shards"] = ranks.count()
    loaded = ranks.after_first(  # which may download
        lambda: load_data(
            request["data"],
            root=request["data_root"],
            binarize="none" if request["binarize"] == "auto" else request["binarize"],
            seed=request["seed"],
            valid=_share(request["valid"]),
            columns=request["columns"],
            label=request["label"],
            header=request["header"],
        )
    )
    with forked(seed=seed_for(request["seed"], "build")):
        built = build(request["pair"], data=loaded, **pair_args)
    if request["binarize"] == "auto":
        loaded = settled(built, loaded)
    if resume:
        _check_same_data(out, loaded)
    folder = out or ranks.told(lambda: _fresh(Path("runs") / f"{request['pair']}-{Path(request['data']).stem}"))
    log.print(f"training {request['pair']} on {request['data']} ({len(loaded.train)} data), run folder {folder}")
    log.print(f"binarisation: {loaded.binarize}{' (auto)' if request['binarize'] == 'auto' else ''}")
    if header_said := said(loaded.reading):
        log.print(f"table: {header_said}", markup=False)
    try:
        history = fit(
            built,
            loaded,
            loss,
            epochs=request["epochs"],
            batch_size=request["batch_size"],
            lr=request["lr"],
            seed=request["seed"],
            device=request["device"],
            optimizer=request["optimizer"],
            schedule=request["schedule"],
            clip_norm=request["clip_norm"],
            warmup=request["warmup"],
            beta_schedule=request["beta_schedule"],
            patience=request["patience"],
            shards=request["shards"],
            capture=CAPTURE[request["capture"]],
            precision=request["precision"],
            run_dir=folder,
            resume=resume,
            overwrite=overwrite,
            record={"request": request, "data": loaded.record()},
            tensorboard=tensorboard,
        )
    except KeyboardInterrupt:
        log.print(f"stopped; go on with: ppl-vae train --out {folder} --resume")
        raise typer.Exit(1) from None
    test = loaded.test.limit(request["limit"])
    result, estimate = report.evaluate(
        built.eval(), request["pair"], request["data"], test, request["num_samples"], request["seed"]
    )
    ranks.told(lambda: report.record(folder, result, estimate, test))
    drawn = []
    if request["figures"]:
        from .figures import save_all

        about = {"data": test, "history": history, "estimate": estimate, "seed": request["seed"]}
        drawn = ranks.told(lambda: save_all(built, folder / "figures", **about))
    result["run"] = str(folder)
    if json_:
        _print_json(result)
    else:
        screen.print(report.table(result, len(drawn)))


@command
def evaluate(
    run: RunArg,
    *,
    estimator: Annotated[
        list[str] | None, typer.Option("--estimator", help=f"A row of a table; repeatable: {', '.join(ESTIMATORS)}.")
    ] = None,
    num_samples: SamplesOpt = 5000,
    proposal: ProposalOpt = "guide",
    limit: LimitOpt = None,
    split: SplitOpt = None,
    data: DataOpt = None,
    header: HeaderOpt = None,
    data_root: Annotated[Path | None, typer.Option("--data-root", help="Folder of downloaded data sets.")] = None,
    seed: SeedOpt = 0,
    device: DeviceOpt = "auto",
    capture: CaptureOpt = "auto",
    precision: PrecisionOpt = "float32",
    out: OutOpt = None,
    num_chains: Annotated[int, typer.Option("--num-chains", help="Of the estimator ais.")] = 16,
    num_temperatures: Annotated[int, typer.Option("--num-temperatures", help="Of the estimator ais.")] = 1000,
    draw: Annotated[
        bool, typer.Option("--figures", help="Draw L_k against k, Pareto k of each datum, and the sandwich.")
    ] = False,
    json_: JsonOpt = False,
) -> None:
    """Estimate log p(x) of held-out data, with its error and its diagnostics: evaluation.json, and log_px.csv.

    In the run folder, the files of other data than the test data of the run have the name of the data at the end.
    """
    from . import ranks, report
    from .files import writable
    from .panel import panel

    switches = _switches(capture, precision)
    if not estimator and not draw:
        target, part, result, estimate = _judged(
            run, data, header, data_root, split, limit, device, out, num_samples, seed, proposal, switches
        )
    else:
        target = writable(out or run)
        pair, config, part = _open(run, data, header, data_root, split, limit, device)
        try:
            judged = panel(
                pair, part, None, estimator or ["iwae"], num_samples, proposal=proposal, num_chains=num_chains,
                num_temperatures=num_temperatures, seed=seed, progress=True, resume=target, **switches,
            )  # fmt: skip
        except KeyboardInterrupt:
            log.print("stopped; the same command goes on from here")
            raise typer.Exit(1) from None
        result, estimate = report.judge(config["pair"]["name"], _data_name(config, data), part, judged)
        if draw:
            result["figures"] = _trust_figures(pair, part, target / "figures", num_samples, seed, judged)
    ranks.told(lambda: report.record(target, result, estimate, part, _beside(run, data, split, out)))
    if json_:
        _print_json(result)
    elif estimator or draw:
        screen.print(report.panel_table(judged))
        typer.echo("\n".join([*judged.left_out(), *judged.sentences(), *result.get("figures", [])]))
        typer.echo(f"nats; {report.which(result)}, seed {seed}; a lower bound is one in expectation")
    else:
        screen.print(report.table(result, proposal=proposal))


@command
def score(
    run: RunArg,
    *,
    num_samples: SamplesOpt = 5000,
    proposal: ProposalOpt = "guide",
    limit: LimitOpt = None,
    split: SplitOpt = None,
    data: DataOpt = None,
    header: HeaderOpt = None,
    data_root: Annotated[Path | None, typer.Option("--data-root", help="Folder of downloaded data sets.")] = None,
    seed: SeedOpt = 0,
    device: DeviceOpt = "auto",
    capture: CaptureOpt = "auto",
    precision: PrecisionOpt = "float32",
    out: OutOpt = None,
    json_: JsonOpt = False,
) -> None:
    """Write log p(x) of each datum to log_px.csv, least likely first on the screen; of a file, of all its data.

    In the run folder, the file of other data than the test data of the run is log_px-NAME.csv.
    """
    from . import ranks, report

    switches = _switches(capture, precision)
    target, part, result, estimate = _judged(
        run, data, header, data_root, split, limit, device, out, num_samples, seed, proposal, switches
    )
    path = ranks.told(lambda: report.write_csv(target, estimate, part, _beside(run, data, split, out)))
    order = estimate.log_px.argsort()[:10].tolist()
    index = part.rows.tolist()
    if json_:
        lowest = [{"index": index[i], "log_px": float(estimate.log_px[i])} for i in order]
        _print_json({**result, "csv": str(path), "lowest": lowest})
        return
    table = Table("index", "label", estimate.name, "± se", "ESS", "Pareto k", title="least likely data")
    for i in order:
        label = "" if part.y is None else str(part.y[i].item())
        row = (estimate.log_px[i], estimate.std_error[i], estimate.ess[i], estimate.khat[i])
        table.add_row(str(index[i]), label, *(f"{float(v):.2f}" for v in row))
    screen.print(table)
    typer.echo(f"{len(estimate)} rows in {path}; {report.side(result)}, K = {num_samples}, seed {seed}")


@command
def sample(
    run: RunArg,
    *,
    num: Annotated[int, typer.Option("--num", "-n", help="How many.")] = 64,
    label: Annotated[
        str | None, typer.Option("--label", help="The label, for pairs that take one: its name or its number.")
    ] = None,
    mean: Annotated[bool, typer.Option("--mean/--draw", help="Show E[x|z], or draws of x.")] = True,
    seed: SeedOpt = 0,
    device: DeviceOpt = "auto",
    out: OutOpt = None,
    json_: JsonOpt = False,
) -> None:
    """Draw data from the model: samples.npy and samples.png."""
    import torch

    from . import draws, figures

    pair, config = _load(run, device)
    y = None if label is None else torch.full((num,), _class(run, pair, config, label))
    x = draws.sample(pair, num, y, mean=mean, seed=seed).cpu()
    _write_images(out or run, "samples", x, figures.samples(x[:SHOWN]), json_, {"n": num, "seed": seed})


def _class(run: Path, pair: Any, config: dict[str, Any], label: str) -> int:
    """The class that a label stands for: by the name in the run's table, or by its number."""
    count = getattr(pair.model, "num_classes", None)
    if count is None:
        raise UserError(f"--label {label}: the pair of {run} takes no labels")
    names = ((config.get("data") or {}).get("reading") or {}).get("classes") or []
    if label in names:
        return int(names.index(label))
    numbered = not any(name.isdigit() for name in names)  # else 1 may be meant for the name of a class
    if numbered and label.isdigit() and int(label) < count:
        return int(label)
    if names:
        raise UserError(f"--label {label}: this run knows {', '.join(names)}")
    raise UserError(f"--label {label}: this pair knows the labels 0 to {count - 1}")


@command
def reconstruct(
    run: RunArg,
    *,
    num: Annotated[int | None, typer.Option("--num", "-n", help="How many. [10; of a file: all]")] = None,
    split: SplitOpt = None,
    data: DataOpt = None,
    header: HeaderOpt = None,
    data_root: Annotated[Path | None, typer.Option("--data-root", help="Folder of downloaded data sets.")] = None,
    seed: SeedOpt = 0,
    device: DeviceOpt = "auto",
    out: OutOpt = None,
    json_: JsonOpt = False,
) -> None:
    """Encode data and decode them again: reconstructions.npy and reconstructions.png."""
    from . import draws, figures

    pair, _, part = _open(run, data, header, data_root, split, num, device, few=10)
    x_hat = draws.reconstruct(pair, part.x, part.y, seed=seed).cpu()
    figure = figures.reconstructions(part.x[:SHOWN], x_hat[:SHOWN], n=min(len(part), 20))
    _write_images(out or run, "reconstructions", x_hat, figure, json_, {"n": len(part), "seed": seed})


@command
def figures(
    run: RunArg,
    *,
    num_samples: SamplesOpt = 1000,
    limit: Annotated[
        int | None, typer.Option("--limit", help="Use the first N data only. [1000; of a file: all]")
    ] = None,
    split: SplitOpt = None,
    data: DataOpt = None,
    header: HeaderOpt = None,
    data_root: Annotated[Path | None, typer.Option("--data-root", help="Folder of downloaded data sets.")] = None,
    seed: SeedOpt = 0,
    device: DeviceOpt = "auto",
    out: OutOpt = None,
    json_: JsonOpt = False,
) -> None:
    """Draw every figure that applies to a run."""
    from . import ranks, report
    from .figures import save_all

    pair, config, part = _open(run, data, header, data_root, split, limit, device, few=1000)
    _, estimate = report.evaluate(pair, config["pair"]["name"], _data_name(config, data), part, num_samples, seed)
    try:
        lines = (run / "history.jsonl").read_text().splitlines() if (run / "history.jsonl").exists() else []
        history = [json.loads(line) for line in lines] or None
    except ValueError as error:
        raise RunError(f"{run / 'history.jsonl'}: not JSON lines ({error}); delete it to go on without") from None
    about = {"data": part, "history": history, "estimate": estimate, "seed": seed}
    paths = ranks.told(lambda: save_all(pair, (out or run) / "figures", **about))
    if json_:
        _print_json({"run": str(run), "figures": [str(p) for p in paths]})
    else:
        typer.echo("\n".join(map(str, paths)))


@command
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Two or more run folders.")],
    *,
    num_samples: SamplesOpt = 5000,
    limit: LimitOpt = None,
    split: SplitOpt = None,
    data: DataOpt = None,
    header: HeaderOpt = None,
    data_root: Annotated[Path | None, typer.Option("--data-root", help="Folder of downloaded data sets.")] = None,
    seed: SeedOpt = 0,
    device: DeviceOpt = "auto",
    capture: CaptureOpt = "auto",
    precision: PrecisionOpt = "float32",
    out: Annotated[Path | None, typer.Option("--out", help="Folder for comparison.json. [not written]")] = None,
    json_: JsonOpt = False,
) -> None:
    """Compare runs on the same data: which difference is real."""
    from . import ranks, report
    from .compare import compare as compare_pairs

    if len(runs) < 2:
        raise UserError("compare: one run was given; give two or more")
    names = [run.name for run in runs]
    names = names if len(set(names)) == len(names) else [str(run) for run in runs]
    if len(set(names)) < len(names):
        raise UserError("a run is given twice; give different run folders")
    opened = {
        name: _open(run, data, header, data_root, split, limit, device) for name, run in zip(names, runs, strict=True)
    }
    configs = {name: config for name, (_, config, _) in opened.items()}
    if data is None and len({c["data"]["sha256"] for c in configs.values()}) > 1:
        keys = ("name", "seed", "binarize", "shape", "sizes", "reading")
        known = {n: {k: c["data"].get(k) for k in keys} for n, c in configs.items()}
        differ = [k for k in keys if len({str(v[k]) for v in known.values()}) > 1] or ["name"]
        about = "; ".join(f"{n}: " + ", ".join(f"{k} {v.get(k)}" for k in differ) for n, v in known.items())
        raise UserError(f"the runs were made on different data ({about}); train them on the same data and data seed")
    ways = {
        n: (c["data"].get("binarize", "none") != "none", _way(c["data"].get("reading"))) for n, c in configs.items()
    }
    if any(way != ways[names[0]] for way in ways.values()):
        about = "; ".join(f"{n}: binarize={c['data'].get('binarize')}" for n, c in configs.items())
        raise UserError(
            f"the runs read {data} in different ways ({about}), so their figures would be of different data"
        )
    part = next(iter(opened.values()))[2]
    pairs = {name: pair for name, (pair, _, _) in opened.items()}
    table = compare_pairs(
        pairs, part, num_samples=num_samples, seed=seed, progress=not json_, **_switches(capture, precision)
    )
    numeric = ("elbo", "elbo_se", "log_px", "log_px_se", "ess", "khat", "unreliable", "diff", "diff_se")
    rows = [
        {
            "run": name,
            **{k: report.finite(float(table[k][i])) for k in numeric},
            "verdict": str(table.verdict.values[i]),
        }
        for i, name in enumerate(names)
    ]
    quantity = str(table.attrs["quantity"])
    result = {
        "quantity": quantity,
        "n": len(part),
        "split": part.name,
        "num_samples": num_samples,
        "seed": seed,
        "strategies": rows,
    }
    if out is not None:
        from .files import writable, write_json

        ranks.told(lambda: write_json(writable(out) / "comparison.json", result))
    if json_:
        _print_json(result)
        return
    shown = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for title in ("run", "ELBO", quantity, "min ESS", "unreliable", "difference", "verdict"):
        shown.add_column(title, no_wrap=True)
    for r in rows:
        shown.add_row(
            r["run"], f"{r['elbo']:.2f}", f"{r['log_px']:.2f} ± {r['log_px_se']:.2f}", f"{r['ess']:.0f}",
            f"{100 * r['unreliable']:.1f} %",
            "" if r["verdict"] == "best" else f"{r['diff']:.3f} ± {r['diff_se']:.3f}", r["verdict"],
        )  # fmt: skip
    screen.print(shown)
    typer.echo(
        f"nats; {report.which(result)}, K = {num_samples}, seed {seed}; {quantity} is a lower bound in expectation, "
        f"unreliable where Pareto k is not below its threshold.\n"
        f"Differences are paired by datum. Each run is one training run: a verdict is on these weights."
    )
    doubtful = [r["run"] for r in rows if r["verdict"] == "worse" and r["unreliable"] > 0.05]
    if doubtful:
        typer.echo(
            f"The verdict on {', '.join(doubtful)} is on the {num_samples}-sample bounds: more than 5 % of the data "
            f"are unreliable, and {quantity} may lie well above the bound."
        )


@command
def list_(json_: JsonOpt = False) -> None:
    """Print the pairs, the objectives and the data sets."""
    if json_:
        _print_json(
            {
                "pairs": [{"name": k, "summary": v[1]} for k, v in PAIRS.items()],
                "objectives": list(OBJECTIVES),
                "estimators": [{"name": k, "side": v[0], "summary": v[1]} for k, v in ESTIMATORS.items()],
                "datasets": list(DATASETS),
            }
        )
        return
    for title, rows in (
        ("pairs", {k: v[1] for k, v in PAIRS.items()}),
        ("objectives", {k: v[1] for k, v in OBJECTIVES.items()}),
        ("estimators", {k: f"{v[1]} ({v[0]})" for k, v in ESTIMATORS.items()}),
        ("data sets", DATASETS),
    ):
        typer.echo(title)
        for name, summary in rows.items():
            typer.echo(f"  {name:<14} {summary}")


# what a run may go on with other than it began; the data are checked by their sum
CHANGEABLE = ("epochs", "device", "capture", "data", "data_root", "num_samples", "limit", "figures")


def _resumed(ctx: typer.Context, folder: Path, request: dict[str, Any]) -> dict[str, Any]:
    """The request of the run; an option that is given now and differs is refused."""
    from .checkpoint import read_config

    then = read_config(folder).get("request")
    older = {"shards": 1, "capture": "auto", "precision": "float32"}  # of runs before there were such options
    older |= {"num_samples": 5000, "limit": None, "figures": True, "columns": None, "label": None, "header": None}
    older |= {"beta": None, "free_bits": None, "beta_schedule": "constant"}
    then = {**older, **then} if isinstance(then, dict) else {}
    if set(then) != set(request):
        raise RunError(f"{folder}: this run was not made by `ppl-vae train`; resume it from Python")
    for key, value in request.items():
        source = ctx.get_parameter_source(key)
        explicit = source is not None and source.name == "COMMANDLINE"
        if key == "options":
            explicit = bool(value)
        if explicit and key in CHANGEABLE:
            then = {**then, key: value}
        elif explicit and then[key] != value:
            raise RunError(
                f"{folder}: the run has {key}={then[key]!r}, you ask for {value!r}; leave it out, or start anew"
            )
    return then


def _check_same_data(folder: Path | None, loaded: Any) -> None:
    from .checkpoint import read_config

    assert folder is not None
    record = read_config(folder).get("data")
    if not isinstance(record, dict) or record.get("sha256") != loaded.record()["sha256"]:
        raise RunError(
            f"{folder}: the data are no longer those of the run, so it can't go on; name the right ones by --data"
        )


def _way(reading: dict[str, Any] | None) -> dict[str, Any]:
    """How numbers of a source are taken, whatever the form of the file that held them."""
    return {k: v for k, v in (reading or {}).items() if k not in ("header", "whole")}


def _share(text: str | None) -> float | int | None:
    if text is None:
        return None
    try:
        return int(text) if text.isdigit() else float(text)
    except ValueError:
        raise UserError(f"--valid {text!r}: give a share such as 0.1 or a count such as 5000") from None


def _fresh(folder: Path) -> Path:
    """The folder, or the first of folder-2, folder-3 ... that is not there."""
    if not folder.exists():
        return folder
    return next(p for i in range(2, 10**6) if not (p := folder.with_name(f"{folder.name}-{i}")).exists())


def _load(run: Path, device: str) -> tuple[Any, dict[str, Any]]:
    from .checkpoint import load, read_config
    from .fit import resolve_device

    return load(run, device=resolve_device(device)), read_config(run)


def _open(
    run: Path,
    data: str | None,
    header: bool | None,
    data_root: Path | None,
    split: str | None,
    limit: int | None,
    device: str,
    few: int | None = None,
) -> tuple[Any, dict[str, Any], Any]:
    """A run's pair, its configuration, and the data to judge it on: a split of its own, or a file as a whole.

    ``few`` is the limit on the run's own data where none is given.
    """
    from .data import load_data, load_split

    pair, config = _load(run, device)
    request, record = config.get("request"), config.get("data")
    if not isinstance(request, dict) or not isinstance(record, dict):
        raise RunError(f"{run}: this run does not record its data; evaluate it from Python")
    try:
        root, seed = data_root or request["data_root"], request["seed"]
        if data is None and header is not None:
            raise UserError(
                "--header and --no-header are for a file that --data names; that of the run is read as then"
            )
        if data is None or (data in DATASETS and data == request["data"]):
            loaded = load_data(
                request["data"],
                root=root,
                binarize=str(record.get("binarize", request["binarize"])),
                seed=seed,
                valid=_share(request["valid"]),
                columns=request.get("columns"),
                label=request.get("label"),
                header=request.get("header"),
            )
            if loaded.record()["sha256"] != record.get("sha256"):
                what = f"the data at {request['data']!r} are no longer those of the run; name others by --data"
                raise RunError(f"{run}: {what}")
            part = loaded.split(split or "test").fixed(seed)
            limit = few if limit is None else limit
        else:
            part = load_split(data, split=split, like=record, root=root, header=header)
    except KeyError as error:
        raise RunError(f"{run}: config.json has no {error} in its request; it was edited") from None
    shape = tuple(part.x.shape[1:])
    if pair.data_shape is not None and shape != tuple(pair.data_shape):
        raise UserError(f"data of shape {shape} for a pair that was made for {tuple(pair.data_shape)}")
    return pair, config, part.limit(limit)


def _switches(capture: str, precision: str) -> dict[str, Any]:
    """The options of a call that say how its work is run."""
    from .precision import PRECISIONS

    for flag, value, known in (("--capture", capture, CAPTURE), ("--precision", precision, PRECISIONS)):
        if value not in known:
            raise UserError(f"{flag} {value}: choose one of {', '.join(known)}")
    return {"capture": CAPTURE[capture], "precision": precision}


def _judged(
    run: Path, data: str | None, header: bool | None, data_root: Path | None, split: str | None, limit: int | None,
    device: str, out: Path | None, num_samples: int, seed: int, proposal: str, switches: dict[str, Any],
) -> tuple[Path, Any, dict[str, Any], Any]:  # fmt: skip
    """Where to write, the data, the evaluation and the estimate of a run that has one."""
    from . import report
    from .files import writable

    target = writable(out or run)  # before minutes are spent
    pair, config, part = _open(run, data, header, data_root, split, limit, device)
    name = _data_name(config, data)
    result, estimate = report.evaluate(
        pair, config["pair"]["name"], name, part, num_samples, seed, proposal, **switches
    )
    if estimate is None:
        raise UserError(str(result["note"]))
    return target, part, result, estimate


def _trust_figures(pair: Any, part: Any, folder: Path, num_samples: int, seed: int, judged: Any) -> list[str]:
    """L_k against k under several proposals, Pareto k of each datum, and the sandwich of simulated data: PNG files."""
    from . import figures
    from .errors import PairError
    from .estimate import bound_curve
    from .proposals import PROPOSALS
    from .sandwich import eubo

    curves = {}
    asked = [e for e in judged.rows if e in PROPOSALS]
    for proposal in dict.fromkeys(("guide", "prior", "defensive", "qmc", *asked)):
        try:
            curves[proposal] = bound_curve(pair, part, None, num_samples, proposal=proposal, seed=seed, progress=True)
        except PairError as error:
            log.print(f"no curve for {proposal}: {error}")
    weighed = next((e for e in judged.rows.values() if e.estimator != "ais"), None)
    drawn = {"bound_curves": figures.bound_curves(curves)} if curves else {}
    drawn |= {} if weighed is None else {"khat": figures.khat_scatter(weighed)}
    try:
        few = min(100, len(part))
        labels = None if part.y is None else part.y[:few]
        drawn["sandwich"] = figures.sandwich(eubo(pair, few, num_samples, labels, seed=seed, progress=True))
    except UserError as error:
        log.print(f"no sandwich: {error}")
    return [str(_write_figure(folder, name, figure)) for name, figure in drawn.items()]


def _write_figure(folder: Path, name: str, figure: Any) -> Path:
    from . import ranks
    from .files import writable, write_bytes

    def write() -> None:
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=120)
        write_bytes(writable(folder) / f"{name}.png", buffer.getvalue())

    ranks.told(write)
    return folder / f"{name}.png"


def _beside(run: Path, data: str | None, split: str | None, out: Path | None) -> str:
    """What files of other data than the test data of a run have at the end of their names, to stand beside its own."""
    from .checkpoint import read_config

    if out is not None and out.resolve() != run.resolve():
        return ""
    if data is not None and not (data in DATASETS and data == read_config(run)["request"]["data"]):
        return f"-{Path(data).stem}" + (f"-{split}" if split else "")
    return "" if split in (None, "test") else f"-{split}"


def _data_name(config: dict[str, Any], data: str | None) -> str:
    return data or str(config["data"]["name"])


def _write_images(folder: Path, name: str, x: Any, figure: Any, json_: bool, about: dict[str, Any]) -> None:
    import numpy as np

    from .files import writable, write_bytes

    writable(folder)
    buffer = io.BytesIO()
    np.save(buffer, x.numpy(), allow_pickle=False)
    write_bytes(folder / f"{name}.npy", buffer.getvalue())
    paths = [str(folder / f"{name}.npy"), str(_write_figure(folder, name, figure))]
    if json_:
        _print_json({**about, "files": paths})
    else:
        typer.echo("\n".join(paths))


def _print_json(value: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(value, allow_nan=False) + "\n")


def main() -> None:
    """The entry point of ``ppl-vae``."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without ± gets a question mark, not a traceback
    app()
