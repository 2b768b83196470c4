"""The files of the literature: read as published, known by their checksums, refused in one line."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import savemat

import ppl_vae as pv
from ppl_vae.data import canonical


@pytest.fixture
def accept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the files of a test for the published ones."""
    monkeypatch.setattr(canonical, "verified", lambda path: path.read_bytes())


def test_fixed_binarised_mnist_is_read_as_its_lines_say(tmp_path: Path, accept: None) -> None:
    bits = (torch.rand(13, 784) > 0.5).long()
    folder = tmp_path / "binarized_mnist"
    folder.mkdir()
    for part, rows in (("train", bits[:6]), ("valid", bits[6:9]), ("test", bits[9:])):
        text = "".join(" ".join(map(str, row)) + "\n" for row in rows.tolist())
        (folder / f"binarized_mnist_{part}.amat").write_text(text)
    data = pv.load_data("binarized_mnist", root=tmp_path)
    assert torch.equal(data.train.x.flatten(1).long(), bits[:6])
    assert torch.equal(data.test.x.flatten(1).long(), bits[9:])
    assert (len(data.valid), data.data_shape, data.binarize, data.train.y) == (3, (1, 28, 28), "none", None)


def test_omniglot_of_the_iwae_paper_is_upright_with_alphabets_as_labels(tmp_path: Path, accept: None) -> None:
    """MATLAB stores an image column by column: its transpose is what was drawn."""
    drawn = np.random.default_rng(0).random((20, 28, 28))
    alphabet = np.arange(20) % 3
    columns = drawn.swapaxes(1, 2).reshape(20, 784).T  # (784, 20)
    one_hot = np.eye(3)[alphabet].T
    (tmp_path / "omniglot_burda").mkdir()
    savemat(
        tmp_path / "omniglot_burda" / "chardata.mat",
        {
            "data": columns[:, :14],
            "target": one_hot[:, :14],
            "testdata": columns[:, 14:],
            "testtarget": one_hot[:, 14:],
        },
    )
    data = pv.load_data("omniglot_burda", root=tmp_path, binarize="none", valid=2)
    np.testing.assert_allclose(data.test.x[:, 0], drawn[14:], rtol=1e-6)
    assert data.test.y is not None
    assert data.test.y.tolist() == alphabet[14:].tolist()
    assert (len(data.train), len(data.valid), data.num_classes) == (12, 2, 3)
    assert pv.load_data("omniglot_burda", root=tmp_path, valid=2).binarize == "dynamic"


def test_silhouettes_have_the_object_as_one(tmp_path: Path, accept: None) -> None:
    drawn = np.random.default_rng(0).random((9, 28, 28)) > 0.5
    stored = (1 - drawn.swapaxes(1, 2).reshape(9, 784)).astype(np.uint8)
    labels = (np.arange(9) % 2 + 1)[:, None].astype(np.uint8)
    spans = {"train": slice(0, 4), "val": slice(4, 6), "test": slice(6, 9)}
    arrays = {f"{name}_data": stored[span] for name, span in spans.items()}
    arrays |= {f"{name}_labels": labels[span] for name, span in spans.items()}
    (tmp_path / "silhouettes").mkdir()
    savemat(tmp_path / "silhouettes" / "caltech101_silhouettes_28_split1.mat", arrays)
    data = pv.load_data("silhouettes", root=tmp_path)
    np.testing.assert_array_equal(data.valid.x[:, 0], drawn[4:6])
    assert data.test.y is not None
    assert data.test.y.tolist() == [0, 1, 0]
    assert data.binarize == "none"


@pytest.mark.parametrize("name", ["binarized_mnist", "omniglot_burda", "silhouettes"])
def test_a_missing_file_and_another_one_are_refused_in_a_line(name: str, tmp_path: Path) -> None:
    with pytest.raises(pv.DataError, match=r"is not there: fetch it from .* and put it there") as refused:
        pv.load_data(name, root=tmp_path)
    path = Path(str(refused.value).split(" is not there")[0])
    assert path.name in canonical.DIGESTS
    path.parent.mkdir()
    path.write_bytes(b"0 1\n")
    with pytest.raises(pv.DataError, match=r"has (md5|sha256) .*, and the published file .*: fetch it anew"):
        pv.load_data(name, root=tmp_path)


def test_the_published_checksum_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "some.mat"
    path.write_bytes(b"content")
    for kind in (hashlib.md5, hashlib.sha256):
        monkeypatch.setitem(canonical.DIGESTS, "some.mat", kind(b"content").hexdigest())
        assert canonical.verified(path) == b"content"
