"""Lossless compression with a pair: bits-back coding, whose rate is the negative ELBO.

To send x: take z from the message by q(z|x), which *gains* -log q bits; append x by p(x|z) and z by p(z). The receiver
undoes it in reverse, and puts the bits that chose z back into the message, where the next datum is found.

Townsend, Bird, Barber: Practical Lossless Compression with Latent Variables using Bits Back Coding, 2019,
arXiv:1901.04866. The entropy coder is that of ``constriction`` (Bamler: Understanding Entropy Coding With Asymmetric
Numeral Systems, 2022, arXiv:2201.01741).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyro
import torch
from torch import Tensor

from ..common.entry import entry_point
from ..common.errors import DataError, NonFiniteError, PairError, RunError, UserError
from ..common.files import digest
from ..common.rng import forked, quiet_import
from ..scoring import programs, simulate, terms, trace
from ..scoring.inputs import device_and_dtype, evaluating, everything, to_device
from ..scoring.kinds import has_mask, kind
from ..scoring.support import is_discrete
from ..scoring.validity import refuse_outside, refuse_unweighable

MAGIC = b"ppl_vae bits-back 1\n"
BLOCK = 64  # data in one pass of the networks
GRID = 2.0  # bins of a latent in one of the smallest standard deviations of the guide
BINS = 2**14  # of a latent, at most
DTYPES = {
    str(d).removeprefix("torch."): d
    for d in (
        torch.float32,
        torch.float64,
        torch.float16,
        torch.bfloat16,
        torch.bool,
        torch.uint8,
        torch.int8,
        torch.int16,
        torch.int32,
        torch.int64,
    )
}
SAFE = 2.0**-20  # the least probability of a value

Grid = dict[str, tuple[list[int], int, int]]  # by site: bins of width 2^-e for each coordinate; first and last bin


@entry_point
def compress(pair: Any, x: Any, y: Tensor | None = None) -> bytes:
    r"""Compress data to about the negative ELBO: lossless, by bits-back coding with a pair.

    .. math:: \text{bits} \approx \sum_n \frac{1}{\log 2} \big(-\mathrm{ELBO}(x_n)\big) + \text{initial bits}

    The first latent is taken from random words that start the message; they are part of it, and so are counted.
    Each coordinate of a latent is rounded to a grid that is fine against the guide's standard deviation there, which
    costs next to nothing (more where that deviation varies over 2^14-fold). The message is read back before it is
    returned. It can be read by the same weights only, with the same version of torch on the same kind of machine, since
    both sides must compute the same probabilities to the last bit.

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
    _constriction()
    given = x
    numbers, y = everything(pair, x, y, 0)
    if not torch.is_tensor(numbers):
        raise DataError("compress takes data of one tensor (N, *data_shape), not several fields")
    whole = (
        torch.is_tensor(given) and not given.is_floating_point() and (given.dtype != torch.uint8 or given.max() <= 1)
    )
    x = given.detach() if whole else numbers  # they come back in the type that they had
    numbers = numbers if numbers.is_floating_point() else numbers.to(device_and_dtype(pair)[1])
    with _still(pair):
        grid, width = _survey(pair, numbers, y)
        spare = 64 + 32 * math.ceil(width / 32)  # bits that the latents of one datum take
        length = 4 + spare // 32
        while (found := _encoded(pair, numbers, y, grid, spare, length)) is None:
            length *= 2
    coder, sizes = found
    payload = np.asarray(coder.get_compressed(), dtype="<u4").tobytes()
    about = {
        "n": len(x), "shape": list(x.shape[1:]), "dtype": str(x.dtype).removeprefix("torch."), "sizes": _runs(sizes),
        "grid": grid, "pair": _identity(pair), "data": digest({"x": x})[:16], "initial_bits": 32 * length,
        "torch": torch.__version__, "labels": y is not None and trace.takes_labels(pair.model),
    }  # fmt: skip
    head = json.dumps(about, separators=(",", ":")).encode()
    if not torch.equal(_decoded(pair, y, about, payload), x):
        raise DataError(
            "the data do not come back exactly: give them as the likelihood has them, as 0 and 1, or as k / 255 in the "
            "type of the pair's parameters"
        )
    body = MAGIC + len(head).to_bytes(4, "little") + head + payload
    return body + hashlib.sha256(body).digest()[:16]


def _encoded(
    pair: Any, x: Tensor, y: Tensor | None, grid: Grid, spare: int, length: int
) -> tuple[Any, list[int]] | None:
    """The coder with all data, and the sizes of the blocks; None where so many initial words did not last."""
    words = np.random.default_rng(0).integers(0, 2**32, length, dtype=np.uint32)
    words[-1] |= 1  # the last word of a message can't be zero
    coder = _constriction().stack.AnsCoder(words, seal=True)
    sizes: list[int] = []
    start = 0
    while start < len(x):
        # as many data as the message has bits for, so that only the first needs bits of its own
        size = int(min(BLOCK, len(x) - start, max(1, (coder.num_valid_bits() - 64) // spare)))
        xb, yb = to_device(pair, x, y, slice(start, start + size))
        xb = xb.clone()  # as the reader has them: kernels round by the alignment of what they are given
        guide = programs.sites(pair.guide, trace.call_args(pair.guide, xb, yb), values=_Latents(coder, grid).pop)
        if coder.num_valid_bits() < 64:
            return None
        values = {n: d.value for n, d in _latent(guide).items()}
        model = programs.sites(pair.model, trace.call_args(pair.model, xb, yb), values=values)
        for name, site in reversed(model.items()):
            _push(coder, name, site.fn, site.value, grid)
        sizes.append(size)
        start += size
    return coder, sizes


@entry_point
def decompress(pair: Any, blob: bytes, y: Tensor | None = None) -> Tensor:
    """The data that :func:`compress` made a message of.

    Args:
        pair: the pair that compressed them.
        blob: the message.
        y: the labels that were given to :func:`compress`.

    Returns:
        x (N, *shape), on the CPU.

    Raises:
        RunError: the message is truncated, damaged or foreign, was made by another pair, or is read by another version
            of torch or kind of machine, which computes other probabilities.
        UserError: ``constriction`` is not installed.

    Example:
        >>> import ppl_vae as pv
        >>> pair = pv.build("vae", data_shape=(6,), latent=2, hidden=(8,))
        >>> pv.decompress(pair, b"PK...")
        Traceback (most recent call last):
        ppl_vae.common.errors.RunError: not a message of pv.compress: it starts otherwise
    """
    _constriction()
    about, payload = _opened(blob)
    if about["pair"] != _identity(pair):
        raise RunError("the message was made by another pair, or by other weights of it; load those")
    n = _checked(about)[0]
    if about.get("labels") and y is None:
        raise RunError(f"the message was made with labels: give the same y ({n},) to read it")
    if y is not None and len(y) != n:
        raise RunError(f"the message holds {n} data, and {len(y)} labels were given; give one a datum")
    try:
        x = _decoded(pair, y, about, payload)
        whole = digest({"x": x})[:16] == about["data"]
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:  # the coder's panics, at bits that compress can't have made, are no Exceptions
        raise RunError(_elsewhere(about, y)) from error
    if not whole:
        raise RunError(_elsewhere(about, y))
    return x


def _decoded(pair: Any, y: Tensor | None, about: dict[str, Any], payload: bytes) -> Tensor:
    """The data of a message whose head was checked."""
    n, shape, dtype, sizes, grid = _checked(about)
    coder = _constriction().stack.AnsCoder(np.frombuffer(payload, dtype="<u4").astype(np.uint32))
    parts: list[Tensor] = []
    stop = n
    with _still(pair):
        for size in reversed(sizes):
            yb = None if y is None else y[stop - size : stop].to(device_and_dtype(pair)[0])
            drawn = simulate.run(pair, size, yb, _Latents(coder, grid).pop)
            xb = next(iter(drawn.data.values())).value[0]
            values = {name: d.value for name, d in drawn.sites.items() if not d.is_observed}
            guide = programs.sites(pair.guide, trace.call_args(pair.guide, xb, yb), values=values)
            for name, site in reversed(_latent(guide).items()):
                _push(coder, name, site.fn, site.value, grid)
            parts.append(xb.cpu())
            stop -= size
    return torch.cat(parts[::-1]).reshape(n, *shape).to(dtype)


def _elsewhere(about: dict[str, Any], y: Tensor | None) -> str:
    made, here = about.get("torch"), torch.__version__
    where = f"made with torch {made}, read with {here}" if made != here else "made on another kind of machine, perhaps"
    labels = "" if y is None else ", or with other labels"
    return f"the message decodes to other data than went in ({where}{labels}); read it where it was made"


class _Latents:
    """Takes each site's value from the message, in the order in which a program draws them."""

    def __init__(self, coder: Any, grid: Grid) -> None:
        self.coder, self.grid = coder, grid

    def pop(self, name: str, fn: Any) -> Tensor:
        shape = fn.batch_shape + fn.event_shape
        family, params, values = _coding(name, fn, torch.Size(shape), self.grid)
        symbols = self.coder.decode(family, *params)
        index = torch.from_numpy(np.asarray(symbols)).long()
        drawn = index * _widths(name, shape, self.grid) if values is None else values[index]
        device, dtype = _like(fn)
        leaf = _leaf(name, fn)
        if kind(leaf) not in ("Normal", "Bernoulli"):
            dtype = leaf.enumerate_support(expand=False).dtype  # a Categorical is an index
        return drawn.reshape(shape).to(device, dtype)


def _push(coder: Any, name: str, fn: Any, value: Tensor, grid: Grid) -> None:
    shape = torch.Size(fn.batch_shape + fn.event_shape)
    family, params, values = _coding(name, fn, shape, grid)
    flat = value.detach().expand(shape).reshape(-1).double().cpu()
    if values is None:
        symbols = torch.round(flat / _widths(name, shape, grid))
    else:
        symbols = torch.searchsorted((values[1:] + values[:-1]) / 2, flat)
    coder.encode_reverse(symbols.to(torch.int32).numpy(), family, *params)


def _latent(sites: dict[str, programs.TracedSite]) -> dict[str, programs.TracedSite]:
    """The sites of a guide without its factors, which are no latents."""
    return {name: site for name, site in sites.items() if not site.is_observed}


def _widths(name: str, shape: torch.Size, grid: Grid) -> Tensor:
    """The width of the bin of each coordinate of a site, one after another."""
    exponents = torch.tensor(grid[name][0], dtype=torch.float64)
    return (2.0**-exponents).expand(shape.numel() // len(exponents), -1).reshape(-1)


def _coding(name: str, fn: Any, shape: torch.Size, grid: Grid) -> tuple[Any, list[Any], Tensor | None]:
    """The entropy model of a site, its parameters, and the values of its symbols; None where those are bins."""
    models = _constriction().model
    leaf = _leaf(name, fn)

    def flat(parameter: Tensor) -> Any:
        return np.ascontiguousarray(parameter.detach().expand(shape).reshape(-1).double().cpu().numpy())

    if kind(leaf) == "Normal":
        _, first, last = grid[name]
        width = _widths(name, shape, grid).numpy()
        return models.QuantizedGaussian(first, last), [flat(leaf.loc) / width, flat(leaf.scale) / width], None
    if kind(leaf) == "Bernoulli":
        p = np.clip(flat(torch.sigmoid(leaf.logits.double())), SAFE, 1 - SAFE)
        return models.Bernoulli(perfect=False), [p], torch.tensor([0.0, 1.0], dtype=torch.float64)
    support = leaf.enumerate_support(expand=False)  # (V, 1, ...)
    with pyro.validation_enabled(False):
        table = torch.exp(leaf.log_prob(support).double())  # (V, ...)
    table = table.expand(len(support), *shape).reshape(len(support), -1).T.clamp(min=SAFE)
    values = support.reshape(-1).double().cpu()
    return models.Categorical(perfect=False), [np.ascontiguousarray(table.detach().cpu().numpy())], values


def _leaf(name: str, fn: Any) -> Any:
    """The distribution of one number, under its event dimensions.

    Raises:
        PairError: its kind can't be coded.
    """
    leaf = fn
    while isinstance(leaf, torch.distributions.Independent):
        leaf = leaf.base_dist
    known = kind(leaf) in ("Normal", "Bernoulli") or getattr(leaf, "has_enumerate_support", False)
    if not known or leaf.event_shape or hasattr(leaf, "base_dist") or has_mask(fn):
        raise PairError(
            f"site {name!r}: {kind(fn)} can't be coded; compress takes sites that are discrete with few values, and "
            f"latents that are Normal with independent coordinates"
        )
    return leaf


def _like(fn: Any) -> tuple[torch.device, torch.dtype]:
    leaf = fn
    while hasattr(leaf, "base_dist"):
        leaf = leaf.base_dist
    first = getattr(leaf, next(iter(leaf.arg_constraints)))
    return first.device, first.dtype


def _survey(pair: Any, x: Tensor, y: Tensor | None) -> tuple[Grid, float]:
    """One pass over the data: a grid for each latent site, and the bits that the latents of one datum may take."""
    seen: dict[str, list[tuple[Tensor, Tensor]]] = {}
    width = 0.0
    for start in range(0, len(x), 1024):
        xb, yb = to_device(pair, x, y, slice(start, start + 1024))
        found = _latent(programs.sites(pair.guide, trace.call_args(pair.guide, xb, yb)))
        if start == 0:
            _refuse(pair, xb, yb, found)
        for name, site in found.items():
            leaf = _leaf(name, site.fn)
            if kind(leaf) != "Normal":
                width += 0 if start else site.fn.event_shape.numel() * 24
                continue
            loc, scale = (
                p.detach().double().cpu().expand(1, *site.value.shape[1:]).reshape(len(xb), -1)
                for p in (leaf.loc, leaf.scale)
            )
            if not bool(torch.isfinite(loc).all() & torch.isfinite(scale).all() & (scale > 0).all()):
                raise NonFiniteError(f"site {name!r}: the guide's mean or scale is not finite and positive")
            seen.setdefault(name, []).append((loc, scale))
    grid: Grid = {}
    for name, parts in seen.items():
        loc, scale = (torch.cat(column) for column in zip(*parts, strict=True))  # (N, coordinates)
        low, high = (loc - 8 * scale).amin(0).clamp(max=0), (loc + 8 * scale).amax(0).clamp(min=0)
        small = scale.sort(0).values[len(scale) // 20]  # exceeded by 95 % of the data
        step = torch.maximum(small / GRID, (high - low) / BINS)
        exponents = torch.floor(-torch.log2(step))
        step = 2.0**-exponents
        ends = int(torch.floor(low / step).min()), int(torch.ceil(high / step).max())
        grid[name] = ([int(e) for e in exponents], *ends)
        rounded = torch.log2(scale / step).clamp(min=0).mean(0) + 2.1  # the entropy of a rounded Gaussian
        width += float((rounded + 1).sum())  # and a margin
    return grid, width


def _refuse(pair: Any, x: Tensor, y: Tensor | None, guide: dict[str, programs.TracedSite]) -> None:
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
        _leaf(name, site.p)


@contextmanager
def _still(pair: Any) -> Iterator[None]:
    """What both sides must share to compute the same probabilities: evaluation mode, one thread, full precision."""
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
    return digest(dict(pair.state_dict()))[:16]


def _runs(sizes: list[int]) -> list[list[int]]:
    """[1, 1, 2] to [[1, 2], [2, 1]]: each size and how often it follows itself."""
    found: list[list[int]] = []
    for size in sizes:
        if found and found[-1][0] == size:
            found[-1][1] += 1
        else:
            found.append([size, 1])
    return found


def _opened(blob: bytes) -> tuple[dict[str, Any], bytes]:
    """The head and the payload of a message, checked."""
    if not isinstance(blob, bytes) or not blob.startswith(MAGIC):
        raise RunError("not a message of pv.compress: it starts otherwise")
    if len(blob) < len(MAGIC) + 20 or hashlib.sha256(blob[:-16]).digest()[:16] != blob[-16:]:
        raise RunError("the message is truncated or damaged: its checksum does not match; take it from a copy")
    at = len(MAGIC) + 4
    size = int.from_bytes(blob[len(MAGIC) : at], "little")
    try:
        about = json.loads(blob[at : at + size])
    except ValueError:
        about = None
    if not isinstance(about, dict) or "pair" not in about or (len(blob) - 16 - at - size) % 4:
        raise RunError("the head of the message can't be read: it was edited; take it from a copy")
    return about, blob[at + size : -16]


def _checked(about: dict[str, Any]) -> tuple[int, list[int], torch.dtype, list[int], Grid]:
    """What a head says, if it can be true: the number and the shape of the data, their type, the blocks, the grid.

    Raises:
        RunError: it can't.
    """
    try:
        n, shape, runs = int(about["n"]), [int(d) for d in about["shape"]], about["sizes"]
        dtype = DTYPES[about["dtype"]]
        grid: Grid = {str(name): ([int(i) for i in e], int(a), int(b)) for name, (e, a, b) in about["grid"].items()}
        whole = all(0 < size <= BLOCK and 0 < count <= n for size, count in runs)
        whole &= sum(size * count for size, count in runs) == n and min(shape, default=1) > 0
        whole &= all(e and max(map(abs, e)) < 1000 and -(2**23) < a < b < 2**23 for e, a, b in grid.values())
        whole &= isinstance(about["data"], str)
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
        whole = False
    if not whole:
        raise RunError("the head of the message can't be true: it was edited; take it from a copy")
    return n, shape, dtype, [size for size, count in runs for _ in range(count)], grid


def _constriction() -> Any:
    try:
        return quiet_import("constriction").stream
    except ImportError:
        raise UserError("compression needs the package constriction: pip install 'ppl_vae[codec]'") from None
