"""Annealed importance sampling, and the sandwich that it makes with its reverse on simulated data.

Neal: Annealed Importance Sampling, 2001, arXiv:physics/9803008. Grosse, Ghahramani, Adams: Sandwiching the marginal
likelihood using bidirectional Monte Carlo, 2015, arXiv:1511.02543. Wu, Burda, Salakhutdinov, Grosse: On the
Quantitative Analysis of Decoder-Based Generative Models, 2017, arXiv:1611.04273.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pyro
import torch
from torch import Tensor

from ..common import ranks
from ..common.entry import entry_point
from ..common.errors import UserError
from ..common.fields import X, device_of, each
from ..common.progress import bar
from ..common.rng import forked, reseed, seed_for
from ..compile.capture import chosen, worthwhile
from ..data.lazy import Lazy
from ..runs.partial import PartialResults
from ..scoring import observed, simulate, terms, trace
from ..scoring.inputs import as_data, device_and_dtype, evaluating, fingerprint, num_rows, numbers_of, to_device
from ..scoring.quantity import name_of, refuse_binarised
from ..scoring.validity import refuse_outside
from .accumulator import Accumulator, weights_of
from .estimators import log_mean
from .hmc import ACCEPT, LEAPFROG, Path, move, probe
from .result import Estimate, mean_size
from .sandwich import Sandwich


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


def begin(path: Path, values: dict[str, Tensor], num_temperatures: int, steps: Tensor | None = None) -> Walk:
    """A walk that starts at latents by site, with step sizes that an earlier one has set, or with 0.3."""
    u = path.unconstrained(values)
    steps = u.new_full((num_temperatures + 1, u.shape[1]), 0.3) if steps is None else steps
    return Walk(u, *path.ends(u), torch.zeros_like(u[..., 0]), steps)


def anneal(
    path: Path,
    walk: Walk,
    betas: list[float],
    seed_at: Callable[[int], int],
    after: Callable[[Walk], None],
    *,
    adapt: bool = False,
    reverse: bool = False,
) -> Walk:
    """Run along the path to its end, from wherever the walk stands; ``adapt`` sets the step sizes too.

    Forward, the weight grows before each move; in reverse, which starts at the posterior, after it. Each temperature
    has its own seed, so that a walk that was interrupted resumes to the same bits.
    """
    order = range(1, len(betas))[:: -1 if reverse else 1]
    for t in order[walk.done :]:
        reseed(seed_at(t), walk.u.device)
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
        after(walk)
    return walk


@dataclass(eq=False)
class Chains:
    """What is fixed before the first chain moves."""

    pair: Any
    num_chains: int
    num_temperatures: int
    start: str
    schedule: str
    seed: int
    capture: bool | str
    betas: list[float] = field(init=False)

    def __post_init__(self) -> None:
        if self.num_chains < 1 or self.num_temperatures < 1:
            counts = f"num_chains={self.num_chains}, num_temperatures={self.num_temperatures}"
            raise UserError(f"{counts}: at least one of each is needed")
        if self.start not in ("prior", "guide"):
            raise UserError(f"start={self.start!r}: choose 'prior' or 'guide'")
        if self.schedule not in TEMPERATURES:
            raise UserError(f"schedule={self.schedule!r}: choose one of {', '.join(TEMPERATURES)}")
        done = torch.linspace(0, 1, self.num_temperatures + 1, dtype=torch.float64)
        self.betas = TEMPERATURES[self.schedule](done).tolist()

    @property
    def setting(self) -> dict[str, Any]:
        return {k: getattr(self, k) for k in ("num_chains", "num_temperatures", "start", "schedule", "seed")}

    def is_captured(self, x: X | Lazy, block: int, runs: int) -> bool:
        """Whether to anneal by a graph: where asked, or where the gradients to come are worth it."""
        if self.capture != "auto":
            return chosen(self.capture) is True
        gradients = runs * self.num_temperatures * (LEAPFROG + 1) * -(-num_rows(x) // block)
        return worthwhile(3 * gradients, self.num_chains * min(block, num_rows(x)), self.pair, numbers_of(x))

    def log_weights(
        self, x: X, y: Tensor | None, batch: int, saved: PartialResults, advance: Callable[[], None]
    ) -> Tensor:
        """Both runs of one data batch, the one that sets the step sizes and the one that counts: (C, B)."""
        steps: Tensor | None = None
        name = f"{batch}.walk"
        kept = saved.get(name)
        for phase in range(0 if kept is None else int(kept["phase"]), 2):

            def keep(walk: Walk, phase: int = phase) -> None:
                saved.put(name, {k: torch.as_tensor(v) for k, v in {**vars(walk), "phase": phase}.items()})
                advance()

            seed_at = partial(seed_for, self.seed, "ais", batch, phase)
            reseed(seed_at(0), device_of(x))
            path = Path(self.pair, x, y, self.num_chains, self.start, self.capture is True)
            walk = begin(path, path.values, self.num_temperatures, steps)
            if kept is not None:
                at = {f: kept[f].to(walk.u.device) for f in ("u", "first", "last", "log_w", "steps")}
                walk, kept = Walk(**at, done=int(kept["done"])), None
            walk = anneal(path, walk, self.betas, seed_at, keep, adapt=phase == 0)
            steps, self.capture = walk.steps, path.graph is not None
        return walk.log_w


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
    r"""Estimate log p(x) of each example by annealed importance sampling with HMC moves.

    .. math:: \log \hat p(x) = \log \frac1C \sum_c \prod_t \frac{f_{\beta_t}(z_{c,t-1})}{f_{\beta_{t-1}}(z_{c,t-1})}

    A lower bound in expectation. Discrete sites that the model marks to be summed out are; masked entries of a latent
    are annealed under their own density, which integrates to one. A first run sets the step sizes for each example and
    temperature, and is discarded. Constrained latents move in their unconstrained space. No parameter, mode or
    generator is changed.

    Args:
        pair: a pair with continuous latents; with ``start="prior"`` its guide is not used.
        x: data (N, *shape), or a split.
        y: labels (N,), for pairs that take them.
        num_chains: C, chains for each example.
        num_temperatures: distributions between the start and the posterior.
        start: ``"prior"`` or ``"guide"``.
        schedule: ``"sigmoid"`` or ``"linear"``.
        seed: seeds each data batch separately.
        block: examples in a data batch, annealed together; part of the seed's meaning.
        progress: show a bar.
        resume: a folder for unfinished work: the same call resumes there, inside a data batch too. It is
            emptied at the end.
        capture: compute densities and gradients by a compiled graph, to the same numbers but for rounding: True,
            False, or ``"auto"``, where the work is worth it.

    Returns:
        Estimate, whose ``num_samples`` is the number of chains and whose ``elbo`` is the mean log weight.

    Raises:
        PairError: the pair has no latents, or a discrete or deterministic one, or one under a flat prior; or a guide
            that can't be the start: on another space, or without an inverse.
        UserError: a setting that makes no sense.
        NonFiniteError: a weight is NaN or +inf; names the example.

    Source: Neal, 2001, arXiv:physics/9803008; Wu et al., 2017, arXiv:1611.04273.

    Example:
        >>> import torch, ppl_vae as pv
        >>> pair = pv.build("linear", data_shape=(5,), latent=2)
        >>> est = pv.ais(pair, torch.zeros(2, 5), num_chains=4, num_temperatures=20)
        >>> est.log_px.shape
        torch.Size([2])
    """
    chains = Chains(pair, num_chains, num_temperatures, start, schedule, seed, capture)
    refuse_binarised(pair, x)
    x, y = as_data(pair, x, y, seed)
    chains.capture = chains.is_captured(x, block, 2)
    about = {"work": "ais", **chains.setting, "block": block}
    if resume is not None:
        about |= {"data": fingerprint(pair, x, y), "probe": probe(pair, *to_device(pair, x, y, slice(2)), start)}
    if ranks.count() > 1:
        ranks.assert_same("work", {**about, "pair or data": fingerprint(pair, x, y)})
    with PartialResults(resume, about) as saved, bar(progress) as shown:
        parts = _parts(chains, x, y, block, saved, shown)
    whole: dict[str, Any] = {k: torch.cat([p[k] for p in parts]) for k in parts[0]}
    whole |= {"num_dims": mean_size(whole["num_dims"]), "num_temperatures": num_temperatures, "num_chains": num_chains}
    whole |= {
        "estimator": "ais",
        "proposal": f"annealed {start}",
        "name": name_of(pair, x, y),
        "block": block,
        "chunk": num_chains,
    }
    return Estimate(**whole, num_samples=num_chains, seed=seed)


def _parts(
    chains: Chains, x: X | Lazy, y: Tensor | None, block: int, saved: PartialResults, shown: Any
) -> list[dict[str, Tensor]]:
    """The figures of each data batch, (B,) each; those that are not saved are computed."""
    pair, starts = chains.pair, range(0, num_rows(x), block)
    local = ranks.local_units(starts)
    task = shown.add_task("annealing", total=2 * chains.num_temperatures * len(local), info="")

    def part_at(i: int) -> dict[str, Tensor]:
        name = str(i // block)
        part = saved.get(name)
        if part is None:
            xb, yb = to_device(pair, x, y, slice(i, i + block))
            prior = terms.terms(pair.model, trace.prior_of(pair.model), xb, yb)
            refuse_outside(prior, i)
            log_w = chains.log_weights(xb, yb, i // block, saved, lambda: shown.advance(task))
            total, zero = Accumulator(len(log_w)), torch.zeros_like(log_w)
            total.add(weights_of(terms.Terms(log_w, zero, zero)))
            total.refuse_nonfinite("ais", i, {})
            part = {k: v.cpu() for k, v in total.result().items()} | {"num_dims": observed.num_observed(prior)}
            saved.put(name, part, instead_of=f"{name}.walk")
        shown.update(task, completed=2 * chains.num_temperatures * (local.index(i) + 1))
        return part

    with evaluating(pair), forked(device_and_dtype(pair)[0]), pyro.validation_enabled(False):
        return ranks.each(part_at, starts)


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
        num_chains: chains for each example, in each direction.
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
    chains = Chains(pair, num_chains, num_temperatures, start, schedule, seed, capture)
    seeded = forked(device_and_dtype(pair)[0], seed_for(seed, "bdmc"))
    with evaluating(pair), seeded, pyro.validation_enabled(False), bar(progress) as shown:
        task = shown.add_task("sandwich", total=3 * num_temperatures, info="")
        x, z = simulate.simulate(pair, num_data, y, like)
        path = Path(pair, x, y, num_chains, start, chains.is_captured(x, num_data, 4))

        def run(phase: int, values: dict[str, Tensor], steps: Tensor | None = None, **how: bool) -> Walk:
            walk = begin(path, values, num_temperatures, steps)
            seed_at = partial(seed_for, seed, "bdmc", phase)
            return anneal(path, walk, chains.betas, seed_at, lambda _: shown.advance(task), **how)

        steps = run(0, path.values, adapt=True).steps
        up = run(1, Path(pair, x, y, num_chains, start).values, steps).log_w
        exact = {n: z[n].expand(num_chains, *z[n].shape[1:]) for n in path.values}
        down = run(2, exact, steps, reverse=True).log_w
    lower, upper = log_mean(up.double()).cpu(), -log_mean(down.double()).cpu()
    return Sandwich(each(Tensor.cpu, x), lower, upper, seed, name_of(pair, x, y))
