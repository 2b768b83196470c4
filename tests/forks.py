"""Processes for tests that kill one, or need several: forks of one that has imported the package, and has done no more.

A new interpreter takes seconds to import torch; a fork of one that has takes none. It knows nothing of the tests.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from typing import Any

import ppl_vae as pv

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["torch", "pyro", "pytest", *(f.__module__ for f in (pv.fit, pv.panel, pv.compare))])


def fork(function: Callable[..., Any], *args: Any) -> BaseProcess:
    """A process that calls a function of a module, which it imports anew."""
    process = FORKS.Process(target=function, args=args, daemon=True)
    process.start()
    return process
