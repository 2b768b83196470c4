"""The arithmetic and the table of the benchmarks, without peers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.contenders import LIKELIHOOD, TRAINING
from benchmarks.figure import draw
from benchmarks.goals import GOALS, MEMORY, judge, verdicts
from benchmarks.machine import describe, slug
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
