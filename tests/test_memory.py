"""Freed memory stays in the process."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

CODE = """
import resource, torch
from ppl_vae.common.memory import keep_freed

def round():  # what a chunk does: blocks that live at once, written, and freed
    return [torch.ones(2_000_000) for _ in range(4)]

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        round()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / 10

torch.set_num_threads(1)
round()
before = faults()
keep_freed()
round()
print(before, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")
def test_pages_are_not_asked_for_again() -> None:
    """Of four blocks of 8 MB, some pages are asked for in every round without, and none with it."""
    shown = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    without, kept = map(float, shown.stdout.split())
    assert without > 500
    assert kept < 100
