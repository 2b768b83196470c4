"""A pair at work on data: its mode, its device, the data there, and what is refused before any estimate."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from . import weights
from .data import Data, as_split
from .errors import DataError, NoWeightError, UserError
from .files import digest
from .kinds import kind, no_density
from .supports import refuse_foreign, support_of

ALL = slice(None)


@contextmanager
def evaluating(pair: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients, and every module's own mode given back."""
    modes = [(m, m.training) for m in pair.modules()]
    try:
        pair.eval()
        with torch.no_grad():
            yield
    finally:
        for m, training in modes:
            m.training = training


def home(pair: nn.Module) -> tuple[torch.device, torch.dtype]:
    """The device and the floating dtype of a pair's first parameter; the CPU and the default where it has none."""
    for p in (*pair.parameters(), *pair.buffers()):
        if p.is_floating_point():
            return p.device, p.dtype
    return torch.device("cpu"), torch.get_default_dtype()


def as_data(x: Any, y: Tensor | None, seed: int) -> tuple[Tensor, Tensor | None]:
    """Data and labels of whatever was given, checked."""
    if isinstance(x, Data):
        raise UserError("name a split of the data: data.test, data.valid or data.train")
    if not torch.is_tensor(x):  # a split, an array, (x, y)
        split = as_split(x).fixed(seed)
        x, y = split.x, split.y if y is None else y
    if x.dim() == 0 or len(x) == 0:
        raise DataError("x holds no data; give a tensor of shape (N, *data_shape) with N >= 1")
    if y is not None and not torch.is_tensor(y):
        raise DataError(f"labels are a {type(y).__name__}; give a tensor of shape (N,), or None")
    if y is not None and len(y) != len(x):
        raise DataError(f"{len(y)} labels for {len(x)} data; give one label a datum")
    return x, y


def placed(pair: nn.Module, x: Tensor, y: Tensor | None = None, part: slice = ALL) -> tuple[Tensor, Tensor | None]:
    """A part of data and labels, on the device of a pair; floating data in its dtype, where it has one."""
    device, dtype = home(pair)
    x = x[part].to(device)
    has_dtype = any(p.is_floating_point() for p in (*pair.parameters(), *pair.buffers()))
    return (x.to(dtype) if x.is_floating_point() and has_dtype else x), (None if y is None else y[part].to(device))


def fingerprint(pair: nn.Module, x: Tensor, y: Tensor | None) -> str:
    """A digest of the parameters of a pair and of data: work on others is other work."""
    named = {f"pair.{k}": v for k, v in pair.state_dict().items()} | {"x": x} | ({} if y is None else {"y": y})
    return digest(named)


def refuse_unweighable(t: weights.Terms, cover: bool = True) -> None:
    """Raise where weights mean nothing: a deterministic guide, one on another space, or a factor in the model.

    ``cover`` also refuses a guide that leaves out a part of the prior's support, where the weights are p(x, z) / q.

    Raises:
        NoWeightError: names the site.
    """
    _refuse_delta(t)
    refuse_support(t, cover)
    refuse_factor(t.observed)


def _refuse_delta(t: weights.Terms) -> None:
    auxiliary = any(s.p is None for s in t.sites.values())
    for s in t.sites.values():
        # an autoguide's Delta passes on what its auxiliary site drew; one that never moves is a code
        moves = auxiliary and (len(s.value) == 1 or not torch.equal(s.value[0], s.value[1]))
        if kind(s.q) == "Delta" and not moves:
            raise NoWeightError(
                f"site {s.name!r}: the guide is deterministic (Delta), so q(z|x) has no density, there is no "
                f"importance weight and no log p(x) to estimate; report the reconstruction, E[log p(x|z)], or use a "
                f"guide with noise"
            )


def refuse_support(t: weights.Terms, cover: bool = False) -> None:
    """Raise where a latent's distribution in the guide is no proposal for that in the model.

    Training needs the guide's support inside the model's. An estimate (``cover``) also needs it whole, as
    :math:`E_q[w] = p(x, z \\in \\mathrm{supp}\\, q)`; a mixture with the prior has it, whatever the guide.

    Raises:
        NoWeightError: names the site, and both supports.
    """
    plain = cover and torch.equal(t.log_q, sum((s.log_q for s in t.sites.values()), torch.zeros_like(t.log_q)))
    for name, s in t.sites.items():
        if s.p is None or s.q is None or kind(s.q) == "Delta":
            continue
        refuse_foreign(name, s.q, s.p, plain, zeros=cover)
        if cover:
            _refuse_masks(name, s)


def _refuse_masks(name: str, s: weights.Site) -> None:
    at_p, at_q = (weights.masked_at(fn, mask, s.value) for fn, mask in zip((s.p, s.q), s.masks, strict=True))
    if s.marginal or (at_p is None and at_q is None):
        return
    none = torch.zeros_like(s.value, dtype=torch.bool)
    if not torch.equal(none if at_p is None else at_p, none if at_q is None else at_q):
        raise NoWeightError(
            f"site {name!r}: the model and the guide mask different entries, so that p / q is no weight there; put the "
            f"same mask on both"
        )


def refuse_factor(observed: Mapping[str, Any]) -> None:
    """Raise where the model has a ``pyro.factor`` that is not zero: it is no part of a density of the data.

    Raises:
        NoWeightError: names the site.
    """
    for name, s in observed.items():
        fn = s.p if isinstance(s, weights.Site) else s.fn
        if kind(fn) == "Unit" and bool((fn.log_factor != 0).any()):
            raise NoWeightError(no_density(name))


def refuse_outside(t: weights.Terms, first: int = 0) -> None:
    """Raise where data lie outside the support of the site that observes them; ``first`` is the index of the first.

    Raises:
        DataError: names the site and the datum.
    """
    for name, site in t.observed.items():
        if site.value is None or support_of(site.p) is None:
            continue
        i = weights.first_outside(site)
        if i is not None:
            raise DataError(
                f"datum {first + i} lies outside the support of site {name!r} ({kind(site.p)}): "
                + (
                    "binarise it (load_data(..., binarize='static'), split.fixed(seed)), or choose another likelihood"
                    if kind(site.p) == "Bernoulli"
                    else "scale or round the data, or choose another likelihood"
                )
            )
