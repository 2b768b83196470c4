"""A contest: each contender in a process of its own, asked in turn, so that noise hits all alike.

JAX and torch in one process fight for threads, so they never share one. Only the contender whose turn it is runs; the
others are stopped by a signal, since thread pools spin for a while after their work.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import import_module
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

from .contenders import Contender
from .job import Job, Loop


class Worker:
    """A contender in a process of its own."""

    def __init__(self, contender: Contender, job: Job) -> None:
        context = get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=serve, args=(other, contender, job), daemon=True)
        self.process.start()
        other.close()

    def answer(self) -> dict[str, Any]:
        """What it sends next, after which it sleeps until :meth:`ask`; a crash is an answer too."""
        try:
            found: dict[str, Any] = self.pipe.recv()
        except EOFError:
            self.process.join()
            return {"error": f"the process ended with code {self.process.exitcode}"}
        if "error" not in found:
            os.kill(self.process.pid or 0, signal.SIGSTOP)
        return found

    def ask(self) -> dict[str, Any]:
        """One round."""
        os.kill(self.process.pid or 0, signal.SIGCONT)
        self.pipe.send("round")
        return self.answer()

    def end(self) -> None:
        """Let it leave by itself, since it has thread pools and semaphores to put away; then end it."""
        self.pipe.close()
        with suppress(ProcessLookupError):
            os.kill(self.process.pid or 0, signal.SIGCONT)
        self.process.join(timeout=10)
        self.process.kill()
        self.process.join()


def serve(pipe: Connection, contender: Contender, job: Job) -> None:
    """In the worker: set up, run a first round that compiles, then a round whenever asked."""
    silence()
    try:
        began = time.perf_counter()
        module = import_module(f"benchmarks.contenders.{contender.module}")
        play = getattr(module, contender.function)(job, **contender.options)
        setup = time.perf_counter() - began
        began = time.perf_counter()

        def turn(value: float) -> None:
            """The end of a round; comes back at the start of the next."""
            nonlocal setup, began
            seconds = time.perf_counter() - began
            first = {"setup": setup, "first": seconds, "torch": torch_setting()}
            pipe.send(first if setup else {"seconds": seconds, "value": value})
            setup = 0.0
            pipe.recv()
            began = time.perf_counter()

        if isinstance(play, Loop):
            play.run(turn)
        while True:
            turn(play())
    except EOFError:
        return
    except Exception:
        # the traceback is shown, the line recorded: a record holds no paths
        pipe.send({"error": traceback.format_exc().strip().splitlines()[-1], "traceback": traceback.format_exc()})


def silence() -> None:
    """Libraries print, and draw progress bars; answers travel by the pipe."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)


def torch_setting() -> dict[str, Any] | None:
    """Threads and matmul precision of torch, and what a product costs in accuracy under it; None without torch."""
    if "torch" not in sys.modules:
        return None
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        a, b = torch.randn(512, 512), torch.randn(512, 512)
    exact = a.double() @ b.double()
    error = float((a @ b - exact).norm() / exact.norm())
    return {
        "threads": torch.get_num_threads(),
        "matmul": torch.get_float32_matmul_precision(),
        "product_error": error,
    }


def contest(
    contenders: Mapping[str, Contender], job: Job, say: Callable[[str], None], pause: float = 0.1
) -> dict[str, Any]:
    """Rounds of each contender in an order drawn anew each time: by name, the set-up and the seconds of every round."""
    rows: dict[str, Any] = {}
    workers: dict[str, Worker] = {}
    try:
        for name, contender in contenders.items():
            worker = Worker(contender, job)
            rows[name] = {"ours": contender.ours, **worker.answer(), "seconds": [], "values": []}
            if "error" in rows[name]:
                say(f"  {name}: failed\n{rows[name].pop('traceback', rows[name]['error'])}")
                continue
            workers[name] = worker
            say(f"  {name}: ready in {rows[name]['setup'] + rows[name]['first']:.1f} s")
        order = list(workers)
        shuffle = random.Random(job.seed).shuffle
        for turn in range(job.rounds):
            shuffle(order)
            for name in [n for n in order if n in workers]:
                time.sleep(pause)
                found = workers[name].ask()
                if "error" in found:
                    rows[name]["error"] = found["error"]
                    workers.pop(name).end()
                    continue
                rows[name]["seconds"].append(found["seconds"])
                rows[name]["values"].append(found["value"])
            say(f"  round {turn + 1} of {job.rounds}")
    finally:
        for worker in workers.values():
            worker.end()
    return rows
