"""Random numbers that are a function of a key."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from ppl_vae.common.rng import philox, uniform


@pytest.mark.parametrize(
    "form", [torch.tensor, lambda word: torch.tensor([word, word]), int], ids=["0-d", "1-d", "int"]
)
def test_philox_gives_the_published_words(form: Any) -> None:
    """The known answers of Random123 for Philox 4x32-10; what is given is not written to."""

    def words(counter: tuple[int, ...], key: tuple[int, int]) -> list[str]:
        given, (one, two) = tuple(map(form, counter)), map(form, key)
        found = philox(given, (one, two))
        assert [int(torch.as_tensor(w).max()) for w in given] == list(counter)
        return [f"{int(torch.as_tensor(w).max()):08x}" for w in found]

    full = 0xFFFFFFFF
    assert words((0,) * 4, (0, 0)) == ["6627e8d5", "e169c58d", "bc57ac4c", "9b00dbd8"]
    assert words((full,) * 4, (full, full)) == ["408f276d", "41c83b0e", "a20bc7c6", "6d5451fd"]
    pi = (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344)
    assert words(pi, (0xA4093822, 0x299F31D0)) == ["d16cfe09", "94fdcceb", "5001e420", "24126ea1"]


def test_uniform_numbers_are_uniform_and_follow_the_key() -> None:
    like = torch.empty(1000, 101)
    u = uniform(like, torch.tensor(5))
    assert u.shape == like.shape
    assert torch.equal(u, uniform(like, torch.tensor(5)))
    other = uniform(like, torch.tensor(6))
    n = u.numel()
    assert abs(float(torch.corrcoef(torch.stack([u.flatten(), other.flatten()]))[0, 1])) < 5 / n**0.5
    assert 0 <= float(u.min()) < 1e-3
    assert 1 - 1e-3 < float(u.max()) < 1
    counts = torch.histc(u, 100, 0, 1)
    chi2 = float(((counts - n / 100).square() / (n / 100)).sum())
    assert abs(chi2 - 99) < 5 * (2 * 99) ** 0.5
    assert abs(float(torch.corrcoef(torch.stack([u.flatten()[1:], u.flatten()[:-1]]))[0, 1])) < 5 / n**0.5


def test_a_library_that_greets_with_a_warning_is_imported_in_silence(tmp_path: Path) -> None:
    """ArviZ 0.23 warns in its first import of a day, which it notes in the user's cache."""
    code = "from ppl_vae.common.rng import quiet_import; quiet_import('arviz')"
    env = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
