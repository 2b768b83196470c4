"""log p(x) of each example by importance sampling with the guide as proposal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..common.entry import entry_point
from ..common.errors import UserError
from ..common.identity import describe
from ..compile.products import choose
from ..guides.refined import Refined
from ..runs.partial import PartialResults
from ..scoring.inputs import device_and_dtype, fingerprint
from ..scoring.quantity import name_of
from .estimators import ESTIMATORS, log_mean_exp
from .proposals import PROPOSALS, proposal as proposal_of
from .records import Estimator, EstimatorLike, Proposal, ProposalLike, resolve
from .result import Estimate, mean_size
from .staged import staged
from .streaming import Plan, plan as make_plan


@entry_point
def log_likelihood(
    pair: Any,
    x: Any,
    y: Tensor | None = None,
    num_samples: int = 5000,
    *,
    estimator: EstimatorLike = "iwae",
    proposal: ProposalLike = "guide",
    seed: int = 0,
    chunk: int | None = None,
    block: int | None = None,
    progress: bool = False,
    resume: str | Path | None = None,
    capture: bool | str = "auto",
    precision: str = "float32",
) -> Estimate:
    r"""Estimate log p(x) of each example from exactly K weights of its own.

    .. math:: \log \hat p(x) = \log \frac1K \sum_k w_k, \qquad w_k = p(x, z_k) / q(z_k | x), \quad z_k \sim q(z|x)

    A lower bound in expectation. Data and samples are streamed, so memory does not grow with K. The pair is used in
    evaluation mode; no parameter, mode or generator is changed. The figures depend on the seed, ``block``, ``chunk``
    and the type of device alone. Inside ``ranks.joined()`` the ranks share the data batches, and each gets the whole.

    Args:
        pair: a pair (``pv.Pair(model, guide)`` makes one).
        x: data (N, *shape), moved to the pair's device and dtype; or a split of ``load_data``, which brings its labels.
        y: labels (N,), for pairs that take them.
        num_samples: K.
        estimator: what is made of the weights: a name in ``pv.estimators.ESTIMATORS``, a function of log weights
            (K, B) to a value (B,) or to (value, standard error), or an ``Estimator``. Those other than ``"iwae"`` hold
            the K weights of one data batch.
        proposal: where z comes from: a name in ``pv.proposals.PROPOSALS``, a function that gives Terms, or a
            ``Proposal``.
        seed: seeds every data batch and sample chunk separately.
        chunk: samples in a sample chunk; None divides K evenly into chunks of at most 512, and for ``"qmc"``, where a
            chunk is one scrambling, takes a power of two that leaves at least four.
        block: examples in a data batch; None takes what makes 4096 rows with the chunk, and fewer for large data.
        progress: show a bar.
        resume: a folder for unfinished work: the same call resumes there. It is emptied at the end.
        capture: score chunks by a compiled graph, to the same numbers but for rounding: True, False, or ``"auto"``,
            which compiles for whole chunks where the work is worth it. ``"qmc"`` is never captured.
        precision: ``"float32"``, or ``"bf16"``: matrix products in bfloat16, see the page "Performance".

    Raises:
        PairError: there is no weight: the guide has a deterministic site, lives on another space than the prior or on
            a part of it, or the model has a ``pyro.factor``; or the pair breaks its contract. Names the site.
        DataError: x has no data, or lies outside the support of the likelihood.
        NonFiniteError: a weight is NaN or +inf; names the site and the example.
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
    return estimates(
        pair, x, y, num_samples, (estimator,), proposal=proposal, seed=seed, chunk=chunk, block=block,
        progress=progress, resume=resume, capture=capture, precision=precision,
    )[0]  # fmt: skip


def estimates(
    pair: Any,
    x: Any,
    y: Tensor | None,
    num_samples: int,
    estimators: Sequence[EstimatorLike],
    *,
    progress: bool = False,
    resume: str | Path | None = None,
    **setting: Any,
) -> list[Estimate]:
    """Several estimators of :func:`log_likelihood` from the same weights, in one pass."""
    asked = [resolve(Estimator, one, ESTIMATORS) for one in estimators]
    source = proposal_of(setting.get("proposal", "guide"))
    for one in asked:
        refuse_mismatch(one, source, num_samples)
    if source.stages:
        options = {k: setting[k] for k in ("seed", "capture")} | {"progress": progress, "resume": resume}
        rest: dict[str, Any] = {**setting, **options, "proposal": "guide"}

        def by_guide(pair: Any, x: Any, y: Tensor | None, num_samples: int, seed: int) -> Estimate:
            return estimates(pair, x, y, num_samples, ("iwae",), **{**rest, "seed": seed})[0]

        return [staged(by_guide, pair, x, y, num_samples, source.name, dict(source.chains), **options)]
    plan = make_plan(pair, x, y, num_samples, progress=progress, resume=resume, **setting)
    pair = plan.pair
    made_by = {"estimators": [describe(one) for one in asked], "proposal": describe(plan.proposal)}
    about = {"work": "log_likelihood", **plan.setting, **made_by, "precision": plan.precision}
    if resume is not None:
        about |= {"data": fingerprint(pair, plan.x, plan.y), "probe": plan.probe()}
    with PartialResults(resume, about, {"products": choose(device_and_dtype(pair)[0])}) as saved:
        plan.products = saved.settled["products"]

        def part_at(start: int) -> dict[str, Tensor]:
            name = str(start // plan.block)
            part = saved.get(name)
            if part is None:
                part = _figures(plan, start, asked)
                saved.put(name, part)
            return part

        parts = plan.each("log p(x)", progress, part_at)
    whole = {k: torch.cat([p[k] for p in parts]) for k in parts[0]}
    common: dict[str, Any] = {
        **{k: whole[k] for k in ("ess", "khat", "elbo", "max_share")},
        **plan.setting,
        "num_dims": mean_size(whole["num_dims"]),
        "precision": plan.precision,
        "scramblings": math.ceil(num_samples / plan.chunk) if plan.proposal.nets else 0,
        "name": name_of(pair, plan.x, plan.y),
        "refined": pair.guide.summary() if isinstance(pair.guide, Refined) else {},
    }
    return [
        Estimate(
            log_px=whole[f"{i}.log_px"],
            std_error=whole[f"{i}.std_error"],
            estimator=one.name,
            bound=one.side if plan.proposal.side == "lower" else "neither",
            custom=_custom(one, plan.proposal),
            **common,
        )
        for i, one in enumerate(asked)
    ]


def _figures(plan: Plan, start: int, estimators: Sequence[Estimator]) -> dict[str, Tensor]:
    """The figures of one data batch, (B,) each, on the CPU: those of each estimator by its place."""
    found = plan.block_at(start, any(one.function is not log_mean_exp for one in estimators))
    figures = {k: v.cpu() for k, v in found.total.result().items()} | {"num_dims": found.num_dims}
    value, error = figures.pop("log_px"), figures.pop("std_error")
    if plan.proposal.nets and not found.total.exact:
        error = found.total.between().cpu()
    for i, one in enumerate(estimators):
        summed = found.total.exact or one.function is log_mean_exp  # the running sums give it
        figures[f"{i}.log_px"], figures[f"{i}.std_error"] = (value, error) if summed else one(found.log_w)
    return figures


def _custom(estimator: Estimator, proposal: Proposal) -> dict[str, Any]:
    """What identifies an estimator and a proposal that are in no table."""
    found = {} if ESTIMATORS.get(estimator.name) == estimator else {"estimator": describe(estimator)}
    return found | ({} if PROPOSALS.get(proposal.name) == proposal else {"proposal": describe(proposal)})


def refuse_mismatch(estimator: Estimator, proposal: Proposal, num_samples: int) -> None:
    """Refuse an estimator that a proposal or a number of samples can't serve, before the weights are paid for.

    Raises:
        UserError: says why.
    """
    name, least, most = estimator.name, estimator.least, estimator.most
    if num_samples < 1:
        raise UserError(f"num_samples={num_samples}: at least one is needed")
    if proposal.stages and estimator.function is not log_mean_exp:
        raise UserError(f"proposal={proposal.name!r} gives the K-sample bound, not estimator={name!r}: use 'refined'")
    scatter_serves = not proposal.nets or estimator.function is log_mean_exp
    if (estimator.independent and not proposal.independent) or not scatter_serves:
        raise UserError(
            f"estimator={name!r} needs independent draws, which proposal={proposal.name!r} does not make; use 'iwae', "
            f"or one of the proposals {', '.join(p.name for p in PROPOSALS.values() if p.independent)}"
        )
    if num_samples < least:
        raise UserError(
            f"estimator={name!r} needs at least {least} samples, and there are {num_samples}: give more samples"
        )
    if most is not None and num_samples > most:
        raise UserError(f"estimator={name!r} is too slow for {num_samples} samples: give at most {most} samples")


@entry_point
def log_weights(
    pair: Any,
    x: Any,
    y: Tensor | None = None,
    num_samples: int = 1000,
    *,
    proposal: ProposalLike = "guide",
    seed: int = 0,
    chunk: int | None = None,
    block: int | None = None,
    progress: bool = False,
) -> Tensor:
    """The log weights themselves, (K, N) float64 on the CPU: those that :func:`log_likelihood` sums at this seed.

    For what needs all of them at once (``pv.estimators``, ArviZ). Memory is 8 K N bytes. The arguments are those of
    :func:`log_likelihood`.

    Example:
        >>> import torch, ppl_vae as pv
        >>> pair = pv.build("linear", data_shape=(5,), latent=2)
        >>> log_w = pv.log_weights(pair, torch.zeros(3, 5), num_samples=50)
        >>> est = pv.log_likelihood(pair, torch.zeros(3, 5), num_samples=50)
        >>> bool(torch.allclose(pv.ess(log_w), est.ess))
        True
    """
    plan = make_plan(pair, x, y, num_samples, proposal, seed, chunk, block, progress=progress)
    return torch.cat(plan.each("weights", progress, plan.weights_at), 1)
