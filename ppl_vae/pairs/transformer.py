"""A causal Transformer over pixels, or over tiles of them: autoregressive, no latents.

Parmar, Vaswani, Uszkoreit, Kaiser, Shazeer, Ku, Tran: Image Transformer, 2018, arXiv:1802.05751.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..common.errors import UserError
from ..nn.autoregressive import Steps, raster
from ..nn.transformers import Transformer
from .base import Pair
from .made import Guide, Model


def transformer(
    *,
    data_shape: Sequence[int],
    levels: int = 2,
    tile: int = 1,
    width: int = 64,
    depth: int = 2,
    heads: int = 4,
) -> Pair:
    """A small Transformer of data as a sequence: by rows, columns, then channels. Draws use a cache.

    Args:
        data_shape: shape of one example.
        levels: values of one number: 2 for binary data, 256 for 8-bit pixels.
        tile: side of the tiles, of one channel, that are one token of levels ** tile ** 2 classes.
        width: numbers for each token between blocks.
        depth: blocks of attention and two linear layers.
        heads: attention heads, which divide the width.

    Raises:
        UserError: tiles that do not fill the image or have too many classes, or a width that the heads do not divide.

    Example:
        $ ppl-vae train transformer --width 32 --tile 2 --epochs 30 --lr 3e-3 --schedule linear
    """
    if levels**tile**2 > 65536:
        raise UserError(f"tile={tile}: with levels={levels} a token has {levels}^{tile**2} classes; use smaller tiles")
    steps = Steps(data_shape, raster(data_shape, tile), levels)
    return Pair(Model(Transformer(steps.length, steps.classes, width, depth, heads), steps), Guide())
