"""A pair seen through ArviZ: posterior draws by HMC, their summary, and leave-one-out with its Pareto k.

python examples/arviz_summary.py
"""

from __future__ import annotations

import warnings
from typing import Any

import arviz as az
import matplotlib.pyplot as plt
import numpy as np
import torch

import ppl_vae as pv


def main() -> tuple[Any, Any]:
    torch.manual_seed(0)
    data = pv.load_data("digits", binarize="static")
    pair = pv.build("vae", data=data, latent=2, hidden=(64,))
    pv.fit(pair, data, epochs=5, progress=False)
    x = data.test.x[:5]

    tree = pv.to_arviz(pair, x, method="hmc", num_samples=400, num_chains=4, warmup=200)
    table = az.summary(tree)
    print(table)

    # A datum is left out together with its own latent: the elpd is a harmonic mean of p(x|z), and its k says so.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loo = az.loo(tree, pointwise=True)
        az.plot_khat(loo)
        plt.close("all")  # show it with plt.show()
    print("Pareto k of leave-one-out:", np.round(np.asarray(loo.pareto_k), 2))
    print(pv.log_likelihood(pair, x))
    return table, loo


if __name__ == "__main__":
    main()
