"""check_pair: try a pair on three examples with two particles, and say what breaks the contract."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pyro
import torch
from pyro.infer import ELBO
from torch import Tensor

from ..common.entry import failing
from ..common.errors import DataError, NonFiniteError, PairError, UserError
from ..common.fields import device_of, each, num_data, rows
from ..common.rng import forked
from ..data.batches import Feed, TensorFeed
from ..data.splits import Split
from ..objectives.base import Objective
from ..objectives.elbo import Elbo
from ..objectives.names import ours
from ..pairs.base import Pair
from ..scoring import observed, programs, terms
from ..scoring.coverage import refuse_foreign
from ..scoring.inputs import as_pair, evaluating, everything, modes_kept, to_device
from ..scoring.kinds import kind, title
from ..scoring.param_store import Program, own_store, unmoved
from ..scoring.programs import TracedSite
from ..scoring.quantity import refuse_binarised
from ..scoring.simulate import remember
from ..scoring.terms import Terms
from ..scoring.trace import call_args, takes_labels
from ..scoring.validity import refuse_missing, refuse_outside, refuse_support


def check_pair(
    model: Program, guide: Program, x: Tensor, y: Tensor | None = None, *, objective: ELBO | None = None
) -> None:
    """Try a pair on three examples with two particles and raise one error that says what to write instead.

    Looks for latent names that do not match, a model that observes nothing, a site that is not (particles, data),
    plates other than one unscaled ``pyro.plate("data", B, dim=-1)``, a latent outside it, a guide without
    ``rsample`` under a pathwise objective, a guide whose support exceeds the model's, data outside the likelihood's,
    and NaN, naming the site. Changes no parameter and no generator.

    Args:
        model: ``model(x, y)``.
        guide: ``guide(x, y)``.
        x: data (N, *shape); the first three are used.
        y: labels (N,), for pairs that take them.
        objective: what the pair will be trained on; None takes the ELBO.

    Raises:
        PairError: the contract is broken; names the site, what was found and what to write.
        DataError: x lies outside the support of the likelihood.
        NonFiniteError: a site scores NaN or an infinity.

    Example:
        >>> import torch, ppl_vae as pv
        >>> pair = pv.build("vae", data_shape=(1, 8, 8), latent=2, hidden=(16,))
        >>> pv.check_pair(pair.model, pair.guide, torch.zeros(3, 1, 8, 8))
    """
    pair = as_pair(model, guide)
    x, y = everything(pair, x, y)
    three = slice(3) if num_data(x) >= 3 else torch.arange(3, device=device_of(x)) % num_data(x)
    x, y = to_device(pair, rows(x, three), None if y is None else y[three])
    if y is not None and takes_labels(model) != takes_labels(guide):
        have, lack = ("model", "guide") if takes_labels(model) else ("guide", "model")
        raise PairError(f"the {have} takes labels and the {lack} does not; write {lack}(x, y=None)")
    with unmoved(model, guide), forked(device_of(x)), torch.no_grad(), pyro.validation_enabled(False):
        guide_sites = _run("guide", guide, x, y, None)
        drawn = {name: site for name, site in guide_sites.items() if not site.is_observed}
        _check_plates(drawn, num_data(x))  # a factor may be outside
        model_sites = _run("model", model, x, y, {name: site.value for name, site in drawn.items()})
        _check_plates(model_sites, num_data(x))
        for name in set(drawn) & set(model_sites):  # before an index out of range in a table
            if kind(drawn[name].fn) != "Delta" and not model_sites[name].is_observed:
                refuse_foreign(name, drawn[name].fn, model_sites[name].fn, cover=False, zeros=False)
        t = terms.terms(model, guide, x, y, num_samples=2)
        refuse_missing(t)
        refuse_support(t)  # before the values: a latent of the wrong sign gives NaN later
        report = nonfinite_site(t)
        if report is not None and "-inf" not in report:  # -inf may be data outside the support, named below
            raise NonFiniteError(report)
        refuse_outside(t)
        if report is not None:
            raise NonFiniteError(report)
    loss = ours(objective) if objective is not None else Elbo()
    if loss is not None:
        _check_objective(loss, model, guide, x, y)


def check_data(pair: Pair, source: Feed, loss: Any, device: torch.device) -> None:
    """Check a pair on three examples, and the data (a loader's first batch) against the likelihood's support.

    Raises:
        PairError, DataError, NonFiniteError: see :func:`check_pair`.
    """
    if isinstance(source, TensorFeed):
        split = source.split
        few = split.limit(min(3, len(split)))
    else:
        batch = next(source.visits(0, 0), None)
        if batch is None:
            raise DataError("the loader gave no batch")
        few = split = Split(*batch.rows(), binarize=source.binarize, name="of the loader")
    refuse_binarised(pair, split)
    few = few.fixed().to(device)
    x, y = few.x, few.y
    with modes_kept(pair):
        pair.train()  # a pair may draw by another distribution in training, such as one that has rsample
        check_pair(pair.model, pair.guide, x, y, objective=loss)
    with evaluating(pair), pyro.validation_enabled(False):
        t = terms.terms(pair.model, pair.guide, x, y)
        refuse_outside(t)
        remember(pair, x, t.observed, y)
        if isinstance(source, TensorFeed) and source.binarize == "none":
            alone = all(observed.alone(site, x) for site in t.observed.values())
            for start in range(0, len(split), 4096):
                part = each(lambda t: t.to(device), rows(split.x, slice(start, start + 4096)))
                labels = None if split.y is None else split.y[start : start + 4096].to(device)
                if alone and not bool(part.isnan().any()):
                    found = {name: replace(site, value=part) for name, site in t.observed.items()}
                    refuse_outside(replace(t, observed=found), start)
                else:
                    refuse_outside(terms.terms(pair.model, pair.guide, part, labels), start)


def nonfinite_site(t: Terms) -> str | None:
    """The first site whose value or score is not finite, as a message; None where all are."""
    for name, site in (*t.sites.items(), *t.observed.items()):
        parts = (("value", site.value), ("log density", site.log_p), ("log q", site.log_q))
        for what, values in parts if name in t.sites else parts[1:]:  # a missing entry of the data is refused elsewhere
            if torch.is_tensor(values) and values.is_floating_point():
                bad = torch.nonzero(~torch.isfinite(values))
                if len(bad):
                    example = int(bad[0][1 if (values.dim() > 1 and what != "value") or name in t.sites else 0])
                    found = float(values.detach()[tuple(bad[0])])
                    return (
                        f"site {name!r}: the {what} is {found} (example {example} of the batch, "
                        f"{title(site.q if site.q is not None else site.p)}); keep scales away from 0 and inputs finite"
                    )
    return None


def _run(
    role: str, program: Program, x: Tensor, y: Tensor | None, values: Mapping[str, Tensor] | None
) -> dict[str, TracedSite]:
    """Run one program; an error inside names its role."""
    try:
        return programs.sites(program, call_args(program, x, y), num_samples=2, values=values)
    except UserError:
        raise
    except Exception as error:  # whatever a user's program raises
        raise PairError(failing(program, call_args(program, x, y), error, f"the {role}")) from error


def _check_plates(sites: Mapping[str, TracedSite], num_data: int) -> None:
    for name, site in sites.items():
        frames = [f for f in site.frames if f.vectorized]
        if not frames:
            what = "observed" if site.is_observed else "a global latent"
            raise PairError(
                f'site {name!r} is {what} outside the data plate; move it inside pyro.plate("data", B, dim=-1), '
                f"or make it a parameter"
            )
        if len(frames) > 1 or frames[0].dim != -1:
            found = ", ".join(f"{f.name!r} at dim {f.dim}" for f in frames)
            raise PairError(
                f"site {name!r} is under the plates {found}; open exactly one, "
                f'pyro.plate("data", B, dim=-1), and declare other dimensions with .to_event'
            )
        if torch.is_tensor(site.scale) or site.scale != 1.0:
            raise PairError(
                f"site {name!r} is scaled by {float(site.scale):g}; open the data plate without a subsample size "
                f"and without poutine.scale: losses are sums over the batch"
            )
        if frames[0].size != num_data:
            raise PairError(
                f"site {name!r} is in a plate of size {frames[0].size} for {num_data} examples; write "
                f'pyro.plate("data", x.shape[0], dim=-1)'
            )
        shape = tuple(site.fn.batch_shape)
        if shape != (2, num_data):
            raise PairError(
                f"site {name!r} has batch shape {shape} where (particles, data) = (2, {num_data}) is needed; "
                f"declare the dimensions of one example with .to_event"
            )


def _check_objective(loss: Objective, model: Program, guide: Program, x: Tensor, y: Tensor | None) -> None:
    with unmoved(model, guide), forked(device_of(x)), own_store(), pyro.validation_enabled(False), torch.enable_grad():
        loss.differentiable_loss(model, guide, *call_args(model, x, y))
