"""``make stress`` runs, and says what does not hold."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from stress import damage
from stress.__main__ import faults, main, page


def test_a_short_run_of_all_of_it(tmp_path: Path) -> None:
    assert main(["--quick", "--seed", "3", "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "stress.json").read_text())["found"]
    assert sum(row["kills"] for row in found["kills"].values()) >= 3
    assert found["run files"]["files"] == found["run files"]["refused"] + sum(
        found["run files"][key] for key in ("as before", "other settings")
    )
    assert all(row["refused"] + row["read"] == row["files"] for row in found["data files"].values())
    text = (tmp_path / "stress.md").read_text()
    assert "| kill -9 of | kills |" in text
    assert "wrong:" not in text


def test_what_does_not_hold_is_counted() -> None:
    found: dict[str, Any] = {
        "kills": {"train": {"kills": 3, "runs": 2, "equal": 1, "left over": 0, "failed": []}},
        "run files": {"files": 1, "refused": 0, "as before": 1, "other settings": 0, "wrong": ["0: weights"]},
        "data files": {"csv": {"files": 1, "refused": 0, "read": 0, "wrong": ["0: KeyError"]}},
        "places": {"a": "held", "b": "not here: no mount", "c": "other numbers"},
    }
    wrong = faults(found)
    assert [line.split(":")[0] for line in wrong] == ["kills, train", "run files", "csv", "c"]
    about = {"seed": 0, "minutes": 1.0, "system": "s", "python": "3", "torch": "2", "pyro-ppl": "1"}
    assert page(about, found, wrong).count("**wrong:**") == 4


@pytest.mark.parametrize("name", ["x.json", "x.bin"])
def test_damage_is_damage_and_is_that_of_its_seed(name: str) -> None:
    raw = json.dumps({"a": [1, 2, {"b": None}], "c": "text" * 20}).encode()
    for seed in range(50):
        one, two = (damage.damaged(raw, Path(name), random.Random(seed)) for _ in range(2))
        assert one == two != raw


def test_a_file_that_is_taken_though_damaged_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the checksums of published files switched off, damaged ones are read, and each is counted as wrong."""
    monkeypatch.setattr("ppl_vae.data.canonical.verified", lambda path: path.read_bytes())
    with monkeypatch.context() as patched:
        patched.setattr(damage, "BYTES", (damage.flip,))
        found = damage.data(40, 0, tmp_path)
    assert found["mat, silhouettes"]["wrong"] or found["amat"]["wrong"]
