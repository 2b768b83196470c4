"""Running averages and power iterations: a fit that was stopped ends like an unbroken one, and looking moves none."""

from __future__ import annotations

import itertools
import signal
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import ppl_vae as pv
from ppl_vae.runs.state import state_tensors

LAYERS: dict[str, Callable[[], nn.Module]] = {
    "batch norm": lambda: nn.Sequential(nn.Linear(9, 6), nn.BatchNorm1d(6)),
    "batch norm, cumulative": lambda: nn.Sequential(nn.Linear(9, 6), nn.BatchNorm1d(6, momentum=None)),
    "spectral norm": lambda: torch.nn.utils.parametrizations.spectral_norm(nn.Linear(9, 6)),
    "spectral norm, by a hook": lambda: torch.nn.utils.spectral_norm(nn.Linear(9, 6)),
}


class Guide(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.net = layer
        self.loc = nn.Linear(6, 2)
        self.log_scale = nn.Linear(6, 2)

    def forward(self, x: Tensor, y: Tensor | None = None) -> None:
        with pyro.plate("data", len(x), dim=-1):
            h = self.net(x).tanh()
            pyro.sample("z", dist.Normal(self.loc(h), self.log_scale(h).exp()).to_event(1))


def small(kind: str) -> tuple[pv.Pair, Tensor]:
    torch.manual_seed(0)
    model = pv.build("vae", data_shape=(9,), latent=2, hidden=(8,)).model
    return pv.Pair(model, Guide(LAYERS[kind]())), (torch.rand(100, 9) > 0.5).float()


LOSSES: dict[str, Callable[[], Any]] = {
    "none": lambda: None,
    "analytic_kl": pv.AnalyticKL,
    "iwae": lambda: pv.IWAE(3),
    # these look at the pair, or count its plates, in the first step that a process takes
    "TraceMeanField_ELBO": pyro.infer.TraceMeanField_ELBO,
    "TraceGraph_ELBO": pyro.infer.TraceGraph_ELBO,
    "RenyiELBO": lambda: pyro.infer.RenyiELBO(num_particles=2, vectorize_particles=True),
    "TraceEnum_ELBO": lambda: pyro.infer.TraceEnum_ELBO(strict_enumeration_warning=False),
}


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.filterwarnings("ignore:TraceEnum_ELBO found no sample sites")
def test_a_stopped_fit_goes_on_bit_for_bit(kind: str, loss: str, tmp_path: Path) -> None:
    calls = itertools.count()

    def run(folder: str, bell: int | None = None, resume: bool = False) -> dict[str, Tensor]:
        nonlocal calls
        pair, x = small(kind)
        if resume:
            with torch.no_grad():
                for t in pair.state_dict().values():
                    t.fill_(3)  # what is resumed comes from the folder
        calls = itertools.count()
        hook = pair.guide.loc.register_forward_hook(
            lambda *a: signal.raise_signal(signal.SIGINT) if pair.training and next(calls) == bell else None
        )
        with nullcontext() if bell is None else pytest.raises(KeyboardInterrupt):
            pv.fit(
                pair, pv.load_data(x, seed=0), LOSSES[loss](), run_dir=tmp_path / folder, epochs=4, batch_size=32,
                resume=resume, progress=False, device="cpu",
            )  # fmt: skip
        hook.remove()
        return state_tensors(pair)

    whole = run("whole")
    looks = next(calls) - 4 * 3  # calls before the first of four epochs of three steps: the pair is checked on a batch
    for bell in (looks + 1, looks + 6):
        run(f"broken{bell}", bell)
        again = run(f"broken{bell}", resume=True)
        assert [k for k in whole if not torch.equal(whole[k], again[k])] == []


@pytest.mark.parametrize("options", [{"patience": 2}, {"shards": 3}, {"warmup": 2}, {"loader": True}], ids=str)
@pytest.mark.parametrize("kind", LAYERS)
def test_so_it_does_under_every_option(kind: str, options: dict[str, Any], tmp_path: Path) -> None:
    options = dict(options)
    loader = options.pop("loader", False)

    def halt(row: dict[str, Any], pair: pv.Pair) -> None:
        if row["epoch"] == 2:
            raise KeyboardInterrupt

    def run(folder: str, **more: Any) -> dict[str, Tensor]:
        pair, x = small(kind)
        data = DataLoader(TensorDataset(x), batch_size=32, shuffle=True) if loader else pv.load_data(x, seed=0)
        more = {"run_dir": tmp_path / folder, "epochs": 4, "batch_size": 32, **options, **more}
        pv.fit(pair, data, progress=False, device="cpu", **more)
        return state_tensors(pair)

    whole = run("whole")
    with pytest.raises(KeyboardInterrupt):
        run("broken", callbacks=[halt])
    again = run("broken", resume=True)
    assert [k for k in whole if not torch.equal(whole[k], again[k])] == []


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("loss", [k for k in LOSSES if k != "TraceEnum_ELBO"])
def test_losses_and_evaluations_move_no_buffer(kind: str, loss: str) -> None:
    pair, x = small(kind)
    pair.train()
    own = dict(pair.named_buffers())
    before = {k: v.clone() for k, v in own.items()}
    svi = pv.SVI(pair.model, pair.guide, torch.optim.Adam(pair.parameters()), LOSSES[loss]())
    svi.evaluate_loss(x)
    if svi.objective is not None:
        svi.objective.loss(pair.model, pair.guide, x)
        svi.objective.validate(pair.model, pair.guide, x)
        svi.objective.loss(*pair.as_pyro(), x)
    pyro.clear_param_store()
    now = dict(pair.named_buffers())
    assert all(now[k] is own[k] and torch.equal(now[k], before[k]) for k in before)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("hidden", [False, True])
def test_what_fit_looks_at_moves_no_buffer(kind: str, hidden: bool) -> None:
    """The first look, validation and the search for a NaN; also where the layers are in a closure, in training mode."""
    counts: list[int] = []

    def run(valid: bool, spoil: bool = False) -> dict[str, Tensor]:
        pair, x = small(kind)
        guide = pair.guide
        held = pv.Pair(pair.model, (lambda x, y=None: guide(x)) if hidden else guide)
        data: Any = pv.Split(x[:64])
        try:
            pv.fit(
                held, data, valid=pv.Split(x[64:]) if valid else None, epochs=2, batch_size=32, progress=False,
                optimizer=lambda params, lr: torch.optim.SGD(params, lr=1e-9 if not spoil else 1e30), device="cpu",
            )  # fmt: skip
        except pv.NonFiniteError as error:
            counts.append(int(str(error).split("step ")[1].split()[0]))
        return {k: v.clone() for k, v in guide.named_buffers()}

    one, other = run(False), run(True)
    assert all(torch.equal(one[k], other[k]) for k in one)
    if kind == "batch norm" and not hidden:
        run(False, spoil=True)
        assert counts
        after = run(False, spoil=True)
        assert after["net.1.num_batches_tracked"] <= 4  # the steps alone, not the search


def test_the_count_of_batches_is_that_of_the_steps() -> None:
    pair, x = small("batch norm")
    pv.fit(pair, pv.load_data(x, seed=0), pyro.infer.TraceMeanField_ELBO(), epochs=3, batch_size=40, device="cpu",
           progress=False)  # fmt: skip
    steps = 3 * 2
    assert int(pair.guide.net[1].num_batches_tracked) == steps


@pytest.mark.parametrize("gradient", ["path", "stl", "dreg"])
def test_a_step_moves_running_averages_once_whatever_its_gradient(gradient: str) -> None:
    class Guide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.net = nn.BatchNorm1d(3), nn.Linear(3, 2)

        def forward(self, x: Tensor, y: Tensor | None = None) -> None:
            loc = self.net(self.norm(x))
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))

    torch.manual_seed(0)
    pair = pv.build("linear", data_shape=(3,), latent=2)
    guide = Guide()
    svi = pv.SVI(
        pair.model, guide, torch.optim.Adam([*pair.model.parameters(), *guide.parameters()]), pv.IWAE(4, gradient)
    )
    svi.step(torch.ones(8, 3))
    assert guide.norm.running_mean.tolist() == pytest.approx([0.1] * 3)
    assert int(guide.norm.num_batches_tracked) == 1
