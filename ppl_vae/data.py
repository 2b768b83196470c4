"""Names, files or tensors in; train, valid and test out; binarisation; batches on the device."""

from __future__ import annotations

import hashlib
import math
import os
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import IO, Any, TypeAlias
from zipfile import ZipFile

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .errors import DataError
from .rng import seed_for

DATASETS: dict[str, str] = {
    "digits": "handwritten digits, 1 x 8 x 8 (1,797; from scikit-learn, no download)",
    "mnist": "handwritten digits, 1 x 28 x 28 (60,000 and 10,000)",
    "fashion_mnist": "articles of clothing, 1 x 28 x 28 (60,000 and 10,000)",
    "kmnist": "cursive Japanese characters, 1 x 28 x 28 (60,000 and 10,000)",
    "omniglot": "characters of 50 alphabets, 1 x 28 x 28 (19,280 and 13,180)",
    "cifar10": "photographs of 10 classes, 3 x 32 x 32 (50,000 and 10,000)",
}

Array: TypeAlias = Tensor | npt.NDArray[Any]
Source: TypeAlias = str | os.PathLike[str] | Array | tuple[Array, Array | None] | Mapping[str, Array]
Labelled: TypeAlias = tuple[Tensor, Tensor | None]  # x (N, *shape), y (N,)
Parts: TypeAlias = dict[str, Labelled]  # {"all"}, or the splits that the source has of its own

_SPLITS = ("train", "valid", "test")
_BINARIZE = ("dynamic", "static", "none")
_IDX_CLASS = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "kmnist": "KMNIST"}  # as torchvision names them
_IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm"}


@dataclass(frozen=True, eq=False)
class Split:
    """Data and labels that are used together, such as the test split.

    Attributes:
        x: the data, (N, *shape), floating point.
        y: the labels, (N,), int64 where they are integers; None without labels.
        binarize: ``"dynamic"`` where ``x`` holds probabilities, and each visit draws x' ~ Bernoulli(x) anew.
        name: what messages call it; also names the stream of `fixed`.

    Example:
        >>> split = Split(torch.full((4, 2), 0.5), binarize="dynamic")
        >>> len(split.limit(3)), split.fixed(seed=0)
        (3, Split(data: x (4, 2) float32, no labels, binarize='none'))
    """

    x: Tensor
    y: Tensor | None = None
    binarize: str = "none"
    name: str = "data"

    def __len__(self) -> int:
        return len(self.x)

    def __repr__(self) -> str:
        labels = "no labels" if self.y is None else f"y {str(self.y.dtype).removeprefix('torch.')}"
        x = f"x {tuple(self.x.shape)} {str(self.x.dtype).removeprefix('torch.')}"
        return f"Split({self.name}: {x}, {labels}, binarize={self.binarize!r})"

    def limit(self, n: int | None) -> Split:
        """The first ``n`` data, or all where there are no more or ``n`` is None.

        Raises:
            DataError: ``n`` is below 1.
        """
        if n is None:
            return self
        if n < 1:
            raise DataError(f"a limit of {n} leaves no data of {self.name}: give 1 or more")
        return replace(self, x=self.x[:n], y=None if self.y is None else self.y[:n])

    def to(self, device: torch.device | str) -> Split:
        """The same split on ``device``."""
        return replace(self, x=self.x.to(device), y=None if self.y is None else self.y.to(device))

    def fixed(self, seed: int = 0) -> Split:
        """One draw of Bernoulli(x), the same on every device; the split itself where it is not dynamic."""
        if self.binarize != "dynamic":
            return self
        generator = torch.Generator().manual_seed(seed_for(seed, f"binarize/{self.name}"))
        x = torch.bernoulli(self.x.cpu(), generator=generator).to(self.x.device)
        return replace(self, x=x, binarize="none")


@dataclass(frozen=True, eq=False)
class Data:
    """Three splits of one source; `load_data` makes them.

    Attributes:
        train, valid, test: the splits; only ``train`` may be ``"dynamic"``.
        name: a name of `DATASETS`, the path of a file, or ``"array"``.
        seed: the seed of the division and of the fixed draws.
        binarize: ``"dynamic"``, ``"static"`` or ``"none"``, as `load_data` was asked.
    """

    train: Split
    valid: Split
    test: Split
    name: str
    seed: int
    binarize: str

    def split(self, name: str) -> Split:
        """The split of that name.

        Raises:
            DataError: ``name`` is none of train, valid, test.
        """
        if name not in _SPLITS:
            raise DataError(f"no split {name!r}: choose one of {', '.join(_SPLITS)}")
        return {"train": self.train, "valid": self.valid, "test": self.test}[name]

    @property
    def data_shape(self) -> tuple[int, ...]:
        """The shape of one datum."""
        return tuple(self.train.x.shape[1:])

    @property
    def mean(self) -> Tensor:
        """The mean of the training data, of shape ``data_shape``."""
        return self.train.x.mean(0)

    @property
    def num_classes(self) -> int | None:
        """One more than the largest label; None where labels are absent, or are not integers from 0 on."""
        labels = [self.split(name).y for name in _SPLITS]
        spans = [y.aminmax() for y in labels if y is not None and not y.is_floating_point()]
        if len(spans) < len(labels) or min(int(low) for low, _ in spans) < 0:
            return None
        return 1 + max(int(high) for _, high in spans)

    def record(self) -> dict[str, Any]:
        """What identifies the data, for JSON: name, binarize, seed, sizes, shape, and sha256 over every tensor."""
        digest = hashlib.sha256()
        for name in _SPLITS:
            for key, tensor in (("x", self.split(name).x), ("y", self.split(name).y)):
                if tensor is not None:
                    digest.update(f"{name}.{key} {tensor.dtype} {tuple(tensor.shape)};".encode())
                    digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
        return {
            "name": self.name,
            "binarize": self.binarize,
            "seed": self.seed,
            "sizes": {name: len(self.split(name)) for name in _SPLITS},
            "shape": list(self.data_shape),
            "sha256": digest.hexdigest(),
        }


def load_data(
    source: Source,
    *,
    root: str | os.PathLike[str] = "data",
    binarize: str = "dynamic",
    seed: int = 0,
    valid: float | int | None = None,
    test: float | int | None = None,
    download: bool = True,
) -> Data:
    """Train, valid and test splits of a named data set, a file, a folder of images, or arrays.

    Pixels of images are scaled to [0, 1], (N, C, H, W). Arrays keep their shape (N, *shape) and their floating type,
    with two exceptions for uint8: (N, H, W) becomes (N, 1, H, W), and values are divided by 255 unless none exceeds 1.

    A source with a test split of its own (every downloaded data set, ``x_train`` and ``x_test``) keeps it, and gives
    one twelfth of the rest, at most 5,000, for validation. Any other source gives 20 % for test and 10 % for
    validation. One permutation by ``seed`` divides the data; no global generator is used.

    Args:
        source: a name of `DATASETS`; the path of a ``.npy`` file (x), of a ``.npz`` file (``x`` and perhaps ``y``, or
            ``x_train``, ``x_test`` and perhaps ``x_valid``, ``y_train``, ...; nothing pickled is read), or of a folder
            of images (sub-folders are classes, in sorted order); an array; ``(x, y)``; or a dict with the keys of a
            ``.npz``.
        root: the folder of downloaded data, in torchvision's layout.
        binarize: ``"dynamic"``: train holds probabilities that are drawn anew at each visit, valid and test are one
            draw; ``"static"``: all three are one draw; ``"none"``: values stay as they are.
        seed: of the division and the draws.
        valid: a fraction in (0, 1) or a count, of all data (of train, where test has a split of its own).
        test: likewise; only for a source that has no test split of its own.
        download: fetch a named data set that is not under ``root``.

    Raises:
        DataError: the source is missing, broken, not finite, outside [0, 1] where it is to be binarised, or too small
            for its splits; the message says where, and how to mend it.

    Example:
        >>> data = load_data((torch.rand(100, 3), torch.arange(100) % 4), seed=1)
        >>> len(data.train), len(data.valid), len(data.test), data.data_shape, data.num_classes
        (70, 10, 20, (3,), 4)
        >>> sorted(set(data.test.x.flatten().tolist())), data.train.binarize
        ([0.0, 1.0], 'dynamic')
    """
    if binarize not in _BINARIZE:
        raise DataError(f"binarize={binarize!r}: choose one of {', '.join(_BINARIZE)}")
    name, parts = _read(source, Path(root).expanduser(), download)
    shapes = {part: tuple(x.shape[1:]) for part, (x, _) in parts.items()}
    if len(set(shapes.values())) > 1:
        raise DataError(f"{name}: the splits differ in the shape of a datum ({shapes}): give all three one shape")
    splits = {}
    if binarize != "none":
        mend = "scale the values, or keep them with binarize='none' (--binarize none)"
        for part, (x, _) in parts.items():
            where = name if part == "all" else f"{name} ({part})"
            _refuse((x < 0) | (x > 1), f"{where} has values from {x.min():g} to {x.max():g}, outside [0, 1]", mend)
    for part, (x, y) in _divide(parts, valid, test, seed, name).items():
        split = Split(x, y, "none" if binarize == "none" else "dynamic", part)
        splits[part] = split if (binarize, part) == ("dynamic", "train") else split.fixed(seed)
    return Data(splits["train"], splits["valid"], splits["test"], name=name, seed=seed, binarize=binarize)


def as_split(data: Data | Split | Array | tuple[Array, Array | None]) -> Split:
    """Whatever holds data, as one split: the train split of `Data`, a split itself, ``x``, or ``(x, y)``.

    Raises:
        DataError: it is none of these, or its values are not finite numbers.

    Example:
        >>> as_split((torch.zeros(5, 2), torch.arange(5)))
        Split(data: x (5, 2) float32, y int64, binarize='none')
    """
    if isinstance(data, Data):
        return data.train
    return data if isinstance(data, Split) else Split(*_labelled(*_x_and_y(data), "data"))


def visit(x: Tensor, binarize: str) -> Tensor:
    """What a training step sees of ``x``: a draw of Bernoulli(x) from the global generator if ``"dynamic"``, else x.

    Example:
        >>> visit(torch.tensor([0.0, 1.0]), "dynamic"), visit(torch.tensor([0.5]), "none")
        (tensor([0., 1.]), tensor([0.5000]))
    """
    return torch.bernoulli(x) if binarize == "dynamic" else x


class Batches:
    """Shuffled batches of a split, addressed by (epoch, i), so that a run can go on from anywhere.

    The order of an epoch is a permutation by (seed, epoch), drawn on the device of the data; it differs between types
    of device. Nothing is binarised here (see `visit`), and nothing is read back to the host.

    Args:
        split: the data, on the device where they are used.
        batch_size: data in a batch; the last batch of an epoch may hold fewer.
        seed: of every epoch's order.

    Raises:
        DataError: the batch size is below 1, or the split is empty.

    Example:
        >>> batches = Batches(Split(torch.arange(5.0)[:, None]), batch_size=2, seed=0)
        >>> sorted(v for i in range(len(batches)) for v in batches.get(0, i)[0].flatten().tolist())
        [0.0, 1.0, 2.0, 3.0, 4.0]
    """

    def __init__(self, split: Split, batch_size: int, seed: int) -> None:
        if batch_size < 1:
            raise DataError(f"a batch size of {batch_size}: give 1 or more")
        if not len(split):
            raise DataError(f"{split.name} holds no data: give at least one datum")
        self.split, self.batch_size, self.seed = split, batch_size, seed
        self._epoch: int | None = None
        self._order = torch.empty(0)

    def __len__(self) -> int:
        return -(-len(self.split) // self.batch_size)

    def get(self, epoch: int, i: int) -> Labelled:
        """Batch ``i`` of ``epoch``: x (B, *shape), y (B,) or None.

        Raises:
            IndexError: there is no batch ``i``.
        """
        if not 0 <= i < len(self):
            raise IndexError(f"batch {i} of {len(self)}")
        x, y = self.split.x, self.split.y
        if epoch != self._epoch:
            generator = torch.Generator(x.device).manual_seed(seed_for(self.seed, "epoch", epoch))
            self._order = torch.randperm(len(x), generator=generator, device=x.device)
            self._epoch = epoch
        index = self._order[i * self.batch_size : (i + 1) * self.batch_size]
        return x.index_select(0, index), None if y is None else y.index_select(0, index)


# ---- dividing


def _divide(parts: Parts, valid: float | int | None, test: float | int | None, seed: int, where: str) -> Parts:
    for part, share in (("valid", valid), ("test", test)):
        if part in parts and share is not None:
            raise DataError(f"{where} has a {part} split of its own: leave {part}={share} out")
    x, y = parts["train" if "train" in parts else "all"]
    n, counts = len(x), {}
    if "test" not in parts:
        counts["test"] = max(1, round(0.2 * n)) if test is None else _count(test, n, f"{where}: test")
    if "valid" not in parts:
        default = max(1, round(0.1 * n) if "test" in counts else min(5000, n // 12))
        counts["valid"] = default if valid is None else _count(valid, n, f"{where}: valid")
    if sum(counts.values()) >= n:
        raise DataError(f"{where}: {counts} of {n} data leave an empty train split: take fewer, or give more data")
    if not counts:
        return parts
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed_for(seed, "split"))).to(x.device)
    divided = dict(parts)
    divided.pop("all", None)
    for part, count in (*counts.items(), ("train", n)):
        index, order = order[:count], order[count:]
        divided[part] = x[index], None if y is None else y[index]
    return divided


def _count(share: float | int, n: int, where: str) -> int:
    if isinstance(share, float) and not 0 < share < 1:
        raise DataError(f"{where}={share}: give a fraction between 0 and 1, or a count (an integer)")
    count = round(share * n) if isinstance(share, float) else share
    if count < 1:
        raise DataError(f"{where}={share} of {n} data is an empty split: give a larger share")
    return count


# ---- reading: every reader returns the parts that its source has


def _read(source: Any, root: Path, download: bool) -> tuple[str, Parts]:
    if isinstance(source, str) and source in DATASETS:
        if source == "digits":
            bunch = _import("sklearn.datasets").load_digits()
            return source, {"all": _labelled((bunch.images[:, None] / 16).astype(np.float32), bunch.target, source)}
        if source in _IDX_CLASS:
            return source, _idx_dataset(source, root, download)
        return source, (_omniglot if source == "omniglot" else _cifar10)(root, download)
    if not isinstance(source, str | os.PathLike):
        return "array", _arrays(source, "array")
    path = Path(source).expanduser()
    if path.is_dir():
        return str(source), _folder(path)
    if path.suffix.lower() in (".npy", ".npz") and path.is_file():
        return str(source), _numpy_file(path)
    what = "is not a .npy file, a .npz file or a folder of images" if path.exists() else "does not exist"
    raise DataError(f"{source} {what}, nor is it a data set: give one, or a name of {', '.join(DATASETS)}")


def _x_and_y(source: Any) -> tuple[Any, Any]:
    return source if isinstance(source, tuple) and len(source) == 2 else (source, None)


def _arrays(arrays: Any, where: str) -> Parts:
    if not isinstance(arrays, Mapping):
        return {"all": _labelled(*_x_and_y(arrays), where)}
    keys = {part: f"_{part}" for part in _SPLITS if f"x_{part}" in arrays} or {"all": ""}
    if ("x" in arrays) != ("all" in keys) or ("all" not in keys and not {"train", "test"} <= set(keys)):
        found = ", ".join(map(str, arrays)) or "nothing"
        raise DataError(f"{where} holds {found}: give x (and y), or x_train and x_test (and x_valid, y_train, ...)")
    absent = [f"y{key}" for key in keys.values() if f"y{key}" not in arrays]
    if 0 < len(absent) < len(keys):
        raise DataError(f"{where} has labels, but no {', '.join(absent)}: label every split, or none")
    return {p: _labelled(arrays[f"x{k}"], arrays.get(f"y{k}"), f"{where}: x{k}") for p, k in keys.items()}


def _numpy_file(path: Path) -> Parts:
    try:
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)  # never a pickle: reading one can run code
            return _arrays(loaded, str(path))
    except DataError:
        raise
    except Exception as error:
        objects = "holds Python objects, which are not read: save arrays of numbers"
        broken = f"cannot be read ({_reason(error)}): save it again with numpy.save or numpy.savez"
        raise DataError(f"{path} {objects if 'Object arrays' in str(error) else broken}") from error


def _labelled(x: Any, y: Any, where: str) -> Labelled:
    data = _numbers(x, where)
    if data.ndim < 2 or not data.numel():
        raise DataError(f"{where} has shape {tuple(data.shape)}: give (N, *shape), with at least one datum")
    if data.dtype == torch.uint8:
        data = data.unsqueeze(1) if data.ndim == 3 else data
        data = data.float() / 255 if data.max() > 1 else data.float()  # 8-bit 0/1 data are bits, not nearly black
    elif not data.is_floating_point():
        data = data.float()
    _refuse(~data.isfinite(), f"{where} has a NaN or an infinity", "repair or drop that datum")
    if y is None:
        return data, None
    labels = _numbers(y, f"{where}: y").to(data.device)
    labels = labels if labels.is_floating_point() else labels.long()
    if labels.shape != data.shape[:1]:
        raise DataError(f"{where} has {len(data)} data, but labels of shape {tuple(labels.shape)}: give one label each")
    _refuse(~labels.isfinite(), f"{where}: y has a NaN or an infinity", "repair or drop that datum")
    return data, labels


def _numbers(value: Any, where: str) -> Tensor:
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf" and value.dtype.itemsize <= 8:
        return torch.from_numpy(np.array(value, dtype=value.dtype.newbyteorder("="), order="C"))
    if isinstance(value, Tensor) and not value.is_complex():
        return value.detach()
    kind = f"of {value.dtype}" if isinstance(value, np.ndarray | Tensor) else f"a {type(value).__name__}"
    raise DataError(f"{where} is {kind}: give a tensor or a NumPy array of real numbers")


def _refuse(bad: Tensor, what: str, mend: str) -> None:
    if bad.any():
        index = int(bad.reshape(len(bad), -1).any(1).nonzero()[0])
        raise DataError(f"{what}, first at index {index}: {mend}")


def _pixels(images: npt.NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(images.astype(np.float32, order="C")).div_(255)


def _image(file: Path | IO[bytes], where: object) -> npt.NDArray[np.uint8]:
    """One 8-bit image: (H, W) where it is grey, else (H, W, 3)."""
    from PIL import Image

    try:
        with Image.open(file) as image:
            if image.mode.startswith(("I", "F")):
                raise DataError(f"{where} has more than 8 bits a pixel (mode {image.mode}): save it as 8-bit")
            return np.asarray(image.convert("L" if image.mode in ("1", "L", "LA", "La") else "RGB"))
    except DataError:
        raise
    except Exception as error:  # PIL raises half a dozen types for broken files
        raise DataError(f"{where} is not a readable image ({_reason(error)}): replace or remove it") from error


def _folder(path: Path) -> Parts:
    def images_in(folder: Path) -> Iterator[Path]:
        visible = (f for f in sorted(folder.iterdir()) if f.is_file() and not f.name.startswith("."))
        return (f for f in visible if f.suffix.lower() in _IMAGE_SUFFIXES)

    files = list(images_in(path))
    folders = sorted(f for f in path.iterdir() if f.is_dir() and not f.name.startswith("."))
    if {"train", "test"} <= {f.name for f in folders}:
        mend = "give one of them, or save both as a .npz of x_train and x_test"
        raise DataError(f"{path} holds folders train and test, which would be read as two classes: {mend}")
    classes = [members for f in folders if (members := list(images_in(f)))]
    if bool(files) == bool(classes):
        what = "images beside sub-folders of images" if files else "no images, nor sub-folders of them"
        raise DataError(f"{path} holds {what}: give a folder of images, or of one sub-folder of images a class")
    y = torch.arange(len(classes)).repeat_interleave(torch.tensor([len(c) for c in classes])) if classes else None
    files = files or [file for members in classes for file in members]
    images = [_image(file, file) for file in files]
    for file, image in zip(files, images, strict=True):
        if image.shape[:2] != images[0].shape[:2]:
            sizes = [f"{f} is {i.shape[1]} x {i.shape[0]}" for f, i in ((files[0], images[0]), (file, image))]
            raise DataError(f"images differ in size ({', '.join(sizes)}): resize them to one size")
    if all(image.ndim == 2 for image in images):
        return {"all": (_pixels(np.stack(images)[:, None]), y)}
    colour = [image if image.ndim == 3 else np.stack([image] * 3, axis=-1) for image in images]
    return {"all": (_pixels(np.stack(colour).transpose(0, 3, 1, 2)), y)}


# ---- named data sets: torchvision downloads them and owns their layout


def _torchvision(name: str, cls: str, files: str, folder: Path, root: Path, **kwargs: Any) -> Any:
    try:
        return getattr(_import("torchvision.datasets"), cls)(root, **kwargs)
    except Exception as error:  # no network, a file that fails its checksum, a torchvision made for another torch
        raise DataError(f"torchvision cannot give {name} ({_reason(error)}): put {files} into {folder}") from error


def _idx_dataset(name: str, root: Path, download: bool) -> Parts:
    folder = root / _IDX_CLASS[name] / "raw"
    prefixes = {"train": "train", "test": "t10k"}
    files = [folder / f"{p}-{kind}-ubyte" for p in prefixes.values() for kind in ("images-idx3", "labels-idx1")]
    missing = [file.name for file in files if not file.exists()]
    if missing and download:
        _torchvision(name, _IDX_CLASS[name], f"{', '.join(missing)} (unpacked)", folder, root, download=True)
    elif missing:
        raise DataError(f"{folder} lacks {', '.join(missing)} (unpacked): put them there, or allow the download")
    parts: Parts = {}
    for part, prefix in prefixes.items():
        images = _idx(folder / f"{prefix}-images-idx3-ubyte", 3)
        labels = _idx(folder / f"{prefix}-labels-idx1-ubyte", 1)
        if not 0 < len(images) == len(labels):
            raise DataError(f"{folder}: {len(images)} {prefix} images, {len(labels)} labels: replace both files")
        parts[part] = _pixels(images[:, None]), torch.from_numpy(labels.astype(np.int64))
    return parts


def _idx(path: Path, ndim: int) -> npt.NDArray[np.uint8]:
    """An idx file of unsigned bytes; torchvision would take a short one, or fail without its name."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({_reason(error)}): replace it") from error
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
                    images.append(Image.fromarray(_image(file, name)).resize((28, 28), Image.Resampling.BOX))
        characters = sorted({name.rpartition("/")[0] for name in names})
        number = {character: first + i for i, character in enumerate(characters)}
        y = torch.tensor([number[name.rpartition("/")[0]] for name in names])
        parts[part] = 1 - _pixels(np.stack([np.asarray(image) for image in images])[:, None]), y  # ink is 1
        first += len(characters)
    return parts


def _cifar10(root: Path, download: bool) -> Parts:
    # The batches are pickles. torchvision's class compares every file with the MD5 of the published one before it
    # opens any, with or without a download, and refuses others; so it is always this class that reads them.
    files, folder = "the files of cifar-10-python.tar.gz", root / "cifar-10-batches-py"
    parts: Parts = {}
    for part in ("train", "test"):
        read = _torchvision("cifar10", "CIFAR10", files, folder, root, train=part == "train", download=download)
        parts[part] = _pixels(read.data.transpose(0, 3, 1, 2)), torch.tensor(read.targets)
    return parts


def _import(module: str) -> Any:
    """Import without moving Python's generator: something below scikit-learn draws from it at its first import."""
    state = random.getstate()
    try:
        return import_module(module)
    finally:
        random.setstate(state)


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
