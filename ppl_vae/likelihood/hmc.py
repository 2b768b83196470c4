"""The path of distributions from a start to the posterior, and the Hamiltonian move that leaves each invariant."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pyro
import torch
from torch import Tensor

from ..common.errors import PairError
from ..common.fields import X, device_of
from ..common.files import digest
from ..common.rng import forked
from ..compile.capture import Captured
from ..compile.guards import UncapturableError
from ..scoring import densities, programs, trace
from ..scoring.coverage import refuse_foreign, refuse_quantised
from ..scoring.inputs import evaluating
from ..scoring.kinds import kind, title
from ..scoring.param_store import modules_of
from ..scoring.support import holds, is_discrete, unconstraining
from ..scoring.validity import refuse_factor

LEAPFROG = 10  # steps of one HMC move
ACCEPT = 0.65  # the share of moves that the step sizes aim at


class Path:
    """The distributions between the start and the posterior, over unconstrained latents u (C, B, n).

    ``log f_beta = (1 - beta) log f_0 + beta log p(x, z)``, with the log determinant of z(u) in both; f_0 is the prior
    or the guide, so that its integral is one. Discrete sites that are marked to be summed out are so in p(x, z).
    What is masked has its own density in both, which leaves p(x) as it is; with ``free=False`` it has none. Each site's
    transform is made where the model draws it, from its support there: one latent may bound another.
    """

    def __init__(
        self, pair: Any, x: Tensor, y: Tensor | None, chains: int, start: str, captured: bool = False,
        free: bool = True,
    ) -> None:  # fmt: skip
        self.pair, self.start, self.free = pair, start, free
        self.graph = Captured(self._slope, modules=modules_of(pair.model, pair.guide)) if captured else None
        self.model_args = trace.call_args(pair.model, x, y)
        self.guide_args = trace.call_args(pair.guide, x, y)
        source, args = (pair.guide, self.guide_args) if start == "guide" else (pair.model, self.model_args)
        first = _drawn(programs.sites(source, args, num_samples=chains), start)
        self.values = {n: d.value.detach() for n, d in first.items()}  # draws from f_0
        found = programs.sites(pair.model, self.model_args, num_samples=chains, values=self.values)
        refuse_factor({n: d for n, d in found.items() if d.is_observed})
        self.summed = {n for n, d in found.items() if d.summed}
        latents = {n: d for n, d in found.items() if not d.is_observed and n not in self.summed}
        for name in self.summed & set(first):
            fix = "ais(start='prior') sums it out"
            raise PairError(f"site {name!r} is discrete; annealing and refining need continuous latents: {fix}")
        if not latents:
            what = "has no latents" if not self.summed else "sums out all its latents"
            raise PairError(
                f"this pair {what}: log_likelihood gives log p(x) exactly, with nothing to anneal or to refine"
                + ("; pv.posterior draws them" if self.summed else "")
            )
        for name in sorted(set(first) ^ set(latents)):
            other = "guide" if name in latents else "model"
            raise PairError(
                f"site {name!r}: the {other} does not draw it; annealing and refining need the names to agree"
            )
        self.shapes: dict[str, torch.Size] = {}
        for name, draw in latents.items():
            _refuse_static(name, draw, first[name])
            if start == "guide":
                refuse_foreign(name, first[name].fn, draw.fn)
            self.shapes[name] = unconstraining(name, draw.fn).inv(draw.value).shape[2:]
        self.hidden = {n: d.masked for n, d in latents.items() if d.masked is not None and bool(d.masked.any())}
        if self.hidden:
            self._refuse_flat(_drawn(programs.sites(source, args, num_samples=chains), start))

    def _refuse_flat(self, other: dict[str, programs.TracedSite]) -> None:
        """Raise where the rest of the model depends on what is masked: there is no prior then to anneal from."""
        for name, hidden in self.hidden.items():
            moved = self.values | {name: torch.where(hidden, other[name].value, self.values[name])}
            one, two = (densities.log_densities(self.pair.model, self.model_args, v) for v in (self.values, moved))
            if not torch.allclose(one[0] + one[1], two[0] + two[1], rtol=1e-5, atol=1e-5, equal_nan=True):
                raise PairError(
                    f"site {name!r} is masked in the model, where the rest depends on it, so it has no prior to anneal "
                    f"or to refine from"
                )

    def latents(self, values: dict[str, Tensor]) -> dict[str, programs.TracedSite]:
        """The latent sites of the model, in its order, at given values."""
        chains = next(iter(values.values())).shape[0]
        found = programs.sites(self.pair.model, self.model_args, num_samples=chains, values=values)
        return {name: draw for name, draw in found.items() if name in self.shapes}

    def refuse_outside(self, values: dict[str, Tensor]) -> None:
        """Raise where chains would start outside the model's support.

        Raises:
            PairError: names the site.
        """
        for name, draw in self.latents(self.values).items():
            if not bool(holds(draw.fn, values[name]).all()):
                raise PairError(
                    f"site {name!r}: the guide draws values outside the support of the model's {title(draw.fn)}, where "
                    f"no chain can start; use a guide on the same support"
                )

    def unconstrained(self, values: dict[str, Tensor]) -> Tensor:
        """Latents by site to u (C, B, n)."""
        sites = self.latents(values)
        parts = [unconstraining(n, sites[n].fn).inv(values[n]) for n in self.shapes]
        return torch.cat([p.reshape(*p.shape[:2], -1) for p in parts], -1)

    def constrained(self, u: Tensor) -> dict[str, Tensor]:
        """u (C, B, n) to latents by site."""
        place = _Place(u, self.shapes, self.summed)
        programs.sites(self.pair.model, self.model_args, num_samples=len(u), values=place)
        return place.values

    def ends(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """log f_0 and log p(x, z), both with the determinant, (C, B)."""
        place = _Place(u, self.shapes, self.summed)
        free = self.free and bool(self.hidden)  # what is masked has its own density at both ends: it integrates to one
        likelihood, prior = densities.log_densities(self.pair.model, self.model_args, place, len(u), free)
        first = prior
        if self.start == "guide":
            first = densities.log_densities(self.pair.guide, self.guide_args, place.values, unmasked=free)[1]
        return first + place.log_det, likelihood + prior + place.log_det

    def slope(self, u: Tensor, beta: float) -> tuple[Tensor, Tensor, Tensor]:
        """log f_0, log p(x, z) and the gradient of log f_beta, at u; by a compiled graph where there is one."""
        at = torch.full((), beta, dtype=u.dtype, device=u.device)
        if self.graph is not None:
            try:
                first, last, gradient = self.graph(u, at)
            except UncapturableError as why:
                warnings.warn(f"the gradients are not captured, and run as they are: {why}", stacklevel=2)
                self.graph = None
            else:
                return (first.clone(), last.clone(), gradient) if u.is_cuda else (first, last, gradient)
        return self._slope(u, at)

    def _slope(self, u: Tensor, beta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        with torch.enable_grad(), pyro.validation_enabled(False):
            at = u.detach().requires_grad_()
            first, last = self.ends(at)
            (gradient,) = torch.autograd.grad(((1 - beta) * first + beta * last).sum(), at)
        return first.detach(), last.detach(), gradient


def probe(pair: Any, x: X, y: Tensor | None, start: str) -> str:
    """A digest of what the programs do: parameters alone do not distinguish code, closures and attributes."""
    with evaluating(pair), forked(device_of(x), 0), pyro.validation_enabled(False):
        path = Path(pair, x, y, 2, start)
        first, last = path.ends(path.unconstrained(path.values))
    return digest({"first": first, "last": last, **path.values})


def _refuse_static(name: str, draw: programs.TracedSite, first: programs.TracedSite) -> None:
    """Raise where no gradient moves a latent."""
    what = "discrete" if is_discrete(draw.fn) else "deterministic (Delta)" if kind(first.fn) == "Delta" else ""
    what = what or ("" if draw.value.is_floating_point() else "not floating point")
    if what:
        raise PairError(f"site {name!r} is {what}; annealing, refining and gaps need continuous latents")
    refuse_quantised(name, draw.fn, first.fn, what="a move of hmc, nuts and annealing")


def _drawn(found: dict[str, programs.TracedSite], start: str) -> dict[str, programs.TracedSite]:
    """The latent sites that a start draws: all, but of the prior those that are summed out."""
    return {name: d for name, d in found.items() if not d.is_observed and not (d.summed and start == "prior")}


class _Place:
    """Puts unconstrained latents u (C, B, n) at the sites of a model as they are drawn; adds up the determinants."""

    def __init__(self, u: Tensor, shapes: dict[str, torch.Size], summed: set[str]) -> None:
        self.summed = summed
        parts = u.split([shape.numel() for shape in shapes.values()], -1)
        self.parts = {n: p.reshape(*u.shape[:2], *shapes[n]) for n, p in zip(shapes, parts, strict=True)}
        self.values: dict[str, Tensor] = {}
        self.log_det = torch.zeros_like(u[..., 0])

    def __call__(self, name: str, fn: Any) -> Tensor | None:
        if name in self.summed:
            return None
        if name not in self.parts:
            raise PairError(
                f"site {name!r} is drawn in some runs of the model and not in others: it can't be annealed or refined"
            )
        transform = unconstraining(name, fn)
        value: Tensor = transform(self.parts[name])
        term = transform.log_abs_det_jacobian(self.parts[name], value)
        self.log_det = self.log_det + term.reshape(*term.shape[:2], -1).sum(-1)
        self.values[name] = value
        return value


def move(path: Path, u: Tensor, beta: float, step: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One HMC move under which f_beta is invariant, of all chains: u, log f_0, log p(x, z), acceptance (C, B)."""
    first, last, gradient = path.slope(u, beta)
    momentum = torch.randn_like(u)
    start = (1 - beta) * first + beta * last - momentum.square().sum(-1) / 2
    size = step[..., None]  # (B, 1) against (C, B, n)
    v, p = u, momentum + size * gradient / 2
    for i in range(LEAPFROG):
        v = v + size * p
        first_v, last_v, gradient = path.slope(v, beta)
        p = p + size * gradient * (1.0 if i < LEAPFROG - 1 else 0.5)
    end = (1 - beta) * first_v + beta * last_v - p.square().sum(-1) / 2
    chance = torch.exp((end - start).nan_to_num(nan=-math.inf).clamp(max=0))
    taken = torch.rand_like(chance) < chance
    return (
        torch.where(taken[..., None], v, u),
        torch.where(taken, first_v, first),
        torch.where(taken, last_v, last),
        chance,
    )
