"""How long a cell of a study will take, from a second of its training and a few examples."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from ..common.entry import entry_point
from ..data.splits import Data
from ..pairs.base import Pair
from ..training.loop import fit
from .cells import config_of
from .evaluation import Evaluation, evaluated
from .strategy import Strategy

SECONDS, EXAMPLES = 1.0, 16


@entry_point
def pilot(strategy: Strategy, data: Data, budget: Mapping[str, float], how: Evaluation) -> tuple[float, float]:
    """Seconds that a cell will take to train and to evaluate, on one thread.

    Args:
        strategy: a strategy.
        data: what :func:`~ppl_vae.load_data` returns.
        budget: of a cell.
        how: the evaluation.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        config, pair = config_of(strategy, 0, budget, len(data.train)), strategy.build(data, 0)
        brief = config.replace(steps=None, seconds=SECONDS, warmup=0.0)
        rows = fit(pair, data, strategy.objective, config=brief, progress=False)
        of_epoch = math.ceil(len(data.train) / config.batch_size)
        whole = config.epochs * of_epoch if config.steps is None else config.steps
        of_step = rows[-1]["train_seconds"] / max(1, rows[-1]["step"] - 1)  # the first is not counted
        besides = (sum(row["seconds"] for row in rows) - rows[-1]["train_seconds"]) / len(rows)  # such as validation
        training = whole * of_step if config.seconds is None else config.seconds
        training += besides * math.ceil(training / of_step / of_epoch)
        part = data.split(how.split).limit(how.limit)
        few, gaps = min(EXAMPLES, len(part)), min(EXAMPLES, how.gaps)
        evaluation = _seconds(pair, data, replace(how, limit=few, gaps=0)) * len(part) / few
        if gaps:
            evaluation += _seconds(pair, data, replace(how, limit=gaps, gaps=gaps)) * how.gaps / gaps
        return training, evaluation
    finally:
        torch.set_num_threads(threads)


def _seconds(pair: Pair, data: Data, how: Evaluation) -> float:
    """What an evaluation takes."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        evaluated(pair.eval(), data, how, Path(folder))
    return time.perf_counter() - began
