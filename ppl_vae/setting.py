"""A pair at work on data: its mode, its device, the data there, and what is refused before any estimate."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyro
import torch
from torch import Tensor, nn

from . import weights
from .data import Data, Split
from .errors import DataError, NoWeightError, UserError
from .fields import X, device_of, each, leaves, named, num_data, rows, size_of
from .files import digest
from .inputs import byte_scale, classes, data, labels
from .kinds import kind, no_density, title
from .lazy import Lazy, as_floating, is_lazy, opened
from .rng import forked
from .store import Program, modules_of
from .supports import refuse_foreign, support_of
from .tables import in_order, is_table, named_only, names_of

ALL = slice(None)
WHOLE = {torch.int64}
FEW = 4096  # data on which a pair is tried as a whole: a program may know their number


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


class Needs:
    """What a pair takes: data as its programs can use them, labels as the classes that it knows.

    Whole numbers stay whole where the pair runs on them, as an embedding of tokens does, and become floating ones
    where it doesn't, as a linear layer on counts. That is tried once, on the first data, or on two where they are many.
    """

    def __init__(self, pair: Any) -> None:
        self.pair = pair
        self.num_classes = _num_classes(pair)
        self.floating: bool | None = None  # not known yet
        self.looked = False  # whether labels were told from fields

    def scale_of(self, raw: Any) -> int | None:
        """What bytes are divided by: as the first bytes were that the pair was given."""
        if isinstance(raw, tuple) and len(raw) == 2:
            raw = raw[0]
        known: int | None = getattr(self.pair, "byte_scale", None)
        if known is None and (known := byte_scale(raw)) is not None and hasattr(self.pair, "byte_scale"):
            self.pair.byte_scale = known
        return known

    def by_name(self, raw: Any) -> Any:
        """Data as given, but for a table: its columns stand as in the first one that the pair was given.

        Raises:
            DataError: a column of that is missing.
        """
        table, *rest = raw if isinstance(raw, tuple) and len(raw) == 2 else (raw,)
        if not hasattr(self.pair, "columns"):
            return raw
        if isinstance(table, Data) and self.pair.columns is None:
            self.pair.columns = named_only(list(table.reading.get("columns") or []))
        if not is_table(table) or not hasattr(table, "dtypes"):
            return raw
        if self.pair.columns is None:
            self.pair.columns = names_of(table)
            return raw
        table = in_order(table, self.pair.columns)
        return (table, *rest) if rest else table

    def __call__(self, x: X, y: Tensor | None) -> tuple[X, Tensor | None]:
        """Data and labels, from those that :mod:`ppl_vae.inputs` made.

        Raises:
            DataError: a label that is no class of the pair.
            UserError: two arrays of one shape, for a pair without labels: fields, not labels.
        """
        y = y if y is None or self.num_classes is None else classes(y, self.num_classes)
        if not self.looked:  # the batches of a loader are alike
            _refuse_fields(self.pair, x, y)
            self.looked = True
        if any(t.dtype == torch.int64 for t in leaves(x)):
            if self.floating is None:
                few = (x, y) if num_data(x) <= FEW else (rows(x, slice(2)), None if y is None else y[:2])
                self.floating = _fails(self.pair, *few) and not _fails(self.pair, as_floating(few[0]), few[1])
            x = as_floating(x) if self.floating else x
        return x, y


def _num_classes(pair: Any) -> int | None:
    found = getattr(getattr(pair, "model", None), "num_classes", None)
    return found if isinstance(found, int) and not isinstance(found, bool) else None


def _refuse_fields(pair: Any, x: X, y: Tensor | None) -> None:
    """A pair that makes nothing of labels would drop a mask that was given in their place, in silence."""
    if y is None or y.ndim < 2 or not torch.is_tensor(x) or y.shape != x.shape:
        return
    few = slice(None) if len(x) <= FEW else slice(2)
    try:
        ignored = torch.equal(*(_log_w(pair, x[few], labels) for labels in (y[few], y[few] + 1)))
    except Exception:  # whoever runs the pair next says what is wrong
        return
    if ignored:
        raise UserError(
            f"(x, y) are data and labels, and y has the shape {tuple(y.shape)} of x while this pair makes nothing of "
            f"labels; several fields of a datum are one dictionary, {{'values': ..., 'mask': ...}}"
        )


def _log_w(pair: Any, x: X, y: Tensor | None) -> Tensor:
    """The log weights of one particle, always the same."""
    with evaluating(pair), forked(home(pair)[0], 0), pyro.validation_enabled(False):
        return weights.terms(pair.model, pair.guide, *placed(pair, x, y)).log_w


def _fails(pair: Any, x: X, y: Tensor | None) -> bool:
    try:
        _log_w(pair, x, y)
    except Exception:  # whatever a user's program raises when it meets numbers of another type than it takes
        return True
    return False


def as_data(pair: Any, x: Any, y: Any = None, seed: int = 0) -> tuple[X | Lazy, Tensor | None]:
    """Data and labels of whatever was given, as tensors that the pair takes, or as rows to be read when needed.

    Raises:
        DataError: no data, not numbers, labels that do not fit.
        UserError: all splits at once.
    """
    if isinstance(x, Data):
        raise UserError("name a split of the data: data.test, data.valid or data.train")
    if isinstance(x, Lazy):  # opened already
        return x, y
    needs = Needs(pair)
    if is_lazy(x):
        if y is not None:
            raise UserError("labels beside a data set: let its items be (x, y)")
        found = opened(x, needs.scale_of)
        if isinstance(found, Lazy):
            two, labels_of_two = found.take(slice(2))
            needs(two, labels_of_two)
            found.floating, found.num_classes = bool(needs.floating), needs.num_classes
            return found, None
        x, y = needs(*found)
    else:
        if isinstance(x, Split):
            split = x.fixed(seed)
            x, y = split.x, split.y if y is None else y
        elif isinstance(x, tuple) and len(x) == 2:
            if y is not None and x[1] is not None:
                raise UserError("labels are given twice: in (x, y), and as y")
            x, y = x[0], x[1] if y is None else y
        x = needs.by_name(x)
        x = data(x, scale=needs.scale_of(x))
        x, y = needs(x, labels(y, num_data(x), device=device_of(x)))
    return x, y


class Arguments:
    """The arguments of two programs from those of a step: data as the other entry points take them, and labels.

    Data are the first argument, where it holds numbers; the second is labels, where the model calls it so. Tensors that
    the programs can use already are passed on at once, and so is all else that a program of one's own may take.

    Args:
        model: the model of a pair.
        guide: its guide.
    """

    def __init__(self, model: Program, guide: Program) -> None:
        pair: Any = nn.Module()
        pair.held, pair.model, pair.guide = nn.ModuleList(modules_of(model, guide)), model, guide
        pair.byte_scale = pair.columns = None
        self.programs = model, guide
        self.needs = Needs(pair)
        self.labelled = weights.takes_labels(model)
        self.like = next((p for p in (*pair.parameters(), *pair.buffers()) if p.is_floating_point()), None)

    def __call__(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """The arguments as model and guide take them.

        Raises:
            DataError: what was given is no data; says what it is.
        """
        x: Any = args[0] if args else None
        y: Any = args[1] if self.labelled and len(args) > 1 else None
        floating = torch.get_default_dtype() if self.like is None else self.like.dtype
        told = y is None or (torch.is_tensor(y) and y.dtype in (torch.int64, floating))
        fields = isinstance(x, Mapping | tuple)
        dtypes = {floating, torch.bool} if fields else {floating}
        parts = leaves(x) if fields else [x]
        if told and all(self._usable(t, dtypes if self.needs.floating is not False else dtypes | WHOLE) for t in parts):
            return args
        if not _holds_numbers(x):
            return args
        if not all(self._usable(t, dtypes | WHOLE, anywhere=True) for t in parts):  # which reads from the device
            x = self.needs.by_name(x)
            x = data(x, scale=self.needs.scale_of(x))
        if not told:
            y = labels(y, num_data(x))
            y = y if y is None or self.needs.num_classes is None else classes(y, self.needs.num_classes)
        if any(t.dtype == torch.int64 for t in leaves(x)):
            if self.needs.floating is None:
                x, _ = self.needs(x, y)
            x = as_floating(x) if self.needs.floating else x
        x, y = placed(self.needs.pair, x, y) if self.like is not None else (x, y)
        return (x, *args[1:]) if y is None else (x, y, *args[2:])

    def _usable(self, t: Any, dtypes: set[torch.dtype], anywhere: bool = False) -> bool:
        """Whether a value is a tensor of one of these dtypes, where the parameters are."""
        if not torch.is_tensor(t) or t.layout is not torch.strided:
            return False
        return t.dtype in dtypes and (anywhere or self.like is None or t.device == self.like.device)


def _holds_numbers(x: Any) -> bool:
    """Whether an argument is data, of any of the forms that :mod:`ppl_vae.inputs` knows."""
    if isinstance(x, Mapping | tuple):
        return bool(x) and all(map(_holds_numbers, x.values() if isinstance(x, Mapping) else x))
    if isinstance(x, list) and len({v.shape for v in x if torch.is_tensor(v)}) > 1:
        return False  # such as series of different lengths, for a program of one's own
    return torch.is_tensor(x) or isinstance(x, list | np.ndarray) or hasattr(x, "toarray") or hasattr(x, "dtypes")


def num_rows(x: X | Lazy) -> int:
    """N, of data that :func:`as_data` gave."""
    return len(x) if isinstance(x, Lazy) else num_data(x)


def numbers_of(x: X | Lazy) -> int:
    """Numbers in one datum."""
    return size_of(x.take(slice(1))[0] if isinstance(x, Lazy) else x)


def placed(pair: Any, x: X | Lazy, y: Tensor | None = None, part: slice = ALL) -> tuple[X, Tensor | None]:
    """A part of data and labels, on the device of a pair; floating ones in its dtype, where it has one."""
    device, dtype = home(pair)
    has_dtype = any(p.is_floating_point() for p in (*pair.parameters(), *pair.buffers()))

    def moved(t: Tensor) -> Tensor:
        t = t.to(device)
        return t.to(dtype) if t.is_floating_point() and has_dtype else t

    x, y = x.take(part) if isinstance(x, Lazy) else (rows(x, part), None if y is None else y[part])
    return each(moved, x), None if y is None else moved(y)


def everything(pair: Any, x: Any, y: Any = None, seed: int = 0) -> tuple[X, Tensor | None]:
    """All data and labels as tensors, where they are; a data set is read."""
    found, ys = as_data(pair, x, y, seed)
    return found.take(ALL) if isinstance(found, Lazy) else (found, ys)


def fingerprint(pair: nn.Module, x: X | Lazy, y: Tensor | None) -> str:
    """A digest of the parameters of a pair and of data: work on others is other work."""
    found = {f"pair.{k}": v for k, v in pair.state_dict().items()}
    if isinstance(x, Lazy):
        for start in range(0, len(x), 4096):
            xs, ys = x.take(slice(start, start + 4096))
            parts = dict(named(xs)) | ({} if ys is None else {"y": ys})
            found[f"rows {start}"] = torch.frombuffer(bytearray(digest(parts), "ascii"), dtype=torch.uint8)
        return digest(found)
    return digest(found | dict(named(x)) | ({} if y is None else {"y": y}))


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


def refuse_missing(t: weights.Terms, first: int = 0) -> None:
    """Raise where a missing entry (NaN) of the data is not left out by the likelihood.

    Raises:
        DataError: names the site and the datum.
    """
    for name, site in t.observed.items():
        gap = weights.first_missing(site)
        if gap is not None:
            raise DataError(
                f"datum {first + gap} has a missing entry (NaN) at site {name!r}, and {title(site.p)} does not leave "
                f"it out: repair or drop the datum, or observe it through a mask or a likelihood that skips NaN, such "
                f"as pyro.distributions.NanMaskedNormal"
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
        q = s.q if s.masks[1] is None else s.q.mask(s.masks[1])  # what is masked has no weight
        refuse_foreign(name, q, s.p, plain, zeros=cover)
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
    refuse_missing(t, first)
    for name, site in t.observed.items():
        if support_of(site.p) is None or not site.value.numel():
            continue
        i = weights.first_outside(site)
        if i is not None:
            raise DataError(
                f"datum {first + i} lies outside the support of site {name!r} ({title(site.p)}): "
                + (
                    "binarise it (load_data(..., binarize='static'), split.fixed(seed)), or choose another likelihood"
                    if kind(site.p) == "Bernoulli"
                    else "scale or round the data, or choose another likelihood"
                )
            )
