"""The machine and the versions, without a host name or a path."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("ppl_vae", "torch", "pyro-ppl", "numpyro", "jax", "jaxlib", "pythae", "numpy")


def describe() -> dict[str, Any]:
    """CPU, cores, memory, system, versions, the commit measured, and the load before the run."""
    return {
        "cpu": cpu(),
        "vectors": vectors(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": system(),
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
        "commit": commit(),
        "load": os.getloadavg()[0],
    }


def cpu() -> str:
    """The model of the processor."""
    info = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*:\s*(.+)$", info.read_text(), re.M) if info.exists() else None
    return found[1].strip() if found else platform.processor() or platform.machine()


def vectors() -> str | None:
    """The widest vectors of the processor; None where the system does not say."""
    info = Path("/proc/cpuinfo")
    flags = info.read_text() if info.exists() else ""
    return next((name for flag, name in (("avx512f", "AVX-512"), ("avx2", "AVX2")) if flag in flags), None)


def system() -> str:
    """The name of the operating system."""
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError, AttributeError):
        return f"{platform.system()} {platform.release()}"


def commit() -> str | None:
    """The short name of the commit, with a plus where files differ from it; None outside a repository."""
    try:
        head = _git("rev-parse", "--short", "HEAD")
        return head + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def slug(about: dict[str, Any]) -> str:
    """The machine in a file name: amd-epyc-2-cores."""
    words = re.sub(r"\(.*?\)|@.*|CPU|Processor", " ", about["cpu"])
    return re.sub(r"[^a-z0-9]+", "-", f"{words} {about['cores']} cores".lower()).strip("-")


def _git(*args: str) -> str:
    here = Path(__file__).parent
    return subprocess.run(["git", *args], cwd=here, capture_output=True, text=True, check=True).stdout.strip()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
