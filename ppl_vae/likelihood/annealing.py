"""Annealed importance sampling, and the sandwich that it makes with its reverse on simulated data.

Neal: Annealed Importance Sampling, 2001, arXiv:physics/9803008. Grosse, Ghahramani, Adams: Sandwiching the marginal
likelihood using bidirectional Monte Carlo, 2015, arXiv:1511.02543. Wu, Burda, Salakhutdinov, Grosse: On the
Quantitative Analysis of Decoder-Based Generative Models, 2017, arXiv:1611.04273.
"""

from __future__ import annotations

import math
import pathlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from torch import Tensor

from ..common import ranks
from ..common.entry import entry_point
from ..common.errors import UserError
from ..common.fields import X, device_of, each
from ..common.files import digest
from ..common.progress import bar
from ..common.rng import forked, reseed, seed_for
from ..compile.capture import chosen, worthwhile
from ..data.lazy import Lazy
from ..runs.partial import Ledger
from ..scoring import observed, simulate, terms, trace
from ..scoring.inputs import as_data, device_and_dtype, evaluating, fingerprint, num_rows, numbers_of, to_device
from ..scoring.quantity import name_of, refuse_binarised
from ..scoring.validity import refuse_outside
from .accumulator import Running, weights_of
from .bounds import Sandwich
from .estimate import mean_size
from .hmc import ACCEPT, LEAPFROG, Path, move
from .result import Estimate


def _sigmoid(done: Tensor) -> Tensor:
    """Slow at both ends, where the distributions change fastest: Wu et al. 2017."""
    low, high = torch.sigmoid(torch.tensor([-4.0, 4.0], dtype=done.dtype))
    shares: Tensor = (torch.sigmoid(4 * (2 * done - 1)) - low) / (high - low)
    return shares


TEMPERATURES: dict[str, Callable[[Tensor], Tensor]] = {"sigmoid": _sigmoid, "linear": lambda done: done}


@dataclass
class Walk:
    """Where a run along the path stands: all that the rest of it depends on, beside the seeds."""

    u: Tensor  # (C, B, n)
    first: Tensor  # log f_0, (C, B)
    last: Tensor  # log p(x, z), (C, B)
    log_w: Tensor  # (C, B)
    steps: Tensor  # step sizes, (T + 1, B)
    done: int = 0  # temperatures


def _begin(path: Path, values: dict[str, Tensor], steps: Tensor | None, num_betas: int) -> Walk:
    u = path.unconstrained(values)
    steps = u.new_full((num_betas, u.shape[1]), 0.3) if steps is None else steps
    return Walk(u, *path.ends(u), torch.zeros_like(u[..., 0]), steps)


def _anneal(
    path: Path,
    walk: Walk,
    betas: list[float],
    *,
    adapt: bool = False,
    reverse: bool = False,
    reseed_at: Callable[[int], None],
    tick: Callable[[Walk], None],
) -> Walk:
    """Run along the path to its end, from wherever the walk stands; ``adapt`` sets the step sizes too.

    Forward, the weight grows before each move; in reverse, which starts at the posterior, after it. Each temperature
    has a seed of its own, so that a walk that was put away goes on as if it had not been.
    """
    order = list(range(len(betas) - 1, 0, -1) if reverse else range(1, len(betas)))
    for t in order[walk.done :]:
        reseed_at(t)
        if not reverse:
            walk.log_w = walk.log_w + (betas[t] - betas[t - 1]) * (walk.last - walk.first)
        if adapt and t > 1:
            walk.steps[t] = walk.steps[t - 1]
        walk.u, walk.first, walk.last, chance = move(path, walk.u, betas[t], walk.steps[t])
        if adapt:
            walk.steps[t] = walk.steps[t] * torch.exp(0.2 * (chance.mean(0) - ACCEPT))
        if reverse:
            walk.log_w = walk.log_w - (betas[t] - betas[t - 1]) * (walk.last - walk.first)
        walk.done += 1
        tick(walk)
    return walk


def _setting(num_chains: int, num_temperatures: int, start: str, schedule: str) -> list[float]:
    if num_chains < 1 or num_temperatures < 1:
        raise UserError(f"num_chains={num_chains}, num_temperatures={num_temperatures}: at least one of each is needed")
    if start not in ("prior", "guide"):
        raise UserError(f"start={start!r}: choose 'prior' or 'guide'")
    if schedule not in TEMPERATURES:
        raise UserError(f"schedule={schedule!r}: choose one of {', '.join(TEMPERATURES)}")
    done = torch.linspace(0, 1, num_temperatures + 1, dtype=torch.float64)
    betas: list[float] = TEMPERATURES[schedule](done).tolist()
    return betas


@entry_point
def ais(
    pair: Any,
    x: Any,
    y: Tensor | None = None,
    *,
    num_chains: int = 16,
    num_temperatures: int = 1000,
    start: str = "prior",
    schedule: str = "sigmoid",
    seed: int = 0,
    block: int = 128,
    progress: bool = False,
    resume: str | pathlib.Path | None = None,
    capture: bool | str = "auto",
) -> Estimate:
    r"""Estimate log p(x) of each datum by annealed importance sampling with HMC moves.

    .. math:: \log \hat p(x) = \log \frac1C \sum_c \prod_t \frac{f_{\beta_t}(z_{c,t-1})}{f_{\beta_{t-1}}(z_{c,t-1})}

    A lower bound in expectation. Discrete sites that the model marks to be summed out are; masked entries of a latent
    are annealed under their own density, which integrates to one. A first run sets the step sizes for each datum and
    temperature, and is thrown away.
    Constrained latents move in their unconstrained space. No parameter, mode or generator is changed.

    Args:
        pair: a pair with continuous latents; with ``start="prior"`` its guide is not used.
        x: data (N, *shape), or a split.
        y: labels (N,), for pairs that take them.
        num_chains: C, chains a datum.
        num_temperatures: distributions between the start and the posterior.
        start: ``"prior"`` or ``"guide"``.
        schedule: ``"sigmoid"`` or ``"linear"``.
        seed: seeds each block of data on its own.
        block: data annealed at once; part of the seed's meaning.
        progress: show a bar.
        resume: a folder for unfinished work: the same call goes on from there, inside a block too. It is emptied at
            the end.
        capture: compute densities and gradients by a compiled graph, to the same numbers but for rounding: True,
            False, or ``"auto"``, where the work is worth it.

    Returns:
        Estimate, whose ``num_samples`` is the number of chains and whose ``elbo`` is the mean log weight.

    Raises:
        PairError: the pair has no latents, or a discrete or deterministic one, or one under a flat prior; or a guide
            that can't be the start: on another space, or without an inverse.
        UserError: a setting that makes no sense.
        NonFiniteError: a weight is NaN or +inf; names the datum.

    Source: Neal, 2001, arXiv:physics/9803008; Wu et al., 2017, arXiv:1611.04273.

    Example:
        >>> import torch, ppl_vae as pv
        >>> pair = pv.build("linear", data_shape=(5,), latent=2)
        >>> est = pv.ais(pair, torch.zeros(2, 5), num_chains=4, num_temperatures=20)
        >>> est.log_px.shape
        torch.Size([2])
    """
    betas = _setting(num_chains, num_temperatures, start, schedule)
    refuse_binarised(pair, x)
    x, y = as_data(pair, x, y, seed)
    captured = _captured(capture, pair, x, num_chains, num_temperatures, block)
    device, _ = device_and_dtype(pair)
    about: dict[str, Any] = {
        "work": "ais", "num_chains": num_chains, "num_temperatures": num_temperatures, "start": start,
        "schedule": schedule, "seed": seed, "block": block,
    }  # fmt: skip
    if resume is not None:
        about["data"] = fingerprint(pair, x, y)
        about["probe"] = _probe(pair, *to_device(pair, x, y, slice(2)), start)
    if ranks.count() > 1:
        ranks.assert_same("work", {**about, "pair or data": fingerprint(pair, x, y)})
    starts = range(0, num_rows(x), block)
    with (
        Ledger(resume, about) as ledger,
        evaluating(pair),
        forked(device),
        pyro.validation_enabled(False),
        bar(progress) as shown,
    ):
        own = [i // block for i in ranks.local_units(starts)]
        task = shown.add_task("annealing", total=2 * num_temperatures * len(own), info="")

        def part_at(i: int) -> dict[str, Tensor]:
            nonlocal captured
            n = i // block
            part = ledger.get(str(n))
            if part is None:
                xb, yb = to_device(pair, x, y, slice(i, i + block))
                prior = terms.terms(pair.model, trace.prior_of(pair.model), xb, yb)
                refuse_outside(prior, i)
                work = pair, xb, yb, num_chains, start, captured, betas
                log_w, captured = _one_block(*work, seed, n, ledger, lambda: shown.advance(task))
                part = {k: v.cpu() for k, v in _summed(log_w, i).items()}
                part["num_dims"] = observed.num_observed(prior)
                ledger.put(str(n), part, instead_of=f"{n}.walk")
            shown.update(task, completed=2 * num_temperatures * (own.index(n) + 1))
            return part

        parts = ranks.each(part_at, starts)
    whole: dict[str, Any] = {k: torch.cat([p[k] for p in parts]) for k in parts[0]}
    whole["num_dims"] = mean_size(whole["num_dims"])
    whole |= {"block": block, "chunk": num_chains, "proposal": f"annealed {start}"}
    whole |= {"num_temperatures": num_temperatures, "estimator": "ais", "name": name_of(pair, x, y)}
    return Estimate(**whole, num_samples=num_chains, seed=seed)


def _captured(capture: bool | str, pair: Any, x: X | Lazy, chains: int, num_temperatures: int, block: int) -> bool:
    """Whether to anneal by a graph: where asked, or where the gradients to come are worth it."""
    if capture != "auto":
        return chosen(capture) is True
    gradients = 2 * num_temperatures * (LEAPFROG + 1) * -(-num_rows(x) // block)
    return worthwhile(3 * gradients, chains * min(block, num_rows(x)), pair, numbers_of(x))


def _probe(pair: Any, x: X, y: Tensor | None, start: str) -> str:
    """A digest of what the programs do: parameters alone don't tell code, closures and attributes apart."""
    with evaluating(pair), forked(device_of(x), 0), pyro.validation_enabled(False):
        path = Path(pair, x, y, 2, start)
        first, last = path.ends(path.unconstrained(path.values))
    return digest({"first": first, "last": last, **path.values})


def _one_block(
    pair: Any,
    x: X,
    y: Tensor | None,
    chains: int,
    start: str,
    captured: bool,
    betas: list[float],
    seed: int,
    index: int,
    ledger: Ledger,
    tick: Callable[[], None],
) -> tuple[Tensor, bool]:
    """Both runs of one block of data: the one that sets the step sizes, and the one that counts.

    Returns:
        Log weights (C, B), and whether to anneal the next block by a graph.
    """
    device = device_of(x)
    steps: Tensor | None = None
    kept = ledger.get(f"{index}.walk")
    for phase in range(0 if kept is None else int(kept["phase"]), 2):

        def reseed_at(t: int, phase: int = phase) -> None:
            reseed(seed_for(seed, "ais", index, phase, t), device)

        def keep(walk: Walk, phase: int = phase) -> None:
            ledger.put(f"{index}.walk", {k: torch.as_tensor(v) for k, v in {**vars(walk), "phase": phase}.items()})
            tick()

        reseed_at(0)
        path = Path(pair, x, y, chains, start, captured)
        if kept is None:
            walk = _begin(path, path.values, steps, len(betas))
        else:
            at = {f: kept[f].to(device) for f in ("u", "first", "last", "log_w", "steps")}
            walk, kept = Walk(**at, done=int(kept["done"])), None
        walk = _anneal(path, walk, betas, adapt=phase == 0, reseed_at=reseed_at, tick=keep)
        steps, captured = walk.steps, path.graph is not None
    return walk.log_w, captured


def _summed(log_w: Tensor, first: int) -> dict[str, Tensor]:
    total = Running(len(log_w))
    zero = torch.zeros_like(log_w)
    total.add(weights_of(terms.Terms(log_w, zero, zero)))
    total.refuse_nonfinite("ais", first, {})
    return total.result()


@entry_point
def bdmc(
    pair: Any,
    num_data: int = 100,
    y: Tensor | None = None,
    *,
    num_chains: int = 16,
    num_temperatures: int = 1000,
    start: str = "prior",
    schedule: str = "sigmoid",
    like: Any = None,
    seed: int = 0,
    progress: bool = False,
    capture: bool | str = "auto",
) -> Sandwich:
    r"""Bound log p(x) from both sides on data simulated from the model.

    A simulated (z, x) is an exact draw z from the posterior of its x. Annealing from it back to the start gives an
    unbiased estimate of 1 / p(x), hence an upper bound on log p(x) in expectation; forward annealing gives a lower one.

    Args:
        pair: a pair with continuous latents.
        num_data: data to simulate.
        y: labels (num_data,), for pairs that take them.
        num_chains: chains a datum, in each direction.
        num_temperatures: distributions between the start and the posterior.
        start: ``"prior"`` or ``"guide"``.
        schedule: ``"sigmoid"`` or ``"linear"``.
        like: data whose masks, lengths, covariates or missing entries the simulated ones have, see :func:`sample`.
        seed: of everything.
        progress: show a bar.
        capture: as in :func:`ais`.

    Raises:
        PairError: as :func:`ais`.
        UserError: a setting that makes no sense, or a model that can't run without data.

    Source: Grosse, Ghahramani, Adams, 2015, arXiv:1511.02543; Wu et al., 2017, arXiv:1611.04273.

    Example:
        >>> import ppl_vae as pv
        >>> pair = pv.build("linear", data_shape=(5,), latent=2)
        >>> sandwich = pv.bdmc(pair, num_data=3, num_chains=4, num_temperatures=20)
        >>> sandwich.lower.shape, sandwich.upper.shape
        (torch.Size([3]), torch.Size([3]))
    """
    y = simulate.check_labels(pair, num_data, y, "num_data")
    betas = _setting(num_chains, num_temperatures, start, schedule)
    device, _ = device_and_dtype(pair)
    with (
        evaluating(pair),
        forked(device, seed_for(seed, "bdmc")),
        pyro.validation_enabled(False),
        bar(progress) as shown,
    ):
        task = shown.add_task("sandwich", total=3 * num_temperatures, info="")
        x, z = simulate.simulate(pair, num_data, y, like)
        captured = _captured(capture, pair, x, num_chains, 2 * num_temperatures, num_data)
        path = Path(pair, x, y, num_chains, start, captured)
        exact = {n: z[n].expand(num_chains, *z[n].shape[1:]) for n in path.values}

        def run(phase: int, values: dict[str, Tensor], steps: Tensor | None = None, **how: bool) -> Walk:
            def reseed_at(t: int) -> None:
                reseed(seed_for(seed, "bdmc", phase, t), device)

            walk = _begin(path, values, steps, len(betas))
            return _anneal(path, walk, betas, reseed_at=reseed_at, tick=lambda _: shown.advance(task), **how)

        steps = run(0, path.values, adapt=True).steps
        fresh = Path(pair, x, y, num_chains, start).values
        up = run(1, fresh, steps).log_w
        down = run(2, exact, steps, reverse=True).log_w
        lower = torch.logsumexp(up.double(), 0) - math.log(num_chains)
        upper = math.log(num_chains) - torch.logsumexp(down.double(), 0)
    return Sandwich(each(Tensor.cpu, x), lower.cpu(), upper.cpu(), seed, name_of(pair, x, y))
