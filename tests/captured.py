"""What a captured program must give."""

from __future__ import annotations

import pyro
import torch
from torch import Tensor

import ppl_vae as pv
from ppl_vae.compile.capture import Captured


def assert_captured_weights_agree(pair: pv.Pair, x: Tensor) -> None:
    """The traced graph of log weights gives those of the program, on the same noise, anew at every replay."""

    def weights(x: Tensor) -> tuple[Tensor, ...]:
        with torch.no_grad(), pyro.validation_enabled(False):
            return (pv.terms(pair.model, pair.guide, x, num_samples=5).log_w,)

    graph = Captured(weights, compiled=False, modules=[pair.model, pair.guide])
    for seed in (0, 1):
        torch.manual_seed(seed)
        (plain,) = weights(x)
        torch.manual_seed(seed)
        torch.testing.assert_close(graph(x)[0], plain, rtol=1e-5, atol=1e-5)
