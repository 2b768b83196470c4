"""Classes: a label that is not known is summed out, and Bayes' rule gives p(y | x)."""

from __future__ import annotations

import csv
import itertools
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from commands import call
from torch import Tensor
from torch.distributions import MultivariateNormal
from typer.testing import CliRunner

import ppl_vae as pv
from ppl_vae.cli.app import app
from ppl_vae.objectives.enumerated import enumerated

SMALL = {"data_shape": (4,), "num_classes": 3, "hidden": (5,)}


def made(name: str, seed: int = 0, **options: object) -> pv.Pair:
    """A pair in float64 and evaluation mode, whose class probabilities are not uniform."""
    torch.manual_seed(seed)
    pair = pv.build(name, **{**SMALL, **options}).double().eval()
    for parameter in pair.model.parameters():
        parameter.data.add_(0.3 * torch.randn_like(parameter))
    return pair


def by_hand(pair: pv.Pair, x: Tensor, z: Tensor) -> Tensor:
    """log p(x, z, c) of each class, (K, B, C), from the formula in the pair's docstring."""
    model, log_p = pair.model, []
    for c in range(3):
        log_c = model.logits.log_softmax(-1)[c]
        if pair.name == "m2":
            log_z = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1)
            code = model.codes[c].expand(*z.shape[:-1], 3)
            logits = model.decoder(torch.cat([z, code], -1)).squeeze(-2)
        else:
            log_z = torch.distributions.Normal(model.loc[c], model.log_scale[c].exp()).log_prob(z).sum(-1)
            logits = model.decoder(z).squeeze(-2)
        log_x = torch.distributions.Bernoulli(logits=logits).log_prob(x).sum(-1)
        log_p.append(log_c + log_z + log_x)
    return torch.stack(log_p, -1).detach()


@pytest.mark.parametrize("name", ["m2", "clusters"])
def test_a_class_that_is_not_known_is_summed_out_and_a_known_one_is_not(name: str) -> None:
    """sum_c p(x, z, c) where y is -1, and p(x, z, y) elsewhere: the values of a plain loop over the classes."""
    pair = made(name, latent=2)
    x = (torch.rand(5, 4) > 0.5).double()
    y = torch.tensor([-1, 0, 2, -1, 1])
    t = pv.terms(pair.model, pair.guide, x, y, num_samples=6)
    assert set(t.sites) == {"z"}
    assert t.summed == ("c",)
    joint = by_hand(pair, x, t.sites["z"].value)  # (6, 5, 3)
    known = joint.gather(-1, y.clamp(min=0).expand(6, 5)[..., None])[..., 0]
    expected = torch.where(y < 0, joint.logsumexp(-1), known)
    torch.testing.assert_close((t.log_lik + t.log_prior).detach(), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ["m2", "clusters"])
def test_the_probabilities_of_classes_are_those_of_quadrature(name: str) -> None:
    """p(c | x) by summing p(x, z, c) over a grid of z; `classify` and `posterior` estimate the same."""
    pair = made(name, latent=1)
    x = (torch.rand(4, 4) > 0.5).double()
    grid = torch.linspace(-12, 12, 2401, dtype=torch.float64)
    exact = by_hand(pair, x, grid[:, None, None].expand(-1, 4, 1)).logsumexp(0).softmax(-1)  # (4, 3)
    found = pv.classify(pair, x, num_samples=20_000, proposal="prior", capture=False)
    torch.testing.assert_close(found.log_probs.exp(), exact, rtol=0, atol=0.02)
    probs = pv.posterior(pair, x, num_samples=20_000).probs["c"]
    torch.testing.assert_close(probs, exact, rtol=0, atol=0.02)
    step = grid[1] - grid[0]
    log_px = by_hand(pair, x, grid[:, None, None].expand(-1, 4, 1)).logsumexp((0, 2)) + step.log()
    torch.testing.assert_close(found.log_px, log_px, rtol=0, atol=0.02)


def test_bayes_rule_of_a_linear_conditional_model_is_exact() -> None:
    """x = W (z, code of y) + b + noise: p(x | y) is Gaussian, so p(y | x) has a closed form for any prior."""
    pair = made("cvae", latent=2, hidden=(), likelihood="gaussian:sigma=1")
    x = torch.randn(6, 4, dtype=torch.float64)
    codes = torch.eye(5, dtype=torch.float64)
    with torch.no_grad():
        offset = pair.model.decoder(torch.zeros(5, dtype=torch.float64)).flatten()
        columns = pair.model.decoder(codes).squeeze(-2) - offset  # (5, 4): of z1, z2, and of the three labels
    covariance = columns[:2].T @ columns[:2] + torch.eye(4, dtype=torch.float64)
    log_px = torch.stack([MultivariateNormal(offset + columns[2 + c], covariance).log_prob(x) for c in range(3)], -1)
    prior = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64)
    found = pv.classify(pair, x, prior=prior, num_samples=20_000, proposal="prior", capture=False)
    torch.testing.assert_close(found.log_probs.exp(), (log_px + prior.log()).softmax(-1), rtol=0, atol=0.02)
    uniform = pv.classify(pair, x, num_samples=20_000, proposal="prior", capture=False)
    torch.testing.assert_close(uniform.log_probs.exp(), log_px.softmax(-1), rtol=0, atol=0.02)


@pytest.mark.parametrize("kind", ["class", "vector"])
def test_the_density_of_a_conditional_model_is_that_of_quadrature(kind: str) -> None:
    """p(x | y) = int p(z) p(x | z, y) dz, whose sum over all x is one for each y."""
    torch.manual_seed(0)
    option = {"num_classes": 3} if kind == "class" else {"label_size": 2}
    pair = pv.build("cvae", data_shape=(4,), hidden=(5,), latent=2, **option).double().eval()
    for parameter in pair.model.parameters():
        parameter.data.add_(0.5 * torch.randn_like(parameter))
    pair.guide.head.linear.weight.data.mul_(0.2)  # near the prior, so that the weights are bounded
    x = torch.tensor(list(itertools.product([0.0, 1.0], repeat=4))).double().repeat(3, 1)  # each with three labels
    y = torch.arange(3).repeat_interleave(16)
    code = torch.eye(3).double()[y] if kind == "class" else torch.randn(3, 2).double()[y]
    line = torch.linspace(-7, 7, 141, dtype=torch.float64)
    z = torch.cartesian_prod(line, line)  # (M, 2)
    log_z = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1) + 2 * (line[1] - line[0]).log()
    columns = torch.cat([z[:, None].expand(-1, 48, 2), code.expand(len(z), 48, -1)], -1)
    with torch.no_grad():
        logits = pair.model.decoder(columns).squeeze(-2)
    exact = (log_z[:, None] + torch.distributions.Bernoulli(logits=logits).log_prob(x).sum(-1)).logsumexp(0)
    torch.testing.assert_close(exact.exp().reshape(3, 16).sum(-1), torch.ones(3).double(), atol=1e-6, rtol=0)
    assert float((exact[:16] - exact[16:32]).abs().max()) > 0.1  # the label counts
    est = pv.log_likelihood(pair, x, y if kind == "class" else code, num_samples=20_000)
    assert bool(((est.log_px - exact).abs() < 5 * est.std_error).all())
    assert float(est.std_error.max()) < 0.02


def test_a_classifier_gives_its_softmax_exactly() -> None:
    pair = made("classifier")
    x = torch.rand(6, 4).double()
    found = pv.classify(pair, x, num_samples=1)
    exact = pair.model.logits(pair.model.encoder(x)).log_softmax(-1)
    torch.testing.assert_close(found.log_probs, exact.detach())
    assert found.kind == "log p(y | x)"
    with pytest.raises(pv.UserError, match=r"has no p\(x\)"):
        _ = found.log_px
    with pytest.raises(pv.UserError, match="draws no x"):
        pv.sample(pair, 3)
    with pytest.raises(pv.UserError, match="leave the prior out"):
        pv.classify(pair, x, prior=[0.2, 0.3, 0.5], num_samples=1)


def test_accuracy_loss_and_calibration_of_known_probabilities() -> None:
    """Ten examples at confidence 0.8, eight of which are right: an error of 0; all right: of 0.2."""
    p = torch.tensor([0.8, 0.2], dtype=torch.float64).log().expand(10, 2)
    found = pv.Classes(p, p, p, "log p(x, y)", 1, 0)
    y = torch.tensor([0] * 8 + [1] * 2)
    assert found.accuracy(y) == 0.8
    assert found.calibration_error(y) == pytest.approx(0, abs=1e-12)
    assert found.calibration_error(torch.zeros(10)) == pytest.approx(0.2)
    assert found.log_loss(y) == pytest.approx(-0.8 * math.log(0.8) - 0.2 * math.log(0.2))
    with pytest.raises(pv.UserError, match="no labels for 10 examples"):
        found.accuracy()


def test_hidden_labels_are_as_many_of_each_class() -> None:
    data = pv.load_data("digits", binarize="static")
    few = data.partly_labelled(53, seed=1)
    y = few.train.y
    assert y is not None
    assert data.train.y is not None
    assert sorted(torch.bincount(y[y >= 0]).tolist()) == [5] * 7 + [6] * 3
    assert torch.equal(y[y >= 0], data.train.y[y >= 0])
    assert few.valid.y is not None
    assert bool((few.valid.y == -1).all())
    assert torch.equal(few.test.y, data.test.y)
    assert few.num_classes == 10
    other = data.partly_labelled(53, seed=2).train.y
    assert other is not None
    assert not torch.equal(y, other)
    with pytest.raises(pv.DataError, match="give from 10 to"):
        data.partly_labelled(9)
    with pytest.raises(pv.DataError, match="repeat=0: each example is there once at least"):
        data.partly_labelled(50, repeat=0)
    with pytest.raises(pv.DataError, match="give from 10 to"):
        data.partly_labelled(1_250)


def test_a_pair_that_needs_every_label_refuses_one_that_is_not_known() -> None:
    pair = made("cvae", latent=2)
    with pytest.raises(pv.DataError, match="-1 at index 1 is no class"):
        pv.log_likelihood(pair, torch.zeros(2, 4), torch.tensor([0, -1]), 10)
    with pytest.raises(pv.DataError, match="-2 at index 1 is no class"):
        pv.log_likelihood(made("m2", latent=2), torch.zeros(2, 4), torch.tensor([0, -2]), 10)


@pytest.mark.parametrize("name", ["m2", "clusters"])
def test_an_example_is_not_drawn_for_a_class_that_is_not_known(name: str) -> None:
    pair = made(name, latent=2)
    for draw in (
        lambda: pv.sample(pair, 2, torch.tensor([2, -1])),
        lambda: pv.decode(pair, {"z": torch.zeros(2, 2)}, torch.tensor([2, -1])),
    ):
        with pytest.raises(pv.DataError, match=r"-1 at index 1 is no class of this pair.*from 0 to 2"):
            draw()
    assert pv.sample(pair, 2).shape == (2, 4)  # without labels the classes are drawn


def test_labels_teach_m2_what_the_data_alone_do_not() -> None:
    """Two classes whose style hides them: with one label in ten, the classes of all are found."""
    torch.manual_seed(0)
    y = torch.arange(400) % 2
    x = torch.bernoulli(torch.where(y[:, None] == 1, 0.9, 0.1).expand(400, 8).clone())
    x[:, 4:] = (x[:, 4:] + (torch.rand(400, 1) > 0.5).float()) % 2  # a style that flips the other half
    known = torch.where(torch.arange(400) % 10 < 2, y, -1)
    pair = pv.build("m2", data_shape=(8,), num_classes=2, latent=1, hidden=(16,), alpha=5.0)
    pv.fit(pair, (x, known), epochs=30, batch_size=50, lr=1e-2, progress=False, seed=0)
    found = pv.classify(pair, x, num_samples=50)
    assert found.accuracy(y) > 0.9


def test_the_score_objective_subtracts_a_factor_of_the_guide() -> None:
    """As the ELBO does: both objectives of one draw differ in no value."""
    pair = made("m2", latent=2).train()
    x, y = (torch.rand(5, 4) > 0.5).double(), torch.tensor([-1, 0, 2, -1, 1])
    found = []
    for objective in (pv.Score(num_particles=2, gradient="path"), pv.Elbo(num_particles=2)):
        torch.manual_seed(3)
        found.append(objective(pair.model, pair.guide)(x, y))
    torch.testing.assert_close(*found)


class Classes(torch.nn.Module):
    """c ~ Categorical, x ~ N(mu_c, 1), of dimension 1; and its guide, whose logits are linear in x."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = torch.nn.Parameter(torch.randn(3).double())
        self.mu = torch.nn.Parameter(torch.randn(3).double())
        self.slope = torch.nn.Parameter(torch.randn(3).double())

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            c = pyro.sample("c", dist.Categorical(logits=self.logits))
            pyro.sample("x", dist.Normal(self.mu[c].unsqueeze(-1), 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("c", dist.Categorical(logits=x * self.slope))


def test_a_class_of_the_guide_is_summed_out_in_value_and_gradient() -> None:
    """sum_c q(c|x) (log p(x, c) - log q(c|x)) by its formula, and its gradient by differentiating that."""
    torch.manual_seed(0)
    pair = Classes()
    x = torch.randn(5, 1, dtype=torch.float64)
    log_q = (x * pair.slope).log_softmax(-1)
    log_p = pair.logits.log_softmax(-1) + dist.Normal(pair.mu, 1.0).log_prob(x)
    exact = -(log_q.exp() * (log_p - log_q)).sum()
    for particles in (1, 3):
        loss = pv.Enumerated(particles).differentiable_loss(pair.model, pair.guide, x)
        torch.testing.assert_close(loss, exact)
        for one, two in zip(
            *(torch.autograd.grad(v, list(pair.parameters()), retain_graph=True) for v in (loss, exact)), strict=True
        ):
            torch.testing.assert_close(one, two)


def test_a_known_label_leaves_the_other_classes_out() -> None:
    """p(x, y, z) is zero for them: the bound and its gradient are finite, and the label's own."""
    pair = made("m2", latent=2, alpha=0.0).train()
    x, y = (torch.rand(5, 4) > 0.5).double(), torch.tensor([1, 0, 2, 0, 1])
    torch.manual_seed(0)
    loss = pv.Enumerated(2000).differentiable_loss(pair.model, pair.guide, x, y)
    loss.backward()
    for name, parameter in pair.named_parameters():
        assert parameter.grad is None or bool(parameter.grad.isfinite().all()), name
    torch.manual_seed(1)
    elbo = pv.Elbo(6000).differentiable_loss(pair.model, pair.guide, x, y)  # whose c is the label
    assert float((loss - elbo).detach().abs()) < 0.3


def test_what_can_not_be_summed_over_is_named() -> None:
    bits = pv.build("binary", data_shape=(4,), latent=3, hidden=(5,))
    with pytest.raises(pv.PairError, match=r"values of site 'z' .* can't be listed"):
        pv.Enumerated().differentiable_loss(bits.model, bits.guide, torch.zeros(2, 4))
    plain = pv.build("vae", data_shape=(4,), latent=3, hidden=(5,))  # no class: the ELBO
    t = pv.terms(plain.model, plain.guide, torch.zeros(2, 4), num_samples=3)
    torch.testing.assert_close(enumerated(t), t.log_w.mean(0))
    assert pv.Enumerated(3).differentiable_loss(plain.model, plain.guide, torch.zeros(2, 4)).isfinite()


def test_the_command_writes_the_probabilities_of_each_class(tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    options = [
        "--latent",
        "2",
        "--hidden",
        "8",
        "--epochs",
        "1",
        "--no-figures",
        "--num-samples",
        "10",
        "--labels",
        "20",
    ]
    trained = CliRunner().invoke(app, ["train", "m2", *options, "--out", run, "--limit", "5"])
    assert trained.exit_code == 0, trained.output
    done = CliRunner().invoke(app, ["classify", run, "--num-samples", "5", "--limit", "7", "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert 0 <= found["accuracy"] <= 1
    rows = Path(found["csv"]).read_text().splitlines()
    assert len(rows) == 8
    assert rows[0].startswith("index,label,predicted,log_p(0)")
    assert sum(math.exp(float(v)) for v in rows[1].split(",")[3:]) == pytest.approx(1)


def test_a_split_brings_its_labels_for_the_accuracy_alone() -> None:
    pair = made("cvae", latent=2)
    part = pv.Split(torch.zeros(3, 4), torch.tensor([0, 1, 2]))
    one, two = (pv.classify(pair, p, num_samples=20) for p in (part, replace(part, y=torch.tensor([2, 2, 2]))))
    assert torch.equal(one.log_joint, two.log_joint)
    assert "accuracy" in str(one)
    assert "accuracy" not in str(pv.classify(pair, torch.zeros(3, 4), num_samples=20))


def test_examples_with_a_label_are_repeated_with_their_rows() -> None:
    data = pv.load_data("digits", seed=0)
    once, often = (data.partly_labelled(50, seed=3, repeat=n) for n in (1, 4))
    known = often.train.y >= 0
    assert len(often.train) == len(once.train) + 3 * 50
    assert int(known.sum()) == 4 * 50
    rows, counts = often.train.rows[known].unique(return_counts=True)
    assert torch.equal(rows, once.train.rows[once.train.y >= 0].sort().values)
    assert bool((counts == 4).all())
    place = {int(row): i for i, row in enumerate(once.train.rows)}
    where = torch.tensor([place[int(row)] for row in often.train.rows])
    assert torch.equal(often.train.x, once.train.x[where])
    assert torch.equal(often.train.y, once.train.y[where])


def test_what_monte_carlo_leaves_open_is_said() -> None:
    """The gap of the two best, against its error: 0.1 of 0.05 and 0.05, and 1 of the same."""
    joint, error = torch.tensor([[0.0, -0.1, -9.0], [0.0, -1.0, -9.0]]), torch.tensor([[0.05, 0.05, 9.0]] * 2)
    found = pv.Classes(joint, error, error, "log p(x, y)", 20, 0, torch.tensor([0, 1]))
    assert found.close.tolist() == [True, False]
    assert "1 of 2 examples have two classes within two standard errors" in str(found)
    exact = pv.Classes(joint, torch.zeros(2, 3), error, "log p(y | x)", 1, 0)
    assert not bool(exact.close.any())


@pytest.mark.parametrize("figure", ["accuracy", "log_loss", "calibration_error"])
@pytest.mark.parametrize("label", [-2, 3])
def test_a_label_that_is_no_class_is_not_counted_as_wrong(figure: str, label: int) -> None:
    found = pv.Classes(torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(2, 3), "log p(x, y)", 20, 0)
    with pytest.raises(pv.UserError, match=f"label {label} at index 1 is no class"):
        getattr(found, figure)(torch.tensor([0, label]))


def test_data_with_some_labels_say_what_each_estimate_is_of(tmp_path: Path) -> None:
    """With labels that are known and ones that are not, each row of log_px.csv names its own density."""
    x, y = torch.rand(60, 6, generator=torch.Generator().manual_seed(0)).numpy(), np.arange(60) % 3
    hidden = np.where(np.arange(60) % 2, y, -1)
    np.savez(tmp_path / "some.npz", x=x.round(), y=hidden)
    small = ("--latent", "2", "--hidden", "8", "--epochs", "1", "--num-samples", "20")
    call("train", "m2", "--data", tmp_path / "some.npz", *small, "--out", tmp_path / "run")
    assert (tmp_path / "run/figures/samples.png").exists()
    text = call("evaluate", tmp_path / "run", "--num-samples", "20").stdout
    assert "log p(x, y), or" in text
    with (tmp_path / "run/log_px.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["label"] == "-1" for row in rows} == {True, False}
    assert all(row["quantity"] == ("log p(x)" if row["label"] == "-1" else "log p(x, y)") for row in rows)
    pair = pv.load(tmp_path / "run")
    given = [torch.tensor(x[: len(y)].round()), torch.as_tensor(hidden)]
    found = pv.log_likelihood(pair, *given, 20)
    known = given[1] >= 0
    assert found.name == "log p(x, y), or log p(x) where y is not known"
    alone = pv.log_likelihood(pair, given[0], None, 20)
    torch.testing.assert_close(found.log_px[~known], alone.log_px[~known])  # the same draws
    assert alone.name == "log p(x)"


def test_labels_that_are_no_classes_are_told(tmp_path: Path) -> None:
    x, y = np.zeros((12, 4)), np.arange(12) % 3 - 2
    np.savez(tmp_path / "two.npz", x=x, y=y)
    np.savez(tmp_path / "one.npz", x=x, y=np.arange(12) % 4 - 1)
    told = call("train", "cvae", "--data", tmp_path / "two.npz", "--out", tmp_path / "run", code=2).stderr
    assert "labels run from -2 to 0 for 12 examples, so they are not classes 0, 1, 2 ..." in told
    told = call("train", "cvae", "--data", tmp_path / "one.npz", "--out", tmp_path / "run", code=2).stderr
    assert "m2 and clusters take -1 for a label that is not known" in told


def test_accuracy_is_that_of_the_labels_that_are_known() -> None:
    """-1 is a label that is not known: every figure is that of the other examples alone."""
    joint = torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = torch.tensor([0, -1, 2, 1, -1, 0])
    some = pv.Classes(joint, joint * 0, joint * 0, "log p(x, y)", 20, 0, y)
    known = pv.Classes(*[joint[y >= 0] * f for f in (1, 0, 0)], "log p(x, y)", 20, 0, y[y >= 0])
    assert some.measured() == known.measured()
    assert some.measured()["n_labelled"] == 4
    assert "of the 4 whose label is known" in str(some)
    assert "whose label is known" not in str(known)
    none = pv.Classes(joint, joint * 0, joint * 0, "log p(x, y)", 20, 0, torch.full((6,), -1))
    assert none.measured() == {}
    with pytest.raises(pv.UserError, match="no label is known"):
        none.accuracy()
