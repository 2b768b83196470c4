"""An estimator that does not apply leaves a line with its reason; it does not refuse the others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

import ppl_vae as pv
from ppl_vae.cli.app import app

X = torch.tensor([[0.3], [1.0], [-0.4]])


def switch(x: Tensor) -> None:
    """A discrete latent: two means."""
    with pyro.plate("data", len(x), dim=-1):
        c = pyro.sample("c", dist.Categorical(torch.tensor([0.3, 0.7])))
        pyro.sample("x", dist.Normal(torch.tensor([0.0, 2.0])[c].unsqueeze(-1), 1.0).to_event(1), obs=x)


def switched(x: Tensor) -> None:
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("c", dist.Categorical(torch.tensor([0.6, 0.4])))


DISCRETE = pv.Pair(switch, switched)


@pytest.mark.parametrize(
    ("estimators", "setting", "missing", "reason"),
    [
        (("iwae", "ais"), {}, ["ais"], "discrete"),
        (("ais", "psis", "prior"), {}, ["ais"], "discrete"),
        (("iwae", "psis", "jvi1"), {"proposal": "qmc"}, ["psis", "jvi1"], "independent draws"),
        (("iwae", "jvi1", "jvi2"), {"num_samples": 1}, ["jvi1", "jvi2"], "give more samples"),
        (("jvi1", "jvi2", "elbo"), {"num_samples": 2}, ["jvi2"], "give more samples"),
        (("iwae", "jvi1"), {"proposal": "defensive"}, ["jvi1"], "independent draws"),
    ],
)
def test_the_others_are_made_all_the_same(
    estimators: tuple[str, ...], setting: dict[str, Any], missing: list[str], reason: str
) -> None:
    pair = pv.build("linear", data_shape=(1,), latent=1) if "qmc" in setting.values() else DISCRETE
    found = pv.panel(pair, X, None, estimators, **{"num_samples": 40, **setting})
    there = [e for e in estimators if e not in missing]
    assert list(found.rows) == there
    assert list(found.reasons) == missing
    alone = pv.panel(pair, X, None, there, **{"num_samples": 40, **setting})
    for name in there:
        assert torch.equal(found[name].log_px, alone[name].log_px)
    for name in missing:
        assert reason in found.reasons[name]
        line = next(line for line in str(found).splitlines() if line.startswith(name))
        assert found.reasons[name] in line
        with pytest.raises(pv.UserError, match=f"the panel has no {name}"):
            found[name]
    rows = found.table()
    assert [r["estimator"] for r in rows] == [*there, *missing]
    assert len({tuple(r) for r in rows}) == 1  # the same keys in each
    assert [r["reason"] is None for r in rows] == [True] * len(there) + [False] * len(missing)
    json.dumps(rows, allow_nan=False)


def test_where_none_applies_the_first_reason_is_the_refusal() -> None:
    with pytest.raises(pv.UserError, match="discrete"):
        pv.panel(DISCRETE, X, None, ("ais",))
    with pytest.raises(pv.UserError, match="'psis' needs independent draws"):
        pv.panel(DISCRETE, X, None, ("psis", "jvi1"), proposal="qmc")


def test_data_that_are_at_fault_are_refused_whatever_the_estimator() -> None:
    pair = pv.build("vae", data_shape=(3,), latent=1, hidden=(4,))
    with pytest.raises(pv.DataError, match="outside the support"):
        pv.panel(pair, torch.full((2, 3), 0.5), None, ("iwae", "ais"), 10)


def test_a_remedy_that_does_not_apply_is_not_recommended() -> None:
    x = torch.full((40, 1), 2.5)
    found = pv.panel(DISCRETE, x, None, ("iwae", "ais"), 400)
    assert "ais" not in "".join(s for s in found.sentences() if s.startswith("Remedy"))


def test_the_command_line_prints_the_rest_and_exits_with_zero(tmp_path: Path) -> None:
    def call(*args: Any) -> Any:
        return CliRunner().invoke(app, [str(a) for a in args])

    size = ["--hidden", "8", "--epochs", "1", "--no-figures", "--num-samples", "20", "--limit", "10"]
    assert call("train", "made", *size, "--out", tmp_path / "run").exit_code == 0
    asked = ["--estimator", "iwae", "--estimator", "ais", "--num-samples", "20", "--limit", "10"]
    shown = call("evaluate", tmp_path / "run", *asked)
    assert shown.exit_code == 0, shown.output
    assert "ais        not applicable: " in shown.stdout
    found = json.loads(call("evaluate", tmp_path / "run", *asked, "--json").stdout)
    assert [r["estimator"] for r in found["estimators"] if r["reason"]] == ["ais"]
    assert call("evaluate", tmp_path / "run", "--estimator", "ais", "--limit", "10").exit_code == 2
