"""Disentangling scores: whether each number of a code stands for one factor of the data."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..common.errors import UserError
from ..common.rng import quiet_import
from ..data.convert import tensor


def _columns(codes: Any, factors: Any, what: str) -> tuple[Tensor, Tensor]:
    """Codes (N, D) as floating numbers, and factors (N, F) as classes 0, 1, ...

    Raises:
        UserError: other shapes, codes that are not finite or all constant, or a factor with one value or a
            continuous one.
    """
    z, v = tensor(codes, "codes").cpu().double(), tensor(factors, "factors").cpu()
    v = v.unsqueeze(1) if v.dim() == 1 else v
    if z.dim() != 2 or v.dim() != 2 or len(z) != len(v):
        raise UserError(f"{what}: codes {tuple(z.shape)} and factors {tuple(v.shape)}; give (N, D) and (N, F)")
    if not bool(z.isfinite().all()):
        raise UserError(f"{what}: example {int((~z.isfinite()).any(1).nonzero()[0])} has a code that is not finite")
    if bool((z == z[:1]).all()):
        raise UserError(f"{what}: every example has the same code, which tells nothing of a factor")
    classes = torch.stack([column.unique(return_inverse=True)[1] for column in v.T], 1)
    for i, highest in enumerate(classes.amax(0).tolist()):
        if highest < 1:
            raise UserError(f"{what}: factor {i} has one value in these data, which no code can tell; leave it out")
        if v.is_floating_point() and 2 * highest > len(v):
            raise UserError(
                f"{what}: factor {i} has {highest + 1} values in {len(v)} examples: it is continuous, and these "
                f"scores are of factors with a few values; divide it into intervals"
            )
    return z, classes


def mig(codes: Any, factors: Any, bins: int = 20) -> float:
    r"""The mutual information gap, in [0, 1]: how much more the best code knows of a factor than the second best.

    .. math:: \frac1F \sum_k \frac{1}{H(v_k)} \left(I(z_{j_k}; v_k) - \max_{j \ne j_k} I(z_j; v_k)\right), \qquad
        j_k = \arg\max_j I(z_j; v_k)

    Each code is divided into intervals of equal width, and I is that of the table of counts, which is too large where
    cells hold few examples.

    Args:
        codes: (N, D), such as ``pv.codes(pair, x).values``.
        factors: (N, F), a column for each factor; each takes a few values.
        bins: intervals of each code.

    Raises:
        UserError: other shapes, fewer than two codes, or a factor with one value.

    Source: Chen, Li, Grosse, Duvenaud: Isolating Sources of Disentanglement in Variational Autoencoders, 2018,
    arXiv:1802.04942; with means of q(z|x) in place of draws.

    Example:
        >>> import ppl_vae as pv
        >>> y = pv.load_data("factors").train.y
        >>> round(pv.mig(y, y), 2)
        0.99
    """
    z, v = _columns(codes, factors, "mig")
    if z.shape[1] < 2 or bins < 2:
        raise UserError(f"mig: {z.shape[1]} codes and bins={bins}; a gap needs two codes, and two intervals of each")
    low, high = z.amin(0), z.amax(0)
    cells = ((z - low) / (high - low).clamp(min=1e-12) * bins).long().clamp(max=bins - 1)
    gaps = []
    for factor in v.T:
        known = torch.stack([_information(code, factor) for code in cells.T]).sort(descending=True).values
        gaps.append((known[0] - known[1]) / _entropy(factor.bincount()))
    return float(torch.stack(gaps).mean())


def _information(one: Tensor, other: Tensor) -> Tensor:
    """The mutual information of two columns of classes, in nats, of their table of counts."""
    count = int(other.max()) + 1
    table = torch.bincount(one * count + other, minlength=(int(one.max()) + 1) * count).reshape(-1, count)
    return _entropy(table.sum(0)) + _entropy(table.sum(1)) - _entropy(table.reshape(-1))


def _entropy(counts: Tensor) -> Tensor:
    """The entropy of shares in proportion to counts, in nats."""
    p = counts.double() / counts.sum()
    entropy: Tensor = -torch.special.xlogy(p, p).sum()
    return entropy


class DCI(NamedTuple):
    """Scores in [0, 1], and ``importance`` (D, F) of each code for each factor.

    ``disentanglement``: each code is of use for one factor. ``completeness``: each factor is in one code.
    ``informativeness``: the share of values that are predicted right on examples left out, over all factors.
    """

    disentanglement: float
    completeness: float
    informativeness: float
    importance: Tensor


def dci(codes: Any, factors: Any, *, trees: int = 50, seed: int = 0) -> DCI:
    """Disentanglement, completeness and informativeness, by random forests from codes to factors.

    Three quarters of the examples, drawn at random, are fitted; informativeness is of the rest. The entropy of a code's
    shares in the importances, to the base of the number of factors, is taken from 1 and weighted by the code's share;
    that of a factor, to the base of the number of codes, likewise without weights.

    Args:
        codes: (N, D), such as ``pv.codes(pair, x).values``.
        factors: (N, F), a column for each factor; each takes a few values.
        trees: of each forest.
        seed: of the division and of the forests.

    Raises:
        UserError: other shapes, fewer than two codes or factors, or a factor with one value.

    Source: Eastwood, Williams: A Framework for the Quantitative Evaluation of Disentangled Representations, 2018.

    Example:
        >>> import ppl_vae as pv
        >>> y = pv.load_data("factors").train.y
        >>> round(pv.dci(y, y, trees=5).disentanglement, 2)
        1.0
    """
    z, v = _columns(codes, factors, "dci")
    if min(z.shape[1], v.shape[1]) < 2:
        raise UserError(f"dci: {z.shape[1]} codes and {v.shape[1]} factors; give two of each or more")
    ensemble = quiet_import("sklearn.ensemble")
    order = torch.randperm(len(z), generator=torch.Generator().manual_seed(seed))
    fitted, left = order[len(z) // 4 :], order[: len(z) // 4]
    importance, right = [], []
    for factor in v.T:
        forest = ensemble.RandomForestClassifier(trees, max_features=None, random_state=seed)
        forest.fit(z[fitted].numpy(), factor[fitted].numpy())
        importance.append(torch.from_numpy(forest.feature_importances_))
        right.append(forest.score(z[left].numpy(), factor[left].numpy()))
    table = torch.stack(importance, 1)  # (D, F)
    weight = table.sum(1) / table.sum()
    of_code = torch.stack([1 - _entropy(row) / math.log(table.shape[1]) for row in table.clamp(min=1e-12)])
    of_factor = torch.stack([1 - _entropy(column) / math.log(table.shape[0]) for column in table.T])
    return DCI(float((weight * of_code).sum()), float(of_factor.mean()), sum(right) / len(right), table)
