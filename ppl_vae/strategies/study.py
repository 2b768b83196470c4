"""A study: every strategy from every seed, under an equal budget, on local processes or any executor."""

from __future__ import annotations

import math
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ..common.entry import entry_point
from ..common.errors import RunError, UserError
from ..common.files import first_line, writable, write_json
from ..common.numbers import needed
from ..common.progress import bar
from ..data.sets import load_data
from ..data.splits import Data
from ..data.stored import write_data
from ..likelihood.proposals import proposal as proposal_of
from .cells import BUDGETS, DATA, Cell, folder_of, forget_unbuilt, result_of, run_cell
from .evaluation import Evaluation
from .results import Study
from .saved import FILE, load_study
from .strategy import Strategy, grid, named, shown

TRIALS = 3  # times that the workers are started anew after one was lost, without a cell that was completed
IDLE = 20  # seconds after which a worker without work ends, such as one whose parent was killed
TUNING = Evaluation(num_samples=100, proposal="guide", split="valid")


@entry_point
def study(
    strategies: Mapping[str, Strategy] | Sequence[Strategy],
    data: Any,
    *,
    out: str | Path,
    seeds: int | Sequence[int] = 5,
    budget: Mapping[str, float] | None = None,
    evaluation: Mapping[str, Any] | None = None,
    reference: str | None = None,
    tune: Mapping[str, Sequence[Any]] | None = None,
    executor: Executor | None = None,
    workers: int | None = None,
    only: tuple[int, int] | None = None,
    progress: bool = True,
) -> Study:
    """Train each strategy from each seed, evaluate all on the same data, and say which difference is real.

    Within a seed, strategies have the same initial weights wherever shapes and their order agree, the same order of
    data and the same draws of their binarisation. A cell, one strategy and one seed, is an ordinary run folder. A study
    that was stopped, or lost a worker, resumes with the same call, and does nothing twice; a strategy that changes is a
    new cell. A cell that fails is a row with its reason.

    Use when the question is about a method, not about one set of weights: is IWAE better than the ELBO on this model,
    or was it the seed?

    Args:
        strategies: by name, as :func:`grid` makes them; or a list, named by the options in which they differ.
        data: what :func:`~ppl_vae.load_data` returns, or takes.
        out: the folder.
        seeds: how many, or which.
        budget: the same for all: ``{"epochs": n}``, ``{"steps": n}``, ``{"seconds": s}`` of training alone, or
            ``{"decoder_evaluations": n}``; None leaves the epochs of each strategy.
        evaluation: ``num_samples`` (1000), ``proposal`` (``"auto"``), ``limit`` (all examples), ``seed`` (0), and
            ``gaps`` (0): for how many examples the gap of the ELBO is divided among its causes, see :func:`gaps`.
        reference: the strategy that the others are compared with; None takes the first.
        tune: values of options, such as ``{"lr": [3e-4, 1e-3, 3e-3]}``: each strategy takes those that are best on the
            validation data, by the 100-sample bound, after a fit of the same budget from the first seed.
        executor: what runs the cells: any ``concurrent.futures.Executor`` of processes, such as dask's
            ``Client.get_executor()``. None starts ``workers`` local processes.
        workers: local processes; None takes one for each core. Each cell has one thread.
        only: ``(i, n)`` runs the i-th of n shares of the cells, from 1 on, for the array jobs of a batch system.
        progress: show a bar.

    Returns:
        Study: prints as a table with verdicts.

    Raises:
        UserError: a strategy, a budget or another argument that makes no sense.
        RunError: the folder holds a study of other data; or cells could not be run.

    Source: Bouthillier et al.: Accounting for Variance in Machine Learning Benchmarks, 2021, arXiv:2103.03098.

    Example:
        >>> import tempfile, ppl_vae as pv
        >>> base = pv.Strategy("linear", latent=2, lr=3e-3)
        >>> data = pv.load_data(__import__("torch").randn(200, 5))
        >>> with tempfile.TemporaryDirectory() as out:
        ...     found = pv.study(pv.grid(base, latent=[1, 2]), data, out=out, seeds=2, budget={"steps": 5}, workers=1,
        ...                      evaluation={"num_samples": 20, "proposal": "guide"}, progress=False)
        >>> list(found.results)
        ['latent=1', 'latent=2']
    """
    chosen = named(strategies)
    seeds = _seeds(seeds)
    how = evaluation_of(evaluation or {})
    reference = next(iter(chosen)) if reference is None else reference
    if reference not in chosen:
        raise UserError(f"study: reference={reference!r} is not one of {', '.join(chosen)}")
    if isinstance(executor, ThreadPoolExecutor):
        raise UserError("study: executor: threads share Pyro's state; give an executor of processes")
    folder, budget = Path(out).resolve(), budget_of(budget or {})
    _refuse_idle(chosen, budget, tune or {})
    data = data if isinstance(data, Data) else load_data(data)
    writable(folder)
    sha256 = write_data(folder / DATA, data)

    def cells_of(some: Mapping[str, Strategy], seeds: Sequence[int], how: Evaluation) -> list[Cell]:
        """Seed by seed, so that strategies can be compared early."""
        at = {name: folder_of(folder, name, one, budget, sha256) for name, one in some.items()}
        code = {name: one.code() for name, one in some.items()}
        return [
            Cell(one, name, seed, budget, how, folder, at[name] / f"seed-{seed}", how.record(), sha256, code[name])
            for seed in seeds
            for name, one in some.items()
        ]

    run, share = _Runner(executor, workers, progress), slice(None) if only is None else _share(only)
    tuned: dict[str, dict[str, Any]] = {}
    if tune:
        trials = {name: _trials(name, one, tune) for name, one in chosen.items()}
        every = {k: v for some in trials.values() for k, v in some.items()}
        cells = cells_of(every, seeds[:1], TUNING)
        _build_once(every, cells[share], data)
        run(cells[share], "tuning")
        tuned = _best(cells, trials, tune)
        chosen = {name: one.replace(**tuned.get(name, {})) for name, one in chosen.items()}
        tuned = {name: _shown(some) for name, some in tuned.items()}
    cells = cells_of(chosen, seeds, how)
    folders = {cell.name: str(cell.folder.parent.relative_to(folder)) for cell in cells}
    facts = {name: {"given": _shown(one.given), **one.record()} for name, one in chosen.items()}
    about = Study(
        facts, seeds, reference, {name: {} for name in chosen}, folder, budget, cells[0].about, data.record(), tuned,
        folders,
    )  # fmt: skip
    write_json(folder / FILE, about.record())  # for who looks on
    _build_once(chosen, cells[share], data)
    run(cells[share], "study")
    made = load_study(folder)
    write_json(folder / FILE, made.record())
    made.write()
    return made


def _build_once(strategies: Mapping[str, Strategy], cells: Sequence[Cell], data: Data) -> None:
    """Say now which strategies can't be built, such as for want of a package: their cells would say so hours later.

    A cell that could not be built in an earlier call, and now can, is tried again.
    """
    for name, one in strategies.items():
        of_one = [cell for cell in cells if cell.name == name]
        try:
            one.build(data, 0)
        except Exception as error:  # a custom builder may raise anything
            warnings.warn(f"{name} can't be built, and its cells will fail: {first_line(error)}", stacklevel=4)
        else:
            for cell in of_one:
                forget_unbuilt(cell.folder)


def _shown(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as they are written: functions and classes by their names."""
    plain = (str, int, float, bool, type(None))
    return {k: v if isinstance(v, plain) else shown(v) for k, v in options.items()}


class _Runner:
    """Runs cells on an executor, and on new local processes where one of them was lost."""

    def __init__(self, executor: Executor | None, workers: int | None, progress: bool) -> None:
        self.executor, self.progress = executor, progress
        self.workers = cores() if workers is None else needed("workers", workers, "int")
        if self.workers < 1:
            raise UserError(f"study: workers={workers}: at least one is needed")

    def __call__(self, cells: Sequence[Cell], what: str) -> None:
        """Complete all cells.

        Raises:
            RunError: some could not be run.
        """
        trials, error = 0, RuntimeError("")  # type: int, BaseException
        with bar(self.progress) as shown:
            task = shown.add_task(what, total=len(cells), info="")
            while left := [cell for cell in cells if result_of(cell.folder, cell.about) is None]:
                shown.update(task, completed=len(cells) - len(left))
                if trials == TRIALS or (trials and self.executor is not None):
                    raise RunError(
                        f"study: {len(left)} of {len(cells)} cells were not run ({first_line(error)}); the same call "
                        f"resumes from here"
                    )
                error = self._submit(left, lambda cell: shown.update(task, advance=1, info=f"{cell.name}, {cell.seed}"))
                trials = (
                    trials + 1 if len(left) == sum(result_of(cell.folder, cell.about) is None for cell in left) else 0
                )
            shown.update(task, completed=len(cells), info="")

    def _submit(self, cells: Sequence[Cell], done: Any) -> BaseException:
        """Run cells; returns the first error of an executor, or that some are still left."""
        with ExitStack() as stack:
            executor = self.executor or stack.enter_context(_local(min(self.workers, len(cells))))
            work = run_cell if self.executor is not None else partial(_of_parent, os.getpid())
            futures = {executor.submit(work, cell): cell for cell in cells}
            try:
                for future in as_completed(futures):
                    future.result()
                    done(futures[future])
            except BrokenProcessPool as error:
                return error
            except (KeyboardInterrupt, SystemExit):
                for future in futures if self.executor is not None else ():  # local workers end with their pool
                    future.cancel()
                raise
            except UserError:
                raise
            except Exception as error:  # whatever an executor raises for a worker that was lost
                return error
        return RuntimeError("a cell ended without a result")


def _of_parent(parent: int, cell: Cell) -> str:
    """A cell, unless the process that asked for it is gone: a worker that it left behind begins no other one."""
    if os.getppid() != parent:
        os._exit(1)
    return run_cell(cell)


class _local:
    """Local processes, which start without the main module of this one, and take functions that have no name.

    A function of FILE.py:NAME is sent as a whole, since its module has no name that another process finds.
    """

    def __init__(self, workers: int) -> None:
        import cloudpickle  # type: ignore[import-untyped]
        import loky  # type: ignore[import-untyped]

        self.cloudpickle: Any = cloudpickle
        self.files = [module for name, module in sys.modules.items() if name.startswith("ppl_vae_file_")]
        self.pool = loky.ProcessPoolExecutor(max_workers=workers, timeout=IDLE)

    def __enter__(self) -> Executor:
        self.quiet = warnings.catch_warnings()
        self.quiet.__enter__()
        warnings.filterwarnings("ignore", message="A worker (was restarted|stopped)")  # when its memory has grown
        for module in self.files:
            self.cloudpickle.register_pickle_by_value(module)
        return self.pool  # type: ignore[no-any-return]

    def __exit__(self, kind: Any, *_: Any) -> None:
        for module in self.files:
            self.cloudpickle.unregister_pickle_by_value(module)
        self.pool.shutdown(wait=True, kill_workers=kind is not None)
        self.quiet.__exit__(None, None, None)


def _trials(name: str, strategy: Strategy, tune: Mapping[str, Sequence[Any]]) -> dict[str, Strategy]:
    """A strategy with each combination of the values to choose from."""
    return {f"{name}, {which}": one for which, one in grid(strategy, **tune).items()}


def _best(
    cells: Sequence[Cell], trials: Mapping[str, Mapping[str, Strategy]], tune: Mapping[str, Sequence[Any]]
) -> dict[str, dict[str, Any]]:
    """The options of each strategy whose fit has the highest bound on the validation data.

    Raises:
        RunError: another share of the trials is not complete.
    """
    results = {cell.name: result_of(cell.folder, cell.about) for cell in cells}
    if missing := [name for name, found in results.items() if found is None]:
        raise RunError(
            f"study: {len(missing)} of {len(cells)} trials of the tuning are not complete; call again when the other "
            f"shares have run"
        )
    means = {n: float(r["log_px"].mean()) if r and r["status"] == "done" else -math.inf for n, r in results.items()}
    found = {}
    for name, some in trials.items():
        if all(means[trial] == -math.inf for trial in some):
            continue  # nothing was chosen: its cells fail likewise, and say why
        best = some[max(some, key=lambda trial: means[trial])]
        found[name] = {option: best.given.get(option, values[0]) for option, values in tune.items()}
    return found


def _seeds(seeds: Any) -> tuple[int, ...]:
    found = tuple(range(seeds)) if isinstance(seeds, int) else tuple(needed("seeds", s, "int") for s in seeds)
    if not found or len(set(found)) < len(found) or min(found) < 0:
        raise UserError(f"study: seeds={seeds!r}: give a number from 1 on, or different seeds from 0 on")
    return found


def _refuse_idle(strategies: Mapping[str, Strategy], budget: Mapping[str, float], tune: Mapping[str, Any]) -> None:
    """Refuse options that would have no effect: of strategies that differ in them, or whose budget replaces them.

    Raises:
        UserError: epochs under a budget, or options that are tuned.
    """
    for option in tune:
        values = {shown(one.given.get(option)) for one in strategies.values()}
        if len(values) > 1:
            raise UserError(
                f"study: tune: the strategies differ in {option} ({', '.join(sorted(values))}); tune others"
            )
    for name, one in strategies.items():
        if budget and "epochs" in one.given:
            raise UserError(
                f"study: {name!r} has epochs={one.given['epochs']}, which the budget replaces; leave it out"
            )


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0))


def budget_of(budget: Mapping[str, float]) -> dict[str, float]:
    """A budget that makes sense.

    Raises:
        UserError: another kind, or an amount that is not positive.
    """
    if len(budget) > 1 or any(kind not in BUDGETS for kind in budget):
        raise UserError(f"study: budget={dict(budget)!r}: give one of {', '.join(BUDGETS)}, such as {{'epochs': 20}}")
    for kind, amount in budget.items():
        if not isinstance(amount, int | float) or not amount > 0 or (kind != "seconds" and amount != int(amount)):
            sort = "positive" if kind == "seconds" else "whole"
            raise UserError(f"study: budget of {amount} {kind}: give a {sort} number")
    return dict(budget)


def evaluation_of(options: Mapping[str, Any]) -> Evaluation:
    """An evaluation from its options.

    Raises:
        UserError: an option that there is not.
    """
    known = ("num_samples", "proposal", "limit", "gaps", "seed")
    for name in options:
        if name not in known:
            raise UserError(f"study: evaluation has no option {name!r}; it takes {', '.join(known)}")
    found = replace(Evaluation(), **options)
    for name in ("num_samples", "limit", "gaps"):
        value, least = getattr(found, name), 0 if name == "gaps" else 2 if name == "limit" else 1
        if value is not None and needed(f"evaluation: {name}", value, "int") < least:
            raise UserError(f"study: evaluation: {name}={value}: give {least} or more")
    proposal_of(found.proposal)
    return found


def _share(only: tuple[int, int]) -> slice:
    i, n = only
    if not 1 <= i <= n:
        raise UserError(f"study: only={i}/{n}: give a share from 1 to {n}")
    return slice(i - 1, None, n)
