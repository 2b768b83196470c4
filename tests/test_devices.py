"""Where things lie: a program that names no device makes its constants beside its data and its parameters."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs_under_test import CASES, Case
from torch import Tensor, nn

import ppl_vae as pv
from ppl_vae.common.fields import each
from ppl_vae.common.registry import OBJECTIVES
from ppl_vae.scoring import terms, trace


class Model(nn.Module):
    """The prior of the README and of most Pyro code: no device is named."""

    def __init__(self, prior: Any) -> None:
        super().__init__()
        self.prior = prior
        self.decoder = nn.Linear(2, 8)

    def forward(self, x: Tensor | None = None, y: Tensor | None = None, n: int = 4) -> Any:
        with pyro.plate("data", n if x is None else len(x), dim=-1):
            z = pyro.sample("z", self.prior().to_event(1))
            return pyro.sample("x", dist.Normal(self.decoder(z), 0.3).to_event(1), obs=x)


class Guide(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> None:
        loc, log_scale = self.net(x).chunk(2, -1)
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


PRIORS = {
    "tensors": lambda: dist.Normal(torch.zeros(2), torch.ones(2)),
    "numbers": lambda: dist.Normal(0.0, 1.0).expand([2]),
}


@pytest.mark.parametrize("prior", PRIORS)
def test_a_prior_without_a_device_is_scored_and_drawn_where_the_pair_is(prior: str) -> None:
    """torch's meta device is as far from the CPU as a GPU is: tensors of the two refuse to meet."""
    model, guide = Model(PRIORS[prior]).to("meta"), Guide().to("meta")
    x = torch.zeros(5, 8, device="meta")
    with pyro.validation_enabled(False):  # validation reads values, and there are none
        found = terms.terms_of(model, guide, (x,), (x,), num_samples=3)
        drawn = trace.trace_program(model, (), {}, 3)
    assert found.log_w.shape == (3, 5)
    assert {found.log_prior.device.type, found.log_w.device.type} == {"meta"}
    assert {drawn.nodes[name]["value"].device.type for name in ("z", "x")} == {"meta"}
    assert torch.zeros(1).device.type == "cpu"


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_loss_and_gradient_of_every_objective_stay_on_the_device(case: Case) -> None:
    """On the meta device, which is another one and holds no values: no tensor of a CPU, and no read of a value."""
    pair, data = case.build().to("meta"), case.draw(5)
    args = tuple(each(lambda t: t.to("meta"), v) for v in data if v is not None)
    parameters = [p for p in pair.parameters() if p.requires_grad]
    trained = []
    for name in OBJECTIVES:
        with pyro.validation_enabled(False):
            try:
                loss = pv.objective(name).differentiable_loss(pair.model, pair.guide, *args)
            except (pv.UserError, NotImplementedError):  # the objective does not apply
                continue
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        assert {t.device.type for t in (loss, *gradients) if t is not None} == {"meta"}, name
        trained.append(name)
    assert "elbo" in trained


@pytest.mark.parametrize("case", [c for c in CASES.values() if not c.delta], ids=lambda c: c.name)
def test_terms_of_every_proposal_stay_on_the_device(case: Case) -> None:
    pair, data = case.build().to("meta").eval(), case.draw(5)
    x, y = (None if v is None else each(lambda t: t.to("meta"), v) for v in data)
    scored = []
    for name in sorted({*pv.proposals.PROPOSALS} - {"auto", "refined"}):  # these fit a guide to the values
        with pyro.validation_enabled(False), torch.no_grad():
            try:
                found = pv.proposals.proposal(name)(pair.model, pair.guide, x, y, 7)
            except (pv.UserError, NotImplementedError):
                continue
        assert found.log_w.device.type == "meta"
        assert found.log_w.shape[-1] == 5
        scored.append(name)
    assert {"guide", "prior"} <= {*scored}
