"""The options of a fit are one frozen record: validated, shared by Python and a run folder, and quick to import."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import ppl_vae as pv
from ppl_vae.training.config import FitConfig, names


def pair_and_data() -> tuple[pv.Pair, torch.Tensor]:
    torch.manual_seed(0)
    return pv.build("linear", data_shape=(3,), latent=1), torch.randn(20, 3)


def fit(folder: Path | None = None, objective: Any = None, **options: Any) -> torch.Tensor:
    pair, x = pair_and_data()
    pv.fit(pair, x, objective, progress=False, run_dir=folder, **options)
    return torch.cat([p.detach().flatten() for p in pair.parameters()])


SHORT = FitConfig(epochs=2, batch_size=10, device="cpu")


def test_a_configuration_and_the_same_options_train_the_same_weights() -> None:
    one = fit(config=SHORT.replace(lr=0.1))
    assert torch.equal(one, fit(epochs=2, batch_size=10, device="cpu", lr=0.1))
    assert torch.equal(one, fit(config=SHORT.replace(lr=0.5), lr=0.1))  # an option replaces that of the configuration
    assert not torch.equal(one, fit(config=SHORT))


def test_the_objective_is_that_of_the_call_or_else_of_the_configuration(tmp_path: Path) -> None:
    config = SHORT.replace(objective=pv.IWAE(3))
    for name, objective, expected in (("a", None, "IWAE"), ("b", "elbo", "Elbo")):
        fit(tmp_path / name, objective, config=config)
        assert json.loads((tmp_path / name / "config.json").read_text())["fit"]["objective"]["name"] == expected


def test_every_option_is_recorded_and_has_a_line_of_help(tmp_path: Path) -> None:
    fit(tmp_path / "run", config=SHORT)
    recorded = json.loads((tmp_path / "run" / "config.json").read_text())["fit"]
    assert set(recorded) == {*names(), "data"}
    assert recorded["shards"] == 1
    for field in dataclasses.fields(FitConfig):
        assert field.metadata["help"], field.name
        assert "\n" not in field.metadata["help"]
        assert field.default is not dataclasses.MISSING, field.name


def test_an_option_that_is_no_part_of_what_a_run_is_may_change_when_it_is_resumed(tmp_path: Path) -> None:
    assert set(names()) - set(names(same=True)) == {"checkpoint_every", "capture"}
    whole = fit(tmp_path / "whole", config=SHORT)
    fit(tmp_path / "run", config=SHORT, callbacks=[lambda row, pair: True])
    assert torch.equal(fit(tmp_path / "run", config=SHORT, resume=True, checkpoint_every=1), whole)
    with pytest.raises(pv.RunError, match="clip_norm=None and you ask for 2"):
        fit(tmp_path / "run", config=SHORT, resume=True, clip_norm=2.0)


def test_a_run_from_before_an_option_is_resumed_with_its_default(tmp_path: Path) -> None:
    whole = fit(tmp_path / "whole", "analytic_kl", config=SHORT)
    fit(tmp_path / "run", "analytic_kl", config=SHORT, callbacks=[lambda row, pair: True])
    path = tmp_path / "run" / "config.json"
    config = json.loads(path.read_text())
    for name in ("clip_norm", "precision", "shards", "patience", "capture", "checkpoint_every"):
        del config["fit"][name]
    config["fit"]["objective"]["name"] = "MeanField"  # as it was called
    path.write_text(json.dumps(config))
    with pytest.raises(pv.RunError, match="patience=None"):
        fit(tmp_path / "run", "analytic_kl", config=SHORT, resume=True, patience=3, valid=torch.randn(5, 3))
    with pytest.raises(pv.RunError, match=r"objective\.name='AnalyticKL'"):
        fit(tmp_path / "run", "elbo", config=SHORT, resume=True)
    assert torch.equal(fit(tmp_path / "run", "analytic_kl", config=SHORT, resume=True), whole)


@pytest.mark.parametrize("make", [FitConfig().replace, lambda **options: fit(**options)])
def test_an_unknown_option_is_refused_with_the_nearest_and_all_that_there_are(make: Any) -> None:
    with pytest.raises(pv.UserError, match=r"no option 'learning'.*The options are objective, epochs"):
        make(learning=1)
    with pytest.raises(pv.UserError, match=r"no option 'epoch'; did you mean 'epochs'\? The options are objective, "):
        make(epoch=1)


def test_fit_names_its_own_arguments_too() -> None:
    with pytest.raises(pv.UserError, match=r"no option 'run_dirr'; did you mean 'run_dir'\?"):
        fit(run_dirr="a")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": None}, "precision=None: choose one of float32, bf16"),
        ({"precision": "half"}, "precision='half': choose one of float32, bf16"),
        ({"objective": "vae"}, "objective 'vae' is not known"),
        ({"warmup": -1}, "warmup=-1: at least 0"),
        ({"checkpoint_every": -1}, "checkpoint_every=-1: at least 0"),
        ({"shards": 200}, "shards=200 of batch_size=128"),
        ({"capture": "on"}, "capture='on': choose True, False or 'auto'"),
    ],
)
def test_a_configuration_checks_itself(options: dict[str, Any], message: str) -> None:
    with pytest.raises(pv.UserError, match=message):
        FitConfig(**options)
    with pytest.raises(pv.UserError, match=message):
        FitConfig().replace(**options)


def test_a_configuration_is_frozen_and_former_names_are_accepted() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        SHORT.epochs = 3  # type: ignore[misc]
    assert FitConfig(objective="meanfield").objective == "meanfield"


def test_an_optimiser_may_be_an_instance_that_holds_the_parameters(tmp_path: Path) -> None:
    def run(folder: str, made: bool, **more: Any) -> torch.Tensor:
        pair, x = pair_and_data()
        adam = torch.optim.Adam(pair.parameters(), lr=0.1) if made else torch.optim.Adam
        pv.fit(pair, x, config=SHORT, optimizer=adam, lr=0.1, progress=False, run_dir=tmp_path / folder, **more)
        return torch.cat([p.detach().flatten() for p in pair.parameters()])

    whole = run("whole", True)
    assert torch.equal(whole, run("made", False))
    run("broken", True, callbacks=[lambda row, pair: True])
    assert torch.equal(run("broken", True, resume=True), whole)


def test_the_options_need_no_torch() -> None:
    code = "import sys, ppl_vae.training.config; print({'torch', 'pyro', 'numpy'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"
