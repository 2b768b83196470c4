"""Every figure of the README and of the docs that can be made again: what makes it, and where it stands.

python docs/figures.py [--only KEY ...] [--all] [--data-root DIR]    # or make figures FIGURES="--only demo"

Runs the commands and the Python blocks of the pages, and writes docs/figures.json: the numbers as they were printed,
with the command, the commit and the machine. `tests/test_doc_figures.py` then holds the text against that record.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RECORD = ROOT / "docs" / "figures.json"
DECIMAL = r"-?\d+\.\d+"
ROWS = rf"(?:lower|neither)\s+({DECIMAL})\s+({DECIMAL})\s+>?({DECIMAL})"
GAIN = """\
import math, ppl_vae as pv
pair = pv.load("runs/mnist")
x = pv.load_data("mnist", root="{data}", seed=0).test.fixed(0).x[:50]
names = ("iwae", "psis", "defensive", "ais")
found = pv.panel(pair, x, estimators=names, num_samples=5000, num_chains=16, num_temperatures=1000, seed=0)
print(found)
gain = found["ais"].log_px - found["iwae"].log_px
print(f"annealing finds {float(gain.mean()):.2f} ± {float(gain.std()) / math.sqrt(50):.2f} more")
"""
MEANS = rf"(?:ELBO|log p\(x\))\s+({DECIMAL})(?: ± ({DECIMAL}))?"
NATS = rf"^\w+ +[\w:=]+ +({DECIMAL}) +({DECIMAL}) +({DECIMAL})"  # of a row of targets: not its seconds
BLOCKS = "the Python blocks of"
STEPS = "--batch-size 64 --lr 2e-3 --schedule linear"
SMALL = "--data mnist --data-root {data} --latent 50 --hidden 200,200 --limit 1000 --device cpu"


@dataclass(frozen=True)
class Figure:
    """One command, and the places whose text says what it prints."""

    command: str
    places: dict[str, str]  # "PAGE#HEADING" to what of the output is a figure there: a pattern, or its groups
    timed: bool = False  # whether the text also says how many seconds it took
    after: str = ""  # the key whose run folder it needs
    slow: bool = False  # made only where it is named, or by --all


FIGURES = {
    "demo": Figure(
        f"ppl-vae train --epochs 100 {STEPS} --out runs/digits --device cpu", {"README.md#Two commands": DECIMAL},
        timed=True,
    ),
    "trust": Figure(
        "ppl-vae evaluate runs/digits --limit 50 --num-samples 2000 --estimator iwae --estimator psis "
        "--estimator defensive --estimator qmc",
        {"README.md#How far to trust it": rf"{ROWS}|(?:above|than) ({DECIMAL})"}, after="demo",
    ),
    "elbo": Figure(f"ppl-vae train vae --epochs 10 {STEPS} --objective elbo --out runs/elbo --device cpu", {}),
    "iwae": Figure(
        f"ppl-vae train vae --epochs 10 {STEPS} --objective iwae --out runs/iwae --device cpu", {}, after="elbo"
    ),
    "compare": Figure(
        "ppl-vae compare runs/elbo runs/iwae", {"README.md#Which difference is real": DECIMAL}, after="iwae"
    ),
    "mnist": Figure(
        f"ppl-vae train vae --epochs 30 {STEPS} {SMALL} --out runs/mnist", {"README.md#MNIST": MEANS}, timed=True
    ),
    "mnist-elbo": Figure(f"ppl-vae train vae --epochs 10 {STEPS} --objective elbo {SMALL} --out runs/mnist-elbo", {}),
    "mnist-iwae": Figure(
        f"ppl-vae train vae --epochs 10 {STEPS} --objective iwae {SMALL} --out runs/mnist-iwae", {}, after="mnist-elbo"
    ),
    "mnist-compare": Figure(
        "ppl-vae compare runs/mnist-elbo runs/mnist-iwae --limit 1000 --data-root {data}",
        {"README.md#Which difference is real": rf"(-\d+\.\d+)(?: ± ({DECIMAL}))?"}, after="mnist-iwae",
    ),
    "mnist-ais": Figure(
        f"python -c {shlex.quote(GAIN)}",
        {
            "README.md#MNIST": rf"finds ({DECIMAL}) ± ({DECIMAL})",
            "docs/concepts.md#Annealing, and a bound from above": rf"finds ({DECIMAL}) ± ({DECIMAL})",
            "docs/trust.md#The best that is here": rf"{ROWS}|above ({DECIMAL})",
        },
        after="mnist", slow=True,
    ),
    "targets": Figure(
        f"ppl-vae targets {' '.join(f'--estimator {e}' for e in ('exact', 'iwae', 'psis', 'defensive'))} "
        "--num-data 200", {"docs/targets.md#All figures": NATS}, slow=True,
    ),
    "targets-refined": Figure(
        "ppl-vae targets --estimator refined --num-data 200", {"docs/targets.md#All figures": NATS}, slow=True
    ),
    "targets-mixture": Figure(
        "ppl-vae targets --estimator refined:family=mixture --num-data 200", {"docs/targets.md#All figures": NATS},
        slow=True,
    ),
    "targets-ais": Figure(
        "ppl-vae targets --estimator ais --num-data 200", {"docs/targets.md#All figures": NATS}, slow=True
    ),
    "targets-auto": Figure(
        "ppl-vae targets --estimator auto --num-data 100", {"docs/targets.md#All figures": NATS}, slow=True
    ),
    "heavy-tails": Figure(
        "ppl-vae targets --names heavy_tail,heavy_tail_gaussian --estimator iwae --estimator refined "
        "--estimator refined:family=mixture --num-data 400 --num-samples 1000", {"docs/targets.md#What fails": NATS},
        slow=True,
    ),
    "tests": Figure(
        "python -m pytest -q -n 2 {root}/tests", {"CONTRIBUTING.md#Contributing": "(?!)"}, timed=True, slow=True
    ),
    **{
        page: Figure(f"{BLOCKS} {page}", {})
        for page in ("docs/concepts.md", "docs/trust.md", "docs/index.md", "docs/information.md")
    },
}  # fmt: skip


def sections(page: str) -> Iterator[tuple[str, str]]:
    """The headings of a page and what stands under each, up to the next."""
    parts = re.split(r"^#+ (.+)$", re.sub(r"^```.*?^```", _hide, page, flags=re.M | re.S), flags=re.M)
    for heading, text in zip(parts[1::2], parts[2::2], strict=True):
        yield heading, text.replace("\0", "#")


def _hide(block: re.Match[str]) -> str:
    return block[0].replace("#", "\0")  # a comment is no heading


def run(command: str, folder: Path, data: str = "") -> tuple[str, float]:
    """What a command prints, and its seconds; an error of it ends this script."""
    words = shlex.split(command.replace("{data}", data).replace("{root}", str(ROOT)))
    words[:1] = [sys.executable, "-m", "ppl_vae"] if words[0] == "ppl-vae" else [sys.executable]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    began = time.perf_counter()
    done = subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{command[:200]}\n{done.stderr[-2000:]}")
    return done.stdout, time.perf_counter() - began


def measured(page: str, folder: Path) -> Iterator[tuple[str, list[str]]]:
    """The numbers that the Python blocks of a page print under the headings where the text calls them measured."""
    code, wanted = [], []
    for heading, text in sections((ROOT / page).read_text()):
        blocks = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
        code += [f"print({chr(1) + heading!r})", *blocks]
        if "Measured by the block above" in text or "It prints, on" in text:
            wanted.append(heading)
    (folder / "page.py").write_text("\n".join(code))
    printed, _ = run("python page.py", folder)
    for part in printed.split(chr(1))[1:]:
        heading, _, lines = part.partition("\n")
        if heading in wanted:
            yield f"{page}#{heading}", taken(lines, DECIMAL)


def taken(printed: str, pattern: str) -> list[str]:
    """The figures of an output, each once: what the pattern finds, or its groups."""
    groups = (m.groups() if m.groups() else (m[0],) for m in re.finditer(pattern, printed, re.M))
    return list(dict.fromkeys(number for many in groups for number in many if number))


def machine() -> dict[str, Any]:
    """What the numbers and the times depend on."""
    import pyro
    import torch

    from ppl_vae.compile.products import processor

    return {
        "processor": processor() or platform.processor(), "cores": os.cpu_count(),
        "instructions": torch.backends.cpu.get_cpu_capability(), "torch": torch.__version__, "pyro": pyro.__version__,
        "python": platform.python_version(),
    }  # fmt: skip


def main(argv: list[str] | None = None) -> None:
    """Make the figures that are asked for, each after what it needs, and write the record."""
    parser = argparse.ArgumentParser(description="Make the figures of the README and of the docs again.")
    parser.add_argument("--only", nargs="*", choices=FIGURES, help="these keys, and what they need")
    parser.add_argument("--all", action="store_true", help="also those that take many minutes")
    parser.add_argument(
        "--data-root", type=Path, default=ROOT / "data", help="where MNIST is; without it, it is left out"
    )
    asked = parser.parse_args(argv)
    root, there = asked.data_root.resolve(), (asked.data_root / "MNIST").is_dir()
    keys = list(asked.only or [k for k, f in FIGURES.items() if asked.all or not f.slow])
    for key in keys:  # grows by what is needed
        keys += [FIGURES[key].after] if FIGURES[key].after and FIGURES[key].after not in keys else []
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    about = {"commit": commit.stdout.strip(), "machine": machine()}
    record = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    with tempfile.TemporaryDirectory() as place:
        for key, figure in FIGURES.items():
            if key not in keys or ("mnist" in key and not there):
                continue
            if figure.command.startswith(BLOCKS):
                found = dict(measured(figure.command.split()[-1], Path(place)))
            else:
                printed, seconds = run(figure.command, Path(place), str(root))
                took = [f"{seconds:.0f} s"] * figure.timed
                found = {where: taken(printed, pattern) + took for where, pattern in figure.places.items()}
            for where, numbers in found.items():
                record[f"{key}: {where}"] = {"numbers": numbers, "command": figure.command, **about}
                print(key, where, *numbers, flush=True)
    RECORD.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
