"""Every example runs; what it says is checked where the truth is known."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_it_runs(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = runpy.run_path(str(path))["main"]()
    assert capsys.readouterr().out
    assert found


def test_the_custom_pairs_reach_their_evidence() -> None:
    """The Gamma-Poisson pair has a closed form; the error bars of the estimate cover it."""
    module = runpy.run_path(str(Path(__file__).parents[1] / "examples" / "custom_pair.py"))
    found = module["main"]()
    torch.manual_seed(0)
    torch.distributions.Laplace(0.0, 1.0).sample((1000, 2)) @ torch.randn(2, 8) + 0.3 * torch.randn(1000, 8)
    counts = torch.poisson(torch.distributions.Gamma(2.0, 1.5).sample((1000, 3)))
    exact = torch.distributions.NegativeBinomial(2.0, probs=torch.tensor(1 / 2.5)).log_prob(counts[:200]).sum(-1)
    est = found["Gamma latent, Poisson data"]
    good = ~est.unreliable
    z = (est.log_px - exact).abs() / est.std_error
    assert float(good.double().mean()) > 0.9
    assert float((z[good] < 4).double().mean()) >= 0.98
    assert float(found["Laplace prior"].unreliable.double().mean()) < 0.1


def test_the_prior_of_a_vae_holds_its_codes_and_nothing_those_of_an_autoencoder() -> None:
    found = runpy.run_path(str(Path(__file__).parents[1] / "examples" / "latent_map.py"))["main"](epochs=8)
    assert found["vae"]["in_disc"] > 0.9
    assert found["autoencoder"]["in_disc"] < found["vae"]["in_disc"]
