"""Data drawn from a model, in the form that the pair takes: each observed site is written to its place in x."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..common.errors import UserError
from ..common.fields import X, device_of, each, filled, leaves, named, num_data, rows
from ..data.convert import labels
from . import programs, trace
from .inputs import Needs, device_and_dtype, everything, to_device
from .kinds import mean_of
from .lineage import Lineage
from .programs import TracedSite
from .trace import call_args


class Simulation(NamedTuple):
    """A model that was run without conditioning on data.

    Attributes:
        sites: all of its sites, by name.
        data: those of its sites that observe data in a conditioned run; in the order of the model.
        x: the data that it was run on, (n, ...), which show the place of each site; None where the model needs none.
        kept: whether what the sites do not draw (masks, lengths, covariates) is kept from x.
    """

    sites: dict[str, TracedSite]
    data: dict[str, TracedSite]
    x: X | None
    kept: bool


def run(pair: Any, n: int, y: Tensor | None, latents: trace.Values | None = None, like: Any = None) -> Simulation:
    """Run the model of a pair under one particle, with given latents (1, n, *event), and draw what it observes.

    Raises:
        UserError: it can't run without data and the shape of an example is unknown.
    """
    shown = _like(pair, n, like)
    target = pair.model.forward if isinstance(pair.model, nn.Module) else pair.model
    names = inspect.signature(target).parameters
    free = like is None and "n" in names and "x" in names
    if shown is None and not free:
        raise UserError(
            "this model can't run without data: write model(x=None, y=None, n=1), or give the shape of an example, "
            "pv.Pair(model, guide, data_shape=(784,))"
        )
    found = None
    if free:
        found = programs.sites(pair.model, call_args(pair.model, None, y), {"n": n}, values=latents, uncondition=True)
        refuse_dependent(pair.model, call_args(pair.model, None, y), {"n": n}, found)
        if "x" in found and (shown is None or torch.is_tensor(shown)) and not _several(pair):
            return Simulation(found, {"x": found["x"]}, None, False)
    if shown is None:
        data = _observing_data(found or {})
        if not data:
            raise UserError(
                'the model has no site for the data: write pyro.sample("x", ..., obs=x), or use the pair on data '
                "first (fit, log_likelihood), which show the sites that observe them"
            )
        return Simulation(found or {}, data, None, False)
    values = latents if found is None else {name: d.value for name, d in found.items() if not d.is_observed}
    at = programs.sites(pair.model, call_args(pair.model, shown, y), values=values, uncondition=True)
    places = _observing_data(at)
    if found is None:
        refuse_dependent(pair.model, call_args(pair.model, shown, y), {}, at)
        return Simulation(at, places, shown, like is not None)
    data = {name: replace(found[name], given=d.given) for name, d in places.items() if name in found}
    return Simulation(found, data, shown, False)


def rerun(sites: dict[str, TracedSite], x: X) -> Simulation:
    """The sites of a model that was run on data x, unconditioned, as a Simulation."""
    return Simulation(sites, _observing_data(sites), x, False)


def _observing_data(sites: dict[str, TracedSite]) -> dict[str, TracedSite]:
    """The sites that observe data, and not labels."""
    return {name: d for name, d in sites.items() if d.is_observed and not d.kept}


def refuse_dependent(
    model: Any, args: tuple[Any, ...], kwargs: dict[str, Any], sites: dict[str, TracedSite], inside: bool = False
) -> None:
    """Refuse labels that the model observes given other draws: those are then not draws given the labels.

    Raises:
        UserError: names the site of the labels, and what it depends on.
    """
    if not any(d.kept for d in sites.values()):
        return
    drawn = {name: d.value.clone() for name, d in sites.items() if not d.kept}
    with Lineage(drawn) as lineage:
        again = programs.sites(model, args, kwargs, values=drawn, uncondition=True, inside=inside)
        above = {n: lineage.of(d.fn.log_prob(d.value)) & set(drawn) for n, d in again.items() if d.kept}
    for name, names in above.items():
        if names:
            raise UserError(
                f"site {name!r} observes the labels and depends on {', '.join(map(repr, sorted(names)))}, so that "
                f"a run of the model draws nothing given them: leave y out"
            )


def _several(pair: Any) -> bool:
    return isinstance(getattr(pair, "num_observed", None), int) and pair.num_observed > 1


def _like(pair: Any, n: int, like: Any) -> X | None:
    """Data to run a model on: rows of ``like``, repeated, or zeros of the form of the pair's first data."""
    if like is not None:
        x, _ = everything(pair, like)
        x, _ = to_device(pair, rows(x, torch.arange(n, device=device_of(x)) % num_data(x)))
        return each(lambda t: t.clone(memory_format=torch.contiguous_format), x)
    device, dtype = device_and_dtype(pair)
    template = getattr(pair, "template", None)
    if template is not None:
        return each(
            lambda t: torch.zeros(n, *t.shape[1:], device=device, dtype=dtype if t.is_floating_point() else t.dtype),
            template,
        )
    if pair.data_shape is None:
        return None
    shape = pair.data_shape
    if isinstance(shape, dict):
        return {name: torch.zeros(n, *field, device=device, dtype=dtype) for name, field in shape.items()}
    return torch.zeros(n, *shape, device=device, dtype=dtype)


def remember(pair: Any, x: X, observed: dict[str, Any], y: Tensor | None) -> None:
    """Record the form of the data with a pair, so that it can be sampled in that form.

    The same form is not recorded again: a graph is made anew where an attribute of its modules changed.
    """
    if not hasattr(pair, "template"):
        return
    if pair.template is None or _form(pair.template) != _form(x):
        pair.template = each(lambda t: t[:0].cpu(), x)
    pair.num_observed = sum(not (y is not None and s.value.shape == y.shape) for s in observed.values())


def _form(x: X) -> Any:
    return each(lambda t: (t.shape[1:], t.dtype), x)


def value_of(draw: TracedSite) -> Tensor:
    """The draw of a site, (n, *event)."""
    return draw.value[0]


def mean_or_value(draw: TracedSite) -> Tensor:
    """The mean of a site, (n, *event), or its draw where there is no mean."""
    mean = mean_of(draw.fn)
    return (draw.value if mean is None else mean.expand(draw.value.shape))[0]


def assembled(drawn: Simulation, what: Callable[[TracedSite], Tensor], whole: bool = False) -> X:
    """The data of a run, in the form that the pair takes; by site where the sites do not cover x.

    Args:
        drawn: the run.
        what: the tensor (n, *event) of a site.
        whole: refuse draws that do not cover x.

    Raises:
        UserError: ``whole``, and the model does not draw all of x.
    """
    values = {name: what(d) for name, d in drawn.data.items()}
    if drawn.x is None:
        return next(iter(values.values())) if len(values) == 1 else values
    shown = leaves(drawn.x)
    floating = next((v.dtype for v in values.values() if v.is_floating_point()), torch.get_default_dtype())
    out = []
    covers = []
    for leaf in shown:
        sites = [n for n in values if _leaf(drawn.data[n], shown) is leaf]
        wide = any(values[n].is_floating_point() for n in sites) and not leaf.is_floating_point()
        target = leaf.to(floating) if wide else leaf.clone()
        covered = torch.zeros_like(leaf, dtype=torch.bool)
        for name in sites:
            _into(target, drawn.data[name], leaf).copy_(values[name])
            _into(covered, drawn.data[name], leaf).fill_(True)
        if leaf.is_floating_point() and drawn.kept:
            target = torch.where(leaf.isnan(), leaf, target)
        out.append(target)
        covers.append(bool(covered.all()))
    lost = [name for name, d in drawn.data.items() if _leaf(d, shown) is None]
    if not lost and (drawn.kept or all(covers)):
        return filled(drawn.x, iter(out))
    if whole:
        missing = [name for (name, _), full in zip(named(drawn.x), covers, strict=True) if not full]
        found, fix = f"the model does not draw all of {', '.join(missing)}", "give like=, data that have the rest"
        if lost:
            found, fix = f"site {lost[0]!r} observes a function of x, not a part of it", "observe x itself"
        raise UserError(f"the pair can't be run on what it draws: {found}; {fix}")
    if len(values) == 1:
        return next(iter(values.values()))
    return values


def _leaf(draw: TracedSite, shown: list[Tensor]) -> Tensor | None:
    """The tensor of x of which a site observes a part, or all in another dtype."""
    given = draw.given
    if given is None:
        return None
    for leaf in shown:
        if given.untyped_storage().data_ptr() == leaf.untyped_storage().data_ptr():
            return leaf
    same_shape = [leaf for leaf in shown if leaf.shape == given.shape]
    return same_shape[0] if len(same_shape) == 1 else None


def _into(target: Tensor, draw: TracedSite, leaf: Tensor) -> Tensor:
    """The part of ``target``, which is laid out like ``leaf``, that a site observes."""
    given = draw.given
    assert given is not None
    if given.untyped_storage().data_ptr() != leaf.untyped_storage().data_ptr():
        return target
    return target.as_strided(given.size(), given.stride(), given.storage_offset() - leaf.storage_offset())


def simulate(pair: Any, n: int, y: Tensor | None = None, like: Any = None) -> tuple[X, dict[str, Tensor]]:
    """Draw n examples from the model together with their latents: x as the pair takes it, and (1, n, *event) by site.

    Given its x, each z is an exact draw from the posterior. Draws from torch's global generators.

    Raises:
        UserError: the model does not draw all that the pair takes, and ``like`` does not give the rest; or it scores
            an example by another density than that which it drew it from.
    """
    drawn = run(pair, n, y, None, like)
    x = assembled(drawn, value_of, whole=True)
    _refuse_another_density(pair, drawn, x, y)
    return x, {name: d.value for name, d in drawn.sites.items() if name not in drawn.data and not d.is_observed}


def _refuse_another_density(pair: Any, drawn: Simulation, x: X, y: Tensor | None) -> None:
    """Refuse a model that takes something from the data that it scores, and something else where it draws them.

    Raises:
        UserError: names the site.
    """
    latents = {name: d.value for name, d in drawn.sites.items() if not d.is_observed and name not in drawn.data}
    if len(latents) + len(drawn.data) < len(drawn.sites):  # a class that is given where data are drawn is a latent else
        return
    scored = programs.sites(pair.model, call_args(pair.model, x, y), values=latents)
    for name in drawn.data.keys() & scored.keys():
        value = scored[name].value  # with the gaps of x, where it has any
        one, other = (site.fn.log_prob(value) for site in (drawn.data[name], scored[name]))
        if not torch.allclose(one, other, rtol=1e-3, atol=1e-3, equal_nan=True):
            raise UserError(
                f"site {name!r} scores an example by another density than that which it was drawn from: the model "
                f"takes something from x itself, such as its total, so what it draws says nothing on this density"
            )


def check_labels(pair: Any, n: int, y: Any, name: str = "n") -> Tensor | None:
    """Labels for n examples to draw, on the device of the pair.

    Raises:
        DataError: a label that is not known, or no class of the pair.
        UserError: n is not a whole number of at least one.
    """
    if isinstance(n, bool) or int(n) != n or n < 1:
        raise UserError(f"{name}={n}: draw at least one, a whole number")
    if y is None:
        return None
    found = labels(y, int(n), device=device_and_dtype(pair)[0])
    found = Needs(pair, missing=False)(torch.zeros(int(n)), found)[1]
    assert found is not None
    return found.to(device_and_dtype(pair)[1]) if found.is_floating_point() else found
