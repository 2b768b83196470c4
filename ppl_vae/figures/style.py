"""The canvas: one axes in the house style, and a grid of cells that hold images, lines or bars."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from torch import Tensor

from ..common.errors import UserError

BLUE, SKY, GREEN, VERMILLION, GREY = "#0072B2", "#56B4E9", "#009E73", "#D55E00", "#808080"  # Okabe and Ito; a grey
COLORS = (BLUE, VERMILLION, GREEN, "#CC79A7", "#E69F00", SKY)
WIDTH, DPI = 7.5, 120  # inches, dots an inch: 900 pixels


def need(condition: bool, message: str) -> None:
    """Raise UserError with a message of one line where the condition does not hold."""
    if not condition:
        raise UserError(message)


class NotebookFigure(Figure):
    """A figure that belongs to no window, and that a notebook shows, with or without ``%matplotlib``."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png")
        return buffer.getvalue()


def canvas(height: float, width: float = WIDTH) -> tuple[Figure, Axes]:
    """A figure with one axes."""
    figure = NotebookFigure(figsize=(width, height), dpi=DPI, layout="constrained")
    ax = figure.add_subplot()
    ax.spines[["top", "right"]].set_visible(False)
    return figure, ax


def canvases(count: int, height: float = 2.6) -> tuple[Figure, list[Axes]]:
    """A figure with axes one below the other, which share their horizontal axis."""
    figure = NotebookFigure(figsize=(WIDTH, 0.4 + height * count), dpi=DPI, layout="constrained")
    axes = list(figure.subplots(count, 1, sharex=True, squeeze=False)[:, 0])
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
    return figure, axes


def short(name: str, most: int = 32) -> str:
    """A name that is too long for a figure without its middle."""
    half = (most - 1) // 2
    return name if len(name) <= most else f"{name[:half]}…{name[-half:]}"


def text(value: float, spec: str) -> str:
    """A number as a figure shows it, with a true minus sign."""
    return format(value, spec).replace("-", "−")


def plain(x: Tensor) -> Tensor:
    """A float32 tensor on the CPU, as matplotlib takes it."""
    return x.detach().cpu().float()


def is_drawable(shape: Sequence[int], pictured: str = "auto") -> bool:
    """Whether data of a shape have a picture.

    ``pictured``, an attribute of a model, says which: ``auto``, images, and vectors as a line; ``series``, a line over
    the first axis for each number of a step; ``bars``, a bar for each coordinate; ``columns``, bars that have a scale
    each; or ``nothing``.
    """
    if pictured == "auto":
        return len(shape) == 2 or (len(shape) == 1 and shape[0] > 1) or (len(shape) == 3 and shape[0] in (1, 3))
    most = {"series": 2, "bars": 1, "columns": 1}.get(pictured, 0)
    return 0 < len(shape) <= most and shape[0] > 1


def picture_of(pair: Any) -> str:
    """How an example of a pair is drawn, see :func:`is_drawable`."""
    return str(getattr(pair.model, "pictured", "auto"))


def tiles(
    x: Tensor,
    rows: Sequence[str] = (),
    columns: Sequence[str] = (),
    xlabel: str = "",
    ylabel: str = "",
    behind: Tensor | None = None,
    pictured: str = "auto",
) -> Figure:
    """Cells (R, C, *shape) in one axes whose unit is a cell; NaN leaves a cell empty, ``behind`` goes behind lines."""
    shape, (down, across) = x.shape[2:], x.shape[:2]
    shown = f"data of shape {tuple(shape)}"
    need(
        is_drawable(shape, pictured),
        f"{shown} are neither images, (H, W), (1, H, W) or (3, H, W), nor vectors (D,), D > 1"
        if pictured == "auto"
        else f"{shown} have no picture as {pictured}",
    )
    is_image = pictured == "auto" and len(shape) > 1
    left = 0.1 + 0.085 * max(map(len, rows), default=0) + 0.25 * bool(ylabel)  # inches
    bottom = 0.1 + 0.25 * bool(columns) + 0.25 * bool(xlabel)
    cell = min(1.1, (WIDTH - left) / across)
    height, width = shape[-2:] if is_image else (1, 1)
    gap = max(1, width // 14)
    ratio = (height + gap) / (width + gap)
    top = 0.0 if is_image else 0.3
    figure, ax = canvas(bottom + top + cell * down * ratio, max(left + cell * across, 3.5))
    figure.set_layout_engine("compressed")  # keeps labels beside images of a fixed aspect inside the frame
    if is_image:
        pixels = plain(x).clamp(0, 1).reshape(down, across, -1, height, width).permute(0, 3, 1, 4, 2)
        picture = torch.full((down, height + gap, across, width + gap, pixels.shape[-1]), math.nan)
        picture[:, :height, :, :width] = pixels
        picture = picture.reshape(down * (height + gap), across * (width + gap), -1)
        array = (picture.nan_to_num(1.0) if picture.shape[-1] == 3 else picture[..., 0]).numpy()
        extent = (0, across, down, 0)
        ax.imshow(array, "gray", vmin=0, vmax=1, extent=extent, aspect=ratio, interpolation="nearest")
    else:
        _graphs(ax, torch.stack([plain(v) for v in (behind, x) if v is not None]), pictured, 72 * cell)
    name_cells(ax, rows, columns)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    return figure


def _graphs(ax: Axes, both: Tensor, pictured: str, points: float) -> None:
    """Lines, or bars from zero, in cells of a width in points: the last in colours, one behind it in grey.

    ``both`` is (1 or 2, R, C, D), or (1 or 2, R, C, T, n) for n lines of T steps.
    """
    rows, columns, size = both.shape[1:4]
    y = both.reshape(len(both), rows * columns, size, -1).movedim(-1, 2).numpy()  # (1 or 2, cells, lines, size)
    along = tuple(range(y.ndim - (pictured == "columns")))  # the axes that share a scale
    with_zero = np.concatenate([y, 0 * y]) if pictured in ("bars", "columns") else y
    low, high = (f(with_zero, axis=along, keepdims=True) for f in (np.nanmin, np.nanmax))
    row, column = np.divmod(np.arange(rows * columns), columns)
    across = column[:, None] + np.linspace(0.06, 0.94, size)

    def down(value: Any) -> Any:
        return row[:, None, None] + 0.92 - 0.84 * (value - low[0]) / np.maximum(high - low, 1e-12)[0]

    for i, values in enumerate(y):
        front = i == len(y) - 1
        for line in range(values.shape[1]):
            to, color = down(values)[:, line], COLORS[line % len(COLORS)] if front else GREY
            if with_zero is y:
                segments, width = list(np.stack([across, to], -1)), 1.2 if front else 0.8
            else:
                ends = np.stack([down(np.zeros_like(values))[:, line], to], -1)
                segments = list(np.stack([across[..., None].repeat(2, -1), ends], -1).reshape(-1, 2, 2))
                width = max(0.4, points / size * (0.4 if i else 0.75))
            ax.add_collection(LineCollection(segments, colors=color, linewidths=width))
    ax.hlines(range(1, rows), 0, columns, color=GREY, linewidth=0.4)
    ax.vlines(range(1, columns), 0, rows, color=GREY, linewidth=0.4)
    ax.set(xlim=(0, columns), ylim=(rows, 0))
    what = {"series": "steps", "columns": "columns"}.get(pictured, "coordinates")
    scale = f"on one scale from {text(low.min(), '.3g')} to {text(high.max(), '.3g')}"
    scale = "each on a scale of its own" if pictured == "columns" else scale
    ax.set_title(f"{size} {what} from left to right, {scale}", fontsize=9, wrap=True)


def name_cells(ax: Axes, rows: Sequence[str] = (), columns: Sequence[str] = ()) -> None:
    """Labels at the middles of rows and columns, and no other mark on the frame."""
    ax.set_yticks(np.arange(len(rows)) + 0.5, rows)
    ax.set_xticks(np.arange(len(columns)) + 0.5, columns)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
