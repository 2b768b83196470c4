"""Running sums over importance weights, in memory that does not grow with K."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..common.errors import NonFiniteError
from ..scoring.support import is_discrete
from ..scoring.terms import Site, Terms
from .diagnostics import EXACT, fit_khat, tail_length


class Weights(NamedTuple):
    """The log weights of a sample chunk, and what distinguishes equal weights from a coincidence."""

    log_w: Tensor  # (K, B)
    rounding: Tensor  # (B,): what rounding alone can do to them
    discrete: dict[str, Tensor]  # the values of discrete latents, (K, B, *event)

    def copied(self) -> Weights:
        """The same numbers in memory of their own."""
        return Weights(self.log_w.clone(), self.rounding.clone(), {k: v.clone() for k, v in self.discrete.items()})


def weights_of(t: Terms) -> Weights:
    """The weights of a sample chunk."""
    discrete = {name: s.value for name, s in t.sites.items() if s.p is not None and is_discrete(s.p)}
    return Weights(t.log_w, rounding_of(t).amax(0), discrete)


def joined(chunks: Sequence[Weights]) -> Weights:
    """The weights of several sample chunks as one."""
    discrete = {name: torch.cat([c.discrete[name] for c in chunks]) for name in chunks[0].discrete}
    return Weights(torch.cat([c.log_w for c in chunks]), torch.stack([c.rounding for c in chunks]).amax(0), discrete)


def rounding_of(t: Terms) -> Tensor:
    """(K, B) what rounding alone can do to log_w: its terms are large, and cancel."""
    eps = torch.finfo(t.log_w.dtype).eps
    return eps * (1 + t.log_lik.detach().abs() + t.log_prior.detach().abs() + t.log_q.detach().abs())


class Accumulator:
    """Sums over K log weights for B examples, in float64, in memory that does not grow with K."""

    def __init__(self, num_samples: int) -> None:
        self.keep = min(tail_length(num_samples), num_samples)
        self.count = 0
        self.exact = False  # whether the model has no latents
        self.means: list[tuple[int, Tensor]] = []  # of what was added at once: its size and its log mean weight

    def _start(self, like: Tensor, discrete: Mapping[str, Tensor]) -> None:
        self.top = like.new_empty(0, *like.shape)
        self.max, self.min = torch.full_like(like, -math.inf), torch.full_like(like, math.inf)
        self.w, self.w2, self.sum = (torch.zeros_like(like) for _ in range(3))
        self.rounding = torch.full_like(like, -math.inf)
        self.covered = torch.ones_like(like, dtype=torch.bool)  # False where a proposal is known to miss a part
        self.first = {name: value[:1].clone() for name, value in discrete.items()}
        self.moved = {name: torch.zeros_like(like, dtype=torch.bool) for name in discrete}

    def add(self, *chunks: Weights) -> None:
        """Add the weights of sample chunks, several at once where the mean of each is not asked for."""
        chunk = chunks[0] if len(chunks) == 1 else joined(chunks)
        log_w, noise = chunk.log_w.double(), chunk.rounding.double()
        if self.count == 0:
            self._start(log_w[0], chunk.discrete)
        new_max = torch.maximum(self.max, log_w.amax(0))
        shift = _finite(new_max)
        old = torch.exp(self.max - shift)
        share = torch.exp(log_w - shift)
        self.w = self.w * old + share.sum(0)
        self.w2 = self.w2 * old.square() + share.square().sum(0)
        self.sum = self.sum + log_w.sum(0)
        self.max, self.min = new_max, torch.minimum(self.min, log_w.amin(0))
        # where rounding alone hides differences that matter, equal weights prove nothing
        rounding = torch.where(noise < EXACT, (32 * noise).clamp(max=EXACT), -math.inf)
        self.rounding = torch.maximum(self.rounding, rounding)
        for name, value in chunk.discrete.items():
            other = value != self.first[name]
            self.moved[name] = self.moved[name] | other.reshape(*other.shape[:2], -1).any(-1).any(0)
        self.means.append((len(log_w), torch.log(share.mean(0)) + shift))
        top = torch.cat([self.top, log_w])
        self.top = torch.topk(top, min(self.keep, len(top)), dim=0).values
        self.count += len(log_w)

    def repeat(self, num_samples: int) -> None:
        """Count the samples that were not scored: in a model without latents all are the same."""
        self.w, self.w2, self.sum = (v * (num_samples / self.count) for v in (self.w, self.w2, self.sum))
        self.count = num_samples
        self.exact = True

    def between(self) -> Tensor:
        """The relative standard error (B,) of the mean weight from the scatter of the chunks, each a point set.

        nan with fewer than four chunks, whose scatter would say next to nothing.
        """
        sizes = torch.tensor([float(n) for n, _ in self.means], dtype=torch.float64, device=self.w.device)
        share = (sizes / sizes.sum()).unsqueeze(1)
        means = torch.exp(torch.stack([m for _, m in self.means]) - self.max.nan_to_num(neginf=0.0))  # (chunks, B)
        whole = (share * means).sum(0)
        if len(sizes) < 4:
            return torch.full_like(whole, math.nan)
        spread = (share.square() * (means - whole).square()).sum(0) / (1 - share.square().sum(0))
        return spread.sqrt() / whole

    @property
    def bad(self) -> Tensor:
        """(B,) bool: examples with a weight that is NaN or +inf; a weight of zero is legal."""
        return torch.isnan(self.sum) | torch.isnan(self.max) | (self.max == math.inf)

    def refuse_nonfinite(self, what: str, first: int, sites: Mapping[str, Site]) -> None:
        """Raise where a weight was not finite, and name the site; ``first`` is the index of the first example."""
        for i in torch.nonzero(self.bad)[:1, 0].tolist():
            for name, site in sites.items():
                values = torch.stack([site.log_p[:, i], site.log_q[:, i]])
                if bool((torch.isnan(values) | (values == math.inf)).any()):
                    raise NonFiniteError(f"{what}: datum {first + i}: the log density of site {name!r} is not finite")
            raise NonFiniteError(f"{what}: datum {first + i}: a weight is not finite")

    @property
    def equal(self) -> Tensor:
        """(B,) bool: whether all weights are equal to rounding; never where one is zero, as rounding is capped."""
        return self.max - self.min <= self.rounding

    def result(self) -> dict[str, Tensor]:
        """The fields of an Estimate, (B,) each."""
        k, shift = self.count, _finite(self.max)
        ratio = self.w2 / self.w.square()  # 1 / ESS
        variance = ((k * ratio - 1) / (k - 1)).clamp(min=0) if k > 1 else torch.full_like(ratio, math.nan)
        proven = self.equal & self.covered
        for moved in self.moved.values():  # a discrete latent that took one value says nothing of the others
            proven = proven & moved
        khat = torch.where(self.equal & ~proven, math.nan, fit_khat(self.top, k, proven))
        if self.exact:
            khat, variance = torch.full_like(khat, -math.inf), torch.zeros_like(ratio)
        return {
            "log_px": shift + torch.log(self.w / k),
            "std_error": variance.sqrt(),
            "ess": 1 / ratio,
            "khat": khat,
            "elbo": self.sum / k,
            "max_share": torch.exp(self.max - shift) / self.w,
        }


def _finite(largest: Tensor) -> Tensor:
    """What to subtract before exponentiating: the largest log weight, 0 where that is infinite."""
    return torch.where(torch.isinf(largest), 0.0, largest)
