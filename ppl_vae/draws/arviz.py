"""Draws, predictions, densities and weights of a pair, for ArviZ 0.23 (InferenceData) and 1.x (DataTree)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyro
import torch
from torch import Tensor

from ..common.entry import entry_point
from ..common.errors import UserError
from ..common.fields import X, each, joined, named, num_data
from ..common.rng import forked, quiet_import, reseed, seed_for
from ..scoring import densities, programs, terms, trace
from ..scoring.inputs import device_and_dtype, evaluating, everything, to_device
from ..scoring.simulate import rerun
from .posterior import CHUNK, posterior

BLOCK = 32  # examples at once: predictions hold draws times examples times numbers in an example


@entry_point
def to_arviz(
    pair: Any,
    x: Any,
    y: Tensor | None = None,
    *,
    method: str = "sir",
    num_samples: int = 1000,
    num_chains: int = 4,
    warmup: int = 500,
    seed: int = 0,
    progress: bool = False,
) -> Any:
    """Draws, predictions, densities, weights and the data, in the groups that ArviZ plots and summarises.

    | group | holds | dimensions |
    | --- | --- | --- |
    | posterior | each latent site, by ``method`` | chain, draw, datum, ... |
    | prior | each latent site, from the model | chain, draw, datum, ... |
    | posterior_predictive, prior_predictive | x drawn given z | chain, draw, datum, ... |
    | log_likelihood | log p(x given z) | chain, draw, datum |
    | sample_stats | ``lp``, log p(x, z); lp - log q(z given x): ``log_weight``, by "sir" ``used_log_weight`` | same |
    | observed_data | x | datum, ... |
    | constant_data | labels, where there are any | datum |

    By ``"guide"`` the posterior group holds draws of the guide, which represent the posterior only with their weights.
    ``az.loo`` of this leaves out a whole example with its latent, so its elpd is a smoothed harmonic mean of
    p(x given z): a poor estimate of log p(x), as its Pareto k shows. Use :func:`~ppl_vae.log_likelihood` for that.
    Predictions hold draws times examples times pixels: choose few draws and few examples.

    Args:
        pair: a pair with latents.
        x: data (N, *shape), or a split.
        y: labels (N,), for pairs that take them.
        method: of :func:`~ppl_vae.draws.posterior`.
        num_samples: draws of each example, over all chains.
        num_chains: chains of HMC and NUTS; the draws of the other methods are one chain.
        warmup: steps of each chain of HMC and NUTS that are discarded.
        seed: seeds every draw.
        progress: show a bar.

    Returns:
        ``arviz.InferenceData``, or ``xarray.DataTree`` under ArviZ 1.x.

    Source: Kumar, Carroll, Hartikainen, Martin: ArviZ, a unified library for exploratory analysis of Bayesian models in
    Python, 2019.

    Example:
        >>> import torch, ppl_vae as pv
        >>> pair = pv.build("linear", data_shape=(5,), latent=2)
        >>> tree = pv.to_arviz(pair, torch.zeros(3, 5), num_samples=20)
        >>> dict(tree["posterior"]["z"].sizes)
        {'chain': 1, 'draw': 20, 'datum': 3, 'z_dim_0': 2}
    """
    x, y = everything(pair, x, y, seed)
    found = posterior(
        pair, x, y, method, num_samples=num_samples, num_chains=num_chains, warmup=warmup, seed=seed, progress=progress
    )
    groups: dict[str, dict[str, Tensor]] = {}
    # densities sum out what the model does, unless no other latent is left
    drawn = {name: v for name, v in found.samples.items() if name not in found.probs} or found.samples
    for (group, name), value in _evaluated(pair, x, y, drawn, seed).items():
        groups.setdefault(group, {})[name] = value
    groups["posterior"] = found.samples
    for name in ("log_weight", "used_log_weight"):
        if getattr(found, name) is not None:
            groups["sample_stats"][name] = getattr(found, name)
    about = {"inference_library": "ppl_vae", "method": method, "seed": seed}
    return _tree(groups, x, y, found.num_chains, about)


def _evaluated(
    pair: Any, x: X, y: Tensor | None, samples: dict[str, Tensor], seed: int
) -> dict[tuple[str, str], Tensor]:
    """Densities and predictions (S, N, *event) of all draws, by group and name; on the CPU."""
    device, _ = device_and_dtype(pair)
    blocks = []
    with evaluating(pair), forked(device), pyro.validation_enabled(False):
        for n, start in enumerate(range(0, num_data(x), BLOCK)):
            reseed(seed_for(seed, "to_arviz", n), device)
            xb, yb = to_device(pair, x, y, slice(start, start + BLOCK))
            chunks = []
            for first in range(0, num_data(samples), CHUNK):
                z = {k: v[first : first + CHUNK, start : start + BLOCK].to(device) for k, v in samples.items()}
                chunks.append(each(lambda v: v.detach().cpu(), _one_chunk(pair, xb, yb, z)))
            blocks.append(joined(chunks))
    found: dict[tuple[str, str], Tensor] = joined(blocks, 1)
    return found


def _one_chunk(pair: Any, x: X, y: Tensor | None, z: dict[str, Tensor]) -> dict[tuple[str, str], Tensor]:
    """Densities and predictions (K, B, *event) at draws z of one data batch, by group and name."""
    size = num_data(z)
    args = trace.call_args(pair.model, x, y)
    likelihood, prior = densities.log_densities(pair.model, args, z)
    found = {("sample_stats", "lp"): likelihood + prior}
    predicted = rerun(programs.sites(pair.model, args, num_samples=size, values=z, uncondition=True), x).data
    is_one = len(predicted) == 1  # then its name is x, as in observed_data
    for name, site in predicted.items():
        found["posterior_predictive", "x" if is_one else name] = site.value
    if is_one:
        found["log_likelihood", "x"] = likelihood
    else:
        as_drawn = trace.prior_of(pair.model, drawn=set(z))
        t = terms.terms(pair.model, as_drawn, x, y, num_samples=size, values=z)
        for name, scored in t.observed.items():
            found["log_likelihood", name] = scored.log_p
    fresh = programs.sites(pair.model, args, num_samples=size, uncondition=True)
    for name in predicted:
        found["prior_predictive", "x" if is_one else name] = fresh[name].value
    for name in z:
        found["prior", name] = fresh[name].value
    return found


def _tree(groups: dict[str, dict[str, Tensor]], x: X, y: Tensor | None, chains: int, about: dict[str, Any]) -> Any:
    """The groups and the data as the installed ArviZ holds them."""
    quiet_import("arviz")
    import arviz
    import xarray as xr

    def dataset(values: dict[str, Tensor], lead: tuple[str, ...]) -> Any:
        """Variables (S, N, *event), or (N, *event) where there is no draw, with their dimensions named."""
        variables = {}
        for name, value in values.items():
            shaped = value.reshape(chains, -1, *value.shape[1:]) if "draw" in lead else value
            rest = [f"{name}_dim_{i}" for i in range(shaped.dim() - len(lead))]
            variables[name] = ([*lead, *rest], (shaped.float() if shaped.dtype == torch.bfloat16 else shaped).numpy())
        found = xr.Dataset(variables, attrs=about)
        return found.assign_coords({d: np.arange(found.sizes[d]) for d in lead})

    whole = {name: dataset(values, ("chain", "draw", "datum")) for name, values in groups.items()}
    fields = {name.removeprefix("x['").removesuffix("']"): t.detach().cpu() for name, t in named(x)}
    whole["observed_data"] = dataset(fields, ("datum",))
    if y is not None:
        whole["constant_data"] = dataset({"y": y.detach().cpu()}, ("datum",))
    if hasattr(xr, "DataTree") and int(arviz.__version__.split(".")[0]) >= 1:
        return xr.DataTree.from_dict(whole)
    if not hasattr(arviz, "InferenceData"):
        raise UserError(f"ArviZ {arviz.__version__} is neither 0.23 nor 1.x; install one of them")
    return arviz.InferenceData(**whole)
