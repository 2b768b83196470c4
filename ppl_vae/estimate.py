"""log p(x) for each datum by importance sampling with the guide as proposal, with its error and its diagnostics."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from . import weights
from .data import as_split
from .diagnostics import EXACT, fit_khat, khat_threshold, tail_length
from .errors import DataError, NonFiniteError, PairError, UserError
from .kinds import kind
from .progress import track
from .proposals import PROPOSALS, Draw
from .rng import forked, reseed, seed_for

ROWS = 8192  # particles times data that are scored at once; part of a seed's meaning, so a constant
CHUNK = 256  # particles at once


@dataclass(eq=False)
class Estimate:
    """log p(x) of each datum, in nats, with its error and its diagnostics; all (N,) float64 on the CPU.

    ``log_px`` is a lower bound in expectation: ``E[log_px] <= log p(x)``, and the gap shrinks as K grows.

    Attributes:
        log_px: log of the mean weight.
        std_error: its standard error by the delta method; nan where K = 1.
        ess: effective sample size, between 1 and K.
        khat: Pareto k; -inf where the estimate is exact, nan where too few weights are in the tail.
        elbo: the mean log weight, which is an unbiased estimate of the ELBO.
        num_samples: K.
        seed: the seed.
        num_dims: numbers in one datum.
        block: data scored together; with ``chunk`` it is part of what the seed means.
        chunk: particles scored together.
        proposal: where the particles came from; under another than the guide, ``elbo`` is of that proposal.
        conditional: whether labels moved the weights, so that ``log_px`` is log p(x | y).
    """

    log_px: Tensor
    std_error: Tensor
    ess: Tensor
    khat: Tensor
    elbo: Tensor
    num_samples: int
    seed: int
    num_dims: int
    block: int
    chunk: int
    conditional: bool = False
    proposal: str = "guide"

    def __len__(self) -> int:
        return len(self.log_px)

    @property
    def unreliable(self) -> Tensor:
        """(N,) bool: data whose k is not below the threshold for this K; exact data never are."""
        return ~(self.khat < khat_threshold(self.num_samples))

    @property
    def bits_per_dim(self) -> float:
        """``-mean(log_px) / (D log 2)``; bits where x is discrete."""
        return -float(self.log_px.mean()) / (self.num_dims * math.log(2))

    @property
    def monte_carlo_error(self) -> float:
        """Standard error of ``mean(log_px)`` for these data, from the K draws of each alone."""
        return float(self.std_error.square().sum().sqrt()) / len(self)

    def summary(self) -> dict[str, Any]:
        """The figures that an evaluation prints; None stands for what JSON can't hold."""
        finite = self.khat[torch.isfinite(self.khat)]
        n = len(self)
        return {
            "n": n,
            "num_samples": self.num_samples,
            "seed": self.seed,
            "log_px_mean": float(self.log_px.mean()),
            "log_px_se": float(self.log_px.std() / math.sqrt(n)) if n > 1 else None,
            "elbo_mean": float(self.elbo.mean()),
            "bits_per_dim": self.bits_per_dim,
            "ess_min": float(self.ess.min()),
            "khat_max": float(finite.max()) if len(finite) else None,
            "khat_fraction_unreliable": float(self.unreliable.double().mean()),
            "khat_exact": int((self.khat == -math.inf).sum()),
        }

    def __str__(self) -> str:
        s = self.summary()
        se = "nan" if s["log_px_se"] is None else f"{s['log_px_se']:.3f}"
        bad = torch.nonzero(self.unreliable)[:, 0].tolist()
        side = "exact" if s["khat_exact"] == len(self) else "a lower bound in expectation"
        where = "" if self.proposal == "guide" else f"{self.proposal} proposal, "
        name = "log p(x|y)" if self.conditional else "log p(x)"
        threshold = khat_threshold(self.num_samples)
        if bool(self.khat.isnan().all()):
            trust = f"Pareto k needs more than {self.num_samples} samples: nothing says how far to trust this"
        else:
            trust = f"{len(bad)} of {len(self)} data unreliable (Pareto k >= {threshold:.2f})"
            trust += f": {', '.join(map(str, bad[:8]))}{' ...' if len(bad) > 8 else ''}" if bad else ""
        lines = [
            f"{name} {s['log_px_mean']:.3f} ± {se} nats ({side}; {where}K = {self.num_samples}, seed {self.seed}, "
            f"{len(self)} data)",
            f"ELBO {s['elbo_mean']:.3f} nats; {s['bits_per_dim']:.4f} bits/dim; smallest ESS {s['ess_min']:.1f}",
            trust,
        ]
        return "\n".join(lines)


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


def log_likelihood(
    pair: Any,
    x: Any,
    y: Tensor | None = None,
    num_samples: int = 5000,
    *,
    proposal: str = "guide",
    seed: int = 0,
    chunk: int | None = None,
    block: int | None = None,
    progress: bool = False,
) -> Estimate:
    r"""Estimate log p(x) of each datum from exactly K weights of its own.

    .. math:: \log \hat p(x) = \log \frac1K \sum_k w_k, \qquad w_k = p(x, z_k) / q(z_k | x), \quad z_k \sim q(z|x)

    A lower bound in expectation. Data and samples are streamed, so memory does not grow with K. The pair is used in
    evaluation mode; no parameter, mode or generator is changed. The figures depend on the seed, ``block`` and
    ``chunk``, and on the type of device, and on nothing that ran before.

    Args:
        pair: a pair (``pv.Pair(model, guide)`` makes one).
        x: data (N, *shape), moved to the pair's device and dtype; or a split of ``load_data``, which brings its labels.
        y: labels (N,), for pairs that take them.
        num_samples: K.
        proposal: where z comes from: ``"guide"``; ``"prior"``, which shows what the guide is worth; or
            ``"defensive"``, a tenth from the prior and the rest from the guide, with bounded weights.
        seed: seeds every block of data and chunk of samples on its own.
        chunk: samples scored at once; None takes 256.
        block: data scored at once; None takes what makes 8192 rows with the chunk.
        progress: show a bar.

    Returns:
        Estimate: per datum log p(x), its standard error, ESS, Pareto k and the ELBO.

    Raises:
        PairError: the guide has a deterministic site, so that there is no weight; or the pair breaks its contract.
        DataError: x has no data, or lies outside the support of the likelihood.
        NonFiniteError: a weight is NaN or +inf; names the site and the datum.

    Source: Burda, Grosse, Salakhutdinov: Importance Weighted Autoencoders, 2015, arXiv:1509.00519.

    Example:
        >>> import torch, ppl_vae as pv
        >>> pair = pv.build("linear", data_shape=(5,), latent=2, guide="exact").double()
        >>> x = torch.randn(3, 5, dtype=torch.float64)
        >>> est = pv.log_likelihood(pair, x, num_samples=10)
        >>> bool((est.log_px - pair.model.evidence(x)).abs().max() < 1e-9)
        True
    """
    if num_samples < 1:
        raise UserError(f"num_samples={num_samples}: at least one is needed")
    if proposal not in PROPOSALS:
        raise UserError(f"proposal={proposal!r}: choose one of {', '.join(PROPOSALS)}")
    if not torch.is_tensor(x):  # a split, an array, (x, y)
        split = as_split(x).fixed(seed)
        x, y = split.x, split.y if y is None else y
    if x.dim() == 0 or len(x) == 0:
        raise DataError("log_likelihood: x holds no data; give a tensor of shape (N, *data_shape) with N >= 1")
    if y is not None and len(y) != len(x):
        raise DataError(f"log_likelihood: {len(y)} labels for {len(x)} data; give one label a datum")
    chunk = min(num_samples, chunk or CHUNK)
    block = min(len(x), block or max(1, ROWS // chunk))
    device, dtype = home(pair)
    parts: list[dict[str, Tensor]] = []
    starts = range(0, len(x), block)
    with evaluating(pair), forked(device):
        for i in track(starts, "log p(x)", enabled=progress):
            xb = x[i : i + block].to(device)
            xb = xb.to(dtype) if xb.is_floating_point() else xb
            yb = None if y is None else y[i : i + block].to(device)
            parts.append(_block(pair, xb, yb, num_samples, chunk, seed, i // block, i, PROPOSALS[proposal]))
    whole = {k: torch.cat([p[k] for p in parts]).cpu() for k in parts[0]}
    return Estimate(
        **whole,
        num_samples=num_samples,
        seed=seed,
        num_dims=math.prod(x.shape[1:]),
        block=block,
        chunk=chunk,
        proposal=proposal,
        conditional=y is not None and _labels_matter(pair, x, y, device, dtype),
    )


def _labels_matter(pair: Any, x: Tensor, y: Tensor, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether other labels change the weights of a few data: a pair may take labels and ignore them."""
    if not weights.takes_labels(pair.model):
        return False
    kinds = torch.unique(y)
    if len(kinds) == 1:
        return hasattr(pair.model, "num_classes")
    first = (y == kinds[0]).nonzero()[0, 0], (y == kinds[1]).nonzero()[0, 0]
    few = torch.stack(first)
    xb = x[few.to(x.device)].to(device)
    xb = xb.to(dtype) if xb.is_floating_point() else xb
    found = []
    for labels in (y[few], y[few].flip(0)):
        with evaluating(pair), forked(device, 0), pyro.validation_enabled(False):
            found.append(weights.terms(pair.model, pair.guide, xb, labels.to(device)).log_w)
    return not torch.equal(*found)


def _block(
    pair: Any,
    x: Tensor,
    y: Tensor | None,
    num_samples: int,
    chunk: int,
    seed: int,
    index: int,
    first: int,
    draw: Draw,
) -> dict[str, Tensor]:
    """All samples of one block of data, by a running sum of w and w^2 and the upper tail."""
    total = Running(num_samples)
    for c, start in enumerate(range(0, num_samples, chunk)):
        reseed(seed_for(seed, "log_likelihood", index, c), x.device)
        size = min(chunk, num_samples - start)
        with pyro.validation_enabled(False):
            t = draw(pair.model, pair.guide, x, y, size)
        if c == 0:
            _refuse_delta(t)
            refuse_outside(t, first)
        total.add(t)
        if t.exact:
            total.repeat(num_samples)
            break
    total.refuse_nonfinite(t, first)
    return total.result()


class Running:
    """Sums over K log weights for B data, in float64, in memory that does not grow with K."""

    def __init__(self, num_samples: int) -> None:
        self.num_samples = num_samples
        self.keep = min(tail_length(num_samples), num_samples)
        self.count = 0
        self.exact = False
        self._started = False

    def add(self, t: weights.Terms) -> None:
        """Take in the weights of some more samples."""
        log_w = t.log_w
        eps = torch.finfo(log_w.dtype).eps
        # what rounding alone can do to log_w: its terms are large, and cancel
        size = sum(part.detach().abs().amax(0) for part in (t.log_lik, t.log_prior, t.log_q)) + torch.ones_like(
            log_w[0]
        )
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
            self.stuck = torch.zeros_like(like, dtype=torch.bool)
            self._started = True
        new_max = torch.maximum(self.max, log_w.amax(0))
        shift = torch.where(torch.isinf(new_max), 0.0, new_max)
        old = torch.exp(self.max - shift)
        w = torch.exp(log_w - shift)
        self.w = self.w * old + w.sum(0)
        self.w2 = self.w2 * old.square() + w.square().sum(0)
        self.max = new_max
        self.min = torch.minimum(self.min, log_w.amin(0))
        self.sum = self.sum + log_w.sum(0)
        noise = eps * size.double()  # where this alone hides differences that matter, equal weights prove nothing
        rounding = torch.where(noise < EXACT, (32 * noise).clamp(max=EXACT), -math.inf)
        self.rounding = torch.maximum(self.rounding, rounding) if self.count else rounding
        self.stuck |= _is_stuck(t)
        top = torch.cat([self.top, log_w])
        self.top = torch.topk(top, min(self.keep, len(top)), dim=0).values
        self.count += len(log_w)

    def repeat(self, num_samples: int) -> None:
        """Every particle of a model without latents is the same: count the ones not scored."""
        self.w, self.w2, self.sum = (v * (num_samples / self.count) for v in (self.w, self.w2, self.sum))
        self.count = num_samples
        self.exact = True

    def refuse_nonfinite(self, t: weights.Terms, first: int) -> None:
        """Raise where a weight was NaN or +inf; a weight of zero is legal."""
        bad = torch.nonzero(torch.isnan(self.sum) | torch.isnan(self.max) | (self.max == math.inf))
        if len(bad):
            i = int(bad[0])
            for name, site in (*t.sites.items(), *t.observed.items()):
                values = torch.stack([site.log_p[:, i], site.log_q[:, i]])
                if bool((torch.isnan(values) | (values == math.inf)).any()):
                    raise NonFiniteError(
                        f"log_likelihood: datum {first + i}: the log density of site {name!r} is not finite"
                    )
            raise NonFiniteError(f"log_likelihood: datum {first + i}: a weight is not finite")

    def result(self) -> dict[str, Tensor]:
        """The fields of an Estimate, (B,) each."""
        k = self.count
        shift = torch.where(torch.isinf(self.max), 0.0, self.max)
        ratio = self.w2 / self.w.square()  # 1 / ESS
        variance = ((k * ratio - 1) / (k - 1)).clamp(min=0) if k > 1 else torch.full_like(ratio, math.nan)
        exact = self.max - self.min <= self.rounding  # false where a weight is zero, since rounding is capped
        if self.exact:
            exact = torch.ones_like(exact)
        khat = fit_khat(self.top, k, exact & ~self.stuck)
        khat = torch.where(exact & self.stuck, math.nan, khat)  # equal weights of one value say nothing of the others
        if self.exact:
            khat = torch.full_like(khat, -math.inf)
            variance = torch.zeros_like(ratio)
        return {
            "log_px": shift + torch.log(self.w / k),
            "std_error": variance.sqrt(),
            "ess": 1 / ratio,
            "khat": khat,
            "elbo": self.sum / k,
        }


def _is_stuck(t: weights.Terms) -> Tensor:
    """(B,) bool: data for which a discrete latent took one value in every particle, though it has others."""
    stuck = torch.zeros_like(t.log_lik[0], dtype=torch.bool)
    for s in t.sites.values():
        if s.p is not None and getattr(s.p.support, "is_discrete", False):
            same = (s.value == s.value[:1]).flatten(2).all(-1) if s.value.dim() > 2 else s.value == s.value[:1]
            stuck = stuck | same.all(0)
    return stuck


def _refuse_delta(t: weights.Terms) -> None:
    auxiliary = any(s.p is None for s in t.sites.values())
    for s in t.sites.values():
        # an autoguide's Delta passes on what its auxiliary site drew; one that never moves is a code
        moves = auxiliary and (len(s.value) == 1 or not torch.equal(s.value[0], s.value[1]))
        if kind(s.q) == "Delta" and not moves:
            raise PairError(
                f"site {s.name!r}: the guide is deterministic (Delta), so q(z|x) has no density, there is no "
                f"importance weight and no log p(x) to estimate; report the reconstruction, E[log p(x|z)], or use a "
                f"guide with noise"
            )


def refuse_outside(t: weights.Terms, first: int = 0) -> None:
    """Raise where data lie outside the support of the site that observes them; ``first`` is the index of the first.

    Raises:
        DataError: names the site and the datum.
    """
    for name, site in t.observed.items():
        if site.value is None or not hasattr(site.p, "support"):
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
