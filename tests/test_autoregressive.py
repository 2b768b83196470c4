"""Pairs without latents: probabilities sum to one, logits depend on what is before alone, and draws follow them."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

import ppl_vae as pv
from ppl_vae.nn.autoregressive import raster

PAIRS: dict[str, tuple[str, dict[str, Any]]] = {
    "made": ("made", {"hidden": (12,)}),
    "made-random": ("made", {"hidden": (12, 10), "order": "random"}),
    "made-masks": ("made", {"hidden": (12,), "order": "random", "num_masks": 3}),
    "pixelcnn": ("pixelcnn", {"features": 3, "layers": 3}),
    "transformer": ("transformer", {"width": 8, "heads": 2}),
    "transformer-tiles": ("transformer", {"width": 8, "heads": 2, "tile": 2}),
}
each = pytest.mark.parametrize("which", PAIRS)


def build(which: str, shape: tuple[int, ...], **more: Any) -> pv.Pair:
    """A pair with large weights, so that no dependence is too small to be seen."""
    torch.manual_seed(0)
    name, options = PAIRS[which]
    pair = pv.build(name, data_shape=shape, **{**options, **more}).double().eval()
    for parameter in pair.parameters():
        parameter.data.add_(0.5 * torch.randn_like(parameter))
    return pair


def every(shape: tuple[int, ...], levels: int = 2) -> Tensor:
    values = itertools.product(range(levels), repeat=math.prod(shape))
    return torch.tensor(list(values), dtype=torch.float64).reshape(-1, *shape) / (levels - 1)


def log_px(pair: pv.Pair, x: Tensor) -> Tensor:
    with torch.no_grad():
        return pv.terms(pair.model, pair.guide, x).log_w[0]


@each
@pytest.mark.parametrize(("shape", "levels"), [((1, 3, 3), 2), ((3, 2), 3), ((2, 1, 2), 7)])
def test_probabilities_sum_to_one(which: str, shape: tuple[int, ...], levels: int) -> None:
    if which == "transformer-tiles":
        shape, levels = ((*shape[:-2], 2, 4), 2) if levels == 2 else ((2, 2), levels)
    total = log_px(build(which, shape, levels=levels), every(shape, levels)).logsumexp(0)
    torch.testing.assert_close(total, torch.zeros_like(total), atol=1e-10, rtol=0)


@pytest.mark.parametrize("which", ["made", "made-random", "made-masks", "pixelcnn"])
@pytest.mark.parametrize("shape", [(1, 5, 4), (3, 3, 2)])
def test_logits_depend_on_all_the_numbers_before_and_on_no_other(which: str, shape: tuple[int, ...]) -> None:
    """The Jacobian is strictly triangular in the order of the steps, with no zero below: there is no blind spot."""
    more = {"hidden": (300,)} if "made" in which else {"layers": 6, "features": 16}
    net, length = build(which, shape, **more).model.net, math.prod(shape)
    points = torch.rand(4, length, dtype=torch.float64)  # several: a relu may be flat at one
    jacobian = torch.autograd.functional.jacobian(lambda t: net(t).reshape(-1, 4, length).sum(1), points).abs().sum(2)
    orders = getattr(net, "order", torch.arange(length).unsqueeze(0))
    for order, of_one in zip(orders, jacobian, strict=True):
        depends = of_one[order][:, order] != 0
        before = torch.ones_like(depends).tril(-1)
        assert not bool((depends & ~before).any())
        assert which == "made-masks" or torch.equal(depends, before)  # whose connections are drawn


@pytest.mark.parametrize("which", ["transformer", "transformer-tiles"])
def test_a_token_moves_the_logits_after_it_alone(which: str) -> None:
    pair = build(which, (1, 4, 4))
    tokens = torch.zeros(1, pair.model.steps.length, dtype=torch.float64)
    for i in range(tokens.shape[1]):
        other = tokens.clone()
        other[0, i] = 1
        moved = (pair.model.net(other) != pair.model.net(tokens)).any(-1)[0]
        assert moved.tolist() == [j > i for j in range(tokens.shape[1])]


@pytest.mark.parametrize("which", ["transformer", "transformer-tiles"])
def test_logits_by_the_cache_are_those_of_the_full_pass(which: str) -> None:
    pair = build(which, (1, 4, 4))
    tokens = pair.model.steps.encode((torch.rand(5, 1, 4, 4) > 0.5).double())
    step = pair.model.net.stepwise()
    cached = torch.stack([step(tokens, i) for i in range(tokens.shape[1])], 1)
    torch.testing.assert_close(cached, pair.model.net(tokens), atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("which", ["transformer", "transformer-tiles"])
def test_draws_by_the_cache_are_those_without_it(which: str) -> None:
    pair = build(which, (1, 4, 4))
    cached = pv.sample(pair, 20, seed=3)
    pair.model.net.stepwise = None
    assert torch.equal(cached, pv.sample(pair, 20, seed=3))
    assert len(cached.unique(dim=0)) > 5


@each
def test_draws_have_the_frequencies_of_the_probabilities(which: str) -> None:
    shape = (1, 2, 2)
    pair = build(which, shape)
    n = 20_000
    x = pv.sample(pair, n, seed=0)
    values = every(shape)
    counts = (x.reshape(n, 1, -1) == values.reshape(1, 16, -1)).all(-1).sum(0)
    p = log_px(pair, values).exp()
    assert bool(((counts / n - p).abs() < 5 * (p * (1 - p) / n).sqrt() + 1e-4).all())


def test_tokens_of_tiles_and_back() -> None:
    places = raster((2, 4, 6), tile=2)
    assert sorted(places.flatten().tolist()) == list(range(48))
    steps = pv.build("transformer", data_shape=(2, 4, 4), tile=2, levels=3).model.steps
    x = torch.randint(3, (5, 2, 4, 4)) / 2
    torch.testing.assert_close(steps.decode(steps.encode(x)), x)
    with pytest.raises(pv.UserError, match="tile=2: it must divide"):
        pv.build("transformer", data_shape=(1, 3, 3), tile=2)


def test_several_masks_train_one_by_one_and_average_in_an_estimate() -> None:
    pair = build("made-masks", (1, 3, 3))
    net, x = pair.model.net, every((1, 3, 3))[::37]
    tokens = pair.model.steps.encode(x)
    logits = net(tokens).squeeze(-1)  # (M, N, T)
    each_p = torch.distributions.Bernoulli(logits=logits).log_prob(tokens).sum(-1)
    torch.testing.assert_close(log_px(pair, x), each_p.logsumexp(0) - math.log(3))
    pair.train()
    seen = {tuple(log_px(pair, x).tolist()) for _ in range(30)}
    assert seen == {tuple(p) for p in each_p.tolist()} or len(seen) == 3
    state = pair.state_dict()
    again = pv.build("made", data_shape=(1, 3, 3), hidden=(12,), order="random", num_masks=3).double()
    again.load_state_dict(state)
    torch.testing.assert_close(log_px(again.eval(), x), log_px(pair.eval(), x))


def test_wrong_options_are_refused_in_one_line() -> None:
    for name, options, message in (
        ("made", {"order": "spiral"}, "raster or random"),
        ("made", {"num_masks": 0}, "at least one mask"),
        ("made", {"levels": 1}, "at least 2 values"),
        ("pixelcnn", {"layers": 0}, "sizes of at least 1"),
        ("transformer", {"heads": 3}, "heads must divide width"),
        ("transformer", {"levels": 256, "tile": 4}, "smaller tiles"),
    ):
        with pytest.raises(pv.UserError, match=message):
            pv.build(name, data_shape=(1, 4, 4), **options)
    with pytest.raises(pv.UserError, match="give images"):
        pv.build("pixelcnn", data_shape=(16,))
