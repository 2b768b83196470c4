"""Data of any shape: a number, a series, an image, a volume, with channels or without, by mlp and by convolutions."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import ppl_vae as pv
from ppl_vae.common.files import digest
from ppl_vae.nn.convolutions import grid
from ppl_vae.nn.likelihoods import LIKELIHOODS
from ppl_vae.nn.networks import Decoder, Encoder

Shape = tuple[int, ...]
SHAPES: list[Shape] = [(), (1,), (7,), (2, 9), (5, 4), (1, 1, 1), (2, 3, 4), (1, 2, 3, 2)]
CONV: list[tuple[str, Shape, Shape]] = [  # network, data, grid
    ("conv", (1,), (1, 1)),
    ("conv", (100,), (1, 100)),
    ("conv", (2, 100), (2, 100)),
    ("conv", (2, 8), (2, 8)),
    ("conv", (2, 7), (1, 2, 7)),
    ("conv", (28, 28), (1, 28, 28)),
    ("conv", (100, 2), (1, 100, 2)),
    ("conv", (1, 2, 64), (1, 2, 64)),
    ("conv", (3, 7, 5), (3, 7, 5)),
    ("conv", (1, 8, 8, 8), (1, 8, 8, 8)),
    ("conv", (2, 1, 5, 3), (2, 1, 5, 3)),
    ("conv1d", (28, 28), (28, 28)),
    ("conv1d", (9,), (1, 9)),
    ("conv2d", (2, 100), (1, 2, 100)),
    ("conv2d", (2, 5, 4), (2, 5, 4)),
    ("conv3d", (4, 5, 6), (1, 4, 5, 6)),
    ("conv3d", (2, 4, 3, 2), (2, 4, 3, 2)),
]
HIDDEN = (4, 3, 2)  # three halvings


def draw(likelihood: str, shape: Shape, n: int) -> Tensor:
    x = torch.rand(n, *shape, generator=torch.Generator().manual_seed(1))
    counts = (5 * x).floor()
    return {
        "bernoulli": x.round(), "discretized": (255 * x).round() / 255, "continuous_bernoulli": x, "poisson": counts,
        "negative_binomial": counts, "zero_inflated": counts,
    }.get(likelihood, 2 * x - 1)  # fmt: skip


def everything_works(name: str, shape: Shape, x: Tensor, folder: Path, **options: Any) -> None:
    """What a user does with a pair: check, train, estimate, sample, encode, reconstruct, save and load."""
    torch.manual_seed(0)
    labels = torch.arange(len(x)) % 2 if name == "cvae" else None
    if name == "cvae":
        options["num_classes"] = 2
    pair = pv.build(name, data_shape=shape, data_mean=x.mean(0), **options)
    assert pair.data_shape == shape
    pv.check_pair(pair.model, pair.guide, x, labels)
    before = {k: v.clone() for k, v in pair.named_parameters()}
    data = x if labels is None else (x, labels)
    pv.fit(pair, data, epochs=2, batch_size=4, lr=1e-2, progress=False, device="cpu", capture=False)
    assert all(bool(v.isfinite().all()) for v in pair.parameters())
    if (name, x[0].numel()) != ("made", 1):  # which starts at its optimum
        assert not all(torch.equal(v, before[k]) for k, v in pair.named_parameters())
    pair.eval()
    again = pv.load(pv.save(folder / "run", pair))
    for one in (pair, again):
        drawn = pv.sample(one, len(x), labels, seed=0)
        assert drawn.shape == x.shape
        if name != "made":
            assert pv.reconstruct(one, x, labels, seed=0).shape == x.shape
            assert pv.encode(one, x, labels, seed=0).sample.keys() >= {"z1" if name == "hierarchical" else "z"}
    if name == "autoencoder":
        return
    one, two = (pv.log_likelihood(p, x, labels, num_samples=6, capture=False) for p in (pair, again))
    assert one.log_px.shape == (len(x),)
    assert one.num_dims == math.prod(shape)
    assert bool(one.log_px.isfinite().all())
    assert torch.equal(one.log_px, two.log_px)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", ["vae", "cvae", "hierarchical", "autoencoder", "linear", "made"])
def test_every_pair_takes_data_of_every_shape(name: str, shape: Shape, tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "hierarchical": {"latent": (3, 2), "hidden": (4,), "hidden2": (3,)}, "linear": {"latent": 2},
        "made": {"hidden": (5,)},
    }.get(name, {"latent": 2, "hidden": (4, 3)})  # fmt: skip
    x = draw("gaussian" if name == "linear" else "bernoulli", shape, 6)
    everything_works(name, shape, x, tmp_path, **options)


@pytest.mark.parametrize(("network", "shape", "on"), CONV, ids=str)
def test_convolutions_take_series_images_and_volumes(network: str, shape: Shape, on: Shape, tmp_path: Path) -> None:
    """With three halvings, however small the data."""
    assert grid(shape, HIDDEN, int(network[4]) if network != "conv" else None) == on
    x = draw("bernoulli", shape, 6)
    everything_works("vae", shape, x, tmp_path, latent=2, hidden=HIDDEN, network=network)


@pytest.mark.parametrize("shape", [(1,), (2, 9), (3, 7, 5), (1, 4, 3, 2)], ids=str)
def test_residual_networks_take_what_convolutions_take(shape: Shape, tmp_path: Path) -> None:
    x = draw("bernoulli", shape, 6)
    everything_works("vae", shape, x, tmp_path, latent=2, hidden=HIDDEN, network="resnet:blocks=2")
    torch.manual_seed(0)
    encoder, plain = (Encoder(shape, HIDDEN, "tanh", network) for network in ("resnet", "conv"))
    for block in (m for m in encoder.net.children() if hasattr(m, "gain")):
        conv = block.net[1]
        h = torch.randn(2, conv.in_channels, *[4] * (conv.weight.dim() - 2))
        assert not torch.equal(block(h), h)
        block.gain.data.zero_()
        assert torch.equal(block(h), h)
    assert encoder.features == plain.features


@pytest.mark.parametrize("name", ["cvae", "hierarchical", "autoencoder"])
@pytest.mark.parametrize("shape", [(9,), (2, 9), (5, 4), (1, 2, 3, 2)], ids=str)
def test_other_pairs_convolve_too(name: str, shape: Shape, tmp_path: Path) -> None:
    latent: Any = (3, 2) if name == "hierarchical" else 2
    more: dict[str, Any] = {"hidden2": (3,)} if name == "hierarchical" else {}
    everything_works(name, shape, draw("bernoulli", shape, 6), tmp_path, latent=latent, hidden=(3, 2), network="conv",
                     **more)  # fmt: skip


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize(("network", "shape"), [("mlp", ()), ("conv", (9,)), ("conv", (2, 9)), ("conv", (1, 3, 2, 4))])
def test_every_likelihood_takes_every_shape(likelihood: str, network: str, shape: Shape, tmp_path: Path) -> None:
    x = draw(likelihood, shape, 6)
    everything_works("vae", shape, x, tmp_path, latent=2, hidden=(3, 2), network=network, likelihood=likelihood)


@pytest.mark.parametrize(("network", "shape", "on"), [*CONV, *[("mlp", s, s) for s in SHAPES]], ids=str)
@pytest.mark.parametrize("multiple", [1, 2])
def test_nothing_is_cropped_away(network: str, shape: Shape, on: Shape, multiple: int) -> None:
    """The code depends on every number of an example, and every output has a bias and depends on z."""
    torch.manual_seed(0)
    x = torch.randn(2, 3, *shape, requires_grad=True)
    encoder = Encoder(shape, HIDDEN, "tanh", network)
    features = encoder(x)
    assert features.shape == (2, 3, encoder.features)
    (seen,) = torch.autograd.grad(features.square().sum(), x)
    assert bool((seen != 0).all())
    decoder = Decoder(2, shape, HIDDEN[::-1], "tanh", network, multiple)
    one, two = decoder(torch.randn(2, 3, 2)), decoder(torch.randn(2, 3, 2))
    assert one.shape == (2, 3, multiple, *shape)
    assert bool((one != two).all())
    start = torch.randn(multiple, *shape)
    decoder.set_output(start)
    with torch.no_grad():
        decoder.last.weight.zero_()
    found = decoder(torch.randn(5, 2)).detach()
    if network != "mlp":  # one bias a channel
        start = start.reshape(multiple * on[0], -1).mean(1)[:, None].expand(-1, math.prod(on[1:]))
    torch.testing.assert_close(found, start.reshape(1, multiple, *shape).expand(5, multiple, *shape))


@pytest.mark.parametrize(
    ("network", "shape", "hidden", "message"),
    [
        ("conv", (), (4,), "network='conv' needs data of one to three sizes"),
        ("conv", (1, 2, 3, 4, 5), (4,), "network='conv' needs data of one to three sizes"),
        ("conv1d", (1, 8, 8), (4,), r"found data_shape=\(1, 8, 8\): use network='conv2d' or 'conv3d' or 'mlp'"),
        ("conv3d", (8, 8), (4,), r"found data_shape=\(8, 8\)"),
        ("conv", (8,), (), "network='conv' needs channels, each at least 1; hidden holds none"),
        ("conv", (8,), (4, 0), "each at least 1; hidden holds 0"),
        ("conv4d", (8,), (4,), "choose one of mlp, conv, resnet, conv1d"),
        ("mlp", (0,), (4,), r"data_shape=\(0,\): each size must be at least 1"),
        ("conv", (1, 0, 8), (4,), "each size must be at least 1"),
    ],
)
def test_what_has_no_grid_is_one_line(network: str, shape: Shape, hidden: Shape, message: str) -> None:
    with pytest.raises(pv.UserError, match=message) as caught:
        pv.build("vae", data_shape=shape, latent=2, hidden=hidden, network=network)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "weights"),
    [
        ({"data_shape": (2, 3), "hidden": (5, 4)}, "ad49d605f1bd718e"),
        ({"data_shape": (4,), "hidden": ()}, "161fa24762afa33e"),
        ({"data_shape": (1, 28, 28), "hidden": (4, 3), "network": "conv"}, "8f303e22b00069ed"),
        (
            {"data_shape": (3, 7, 5), "hidden": (4, 3, 2), "network": "conv", "likelihood": "gaussian_network"},
            "df12c6156066687c",
        ),
        (
            {
                "data_shape": (3, 8, 8),
                "hidden": (4,),
                "network": "conv",
                "likelihood": "discretized",
                "data_mean": None,
            },
            "0f10023d9b5d630f",
        ),
    ],
)
def test_a_seed_means_the_weights_that_it_always_meant(options: dict[str, Any], weights: str) -> None:
    """Names, shapes and values as at commit b04bfd2: runs of before are loaded, and seeds are kept.

    The discretized likelihood has no data mean here: its start was made exact since.
    """
    torch.manual_seed(0)
    options = {"data_mean": torch.rand(options["data_shape"]), **options}
    assert digest(dict(pv.build("vae", latent=2, **options).state_dict()))[:16] == weights


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_the_evidence_of_probabilistic_pca_has_any_shape(dim: int) -> None:
    """log p(x) is that of the same numbers in a row."""
    shape = (2, 3, 2)[:dim]
    torch.manual_seed(0)
    a = pv.build("linear", data_shape=shape, latent=2, guide="exact").double()
    b = pv.build("linear", data_shape=(math.prod(shape),), latent=2, guide="exact").double()
    b.load_state_dict(a.state_dict())
    x = torch.randn(4, *shape, dtype=torch.float64)
    found = pv.log_likelihood(a, x, num_samples=3).log_px
    torch.testing.assert_close(found, b.model.evidence(x.reshape(4, -1)).detach(), rtol=0, atol=1e-9)


def test_one_number_under_probabilistic_pca_is_a_normal_of_that_variance() -> None:
    pair = pv.build("linear", data_shape=(), latent=2, guide="exact").double()
    x = torch.tensor([0.3, -2.0], dtype=torch.float64)
    s2 = float((pair.model.W.square().sum() + pair.model.log_s.exp() ** 2).detach())
    wanted = -x.square() / (2 * s2) - math.log(2 * math.pi * s2) / 2
    torch.testing.assert_close(pv.log_likelihood(pair, x, num_samples=3).log_px, wanted, rtol=0, atol=1e-9)


@pytest.mark.parametrize("network", ["mlp", "conv"])
@pytest.mark.parametrize("shape", [(5, 3, 8, 9), (5, 8, 8), (3, 8, 8), (8,)])
def test_data_of_another_shape_than_the_networks_are_told_so_with_both_shapes(network: str, shape: Shape) -> None:
    pair = pv.build("vae", data_shape=(3, 8, 8), latent=2, hidden=(4,), network=network, likelihood="gaussian")
    x = torch.zeros(shape)
    for call in (
        lambda: pv.log_likelihood(pair, x, num_samples=3),
        lambda: pv.check_pair(pair.model, pair.guide, x),
        lambda: pv.fit(pair, x, epochs=1, progress=False, device="cpu"),
    ):
        with pytest.raises(pv.UserError, match=r"x has shape .* examples of shape \(3, 8, 8\).* \(N, 3, 8, 8\)"):
            call()
