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
    # name: (which side of log p(x) it lies on in expectation, when to use it)
    "elbo": ("lower", "the mean log weight: use it to compare with a training loss"),
    "iwae": ("lower", "the log of the mean weight, the K-sample bound: use it for the number that is reported"),
    "psis": ("neither", "the same with the largest weights smoothed by a Pareto law: use it where their tail is heavy"),
    "jvi1": ("neither", "the K-sample bound less its bias of order 1/K, by the jackknife: use it where K is small"),
    "jvi2": ("neither", "the same to order 1/K^2, for K <= 1000: use it where K is very small"),
    "cubo": ("upper", "the chi-square bound, estimated with a downward bias: use it where Pareto k is below 1/4"),
}

PROPOSALS: dict[str, tuple[str, str]] = {
    # name: (the side of the K-sample bound under it, when to use it)
    "guide": ("lower", "draws from the guide: use it where Pareto k is good"),
    "prior": ("lower", "draws from the prior: use it to see what the guide is worth"),
    "defensive": ("lower", "a tenth of the draws from the prior, so weights are bounded: use it under a narrow guide"),
    "tempered": ("lower", "draws from the guide made wider: use it where the guide is somewhat too narrow"),
    "qmc": ("lower", "quasi-random draws from the guide: use it for a smaller Monte Carlo error"),
}

# what a row of a panel may be called: an estimator, the K-sample bound under another proposal, or annealing
ROWS: dict[str, tuple[str, str]] = {
    **ESTIMATORS,
    **{name: facts for name, facts in PROPOSALS.items() if name != "guide"},
    "ais": ("lower", "annealed importance sampling from the guide with HMC, slow: use it where Pareto k is bad"),
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
