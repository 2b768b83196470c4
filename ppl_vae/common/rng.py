"""Randomness: every unit of work has its seed, so results do not depend on what ran before."""

from __future__ import annotations

import functools
import hashlib
import importlib
import random
import re
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .errors import UserError
from .numbers import plain

_DRAWS = re.compile(
    "rand|uniform|normal|bernoulli|exponential_|cauchy_|geometric_|multinomial|orthogonal_|sparse_|poisson"
)
Word: TypeAlias = Any  # a tensor of whole numbers below 2^32, or such a number
_ROUNDS = 10
_WORD = 0xFFFFFFFF


def seed_for(seed: int, purpose: str, *counters: int) -> int:
    """The 32-bit seed of one unit of work.

    Units of one purpose that differ in the last counter have distinct seeds: the counter is added to a hash of
    everything before it, modulo 2^32 (torch's CPU generator keeps only the low 32 bits of a seed).

    Args:
        seed: the user's seed.
        purpose: the kind of unit, such as ``"train"``; two purposes share no stream.
        counters: the position of the unit, such as (block of data, chunk of samples); the last one counts.

    Raises:
        UserError: the seed is no whole number.

    Example:
        >>> seed_for(0, "train", 7) - seed_for(0, "train", 6)
        1
        >>> seed_for(0, "train", 7) == seed_for(0, "score", 7)
        False
    """
    *outer, last = counters or (0,)
    number = plain(seed)
    if not isinstance(number, int):
        raise UserError(f"seed={seed!r}: a whole number is needed")
    return (_hashed(int(number), purpose, *outer) + last) % 2**32


@functools.lru_cache(maxsize=64)
def _hashed(*unit: int | str) -> int:
    return int.from_bytes(hashlib.blake2b(repr(unit).encode(), digest_size=4).digest(), "big")


def reseed(seed: int, device: torch.device | str = "cpu") -> None:
    """Seed torch's generator on the CPU and on ``device``, and no other; without waiting for a GPU."""
    torch.default_generator.manual_seed(seed)
    device = torch.device(device)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


def uniform(like: Tensor, key: Tensor) -> Tensor:
    r"""Uniform numbers in [0, 1), multiples of 2^-24, that are a function of a key alone.

    Philox 4x32-10: the same numbers on every device, in a compiled graph as outside, and faster there than torch's own.

    Args:
        like: a tensor of floats, whose shape and device the numbers take.
        key: an integer in [0, 2^32), 0-d int64, such as :func:`seed_for` gives.

    Returns:
        A float32 tensor, (*like.shape).

    Source: Salmon, Moraes, Dror, Shaw: Parallel Random Numbers: As Easy as 1, 2, 3, 2011.

    Example:
        >>> uniform(torch.empty(2, 2), torch.tensor(7))
        tensor([[0.9546, 0.7502],
                [0.1142, 0.0857]])
    """
    n = like.numel()
    count = torch.arange((n + 3) // 4, device=like.device) & _WORD  # Triton would multiply a bare index as an int32
    words = philox((count, 0, 0, 0), (key, 0))
    return torch.cat([(word >> 8).to(torch.float32) for word in words])[:n].reshape(like.shape) * 2.0**-24


def philox(counter: tuple[Word, ...], key: tuple[Word, Word]) -> tuple[Word, ...]:
    """Four random words of 32 bits, as int64, for a counter of four words and a key of two: Philox 4x32-10."""
    a, b, c, d = counter
    one, two = key
    for _ in range(_ROUNDS):
        left, right = a * 0xD2511F53, c * 0xCD9E8D57  # 64 bits, which may wrap to a negative: the words are right
        a, b, c, d = _mixed(right, b, one), _low(right), _mixed(left, d, two), _low(left)
        one, two = (one + 0x9E3779B9) & _WORD, (two + 0xBB67AE85) & _WORD
    return a, b & _WORD, c, d & _WORD


def _mixed(product: Word, word: Word, key: Word) -> Word:
    """The upper word of a product, with a word and a key; bits of ``word`` above its 32 do not count."""
    upper = product >> 32
    if torch.is_tensor(upper) and upper.dim():  # of its own: each further tensor costs as much as its numbers
        return upper.bitwise_xor_(word).bitwise_xor_(key).bitwise_and_(_WORD)
    return (upper ^ word ^ key) & _WORD


def _low(product: Word) -> Word:
    """The lower word of a product, which of a tensor may have other bits above: they are wiped out where it is used."""
    return product if torch.is_tensor(product) else product & _WORD


class DrawsByShape(TorchFunctionMode):
    """Inside, a draw depends on a seed, its function and shape, and how many such draws there were before, alone.

    So the layers of two modules that agree in shape and order have the same initial weights, whatever other layers the
    modules have. Seeds torch's generators; use inside :func:`forked`.

    Example:
        >>> with forked(), DrawsByShape(0):
        ...     one = torch.randn(3)
        >>> with forked(), DrawsByShape(0):
        ...     _, two = torch.rand(5), torch.randn(3)
        >>> bool((one == two).all())
        True
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed
        self.counts: Counter[str] = Counter()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = getattr(func, "__name__", ""), kwargs or {}
        if _DRAWS.search(name):
            given = [tuple(v.shape) if isinstance(v, Tensor) else v for v in (*args, *kwargs.values())]
            what = f"{name} {[v for v in given if isinstance(v, int | tuple)]}"
            torch.manual_seed(seed_for(self.seed, what, self.counts[what]))
            self.counts[what] += 1
        return func(*args, **kwargs)


@contextmanager
def forked(device: torch.device | str = "cpu", seed: int | None = None) -> Iterator[None]:
    """Restore the generators of the CPU and of ``device`` at the end; inside, start from ``seed`` if given.

    Example:
        >>> state = torch.get_rng_state()
        >>> with forked(seed=3):
        ...     _ = torch.rand(2)
        >>> bool((torch.get_rng_state() == state).all())
        True
    """
    device = torch.device(device)
    cuda = [torch.cuda.current_device() if device.index is None else device.index] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        if seed is not None:
            reseed(seed, device)
        yield


def quiet_import(module: str) -> Any:
    """Import a module and restore Python's global generator, from which some libraries draw when they load.

    Its warnings on loading are not shown: they concern its developers.
    """
    state = random.getstate()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(module)
    finally:
        random.setstate(state)
