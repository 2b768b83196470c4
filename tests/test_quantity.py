"""The name of a number: log p(x), log p(x | y) or log p(x, y), told by what the model does with its labels."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot
from typer.testing import CliRunner

import ppl_vae as pv
from ppl_vae import figures
from ppl_vae.cli.app import app
from ppl_vae.scoring.lineage import Lineage
from ppl_vae.scoring.quantity import name_of

CLASSES = 3
X = torch.tensor([[0.3, -0.2], [1.0, 0.5], [-0.4, 0.1], [0.0, 0.7]])
Y = torch.tensor([0, 2, 1, 1])
LOGITS = torch.tensor([0.1, -0.3, 0.8])
SHIFT = torch.tensor([[0.0, 0.0], [1.0, -1.0], [2.0, 0.5]])


def normal(mean: Tensor | float) -> Any:
    return dist.Normal(mean + torch.zeros(2), 1.0).to_event(1)


def nothing(x: Tensor, y: Tensor | None, z: Tensor) -> None:
    pyro.sample("x", normal(z), obs=x)


def ignored(x: Tensor, y: Tensor, z: Tensor) -> None:
    _ = y.float() * 2
    pyro.sample("x", normal(z + torch.zeros_like(y)[:, None]), obs=x)


def table_of_means(x: Tensor, y: Tensor, z: Tensor) -> None:
    pyro.sample("x", normal(z + SHIFT[y]), obs=x)


def one_hot_means(x: Tensor, y: Tensor, z: Tensor) -> None:
    pyro.sample("x", normal(z + one_hot(y, CLASSES).float() @ SHIFT), obs=x)


def python_means(x: Tensor, y: Tensor, z: Tensor) -> None:
    pyro.sample("x", normal(z + torch.stack([SHIFT[int(i)] for i in y])), obs=x)


def mask_by_label(x: Tensor, y: Tensor, z: Tensor) -> None:
    with pyro.poutine.mask(mask=y > 0):
        pyro.sample("x", normal(z), obs=x)


def classes(x: Tensor, y: Tensor, z: Tensor) -> None:
    pyro.sample("y", dist.Categorical(logits=LOGITS), obs=y)
    pyro.sample("x", normal(z), obs=x)


def one_hot_classes(x: Tensor, y: Tensor, z: Tensor) -> None:
    label = pyro.sample("label", dist.OneHotCategorical(logits=LOGITS), obs=one_hot(y, CLASSES).float())
    pyro.sample("x", normal(z + label @ SHIFT), obs=x)


def real_labels(x: Tensor, y: Tensor, z: Tensor) -> None:
    pyro.sample("y", dist.Normal(z[..., 0], 1.0), obs=(y.float() - 1) / 2)
    pyro.sample("x", normal(z), obs=x)


def written_in_place(x: Tensor, y: Tensor, z: Tensor) -> None:
    both = torch.zeros(len(x), 3)
    both[:, :2] = x
    both[:, 2] = y
    pyro.sample("x", dist.Normal(torch.zeros(3) + z[..., :1], 1.0).to_event(1), obs=both)


def labels_alone(x: Tensor, y: Tensor, z: Tensor) -> None:
    pyro.sample("y", dist.Normal(x.sum(-1) + z[..., 0], 1.0), obs=y.float())


NAMES: list[tuple[Callable[..., None], str]] = [
    (nothing, "log p(x)"), (ignored, "log p(x)"), (table_of_means, "log p(x | y)"), (one_hot_means, "log p(x | y)"),
    (python_means, "log p(x | y)"), (mask_by_label, "log p(x | y)"), (classes, "log p(x, y)"),
    (one_hot_classes, "log p(x, y)"), (real_labels, "log p(x, y)"), (written_in_place, "log p(x, y)"),
    (labels_alone, "log p(y | x)"),
]  # fmt: skip


def pair_of(observe: Callable[..., None]) -> pv.Pair:
    def model(x: Tensor | None = None, y: Tensor | None = None, n: int = 1) -> None:
        with pyro.plate("data", n if x is None else len(x), dim=-1):
            observe(x, y, pyro.sample("z", normal(0.0)))

    def guide(x: Tensor, y: Tensor | None = None) -> None:
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", normal(x / 2))

    return pv.Pair(model, guide, data_shape=(2,))


@pytest.mark.parametrize(("observe", "name"), NAMES, ids=lambda v: getattr(v, "__name__", v))
def test_every_estimate_has_the_name_of_what_the_model_does_with_labels(
    observe: Callable[..., None], name: str
) -> None:
    pair = pair_of(observe)
    short = {"num_chains": 2, "num_temperatures": 2}
    assert pv.log_likelihood(pair, X, Y, num_samples=5).name == name
    assert pv.log_likelihood(pair, X[:1], Y[:1], num_samples=5).name == name
    assert pv.log_likelihood(pair, X, Y, num_samples=5, proposal="prior").name == name
    assert pv.ais(pair, X, Y, **short).name == name
    assert pv.description_length(pair, X, Y, num_samples=5).name == name
    found = pv.panel(pair, X, Y, ("iwae", "psis", "ais"), 5, **short)
    assert {row["quantity"] for row in found.table()} == {name}
    assert name in str(found)
    table = pv.compare({"a": pair}, X, Y, num_samples=5)
    assert table.attrs["quantity"] == name
    est = pv.log_likelihood(pair, X, Y, num_samples=5)
    assert str(est).startswith(f"{name} ")
    assert est.summary()["quantity"] == name
    assert est.conditional is ("|" in name)
    assert figures.log_px_histogram(est).axes[0].get_xlabel() == f"{name} (nats)"


def test_labels_that_share_their_memory_with_the_data_are_told_apart() -> None:
    both = torch.cat([X, Y[:, None].float()], 1)
    assert name_of(pair_of(table_of_means), both[:, :2], Y) == "log p(x | y)"

    def by_value(x: Tensor, y: Tensor, z: Tensor) -> None:
        pyro.sample("x", normal(z + y[:, None]), obs=x)

    assert name_of(pair_of(by_value), both[:, :2], both[:, 2]) == "log p(x | y)"


class Partly(nn.Module):
    """Two classes with their own means; some labels are missing, and are drawn by the guide as the prior draws them."""

    logits, means = torch.tensor([0.2, -0.5]), torch.tensor([[0.0, 0.0], [1.0, 2.0]])

    def model(self, x: Tensor, y: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            seen = y >= 0
            label = pyro.sample("y", dist.Categorical(logits=self.logits), obs=y.clamp(min=0), obs_mask=seen)
            pyro.sample("x", normal(self.means[label]), obs=x)

    def guide(self, x: Tensor, y: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1), pyro.poutine.mask(mask=y < 0):
            pyro.sample("y_unobserved", dist.Categorical(logits=self.logits))


def test_partly_observed_labels_are_part_of_the_density_and_its_value_is_exact() -> None:
    partly = Partly()
    pair = pv.Pair(partly.model, partly.guide)
    y = torch.tensor([0, 1, 1, 0])
    est = pv.log_likelihood(pair, X, y, num_samples=5)
    joint = torch.log_softmax(partly.logits, 0)[y] + normal(partly.means[y]).log_prob(X)
    assert est.name == "log p(x, y)"
    assert est.log_px.tolist() == pytest.approx(joint.tolist(), abs=1e-5)
    assert pv.log_likelihood(pair, X, torch.tensor([0, -1, 1, -1]), num_samples=5).name == "log p(x, y)"


def test_labels_of_which_none_is_known_leave_the_density_of_the_data() -> None:
    pair = pv.build("m2", data_shape=(2,), num_classes=CLASSES, latent=2, hidden=(4,), likelihood="gaussian")
    names = [pv.log_likelihood(pair, X, y, num_samples=5).name for y in (torch.full((4,), -1), Y)]
    assert names == ["log p(x)", "log p(x, y)"]


def test_no_labels_no_condition() -> None:
    assert pv.log_likelihood(pair_of(nothing), X, num_samples=5).name == "log p(x)"
    assert pv.eubo(pair_of(nothing), 3, 5).name == "log p(x)"


def test_sandwiches_of_simulated_data_are_named() -> None:
    pair = pv.build("cvae", data_shape=(4,), num_classes=CLASSES, latent=2, hidden=(4,))
    for found in (pv.eubo(pair, 4, 5, Y), pv.bdmc(pair, 4, Y, num_chains=2, num_temperatures=2)):
        assert found.name == "log p(x | y)"
        assert "mean log p(x | y) lies" in str(found)
        assert "log p(x | y)" in figures.sandwich(found).axes[0].get_title()


def test_numbers_of_different_densities_are_not_compared() -> None:
    pairs = {"given": pair_of(table_of_means), "joint": pair_of(classes), "plain": pair_of(nothing)}
    for some in (("given", "joint"), ("joint", "plain"), ("given", "plain")):
        with pytest.raises(pv.UserError, match=r"estimates log p\(x.*compare like with like"):
            pv.compare({n: pairs[n] for n in some}, X, Y, num_samples=5)
    pv.compare({"a": pairs["joint"], "b": pair_of(one_hot_classes)}, X, Y, num_samples=5)


def test_the_command_line_names_it_everywhere(tmp_path: Path) -> None:
    def call(*args: Any) -> Any:
        result = CliRunner().invoke(app, [str(a) for a in args])
        assert result.exit_code == 0, (args, result.output, result.exception)
        return result

    few = ["--num-samples", "20", "--limit", "20"]
    size = ["--latent", "2", "--hidden", "8", "--epochs", "1", "--no-figures"]
    trained = call("train", "cvae", *size, *few, "--out", tmp_path / "run")
    assert "log p(x | y)" in trained.stdout
    assert json.loads((tmp_path / "run/evaluation.json").read_text())["quantity"] == "log p(x | y)"
    with (tmp_path / "run/log_px.csv").open() as file:
        assert {row["quantity"] for row in csv.DictReader(file)} == {"log p(x | y)"}
    shown = call("evaluate", tmp_path / "run", *few, "--estimator", "iwae", "--estimator", "psis")
    assert "log p(x | y)" in shown.stdout
    assert "log p(x)" not in shown.stdout
    assert "log p(x | y)" in call("score", tmp_path / "run", *few).stdout


def test_lineage_follows_values_and_not_shapes() -> None:
    x, y = torch.arange(4.0), torch.arange(4.0)
    kept = torch.zeros(4)
    with Lineage({"x": x, "y": {"a": y}}) as lineage:
        made = {
            "sum": (x + 1).sum(), "view": y.view(2, 2)[0], "both": torch.cat([x, y]), "shape": y.new_zeros(3),
            "like": torch.ones_like(x), "picked": torch.arange(9.0)[y.long()], "compared": torch.where(y > 1, 1.0, 0.0),
        }  # fmt: skip
        kept[1:3] = y[:2]
        assert not lineage.escaped
        float(y[0])
    found = {name: lineage.of(value) for name, value in made.items()}
    assert found == {
        "sum": {"x"}, "view": {"y"}, "both": {"x", "y"}, "shape": set(), "like": set(), "picked": {"y"},
        "compared": {"y"},
    }  # fmt: skip
    assert lineage.of(kept) == {"y"}
    assert lineage.of(None) == set()
    assert lineage.escaped == {"y"}


def test_bits_have_the_name_of_what_they_are_of() -> None:
    """A code of x and labels costs the bits of both, log p(x, y), and says so; one of x alone has the bits of x."""
    pair, alone = pair_of(classes), pair_of(nothing)
    both, one = (pv.description_length(p, X, y, num_samples=20) for p, y in ((pair, Y), (alone, None)))
    of_labels = -torch.log_softmax(LOGITS, 0)[Y].double() / torch.tensor(2.0).log()
    assert torch.allclose(both.bits_x - one.bits_x, of_labels, atol=1e-5)
    assert both.name == "log p(x, y)"
    assert "x, y given z" in str(both)
    assert "relative to a unit of x, y" in str(both)
    assert ": z" in str(one)
    assert ", x given z" in str(one)
    conditional = pv.description_length(pair_of(table_of_means), X, Y, num_samples=5)
    assert ", x given z" in str(conditional)
    assert "for log p(x | y)" in str(conditional)
