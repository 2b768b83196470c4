"""Whatever form data and labels have, every entry point gives the same numbers, or one clear line."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, Subset, TensorDataset

import ppl_vae as pv

N, D = 6, 3


def linear(dtype: torch.dtype = torch.float32) -> pv.Pair:
    torch.manual_seed(0)
    return pv.build("linear", data_shape=(D,), latent=2).to(dtype)


def whole() -> Tensor:
    """Small whole numbers, which every type holds exactly."""
    return torch.tensor([[0, 1, 2], [3, 0, 1], [1, 1, 0], [2, 3, 1], [0, 0, 3], [1, 2, 2]]).float()


def tables(x: Tensor) -> dict[str, Any]:
    pd = pytest.importorskip("pandas")
    return {"frame": pd.DataFrame(x.numpy()), "mixed frame": pd.DataFrame(x.numpy()).astype({0: "int32", 1: "Int64"})}


def scipy_sparse(x: Tensor) -> Any:
    from scipy import sparse

    return sparse.csr_matrix(x.numpy())


class Stream(IterableDataset[Tensor]):
    def __init__(self, x: Tensor) -> None:
        self.x = x

    def __iter__(self) -> Any:
        return iter(self.x)


FORMS: dict[str, Callable[[Tensor], Any]] = {
    "float64": lambda x: x.double(),
    "float16": lambda x: x.half(),
    "bfloat16": lambda x: x.bfloat16(),
    "int64": lambda x: x.long(),
    "int32": lambda x: x.int(),
    "int8": lambda x: x.to(torch.int8),
    "strided": lambda x: torch.stack([x, -x], -1)[..., 0],
    "transposed": lambda x: x.t().contiguous().t(),
    "needs grad": lambda x: x.clone().requires_grad_(),
    "sparse": lambda x: x.to_sparse(),
    "scipy sparse": scipy_sparse,
    "numpy float64": lambda x: x.double().numpy(),
    "numpy float16": lambda x: x.numpy().astype(np.float16),
    "numpy int64": lambda x: x.long().numpy(),
    "numpy uint16": lambda x: x.numpy().astype(np.uint16),
    "big endian": lambda x: x.numpy().astype(">f4"),
    "fortran": lambda x: np.asfortranarray(x.numpy()),
    "read only": lambda x: np.frombuffer(x.numpy().tobytes(), np.float32).reshape(x.shape),
    "masked array": lambda x: np.ma.masked_array(x.numpy(), mask=False),
    "objects": lambda x: x.numpy().astype(object),
    "list": lambda x: x.tolist(),
    "list of tensors": lambda x: list(x),
    "list of arrays": lambda x: [row.numpy() for row in x],
    "tuple of x and no labels": lambda x: (x, None),
    "split": lambda x: pv.Split(x),
    "data set": lambda x: TensorDataset(x),
    "subset": lambda x: Subset(TensorDataset(torch.cat([x, x])), range(len(x))),
    "loader": lambda x: DataLoader(TensorDataset(x), batch_size=4),
    "shuffled loader": lambda x: DataLoader(TensorDataset(x), batch_size=4, shuffle=True, drop_last=True),
    "iterable": Stream,
    "iterable loader": lambda x: DataLoader(Stream(x), batch_size=4),
    "frame": lambda x: tables(x)["frame"],
    "mixed frame": lambda x: tables(x)["mixed frame"],
}

ENTRIES: dict[str, Callable[[Any, Any], Tensor]] = {
    "log_likelihood": lambda p, x: pv.log_likelihood(p, x, num_samples=20).log_px,
    "log_weights": lambda p, x: pv.log_weights(p, x, num_samples=5),
    "bound_curve": lambda p, x: pv.bound_curve(p, x, num_samples=8).log_px,
    "panel": lambda p, x: pv.panel(p, x, estimators=("iwae", "psis"), num_samples=40)["psis"].log_px,
    "ais": lambda p, x: pv.ais(p, x, num_chains=2, num_temperatures=3).log_px,
    "posterior": lambda p, x: pv.posterior(p, x, num_samples=4)["z"],
    "encode": lambda p, x: pv.encode(p, x, seed=0).mean["z"],
    "reconstruct": lambda p, x: pv.reconstruct(p, x, seed=0),
    "description_length": lambda p, x: pv.description_length(p, x, num_samples=5).total,
    "to_arviz": lambda p, x: torch.from_numpy(
        pv.to_arviz(p, x, method="guide", num_samples=3)["posterior"]["z"].values
    ),
    "compare": lambda p, x: torch.tensor(pv.compare({"a": p}, x, num_samples=5).log_px_datum.values),
}


@pytest.mark.parametrize("entry", sorted(ENTRIES))
@pytest.mark.parametrize("form", sorted(FORMS))
def test_every_form_of_the_same_data_gives_the_same_numbers(form: str, entry: str) -> None:
    pair, x = linear(), whole()
    assert torch.equal(ENTRIES[entry](pair, FORMS[form](x)), ENTRIES[entry](pair, x))


@pytest.mark.parametrize("form", sorted(FORMS))
def test_every_form_of_the_same_data_trains_to_the_same_weights(form: str) -> None:
    def trained(data: Any) -> Tensor:
        pair = linear()
        pv.fit(pair, data, epochs=1, batch_size=N, progress=False, device="cpu", valid=data)
        return pair.model.W.detach()

    close = "loader" in form or "set" in form or form == "iterable"  # a loader shuffles by itself: other sums
    one, other = trained(FORMS[form](whole())), trained(whole())
    assert torch.allclose(one, other, atol=5e-3) if close else torch.equal(one, other)


def conditional() -> pv.Pair:
    torch.manual_seed(0)
    return pv.build("cvae", data_shape=(D,), num_classes=3, latent=2, hidden=(4,), likelihood="gaussian")


LABELS: dict[str, Callable[[Tensor], Any]] = {
    "uint8": lambda y: y.to(torch.uint8),
    "int16": lambda y: y.to(torch.int16),
    "float": lambda y: y.float(),
    "float64": lambda y: y.double(),
    "column": lambda y: y[:, None],
    "float column": lambda y: y[:, None].double(),
    "one-hot": lambda y: torch.eye(3)[y],
    "whole one-hot": lambda y: nn.functional.one_hot(y, 3),
    "bool one-hot": lambda y: nn.functional.one_hot(y, 3).bool(),
    "list": lambda y: y.tolist(),
    "tuple of numbers": lambda y: tuple(y.tolist()),
    "numpy": lambda y: y.numpy(),
    "numpy uint8": lambda y: y.numpy().astype(np.uint8),
    "numpy one-hot": lambda y: np.eye(3)[y.numpy()],
    "series": lambda y: pytest.importorskip("pandas").Series(y.numpy()),
}
WITH_LABELS: dict[str, Callable[[Any, Any, Any], Tensor]] = {
    "log_likelihood": lambda p, x, y: pv.log_likelihood(p, x, y, num_samples=20).log_px,
    "ais": lambda p, x, y: pv.ais(p, x, y, num_chains=2, num_temperatures=3).log_px,
    "encode": lambda p, x, y: pv.encode(p, x, y, seed=0).mean["z"],
    "reconstruct": lambda p, x, y: pv.reconstruct(p, x, y, seed=0),
    "sample": lambda p, x, y: pv.sample(p, len(x), y, seed=0),
    "decode": lambda p, x, y: pv.decode(p, {"z": torch.ones(len(x), 2)}, y),
    "eubo": lambda p, x, y: pv.eubo(p, len(x), 5, y).upper,
    "bdmc": lambda p, x, y: pv.bdmc(p, len(x), y, num_chains=2, num_temperatures=3).upper,
    "posterior": lambda p, x, y: pv.posterior(p, x, y, num_samples=3)["z"],
    "a pair of x and y": lambda p, x, y: pv.log_likelihood(p, (x, y), num_samples=20).log_px,
}


@pytest.mark.parametrize("entry", sorted(WITH_LABELS))
@pytest.mark.parametrize("form", sorted(LABELS))
def test_every_form_of_the_same_labels_gives_the_same_numbers(form: str, entry: str) -> None:
    pair, x, y = conditional(), whole(), torch.tensor([0, 1, 2, 2, 1, 0])
    assert torch.equal(WITH_LABELS[entry](pair, x, LABELS[form](y)), WITH_LABELS[entry](pair, x, y))
    pv.check_pair(pair.model, pair.guide, x, LABELS[form](y))


@pytest.mark.parametrize("form", sorted(LABELS))
def test_every_form_of_the_same_labels_trains_to_the_same_weights(form: str) -> None:
    def trained(y: Any) -> list[Tensor]:
        pair = conditional()
        pv.fit(pair, (whole(), y), epochs=2, batch_size=3, progress=False, device="cpu")
        return [p.detach() for p in pair.parameters()]

    y = torch.tensor([0, 1, 2, 2, 1, 0])
    assert all(map(torch.equal, trained(LABELS[form](y)), trained(y)))


@pytest.mark.parametrize("entry", sorted(WITH_LABELS))
@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["a", "b", "c", "a", "b", "c"], "labels are text: give class numbers"),
        (np.array(list("abcabc")), "labels are text: give class numbers"),
        (torch.tensor([0, 1, 2, 3, 1, 0]), "3 at index 3 is no class of this pair: .* whole numbers from 0 to 2"),
        (torch.tensor([0, 1, -1, 2, 1, 0]), "-1 at index 2 is no class"),
        (torch.tensor([0, 1, 0.5, 2, 1, 0]), "0.5 at index 2 is no class"),
        (torch.tensor([0, 1, math.nan, 2, 1, 0]), "a NaN or an infinity, first at index 2"),
        (torch.zeros(6, 4), r"shape \(6, 4\): this pair takes a class for each example"),
        (torch.zeros(5), "5 labels for 6 data"),
        (3j, "complex"),
        (object(), "is a object|are a object|is of object|Python objects"),
    ],
)
def test_labels_that_are_none_are_one_line(labels: Any, message: str, entry: str) -> None:
    with pytest.raises(pv.UserError, match=message):
        WITH_LABELS[entry](conditional(), whole(), labels)


@pytest.mark.parametrize("entry", sorted(ENTRIES))
@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("text", "is a str|is text"),
        (None, "is a NoneType"),
        (torch.zeros(3, D, dtype=torch.complex64), "real numbers"),
        (np.array([["a"] * D] * 2), "real numbers"),
        ([[1.0, 2.0, 3.0], [4.0]], "parts of different sizes"),
        (torch.zeros(0, D), "holds no data"),
        (torch.tensor(1.0), "holds no data"),
        (torch.full((2, D), math.inf), "an infinity, first at index 0"),
        (torch.full((2, D), math.nan), r"example 0 has a missing entry|NaN"),
        (torch.zeros(4, D + 1), r"fails on x of shape \(4, 4\)|of shape"),
        ({"values": torch.zeros(4, D), "mask": torch.ones(3, D)}, "different numbers of data"),
        ({"values": torch.zeros(4, D), "mask": torch.ones(4, D)}, "fails on x of (shapes values|type)|observes a dict"),
        ({}, "holds no data"),
        ((torch.zeros(4, D), torch.ones(4, D)), "several fields of .* are one dictionary"),
    ],
)  # fmt: skip
def test_data_that_are_none_are_one_line(data: Any, message: str, entry: str) -> None:
    if entry in ("encode", "reconstruct") and "NaN" in message:
        return  # the guide alone passes a NaN on
    with pytest.raises(pv.UserError, match=message) as caught:
        ENTRIES[entry](linear(), data)
    assert "\n" not in str(caught.value)


# ---- whole numbers: tokens stay whole, counts become floating where the pair needs it


class Tokens(nn.Module):
    """p(z) prod_t Categorical(x_t | z), padding masked; the guide looks tokens up in a table."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Linear(2, 4 * 5)

    def forward(self, x: Tensor | None = None, y: Tensor | None = None, n: int = 1) -> Any:
        with pyro.plate("data", n if x is None else len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            logits = self.logits(z).unflatten(-1, (4, 5))
            mask = torch.ones(()).bool() if x is None else x != 0
            return pyro.sample("x", dist.Categorical(logits=logits).mask(mask).to_event(1), obs=x)


class TokenGuide(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(5, 2)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Any:
        loc = self.table(x).mean(-2)
        with pyro.plate("data", len(x), dim=-1):
            return pyro.sample("z", dist.Normal(loc, 0.5).to_event(1))


TOKENS = torch.tensor([[1, 2, 0, 0], [3, 4, 2, 0], [2, 2, 2, 2], [4, 1, 0, 0], [1, 3, 4, 0], [2, 0, 0, 0]])


@pytest.mark.parametrize(
    "form",
    [
        lambda x: x, lambda x: x.int(), lambda x: x.numpy(), lambda x: x.numpy().astype(np.int16), lambda x: x.tolist(),
        lambda x: TensorDataset(x), lambda x: DataLoader(TensorDataset(x), batch_size=6), lambda x: pv.Split(x),
        lambda x: pytest.importorskip("pandas").DataFrame(x.numpy()),
    ],
)  # fmt: skip
def test_token_ids_stay_whole_numbers(form: Callable[[Tensor], Any]) -> None:
    torch.manual_seed(0)
    pair = pv.Pair(Tokens(), TokenGuide())
    expected = pv.log_likelihood(pair, TOKENS, num_samples=10).log_px
    assert torch.equal(pv.log_likelihood(pair, form(TOKENS), num_samples=10).log_px, expected)
    pv.fit(pair, form(TOKENS), valid=form(TOKENS), epochs=2, batch_size=3, progress=False, device="cpu")
    assert pv.sample(pair, 3, seed=0).dtype == torch.int64
    assert pv.encode(pair, form(TOKENS)).mean["z"].shape == (6, 2)


def test_load_data_keeps_token_ids_whole_and_padding_is_no_number_of_a_datum() -> None:
    torch.manual_seed(0)
    pair = pv.Pair(Tokens(), TokenGuide())
    data = pv.load_data(TOKENS.repeat(5, 1).numpy(), binarize="none")
    assert data.train.x.dtype == torch.int64
    pv.fit(pair, data, epochs=1, progress=False, device="cpu")
    est = pv.log_likelihood(pair, TOKENS, num_samples=10)
    assert est.num_dims == pytest.approx(float((TOKENS != 0).double().sum(1).mean()))


def test_conditions_may_be_vectors() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(2 + 4, D)

        def forward(self, x: Tensor | None = None, y: Tensor | None = None, n: int = 1) -> Any:
            with pyro.plate("data", n if x is None else len(x), dim=-1):
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                assert y is not None
                return pyro.sample("x", dist.Normal(self.net(pv.networks.cat(z, y)), 1.0).to_event(1), obs=x)

    class Guide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(D + 4, 2)

        def forward(self, x: Tensor, y: Tensor | None = None) -> Any:
            assert y is not None
            with pyro.plate("data", len(x), dim=-1):
                return pyro.sample("z", dist.Normal(self.net(torch.cat([x, y], -1)), 0.5).to_event(1))

    torch.manual_seed(0)
    x, y = torch.randn(20, D), torch.randn(20, 4)
    found = []
    for given in ((x, y), (x.numpy(), y.double().numpy()), pv.Split(x, y)):
        torch.manual_seed(1)
        pair = pv.Pair(Model(), Guide())
        pv.fit(pair, given, epochs=1, batch_size=5, progress=False, device="cpu")
        found.append(pv.log_likelihood(pair, given, num_samples=10).log_px)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


# ---- bytes: one meaning for a pair, whatever the call or the batch


def test_bytes_mean_the_same_in_every_batch_and_every_call() -> None:
    pixels = torch.randint(0, 256, (64, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    pixels[32:] = torch.randint(0, 2, (32, 16), generator=torch.Generator().manual_seed(1)).byte()  # dark ones
    pixels[0, 0] = 200

    def bound(x: Tensor) -> float:
        torch.manual_seed(0)
        pair = pv.build("vae", data_shape=(16,), latent=2, hidden=(4,), likelihood="gaussian")
        loader = DataLoader(TensorDataset(x), 32)
        history = pv.fit(pair, loader, epochs=1, lr=1e-9, progress=False, device="cpu")
        dark = x[32:].float() / 255 if x.dtype == torch.uint8 else x[32:]
        one, other = (pv.log_likelihood(pair, data, num_samples=10).log_px for data in (x[32:], dark))
        assert torch.equal(one, other)
        return float(history[-1]["train_bound"])

    assert bound(pixels) == pytest.approx(bound(pixels / 255), abs=1e-4)


def test_bytes_beyond_one_are_refused_where_they_were_bits() -> None:
    pair = pv.build("vae", data_shape=(4,), latent=2, hidden=(4,), likelihood="gaussian")
    pv.log_likelihood(pair, torch.ones(3, 4, dtype=torch.uint8), num_samples=5)
    with pytest.raises(pv.DataError, match="bytes up to 9, and those given before were bits"):
        pv.log_likelihood(pair, torch.full((3, 4), 9, dtype=torch.uint8), num_samples=5)


def test_bytes_in_a_dictionary_are_whole_numbers() -> None:
    class Model(nn.Module):
        def forward(self, x: Any = None, y: Any = None, n: int = 1) -> Any:
            with pyro.plate("data", len(x["v"]), dim=-1):
                z = pyro.sample("z", dist.Normal(torch.zeros(D), 1.0).to_event(1))
                return pyro.sample("v", dist.Normal(z + x["age"][:, None], 1.0).to_event(1), obs=x["v"])

    class Guide(nn.Module):
        def forward(self, x: Any, y: Any = None) -> Any:
            with pyro.plate("data", len(x["v"]), dim=-1):
                return pyro.sample("z", dist.Normal((x["v"] - x["age"][:, None]) / 2, 0.5**0.5).to_event(1))

    pair, age = pv.Pair(Model(), Guide()), torch.tensor([0, 1, 4, 2, 3, 0])
    v = whole() + age[:, None]
    truth = dist.Normal(age[:, None].float(), 2**0.5).log_prob(v).sum(-1).double()
    for kind in (torch.uint8, torch.int8, torch.int64, torch.float32):
        est = pv.log_likelihood(pair, {"v": v, "age": age.to(kind)}, num_samples=5)
        assert torch.allclose(est.log_px, truth, atol=1e-4)


@pytest.mark.parametrize(
    ("latents", "message"),
    [
        ({"Z": torch.zeros(3, 2)}, "the model draws no site 'Z'; its latents are z"),
        ({"z": torch.tensor([5.0, -5.0])}, r"shape \(2,\) where \(n, \*event\) = \(2, 2\)"),
        (torch.zeros(3, 2), "give the latents, as a dictionary"),
        (np.zeros((3, 2)), "give the latents, as a dictionary"),
        ({}, "give the latents, as a dictionary"),
    ],
)
def test_latents_that_are_none_are_one_line(latents: Any, message: str) -> None:
    with pytest.raises(pv.UserError, match=message):
        pv.decode(linear(), latents)


def test_a_program_that_meets_missing_entries_says_so() -> None:
    with pytest.raises(pv.UserError, match=r"x has missing entries \(NaN\)"):
        pv.reconstruct(linear(), torch.full((2, D), math.nan))


def test_data_of_several_fields_have_a_name() -> None:
    data = pv.load_data({"v": torch.zeros(30, 3), "m": torch.ones(30, 3)}, binarize="none")
    assert "x['v'] (3,) float32" in repr(data)


@pytest.mark.parametrize("form", ["numpy float64", "list of tensors", "strided", "fortran", "list"])
def test_terms_take_arrays_and_lists_too(form: str) -> None:
    pair, x = linear(torch.float64), whole().double()
    given = FORMS[form](x) if form != "list" else (x + 0.0).tolist()
    found = []
    for data in (given, x):
        torch.manual_seed(0)
        found.append(pv.terms(pair.model, pair.guide, data, num_samples=3).log_w)
    assert torch.equal(*found)


# ---- the loss of a step


def stepped(pair: pv.Pair, x: Any) -> Tensor:
    pyro.set_rng_seed(0)
    return pv.SVI(pair.model, pair.guide, torch.optim.Adam(pair.parameters())).step(x)


def module_of_loss(pair: pv.Pair, x: Any) -> Tensor:
    pyro.set_rng_seed(0)
    return pv.Elbo()(pair.model, pair.guide)(x)


def loss_of(make: Callable[[], pv.Objective]) -> Callable[[pv.Pair, Any], Tensor]:
    def loss(pair: pv.Pair, x: Any) -> Tensor:
        pyro.set_rng_seed(0)
        return torch.tensor(make().loss(pair.model, pair.guide, x))

    return loss


def evaluated(pair: pv.Pair, x: Any) -> Tensor:
    pyro.set_rng_seed(0)
    return torch.tensor(pv.SVI(pair.model, pair.guide, torch.optim.Adam(pair.parameters())).evaluate_loss(x))


LOSSES: dict[str, Callable[[pv.Pair, Any], Tensor]] = {
    "SVI.step": stepped,
    "SVI.evaluate_loss": evaluated,
    "Elbo.loss": loss_of(pv.Elbo),
    "MeanField.loss": loss_of(pv.MeanField),
    "IWAE.loss": loss_of(pv.IWAE),
    "Elbo()(model, guide)": module_of_loss,
}
BATCHES = sorted(f for f in FORMS if "loader" not in f and "set" not in f and f not in ("iterable", "split"))


@pytest.mark.parametrize("loss", sorted(LOSSES))
@pytest.mark.parametrize("form", [f for f in BATCHES if "tuple" not in f])
def test_every_form_of_a_batch_has_the_same_loss(form: str, loss: str) -> None:
    assert torch.equal(LOSSES[loss](linear(), FORMS[form](whole())), LOSSES[loss](linear(), whole()))


@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_bytes_have_the_loss_of_their_values_over_255(loss: str) -> None:
    x = (255 * torch.rand(N, D)).to(torch.uint8)
    assert torch.equal(LOSSES[loss](linear(), x), LOSSES[loss](linear(), x.float() / 255))


@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_a_batch_takes_the_dtype_of_the_pair(loss: str) -> None:
    double = linear(torch.float64)
    assert torch.equal(LOSSES[loss](double, whole()), LOSSES[loss](linear(torch.float64), whole().double()))


@pytest.mark.parametrize("bad", [[["a", "b", "c"]], np.array([["a", "b", "c"]]), [[1.0, math.inf, 0.0]]])
@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_a_batch_that_is_no_data_is_refused_in_a_line(loss: str, bad: Any) -> None:
    with pytest.raises(pv.UserError, match=r"^x (is text|has an infinity)"):
        LOSSES[loss](linear(), bad)


def test_a_byte_means_the_same_in_every_step() -> None:
    """A later batch that holds no byte above 1 is of pixels too."""
    pair, dark = linear(), torch.ones(N, D, dtype=torch.uint8)
    svi = pv.SVI(pair.model, pair.guide, torch.optim.SGD(pair.parameters(), lr=0.0))
    svi.step(torch.full((N, D), 200, dtype=torch.uint8))
    pyro.set_rng_seed(1)
    one = svi.step(dark)
    pyro.set_rng_seed(1)
    assert torch.equal(one, svi.step(dark.float() / 255))


def test_labels_of_a_step_are_taken_in_every_form() -> None:
    x, y = whole(), torch.tensor([0, 1, 2, 0, 1, 2])

    def step(labels: Any) -> Tensor:
        pyro.set_rng_seed(0)
        pair = conditional()
        return pv.SVI(pair.model, pair.guide, torch.optim.Adam(pair.parameters())).step(x, labels)

    for form in ("uint8", "list", "numpy", "column"):
        found = step(LABELS[form](y)) if form != "column" else step(y[:, None].numpy())
        assert torch.equal(found, step(y)), form


def test_a_tensor_of_the_parameters_dtype_reaches_the_programs_itself() -> None:
    """Nothing is copied, read or asked on the way of a training step; nor is what is no data touched."""
    seen: list[Any] = []

    def model(x: Any, more: Any = None) -> None:
        seen.append((x, more))
        values = x if torch.is_tensor(x) else torch.zeros(N, D)
        with pyro.plate("data", len(values), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(D), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=values)

    def guide(x: Any, more: Any = None) -> None:
        loc = pyro.param("loc", torch.zeros(D))
        with pyro.plate("data", N, dim=-1):
            pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))

    svi = pv.SVI(model, guide, pyro.optim.Adam({"lr": 0.1}))
    ragged = [torch.zeros(2), torch.zeros(3)]
    for args in ((whole(), 3), (ragged, "two"), (7, None), ((1, 2), {})):
        svi.step(*args)
        assert seen[-1][0] is args[0]
        assert seen[-1][1] is args[1]
    pyro.clear_param_store()
