"""Files of the literature, known by their checksums: fixed binarised MNIST, Burda's Omniglot, Caltech silhouettes.

A published log-likelihood belongs to one of them: other binarisations and splits give other numbers.
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ..common.errors import DataError
from ..common.rng import quiet_import
from .convert import Parts

SIDE = 28
SOURCES = {  # where each folder's files were published
    "binarized_mnist": "www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist",
    "omniglot_burda": "github.com/yburda/iwae, datasets/OMNIGLOT",
    "silhouettes": "people.cs.umass.edu/~marlin/data",
}
DIGESTS = {  # sha256, or md5 where that is what is published
    "binarized_mnist_train.amat": "ad693b29f94c14277b095f5238ddefbbdaaae0939789dd2f4f0205278cee3e4d",
    "binarized_mnist_valid.amat": "1de3d397c40fe8eeb33dafd4099a1f665ec01e96d9be234aaeeac8a34930e2e2",
    "binarized_mnist_test.amat": "e6687bfea3f820c174f33b7865140b2a2dd2930ef786f35d45795fc193b5ab2c",
    "chardata.mat": "21ecaf34373511aa7691cf2e0802aa3d",
    "caltech101_silhouettes_28_split1.mat": "4483e9c14b188fd09937f9ea6f9ea777",
}


def binarized_mnist(root: Path, download: bool) -> Parts:
    """Larochelle's draw of binarised MNIST: 50,000, 10,000 and 10,000 images without labels."""
    parts: Parts = {}
    for part in ("train", "valid", "test"):
        content = verified(root / "binarized_mnist" / f"binarized_mnist_{part}.amat")
        digits = np.frombuffer(content, np.uint8).reshape(-1, SIDE * SIDE, 2)[..., 0]  # "0 1 ... 0\n": two bytes each
        parts[part] = torch.from_numpy((digits - ord("0")).astype(np.float32)).reshape(-1, 1, SIDE, SIDE), None
    return parts


def omniglot_burda(root: Path, download: bool) -> Parts:
    """The Omniglot of the IWAE paper: 24,345 and 8,070 grey images, with their alphabets as labels."""
    mat = matlab(root / "omniglot_burda" / "chardata.mat")
    return {
        part: (images(mat[x].T), torch.from_numpy(mat[y].argmax(0)))
        for part, x, y in (("train", "data", "target"), ("test", "testdata", "testtarget"))
    }


def silhouettes(root: Path, download: bool) -> Parts:
    """Caltech 101 Silhouettes, 28 x 28, first split: 4,100, 2,264 and 2,307 bits, in which the object is 1."""
    mat = matlab(root / "silhouettes" / "caltech101_silhouettes_28_split1.mat")
    return {
        part: (1 - images(mat[f"{name}_data"]), torch.from_numpy(mat[f"{name}_labels"].astype(np.int64)).flatten() - 1)
        for part, name in (("train", "train"), ("valid", "val"), ("test", "test"))
    }


def verified(path: Path) -> bytes:
    """The content of a file, whose checksum is that of the published one.

    Raises:
        DataError: there is no such file, or another one.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        why = "is not there" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
        raise DataError(f"{path} {why}: fetch it from {SOURCES[path.parent.name]}, and put it there") from error
    digest = DIGESTS[path.name]
    kind = "sha256" if len(digest) == 64 else "md5"
    if (found := hashlib.new(kind, content, usedforsecurity=False).hexdigest()) != digest:
        raise DataError(f"{path} has {kind} {found}, and the published file {digest}: fetch it anew")
    return content


def matlab(path: Path) -> dict[str, Any]:
    """The arrays of a MATLAB file, after its checksum."""
    found: dict[str, Any] = quiet_import("scipy.io").loadmat(io.BytesIO(verified(path)))
    return found


def images(rows: npt.NDArray[Any]) -> torch.Tensor:
    """Images (N, 1, 28, 28) in [0, 1] of rows of numbers, which MATLAB stores column by column."""
    upright = rows.reshape(-1, 1, SIDE, SIDE).swapaxes(2, 3)
    return torch.from_numpy(np.ascontiguousarray(upright, np.float32))
