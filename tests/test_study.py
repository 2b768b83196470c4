"""Studies: what strategies have in common, what resumes, what fails, and what the tables say."""

from __future__ import annotations

import json
import os
import signal
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from filelock import FileLock
from inline import Inline
from torch import nn

import ppl_vae as pv
from ppl_vae.strategies import cells, evaluation, strategy, study as module
from ppl_vae.strategies.cells import lock_of, result_of
from ppl_vae.strategies.progress import progress
from ppl_vae.strategies.strategy import named

BASE = pv.Strategy("linear", latent=2, lr=3e-3, batch_size=20)
FAST: dict[str, Any] = {
    "budget": {"steps": 6}, "evaluation": {"num_samples": 20, "proposal": "guide"}, "progress": False
}  # fmt: skip


@pytest.fixture(scope="module")
def data() -> pv.Data:
    g = torch.Generator().manual_seed(0)
    z = torch.randn(120, 2, generator=g)
    return pv.load_data(z @ torch.randn(2, 5, generator=g) + 0.5 * torch.randn(120, 5, generator=g))


def run(strategies: Any, data: pv.Data, out: Path, **options: Any) -> pv.Study:
    return pv.study(strategies, data, out=out, **{"executor": Inline(), "seeds": 2, **FAST, **options})


def weights(pair: pv.Pair) -> dict[str, torch.Tensor]:
    return {k: v for k, v in pair.state_dict().items() if torch.is_tensor(v)}


def test_strategies_of_a_seed_share_initial_weights_wherever_shapes_agree(data: pv.Data) -> None:
    base = pv.Strategy("vae", latent=3, hidden=(8,))
    one, same, wider, other = (
        weights(s.build(data, seed))
        for s, seed in ((base, 0), (base.replace(objective="iwae"), 0), (base.replace(latent=4), 0), (base, 1))
    )
    assert all(torch.equal(one[k], same[k]) for k in one)
    equal = [k for k in one if one[k].shape == wider[k].shape and one[k].numel() > 8]
    assert equal
    assert all(torch.equal(one[k], wider[k]) for k in equal)
    assert not all(torch.equal(one[k], other[k]) for k in one)


class Constant(nn.Module):
    """A model with a constant, in a buffer and in a parameter, that an option sets."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.register_buffer("value", torch.tensor([value]))
        self.bias = nn.Parameter(torch.full((1,), value))

    def forward(self, x: Any = None, y: Any = None, n: int = 1) -> None:
        size = n if x is None else len(x)
        with pyro.plate("data", size):
            pyro.sample("x", dist.Normal(self.bias.expand(size, 5), self.value).to_event(1), obs=x)


def constant(*, data_shape: Any, value: float = 1.0) -> pv.Pair:
    model = Constant(value)
    return pv.Pair(model, lambda x, y=None: None)


def test_constants_that_an_option_sets_are_those_of_the_strategy(data: pv.Data) -> None:
    """Strategies share random initial weights, and no others, in whichever order they come."""
    one, two = (weights(pv.Strategy(constant, value=v).build(data, 0)) for v in (1.0, 3.0))
    assert [float(w["model.value"]) for w in (one, two)] == [1.0, 3.0]
    assert [float(w["model.bias"]) for w in (one, two)] == [1.0, 3.0]


def test_what_makes_other_work_is_another_cell() -> None:
    """The code of a class that a builder calls, and the settings of a likelihood that is an instance."""
    source = "class M:\n def f(self): return {}\ndef build(latent=2): return M()\n"
    digests = []
    for value in (0.5, 2.0):
        space: dict[str, Any] = {"__name__": "mine"}
        exec(source.format(value), space)
        digests.append(pv.Strategy(space["build"]).record())
    assert digests[0] != digests[1]
    likelihoods = [pv.likelihoods.Gaussian(sigma=s) for s in (0.5, 2.0)]
    made = [pv.Strategy("vae", likelihood=one) for one in likelihoods]
    assert made[0].record() != made[1].record()
    assert list(pv.grid(pv.Strategy("vae"), likelihood=likelihoods)) == [
        "likelihood=Gaussian()",
        "likelihood=Gaussian() (2)",
    ]
    assert len(named(made)) == 2


def test_twins_have_the_same_runs_and_a_cell_is_what_fit_gives(data: pv.Data, tmp_path: Path) -> None:
    """The same strategy under two names: equal estimates; and those of build, fit and log_likelihood by hand."""
    found = run({"a": BASE, "b": BASE.replace()}, data, tmp_path)
    assert np.array_equal(found.log_px["a"], found.log_px["b"])
    assert found.rows()[1]["verdict_to_reference"] == "cannot tell"
    pair = BASE.build(data, 1)
    pv.fit(pair, data, steps=6, lr=3e-3, batch_size=20, seed=1, progress=False)
    est = pv.log_likelihood(pair, data.test, num_samples=20, seed=0)
    np.testing.assert_allclose(found.log_px["a"][1], est.log_px.numpy(), rtol=1e-5)
    loaded = pv.load(tmp_path / found.results["a"][1]["folder"])
    for name, value in weights(loaded).items():
        torch.testing.assert_close(value, weights(pair)[name])


def test_nothing_is_done_twice_and_what_changes_is_a_new_cell(data: pv.Data, tmp_path: Path) -> None:
    first, again, more, changed = (Inline() for _ in range(4))
    run({"a": BASE}, data, tmp_path, executor=first)
    one = run({"a": BASE}, data, tmp_path, executor=again)
    two = run({"a": BASE, "b": BASE.replace(lr=1e-2)}, data, tmp_path, seeds=3, executor=more)
    three = run({"a": BASE.replace(lr=1e-2)}, data, tmp_path, executor=changed)
    assert [e.count for e in (first, again, more, changed)] == [2, 0, 4, 2]
    assert np.array_equal(two.log_px["a"][:2], one.log_px["a"])
    assert not np.array_equal(three.log_px["a"], one.log_px["a"])
    wider = run({"a": BASE}, data, tmp_path, evaluation={"num_samples": 30, "proposal": "guide"})
    assert wider.evaluation["num_samples"] == 30  # the weights are there, and only the evaluation is new
    with pytest.raises(pv.RunError, match="it holds other data; choose another folder"):
        run({"a": BASE}, pv.load_data(torch.randn(50, 5)), tmp_path)


def test_a_cell_that_fails_is_a_row_with_its_reason(data: pv.Data, tmp_path: Path) -> None:
    strategies = {
        "good": BASE,
        "bad": BASE.replace(lr=1e30, optimizer="sgd"),
        "scarce": BASE.replace(guide="flow:kind=no"),
    }
    with pytest.warns(UserWarning, match="^scarce can't be built, and its cells will fail: ") as said:
        found = run(strategies, data, tmp_path, executor=Inline())
    assert len(said) == 1  # before an hour is spent on the others
    reasons = {name: why for name, _, why in found.failed}
    assert set(reasons) == {"bad", "scarce"}
    assert "training stopped at step" in reasons["bad"]
    rows = {r["strategy"]: r for r in found.rows()}
    assert (rows["good"]["seeds"], rows["bad"]["seeds"], rows["bad"]["failed"]) == (2, 0, 2)
    assert rows["bad"]["log_px"] is None
    assert "bad failed (seed" in str(found)
    again = Inline()
    with pytest.warns(UserWarning, match="scarce"):
        run(strategies, data, tmp_path, executor=again)
    assert again.count == 0
    with pytest.raises(pv.UserError, match="no cell of 'bad' was trained and evaluated: bad, seed 0: training stopped"):
        found.compare("bad")


def test_cells_that_could_not_be_built_are_tried_again_when_they_can(
    data: pv.Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as after the package that was absent is installed; what failed in training is not done again."""

    def absent(*_: Any) -> Any:
        raise pv.UserError("needs a package: pip install it")

    with monkeypatch.context() as patch:
        patch.setattr(strategy.Strategy, "build", absent)
        with pytest.warns(UserWarning, match="can't be built, and its cells will fail: needs a package"):
            found = run({"a": BASE, "bad": BASE.replace(lr=1e30, optimizer="sgd")}, data, tmp_path, executor=Inline())
    assert [name for name, *_ in found.failed] == ["a", "a", "bad", "bad"]
    once, again = Inline(), Inline()
    found = run({"a": BASE, "bad": BASE.replace(lr=1e30, optimizer="sgd")}, data, tmp_path, executor=once)
    assert (once.count, [name for name, *_ in found.failed]) == (4, ["bad", "bad"])
    run({"a": BASE, "bad": BASE.replace(lr=1e30, optimizer="sgd")}, data, tmp_path, executor=again)
    assert again.count == 0


class Laplace(nn.Module):
    """A custom guide: features to a distribution."""

    def __init__(self, features: int, latent: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features, 2 * latent)

    def forward(self, h: torch.Tensor) -> Any:
        loc, log_scale = self.linear(h).chunk(2, -1)
        return dist.Laplace(loc, log_scale.exp()).to_event(1)


class Model(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Linear(2, width)

    def forward(self, x: Any = None, y: Any = None, n: int = 1) -> Any:
        with pyro.plate("data", n if x is None else len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(self.net(z), 0.5).to_event(1), obs=x)


class Guide(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Linear(width, 2)

    def forward(self, x: torch.Tensor, y: Any = None) -> None:
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(self.net(x), 0.5).to_event(1))


def mine(*, data_shape: tuple[int, ...]) -> pv.Pair:
    """A custom pair."""
    return pv.Pair(Model(*data_shape), Guide(*data_shape))


def test_custom_objective_guide_and_pair_take_part(data: pv.Data, tmp_path: Path) -> None:
    """A lambda, a class and a function, without registration; the objective log_w is the ELBO."""
    vae = pv.Strategy("vae", latent=2, hidden=(8,), likelihood="gaussian", batch_size=20)
    strategies = {
        "elbo": vae, "lambda": vae.replace(objective=lambda t: t.log_w.mean(0)),
        "guide": vae.replace(guide=Laplace), "pair": pv.Strategy(mine, batch_size=20),
    }  # fmt: skip
    found = run(strategies, data, tmp_path)
    assert not found.failed
    np.testing.assert_allclose(found.log_px["lambda"], found.log_px["elbo"], rtol=1e-4)
    assert {r["seeds"] for r in found.rows()} == {2}
    assert found.rows()[0]["verdict_to_reference"] == "reference"


@pytest.mark.parametrize(
    ("budget", "steps"),
    [({"steps": 7}, 7), ({"epochs": 2}, 10), ({"decoder_evaluations": 400}, 23), ({"decoder_evaluations": 10}, 1)],
)
def test_a_budget_is_the_same_work(budget: dict[str, float], steps: int, data: pv.Data, tmp_path: Path) -> None:
    """84 training examples in batches of 20: 5 steps an epoch, the last of 4 examples; 400 are 4 epochs and 3 steps."""
    found = run({"a": BASE}, data, tmp_path, budget=budget, seeds=1)
    assert found.results["a"][0]["steps"] == steps


def test_ten_particles_have_a_tenth_of_the_steps(data: pv.Data, tmp_path: Path) -> None:
    """Work is that of the examples that were seen, to within half a batch, also where batches differ in size."""
    strategies = {
        "elbo": BASE,
        "iwae": BASE.replace(objective="iwae", num_particles=10),
        "big": BASE.replace(batch_size=83),
    }
    found = run(strategies, data, tmp_path, budget={"decoder_evaluations": 2000}, seeds=1)
    steps, work = ([found.results[n][0][k] for n in strategies] for k in ("steps", "decoder_evaluations"))
    assert steps == [118, 12, 47]  # 23 epochs of 5 steps and 3; 2 of 5 and 2; 23 of 2 and 1
    assert work == [23 * 84 + 60, 10 * (2 * 84 + 40), 23 * 84 + 83]


def test_tuning_takes_what_is_best_on_the_validation_data(data: pv.Data, tmp_path: Path) -> None:
    """A learning rate that moves nothing is never chosen; the trials of each strategy are as many."""
    executor = Inline()
    strategies = {"elbo": BASE, "iwae": BASE.replace(objective="iwae", num_particles=5)}
    found = run(strategies, data, tmp_path, tune={"lr": [1e-9, 0.05]}, budget={"steps": 40}, executor=executor)
    assert found.tuned == {"elbo": {"lr": 0.05}, "iwae": {"lr": 0.05}}
    assert found.strategies["iwae"]["given"]["lr"] == 0.05
    assert executor.count == 2 * 2 + 2 * 2


def test_a_weight_of_zero_hides_nothing(data: pv.Data, tmp_path: Path) -> None:
    """An example whose mean log weight is -inf, and which is reliable, adds no slack; nor does it spoil the rest."""
    run({"a": BASE, "b": BASE.replace(lr=0.1)}, data, tmp_path)
    found = pv.load_study(tmp_path)
    for r in found.results["b"].values():
        r["mean_log_w"][0], r["unreliable"][:] = -torch.inf, False
    assert found.slack["b"] == 0


def test_the_parts_of_a_difference_add_up(data: pv.Data, tmp_path: Path) -> None:
    """A difference of ELBOs is that of log p(x) and, with the other sign, that of the gaps; causes make up the gap."""
    how = {"num_samples": 50, "proposal": "guide", "gaps": 6}
    found = run({"a": BASE, "b": BASE.replace(latent=1)}, data, tmp_path, budget={"steps": 60}, evaluation=how)
    [row] = found.parts()
    assert row["elbo"]["diff"] == pytest.approx(row["model"]["diff"] + row["inference"]["diff"], abs=1e-9)
    gap = found.compare(of="gap")["b"]
    assert gap.diff == pytest.approx(float((found.log_px["b"] - found.elbo["b"]).mean() - found.gap["a"].mean()))
    assert gap.verdict in ("cannot tell", "better" if gap.diff < 0 else "worse")
    assert found.causes["a"]["shape"].shape == (2, 6)
    assert np.abs(found.causes["a"]["shape"]).max() < 0.5  # the posterior is Gaussian
    with pytest.raises(pv.UserError, match="of='nats': choose one of log_px, elbo, gap"):
        found.compare(of="nats")


def test_a_study_is_read_from_its_folder(data: pv.Data, tmp_path: Path) -> None:
    found = run({"a": BASE, "b": BASE.replace(latent=1)}, data, tmp_path)
    again = pv.load_study(tmp_path)
    assert str(again) == str(found)
    assert again.rows() == found.rows()
    assert again.strategies["b"]["given"]["latent"] == 1
    (tmp_path / found.results["b"][1]["folder"] / "cell.json").unlink()
    assert pv.load_study(tmp_path).missing == [("b", 1)]
    counts = {name: (p.done, p.running, p.left) for name, p in progress(tmp_path).items()}
    assert counts == {"a": (2, 0, 0), "b": (1, 0, 1)}
    with FileLock(lock_of(tmp_path / found.folders["b"] / "seed-1")):
        assert progress(tmp_path)["b"].running == 1
    (tmp_path / "study.json").write_text("{}")
    with pytest.raises(pv.RunError, match="it is not what a study writes"):
        pv.load_study(tmp_path)


def test_when_a_bound_is_reached(data: pv.Data, tmp_path: Path) -> None:
    """By the rows of the history: on the straight line between the last epoch below a level and the first above."""
    found = run({"a": BASE}, data, tmp_path, budget={"steps": 25})
    rows = found.results["a"][0]["history"]
    level = 0.75 * rows[1]["valid_elbo"] + 0.25 * rows[2]["valid_elbo"]
    assert rows[2]["valid_elbo"] > rows[1]["valid_elbo"] > rows[0]["valid_elbo"]
    assert found.reached(level, "steps")["a"][0] == pytest.approx(0.75 * rows[1]["step"] + 0.25 * rows[2]["step"])
    work = found.reached(level, "decoder_evaluations")["a"][0]
    assert work == pytest.approx(found.reached(level, "steps")["a"][0] * (84 * 5) / 25)
    assert found.reached(0.0)["a"] == [np.inf, np.inf]


def test_shares_of_the_cells_make_up_the_study(data: pv.Data, tmp_path: Path) -> None:
    strategies = pv.grid(BASE, latent=[1, 2, 3])
    parts = [run(strategies, data, tmp_path, only=(i, 4)) for i in (1, 2, 3, 4)]
    assert [len(p.missing) for p in parts] == [4, 2, 1, 0]
    assert "4 cells were not run yet" in str(parts[0])
    whole = run(strategies, data, tmp_path / "whole")
    assert all(np.array_equal(parts[-1].log_px[n], whole.log_px[n]) for n in strategies)


def test_tables_say_what_the_estimates_are(data: pv.Data, tmp_path: Path) -> None:
    strategies = pv.grid(BASE, latent=[2, 1])
    found = run(strategies, data, tmp_path, seeds=3, budget={"steps": 60})
    one, two = (found.log_px[n] for n in strategies)
    rows = found.rows()
    assert rows[1]["diff_to_reference"] == pytest.approx(float((two - one).mean()))
    best, other = ("latent=2", "latent=1") if found.best == "latent=2" else ("latent=1", "latent=2")
    table = found.table.sel(strategy=other)
    assert float(table["diff"]) == pytest.approx(-abs(float((two - one).mean())))
    assert float(table["diff_se"]) == pytest.approx(found.compare()["latent=1"].se)
    assert str(table["verdict"].values) in ("worse", "cannot tell")
    assert str(found.table["verdict"].sel(strategy=best).values) == "best"
    assert float(found.table["log_px"].sel(strategy=best)) == rows[list(strategies).index(best)]["log_px"]
    assert rows[0]["sd_seeds"] == pytest.approx(float(one.mean(1).std(ddof=1)))
    sheet = found.dataset()
    assert sheet["log_px"].shape == (2, 3, one.shape[1])
    assert float(sheet["diff"].sel(strategy="latent=1")) == rows[1]["diff"]
    assert sheet.attrs["evaluation_proposal"] == "guide"
    assert (tmp_path / "report.html").is_file()
    assert json.loads((tmp_path / "study.json").read_text())["table"] == json.loads(json.dumps(rows))


def test_figures_draw_what_the_tables_say(data: pv.Data, tmp_path: Path) -> None:
    """A point and a line for each difference; a curve for each strategy, which ends at the mean over its seeds."""
    found = run(pv.grid(BASE, latent=[2, 1]), data, tmp_path, seeds=3, budget={"epochs": 12})
    one = found.compare()["latent=1"]
    [ax] = pv.figures.forest(found).axes
    line, point, _ = ax.lines
    assert line.get_xdata() == pytest.approx([one.low, one.high])
    assert float(np.ravel(point.get_xdata())[0]) == pytest.approx(one.diff)
    assert [t.get_text() for t in ax.texts] == [one.verdict]
    for against in ("steps", "seconds", "epochs"):
        [ax] = pv.figures.learning_curves(found, against).axes
        last = [np.mean([r["history"][-1]["valid_elbo"] for r in found.done(n).values()]) for n in found.log_px]
        assert len(ax.lines) == 2
        if against != "seconds":  # of runs of different lengths, the common part is drawn
            assert [float(line.get_ydata()[-1]) for line in ax.lines] == pytest.approx(last)
    with pytest.raises(pv.UserError, match="against='days': choose one of steps, seconds, epochs"):
        pv.figures.learning_curves(found, "days")
    with pytest.raises(pv.UserError, match="only 'a' was trained and evaluated"):
        pv.figures.forest(run({"a": BASE}, data, tmp_path))


def test_a_worker_that_is_killed_loses_nothing(data: pv.Data, tmp_path: Path) -> None:
    """The first cell kills its process once, after some steps: others take over, and the figures are the same."""
    mark = tmp_path / "killed"

    def deadly(t: pv.Terms) -> torch.Tensor:
        if not mark.exists():
            mark.write_text("")
            os.kill(os.getpid(), signal.SIGKILL)
        return t.log_w.mean(0)

    strategies = {"plain": BASE.replace(objective=lambda t: t.log_w.mean(0)), "deadly": BASE.replace(objective=deadly)}
    found = run(strategies, data, tmp_path / "study", executor=None, workers=2)
    assert mark.exists()
    assert not found.failed
    assert not found.missing
    np.testing.assert_allclose(found.log_px["deadly"], found.log_px["plain"], rtol=1e-6)


def test_a_process_that_always_dies_is_given_up(data: pv.Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Lost(Executor):
        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
            future: Future[Any] = Future()
            future.set_exception(ConnectionError("the scheduler is gone"))
            return future

    with pytest.raises(
        pv.RunError, match=r"2 of 2 cells were not run \(the scheduler is gone\); the same call resumes"
    ):
        run({"a": BASE}, data, tmp_path, executor=Lost())


def test_a_stopped_cell_resumes(data: pv.Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the evaluation of the second cell: nothing of the first is done again."""
    whole = run({"a": BASE}, data, tmp_path / "whole")
    estimate, count = evaluation.log_likelihood, []

    def stopping(*args: Any, **kwargs: Any) -> Any:
        count.append(1)
        if len(count) == 2:
            raise KeyboardInterrupt
        return estimate(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(evaluation, "log_likelihood", stopping)
        with pytest.raises(KeyboardInterrupt):
            run({"a": BASE}, data, tmp_path / "part")
    executor = Inline()
    found = run({"a": BASE}, data, tmp_path / "part", executor=executor)
    assert executor.count == 1
    assert np.array_equal(found.log_px["a"], whole.log_px["a"])


@pytest.mark.parametrize(
    ("strategies", "options", "words"),
    [
        ([], {}, "no strategy was given"),
        ({"a": 3}, {}, "strategy 'a' is a int; give pv.Strategy"),
        ([BASE, BASE.replace()], {}, "two strategies are the same"),
        ({"a": BASE}, {"seeds": 0}, "seeds=0: give a number from 1 on"),
        ({"a": BASE}, {"seeds": [1, 1]}, "or different seeds"),
        ({"a": BASE}, {"budget": {"hours": 2}}, "give one of epochs, steps, seconds, decoder_evaluations"),
        ({"a": BASE}, {"budget": {"steps": 2.5}}, "budget of 2.5 steps: give a whole number"),
        ({"a": BASE}, {"evaluation": {"k": 2}}, "evaluation has no option 'k'; it takes num_samples, proposal"),
        ({"a": BASE}, {"reference": "b"}, "reference='b' is not one of a"),
        ({"a": BASE}, {"only": (5, 4)}, "only=5/4: give a share from 1 to 4"),
        ({"a": BASE}, {"executor": ThreadPoolExecutor(1)}, "threads share Pyro's state"),
        ({"a": BASE}, {"executor": None, "workers": 0}, "workers=0: at least one is needed"),
    ],
)
def test_arguments_that_make_no_sense_are_one_line(
    strategies: Any, options: dict[str, Any], words: str, data: pv.Data, tmp_path: Path
) -> None:
    with pytest.raises(pv.UserError, match=words):
        run(strategies, data, tmp_path, **options)
    assert not list(tmp_path.glob("*/seed-*"))


def test_strategies_refuse_what_they_do_not_know(data: pv.Data) -> None:
    for options, words in (
        ({"seed": 3}, "seed is set by the study"),
        ({"lat": 3}, "there is no option 'lat'; did you mean 'latent'?"),
        ({"objective": "iwae:k=3"}, "objective 'iwae' takes no option k"),
        ({"lr": -1.0}, "lr=-1.0: the learning rate must be positive"),
    ):
        with pytest.raises(pv.UserError, match=words):
            pv.Strategy("vae", **options)
    with pytest.raises(pv.UserError, match="every seed needs weights of its own"):
        pv.Strategy(BASE.build(data, 0))  # type: ignore[arg-type]
    with pytest.raises(pv.UserError, match="grid: latent=3: give a list of values"):
        pv.grid(BASE, latent=3)  # type: ignore[arg-type]
    assert list(named([BASE, BASE.replace(latent=3), BASE.replace(objective="iwae")])) == [
        "latent=2", "latent=3", "latent=2, objective=iwae",
    ]  # fmt: skip


def test_a_result_is_of_its_evaluation(data: pv.Data, tmp_path: Path) -> None:
    found = run({"a": BASE}, data, tmp_path, seeds=1)
    folder = tmp_path / found.results["a"][0]["folder"]
    how = cells.Evaluation(num_samples=20, proposal="guide")
    cell = cells.Cell(BASE, "a", 0, {}, how, tmp_path, folder, how.record(), "", BASE.code())
    assert result_of(cell.folder, cell.about) is not None
    assert result_of(cell.folder, module.TUNING.record()) is None


def test_a_custom_proposal_evaluates_a_study(data: pv.Data, tmp_path: Path) -> None:
    """It counts by its source: the same function does nothing twice, another one evaluates again."""

    def wider(model: Any, guide: Any, x: Any, y: Any, num_samples: int) -> pv.Terms:
        return pv.terms(model, guide, x, y, num_samples=num_samples)

    first, again = Inline(), Inline()
    how = {"num_samples": 20, "proposal": wider}
    one = run({"a": BASE}, data, tmp_path, seeds=1, evaluation=how, executor=first)
    run({"a": BASE}, data, tmp_path, seeds=1, evaluation=how, executor=again)
    assert (first.count, again.count) == (1, 0)
    plain = run({"a": BASE}, data, tmp_path, seeds=1)
    assert np.array_equal(plain.log_px["a"], one.log_px["a"])
