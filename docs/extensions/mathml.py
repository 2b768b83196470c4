"""Formulas as MathML, made when the pages are built, with their font: to read them needs no network and no script."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.util import logging
from sphinx.util.fileutil import copy_asset_file

log = logging.getLogger(__name__)
FONT = Path(str(files("ziamath"))) / "fonts" / "STIXTwoMath-Regular.ttf"  # under the Open Font License
REWRITTEN = {  # what the converter does not know, as what it does
    r"\\arg\b": r"\\operatorname{arg}",
    r"(\\(?:begin|end)){(?:aligned|split|align)}": r"\1{align*}",
}
MENDED = {  # of what it makes
    "<mi>&#x0007E;</mi>": "<mo>&#x0223C;</mo>",  # a relation
    r"<mo>(?!max|min|sup|inf|lim)([A-Za-z]{2,})</mo>": r"<mi>\1</mi>",  # a function
    r"(<mi>[A-Za-z]{2,}</mi>)(?!<mo|</|<mspace)": r'\1<mspace width="0.167em" />',  # and its argument without brackets
}
CSS = f"""\
@font-face {{ font-family: "STIX Two Math"; src: url("{FONT.name}"); }}
math {{ font-family: "STIX Two Math", math; font-size: 1.05em; }}
div.math {{ overflow-x: auto; overflow-y: hidden; }}
"""


def mathml(tex: str, block: bool) -> str:
    """A formula of LaTeX as MathML.

    Raises:
        ValueError: it holds what the converter does not know.
    """
    if block and re.search(r"\\\\|&", re.sub(r"\\begin{(\w+\*?)}.*?\\end{\1}", "", tex, flags=re.S)):
        tex = rf"\begin{{aligned}}{tex}\end{{aligned}}"
    for pattern, known in REWRITTEN.items():
        tex = re.sub(pattern, known, tex)
    made = convert(tex, display="block" if block else "inline")
    if unknown := re.findall(r">(\\\w+|&)<", made):
        raise ValueError(f"{', '.join(unknown)} can't be written as MathML")
    for pattern, better in MENDED.items():
        made = re.sub(pattern, better, made)
    return made


def visit(self: Any, node: nodes.math | nodes.math_block) -> None:
    """Write a formula; one that can't be converted gives a warning, and stands as it is written."""
    block = isinstance(node, nodes.math_block)
    try:
        made = mathml(node.astext(), block)
    except Exception as error:
        log.warning("formula %r: %s", node.astext(), error, location=node)
        made = f"<code>{self.encode(node.astext())}</code>"
    self.body.append(f'<div class="math">{made}</div>' if block else made)
    raise nodes.SkipNode


def ship(app: Any) -> None:
    """Write the font and its style sheet beside the pages."""
    static = Path(app.outdir) / "_static"
    static.mkdir(parents=True, exist_ok=True)
    copy_asset_file(FONT, static)
    (static / "mathml.css").write_text(CSS)


def setup(app: Any) -> dict[str, bool]:
    """Make this the renderer of formulas."""
    app.add_html_math_renderer("mathml", (visit, None), (visit, None))
    app.config.html_math_renderer = "mathml"
    app.add_css_file("mathml.css")
    app.connect("builder-inited", ship)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
