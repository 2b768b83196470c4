"""Small data sets that are generated here, one for each form of data: no download, the same for the same seed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .convert import Labelled, labelled

SIZE = 2000  # examples of each


def counts(rng: np.random.Generator) -> tuple[Any, Any]:
    """Cells by genes: four groups on a curve, overdispersed, a tenth of the counts lost; sizes vary a lot."""
    group = rng.integers(4, size=SIZE)
    shift = rng.normal(size=(SIZE, 1)) * rng.normal(size=50)  # one direction inside every group
    logits = 1.2 * rng.normal(size=(4, 50))[group] + 0.5 * shift
    share = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    library = np.exp(rng.normal(np.log(300), 0.5, size=(SIZE, 1)))
    x = rng.poisson(rng.gamma(4.0, library * share / 4.0))
    return np.where(rng.random(x.shape) < 0.1, 0, x), group


def table(rng: np.random.Generator) -> tuple[Any, Any]:
    """Three real columns, one of them in the hundreds, two of 0 and 1, one of three classes, one of four; 10 % lost."""
    z = rng.normal(size=(SIZE, 2))
    real = np.stack([170 + 10 * z[:, 0], np.sin(2 * z[:, 1]), z[:, 0] * z[:, 1]], 1) + rng.normal(size=(SIZE, 3)) * 0.2
    bits = rng.random((SIZE, 2)) < 1 / (1 + np.exp(-3 * z))
    classes = [(z @ rng.normal(size=(2, n)) * 2 + rng.gumbel(size=(SIZE, n))).argmax(1) for n in (3, 4)]
    x = np.column_stack([real, bits, *classes])
    return np.where(rng.random(x.shape) < 0.1, np.nan, x), None


def views(rng: np.random.Generator) -> tuple[Any, Any]:
    """Two curved views of one point of the plane; a sixth of the examples lack one, a sixth the other."""
    group = rng.integers(3, size=SIZE)
    z = np.stack([np.cos(2.1 * group), np.sin(2.1 * group)], 1) + 0.4 * rng.normal(size=(SIZE, 2))
    maps = {name: (rng.normal(size=(2, n)), rng.normal(size=n)) for name, n in (("one", 10), ("two", 6))}
    x = {name: np.sin(1.5 * z @ a + b) + 0.2 * rng.normal(size=(SIZE, len(b))) for name, (a, b) in maps.items()}
    lost = rng.integers(6, size=SIZE)
    x["one"][lost == 0] = np.nan
    x["two"][lost == 1] = np.nan
    return x, group


def series(rng: np.random.Generator) -> tuple[Any, Any]:
    """A noisy rotation, slow or fast, seen through a curve in two numbers; 8 to 20 steps, NaN after the last."""
    kind = rng.integers(2, size=SIZE)
    angle, z = np.where(kind, 0.9, 0.4), rng.normal(size=(SIZE, 2))
    turn = np.stack([np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)], 1).reshape(SIZE, 2, 2)
    steps = []
    for _ in range(20):
        z = np.einsum("nij,nj->ni", turn, z) + 0.1 * rng.normal(size=z.shape)
        steps.append(np.tanh(z) + 0.1 * rng.normal(size=z.shape))
    over = np.arange(20) >= rng.integers(8, 21, size=(SIZE, 1))
    return np.where(over[..., None], np.nan, np.stack(steps, 1)), kind


def bags(rng: np.random.Generator) -> tuple[Any, Any]:
    """Documents by words: five topics over sixty words, one or two of them in a document of about fifty words."""
    topics = rng.dirichlet(np.full(60, 0.1), size=5)
    share = rng.dirichlet(np.full(5, 0.2), size=SIZE)
    return rng.multinomial(1 + rng.poisson(50, size=SIZE), share @ topics), share.argmax(1)


def tokens(rng: np.random.Generator) -> tuple[Any, Any]:
    """Sentences of at most nine words, padded by 0: subject, verb, perhaps an object, perhaps a second verb.

    Word 1 is an article, 2 to 4 are adjectives, 5 is "and"; each of three topics has three nouns and three verbs.
    """
    topic = rng.integers(3, size=SIZE)
    x = np.zeros((SIZE, 9), dtype=np.int64)
    for row, t in zip(x, topic, strict=True):

        def phrase(first: int = 6 + 6 * t) -> list[int]:
            adjective = [2 + int(rng.integers(3))] if rng.random() < 0.4 else []
            return [1, *adjective, first + int(rng.integers(3))]

        words = [*phrase(), 9 + 6 * t + int(rng.integers(3))]
        words += phrase() if rng.random() < 0.6 else []
        words += [5, 9 + 6 * t + int(rng.integers(3))] if rng.random() < 0.3 else []
        row[: len(words)] = words
    return x, topic


TOYS: dict[str, Callable[[np.random.Generator], tuple[Any, Any]]] = {
    "counts": counts, "table": table, "views": views, "series": series, "bags": bags, "tokens": tokens,
}  # fmt: skip


def toy(name: str, seed: int = 0) -> Labelled:
    """Data and labels (None without labels) of a toy; no global generator moves.

    Missing entries, and the steps after the end of a series, are NaN. ``views`` has two fields.

    Example:
        >>> x, y = toy("bags")
        >>> x.shape, x.dtype, sorted(set(y.tolist()))
        (torch.Size([2000, 60]), torch.int64, [0, 1, 2, 3, 4])
    """
    x, y = TOYS[name](np.random.default_rng(seed))
    x = {k: v.astype(np.float32) for k, v in x.items()} if isinstance(x, dict) else x
    x = x.astype(np.float32) if isinstance(x, np.ndarray) and x.dtype.kind == "f" else x
    return labelled(x, y, name)
