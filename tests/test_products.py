"""Which routine multiplies: settled by the processor and by an error, never by a clock; kept when work goes on."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch

import ppl_vae as pv
from ppl_vae.compile import products
from ppl_vae.compile.products import choose, fast_products, faster
from ppl_vae.likelihood import streaming
from ppl_vae.runs import partial

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def looked_anew() -> Iterator[None]:
    def forget() -> None:
        for function in (products.as_exact, products.processor, products.faster):
            getattr(function, "cache_clear", lambda: None)()

    forget()
    yield
    forget()


@pytest.mark.parametrize("slow", [0, 1])
def test_no_clock_is_read(slow: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever of the two routines the clock finds slow, the choice is the same."""
    wanted = choose(CPU)
    for function in (products.as_exact, products.faster):
        getattr(function, "cache_clear", lambda: None)()
    now, calls = [0.0], [0]

    def clock() -> float:
        calls[0] += 1
        now[0] += 1.0 if (calls[0] // 2) % 2 == slow else 1e-3
        return now[0]

    for name in ("perf_counter", "monotonic", "process_time"):
        monkeypatch.setattr(time, name, clock)
    assert choose(CPU) == wanted
    assert calls[0] == 0


@pytest.mark.parametrize(
    ("capability", "maker", "exact", "wanted"),
    [
        ("AVX512", "AuthenticAMD AMD EPYC", True, "medium"),
        ("AVX512", "AuthenticAMD AMD EPYC", False, "highest"),
        ("AVX512", "GenuineIntel Intel(R) Xeon(R)", True, "highest"),
        ("AVX2", "AuthenticAMD AMD EPYC", True, "highest"),
        ("SVE256", "", True, "highest"),
    ],
)
def test_the_choice_is_a_function_of_the_processor_and_the_error(
    capability: str, maker: str, exact: bool, wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(products, "processor", lambda: maker)
    monkeypatch.setattr(products, "as_exact", lambda before: exact)
    assert faster("highest") == wanted


def test_what_work_began_with_is_taken_again_unless_it_is_less_exact_here(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_float32_matmul_precision()
    for exact, wanted in ((True, "medium"), (False, before)):
        monkeypatch.setattr(products, "as_exact", lambda before, exact=exact: exact)
        with fast_products(CPU, "medium") as now:
            assert now == torch.get_float32_matmul_precision() == wanted
        assert torch.get_float32_matmul_precision() == before


def test_float64_by_default_does_not_change_the_choice() -> None:
    wanted = choose(CPU)
    products.as_exact.cache_clear()
    torch.set_default_dtype(torch.float64)
    try:
        assert choose(CPU) == wanted
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("began", ["medium", "highest"])
def test_an_unfinished_estimate_goes_on_by_the_routine_it_began_with(
    began: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second half is multiplied as the first was, whatever this machine would choose."""
    monkeypatch.setattr(partial, "WRITE_EVERY", 0.0)
    monkeypatch.setattr(products, "as_exact", lambda before: True)
    other = "highest" if began == "medium" else "medium"
    pair = pv.build("vae", data_shape=(6,), latent=2, hidden=(8,))
    x = (torch.rand(4, 6) > 0.5).float()
    real, seen = streaming.Plan.block_at, []

    def block_at(self: streaming.Plan, start: int, hold: bool, by_graph: bool = True) -> object:
        seen.append(torch.get_float32_matmul_precision())
        if len(seen) == 2:
            raise KeyboardInterrupt
        return real(self, start, hold, by_graph)

    monkeypatch.setattr(streaming.Plan, "block_at", block_at)
    for choice in (began, other):
        monkeypatch.setattr(products, "faster", lambda before, choice=choice: choice)
        with suppress(KeyboardInterrupt):
            pv.log_likelihood(pair, x, num_samples=20, block=1, resume=tmp_path)
    assert len(seen) == 2 + 3  # the block that was done is not done again
    assert set(seen) == {began}


SCRIPT = """
import torch, ppl_vae as pv
torch.manual_seed(0)
pair = pv.build("vae", data_shape=(300,), latent=8, hidden=(200,))
est = pv.log_likelihood(pair, (torch.rand(4, 300) > 0.5).float(), num_samples=400)
print([v.hex() for v in est.log_px.tolist()])
"""


def test_fresh_processes_under_any_load_give_the_same_bits() -> None:
    run = [sys.executable, "-c", SCRIPT]
    one, two = (subprocess.Popen(run, stdout=subprocess.PIPE, text=True) for _ in range(2))  # each is the other's load
    found = {one.communicate(timeout=120)[0], two.communicate(timeout=120)[0]}
    assert len(found) == 1
    assert "0x" in found.pop()
