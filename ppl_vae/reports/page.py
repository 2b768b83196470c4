"""A page of HTML that holds its figures and its style, and loads nothing."""

from __future__ import annotations

import base64
import io
import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
from markupsafe import Markup
from matplotlib.figure import Figure

_numbers: Iterator[int] = itertools.count()


@dataclass(frozen=True)
class Picture:
    """A figure of a page.

    Attributes:
        title: a heading.
        alt: what is seen, for those who can't see it.
        content: HTML.
        note: a sentence below it.
    """

    title: str
    alt: str
    content: Markup
    note: str = ""


def drawn(title: str, alt: str, figure: Figure, note: str = "") -> Picture:
    """A matplotlib figure as inline SVG, whose black is the colour of the page's text."""
    buffer, prefix = io.BytesIO(), f"f{next(_numbers)}-"
    with matplotlib.rc_context({"svg.fonttype": "path", "svg.hashsalt": "ppl_vae"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue().decode()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' id="', f' id="{prefix}', svg)  # names are unique on a page with other figures
    svg = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{prefix}", svg)
    svg = svg.replace("#000000", "currentColor").replace("<svg ", '<svg role="img" fill="currentColor" ', 1)
    label = Markup.escape(alt)
    svg = svg.replace('role="img"', f'role="img" aria-label="{label}"', 1)
    return Picture(title, alt, Markup(svg), note)


def embedded(title: str, alt: str, png: Path, note: str = "") -> Picture:
    """A PNG file as part of the page."""
    code = base64.b64encode(png.read_bytes()).decode()
    return Picture(title, alt, Markup('<img alt="{}" src="data:image/png;base64,{}">').format(alt, code), note)


def page(template: str, facts: Mapping[str, Any]) -> str:
    """A template with its facts, which are escaped."""
    loader = jinja2.PackageLoader("ppl_vae.reports")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template(template).render(facts)
