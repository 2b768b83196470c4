"""``fit``: the epochs of a training run, a row of the history after each, checkpoints."""

from __future__ import annotations

import functools
import inspect
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

import torch
from pyro.infer import ELBO
from torch import Tensor

from ..common import ranks
from ..common.entry import entry_point
from ..common.errors import DataError, NonFiniteError, RankError, UserError
from ..common.memory import keep_freed
from ..common.numbers import plain
from ..common.registry import TRAINED_BY
from ..common.rng import forked
from ..compile.products import fast_products
from ..data.batches import Batch, feed
from ..objectives.names import objective as make_objective
from ..pairs.base import Pair
from ..runs.state import set_state
from ..scoring.inputs import Needs, device_and_dtype, modes_kept
from ..scoring.param_store import unmoved
from .check import check_data
from .config import FitConfig, names, refuse_unknown
from .ex_post import fit_prior
from .history import History
from .progress import Display, deferred_interrupt
from .replay import explain
from .resume import Checkpoints, State, shards_of
from .svi import READ_EVERY
from .trainer import Trainer
from .validation import HeldOut, held_out, validate

Callback = Callable[[dict[str, Any], Pair], Any]


@entry_point
def fit(
    pair: Pair,
    data: Any,
    objective: ELBO | str | Callable[..., Any] | None = None,
    *,
    config: FitConfig | None = None,
    valid: Any = None,
    callbacks: Sequence[Callback] = (),
    run_dir: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    record: Mapping[str, Any] | None = None,
    progress: bool = True,
    tensorboard: bool = False,
    **options: Any,
) -> History:
    r"""Train a pair by stochastic variational inference.

    Each step has a seed of its own, made of ``seed`` and its number: a run that was stopped and resumed ends with the
    weights of an unbroken one, bit for bit, on the same machine. Generators, Pyro's parameter store and its validation
    flag are left as they were. Inside ``ranks.joined()`` the ranks share the shards of each batch, and rank 0 writes.

    Args:
        pair: the pair; trained in place and moved to the device.
        data: what ``load_data`` returns, one of its splits, x, ``(x, y)``, a ``Dataset``, or a ``DataLoader``.
        objective: a ``pyro.infer.ELBO``, or a name; None is that of ``config``, by default ``Trace_ELBO()``;
            of the pairs diffusion and gan, what trains them.
        config: how to train; None takes the defaults of :class:`FitConfig`.
        valid: validation data; None takes those of ``data`` where it has any.
        callbacks: called after each epoch with its row and the pair; a true value stops the fit.
        run_dir: write a run folder: configuration, weights, checkpoints, history.
        resume: resume from the last checkpoint in ``run_dir``.
        overwrite: replace a run that is in ``run_dir``.
        record: JSON-able facts for the configuration, such as ``data.record()``.
        progress: show a bar.
        tensorboard: also write scalars for TensorBoard to ``run_dir`` (extra ``ppl_vae[tensorboard]``).
        options: fields of :class:`FitConfig`, such as ``epochs=20``, which replace those of ``config``.

    Returns:
        A dictionary for each epoch: epoch, step, train_bound, valid_bound (of the objective with its own beta) and
        valid_elbo, in nats per example, the beta and the lr of its last step, seconds; train_seconds, of all steps so
        far, as ``seconds=`` counts them; ``lrs`` of groups that differ.

    Raises:
        UserError: an option that makes no sense; DataError, PairError, RunError: the data, the pair, the folder.
        NonFiniteError: a loss or gradient was not finite; names the first bad step, the site and the batch.
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
    own = [name for name, p in inspect.signature(fit).parameters.items() if p.kind == p.KEYWORD_ONLY]
    refuse_unknown(options, [*names(), *own])
    config = resolve_config(config or FitConfig(), objective, options, run_dir if resume else None)
    device = resolve_device(config.device)
    loss = config.objective
    if loss is None and pair.source is None:  # a custom builder may have the name of one of ours
        loss = TRAINED_BY.get(pair.name)
    loss = loss if loss is None or isinstance(loss, ELBO) else make_objective(loss)
    pair.to(device)
    source = feed(data, config.batch_size, config.seed, device, device_and_dtype(pair)[1], Needs(pair))
    held = held_out(pair, getattr(data, "valid", None) if valid is None else valid, config.seed)
    with deferred_interrupt() as interrupt:  # from here on: torch swallows one while its optimiser imports its compiler
        trainer = Trainer(pair, source, loss, config, device)
        loop = Loop(trainer, held, callbacks, None if run_dir is None else trainer.checkpoints(Path(run_dir)))
        display = Display(progress, tensorboard, run_dir)
        loop.begin(resume, overwrite, plain(dict(record or {})))
        loop.run(display, interrupt)
    return loop.state.history


class Loop:
    """The epochs of a fit.

    Attributes:
        state: the position and the history.
        best: the weights of the best epoch, kept where there is a ``patience``.
        epoch_loss: the sum of the losses of the current epoch so far, on the device.
    """

    def __init__(
        self, trainer: Trainer, held: HeldOut | None, callbacks: Sequence[Callback], checkpoints: Checkpoints | None
    ) -> None:
        if trainer.config.patience is not None and held is None:
            raise UserError("patience needs validation data; pass valid=, or what load_data returns")
        self.trainer, self.held, self.callbacks, self.checkpoints = trainer, held, callbacks, checkpoints
        self.state = State()
        self.best: dict[str, Tensor] = {}
        self.epoch_loss: Tensor | None = None
        self.saved_at = time.monotonic()
        self.is_warm = False  # the first step of a process compiles

    def begin(self, resume: bool, overwrite: bool, record: Mapping[str, Any]) -> None:
        """Resume from the last checkpoint, or check pair and data before anything is written."""
        trainer, pair = self.trainer, self.trainer.pair
        with ranks.raise_together():
            if self.checkpoints is not None and resume:
                self.state, self.best, self.epoch_loss = self.checkpoints.read(pair, trainer.optimizer, trainer.device)
            if self.state.step:
                trainer.restore(self.state)
            with forked(trainer.device), unmoved(pair.model, pair.guide):
                check_data(pair, trainer.source, trainer.loss, trainer.device)
        ranks.broadcast([v for v in pair.state_dict().values() if torch.is_tensor(v)])
        trainer.svi.steps = self.state.step
        trainer.choose_capture(self.state)
        if self.checkpoints is not None and not resume:
            trainer.store(self.state)  # which refuses what could not be resumed
            ranks.broadcast_object(functools.partial(self.checkpoints.start, pair, record, overwrite))
            self.save()  # from here on the run can be resumed

    def run(self, display: Display, interrupt: Event) -> None:
        """Train to the end; the pair's modes and the objective's weight are restored, after an error too."""
        trainer, state = self.trainer, self.state
        keep_freed()
        with (
            forked(trainer.device),
            fast_products(trainer.device, state.products) as state.products,
            display.begin(state.step, trainer.num_steps),
            modes_kept(trainer.pair),
            trainer.kl_weight,
        ):
            with self._errors_explained():
                stopped = self._is_finished() and not state.batch
                while not stopped:
                    stopped = self.epoch(display, interrupt)
            if state.step < trainer.kl_weight.warm_steps:
                warnings.warn("fit ended within the warm-up: another objective was trained", stacklevel=2)
            if self.checkpoints is not None:  # a longer fit resumes from the last weights, not the best
                ranks.broadcast_object(functools.partial(self.save, done=True))
            if self.best:
                set_state(trainer.pair, self.best)
            if fit_prior(trainer, state) and self.checkpoints is not None:
                ranks.broadcast_object(functools.partial(self.checkpoints.write_weights, trainer.pair))

    def epoch(self, display: Display, interrupt: Event) -> bool:
        """Take the steps that are left of an epoch, and return whether it was the last."""
        trainer, state = self.trainer, self.state
        began = time.monotonic()
        trainer.pair.train()
        finished = ranks.all_reduce_any(trainer.is_finished(state))[0]  # it may be resumed after its last step
        for batch in trainer.source.visits(state.epoch, state.batch):
            if finished:
                break
            finished = self.step(batch, display, interrupt)
        trainer.svi.check()
        if self.epoch_loss is None:
            raise DataError("the loader gave no batch")
        self._await_device()
        ranks.broadcast(list(trainer.pair.buffers()))  # such as batch norm's averages, which are of a rank's shards
        row = self._row(self.epoch_loss, began)
        self._end(row)
        display.epoch(row)
        enough = any([call(row, trainer.pair) for call in self.callbacks])  # noqa: C419
        trainer.refuse_thawed()
        stopped = ranks.all_reduce_any(enough or self._is_finished())[0]
        if self.checkpoints is not None and (stopped or self._is_due()):
            self.save()
        return stopped

    def step(self, batch: Batch, display: Display, interrupt: Event) -> bool:
        """Take a step; then stop after an interrupt, or write a checkpoint where one is due.

        Returns:
            Whether it was the last that the configuration allows.
        """
        state = self.state
        began = self.clock()
        loss = self.trainer.step(batch, state)
        state.seconds += self.clock() - began if self.is_warm else 0.0
        if self.trainer.config.seconds is not None:
            self._await_device()
        self.is_warm = True
        state.step += 1
        state.batch += 1
        state.seen += len(batch)
        self.epoch_loss = loss.double() if self.epoch_loss is None else self.epoch_loss + loss
        if state.step % READ_EVERY == 0:  # the only time that the device is read within an epoch
            display.show(state.step, f"epoch {state.epoch + 1}  loss {float(loss) / len(batch):.2f}")
        flags = interrupt.is_set(), self._is_due(), self.trainer.is_finished(state)
        stop, due, finished = ranks.all_reduce_any(*flags)  # the clocks of ranks differ
        if stop:
            raise KeyboardInterrupt
        if self.checkpoints is not None and due:
            self.trainer.svi.check()
            self.save()
        return finished

    def clock(self) -> float:
        """Seconds: those of this thread alone where it does all the work, so that no other program counts."""
        alone = self.trainer.device.type == "cpu" and torch.get_num_threads() == 1
        return time.thread_time() if alone else time.monotonic()

    def _await_device(self) -> None:
        """Count the work that a GPU has still to do, which until now was only queued."""
        if self.trainer.device.type == "cuda":
            began = self.clock()
            torch.cuda.synchronize(self.trainer.device)
            self.state.seconds += self.clock() - began if self.is_warm else 0.0

    def save(self, done: bool = False) -> None:
        """Write a checkpoint."""
        assert self.checkpoints is not None
        self.trainer.store(self.state)
        self.checkpoints.write(
            self.trainer.pair, self.trainer.svi.optimizer, self.state, self.best, self.epoch_loss, done=done
        )
        self.saved_at = time.monotonic()

    def _row(self, losses: Tensor, began: float) -> dict[str, Any]:
        """The row of the history."""
        trainer, state, weight = self.trainer, self.state, self.trainer.kl_weight
        lrs = trainer.rates.last
        is_whole = trainer.source.length is None or state.batch == trainer.source.length
        return {
            "epoch": state.epoch + 1, "step": state.step,
            "train_bound": -float(losses) / (trainer.source.num_data() if is_whole else state.seen),
            **validate(trainer.pair, trainer.svi, self.held, trainer.config.seed, weight.base),
            "beta": weight.base * weight.factor(state.step - 1), "lr": lrs[0],
            **({"lrs": list(lrs)} if len(set(lrs)) > 1 else {}),
            "seconds": round(time.monotonic() - began, 3), "train_seconds": round(state.seconds, 3),
        }  # fmt: skip

    def _end(self, row: dict[str, Any]) -> None:
        """Begin the next epoch; keep the weights of the best one, and step a torch scheduler of epochs."""
        trainer, state = self.trainer, self.state
        state.history.append(row)
        state.epoch, state.batch, state.seen, self.epoch_loss = state.epoch + 1, 0, 0, None
        bound: float | None = row.get("valid_bound")
        warming = trainer.kl_weight.factor(state.step - 1) < 1
        if warming:  # another bound is trained: no epoch counts as best or against patience
            state.best_epoch += 1
        elif bound is not None and (state.best_bound is None or bound > state.best_bound):
            state.best_bound, state.best_epoch = bound, state.epoch
            if trainer.config.patience is not None:
                self.best = {k: v.clone() for k, v in trainer.pair.state_dict().items() if torch.is_tensor(v)}
        trainer.rates.after_epoch(None if warming else -(row["train_bound"] if bound is None else bound))

    def _is_finished(self) -> bool:
        config, state = self.trainer.config, self.state
        last = config.epochs if config.steps is None and config.seconds is None else math.inf
        if config.patience is not None and state.best_bound is not None:
            last = min(last, state.best_epoch + config.patience)
        return state.epoch >= last or self.trainer.is_finished(state)

    def _is_due(self) -> bool:
        every = self.trainer.config.checkpoint_every
        return self.checkpoints is not None and ranks.first() and time.monotonic() - self.saved_at > every

    @contextmanager
    def _errors_explained(self) -> Iterator[None]:
        """Write a checkpoint on Ctrl-C; add the site to a loss that is not finite, and how to resume to a lost rank."""
        try:
            yield
        except KeyboardInterrupt:
            if self.checkpoints is not None and self.trainer.svi.first_bad_step() is None:
                self.save()
            raise
        except NonFiniteError as error:
            raise explain(error, self.trainer) from error
        except RankError as error:
            more = "" if self.checkpoints is None else "; the run can be resumed with --resume (resume=True)"
            raise RankError(f"{error} at step {self.state.step}{more}") from error


def resolve_config(
    config: FitConfig, objective: Any, options: Mapping[str, Any], resumed: str | Path | None
) -> FitConfig:
    """The configuration with the options of a call, and the shards of the resumed run, else one a rank.

    Raises:
        UserError: an option that makes no sense, or shards that the ranks can't share.
    """
    config = config.replace(**options, **({} if objective is None else {"objective": objective}))
    if config.shards is None:
        config = config.replace(shards=ranks.count() if resumed is None else shards_of(Path(resumed)))
    if config.shards and config.shards % ranks.count():
        raise UserError(f"shards={config.shards} on {ranks.count()} ranks: give a multiple of the number of ranks")
    return config


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
