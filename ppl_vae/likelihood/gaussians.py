"""Gaussians for each example, alone or in a mixture, and their steps along the natural gradient of the ELBO."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import pyro.distributions as dist
import torch
from torch import Tensor

from ..guides.refined import standard
from .hmc import Path

RATE = 0.2  # of the natural gradient at the start of a round; a cosine takes it to 0
STEP = 0.5  # the longest step, in standard deviations of the Gaussian that takes it; and of a share, in nats
FLOOR = math.log(0.002)  # of a share: a Gaussian that has lost it can still win it back


@dataclass(frozen=True)
class Gaussians:
    """C Gaussians for each of B examples, and their shares of the mixture; C is 1 where there is none.

    Attributes:
        loc: the means (C, B, n).
        root: of the covariances, lower triangular (C, B, n, n); or (C, B, n) where diagonal.
        log_share: (C, B).
        hidden: what is masked, (B, n): there the mean is 0, and the root that of the identity.
    """

    loc: Tensor
    root: Tensor
    log_share: Tensor
    hidden: Tensor | None = None

    @property
    def is_full(self) -> bool:
        """Whether they have every covariance."""
        return self.root.dim() == 4

    @property
    def log_det(self) -> Tensor:
        """log |root|, (C, B)."""
        scale = self.root.diagonal(dim1=-2, dim2=-1) if self.is_full else self.root
        return scale.log().sum(-1)

    @cached_property
    def inverse(self) -> Tensor:
        """That of root, (C, B, n, n)."""
        eye = torch.eye(self.loc.shape[-1], dtype=self.root.dtype, device=self.root.device)
        inverse: Tensor = torch.linalg.solve_triangular(self.root, eye, upper=False)
        return inverse

    def shown(self, v: Tensor) -> Tensor:
        """Zero in place of what is masked, (..., B, n): a number that moves nothing, and that nothing moves."""
        return v if self.hidden is None else v.masked_fill(self.hidden, 0.0)

    def at(self, v: Tensor) -> Tensor:
        """u = loc + root v, (K, C, B, n)."""
        return self.loc + (_times(self.root, v) if self.is_full else self.root * v)

    def pulled_back(self, slope: Tensor) -> Tensor:
        """The gradient with respect to v of a function whose gradient with respect to u is ``slope`` (K, C, B, n)."""
        return _times(self.root.mT, slope) if self.is_full else self.root * slope

    def whitened(self, u: Tensor) -> Tensor:
        """v of each Gaussian, at u (K, B, n): (K, C, B, n)."""
        return _times(self.inverse, u.unsqueeze(1) - self.loc)

    def log_joint(self, v: Tensor, df: float = math.inf) -> Tensor:
        """Log density of each Gaussian, or Student's t, with its share, at its own v (..., C, B, n): (..., C, B)."""
        log_p: Tensor = standard(self.loc[0], df).log_prob(v)
        return self.log_share + log_p - self.log_det

    def scores(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """At the draws of each: log q (K, C, B), and minus its gradient with respect to v (K, C, B, n)."""
        if len(self.loc) == 1:
            return self.log_joint(v), v
        every = self.whitened(self.at(v).flatten(0, 1))  # (K C, C, B, n): of all Gaussians at the draws of each
        joint = self.log_joint(every)
        slope = _times(self.inverse.mT, joint.softmax(1).unsqueeze(-1) * every).sum(1)  # (K C, B, n)
        return joint.logsumexp(1).view(v.shape[:-1]), self.pulled_back(slope.view_as(v))

    def draws(self, num_samples: int, df: float) -> tuple[Tensor, Tensor]:
        """Draws u (K, B, n) of the mixture, and log q (K, B) there, but for a constant of each example under masks."""
        v = self.shown(standard(self.loc[0], df).sample((num_samples,)))
        if len(self.loc) == 1:
            u = self.at(v.unsqueeze(1))[:, 0]
            return u, self.log_joint(v.unsqueeze(1), df)[:, 0]
        which = dist.Categorical(logits=self.log_share.mT).sample((num_samples,))  # (K, B)
        each = torch.arange(which.shape[1], device=which.device)
        u = self.loc[which, each] + (self.root[which, each] @ v.unsqueeze(-1)).squeeze(-1)
        return u, self.log_joint(self.whitened(u), df).logsumexp(-2)

    def moved(self, shift: Tensor, stretch: Tensor, gain: Tensor) -> Gaussians:
        """After a step in coordinates of their own: a shift (C, B, n), and logarithms of a stretch and of shares."""
        log_share = (self.log_share + gain.to(self.log_share)).log_softmax(0).clamp(min=FLOOR).log_softmax(0)
        if not self.is_full:
            loc, root = self.loc + self.root * shift, self.root * stretch.exp()
        else:
            factor = stretch.tril(-1) + torch.diag_embed(stretch.diagonal(dim1=-2, dim2=-1).exp())
            loc, root = self.loc + _times(self.root, shift.unsqueeze(0))[0], self.root @ factor
        return replace(self, loc=loc, root=root, log_share=log_share)

    def widened(self, factor: float) -> Gaussians:
        """With all standard deviations multiplied, but for those of what is masked."""
        if self.hidden is None:
            return replace(self, root=self.root * factor)
        each = torch.where(self.hidden, 1.0, self.loc.new_tensor(factor))
        return replace(self, root=self.root * (each.unsqueeze(-1) if self.is_full else each))

    def rows(self, which: Tensor) -> Gaussians:
        """Those of some of the B."""
        hidden = None if self.hidden is None else self.hidden[which]
        return Gaussians(self.loc[:, which], self.root[:, which], self.log_share[:, which], hidden)

    def put(self, where: Tensor, other: Gaussians) -> Gaussians:
        """With ``other`` at some of the B."""
        names = ("loc", "root", "log_share")
        return replace(self, **{k: getattr(self, k).index_copy(1, where, getattr(other, k)) for k in names})


def _times(matrix: Tensor, vector: Tensor) -> Tensor:
    """(..., n, n) times (K, ..., n), as products with K columns."""
    return (matrix @ vector.movedim(0, -1)).movedim(-1, 0)


def from_moments(u: Tensor, others: Tensor, full: bool, hidden: Tensor | None) -> Gaussians:
    """A Gaussian with the means and the standard deviations of draws u (K, B, n), others (C - 1, B, n) as wide."""
    loc, scale = u.mean(0), u.std(0).clamp(min=1e-6)
    if hidden is not None:
        loc, scale = loc.masked_fill(hidden, 0.0), scale.masked_fill(hidden, 1.0)
    every = torch.cat([loc.unsqueeze(0), others])
    root = torch.diag_embed(scale) if full else scale
    log_share = torch.full_like(every[..., 0], -math.log(len(every)))
    return Gaussians(every, root.expand(len(every), *root.shape), log_share, hidden)


def ascended(path: Path, q: Gaussians, steps: int, num_particles: int) -> Gaussians:
    """After so many steps of the natural gradient; a draw whose gradient is not finite counts as zero."""
    for t in range(steps):
        rate = RATE * (1 + math.cos(math.pi * t / steps)) / 2
        v = q.shown(torch.randn(num_particles, *q.loc.shape, dtype=q.loc.dtype, device=q.loc.device))
        _, log_p, slope = path.slope(q.at(v).flatten(0, 1), 1.0)  # the draws of all Gaussians as particles
        log_q, own = q.scores(v)
        h = q.shown(q.pulled_back(slope.view_as(v)) + own)
        h = torch.where(h.isfinite().all(-1, keepdim=True), h, 0.0)
        shift = rate * h.mean(0)
        if q.is_full:
            stretch = rate * torch.einsum("kcbi,kcbj->cbij", h, v).tril() / num_particles
            stretch.diagonal(dim1=-2, dim2=-1).div_(2)  # its Fisher information is 2, that of the others 1
        else:
            stretch = rate * (h * v).mean(0) / 2
        size = (shift.square().sum(-1) + stretch.square().flatten(2).sum(-1)).sqrt()
        share = (STEP / size.clamp(min=STEP)).unsqueeze(-1)  # 1 where the step is short
        stretch = (share.unsqueeze(-1) if q.is_full else share) * stretch
        gain = (log_p.view_as(log_q) - log_q).nan_to_num(nan=-math.inf).clamp(-1e6, 1e6).mean(0)  # (C, B) nats
        gain = rate * (gain - (q.log_share.exp() * gain).sum(0))
        q = q.moved(share * shift, stretch, gain.clamp(-STEP, STEP))
    return q
