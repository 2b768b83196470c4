"""p(y | x) of every class by Bayes' rule: the classes that a generative pair gives to data, with their errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..common.entry import entry_point
from ..common.errors import UserError
from ..common.fields import num_data
from ..common.shown import Shown
from ..scoring.inputs import everything
from .estimate import log_likelihood

GIVEN, JOINT, DIRECT = "log p(x | y)", "log p(x, y)", "log p(y | x)"  # what an estimate with labels can be of


@dataclass(frozen=True, eq=False, repr=False)
class Classes(Shown):
    """log p(y | x) of every class for each example, float64 on the CPU.

    Attributes:
        log_joint: log p(x, y), (N, C) nats; of a pair that models labels alone, log p(y | x).
        std_error: its standard errors, (N, C).
        khat: Pareto k of each estimate, (N, C).
        kind: what the pair gives for a label: ``"log p(x | y)"``, ``"log p(x, y)"`` or ``"log p(y | x)"``.
        num_samples: K.
        seed: the seed.
    """

    log_joint: Tensor
    std_error: Tensor
    khat: Tensor
    kind: str
    num_samples: int
    seed: int
    y: Tensor | None = field(default=None)

    @property
    def log_probs(self) -> Tensor:
        """log p(y | x), (N, C)."""
        return self.log_joint.log_softmax(-1)

    @property
    def log_px(self) -> Tensor:
        """log p(x), (N,) nats, with the labels summed out.

        Raises:
            UserError: the pair models labels alone.
        """
        if self.kind == DIRECT:
            raise UserError("this pair models y given x, and has no p(x)")
        return self.log_joint.logsumexp(-1)

    @property
    def predicted(self) -> Tensor:
        """The most probable class, (N,)."""
        return self.log_joint.argmax(-1)

    @property
    def confidence(self) -> Tensor:
        """The probability of the most probable class, (N,)."""
        return self.log_probs.exp().amax(-1)

    @property
    def close(self) -> Tensor:
        """Whether the two most probable classes are within two standard errors, so that more samples may swap them."""
        best, where = self.log_joint.topk(min(2, self.log_joint.shape[1]), -1)
        if best.shape[1] < 2:
            return torch.zeros(len(best), dtype=torch.bool)
        error = self.std_error.gather(1, where).square().sum(-1).sqrt()
        return ~(best[:, 0] - best[:, 1] >= 2 * error)

    def accuracy(self, y: Any = None) -> float:
        """The share of examples whose most probable class is their label, among those whose label is known."""
        known, y = self._labels(y)
        return float((self.predicted[known] == y).double().mean())

    def log_loss(self, y: Any = None) -> float:
        """The mean of -log p(y | x) at the labels, in nats per example."""
        known, y = self._labels(y)
        return -float(self.log_probs[known].gather(1, y[:, None]).mean())

    def calibration_error(self, y: Any = None, bins: int = 15) -> float:
        r"""How far the confidence is from the accuracy, on average over bins of equal width.

        .. math:: \sum_b \frac{n_b}{N} | \text{accuracy}_b - \text{confidence}_b |

        Source: Guo, Pleiss, Sun, Weinberger: On Calibration of Modern Neural Networks, 2017, arXiv:1706.04599.
        """
        known, y = self._labels(y)
        right, confidence = (self.predicted[known] == y).double(), self.confidence[known]
        where = (confidence * bins).long().clamp(max=bins - 1)
        gap = torch.zeros(bins, dtype=torch.float64).index_add(0, where, right - confidence)
        return float(gap.abs().sum() / len(right))

    def _labels(self, y: Any) -> tuple[Tensor, Tensor]:
        """Which examples have a label that is known (not -1), (N,), and these labels; of the data where none are given.

        Raises:
            UserError: there are none, their number differs, or one is no class.
        """
        y = self.y if y is None else torch.as_tensor(y).cpu()
        if y is None or y.shape != self.predicted.shape:
            has = "no labels" if y is None else f"labels of shape {tuple(y.shape)}"
            raise UserError(f"{has} for {len(self.predicted)} examples: give y, a class of each")
        found: Tensor = y.long()
        no_class = (found < -1) | (found >= self.log_joint.shape[1])
        if bool(no_class.any()):
            i, last = int(no_class.nonzero()[0]), self.log_joint.shape[1] - 1
            raise UserError(f"label {int(found[i])} at index {i} is no class: give 0 to {last}, or -1 where not known")
        known = found >= 0
        if not bool(known.any()):
            raise UserError("no label is known (all are -1): give y, a class of each example, or of some")
        return known, found[known]

    def measured(self) -> dict[str, float]:
        """Of the examples whose label is known: accuracy, its standard error, log loss and calibration error."""
        if self.y is None or bool((self.y < 0).all()):
            return {}
        p, n = self.accuracy(), int((self.y >= 0).sum())
        return {
            "n_labelled": n,
            "accuracy": p,
            "accuracy_se": (p * (1 - p) / n) ** 0.5,
            "log_loss": self.log_loss(),
            "calibration_error": self.calibration_error(),
        }

    def notes(self) -> list[str]:
        n, classes = self.log_joint.shape
        about = f"{classes} classes by {self.kind}; K = {self.num_samples}, seed {self.seed}, {n} examples"
        close = int(self.close.sum())
        swapped = f"{close} of {n} examples have two classes within two standard errors: more samples may swap them"
        doubts = [swapped] if close else []
        if not (found := self.measured()):
            return [about, *doubts]
        return [
            about,
            *doubts,
            f"accuracy {found['accuracy']:.4f} ± {found['accuracy_se']:.4f}, log loss {found['log_loss']:.4f} nats, "
            f"calibration error {found['calibration_error']:.4f}"
            + (f"; of the {found['n_labelled']} whose label is known" if found["n_labelled"] < n else ""),
        ]


@entry_point
def classify(
    pair: Any,
    x: Any,
    *,
    num_classes: int | None = None,
    prior: Sequence[float] | Tensor | None = None,
    num_samples: int = 500,
    seed: int = 0,
    **options: Any,
) -> Classes:
    r"""p(y | x) of each class by Bayes' rule, from the likelihood of each example under each label.

    .. math:: p(y | x) = \frac{p(x | y) \, p(y)}{\sum_{y'} p(x | y') \, p(y')}

    Of a pair that models p(x, y), the class has its prior in it. A pair that models p(y | x) gives it directly.

    Args:
        pair: a pair whose programs take labels 0 ... C - 1.
        x: data (N, *shape), or a split, whose labels are used for the accuracy alone.
        num_classes: C; None takes ``pair.model.num_classes``.
        prior: p(y), (C,), for a pair of p(x | y); None is uniform.
        num_samples: K, for each label.
        seed: the same noise for each label. Where the guide draws the same z for all labels, as that of ``clusters``
            does, differences of labels have smaller errors than their parts; where each label has its own q(z|x, y),
            they do not: see ``Classes.close``.
        options: of :func:`ppl_vae.log_likelihood`, such as ``proposal="refined"``.

    Raises:
        UserError: the pair does not use labels, C is not known, or the prior does not fit.

    Example:
        >>> import torch, ppl_vae as pv
        >>> pair = pv.build("cvae", data_shape=(6,), num_classes=3, latent=2, hidden=(4,))
        >>> found = pv.classify(pair, torch.zeros(2, 6), num_samples=10)
        >>> found.log_probs.shape, found.log_probs.exp().sum(-1).round(decimals=5).tolist()
        (torch.Size([2, 3]), [1.0, 1.0])
    """
    count = num_classes or getattr(getattr(pair, "model", None), "num_classes", None)
    if not isinstance(count, int):
        raise UserError(
            "classify: this pair has no classes; classifier, cvae, clusters and m2 have some, and num_classes= says "
            "how many a model of your own has"
        )
    labels = getattr(x, "y", None)
    x = everything(pair, x)[0]
    each = [
        log_likelihood(pair, x, torch.full((num_data(x),), c), num_samples, seed=seed, **options) for c in range(count)
    ]
    kind = each[0].name
    if kind not in (GIVEN, JOINT, DIRECT):
        raise UserError(f"classify: this pair gives {kind} whatever the label, so it can't tell classes")
    log_joint = torch.stack([e.log_px for e in each], -1)
    if kind == GIVEN:
        log_joint = log_joint + _log_prior(prior, count)
    elif prior is not None:
        raise UserError(f"classify: this pair gives {kind}, which has its own p(y); leave the prior out")
    errors, khat = (torch.stack([getattr(e, key) for e in each], -1) for key in ("std_error", "khat"))
    return Classes(log_joint, errors, khat, kind, num_samples, seed, None if labels is None else labels.cpu())


def _log_prior(prior: Any, count: int) -> Tensor:
    p: Tensor = torch.full((count,), 1 / count) if prior is None else torch.as_tensor(prior)
    p = p.double().cpu()
    if p.shape != (count,) or not bool((p >= 0).all()) or abs(float(p.sum()) - 1) > 1e-6:
        raise UserError(f"prior={p.tolist()}: give {count} probabilities that sum to one")
    return p.log()
