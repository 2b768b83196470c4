"""Reports: one file that loads nothing, is valid and escaped, says what the study and the evaluation say."""

from __future__ import annotations

import json
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from test_study import BASE, Inline
from typer.testing import CliRunner

import ppl_vae as pv
from ppl_vae.cli.app import app
from ppl_vae.figures.studies import number_that_differs

VOID = {"meta", "link", "br", "img", "path", "use", "line", "circle", "rect", "image"}


class Page(HTMLParser):
    """The ids, images, addresses and text of a page; fails where elements are not nested."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.unnamed: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.ids += [str(given["id"])] if "id" in given else []
        self.addresses += [str(given[k]) for k in ("src", "href", "xlink:href", "action") if k in given]
        if tag in ("svg", "img") and not (given.get("aria-label") or given.get("alt")):
            self.unnamed.append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def checked(path: Path) -> Page:
    """A page that stands alone."""
    found = Page(path.read_text(encoding="utf-8"))
    assert found.unnamed == []
    assert all(a.startswith(("#", "data:")) for a in found.addresses)
    assert "@import" not in path.read_text()
    assert "<script" not in path.read_text()
    assert [name for name, count in Counter(found.ids).items() if count > 1] == []
    return found


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> pv.Study:
    g = torch.Generator().manual_seed(0)
    data = pv.load_data(torch.randn(120, 2, generator=g) @ torch.randn(2, 5, generator=g))
    strategies = {"elbo": BASE, 'latent <1> & "one"': BASE.replace(latent=1), "bad": BASE.replace(guide="flow:kind=no")}
    how: dict[str, Any] = {"num_samples": 20, "proposal": "guide", "gaps": 4}
    with pytest.warns(UserWarning, match="bad can't be built"):
        return pv.study(
            strategies, data, out=tmp_path_factory.mktemp("study"), seeds=2, budget={"steps": 12}, evaluation=how,
            executor=Inline(), progress=False,
        )  # fmt: skip


def test_a_report_of_a_study_says_what_the_study_says(study: pv.Study) -> None:
    path = pv.report(study)
    page, words = checked(path), " ".join(checked(path).text.split())
    assert path == study.out / "report.html"
    for sentence in study.sentences():
        assert " ".join(sentence.split()) in words
    for row in study.cells():
        assert all(cell in words for cell in row)
    assert "Model or inference?" in words
    [part] = study.parts()
    assert f"{part['inference']['diff']:+.3f}" in words
    assert "best diagonal Gaussian" in words
    assert sum("data:" not in a for a in page.addresses) > 0  # glyphs of the figures
    text = path.read_text()
    assert 'latent <1> & "one"' not in text
    again = pv.report(study.out, study.out / "elsewhere" / "second.html")
    assert re.sub(r"f\d+-", "", again.read_text()) == re.sub(r"f\d+-", "", text)


def test_a_report_of_a_run(tmp_path: Path) -> None:
    def call(*args: Any, code: int = 0) -> str:
        result = CliRunner().invoke(app, [str(a) for a in args])
        assert result.exit_code == code, result.output
        return result.output

    run = tmp_path / "run"
    assert "holds neither a study nor a run" in call("report", tmp_path, code=2)
    pair = pv.build("linear", data_shape=(5,), latent=2)
    pv.fit(pair, torch.randn(60, 5), epochs=2, run_dir=run, progress=False, device="cpu")
    assert f"it was not evaluated yet; first run: ppl-vae evaluate {run}" in call("report", run, code=2)
    data = tmp_path / "x.npy"
    import numpy as np

    np.save(data, np.random.default_rng(0).normal(size=(30, 5)).astype("float32"))
    call("train", "linear", "--data", data, "--epochs", 2, "--latent", 2, "--out", tmp_path / "cli", "--no-figures")
    assert json.loads(call("report", tmp_path / "cli", "--json")) == {"report": str(tmp_path / "cli" / "report.html")}
    words = " ".join(checked(tmp_path / "cli" / "report.html").text.split())
    result = json.loads((tmp_path / "cli" / "evaluation.json").read_text())
    assert f"{result['log_px_mean']:.3f}" in words
    assert "log p(x) is a lower bound in expectation" in words
    assert f"ppl-vae train linear --data {data}" in words


def test_a_sweep_needs_one_number() -> None:
    given = {"a": {"latent": 2, "guide": "full"}, "b": {"latent": 8, "guide": "full"}, "c": {"guide": "full"}}
    assert number_that_differs(given) == ("latent", {"a": 2.0, "b": 8.0})
    with pytest.raises(pv.UserError, match="sweep: strategies differ in latent, guide"):
        number_that_differs({"a": {"latent": 2, "guide": "full"}, "b": {"latent": 8, "guide": "flow"}})
