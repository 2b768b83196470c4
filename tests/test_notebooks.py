"""The notebooks of the docs are stored with their outputs, and hold nothing of the machine that made them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).parents[1] / "docs"
NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.ipynb"))


def code_cells(path: Path) -> list[dict[str, Any]]:
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_was_executed_whole_and_without_an_error(path: Path) -> None:
    cells = code_cells(path)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    kinds = {output["output_type"] for cell in cells for output in cell["outputs"]}
    assert kinds <= {"execute_result", "stream"}, kinds
    assert not [o for cell in cells for o in cell["outputs"] if o.get("name") == "stderr"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_holds_no_path_and_no_time_of_a_machine(path: Path) -> None:
    text = re.sub(r'"image/png": "[^"]*"', "", path.read_text())  # base64 may hold any letters
    assert not re.findall(r"/(?:home|root|tmp|usr|Users|work|var|opt)/[^\s\"]*|site-packages|\.venv", text)
    assert not re.findall(r"\d{4}-\d\d-\d\dT\d\d:|iopub|shell\.execute", text)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_shows_results_as_tables_and_figures_as_pictures(path: Path) -> None:
    shown = [output.get("data", {}) for cell in code_cells(path) for output in cell["outputs"]]
    assert sum('class=\\"ppl-vae\\"' in json.dumps(data) for data in shown) >= 1
    assert all("image/png" in data for data in shown if "NotebookFigure" in json.dumps(data.get("text/plain", "")))
    assert sum("image/png" in data for data in shown) >= 1


def test_every_notebook_is_in_the_table_of_contents() -> None:
    page = (DOCS / "index.md").read_text()
    assert len(NOTEBOOKS) == 3
    assert all(f"\nnotebooks/{path.stem}\n" in page for path in NOTEBOOKS)
