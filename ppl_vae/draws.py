"""Samples, reconstructions and codes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import weights
from .errors import UserError
from .fields import X, device_of, each, joined, num_data, rows
from .generate import assembled, check_labels, mean_or_value, rerun, run, value_of
from .inputs import tensor
from .lazy import Lazy
from .lines import in_one_line
from .rng import forked, seed_for
from .setting import as_data, evaluating, everything, home, num_rows, placed

BLOCK = 4096  # data at once, so that memory grows by the result alone


class Encoding(NamedTuple):
    """q(z|x) by latent site: ``mean[name]`` and ``sample[name]``, each (N, *event)."""

    mean: dict[str, Tensor]
    sample: dict[str, Tensor]


@in_one_line
def sample(pair: Any, n: int, y: Any = None, *, mean: bool = False, like: Any = None, seed: int | None = None) -> X:
    """Draw n data from the model.

    Args:
        pair: a pair.
        n: how many.
        y: labels (n,), for pairs that take them, or one label for all.
        mean: return E[x|z] for the drawn z, as pictures show, where the likelihood has a mean.
        like: data whose masks, lengths, covariates or missing entries the draws have, row by row from the first on
            and again: what the model does not draw is taken from them.
        seed: None draws from torch's global generators, as Pyro does.

    Returns:
        (n, *data_shape); of data with several fields, a dictionary of them; where the model does not draw all of x,
        what it draws, by site.

    Raises:
        UserError: n < 1, labels of another length, or a model that needs data and no ``data_shape``.

    Example:
        >>> import ppl_vae as pv
        >>> pair = pv.build("vae", data_shape=(1, 8, 8), latent=2, hidden=(16,))
        >>> pv.sample(pair, 5).shape
        torch.Size([5, 1, 8, 8])
    """
    y = check_labels(pair, n, y)
    what = mean_or_value if mean else value_of
    parts = []
    with evaluating(pair), _seeded(pair, seed, "sample"):
        for start in range(0, int(n), BLOCK):
            size = min(BLOCK, int(n) - start)
            some = None if like is None else _cycled(pair, like, start, size)
            parts.append(assembled(run(pair, size, None if y is None else y[start : start + size], None, some), what))
    return joined(parts)


def _cycled(pair: Any, like: Any, start: int, size: int) -> X:
    """Rows of data from ``start`` on, from the first again after the last."""
    x, _ = everything(pair, like)
    return rows(x, (start + torch.arange(size, device=device_of(x))) % num_data(x))


@in_one_line
def decode(pair: Any, latents: dict[str, Tensor], y: Any = None, *, like: Any = None, seed: int | None = None) -> X:
    """E[x|z] at given latents: (n, *event) for each site to (n, *data_shape).

    A latent site that is not given is drawn: with ``seed``, or as torch's global generators stand, which do not move.

    Args:
        pair: a pair.
        latents: values (n, *event) by latent site.
        y: labels (n,), for pairs that take them, or one label for all.
        like: as in :func:`sample`.
        seed: seeds the latents that are not given.

    Raises:
        UserError: no latents were given.

    Example:
        >>> import torch, ppl_vae as pv
        >>> pair = pv.build("vae", data_shape=(1, 8, 8), latent=2, hidden=(16,))
        >>> pv.decode(pair, {"z": torch.zeros(3, 2)}).shape
        torch.Size([3, 1, 8, 8])
    """
    if not latents:
        raise UserError("decode: give the latents, as a dictionary from site to values (n, *event)")
    given = {name: tensor(z, f"latents[{name!r}]") for name, z in latents.items()}
    n = len(next(iter(given.values())))
    device, dtype = home(pair)
    values = {name: z.to(device, dtype if z.is_floating_point() else None).unsqueeze(0) for name, z in given.items()}
    y = check_labels(pair, n, y)
    with evaluating(pair), forked(device, None if seed is None else seed_for(seed, "decode")):
        return assembled(run(pair, n, y, values, like), mean_or_value)


@in_one_line
def encode(pair: Any, x: Any, y: Any = None, *, seed: int | None = None) -> Encoding:
    """The mean and one sample of q(z|x) for each latent site.

    With several layers, the mean of a layer is taken at the means of the layers before it. A site without a mean,
    such as a Categorical, gives its mode.

    Args:
        pair: a pair.
        x: data (N, *shape), or a split of ``load_data``, which brings its labels.
        y: labels (N,), for pairs that take them.
        seed: None draws from torch's global generators, as Pyro does.

    Returns:
        Encoding: dictionaries of (N, *event) tensors; empty for a pair without latents.

    Example:
        >>> import torch, ppl_vae as pv
        >>> pair = pv.build("vae", data_shape=(1, 8, 8), latent=2, hidden=(16,))
        >>> pv.encode(pair, torch.zeros(3, 1, 8, 8)).mean["z"].shape
        torch.Size([3, 2])
    """
    x, y = as_data(pair, x, y, seed or 0)
    parts: list[tuple[dict[str, Tensor], dict[str, Tensor]]] = []
    with evaluating(pair), _seeded(pair, seed, "encode"):
        for xb, yb in blocks(pair, x, y):
            args = weights.call_args(pair.guide, xb, yb)
            drawn = weights.sites(pair.guide, args)
            means = weights.sites(pair.guide, args, means=True)
            parts.append(({k: d.value[0] for k, d in means.items()}, {k: d.value[0] for k, d in drawn.items()}))
    return Encoding(joined([m for m, _ in parts]), joined([s for _, s in parts]))


@in_one_line
def reconstruct(pair: Any, x: Any, y: Any = None, *, seed: int | None = None) -> X:
    """E[x'|z] for one z drawn from q(z|x), or a draw where the likelihood has no mean: (N, *data_shape).

    Missing entries are imputed: the reconstruction has no gaps.

    Args:
        pair: a pair.
        x: data (N, *shape) in any form, or a split of ``load_data``, which brings its labels.
        y: labels (N,), for pairs that take them.
        seed: None draws from torch's global generators, as Pyro does.

    Returns:
        As :func:`sample`.

    Raises:
        UserError: the pair has no latents, so there is nothing to reconstruct from.

    Example:
        >>> import torch, ppl_vae as pv
        >>> pair = pv.build("vae", data_shape=(1, 8, 8), latent=2, hidden=(16,))
        >>> pv.reconstruct(pair, torch.zeros(3, 1, 8, 8)).shape
        torch.Size([3, 1, 8, 8])
    """
    x, y = as_data(pair, x, y, seed or 0)
    parts = []
    with evaluating(pair), _seeded(pair, seed, "reconstruct"):
        for xb, yb in blocks(pair, x, y):
            xb = each(Tensor.contiguous, xb)
            drawn = weights.sites(pair.guide, weights.call_args(pair.guide, xb, yb))
            if not drawn:
                raise UserError(
                    "this pair has no latents, so there is no code to reconstruct from; draw samples instead"
                )
            values = {k: d.value for k, d in drawn.items() if not d.is_observed}
            draws = weights.sites(pair.model, weights.call_args(pair.model, xb, yb), values=values, uncondition=True)
            parts.append(assembled(rerun(draws, xb, yb), mean_or_value))
    return joined(parts)


def blocks(pair: Any, x: X | Lazy, y: Tensor | None) -> Iterator[tuple[X, Tensor | None]]:
    """Data and labels on the pair's device, some rows at a time."""
    for start in range(0, num_rows(x), BLOCK):
        yield placed(pair, x, y, slice(start, start + BLOCK))


def _seeded(pair: Any, seed: int | None, purpose: str) -> Any:
    return nullcontext() if seed is None else forked(home(pair)[0], seed_for(seed, purpose))
