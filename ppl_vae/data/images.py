"""Images as tensors: files of 8-bit pixels, and folders of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..common.errors import DataError
from ..common.files import reason
from .convert import WHOLE, Parts

_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm"}


def pixels(images: npt.NDArray[np.uint8]) -> Tensor:
    """8-bit numbers as float32 in [0, 1], of the same shape."""
    return torch.from_numpy(images.astype(np.float32, order="C")).div_(255)


def read_image(file: Path | IO[bytes], where: object) -> npt.NDArray[np.uint8]:
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


def read_folder(path: Path) -> Parts:
    """The images of a folder, (N, 1 or 3, H, W) in [0, 1], with a class for each sub-folder where there are any.

    Raises:
        DataError: no images, images beside sub-folders, or images of several sizes; names the files.
    """

    def images_in(folder: Path) -> Iterator[Path]:
        visible = (f for f in sorted(folder.iterdir()) if f.is_file() and not f.name.startswith("."))
        return (f for f in visible if f.suffix.lower() in _SUFFIXES)

    files = list(images_in(path))
    folders = sorted(f for f in path.iterdir() if f.is_dir() and not f.name.startswith("."))
    if {"train", "test"} <= {f.name for f in folders}:
        fix = "give one of them, or save both as a .npz of x_train and x_test"
        raise DataError(f"{path} holds folders train and test, which would be read as two classes: {fix}")
    classes = [members for f in folders if (members := list(images_in(f)))]
    if bool(files) == bool(classes):
        what = "images beside sub-folders of images" if files else "no images, nor sub-folders of them"
        raise DataError(f"{path} holds {what}: give a folder of images, or of one sub-folder of images a class")
    y = torch.arange(len(classes)).repeat_interleave(torch.tensor([len(c) for c in classes])) if classes else None
    files = files or [file for members in classes for file in members]
    images = [read_image(file, file) for file in files]
    for file, image in zip(files, images, strict=True):
        if image.shape[:2] != images[0].shape[:2]:
            sizes = [f"{f} is {i.shape[1]} x {i.shape[0]}" for f, i in ((files[0], images[0]), (file, image))]
            raise DataError(f"images differ in size ({', '.join(sizes)}): resize them to one size")
    if all(image.ndim == 2 for image in images):
        return {WHOLE: (pixels(np.stack(images)[:, None]), y)}
    colour = [image if image.ndim == 3 else np.stack([image] * 3, axis=-1) for image in images]
    return {WHOLE: (pixels(np.stack(colour).transpose(0, 3, 1, 2)), y)}
