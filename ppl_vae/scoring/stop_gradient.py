"""Stopping the guide's parameters in log q: a second pass of the guide, gates on the draws, and its limits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pyro.infer.util import is_validation_enabled
from torch import Tensor

from ..common.errors import PairError
from .kinds import has_mask, kind, unscorable


def gated(value: Tensor, gate: list[Tensor | None]) -> Tensor:
    """A copy of a draw, for the scores alone: the next sites are sampled given the draw itself."""
    copy = value.clone()  # also without gradients: some distributions cache the scores of their draws
    if not value.requires_grad:
        return copy

    def weigh(g: Tensor) -> Tensor:
        factor = gate[0]
        return g if factor is None else g * factor.reshape(factor.shape + (1,) * (g.dim() - 2)).to(g.dtype)

    copy.register_hook(weigh)
    return copy


def guide_parts(sites: Mapping[str, Any]) -> dict[str, Any]:
    """log q, its score-function part and its pathwise part, by site."""
    found: dict[str, Any] = {}
    for name, q in sites.items():
        try:
            parts = q["fn"].score_parts(q["value"], *q["args"], **q["kwargs"])
        except (KeyError, NotImplementedError) as error:
            raise PairError(unscorable(name, q["fn"], q["value"])) from error
        found[name] = parts.scale_and_mask(1.0, q["mask"])
    return found


def refuse(site: Any) -> None:
    """Refuse a site where stopping the guide's parameters in log q would give another gradient than intended."""
    name, fn = site["name"], site["fn"]
    what = {
        f"{kind(fn)} has no rsample": not fn.has_rsample,
        "a Delta has no score to stop": kind(fn) == "Delta",
        "it is auxiliary": site["infer"].get("is_auxiliary"),
        "it is masked": site["mask"] is not None or has_mask(fn),
        f"{kind(fn)} is only approximately reparameterised": hasattr(site["value"], "_unquantize"),
    }
    for reason, holds in what.items():
        if holds:
            raise PairError(
                f"site {name!r}: the gradients 'stl' and 'dreg' are wrong here, since {reason}; use "
                f"gradient='path', or score, vimco or rws where latents are discrete"
            )


def check(latents: Mapping[str, Any], parts: Mapping[str, Any], values: Mapping[str, Tensor]) -> None:
    """Refuse passes of the guide that differ, and a second one that depends on parameters other than through draws."""
    ends = {v.grad_fn for v in values.values() if v.grad_fn is not None}
    todo = [p.log_prob.grad_fn for p in parts.values() if p.log_prob.grad_fn is not None]
    seen = set(todo)
    while todo:
        node = todo.pop()
        if hasattr(node, "variable"):
            raise PairError(
                "the gradients 'stl' and 'dreg' stop the guide's parameters in log q, and one could not be found to "
                "stop; pass the guide as a module, or declare its parameters with pyro.module or pyro.param"
            )
        for following, _ in node.next_functions:
            if following is not None and following not in seen and following not in ends:
                seen.add(following)
                todo.append(following)
    if is_validation_enabled():  # in the first step of a fit only
        with torch.no_grad():
            for name, first in guide_parts(latents).items():
                if not torch.allclose(first.log_prob, parts[name].log_prob, rtol=1e-3, atol=1e-3):
                    raise PairError(
                        f"site {name!r}: the gradients 'stl' and 'dreg' run the guide twice, and the second pass gives "
                        f"another log q; take the noise (dropout?) out of the guide, or use gradient='path'"
                    )
