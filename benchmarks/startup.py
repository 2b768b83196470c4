"""How long a fresh process takes: imports, and the help of the command line."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

COMMANDS = {
    "python, nothing imported": ["-c", "pass"],
    "ppl_vae, `import`": ["-c", "import ppl_vae"],
    "ppl_vae, `import` and first use": ["-c", "import ppl_vae; ppl_vae.fit, ppl_vae.log_likelihood"],
    "ppl_vae, `ppl-vae --help`": ["-m", "ppl_vae", "--help"],
    "Pyro, `import`": ["-c", "import pyro"],
    "NumPyro, `import`": ["-c", "import numpyro"],
    "pythae, `import`": ["-c", "import pythae.models"],
    "PyTorch, `import`": ["-c", "import torch"],
}


def startup(rounds: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Seconds of each command in turn; a first round, not counted, fills the caches of the disk."""
    rows: dict[str, Any] = {name: {"ours": name.startswith("ppl_vae"), "seconds": []} for name in COMMANDS}
    for turn in range(rounds + 1):
        for name, arguments in COMMANDS.items():
            began = time.perf_counter()
            done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True)
            seconds = time.perf_counter() - began
            if done.returncode:
                rows[name]["error"] = (done.stderr.strip().splitlines() or ["failed"])[-1]
            elif turn:
                rows[name]["seconds"].append(seconds)
    say(f"  {rounds} rounds of {len(rows)} commands")
    return rows
