"""``python -m benchmarks``: run the contests, write the record, the table and the figure."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .cold import cold
from .contenders import LIKELIHOOD, TRAINING
from .contest import contest
from .figure import draw
from .growth import growth, memory
from .images import FILES
from .job import Job
from .machine import describe, slug
from .report import markdown
from .startup import startup

ROOT = Path(__file__).parents[1]
SECTIONS = ("training", "likelihood", "cold", "startup", "memory", "growth")
CONV_SHARE = 8  # a step of the convolutional pair takes about ten times as long, so its rounds have fewer
AVX2 = {
    "ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "XLA_FLAGS": "--xla_cpu_max_isa=AVX2", "TORCHINDUCTOR_CPP_MARCH": "x86-64-v3",
}  # fmt: skip
QUICK = {"steps": 40, "rounds": 3, "images": 4, "pretrain": 100}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections, with commas: %(default)s")
    parser.add_argument("--networks", default="mlp,conv", help="of training: %(default)s")
    parser.add_argument("--contenders", default="", help="only rows whose name holds one of these, with commas")
    parser.add_argument("--quick", action="store_true", help="a smoke run: few short rounds, figures worth nothing")
    parser.add_argument("--rounds", type=int, help=f"rounds of each contender ({Job.rounds}; quick {QUICK['rounds']})")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="cores for each contender: %(default)s")
    parser.add_argument("--avx2", action="store_true", help="use no AVX-512, as on a processor that has none")
    parser.add_argument("--matmul", default=Job.matmul, choices=("highest", "high", "medium"),
                        help="torch's float32 matmul precision, for ours and by hand: %(default)s")  # fmt: skip
    parser.add_argument("--data-root", default="data", help="holds MNIST/raw; downloaded where absent: %(default)s")
    parser.add_argument("--out", type=Path, help="folder of the record: benchmarks/results; quick: build/benchmarks")
    parser.add_argument("--redraw", type=Path, help="a record: write its table and figure again, and run nothing")
    options = parser.parse_args()
    unknown = set(options.only.split(",")) - set(SECTIONS)
    if unknown:
        parser.error(f"--only: no section {', '.join(sorted(unknown))}; choose among {', '.join(SECTIONS)}")
    return options


def main() -> None:
    options = parse()
    if options.redraw:
        write(json.loads(options.redraw.read_text()), options.redraw.parent, options.redraw.stem, options.out is None)
        return
    bound(options.threads)
    if options.avx2:
        os.environ |= AVX2
    fetch(options.data_root)
    job = Job(root=str(Path(options.data_root).resolve()), matmul=options.matmul)
    if options.quick:
        job = replace(job, **QUICK)
    job = replace(job, rounds=options.rounds or job.rounds)
    record = run(options, job)
    out = options.out or ROOT / ("build/benchmarks" if options.quick else "benchmarks/results")
    out.mkdir(parents=True, exist_ok=True)
    name = f"{record['date']}-{slug(record['machine'])}" + "-avx2" * options.avx2
    (out / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
    write(record, out, name, options.out is None and not options.avx2)


def run(options: argparse.Namespace, job: Job) -> dict[str, Any]:
    """Every section that was asked for."""
    facts = {k: v for k, v in asdict(job).items() if k not in ("root", "network")}  # a record holds no paths
    record: dict[str, Any] = {
        "date": datetime.now(UTC).date().isoformat(),
        "command": command(options),
        "machine": describe(),
        "options": {**facts, "threads": options.threads, "quick": options.quick, "avx2": options.avx2},
        "sections": {},
    }
    sections, asked = record["sections"], options.only.split(",")
    if "training" in asked:
        for network in options.networks.split(","):
            say(f"training, {network}")
            steps = job.steps if network == "mlp" or options.quick else job.steps // CONV_SHARE
            entered = {n: c for n, c in chosen(TRAINING, options.contenders).items() if network in c.networks}
            rows = contest(entered, replace(job, network=network, steps=steps), say)
            sections[f"training {network}"] = {"steps": steps, "rows": rows}
    if "likelihood" in asked:
        say("likelihood")
        sections["likelihood"] = {"rows": contest(chosen(LIKELIHOOD, options.contenders), job, say)}
    if "cold" in asked:
        say("cold")
        sections["cold"] = cold(job, options.quick, 1 if options.quick else min(5, job.rounds), say)
    if "startup" in asked:
        say("startup")
        sections["startup"] = {"rows": startup(2 if options.quick else max(10, job.rounds), say)}
    if "memory" in asked:
        say("memory")
        sections["memory"] = memory(job, options.quick, say)
    if "growth" in asked:
        say("growth")
        sections["growth"] = growth(job, options.quick, 1 if options.quick else 5, say)
    record["machine"]["load_after"] = os.getloadavg()[0]
    return record


def write(record: dict[str, Any], out: Path, name: str, for_docs: bool) -> None:
    """The table, printed and in a file, and the figure: beside the record, or in the docs, but for smoke runs."""
    text = markdown(record)
    (out / f"{name}.md").write_text(text)
    draw(
        record,
        ROOT / "docs/images/benchmarks.png" if for_docs and not record["options"]["quick"] else out / f"{name}.png",
    )
    print(text)


def bound(threads: int) -> None:
    """Settle cores and threads in the environment, which every process inherits, and keep to the CPU."""
    os.environ |= {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "CUDA_VISIBLE_DEVICES": "",
        "JAX_PLATFORMS": "cpu",
    }
    if hasattr(os, "sched_setaffinity"):  # XLA counts the cores that it may use
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def fetch(root: str) -> None:
    """Download MNIST where it is not there yet, in a process of its own: this one stays small."""
    if not all((Path(root) / "MNIST/raw" / file).exists() for file in FILES.values()):
        code = "import sys, ppl_vae; ppl_vae.load_data('mnist', root=sys.argv[1])"
        subprocess.run([sys.executable, "-c", code, root], check=True)


def chosen(contenders: dict[str, Any], words: str) -> dict[str, Any]:
    """Rows whose names hold one of the words; all without words."""
    return {n: c for n, c in contenders.items() if any(w.lower() in n.lower() for w in words.split(","))}


def command(options: argparse.Namespace) -> str:
    """What was typed, without folders."""
    said = {"--only": ",".join(SECTIONS), "--networks": "mlp,conv", "--contenders": "", "--matmul": Job.matmul}
    words = [f"{k} {v}" for k, d in said.items() if (v := getattr(options, k[2:])) != d]
    words += [f"--{word}" for word in ("avx2", "quick") if getattr(options, word)]
    words += [f"--rounds {options.rounds}"] if options.rounds else []
    return " ".join(["python -m benchmarks", f"--threads {options.threads}", *words])


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
