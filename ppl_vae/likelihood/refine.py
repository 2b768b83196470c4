"""The best Gaussian guide for each example, by natural gradients of its ELBO from the amortised guide on."""

from __future__ import annotations

import math
import pathlib
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import pyro
import torch
from torch import Tensor
from torch.distributions import Transform

from ..common import ranks
from ..common.entry import entry_point
from ..common.errors import PairError, UserError
from ..common.fields import X, device_of, num_data, rows, size_of
from ..common.progress import bar
from ..common.rng import forked, reseed, seed_for
from ..compile.capture import chosen, worthwhile
from ..data.lazy import Lazy
from ..guides.refined import Refined, elementwise, standard
from ..runs.partial import PartialResults
from ..scoring.inputs import as_data, device_and_dtype, evaluating, everything, fingerprint, num_rows, to_device
from ..scoring.quantity import refuse_binarised
from ..scoring.support import unconstraining
from .diagnostics import pareto_khat
from .hmc import Path, probe

STARTS = 64  # draws of the amortised guide, whose moments are the start
PILOT = 500  # draws that tell whether an example needs another round
GOOD = 0.65  # the Pareto k that ends the rounds: below the threshold of 5,000 draws, as a pilot's k is rough
EQUAL = 0.1  # nats: log weights that scatter by less are as good as equal
RATE = 0.2  # of the natural gradient at the start of a round; a cosine takes it to 0
STEP = 0.5  # the longest step, in standard deviations of the Gaussian that takes it
ROWS = 4096  # draws that are scored at once
FAMILIES = ("full", "diagonal")
Sites = dict[str, tuple[torch.Size, Transform]]


@dataclass(frozen=True)
class Setting:
    """The arguments of :func:`refine` that its figures depend on."""

    family: str
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
        for name in ("steps", "num_particles", "rounds", "block"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)}: at least one is needed")
        if self.widen is not None and not 0.5 <= self.widen <= 10:
            raise UserError(f"widen={self.widen}: give a factor from 0.5 to 10; 1 leaves the Gaussian as it was fitted")
        if self.df is not None and not self.df >= 1:
            raise UserError(f"df={self.df}: give one degree of freedom or more; math.inf keeps the Gaussian")

    def factor(self, n: int) -> float:
        """What standard deviations are multiplied by, in n dimensions."""
        return 1 + min(0.1, 0.7 / math.sqrt(n)) if self.widen is None else self.widen

    def degrees(self, n: int, hidden: Tensor | None) -> float:
        """Degrees of freedom in n dimensions; infinite for a Gaussian, as under masks: parts of a t are dependent."""
        if self.family == "diagonal" or hidden is not None:
            return math.inf
        return 4 + n**2 / 4 if self.df is None else self.df


@entry_point
def refine(
    pair: Any,
    x: Any,
    y: Tensor | None = None,
    *,
    family: str = "full",
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
    r"""The Gaussian of largest ELBO for each example, over its unconstrained latents, as a guide for these data.

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

    Use when Pareto k of the guide is above its threshold. ``proposal="refined"`` refines and then draws anew.

    Args:
        pair: a pair with continuous latents.
        x: data (N, *shape), or a split.
        y: labels (N,), for pairs that take them.
        family: ``"full"``, every covariance, between sites too; or ``"diagonal"``.
        steps: of a round.
        num_particles: draws of a step for each example.
        rounds: at most.
        widen: the factor of the standard deviations in the end; None takes :math:`1 + \min(0.1, 0.7 / \sqrt n)` for n
            latent dimensions; where the posterior is a Gaussian, that leaves 0.37 of the effective sample size or more.
        df: degrees of freedom of the Student's t; None takes 4 + n^2 / 4, ``math.inf`` keeps the Gaussian. A diagonal
            Gaussian is kept in any case.
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
            example or on another latent, or a masked one on a simplex or the like.
        UserError: a setting that makes no sense.

    Source: Kim, Wiseman, Miller, Sontag, Rush: Semi-Amortized Variational Autoencoders, 2018, arXiv:1802.02550, for
    refining; Tan: Analytic Natural Gradient Updates for Cholesky Factor in Gaussian Variational Approximation, 2021,
    arXiv:2109.00375, for the step; Cremer, Li, Duvenaud: Inference Suboptimality in Variational Autoencoders, 2018,
    arXiv:1801.03558, for what there is to gain.

    Example:
        >>> import torch, ppl_vae as pv
        >>> pair = pv.build("linear", data_shape=(5,), latent=2).double()
        >>> x = torch.randn(4, 5, dtype=torch.float64)
        >>> better = pair.with_guide(pv.refine(pair, x))
        >>> bool((pv.log_likelihood(better, x, num_samples=500).khat < 0.5).all())
        True
    """
    setting = Setting(family, steps, num_particles, rounds, widen, df, seed, block)
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
        df = setting.degrees(whole["loc"].shape[1], whole["hidden"])
        return Refined(*to_device(pair, *everything(pair, x, y)), sites=fit.sites, df=df, **whole).eval()


@dataclass(frozen=True)
class Gaussian:
    """A Gaussian for each of B examples: its mean (B, n), and its root (B, n, n), or (B, n) where diagonal."""

    loc: Tensor
    root: Tensor
    hidden: Tensor | None = None  # (B, n), where masked: there the mean is 0, and the root that of the identity

    @property
    def is_full(self) -> bool:
        """Whether it has every covariance."""
        return self.root.dim() == 3

    @property
    def log_det(self) -> Tensor:
        """log |root|, (B,)."""
        scale = self.root.diagonal(dim1=-2, dim2=-1) if self.is_full else self.root
        return scale.log().sum(-1)

    def shown(self, v: Tensor) -> Tensor:
        """Zero in place of what is masked, (K, B, n): a number that moves nothing, and that nothing moves."""
        return v if self.hidden is None else v.masked_fill(self.hidden, 0.0)

    def at(self, v: Tensor) -> Tensor:
        """u = loc + root v, (K, B, n)."""
        return self.loc + (_times(self.root, v) if self.is_full else self.root * v)

    def pulled_back(self, slope: Tensor) -> Tensor:
        """The gradient with respect to v of a function whose gradient with respect to u is ``slope`` (K, B, n)."""
        return _times(self.root.mT, slope) if self.is_full else self.root * slope

    def moved(self, shift: Tensor, stretch: Tensor) -> Gaussian:
        """After a step in its own coordinates: a shift (B, n), and the logarithm of a stretch, of the root's shape."""
        if not self.is_full:
            return replace(self, loc=self.loc + self.root * shift, root=self.root * stretch.exp())
        factor = stretch.tril(-1) + torch.diag_embed(stretch.diagonal(dim1=-2, dim2=-1).exp())
        return replace(self, loc=self.loc + _times(self.root, shift), root=self.root @ factor)

    def widened(self, factor: float) -> Gaussian:
        """With all standard deviations multiplied, but for those of what is masked."""
        if self.hidden is None:
            return replace(self, root=self.root * factor)
        each = torch.where(self.hidden, 1.0, self.loc.new_tensor(factor))
        return replace(self, root=self.root * (each.unsqueeze(-1) if self.is_full else each))

    def rows(self, which: Tensor) -> Gaussian:
        """Some of the B."""
        return Gaussian(self.loc[which], self.root[which], None if self.hidden is None else self.hidden[which])

    def put(self, where: Tensor, other: Gaussian) -> Gaussian:
        """With ``other`` at some of the B."""
        loc, root = self.loc.index_copy(0, where, other.loc), self.root.index_copy(0, where, other.root)
        return replace(self, loc=loc, root=root)


def _times(matrix: Tensor, vector: Tensor) -> Tensor:
    return (matrix @ vector.unsqueeze(-1)).squeeze(-1)


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
        q = _moments(amortised.unconstrained(amortised.values), setting.family == "full", hidden)
        n = q.loc.shape[1]
        factor, df = setting.factor(n), setting.degrees(n, hidden)
        path = self._path(x, y)
        elbo = _log_weights(path, q, math.inf, STARTS).mean(0)
        khat = torch.full_like(elbo, math.inf)
        steps = torch.zeros_like(khat, dtype=torch.int64)
        active = torch.arange(len(khat), device=khat.device)
        for i in range(setting.rounds):
            if i > 0:
                path = self._path(rows(x, active), None if y is None else y[active])
            one = _ascended(path, q.rows(active), setting.steps, setting.num_particles * 2**i)
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
        q = q.widened(factor)
        hidden = torch.zeros_like(q.loc, dtype=torch.bool) if hidden is None else hidden
        fitted = {"loc": q.loc, "root": q.root, "steps": steps, "khat": khat, "hidden": hidden}
        return {k: v.cpu() for k, v in fitted.items()}

    def _path(self, x: X, y: Tensor | None) -> Path:
        """The posterior of a data batch; the prior is its start, so that the guide is not scored at every step."""
        count = self.setting.num_particles * num_data(x)
        calls = 3 * self.setting.steps * self.num_batches  # with the gradient, each is three
        captured = self.capture is True
        if self.capture == "auto":
            captured = num_data(x) == self.setting.block and worthwhile(calls, count, self.pair, size_of(x))
        return Path(self.pair, x, y, 1, "prior", captured, free=False)


def _moments(u: Tensor, full: bool, hidden: Tensor | None) -> Gaussian:
    """The Gaussian with the means and the standard deviations of draws (K, B, n)."""
    loc, scale = u.mean(0), u.std(0).clamp(min=1e-6)
    if hidden is not None:
        loc, scale = loc.masked_fill(hidden, 0.0), scale.masked_fill(hidden, 1.0)
    return Gaussian(loc, torch.diag_embed(scale) if full else scale, hidden)


def _ascended(path: Path, q: Gaussian, steps: int, num_particles: int) -> Gaussian:
    """After so many steps of the natural gradient; a draw whose gradient is not finite counts as zero."""
    for t in range(steps):
        rate = RATE * (1 + math.cos(math.pi * t / steps)) / 2
        v = q.shown(torch.randn(num_particles, *q.loc.shape, dtype=q.loc.dtype, device=q.loc.device))
        h = q.shown(q.pulled_back(path.slope(q.at(v), 1.0)[2]) + v)
        h = torch.where(h.isfinite().all(-1, keepdim=True), h, 0.0)
        shift = rate * h.mean(0)
        if q.is_full:
            stretch = rate * torch.einsum("kbi,kbj->bij", h, v).tril() / num_particles
            stretch.diagonal(dim1=-2, dim2=-1).div_(2)  # its Fisher information is 2, that of the others 1
        else:
            stretch = rate * (h * v).mean(0) / 2
        size = (shift.square().sum(-1) + stretch.square().flatten(1).sum(-1)).sqrt()
        share = (STEP / size.clamp(min=STEP)).unsqueeze(-1)  # 1 where the step is short
        q = q.moved(share * shift, (share.unsqueeze(-1) if q.is_full else share) * stretch)
    return q


def _log_weights(path: Path, q: Gaussian, df: float, num_samples: int) -> Tensor:
    """Log weights of fresh draws, (num_samples, B) in float64, but for a constant of each example under masks.

    -inf where one is not a number.
    """
    unit = standard(torch.zeros_like(q.loc), df)
    size = max(1, ROWS // len(q.loc))
    found = []
    for done in range(0, num_samples, size):
        v = q.shown(unit.sample((min(size, num_samples - done),)))
        found.append((path.ends(q.at(v))[1] - unit.log_prob(v) + q.log_det).double().nan_to_num(nan=-math.inf))
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
