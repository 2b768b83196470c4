"""Samples, reconstructions and codes."""

from __future__ import annotations

import inspect
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from . import weights
from .errors import UserError
from .kinds import mean_of
from .numbers import plainly
from .rng import forked, seed_for
from .setting import as_data, evaluating, home, placed


class Encoding(NamedTuple):
    """q(z|x) by latent site: ``mean[name]`` and ``sample[name]``, each (N, *event)."""

    mean: dict[str, Tensor]
    sample: dict[str, Tensor]


def data_site(draws: dict[str, weights.Draw]) -> weights.Draw:
    """The site that holds the data: "x" by convention, else the first that is observed."""
    if "x" in draws:
        return draws["x"]
    for draw in draws.values():
        if draw.is_observed:
            return draw
    raise UserError('the model has no site for the data; write pyro.sample("x", ..., obs=x)')


def _generate(pair: Any, n: int, y: Tensor | None, latents: dict[str, Tensor] | None = None) -> weights.Draw:
    """The data site of the model, run without data, at given latents (1, n, *event) where there are any."""
    return data_site(run_model(pair, n, y, latents))


def run_model(pair: Any, n: int, y: Tensor | None, latents: weights.Values | None) -> dict[str, weights.Draw]:
    """The sites of the model, run without data under one particle, with given latents."""
    device, dtype = home(pair)
    y = None if y is None else y.to(device)
    target = pair.model.forward if isinstance(pair.model, nn.Module) else pair.model
    names = inspect.signature(target).parameters
    args: tuple[Any, ...]
    if "n" in names and "x" in names:
        args, kwargs = weights.call_args(pair.model, None, y), {"n": n}
    elif pair.data_shape is not None:  # stock code needs data to run: give it zeros, and draw over them
        args, kwargs = (
            weights.call_args(pair.model, torch.zeros(n, *pair.data_shape, device=device, dtype=dtype), y),
            {},
        )
    else:
        raise UserError(
            "this model can't run without data: write model(x=None, y=None, n=1), or give the shape of a datum, "
            "pv.Pair(model, guide, data_shape=(784,))"
        )
    return weights.sites(pair.model, args, kwargs, values=latents, uncondition=True)


def check_labels(n: int, y: Tensor | None) -> None:
    """Refuse a number of data to simulate that makes no sense, or that differs from that of the labels."""
    if n < 1:
        raise UserError(f"num_data={n}: at least one is needed")
    if y is not None and len(y) != n:
        raise UserError(f"num_data={n} with {len(y)} labels; give one label a datum")


def simulate(pair: Any, n: int, y: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
    """Draw n data from the model together with their latents: x (n, *data_shape), and (1, n, *event) by site.

    Given its x, each z is an exact draw from the posterior. Draws from torch's global generators.
    """
    found = run_model(pair, n, y, None)
    data = data_site(found)
    return data.value[0], {name: d.value for name, d in found.items() if d is not data and not d.is_observed}


def _mean_or_value(draw: weights.Draw) -> Tensor:
    mean = mean_of(draw.fn)
    return draw.value if mean is None else mean


@plainly
def sample(pair: Any, n: int, y: Tensor | None = None, *, mean: bool = False, seed: int | None = None) -> Tensor:
    """Draw n data from the model.

    Args:
        pair: a pair.
        n: how many.
        y: labels (n,), for pairs that take them.
        mean: return E[x|z] for the drawn z, as pictures show, where the likelihood has a mean.
        seed: None draws from torch's global generators, as Pyro does.

    Returns:
        (n, *data_shape).

    Raises:
        UserError: n < 1, labels of another length, or a model that needs data and no ``data_shape``.

    Example:
        >>> import ppl_vae as pv
        >>> pair = pv.build("vae", data_shape=(1, 8, 8), latent=2, hidden=(16,))
        >>> pv.sample(pair, 5).shape
        torch.Size([5, 1, 8, 8])
    """
    if n < 1:
        raise UserError(f"n={n}: draw at least one")
    if y is not None and len(y) != n:
        raise UserError(f"{len(y)} labels for {n} samples; give one label a sample")
    with evaluating(pair), _seeded(pair, seed, "sample"):
        draw = _generate(pair, n, y)
        return (_mean_or_value(draw) if mean else draw.value)[0]


@plainly
def decode(pair: Any, latents: dict[str, Tensor], y: Tensor | None = None, *, seed: int | None = None) -> Tensor:
    """E[x|z] at given latents: (n, *event) for each site to (n, *data_shape).

    A latent site that is not given is drawn: with ``seed``, or as torch's global generators stand, which do not move.

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
    n = len(next(iter(latents.values())))
    device, dtype = home(pair)
    values = {name: z.to(device, dtype if z.is_floating_point() else None).unsqueeze(0) for name, z in latents.items()}
    with evaluating(pair), forked(device, None if seed is None else seed_for(seed, "decode")):
        draw = _generate(pair, n, y, values)
        return _mean_or_value(draw)[0]


@plainly
def encode(pair: Any, x: Any, y: Tensor | None = None, *, seed: int | None = None) -> Encoding:
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
    x, y = placed(pair, *as_data(x, y, seed or 0))
    args = weights.call_args(pair.guide, x, y)
    with evaluating(pair), _seeded(pair, seed, "encode"):
        drawn = weights.sites(pair.guide, args)
        means = weights.sites(pair.guide, args, means=True)
    return Encoding({k: d.value[0] for k, d in means.items()}, {k: d.value[0] for k, d in drawn.items()})


@plainly
def reconstruct(pair: Any, x: Any, y: Tensor | None = None, *, seed: int | None = None) -> Tensor:
    """E[x'|z] for one z drawn from q(z|x), or a draw where the likelihood has no mean: (N, *data_shape).

    Args:
        pair: a pair.
        x: data (N, *shape), or a split of ``load_data``, which brings its labels.
        y: labels (N,), for pairs that take them.
        seed: None draws from torch's global generators, as Pyro does.

    Raises:
        UserError: the pair has no latents, so there is nothing to reconstruct from.

    Example:
        >>> import torch, ppl_vae as pv
        >>> pair = pv.build("vae", data_shape=(1, 8, 8), latent=2, hidden=(16,))
        >>> pv.reconstruct(pair, torch.zeros(3, 1, 8, 8)).shape
        torch.Size([3, 1, 8, 8])
    """
    x, y = placed(pair, *as_data(x, y, seed or 0))
    with evaluating(pair), _seeded(pair, seed, "reconstruct"):
        drawn = weights.sites(pair.guide, weights.call_args(pair.guide, x, y))
        if not drawn:
            raise UserError("this pair has no latents, so there is no code to reconstruct from; draw samples instead")
        values = {k: d.value for k, d in drawn.items()}
        draws = weights.sites(pair.model, weights.call_args(pair.model, x, y), values=values, uncondition=True)
        return _mean_or_value(data_site(draws))[0]


def _seeded(pair: Any, seed: int | None, purpose: str) -> Any:
    return nullcontext() if seed is None else forked(home(pair)[0], seed_for(seed, purpose))
