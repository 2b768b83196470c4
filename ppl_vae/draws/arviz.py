"""ArviZ: everything about a pair on some data, as ArviZ 0.23 (InferenceData) and 1.x (DataTree) take it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyro
import torch
from torch import Tensor

from ..common.entry import entry_point
from ..common.errors import UserError
from ..common.fields import named, num_data
from ..common.rng import forked, quiet_import, reseed, seed_for
from ..scoring import densities, programs, terms, trace
from ..scoring.inputs import device_and_dtype, evaluating, everything, to_device
from ..scoring.simulate import rerun
from .posterior import CHUNK, posterior

BLOCK = 32


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
    """What ArviZ plots and summarises: draws, predictions, densities and weights, with the data.

    | group | holds | dimensions |
    | --- | --- | --- |
    | posterior | each latent site, by ``method`` | chain, draw, datum, ... |
    | prior | each latent site, from the model | chain, draw, datum, ... |
    | posterior_predictive, prior_predictive | x drawn given z | chain, draw, datum, ... |
    | log_likelihood | log p(x given z) | chain, draw, datum |
    | sample_stats | ``lp``, log p(x, z); lp - log q(z given x): ``log_weight``, by "sir" ``used_log_weight`` | same |
    | observed_data | x | datum, ... |
    | constant_data | labels, where there are any | datum |

    By ``"guide"`` the posterior group holds the guide's own draws, which only their weights make the posterior's.
    ``az.loo`` of this leaves out a whole datum with its own latent, so its elpd is a smoothed harmonic mean of
    p(x given z): a poor estimate of log p(x), as its k will say. Use :func:`~ppl_vae.log_likelihood` for that.
    Predictions hold draws times data times pixels: ask for few of each.

    Args:
        pair: a pair with latents.
        x: data (N, *shape), or a split.
        y: labels (N,), for pairs that take them.
        method: of :func:`~ppl_vae.draws.posterior`.
        num_samples: draws of each datum, over all chains.
        num_chains: chains of HMC and NUTS; the draws of the others are one chain.
        warmup: of HMC and NUTS.
        seed: of everything.
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
    device, _ = device_and_dtype(pair)
    columns: dict[str, dict[str, list[Tensor]]] = {}

    def put(group: str, name: str, value: Tensor) -> None:
        columns.setdefault(group, {}).setdefault(name, []).append(value.detach().cpu())

    with evaluating(pair), forked(device), pyro.validation_enabled(False):
        for n, start in enumerate(range(0, num_data(x), BLOCK)):
            reseed(seed_for(seed, "to_arviz", n), device)
            xb, yb = to_device(pair, x, y, slice(start, start + BLOCK))
            held = {k: v[:, start : start + BLOCK] for k, v in found.samples.items()}
            for first in range(0, num_samples, CHUNK):
                z = {k: v[first : first + CHUNK].to(device) for k, v in held.items()}
                _one_chunk(pair, xb, yb, z, min(CHUNK, num_samples - first), put)
    groups: dict[str, dict[str, Tensor]] = {
        group: {
            name: torch.cat([torch.cat(parts[i : i + _chunks(num_samples)]) for i in _starts(parts, num_samples)], 1)
            for name, parts in names.items()
        }
        for group, names in columns.items()
    }
    groups["posterior"] = found.samples
    for name in ("log_weight", "used_log_weight"):
        if getattr(found, name) is not None:
            groups["sample_stats"][name] = getattr(found, name)
    about = {"inference_library": "ppl_vae", "method": method, "seed": seed}
    return _tree(groups, x, y, found.num_chains, about)


def _called(name: str, data: dict[str, Any]) -> str:
    """The name of an observed site in ArviZ's groups: x where there is only one."""
    return "x" if len(data) == 1 else name


def _chunks(num_samples: int) -> int:
    return -(-num_samples // CHUNK)


def _starts(parts: list[Tensor], num_samples: int) -> range:
    return range(0, len(parts), _chunks(num_samples))


def _one_chunk(pair: Any, x: Tensor, y: Tensor | None, z: dict[str, Tensor], size: int, put: Any) -> None:
    """Densities and predictions of some draws of one block of data."""
    args = trace.call_args(pair.model, x, y)
    likelihood, prior = densities.log_densities(pair.model, args, z)
    put("sample_stats", "lp", likelihood + prior)
    predicted = rerun(programs.sites(pair.model, args, num_samples=size, values=z, uncondition=True), x)
    names = {name: _called(name, predicted.data) for name in predicted.data}
    for name, site in predicted.data.items():
        put("posterior_predictive", names[name], site.value)
    if len(predicted.data) == 1:
        put("log_likelihood", "x", likelihood)
    else:
        as_drawn = trace.prior_of(pair.model, drawn=set(z))
        t = terms.terms(pair.model, as_drawn, x, y, num_samples=size, values=z)
        for name, seen in t.observed.items():
            put("log_likelihood", name, seen.log_p)
    fresh = programs.sites(pair.model, args, num_samples=size, uncondition=True)
    for name in predicted.data:
        put("prior_predictive", names[name], fresh[name].value)
    for name in z:
        put("prior", name, fresh[name].value)


def _tree(groups: dict[str, dict[str, Tensor]], x: Tensor, y: Tensor | None, chains: int, about: dict[str, Any]) -> Any:
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
