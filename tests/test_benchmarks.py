"""The arithmetic and the table of the benchmarks, without peers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch

import ppl_vae as pv
from benchmarks import device
from benchmarks.contenders import LIKELIHOOD, TRAINING
from benchmarks.figure import draw
from benchmarks.goals import GOALS, MEMORY, judge, verdicts
from benchmarks.machine import describe, slug
from benchmarks.protocol import active, line, parse
from benchmarks.report import markdown
from benchmarks.stats import ratio, slope, spread


def row(seconds: list[float], value: float = 100.0, ours: bool = False) -> dict[str, Any]:
    return {"ours": ours, "setup": 1.0, "first": 2.0, "seconds": seconds, "values": [value] * len(seconds)}


def record(peer: float = 100.0) -> dict[str, Any]:
    ours = GOALS[0].ours
    rows = {ours: row([1.0, 2.0, 3.0], ours=True), "PyTorch by hand, eager": row([2.0, 2.0, 2.0]),
            "NumPyro, jitted epoch": row([4.0, 5.0, 6.0], peer), "pythae, `BaseTrainer`": row([])}  # fmt: skip
    options = {"steps": 10, "batch": 128, "rounds": 3, "images": 4, "num_samples": 5000, "threads": 2, "quick": False}
    return {
        "date": "2000-01-01",
        "command": "python -m benchmarks",
        "machine": describe(),
        "options": options,
        "sections": {
            "training mlp": {"steps": 10, "rows": rows},
            "memory": {"sizes": [10, 100], "before": [1.0, 1.0], "peak": [2.0, 2.0 * MEMORY + 0.1]},
            "growth": {k: {"sizes": [1, 10, 100], "seconds": [1.0, 10.0, 100.0]} for k in ("data", "samples")},
        },
    }


def test_ratios_are_of_medians_and_of_rounds() -> None:
    found = ratio([2.0, 4.0, 9.0], [1.0, 4.0, 3.0])
    assert found.medians == pytest.approx(4 / 3)
    assert found.paired.median == 2.0
    assert spread([1.0, 2.0, 3.0, 4.0, 5.0]) == (3.0, 2.0, 4.0)
    assert spread([1.0]) == (1.0, 1.0, 1.0)


def test_the_slope_is_the_exponent() -> None:
    sizes = [10, 100, 1000]
    assert slope(sizes, [3 * n**1.5 for n in sizes]) == pytest.approx(1.5)


def test_goals_name_contenders_that_take_part() -> None:
    for goal in GOALS:
        table = LIKELIHOOD if goal.section == "likelihood" else TRAINING
        assert {goal.ours, *goal.peers} <= set(table), goal
        assert table[goal.ours].ours


def test_a_goal_is_met_by_the_fastest_peer_or_not_judged() -> None:
    goal = GOALS[0]._replace(peers=("slow", "fast"), least=2.0)
    rows = {goal.ours: row([1.0, 1.0]), "slow": row([9.0, 9.0]), "fast": row([1.5, 1.5])}
    assert judge(goal, rows)[2:] == (1.5, False)
    assert judge(goal._replace(least=1.5), rows).met
    assert judge(goal, {"slow": rows["slow"], "fast": rows["fast"]}).met is None


def test_memory_and_growth_are_judged() -> None:
    found = {v.what.split(" ")[0]: v.met for v in verdicts(record())}
    assert found["peak"] is False
    assert found["exponent"] is True


def test_the_report_says_who_computed_something_else() -> None:
    assert "not the same" not in markdown(record(101.0))
    text = markdown(record(110.0))
    line = next(part for part in text.splitlines() if part.startswith("| NumPyro"))
    assert "110.00 **not the same**" in line
    assert "2.50" in line  # 5.0 over 2.0
    assert "| pythae, `BaseTrainer` | failed |" in text


def test_the_figure_is_drawn_where_there_are_bars(tmp_path: Path) -> None:
    assert draw(record(), tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1000
    assert not draw({**record(), "sections": {}}, tmp_path / "b.png")


def test_a_record_holds_no_host_and_no_folder() -> None:
    import platform

    text = json.dumps(describe())
    assert str(Path.home()) not in text
    assert not platform.node() or platform.node() not in text
    assert slug({"cpu": "Some(R) CPU 9000 @ 3.00GHz", "cores": 2}) == "some-9000-2-cores"


@pytest.mark.parametrize("row", ["vae,1,1,5", "elbo,1,3,5", "elbo,1,1", "elbo,one,1,5"])
def test_a_row_of_the_protocol_that_makes_no_sense_is_refused(row: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--row", row])
    assert f"--row {row}" in capsys.readouterr().err


def test_a_row_of_the_protocol_stands_beside_the_paper() -> None:
    result = {
        "row": "iwae,5,1,3280",
        "summary": {"log_px_mean": -85.5, "log_px_se": 0.2},
        "active": {"z": 25},
        "minutes": {"training": 3.0},
    }
    assert line(result) == "| iwae, k = 5 | 1 | 3280 | 85.50 ± 0.20 | 85.54 (85.18) | 25 | 3.0 |"


def test_a_unit_is_active_where_its_mean_varies() -> None:
    """The mean of the guide of one unit is the datum, and of the other nothing."""

    class Guide(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> None:
            with pyro.plate("data", len(x), dim=-1):
                loc = torch.cat([x, torch.zeros_like(x)], -1)
                pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))

    assert active(pv.Pair(torch.nn.Module(), Guide()), pv.Split(torch.randn(20, 1)), 0) == {"z": 1}


def test_the_run_for_a_gpu_runs_on_a_cpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every part says something but the memory of a device that does not count it, and so does the page."""
    record = device.main(["--device", "cpu", "--quick", "--out", str(tmp_path)])
    assert [part for part, found in record["parts"].items() if "failed" in found] == []
    assert record["parts"]["laws"]["passed"] > 0
    assert record["parts"]["step"]["why not, captured"] is None
    assert record["parts"]["fit"]["captured"]["said"] == []
    assert json.loads((tmp_path / "device-cpu.json").read_text()) == record
    assert "the numbers mean nothing" in (tmp_path / "device-cpu.md").read_text()
    assert capsys.readouterr().out
