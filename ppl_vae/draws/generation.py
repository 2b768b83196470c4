"""Samples, reconstructions and codes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..common.entry import entry_point
from ..common.errors import UserError
from ..common.fields import X, device_of, each, joined, num_data, rows
from ..common.rng import forked, seed_for
from ..data.convert import tensor
from ..data.lazy import Lazy
from ..scoring import programs, trace
from ..scoring.inputs import as_data, device_and_dtype, evaluating, everything, num_rows, to_device
from ..scoring.kinds import mean_of
from ..scoring.simulate import assembled, check_labels, mean_or_value, rerun, run, value_of

BLOCK = 4096  # examples at once, so that memory grows by the result alone
ROWS = 8192  # draws times examples that are held at once


class Encoding(NamedTuple):
    """q(z|x) by latent site: ``mean[name]``, ``sample[name]`` and ``std_error[name]``, each (N, *event).

    ``std_error`` is that of a mean of draws, and zero where the mean has a closed form.
    """

    mean: dict[str, Tensor]
    sample: dict[str, Tensor]
    std_error: dict[str, Tensor]


@entry_point
def sample(pair: Any, n: int, y: Any = None, *, mean: bool = False, like: Any = None, seed: int | None = None) -> X:
    """Draw n examples from the model.

    Args:
        pair: a pair.
        n: the number of examples.
        y: labels (n,), for pairs that take them, or one label for all.
        mean: return E[x|z] for the drawn z, where the likelihood has a mean.
        like: data from which the draws take what the model does not draw (masks, lengths, covariates, missing entries),
            row by row, from the first again after the last.
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


def drawn_from(pair: Any) -> str | None:
    """What z of a sample is drawn from, in words, where that is no prior of the model but was made after training."""
    told: str | None = getattr(getattr(pair.model, "prior", None), "told", None)
    return told


def _cycled(pair: Any, like: Any, start: int, size: int) -> X:
    """Rows of data from ``start`` on, from the first again after the last."""
    x, _ = everything(pair, like)
    return rows(x, (start + torch.arange(size, device=device_of(x))) % num_data(x))


@entry_point
def decode(pair: Any, latents: dict[str, Tensor], y: Any = None, *, like: Any = None, seed: int | None = None) -> X:
    """E[x|z] at given latents: (n, *event) for each site to (n, *data_shape).

    A latent site that is not given is drawn: with ``seed``, or from the present state of torch's global generators,
    which is left as it is.

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
    if not isinstance(latents, Mapping) or not latents or any(np.ndim(z) == 0 for z in latents.values()):
        raise UserError("decode: give the latents, as a dictionary from site to values (n, *event)")
    given, _ = to_device(pair, {name: tensor(z, f"latents[{name!r}]") for name, z in latents.items()})
    n = num_data(given)
    y = check_labels(pair, n, y)
    with evaluating(pair), forked(device_and_dtype(pair)[0], None if seed is None else seed_for(seed, "decode")):
        drawn = run(pair, n, y, {name: z.unsqueeze(0) for name, z in given.items()}, like)
        _refuse_unknown(given, {k: d for k, d in drawn.sites.items() if k not in drawn.data and not d.is_observed})
        return assembled(drawn, mean_or_value)


def _refuse_unknown(given: dict[str, Tensor], latents: dict[str, programs.TracedSite]) -> None:
    """Refuse values for sites that the model does not draw, or of another shape.

    Raises:
        UserError: names the site.
    """
    n = num_data(given)
    for name, z in given.items():
        if name not in latents:
            raise UserError(f"decode: the model draws no site {name!r}; its latents are {', '.join(latents)}")
        wanted = (n, *latents[name].fn.event_shape)
        if tuple(z.shape) != wanted:
            raise UserError(
                f"decode: latents[{name!r}] has shape {tuple(z.shape)} where (n, *event) = {wanted} is needed"
            )


@entry_point
def encode(pair: Any, x: Any, y: Any = None, *, num_samples: int = 1000, seed: int | None = None) -> Encoding:
    """The mean and one sample of q(z|x) for each latent site.

    With several layers, the mean of a layer is taken at the means of the layers before it. A site without a mean,
    such as a Categorical, gives its mode. A site that has neither in closed form, such as a flow, gives the mean of
    ``num_samples`` draws, and its standard error.

    Args:
        pair: a pair.
        x: data (N, *shape), or a split of ``load_data``, with its labels.
        y: labels (N,), for pairs that take them.
        num_samples: draws for a mean that has no closed form.
        seed: None draws from torch's global generators, as Pyro does.

    Returns:
        Encoding: dictionaries of (N, *event) tensors; empty for a pair without latents.

    Raises:
        UserError: no samples.

    Example:
        >>> import torch, ppl_vae as pv
        >>> pair = pv.build("vae", data_shape=(1, 8, 8), latent=2, hidden=(16,))
        >>> pv.encode(pair, torch.zeros(3, 1, 8, 8)).mean["z"].shape
        torch.Size([3, 2])
    """
    if num_samples < 1:
        raise UserError(f"num_samples={num_samples}: at least one is needed")
    x, y = as_data(pair, x, y, seed or 0)
    parts: list[tuple[dict[str, Tensor], ...]] = []
    with evaluating(pair), _seeded(pair, seed, "encode"):
        for xb, yb in blocks(pair, x, y):
            args = trace.call_args(pair.guide, xb, yb)
            drawn = _latent(programs.sites(pair.guide, args))
            means, errors = _means(pair.guide, args, num_samples)
            parts.append((means, {k: d.value[0] for k, d in drawn.items()}, errors))
    return Encoding(*joined(parts))


def _latent(found: dict[str, programs.TracedSite]) -> dict[str, programs.TracedSite]:
    """The latent sites of a guide, without those that it observes (``pyro.factor``)."""
    return {name: d for name, d in found.items() if not d.is_observed}


def _means(guide: Any, args: tuple[Any, ...], num_samples: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The mean of each site (N, *event) at the means of those before it, and its standard error."""
    held: dict[str, Tensor] = {}
    errors: dict[str, Tensor] = {}
    while True:
        found = _latent(programs.sites(guide, args, values=held, means=True))
        remaining = [name for name, d in found.items() if name not in held and mean_of(d.fn) is None]
        if not remaining:
            break
        draw = found[remaining[0]]
        total, squares = (torch.zeros_like(draw.value[0], dtype=torch.float64) for _ in range(2))
        size = max(1, ROWS // max(1, draw.value.shape[1]))
        for done in range(0, num_samples, size):
            k = min(size, num_samples - done)
            at = {name: v.expand(k, *v.shape[1:]) for name, v in held.items()}
            new = programs.sites(guide, args, num_samples=k, values=at, means=True)[remaining[0]].value.double()
            shift = draw.value[0].double()  # so that the sums stay small
            total, squares = total + (new - shift).sum(0), squares + (new - shift).square().sum(0)
        mean = total / num_samples
        variance = ((squares - num_samples * mean.square()) / (num_samples - 1 or math.nan)).clamp(min=0)
        held[remaining[0]] = (shift + mean).to(draw.value.dtype).unsqueeze(0)
        errors[remaining[0]] = (variance / num_samples).sqrt().to(draw.value.dtype)
    zero = {k: torch.zeros_like(d.value[0], dtype=_real(d.value)) for k, d in found.items()}
    return {k: d.value[0] for k, d in found.items()}, {**zero, **errors}


def _real(value: Tensor) -> torch.dtype:
    return value.dtype if value.is_floating_point() else torch.get_default_dtype()


@entry_point
def reconstruct(pair: Any, x: Any, y: Any = None, *, seed: int | None = None) -> X:
    """E[x'|z] for one z drawn from q(z|x), or a draw where the likelihood has no mean: (N, *data_shape).

    Missing entries are imputed: the reconstruction has no gaps.

    Args:
        pair: a pair.
        x: data (N, *shape) in any form, or a split of ``load_data``, with its labels.
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
            drawn = _latent(programs.sites(pair.guide, trace.call_args(pair.guide, xb, yb)))
            if not drawn:
                raise UserError(
                    "the guide draws no latents, so there is no code to reconstruct from; draw samples instead"
                )
            values = {k: d.value for k, d in drawn.items()}
            draws = programs.sites(pair.model, trace.call_args(pair.model, xb, yb), values=values, uncondition=True)
            parts.append(assembled(rerun(draws, xb), mean_or_value))
    return joined(parts)


def blocks(pair: Any, x: X | Lazy, y: Tensor | None) -> Iterator[tuple[X, Tensor | None]]:
    """Data batches and their labels, on the device of the pair."""
    for start in range(0, num_rows(x), BLOCK):
        yield to_device(pair, x, y, slice(start, start + BLOCK))


def _seeded(pair: Any, seed: int | None, purpose: str) -> Any:
    return nullcontext() if seed is None else forked(device_and_dtype(pair)[0], seed_for(seed, purpose))
