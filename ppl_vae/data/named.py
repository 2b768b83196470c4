"""Named data sets, a reader for each; torchvision downloads them, and defines their layout on disk."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import numpy.typing as npt
import torch

from ..common.errors import DataError
from ..common.files import reason
from ..common.rng import quiet_import
from .canonical import binarized_mnist, omniglot_burda, silhouettes
from .convert import WHOLE, Parts, labelled
from .factors import factors
from .images import pixels, read_image
from .toys import TOYS, toy


def _digits(root: Path, download: bool) -> Parts:
    bunch = quiet_import("sklearn.datasets").load_digits()
    return {WHOLE: labelled((bunch.images[:, None] / 16).astype(np.float32), bunch.target, "digits")}


def _factors(root: Path, download: bool) -> Parts:
    return {WHOLE: factors()}


def _torchvision(name: str, cls: str, files: str, folder: Path, root: Path, **kwargs: Any) -> Any:
    try:
        return getattr(quiet_import("torchvision.datasets"), cls)(root, **kwargs)
    except Exception as error:  # no network, a file that fails its checksum, a torchvision made for another torch
        raise DataError(f"torchvision cannot give {name} ({reason(error)}): put {files} into {folder}") from error


def _idx_dataset(name: str, cls: str, root: Path, download: bool) -> Parts:
    folder = root / cls / "raw"
    prefixes = {"train": "train", "test": "t10k"}
    files = [folder / f"{p}-{kind}-ubyte" for p in prefixes.values() for kind in ("images-idx3", "labels-idx1")]
    missing = [file.name for file in files if not file.exists()]
    if missing and download:
        _torchvision(name, cls, f"{', '.join(missing)} (unpacked)", folder, root, download=True)
    elif missing:
        raise DataError(f"{folder} lacks {', '.join(missing)} (unpacked): put them there, or allow the download")
    parts: Parts = {}
    for part, prefix in prefixes.items():
        images = _idx(folder / f"{prefix}-images-idx3-ubyte", 3)
        labels = _idx(folder / f"{prefix}-labels-idx1-ubyte", 1)
        if not 0 < len(images) == len(labels):
            raise DataError(f"{folder}: {len(images)} {prefix} images, {len(labels)} labels: replace both files")
        parts[part] = pixels(images[:, None]), torch.from_numpy(labels.astype(np.int64))
    return parts


def _idx(path: Path, ndim: int) -> npt.NDArray[np.uint8]:
    """An idx file of unsigned bytes; torchvision would take a short one, or fail without its name."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({reason(error)}): replace it") from error
    magic, *shape = (int.from_bytes(content[4 * i : 4 * i + 4], "big") for i in range(1 + ndim))
    if magic != 0x0800 + ndim:
        raise DataError(f"{path} has magic number {magic}, not {0x0800 + ndim}: replace it by the unpacked idx file")
    start = 4 * (1 + ndim)
    if len(content) != start + (size := math.prod(shape)):
        raise DataError(f"{path} has {len(content)} bytes, its header says {start + size}: delete it and fetch it anew")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _omniglot(root: Path, download: bool) -> Parts:
    """The background set is train, the evaluation set is test; characters are numbered through both."""
    from PIL import Image

    folder, parts, first = root / "omniglot-py", Parts(), 0
    for part, kind in (("train", "images_background"), ("test", "images_evaluation")):
        files = f"{kind}.zip, and unpacked beside it"
        _torchvision("omniglot", "Omniglot", files, folder, root, background=part == "train", download=download)
        # Read from the archive whose checksum torchvision has just verified; it numbers classes as the disk lists them.
        with ZipFile(folder / f"{kind}.zip") as archive:
            names = sorted(n for n in archive.namelist() if n.startswith(f"{kind}/") and n.endswith(".png"))
            images = []
            for name in names:
                with archive.open(name) as file:
                    images.append(Image.fromarray(read_image(file, name)).resize((28, 28), Image.Resampling.BOX))
        characters = sorted({name.rpartition("/")[0] for name in names})
        number = {character: first + i for i, character in enumerate(characters)}
        y = torch.tensor([number[name.rpartition("/")[0]] for name in names])
        parts[part] = 1 - pixels(np.stack([np.asarray(image) for image in images])[:, None]), y  # ink is 1
        first += len(characters)
    return parts


def _cifar10(root: Path, download: bool) -> Parts:
    # The batches are pickles. torchvision's class compares every file with the MD5 of the published one before it
    # opens any, with or without a download, and refuses others; so it is always this class that reads them.
    files, folder = "the files of cifar-10-python.tar.gz", root / "cifar-10-batches-py"
    parts: Parts = {}
    for part in ("train", "test"):
        read = _torchvision("cifar10", "CIFAR10", files, folder, root, train=part == "train", download=download)
        parts[part] = pixels(read.data.transpose(0, 3, 1, 2)), torch.tensor(read.targets)
    return parts


def _toy(name: str, root: Path, download: bool) -> Parts:
    return {WHOLE: toy(name)}


READERS: dict[str, Callable[[Path, bool], Parts]] = {
    "digits": _digits,
    "factors": _factors,
    "mnist": functools.partial(_idx_dataset, "mnist", "MNIST"),
    "fashion_mnist": functools.partial(_idx_dataset, "fashion_mnist", "FashionMNIST"),
    "kmnist": functools.partial(_idx_dataset, "kmnist", "KMNIST"),
    "omniglot": _omniglot,
    "binarized_mnist": binarized_mnist,
    "omniglot_burda": omniglot_burda,
    "silhouettes": silhouettes,
    "cifar10": _cifar10,
    **{name: functools.partial(_toy, name) for name in TOYS},
}  # by the names of ``common.registry.DATASETS``; pixels in [0, 1], but for toys
