"""How results show themselves: text at a prompt, a table in a notebook, and small drawings that stand in its cells."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

# no color of its own: it reads on a light page and on a dark one
STYLE = """<style>
.ppl-vae {overflow-x: auto; font-size: .9em}
.ppl-vae table {border-collapse: collapse; width: auto; margin: 0; font-variant-numeric: tabular-nums}
.ppl-vae table, .ppl-vae tr, .ppl-vae th, .ppl-vae td, .ppl-vae pre {color: inherit; background: none; border: 0}
.ppl-vae th, .ppl-vae td {padding: .2em .4em; text-align: right; white-space: nowrap}
.ppl-vae .text {text-align: left; white-space: normal}
.ppl-vae td:first-child {white-space: nowrap}
.ppl-vae thead th {border-bottom: 1px solid currentColor; font-weight: 600}
.ppl-vae p {margin: .4em 0 0; max-width: 60em}
.ppl-vae pre {white-space: pre-wrap; margin: 0; padding: 0}
.ppl-vae svg {vertical-align: middle}
</style>
"""
POINTS = 200  # of a line at most: more are not seen


class Drawing(str):
    """An SVG image, which stands in a cell or in a note as it is."""

    __slots__ = ()

    def __html__(self) -> str:
        return str(self)


class Shown:
    """What has a table and notes shows both: as text at a prompt, as HTML in a notebook.

    Example:
        >>> class Found(Shown):
        ...     def cells(self): return [["gap", "nats"], ["shape", "0.12"]]
        ...     def notes(self): return ["a < b"]
        >>> Found()
        gap    nats
        shape  0.12
        a < b
        >>> "<p>a &lt; b</p>" in Found()._repr_html_()
        True
    """

    __slots__ = ()

    def cells(self) -> Sequence[Sequence[str]]:
        """The table as text, its head first; empty where the text says all."""
        return []

    def notes(self) -> list[str]:
        """What stands below the table."""
        return []

    def drawn(self) -> Sequence[Sequence[str]]:
        """The table of a notebook: that of text, or one with drawings."""
        return self.cells()

    def drawn_notes(self) -> list[str]:
        """What stands below the table in a notebook."""
        return self.notes()

    def __str__(self) -> str:
        return "\n".join([*lines(self.cells()), *self.notes()])

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        cells = self.drawn()
        return table(cells, self.drawn_notes()) if cells else html(f"<pre>{escape(str(self))}</pre>")


def lines(cells: Sequence[Sequence[str]]) -> list[str]:
    """A table as lines of text, its head first: numbers to the right, text to the left."""
    if not cells:
        return []
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    marks = [">" if is_number else "<" for is_number in _numbers(cells)]
    whole = [list(zip(row, marks, widths, strict=True)) for row in cells]
    return ["  ".join(f"{cell:{mark}{width}}" for cell, mark, width in row).rstrip() for row in whole]


def table(cells: Sequence[Sequence[str]], notes: Sequence[str] = (), more: str = "") -> str:
    """A table as HTML, its head first and the notes below it; a head without words is left out.

    Args:
        cells: of the table; text is escaped, a :class:`Drawing` is not.
        notes: paragraphs.
        more: HTML that stands at the end.
    """
    head, *rows = cells
    kinds = ["" if is_number else ' class="text"' for is_number in _numbers(cells)]

    def row(texts: Sequence[str], tag: str) -> str:
        found = zip(texts, kinds, strict=True)
        return "<tr>" + "".join(f"<{tag}{kind}>{_escaped(text)}</{tag}>" for text, kind in found) + "</tr>"

    top = f"<thead>{row(head, 'th')}</thead>" if any(head) else ""
    body = "".join(row(texts, "td") for texts in rows)
    below = "".join(f"<p>{_escaped(note)}</p>" for note in notes)
    return html(f"<table>{top}<tbody>{body}</tbody></table>{below}{more}")


def html(inside: str) -> str:
    """HTML in the style of a notebook's output."""
    return f'{STYLE}<div class="ppl-vae">{inside}</div>'


def _escaped(text: str) -> str:
    return text if isinstance(text, Drawing) else escape(text)


def _numbers(cells: Sequence[Sequence[str]]) -> list[bool]:
    """Whether each column holds numbers: every cell below its head begins like one, or is empty."""
    return [
        all(c == "" or c.lstrip("+-<>~ ")[:1].isdigit() or c in EMPTY for c in column[1:])
        for column in zip(*cells, strict=True)
    ]


EMPTY = ("-", "nan", "inf", "-inf", "...")


def sparkline(values: Sequence[float], about: str = "") -> Drawing:
    """A line through values, its last one marked; what is not finite is left out.

    Example:
        >>> "training bound from 1 to 4" in sparkline([1.0, 2.0, 4.0], "training bound")
        True
        >>> sparkline([float("nan")])
        ''
    """
    known = [(i, v) for i, v in enumerate(values) if math.isfinite(v)]
    if not known:
        return Drawing("")
    (first, start), (last, end) = known[0], known[-1]
    low, high = min(v for _, v in known), max(v for _, v in known)
    some = [*known[: -1 : math.ceil(len(known) / POINTS)], known[-1]]
    across, up = 112 / max(1, last - first), 18 / (high - low) if high > low else 0.0
    places = [f"{4 + across * (i - first):.1f},{21 - up * (v - low):.1f}" for i, v in some]
    x, y = places[-1].split(",")
    label = f"{about} from {start:.4g} to {end:.4g}".strip()
    return _svg(
        120, 24, label,
        f'<polyline fill="none" stroke="currentColor" stroke-width="1.5" points="{" ".join(places)}"/>'
        f'<circle cx="{x}" cy="{y}" r="2.5" fill="currentColor"/>',
    )  # fmt: skip


def bars(values: Sequence[float], about: str = "") -> Drawing:
    """A bar for each value from 0 up, the largest ones of the full height."""
    most = max((v for v in values if math.isfinite(v)), default=0.0)
    if not most > 0:
        return Drawing("")
    heights = [20 * max(0.0, v) / most if math.isfinite(v) else 0.0 for v in values[:POINTS]]
    width = max(2, min(8, 160 // len(heights)))
    drawn = (
        f'<rect x="{width * i}" y="{22 - h:.1f}" width="{width - 1}" height="{h:.1f}" fill="currentColor"/>'
        for i, h in enumerate(heights)
    )
    return _svg(width * len(heights), 24, f"{about}: {', '.join(f'{v:.3g}' for v in values[:20])}", "".join(drawn))


def interval(low: float, middle: float, high: float, reach: float) -> Drawing:
    """An interval and its middle, on an axis from -reach to reach with a line at zero; what reaches further is cut.

    Example:
        >>> "interval from -0.5 to 1.5" in interval(-0.5, 0.5, 1.5, reach=2.0)
        True
    """
    if math.isnan(middle) or not reach > 0:
        return Drawing("")

    def place(value: float) -> str:
        return f"{50 + 46 * min(max(value / reach, -1), 1):.1f}"

    left, right = place(-math.inf if math.isnan(low) else low), place(math.inf if math.isnan(high) else high)
    return _svg(
        100, 16, f"{middle:.3g}, interval from {low:.3g} to {high:.3g}",
        '<line x1="50" x2="50" y1="0" y2="16" stroke="currentColor" stroke-opacity="0.4"/>'
        f'<line x1="{left}" x2="{right}" y1="8" y2="8" stroke="currentColor" stroke-width="2"/>'
        f'<circle cx="{place(middle)}" cy="8" r="3.5" fill="currentColor"/>',
    )  # fmt: skip


def _svg(width: int, height: int, label: str, inside: str) -> Drawing:
    size = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    about = f'role="img" aria-label="{escape(label)}"'
    return Drawing(f'<svg {about} {size} xmlns="http://www.w3.org/2000/svg">{inside}</svg>')
