"""Chains of latents: linear ones against their closed form, the guide from the top down, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from captured import assert_captured_weights_agree
from torch import Tensor, nn

import ppl_vae as pv
from ppl_vae.pairs.ladder import product

NOISE = 0.5  # standard deviation of x given z1


@torch.no_grad()
def set_rows(head: Any, *rows: Tensor, given: Tensor | None = None) -> None:
    """Parameters of a Gaussian that are linear in its input by its first rows ``given``, and constant in the others.

    The network before the head has one linear layer, if any, which is made the identity.
    """
    net, head = (None, head) if not isinstance(head, nn.Sequential) else head
    if net is not None:
        layer = next(m for m in net.modules() if isinstance(m, nn.Linear))
        layer.weight.copy_(torch.eye(*layer.weight.shape))
        layer.bias.zero_()
    head.linear.weight.zero_()
    head.linear.bias.copy_(torch.cat(rows))
    if given is not None:
        head.linear.weight[: given.shape[0], : given.shape[1]] = given


def full(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """The rows of the guide ``full`` for a covariance: log standard deviations, and what is below the diagonal."""
    root = torch.linalg.cholesky(covariance)
    scale = root.diagonal()
    rows, columns = torch.tril_indices(len(root), len(root), -1)
    return scale.log(), (root / scale.unsqueeze(-1))[rows, columns]


class Chain:
    """z_T ~ N(0, I), z_i ~ N(A_i z_(i+1) + b_i, S_i), x ~ N(W z_1 + c, NOISE^2 I), set in the model of a pair."""

    def __init__(self, model: Any, steps: Sequence[Tensor], spread: float = 0.5) -> None:
        loc, cov = torch.zeros(steps[0].shape[1]).double(), torch.eye(steps[0].shape[1]).double()
        self.moments = [(loc, cov)]  # of each latent, from the top, then of x
        *down, W = steps
        for layer, A in zip(model.down, down, strict=True):
            b, log_scale = torch.randn(len(A)).double(), spread * torch.randn(len(A)).double()
            set_rows(layer, b, log_scale, given=A)
            self._push(A, b, log_scale.exp().square())
        with torch.no_grad():
            model.decoder.last.weight.copy_(W)
            model.decoder.last.bias.normal_()
        self._push(W, model.decoder.last.bias.detach(), torch.full((len(W),), NOISE**2).double())
        self.steps = steps

    def _push(self, A: Tensor, b: Tensor, variance: Tensor) -> None:
        loc, cov = self.moments[-1]
        self.moments.append((A @ loc + b, A @ cov @ A.T + variance.diag()))

    def log_px(self, x: Tensor) -> Tensor:
        loc, cov = self.moments[-1]
        found: Tensor = dist.MultivariateNormal(loc, cov).log_prob(x)
        return found

    def given_below(self, i: int) -> tuple[Tensor, Tensor, Tensor]:
        """Gain, shift and covariance of the latent i from the top, given the variable right below it."""
        (m, P), (n, S), A = self.moments[i], self.moments[i + 1], self.steps[i]
        gain = P @ A.T @ torch.linalg.inv(S)
        return gain, m - gain @ n, P - gain @ A @ P


@pytest.mark.parametrize("latent", [(3, 2), (3, 2, 2), (3,)])
def test_a_linear_chain_has_the_evidence_of_its_closed_form(latent: tuple[int, ...]) -> None:
    """Under the exact posterior, a chain from the data upwards, every weight is log p(x): of any number of layers."""
    pair: Any = pv.build(
        "hierarchical", data_shape=(6,), latent=latent, hidden=(), hidden2=(5,), activation=nn.Identity, guide="full",
        likelihood=f"gaussian:sigma={NOISE}",
    ).double()  # fmt: skip
    sizes = [*latent[::-1], 6]
    chain = Chain(pair.model, [torch.randn(b, a).double() for a, b in pairwise(sizes)])
    for i, layer in enumerate(reversed(pair.guide.up)):
        gain, shift, cov = chain.given_below(i)
        set_rows(layer, shift, *full(cov), given=gain)
    x = pv.sample(pair, 7, seed=1)
    t = pv.terms(pair.model, pair.guide, x, num_samples=4)
    torch.testing.assert_close(t.log_w.detach(), chain.log_px(x).expand(4, 7), rtol=1e-10, atol=1e-10)


def test_a_ladder_can_be_the_exact_posterior_of_a_linear_chain() -> None:
    """Where layers are orthogonal, p(z1|z2, x) is p(z1|z2) times a Gaussian with a diagonal covariance."""
    pair: Any = pv.build(
        "ladder", data_shape=(6,), latent=(4, 2), hidden=(), hidden2=(6,), activation=nn.Identity,
        likelihood=f"gaussian:sigma={NOISE}",
    ).double()  # fmt: skip
    W, A = (2 * torch.linalg.qr(torch.randn(a, b).double()).Q for a, b in ((6, 4), (4, 2)))
    chain = Chain(pair.model, [A, W], spread=0)
    c = pair.model.decoder.last.bias.detach()
    bottom, top = pair.guide.heads
    inverse = W.T / 4  # p(x|z1) in z1: N(W'(x - c) / 4, NOISE^2 / 4)
    set_rows(bottom, -inverse @ c, torch.full((4,), NOISE / 2).double().log(), given=inverse)
    whole = W @ A  # of z2 in x
    (_, P), (n, S) = chain.moments[0], chain.moments[2]
    gain = P @ whole.T @ torch.linalg.inv(S)
    cov = P - gain @ whole @ P
    torch.testing.assert_close(cov, cov.diagonal().diag())
    set_rows(nn.Sequential(pair.guide.up[0], top), -gain @ n, cov.diagonal().log() / 2, given=gain)
    x = pv.sample(pair, 7, seed=1)
    t = pv.terms(pair.model, pair.guide, x, num_samples=4)
    torch.testing.assert_close(t.log_w.detach(), chain.log_px(x).expand(4, 7), rtol=1e-10, atol=1e-10)


def test_the_product_of_gaussians_is_in_proportion_to_both() -> None:
    a, b = (dist.Normal(torch.randn(5, 3).double(), torch.rand(5, 3).double() + 0.1).to_event(1) for _ in range(2))
    z = torch.randn(40, 5, 3).double()
    constant = product(a, b).log_prob(z) - a.log_prob(z) - b.log_prob(z)
    torch.testing.assert_close(constant, constant[:1].expand_as(constant))


def test_a_ladder_whose_heads_know_nothing_follows_the_model() -> None:
    """q(z1|z2, x) becomes p(z1|z2), so that its KL is zero however far z2 is from the posterior."""
    pair: Any = pv.build("ladder", data_shape=(6,), latent=(4, 2), hidden=(8,), hidden2=(6,)).double()
    with torch.no_grad():
        pair.guide.heads[0].linear.bias[4:] = 12.0  # log sigma
    t = pv.terms(pair.model, pair.guide, (torch.rand(5, 6) > 0.5).double(), num_samples=3)
    torch.testing.assert_close(t.sites["z1"].log_q, t.sites["z1"].log_p, atol=1e-6, rtol=0)
    assert float((t.sites["z2"].log_q - t.sites["z2"].log_p).detach().abs().min()) > 1e-3


@pytest.mark.parametrize("prior", ["vamp:components=4", "mixture:components=3", "laplace"])
def test_the_prior_is_that_of_the_top_layer(prior: str) -> None:
    pair: Any = pv.build("ladder", data_shape=(6,), latent=(4, 2), hidden=(8,), hidden2=(6,), prior=prior)
    assert pair.model.prior().event_shape == (2,)
    t = pv.terms(pair.model, pair.guide, torch.zeros(5, 6), num_samples=3)
    torch.testing.assert_close(t.sites["z2"].log_p, pair.model.prior().log_prob(t.sites["z2"].value))


def test_the_graph_of_a_ladder_is_the_program() -> None:
    x = (torch.rand(16, 6) > 0.5).float()
    pair: Any = pv.build("ladder", data_shape=(6,), latent=(3, 2), hidden=(8,), hidden2=(6,), prior="vamp:components=4")
    assert_captured_weights_agree(pair, x)


def test_a_chain_of_three_layers_trains() -> None:
    x = (torch.rand(64, 1) < torch.linspace(0.1, 0.9, 6)).float()
    pair: Any = pv.build("ladder", data_shape=(6,), latent=(3, 2, 2), hidden=(8,), hidden2=(6,))
    before = float(pv.log_likelihood(pair, x, num_samples=50).log_px.mean())
    pv.fit(pair, x, epochs=15, lr=1e-2, batch_size=16, capture=False, device="cpu", progress=False)
    assert float(pv.log_likelihood(pair, x, num_samples=50).log_px.mean()) > before + 0.3


@pytest.mark.parametrize("name", ["hierarchical", "ladder"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"latent": ()}, r"latent=\(\): give the size of each layer"),
        ({"latent": (3, 0)}, r"latent=\(3, 0\): give the size of each layer"),
        ({"latent": (3, 2), "hidden2": ()}, r"hidden2=\(\): give at least one width"),
    ],
)
def test_sizes_that_make_no_chain_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(pv.UserError, match=message):
        pv.build(name, data_shape=(6,), **options)


def test_the_average_of_a_chain_is_no_prior() -> None:
    with pytest.raises(pv.UserError, match="prior='vamp' averages q"):
        pv.build("hierarchical", data_shape=(6,), latent=(3, 2), prior="vamp")
