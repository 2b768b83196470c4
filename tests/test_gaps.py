"""The gap of the ELBO by its causes: closed forms on a Gaussian posterior."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from commands import FEW, call, read

import ppl_vae as pv
from ppl_vae.likelihood.gaps import is_diagonal


def test_each_gap_is_its_closed_form_where_the_posterior_is_a_gaussian() -> None:
    r"""Independence costs (sum log Lambda_ii - log |Lambda|) / 2, the shape nothing, and amortisation the rest."""
    torch.manual_seed(1)
    pair = pv.build("linear", data_shape=(5,), latent=3, sigma=0.5).double()
    x = torch.randn(20, 5, dtype=torch.float64)
    found = pv.gaps(pair, x, num_samples=4000)
    precision = pair.model.posterior(x).precision_matrix[0].detach()  # type: ignore[operator, union-attr]
    independence = 0.5 * float(precision.diag().log().sum() - precision.logdet())
    assert independence > 0.1
    assert float(found["independence"].mean()) == pytest.approx(independence, abs=0.01)
    assert float(found["shape"].mean()) == pytest.approx(0.0, abs=4 * found.table()[2]["mc_error"] + 1e-3)
    guide = pair.guide(x)  # z of the guide; its density is what the KL is of
    assert guide.shape == (20, 3)
    exact = pair.model.evidence(x).detach()  # type: ignore[operator, union-attr]
    total = exact - pv.log_likelihood(pair, x, num_samples=4000, estimator="elbo").log_px
    assert float(abs(found["total"].values - total.numpy()).max()) < 0.1
    parts = sum(found[name] for name in ("amortisation", "independence", "shape"))
    assert np.allclose(parts, found["total"])
    assert np.allclose(found["amortisation"] + found["approximation"], found["log_px"] - found["elbo"])
    assert found.attrs["family"] == "diagonal"
    assert np.array_equal(found["elbo_refined"], found["elbo_diagonal"])
    assert [row["gap"] for row in found.table()] == ["amortisation", "independence", "shape", "total"]


def test_the_exact_guide_has_no_gap_of_any_kind() -> None:
    """A guide with covariances is compared with the best that has them: its family, not a smaller one."""
    pair = pv.build("linear", data_shape=(5,), latent=3, sigma=0.5, guide="exact").double()
    found = pv.gaps(pair, torch.randn(10, 5, dtype=torch.float64), num_samples=1000)
    assert found.attrs["family"] == "full"
    for name in ("amortisation", "independence", "shape", "approximation", "total"):
        assert float(abs(found[name]).max()) < 1e-6, name
    assert float((found["elbo_full"] - found["elbo_diagonal"]).min()) > 0.05


def test_gaps_are_a_dataset_that_prints_as_a_table() -> None:
    """A selection of it prints as xarray does."""
    pair = pv.build("linear", data_shape=(5,), latent=2)
    found = pv.gaps(pair, torch.randn(4, 5), num_samples=100)
    assert isinstance(found, xr.Dataset)
    assert dict(found.sizes) == {"example": 4}
    assert "price of" in str(found)
    assert "price of" in found._repr_html_()
    for part in (found[["elbo"]], found.mean()):
        assert "Data variables" in repr(part)
        assert "<pre>" in part._repr_html_()
    assert all(np.isfinite(found[f"{name}_error"]).all() for name in ("log_px", "elbo", "elbo_refined", "total"))


def test_on_the_command_line(tmp_path: Path) -> None:
    out, short = tmp_path / "run", ("--data", "digits", "--epochs", 1, "--hidden", "8", "--no-figures")
    call("train", "vae", *short, "--latent", 2, "--out", out)
    found = read("gaps", out, *FEW)
    assert [row["gap"] for row in found["gaps"]] == ["amortisation", "independence", "shape", "total"]
    assert found["n"] == 10
    assert {p.name for p in (out / "figures").iterdir()} == {"gaps.png", "kl.png"}
    assert found["error_bounds"]["n"] == 10
    told = found["information"]
    assert told["n"] == 10
    assert len(told["layers"]["z"]["kl_per_dimension"]) == 2
    assert (out / "gaps.json").exists()
    made = tmp_path / "made"
    call("train", "made", *short, "--out", made)
    assert "no latents" in call("gaps", made, *FEW, code=2).stderr


def test_a_refined_guide_is_no_encoder() -> None:
    """Its widening would be called the price of one encoder for all examples."""
    pair, x = pv.build("linear", data_shape=(5,), latent=2), torch.randn(4, 5)
    with pytest.raises(pv.UserError, match="this guide was refined, and no encoder is behind it"):
        pv.gaps(pair.with_guide(pv.refine(pair, x, steps=2)), x)


@pytest.mark.parametrize(("name", "diagonal"), [("vae", True), ("hierarchical", False), ("ladder", False)])
def test_a_guide_whose_latents_depend_on_one_another_is_not_diagonal(name: str, diagonal: bool) -> None:
    """Its best diagonal Gaussian may be worse than it is: amortisation would be negative."""
    options = {} if name == "vae" else {"latent": (3, 2), "hidden2": (4,)}
    pair = pv.build(name, data_shape=(6,), hidden=(5,), **options)
    assert is_diagonal(pair, (torch.rand(2, 6) > 0.5).float(), None) == diagonal
