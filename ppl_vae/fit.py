"""The loop: epochs, validation, early stop, checkpoints, progress."""

from __future__ import annotations

import functools
import math
import operator
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyro
import torch
from pyro.infer import ELBO, Trace_ELBO
from pyro.optim import PyroOptim
from torch import Tensor
from torch.optim import LBFGS, SGD, Adagrad, Adam, AdamW, Optimizer

from . import checkpoint, identity, ranks, weights
from .capture import chosen, worthwhile
from .check import check_pair, nonfinite_site
from .data import Data, Split, visit
from .errors import DataError, NonFiniteError, RankError, RunError, UserError
from .feeds import Batch, Feed, TensorFeed, feed, fitting, selected
from .fields import X, device_of, each, rows, size_of
from .files import first_line
from .generate import remember
from .lazy import Lazy
from .lines import entry_point
from .memory import keep_freed
from .numbers import plain
from .objectives import Objective
from .objectives import elbo as elbo_of
from .objectives import objective as objective_by_name
from .pairs.base import Pair
from .precision import fast_products, products
from .progress import bar
from .quantity import refuse_binarised
from .resume import History, Run, State, shards_of
from .rng import forked, reseed, seed_for
from .schedules import BETA_SCHEDULES, SCHEDULES, Rates, Weight, advance, by_step, factor, named, packed, unpacked
from .schedules import scheduler as scheduler_of
from .setting import Needs, as_data, evaluating, home, num_rows, placed, refuse_outside
from .store import own_store, unmoved
from .svi import READ_EVERY, SVI

OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "adam": functools.partial(Adam, fused=True),
    "adamw": functools.partial(AdamW, fused=True),
    "sgd": functools.partial(SGD, fused=True),
    "adagrad": functools.partial(Adagrad, fused=True),
}


@entry_point
def fit(
    pair: Pair,
    data: Any,
    objective: ELBO | str | None = None,
    *,
    epochs: int = 50,
    batch_size: int = 128,
    lr: float = 1e-3,
    seed: int = 0,
    device: str = "auto",
    progress: bool = True,
    optimizer: str | Callable[..., Optimizer] = "adam",
    schedule: str | Callable[..., Any] = "constant",
    clip_norm: float | None = None,
    warmup: float = 0,
    beta_schedule: str | Callable[[float], float] = "constant",
    patience: int | None = None,
    valid: Any = None,
    callbacks: Sequence[Callable[[dict[str, Any], Pair], Any]] = (),
    run_dir: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    record: Mapping[str, Any] | None = None,
    checkpoint_every: float = 15.0,
    tensorboard: bool = False,
    capture: bool | str = "auto",
    precision: str = "float32",
    shards: int | None = None,
) -> History:
    r"""Train a pair by stochastic variational inference.

    Every step has a random seed of its own, made of ``seed`` and its number, so a run that was stopped and resumed
    ends with the weights of an unbroken one, bit for bit, on the same machine. Nothing leaks: generators, Pyro's
    parameter store and validation flag come out as they went in.

    Inside ``ranks.joined()``, as the command line is under ``torchrun``, the ranks share the shards of each batch and
    the blocks of the validation data. All end with the same weights; rank 0 writes the run folder.

    Args:
        pair: the pair; trained in place and moved to the device.
        data: what ``load_data`` returns, one of its splits, x, ``(x, y)``, a ``Dataset``, or a ``DataLoader``.
        objective: a ``pyro.infer.ELBO``, or a name; None is ``Trace_ELBO()``. Its own ``beta`` and ``free_bits``, such
            as those of ``pv.Elbo(beta=4, free_bits=0.5)``, are trained.
        epochs: passes over the data.
        batch_size: data in a step.
        lr: learning rate. The loss is a sum over the batch, as in Pyro; Adam does not mind the scale, SGD does.
        seed: seeds the order of the data, the binarisation and the guide's noise.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:1"``.
        progress: show a bar.
        optimizer: a name, or a callable ``optimizer(params, lr=lr)`` that returns a ``torch.optim`` optimiser. It is
            given all parameters, the frozen ones too, which train from when they are thawed. The learning rates of its
            groups are their own: ``lr`` is no more than its argument.
        schedule: what multiplies the learning rate of each group: ``"constant"``, ``"linear"``, ``"cosine"``,
            ``"iwae"``, or a function of the share of steps done, in [0, 1). A rate that a callback moves holds, times
            the schedule from there on. Or a scheduler of ``torch.optim.lr_scheduler``: its class, a partial, or a
            function of the optimiser that returns it. It is stepped after each epoch; ``OneCycleLR`` and ``CyclicLR``
            after each step; ``ReduceLROnPlateau`` on -valid_bound, or -train_bound without validation data, once the
            factor on beta is 1.
        clip_norm: the largest norm of the gradient.
        warmup: epochs over which a factor on the objective's ``beta`` grows to 1; refused where it would not get there.
        beta_schedule: another factor on it: ``"constant"``; ``"cyclic"``, four cycles that grow from 0 to 1 and stay
            there for as long; or a function of the share of steps done, in (0, 1], which must end at 1.
        patience: stop after so many epochs without a better validation bound, and keep the best weights. Epochs that
            end while a factor on beta is below 1 don't count, since another bound is trained.
        valid: validation data; None takes those of ``data`` where it has any.
        callbacks: called after each epoch with its row and the pair; a true value stops the fit.
        run_dir: write a run folder: configuration, weights, checkpoints, history.
        resume: go on from the last checkpoint in ``run_dir``.
        overwrite: replace a run that is in ``run_dir``.
        record: JSON-able facts for the configuration, such as ``data.record()``.
        checkpoint_every: seconds between checkpoints; one is written at the end, and on Ctrl-C, in any case.
        tensorboard: also write scalars for TensorBoard to ``run_dir`` (extra ``ppl_vae[tensorboard]``).
        capture: run steps as a compiled graph, see :class:`SVI`: True, False, or ``"auto"``, which compiles for full
            batches where the steps to come are work enough. A resumed run goes on as it began.
        precision: ``"float32"``, or ``"bf16"`` for matrix products in bfloat16; what is measured stays float32.
        shards: parts of each batch, with noise of their own, whose gradients are summed before the step. One process
            takes them one after another (gradient accumulation: memory for one shard is enough), N ranks take N at a
            time, to the same weights up to rounding. None takes those of the run that is resumed, or else the number
            of ranks.

    Returns:
        One dictionary an epoch: epoch, step, train_bound, valid_bound (the bound that is trained, with the objective's
        own beta), valid_elbo (both in nats a datum), the beta and the lr of its last step, seconds; and ``lrs``, that
        of each group, where they differ.

    Raises:
        UserError: an option that makes no sense, such as a warm-up that never ends.
        PairError: the pair breaks the contract, or the objective can't train it.
        DataError: no data, or data outside the support of the likelihood.
        NonFiniteError: a loss or gradient was not finite; names the first bad step, the site and the batch.
        RunError: the run folder can't be used.
        RankError: a rank was lost; the run can be resumed.

    Source: cyclic weights: Fu et al.: Cyclical Annealing Schedule, 2019, arXiv:1903.10145.

    Example:
        >>> import torch, ppl_vae as pv
        >>> pair = pv.build("linear", data_shape=(5,), latent=2)
        >>> history = pv.fit(pair, torch.randn(64, 5), epochs=2, progress=False, device="cpu")
        >>> [row["epoch"] for row in history]
        [1, 2]
    """
    if not isinstance(pair, Pair):
        raise UserError(f"fit: {type(pair).__name__} is not a pair; write pv.Pair(model, guide)")
    epochs, batch_size, lr, seed, device, progress, optimizer, schedule, clip_norm, warmup, beta_schedule = plain(
        (epochs, batch_size, lr, seed, device, progress, optimizer, schedule, clip_norm, warmup, beta_schedule)
    )
    patience, resume, overwrite, record, checkpoint_every, tensorboard, capture, precision, shards = plain(
        (patience, resume, overwrite, record, checkpoint_every, tensorboard, capture, precision, shards)
    )
    _check_numbers(
        {"epochs": epochs, "batch_size": batch_size, "seed": seed, "patience": patience, "shards": shards},
        {"lr": lr, "warmup": warmup, "clip_norm": clip_norm, "checkpoint_every": checkpoint_every},
    )
    if shards is None:
        shards = shards_of(Path(run_dir)) if resume and run_dir is not None else ranks.count()
    if not 1 <= shards <= batch_size:
        raise UserError(f"shards={shards!r} of batch_size={batch_size}: give a whole number from 1 to the batch size")
    if shards % ranks.count():
        raise UserError(f"shards={shards} on {ranks.count()} ranks: give a multiple of the number of ranks")
    chosen(capture)
    products(precision)  # refuse others now
    where = resolve_device(device)
    lr_factor = named("schedule", schedule, SCHEDULES)
    beta_factor = named("beta_schedule", beta_schedule, BETA_SCHEDULES)
    make_optimizer = named("optimizer", optimizer, OPTIMIZERS)
    loss = objective_by_name(objective) if isinstance(objective, str) else objective

    pair.to(where)
    source = feed(data, batch_size, seed, where, home(pair)[1], Needs(pair))
    held_out = _held_out(pair, valid if valid is not None else getattr(data, "valid", None), seed)
    if patience is not None and held_out is None:
        raise UserError("patience needs validation data; pass valid=, or what load_data returns")
    per_epoch = source.length
    total = None if per_epoch is None else epochs * per_epoch
    warm_steps = math.ceil(warmup * (per_epoch or 0))
    if total is not None and warm_steps > total:
        raise UserError(
            f"warmup={warmup} epochs of {epochs}: the weight of the KL term would never reach 1, which trains another "
            f"objective; make it shorter, or train longer"
        )

    params = list(pair.parameters())  # the frozen ones too, which may be thawed
    optim: Any = _made(make_optimizer, params, lr) if params else functools.partial(make_optimizer, lr=lr)
    asked = {"optimizer": _identity_of(optimizer, optim), "schedule": identity.describe(schedule)}
    rates = Rates(optim) if params else None
    torchs = None if schedule == "constant" else scheduler_of(lr_factor, optim)
    if torchs is not None:
        asked["schedule"] = {"scheduler": type(torchs).__name__, "made_by": asked["schedule"]}
        if run_dir is not None:
            packed(torchs.state_dict())  # refuse now what could not be resumed
    if total is None and (warmup or beta_schedule != "constant" or (schedule != "constant" and torchs is None)):
        raise UserError("a schedule or a warm-up needs to know the number of batches; the loader has no length")
    if not callable(beta_factor):
        raise UserError(f"beta_schedule: a {type(beta_factor).__name__} is neither a name nor a function")
    if (end := factor("beta_schedule", beta_factor, 1.0)) != 1:
        raise UserError(
            f"beta_schedule: the factor on the weight of the KL term ends at {end:g}, not at 1, which trains another "
            f"objective; end at 1, and give the objective its own beta"
        )

    def lr_factor_at(step: int) -> float:
        return factor("schedule", lr_factor, 0.0 if total is None else step / total)

    def beta_factor_at(step: int) -> float:
        warm = min(1.0, (step + 1) / warm_steps) if warm_steps else 1.0
        return warm if total is None else warm * factor("beta_schedule", beta_factor, (step + 1) / total)

    def seen(x: X, y: Tensor | None, index: Tensor | None, key: Tensor) -> tuple[Any, ...]:
        x, y = selected(x, y, index)
        x = visit(x, source.binarize, key)
        return weights.call_args(pair.model, x, y)

    svi = SVI(pair.model, pair.guide, optim, loss, clip_norm=clip_norm, precision=precision, prepare=seen)
    weight = Weight(svi.objective, *home(pair))
    if warm_steps or beta_schedule != "constant" or weight.own != 1:
        what = "warmup" if warm_steps else "beta_schedule" if beta_schedule != "constant" else "beta"
        if svi.objective is None:
            raise UserError(
                f"{what}: {type(svi.loss).__name__} has no weight on its KL; use 'elbo', 'meanfield' or 'iwae'"
            )
        if not svi.objective.weighs:
            raise UserError(f"{what}: the bound is a function of Terms alone and has no weight; make it (Terms, beta)")
    settings = {
        "objective": describe(svi.loss), "epochs": epochs, "batch_size": batch_size, "lr": lr, "seed": seed,
        **asked, "clip_norm": clip_norm, "warmup": warmup, "beta_schedule": identity.describe(beta_schedule),
        "patience": patience, "device": where.type, "precision": precision, "shards": shards,
    }  # fmt: skip
    if getattr(svi.objective, "free_bits", 0) and shards > 1:
        raise UserError(
            f"free_bits takes the mean KL of all data of a step, which shards={shards} divides: leave one of them out"
        )
    formerly = {"optimizer": _name_of(optimizer), "schedule": _name_of(schedule)}
    longer = beta_schedule == "constant" and (schedule == "constant" or torchs is not None)
    state = State()
    best: dict[str, Tensor] = {}
    running: Tensor | None = None  # sum of the epoch's losses, on the device
    modes = [(m, m.training) for m in pair.modules()]
    before = _trainable(pair, optim)
    if run_dir is not None:
        settings["data"] = source.identity()
    run = None if run_dir is None else Run(Path(run_dir), pair, settings, formerly, longer)
    with ranks.agreeing():
        if run is not None and resume:
            state, best, running = run.read(pair, optim, where)
        if state.step:
            _resumed(state, pair, rates, torchs, weight, lr)
        with forked(where), unmoved(pair.model, pair.guide):
            _first_look(pair, source, loss, where)
            _count_plates(svi, source)
        make_writer = _writer(tensorboard, run_dir)
    ranks.from_first([v for v in pair.state_dict().values() if torch.is_tensor(v)])
    svi.steps = state.step
    state.captured = _settled(
        capture, state.captured, svi.objective is not None and _worth_capture(pair, source, svi, total, shards)
    )
    if run is not None and not resume:  # nothing is written before all of this was found in order
        ranks.told(functools.partial(run.start, pair, dict(record or {}), overwrite))
        _noted(state, pair, rates, torchs, weight)
        run.write(pair, optim, state, best, running)  # from here on the folder holds a whole run
    writer = make_writer() if ranks.first() else None
    last_saved = time.monotonic()

    def save(done: bool = False) -> None:
        assert run is not None
        _noted(state, pair, rates, torchs, weight)
        run.write(pair, svi.optimizer, state, best, running, done=done)

    keep_freed()
    with ExitStack() as stack:
        stack.enter_context(forked(where))
        state.products = stack.enter_context(fast_products(where, state.products))
        interrupt = stack.enter_context(_deferred_interrupt())
        shown = stack.enter_context(bar(progress))
        task = shown.add_task("training", total=total, completed=state.step, info="")
        stack.callback(_give_back, modes)
        stack.callback(weight.give_back)
        stopped = _is_finished(state, patience, epochs)
        try:
            while state.epoch < epochs and not stopped:
                pair.train()
                began = time.monotonic()
                for batch in source.visits(state.epoch, state.batch):
                    if rates is not None and torchs is None:
                        rates.move(lr_factor_at(state.step))
                    weight.move(beta_factor_at(state.step))
                    of_batch = _shards(batch, shards, ranks.mine(range(shards)), seed, state.step)
                    full = len(batch) == source.batch_size
                    svi.capture = state.captured == "all" or (state.captured == "full" and full)
                    parts = ((*part, key) for _, part, key in of_batch)
                    loss_now = svi.step(*next(parts)) if shards == 1 else svi.step_parts(parts)
                    state.step += 1
                    state.batch += 1
                    if rates is not None and torchs is not None:
                        rates.look()
                        if by_step(torchs):
                            advance(torchs)
                    running = loss_now.double() if running is None else running + loss_now
                    if state.step % READ_EVERY == 0:  # the only look at the device between two epochs
                        info = f"epoch {state.epoch + 1}  loss {float(loss_now) / len(batch):.2f}"
                        shown.update(task, completed=state.step, info=info)
                    due = run is not None and ranks.first() and time.monotonic() - last_saved > checkpoint_every
                    stop, due = ranks.any_of(interrupt.requested, due)
                    if stop:
                        raise KeyboardInterrupt
                    if run is not None and due:
                        svi.check()
                        save()
                        last_saved = time.monotonic()
                svi.check()
                if running is None:
                    raise DataError("the loader gave no batch")
                ranks.from_first(list(pair.buffers()))  # such as the averages of batch norm, of the shards of a rank
                share = beta_factor_at(state.step - 1)
                lrs = [lr] if rates is None else rates.last
                row: dict[str, Any] = {
                    "epoch": state.epoch + 1, "step": state.step,
                    "train_bound": -float(running) / source.num_data(),
                    **_validate(pair, svi, held_out, seed, weight.own),
                    "beta": weight.own * share, "lr": lrs[0],
                    **({"lrs": list(lrs)} if len(set(lrs)) > 1 else {}),
                    "seconds": round(time.monotonic() - began, 3),
                }  # fmt: skip
                state.history.append(row)
                state.epoch, state.batch, running = state.epoch + 1, 0, None
                bound = row.get("valid_bound")
                if share < 1:  # another bound is trained: nothing counts as best, and patience waits
                    state.best_epoch += 1
                elif bound is not None and (state.best_bound is None or bound > state.best_bound):
                    state.best_bound, state.best_epoch = bound, state.epoch
                    if patience is not None:
                        best = {k: v.clone() for k, v in pair.state_dict().items() if torch.is_tensor(v)}
                if torchs is not None and not by_step(torchs):
                    advance(torchs, None if share < 1 else -(row["train_bound"] if bound is None else bound))
                _log(writer, row)
                enough = any([call(row, pair) for call in callbacks])  # noqa: C419
                _refuse_thawed(_trainable(pair, svi.optimizer), before)
                stopped = ranks.any_of(enough or _is_finished(state, patience, epochs))[0]
                shown.update(task, completed=state.step, info=_headline(row))
                if run is not None and (stopped or time.monotonic() - last_saved > checkpoint_every):
                    save()
                    last_saved = time.monotonic()
        except KeyboardInterrupt:
            if run is not None and svi.first_bad_step() is None:
                save()
            raise
        except NonFiniteError as error:
            raise _explain(error, svi, pair, source, seed, per_epoch, shards) from error
        except RankError as error:
            more = "" if run is None else "; the run can be resumed with --resume (resume=True)"
            raise RankError(f"{error} at step {state.step}{more}") from error
        if run is not None:  # with the last weights, from which a longer fit goes on; the best are beside them
            ranks.told(functools.partial(save, done=True))
        if best:
            checkpoint.put(pair, best)
    if writer is not None:
        writer.close()
    return state.history


def _give_back(modes: list[tuple[torch.nn.Module, bool]]) -> None:
    for module, training in modes:
        module.training = training


def resolve_device(device: str | torch.device) -> torch.device:
    """``"auto"`` is the GPU where there is one.

    Raises:
        UserError: a device that is not there.

    Example:
        >>> resolve_device("cpu")
        device(type='cpu')
    """
    if str(device) == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except RuntimeError:
        raise UserError(f"device={device!r}: choose 'auto', 'cpu' or 'cuda'") from None
    if found.type == "cuda" and (not torch.cuda.is_available() or (found.index or 0) >= torch.cuda.device_count()):
        raise UserError(f"device={str(device)!r}: torch finds no such GPU on this machine; use 'cpu' or 'auto'")
    return found


def describe(loss: Any) -> dict[str, Any]:
    """An objective, for a configuration: its name and every setting; a bound or a class of the user's, by digest.

    Example:
        >>> import ppl_vae as pv
        >>> describe(pv.Elbo(gradient="stl", beta=4))
        {'name': 'Elbo', 'num_particles': 1, 'grad': 'stl', 'vectorize': True, 'free_bits': 0.0, 'beta': 4.0}
    """
    whole = identity.describe(loss)
    settings = whole.pop("settings", {})
    if isinstance(loss, Objective):  # not what Pyro's base class keeps for its own
        names = [k for k in vars(loss) if k in settings and k not in vars(Trace_ELBO())]
        settings = {k: settings[k] for k in ("num_particles", *names)} | {"beta": plain(loss.beta)}
        if list(settings.get("bound", ())) == ["name"]:  # one of ours, which the class tells
            del settings["bound"]
    return {"name": type(loss).__name__, **settings, **({} if list(whole) == ["name"] else {"class": whole})}


def _check_numbers(whole: Mapping[str, Any], real: Mapping[str, Any]) -> None:
    """Refuse options that are no numbers, or too small."""
    least = {"epochs": 1, "batch_size": 1, "patience": 1, "warmup": 0}
    none = {"patience", "shards", "clip_norm"}  # may be left out
    for name, value in whole.items():
        if type(value) is not int and not (value is None and name in none):
            raise UserError(f"{name}={value!r}: a whole number is needed")
    for name, value in real.items():
        if (type(value) not in (int, float) or value != value) and not (value is None and name in none):
            raise UserError(f"{name}={value!r}: a number is needed")
    given = {**whole, **real}
    for name, bound in least.items():
        if given[name] is not None and given[name] < bound:
            unit = " epoch" if name == "patience" else ""
            raise UserError(f"{name}={given[name]}: at least {bound}{unit} is needed")
    if not 0 < given["lr"] < math.inf:
        raise UserError(f"lr={given['lr']}: the learning rate must be positive and finite")
    if given["clip_norm"] is not None and not given["clip_norm"] > 0:
        raise UserError(
            f"clip_norm={given['clip_norm']}: the largest norm must be positive; leave it out for no clipping"
        )


def _made(make: Any, params: list[Any], lr: float) -> Optimizer:
    """An optimiser of these parameters.

    Raises:
        UserError: what should make it does not, or makes one that fit can't run.
    """
    if isinstance(make, Optimizer | PyroOptim) or not callable(make):
        raise UserError(
            f"optimizer: a {type(make).__name__} is neither a name nor a callable from parameters to a torch.optim "
            f"optimiser; write functools.partial(torch.optim.Adam, fused=True), say"
        )
    try:
        made = make(params, lr=lr)
    except Exception as error:  # whatever a user's function raises
        name = getattr(make, "__name__", type(make).__name__)
        raise UserError(f"optimizer: {name}(params, lr={lr}) fails: {first_line(error)}") from error
    if not isinstance(made, Optimizer):
        raise UserError(f"optimizer: it makes a {type(made).__name__}; a torch.optim optimiser is needed")
    if isinstance(made, LBFGS):
        raise UserError("optimizer: LBFGS runs the loss several times a step, which fit does not; use another")
    return made


def _identity_of(optimizer: Any, made: Any) -> Any:
    """An optimiser, for a configuration: the name of a built-in one; else what makes it, and what was made."""
    if isinstance(optimizer, str) or not isinstance(made, Optimizer):
        return identity.describe(optimizer)
    groups = [{k: v for k, v in g.items() if k != "params"} for g in made.param_groups]
    described = identity.describe({"made_by": optimizer, "class": type(made), "groups": groups})
    return {**described, "sizes": [len(g["params"]) for g in made.param_groups]}


def _trainable(pair: Pair, optimizer: Any) -> dict[str, bool]:
    """The parameters with a gradient, by name: whether the optimiser holds each."""
    groups = optimizer.param_groups if isinstance(optimizer, Optimizer) else []
    held = {id(p) for group in groups for p in group["params"]}
    return {n: id(p) in held for n, p in pair.named_parameters() if p.requires_grad}


def _refuse_thawed(now: Mapping[str, bool], before: Mapping[str, bool]) -> None:
    """A parameter that was thawed, or made, and that the optimiser does not hold would never move."""
    lost = [name for name, held in now.items() if not held and name not in before]
    if lost and now:
        raise UserError(
            f"parameter {lost[0]!r} has had a gradient since this epoch and is not in the optimiser, so it would never "
            f"move; build the optimiser of all the parameters that it is given, the frozen ones too"
        )


def _noted(state: State, pair: Pair, rates: Rates | None, torchs: Any, weight: Weight) -> None:
    """Put down what moves during a fit, for resuming."""
    if rates is not None:
        state.own_lr, state.last_lr = list(rates.own), list(rates.last)
    state.own_beta = weight.look()
    state.scheduler = None if torchs is None else packed(torchs.state_dict())
    state.frozen = [n for n, p in pair.named_parameters() if not p.requires_grad]


def _resumed(state: State, pair: Pair, rates: Rates | None, torchs: Any, weight: Weight, lr: float) -> None:
    """Put back what :func:`_noted` put down; runs of older versions had one rate for all groups."""
    if rates is not None:
        count = len(rates.optimizer.param_groups)
        rates.own = state.own_lr or [lr] * count
        rates.last = state.last_lr or rates.now()
    if state.own_beta is not None and weight.objective is not None and state.own_beta != weight.own:
        weight.objective.beta = state.own_beta
    if torchs is not None and state.scheduler is not None:
        torchs.load_state_dict(unpacked(state.scheduler))
    if state.frozen is not None:
        frozen = set(state.frozen)
        for name, p in pair.named_parameters():
            p.requires_grad_(name not in frozen)


def _count_plates(svi: SVI, source: Feed) -> None:
    """Let Pyro count the plates of a loss that needs it, else in the first step, and anew when resumed."""
    loss: Any = svi.loss
    if svi.objective is not None or not math.isinf(getattr(loss, "max_plate_nesting", 0)):
        return
    if not (loss.vectorize_particles or hasattr(loss, "_get_traces")):
        return
    batch = next(source.visits(0, 0), None)
    if batch is not None and svi.prepare is not None:
        with own_store(), pyro.validation_enabled(False), torch.no_grad():
            args = svi.prepare(*batch, torch.zeros((), dtype=torch.int64, device=device_of(batch.x)))
            loss._guess_max_plate_nesting(svi.model, svi.guide, args, {})


def _name_of(value: Any) -> str:
    return value if isinstance(value, str) else getattr(value, "__name__", repr(value))


def _first_look(pair: Pair, source: Feed, loss: Any, device: torch.device) -> None:
    """Check the pair on three data, and the data at hand (a loader's first batch) against the likelihood's support."""
    if not isinstance(source, TensorFeed):
        batch = next(source.visits(0, 0), None)
        if batch is None:
            raise DataError("the loader gave no batch")
        x, y = batch.rows()
        with evaluating(pair):
            check_pair(pair.model, pair.guide, x, y, objective=loss)
            with pyro.validation_enabled(False):
                t = weights.terms(pair.model, pair.guide, x, y)
            refuse_outside(t)
        remember(pair, x, t.observed, y)
        return
    split = source.split
    few = split.limit(min(3, len(split))).fixed().to(device)
    refuse_binarised(pair, split)
    with evaluating(pair):
        check_pair(pair.model, pair.guide, few.x, few.y, objective=loss)
        with pyro.validation_enabled(False):
            remember(pair, few.x, weights.terms(pair.model, pair.guide, few.x, few.y).observed, few.y)
        if split.binarize == "none":
            for start in range(0, len(split), 4096):
                part = each(lambda t: t.to(device), rows(split.x, slice(start, start + 4096)))
                labels = None if split.y is None else split.y[start : start + 4096].to(device)
                with pyro.validation_enabled(False):
                    refuse_outside(weights.terms(pair.model, pair.guide, part, labels), start)


def _settled(capture: bool | str, before: str | None, worth: bool) -> str:
    """Which steps to capture: what was asked for, or what the run that is resumed settled on; both, if they agree."""
    asked = {True: "all", False: "none"}.get(capture) if isinstance(capture, bool) else None  # none for "auto"
    if asked is not None and before not in (None, asked):
        raise RunError(
            f"capture={capture}: the run that you resume was {'not ' if before == 'none' else ''}captured, and its "
            f"numbers would change; leave the option out"
        )
    return asked or before or ("full" if worth else "none")


def _worth_capture(pair: Pair, source: Feed, svi: SVI, total: int | None, shards: int) -> bool:
    if total is None or source.batch_size is None or not isinstance(source, TensorFeed):
        return False
    dims = size_of(source.split.x)
    rows = source.batch_size * svi.loss.num_particles // shards
    return worthwhile(3 * total * shards, rows, pair, dims)  # backwards is twice forwards


def _shards(batch: Batch, of: int, wanted: Iterable[int], seed: int, step: int) -> Iterator[tuple[int, Batch, Tensor]]:
    """The wanted shards of a batch that hold data, and the keys of their visits; seeded as they are taken."""
    parts = [batch] if of == 1 else batch.split(of)
    for shard in wanted:
        if len(parts[shard]):
            device = device_of(batch.x)
            reseed(seed_for(seed, "train", shard, step), device)
            yield shard, parts[shard], torch.full((), seed_for(seed, "visit", shard, step), device=device)


def _is_finished(state: State, patience: int | None, epochs: int) -> bool:
    if state.epoch >= epochs:
        return True
    return patience is not None and state.best_bound is not None and state.epoch - state.best_epoch >= patience


HeldOut = tuple[Any, Tensor | None]  # data and labels, or rows to be read


def _held_out(pair: Pair, data: Any, seed: int) -> HeldOut | None:
    """Validation data as the pair takes them, on its device where there is room."""
    if data is None:
        return None
    if isinstance(data, Data):
        raise UserError("valid: name a split of the data: data.valid or data.test")
    if isinstance(data, Split) and not len(data):
        raise DataError("the validation split is empty")
    x, y = as_data(pair, data, None, seed)
    if isinstance(x, Lazy):
        return x, y
    split = fitting(Split(x, y), home(pair)[0])
    return split.x, split.y


def _validate(pair: Pair, svi: SVI, held: HeldOut | None, seed: int, beta: float) -> dict[str, float]:
    """The bound that is trained and the ELBO, nats a datum, on the validation data, with one fixed seed."""
    if held is None:
        return {}
    device, _ = home(pair)
    size = max(1, 8192 // svi.loss.num_particles)

    def sums_of(start: int) -> tuple[float, float]:
        reseed(seed_for(seed, "validate", start // size), device)
        x, y = placed(pair, *held, slice(start, start + size))
        margs, gargs = weights.call_args(pair.model, x, y), weights.call_args(pair.guide, x, y)
        if svi.objective is None:
            bound = -svi.evaluate_loss(*margs)
            return bound, bound
        t = weights.score(pair.model, pair.guide, margs, gargs, num_samples=svi.objective.num_particles)
        return float(svi.objective.value(t, beta).double().sum()), float(elbo_of(t).double().sum())

    with evaluating(pair), unmoved(pair.model, pair.guide), pyro.validation_enabled(False), own_store():
        parts = ranks.each(sums_of, range(0, num_rows(held[0]), size))
    bound, elbo = (functools.reduce(operator.add, column, 0.0) for column in zip(*parts, strict=True))
    n = num_rows(held[0])
    return {"valid_bound": bound / n, "valid_elbo": elbo / n}


def _explain(
    error: NonFiniteError, svi: SVI, pair: Pair, source: Feed, seed: int, per_epoch: int | None, shards: int
) -> NonFiniteError:
    """Replay the first bad step, which no update has followed, and name the site and the batch."""
    step = svi.first_bad_step()
    if step is None or not per_epoch:
        return error
    epoch, batch = divmod(step, per_epoch)
    found = next(iter(source.visits(epoch, batch)))
    what, where = None, f"epoch {epoch + 1}, batch {batch}"
    for shard, part, key in _shards(found, shards, range(shards), seed, step):
        xs, ys = part.rows()
        what = _not_finite(svi, pair, visit(xs, source.binarize, key), ys)
        if what is not None:
            where += f", shard {shard}" if shards > 1 else ""
            break
    return NonFiniteError(
        f"training stopped at step {step} ({where}): {what or 'the loss is not finite'}. "
        f"No parameter was moved from that step on; the last checkpoint is kept. Lower the learning rate or clip"
    )


def _not_finite(svi: SVI, pair: Pair, x: X, y: Tensor | None) -> str | None:
    """What is not finite when these data are scored, and in the gradient; None where all is."""
    margs, gargs = weights.call_args(pair.model, x, y), weights.call_args(pair.guide, x, y)
    with unmoved(pair.model, pair.guide), pyro.validation_enabled(False), own_store():
        particles = svi.loss.num_particles
        grad = svi.objective.grad if svi.objective is not None else "path"
        t = weights.score(pair.model, pair.guide, margs, gargs, num_samples=particles, grad=grad)
        what = nonfinite_site(t)
        if what is None and svi.objective is not None:
            loss = -svi.objective.value(t, svi.objective.beta).sum()
            named = [(n, p) for n, p in pair.named_parameters() if p.requires_grad]
            grads = torch.autograd.grad(loss, [p for _, p in named], allow_unused=True)
            bad = [n for (n, _), g in zip(named, grads, strict=True) if g is not None and not bool(g.isfinite().all())]
            what = f"the gradient of parameter {bad[0]!r} is not finite" if bad else None
    return what


@dataclass
class _Interrupt:
    requested: bool = False


@contextmanager
def _deferred_interrupt() -> Iterator[_Interrupt]:
    """Let Ctrl-C wait for the end of a step, so that a checkpoint is whole; a second one stops at once.

    With several ranks SIGTERM does the same: a launcher sends it to all where one is lost.
    """
    flag = _Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return

    def ask(signum: int, frame: Any) -> None:
        if flag.requested:
            raise KeyboardInterrupt
        flag.requested = True

    kinds = (signal.SIGINT,) if ranks.count() == 1 else (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(kind, ask) for kind in kinds]
    try:
        yield flag
    finally:
        for kind, handler in zip(kinds, before, strict=True):
            signal.signal(kind, handler)


def _headline(row: Mapping[str, Any]) -> str:
    held = row.get("valid_elbo")
    return f"epoch {row['epoch']}  train {row['train_bound']:.2f}" + ("" if held is None else f"  valid {held:.2f}")


def _writer(enabled: bool, run_dir: str | Path | None) -> Any:
    if not enabled:
        return lambda: None
    if run_dir is None:
        raise UserError("tensorboard=True needs run_dir, where the scalars go")
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UserError("tensorboard is not installed; pip install 'ppl_vae[tensorboard]'") from None
    return lambda: SummaryWriter(str(Path(run_dir) / "tensorboard"))


def _log(writer: Any, row: Mapping[str, Any]) -> None:
    if writer is not None:
        for key, value in row.items():
            if isinstance(value, float) and math.isfinite(value):
                writer.add_scalar(key, value, row["epoch"])
