"""Formulas as MathML, made when the pages are built: they are read without a network, and without a script."""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.util import logging

log = logging.getLogger(__name__)


def mathml(tex: str, block: bool) -> str:
    """A formula of LaTeX as MathML.

    Raises:
        ValueError: it holds what the converter does not know.
    """
    if block and re.search(r"\\\\|&", re.sub(r"\\begin{(\w+\*?)}.*?\\end{\1}", "", tex, flags=re.S)):
        tex = rf"\begin{{aligned}}{tex}\end{{aligned}}"
    made = convert(re.sub(r"\\arg\b", r"\\operatorname{arg}", tex), display="block" if block else "inline")
    if unknown := re.findall(r">(\\\w+)", made):
        raise ValueError(f"{', '.join(unknown)} can't be written as MathML")
    return made


def visit(self: Any, node: nodes.math | nodes.math_block) -> None:
    """Write a formula, with a warning in place of one that can't be converted."""
    block = isinstance(node, nodes.math_block)
    try:
        made = mathml(node.astext(), block)
    except Exception as error:
        log.warning("formula %r: %s", node.astext(), error, location=node)
        made = f"<code>{self.encode(node.astext())}</code>"
    self.body.append(f'<div class="math">{made}</div>' if block else made)
    raise nodes.SkipNode


def setup(app: Any) -> dict[str, bool]:
    """Make this the renderer of formulas."""
    app.add_html_math_renderer("mathml", (visit, None), (visit, None))
    app.config.html_math_renderer = "mathml"
    return {"parallel_read_safe": True, "parallel_write_safe": True}
