"""The best guide of a family for each example: a Gaussian or a mixture, from the amortised guide on."""

from __future__ import annotations

import math
import pathlib
from dataclasses import asdict, dataclass, field
from typing import Any

import pyro
import torch
from torch import Tensor
from torch.distributions import Transform
from torch.distributions.transforms import identity_transform

from ..common import ranks
from ..common.entry import entry_point
from ..common.errors import PairError, UserError
from ..common.fields import X, device_of, num_data, rows, size_of
from ..common.progress import bar
from ..common.rng import forked, reseed, seed_for
from ..compile.capture import chosen, worthwhile
from ..data.lazy import Lazy
from ..guides.refined import Refined, elementwise
from ..runs.partial import PartialResults
from ..scoring.inputs import as_data, device_and_dtype, evaluating, everything, fingerprint, num_rows, to_device
from ..scoring.quantity import refuse_binarised
from ..scoring.support import unconstraining
from .diagnostics import pareto_khat
from .gaussians import Gaussians, ascended, from_moments
from .hmc import Path, probe

STARTS = 64  # draws of the amortised guide, whose moments are the start
PILOT = 500  # draws that tell whether an example needs another round
GOOD = 0.65  # the Pareto k that ends the rounds: below the threshold of 5,000 draws, as a pilot's k is rough
EQUAL = 0.1  # nats: log weights that scatter by less are as good as equal
ROWS = 4096  # draws that are scored at once
COMPONENTS = 8  # of a mixture
FAMILIES = ("full", "diagonal", "mixture")
Sites = dict[str, tuple[torch.Size, Transform]]


@dataclass(frozen=True)
class Setting:
    """The arguments of :func:`refine` that its figures depend on."""

    family: str
    components: int | None
    steps: int
    num_particles: int
    rounds: int
    widen: float | None
    df: float | None
    seed: int
    block: int

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise UserError(f"family={self.family!r}: choose one of {', '.join(map(repr, FAMILIES))}")
        if self.components is not None and self.family != "mixture":
            raise UserError(f"components={self.components}: family={self.family!r} has one; family='mixture' has more")
        if self.components is not None and self.components < 1:
            raise UserError(f"components={self.components}: at least one is needed")
        for name in ("steps", "num_particles", "rounds", "block"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)}: at least one is needed")
        if self.widen is not None and not 0.5 <= self.widen <= 10:
            raise UserError(f"widen={self.widen}: give a factor from 0.5 to 10; 1 leaves the Gaussian as it was fitted")
        if self.df is not None and not self.df >= 1:
            raise UserError(f"df={self.df}: give one degree of freedom or more; math.inf keeps the Gaussian")

    @property
    def num_components(self) -> int:
        """Gaussians for each example."""
        return 1 if self.family != "mixture" else COMPONENTS if self.components is None else self.components

    def factor(self, n: int) -> float:
        """What standard deviations are multiplied by, in n dimensions."""
        return 1 + min(0.1, 0.7 / math.sqrt(n)) if self.widen is None else self.widen

    def degrees(self, n: int, hidden: Tensor | None, sites: Sites) -> float:
        """Degrees of freedom in n dimensions; infinite for a Gaussian, as under masks: parts of a t are dependent.

        Tails are as heavy as they can be: in few dimensions, few draws see nothing of the tails that a posterior has
        beyond them, and k does not either. exp of a draw that is far out, for a latent with bounds, is not finite.
        """
        if self.family == "diagonal" or hidden is not None:
            return math.inf
        least = 1.5 if all(elementwise(transform) == identity_transform for _, transform in sites.values()) else 4
        return least + n**2 / 4 if self.df is None else self.df


@entry_point
def refine(
    pair: Any,
    x: Any,
    y: Tensor | None = None,
    *,
    family: str = "full",
    components: int | None = None,
    steps: int = 60,
    num_particles: int = 16,
    rounds: int = 3,
    widen: float | None = None,
    df: float | None = None,
    seed: int = 0,
    block: int = 128,
    progress: bool = False,
    resume: str | pathlib.Path | None = None,
    capture: bool | str = "auto",
) -> Refined:
    r"""The Gaussian, or mixture, of largest ELBO for each example, over its unconstrained latents, as their guide.

    .. math:: q_b = \arg\max_q E_q[\log p(x_b, z(u)) + \log |dz/du| - \log q(u)], \qquad q = N(\mu, L L^\top)

    It starts at the moments of the amortised guide. Steps follow the natural gradient, in the coordinates
    :math:`v = L^{-1}(u - \mu)` of the Gaussian itself. With :math:`h = L^\top \nabla_u \log p + v`:

    .. math:: \mu \leftarrow \mu + \rho L\, E[h], \qquad
              L \leftarrow L (I + \rho A), \qquad A = (\mathrm{tril} - \tfrac12 \mathrm{diag})(E[h v^\top])

    with :math:`\exp(\rho A_{ii})` on the diagonal, so that L stays a root; a step of more than half a standard
    deviation is shortened to that. The noise of a step vanishes where the posterior is a Gaussian. After a round of
    steps, examples whose Pareto k is still high on pilot draws get another round, with twice the particles. The maximum
    of the ELBO is too narrow for importance sampling, so in the end all standard deviations are multiplied by
    ``widen``, and a full Gaussian becomes a Student's t. Masked entries are left out; it then stays Gaussian.

    A mixture of C Gaussians takes the same step for each, with :math:`h_c = L_c^\top \nabla_u (\log p - \log q)` at its
    own draws, and :math:`\log \pi_c \leftarrow \log \pi_c + \rho\, E_{q_c}[\log p - \log q]`, normalised. The first
    starts where a single Gaussian does, the others at draws of the prior, so that modes are found which the guide does
    not know, where the prior's draws come near them.

    Use when Pareto k of the guide is above its threshold. ``proposal="refined"`` refines and then draws anew. A mixture
    is for few dimensions: its cost grows with C, and with C^2 n^2 beside the model.

    Args:
        pair: a pair with continuous latents.
        x: data (N, *shape), or a split.
        y: labels (N,), for pairs that take them.
        family: ``"full"``, every covariance, between sites too; ``"diagonal"``; or ``"mixture"``, of full Gaussians.
        components: C, of a mixture; None takes 8.
        steps: of a round.
        num_particles: draws of a step for each example.
        rounds: at most.
        widen: the factor of the standard deviations in the end; None takes :math:`1 + \min(0.1, 0.7 / \sqrt n)` for n
            latent dimensions; where the posterior is a Gaussian, that leaves 0.37 of the effective sample size or more.
        df: degrees of freedom of the Student's t; None takes 1.5 + n^2 / 4, or 4 + n^2 / 4 where a latent has bounds,
            ``math.inf`` keeps the Gaussian. A diagonal Gaussian is kept in any case.
        seed: seeds each data batch separately.
        block: examples in a data batch, refined together; part of the seed's meaning.
        progress: show a bar.
        resume: a folder for unfinished work, see :func:`~ppl_vae.log_likelihood`.
        capture: compute gradients by a compiled graph, see :func:`~ppl_vae.log_likelihood`.

    Returns:
        Refined: a guide for ``pair.with_guide``. Its ``steps`` (N,) and ``khat`` (N,), on the pilot draws, say what
        each example took.

    Raises:
        PairError: the pair has no latents, or a discrete or deterministic one, or one whose support depends on the
            example or on another latent, or a masked one on a simplex or the like, or any
            masked one for a mixture.
        UserError: a setting that makes no sense.

    Source: Kim, Wiseman, Miller, Sontag, Rush: Semi-Amortized Variational Autoencoders, 2018, arXiv:1802.02550, for
    refining; Tan: Analytic Natural Gradient Updates for Cholesky Factor in Gaussian Variational Approximation, 2021,
    arXiv:2109.00375, for the step; Lin, Khan, Schmidt: Fast and Simple Natural-Gradient Variational Inference with
    Mixture of Exponential-family Approximations, 2019, arXiv:1906.02914, for that of a mixture; Cremer, Li, Duvenaud:
    Inference Suboptimality in Variational Autoencoders, 2018, arXiv:1801.03558, for what there is to gain.

    Example:
        >>> import torch, ppl_vae as pv
        >>> pair = pv.build("linear", data_shape=(5,), latent=2).double()
        >>> x = torch.randn(4, 5, dtype=torch.float64)
        >>> better = pair.with_guide(pv.refine(pair, x))
        >>> bool((pv.log_likelihood(better, x, num_samples=500).khat < 0.5).all())
        True
    """
    setting = Setting(family, components, steps, num_particles, rounds, widen, df, seed, block)
    chosen(capture)
    refuse_binarised(pair, x)
    x, y = as_data(pair, x, y, seed)
    return _refined(pair, x, y, setting, progress, resume, capture)


def _refined(
    pair: Any, x: X | Lazy, y: Tensor | None, setting: Setting, progress: bool, resume: Any, capture: bool | str
) -> Refined:
    """The guide of all data batches, which the ranks share."""
    about = {"work": "refine", **asdict(setting), "df": str(setting.df)}
    if resume is not None or ranks.count() > 1:
        about |= {"data": fingerprint(pair, x, y), "probe": probe(pair, *to_device(pair, x, y, slice(2)), "guide")}
    if ranks.count() > 1:
        ranks.assert_same("work", about)
    device = device_and_dtype(pair)[0]
    starts = range(0, num_rows(x), setting.block)
    fit = _Fit(pair, setting, capture, len(starts))
    with PartialResults(resume, about) as saved, evaluating(pair), forked(device), bar(progress) as shown:
        task = shown.add_task("refining", info="")

        def part_at(start: int) -> dict[str, Tensor]:
            name = str(start // setting.block)
            part = saved.get(name)
            if part is None:
                part = fit(*to_device(pair, x, y, slice(start, start + setting.block)), start // setting.block)
                saved.put(name, part)
            return part

        with pyro.validation_enabled(False):
            fit.sites = sites_of(Path(pair, *to_device(pair, x, y, slice(2)), 2, "guide"))
            parts = ranks.each(part_at, starts, lambda local: shown.track(local, task_id=task))
        whole: dict[str, Any] = {k: torch.cat([p[k] for p in parts]).to(device) for k in parts[0]}
        if not bool(whole["hidden"].any()):
            whole["hidden"] = None
        df = setting.degrees(whole["loc"].shape[-1], whole["hidden"], fit.sites)
        return Refined(*to_device(pair, *everything(pair, x, y)), sites=fit.sites, df=df, **whole).eval()


@dataclass(eq=False)
class _Fit:
    """The fit of one data batch after another, and what it is made of."""

    pair: Any
    setting: Setting
    capture: bool | str
    num_batches: int
    sites: Sites = field(default_factory=dict)  # of the first examples

    def __call__(self, x: X, y: Tensor | None, batch: int) -> dict[str, Tensor]:
        """The Gaussians of a data batch, widened, with the steps and Pareto k of each; on the CPU."""
        setting = self.setting
        reseed(seed_for(setting.seed, "refine", batch), device_of(x))
        amortised = Path(self.pair, x, y, STARTS, "guide")
        sites_of(amortised, self.sites)
        hidden = hidden_of(amortised, self.sites)
        u = amortised.unconstrained(amortised.values)
        q = from_moments(u, self._others(x, y, u), setting.family != "diagonal", hidden)
        n = u.shape[-1]
        factor, df = setting.factor(n), setting.degrees(n, hidden, self.sites)
        path = self._path(x, y)
        elbo = _log_weights(path, q, math.inf, STARTS).mean(0)
        khat = torch.full_like(elbo, math.inf)
        steps = torch.zeros_like(khat, dtype=torch.int64)
        active = torch.arange(len(khat), device=khat.device)
        for i in range(setting.rounds):
            if i > 0:
                path = self._path(rows(x, active), None if y is None else y[active])
            one = ascended(path, q.rows(active), setting.steps, setting.num_particles * 2**i)
            log_w = _log_weights(path, one.widened(factor), df, PILOT)
            found = pareto_khat(log_w)
            found[found.isnan() & (log_w.std(0) < EQUAL)] = -math.inf  # weights so equal that they have no tail
            gained = _log_weights(path, one, math.inf, STARTS).mean(0) > elbo[active]
            better = gained & (found <= khat[active])  # false for a k that is not a number
            taken = active[better]
            q, khat[taken] = q.put(taken, one.rows(better)), found[better]
            steps[active] += setting.steps
            active = active[~(khat[active] < GOOD)]
            if len(active) == 0:
                break
        hidden = torch.zeros_like(u[0], dtype=torch.bool) if hidden is None else hidden
        fitted = {"steps": steps, "khat": khat, "hidden": hidden, **_by_example(q.widened(factor))}
        return {k: v.cpu() for k, v in fitted.items()}

    def _others(self, x: X, y: Tensor | None, u: Tensor) -> Tensor:
        """Where the other Gaussians of a mixture start, (C - 1, B, n): at draws of the prior, which may find modes."""
        if self.setting.num_components == 1:
            return u[:0]
        prior = Path(self.pair, x, y, self.setting.num_components - 1, "prior")
        if prior.hidden:
            name = next(iter(prior.hidden))
            raise PairError(f"site {name!r} is masked, which a mixture does not take: use family='full'")
        return prior.unconstrained(prior.values)

    def _path(self, x: X, y: Tensor | None) -> Path:
        """The posterior of a data batch; the prior is its start, so that the guide is not scored at every step."""
        count = self.setting.num_particles * self.setting.num_components * num_data(x)
        calls = 3 * self.setting.steps * self.num_batches  # with the gradient, each is three
        captured = self.capture is True
        if self.capture == "auto":
            captured = num_data(x) == self.setting.block and worthwhile(calls, count, self.pair, size_of(x))
        return Path(self.pair, x, y, 1, "prior", captured, free=False)


def _by_example(q: Gaussians) -> dict[str, Tensor]:
    """The parameters with the examples first, for a Refined: a mixture keeps the dimension of its Gaussians."""
    if len(q.loc) == 1:
        return {"loc": q.loc[0], "root": q.root[0]}
    return {k: getattr(q, k).movedim(0, 1).contiguous() for k in ("loc", "root", "log_share")}


def _log_weights(path: Path, q: Gaussians, df: float, num_samples: int) -> Tensor:
    """Log weights of fresh draws, (num_samples, B) in float64, but for a constant of each example under masks.

    -inf where one is not a number.
    """
    size = max(1, ROWS // q.loc.shape[1])
    found = []
    for done in range(0, num_samples, size):
        u, log_q = q.draws(min(size, num_samples - done), df)
        found.append((path.ends(u)[1] - log_q).double().nan_to_num(nan=-math.inf))
    return torch.cat(found)


def sites_of(path: Path, known: Sites | None = None) -> Sites:
    """The latents of a model in their order: the shape of each in its unconstrained space, and the map from there.

    Those of other examples may be ``known``.

    Raises:
        PairError: the support of a site depends on the example or on another latent.
    """
    found = {}
    for name, draw in path.latents(path.values).items():
        each = unconstraining(name, draw.fn)
        one = known[name][1] if known else unconstraining(name, draw.fn, first=True)
        u = torch.randn(path.shapes[name], dtype=draw.value.dtype, device=draw.value.device)
        u = u.expand(*draw.value.shape[:2], *u.shape)
        if not torch.equal(*(transform(u).expand(draw.value.shape) for transform in (each, one))):
            raise PairError(
                f"site {name!r}: its support depends on the example or on another latent, and a refined guide has one "
                f"support for all: use ais, or the pair's guide"
            )
        found[name] = path.shapes[name], one
    return found


def hidden_of(path: Path, sites: Sites) -> Tensor | None:
    """Which of the numbers of each example the model masks, (B, n), site after site; None where it masks none.

    Raises:
        PairError: a masked site is no set of single numbers, or its mask depends on the draws.
    """
    if not path.hidden:
        return None
    parts = []
    for name, (shape, transform) in sites.items():
        value = path.values[name]  # (C, B, *event)
        hidden = path.hidden.get(name, torch.zeros_like(value, dtype=torch.bool)).expand_as(value)
        if name in path.hidden and (value.shape[2:] != shape or elementwise(transform).domain.event_dim > 0):
            raise PairError(f"site {name!r} is masked and no set of single numbers: use ais, or the pair's guide")
        if not bool((hidden == hidden[:1]).all()):
            raise PairError(f"site {name!r} has a mask that depends on other latents: use ais, or the pair's guide")
        parts.append(hidden[0].reshape(len(hidden[0]), -1)[:, : shape.numel()])
    return torch.cat(parts, 1)
