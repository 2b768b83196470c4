"""Two machines: network namespaces of one, joined by a cable of their own, in each of which one rank runs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .here import NotHere

SCRIPT = """
import sys, torch, ppl_vae as pv
x = (torch.rand(400, 36, generator=torch.Generator().manual_seed(0)) > 0.5).float()
torch.set_num_threads(1)
torch.manual_seed(0)
pair = pv.build("vae", data_shape=(36,), latent=4, hidden=(32,))
folder, epochs, resume = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "resume"
fit = pv.fit
with pv.ranks.joined():
    fit(pair, x, epochs=epochs, batch_size=40, device="cpu", progress=False, run_dir=folder, shards=2, resume=resume,
        checkpoint_every=0.2)
    pv.log_likelihood(pair, x, num_samples=50)
"""
ADDRESS, PORT = "10.211.0.{}", 29_517


@contextmanager
def machines() -> Iterator[list[str]]:
    """The names of two network namespaces with a cable between them, and nothing else.

    Raises:
        NotHere: this process may not make them.
    """
    names = [f"ppl{os.getpid()}{end}" for end in "ab"]
    cables = [cable(name) for name in names]
    commands = [f"ip netns add {name}" for name in names]
    commands.append(f"ip link add {cables[0]} type veth peer name {cables[1]}")
    for i, (name, end) in enumerate(zip(names, cables, strict=True)):
        within = f"ip -n {name}"
        commands += [f"ip link set {end} netns {name}", f"{within} addr add {ADDRESS.format(i + 1)}/24 dev {end}",
                     f"{within} link set {end} up", f"{within} link set lo up"]  # fmt: skip
    try:
        for command in commands:
            try:
                done = subprocess.run(command.split(), capture_output=True, text=True)
            except FileNotFoundError as error:
                raise NotHere("there is no command ip") from error
            if done.returncode:
                raise NotHere(done.stderr.strip() or command)
        yield names
    finally:
        for name in names:
            with suppress(FileNotFoundError):
                subprocess.run(["ip", "netns", "del", name], capture_output=True)


def cable(name: str) -> str:
    """The cable of a machine."""
    return name.replace("ppl", "v")


def started(name: str, rank: int, script: Path, folder: Path, epochs: int, how: str) -> subprocess.Popen[str]:
    """The rank of one machine."""
    environment = {
        **os.environ, "RANK": str(rank), "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": ADDRESS.format(1),
        "MASTER_PORT": str(PORT), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": cable(name),
    }  # fmt: skip
    words = ["ip", "netns", "exec", name, sys.executable, str(script), str(folder), str(epochs), how]
    return subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True)


def both(names: list[str], script: Path, folder: Path, epochs: int, how: str = "begin") -> list[subprocess.Popen[str]]:
    """A rank on each machine."""
    return [started(name, rank, script, folder, epochs, how) for rank, name in enumerate(names)]


def ended(ranks: list[subprocess.Popen[str]]) -> list[int]:
    """The exit codes, or 124 where a rank did not end within two minutes."""
    codes = []
    for rank in ranks:
        try:
            rank.communicate(timeout=120)
            codes.append(rank.returncode)
        except subprocess.TimeoutExpired:
            os.killpg(rank.pid, signal.SIGKILL)
            rank.communicate()
            codes.append(124)
    return codes


def bits(folder: Path) -> bytes:
    """The weights of a run."""
    return (folder / "weights.safetensors").read_bytes()


def two_machines(root: Path) -> str | None:
    """Two ranks on two machines train the weights of two ranks on one; killed, slow or resumed, none waits for ever."""
    script = root / "rank.py"
    script.write_text(SCRIPT)
    with machines() as names:
        if codes := [c for c in ended(both([names[0]] * 2, script, root / "one", 12)) if c]:
            return f"two ranks on one machine ended with {codes}"
        if codes := [c for c in ended(both(names, script, root / "two", 12)) if c]:
            return f"two machines ended with {codes}"
        if bits(root / "one") != bits(root / "two"):
            return "two machines trained other weights than one"
        ranks = both(names, script, root / "killed", 4_000)
        while not (root / "killed" / "history.jsonl").exists() and ranks[0].poll() is None:
            time.sleep(0.1)
        os.killpg(ranks[1].pid, signal.SIGKILL)
        if ended(ranks)[0] in (0, 124):
            return "the rank that was left did not end with an error"
        at = len((root / "killed" / "history.jsonl").read_text().splitlines())
        ranks = both(names, script, root / "killed", at + 12, "resume")
        time.sleep(2.0)
        os.killpg(ranks[1].pid, signal.SIGSTOP)  # a rank that is slow
        time.sleep(5.0)
        os.killpg(ranks[1].pid, signal.SIGCONT)
        if any(ended(ranks)):
            return "a run of two machines was not resumed"
    return None
