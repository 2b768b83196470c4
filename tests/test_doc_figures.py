"""The text says what was measured: every number of docs/figures.json stands where the record says that it does."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


def _script() -> Any:
    spec = importlib.util.spec_from_file_location("doc_figures", ROOT / "docs" / "figures.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


figures = _script()
RECORD = json.loads(figures.RECORD.read_text()) if figures.RECORD.exists() else {}


def says(text: str, number: str) -> bool:
    """Whether a text holds a number, to as many places as it writes it with.

    -0.1371 as -0.137, 3036.2 as 3,036.2, 0.175 as 18 %; what is no decimal number, such as "25 s", word by word.
    """
    if not re.fullmatch(figures.DECIMAL, number):
        return number in text
    value, exact = float(number), len(number.partition(".")[2])
    for token, percent in re.findall(r"([-+]?\d[\d,]*(?:\.\d+)?)( ?%)?", text):
        plain = token.replace(",", "")
        places = len(plain.partition(".")[2])
        enough = places == exact or places + (abs(float(plain)) >= 1) >= 2
        if percent and abs(float(plain) - 100 * value) <= 0.5000001 * 10**-places:
            return True
        if enough and abs(float(plain) - value) <= 0.5000001 * 10**-places:
            return True
    return False


def text_of(place: str) -> str:
    page, _, heading = place.partition("#")
    found = dict(figures.sections((ROOT / page).read_text()))
    assert heading in found, f"{page} has no heading {heading!r}; it has {', '.join(found)}"
    return str(found[heading])


@pytest.mark.parametrize("name", RECORD)
def test_every_number_stands_where_the_record_says(name: str) -> None:
    text = text_of(name.partition(": ")[2])
    missing = [number for number in RECORD[name]["numbers"] if not says(text, number)]
    assert not missing, f"{name}: {missing} of commit {RECORD[name]['commit']} are not in the text; make figures"


def test_every_place_of_the_table_is_there() -> None:
    for figure in figures.FIGURES.values():
        for place in figure.places:
            text_of(place)
        assert figure.after in ("", *figures.FIGURES)


def test_every_record_names_its_command_commit_and_machine() -> None:
    for made in RECORD.values():
        assert made["command"]
        assert made["commit"]
        assert {"processor", "cores", "instructions", "torch", "pyro", "python"} <= set(made["machine"])


@pytest.mark.parametrize(
    ("text", "number", "said"),
    [
        ("it is -0.137 ± 0.196 nats", "-0.1371", True),
        ("it is -0.138 nats", "-0.1371", False),
        ("it is 0.137 nats", "-0.1371", False),
        ("| 3,036.2 |", "3036.2242", True),
        ("| 3,036 |", "3036.2242", False),
        ("in 25 s on two cores", "25 s", True),
        ("in 24 s on two cores", "25 s", False),
        ("+0.372 ± 0.047", "0.37235281", True),
        ("0.4", "0.3723", False),
        ("0.4", "0.4", True),
        ("18 % of the data", "0.175", True),
        ("19 % of the data", "0.175", False),
    ],
)
def test_a_number_is_said_to_as_many_places_as_it_is_written_with(text: str, number: str, said: bool) -> None:
    assert says(text, number) is said


def test_a_comment_in_a_block_is_no_heading() -> None:
    page = "# One\n\n```bash\n# a comment\nmake\n```\n\n## Two\n\ntext\n"
    assert [heading for heading, _ in figures.sections(page)] == ["One", "Two"]
    assert "# a comment" in dict(figures.sections(page))["One"]
