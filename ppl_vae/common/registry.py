"""What has a name: pairs, objectives, data sets. Strings only, so that --help and list need no torch."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from .errors import UserError

PAIRS: dict[str, tuple[str, str]] = {
    # name: (module:function, summary)
    "vae": ("ppl_vae.pairs.vae:vae", "standard normal prior, MLP or convolutional networks, any likelihood"),
    "linear": ("ppl_vae.pairs.linear:linear", "probabilistic PCA, with its exact evidence and posterior"),
    "cvae": ("ppl_vae.pairs.cvae:cvae", "labels in the model and in the guide"),
    "hierarchical": ("ppl_vae.pairs.hierarchical:hierarchical", "two latent layers z2 -> z1 -> x"),
    "autoencoder": ("ppl_vae.pairs.autoencoder:autoencoder", "a deterministic code: no density, no log p(x)"),
    "made": ("ppl_vae.pairs.made:made", "autoregressive, no latents: log p(x) is exact"),
}

OBJECTIVES: dict[str, tuple[str, str]] = {
    "elbo": ("ppl_vae.objectives.elbo:Elbo", "the evidence lower bound (Trace_ELBO)"),
    "analytic_kl": (
        "ppl_vae.objectives.analytic_kl:AnalyticKL",
        "the ELBO with the KL in closed form (TraceMeanField_ELBO)",
    ),
    "iwae": ("ppl_vae.objectives.iwae:IWAE", "the importance-weighted bound with num_particles samples"),
}

FORMER = {"meanfield": "analytic_kl"}  # names that are still accepted

ESTIMATORS: dict[str, tuple[str, str]] = {
    # name: (which side of log p(x) it lies on in expectation, summary)
    "elbo": ("lower", "the mean log weight"),
    "iwae": ("lower", "the log of the mean weight: the K-sample bound"),
    "psis": ("neither", "the same with the largest weights smoothed by a Pareto law"),
    "jvi1": ("neither", "the K-sample bound less its bias of order 1/K, by the jackknife"),
    "jvi2": ("neither", "the same to order 1/K^2; K <= 1000"),
    "cubo": ("upper", "the chi-square bound; its own estimate is biased downwards"),
    "prior": ("lower", "the K-sample bound with draws from the prior"),
    "defensive": ("lower", "the K-sample bound, a tenth of the draws from the prior: bounded weights"),
    "tempered": ("lower", "the K-sample bound with the guide made wider"),
    "qmc": ("lower", "the K-sample bound with quasi-random draws from the guide"),
    "ais": ("lower", "annealed importance sampling from the guide with HMC; slow"),
}

DATASETS: dict[str, str] = {
    "digits": "handwritten digits, 1 x 8 x 8 (1,797; from scikit-learn, no download)",
    "mnist": "handwritten digits, 1 x 28 x 28 (60,000 and 10,000)",
    "fashion_mnist": "articles of clothing, 1 x 28 x 28 (60,000 and 10,000)",
    "kmnist": "cursive Japanese characters, 1 x 28 x 28 (60,000 and 10,000)",
    "omniglot": "characters of 50 alphabets, 1 x 28 x 28 (19,280 and 13,180)",
    "cifar10": "photographs of 10 classes, 3 x 32 x 32 (50,000 and 10,000)",
}


def resolve(what: str, name: str, table: Mapping[str, tuple[str, str]]) -> Any:
    """The object that a name of a table stands for.

    Raises:
        UserError: the table has no such name; lists the names that it has.

    Example:
        >>> resolve("objective", "iwae", OBJECTIVES).__name__
        'IWAE'
    """
    name = FORMER.get(name, name)
    if name not in table:
        raise UserError(f"{what} {name!r} is not known; choose one of {', '.join(table)}")
    module, attribute = table[name][0].split(":")
    return getattr(importlib.import_module(module), attribute)
