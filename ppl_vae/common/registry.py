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

GUIDES: dict[str, tuple[str, str]] = {
    # name: (module:family, use when)
    "diagonal": ("ppl_vae.guides.diagonal:Diagonal", "the usual one: independent Gaussians, cheap and stable"),
    "full": ("ppl_vae.guides.full:Full", "the posterior is correlated: a Gaussian with every covariance"),
    "flow": ("ppl_vae.guides.flow:Flow", "the posterior is skewed or curved: a spline flow of zuko (extra: flows)"),
    "mixture": ("ppl_vae.guides.mixture:Mixture", "the posterior has several modes: a mixture of diagonal Gaussians"),
}

LIKELIHOODS: dict[str, tuple[str, str]] = {
    "bernoulli": ("ppl_vae.nn.likelihoods:Bernoulli", "x is 0 or 1"),
    "gaussian": ("ppl_vae.nn.likelihoods:Gaussian", "x is real and its noise is known: sigma is fixed"),
    "gaussian_learned": (
        "ppl_vae.nn.likelihoods:GaussianLearned",
        "x is real: one sigma is learned for all coordinates",
    ),
    "gaussian_diagonal": (
        "ppl_vae.nn.likelihoods:GaussianDiagonal",
        "x is real: a sigma is learned for each coordinate",
    ),
    "gaussian_network": ("ppl_vae.nn.likelihoods:GaussianNetwork", "x is real and its noise depends on z"),
    "continuous_bernoulli": ("ppl_vae.nn.likelihoods:ContinuousBernoulli", "x lies in [0, 1]"),
    "poisson": ("ppl_vae.nn.likelihoods:Poisson", "x is counts"),
    "negative_binomial": ("ppl_vae.nn.likelihoods:NegativeBinomial", "x is counts that spread more than Poisson's"),
    "discretized": ("ppl_vae.nn.likelihoods:Discretized", "x is 8-bit pixels: the exact probability of the integers"),
}

NETWORKS: dict[str, tuple[str, str]] = {
    "mlp": ("ppl_vae.nn.networks:mlp", "data of any shape: hidden holds the widths of the layers"),
    "conv": (
        "ppl_vae.nn.networks:conv",
        "series, images and volumes: hidden holds channels, each layer halves the sizes",
    ),
    "resnet": ("ppl_vae.nn.networks:resnet", "the same with residual blocks: deeper, for images with much structure"),
    "conv1d": ("ppl_vae.nn.networks:conv1d", "the same over the last dimension"),
    "conv2d": ("ppl_vae.nn.networks:conv2d", "the same over the last two dimensions"),
    "conv3d": ("ppl_vae.nn.networks:conv3d", "the same over the last three dimensions"),
}

ACTIVATIONS: dict[str, tuple[str, str]] = {
    "tanh": ("torch.nn.modules.activation:Tanh", "bounded: what the reference results use"),
    "relu": ("torch.nn.modules.activation:ReLU", "deep and convolutional networks"),
    "gelu": ("torch.nn.modules.activation:GELU", "a smooth relu"),
    "silu": ("torch.nn.modules.activation:SiLU", "a smooth relu"),
    "softplus": ("torch.nn.modules.activation:Softplus", "a smooth relu that is monotone"),
    "leaky_relu": ("torch.nn.modules.activation:LeakyReLU", "a relu whose units do not die"),
}

TABLES = {"guide": GUIDES, "likelihood": LIKELIHOODS, "network": NETWORKS, "activation": ACTIVATIONS}

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
