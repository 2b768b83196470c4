"""How a pair is trained: each option of ``fit`` once, for Python, the command line and ``config.json``.

A new option is one line of :class:`FitConfig`, and its use. Imports no torch, so that ``--help`` needs none.
"""
# ruff: noqa: RUF009 (each default is a field)

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ..common.errors import UserError
from ..common.registry import OBJECTIVES
from . import schedules
from .optimisers import OPTIMIZERS
from .schedules import BETA_SCHEDULES, SCHEDULES, Share

if TYPE_CHECKING:
    import torch
    from pyro.infer import ELBO
    from torch.optim import Optimizer


def option(
    default: Any, help: str, *, choices: Iterable[Any] = (), at_least: float | None = None, same: bool = True
) -> Any:
    """A field of a configuration.

    Args:
        default: its value where none is given.
        help: one line: what it is, and when to use it.
        choices: the names that it has.
        at_least: the smallest number.
        same: whether resuming with another value is refused, as another run.
    """
    metadata = {"help": help, "choices": tuple(choices), "at_least": at_least}
    return dataclasses.field(default=default, compare=same, metadata=metadata)


@dataclass(frozen=True)
class FitConfig:
    """How a pair is trained: what :func:`fit` takes as options, the command line as flags, and a run folder records.

    Every field is checked when the configuration is made; ``dataclasses.fields(FitConfig)`` has a line of help and
    the names to choose from in each field's ``metadata``.

    Raises:
        UserError: a value of the wrong type, out of its range, or an unknown name.

    Example:
        >>> config = FitConfig(epochs=3, lr=3e-3)
        >>> config.replace(schedule="cosine").schedule
        'cosine'
        >>> FitConfig(lr=-1.0)
        Traceback (most recent call last):
        ppl_vae.common.errors.UserError: lr=-1.0: the learning rate must be positive and finite
    """

    objective: ELBO | str | Callable[..., Any] | None = option(
        None, "The bound, as NAME or NAME:OPTION=VALUE; use iwae for a tighter one. [elbo]", choices=OBJECTIVES
    )
    epochs: int = option(50, "Passes over the data; use more while the validation bound rises.", at_least=1)
    steps: int | None = option(
        None, "Steps to train for, in place of epochs; use for equal work of several strategies. [epochs]", at_least=1
    )
    seconds: float | None = option(
        None, "Seconds to train for, without validation and compilation, in place of epochs. [epochs]"
    )
    batch_size: int = option(128, "Examples in a step; use more for speed on a GPU.", at_least=1)
    lr: float = option(1e-3, "Learning rate; use a smaller one where training diverges.")
    seed: int = option(0, "Seeds everything that is random; use several to see how much a result varies.")
    device: str | torch.device = option("auto", "auto (a GPU where there is one), cpu, cuda or cuda:1.")
    optimizer: str | Callable[..., Any] | Optimizer = option("adam", "Use adamw for weight decay.", choices=OPTIMIZERS)
    schedule: str | Callable[..., Any] = option(
        "constant", "Factor on the learning rate; use linear where the number of epochs is fixed.", choices=SCHEDULES
    )
    clip_norm: float | None = option(None, "Largest norm of the gradient; use where rare batches make jumps. [none]")
    warmup: float = option(0.0, "Epochs in which the KL weight grows; use where latents stay unused.", at_least=0)
    beta_schedule: str | Share = option(
        "constant", "Factor on the KL weight; use cyclic where a warm-up leaves latents unused.", choices=BETA_SCHEDULES
    )
    patience: int | None = option(
        None, "Epochs without a better validation bound to stop after; use against overfitting. [never]", at_least=1
    )
    checkpoint_every: float = option(
        15.0, "Seconds between checkpoints; use more where the folder is slow.", at_least=0, same=False
    )
    capture: bool | Literal["auto"] = option(
        "auto", "Run steps as a compiled graph; use True to have it where auto finds that it does not pay.", same=False
    )
    precision: str = option(
        "float32", "Of matrix products; use bf16 for speed on hardware that has it.", choices=("float32", "bf16")
    )
    shards: int | None = option(
        None, "Parts of a batch; use more where its memory is too large. [the number of ranks, or 1]"
    )

    def __post_init__(self) -> None:
        from ..common.numbers import needed, plain
        from ..common.registry import resolve

        for f in dataclasses.fields(self):
            value, kind = plain(getattr(self, f.name)), str(f.type)
            choices, least = f.metadata["choices"], f.metadata["at_least"]
            if f.name == "objective" and isinstance(value, str):
                resolve(f.name, value.partition(":")[0], OBJECTIVES)  # former names too, and options after a colon
            elif choices and (isinstance(value, str) or kind == "str") and value not in choices:
                raise UserError(f"{f.name}={value!r}: choose one of {', '.join(choices)}")
            value = needed(f.name, value, kind)
            if isinstance(value, float) and math.isnan(value):
                raise UserError(f"{f.name}={value!r}: a number is needed")
            if least is not None and value is not None and value < least:
                raise UserError(f"{f.name}={value}: at least {least:g} is needed")
            object.__setattr__(self, f.name, value)
        self._check_ranges()

    def _check_ranges(self) -> None:
        if not (isinstance(self.capture, bool) or self.capture == "auto"):
            raise UserError(f"capture={self.capture!r}: choose True, False or 'auto'")
        if self.steps is not None and self.seconds is not None:
            raise UserError(f"steps={self.steps} and seconds={self.seconds:g}: give one of them")
        if self.seconds is not None and not 0 < self.seconds < math.inf:
            raise UserError(f"seconds={self.seconds:g}: give a positive number of seconds")
        if self.seconds is not None and (self.schedule != "constant" or self.beta_schedule != "constant"):
            name = "schedule" if self.schedule != "constant" else "beta_schedule"
            raise UserError(f"{name}: it needs the number of steps, which seconds={self.seconds:g} leaves open")
        if not 0 < self.lr < math.inf:
            raise UserError(f"lr={self.lr}: the learning rate must be positive and finite")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise UserError(f"clip_norm={self.clip_norm}: give a positive norm, or leave it out for no clipping")
        if self.shards is not None and not 1 <= self.shards <= self.batch_size:
            raise UserError(f"shards={self.shards} of batch_size={self.batch_size}: give from 1 to the batch size")
        beta_factor = schedules.resolve("beta_schedule", self.beta_schedule, BETA_SCHEDULES)
        if (end := schedules.factor("beta_schedule", beta_factor, 1.0)) != 1:
            raise UserError(
                f"beta_schedule: the factor on the weight of the KL term ends at {end:g}, not at 1, which trains "
                f"another objective; end at 1, and set beta on the objective"
            )

    def replace(self, **options: Any) -> FitConfig:
        """This configuration with other values; checked anew.

        Raises:
            UserError: there is no such option; lists those that there are.
        """
        refuse_unknown(options, names())
        return dataclasses.replace(self, **options)

    def record(self, **resolved: Any) -> dict[str, Any]:
        """The configuration as facts that JSON holds; equal facts mean the same work.

        Args:
            resolved: facts about options that only the fit has, such as the optimiser that was made.
        """
        from ..common.identity import describe

        return {name: resolved[name] if name in resolved else describe(getattr(self, name)) for name in names()}


_HELP = [f"        {f.name}: {f.metadata['help']}" for f in dataclasses.fields(FitConfig)]
FitConfig.__doc__ = "\n".join([(FitConfig.__doc__ or "").rstrip(), "", "    Attributes:", *_HELP, ""])


def names(same: bool = False) -> list[str]:
    """The options' names; with ``same``, only those that a resumed run keeps."""
    return [f.name for f in dataclasses.fields(FitConfig) if f.compare or not same]


def refuse_unknown(given: Iterable[str], known: Iterable[str]) -> None:
    """Refuse an option that is not known.

    Raises:
        UserError: names the nearest known one, and all of them.
    """
    known = list(known)
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"; did you mean {near[0]!r}?" if near else "."
            raise UserError(f"there is no option {name!r}{hint} The options are {', '.join(known)}")
