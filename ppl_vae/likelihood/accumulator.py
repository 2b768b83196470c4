"""Running sums over importance weights, in memory that does not grow with K."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..common.errors import NonFiniteError
from ..scoring.support import is_discrete
from ..scoring.terms import Site, Terms
from .diagnostics import EXACT, fit_khat, tail_length


class Weighed(NamedTuple):
    """Log weights, and what tells equal weights from a coincidence."""

    log_w: Tensor  # (K, B)
    rounding: Tensor  # (B,): what rounding alone can do to them
    discrete: dict[str, Tensor]  # the values of discrete latents, (K, B, *event)


def weighed(t: Terms) -> Weighed:
    """The weights of some particles."""
    return Weighed(t.log_w, rounding_of(t).amax(0), {n: s.value for n, s in _discrete(t)})


class Running:
    """Sums over K log weights for B data, in float64, in memory that does not grow with K."""

    def __init__(self, num_samples: int) -> None:
        self.num_samples = num_samples
        self.keep = min(tail_length(num_samples), num_samples)
        self.count = 0
        self.exact = False
        self.means: list[tuple[int, Tensor]] = []  # of each chunk: its size and its log mean weight
        self._started = False

    def add(self, w: Weighed) -> None:
        """Take in the weights of some more samples."""
        log_w, noise, discrete = w
        noise = noise.double()
        log_w = log_w.double()
        if not self._started:
            like = log_w[0]
            self.top = log_w[:0]
            self.max = torch.full_like(like, -math.inf)
            self.min = torch.full_like(like, math.inf)
            self.w = torch.zeros_like(like)
            self.w2 = torch.zeros_like(like)
            self.sum = torch.zeros_like(like)
            self.rounding = torch.zeros_like(like)
            self.first = {name: value[:1].clone() for name, value in discrete.items()}
            self.moved = {name: torch.zeros_like(like, dtype=torch.bool) for name in self.first}
            self.covered = torch.ones_like(like, dtype=torch.bool)  # false where a proposal is known to miss a part
            self._started = True
        new_max = torch.maximum(self.max, log_w.amax(0))
        shift = torch.where(torch.isinf(new_max), 0.0, new_max)
        old = torch.exp(self.max - shift)
        share = torch.exp(log_w - shift)
        self.w = self.w * old + share.sum(0)
        self.w2 = self.w2 * old.square() + share.square().sum(0)
        self.max = new_max
        self.min = torch.minimum(self.min, log_w.amin(0))
        self.sum = self.sum + log_w.sum(0)
        # where rounding alone hides differences that matter, equal weights prove nothing
        rounding = torch.where(noise < EXACT, (32 * noise).clamp(max=EXACT), -math.inf)
        self.rounding = torch.maximum(self.rounding, rounding) if self.count else rounding
        for name, value in discrete.items():
            other = value != self.first[name]
            self.moved[name] = self.moved[name] | other.reshape(*other.shape[:2], -1).any(-1).any(0)
        self.means.append((len(log_w), torch.log(share.mean(0)) + shift))
        top = torch.cat([self.top, log_w])
        self.top = torch.topk(top, min(self.keep, len(top)), dim=0).values
        self.count += len(log_w)

    def repeat(self, num_samples: int) -> None:
        """Every particle of a model without latents is the same: count the ones not scored."""
        self.w, self.w2, self.sum = (v * (num_samples / self.count) for v in (self.w, self.w2, self.sum))
        self.count = num_samples
        self.exact = True

    def between(self) -> Tensor:
        """The relative standard error (B,) of the mean weight from the scatter of the chunks, where each is one net.

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
        """(B,) bool: data with a weight that is NaN or +inf; a weight of zero is legal."""
        return torch.isnan(self.sum) | torch.isnan(self.max) | (self.max == math.inf)

    def refuse_nonfinite(self, t: Terms, first: int) -> None:
        """Raise where a weight was not finite, and name the site by the last terms."""
        bad = torch.nonzero(self.bad)
        if len(bad):
            i = int(bad[0])
            for name, site in (*t.sites.items(), *t.observed.items()):
                values = torch.stack([site.log_p[:, i], site.log_q[:, i]])
                if bool((torch.isnan(values) | (values == math.inf)).any()):
                    raise NonFiniteError(
                        f"log_likelihood: datum {first + i}: the log density of site {name!r} is not finite"
                    )
            raise NonFiniteError(f"log_likelihood: datum {first + i}: a weight is not finite")

    @property
    def equal(self) -> Tensor:
        """(B,) bool: data all of whose weights are equal to rounding; never where one is zero: rounding is capped."""
        return self.max - self.min <= self.rounding

    def result(self) -> dict[str, Tensor]:
        """The fields of an Estimate, (B,) each."""
        k = self.count
        shift = torch.where(torch.isinf(self.max), 0.0, self.max)
        ratio = self.w2 / self.w.square()  # 1 / ESS
        variance = ((k * ratio - 1) / (k - 1)).clamp(min=0) if k > 1 else torch.full_like(ratio, math.nan)
        exact = self.equal
        proven = exact & self.covered
        for moved in self.moved.values():  # a discrete latent that took one value says nothing of the others
            proven = proven & moved
        khat = fit_khat(self.top, k, proven)
        khat = torch.where(exact & ~proven, math.nan, khat)
        if self.exact:
            khat = torch.full_like(khat, -math.inf)
            variance = torch.zeros_like(ratio)
        return {
            "log_px": shift + torch.log(self.w / k),
            "std_error": variance.sqrt(),
            "ess": 1 / ratio,
            "khat": khat,
            "elbo": self.sum / k,
            "max_share": torch.exp(self.max - shift) / self.w,
        }


def _discrete(t: Terms) -> list[tuple[str, Site]]:
    """The latent sites whose values are discrete."""
    return [(n, s) for n, s in t.sites.items() if s.p is not None and is_discrete(s.p)]


def rounding_of(t: Terms) -> Tensor:
    """(K, B) what rounding alone can do to log_w: its terms are large, and cancel."""
    eps = torch.finfo(t.log_w.dtype).eps
    return eps * (1 + t.log_lik.detach().abs() + t.log_prior.detach().abs() + t.log_q.detach().abs())
