"""Numbers of NumPy and torch are numbers, at every entry point; what is none is refused in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import ppl_vae as pv
from ppl_vae.common.errors import UserError
from ppl_vae.common.numbers import convert, plain

INTS: dict[str, Callable[[int], Any]] = {
    "np.int64": np.int64,
    "np.uint8": np.uint8,
    "a whole np.float64": np.float64,
    "a 0-d array": np.array,
    "a 0-d tensor": torch.tensor,
}
FLOATS: dict[str, Callable[[float], Any]] = {
    "np.float64": np.float64,
    "np.float32": np.float32,
    "np.longdouble": np.longdouble,
    "a 0-d array": np.array,
    "a 0-d tensor": torch.tensor,
    "a parameter": lambda v: torch.nn.Parameter(torch.tensor(v)),
}
SEQUENCES: dict[str, Callable[[list[int]], Any]] = {
    "a list": list,
    "an array": np.array,
    "an array of floats": lambda v: np.array(v, dtype=float),
    "a tensor": torch.tensor,
    "NumPy's ints": lambda v: [np.int32(n) for n in v],
    "torch.Size": torch.Size,
}
X = (torch.arange(12).reshape(3, 4) % 3 > 0).float()


def pair() -> pv.Pair:
    torch.manual_seed(0)
    return pv.build("linear", data_shape=(4,), latent=2)


def numbers_of(result: Any) -> list[Any]:
    """What two calls are compared by."""
    if torch.is_tensor(result):
        return result.tolist()
    if isinstance(result, dict):
        return [numbers_of(v) for v in result.values()]
    for fields in (("log_px", "std_error"), ("lower", "upper"), ("samples",), ("mean", "sample")):
        if all(hasattr(result, f) for f in fields):
            return [numbers_of(getattr(result, f)) for f in fields]
    return [str(result)]


ENTRIES: dict[str, Callable[[pv.Pair, Callable[[int], Any]], Any]] = {
    "log_likelihood": lambda p, n: pv.log_likelihood(p, X, None, n(20), seed=n(3), chunk=n(7), block=n(2)),
    "log_likelihood, jackknife": lambda p, n: pv.log_likelihood(p, X, num_samples=n(20), estimator="jvi2"),
    "log_likelihood, qmc": lambda p, n: pv.log_likelihood(p, X, num_samples=n(32), proposal="qmc", seed=n(3)),
    "log_weights": lambda p, n: pv.log_weights(p, X, num_samples=n(20), seed=n(3), chunk=n(7), block=n(2)),
    "bound_curve": lambda p, n: pv.bound_curve(p, X, num_samples=n(20), sizes=[n(1), n(5)], seed=n(3)),
    "ais": lambda p, n: pv.ais(p, X, num_chains=n(3), num_temperatures=n(4), seed=n(3), block=n(2)),
    "bdmc": lambda p, n: pv.bdmc(p, n(2), num_chains=n(3), num_temperatures=n(4), seed=n(3)),
    "eubo": lambda p, n: pv.eubo(p, n(4), n(5), seed=n(3)),
    "posterior": lambda p, n: pv.posterior(p, X, method="sir", num_samples=n(6), seed=n(3)),
    "posterior, hmc": lambda p, n: pv.posterior(
        p, X, method="hmc", num_samples=n(4), num_chains=n(2), warmup=n(3), seed=n(3)
    ),
    "to_arviz": lambda p, n: torch.as_tensor(
        pv.to_arviz(p, X, num_samples=n(6), num_chains=n(1), warmup=n(1), seed=n(3))["posterior"]["z"].values
    ),
    "sample": lambda p, n: pv.sample(p, n(3), seed=n(3)),
    "encode": lambda p, n: pv.encode(p, X, seed=n(3)),
    "decode": lambda p, n: pv.decode(p, {"z": torch.zeros(2, 2)}, seed=n(3)),
    "reconstruct": lambda p, n: pv.reconstruct(p, X, seed=n(3)),
    "terms": lambda p, n: pv.terms(p.model, p.guide, X, num_samples=n(3)).log_w.shape,
    "compare": lambda p, n: torch.as_tensor(pv.compare({"a": p}, X, num_samples=n(5), seed=n(3)).log_px.values),
    "panel": lambda p, n: torch.stack(
        [e.log_px for e in pv.panel(p, X, None, ("iwae", "psis"), n(30), seed=n(3)).rows.values()]
    ),
}


@pytest.mark.parametrize("kind", INTS)
@pytest.mark.parametrize("entry", ENTRIES)
def test_ints_of_other_libraries_give_what_pythons_give(entry: str, kind: str) -> None:
    call, made = ENTRIES[entry], INTS[kind]
    torch.manual_seed(1)
    wanted = numbers_of(call(pair(), int))
    torch.manual_seed(1)
    assert str(numbers_of(call(pair(), made))) == str(wanted)


@pytest.mark.parametrize("kind", SEQUENCES)
def test_sizes_of_a_curve_are_any_sequence(kind: str) -> None:
    found = pv.bound_curve(pair(), X, num_samples=20, sizes=SEQUENCES[kind]([1, 5, 20]))
    assert found.sizes == (1, 5, 20)
    assert torch.equal(found.log_px, pv.bound_curve(pair(), X, num_samples=20, sizes=(1, 5, 20)).log_px)


@pytest.mark.parametrize("bad", [True, np.bool_(True), 2.5, np.float32(2.5), torch.tensor(2.5), "3", np.array([3])])
@pytest.mark.parametrize(
    ("name", "call"),
    {
        "num_samples": lambda v: pv.log_likelihood(pair(), X, num_samples=v),
        "seed": lambda v: pv.log_likelihood(pair(), X, num_samples=3, seed=v),
        "chunk": lambda v: pv.log_likelihood(pair(), X, num_samples=3, chunk=v),
        "block": lambda v: pv.ais(pair(), X, block=v),
        "num_chains": lambda v: pv.bdmc(pair(), num_chains=v),
        "num_data": lambda v: pv.eubo(pair(), v),
        "n": lambda v: pv.sample(pair(), v),
        "warmup": lambda v: pv.to_arviz(pair(), X, warmup=v),
        "sizes": lambda v: pv.bound_curve(pair(), X, num_samples=9, sizes=[1, v]),
        "num_samples=": lambda v: pv.terms(pair().model, pair().guide, X, num_samples=v),
    }.items(),
)
def test_what_is_no_whole_number_is_one_line(name: str, call: Callable[[Any], Any], bad: Any) -> None:
    with pytest.raises(UserError, match=f"^{name.rstrip('=')}=.*whole numbers?.* is needed") as caught:
        call(bad)
    assert "\n" not in str(caught.value)


OPTIONS: dict[str, dict[str, Any]] = {
    "NumPy": {
        "data_shape": np.array([2, 3]), "latent": np.int64(2), "hidden": np.array([4, 3]), "sigma": np.float32(0.5),
        "likelihood": np.str_("gaussian"),
    },
    "0-d arrays": {
        "data_shape": (np.array(2), np.array(3)), "latent": np.array(2), "hidden": [np.array(4), np.array(3)],
        "sigma": np.array(0.5), "likelihood": "gaussian",
    },
    "torch": {
        "data_shape": torch.Size([2, 3]), "latent": torch.tensor(2), "hidden": torch.tensor([4, 3]),
        "sigma": torch.tensor(0.5), "likelihood": "gaussian",
    },
    "lists": {
        "data_shape": [2, 3], "latent": 2, "hidden": [4, 3], "sigma": np.longdouble(0.5), "likelihood": "gaussian",
    },
    "whole floats": {
        "data_shape": [2.0, 3.0], "latent": 2.0, "hidden": np.array([4.0, 3.0]), "sigma": 0.5,
        "likelihood": "gaussian",
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", OPTIONS)
def test_options_of_a_pair_become_plain_and_a_run_of_them_is_loaded(kind: str, tmp_path: Path) -> None:
    given = OPTIONS[kind]
    for mean in (torch.full((2, 3), 0.25), np.full((2, 3), 0.25), np.full((2, 3), 0.25).tolist()):
        torch.manual_seed(0)
        built = pv.build("vae", **given, data_mean=mean)
        torch.manual_seed(0)
        wanted = pv.build("vae", data_shape=(2, 3), latent=2, hidden=(4, 3), sigma=0.5, likelihood="gaussian",
                          data_mean=torch.full((2, 3), 0.25))  # fmt: skip
        for a, b in zip(built.state_dict().values(), wanted.state_dict().values(), strict=True):
            assert torch.equal(a, b)
    assert built.data_shape == (2, 3)
    assert json.loads(json.dumps(built.config)) == wanted.config
    assert all(type(n) is int for n in built.data_shape)
    run = pv.save(tmp_path / "run", built, lr=np.float32(0.5))
    assert pv.load(run).config == wanted.config


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"latent": True}, "latent=True is not of the type int"),
        ({"latent": np.bool_(True)}, "latent=True is not of the type int"),
        ({"latent": np.float32(2.5)}, "latent=2.5 is not of the type int"),
        ({"hidden": [3, True]}, r"hidden=\[3, True\] is not of the type"),
        ({"hidden": [3, 2.5]}, "is not of the type"),
        ({"hidden": np.array([[3, 2]])}, "is not of the type"),
        ({"hidden": "32,32"}, "hidden='32,32' is not of the type"),
        ({"sigma": True}, "sigma=True is not of the type float"),
        ({"sigma": "1"}, "sigma='1' is not of the type float"),
        ({"sigma": float("nan"), "likelihood": "gaussian"}, "sigma=nan: the standard deviation must be positive"),
        ({"data_shape": 4}, "data_shape=4 is not of the type"),
        ({"data_shape": (0,)}, r"data_shape=\(0,\): each size must be at least 1"),
        ({"data_shape": (2, -3)}, r"data_shape=\(2, -3\): each size must be at least 1"),
        ({"data_shape": (2.5,)}, "is not of the type"),
        ({"data_shape": (True,)}, "is not of the type"),
        ({"data_mean": torch.zeros(3)}, r"data_mean has shape \(3,\) for data_shape=\(4,\)"),
        ({"data_mean": "high"}, "data_mean"),
        ({"hidden": (0,)}, "layer widths"),
    ],
    ids=str,
)
def test_an_option_that_is_none_is_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        pv.build("vae", **{"data_shape": (4,), "latent": 2, "hidden": (3,), **options})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", SEQUENCES)
def test_the_shape_of_a_pair_of_ones_own(kind: str) -> None:
    own = pv.Pair(lambda x=None: None, lambda x: None, data_shape=SEQUENCES[kind]([1, 2]))
    assert own.data_shape == (1, 2)
    assert all(type(n) is int for n in own.data_shape)


@pytest.mark.parametrize("bad", [3, "ab", (1.5,), (0,), [None]], ids=str)
def test_a_shape_that_is_none_is_one_line(bad: Any) -> None:
    with pytest.raises(UserError, match="data_shape="):
        pv.Pair(lambda x=None: None, lambda x: None, data_shape=bad)


@pytest.mark.parametrize("kind", FLOATS)
def test_floats_become_pythons(kind: str) -> None:
    found = convert(FLOATS[kind](0.5), "float | None")
    assert type(found) is float
    assert found == 0.5
    assert type(plain(FLOATS[kind](0.5))) is float


def test_what_is_no_number_passes_as_it_is() -> None:
    """A mean, a file, a function: the function's own business."""
    mean, place, function = torch.zeros(2), Path("a"), len
    for value, annotation in ((mean, "Tensor | None"), (place, "str | Path | None"), (function, "str | Draw")):
        assert convert(value, annotation) is value
    assert convert(None, "int | None") is None
    assert convert(np.bool_(False), "bool | str") is False
    assert convert("auto", "bool | str") == "auto"


def test_a_tensor_of_the_pairs_device_is_a_seed() -> None:
    x: Tensor = X
    one = pv.log_likelihood(pair(), x, num_samples=5, seed=torch.tensor(7)).log_px
    assert torch.equal(one, pv.log_likelihood(pair(), x, num_samples=5, seed=7).log_px)
    assert type(pv.log_likelihood(pair(), x, num_samples=np.int64(5), seed=np.int64(7)).seed) is int


def test_an_unfinished_estimate_is_the_same_work_under_other_numbers(tmp_path: Path) -> None:
    for n in (np.int64, int):
        pv.log_likelihood(pair(), X, num_samples=n(5), seed=n(7), block=n(2), resume=tmp_path)
    assert list(tmp_path.iterdir()) == []
