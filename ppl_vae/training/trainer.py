"""One step of a fit: SVI on a batch, at the learning rates and the weight of the KL term of that step."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from ..common import ranks
from ..common.errors import RunError, UserError
from ..common.fields import X, device_of
from ..common.identity import describe
from ..common.memory import uncollected
from ..common.rng import reseed, seed_for
from ..compile.capture import worthwhile
from ..data.batches import Batch, Feed, selected
from ..data.binarisation import visit
from ..pairs.base import Pair
from ..scoring import trace
from . import optimisers
from .config import FitConfig
from .kl_weight import KLWeight
from .rates import Rates
from .resume import Checkpoints, State, describe_loss
from .svi import SVI


class Trainer:
    """SVI with its optimiser, the learning rates, and the weight of the KL term.

    Raises:
        UserError: options that do not go together, or not with the objective or the data.
    """

    def __init__(self, pair: Pair, source: Feed, loss: Any, config: FitConfig, device: torch.device) -> None:
        self.pair, self.source, self.loss, self.config, self.device = pair, source, loss, config, device
        self.shards = config.shards or 1
        self.num_steps = num_steps(config, source.length)
        params = list(pair.parameters())  # frozen ones too: a callback may thaw them
        make = functools.partial(optimisers.make, config.optimizer, lr=config.lr)
        self.trainable = {n for n, p in pair.named_parameters() if p.requires_grad}
        with uncollected():  # torch.optim imports torch's compiler
            self.optimizer = make(params) if params else None
        self.rates = Rates(self.optimizer, config, self.num_steps)
        if source.length is None and (config.warmup or config.beta_schedule != "constant" or self.rates.needs_length):
            raise UserError("a schedule or a warm-up needs the number of batches; the loader has no length")
        self.svi = SVI(
            pair.model, pair.guide, make if self.optimizer is None else self.optimizer, loss,
            clip_norm=config.clip_norm, precision=config.precision, prepare=_preparation(pair, source),
        )  # fmt: skip
        if self.svi.objective is None and math.isinf(getattr(self.svi.loss, "max_plate_nesting", 0)):
            # the plates of the data and of vectorised particles, which Pyro would run the pair to count
            particles = self.svi.loss.num_particles if self.svi.loss.vectorize_particles else 1
            self.svi.loss.max_plate_nesting = 2 if particles > 1 else 1
        self.kl_weight = KLWeight(self.svi.objective, self.svi.loss, config, source.length, self.num_steps)
        if getattr(self.svi.objective, "free_bits", 0) and self.shards > 1:
            raise UserError(f"free_bits takes the mean KL of all examples of a step: leave out shards={self.shards}")

    def is_finished(self, state: State) -> bool:
        """Whether the steps or the seconds of the configuration are spent; of epochs, the loop knows."""
        config = self.config
        if config.seconds is not None:
            return state.seconds >= config.seconds
        return config.steps is not None and state.step >= config.steps

    def step(self, batch: Batch, state: State) -> Tensor:
        """Take the step of a batch; returns its loss, a 0-d tensor in nats."""
        self.rates.before_step(state.step)
        self.kl_weight.before_step(state.step)
        is_full = state.captured == "full" and self.source.is_full(batch)
        self.svi.capture = state.captured == "all" or is_full
        wanted = ranks.local_units(range(self.shards))
        shards = seeded_shards(batch, self.shards, wanted, self.config.seed, state.step)
        parts = ((*part, key) for _, part, key in shards)
        loss = self.svi.step(*next(parts)) if self.shards == 1 else self.svi.step_parts(parts)
        self.rates.after_step()
        return loss

    def checkpoints(self, folder: Path) -> Checkpoints:
        """The checkpoints of this fit in a run folder."""
        settings = {**self.record(), "data": self.source.identity()}
        extends = self.config.beta_schedule == "constant" and not self.rates.needs_length
        return Checkpoints(folder, self.pair, settings, self.config, extends=extends)

    def record(self) -> dict[str, Any]:
        """The configuration, as facts for JSON."""
        made_by = describe(self.config.schedule)
        scheduler = self.rates.scheduler
        return self.config.record(
            objective=describe_loss(self.svi.loss),
            device=self.device.type,
            optimizer=optimisers.record(self.config.optimizer, self.optimizer),
            schedule=made_by if scheduler is None else {"scheduler": type(scheduler).__name__, "made_by": made_by},
        )

    def store(self, state: State) -> None:
        """Store what changes besides tensors in the state that resuming reads."""
        for name, value in self.rates.state().items():
            setattr(state, name, value)
        state.own_beta = self.kl_weight.read()
        state.frozen = [n for n, p in self.pair.named_parameters() if not p.requires_grad]

    def restore(self, state: State) -> None:
        """Restore what :meth:`store` stored."""
        self.rates.restore(state.own_lr, state.last_lr, state.scheduler, self.config.lr)
        self.kl_weight.restore(state.own_beta)
        if state.frozen is not None:
            for name, p in self.pair.named_parameters():
                p.requires_grad_(name not in state.frozen)

    def choose_capture(self, state: State) -> None:
        """Choose which steps are captured: by the configuration, or as in the run that is resumed.

        Raises:
            RunError: the two differ.
        """
        chosen = {True: "all", False: "none", "auto": None}[self.config.capture]
        if chosen is not None and state.captured not in (None, chosen):
            was = f"the run that you resume was {'not ' if state.captured == 'none' else ''}captured"
            raise RunError(f"capture={self.config.capture}: {was}, and its numbers would change; leave the option out")
        state.captured = chosen or state.captured or ("full" if self._capture_pays() else "none")

    def _capture_pays(self) -> bool:
        source, objective = self.source, self.svi.objective
        if objective is None or self.num_steps is None or source.batch_size is None:
            return False
        rows = source.batch_size * objective.draws // self.shards
        passes = 3 * self.num_steps * self.shards  # a backward pass costs two forward ones
        return worthwhile(passes, rows, self.pair, source.size)

    def refuse_thawed(self) -> None:
        """Refuse a parameter that was thawed, or made, and that the optimiser does not hold: it would never change.

        Raises:
            UserError: names it.
        """
        groups = self.svi.optimizer.param_groups if isinstance(self.svi.optimizer, Optimizer) else []
        held = {id(p) for group in groups for p in group["params"]}
        for name, p in self.pair.named_parameters():
            if p.requires_grad and id(p) not in held and name not in self.trainable:
                raise UserError(
                    f"parameter {name!r} has had a gradient since this epoch and is not in the optimiser, so it would "
                    f"never change; build the optimiser of all the parameters that it is given, the frozen ones too"
                )


def num_steps(config: FitConfig, epoch_steps: int | None) -> int | None:
    """The steps of a fit; None where a loader has no length, or a budget of seconds leaves them open."""
    if config.steps is not None or config.seconds is not None:
        return config.steps
    return None if epoch_steps is None else config.epochs * epoch_steps


def _preparation(pair: Pair, source: Feed) -> Callable[..., tuple[Any, ...]]:
    """A function from a batch to the arguments of the programs: its rows, binarised anew at each visit."""

    def prepare(x: X, y: Tensor | None, index: Tensor | None, key: Tensor) -> tuple[Any, ...]:
        x, y = selected(x, y, index)
        return trace.call_args(pair.model, visit(x, source.binarize, key), y)

    return prepare


def seeded_shards(
    batch: Batch, of: int, wanted: Iterable[int], seed: int, step: int
) -> Iterator[tuple[int, Batch, Tensor]]:
    """The wanted shards of a batch, without empty ones, and the keys of their visits; taking one seeds its noise."""
    parts = [batch] if of == 1 else batch.split(of)
    for shard in wanted:
        if len(parts[shard]):
            device = device_of(batch.x)
            reseed(seed_for(seed, "train", shard, step), device)
            yield shard, parts[shard], torch.full((), seed_for(seed, "visit", shard, step), device=device)
