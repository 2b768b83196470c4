"""Variational autoencoders as Pyro programs, and a log-likelihood that you can believe.

Names are loaded when they are first used, so that ``import ppl_vae`` is quick and changes no global setting.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_NAMES = {
    "common.errors": ("DataError", "NonFiniteError", "PairError", "RankError", "RunError", "UserError"),
    "compression.codec": ("compress", "decompress"),
    "compression.description_length": ("DescriptionLength", "description_length"),
    "data.epochs": ("Batches",),
    "data.on_disk": ("OnDisk",),
    "data.sets": ("load_data", "load_split"),
    "data.splits": ("Data", "Split"),
    "draws.arviz": ("to_arviz",),
    "draws.calibration": ("Calibration",),
    "draws.codes": ("Codes", "codes", "direction", "moved"),
    "draws.disentangling": ("DCI", "dci", "mig"),
    "draws.error_bounds": ("ErrorBounds", "error_bounds"),
    "draws.generation": ("Encoding", "decode", "encode", "reconstruct", "sample"),
    "draws.posterior": ("Posterior", "posterior"),
    "draws.probe": ("Probe", "probe"),
    "draws.sbc": ("sbc",),
    "likelihood.annealing": ("ais", "bdmc"),
    "likelihood.bounds": ("eubo",),
    "likelihood.diagnostics": ("ess", "khat_threshold", "min_samples", "pareto_khat"),
    "likelihood.classify": ("Classes", "classify"),
    "likelihood.curves": ("Curve", "bound_curve"),
    "likelihood.gaps": ("Gaps", "gaps"),
    "likelihood.estimate": ("log_likelihood", "log_weights"),
    "likelihood.information": ("Information", "information"),
    "likelihood.panel": ("Panel", "panel"),
    "likelihood.refine": ("refine",),
    "likelihood.result": ("Estimate",),
    "likelihood.sandwich": ("Sandwich",),
    "likelihood.scores": ("write_scores",),
    "objectives.analytic_kl": ("AnalyticKL", "MeanField"),
    "objectives.adversarial": ("Adversarial",),
    "objectives.base": ("Objective",),
    "objectives.beta_tc": ("BetaTC",),
    "objectives.ciwae": ("CIWAE",),
    "objectives.cubo": ("CUBO",),
    "objectives.elbo": ("Elbo",),
    "objectives.enumerated": ("Enumerated",),
    "objectives.groups": ("MIWAE", "PIWAE"),
    "objectives.iwae": ("IWAE",),
    "objectives.names": ("objective",),
    "objectives.one_term": ("OneTerm",),
    "objectives.renyi": ("Renyi",),
    "objectives.rws": ("RWS",),
    "objectives.score": ("Score",),
    "objectives.tvo": ("TVO",),
    "objectives.vimco": ("VIMCO",),
    "pairs.base": ("Pair", "build"),
    "runs.folder": ("load", "save"),
    "scoring.densities": ("log_joint",),
    "scoring.terms": ("Site", "Terms", "terms"),
    "strategies.compare": ("compare",),
    "strategies.results": ("Study",),
    "strategies.report": ("report",),
    "strategies.saved": ("load_study",),
    "strategies.strategy": ("Strategy", "grid"),
    "strategies.study": ("study",),
    "training.check": ("check_pair",),
    "training.config": ("FitConfig",),
    "training.history": ("History",),
    "training.loop": ("fit",),
    "training.svi": ("SVI",),
}
_MODULES = {  # pv.networks, pv.figures ... need no import of their own
    "diagnostics": "likelihood.diagnostics",
    "estimators": "likelihood.estimators",
    "figures": "figures",
    "likelihoods": "nn.likelihoods",
    "networks": "nn.networks",
    "proposals": "likelihood.proposals",
    "ranks": "common.ranks",
    "rng": "common.rng",
    "targets": "targets",
}
_WHERE = {name: module for module, names in _NAMES.items() for name in names}

__all__ = [*sorted(_WHERE), "__version__"]

if TYPE_CHECKING:
    from .common.errors import (
        DataError as DataError,
        NonFiniteError as NonFiniteError,
        PairError as PairError,
        RankError as RankError,
        RunError as RunError,
        UserError as UserError,
    )
    from .compression.codec import compress as compress, decompress as decompress
    from .compression.description_length import (
        DescriptionLength as DescriptionLength,
        description_length as description_length,
    )
    from .data.epochs import Batches as Batches
    from .data.on_disk import OnDisk as OnDisk
    from .data.sets import load_data as load_data, load_split as load_split
    from .data.splits import Data as Data, Split as Split
    from .draws.arviz import to_arviz as to_arviz
    from .draws.calibration import Calibration as Calibration
    from .draws.codes import Codes as Codes, codes as codes, direction as direction, moved as moved
    from .draws.disentangling import DCI as DCI, dci as dci, mig as mig
    from .draws.error_bounds import ErrorBounds as ErrorBounds, error_bounds as error_bounds
    from .draws.generation import (
        Encoding as Encoding,
        decode as decode,
        encode as encode,
        reconstruct as reconstruct,
        sample as sample,
    )
    from .draws.posterior import Posterior as Posterior, posterior as posterior
    from .draws.probe import Probe as Probe, probe as probe
    from .draws.sbc import sbc as sbc
    from .likelihood.annealing import ais as ais, bdmc as bdmc
    from .likelihood.bounds import eubo as eubo
    from .likelihood.classify import Classes as Classes, classify as classify
    from .likelihood.curves import Curve as Curve, bound_curve as bound_curve
    from .likelihood.diagnostics import (
        ess as ess,
        khat_threshold as khat_threshold,
        min_samples as min_samples,
        pareto_khat as pareto_khat,
    )
    from .likelihood.estimate import log_likelihood as log_likelihood, log_weights as log_weights
    from .likelihood.gaps import Gaps as Gaps, gaps as gaps
    from .likelihood.information import Information as Information, information as information
    from .likelihood.panel import Panel as Panel, panel as panel
    from .likelihood.refine import refine as refine
    from .likelihood.result import Estimate as Estimate
    from .likelihood.sandwich import Sandwich as Sandwich
    from .likelihood.scores import write_scores as write_scores
    from .objectives.adversarial import Adversarial as Adversarial
    from .objectives.analytic_kl import AnalyticKL as AnalyticKL, MeanField as MeanField
    from .objectives.base import Objective as Objective
    from .objectives.beta_tc import BetaTC as BetaTC
    from .objectives.ciwae import CIWAE as CIWAE
    from .objectives.cubo import CUBO as CUBO
    from .objectives.elbo import Elbo as Elbo
    from .objectives.enumerated import Enumerated as Enumerated
    from .objectives.groups import MIWAE as MIWAE, PIWAE as PIWAE
    from .objectives.iwae import IWAE as IWAE
    from .objectives.names import objective as objective
    from .objectives.one_term import OneTerm as OneTerm
    from .objectives.renyi import Renyi as Renyi
    from .objectives.rws import RWS as RWS
    from .objectives.score import Score as Score
    from .objectives.tvo import TVO as TVO
    from .objectives.vimco import VIMCO as VIMCO
    from .pairs.base import Pair as Pair, build as build
    from .runs.folder import load as load, save as save
    from .scoring.densities import log_joint as log_joint
    from .scoring.terms import Site as Site, Terms as Terms, terms as terms
    from .strategies.compare import compare as compare
    from .strategies.report import report as report
    from .strategies.results import Study as Study
    from .strategies.saved import load_study as load_study
    from .strategies.strategy import Strategy as Strategy, grid as grid
    from .strategies.study import study as study
    from .training.check import check_pair as check_pair
    from .training.config import FitConfig as FitConfig
    from .training.history import History as History
    from .training.loop import fit as fit
    from .training.svi import SVI as SVI


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(importlib.import_module(f"ppl_vae.{_WHERE[name]}"), name)
    if name in _MODULES:
        return importlib.import_module(f"ppl_vae.{_MODULES[name]}")
    raise AttributeError(f"module 'ppl_vae' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
