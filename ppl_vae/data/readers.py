"""Reading: a name, a file, a folder or arrays in; tensors out, in the parts that the source has."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import IO, Any, TypeAlias
from zipfile import ZipFile

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..common.errors import DataError
from ..common.fields import X, device_of, leaves, num_data
from ..common.files import reason
from ..common.registry import DATASETS
from ..common.rng import quiet_import
from . import convert, tables

Array: TypeAlias = Tensor | npt.NDArray[Any]
Source: TypeAlias = str | os.PathLike[str] | Array | tuple[Array, Array | None] | Mapping[str, Array]
Labelled: TypeAlias = tuple[X, Tensor | None]  # x (N, *shape), y (N,)
Parts: TypeAlias = dict[str, Labelled]  # {"all"}, or the splits that the source has of its own
Reading: TypeAlias = dict[str, Any]  # how a source was read, for JSON: what new data of its kind must be read by

SPLITS = ("train", "valid", "test")
_IDX_CLASS = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "kmnist": "KMNIST"}  # as torchvision names them
_IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm"}


def read(
    source: Any,
    root: Path,
    download: bool,
    like: Mapping[str, Any] | None = None,
    columns: Any = None,
    label: Any = None,
    header: bool | None = None,
) -> tuple[str, Parts, Reading]:
    """The name of a source, the parts that it has, and how it was read: as ``like`` says, where that is given.

    ``scale`` of a reading is what bytes were divided by, None where there were none. A table has its columns, its
    label column and the classes of that, whether it has a header and whether its numbers are whole.
    """
    chosen = columns is not None or label is not None
    table, beside = x_and_y(source)
    table, beside = (table, beside) if tables.is_table(table) else (None, None)
    by_name = chosen or (like or {}).get("columns")
    if hasattr(source, "column_names") or (table is not None and by_name and not (chosen and beside is not None)):
        x, y, reading = tables.read_table(table, columns, label, like, header)
        if (scale := (like or {}).get("scale")) is not None:  # whose columns were bytes
            x = x / scale
        return "array", {"all": labelled(x, y if beside is None else beside, "array")}, reading
    tabular = isinstance(source, str | os.PathLike) and Path(source).suffix.lower() in tables.SUFFIXES
    if tabular and Path(source).expanduser().is_file():
        x, y, reading = tables.read_table(Path(source).expanduser(), columns, label, like, header)
        return str(source), {"all": labelled(x, y, str(source))}, reading
    if header is not None:
        raise DataError(f"header is for text tables ({', '.join(tables.TEXT)}), which {_shown(source)} is not")
    if chosen:
        raise DataError(
            f"columns and label are for tables ({', '.join(tables.SUFFIXES)}), which {_shown(source)} is not"
        )
    scale = None if like is None else like.get("scale")
    name, parts, used = _read(source, root, download, scale)
    if like is not None and "scale" in like:
        _refuse_other_scale(name, parts, scale, used)
    reading = {"scale": used}
    if table is not None and (names := tables.names_of(table)) is not None:
        whole = not parts["all"][0].is_floating_point()
        reading |= {"columns": names, "label": None, "classes": None, "header": None, "whole": whole}
    return name, parts, reading


def _shown(source: Any) -> str:
    return str(source) if isinstance(source, str | os.PathLike) else f"a {type(source).__name__}"


def _refuse_other_scale(name: str, parts: Parts, wanted: int | None, found: int | None) -> None:
    """Refuse new data whose values stand for something else than those of the data that they are to be read like."""
    tensors = [t for x, _ in parts.values() for t in leaves(x)]
    top = max(float(t.max()) for t in tensors)
    if wanted == 255 and top > 1:
        raise DataError(
            f"{name} has values up to {top:g}, and the data it is read like are pixels in [0, 1]: divide it by 255, or "
            f"save it as 8-bit numbers"
        )
    if wanted == 1 and found != 1 and any(bool(((t != 0) & (t != 1)).any()) for t in tensors):
        raise DataError(f"{name} has grey values, and the data it is read like are bits, 0 or 1: binarise it first")
    if wanted is None and found == 255:
        raise DataError(
            f"{name} holds 8-bit numbers, and the data it is read like are not: save it in the type and on the scale "
            f"of those"
        )


def _read(source: Any, root: Path, download: bool, scale: int | None) -> tuple[str, Parts, int | None]:
    if isinstance(source, str) and source in DATASETS:
        return source, NAMED[source](root, download), 255
    if not isinstance(source, str | os.PathLike):
        return "array", *_arrays(source, "array", scale)
    path = Path(source).expanduser()
    if path.is_dir():
        return str(source), _folder(path), 255
    if path.suffix.lower() in (".npy", ".npz") and path.is_file():
        return str(source), *_numpy_file(path, scale)
    what = "does not exist"
    if path.exists():
        what = "is not a .npy or .npz file, a table (.csv, .tsv, .parquet) or a folder of images"
    raise DataError(f"{source} {what}, nor is it a data set: give one, or a name of {', '.join(DATASETS)}")


def x_and_y(source: Any) -> tuple[Any, Any]:
    """Data and labels of an array, or of a pair of arrays."""
    return source if isinstance(source, tuple) and len(source) == 2 else (source, None)


def _arrays(arrays: Any, where: str, scale: int | None) -> tuple[Parts, int | None]:
    """The parts of arrays, and what their bytes were divided by: the same in every part."""
    if not isinstance(arrays, Mapping) or not _names_splits(arrays):
        x, y = x_and_y(arrays)
        if tables.is_table(x) and all(str(t) == "uint8" for t in x.dtypes):
            x = x.to_numpy()
        used = convert.byte_scale(x, asked=scale)
        return {"all": labelled(x, y, where, used)}, used
    keys = {part: f"_{part}" for part in SPLITS if f"x_{part}" in arrays} or {"all": ""}
    if ("x" in arrays) != ("all" in keys) or ("all" not in keys and not {"train", "test"} <= set(keys)):
        found = ", ".join(map(str, arrays)) or "nothing"
        raise DataError(f"{where} holds {found}: give x (and y), or x_train and x_test (and x_valid, y_train, ...)")
    absent = [f"y{key}" for key in keys.values() if f"y{key}" not in arrays]
    if 0 < len(absent) < len(keys):
        raise DataError(f"{where} has labels, but no {', '.join(absent)}: label every split, or none")
    xs = {p: arrays[f"x{k}"] for p, k in keys.items()}
    used = convert.byte_scale(*xs.values(), asked=scale)
    return {p: labelled(xs[p], arrays.get(f"y{k}"), f"{where}: x{k}", used) for p, k in keys.items()}, used


def _names_splits(arrays: Any) -> bool:
    """Whether a mapping holds data and labels under the names of a .npz; else it is one datum's fields."""
    known = {f"{kind}{part}" for kind in "xy" for part in ("", *(f"_{s}" for s in SPLITS))}
    return not isinstance(arrays, dict) or (
        bool(arrays) and set(arrays) <= known and ("x" in arrays or "x_train" in arrays)
    )


def _numpy_file(path: Path, scale: int | None) -> tuple[Parts, int | None]:
    try:
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)  # never a pickle: reading one can run code
            return _arrays(loaded, str(path), scale)
    except DataError:
        raise
    except Exception as error:
        objects = "holds Python objects, which are not read: save arrays of numbers"
        broken = f"cannot be read ({reason(error)}): save it again with numpy.save or numpy.savez"
        raise DataError(f"{path} {objects if 'Object arrays' in str(error) else broken}") from error


def labelled(x: Any, y: Any, where: str, scale: int | None = None) -> Labelled:
    """Data and labels as tensors, checked, of one length; bytes divided by ``scale``, or 255 unless bits."""
    data = convert.data(x, where, scale)
    return data, convert.labels(y, num_data(data), f"{where} (labels)", device_of(data))


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
        raise DataError(f"{where} is not a readable image ({reason(error)}): replace or remove it") from error


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


def _digits(root: Path, download: bool) -> Parts:
    bunch = quiet_import("sklearn.datasets").load_digits()
    return {"all": labelled((bunch.images[:, None] / 16).astype(np.float32), bunch.target, "digits")}


def _torchvision(name: str, cls: str, files: str, folder: Path, root: Path, **kwargs: Any) -> Any:
    try:
        return getattr(quiet_import("torchvision.datasets"), cls)(root, **kwargs)
    except Exception as error:  # no network, a file that fails its checksum, a torchvision made for another torch
        raise DataError(f"torchvision cannot give {name} ({reason(error)}): put {files} into {folder}") from error


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


NAMED: dict[str, Callable[[Path, bool], Parts]] = {
    # name of registry.DATASETS: (root, download) to its parts, as pixels in [0, 1]
    "digits": _digits,
    **{name: partial(_idx_dataset, name) for name in _IDX_CLASS},
    "omniglot": _omniglot,
    "cifar10": _cifar10,
}
