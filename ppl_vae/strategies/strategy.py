"""A strategy: how a pair is built and trained, as a record; and grids of them."""

from __future__ import annotations

import hashlib
import inspect
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..common.choices import checked, record
from ..common.custom import origin
from ..common.errors import UserError
from ..common.identity import describe
from ..common.registry import objective_of, pairs, resolve
from ..common.rng import DrawsByShape, forked, seed_for
from ..objectives.base import Objective
from ..objectives.names import objective as make_objective
from ..pairs.base import Pair, build
from ..pairs.options import FROM_DATA
from ..training.config import FitConfig, names as fit_names, refuse_unknown
from ..training.resume import describe_loss

OF_STUDY = ("seed", "device", "steps", "seconds", "checkpoint_every")  # options of fit that a study sets
OF_OBJECTIVE = ("num_particles", "gradient", "beta", "free_bits")


@dataclass(frozen=True, init=False)
class Strategy:
    """How a pair is built and trained: the pair, its options, the objective, the options of ``fit``.

    Args:
        pair: a name of ``ppl-vae list``, or a builder: a function of keywords that returns a Pair.
        options: of the builder (``latent=8``, ``guide="full"``), of the objective (``num_particles=10``), and of
            :class:`~ppl_vae.FitConfig` (``objective="iwae"``, ``lr=1e-3``). The seed and the budget are the study's.

    Raises:
        UserError: a pair or an option that is not known, or a value that makes no sense.

    Example:
        >>> import ppl_vae as pv
        >>> base = pv.Strategy("vae", latent=8, objective="iwae", num_particles=5)
        >>> base.replace(latent=2).options, base.objective.num_particles
        ({'latent': 2}, 5)
    """

    pair: Any
    options: Mapping[str, Any]
    loss: Mapping[str, Any]
    config: FitConfig

    def __init__(self, pair: str | Callable[..., Pair] = "vae", **options: Any) -> None:
        if isinstance(pair, nn.Module) or not (isinstance(pair, str) or callable(pair)):
            raise UserError(
                f"strategy: pair is a {type(pair).__name__}; give a name, or the function that builds it, since every "
                f"seed needs weights of its own"
            )
        builder = resolve("pair", pair, pairs()) if isinstance(pair, str) else pair
        signature = inspect.signature(builder).parameters
        own = [name for name in signature if name not in FROM_DATA]
        if taken := [name for name in OF_STUDY if name in options]:
            raise UserError(f"strategy: {taken[0]} is set by the study: pv.study(..., seeds=, budget=)")
        of_fit = [name for name in fit_names() if name not in OF_STUDY]
        refuse_unknown(options, [*own, *OF_OBJECTIVE, *of_fit])
        parts = {
            "options": checked(f"pair {shown(pair)!r}", signature, {k: v for k, v in options.items() if k in own}),
            "loss": {k: v for k, v in options.items() if k in OF_OBJECTIVE and k not in own},
            "config": FitConfig(**{k: v for k, v in options.items() if k in of_fit and k not in own}),
        }
        for name, value in {"pair": pair, **parts}.items():
            object.__setattr__(self, name, value)
        assert isinstance(self.objective, Objective)

    @property
    def objective(self) -> Objective:
        """The objective, made anew."""
        return make_objective(self.config.objective or objective_of(self.pair), **self.loss)

    @property
    def given(self) -> dict[str, Any]:
        """Every option that differs from its default, and the pair."""
        default = FitConfig()
        changed = {n: getattr(self.config, n) for n in fit_names() if getattr(self.config, n) != getattr(default, n)}
        return {"pair": self.pair, **self.options, **self.loss, **changed}

    def replace(self, **options: Any) -> Strategy:
        """This strategy with other options; checked anew."""
        whole = {**self.given, **options}
        return Strategy(whole.pop("pair"), **whole)

    def record(self) -> dict[str, Any]:
        """The strategy as facts for JSON: equal facts mean the same work; custom code counts by its source."""
        skipped = (*OF_STUDY, "objective", "capture")
        return {
            "pair": describe(self.pair),
            "options": {name: _option(value) for name, value in self.options.items()},
            "objective": describe_loss(self.objective),
            "fit": {k: v for k, v in self.config.record().items() if k not in skipped},
        }

    def code(self) -> dict[str, Any]:
        """The custom code of the pair, for the record of a run: only the process that wrote it can read its source.

        Returns:
            ``source``, of the builder; ``options``, FILE.py:NAME of the parts; ``records``, their descriptions.
        """
        parts = {name: value for name, value in self.options.items() if "custom" in _mapping(record(value))}
        return {
            "source": None if isinstance(self.pair, str) else origin(self.pair),
            "options": {name: origin(value)["builder"] for name, value in parts.items()},
            "records": {name: record(value) for name, value in parts.items()},
        }

    def build(self, data: Any, seed: int) -> Pair:
        """A pair with the weights of a seed: the same in every strategy wherever shapes and their order agree.

        Args:
            data: what :func:`~ppl_vae.load_data` returns.
            seed: of the weights.
        """
        with forked(), DrawsByShape(seed_for(seed, "build")):
            return build(self.pair, data=data, **self.options)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _option(value: Any) -> Any:
    """An option as facts; of a module, with its settings and its tensors, which no run has trained yet."""
    if not isinstance(value, nn.Module):
        return describe(value)
    settings = {k: v for k, v in vars(value).items() if not k.startswith("_") and k != "training"}
    return {**describe(value), "settings": describe(settings), "tensors": describe(dict(value.state_dict()))}


def digest(facts: Any) -> str:
    """Twelve hex digits that identify JSON-able facts."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]


def grid(base: Strategy, **values: Sequence[Any]) -> dict[str, Strategy]:
    """A strategy for each combination of values of options, named by them.

    Args:
        base: what all have in common.
        values: for each option, the values that it takes.

    Example:
        >>> import ppl_vae as pv
        >>> list(pv.grid(pv.Strategy("vae"), latent=[2, 8], objective=["elbo", "iwae"]))
        ['latent=2, objective=elbo', 'latent=2, objective=iwae', 'latent=8, objective=elbo', 'latent=8, objective=iwae']
    """
    if not isinstance(base, Strategy):
        raise UserError(f"grid: the base is a {type(base).__name__}; give pv.Strategy(...)")
    for name, several in values.items():
        if isinstance(several, str) or not isinstance(several, Sequence) or not several:
            raise UserError(f"grid: {name}={several!r}: give a list of values")
    made = [base.replace(**dict(zip(values, each, strict=True))) for each in itertools.product(*values.values())]
    combinations = itertools.product(*values.values())
    names = [", ".join(f"{k}={shown(v)}" for k, v in zip(values, each, strict=True)) for each in combinations]
    return _distinct(names, made)


def _distinct(names: Sequence[str], strategies: Sequence[Strategy]) -> dict[str, Strategy]:
    """Strategies by name; where a name, such as that of a lambda, comes again, with a number.

    Raises:
        UserError: two strategies are the same.
    """
    found: dict[str, Strategy] = {}
    records: dict[str, str] = {}
    for name, one in zip(names, strategies, strict=True):
        record = digest(one.record())
        if record in records:
            raise UserError(f"two strategies are the same: {records[record]!r} and {name!r}; leave one out")
        records[record] = name
        number = 1 + sum(other == name or other.startswith(f"{name} (") for other in found)
        found[name if number == 1 else f"{name} ({number})"] = one
    return found


def shown(value: Any) -> str:
    """A value of an option in a name: a function or a class by its name."""
    if isinstance(value, tuple | list):
        return ",".join(map(shown, value))
    return str(getattr(value, "__name__", value))


def named(strategies: Mapping[str, Strategy] | Sequence[Strategy]) -> dict[str, Strategy]:
    """Strategies by name; those of a list are named by the options in which they differ.

    Raises:
        UserError: there is none, one is no Strategy, or two are the same.
    """
    if isinstance(strategies, Strategy):
        strategies = [strategies]
    if not isinstance(strategies, Mapping):
        every = [one.given if isinstance(one, Strategy) else {} for one in strategies]
        keys = list(dict.fromkeys(k for given in every for k in given))
        differ = [k for k in keys if len({repr(given.get(k)) for given in every}) > 1]
        if unfit := [one for one in strategies if not isinstance(one, Strategy)]:
            raise UserError(f"study: a strategy is a {type(unfit[0]).__name__}; give pv.Strategy(...)")
        names = [", ".join(f"{k}={shown(given[k])}" for k in differ if k in given) or "base" for given in every]
        strategies = _distinct(names, strategies)
    for name, one in strategies.items():
        if not isinstance(one, Strategy):
            raise UserError(f"study: strategy {name!r} is a {type(one).__name__}; give pv.Strategy(...)")
        if not name or not name.isprintable() or len(name) > 200:
            raise UserError(
                f"study: a strategy has the name {name!r:.60}; give one of 1 to 200 characters, on one line"
            )
    if not strategies:
        raise UserError("study: no strategy was given")
    return dict(strategies)
