"""The tables of names, with a line on when to use each. Strings only, so that --help and list need no torch.

An entry is ``name: ("module:attribute", use when)`` where :func:`resolve` imports it, else ``name: use when``.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from importlib import metadata
from typing import Any

from .errors import UserError

GROUP = "ppl_vae.pairs"  # the entry points by which an installed package adds pairs

PAIRS: dict[str, tuple[str, str]] = {
    # name: (module:builder, use when)
    "autoencoder": ("ppl_vae.pairs.autoencoder:autoencoder", "a deterministic code: no density, no log p(x)"),
    "sparse_autoencoder": (
        "ppl_vae.pairs.sparse_autoencoder:sparse_autoencoder",
        "the same with gates, some of them open: an L0 penalty",
    ),
    "contractive_autoencoder": (
        "ppl_vae.pairs.contractive_autoencoder:contractive_autoencoder",
        "the same, insensitive to small changes of x",
    ),
    "linear": ("ppl_vae.pairs.linear:linear", "probabilistic PCA, with its exact evidence and posterior"),
    "vae": ("ppl_vae.pairs.vae:vae", "the plain case: any prior, any guide, any likelihood, MLP or convolutions"),
    "clusters": ("ppl_vae.pairs.clusters:clusters", "the data have groups: p(c | x), with some labels or none"),
    "cvae": ("ppl_vae.pairs.cvae:cvae", "labels in the model and in the guide"),
    "m2": ("ppl_vae.pairs.m2:m2", "a class and a style, where few examples have labels"),
    "classifier": ("ppl_vae.pairs.classifier:classifier", "classes given data, to compare generative pairs with"),
    "hierarchical": ("ppl_vae.pairs.hierarchical:hierarchical", "layers of latents z3 -> z2 -> z1 -> x, any number"),
    "ladder": ("ppl_vae.pairs.ladder:ladder", "the same model, its guide from the top down: train it with a warm-up"),
    "diffusion": ("ppl_vae.pairs.diffusion:diffusion", "a chain that takes noise away, under a guide that adds it"),
    "binary": ("ppl_vae.pairs.binary:binary", "latents that are bits, in layers: train it by vimco, rws, score or tvo"),
    "categorical": (
        "ppl_vae.pairs.categorical:categorical",
        "latents that are classes, relaxed in training: Gumbel-softmax",
    ),
    "vqvae": ("ppl_vae.pairs.vqvae:vqvae", "codes of a book, with a learned prior: a bound, no log p(x)"),
    "made": ("ppl_vae.pairs.made:made", "autoregressive, no latents: log p(x) is exact"),
    "pixelcnn": ("ppl_vae.pairs.pixelcnn:pixelcnn", "the same for images, by gated convolutions"),
    "transformer": ("ppl_vae.pairs.transformer:transformer", "the same by attention, over pixels or tiles"),
    "flow": (
        "ppl_vae.pairs.flow:flow",
        "an invertible network: a density, exact, or a bound for pixels (extra: flows)",
    ),
    "gan": ("ppl_vae.pairs.gan:gan", "a decoder that a critic trains: no guide, sharp samples, log p(x) by ais"),
    "counts": ("ppl_vae.pairs.counts:counts", "counts whose examples differ in size, such as cells: scVI's model"),
    "table": ("ppl_vae.pairs.table:table", "columns that are real, binary or categorical, with missing entries"),
    "views": ("ppl_vae.pairs.views:views", "several views of one thing, some of them missing: x is a dictionary"),
    "series": ("ppl_vae.pairs.series:series", "series of different lengths: a deep Markov model, with a latent a step"),
    "topics": ("ppl_vae.pairs.topics:topics", "documents as counts of words: a topic model"),
    "sentences": ("ppl_vae.pairs.sentences:sentences", "text as tokens: a recurrent network that is given z"),
}

FAMILIES: dict[str, tuple[str, ...]] = {
    # the tree of the pairs: every pair of this package in one family, in the order in which one leads to the next
    "autoencoders, without a likelihood": ("autoencoder", "sparse_autoencoder", "contractive_autoencoder"),
    "one layer of latents": ("linear", "vae", "clusters"),
    "with labels": ("cvae", "m2", "classifier"),
    "several layers of latents": ("hierarchical", "ladder", "diffusion"),
    "discrete latents": ("binary", "categorical", "vqvae"),
    "no latents": ("made", "pixelcnn", "transformer", "flow"),
    "no inference": ("gan",),
    "counts, tables, views, series, text": ("counts", "table", "views", "series", "topics", "sentences"),
}

TRAINED_BY = {  # where it is not the ELBO, unless one is given
    "m2": "enumerated",
    "diffusion": "one_term",
    "gan": "adversarial",
}

GUIDES: dict[str, tuple[str, str]] = {
    # name: (module:family, use when)
    "diagonal": ("ppl_vae.guides.diagonal:Diagonal", "the default: independent Gaussians, cheap and stable"),
    "full": ("ppl_vae.guides.full:Full", "the posterior is correlated: a Gaussian with every covariance"),
    "flow": ("ppl_vae.guides.flow:Flow", "the posterior is skewed or curved: a spline flow of zuko (extra: flows)"),
    "mixture": ("ppl_vae.guides.mixture:Mixture", "the posterior has several modes: a mixture of diagonal Gaussians"),
}

PRIORS: dict[str, tuple[str, str]] = {
    "standard": ("ppl_vae.priors.standard:StandardNormal", "the default: N(0, I), no parameters"),
    "mixture": ("ppl_vae.priors.mixture:Mixture", "the data have groups: a mixture of Gaussians"),
    "vamp": ("ppl_vae.priors.vamp:Vamp", "latents stay unused: an average of the guide over learned pseudo-inputs"),
    "flow": ("ppl_vae.priors.flow:Flow", "neither a Gaussian nor groups: a spline flow of zuko (extra: flows)"),
    "laplace": ("ppl_vae.priors.laplace:Laplace", "few latents are active for an example: an L1 penalty"),
    "fitted": (
        "ppl_vae.priors.fitted:Fitted",
        "autoencoders: a mixture of Gaussians that is fitted to the codes after training, for samples",
    ),
}

LIKELIHOODS: dict[str, tuple[str, str]] = {
    "bernoulli": ("ppl_vae.nn.likelihoods:Bernoulli", "x is 0 or 1"),
    "gaussian": ("ppl_vae.nn.likelihoods:Gaussian", "x is real and its noise is known: sigma is fixed"),
    "gaussian_learned": ("ppl_vae.nn.likelihoods:GaussianLearned", "x is real: one sigma is learned for x"),
    "gaussian_diagonal": ("ppl_vae.nn.likelihoods:GaussianDiagonal", "x is real: a sigma is learned for each number"),
    "gaussian_network": ("ppl_vae.nn.likelihoods:GaussianNetwork", "x is real and its noise depends on z"),
    "continuous_bernoulli": ("ppl_vae.nn.likelihoods:ContinuousBernoulli", "x lies in [0, 1]"),
    "poisson": ("ppl_vae.nn.likelihoods:Poisson", "x is counts"),
    "negative_binomial": ("ppl_vae.nn.likelihoods:NegativeBinomial", "x is counts that spread more than Poisson's"),
    "zero_inflated": ("ppl_vae.nn.likelihoods:ZeroInflated", "x is such counts, and zero more often than they are"),
    "discretized": ("ppl_vae.nn.likelihoods:Discretized", "x is 8-bit pixels: the exact probability of the integers"),
}

NETWORKS: dict[str, tuple[str, str]] = {
    "mlp": ("ppl_vae.nn.networks:mlp", "data of any shape: hidden holds the widths of the layers"),
    "conv": ("ppl_vae.nn.convolutions:conv", "series, images, volumes: hidden holds channels, each layer halves sizes"),
    "resnet": (
        "ppl_vae.nn.convolutions:resnet",
        "the same with residual blocks, for images with much structure",
    ),
    "conv1d": ("ppl_vae.nn.convolutions:conv1d", "the same over the last dimension"),
    "conv2d": ("ppl_vae.nn.convolutions:conv2d", "the same over the last two dimensions"),
    "conv3d": ("ppl_vae.nn.convolutions:conv3d", "the same over the last three dimensions"),
}

ACTIVATIONS: dict[str, tuple[str, str]] = {
    "tanh": ("torch.nn.modules.activation:Tanh", "bounded: what the reference results use"),
    "relu": ("torch.nn.modules.activation:ReLU", "deep and convolutional networks"),
    "gelu": ("torch.nn.modules.activation:GELU", "a smooth relu"),
    "silu": ("torch.nn.modules.activation:SiLU", "a smooth relu"),
    "softplus": ("torch.nn.modules.activation:Softplus", "a smooth relu that is monotone"),
    "leaky_relu": ("torch.nn.modules.activation:LeakyReLU", "a relu whose units do not die"),
}

OBJECTIVES: dict[str, tuple[str, str]] = {
    "elbo": ("ppl_vae.objectives.elbo:Elbo", "the one to start with: the evidence lower bound (Trace_ELBO)"),
    "analytic_kl": (
        "ppl_vae.objectives.analytic_kl:AnalyticKL",
        "for less noise: the KL in closed form (TraceMeanField_ELBO)",
    ),
    "iwae": ("ppl_vae.objectives.iwae:IWAE", "for a better model: the importance-weighted bound"),
    "renyi": ("ppl_vae.objectives.renyi:Renyi", "between elbo and iwae, by alpha: where iwae's gradient is too noisy"),
    "miwae": ("ppl_vae.objectives.groups:MIWAE", "a mean of bounds of iwae: less noise for the guide"),
    "piwae": ("ppl_vae.objectives.groups:PIWAE", "the model by iwae, the guide by miwae"),
    "ciwae": ("ppl_vae.objectives.ciwae:CIWAE", "iwae with a share of elbo, for the guide"),
    "cubo": ("ppl_vae.objectives.cubo:CUBO", "for a guide that covers the posterior: the chi-square divergence"),
    "score": ("ppl_vae.objectives.score:Score", "discrete latents: the score function with a baseline"),
    "vimco": ("ppl_vae.objectives.vimco:VIMCO", "discrete latents: the bound of iwae"),
    "rws": ("ppl_vae.objectives.rws:RWS", "discrete latents, or a guide that covers the posterior: wake-sleep"),
    "tvo": ("ppl_vae.objectives.tvo:TVO", "discrete latents: the path from the guide to the posterior"),
    "enumerated": (
        "ppl_vae.objectives.enumerated:Enumerated",
        "a guide with one class of few values: summed out exactly",
    ),
    "beta_tc": ("ppl_vae.objectives.beta_tc:BetaTC", "one factor a latent: more weight on the total correlation"),
    "one_term": ("ppl_vae.objectives.one_term:OneTerm", "diffusion: one random term of the ELBO for each example"),
    "adversarial": ("ppl_vae.objectives.adversarial:Adversarial", "gan: a decoder against a critic of its samples"),
}

TABLES = {
    "guide": GUIDES, "prior": PRIORS, "likelihood": LIKELIHOODS, "network": NETWORKS, "activation": ACTIVATIONS,
    "objective": OBJECTIVES,
}  # fmt: skip

FORMER = {"meanfield": "analytic_kl"}  # names that are still accepted

ESTIMATORS: dict[str, tuple[str, str]] = {
    # name: (which side of log p(x) it lies on in expectation, when to use it)
    "elbo": ("lower", "the mean log weight: use it to compare with a training loss"),
    "iwae": ("lower", "the log of the mean weight, the K-sample bound: use it for the reported number"),
    "psis": ("neither", "the same with the largest weights smoothed by a Pareto law: use it where their tail is heavy"),
    "jvi1": ("neither", "the K-sample bound less its bias of order 1/K, by the jackknife: use it where K is small"),
    "jvi2": ("neither", "the same to order 1/K^2, for K <= 1000: use it where K is very small"),
    "cubo": ("upper", "the chi-square bound, estimated with a downward bias: use it where Pareto k is below 1/4"),
}

PROPOSALS: dict[str, tuple[str, str]] = {
    # name: (the side of the K-sample bound under it, when to use it)
    "guide": ("lower", "draws from the guide: use it where Pareto k is good"),
    "prior": ("lower", "draws from the prior: use it to measure the gain by the guide"),
    "defensive": ("lower", "a tenth of the draws from the prior, so weights are bounded: use it under a narrow guide"),
    "tempered": ("lower", "draws from the guide made wider: use it where the guide is somewhat too narrow"),
    "qmc": ("lower", "quasi-random draws from the guide: use it for a smaller Monte Carlo error"),
    "refined": ("lower", "a Gaussian fitted to each example: use it where Pareto k of the guide is bad"),
    "auto": (
        "lower",
        "the guide where its k is good, else refined, else annealed: use it for the reported number",
    ),
}

# the rows of a panel: an estimator, the K-sample bound under another proposal, or annealing
ROWS: dict[str, tuple[str, str]] = {
    **ESTIMATORS,
    **{name: facts for name, facts in PROPOSALS.items() if name != "guide"},
    "ais": ("lower", "annealed importance sampling from the guide with HMC, slow: use it where Pareto k is bad"),
}

OPTIMIZERS: dict[str, str] = {
    "adam": "the default",
    "adamw": "with weight decay",
    "sgd": "with a tuned rate: the loss is a sum over the batch",
    "adagrad": "gradients are sparse",
}

SCHEDULES: dict[str, str] = {
    "constant": "short runs, and runs that may be extended later",
    "linear": "runs of a known length: the learning rate falls to 0",
    "cosine": "the same, slow at both ends",
    "iwae": "reproductions: the eight stages of Burda et al. 2015",
}

DATASETS: dict[str, str] = {
    "digits": "handwritten digits, 1 x 8 x 8 (1,797; from scikit-learn, no download)",
    "factors": "squares, discs and crosses of known size and place, 1 x 16 x 16 (576, all combinations; generated)",
    "mnist": "handwritten digits, 1 x 28 x 28 (60,000 and 10,000)",
    "fashion_mnist": "articles of clothing, 1 x 28 x 28 (60,000 and 10,000)",
    "kmnist": "cursive Japanese characters, 1 x 28 x 28 (60,000 and 10,000)",
    "binarized_mnist": "the fixed binarisation of Larochelle (50,000, 10,000 and 10,000; no download)",
    "omniglot": "characters of 50 alphabets, 1 x 28 x 28 (19,280 and 13,180)",
    "omniglot_burda": "the Omniglot of the IWAE paper (24,345 and 8,070; no download)",
    "silhouettes": "Caltech 101 Silhouettes, 1 x 28 x 28 (4,100, 2,264 and 2,307; no download)",
    "cifar10": "photographs of 10 classes, 3 x 32 x 32 (50,000 and 10,000)",
    "counts": "a toy: counts of 50 genes in cells of four groups, of varying size (2,000; made here, as all toys)",
    "table": "a toy: seven columns, real, binary and categorical, with missing entries",
    "views": "a toy: two views of one point, 10 and 6 numbers, one of them missing at times",
    "series": "a toy: two numbers over 8 to 20 steps, NaN after the last",
    "bags": "a toy: counts of 60 words in documents of five topics",
    "tokens": "a toy: sentences of up to 9 of 23 words, padded by 0",
}

TARGETS: dict[str, tuple[str, str]] = {
    # name: (module:function, what it is and how its guide is imperfect)
    "ppca": ("ppl_vae.targets.gaussian:ppca", "probabilistic PCA; a guide without covariances"),
    "missing": ("ppl_vae.targets.gaussian:missing", "the same with missing entries, NaN"),
    "views": ("ppl_vae.targets.gaussian:views", "the same with two observed sites; x is a dictionary"),
    "toy": ("ppl_vae.targets.gaussian:toy", "Rainforth's toy, 20 dimensions; a guide that is a little too wide"),
    "two_layers": ("ppl_vae.targets.gaussian:two_layers", "two linear layers; a guide from x up, without covariances"),
    "gamma_poisson": ("ppl_vae.targets.conjugate:gamma_poisson", "counts with positive rates; a guide too wide"),
    "beta_binomial": ("ppl_vae.targets.conjugate:beta_binomial", "counts of successes; a guide too wide"),
    "dirichlet_multinomial": (
        "ppl_vae.targets.conjugate:dirichlet_multinomial", "counts of categories; a guide too wide"
    ),
    "gmm": ("ppl_vae.targets.mixtures:gmm", "a class that is summed out, and z; a guide with one mode"),
    "mixture_prior": ("ppl_vae.targets.mixtures:mixture_prior", "a prior of three Gaussians; a guide with one mode"),
    "spike_slab": ("ppl_vae.targets.mixtures:spike_slab", "a switch that is summed out, and z; a guide with one mode"),
    "kalman": ("ppl_vae.targets.sequences:kalman", "a Gaussian chain of 60 steps, padded; a chain as the guide"),
    "kalman_steps": ("ppl_vae.targets.sequences:kalman_steps", "the same; a guide without correlations, which fails"),
    "hmm": ("ppl_vae.targets.sequences:hmm", "a hidden Markov chain of 60 steps, summed out; an empty guide"),
    "curve": ("ppl_vae.targets.nonlinear:curve", "a nonlinear decoder, 1-D; a Gaussian guide"),
    "surface": ("ppl_vae.targets.nonlinear:surface", "a network that gives bits, 2-D; Gaussian guides"),
    "heavy_tail": ("ppl_vae.targets.nonlinear:heavy_tail", "a Cauchy posterior; a guide with heavy tails"),
    "heavy_tail_gaussian": (
        "ppl_vae.targets.nonlinear:heavy_tail_gaussian", "a Cauchy posterior; a Gaussian guide, which fails"
    ),
    "narrow": ("ppl_vae.targets.gaussian:narrow", "a very narrow posterior; the prior as the guide, which fails"),
    "modes": ("ppl_vae.targets.nonlinear:modes", "two modes; a guide that knows one, and fails without a sign"),
}  # fmt: skip

AXES: dict[str, Mapping[str, Any]] = {
    "pairs": PAIRS, "guides": GUIDES, "priors": PRIORS, "likelihoods": LIKELIHOODS, "networks": NETWORKS,
    "objectives": OBJECTIVES,
    "estimators": {name: entry for name, entry in ROWS.items() if name not in PROPOSALS},
    "proposals": PROPOSALS, "optimizers": OPTIMIZERS, "schedules": SCHEDULES, "datasets": DATASETS,
    "targets": TARGETS,
}  # fmt: skip


def installed() -> dict[str, tuple[str, str]]:
    """Pairs of installed packages, by the entry points ``ppl_vae.pairs``: name to (target, package)."""
    points = metadata.entry_points(group=GROUP)
    return {p.name: (p.value, p.dist.name if p.dist else "?") for p in points if p.name not in PAIRS}


def pairs() -> dict[str, tuple[str, str]]:
    """Every registered pair: those of this package, then those of installed packages."""
    return {**PAIRS, **installed()}


def objective_of(pair: Any) -> str:
    """The objective that trains a pair where none is given, from the name of its builder."""
    return TRAINED_BY.get(pair, "elbo") if isinstance(pair, str) else "elbo"


def resolve(what: str, name: str, table: Mapping[str, tuple[str, str]]) -> Any:
    """The object that a name of a table stands for.

    Raises:
        UserError: the table has no such name (lists its names), or an installed package can't provide it.

    Example:
        >>> resolve("objective", "iwae", OBJECTIVES).__name__
        'IWAE'
    """
    name = FORMER.get(name, name)
    if name not in table:
        raise UserError(f"{what} {name!r} is not known; choose one of {', '.join(table)}")
    module, _, attribute = table[name][0].partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        if module.startswith("ppl_vae."):
            raise
        raise UserError(
            f"{what} {name!r} of the package {table[name][1]} can't be imported ({error}); reinstall the package"
        ) from error
