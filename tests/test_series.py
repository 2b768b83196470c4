"""The deep Markov model: a linear one has the log p(x) of the Kalman filter, and padding changes nothing."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import ppl_vae as pv

STEPS, SIZE, LATENT = 5, 3, 2


def linear(**options: int | str) -> pv.Pair:
    """A pair whose transition and decoder are linear, in float64."""
    torch.manual_seed(0)
    given = {"transition": "linear", "hidden": (), "latent": LATENT, "units": 4, **options}
    return pv.build("series", data_shape=(STEPS, SIZE), **given).double()


def series() -> Tensor:
    """Five steps; three steps, then the end; a gap of one number, one of a whole step; nothing at all."""
    x = torch.randn(4, STEPS, SIZE, dtype=torch.float64)
    x[1, 3:] = x[2, 1, 0] = x[2, 2] = x[3] = torch.nan
    return x


def kalman(pair: pv.Pair, x: Tensor) -> Tensor:
    """log p(x) of each series by the Kalman filter: predict, score what was seen, correct."""
    model = pair.model
    move, emit = model.move.linear, model.decoder.last
    noise = model.likelihood.log_sigma.exp().square()
    total = []
    for one in x:
        mean, cov = torch.zeros(LATENT).double(), torch.eye(LATENT).double()
        log_p = torch.zeros(()).double()
        for t, value in enumerate(one):
            if t:
                cov = move.weight @ cov @ move.weight.T + torch.diag((2 * model.move.log_scale).exp())
                mean = move.weight @ mean + move.bias
            on = ~value.isnan()
            if not bool(on.any()):
                continue
            c, d = emit.weight[on], emit.bias[on]
            spread = c @ cov @ c.T + noise.flatten() * torch.eye(len(c)).double()
            law = torch.distributions.MultivariateNormal(c @ mean + d, spread)
            log_p = log_p + law.log_prob(value[on])
            gain = cov @ c.T @ torch.linalg.inv(spread)
            mean, cov = mean + gain @ (value[on] - c @ mean - d), cov - gain @ c @ cov
        total.append(log_p)
    return torch.stack(total).detach()


def exact(pair: pv.Pair, x: Tensor) -> Tensor:
    """log p(x) of each series from log p(x, z) alone, a quadratic function of z: its top, and its width there."""
    total = []
    for one in x.split(1):
        size = LATENT * (1 + int((~one.isnan()).any(-1).nonzero()[:, 1].max()))

        def log_joint(z: Tensor, one: Tensor = one) -> Tensor:
            steps = torch.cat([z, z.new_zeros(STEPS * LATENT - len(z))]).reshape(STEPS, 1, 1, LATENT)
            values = {f"z_{t + 1}": step for t, step in enumerate(steps)}
            return pv.log_joint(pair.model, one, None, values).sum()

        zero = torch.zeros(size, dtype=torch.float64, requires_grad=True)
        curve = -torch.autograd.functional.hessian(log_joint, zero)
        slope = torch.autograd.grad(log_joint(zero), zero)[0]
        top = log_joint(torch.linalg.solve(curve, slope))
        total.append(top + size / 2 * math.log(2 * math.pi) - torch.logdet(curve) / 2)
    return torch.stack(total).detach()


def test_a_linear_one_has_the_log_px_of_the_kalman_filter() -> None:
    pair, x = linear(), series()
    found = kalman(pair, x)
    torch.testing.assert_close(exact(pair, x[:3]), found[:3], rtol=1e-9, atol=1e-9)
    est = pv.log_likelihood(pair, x, num_samples=4000)
    assert bool(((est.log_px - found).abs() < 4 * est.std_error + 1e-6).all())
    assert float(est.log_px[3]) == float(found[3]) == 0  # nothing was seen


def test_steps_after_the_end_have_no_latents() -> None:
    """The terms of a series are those of the series cut at its end; the guide draws the same from it."""
    x = series()[1:2]
    long = linear(transition="gated")
    torch.manual_seed(0)
    short = pv.build("series", data_shape=(3, SIZE), hidden=(), latent=LATENT, units=4).double()
    short.load_state_dict(long.state_dict())
    found = []
    for pair, one in ((long, x), (short, x[:, :3])):
        with pv.rng.forked(seed=1):
            found.append(pv.terms(pair.model, pair.guide, one, num_samples=7))
    for name in ("log_lik", "log_prior", "log_q"):
        torch.testing.assert_close(getattr(found[0], name), getattr(found[1], name))
    assert all(bool((found[0].sites[f"z_{t}"].log_q == 0).all()) for t in (4, 5))


def test_a_later_step_tells_the_guide_of_an_earlier_one() -> None:
    pair, x = linear(), series()[:1]
    code = pv.encode(pair, x).mean
    x[0, -1] += 1
    assert all(bool((pv.encode(pair, x).mean[name] != code[name]).any()) for name in code)


def test_draws_have_every_step_and_those_like_data_end_with_them() -> None:
    pair, x = linear(transition="gated"), series()[:3]
    assert not bool(pv.sample(pair, 4).isnan().any())
    assert torch.equal(pv.sample(pair, 3, like=x).isnan(), x.isnan())
    assert not bool(pv.reconstruct(pair, x).isnan().any())


@pytest.mark.parametrize("step", [(), (2,), (1, 4, 4)], ids=str)
def test_a_step_may_have_any_shape(step: tuple[int, ...]) -> None:
    network = "conv" if len(step) == 3 else "mlp"
    pair = pv.build("series", data_shape=(4, *step), latent=2, hidden=(3,), units=4, network=network)
    x = torch.randn(3, 4, *step)
    x[0, 2:] = torch.nan
    assert bool(pv.log_likelihood(pair, x, num_samples=10).log_px.isfinite().all())
    assert pv.sample(pair, 2).shape == (2, 4, *step)


def test_what_it_does_not_take() -> None:
    for options in ({"data_shape": ()}, {"transition": "cubic"}, {"units": 0}):
        with pytest.raises(pv.UserError, match="give series"):
            pv.build("series", **{"data_shape": (4, 2), **options})
    with pytest.raises(pv.UserError, match="averages q"):
        pv.sample(pv.build("series", data_shape=(4, 2), prior="vamp"), 1)
