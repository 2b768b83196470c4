"""Gated PixelCNN: an autoregressive model of images, by convolutions over the pixels before; no latents.

van den Oord, Kalchbrenner, Vinyals, Espeholt, Graves, Kavukcuoglu: Conditional Image Generation with PixelCNN Decoders,
2016, arXiv:1606.05328.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..common.errors import UserError
from ..nn.autoregressive import Steps, pixels_of, raster
from ..nn.masked import PixelCNN
from .base import Pair
from .made import Guide, Model


def pixelcnn(
    *, data_shape: Sequence[int], levels: int = 2, features: int = 32, layers: int = 5, radius: int = 1
) -> Pair:
    """An autoregressive model of images: by rows, columns, then channels. Draws take one pass for each number.

    Args:
        data_shape: shape of one example: (height, width), or (channels, height, width).
        levels: values of one number: 2 for binary data, 256 for 8-bit pixels.
        features: numbers for each channel and place between layers.
        layers: gated layers, of a vertical and a horizontal stack.
        radius: rows above, and columns to both sides, that a layer adds to what is seen.

    Raises:
        UserError: data that are no images, or a size below 1.

    Example:
        $ ppl-vae train pixelcnn --features 16 --layers 3 --epochs 40 --batch-size 64 --lr 2e-3
            --schedule linear
    """
    if len(data_shape) not in (2, 3) or min(features, layers, radius) < 1:
        raise UserError(
            f"data_shape={tuple(data_shape)}, features={features}, layers={layers}, radius={radius}: give images, "
            f"(height, width) or (channels, height, width), and sizes of at least 1"
        )
    steps = Steps(data_shape, raster(data_shape), levels)
    return Pair(Model(PixelCNN(pixels_of(data_shape), levels, features, layers, radius), steps), Guide())
