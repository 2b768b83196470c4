"""The page of each pair: written, with a source, a legal command, and the picture and figure of that command."""

from __future__ import annotations

import importlib.util
import inspect
import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from typer.testing import CliRunner

import ppl_vae as pv
from ppl_vae import figures
from ppl_vae.cli.app import app
from ppl_vae.cli.train import Data, Loss, train
from ppl_vae.common.registry import FAMILIES, PAIRS
from ppl_vae.figures.graph import places, relations
from ppl_vae.pairs.options import convert, read
from ppl_vae.training.config import FitConfig

DOCS = Path(__file__).parents[1] / "docs"


def script(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, DOCS / "extensions" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


pages = script("pages")
RECORD = json.loads((DOCS / "pairs" / "measured.json").read_text())


def sections(name: str) -> dict[str, str]:
    """The parts of a page that are written by hand; the story is under the title."""
    text = re.sub(r"\A---\n.*?\n---\n", "", (DOCS / "pairs" / f"{name}.md").read_text(), flags=re.DOTALL)
    parts = re.split(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.mark.parametrize("name", PAIRS)
def test_every_pair_has_a_page(name: str) -> None:
    """A story of two to six sentences, when to use it, and limits."""
    title, when, limits = sections(name).items()
    assert title[0]
    assert (when[0], limits[0]) == ("When to use it", "Limits")
    prose = re.sub(r"\$\$.*?\$\$", " ", title[1], flags=re.DOTALL)
    assert 2 <= len(re.findall(r"[.:](?:\s|$)", prose)) <= 8
    assert all(len(text.split()) >= 20 for _, text in (title, when, limits))


@pytest.mark.parametrize("name", PAIRS)
def test_every_pair_names_its_source(name: str) -> None:
    assert re.search(r"\w+.*?: .+?,\s(19|20)\d\d", read(name).about, re.DOTALL)


@pytest.mark.parametrize("name", PAIRS)
def test_every_pair_has_a_command_that_train_takes(name: str) -> None:
    builder = read(name)
    assert builder.command.startswith(f"ppl-vae train {name} ")
    given = pages.arguments(builder.command)
    convert(builder, {k: v for k, v in given.items() if k in builder.options})
    known = {f for kind in (Data, Loss, FitConfig) for f in kind.__dataclass_fields__}
    assert set(given) <= known | set(inspect.signature(train).parameters) | set(builder.options)


@pytest.mark.parametrize("name", PAIRS)
def test_picture_and_figure_are_of_the_command(name: str) -> None:
    """make pairs measures those that are not."""
    assert RECORD[name]["command"] == read(name).command
    assert RECORD[name]["seconds"] <= 120
    assert RECORD[name]["n"] > 0
    figure = RECORD[name]["log_px"] if RECORD[name]["log_px"] is not None else RECORD[name]["elbo"]
    assert math.isfinite(figure)
    assert 500 < (DOCS / "images" / "pairs" / f"{name}.png").stat().st_size < 60_000


def test_the_gallery_shows_every_pair() -> None:
    text = pages.gallery()
    for names in FAMILIES.values():
        for name in names:
            assert f"[![{name}](images/pairs/{name}.png)](pairs/{name}.md)" in text


def call(*args: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, list(args))
    assert result.exit_code == code, result.output
    return result.output


@pytest.mark.parametrize("name", PAIRS)
def test_list_prints_the_head_of_a_page(name: str) -> None:
    builder, text = read(name), call("list", name)
    assert builder.command in text
    assert all(f"--{option.replace('_', '-')} " in text for option in builder.options)
    assert "``" not in text
    assert ":math:" not in text
    found = json.loads(call("list", name, "--json"))
    assert (found["name"], found["about"], found["command"]) == (name, builder.about, builder.command)
    assert set(found["options"]) == set(builder.options)


def test_list_prints_a_custom_builder_without_running_it(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text('''"""Counts, as :math:`n` of them.

.. math:: p(x) = 1
"""
raise RuntimeError("run")
def counts(*, data_shape: tuple[int, ...], latent: int = 3):
    """A pair of counts.

    Args:
        latent: latent dimensions.

    Example:
        $ ppl-vae train mine.py:counts
            --latent 2
    """
''')
    text = call("list", f"{file}:counts")
    assert "A pair of counts." in text
    assert "Counts, as n of them." in text
    assert "  p(x) = 1" in text
    assert "--latent 3" in text
    assert "ppl-vae train mine.py:counts --latent 2\n" in text


def test_list_of_one_pair_needs_no_torch() -> None:
    code = "import sys; from ppl_vae.cli.list import list_; list_('vae', json_=False); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == "False"
    assert "pair 'vea' is not known" in call("list", "vea", code=2)


def graph_of(name: str, **options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    torch.manual_seed(0)
    pair = pv.build(name, data_shape=(4,), **options)
    x, y = torch.ones(2, 4), torch.tensor([0, 1])
    return relations(pair.model, x, y), relations(pair.guide, x, y)


def test_an_arrow_is_a_dependence() -> None:
    small = {"hidden": (5,)}
    model, guide = graph_of("hierarchical", latent=(3, 2), hidden2=(4,), **small)
    assert model["sample_sample"] == {"z2": [], "z1": ["z2"], "x": ["z1"]}
    assert guide["sample_sample"] == {"x": [], "z1": ["x"], "z2": ["z1"]}
    model, guide = graph_of("cvae", num_classes=3, latent=2, **small)
    assert {k: set(v) for k, v in model["sample_sample"].items()} == {"y": set(), "z": set(), "x": {"y", "z"}}
    assert {k: set(v) for k, v in guide["sample_sample"].items()} == {"x": set(), "y": set(), "z": {"x", "y"}}
    model, guide = graph_of("made", **small)
    assert (model["sample_sample"], guide["sample_sample"]) == ({"x": []}, {})


def test_a_long_row_of_sites_is_shortened() -> None:
    def model(x: torch.Tensor, y: torch.Tensor | None = None) -> None:
        z = x.new_zeros(len(x))
        with pyro.plate("data", len(x), dim=-1):
            for t in range(1, 9):
                z = pyro.sample(f"z{t}", dist.Normal(z, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    found = relations(model, torch.ones(2), None)["sample_sample"]
    assert found == {"z1": [], "z2": ["z1"], "z…": ["z2"], "z8": ["z…"], "x": ["z8"]}


def test_a_site_stands_below_what_it_depends_on() -> None:
    before = {"y": [], "z": [], "w": ["z"], "x": ["w", "y"]}
    place = places(before)
    assert all(place[parent][1] > place[name][1] for name, parents in before.items() for parent in parents)
    assert len(set(place.values())) == len(before)


def test_the_graph_shows_every_site_once_in_each_program() -> None:
    torch.manual_seed(0)
    pair = pv.build("cvae", data_shape=(4,), num_classes=3, latent=2, hidden=(5,))
    before = torch.get_rng_state()
    model, guide = figures.graph(pair, torch.zeros(2, 4), torch.tensor([0, 1])).axes
    assert torch.equal(torch.get_rng_state(), before)
    named = [sorted(t.get_text() for t in ax.texts if len(t.get_text()) == 1) for ax in (model, guide)]
    assert named == [["x", "y", "z"], ["x", "y", "z"]]


def test_a_pair_that_draws_no_data_has_the_other_figures(tmp_path: Path) -> None:
    torch.manual_seed(0)
    pair = pv.build("classifier", data_shape=(1, 4, 4), num_classes=2, hidden=(5,))
    split = pv.Split(torch.rand(6, 1, 4, 4), torch.tensor([0, 1] * 3))
    estimate = pv.log_likelihood(pair, split.x, split.y, num_samples=2)
    assert [path.stem for path in figures.save_all(pair, tmp_path, data=split, estimate=estimate)] == ["log_px"]


@pytest.mark.parametrize(
    ("tex", "holds"),
    [
        (r"\frac{a}{b}", "<mfrac>"),
        (r"\arg\max_q f", ">arg</mi>"),
        (r"\log p", '<mi>log</mi><mspace width="0.167em" /><mi>p</mi>'),
        (r"a &= b \\ c &= d", "<mtable"),
    ],
)
def test_formulas_are_mathml(tex: str, holds: str) -> None:
    pytest.importorskip("latex2mathml")
    pytest.importorskip("sphinx")
    pytest.importorskip("ziamath")
    assert holds in script("mathml").mathml(tex, block=True)


def test_a_formula_that_the_converter_does_not_know_is_refused() -> None:
    pytest.importorskip("latex2mathml")
    pytest.importorskip("sphinx")
    pytest.importorskip("ziamath")
    with pytest.raises(ValueError, match="nosuchthing"):
        script("mathml").mathml(r"\nosuchthing{a}", block=False)
