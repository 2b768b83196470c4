"""The command line: every command, its JSON, its exit codes; errors are one line and no traceback."""

from __future__ import annotations

import csv
import json
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributions import MultivariateNormal
from typer.testing import CliRunner

import ppl_vae as pv
from ppl_vae.cli.app import app
from ppl_vae.cli.posterior import rows_of
from ppl_vae.common.registry import AXES, DATASETS, OBJECTIVES, PAIRS
from ppl_vae.pairs.options import read as read_builder

KEYS = {
    "pair", "data", "split", "n", "num_samples", "seed", "log_px_mean", "log_px_se", "elbo_mean", "bits_per_dim",
    "ess_min", "khat_max", "khat_fraction_unreliable", "khat_exact",  "quantity",
}  # fmt: skip
FAST = ["--epochs", "2", "--hidden", "16", "--latent", "3", "--num-samples", "30", "--limit", "40", "--device", "cpu"]


def call(*args: str | Path, code: int = 0) -> Any:
    result = CliRunner().invoke(app, [str(a) for a in args])
    assert result.exit_code == code, (args, result.output, result.exception)
    if code == 2:
        assert "Traceback" not in result.output
        assert len(result.stderr.strip().splitlines()[-1]) > 10
    return result


def read(*args: str | Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(call(*args, "--json").stdout)
    return found


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    call("train", "vae", *FAST, "--out", folder / "vae")
    call("train", "vae", *FAST, "--out", folder / "iwae", "--objective", "iwae", "--no-figures")
    call("train", "cvae", *FAST, "--out", folder / "cvae", "--no-figures")
    return folder


def test_train_writes_a_run_and_prints_its_evaluation(tmp_path: Path) -> None:
    found = read("train", "vae", *FAST, "--out", tmp_path / "run")
    assert set(found) == KEYS | {"run"}
    assert found["pair"] == "vae"
    assert found["data"] == "digits"
    assert (found["n"], found["num_samples"], found["split"]) == (40, 30, "test")
    assert found["bits_per_dim"] == pytest.approx(-found["log_px_mean"] / 64 / np.log(2))
    names = {p.name for p in (tmp_path / "run").iterdir()}
    assert names == {
        "config.json", "weights.safetensors", "train_state.safetensors", "train_state.json", "history.jsonl",
        "evaluation.json", "log_px.csv", "figures",
    }  # fmt: skip
    assert {k: v for k, v in found.items() if k != "run"} == json.loads((tmp_path / "run/evaluation.json").read_text())
    assert {p.name for p in (tmp_path / "run/figures").iterdir()} >= {"loss.png", "samples.png", "reconstructions.png"}
    config = json.loads((tmp_path / "run/config.json").read_text())
    assert config["pair"] == {"name": "vae", "options": {"latent": 3, "hidden": [16], "data_shape": [1, 8, 8]}}
    assert {"torch", "pyro-ppl", "python"} <= set(config["versions"])


def test_evaluating_again_gives_the_same_figures(runs: Path) -> None:
    one = read("evaluate", runs / "vae", "--num-samples", "50", "--limit", "20", "--device", "cpu")
    two = read("evaluate", runs / "vae", "--num-samples", "50", "--limit", "20", "--device", "cpu")
    assert one == two
    assert set(one) == KEYS
    prior = read("evaluate", runs / "vae", "--num-samples", "50", "--limit", "20", "--proposal", "prior")
    assert set(prior) == KEYS | {"proposal"}
    assert prior["log_px_mean"] != one["log_px_mean"]
    assert "choose one of guide" in call("evaluate", runs / "vae", "--proposal", "flow", code=2).stderr
    other = read("evaluate", runs / "vae", "--num-samples", "50", "--limit", "20", "--seed", "1", "--split", "valid")
    assert other["log_px_mean"] != one["log_px_mean"]
    text = call("evaluate", runs / "vae", "--num-samples", "50", "--limit", "20").stdout
    for part in ("ELBO", "log p(x)", "lower bound in expectation", "K = 50", "seed 0", "Pareto k", "ESS"):
        assert part in text


def test_evaluate_shows_a_row_for_each_estimator(runs: Path, tmp_path: Path) -> None:
    names = ("iwae", "psis", "cubo", "defensive", "ais")
    flags = [f for name in names for f in ("--estimator", name)]
    small = ["--num-samples", "50", "--limit", "10", "--num-chains", "2", "--num-temperatures", "5"]
    found = read("evaluate", runs / "vae", *flags, *small, "--out", tmp_path, "--figures")
    assert set(found) >= KEYS
    assert found["estimator"] == "iwae"
    plain = read("evaluate", runs / "vae", "--num-samples", "50", "--limit", "10", "--out", tmp_path / "plain")
    assert {k: found[k] for k in KEYS} == plain
    assert [r["estimator"] for r in found["estimators"]] == list(names)
    assert [r["side"] for r in found["estimators"]] == ["lower", "neither", "upper", "lower", "lower"]
    assert [r["num_samples"] for r in found["estimators"]] == [50, 50, 50, 50, 2]
    assert any("At least" in s for s in found["sentences"])
    assert [Path(p).name for p in found["figures"]] == ["bound_curves.png", "khat.png", "sandwich.png"]
    assert all(Path(p).read_bytes().startswith(b"\x89PNG") for p in found["figures"])
    assert json.loads((tmp_path / "evaluation.json").read_text()) == found
    assert not list(tmp_path.glob("unfinished*"))
    text = call("evaluate", runs / "vae", *flags, *small, "--out", tmp_path).stdout
    assert "defensive" in text
    assert "At least: the mean log p(x) of these 10 examples is above" in text


def test_each_estimator_is_made_under_each_proposal(runs: Path, tmp_path: Path) -> None:
    small = ["--num-samples", "50", "--limit", "10", "--out", tmp_path]
    flags = ["--estimator", "iwae", "--estimator", "psis", "--proposal", "guide", "--proposal", "defensive"]
    rows = read("evaluate", runs / "vae", *flags, *small)["estimators"]
    assert [(r["proposal"], r["estimator"]) for r in rows] == [
        ("guide", "iwae"), ("guide", "psis"), ("defensive", "defensive"), ("defensive", "defensive psis")
    ]  # fmt: skip
    older = read("evaluate", runs / "vae", *flags[:4], "--estimator", "defensive", *small)["estimators"]
    assert [r["log_px_mean"] for r in older] == [r["log_px_mean"] for r in rows[:3]]
    two = read("evaluate", runs / "vae", "--proposal", "prior", "--proposal", "qmc", *small)["estimators"]
    assert [r["proposal"] for r in two] == ["prior", "qmc"]


def test_evaluate_resumes_after_ctrl_c(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ppl_vae.likelihood import annealing

    small = ["--estimator", "ais", "--limit", "5", "--num-chains", "2", "--num-temperatures", "9", "--out", tmp_path]
    real, count = annealing.move, 0

    def counted(*args: Any) -> Any:
        nonlocal count
        count += 1
        if count == 12:
            raise KeyboardInterrupt
        return real(*args)

    with monkeypatch.context() as patched:
        patched.setattr(annealing, "move", counted)
        assert "the same command resumes from here" in call("evaluate", runs / "vae", *small, code=1).stderr
    assert len(list(tmp_path.glob("unfinished-*"))) == 1
    resumed = read("evaluate", runs / "vae", *small)
    assert not list(tmp_path.glob("unfinished-*"))
    whole = read("evaluate", runs / "vae", *small[:-1], tmp_path / "other")
    assert resumed["log_px_mean"] == whole["log_px_mean"]


def test_evaluate_refuses_estimators_before_any_work(runs: Path, tmp_path: Path) -> None:
    bad = call("evaluate", runs / "vae", "--estimator", "mode", "--out", tmp_path, code=2)
    assert "estimator 'mode' is not known; choose from elbo, iwae" in bad.stderr
    twice = ["--estimator", "iwae", "--estimator", "iwae"]
    assert "named twice" in call("evaluate", runs / "vae", *twice, code=2).stderr
    both = ["--estimator", "psis", "--proposal", "qmc"]
    assert "needs independent draws" in call("evaluate", runs / "vae", *both, code=2).stderr
    assert not (tmp_path / "evaluation.json").exists()


def test_score_writes_a_row_for_each_example(runs: Path, tmp_path: Path) -> None:
    found = read("score", runs / "vae", "--num-samples", "50", "--limit", "20", "--out", tmp_path)
    with Path(found["csv"]).open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 20
    assert list(rows[0]) == ["index", "label", "log_px", "std_error", "ess", "khat", "elbo", "reliable", "quantity"]
    assert sum(float(r["log_px"]) for r in rows) / 20 == pytest.approx(found["log_px_mean"])
    lowest = min(rows, key=lambda r: float(r["log_px"]))
    assert found["lowest"][0]["index"] == int(lowest["index"])
    assert "least likely" in call("score", runs / "vae", "--num-samples", "50", "--limit", "20").stdout


def test_posterior_writes_a_row_for_each_example(runs: Path, tmp_path: Path) -> None:
    """Its means are those of pv.posterior, at the same seed."""
    options = ("--num-samples", "50", "--limit", "4", "--draws", "--out", tmp_path)
    found = read("posterior", runs / "vae", *options)
    assert (found["n"], found["method"]) == (4, "guide")
    head, *rows = [line.split(",") for line in (tmp_path / "posterior.csv").read_text().splitlines()]
    assert head == ["index", "label", "khat", *(f"z[{i}]_{what}" for i in range(3) for what in ("mean", "sd"))]
    with np.load(tmp_path / "posterior.npz") as file:
        draws = dict(file)
    share = np.exp(draws["log_weight"] - draws["log_weight"].max(0))
    means = (share[..., None] * draws["z"]).sum(0) / share.sum(0)[:, None]
    np.testing.assert_allclose([[float(v) for v in row[3::2]] for row in rows], means, rtol=1e-6)
    assert "choose one of guide, sir" in call("posterior", runs / "vae", "--method", "gibbs", code=2).stderr


def test_posterior_gives_class_probabilities() -> None:
    """A site that is summed out has a column for each class, which are p(c | x) of the mixture."""
    target = pv.targets.make("gmm", seed=0)
    x = target.sample(5)
    assert target.exact is not None
    found = pv.posterior(target.exact, x, num_samples=4000)
    head, *rows = rows_of(found, pv.Split(x))
    assert [name for name in head if name.startswith("p(")] == ["p(c=0)", "p(c=1)", "p(c=2)"]
    model: Any = target.pair.model
    covariance = model.W @ model.W.T + model.scale**2 * torch.eye(4, dtype=torch.float64)
    given = MultivariateNormal(model.means @ model.W.T, covariance).log_prob(x[:, None])
    exact = (model.logits + given).softmax(-1)
    probs = torch.tensor([row[-3:] for row in rows], dtype=torch.float64)
    torch.testing.assert_close(probs, exact, rtol=0, atol=0.03)


def test_sample_and_reconstruct_write_images(runs: Path, tmp_path: Path) -> None:
    for command, count in (("sample", 7), ("reconstruct", 6)):
        found = read(command, runs / "vae", "-n", str(count), "--out", tmp_path)
        arrays = [f for f in found["files"] if f.endswith(".npy")]
        assert np.load(arrays[0], allow_pickle=False).shape == (count, 1, 8, 8)
        assert all(Path(f).stat().st_size > 100 for f in found["files"])
    three = np.load(read("sample", runs / "cvae", "-n", "5", "--label", "3", "--out", tmp_path)["files"][0])
    assert three.shape == (5, 1, 8, 8)
    assert "labels 0 to 9" in call("sample", runs / "cvae", "--label", "10", code=2).stderr
    assert "takes no labels" in call("sample", runs / "vae", "--label", "3", code=2).stderr
    assert "draw at least one" in call("sample", runs / "vae", "-n", "0", code=2).stderr


def test_figures_are_drawn_again(runs: Path, tmp_path: Path) -> None:
    found = read("figures", runs / "vae", "--num-samples", "30", "--limit", "30", "--out", tmp_path)
    assert {Path(p).name for p in found["figures"]} == {p.name for p in (tmp_path / "figures").iterdir()}
    assert len(found["figures"]) >= 7


def test_compare_is_paired_on_the_same_data(runs: Path, tmp_path: Path) -> None:
    found = read("compare", runs / "vae", runs / "iwae", "--num-samples", "30", "--limit", "40", "--out", tmp_path)
    assert json.loads((tmp_path / "comparison.json").read_text()) == found
    rows = {row["run"]: row for row in found["strategies"]}
    assert set(rows) == {"vae", "iwae"}
    best = max(rows.values(), key=lambda r: r["log_px"])
    assert best["verdict"] == "best"
    other = min(rows.values(), key=lambda r: r["log_px"])
    assert other["diff"] == pytest.approx(other["log_px"] - best["log_px"])
    assert other["verdict"] in ("worse", "cannot tell")
    text = call("compare", runs / "vae", runs / "iwae", "--num-samples", "30", "--limit", "40").stdout
    assert "paired by example" in text
    assert "given twice" in call("compare", runs / "vae", runs / "vae", code=2).stderr


def test_runs_on_different_data_are_not_compared(runs: Path, tmp_path: Path) -> None:
    call("train", "vae", *FAST, "--out", tmp_path / "other", "--seed", "1", "--no-figures")
    assert "different data" in call("compare", runs / "vae", tmp_path / "other", code=2).stderr


def test_list_prints_every_axis_with_a_line_on_each_name() -> None:
    found = read("list")
    assert [p["name"] for p in found["pairs"]] == list(PAIRS)
    assert {p["package"] for p in found["pairs"]} == {"ppl_vae"}
    assert found["objectives"] == list(OBJECTIVES)
    assert found["datasets"] == list(DATASETS)
    assert list(found["use_when"]) == list(AXES)
    text = call("list").stdout
    for axis, lines in found["use_when"].items():
        assert list(lines) == list(AXES[axis])
        assert axis in text
        assert all(line and line in text for line in lines.values())


def test_the_tables_of_names_are_those_of_the_code() -> None:
    from ppl_vae.data import readers
    from ppl_vae.likelihood import estimators, proposals
    from ppl_vae.nn import likelihoods
    from ppl_vae.training import optimisers, schedules

    assert list(AXES["likelihoods"]) == list(likelihoods.LIKELIHOODS)
    assert set(AXES["proposals"]) == set(proposals.PROPOSALS)
    assert set(AXES["estimators"]) == {*estimators.ESTIMATORS, "ais"}
    assert list(AXES["optimizers"]) == list(optimisers.OPTIMIZERS)
    assert set(AXES["datasets"]) == set(readers.READERS)
    assert list(AXES["schedules"]) == list(schedules.SCHEDULES)
    for network in AXES["networks"]:
        shape = {"conv1d": (1, 8), "conv3d": (1, 8, 8, 8)}.get(network, (1, 8, 8))
        pv.build("vae", data_shape=shape, hidden=(4,), network=network)


DATA = ("--data", "--binarize", "--levels", "--likelihood", "--labels")


@pytest.mark.parametrize("pair", PAIRS)
def test_every_pair_trains_from_the_command_line(pair: str, tmp_path: Path) -> None:
    options = ["--epochs", "1", "--num-samples", "20", "--limit", "20", "--device", "cpu", "--no-figures"]
    words = shlex.split(read_builder(pair).command)  # of its page: which data, and what they need
    options += [w for at, one in enumerate(words) if one in DATA for w in words[at : at + 2]]
    found = read("train", pair, *options, "--out", tmp_path / "run")
    assert found["pair"] == pair
    assert (found["log_px_mean"] is None) is (pair.endswith("autoencoder") or pair == "vqvae")
    assert (found["khat_exact"] == 20) is (pair in ("made", "pixelcnn", "transformer", "classifier"))
    if pair == "autoencoder":
        assert "no density" in call("evaluate", tmp_path / "run", code=2).stderr


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["train", "lost"], "pair 'lost' is not known; choose one of autoencoder"),
        (["train", "made", "--latent", "3"], "takes no --latent; it takes --hidden"),
        (["train", "vae", "--latent", "many"], "--latent 'many': a whole number is needed"),
        (["train", "vae", "--hidden", "20,x"], "--hidden '20,x': a whole number is needed"),
        (["train", "vae", "--latent", "0"], "latent=0"),
        (["train", "vae", "--likelihood", "gamma"], "likelihood='gamma': choose one of bernoulli"),
        (["train", "vae", "--objective", "vae"], "objective 'vae' is not known"),
        (["train", "vae", "--objective", "analytic_kl", "--gradient", "dreg"], "takes no option gradient"),
        (["train", "vae", "--data", "imagenet"], "imagenet"),
        (["train", "vae", "--binarize", "none"], "outside the support of site 'x'"),
        (["train", "vae", "--epochs", "0"], "epochs=0"),
        (["train", "vae", "--valid", "half"], "--valid 'half'"),
        (["train", "vae", "--epochs", "2", "--warmup", "3"], "never reach 1"),
        (["train", "hierarchical", "--objective", "analytic_kl"], "'z1' before 'z2'"),
        (["train", "vae", "--device", "cuda:99"], "no such GPU"),
        (["train", "--resume"], "--resume needs --out"),
        (["evaluate", "nowhere"], "nowhere is not a run"),
        (["compare", "nowhere", "elsewhere"], "is not a run"),
        (["compare", "nowhere"], "one run was given; give two or more"),
        (["train", "--num-samples", "0"], "--num-samples 0: at least 1"),
        (["train", "--limit", "-1"], "--limit -1: at least 1"),
        (["train", "--lr", "inf"], "lr=inf: the learning rate must be positive and finite"),
    ],
)
def test_what_the_user_can_fix_is_one_line(
    args: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = call(*args, *(["--device", "cpu"] if "--device" not in args else []), code=2)
    errors = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert message in errors[0]
    assert not (tmp_path / "runs").exists()


def test_a_run_that_was_tampered_with_is_refused(runs: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(runs / "vae", tmp_path / "run")
    weights = tmp_path / "run" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    assert "not a whole safetensors file" in call("evaluate", tmp_path / "run", code=2).stderr
    assert "holds a run already" in call("train", "vae", *FAST, "--out", runs / "vae", code=2).stderr
    assert "no split 'all'" in call("evaluate", runs / "vae", "--split", "all", code=2).stderr
    assert "data of shape" in call("evaluate", runs / "vae", "--data", _other_shape(tmp_path), code=2).stderr


def _other_shape(folder: Path) -> Path:
    np.save(folder / "x.npy", np.zeros((50, 3), dtype=np.float32))
    return folder / "x.npy"


def test_the_options_of_a_run_are_its_own_when_it_is_resumed(runs: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(runs / "vae", tmp_path / "run")
    found = read("train", "--out", tmp_path / "run", "--resume", "--num-samples", "30", "--limit", "40", "--no-figures")
    assert found["log_px_mean"] == read("evaluate", runs / "vae", "--num-samples", "30", "--limit", "40")["log_px_mean"]
    result = call("train", "--out", tmp_path / "run", "--resume", "--lr", "0.5", code=2)
    assert "the run has lr=0.001, you ask for 0.5" in result.stderr


def test_ctrl_c_leaves_a_run_that_resumes_bit_for_bit(tmp_path: Path) -> None:
    """An interrupted process, resumed in another one, gives the weights and figures of an uninterrupted one."""
    args = ["train", "vae", *FAST, "--epochs", "40", "--no-figures"]
    whole = read(*args, "--out", tmp_path / "whole")
    command = [sys.executable, "-m", "ppl_vae", *args, "--json", "--out", tmp_path / "cut"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as p:
        while not (tmp_path / "cut" / "config.json").exists():
            assert p.poll() is None
            time.sleep(0.01)
        time.sleep(0.1)
        p.send_signal(signal.SIGINT)
        _, err = p.communicate(timeout=60)
    assert p.returncode == 1
    assert b"--resume" in err
    assert b"Traceback" not in err
    again = read("train", "--resume", "--out", tmp_path / "cut")  # what the evaluation was to be is known too
    assert not (tmp_path / "cut" / "figures").exists()
    name = "weights.safetensors"
    assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert {**whole, "run": ""} == {**again, "run": ""}


def test_help_needs_no_torch() -> None:
    for args in (["--help"], ["train", "--help"], ["list"]):
        code = f"import sys; sys.argv = ['ppl-vae', *{args}]\nfrom ppl_vae.cli.app import app\n" + (
            "try:\n    app()\nexcept SystemExit as e:\n    assert not e.code\nassert 'torch' not in sys.modules\n"
        )
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    text = call("train", "--help").stdout
    for option in ("--latent", "--hidden", "--likelihood", "--network", "--hidden2", "--guide"):
        assert option in text


def test_a_good_run_outlives_a_bad_request_to_overwrite_it(runs: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(runs / "vae", tmp_path / "run")
    before = {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir() if p.is_file()}
    for bad in (["--lr", "inf"], ["--epochs", "0"], ["--binarize", "none"], ["--warmup", "9"], ["--num-samples", "0"]):
        call("train", "vae", *FAST, *bad, "--out", tmp_path / "run", "--overwrite", code=2)
    assert {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir() if p.is_file()} == before
    call("train", "vae", *FAST, "--out", tmp_path / "run", "--overwrite", "--seed", "5", "--no-figures")
    assert not list((tmp_path / "run" / "figures").glob("*.png"))  # the old pictures are not of this run


def test_a_run_is_whole_from_its_first_moment(tmp_path: Path) -> None:
    result = call(
        "train", "vae", *FAST, "--out", tmp_path / "run", "--optimizer", "sgd", "--lr", "1e9", "--no-figures", code=2
    )
    assert "training stopped at step" in result.stderr
    assert "labels" not in result.stderr
    read("evaluate", tmp_path / "run", "--num-samples", "10", "--limit", "5")


def test_few_samples_are_not_called_exact(runs: Path) -> None:
    for num_samples in ("1", "10"):
        text = call("evaluate", runs / "vae", "--num-samples", num_samples, "--limit", "10").stdout
        assert "too few samples" in text
        assert "exact" not in text


def test_a_length_of_training_is_given_once(tmp_path: Path) -> None:
    for more in (["--steps", "5"], ["--seconds", "1"]):
        told = call("train", "vae", "--epochs", "2", *more, "--out", tmp_path / "run", code=2).stderr
        assert f"--epochs and {more[0]}: each says how long to train; give one of them" in told
    assert not (tmp_path / "run").exists()


def test_codes_without_a_density_have_no_bound(tmp_path: Path) -> None:
    """What an autoencoder is given is log p(x, z) at its codes, and not called an ELBO."""
    run = tmp_path / "run"
    small = ("--latent", "2", "--hidden", "8", "--epochs", "1", "--no-figures")
    text = call("train", "autoencoder", *small, "--out", run, "--limit", "5")
    assert "log p(x, z)" in text.stdout
    assert "no bound on log p(x)" in text.stdout
    assert "ELBO" not in text.stdout
    assert "log p(x)" not in text.stderr  # no bar of an estimate that was refused


def test_a_likelihood_given_labels_is_called_so(runs: Path) -> None:
    assert "log p(x | y)" in call("evaluate", runs / "cvae", "--num-samples", "50", "--limit", "20").stdout
    assert "log p(x|y)" not in call("evaluate", runs / "vae", "--num-samples", "50", "--limit", "20").stdout
    result = call("compare", runs / "vae", runs / "cvae", "--num-samples", "50", "--limit", "20", code=2)
    assert "compare like with like" in result.stderr
    assert "log p(x)  " not in result.stderr  # no bar: nothing was estimated before


def test_a_run_on_a_file_is_evaluated_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    np.savez("data.npz", x=(np.random.default_rng(0).random((80, 6)) > 0.5).astype(np.float32))
    call("train", "vae", *FAST, "--data", "data.npz", "--out", tmp_path / "run", "--no-figures")
    monkeypatch.chdir(tmp_path)
    assert read("evaluate", "run", "--num-samples", "30", "--limit", "5")["n"] == 5
    call("train", "--out", "run", "--resume", "--data", "here/data.npz", "--no-figures", "--num-samples", "5")
    np.savez("other.npz", x=np.zeros((80, 6), np.float32))
    result = call("train", "--out", "run", "--resume", "--data", "other.npz", code=2)
    assert "no longer those of the run" in result.stderr


@pytest.mark.parametrize("command", ["evaluate", "score", "sample", "reconstruct", "figures"])
def test_an_output_that_is_a_file_is_refused(command: str, runs: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    call(command, runs / "vae", "--out", tmp_path / "file", code=2)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_damaged_history_is_one_line(runs: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(runs / "vae", tmp_path / "run")
    (tmp_path / "run" / "history.jsonl").write_text("{nonsense")
    assert "not JSON lines" in call("figures", tmp_path / "run", "--num-samples", "5", "--limit", "5", code=2).stderr


def test_a_terminal_without_unicode_gets_a_table_too(runs: Path) -> None:
    import os

    env = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-m", "ppl_vae", "evaluate", runs / "vae", "--num-samples", "30", "--limit", "5"]
    done = subprocess.run(command, env=env, capture_output=True, check=True)
    assert b"log p(x)" in done.stdout


def test_many_images_are_all_written_and_some_are_drawn(runs: Path, tmp_path: Path) -> None:
    found = read("sample", runs / "vae", "-n", "1000", "--out", tmp_path)
    assert len(np.load(found["files"][0])) == 1000
    read("reconstruct", runs / "vae", "-n", "300", "--out", tmp_path)


def test_gradients_prints_the_exact_and_the_drawn_one() -> None:
    found = read("gradients", "vimco:num_particles=2", "--copies", 4000)
    assert [(row["of"], row["z"] < 5) for row in found["gradients"]] == [("model", True), ("guide", True)]
    assert "choose from elbo" in call("gradients", "none", code=2).stderr


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    """As in ``ppl-vae list | head -1``: the pipe closes while the command writes."""
    process = subprocess.Popen(
        [sys.executable, "-m", "ppl_vae", "list"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.communicate()[1] == b""
    assert process.returncode == 1
