"""Every test runs under one law: what is global comes out as it went in."""

from __future__ import annotations

import gc
import os
import random
from collections.abc import Iterator

import numpy as np
import pyro
import pytest
import torch

os.environ["OMP_NUM_THREADS"] = "1"  # small tensors, and processes side by side: more threads only wait for each other
torch.set_num_threads(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", help="of tests/on_device.py")


def pytest_collection_finish() -> None:
    """What is imported by now stays; looking through it for garbage again and again takes a tenth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)


def _globals() -> dict[str, object]:
    return {
        "parameter store": sorted(pyro.get_param_store().keys()),
        "default dtype": torch.get_default_dtype(),
        "validation of torch": torch.distributions.Distribution._validate_args,
        "validation of Pyro": pyro.poutine.util.is_validation_enabled(),
        "gradients": torch.is_grad_enabled(),
        "garbage is collected": gc.isenabled(),
    }


@pytest.fixture(autouse=True)
def nothing_leaks() -> Iterator[None]:
    torch.manual_seed(0)
    pyro.clear_param_store()
    before = _globals()
    yield
    assert _globals() == before


@pytest.fixture
def untouched() -> Iterator[None]:
    """The generators of torch, numpy and Python come out as they went in."""
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    yield
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1][1])  # noqa: NPY002
    assert random.getstate() == states[2]
