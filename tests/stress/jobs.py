"""Work that resumes, each on a folder, with a digest of what it gives at its end."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from inline import Inline

import ppl_vae as pv
from ppl_vae.common.files import digest, write_text
from ppl_vae.runs import partial

OFTEN = 0.05  # seconds between two checkpoints
DONE = "digest.txt"


def small(n: int = 400) -> tuple[pv.Pair, torch.Tensor]:
    """A pair with the weights of a seed, and bits."""
    torch.manual_seed(0)
    return pv.build("vae", data_shape=(36,), latent=4, hidden=(32,)), (torch.rand(n, 36) > 0.5).float()


def train(folder: Path) -> str:
    """A fit; the digest is that of its weights and its history, without times."""
    pair, x = small()
    run = folder / "run"
    pv.fit(
        pair, pv.load_data(x, seed=0), epochs=25, batch_size=16, lr=3e-3, schedule="linear", seed=1, progress=False,
        device="cpu", run_dir=run, resume=(run / "config.json").exists(), checkpoint_every=OFTEN,
    )  # fmt: skip
    rows = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    kept = json.dumps([{k: v for k, v in row.items() if "seconds" not in k} for row in rows])
    return digest(dict(pv.load(run).state_dict()), kept)


def of(estimate: pv.Estimate) -> str:
    """The digest of every number of an estimate."""
    return digest({k: getattr(estimate, k) for k in ("log_px", "std_error", "ess", "khat", "elbo")})


def evaluate(folder: Path) -> str:
    """An estimate of many small blocks."""
    pair, x = small(300)
    return of(pv.log_likelihood(pair, x, num_samples=600, block=6, resume=folder))


def refine(folder: Path) -> str:
    """An estimate with a guide of its own for each example."""
    pair, x = small(24)
    return of(pv.log_likelihood(pair, x, num_samples=200, proposal="refined", block=2, resume=folder))


def ais(folder: Path) -> str:
    """Annealing, which keeps its place between two temperatures."""
    pair, x = small(16)
    return of(pv.ais(pair, x, num_chains=4, num_temperatures=60, block=4, resume=folder))


def study(folder: Path) -> str:
    """Two strategies with two seeds."""
    _, x = small(200)
    base = pv.Strategy("vae", latent=2, hidden=(16,), batch_size=20)
    found = pv.study(
        {"elbo": base, "iwae": base.replace(objective="iwae", num_particles=5)}, pv.load_data(x, seed=0), seeds=2,
        budget={"steps": 60}, evaluation={"num_samples": 50, "proposal": "guide"}, out=folder / "study",
        executor=Inline(), progress=False,
    )  # fmt: skip
    return digest({name: torch.as_tensor(values) for name, values in found.log_px.items()})


JOBS: dict[str, Callable[[Path], str]] = {
    "train": train, "evaluate": evaluate, "refine": refine, "ais": ais, "study": study,
}  # fmt: skip


def work(name: str, folder: Path, hours: float = 0.0) -> None:
    """Do a job in this process, and leave the digest; ``hours`` is how far the clock is set back."""
    torch.set_num_threads(1)
    partial.WRITE_EVERY = OFTEN
    if hours:
        set_back(hours)
    write_text(folder / DONE, JOBS[name](folder))


def set_back(hours: float) -> None:
    """The clock of this process goes on from an earlier time."""
    import time

    real = time.time
    time.time = lambda: real() - 3600 * hours
