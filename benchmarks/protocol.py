"""``python -m benchmarks.protocol``: the table of the IWAE paper, L_5000 of the MNIST test set, binarised dynamically.

Burda, Grosse, Salakhutdinov: Importance Weighted Autoencoders, 2015, arXiv:1509.00519. One stochastic layer of 50
(784-200-200-50, tanh) or two of 100 and 50; as many epochs as are asked for; Adam with epsilon 1e-4.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

import ppl_vae as pv

from .machine import describe

# NLL in nats by (objective, k, layers): the paper's, and those of a later reproduction in its protocol
REFERENCE = {
    ("elbo", 1, 1): (86.76, 86.35), ("elbo", 5, 1): (86.47, 86.10), ("elbo", 50, 1): (86.35, 86.06),
    ("iwae", 5, 1): (85.54, 85.18), ("iwae", 50, 1): (84.78, 84.59),
    ("elbo", 1, 2): (85.33, 84.83), ("elbo", 5, 2): (85.01, 84.08), ("elbo", 50, 2): (84.78, 83.89),
    ("iwae", 5, 2): (83.89, 83.48), ("iwae", 50, 2): (82.90, 82.82),
}  # fmt: skip
PAIRS: dict[int, tuple[str, dict[str, Any]]] = {
    1: ("vae", {"latent": 50, "hidden": (200, 200)}),
    2: ("hierarchical", {"latent": (100, 50), "hidden": (200, 200), "hidden2": (100, 100)}),
}
OBJECTIVES = {"elbo": pv.Elbo, "iwae": pv.IWAE}
ACTIVE = 0.01  # variance over data of the guide's mean, above which a unit is active


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.protocol", description=__doc__)
    parser.add_argument("--row", action="append", metavar="OBJECTIVE,K,LAYERS,EPOCHS",
                        help="such as iwae,5,1,3280; give it once for each row of the table")  # fmt: skip
    parser.add_argument("--batch-size", type=int, default=20, help="%(default)s in the paper")
    parser.add_argument("--lr", type=float, default=1e-3, help="at the beginning: %(default)s")
    parser.add_argument("--schedule", default="iwae", choices=("iwae", "linear"),
                        help="the paper's stages, or for few epochs linear: %(default)s")  # fmt: skip
    parser.add_argument("--num-samples", type=int, default=5000, help="K of the estimate: %(default)s")
    parser.add_argument("--limit", type=int, help="only so many of the test images")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, help="cores")
    parser.add_argument("--data-root", default="data", help="holds MNIST/raw; downloaded where absent: %(default)s")
    parser.add_argument("--out", type=Path, default=Path("build/protocol"), help="run folders and results: %(default)s")
    options = parser.parse_args(arguments)
    for row in options.row or parser.error("--row: which rows?"):
        objective, *numbers = row.split(",")
        if objective not in OBJECTIVES or len(numbers) != 3 or not all(n.isdecimal() for n in numbers):
            parser.error(f"--row {row}: write OBJECTIVE,K,LAYERS,EPOCHS, with one of {', '.join(OBJECTIVES)}")
        if int(numbers[1]) not in PAIRS:
            parser.error(f"--row {row}: one layer or two")
    return options


def main() -> None:
    options = parse()
    if options.threads:
        torch.set_num_threads(options.threads)
    data = pv.load_data("mnist", root=options.data_root, binarize="dynamic", valid=1)  # the paper has none
    options.out.mkdir(parents=True, exist_ok=True)
    for row in options.row:
        result = options.out / f"{row.replace(',', '-')}-{options.seed}.json"
        if not result.exists():
            result.write_text(json.dumps(run(row, data, options), indent=1) + "\n")
        print(line(json.loads(result.read_text())), flush=True)


def run(row: str, data: pv.Data, options: argparse.Namespace) -> dict[str, Any]:
    """Train one row, or go on with it, and estimate its likelihood."""
    objective = row.split(",")[0]
    k, layers, epochs = map(int, row.split(",")[1:])
    name, sizes = PAIRS[layers]
    torch.manual_seed(options.seed)
    pair = pv.build(name, data=data, **sizes)
    folder = options.out / f"{row.replace(',', '-')}-{options.seed}"
    began = time.monotonic()
    history = pv.fit(
        pair, data.train, OBJECTIVES[objective](num_particles=k), epochs=epochs, batch_size=options.batch_size,
        lr=options.lr, schedule=options.schedule, optimizer=adam, seed=options.seed, device=options.device,
        run_dir=folder, resume=folder.exists(), capture=True, checkpoint_every=60.0,
    )  # fmt: skip
    trained = time.monotonic()
    test = data.test.limit(options.limit)
    estimate = pv.log_likelihood(pair, test, num_samples=options.num_samples, seed=options.seed, progress=True)
    facts = {k: v for k, v in vars(options).items() if k not in ("row", "out", "data_root")}  # a record holds no paths
    return {
        "row": row,
        "options": facts,
        "machine": describe(),
        "summary": estimate.summary(),
        "active": active(pair, test, options.seed),
        "train_bound": history[-1]["train_bound"],
        "minutes": {"training": (trained - began) / 60, "estimate": (time.monotonic() - trained) / 60},
    }


def adam(params: Any, lr: float) -> torch.optim.Adam:
    return torch.optim.Adam(params, lr=lr, eps=1e-4, fused=True)


def active(pair: pv.Pair, data: Any, seed: int) -> dict[str, int]:
    """Units whose mean under the guide varies over the data, for each latent site."""
    means = pv.encode(pair, data.x, seed=seed).mean
    return {name: int((mean.var(0) > ACTIVE).sum()) for name, mean in means.items()}


def line(result: dict[str, Any]) -> str:
    """One row of the table."""
    objective, k, layers, epochs = result["row"].split(",")
    paper, later = REFERENCE.get((objective, int(k), int(layers)), (float("nan"), float("nan")))
    s, minutes = result["summary"], result["minutes"]
    nll = f"{-s['log_px_mean']:.2f} ± {s['log_px_se']:.2f}"
    units = ", ".join(map(str, result["active"].values()))
    return (
        f"| {objective}, k = {k} | {layers} | {epochs} | {nll} | {paper:.2f} ({later:.2f}) | {units} "
        f"| {minutes['training']:.1f} |"
    )


if __name__ == "__main__":
    main()
