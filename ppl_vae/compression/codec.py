"""Lossless compression with a pair: bits-back coding, whose rate is the negative ELBO.

To encode x: take z from the message by q(z|x), which *gains* -log q bits; append x by p(x|z) and z by p(z). Decoding
reverses this, and returns to the message the bits that chose z, where the next example lies.

Townsend, Bird, Barber: Practical Lossless Compression with Latent Variables using Bits Back Coding, 2019,
arXiv:1901.04866.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyro
import torch
from torch import Tensor

from ..common.entry import entry_point
from ..common.errors import DataError, NonFiniteError, PairError, RunError
from ..common.files import digest
from ..common.rng import forked
from ..scoring import programs, simulate, terms, trace
from ..scoring.inputs import device_and_dtype, evaluating, everything, to_device
from ..scoring.kinds import kind
from ..scoring.support import is_discrete
from ..scoring.validity import refuse_outside, refuse_unweighable
from . import message
from .coding import SiteCoder, constriction, grid_of, leaf_of
from .message import BLOCK, Grid

SURVEY_BLOCK = 1024  # examples in one pass of the guide that makes the grid


@entry_point
def compress(pair: Any, x: Any, y: Tensor | None = None) -> bytes:
    r"""Compress data to about the negative ELBO: lossless, by bits-back coding with a pair.

    .. math:: \text{bits} \approx \sum_n \frac{1}{\log 2} \big(-\mathrm{ELBO}(x_n)\big) + \text{initial bits}

    The first latent is taken from random words that start the message; they are part of it, and so are counted.
    Each coordinate of a latent is rounded to a grid that is fine against the guide's standard deviation there, at
    almost no cost (more where that deviation varies over 2^14-fold). The message is decoded again before it is
    returned. Decoding needs the same weights, the same version of torch and the same kind of machine, since encoder and
    decoder must compute the same probabilities to the last bit.

    Args:
        pair: a pair with a discrete likelihood and latents that are Normal, or discrete, in model and guide.
        x: data (N, *shape), such as binarised images; or a split, which brings its labels.
        y: labels (N,), for pairs that take them; they are not part of the message.

    Returns:
        The message.

    Raises:
        UserError: ``constriction`` is not installed.
        PairError: the likelihood is a density, or a site is of a kind that can't be coded; names the site.
        DataError: no data, data outside the support of the likelihood, or not exactly one of its values.
        NonFiniteError: the guide is not finite; names the site.

    Source: Townsend, Bird, Barber: Practical Lossless Compression with Latent Variables using Bits Back Coding, 2019,
    arXiv:1901.04866.

    Example:
        >>> import torch, ppl_vae as pv
        >>> pair = pv.build("vae", data_shape=(6,), latent=2, hidden=(8,))
        >>> x = (torch.rand(50, 6, generator=torch.Generator().manual_seed(0)) > 0.5).float()
        >>> blob = pv.compress(pair, x)
        >>> bool(torch.equal(pv.decompress(pair, blob), x))
        True
    """
    constriction()
    given = x
    numbers, y = everything(pair, x, y, 0)
    if not torch.is_tensor(numbers):
        raise DataError("compress takes data of one tensor (N, *data_shape), not several fields")
    keep_dtype = (
        torch.is_tensor(given) and not given.is_floating_point() and (given.dtype != torch.uint8 or given.max() <= 1)
    )
    x = given.detach() if keep_dtype else numbers  # what decompress must return
    numbers = numbers if numbers.is_floating_point() else numbers.to(device_and_dtype(pair)[1])
    with _reproducible(pair):
        grid, bits = _survey(pair, numbers, y)
        spare = 64 + 32 * math.ceil(bits / 32)  # bits that the latents of one example take
        length = 4 + spare // 32
        while (encoded := _encoded(pair, numbers, y, grid, spare, length)) is None:
            length *= 2
    payload, sizes = encoded
    header = {
        "n": len(x), "shape": list(x.shape[1:]), "dtype": str(x.dtype).removeprefix("torch."),
        "sizes": message.run_lengths(sizes), "grid": grid, "pair": _identity(pair), "data": digest({"x": x})[:16],
        "initial_bits": 32 * length, "torch": torch.__version__,
        "labels": y is not None and trace.takes_labels(pair.model),
    }  # fmt: skip
    blob = message.write(header, payload)
    if not torch.equal(_decoded(pair, y, *message.read(blob)), x):
        raise DataError(
            "the data do not come back exactly: give them as the likelihood has them, as 0 and 1, or as k / 255 in the "
            "type of the pair's parameters"
        )
    return blob


def _encoded(
    pair: Any, x: Tensor, y: Tensor | None, grid: Grid, spare: int, length: int
) -> tuple[bytes, list[int]] | None:
    """The coded data, and the sizes of the blocks; None where ``length`` initial words are too few."""
    words = np.random.default_rng(0).integers(0, 2**32, length, dtype=np.uint32)
    words[-1] |= 1  # the last word of a message can't be zero
    sites = SiteCoder(words, grid, seal=True)
    sizes: list[int] = []
    start = 0
    while start < len(x):
        # as many examples as the message has bits for, so that only the first needs initial bits
        size = int(min(BLOCK, len(x) - start, max(1, (sites.coder.num_valid_bits() - 64) // spare)))
        xb, yb = to_device(pair, x, y, slice(start, start + size))
        xb = xb.clone()  # as the decoder has them: kernels round by the alignment of their input
        guide = programs.sites(pair.guide, trace.call_args(pair.guide, xb, yb), values=sites.pop)
        if sites.coder.num_valid_bits() < 64:
            return None
        values = {name: site.value for name, site in _latent(guide).items()}
        model = programs.sites(pair.model, trace.call_args(pair.model, xb, yb), values=values)
        for name, site in reversed(model.items()):
            sites.push(name, site.fn, site.value)
        sizes.append(size)
        start += size
    return np.asarray(sites.coder.get_compressed(), dtype="<u4").tobytes(), sizes


@entry_point
def decompress(pair: Any, blob: bytes, y: Tensor | None = None) -> Tensor:
    """The data that :func:`compress` encoded in a message.

    Args:
        pair: the pair that compressed them.
        blob: the message.
        y: the labels that were given to :func:`compress`.

    Returns:
        x (N, *shape), on the CPU.

    Raises:
        RunError: the message is truncated, damaged or foreign, was made by another pair, or is read with another
            version of torch or on another kind of machine, which computes other probabilities.
        UserError: ``constriction`` is not installed.

    Example:
        >>> import ppl_vae as pv
        >>> pair = pv.build("vae", data_shape=(6,), latent=2, hidden=(8,))
        >>> pv.decompress(pair, b"PK...")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ppl_vae.common.errors.RunError: not a message of pv.compress: its first bytes differ; ...
    """
    constriction()
    header, payload = message.read(blob)
    if header["pair"] != _identity(pair):
        raise RunError("the message was made by another pair, or by other weights of it; load those")
    n = message.layout(header).n
    if header.get("labels") and y is None:
        raise RunError(f"the message was made with labels: give the same y ({n},) to read it")
    if y is not None and len(y) != n:
        raise RunError(f"the message holds {n} examples, and {len(y)} labels were given; give one for each example")
    try:
        x = _decoded(pair, y, header, payload)
        same = digest({"x": x})[:16] == header["data"]
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except (
        BaseException
    ) as error:  # the coder panics at bits that compress can't have made, and a panic is no Exception
        raise RunError(_other_data(header, y)) from error
    if not same:
        raise RunError(_other_data(header, y))
    return x


def _decoded(pair: Any, y: Tensor | None, header: dict[str, Any], payload: bytes) -> Tensor:
    """The data of a message."""
    n, shape, dtype, sizes, grid = message.layout(header)
    sites = SiteCoder(np.frombuffer(payload, dtype="<u4").astype(np.uint32), grid)
    parts: list[Tensor] = []
    stop = n
    with _reproducible(pair):
        for size in reversed(sizes):
            yb = None if y is None else y[stop - size : stop].to(device_and_dtype(pair)[0])
            drawn = simulate.run(pair, size, yb, sites.pop)
            xb = next(iter(drawn.data.values())).value[0]
            values = {name: site.value for name, site in _latent(drawn.sites).items()}
            guide = programs.sites(pair.guide, trace.call_args(pair.guide, xb, yb), values=values)
            for name, site in reversed(_latent(guide).items()):
                sites.push(name, site.fn, site.value)
            parts.append(xb.cpu())
            stop -= size
    return torch.cat(parts[::-1]).reshape(n, *shape).to(dtype)


def _other_data(header: dict[str, Any], y: Tensor | None) -> str:
    """Why a message may decode to other data than it was made of."""
    made, here = header.get("torch"), torch.__version__
    where = f"made with torch {made}, read with {here}" if made != here else "made on another kind of machine, perhaps"
    labels = "" if y is None else ", or with other labels"
    return f"the message decodes to other data than it was made of ({where}{labels}); read it where it was made"


def _latent(sites: dict[str, programs.TracedSite]) -> dict[str, programs.TracedSite]:
    """The latent sites of a program, without what it observes: data, or the factors of a guide."""
    return {name: site for name, site in sites.items() if not site.is_observed}


def _survey(pair: Any, x: Tensor, y: Tensor | None) -> tuple[Grid, float]:
    """One pass over the data: the grid of each Normal latent, and the bits that the latents of one example may take."""
    found: dict[str, list[tuple[Tensor, Tensor]]] = {}
    bits = 0.0
    for start in range(0, len(x), SURVEY_BLOCK):
        xb, yb = to_device(pair, x, y, slice(start, start + SURVEY_BLOCK))
        latents = _latent(programs.sites(pair.guide, trace.call_args(pair.guide, xb, yb)))
        if start == 0:
            _refuse_uncodable(pair, xb, yb, latents)
        for name, site in latents.items():
            leaf = leaf_of(name, site.fn)
            if kind(leaf) != "Normal":
                bits += 0 if start else site.fn.event_shape.numel() * 24
                continue
            loc, scale = (
                p.detach().double().cpu().expand(1, *site.value.shape[1:]).reshape(len(xb), -1)
                for p in (leaf.loc, leaf.scale)
            )
            if not bool(torch.isfinite(loc).all() & torch.isfinite(scale).all() & (scale > 0).all()):
                raise NonFiniteError(f"site {name!r}: the guide's mean or scale is not finite and positive")
            found.setdefault(name, []).append((loc, scale))
    grid: Grid = {}
    for name, blocks in found.items():
        grid[name], site_bits = grid_of(*(torch.cat(column) for column in zip(*blocks, strict=True)))
        bits += site_bits
    return grid, bits


def _refuse_uncodable(pair: Any, x: Tensor, y: Tensor | None, guide: dict[str, programs.TracedSite]) -> None:
    """Refuse a pair that can't be coded, before any work."""
    if not guide:
        raise PairError(
            "compress needs latents: this pair has none, and its likelihood would have to be coded in order"
        )
    t = terms.terms(pair.model, pair.guide, x[:1], None if y is None else y[:1])
    refuse_unweighable(t, cover=False)
    refuse_outside(t)
    if t.summed:
        raise PairError(f"compress can't sum out {', '.join(t.summed)}: let the guide draw it")
    if len(t.observed) != 1:
        raise PairError(f"compress needs one observed site, the data; this model observes {', '.join(t.observed)}")
    for name, site in t.observed.items():
        if not is_discrete(site.p):
            raise PairError(
                f"site {name!r}: {kind(site.p)} is a density, so there is no finite code for its data; use a discrete "
                f"likelihood (bernoulli, discretized)"
            )
        leaf_of(name, site.p)


@contextmanager
def _reproducible(pair: Any) -> Iterator[None]:
    """Encoder and decoder compute the same probabilities: evaluation mode, one thread, full precision."""
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    try:
        torch.set_num_threads(1)
        torch.set_float32_matmul_precision("highest")
        with evaluating(pair), forked(device_and_dtype(pair)[0], 0), pyro.validation_enabled(False):
            yield
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)


def _identity(pair: Any) -> str:
    """A digest of the weights."""
    return digest(dict(pair.state_dict()))[:16]
