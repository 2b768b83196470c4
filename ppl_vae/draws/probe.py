"""A probe: how well a linear classifier reads the labels from the codes, beside the data themselves and their PCA."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..common.entry import entry_point
from ..common.errors import UserError
from ..common.rng import quiet_import
from ..common.shown import Shown
from ..data.splits import Split
from .codes import codes


class _Probe(NamedTuple):
    accuracy: dict[str, float]
    size: dict[str, int]
    num_train: int
    num_test: int


class Probe(Shown, _Probe):
    """What a logistic regression gets right of the test labels.

    Attributes:
        accuracy: by features: ``codes``, ``data``, ``pca`` (of the data, as many numbers as the code has), and
            ``majority``, the commonest label alone.
        size: how many numbers each has.
        num_train: examples that it was fitted to.
        num_test: examples of the accuracy.
    """

    __slots__ = ()

    def error(self, name: str) -> float:
        """The standard error of an accuracy."""
        share = self.accuracy[name]
        return float((share * (1 - share) / self.num_test) ** 0.5)

    def cells(self) -> list[list[str]]:
        """A row for each kind of features."""
        rows = [[n, str(self.size[n]), f"{a:.3f} ± {self.error(n):.3f}"] for n, a in self.accuracy.items()]
        return [["features", "numbers", "accuracy"], *rows]

    def notes(self) -> list[str]:
        """How it was measured."""
        return [f"logistic regression on {self.num_train} examples, accuracy on {self.num_test}"]


@entry_point
def probe(pair: Any, train: Split, test: Split, *, seed: int = 0) -> Probe:
    """Logistic regression from codes to labels, beside the same from the data and from their principal components.

    Each feature is scaled to unit variance. The codes are means of q(z|x), without the labels: a pair whose guide needs
    them is refused.

    Args:
        pair: a pair.
        train: a split with labels, (N,) whole numbers, to fit to.
        test: another, to judge by.
        seed: of the binarisation, and of means that have no closed form.

    Raises:
        UserError: no labels, a guide that needs them, data that are a dictionary, or no latents.

    Source: Alain, Bengio: Understanding intermediate layers using linear classifier probes, 2016, arXiv:1610.01644.

    Example:
        >>> import ppl_vae as pv
        >>> data = pv.load_data("digits")
        >>> pair = pv.build("vae", data=data, latent=4, hidden=(16,))
        >>> found = pv.probe(pair, data.train.limit(200), data.test.limit(100))
        >>> list(found.accuracy), found.size["pca"]
        (['codes', 'data', 'pca', 'majority'], 4)
    """
    parts = [split.fixed(seed) for split in (train, test)]
    _refuse(*parts)
    y_train, y_test = (part.y.cpu().numpy() for part in parts if part.y is not None)
    code = [codes(pair, part.x, seed=seed).values for part in parts]
    raw = [_flat(part) for part in parts]
    decomposition = quiet_import("sklearn.decomposition")
    size = min(code[0].shape[1], *raw[0].shape)
    pca = decomposition.PCA(size, random_state=seed).fit(raw[0].numpy())
    features = {"codes": code, "data": raw, "pca": [torch.from_numpy(pca.transform(r.numpy())) for r in raw]}
    accuracy = {name: _accuracy(one, two, y_train, y_test) for name, (one, two) in features.items()}
    common = torch.from_numpy(y_train).mode().values.item()
    return Probe(
        accuracy | {"majority": float((y_test == common).mean())},
        {name: both[0].shape[1] for name, both in features.items()} | {"majority": 0},
        len(y_train),
        len(y_test),
    )


def _refuse(*parts: Split) -> None:
    """Refuse what has no classes or no features."""
    for part in parts:
        if part.y is None or part.y.is_floating_point() or part.y.dim() != 1:
            raise UserError(f"probe: the split {part.name!r} has no labels that are classes; give data with labels")
        if not torch.is_tensor(part.x) or part.x.isnan().any():
            raise UserError(
                "probe: data that are several fields, or have missing entries, are no features by themselves"
            )


def _flat(part: Split) -> Tensor:
    x: Tensor = part.x.reshape(len(part), -1).cpu().to(torch.get_default_dtype())
    return x


def _accuracy(train: Tensor, test: Tensor, y_train: Any, y_test: Any) -> float:
    """The share of the test labels that a logistic regression gets right."""
    linear, scaling = quiet_import("sklearn.linear_model"), quiet_import("sklearn.preprocessing")
    pipeline = quiet_import("sklearn.pipeline")
    model = pipeline.make_pipeline(scaling.StandardScaler(), linear.LogisticRegression(max_iter=2000))
    return float(model.fit(train.numpy(), y_train).score(test.numpy(), y_test))
