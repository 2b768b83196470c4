"""log p(x) for each datum by importance sampling with the guide as proposal, with its error and its diagnostics."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from scipy.special import ndtri, stdtrit
from torch import Tensor

from . import proposals
from .diagnostics import khat_threshold, min_samples
from .errors import UserError
from .estimators import STATISTICS, check_jackknife, curve
from .ledger import Ledger
from .lines import entry_point
from .precision import choose
from .proposals import INDEPENDENT, PROPOSALS, Draw
from .quantity import LOG_PX, name_of
from .registry import ESTIMATORS
from .running import Running
from .setting import fingerprint, home
from .stream import plan as make_plan


@dataclass(eq=False)
class Estimate:
    """log p(x) of each datum, in nats, with its error and its diagnostics; all (N,) float64 on the CPU.

    Which side of the truth ``log_px`` lies on is said by ``side``. By default it is a lower bound in expectation:
    ``E[log_px] <= log p(x)``, and the gap shrinks as K grows.

    Attributes:
        log_px: the estimate; by default the log of the mean weight.
        std_error: its standard error by the delta method; nan where K = 1. Under ``"qmc"`` it comes from the scatter
            of the scramblings.
        ess: effective sample size, between 1 and K.
        khat: Pareto k; -inf where the estimate is exact, nan where too few weights are in the tail.
        elbo: the mean log weight, which is an unbiased estimate of the ELBO.
        num_samples: K.
        seed: the seed.
        num_dims: numbers that are observed of one datum, on average: without missing entries and what is masked.
        block: data scored together; with ``chunk`` it is part of what the seed means.
        chunk: particles scored together.
        name: what ``log_px`` is: ``"log p(x)"``, ``"log p(x | y)"`` where labels only condition the model, or
            ``"log p(x, y)"`` where the model observes them.
        proposal: where the particles came from; under another than the guide, ``elbo`` is of that proposal.
        estimator: what was made of the weights.
        num_temperatures: of annealing; 0 without.
        max_share: the share of the largest weight in the sum of all, between 1/K and 1.
        precision: of the matrix products, see :func:`log_likelihood`.
    """

    log_px: Tensor
    std_error: Tensor
    ess: Tensor
    khat: Tensor
    elbo: Tensor
    num_samples: int
    seed: int
    num_dims: float
    block: int
    chunk: int
    name: str = LOG_PX
    proposal: str = "guide"
    estimator: str = "iwae"
    max_share: Tensor | None = None
    num_temperatures: int = 0
    precision: str = "float32"

    def __len__(self) -> int:
        return len(self.log_px)

    @property
    def conditional(self) -> bool:
        """Whether the number is a density given something, such as labels."""
        return "|" in self.name

    @property
    def unreliable(self) -> Tensor:
        """(N,) bool: data whose k is not below the threshold for this K; exact data never are."""
        return ~(self.khat < khat_threshold(self.num_samples))

    @property
    def side(self) -> str:
        """Which side of log p(x) the estimate lies on in expectation: "exact", "lower", "upper" or "neither"."""
        if bool((self.khat == -math.inf).all()):
            return "exact"
        return ESTIMATORS[self.estimator][0]

    @property
    def needed(self) -> Tensor:
        """(N,) the sample size that each k asks for; see :func:`~ppl_vae.diagnostics.min_samples`."""
        return min_samples(self.khat)

    @property
    def bits_per_dim(self) -> float:
        """``-mean(log_px) / (D log 2)``; bits where x is discrete."""
        return -float(self.log_px.mean()) / (self.num_dims * math.log(2))

    @property
    def monte_carlo_error(self) -> float:
        """Standard error of ``mean(log_px)`` for these data, from the K draws of each alone."""
        return float(self.std_error.square().sum().sqrt()) / len(self)

    def interval(self, level: float = 0.95) -> tuple[Tensor, Tensor]:
        """The ends (N,) of the interval that the K draws give, by the normal law: for what the estimator estimates.

        That is log p(x), but for ``"elbo"`` and ``"cubo"``, whose bounds it is for. Under ``"qmc"`` by Student's t with
        one degree of freedom less than scramblings. Read it where k is good: the interval knows nothing of weights
        that were not drawn.

        Raises:
            UserError: a level outside (0, 1).
        """
        if not 0 < level < 1:
            raise UserError(f"level={level}: give a share between 0 and 1")
        p, freedom = (1 + level) / 2, max(1, math.ceil(self.num_samples / self.chunk) - 1)
        half = float(stdtrit(freedom, p) if self.proposal == "qmc" else ndtri(p)) * self.std_error
        return self.log_px - half, self.log_px + half

    def summary(self) -> dict[str, Any]:
        """The figures that an evaluation prints; None stands for what JSON can't hold."""
        finite = self.khat[torch.isfinite(self.khat)]
        n = len(self)
        return {
            "quantity": self.name,
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
            **({} if self.precision == "float32" else {"precision": self.precision}),
        }

    def __str__(self) -> str:
        s = self.summary()
        se = "nan" if s["log_px_se"] is None else f"{s['log_px_se']:.3f}"
        bad = torch.nonzero(self.unreliable)[:, 0].tolist()
        how = "" if self.estimator in ("iwae", "ais") else f"{self.estimator}, "
        how += "" if self.proposal == "guide" else f"{self.proposal} proposal, "
        how += "" if self.precision == "float32" else f"{self.precision} products, "
        mean = "ELBO" if self.proposal == "guide" else "mean log weight"
        threshold = khat_threshold(self.num_samples)
        if bool(self.khat.isnan().all()):
            trust = f"Pareto k needs more than {self.num_samples} samples: nothing says how far to trust this"
        else:
            trust = f"{len(bad)} of {len(self)} data unreliable (Pareto k >= {threshold:.2f})"
            trust += f": {', '.join(map(str, bad[:8]))}{' ...' if len(bad) > 8 else ''}" if bad else ""
        lines = [
            f"{self.name} {s['log_px_mean']:.3f} ± {se} nats ({SIDES[self.side]}; {how}K = {self.num_samples}, "
            f"seed {self.seed}, {len(self)} data)",
            f"{mean} {s['elbo_mean']:.3f} nats; {s['bits_per_dim']:.4f} bits/dim; smallest ESS {s['ess_min']:.1f}",
            trust,
        ]
        return "\n".join(lines)


SIDES = {
    "exact": "exact",
    "lower": "a lower bound in expectation",
    "upper": "an upper bound as K grows, whose estimate is biased downwards",
    "neither": "neither bound",
}


@entry_point
def log_likelihood(
    pair: Any,
    x: Any,
    y: Tensor | None = None,
    num_samples: int = 5000,
    *,
    estimator: str = "iwae",
    proposal: str | Draw = "guide",
    seed: int = 0,
    chunk: int | None = None,
    block: int | None = None,
    progress: bool = False,
    resume: str | Path | None = None,
    capture: bool | str = "auto",
    precision: str = "float32",
) -> Estimate:
    r"""Estimate log p(x) of each datum from exactly K weights of its own.

    .. math:: \log \hat p(x) = \log \frac1K \sum_k w_k, \qquad w_k = p(x, z_k) / q(z_k | x), \quad z_k \sim q(z|x)

    A lower bound in expectation. Data and samples are streamed, so memory does not grow with K. The pair is used in
    evaluation mode; no parameter, mode or generator is changed. The figures depend on the seed, ``block`` and
    ``chunk``, and on the type of device, and on nothing that ran before. Inside ``ranks.joined()`` the ranks share the
    blocks of data, and each gets the whole Estimate.

    Args:
        pair: a pair (``pv.Pair(model, guide)`` makes one).
        x: data (N, *shape), moved to the pair's device and dtype; or a split of ``load_data``, which brings its labels.
        y: labels (N,), for pairs that take them.
        num_samples: K.
        estimator: what is made of the weights: ``"iwae"``, the formula above; ``"elbo"``; ``"psis"``; ``"jvi1"`` or
            ``"jvi2"``; ``"cubo"``: see ``ppl_vae.estimators``. Those other than ``"iwae"`` hold the K weights of one
            block of data at a time.
        proposal: where z comes from: ``"guide"``; ``"prior"``, which shows what the guide is worth; ``"defensive"``,
            a tenth from the prior and the rest from the guide, with bounded weights; ``"tempered"``, the guide made
            wider; ``"qmc"``, quasi-random points through the guide; or a function, see ``ppl_vae.proposals``.
        seed: seeds every block of data and chunk of samples on its own.
        chunk: samples scored at once; None divides K evenly into chunks of at most 512, and for ``"qmc"``, where a
            chunk is one scrambling, takes a power of two that leaves at least four.
        block: data scored at once; None takes what makes 4096 rows with the chunk, and fewer for large data.
        progress: show a bar.
        resume: a folder for unfinished work: the same call goes on from there. It is emptied at the end.
        capture: score chunks by a compiled graph, to the same numbers but for rounding: True, False, or ``"auto"``,
            which compiles for whole chunks where the work is worth it. ``"qmc"`` is never captured.
        precision: ``"float32"``, or ``"bf16"`` for matrix products in bfloat16: faster, and off by what the page
            "Performance" says.

    Returns:
        Estimate: per datum log p(x), its standard error, ESS, Pareto k and the ELBO.

    Raises:
        PairError: there is no weight: the guide has a deterministic site, lives on another space than the prior or on
            a part of it, or the model has a ``pyro.factor``; or the pair breaks its contract. Names the site.
        DataError: x has no data, or lies outside the support of the likelihood.
        NonFiniteError: a weight is NaN or +inf; names the site and the datum.
        UserError: an estimator or a proposal that is not known, or that do not go together.

    Source: Burda, Grosse, Salakhutdinov: Importance Weighted Autoencoders, 2015, arXiv:1509.00519.

    Example:
        >>> import torch, ppl_vae as pv
        >>> pair = pv.build("linear", data_shape=(5,), latent=2, guide="exact").double()
        >>> x = torch.randn(3, 5, dtype=torch.float64)
        >>> est = pv.log_likelihood(pair, x, num_samples=10)
        >>> bool((est.log_px - pair.model.evidence(x)).abs().max() < 1e-9)
        True
    """
    found = estimates(
        pair, x, y, num_samples, (estimator,), proposal=proposal, seed=seed, chunk=chunk, block=block,
        progress=progress, resume=resume, capture=capture, precision=precision,
    )  # fmt: skip
    return found[estimator]


@entry_point
def estimates(
    pair: Any,
    x: Any,
    y: Tensor | None = None,
    num_samples: int = 5000,
    estimators: Sequence[str] = ("iwae",),
    *,
    proposal: str | Draw = "guide",
    seed: int = 0,
    chunk: int | None = None,
    block: int | None = None,
    progress: bool = False,
    resume: str | Path | None = None,
    capture: bool | str = "auto",
    precision: str = "float32",
) -> dict[str, Estimate]:
    """Several estimators of :func:`log_likelihood` from the same weights, in one pass: by name."""
    plan = make_plan(pair, x, y, num_samples, proposal, seed, chunk, block, capture, precision)
    refuse_mismatch(estimators, plan.proposal, num_samples)
    about = {"work": "log_likelihood", **plan.setting, "estimators": sorted(estimators), "precision": precision}
    if resume is not None:
        about["data"] = fingerprint(pair, plan.x, plan.y)
        about["probe"] = plan.probe()
    hold = any(e != "iwae" for e in estimators)
    with Ledger(resume, about, {"products": choose(home(pair)[0])}) as ledger:
        plan.products = ledger.settled["products"]

        def part_at(start: int) -> dict[str, Tensor]:
            n = str(start // plan.block)
            part = ledger.get(n)
            if part is None:
                part = _fields(*plan.block_at(start, hold), estimators, plan.draw is proposals.qmc)
                part["num_dims"] = plan.observed.pop(start)
                ledger.put(n, part)
            return part

        parts = plan.each("log p(x)", progress, part_at)
    whole = {k: torch.cat([p[k] for p in parts]) for k in parts[0]}
    common: dict[str, Any] = {k: whole[k] for k in ("ess", "khat", "elbo", "max_share")} | plan.setting
    common["num_dims"] = mean_size(whole["num_dims"])
    common["precision"] = precision
    common["name"] = name_of(pair, plan.x, plan.y)
    return {
        e: Estimate(log_px=whole[f"{e}.log_px"], std_error=whole[f"{e}.std_error"], estimator=e, **common)
        for e in estimators
    }


@entry_point
def log_weights(
    pair: Any,
    x: Any,
    y: Tensor | None = None,
    num_samples: int = 1000,
    *,
    proposal: str | Draw = "guide",
    seed: int = 0,
    chunk: int | None = None,
    block: int | None = None,
    progress: bool = False,
) -> Tensor:
    """The log weights themselves, (K, N) float64 on the CPU: those that :func:`log_likelihood` sums at this seed.

    For what needs all of them at once (``ppl_vae.estimators``, ArviZ). Memory is 8 K N bytes.

    Args:
        pair: as in :func:`log_likelihood`, like every argument.
        x: data.
        y: labels.
        num_samples: K.
        proposal: where z comes from.
        seed: the seed.
        chunk: samples scored at once.
        block: data scored at once.
        progress: show a bar.

    Example:
        >>> import torch, ppl_vae as pv
        >>> pair = pv.build("linear", data_shape=(5,), latent=2)
        >>> log_w = pv.log_weights(pair, torch.zeros(3, 5), num_samples=50)
        >>> est = pv.log_likelihood(pair, torch.zeros(3, 5), num_samples=50)
        >>> bool(torch.allclose(pv.ess(log_w), est.ess))
        True
    """
    plan = make_plan(pair, x, y, num_samples, proposal, seed, chunk, block)
    return torch.cat(plan.each("weights", progress, plan.weights_at), 1)


class Curve(NamedTuple):
    """The bound L_k of each datum for several k, in nats."""

    sizes: tuple[int, ...]
    log_px: Tensor  # (len(sizes), N)
    std_error: Tensor  # (len(sizes), N), Monte Carlo


@entry_point
def bound_curve(
    pair: Any,
    x: Any,
    y: Tensor | None = None,
    num_samples: int = 100_000,
    sizes: Sequence[int] | None = None,
    *,
    proposal: str | Draw = "guide",
    seed: int = 0,
    progress: bool = False,
) -> Curve:
    r"""The bound :math:`L_k` against k, for all k from one set of K weights: how far it still grows.

    L_k is the mean over the K // k disjoint groups of k weights. Holds the weights of one block of data at a time.

    Args:
        pair: as in :func:`log_likelihood`.
        x: data.
        y: labels.
        num_samples: K, the largest k.
        sizes: the k to show; None takes 1, 2, 5, 10, 20, ... up to K, and powers of two for ``"qmc"``.
        proposal: where z comes from.
        seed: the seed.
        progress: show a bar.

    Example:
        >>> import torch, ppl_vae as pv
        >>> pair = pv.build("linear", data_shape=(5,), latent=2)
        >>> pv.bound_curve(pair, torch.zeros(3, 5), num_samples=100).sizes
        (1, 2, 5, 10, 20, 50, 100)
    """
    if sizes is None:
        steps = [m * 10**e for e in range(12) for m in (1, 2, 5)] if proposal != "qmc" else [2**e for e in range(40)]
        sizes = [k for k in steps if k < num_samples] + [num_samples]  # a power of two of a net is a net
    plan = make_plan(pair, x, y, num_samples, proposal, seed, None, None)
    parts = plan.each("bounds", progress, lambda start: curve(plan.weights_at(start), sizes))
    values, errors = (torch.cat(list(column), 1) for column in zip(*parts, strict=True))
    return Curve(tuple(sizes), values, errors)


def mean_size(num_dims: Tensor) -> float | int:
    """Numbers observed of a datum, on average; whole where it is."""
    mean = float(num_dims.mean())
    return int(mean) if mean.is_integer() else mean


def refuse_mismatch(estimators: Sequence[str], proposal: str | Draw, num_samples: int) -> None:
    """Refuse estimators that a proposal or a number of samples can't serve.

    Raises:
        UserError: names the first of them.
    """
    for name in estimators:
        if name not in STATISTICS:
            more = "; pv.ais anneals" if name == "ais" else f"; proposal={name!r} is that" if name in PROPOSALS else ""
            raise UserError(f"estimator={name!r}: choose one of {', '.join(STATISTICS)}{more}")
        if (proposal == "qmc" and name != "iwae") or (
            name.startswith("jvi") and proposal in PROPOSALS and proposal not in INDEPENDENT
        ):
            raise UserError(
                f"estimator={name!r} needs independent draws, which proposal={proposal!r} does not make; use 'iwae', "
                f"or one of the proposals {', '.join(sorted(INDEPENDENT))}"
            )
        if name.startswith("jvi"):  # before the weights are paid for
            check_jackknife(num_samples, int(name[3:]))


def _fields(total: Running, held: Tensor, estimators: Sequence[str], scrambled: bool) -> dict[str, Tensor]:
    """The fields of Estimates for one block, (B,) each, on the CPU."""
    result = {k: v.cpu() for k, v in total.result().items()}
    found = {k: result[k] for k in ("ess", "khat", "elbo", "max_share")}
    for name in estimators:
        value, error = result["log_px"], result["std_error"]
        if scrambled and not total.exact:
            error = total.between().cpu()
        if name != "iwae" and not total.exact:
            value, error = STATISTICS[name](held)
        found[f"{name}.log_px"], found[f"{name}.std_error"] = value, error
    return found
