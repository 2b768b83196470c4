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
from pyro.infer import ELBO
from torch import Tensor
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer

from . import ranks, weights
from .capture import chosen, worthwhile
from .check import check_pair, nonfinite_site
from .data import Split, as_split, visit
from .errors import DataError, NonFiniteError, RankError, RunError, UserError
from .feeds import Batch, Feed, TensorFeed, cast, feed, placed, selected
from .memory import keep_freed
from .objectives import elbo as elbo_of
from .objectives import objective as objective_by_name
from .pairs.base import Pair
from .precision import fast_products
from .progress import bar
from .quantity import refuse_binarised
from .resume import History, Run, State, shards_of
from .rng import forked, reseed, seed_for
from .setting import evaluating, home, refuse_outside
from .store import own_store
from .svi import READ_EVERY, SVI

OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "adam": functools.partial(Adam, fused=True),
    "adamw": functools.partial(AdamW, fused=True),
    "sgd": functools.partial(SGD, fused=True),
    "adagrad": functools.partial(Adagrad, fused=True),
}


def _iwae_stages(done: float) -> float:
    """Eight stages of 3^(i-1) epochs, of 3280, at 10^(-(i-1)/7): Burda et al. 2015."""
    stage = next(i for i in range(8) if done * 3280 < (3 ** (i + 1) - 1) / 2 or i == 7)
    return float(10 ** (-stage / 7))


SCHEDULES: dict[str, Callable[[float], float]] = {
    # share of all steps that is done, in [0, 1), to a factor on the learning rate
    "constant": lambda done: 1.0,
    "linear": lambda done: 1.0 - done,
    "cosine": lambda done: (1 + math.cos(math.pi * done)) / 2,
    "iwae": _iwae_stages,
}


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
    schedule: str | Callable[[float], float] = "constant",
    clip_norm: float | None = None,
    warmup: float = 0,
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
        objective: a ``pyro.infer.ELBO``, or a name; None is ``Trace_ELBO()``.
        epochs: passes over the data.
        batch_size: data in a step.
        lr: learning rate. The loss is a sum over the batch, as in Pyro; Adam does not mind the scale, SGD does.
        seed: seeds the order of the data, the binarisation and the guide's noise.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:1"``.
        progress: show a bar.
        optimizer: a name, or a callable from parameters to a ``torch.optim`` optimiser.
        schedule: ``"constant"``, ``"linear"``, ``"cosine"``, ``"iwae"``, or a function of the share of steps done.
        clip_norm: the largest norm of the gradient.
        warmup: epochs over which the weight of the KL term grows to 1; refused where it would not get there.
        patience: stop after so many epochs without a better validation bound, and keep the best weights.
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
        One dictionary an epoch: epoch, step, train_bound, valid_bound, valid_elbo (nats a datum), beta, lr, seconds.

    Raises:
        UserError: an option that makes no sense, such as a warm-up that never ends.
        PairError: the pair breaks the contract, or the objective can't train it.
        DataError: no data, or data outside the support of the likelihood.
        NonFiniteError: a loss or gradient was not finite; names the first bad step, the site and the batch.
        RunError: the run folder can't be used.
        RankError: a rank was lost; the run can be resumed.

    Example:
        >>> import torch, ppl_vae as pv
        >>> pair = pv.build("linear", data_shape=(5,), latent=2)
        >>> history = pv.fit(pair, torch.randn(64, 5), epochs=2, progress=False, device="cpu")
        >>> [row["epoch"] for row in history]
        [1, 2]
    """
    if not isinstance(pair, Pair):
        raise UserError(f"fit: {type(pair).__name__} is not a pair; write pv.Pair(model, guide)")
    for name, count in (("epochs", epochs), ("batch_size", batch_size)):
        if not isinstance(count, int):
            raise UserError(f"{name}={count!r}: a whole number is needed")
    for name, value, least in (("epochs", epochs, 1), ("batch_size", batch_size, 1), ("warmup", warmup, 0)):
        if value < least:
            raise UserError(f"{name}={value}: at least {least} is needed")
    if shards is None:
        shards = shards_of(Path(run_dir)) if resume and run_dir is not None else ranks.count()
    if not isinstance(shards, int) or not 1 <= shards <= batch_size:
        raise UserError(f"shards={shards!r} of batch_size={batch_size}: give a whole number from 1 to the batch size")
    if shards % ranks.count():
        raise UserError(f"shards={shards} on {ranks.count()} ranks: give a multiple of the number of ranks")
    if patience is not None and patience < 1:
        raise UserError(f"patience={patience}: at least 1 epoch is needed")
    if not 0 < lr < math.inf:
        raise UserError(f"lr={lr}: the learning rate must be positive and finite")
    if clip_norm is not None and not clip_norm > 0:
        raise UserError(f"clip_norm={clip_norm}: the largest norm must be positive; leave it out for no clipping")
    chosen(capture)
    where = resolve_device(device)
    factor = _named("schedule", schedule, SCHEDULES)
    make_optimizer = _named("optimizer", optimizer, OPTIMIZERS)
    loss = objective_by_name(objective) if isinstance(objective, str) else objective

    pair.to(where)
    source = feed(data, batch_size, seed, where, home(pair)[1])
    held_out = valid if valid is not None else getattr(data, "valid", None)
    held_out = None if held_out is None else placed(cast(as_split(held_out).fixed(seed), home(pair)[1]), where)
    if patience is not None and held_out is None:
        raise UserError("patience needs validation data; pass valid=, or what load_data returns")
    per_epoch = source.length
    total = None if per_epoch is None else epochs * per_epoch
    if total is None and (warmup or schedule != "constant"):
        raise UserError("a schedule or a warm-up needs to know the number of batches; the loader has no length")
    warm_steps = math.ceil(warmup * (per_epoch or 0))
    if total is not None and warm_steps > total:
        raise UserError(
            f"warmup={warmup} epochs of {epochs}: the weight of the KL term would never reach 1, which trains another "
            f"objective; make it shorter, or train longer"
        )

    def lr_at(step: int) -> float:
        return lr * float(factor(0.0 if total is None else step / total))

    def beta_at(step: int) -> float:
        return min(1.0, (step + 1) / warm_steps) if warm_steps else 1.0

    params = [p for p in pair.parameters() if p.requires_grad]
    optim: Any = make_optimizer(params, lr=lr) if params else functools.partial(make_optimizer, lr=lr)

    def seen(x: Tensor, y: Tensor | None, index: Tensor | None, key: Tensor) -> tuple[Any, ...]:
        x, y = selected(x, y, index)
        return weights.call_args(pair.model, visit(x, source.binarize, key), y)

    svi = SVI(pair.model, pair.guide, optim, loss, clip_norm=clip_norm, precision=precision, prepare=seen)
    if warm_steps and svi.objective is None:
        raise UserError(f"warmup: {type(svi.loss).__name__} has no weight on its KL; use 'elbo', 'meanfield' or 'iwae'")
    if held_out is not None and len(held_out) == 0:
        raise DataError("the validation split is empty")
    settings = {
        "objective": describe(svi.loss), "epochs": epochs, "batch_size": batch_size, "lr": lr, "seed": seed,
        "optimizer": _name_of(optimizer), "schedule": _name_of(schedule), "clip_norm": clip_norm, "warmup": warmup,
        "patience": patience, "device": where.type, "precision": precision, "shards": shards,
    }  # fmt: skip
    state = State()
    best: dict[str, Tensor] = {}
    running: Tensor | None = None  # sum of the epoch's losses, on the device
    modes = [(m, m.training) for m in pair.modules()]
    run = None if run_dir is None else Run(Path(run_dir), pair, settings)
    with ranks.agreeing():
        if run is not None and resume:
            state, best, running = run.read(pair, optim, where)
        with forked(where):
            _first_look(pair, source, loss, where)
        make_writer = _writer(tensorboard, run_dir)
    ranks.from_first(list(pair.state_dict().values()))
    svi.steps = state.step
    state.captured = _settled(
        capture, state.captured, svi.objective is not None and _worth_capture(pair, source, svi, total, shards)
    )
    if run is not None and not resume:  # nothing is written before all of this was found in order
        ranks.told(functools.partial(run.start, pair, dict(record or {}), overwrite))
        run.write(pair, optim, state, best, running)  # from here on the folder holds a whole run
    writer = make_writer() if ranks.first() else None
    last_saved = time.monotonic()

    keep_freed()
    with ExitStack() as stack:
        stack.enter_context(forked(where))
        state.products = stack.enter_context(fast_products(where, state.products))
        interrupt = stack.enter_context(_deferred_interrupt())
        shown = stack.enter_context(bar(progress))
        task = shown.add_task("training", total=total, completed=state.step, info="")
        stack.callback(_give_back, modes)
        if svi.objective is not None:
            stack.callback(setattr, svi.objective, "beta", svi.objective.beta)
        stopped = _is_finished(state, patience, epochs)
        try:
            while state.epoch < epochs and not stopped:
                pair.train()
                began = time.monotonic()
                for batch in source.visits(state.epoch, state.batch):
                    _set(svi, lr_at(state.step), beta_at(state.step), where)
                    of_batch = _shards(batch, shards, ranks.mine(range(shards)), seed, state.step)
                    full = len(batch) == source.batch_size
                    svi.capture = state.captured == "all" or (state.captured == "full" and full)
                    parts = ((*part, key) for _, part, key in of_batch)
                    loss_now = svi.step(*next(parts)) if shards == 1 else svi.step_parts(parts)
                    state.step += 1
                    state.batch += 1
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
                        run.write(pair, svi.optimizer, state, best, running)
                        last_saved = time.monotonic()
                svi.check()
                if running is None:
                    raise DataError("the loader gave no batch")
                ranks.from_first(list(pair.buffers()))  # such as the averages of batch norm, of the shards of a rank
                row = {
                    "epoch": state.epoch + 1, "step": state.step,
                    "train_bound": -float(running) / source.num_data(),
                    **_validate(pair, svi, held_out, seed),
                    "beta": beta_at(state.step - 1), "lr": lr_at(state.step - 1),
                    "seconds": round(time.monotonic() - began, 3),
                }  # fmt: skip
                state.history.append(row)
                state.epoch, state.batch, running = state.epoch + 1, 0, None
                bound: float | None = row.get("valid_bound")
                if row["beta"] < 1:  # while the KL is warming up, another bound is trained: nothing counts as best yet
                    state.best_epoch = state.epoch
                elif bound is not None and (state.best_bound is None or bound > state.best_bound):
                    state.best_bound, state.best_epoch = bound, state.epoch
                    if patience is not None:
                        best = {k: v.clone() for k, v in pair.state_dict().items()}
                _log(writer, row)
                asked = any([call(row, pair) for call in callbacks])  # noqa: C419
                stopped = ranks.any_of(asked or _is_finished(state, patience, epochs))[0]
                shown.update(task, completed=state.step, info=_headline(row))
                if run is not None and (stopped or time.monotonic() - last_saved > checkpoint_every):
                    run.write(pair, svi.optimizer, state, best, running)
                    last_saved = time.monotonic()
        except KeyboardInterrupt:
            if run is not None and svi.first_bad_step() is None:
                run.write(pair, svi.optimizer, state, best, running)
            raise
        except NonFiniteError as error:
            raise _explain(error, svi, pair, source, seed, per_epoch, shards) from error
        except RankError as error:
            more = "" if run is None else "; the run can be resumed with --resume (resume=True)"
            raise RankError(f"{error} at step {state.step}{more}") from error
        if run is not None:  # with the last weights, from which a longer fit goes on; the best are beside them
            ranks.told(functools.partial(run.write, pair, svi.optimizer, state, best, running, done=True))
        if best:
            pair.load_state_dict(best)
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
    """An objective, for a configuration."""
    about: dict[str, Any] = {"name": type(loss).__name__, "num_particles": loss.num_particles}
    gradient = getattr(loss, "gradient", None)
    return about if gradient is None else {**about, "gradient": gradient}


def _named(what: str, value: Any, table: Mapping[str, Any]) -> Any:
    if not isinstance(value, str):
        return value
    if value not in table:
        raise UserError(f"{what}={value!r}: choose one of {', '.join(table)}")
    return table[value]


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
                refuse_outside(weights.terms(pair.model, pair.guide, x, y))
        return
    split = source.split
    few = split.limit(min(3, len(split))).fixed().to(device)
    refuse_binarised(pair, split)
    with evaluating(pair):
        check_pair(pair.model, pair.guide, few.x, few.y, objective=loss)
        if split.binarize == "none":
            for start in range(0, len(split), 4096):
                part = split.x[start : start + 4096].to(device)
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
    dims = source.split.x[0].numel()
    rows = source.batch_size * svi.loss.num_particles // shards
    return worthwhile(3 * total * shards, rows, pair, dims)  # backwards is twice forwards


def _set(svi: SVI, lr: float, beta: float, device: torch.device) -> None:
    """Move the learning rate and the weight of the KL."""
    if isinstance(svi.optimizer, Optimizer):
        for group in svi.optimizer.param_groups:
            group["lr"] = lr
    if svi.objective is not None:
        if beta >= 1:
            svi.objective.beta = 1.0
        elif torch.is_tensor(svi.objective.beta):
            svi.objective.beta.fill_(beta)
        else:
            svi.objective.beta = torch.full((), beta, device=device)


def _shards(batch: Batch, of: int, wanted: Iterable[int], seed: int, step: int) -> Iterator[tuple[int, Batch, Tensor]]:
    """The wanted shards of a batch that hold data, and the keys of their visits; seeded as they are taken."""
    parts = [batch] if of == 1 else batch.split(of)
    for shard in wanted:
        if len(parts[shard]):
            device = batch.x.device
            reseed(seed_for(seed, "train", shard, step), device)
            yield shard, parts[shard], torch.full((), seed_for(seed, "visit", shard, step), device=device)


def _is_finished(state: State, patience: int | None, epochs: int) -> bool:
    if state.epoch >= epochs:
        return True
    return patience is not None and state.best_bound is not None and state.epoch - state.best_epoch >= patience


def _validate(pair: Pair, svi: SVI, split: Split | None, seed: int) -> dict[str, float]:
    """The bound that is trained and the ELBO, nats a datum, on the validation data, with one fixed seed."""
    if split is None:
        return {}
    device, _ = home(pair)
    size = max(1, 8192 // svi.loss.num_particles)

    def sums_of(start: int) -> tuple[float, float]:
        reseed(seed_for(seed, "validate", start // size), device)
        x = split.x[start : start + size].to(device)
        y = None if split.y is None else split.y[start : start + size].to(device)
        margs, gargs = weights.call_args(pair.model, x, y), weights.call_args(pair.guide, x, y)
        if svi.objective is None:
            bound = -svi.evaluate_loss(*margs)
            return bound, bound
        t = weights.score(pair.model, pair.guide, margs, gargs, num_samples=svi.objective.num_particles)
        return float(svi.objective.bound(t, 1.0).double().sum()), float(elbo_of(t).double().sum())

    with evaluating(pair), pyro.validation_enabled(False), own_store():
        parts = ranks.each(sums_of, range(0, len(split), size))
    bound, elbo = (functools.reduce(operator.add, column, 0.0) for column in zip(*parts, strict=True))
    return {"valid_bound": bound / len(split), "valid_elbo": elbo / len(split)}


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


def _not_finite(svi: SVI, pair: Pair, x: Tensor, y: Tensor | None) -> str | None:
    """What is not finite when these data are scored, and in the gradient; None where all is."""
    margs, gargs = weights.call_args(pair.model, x, y), weights.call_args(pair.guide, x, y)
    with pyro.validation_enabled(False), own_store():
        particles = svi.loss.num_particles
        grad = svi.objective.grad if svi.objective is not None else "path"
        t = weights.score(pair.model, pair.guide, margs, gargs, num_samples=particles, grad=grad)
        what = nonfinite_site(t)
        if what is None and svi.objective is not None:
            loss = -svi.objective.bound(t, svi.objective.beta).sum()
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
