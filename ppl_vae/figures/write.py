"""Every figure of a run, as files."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from ..common.files import atomic, writable
from ..data.splits import Split
from ..draws import generation
from ..likelihood.result import Estimate
from ..pairs.base import Pair
from ..scoring import trace
from ..scoring.kinds import is_masked_out
from .images import reconstructions, samples
from .latents import interpolation, is_free, latent_grid, latent_scatter, latents_of, traversal
from .likelihood import khat_scatter, log_px_histogram, loss_curves
from .style import DPI, is_drawable, name_cells, picture_of


def save_all(
    pair: Pair,
    out: str | Path,
    *,
    data: Split,
    history: Sequence[Mapping[str, Any]] | None = None,
    estimate: Estimate | None = None,
    seed: int = 0,
) -> list[Path]:
    """Write every figure that applies to a pair and to its data, as PNG files, atomically.

    Args:
        pair: a pair.
        out: the folder; made where it is absent.
        data: the split to show; labels are used, and a ``"dynamic"`` one is drawn once, by ``seed``.
        history: what ``fit`` returned.
        estimate: what ``log_likelihood`` returned.
        seed: seeds every draw.

    Returns:
        The files that were written.

    Raises:
        RunError: the folder or a file can't be written.

    Example:
        >>> import tempfile, ppl_vae as pv
        >>> pair = pv.build("made", data_shape=(4,), hidden=(8,))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     [path.name for path in save_all(pair, folder, data=pv.Split(torch.zeros(6, 4)))]
        ['samples.png']
    """
    folder = writable(Path(out))
    split = _labelled(pair, data.limit(2000).fixed(seed))
    x, y = split.x, split.y
    how = picture_of(pair)
    drawable = torch.is_tensor(x) and is_drawable(x.shape[1:], how)
    found = latents_of(pair, x, y, seed)
    codes_differ = len(split) < 2 or any(bool((mean != mean[0]).any()) for mean, _ in found.values())
    made: dict[str, Figure] = {}
    if history:
        made["loss"] = loss_curves(history)
    if found and drawable and codes_differ:  # else the guide knows nothing of x, as that of a GAN
        few = None if y is None else y[:10]
        again = generation.reconstruct(pair, x[:10], few, seed=seed)
        made["reconstructions"] = reconstructions(x[:10], again, pictured=how)
    kinds = _kinds(pair, y, seed) if drawable else None
    if drawable:
        columns = 8 if kinds is None else len(kinds)
        labels = None if y is None else (y if kinds is None else kinds).repeat(8 * columns)[: 8 * columns]
        drawn = generation.sample(pair, 8 * columns, labels, mean=True, seed=seed)
        made["samples"] = samples(drawn, columns, pictured=how)
        if kinds is not None:
            name_cells(made["samples"].axes[0], columns=[f"y = {k}" for k in kinds])
        if told := generation.drawn_from(pair):
            made["samples"].axes[0].set_title(f"z from {told}", fontsize=9, wrap=True)
    if found and all(mean.is_floating_point() for mean, _ in found.values()):
        site, last = list(found.items())[-1]
        codes = last[0] if is_masked_out(last[1]) else None  # which a standard normal does not describe
        if drawable and len(found) == 1 and last[0].shape[1:] == (2,) and is_free(last, 3.0):
            made["latent_grid"] = latent_grid(pair, x.shape[1:], y=None if y is None else y[0], codes=codes, seed=seed)
            if y is not None and kinds is not None:
                made["latent_grid"].axes[0].set_title(f"y = {y[0]}", fontsize=11)
        if len(split) > 1 and codes_differ and how != "series":
            made["latent_scatter"] = latent_scatter(last[0], y, site=site)
        if drawable and len(split) > 1 and codes_differ:
            other = 1 if y is None else max(1, int((y != y[0]).int().argmax()))
            ends = None if y is None else y[[0, other]]
            made["interpolation"] = interpolation(pair, x[0], x[other], y=ends, seed=seed)
        if drawable and is_free(last, 3.0) and how != "series":  # whose last latent is that of the last step alone
            made["traversal"] = traversal(pair, x, y, seed=seed)
    if estimate is not None:
        made["log_px"] = log_px_histogram(estimate)
        if bool((estimate.khat != -math.inf).any()):
            made["khat"] = khat_scatter(estimate)
    return [_write(figure, folder / f"{name}.png") for name, figure in made.items()]


def _labelled(pair: Pair, split: Split) -> Split:
    """The examples whose labels are known, of a pair that takes -1 for others; where none is, all, without labels."""
    if split.y is None or not getattr(pair.model, "missing_labels", False):
        return split
    known = (split.y >= 0).nonzero()[:, 0]
    return split.at(known) if len(known) else replace(split, y=None)


def _kinds(pair: Pair, y: Tensor | None, seed: int) -> Tensor | None:
    """The first ten labels, where the model depends on them."""
    if y is None or not trace.takes_labels(pair.model):
        return None
    kinds = torch.unique(y)[:10]
    one, other = (generation.sample(pair, len(kinds), k, mean=True, seed=seed) for k in (kinds, kinds.flip(0)))
    return None if torch.equal(one, other) else kinds


def _write(figure: Figure, path: Path) -> Path:
    with atomic(path) as file:
        figure.savefig(file, format="png", dpi=DPI)
    return path
