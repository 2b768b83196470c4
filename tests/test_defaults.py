"""An option that Python and the command line share has one default."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import pytest
import typer

import ppl_vae as pv
from ppl_vae.cli.app import app
from ppl_vae.common.registry import PAIRS, resolve
from ppl_vae.pairs.options import FROM_DATA, read

COMMANDS = {c.name: inspect.signature(c.callback).parameters for c in app.registered_commands if c.callback}
LEFT_OUT = {"estimator": "iwae", "proposal": "guide"}  # repeatable options, which have no default of their own


@pytest.mark.parametrize(
    ("command", "functions"),
    [
        ("train", (pv.load_data, pv.FitConfig)),
        ("evaluate", (pv.log_likelihood, pv.panel, pv.ais)),
        ("score", (pv.log_likelihood,)),
        ("sample", (pv.sample,)),
        ("reconstruct", (pv.reconstruct,)),
        ("compare", (pv.compare,)),
    ],
)
def test_a_command_has_the_defaults_of_its_functions(command: str, functions: tuple[Callable[..., Any], ...]) -> None:
    for function in functions:
        known = inspect.signature(function).parameters
        shared = {name for name in COMMANDS[command] if name in known and known[name].default is not known[name].empty}
        assert shared
        for name in shared:
            mine, its = COMMANDS[command][name].default, known[name].default
            if name == "seed" and its is None:  # Pyro's generator in Python; a command is repeatable
                its = 0
            assert (LEFT_OUT.get(name) if mine is None else mine) == its, (command, function.__name__, name)


def test_what_only_train_evaluates_with_is_that_of_log_likelihood() -> None:
    num_samples = inspect.signature(pv.log_likelihood).parameters["num_samples"].default
    assert COMMANDS["train"]["num_samples"].default == num_samples


def test_train_takes_every_option_of_fit_and_nothing_is_spelt_twice() -> None:
    names = {f.name for f in dataclasses.fields(pv.FitConfig)}
    assert names <= set(COMMANDS["train"])
    for name in ("gradient", "beta", "free_bits", "num_particles"):  # None: the objective's own
        assert COMMANDS["train"][name].default is None, name


@pytest.mark.parametrize("pair", PAIRS)
def test_the_options_of_a_pair_are_those_of_its_builder(pair: str) -> None:
    known = inspect.signature(resolve("pair", pair, PAIRS)).parameters
    assert {k: o.default for k, o in read(pair).options.items()} == {
        k: p.default for k, p in known.items() if k not in FROM_DATA
    }


def test_every_option_of_every_command_has_a_line_of_help() -> None:
    for name, parameters in COMMANDS.items():
        for parameter in parameters.values():
            if parameter.annotation is not typer.Context:
                assert parameter.annotation.__metadata__[0].help, (name, parameter.name)
