"""A Gaussian or a mixture for each example of a data set, as a guide for these data."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import Transform
from torch.distributions.transforms import IndependentTransform, ReshapeTransform, identity_transform

from ..common.errors import DataError
from ..common.fields import X, named, num_data

MIX = -0x61C8864680B583EB  # an odd number whose bits look random


class Refined(nn.Module):
    r"""A guide with a Gaussian for each of N examples, over all latents in their unconstrained space, or C of them.

    .. math:: q(u | x_b) = \sum_c \pi_{bc} N(u; \mu_{bc}, L_{bc} L_{bc}^\top), \qquad z_i = T_i(u_i)

    or Student's t of the same locations and scales. :func:`ppl_vae.refine` makes it. Sites are drawn one after another,
    each given those before it. An example is found by its content, so batches may be of any size and order; other data
    are refused. What the model masks is drawn from N(0, 1) apart from the rest, and masked here too.

    Args:
        x: the N examples, as the pair takes them.
        y: their labels (N,), where there are any.
        loc: :math:`\mu` (N, n), over the sites one after another; of a mixture (N, C, n).
        root: L, lower triangular (N, n, n); or its diagonal (N, n), where it is diagonal; of a mixture (N, C, n, n).
        sites: by name, the shape of the site in its unconstrained space, and the map T from there.
        df: degrees of freedom of the Student's t, where L has every entry; infinite for the Gaussian.
        steps: that were spent on each example (N,).
        khat: Pareto k of each (N,), on the draws that decided about another round.
        hidden: which of the n numbers are masked, (N, n); None where none is. Their rows and columns of L are those of
            the identity, and their locations 0.
        log_share: :math:`\log \pi` of a mixture, (N, C); None where there is one Gaussian.

    Raises:
        DataError: when it runs, on an example that it has no parameters for.

    Example:
        >>> import torch, ppl_vae as pv
        >>> pair = pv.build("linear", data_shape=(5,), latent=2)
        >>> guide = pv.refine(pair, torch.randn(4, 5), steps=5)
        >>> guide.loc.shape, guide.root.shape
        (torch.Size([4, 2]), torch.Size([4, 2, 2]))
    """

    keys: Tensor
    order: Tensor
    keys_with_labels: Tensor
    order_with_labels: Tensor
    loc: Tensor
    root: Tensor
    steps: Tensor
    khat: Tensor
    hidden: Tensor | None
    log_share: Tensor | None

    def __init__(
        self, x: X, y: Tensor | None, loc: Tensor, root: Tensor, sites: Mapping[str, tuple[torch.Size, Transform]],
        df: float, steps: Tensor, khat: Tensor, hidden: Tensor | None = None,
        log_share: Tensor | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.sites = dict(sites)
        self.df = df
        parts = _parts(x) if y is None else [*_parts(x), y]
        # the first floating tensor of a pair is what data are converted to: under a model without parameters, this one
        like = next((t for t in parts if t.is_floating_point()), loc)
        self.register_buffer("like", like.new_empty(0))
        # buffers, since a compiled graph on a GPU can't make them: Triton narrows an arange to 32 bits
        self.num_parts = len(parts)
        for i, factor in enumerate(factors_of(*parts)):
            self.register_buffer(f"factor_{i}", factor)
        for end, given in (("", _parts(x)), ("_with_labels", parts)):
            keys, order = row_keys(given, self.factors).sort(stable=True)
            self.register_buffer(f"keys{end}", keys)
            self.register_buffer(f"order{end}", order)
        self.register_buffer("loc", loc)
        self.register_buffer("root", root)
        self.has_labels = y is not None
        place = self.rows(x, y)  # of an example that is there twice, the parameters of the first are used
        self.register_buffer("steps", steps[place])
        self.register_buffer("khat", khat[place])
        self.register_buffer("hidden", hidden)
        self.register_buffer("log_share", log_share)

    def __len__(self) -> int:
        return len(self.loc)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        self.sites = {name: (shape, _moved(t, fn)) for name, (shape, t) in self.sites.items()}
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]

    @property
    def factors(self) -> list[Tensor]:
        """What :func:`row_keys` multiplies by, of each tensor of an example."""
        return [getattr(self, f"factor_{i}") for i in range(self.num_parts)]

    @property
    def family(self) -> str:
        """``"full"``, ``"diagonal"`` or ``"mixture"``."""
        return {2: "diagonal", 3: "full", 4: "mixture"}[self.root.dim()]

    def extra_repr(self) -> str:
        return f"{len(self)} examples, family={self.family!r}, sites={list(self.sites)}"

    def summary(self) -> dict[str, Any]:
        """The family, and the steps that were spent: on one example on average, and at most."""
        steps = self.steps.double()
        return {"family": self.family, "steps_mean": float(steps.mean()), "steps_max": int(steps.max())}

    def rows(self, x: X, y: Tensor | None = None) -> Tensor:
        """Where the examples of a batch stand among the N, (B,); -1 where none is the same.

        Labels tell equal x apart. An example that is there twice stands at its first place.
        """
        labelled = y is not None and self.has_labels
        keys, order = (self.keys_with_labels, self.order_with_labels) if labelled else (self.keys, self.order)
        wanted = row_keys([*_parts(x), y] if labelled and y is not None else _parts(x), self.factors)
        at = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
        return torch.where(keys[at] == wanted, order[at], -1)

    def forward(self, x: X, y: Tensor | None = None) -> None:
        rows = self.rows(x, y)
        if type(rows) is Tensor:  # values; a graph that is being traced has none, and gives NaN below
            self._refuse_others(rows)
        loc, root = self.loc[rows], self.root[rows]  # (B, [C,] n), (B, [C,] n, n) or diagonal (B, n)
        loc = torch.where((rows < 0).view(-1, *(1 for _ in loc.shape[1:])), torch.nan, loc)
        hidden = None if self.hidden is None else self.hidden[rows]
        log_share = None if self.log_share is None else self.log_share[rows]  # (B, C), then (K, B, C)
        noise = loc[..., :0]  # of the sites so far, (K, B, [C,] done)
        done = 0
        with pyro.plate("data", num_data(x), dim=-1):
            for name, (shape, transform) in self.sites.items():
                part = slice(done, done + shape.numel())
                center, scale = loc[..., part], root[..., part] if self.is_diagonal else root[..., part, part]
                if done and not self.is_diagonal:
                    center = center + (root[..., part, :done] @ noise.unsqueeze(-1)).squeeze(-1)
                if hidden is None:
                    each = self._given(center, scale, noise)
                    q = _transformed(each if log_share is None else _mixed_by(log_share, each), shape, transform)
                else:
                    q = _masked_site(center, scale, hidden[:, part], shape, transform)
                z = pyro.sample(name, q)
                done = part.stop
                if done < loc.shape[-1] and not self.is_diagonal:
                    u = transform.inv(z)
                    u = u.reshape(*u.shape[: u.dim() - len(shape)], -1)  # (K, B, site)
                    if log_share is not None:
                        u = u.unsqueeze(-2)
                        log_share = log_share + each.log_prob(u)
                    own = torch.linalg.solve_triangular(scale, (u - center).unsqueeze(-1), upper=False).squeeze(-1)
                    noise = torch.cat([noise.expand(*own.shape[:-1], -1), own], -1)

    @property
    def is_diagonal(self) -> bool:
        """Whether the numbers of an example are independent."""
        return self.root.dim() == 2

    def _given(self, loc: Tensor, root: Tensor, before: Tensor) -> Any:
        """The distribution of the numbers of a site given the noise (K, B, [C,] done) of the sites before it."""
        if self.is_diagonal:
            return dist.Normal(loc, root).to_event(1)
        if math.isinf(self.df):
            return dist.MultivariateNormal(loc, scale_tril=root)
        df = self.df + before.shape[-1]
        wider = ((self.df + before.square().sum(-1)) / df).sqrt()
        return dist.MultivariateStudentT(loc.new_tensor(df), loc, wider[..., None, None] * root)

    def _refuse_others(self, rows: Tensor) -> None:
        lost = torch.nonzero(rows < 0)
        if len(lost):
            raise DataError(
                f"example {int(lost[0])} of {len(rows)} is none of the {len(self)} that this guide was refined for: "
                f"refine the pair for these data; stochastic binarisation needs the same seed in both"
            )


def _transformed(base: Any, shape: torch.Size, transform: Transform) -> Any:
    """The distribution of a site, of which ``base`` is that of its numbers in a row."""
    parts: list[Transform] = [] if len(shape) == 1 else [ReshapeTransform(base.event_shape, shape)]
    parts += [] if transform is identity_transform else [transform]
    return dist.TransformedDistribution(base, parts) if parts else base


def _mixed_by(log_share: Tensor, each: Any) -> Any:
    """A mixture of C distributions, the last of the batch dimensions."""
    batch = torch.broadcast_shapes(log_share.shape, each.batch_shape)
    return dist.MixtureSameFamily(dist.Categorical(logits=log_share.expand(batch)), each.expand(batch))


class ChainRule(dist.TorchDistribution):
    """A Gaussian whose numbers count one by one, each given those before it, so that some of them can be masked.

    Args:
        loc: the mean (B, n).
        root: L, lower triangular (B, n, n).
        shape: of the n numbers; the batch is (B, *shape).
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012, as torch has it
    support = dist.constraints.real
    has_rsample = True

    def __init__(self, loc: Tensor, root: Tensor, shape: torch.Size) -> None:
        self.loc, self.root, self.shape_of_one = loc, root, shape
        super().__init__(loc.shape[:-1] + shape, validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> ChainRule:
        lead = torch.Size(batch_shape)[: len(batch_shape) - len(self.shape_of_one)]
        n = self.loc.shape[-1:]
        return ChainRule(self.loc.expand(lead + n), self.root.expand(lead + n + n), self.shape_of_one)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008, as torch has it
        noise = torch.randn(torch.Size(sample_shape) + self.loc.shape, dtype=self.loc.dtype, device=self.loc.device)
        u: Tensor = self.loc + (self.root @ noise.unsqueeze(-1)).squeeze(-1)
        return u.reshape(*u.shape[:-1], *self.shape_of_one)

    def log_prob(self, value: Tensor) -> Tensor:
        away = value.reshape(*value.shape[: value.dim() - len(self.shape_of_one)], -1) - self.loc
        noise = torch.linalg.solve_triangular(self.root, away.unsqueeze(-1), upper=False).squeeze(-1)
        log_p: Tensor = dist.Normal(0.0, 1.0).log_prob(noise) - self.root.diagonal(dim1=-2, dim2=-1).log()
        return log_p.reshape(*log_p.shape[:-1], *self.shape_of_one)


def _masked_site(loc: Tensor, root: Tensor, hidden: Tensor, shape: torch.Size, transform: Transform) -> Any:
    """The Gaussian of a site, of which the ``hidden`` numbers (B, n) do not count."""
    if root.dim() == 2:
        wanted = loc.shape[:-1] + shape
        base: Any = dist.Normal(loc.reshape(wanted), root.expand_as(loc).reshape(wanted))
    else:
        base = ChainRule(loc, root, shape)
    transform = elementwise(transform)
    one = base if transform is identity_transform else dist.TransformedDistribution(base, [transform])
    return one.mask(~hidden.reshape(len(hidden), *shape)).to_event(len(shape))


def elementwise(transform: Transform) -> Transform:
    """A transform without the wrappers that count event dimensions."""
    while isinstance(transform, IndependentTransform):
        transform = transform.base_transform
    return transform


def _moved(transform: Transform, fn: Callable[[Tensor], Tensor]) -> Transform:
    """A transform with ``fn`` of the tensors that it holds, such as bounds; itself where it holds none."""

    def of(part: Any) -> Any:
        if isinstance(part, Transform):
            return _moved(part, fn)
        return [of(one) for one in part] if isinstance(part, list) else fn(part) if torch.is_tensor(part) else part

    inner = {name: part for name, part in vars(transform).items() if name != "_inv"}
    changed = {name: of(part) for name, part in inner.items()}
    if all(_same(changed[name], inner[name]) for name in inner):
        return transform
    found = copy.copy(transform)
    vars(found).update(changed)
    return found


def _same(one: Any, other: Any) -> bool:
    both_lists = isinstance(one, list) and isinstance(other, list)
    return all(map(_same, one, other)) if both_lists else one is other


def standard(like: Tensor, df: float) -> Any:
    """What ``Refined`` draws from, at location 0 and scale 1: (*like.shape) numbers that are one event."""
    if math.isinf(df):
        return dist.Normal(torch.zeros_like(like), 1.0).to_event(1)
    eye = torch.eye(like.shape[-1], dtype=like.dtype, device=like.device)
    return dist.MultivariateStudentT(like.new_tensor(df), torch.zeros_like(like), eye)


def factors_of(*parts: Tensor) -> list[Tensor]:
    """Odd factors that look random, one for each number of an example of each tensor, (numbers,) int64."""
    return [2 * _mixed(torch.arange(1, t[:1].numel() + 1, device=t.device)) + 1 for t in parts]


def row_keys(parts: Sequence[Tensor], factors: Sequence[Tensor]) -> Tensor:
    """A 64-bit key of the content of each example, (B,) int64: equal numbers have equal keys, on every device.

    Floating numbers count as float32, so that a pair may change its dtype. Two of 10,000 different examples share a key
    with a probability of some 1e-12.

    Example:
        >>> x = torch.tensor([[1.0, 2.0], [2.0, 1.0]])
        >>> one, other = row_keys([x], factors_of(x)).tolist()
        >>> one == other
        False
    """
    total = torch.zeros(len(parts[0]), dtype=torch.int64, device=parts[0].device)
    for part, factor in zip(parts, factors, strict=False):
        bits = (_bits(part) if part.is_floating_point() else part.long()).reshape(len(part), -1)
        total = _mixed(total * MIX + (_mixed(bits) * factor).sum(1))
    return total


def _parts(x: X) -> list[Tensor]:
    """The tensors of x, by name: fields may come in any order."""
    return [tensor for _, tensor in sorted(named(x), key=lambda part: part[0])]


def _bits(numbers: Tensor) -> Tensor:
    """Floating numbers as int64, the same for 0.0 and -0.0, and for every NaN."""
    single = numbers.float() + 0.0
    return torch.where(single.isnan(), torch.nan, single).double().contiguous().view(torch.int64)


def _mixed(bits: Tensor) -> Tensor:
    """A bijection of 64-bit numbers under which every bit depends on many."""
    for shift in (32, 29, 32):
        bits = (bits ^ _down(bits, shift)) * MIX
    return bits ^ _down(bits, 32)


def _down(bits: Tensor, shift: int) -> Tensor:
    """A shift to the right that brings in zeros; that of torch brings in the sign."""
    return (bits >> shift) & ((1 << (64 - shift)) - 1)
