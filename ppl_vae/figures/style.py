"""The canvas: one axes in the house style, and a grid of cells that hold images or lines."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

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


def is_drawable(shape: Sequence[int]) -> bool:
    """Whether data of a shape are images or vectors."""
    return len(shape) == 2 or (len(shape) == 1 and shape[0] > 1) or (len(shape) == 3 and shape[0] in (1, 3))


def tiles(
    x: Tensor,
    rows: Sequence[str] = (),
    columns: Sequence[str] = (),
    xlabel: str = "",
    ylabel: str = "",
    behind: Tensor | None = None,
) -> Figure:
    """Cells (R, C, *shape) in one axes whose unit is a cell; NaN leaves a cell empty, ``behind`` goes behind lines."""
    shape, (down, across) = x.shape[2:], x.shape[:2]
    shown = f"data of shape {tuple(shape)}"
    need(is_drawable(shape), f"{shown} are neither images, (H, W), (1, H, W) or (3, H, W), nor vectors (D,), D > 1")
    left = 0.1 + 0.085 * max(map(len, rows), default=0) + 0.25 * bool(ylabel)  # inches
    bottom = 0.1 + 0.25 * bool(columns) + 0.25 * bool(xlabel)
    cell = min(1.1, (WIDTH - left) / across)
    height, width = shape[-2:] if len(shape) > 1 else (1, 1)
    gap = max(1, width // 14)
    ratio = (height + gap) / (width + gap)
    top = 0.3 if len(shape) == 1 else 0.0
    figure, ax = canvas(bottom + top + cell * down * ratio, max(left + cell * across, 3.5))
    figure.set_layout_engine("compressed")  # keeps labels beside images of a fixed aspect inside the frame
    if len(shape) == 1:
        _lines(ax, x, x if behind is None else behind)
    else:
        pixels = plain(x).clamp(0, 1).reshape(down, across, -1, height, width).permute(0, 3, 1, 4, 2)
        picture = torch.full((down, height + gap, across, width + gap, pixels.shape[-1]), math.nan)
        picture[:, :height, :, :width] = pixels
        picture = picture.reshape(down * (height + gap), across * (width + gap), -1)
        array = (picture.nan_to_num(1.0) if picture.shape[-1] == 3 else picture[..., 0]).numpy()
        extent = (0, across, down, 0)
        ax.imshow(array, "gray", vmin=0, vmax=1, extent=extent, aspect=ratio, interpolation="nearest")
    name_cells(ax, rows, columns)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    return figure


def _lines(ax: Axes, x: Tensor, behind: Tensor) -> None:
    """A line in each cell, from the first coordinate to the last, all on one vertical scale."""
    rows, columns, size = x.shape
    both = torch.stack([plain(behind), plain(x)]).numpy().reshape(2, rows * columns, size)
    low, high = float(np.nanmin(both)), float(np.nanmax(both))
    row, column = np.divmod(np.arange(rows * columns), columns)
    across = column[:, None] + np.linspace(0.06, 0.94, size)
    down = row[:, None] + 0.92 - 0.84 * (both - low) / max(high - low, 1e-12)
    for y, color, width in zip(down, (GREY, BLUE), (0.8, 1.2), strict=True):
        ax.add_collection(LineCollection(list(np.stack([across, y], -1)), colors=color, linewidths=width))
    ax.hlines(range(1, rows), 0, columns, color=GREY, linewidth=0.4)
    ax.vlines(range(1, columns), 0, rows, color=GREY, linewidth=0.4)
    ax.set(xlim=(0, columns), ylim=(rows, 0))
    scale = f"from {text(low, '.3g')} to {text(high, '.3g')}"
    ax.set_title(f"{size} coordinates from left to right, on one scale {scale}", fontsize=9)


def name_cells(ax: Axes, rows: Sequence[str] = (), columns: Sequence[str] = ()) -> None:
    """Labels at the middles of rows and columns, and no other mark on the frame."""
    ax.set_yticks(np.arange(len(rows)) + 0.5, rows)
    ax.set_xticks(np.arange(len(columns)) + 0.5, columns)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
