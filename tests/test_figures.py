"""Figures: what they show, what they refuse, and that they leave the host program alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from matplotlib.figure import Figure

import ppl_vae as pv
from ppl_vae import figures
from ppl_vae.figures import write as writing
from ppl_vae.figures.style import picture_of

SHAPE = (1, 8, 8)


@pytest.fixture(autouse=True)
def _leaves_the_host_alone() -> Any:
    rc, state = dict(matplotlib.rcParams), torch.get_rng_state()
    yield
    assert plt.get_fignums() == []
    assert dict(matplotlib.rcParams) == rc
    assert torch.equal(torch.get_rng_state(), state)


def build(name: str, **options: Any) -> pv.Pair:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pair = pv.build(name, **{"data_shape": SHAPE, **options})
        with torch.no_grad():  # fresh networks are nearly constant: make codes and pictures differ
            for p in pair.parameters():
                p.mul_(3)
    return pair


def draw(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def binary(n: int, shape: tuple[int, ...] = SHAPE) -> torch.Tensor:
    return (draw(n, *shape) > 0.5).float()


def cells(figure: Figure, rows: int, columns: int, shape: tuple[int, ...] = (8, 8)) -> np.ndarray:
    """The pixels of each cell of a mosaic, (R, C, H, W), without the gaps."""
    (ax,) = figure.axes
    (image,) = ax.images
    h, w = shape
    array = np.ma.filled(image.get_array(), np.nan)
    pitch_h, pitch_w = array.shape[0] // rows, array.shape[1] // columns
    assert tuple(image.get_extent()) == (0, columns, rows, 0)
    return array.reshape(rows, pitch_h, columns, pitch_w, *array.shape[2:])[:, :h, :, :w].swapaxes(1, 2)


def words(labels: Any) -> list[str]:
    return [label.get_text() for label in labels]


def legend(figure: Figure) -> list[str]:
    found = figure.axes[0].get_legend() or figure.legends[0]
    return words(found.get_texts())


def estimate(khat: Any, num_samples: int = 1000, log_px: Any = None) -> pv.Estimate:
    k = torch.tensor(khat, dtype=torch.float64)
    one = torch.ones_like(k)
    values = -80 - torch.arange(len(k), dtype=torch.float64) if log_px is None else torch.tensor(log_px).double()
    return pv.Estimate(values, one, one, k, values - 1, num_samples, 7, 64, 8, 256)


def history(n: int, gap: float = 0.0) -> list[dict[str, Any]]:
    rows = [{"epoch": e, "train_bound": -20 - 10 / e, "valid_bound": -21 - (e - 3) ** 2 / 9} for e in range(1, n + 1)]
    return [{**row, "valid_elbo": row["valid_bound"] - gap, "beta": 1.0} for row in rows]


# ---------------------------------------------------------------- loss


def test_loss_curves_mark_the_best_validation_epoch() -> None:
    ax = figures.loss_curves(history(8, gap=2.0)).axes[0]
    lines = {line.get_label(): line for line in ax.get_lines()}
    assert set(lines) == {"training bound", "validation bound", "validation ELBO", "best epoch 3: −21.00"}
    assert lines["best epoch 3: −21.00"].get_xydata().tolist() == [[3.0, -21.0]]
    np.testing.assert_allclose(lines["validation ELBO"].get_ydata(), [r["valid_elbo"] for r in history(8, gap=2.0)])
    assert "nats" in ax.get_ylabel()


def test_loss_curves_draw_an_elbo_once_and_do_without_validation() -> None:
    assert legend(figures.loss_curves(history(4)))[:2] == ["training bound", "validation ELBO"]
    bare = [{"epoch": r["epoch"], "train_bound": r["train_bound"]} for r in history(4)]
    assert legend(figures.loss_curves(bare)) == ["training bound", "best epoch 4: −22.50"]


def test_loss_curves_pass_over_the_warmup_and_missing_values() -> None:
    rows = history(6)
    for row, beta in zip(rows, (0.2, 0.6, 0.9, 1.0, 1.0, 1.0), strict=True):
        row["beta"] = beta  # the best of all, epoch 3, was still warming up
    rows[3]["valid_bound"] = rows[3]["valid_elbo"] = None  # as JSON holds a NaN
    assert legend(figures.loss_curves(rows))[2:] == [f"best epoch 5: −{21 + 4 / 9:.2f}", "KL warm-up"]


def test_a_long_fit_says_which_epochs_it_leaves_out() -> None:
    ax = figures.loss_curves([{"epoch": e, "train_bound": -90 - 100 / e} for e in range(1, 101)]).axes[0]
    assert ax.get_ylim()[0] == pytest.approx(-90 - 100 / 6 - 0.05 * (100 / 6 - 1), abs=1e-4)
    assert ax.get_xlabel() == "epoch (the first 5 reach below the frame)"


# ---------------------------------------------------------------- grids of data


def test_reconstructions_stand_below_the_data() -> None:
    x, x_hat = draw(5, *SHAPE), draw(5, *SHAPE, seed=2)
    figure = figures.reconstructions(x, x_hat, n=4)
    np.testing.assert_array_equal(cells(figure, 2, 4), torch.stack([x[:4, 0], x_hat[:4, 0]]).numpy())
    assert words(figure.axes[0].get_yticklabels()) == ["data", "reconstruction"]
    image = figure.axes[0].images[0]
    assert image.get_clim() == (0, 1)
    assert image.get_cmap().name == "gray"


def test_samples_clip_and_leave_the_last_cells_empty() -> None:
    x = draw(5, 6, 4) * 3 - 1
    shown = cells(figures.samples(x, columns=3), 2, 3, (6, 4)).reshape(6, 6, 4)
    np.testing.assert_array_equal(shown[:5], x.clamp(0, 1).numpy())
    assert np.isnan(shown[5]).all()


def test_colours_keep_their_channels() -> None:
    x = draw(4, 3, 5, 7)
    shown = cells(figures.samples(x, columns=2), 2, 2, (5, 7)).reshape(4, 5, 7, 3)
    np.testing.assert_array_equal(shown, x.permute(0, 2, 3, 1).numpy())


def test_vectors_are_lines_on_one_scale() -> None:
    x = torch.tensor([[0.0, 1.0, 2.0], [4.0, 2.0, 0.0]])
    figure = figures.reconstructions(x, x + 0.0)
    behind, front = figure.axes[0].collections[:2]
    segments = np.stack(front.get_segments())
    assert segments.shape == (4, 3, 2)  # two rows of two cells
    heights = segments[:2, :, 1]  # downwards, in the first row
    np.testing.assert_allclose(heights, 0.92 - 0.84 * x.numpy() / 4, rtol=1e-5)
    np.testing.assert_allclose(segments[2, :, 0], segments[0, :, 0])
    np.testing.assert_allclose(np.stack(behind.get_segments()), segments)
    assert figure.axes[0].get_title().endswith("from 0 to 4")


def test_data_that_are_no_pictures_are_refused() -> None:
    for x in (draw(3, 2, 4, 4), draw(3), draw(3, 1), draw(2, 3, 4, 4, 4)):
        with pytest.raises(pv.UserError, match="neither images"):
            figures.samples(x)


# ---------------------------------------------------------------- latents


def test_latent_grid_decodes_quantiles_of_the_prior() -> None:
    pair = build("vae", latent=2, hidden=(16,))
    shown = cells(figures.latent_grid(pair, SHAPE, size=3), 3, 3)
    q = dist.Normal(0.0, 1.0).icdf(torch.tensor([1 / 6, 0.5, 5 / 6]))
    for row, up in enumerate((2, 1, 0)):  # the second coordinate grows upwards
        z = torch.stack([q, q[up].expand(3)], 1)
        np.testing.assert_allclose(shown[row], pv.decode(pair, {"z": z})[:, 0].numpy(), atol=1e-5)
    assert np.ptp(shown, axis=(0, 1)).max() > 0.05  # the cells do differ


@pytest.mark.parametrize(("name", "options"), [("vae", {"latent": 3}), ("made", {})])
def test_latent_grid_needs_two_dimensions(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(pv.UserError, match="--latent 2"):
        figures.latent_grid(build(name, hidden=(8,), **options), SHAPE)


def test_latent_grid_of_one_of_two_sites_repeats_with_its_seed() -> None:
    pair = build("hierarchical", latent=(4, 2), hidden=(8,), hidden2=(8,))
    with pytest.raises(pv.UserError, match="name the site"):
        figures.latent_grid(pair, SHAPE)
    a, b, c = (cells(figures.latent_grid(pair, SHAPE, "z2", 3, seed=s), 3, 3) for s in (0, 0, 1))
    np.testing.assert_array_equal(a, b)
    assert np.abs(a - c).max() > 1e-3


def test_scatter_of_two_coordinates_is_coloured_by_label() -> None:
    mean, y = draw(30, 2), torch.arange(30) % 3
    figure = figures.latent_scatter(mean, y)
    (dots,) = figure.axes[0].collections
    np.testing.assert_allclose(dots.get_offsets(), mean.numpy(), rtol=1e-6)
    colors = dots.get_facecolors()[:, :3]
    assert len(np.unique(colors, axis=0)) == 3
    np.testing.assert_allclose(colors[0], colors[3])
    assert words(figure.legends[0].get_texts()) == ["0", "1", "2"]
    assert not figures.latent_scatter(mean).legends


def test_scatter_of_more_shows_principal_components() -> None:
    direction = torch.tensor([0.6, 0.0, 0.8])
    mean = 5 + 3 * (draw(200, 1) - 0.5) * direction + 0.05 * (draw(200, 3, seed=2) - 0.5)
    ax = figures.latent_scatter(mean, site="code").axes[0]
    share = np.linalg.svd(mean - mean.mean(0), compute_uv=False) ** 2
    assert ax.get_xlabel().startswith(f"PC 1 ({100 * share[0] / share.sum():.0f} %)")
    assert "code" in ax.get_xlabel()
    shown = np.asarray(ax.collections[0].get_offsets())[:, 0]
    np.testing.assert_allclose(shown, ((mean - mean.mean(0)) @ direction).numpy(), atol=0.03)


def test_scatter_of_one_is_a_histogram_and_other_labels_a_scale() -> None:
    ax = figures.latent_scatter(draw(40, 1), torch.arange(40) % 2).axes[0]
    assert sum(p.get_height() for p in ax.patches[len(ax.patches) // 2 :]) == 20  # one class, stacked on the other
    assert figures.latent_scatter(draw(40, 2), draw(40)).axes[1].get_ylabel() == "label"  # a colour bar
    with pytest.raises(pv.UserError, match="one label each"):
        figures.latent_scatter(draw(40, 2), torch.arange(3))


def test_interpolation_decodes_the_line_between_the_means() -> None:
    pair = build("hierarchical", latent=(4, 2), hidden=(8,), hidden2=(8,))
    x = binary(2)
    shown = cells(figures.interpolation(pair, x[0], x[1], steps=5), 1, 7)[0]
    mean = pv.encode(pair, x, seed=0).mean
    w = torch.linspace(0, 1, 5)[:, None]
    decoded = pv.decode(pair, {k: (1 - w) * m[0] + w * m[1] for k, m in mean.items()})
    np.testing.assert_allclose(shown[1:-1], decoded[:, 0].numpy(), atol=1e-5)
    np.testing.assert_array_equal(shown[[0, -1]], x[:, 0].numpy())
    assert np.abs(shown[1] - shown[-2]).max() > 0.02


def test_interpolation_gives_a_row_to_each_label_that_matters() -> None:
    x, y = binary(2), torch.tensor([2, 0])
    pair = build("cvae", latent=2, hidden=(8,), num_classes=3)
    figure = figures.interpolation(pair, x[0], x[1], steps=4, y=y)
    shown = cells(figure, 2, 6)
    assert words(figure.axes[0].get_yticklabels()) == ["y = 2", "y = 0"]
    mean = pv.encode(pair, x, y, seed=0).mean["z"]
    end = pv.decode(pair, {"z": mean[1:]}, y[1:])[0, 0]
    np.testing.assert_allclose(shown[1, 4], end.numpy(), atol=1e-5)
    assert np.isnan(shown[0, -1]).all()
    assert np.isnan(shown[1, 0]).all()
    blind = build("vae", latent=2, hidden=(8,))  # its model takes labels, and makes nothing of them
    assert cells(figures.interpolation(blind, x[0], x[1], steps=4, y=y), 1, 6).shape[0] == 1


def test_traversal_moves_the_most_active_coordinates() -> None:
    pair, x = build("vae", latent=5, hidden=(16,)), binary(20)
    with torch.no_grad():
        pair.guide.head.linear.weight[:5].mul_(torch.tensor([2.0, 0.1, 0.1, 1.0, 5.0])[:, None])
    mean = pv.encode(pair, x, seed=0).mean["z"]
    order = mean.var(0).argsort(descending=True)[:3].tolist()
    assert order != sorted(order)  # else this would not see the order
    figure = figures.traversal(pair, x, coordinates=3, steps=4, span=2.0)
    labels = [label.split(",")[0] for label in words(figure.axes[0].get_yticklabels())]
    assert labels == [f"z[{i}]" for i in order]
    shown = cells(figure, 3, 4)
    for row, i in enumerate(order):
        z = mean[0].repeat(4, 1)
        z[:, i] = torch.linspace(-2, 2, 4)
        np.testing.assert_allclose(shown[row], pv.decode(pair, {"z": z})[:, 0].numpy(), atol=1e-5)
    rows = words(figures.traversal(pair, x, coordinates=5).axes[0].get_yticklabels())
    assert [label[:4] for label in rows] == [f"z[{i}]" for i in range(5)]


def test_figures_of_an_autoencoder_look_where_its_codes_are() -> None:
    """Steps of a grid are equal shares of the codes; those of a traversal, standard deviations from their mean."""
    pair, x = build("autoencoder", latent=2, hidden=(16,)), binary(30)
    z = pv.encode(pair, x).mean["z"]
    shown = cells(figures.latent_grid(pair, SHAPE, size=2, codes=z), 2, 2)
    q = z.quantile(torch.tensor([0.25, 0.75]), 0)
    for (row, column), place in {(1, 0): q[0], (0, 1): q[1]}.items():
        np.testing.assert_allclose(shown[row, column], pv.decode(pair, {"z": place[None]})[0, 0].numpy(), atol=1e-5)
    end = z[:1].clone()
    end[0, 0] = z[:, 0].mean() + 2 * z[:, 0].std(correction=0)
    shown = cells(figures.traversal(pair, x, steps=3, span=2.0), 2, 3)
    np.testing.assert_allclose(shown[0, 2], pv.decode(pair, {"z": end})[0, 0].numpy(), atol=1e-5)


def test_traversal_takes_the_site_next_to_the_data() -> None:
    pair = build("hierarchical", latent=(3, 2), hidden=(8,), hidden2=(8,))
    figure = figures.traversal(pair, binary(6))
    assert all(label.startswith("z1[") for label in words(figure.axes[0].get_yticklabels()))


def pair_with(prior: Any, guide: Callable[[Any], Any]) -> pv.Pair:
    """z ~ prior; x ~ N(sum of z, 1); the guide is a distribution given x."""

    def model(x: Any = None, y: Any = None, n: int = 1) -> Any:
        with pyro.plate("data", n if x is None else len(x), dim=-1):
            z = pyro.sample("z", prior)
            return pyro.sample(
                "x", dist.Normal(z.float().sum(-1, keepdim=True).expand(*z.shape[:-1], 4), 1.0).to_event(1), obs=x
            )

    def program(x: Any, y: Any = None) -> Any:
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", guide(x))

    return pv.Pair(model, program, data_shape=(4,))


def test_latents_that_cannot_move_are_refused(tmp_path: Path) -> None:
    gamma = dist.Gamma(torch.ones(2), torch.ones(2)).to_event(1)
    positive = pair_with(gamma, lambda x: dist.Gamma(1 + x[:, :2].square(), torch.ones(2)).to_event(1))
    with pytest.raises(pv.UserError, match="constrained"):
        figures.traversal(positive, draw(3, 4))
    with pytest.raises(pv.UserError, match="--latent 2"):
        figures.latent_grid(positive, (4,))
    which = dist.Categorical(torch.ones(2, 3)).to_event(1)
    discrete = pair_with(
        which, lambda x: dist.Categorical(logits=(x[:, :2, None] - 0.5) * torch.arange(3.0)).to_event(1)
    )
    with pytest.raises(pv.UserError, match="discrete"):
        figures.interpolation(discrete, *draw(2, 4))
    with pytest.raises(pv.UserError, match="no latents"):
        figures.interpolation(build("made", hidden=(8,)), *binary(2))
    kept = [p.stem for p in figures.save_all(positive, tmp_path, data=pv.Split(draw(5, 4)))]
    assert kept == ["reconstructions", "samples", "latent_scatter", "interpolation"]
    assert [p.stem for p in figures.save_all(discrete, tmp_path, data=pv.Split(draw(5, 4)))] == kept[:2]


def test_a_guide_that_knows_nothing_of_x_has_no_codes_to_show(tmp_path: Path) -> None:
    normal = dist.Normal(torch.zeros(2), 1.0).to_event(1)
    for pair in (pair_with(normal, lambda x: normal), build("gan", latent=3, hidden=(8,))):
        shape = (4,) if pair.name is None else SHAPE
        kept = {p.stem for p in figures.save_all(pair, tmp_path, data=pv.Split(draw(5, *shape)))}
        assert {"samples", "traversal"} <= kept <= {"samples", "traversal", "latent_grid"}


@pytest.mark.parametrize("name", ["series", "table", "counts", "bags"])
def test_data_that_are_no_curve_are_drawn_as_what_they_are(name: str) -> None:
    """A series is a line for each number of a step; rows of unlike numbers are bars, those of a table on own scales."""
    data = pv.load_data(name)
    pair = build({"bags": "topics"}.get(name, name), data=data, data_shape=data.data_shape, hidden=(8,))
    x = data.test.x[:3].nan_to_num()
    ax = figures.reconstructions(x, x, pictured=picture_of(pair)).axes[0]
    segments = [s for c in ax.collections[:-2] for s in c.get_segments()]
    if name == "series":
        assert {len(s) for s in segments} == {x.shape[1]}
        assert len(ax.collections) - 2 == 2 * x.shape[2]
    else:
        assert {len(s) for s in segments} == {2}
        across = np.array(segments)[..., 0]
        assert (across[:, 0] == across[:, 1]).all()
        assert len(segments) == 2 * 2 * x.numel()
    assert ("each on a scale of its own" in ax.get_title()) == (name == "table")


def test_columns_of_a_table_fill_their_own_scale() -> None:
    """The largest entry of each column reaches the top of its cell, however small the column is."""
    x = torch.tensor([[1.0, 1000.0, 0.001], [0.5, 500.0, 0.0005]])
    ax = figures.samples(x, 2, pictured="columns").axes[0]
    ends = np.array(ax.collections[0].get_segments())[:, 1, 1].reshape(2, 3)
    np.testing.assert_allclose(ends[0], 0.08, atol=1e-6)
    np.testing.assert_allclose(ends[1], 0.5, atol=1e-6)


# ---------------------------------------------------------------- estimates


def test_log_px_histogram_says_what_the_number_is() -> None:
    est = estimate([0.1] * 20)
    ax = figures.log_px_histogram(est).axes[0]
    assert sum(p.get_height() for p in ax.patches) == 20
    assert ax.get_lines()[0].get_xdata()[0] == pytest.approx(-89.5)
    for part in ("n = 20", "K = 1000", "seed 7", "lower bound in expectation"):
        assert part in ax.get_title()
    assert "nats" in ax.get_xlabel()
    assert legend(ax.figure) == [f"mean −89.50 ± {float(est.log_px.std()) / math.sqrt(20):.2f} nats"]


def test_log_px_histogram_of_exact_and_of_impossible_data() -> None:
    assert "bound" not in figures.log_px_histogram(estimate([-math.inf] * 4)).axes[0].get_title()
    ax = figures.log_px_histogram(estimate([0.1] * 3, log_px=[-2.0, -math.inf, -1.0])).axes[0]
    assert ax.get_title().endswith("not finite, so not shown: 1")
    assert sum(p.get_height() for p in ax.patches) == 2


def test_khat_scatter_counts_every_kind_of_example() -> None:
    figure = figures.khat_scatter(estimate([0.2, 0.9, -math.inf, math.nan, 0.6, -math.inf]))
    ax = figure.axes[0]
    assert ax.get_title().splitlines() == [
        "2 of 6 examples unreliable at K = 1000",
        "2 exact, with no k to show; 1 with no k: too few weights in the tail",
    ]
    levels = {line.get_label(): line.get_ydata()[0] for line in ax.get_lines()}
    assert levels["threshold 0.67"] == pytest.approx(2 / 3)
    offsets = {c.get_label(): np.asarray(c.get_offsets()) for c in ax.collections}
    np.testing.assert_allclose(offsets["reliable"], [[0, 0.2], [4, 0.6]])
    np.testing.assert_allclose(offsets["unreliable"], [[1, 0.9]])
    assert offsets["no k"][:, 0].tolist() == [3]


def test_khat_scatter_of_one_sample_has_no_threshold() -> None:
    figure = figures.khat_scatter(estimate([math.nan] * 3, num_samples=1))
    assert legend(figure) == ["no k", "finite variance below 0.5"]


# ---------------------------------------------------------------- save_all

ALL = {
    "loss",
    "reconstructions",
    "samples",
    "latent_grid",
    "latent_scatter",
    "interpolation",
    "traversal",
    "log_px",
    "khat",
}


def case(name: str) -> tuple[pv.Pair, pv.Split, set[str]]:
    y = torch.arange(30) % 3
    if name == "vae":
        return build("vae", latent=3, hidden=(8,)), pv.Split(binary(30)), ALL - {"latent_grid"}
    if name == "cvae":
        return build("cvae", latent=2, hidden=(8,), num_classes=3), pv.Split(binary(30), y), ALL
    if name == "made":
        return build("made", hidden=(8,)), pv.Split(binary(30), y), {"loss", "samples", "log_px"}
    if name == "flat":
        return build("linear", data_shape=(6,), latent=2), pv.Split(draw(30, 6)), ALL
    no_pictures = {"loss", "latent_scatter", "log_px", "khat"}
    return build("vae", data_shape=(2, 4, 4), latent=2, hidden=(8,)), pv.Split(binary(30, (2, 4, 4))), no_pictures


@pytest.mark.parametrize("name", ["vae", "cvae", "made", "flat", "two channels"])
def test_save_all_writes_what_applies(name: str, tmp_path: Path) -> None:
    pair, split, expected = case(name)
    est = pv.log_likelihood(pair, split.x, split.y, num_samples=40)
    paths = figures.save_all(pair, tmp_path / "run" / "figures", data=split, history=history(3), estimate=est)
    assert {p.name for p in paths} == {f"{stem}.png" for stem in expected}
    assert sorted(paths) == sorted((tmp_path / "run" / "figures").iterdir())  # and no temporary file
    for path in paths:
        assert path.read_bytes().startswith(b"\x89PNG")


def test_bound_curves_draw_a_line_and_a_band_for_each_proposal() -> None:
    with torch.random.fork_rng():
        pair, x = pv.build("linear", data_shape=(5,), latent=2), torch.randn(4, 5)
    curves = {p: pv.bound_curve(pair, x, num_samples=200, proposal=p) for p in ("guide", "prior", "defensive", "qmc")}
    figure = figures.bound_curves(curves)
    ax = figure.axes[0]
    assert ax.get_xscale() == "log"
    assert [t.get_text().split(":")[0] for t in ax.get_legend().get_texts()] == list(curves)
    for line, (sizes, value, _) in zip(ax.lines, curves.values(), strict=True):
        assert line.get_xdata().tolist() == list(sizes)
        np.testing.assert_allclose(line.get_ydata(), value.mean(1).numpy())
    assert len(ax.collections) == 4
    with pytest.raises(pv.UserError, match="no curve was given"):
        figures.bound_curves({})


def test_the_sandwich_shows_both_sides_of_each_example() -> None:
    with torch.random.fork_rng():
        pair = pv.build("linear", data_shape=(5,), latent=2)
    found = pv.eubo(pair, num_data=12, num_samples=20)
    ax = figures.sandwich(found).axes[0]
    np.testing.assert_allclose(ax.lines[0].get_ydata(), (found.upper - found.lower).sort().values.numpy())
    assert ax.lines[2].get_ydata()[0] == pytest.approx(found.gap)
    assert "12 simulated examples: mean log p(x) between" in ax.get_title()


def test_a_curve_far_below_says_so() -> None:
    def curve(first: float, last: float) -> pv.Curve:
        return pv.Curve((1, 10), torch.tensor([[first], [last]]).double(), torch.zeros(2, 1).double())

    ax = figures.bound_curves({"good": curve(-10, -9), "near": curve(-30, -12), "far": curve(-90, -50)}).axes[0]
    labels = [t.get_text() for t in ax.get_legend().get_texts()]
    assert [("below the frame" in label) for label in labels] == [False, False, True]
    assert -20 < ax.get_ylim()[0] < -12


def test_save_all_depends_on_its_seed_alone(tmp_path: Path) -> None:
    pair = build("vae", latent=2, hidden=(8,))
    split = pv.Split(draw(12, *SHAPE), binarize="dynamic")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        first = [p.read_bytes() for p in figures.save_all(pair, tmp_path, data=split, seed=3)]
        torch.manual_seed(2)
        paths = figures.save_all(pair, tmp_path, data=split, seed=3)
    assert [p.read_bytes() for p in paths] == first
    again = figures.save_all(pair, tmp_path, data=split, seed=4)
    changed = {p.stem for p, before in zip(again, first, strict=True) if p.read_bytes() != before}
    assert changed >= {"samples", "reconstructions", "interpolation"}
    data = matplotlib.image.imread(paths[0])
    assert data.shape[1] <= 900


def test_save_all_draws_a_column_for_each_label(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pair, split, _ = case("cvae")
    seen: dict[str, Figure] = {}
    write = writing._write
    monkeypatch.setattr(writing, "_write", lambda figure, path: write(seen.setdefault(path.stem, figure), path))
    figures.save_all(pair, tmp_path, data=split, seed=5)
    assert words(seen["samples"].axes[0].get_xticklabels()) == ["y = 0", "y = 1", "y = 2"]
    x = pv.sample(pair, 24, torch.arange(3).repeat(8), mean=True, seed=5)
    np.testing.assert_array_equal(cells(seen["samples"], 8, 3), x.reshape(8, 3, 8, 8).numpy())
    assert seen["latent_grid"].axes[0].get_title() == "y = 0"


def test_a_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    pair, split, _ = case("made")
    (tmp_path / "samples.png").write_bytes(b"old")
    (tmp_path / "samples.png.part").mkdir()  # the temporary file can't be opened
    with pytest.raises(pv.RunError, match="can't be written"):
        figures.save_all(pair, tmp_path, data=split)
    assert (tmp_path / "samples.png").read_bytes() == b"old"


def test_bad_arguments_are_refused() -> None:
    pair, x = build("vae", latent=2, hidden=(8,)), binary(3)
    for call in (
        lambda: figures.loss_curves([]),
        lambda: figures.reconstructions(x, x[:2]),
        lambda: figures.samples(x[:0]),
        lambda: figures.latent_scatter(draw(1, 2)),
        lambda: figures.interpolation(pair, x[0], x[1], steps=1),
        lambda: figures.traversal(pair, x, steps=0),
    ):
        with pytest.raises(pv.UserError):
            call()


def test_a_float64_pair_is_drawn_too() -> None:
    pair = build("vae", latent=2, hidden=(8,)).double()
    assert cells(figures.traversal(pair, binary(3).double(), steps=3), 2, 3).shape == (2, 3, 8, 8)
