"""Codes as features: one vector for each example, and moves along what tells two groups apart."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..common.entry import entry_point
from ..common.errors import UserError
from ..common.fields import X
from ..data.convert import tensor
from . import generation


class Codes(NamedTuple):
    """A vector for each example: ``values`` (N, D), and the name of each column, such as ``z[3]``."""

    values: Tensor
    names: tuple[str, ...]


@entry_point
def codes(pair: Any, x: Any, y: Any = None, *, seed: int = 0) -> Codes:
    """The means of q(z|x), of all latent sites side by side; a discrete site gives its mode.

    Args:
        pair: a pair.
        x: data (N, *shape), or a split of ``load_data``, with its labels.
        y: labels (N,), for pairs that take them.
        seed: for sites whose mean has no closed form.

    Raises:
        UserError: the pair has no latents.

    Example:
        >>> import torch, ppl_vae as pv
        >>> pair = pv.build("vae", data_shape=(1, 8, 8), latent=2, hidden=(16,))
        >>> pv.codes(pair, torch.zeros(3, 1, 8, 8)).names
        ('z[0]', 'z[1]')
    """
    means = _means(pair, x, y, seed, "codes")
    names = [
        name + "".join(f"[{i}]" for i in at)
        for name, mean in means.items()
        for at in itertools.product(*map(range, mean.shape[1:]))
    ]
    width = [mean.reshape(len(mean), -1).to(torch.get_default_dtype()) for mean in means.values()]
    return Codes(torch.cat(width, 1).cpu(), tuple(names))


@entry_point
def direction(pair: Any, x: Any, y: Any, where: Any, *, seed: int = 0) -> dict[str, Tensor]:
    """The mean code of the examples that have an attribute, less that of the others, by latent site.

    Args:
        pair: a pair.
        x: data (N, *shape).
        y: labels (N,), for pairs that take them, or None.
        where: (N,) booleans, which examples have the attribute, such as ``split.y == 7``.
        seed: for sites whose mean has no closed form.

    Raises:
        UserError: no latents, discrete ones, no two groups, or numbers other than 0 and 1.

    Source: White: Sampling Generative Networks, 2016, arXiv:1609.04468.

    Example:
        >>> import torch, ppl_vae as pv
        >>> pair = pv.build("vae", data_shape=(5,), latent=2, hidden=(16,))
        >>> pv.direction(pair, torch.rand(4, 5), None, [True, False, False, True])["z"].shape
        torch.Size([2])
    """
    means = _means(pair, x, y, seed, "direction")
    marks = tensor(where, "where").reshape(-1)
    has = marks.bool()
    if not torch.equal(has.to(marks.dtype), marks):  # labels, as in where=y
        raise UserError("direction: where says of each example whether it has the attribute: booleans, such as y == 3")
    for name, mean in means.items():
        if not mean.is_floating_point():
            raise UserError(f"direction: the latent site {name!r} is discrete; a continuous one is needed")
        if len(has) != len(mean) or has.all() or not has.any():
            raise UserError(
                f"direction: {int(has.sum())} of {len(has)} are True for {len(mean)} examples; mark some, and not all"
            )
    return {
        name: mean[has.to(mean.device)].mean(0) - mean[~has.to(mean.device)].mean(0) for name, mean in means.items()
    }


@entry_point
def moved(pair: Any, x: Any, y: Any = None, *, along: dict[str, Tensor], by: float = 1.0, seed: int = 0) -> X:
    """E[x|z] of each example with its code moved: the mean of q(z|x) plus ``by`` times a direction.

    Args:
        pair: a pair.
        x: data (N, *shape).
        y: labels (N,), for pairs that take them.
        along: what :func:`direction` returns.
        by: how far; 0 reconstructs.
        seed: for sites whose mean has no closed form.

    Raises:
        UserError: no latents, or a direction of another shape.

    Example:
        >>> import torch, ppl_vae as pv
        >>> pair, x = pv.build("vae", data_shape=(5,), latent=2, hidden=(16,)), torch.rand(4, 5)
        >>> has = pv.direction(pair, x, None, x[:, 0] > x[:, 0].median())
        >>> pv.moved(pair, x, along=has, by=-1.0).shape
        torch.Size([4, 5])
    """
    means = _means(pair, x, y, seed, "moved")
    if not isinstance(along, Mapping):
        raise UserError(f"moved: along is what pv.direction returns, a dictionary by site: {', '.join(means)}")
    if unknown := sorted(set(along) - set(means)):
        raise UserError(f"moved: the pair has no latent site {', '.join(unknown)}; its sites are {', '.join(means)}")
    for name, step in along.items():
        if step.shape != means[name].shape[1:]:
            raise UserError(f"moved: along[{name!r}] has shape {tuple(step.shape)}, not {tuple(means[name].shape[1:])}")
    z = means | {name: means[name] + by * step.to(means[name]) for name, step in along.items()}
    return generation.decode(pair, z, y if y is not None or not hasattr(x, "fixed") else x.y, seed=seed)


def _means(pair: Any, x: Any, y: Any, seed: int, what: str) -> dict[str, Tensor]:
    """The means of q(z|x) by site.

    Raises:
        UserError: there are none.
    """
    means = generation.encode(pair, x, y, seed=seed).mean
    if not means:
        raise UserError(f"{what}: this pair has no latents, so it has no codes")
    return means
