"""Draws from p(z|x): by the guide, by sampling importance resampling, by HMC, or by Pyro's NUTS."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pyro
import torch
from pyro.infer import MCMC, NUTS
from torch import Tensor

from ..common.entry import entry_point
from ..common.errors import PairError, UserError
from ..common.fields import X, joined, num_data, rows
from ..common.progress import bar
from ..common.rng import forked, reseed, seed_for
from ..likelihood.diagnostics import ess, pareto_khat
from ..likelihood.hmc import ACCEPT, Path, move
from ..scoring import programs, terms, trace
from ..scoring.coverage import refuse_quantised
from ..scoring.inputs import as_data, device_and_dtype, evaluating, num_rows, to_device
from ..scoring.validity import refuse_outside, refuse_unweighable

BLOCK = 64  # examples at once
PROPOSED = 100  # draws of the guide for each that SIR keeps
CHUNK = 256  # draws that are scored at once


Part = tuple[dict[str, Tensor], dict[str, Tensor]]  # draws by site, and their diagnostics by field of Posterior


@dataclass(eq=False)
class Posterior:
    """Draws from the posterior of each example; on the CPU.

    Attributes:
        samples: by latent site (S, N, *event), chain after chain; sites that the model sums out are drawn given the
            others, from their exact conditional distribution.
        num_chains: the number of chains among the S draws; 1 where the draws are independent.
        method: the method that drew them.
        log_weight: (S, N) log importance weights of the draws, for ``"guide"``: weighted by them, the draws have
            the posterior as their limit; without them they are draws of the guide.
        used_log_weight: (S, N) the weights by which ``"sir"`` chose its draws, which must not be weighted again.
        ess: (N,) effective sample size of the weights that were used, for ``"guide"`` and ``"sir"``.
        khat: (N,) their Pareto k: above its threshold, neither the weights nor the resampled draws are reliable.
        acceptance: (N,) mean acceptance, for ``"hmc"`` and ``"nuts"``.
        seed: the seed.
        probs: (N, n) the posterior probability p(c | x) of each value of a site that the model sums out: the mean of
            p(c | z, x) over the draws of z, weighted where they have weights.
        support: (n, *event) these values.
    """

    samples: dict[str, Tensor]
    num_chains: int
    method: str
    seed: int
    log_weight: Tensor | None = None
    used_log_weight: Tensor | None = None
    ess: Tensor | None = None
    khat: Tensor | None = None
    acceptance: Tensor | None = None
    probs: dict[str, Tensor] = field(default_factory=dict)
    support: dict[str, Tensor] = field(default_factory=dict)

    def __getitem__(self, site: str) -> Tensor:
        return self.samples[site]

    def moments(self, site: str) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of a latent, (N, *event) in float64: of the draws, by their weights.

        Example:
            >>> import torch, ppl_vae as pv
            >>> pair = pv.build("linear", data_shape=(5,), latent=2)
            >>> mean, sd = pv.posterior(pair, torch.zeros(3, 5), num_samples=50).moments("z")
            >>> mean.shape, sd.shape
            (torch.Size([3, 2]), torch.Size([3, 2]))
        """
        z = self.samples[site].double()  # (S, N, *event)
        share = torch.full(z.shape[:2], 1 / len(z)).double() if self.log_weight is None else self.log_weight.softmax(0)
        share = share.reshape(*share.shape, *(1 for _ in z.shape[2:]))
        mean = (share * z).sum(0)
        return mean, (share * (z - mean).square()).sum(0).sqrt()

    def __repr__(self) -> str:
        sites = ", ".join(f"{name} {tuple(v.shape)}" for name, v in self.samples.items())
        parts = [f"{self.num_chains} chains" if self.num_chains > 1 else "independent draws"]
        parts += [f"probabilities of {', '.join(self.probs)}"] if self.probs else []
        parts += [] if self.ess is None else [f"smallest ESS of the weights {float(self.ess.min()):.1f}"]
        parts += [] if self.khat is None else [f"largest Pareto k {float(self.khat.max()):.2f}"]
        parts += [] if self.acceptance is None else [f"acceptance {float(self.acceptance.mean()):.2f}"]
        return f"Posterior by {self.method}: {sites}; {', '.join(parts)}"


@entry_point
def posterior(
    pair: Any,
    x: Any,
    y: Tensor | None = None,
    method: str = "guide",
    *,
    num_samples: int = 1000,
    num_chains: int = 4,
    warmup: int = 500,
    seed: int = 0,
    progress: bool = False,
) -> Posterior:
    """Draw from p(z|x) of each example.

    ``"guide"`` draws from q(z|x), with importance weights. ``"sir"`` draws 100 times as many from q(z|x) and resamples
    them by their weights: exact in the limit of many draws, where Pareto k is below its threshold. ``"hmc"`` runs
    Hamiltonian Monte Carlo for a batch of examples at once, from draws of the guide, with a step size for each example
    that is adapted in the warm-up; ``"nuts"`` runs Pyro's NUTS, one example after another. Check R-hat of both
    (``pv.to_arviz`` and ``az.summary``).

    Args:
        pair: a pair; ``"hmc"`` and ``"nuts"`` need continuous latents, and start at the prior where there is no guide.
        x: data (N, *shape), or a split.
        y: labels (N,), for pairs that take them.
        method: ``"guide"``, ``"sir"``, ``"hmc"`` or ``"nuts"``.
        num_samples: S, draws of each example, over all chains.
        num_chains: chains of HMC and NUTS.
        warmup: steps of each chain that are discarded.
        seed: seeds each data batch separately.
        progress: show a bar.

    Returns:
        Posterior.

    Raises:
        PairError: no latents, or latents that the method can't draw; a guide on another space than the prior, or a
            ``pyro.factor`` in the model.
        UserError: an unknown method, or numbers of draws and chains that do not fit.

    Source: Rubin: Using the SIR Algorithm to Simulate Posterior Distributions, 1988. Hoffman, Gelman: The No-U-Turn
    Sampler, 2011, arXiv:1111.4246.

    Example:
        >>> import torch, ppl_vae as pv
        >>> pair = pv.build("linear", data_shape=(5,), latent=2)
        >>> pv.posterior(pair, torch.zeros(3, 5), method="sir", num_samples=50)["z"].shape
        torch.Size([50, 3, 2])
    """
    if method not in METHODS:
        raise UserError(f"method={method!r}: choose one of {', '.join(METHODS)}")
    if num_samples < 1 or num_chains < 1 or warmup < 0:
        raise UserError(f"num_samples={num_samples}, num_chains={num_chains}, warmup={warmup}: give at least one draw")
    chains = num_chains if method in ("hmc", "nuts") else 1
    if num_samples % chains:
        raise UserError(f"num_samples={num_samples} draws in {chains} chains: give a multiple of num_chains")
    if method == "nuts" and num_samples // chains < 4:
        raise UserError(f"num_samples={num_samples} in {chains} chains: Pyro's NUTS needs at least 4 draws a chain")
    x, y = as_data(pair, x, y, seed)
    device, _ = device_and_dtype(pair)
    size = 1 if method == "nuts" else BLOCK
    starts = range(0, num_rows(x), size)
    parts: list[_Draws] = []
    with evaluating(pair), forked(device), pyro.validation_enabled(False), bar(progress) as shown:
        task = shown.add_task(f"posterior by {method}", total=len(starts), info="")
        for n, start in enumerate(starts):
            reseed(seed_for(seed, "posterior", n), device)
            xb, yb = to_device(pair, x, y, slice(start, start + size))
            exact = _sums_all_out(pair, xb, yb)
            drawn = ({}, {}) if exact else METHODS[method](pair, xb, yb, num_samples, chains, warmup)
            parts.append(_with_classes(pair, xb, yb, drawn, num_samples))
            shown.advance(task)
    samples, probs = joined([part.draws for part in parts], 1), joined([part.probs for part in parts])
    about = joined([part.about for part in parts], -1)
    return Posterior(samples, chains, method, seed, **about, probs=probs, support=parts[0].support)


class _Draws(NamedTuple):
    """Draws (S, B, *event), class probabilities (B, n) and their values, and diagnostics (..., B); on the CPU."""

    draws: dict[str, Tensor]
    probs: dict[str, Tensor]
    support: dict[str, Tensor]
    about: dict[str, Tensor]


def _sums_all_out(pair: Any, x: X, y: Tensor | None) -> bool:
    """Whether every latent site of the model is summed out, so that its posterior is known exactly."""
    found = programs.sites(pair.model, trace.call_args(pair.model, x, y))
    latents = [d for d in found.values() if not d.is_observed]
    if not latents or not all(d.summed for d in latents):
        return False
    return all(d.is_observed for d in programs.sites(pair.guide, trace.call_args(pair.guide, x, y)).values())


def _with_classes(pair: Any, x: X, y: Tensor | None, drawn: Part, num_samples: int) -> _Draws:
    """Draws and their diagnostics, with a draw and the probabilities of each site that the model sums out."""
    values, about = drawn
    args = trace.call_args(pair.model, x, y)
    weight = about.get("log_weight")
    parts: list[dict[str, Tensor]] = []
    probs: dict[str, Tensor] = {}
    support: dict[str, Tensor] = {}
    for start in range(0, num_samples, CHUNK):
        chunk = slice(start, min(start + CHUNK, num_samples))
        at = {name: v[chunk] for name, v in values.items()}
        found = programs.classes(pair.model, args, at, chunk.stop - start)
        if not found.draws:
            break
        share = None if weight is None else torch.softmax(weight, 0)[chunk, :, None]  # (K, B, 1)
        for name, p in found.probs.items():
            part = p.double().sum(0) / num_samples if share is None else (share * p.double()).sum(0)
            probs[name] = probs[name] + part if name in probs else part
        parts.append(found.draws)
        support = found.support
    samples = values | (joined(parts) if parts else {})
    about = {k: v.double() for k, v in about.items()}
    return _Draws(*({k: v.cpu() for k, v in part.items()} for part in (samples, probs, support, about)))


def _weighted(pair: Any, x: Tensor, y: Tensor | None, num_samples: int) -> tuple[dict[str, Tensor], Tensor]:
    """Draws of the guide (K, B, *event) by site, and their log weights."""
    parts = []
    for start in range(0, num_samples, CHUNK):
        t = terms.terms(pair.model, pair.guide, x, y, num_samples=min(CHUNK, num_samples - start))
        if start == 0:
            if not t.sites:
                raise PairError("this pair has no latents, so there is no posterior to draw from")
            refuse_unweighable(t)
            refuse_outside(t)
        parts.append(({name: site.value for name, site in t.sites.items() if site.p is not None}, t.log_w.double()))
    drawn, log_w = joined(parts)
    return drawn, log_w


def _guide(pair: Any, x: Tensor, y: Tensor | None, num_samples: int, chains: int, warmup: int) -> Part:
    values, log_w = _weighted(pair, x, y, num_samples)
    return values, {"log_weight": log_w, "ess": ess(log_w), "khat": pareto_khat(log_w)}


def _sir(pair: Any, x: Tensor, y: Tensor | None, num_samples: int, chains: int, warmup: int) -> Part:
    """One example at a time: all its proposals are held until it is resampled."""
    parts: list[dict[str, Tensor]] = []
    about: list[dict[str, Tensor]] = []
    for i in range(num_data(x)):
        values, log_w = _weighted(
            pair, rows(x, slice(i, i + 1)), None if y is None else y[i : i + 1], PROPOSED * num_samples
        )
        kept = torch.multinomial(torch.softmax(log_w[:, 0], 0), num_samples, replacement=True)
        parts.append({name: v[kept] for name, v in values.items()})
        about.append({"used_log_weight": log_w[kept], "ess": ess(log_w), "khat": pareto_khat(log_w)})
    return joined(parts, 1), joined(about, -1)


def _start(pair: Any, x: Tensor, y: Tensor | None, chains: int) -> tuple[Path, Tensor]:
    """log p(x, z) over unconstrained latents, and where the chains start: at draws of the guide, where it has any."""
    path = Path(pair, x, y, chains, "prior")
    drawn = programs.sites(pair.guide, trace.call_args(pair.guide, x, y), num_samples=chains)
    for name in set(drawn) & set(path.values):
        refuse_quantised(name, drawn[name].fn, what="a chain that starts there")
    start = {n: drawn[n].value if n in drawn else v for n, v in path.values.items()}
    path.refuse_outside(start)
    return path, path.unconstrained(start)


def _constrained(path: Path, u: Tensor) -> dict[str, Tensor]:
    values: dict[str, Tensor] = joined([path.constrained(part) for part in u.split(CHUNK)])
    return values


def _hmc(pair: Any, x: Tensor, y: Tensor | None, num_samples: int, chains: int, warmup: int) -> Part:
    path, u = _start(pair, x, y, chains)
    step = torch.full((num_data(x),), 0.3, dtype=u.dtype, device=u.device)
    settled = torch.zeros_like(step)
    kept: list[Tensor] = []
    accepted = torch.zeros_like(step)
    per_chain = num_samples // chains
    for i in range(warmup + per_chain):
        jitter = 0.8 + 0.4 * torch.rand_like(step)  # trajectories of one length could return to their start
        u, _, _, chance = move(path, u, 1.0, step * jitter)
        if i < warmup:
            rate = 0.3 / math.sqrt(1 + i / 10)
            step = step * torch.exp(rate * (chance.mean(0) - ACCEPT))
            if i >= warmup // 2:
                settled = settled + step.log() / (warmup - warmup // 2)
            if i == warmup - 1:
                step = settled.exp()
        else:
            kept.append(u)
            accepted = accepted + chance.mean(0) / per_chain
    draws = torch.stack(kept, 1).flatten(0, 1)  # (chains, draws, B, n) to (S, B, n), chain after chain
    return _constrained(path, draws), {"acceptance": accepted}


def _nuts(pair: Any, x: Tensor, y: Tensor | None, num_samples: int, chains: int, warmup: int) -> Part:
    path, starts = _start(pair, x, y, chains)
    found: list[Tensor] = []
    accepted: list[float] = []

    def potential(params: dict[str, Tensor]) -> Tensor:
        return -path.ends(params["u"].reshape(1, 1, -1))[1].sum()

    with torch.enable_grad():
        for start in starts:
            kernel = NUTS(potential_fn=potential)
            mcmc = MCMC(
                kernel, num_samples // chains, warmup, initial_params={"u": start[0].clone()}, disable_progbar=True
            )
            mcmc.run()
            found.append(mcmc.get_samples()["u"].unsqueeze(1))
            accepted.append(float(mcmc.diagnostics()["acceptance rate"]["chain 0"]))
    rate = torch.tensor([sum(accepted) / chains])
    return _constrained(path, torch.cat(found).detach()), {"acceptance": rate}


METHODS: dict[str, Callable[[Any, Tensor, Tensor | None, int, int, int], Part]] = {
    "guide": _guide,
    "sir": _sir,
    "hmc": _hmc,
    "nuts": _nuts,
}
