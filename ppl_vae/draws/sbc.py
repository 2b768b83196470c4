"""Simulation-based calibration: where exact draws from the posterior of simulated data rank among those of a method."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import pyro
import torch
from torch import Tensor

from ..common.entry import entry_point
from ..common.errors import NonFiniteError, PairError, UserError
from ..common.fields import X, joined, num_data, rows
from ..common.progress import bar
from ..common.rng import forked, reseed, seed_for
from ..likelihood.refine import refine
from ..scoring import densities, programs, simulate, trace
from ..scoring.inputs import device_and_dtype, evaluating, everything
from .calibration import NOT_TESTED, Calibration
from .posterior import BLOCK, CHUNK, METHODS

GRID = 1e-3  # nats: log weights that differ by less are equal, so that rounding has no rank
Latents = dict[str, Tensor]  # (K, B, *event) by site
Method = Callable[[Any, X, Tensor | None, int], Latents]


@entry_point
def sbc(
    pair: Any,
    num_data: int = 1000,
    num_samples: int = 199,
    y: Any = None,
    *,
    method: str | Method = "guide",
    warmup: int = 200,
    like: Any = None,
    seed: int = 0,
    progress: bool = False,
) -> Calibration:
    r"""Test whether draws come from the posterior, on data simulated from the model.

    .. math:: z^* \sim p(z), \quad x \sim p(x|z^*), \quad z_1, \dots, z_L \sim q(z|x), \qquad
              r = \#\{l : f(z_l, x) < f(z^*, x)\}

    Given x, the latent :math:`z^*` that made it is an exact draw from the posterior. Where q is the posterior, each
    rank r is uniform on 0, ..., L, for every f; ties are broken at random. The test quantities f are each entry of each
    latent, log p(x|z) and log p(x,z), which see how entries depend on one another, and, of a guide, log w = log p(x,z)
    - log q(z|x), the quantity that tells the two distributions apart best. Latents that are summed out are not tested,
    nor is what is masked. The tests are exact for any N and L, and allow for the number of quantities.

    Use when you want draws of z themselves, not only log p(x): to know whether the guide is too narrow, too wide or
    biased; or to test a sampler. An amortised guide needs no fit for each example, so that a thousand take seconds.

    Args:
        pair: a pair with latents.
        num_data: N, examples to simulate.
        num_samples: L, draws for each; one less than a multiple of 40 makes central intervals of 95 % exact.
        y: labels (num_data,), for pairs that take them.
        method: ``"guide"``; ``"refined"``, the full Gaussian that :func:`~ppl_vae.refine` fits to each example, neither
            widened nor with heavier tails; ``"sir"`` or ``"hmc"`` of :func:`~ppl_vae.posterior`, where each draw of HMC
            is the end of a chain of its own, as ranks need independent draws; or a function of the pair, x, y and L
            that gives draws (L, B, \*event) by site.
        warmup: moves of each chain of HMC before its draw.
        like: data whose masks, lengths, covariates or missing entries the simulated ones have, see :func:`sample`.
        seed: seeds each data batch separately.
        progress: show a bar.

    Returns:
        Calibration: ``str`` of it is the verdict.

    Raises:
        PairError: a pair without latents, or one that the method can't serve.
        UserError: a setting that makes no sense, or a model that can't run without data.

    Source: Talts, Betancourt, Simpson, Vehtari, Gelman: Validating Bayesian Inference Algorithms with Simulation-Based
    Calibration, 2018, arXiv:1804.06788. Yao, Vehtari, Simpson, Gelman: Yes, but Did It Work?: Evaluating Variational
    Inference, 2018, arXiv:1802.02538. Modrák, Moon, Kim, Bürkner, Huurre, Faltejsková, Gelman, Vehtari:
    Simulation-Based Calibration Checking for Bayesian Computation: The Choice of Test Quantities Shapes Sensitivity,
    2022, arXiv:2211.02383.

    Example:
        >>> import torch, ppl_vae as pv
        >>> _ = torch.manual_seed(0)
        >>> pair = pv.build("linear", data_shape=(5,), latent=2, guide="exact")
        >>> found = pv.sbc(pair, num_data=100, num_samples=19)
        >>> found.quantities, found.calibrated
        (('z[0]', 'z[1]', 'log p(x|z)', 'log p(x,z)', 'log w'), True)
    """
    if not callable(method) and method not in DRAWS:
        raise UserError(f"method={method!r}: choose one of {', '.join(DRAWS)}, or give a function")
    if num_samples < 1 or warmup < 0:
        raise UserError(f"num_samples={num_samples}, warmup={warmup}: give one draw or more, and no negative warm-up")
    y = simulate.check_labels(pair, num_data, y, "num_data")
    like = None if like is None else everything(pair, like, None, seed)[0]
    name = method if isinstance(method, str) else getattr(method, "__name__", type(method).__name__)
    names, found = _simulated(pair, num_data, num_samples, y, method, warmup, like, seed, progress)
    tested = (found != NOT_TESTED).any(0)
    quantities = tuple(name for name, is_tested in zip(names, tested.tolist(), strict=True) if is_tested)
    return Calibration(found[:, tested], quantities, num_samples, name, seed)


def _simulated(
    pair: Any, num_data: int, num_samples: int, y: Tensor | None, method: str | Method, warmup: int, like: X | None,
    seed: int, progress: bool,
) -> tuple[tuple[str, ...], Tensor]:  # fmt: skip
    """The quantities of all data batches, and the ranks (N, Q)."""
    device, _ = device_and_dtype(pair)
    parts: list[Tensor] = []
    with evaluating(pair), forked(device), pyro.validation_enabled(False), bar(progress) as shown:
        starts = range(0, num_data, BLOCK)
        task = shown.add_task("calibration", total=len(starts), info="")
        for n, start in enumerate(starts):
            unit = seed_for(seed, "sbc", n)
            reseed(unit, device)
            some = torch.arange(start, min(start + BLOCK, num_data))
            yb = None if y is None else y[some]
            x, z = simulate.simulate(pair, len(some), yb, _cycled(like, some))
            if not z:
                raise PairError(
                    "this pair draws no latents, or sums them all out: there are no draws of a guide to calibrate"
                )
            draws, guided = _drawn(pair, x, yb, method, num_samples, warmup, unit)
            names, ranks = _ranked(pair, guided, x, yb, z, draws)
            parts.append(ranks)
            shown.advance(task)
    return names, torch.cat(parts)


def _cycled(like: X | None, some: Tensor) -> X | None:
    return None if like is None else rows(like, some % num_data(like))


def _guide(pair: Any, x: X, y: Tensor | None, num_samples: int, warmup: int, seed: int) -> tuple[Latents, Any]:
    return METHODS["guide"](pair, x, y, num_samples, 1, 0)[0], pair


def _refined(pair: Any, x: X, y: Tensor | None, num_samples: int, warmup: int, seed: int) -> tuple[Latents, Any]:
    guide = refine(pair, x, y, widen=1.0, df=float("inf"), seed=seed, block=num_data(x))
    return _guide(pair.with_guide(guide), x, y, num_samples, warmup, seed)


def _sir(pair: Any, x: X, y: Tensor | None, num_samples: int, warmup: int, seed: int) -> tuple[Latents, None]:
    return METHODS["sir"](pair, x, y, num_samples, 1, 0)[0], None


def _hmc(pair: Any, x: X, y: Tensor | None, num_samples: int, warmup: int, seed: int) -> tuple[Latents, None]:
    return METHODS["hmc"](pair, x, y, num_samples, num_samples, warmup)[0], None


# draws by site, and the pair whose guide they come from; None where they have no density
DRAWS: dict[str, Callable[[Any, X, Tensor | None, int, int, int], tuple[Latents, Any]]] = {
    "guide": _guide,
    "refined": _refined,
    "sir": _sir,
    "hmc": _hmc,
}


def _drawn(
    pair: Any, x: X, y: Tensor | None, method: str | Method, num_samples: int, warmup: int, seed: int
) -> tuple[Latents, Any]:
    """Draws by a method, and the pair whose guide they come from.

    Raises:
        UserError: a function gives draws of another shape, or no dictionary of them.
    """
    if isinstance(method, str):
        return DRAWS[method](pair, x, y, num_samples, warmup, seed)
    found = method(pair, x, y, num_samples)
    for name, value in found.items():
        if value.shape[:2] != (num_samples, num_data(x)):
            raise UserError(f"draws of {name!r} have the shape {tuple(value.shape)}: give (L, B, *event)")
    return found, None


def _ranked(
    pair: Any, guided: Any, x: X, y: Tensor | None, z: Latents, draws: Latents
) -> tuple[tuple[str, ...], Tensor]:
    """The quantities of one data batch and their ranks (B, Q), on the CPU; ``guided`` is the pair whose guide drew."""
    both = {name: torch.cat([z[name].to(value), value]) for name, value in draws.items()}  # the exact draw first
    values = {name: value.reshape(*value.shape[:2], -1).double() for name, value in both.items()}
    densities_of = functools.partial(_log_densities, pair, guided, x, y)
    chunks = zip(*(value.split(CHUNK) for value in both.values()), strict=True)
    parts = [densities_of(dict(zip(both, chunk, strict=True))) for chunk in chunks]
    log_p: dict[str, Tensor] = joined(parts)
    names = [*(n for name, value in both.items() for n in _entries(name, value)), *log_p]
    ranks = _rank(torch.cat([*values.values(), *(v.double().unsqueeze(-1) for v in log_p.values())], -1), names)
    at = programs.sites(pair.model, trace.call_args(pair.model, x, y), values=z)
    for name, hidden in ((name, at[name].masked) for name in both):
        if hidden is not None:
            where = hidden.expand(z[name].shape).reshape(ranks.shape[0], -1)
            first = names.index(_entries(name, both[name])[0])
            ranks[:, first : first + where.shape[1]][where] = NOT_TESTED
    return tuple(names), ranks.cpu()


def _entries(name: str, value: Tensor) -> list[str]:
    """Names of the entries of a latent (K, B, *event)."""
    return [name] if value.dim() == 2 else [f"{name}[{i}]" for i in range(math.prod(value.shape[2:]))]


def _rank(values: Tensor, names: list[str]) -> Tensor:
    """The rank of the first of L + 1 values (L + 1, B, Q) among the rest, (B, Q); equal values are in random order."""
    unknown = values.isnan().flatten(0, 1).any(0)
    if bool(unknown.any()):
        raise NonFiniteError(f"{names[int(unknown.int().argmax())]} is NaN for some draws, which have no rank then")
    exact, draws = values[0], values[1:]
    below, ties = (draws < exact).sum(0), (draws == exact).sum(0)
    return below + (torch.rand_like(exact) * (ties + 1)).long().clamp(max=ties)


def _log_densities(pair: Any, guided: Any, x: X, y: Tensor | None, z: Latents) -> dict[str, Tensor]:
    """The quantities (K, B) that depend on all latents; log w where draws come from a guide that can score others."""
    likelihood, prior = densities.log_densities(pair.model, trace.call_args(pair.model, x, y), z)
    found = {"log p(x|z)": likelihood, "log p(x,z)": likelihood + prior}
    if guided is None:
        return found
    try:
        log_q = densities.log_densities(guided.guide, trace.call_args(guided.guide, x, y), z, anywhere=True)[1]
    except PairError:  # a flow without an inverse, or a guide with auxiliary draws
        return found
    return {**found, "log w": ((likelihood + prior - log_q) / GRID).round()}
