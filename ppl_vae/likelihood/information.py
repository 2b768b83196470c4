"""What the latents tell about the data: KL by layer and by dimension, active units, mutual information."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from torch import Tensor

from ..common.entry import entry_point
from ..common.errors import PairError, UserError
from ..common.fields import joined
from ..common.progress import bar
from ..common.rng import forked, reseed, seed_for
from ..common.shown import Shown, bars
from ..scoring import densities, terms
from ..scoring.inputs import as_data, device_and_dtype, evaluating, num_rows, to_device
from ..scoring.kinds import has_mask, mean_of
from ..scoring.terms import Site
from ..scoring.trace import call_args

ACTIVE = 0.01  # the variance over the data of the guide's mean, above which a dimension is active
BLOCK = 256  # examples at once
CHUNK = 64  # draws that are scored under the guides of other examples at once


@dataclass(frozen=True, eq=False)
class Layer:
    """A latent site; in nats per example.

    Attributes:
        kl: E_q[log q - log p] of each example, (N,); by the draws where torch has no formula.
        per_dimension: its mean over the examples for each number of the latent, (D,); None where the dimensions of
            model or guide are not independent.
        variance: of E[z|x] over the examples, (D,).
    """

    kl: Tensor
    per_dimension: Tensor | None
    variance: Tensor

    @property
    def active(self) -> Tensor:
        """Whether each number of the latent varies with the data by more than 0.01, (D,)."""
        return self.variance > ACTIVE


@dataclass(frozen=True, eq=False, repr=False)
class Information(Shown):
    """What the latents of a pair tell about its data, in nats.

    Attributes:
        layers: the latent sites by name, in the guide's order.
        log_ratio: log q(z|x) - log q(z) at a draw for each example, (N,); its mean is the mutual information.
    """

    layers: dict[str, Layer]
    log_ratio: Tensor

    @property
    def mutual_information(self) -> float:
        """I_q(x; z) of the given examples: at most log N."""
        return float(self.log_ratio.mean())

    @property
    def error(self) -> float:
        """The standard error of the mutual information."""
        return float(self.log_ratio.std() / math.sqrt(len(self.log_ratio)))

    @property
    def marginal_kl(self) -> float:
        """KL(q(z) || p(z)) of the mean guide: the rest of the KL, also where the prior depends on labels."""
        return sum(float(layer.kl.mean()) for layer in self.layers.values()) - self.mutual_information

    @property
    def collapsed(self) -> list[str]:
        """The latent sites without an active dimension."""
        return [name for name, layer in self.layers.items() if not bool(layer.active.any())]

    def record(self) -> dict[str, Any]:
        """All of it as JSON holds it."""
        n = len(self.log_ratio)
        layers = {
            name: {
                "kl": float(layer.kl.mean()),
                "active": int(layer.active.sum()),
                "variance": layer.variance.tolist(),
                "kl_per_dimension": None if layer.per_dimension is None else layer.per_dimension.tolist(),
            }
            for name, layer in self.layers.items()
        }
        return {
            "n": n, "mutual_information": self.mutual_information, "error": self.error, "largest": math.log(n),
            "marginal_kl": self.marginal_kl, "collapsed": self.collapsed, "layers": layers,
        }  # fmt: skip

    def __str__(self) -> str:
        lines = []
        for name, layer in self.layers.items():
            count, size = int(layer.active.sum()), len(layer.active)
            used = f"{count} of {size} dimensions active" if count else f"collapsed: none of {size} dimensions active"
            lines.append(f"{name}: KL {float(layer.kl.mean()):.3f} nats; {used}")
        return "\n".join([*lines, *self.notes()])

    def drawn(self) -> list[list[str]]:
        """A row for each latent site, with the KL of each of its dimensions as a bar, largest first."""
        cells = [["latent", "KL (nats)", "active dimensions", "KL of each dimension"]]
        for name, layer in self.layers.items():
            each = [] if layer.per_dimension is None else layer.per_dimension.sort(descending=True).values.tolist()
            active = f"{int(layer.active.sum())} of {len(layer.active)}"
            drawing = bars(each, "KL of each dimension in nats")
            cells.append([name, f"{float(layer.kl.mean()):.3f}", active, drawing])
        return cells

    def notes(self) -> list[str]:
        """The mutual information, beside the most that so many examples can show."""
        most = math.log(len(self.log_ratio))
        near = "; near its largest value, so that more examples would give more" if self.near_largest else ""
        return [
            f"mutual information of x and z {self.mutual_information:.3f} ± {self.error:.3f} nats of at most "
            f"{most:.3f} for {len(self.log_ratio)} examples{near}; KL(q(z) || p(z)) {self.marginal_kl:.3f}"
        ]

    @property
    def near_largest(self) -> bool:
        """Whether the mutual information is within a tenth of log N, and says little more than that."""
        return self.mutual_information > 0.9 * math.log(len(self.log_ratio))


@entry_point
def information(
    pair: Any, x: Any, y: Tensor | None = None, num_samples: int = 64, *, seed: int = 0, progress: bool = False
) -> Information:
    r"""How much of the KL is information, which dimensions carry it, and which layers collapsed.

    .. math:: E_x[KL(q(z|x) || p(z))] = \underbrace{E_x E_q[\log q(z|x) - \log q(z)]}_{I_q(x; z)} + KL(q(z) || p(z)),
        \qquad q(z) = \frac1N \sum_n q(z|x_n)

    The mutual information is that of the given N examples: at most log N, and less than that of all data. A dimension
    is active where the variance of E[z|x] over the examples is above 0.01.

    Use when latents may be unused: a layer without active dimensions has collapsed; a large KL(q(z) || p(z)) means that
    draws from the prior are unlike the codes of data.

    Args:
        pair: a pair with latents, whose guide scores values that it did not draw.
        x: data (N, *shape), or a split; N examples need N^2 scores of the guide, so give some thousands at most.
        y: labels (N,), for pairs that take them.
        num_samples: draws of each example, for the KL and the means that have no closed form.
        seed: of the draws.
        progress: show a bar.

    Raises:
        PairError: a pair without latents, or with a masked one, or a guide that can't score values.
        UserError: fewer than two examples.

    Source: Hoffman, Johnson: ELBO surgery: yet another way to carve up the variational evidence lower bound, 2016.
    Active units: Burda, Grosse, Salakhutdinov: Importance Weighted Autoencoders, 2015, arXiv:1509.00519.

    Example:
        >>> import torch, ppl_vae as pv
        >>> pair = pv.build("vae", data_shape=(5,), latent=2, hidden=(4,))
        >>> found = pv.information(pair, torch.rand(20, 5).round())
        >>> list(found.layers), found.mutual_information < 3  # log 20
        (['z'], True)
    """
    x, y = as_data(pair, x, y, seed)
    n = num_rows(x)
    if n < 2:
        raise UserError("information: two examples or more are needed")
    device, _ = device_and_dtype(pair)
    starts = range(0, n, BLOCK)
    with evaluating(pair), forked(device), pyro.validation_enabled(False), torch.no_grad(), bar(progress) as shown:
        task = shown.add_task("information", total=len(starts) * (1 + math.ceil(n / CHUNK)), info="")
        parts: list[tuple[dict[str, dict[str, Tensor]], dict[str, Tensor], Tensor]] = []
        for i, start in enumerate(starts):
            reseed(seed_for(seed, "information", i), device)
            parts.append(_of_block(pair, *to_device(pair, x, y, slice(start, start + BLOCK)), num_samples))
            shown.advance(task)
        whole = {name: joined([part[0][name] for part in parts], 0) for name in parts[0][0]}
        drawn: dict[str, Tensor] = joined([part[1] for part in parts], 0)  # one draw (N, *event) for each example
        own = torch.cat([part[2] for part in parts])
        mean_q = []
        for first in range(0, n, CHUNK):
            z = {name: v[first : first + CHUNK] for name, v in drawn.items()}
            scores = []
            for start in starts:
                scores.append(_scores(pair, *to_device(pair, x, y, slice(start, start + BLOCK)), z))
                shown.advance(task)
            mean_q.append(torch.logsumexp(torch.cat(scores, 1), 1) - math.log(n))
    layers = {
        name: Layer(
            found["kl"],
            found["per_dimension"].mean(0) if "per_dimension" in found else None,
            (found["mean"].var(0) - found["noise"].mean(0)).clamp(min=0),
        )
        for name, found in whole.items()
    }
    return Information(layers, own - torch.cat(mean_q))


def _of_block(
    pair: Any, x: Any, y: Tensor | None, num_samples: int
) -> tuple[dict[str, dict[str, Tensor]], dict[str, Tensor], Tensor]:
    """For each site its KL (B,), KL (B, D), mean and its variance (B, D); one draw of all; its log q, (B,)."""
    t = terms.terms(pair.model, pair.guide, x, y, num_samples=num_samples)
    sites = {name: s for name, s in t.sites.items() if s.p is not None}
    if not sites:
        raise PairError("this pair has no latents that the guide draws: there is no information to measure")
    for name, s in sites.items():
        if any(mask is not None and mask is not True for mask in s.masks) or has_mask(s.q) or has_mask(s.p):
            raise PairError(f"site {name!r} is masked: its mutual information with x is not defined by the guide alone")
    found = {name: _of_site(s) for name, s in sites.items()}
    return found, {name: s.value[0].cpu() for name, s in t.sites.items()}, t.log_q[0].double().cpu()


def _of_site(site: Site) -> dict[str, Tensor]:
    value = site.value.double().reshape(*site.log_p.shape, -1)  # (K, B, D)
    mean = mean_of(site.q)
    exact = mean is not None and mean.shape[0] == 1  # it does not depend on draws of other layers
    means = value if mean is None else mean.double().expand(site.value.shape).reshape(value.shape)
    spread = torch.zeros_like(means[0]) if exact or len(means) == 1 else means.var(0) / len(means)
    kl = site.kl
    found = {
        "kl": (site.log_q - site.log_p if kl is None else kl).double().mean(0), "mean": means.mean(0), "noise": spread,
    }  # fmt: skip
    each = None if site.marginal else _per_dimension(site.q, site.p, site.value)
    if each is not None:
        found["per_dimension"] = each.double().mean(0).reshape(value.shape[1:])
    return {name: v.cpu() for name, v in found.items()}


def _per_dimension(q: Any, p: Any, value: Tensor) -> Tensor | None:
    """The KL of each number of a site, (K, B, *event); None where its dimensions are not independent."""
    wanted = value.shape
    while isinstance(q, torch.distributions.Independent) and isinstance(p, torch.distributions.Independent):
        q, p = q.base_dist, p.base_dist
    if q.event_shape or p.event_shape or hasattr(q, "_mask") or hasattr(p, "_mask"):
        return None
    try:
        kl: Tensor = torch.distributions.kl_divergence(q, p)
    except NotImplementedError:
        kl = q.log_prob(value) - p.log_prob(value)
    return kl.expand(wanted)


def _scores(pair: Any, x: Any, y: Tensor | None, z: dict[str, Tensor]) -> Tensor:
    """log q(z_i | x_j) of draws z (I, *event) under the guides of all examples of a block, (I, B)."""
    size = len(x) if torch.is_tensor(x) else num_rows(x)
    device, _ = device_and_dtype(pair)
    wide = {n: v.to(device)[:, None].expand(len(v), size, *v.shape[1:]) for n, v in z.items()}
    return densities.log_densities(pair.guide, call_args(pair.guide, x, y), wide)[1].double().cpu()
