"""Results show themselves: as text at a prompt, as HTML in a notebook; a history is a list in every way."""

from __future__ import annotations

import json
import math
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

import ppl_vae as pv
from ppl_vae.common import progress
from ppl_vae.common.shown import Drawing, bars, interval, lines, sparkline, table


def rows(n: int) -> list[dict[str, object]]:
    return [{"epoch": i, "step": 10 * i, "train_bound": -30.0 + i, "lr": 1e-3} for i in range(1, n + 1)]


def inside(html: str) -> ElementTree.Element:
    """The output of a notebook as a tree: that it can be read says that its tags are closed and its text is escaped."""
    return ElementTree.fromstring(f"<div>{html}</div>")


def test_a_history_is_a_list_in_every_way() -> None:
    history = pv.History(rows(5))
    assert history == rows(5)
    assert rows(5) == history
    assert json.loads(json.dumps(history)) == rows(5)
    assert isinstance(history[1:3], pv.History)
    assert history[1:3] == rows(5)[1:3]
    assert history[-1] == rows(5)[-1]
    assert isinstance(history[0], dict)


def test_a_history_prints_as_a_table_whose_middle_is_left_out() -> None:
    printed = repr(pv.History(rows(30))).splitlines()
    assert printed[0].split() == ["epoch", "step", "train_bound", "lr"]
    assert len({len(line) for line in printed}) == 1  # aligned
    assert [line.split()[0] for line in printed[1:]] == [*map(str, range(1, 11)), "...", *map(str, range(21, 31))]
    assert "..." not in repr(pv.History(rows(20)))
    assert repr(pv.History()) == "no epoch"
    assert "no epoch" in pv.History()._repr_html_()


def test_a_history_is_a_data_frame_by_epoch() -> None:
    frame = pv.History(rows(3)).to_pandas()
    assert frame.index.name == "epoch"
    assert frame.train_bound.to_dict() == {1: -29.0, 2: -28.0, 3: -27.0}


def test_fit_returns_a_history_that_draws_itself() -> None:
    pair = pv.build("linear", data_shape=(3,), latent=1)
    history = pv.fit(pair, torch.randn(8, 3), epochs=2, device="cpu", progress=False)
    assert isinstance(history, pv.History)
    tree = inside(history._repr_html_())
    assert len(tree.findall(".//tbody/tr")) == 2
    assert tree.findall(".//{http://www.w3.org/2000/svg}polyline")
    assert pv.figures.loss_curves(history)._repr_png_().startswith(b"\x89PNG")


def test_text_is_escaped_and_drawings_are_not() -> None:
    tree = inside(table([["<head>", "&"], ["a < b", Drawing("<svg/>")]], ["<b>note</b>"]))
    assert [cell.text for cell in tree.iter("th")] == ["<head>", "&"]
    assert next(tree.iter("td")).text == "a < b"
    assert len(list(tree.iter("svg"))) == 1
    assert next(tree.iter("p")).text == "<b>note</b>"


def test_numbers_stand_to_the_right_and_text_to_the_left() -> None:
    assert lines([["name", "nats"], ["a", "-1.5"], ["longer", "10.25"]]) == [
        "name     nats",
        "a        -1.5",
        "longer  10.25",
    ]


def points(drawing: str) -> list[tuple[float, float]]:
    line = next(ElementTree.fromstring(drawing).iter("{http://www.w3.org/2000/svg}polyline"))
    return [tuple(map(float, place.split(","))) for place in line.attrib["points"].split()]  # type: ignore[misc]


def test_a_sparkline_rises_where_values_do_and_leaves_out_what_is_not_finite() -> None:
    found = points(sparkline([0.0, math.nan, 1.0, 3.0, -math.inf]))
    (x0, y0), (x1, y1), (x2, y2) = found
    assert x1 - x0 == pytest.approx(2 * (x2 - x1), abs=0.2)  # the place of the missing value is kept
    assert y0 - y1 == pytest.approx((y1 - y2) / 2, abs=0.1)  # down is larger in SVG
    assert len(points(sparkline(list(range(10_000))))) <= 202
    assert sparkline([math.nan]) == bars([0.0]) == interval(0, math.nan, 1, 1) == ""


def test_an_interval_lies_where_its_ends_are_and_is_cut_at_the_reach() -> None:
    whole = ElementTree.fromstring(interval(-1.0, 0.0, math.inf, 2.0))
    zero, line = whole.iter("{http://www.w3.org/2000/svg}line")
    left, right, middle = float(line.attrib["x1"]), float(line.attrib["x2"]), float(zero.attrib["x1"])
    assert middle - left == pytest.approx((right - middle) / 2)
    assert "from -1 to inf" in whole.attrib["aria-label"]


def test_results_are_text_at_a_prompt_and_a_table_in_a_notebook() -> None:
    torch.manual_seed(0)
    x = torch.randn(6, 3)
    pair = pv.build("vae", data_shape=(3,), latent=2, hidden=(4,), likelihood="gaussian")
    estimate = pv.log_likelihood(pair, x, num_samples=50)
    found = [
        estimate, pv.panel(pair, x, estimators=("iwae", "psis"), num_samples=50), pv.information(pair, x),
        pv.sbc(pair, num_data=20, num_samples=19), pv.error_bounds(pair, x, num_samples=50), pv.eubo(pair, 4, 50),
        pv.description_length(pair, x),
    ]  # fmt: skip
    for one in found:
        assert repr(one) == str(one)
        tree = inside(one._repr_html_())
        assert tree.findall(".//table") or tree.findall(".//pre"), type(one)
    cells = [["".join(cell.itertext()) for cell in row.iter("td")] for row in inside(estimate._repr_html_()).iter("tr")]
    figures = {row[0]: row[1] for row in cells}
    assert figures["log p(x)"].startswith(f"{float(estimate.log_px.mean()):.3f} ")
    assert figures["ELBO"] == f"{float(estimate.elbo.mean()):.3f} nats"
    assert "examples unreliable" in next(inside(estimate._repr_html_()).iter("p")).text  # type: ignore[operator]


def test_a_pair_shows_its_options_and_counts_its_parameters() -> None:
    pair = pv.build("vae", data_shape=(3,), latent=2, hidden=(4,))
    model, guide = ({id(p): p.numel() for p in part.parameters()} for part in (pair.model, pair.guide))
    whole = sum((model | guide).values())
    text = f"parameters={whole:,} (model {sum(model.values()):,}, guide {sum(guide.values()):,})"
    for line in ("name='vae'", "latent=2", "data_shape=(3,)", text, "(decoder)"):
        assert line in repr(pair)
    assert repr(pair).count("data_shape") == 1
    tree = inside(pair._repr_html_())
    assert "(decoder)" in "".join(next(tree.iter("details")).itertext())

    def model_of(x: object = None) -> None: ...

    assert "parameters=0 (model 0, guide 0)" in repr(pv.Pair(model_of, model_of))


def study_of(means: dict[str, list[float]]) -> pv.Study:
    """A study whose runs have log p(x) of a mean and a scatter over 20 examples that all share."""
    examples = torch.linspace(-1, 1, 20, dtype=torch.float64)

    def cell(mean: float) -> dict[str, object]:
        log_px = mean + examples
        bounds = {"log_px": log_px, "elbo": log_px - 1, "mean_log_w": log_px - 1, "unreliable": log_px > 1e9}
        return {"status": "done", "quantity": "log p(x)", **bounds, "steps": 1, "train_seconds": 1.0, "history": []}

    results = {name: {seed: cell(mean) for seed, mean in enumerate(some)} for name, some in means.items()}
    seeds = tuple(range(max(map(len, means.values()))))
    evaluation = {"split": "test", "num_samples": 10, "proposal": "guide"}
    return pv.Study({}, seeds, next(iter(means)), results, Path(), {"epochs": 1}, evaluation, {})


def test_a_study_draws_each_difference_on_one_axis() -> None:
    found = study_of({"a": [0.0, 0.1, 0.2], "b": [1.0, 1.2, 1.1], "c": [-0.5, -0.3, -0.4]})
    assert repr(found) == str(found)
    drawings = list(inside(found._repr_html_()).iter("{http://www.w3.org/2000/svg}svg"))
    assert len(drawings) == 2  # none of the reference
    places = {}
    for name, drawing in zip("bc", drawings, strict=True):
        zero, line = drawing.iter("{http://www.w3.org/2000/svg}line")
        places[name] = [float(line.attrib[end]) - float(zero.attrib["x1"]) for end in ("x1", "x2")]
    ends = {name: (one.low, one.high) for name, one in found.compare().items()}
    scale = places["b"][1] / ends["b"][1]
    for name in "bc":
        assert places[name] == pytest.approx([scale * end for end in ends[name]], abs=0.2)


def test_a_study_of_one_seed_shows_that_it_tells_nothing() -> None:
    html = study_of({"a": [0.0], "b": [1.0]})._repr_html_()
    inside(html)
    assert "one seed proves nothing" in html


def test_a_bar_is_text_in_a_notebook_without_widgets(monkeypatch: pytest.MonkeyPatch) -> None:
    """There rich would show a warning in place of a bar; and the widget where it can be shown."""
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    for installed in (True, False):
        monkeypatch.setattr(progress, "find_spec", lambda name, found=installed: found or None)
        assert progress.bar(True).console.is_jupyter == installed
