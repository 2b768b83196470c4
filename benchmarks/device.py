"""What a device gives: ``make gpu``, or ``python -m benchmarks.device --device cpu --quick`` where there is none.

Laws first: tests/on_device.py, which holds the device against the CPU. Then times, each beside what it is compared
with, in turn. Writes a record, ``device-<name>.json``, and the same as a page, ``.md``.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyro
import torch

import ppl_vae as pv

from .machine import describe
from .stats import spread

ROOT = Path(__file__).resolve().parents[1]
GOALS = {"step": 10.0, "likelihood": 10.0}  # times stock Pyro; seconds for 10,000 images at K = 5,000


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Run all parts, and write the record after each."""
    options = parse(argv)
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit(
            "error: no GPU is visible to torch; python -m benchmarks.device --device cpu --quick runs here"
        )
    name = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    options.out.mkdir(parents=True, exist_ok=True)
    record: dict[str, Any] = {
        "machine": describe(), "device": name, "threads": torch.get_num_threads(), "quick": options.quick,
        "command": f"python -m benchmarks.device {' '.join(argv if argv is not None else sys.argv[1:])}", "parts": {},
    }  # fmt: skip
    images = grey(options.data_root, 2_000 if options.quick else 60_000)
    pair = vae()
    parts: dict[str, Callable[[], Any]] = {
        "laws": lambda: laws(device, options.quick, options.workers),
        "step": lambda: step(images[:128], device, options.quick),
        "fit": lambda: fit(images, device, options.quick),
        "likelihood": lambda: likelihood(pair, images, device, options.quick),
        "memory": lambda: memory(pair, images[:16], device, options.quick),
        "refined": lambda: refined(pair, images, options.quick),
    }
    for part, work in parts.items():
        try:
            record["parts"][part] = work()
        except Exception as error:  # the other parts still say something
            record["parts"][part] = {"failed": f"{type(error).__name__}: {error}".splitlines()[0]}
        print(part, record["parts"][part], flush=True)
        (options.out / f"device-{slug}.json").write_text(json.dumps(record, indent=1) + "\n")
        (options.out / f"device-{slug}.md").write_text(page(record))
    return record


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.device", description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="small sizes: that it runs; its numbers mean nothing")
    parser.add_argument("--data-root", type=Path, help="where MNIST is; without it, noise of MNIST's shape")
    parser.add_argument("--workers", default="8", help="processes of the laws")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "benchmarks")
    return parser.parse_args(argv)


def grey(root: Path | None, n: int) -> torch.Tensor:
    """Images (n, 1, 28, 28) in [0, 1]."""
    if root is None:
        return torch.rand(n, 1, 28, 28, generator=torch.Generator().manual_seed(0)) ** 4
    return pv.load_data("mnist", root=root, binarize="none", valid=1).train.x[:n] / 255


def bits(images: torch.Tensor) -> pv.Split:
    """One draw of binary images."""
    return pv.Split(torch.bernoulli(images, generator=torch.Generator().manual_seed(1)))


def vae() -> pv.Pair:
    """The VAE of the other benchmarks: 784-400-50."""
    torch.manual_seed(0)
    return pv.build("vae", data_shape=(1, 28, 28), latent=50, hidden=(400,), activation="softplus")


def seconds(work: Callable[[], Any], device: torch.device) -> float:
    """How long work takes, with what it leaves running on the device."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    began = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - began


def laws(device: torch.device, quick: bool, workers: str) -> dict[str, Any]:
    """How many tests of tests/on_device.py hold."""
    few = ["-k", "noise"] if quick else ["-n", workers, "--dist", "worksteal"]
    command = [sys.executable, "-m", "pytest", "-q", "--tb=line", "-p", "no:cacheprovider", "tests/on_device.py"]
    done = subprocess.run(
        [*command, "--device", device.type, *few], cwd=ROOT, capture_output=True, text=True, check=False
    )
    lines = done.stdout.strip().splitlines()
    counts = {
        word: int(n) for n, word in re.findall(r"(\d+) (passed|failed|skipped|errors?)", lines[-1] if lines else "")
    }
    return {**counts, "failures": [line.removeprefix("FAILED ")[:160] for line in lines if line.startswith("FAILED")]}


def step(x: torch.Tensor, device: torch.device, quick: bool) -> dict[str, Any]:
    """Milliseconds of a step on a batch of bits, of three ways in turn: median and quartiles of seven rounds."""
    x = (x > 0.5).float().to(device)
    ways: dict[str, Callable[[], Any]] = {}
    found: dict[str, Any] = {}
    for name, capture in (("not captured", False), ("captured", True)):
        pair = vae().to(device)
        adam = torch.optim.Adam(pair.parameters(), lr=1e-3, fused=True)
        svi = pv.SVI(pair.model, pair.guide, adam, capture=capture)
        found[f"first four, {name}"] = seconds(lambda svi=svi: [svi.step(x) for _ in range(4)], device)  # type: ignore[misc]
        found[f"why not, {name}"] = svi.eager_because
        ways[name] = lambda svi=svi: svi.step(x)  # type: ignore[misc]
    pyro.clear_param_store()
    stock = pyro.infer.SVI(*vae().to(device).as_pyro(), pyro.optim.Adam({"lr": 1e-3}), pyro.infer.Trace_ELBO())
    ways["stock Pyro"] = lambda: stock.step(x)
    count = 5 if quick else 200
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(2 if quick else 7):
        for name, way in ways.items():
            times[name].append(1e3 * seconds(lambda way=way: [way() for _ in range(count)], device) / count)  # type: ignore[misc]
    pyro.clear_param_store()
    found |= {name: spread(each)._asdict() for name, each in times.items()}
    return {**found, "times stock": found["stock Pyro"]["median"] / found["captured"]["median"]}


def fit(images: torch.Tensor, device: torch.device, quick: bool) -> dict[str, Any]:
    """Seconds of the epochs of ``fit`` on images binarised anew, after the first, and the last bound."""
    found: dict[str, Any] = {}
    data = pv.Split(images, binarize="dynamic")
    for name, capture in (("not captured", False), ("captured", True)):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            history = pv.fit(
                vae(), data, epochs=3 if quick else 6, batch_size=128, lr=1e-3, device=device, capture=capture,
                progress=False,
            )  # fmt: skip
        epochs = [row["train_seconds"] for row in history]
        after = [b - a for a, b in pairwise(epochs)]
        found[name] = {"epoch": spread(after)._asdict(), "bound": history[-1]["train_bound"], "said": [*map(str, said)]}
    return found


def likelihood(pair: pv.Pair, images: torch.Tensor, device: torch.device, quick: bool) -> dict[str, Any]:
    """Seconds of an estimate at K = 5,000, the first time and again; how far it is from the CPU's, in errors.

    The pair is trained before; only examples whose k is good on both count, since the errors of others are too small.
    """
    pv.fit(pair, pv.Split(images, binarize="dynamic"), epochs=2, batch_size=128, lr=1e-3, device=device, progress=False)
    n, num_samples = (40, 100) if quick else (10_000, 5_000)
    test = bits(images[:n])
    found: dict[str, Any] = {"images": n, "num_samples": num_samples}
    for name in ("first", "again"):
        found[name] = seconds(lambda: pv.log_likelihood(pair, test, num_samples=num_samples, capture=True), device)
    few = test.limit(64)
    there = pv.log_likelihood(pair, few, num_samples=500, seed=1)
    here = pv.log_likelihood(vae_of(pair), few, num_samples=500, seed=2)
    z = (here.log_px - there.log_px.cpu()) / (here.std_error.square() + there.std_error.cpu().square()).sqrt()
    z = z[~(here.unreliable | there.unreliable.cpu())]
    apart = {"of": len(z), "mean": float(z.mean()), "spread": float(z.std())} if len(z) > 1 else {"of": len(z)}
    return {**found, "errors from the CPU": apart}


def vae_of(pair: pv.Pair) -> pv.Pair:
    """The same weights on the CPU."""
    other = vae()
    other.load_state_dict({name: value.cpu() for name, value in pair.state_dict().items()})
    return other


def memory(pair: pv.Pair, x: torch.Tensor, device: torch.device, quick: bool) -> dict[str, Any]:
    """Peak MiB of the device for 16 images, by K; none where the device does not count."""
    if device.type != "cuda":
        return {}
    found = {}
    for num_samples in (100, 1_000) if quick else (1_000, 100_000):
        torch.cuda.reset_peak_memory_stats()
        pv.log_likelihood(pair, (x > 0.5).float(), num_samples=num_samples)
        found[str(num_samples)] = torch.cuda.max_memory_allocated() / 2**20
    return found


def refined(pair: pv.Pair, images: torch.Tensor, quick: bool) -> dict[str, Any]:
    """Seconds of refined estimates at K = 1,000, and the share of k above 0.7."""
    n = 4 if quick else 512
    test = bits(images[:n])
    began = time.perf_counter()
    found = pv.log_likelihood(pair, test, num_samples=100 if quick else 1_000, proposal="refined")
    bad = float((found.khat > 0.7).double().mean())
    return {"images": n, "seconds": time.perf_counter() - began, "share of k above 0.7": bad}


def page(record: dict[str, Any]) -> str:
    """The record as Markdown: a table for each part."""
    about = record["machine"]
    versions = ", ".join(f"{name} {v}" for name, v in about["versions"].items())
    machine = f"{versions}; {about['cpu']}, {record['threads']} threads"
    lines = [f"# {record['device']}", "", f"`{record['command']}`, commit {about['commit']}; {machine}.", ""]
    if record["quick"]:
        lines += ["Small sizes, which show that it runs: **the numbers mean nothing.**", ""]
    for part, rows in record["parts"].items():
        lines += [f"## {part}", "", "| | |", "| --- | ---: |"]
        lines += [f"| {name} | {_cell(value)} |" for name, value in rows.items()]
        lines += [""]
    met = verdicts(record)
    return "\n".join([*lines, *(["## Goals", "", *met, ""] if met else [])])


def verdicts(record: dict[str, Any]) -> list[str]:
    """A line for each goal that was measured."""
    parts, lines = record["parts"], []
    if "times stock" in parts.get("step", {}):
        times = parts["step"]["times stock"]
        lines.append(
            f"- captured step {times:.1f} times stock Pyro: {_met(times >= GOALS['step'])} (goal {GOALS['step']:g})"
        )
    if "again" in parts.get("likelihood", {}):
        took, n = parts["likelihood"]["again"], parts["likelihood"]["images"]
        lines.append(
            f"- {n:,} images in {took:.1f} s: {_met(took <= GOALS['likelihood'])} (goal {GOALS['likelihood']:g} s)"
        )
    return [] if record["quick"] else lines


def _met(yes: bool) -> str:
    return "met" if yes else "not met"


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_cell(v)}" for name, v in value.items())
    if isinstance(value, list):
        return "; ".join(map(str, value)) or "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
