"""Variational autoencoders as Pyro programs, and a log-likelihood that you can believe.

Names are loaded when they are first used, so that ``import ppl_vae`` is quick and changes no global setting.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_NAMES = {
    "ppl_vae.annealed": ("ais", "bdmc"),
    "ppl_vae.check": ("check_pair",),
    "ppl_vae.checkpoint": ("load", "save"),
    "ppl_vae.codec": ("compress", "decompress"),
    "ppl_vae.compare": ("compare",),
    "ppl_vae.diagnostics": ("ess", "khat_threshold", "min_samples", "pareto_khat"),
    "ppl_vae.data": ("Batches", "Data", "Split", "load_data", "load_split"),
    "ppl_vae.draws": ("Encoding", "decode", "encode", "reconstruct", "sample"),
    "ppl_vae.errors": ("DataError", "NonFiniteError", "PairError", "RankError", "RunError", "UserError"),
    "ppl_vae.estimate": ("Curve", "Estimate", "bound_curve", "log_likelihood", "log_weights"),
    "ppl_vae.fit": ("fit",),
    "ppl_vae.interop": ("to_arviz",),
    "ppl_vae.mdl": ("DescriptionLength", "description_length"),
    "ppl_vae.objectives": ("IWAE", "Elbo", "MeanField", "Objective", "objective"),
    "ppl_vae.pairs.base": ("Pair", "build"),
    "ppl_vae.panel": ("Panel", "panel"),
    "ppl_vae.posterior": ("Posterior", "posterior"),
    "ppl_vae.sandwich": ("Sandwich", "eubo"),
    "ppl_vae.svi": ("SVI",),
    "ppl_vae.weights": ("Site", "Terms", "log_joint", "terms"),
}
_WHERE = {name: module for module, names in _NAMES.items() for name in names}

_FILES = {
    "checkpoint", "data", "diagnostics", "draws", "estimate", "estimators", "figures", "files", "likelihoods",
    "networks", "objectives", "pairs", "proposals", "ranks", "rng", "svi", "weights",
}  # fmt: skip

__all__ = [*sorted(_WHERE), "__version__"]

if TYPE_CHECKING:
    from .annealed import ais as ais
    from .annealed import bdmc as bdmc
    from .check import check_pair as check_pair
    from .checkpoint import load as load
    from .checkpoint import save as save
    from .codec import compress as compress
    from .codec import decompress as decompress
    from .compare import compare as compare
    from .data import Batches as Batches
    from .data import Data as Data
    from .data import Split as Split
    from .data import load_data as load_data
    from .data import load_split as load_split
    from .diagnostics import ess as ess
    from .diagnostics import khat_threshold as khat_threshold
    from .diagnostics import min_samples as min_samples
    from .diagnostics import pareto_khat as pareto_khat
    from .draws import Encoding as Encoding
    from .draws import decode as decode
    from .draws import encode as encode
    from .draws import reconstruct as reconstruct
    from .draws import sample as sample
    from .errors import DataError as DataError
    from .errors import NonFiniteError as NonFiniteError
    from .errors import PairError as PairError
    from .errors import RankError as RankError
    from .errors import RunError as RunError
    from .errors import UserError as UserError
    from .estimate import Curve as Curve
    from .estimate import Estimate as Estimate
    from .estimate import bound_curve as bound_curve
    from .estimate import log_likelihood as log_likelihood
    from .estimate import log_weights as log_weights
    from .fit import fit as fit
    from .interop import to_arviz as to_arviz
    from .mdl import DescriptionLength as DescriptionLength
    from .mdl import description_length as description_length
    from .objectives import IWAE as IWAE
    from .objectives import Elbo as Elbo
    from .objectives import MeanField as MeanField
    from .objectives import Objective as Objective
    from .objectives import objective as objective
    from .pairs.base import Pair as Pair
    from .pairs.base import build as build
    from .panel import Panel as Panel
    from .panel import panel as panel
    from .posterior import Posterior as Posterior
    from .posterior import posterior as posterior
    from .sandwich import Sandwich as Sandwich
    from .sandwich import eubo as eubo
    from .svi import SVI as SVI
    from .weights import Site as Site
    from .weights import Terms as Terms
    from .weights import log_joint as log_joint
    from .weights import terms as terms


class _Package(ModuleType):
    """Loads names when they are asked for; ``fit`` and ``compare`` stay functions beside the files of that name."""

    def __getattr__(self, name: str) -> Any:
        if name in _WHERE:
            return getattr(importlib.import_module(_WHERE[name]), name)
        if name in _FILES:  # pv.figures, pv.objectives ... need no import of their own
            return importlib.import_module(f"ppl_vae.{name}")
        raise AttributeError(f"module 'ppl_vae' has no attribute {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        # importing ppl_vae.fit makes Python set the attribute "fit" to the file
        super().__setattr__(name, getattr(value, name) if name in _WHERE and isinstance(value, ModuleType) else value)

    def __dir__(self) -> list[str]:
        return __all__


sys.modules[__name__].__class__ = _Package
