"""Tables with real, binary and categorical columns, and missing entries: z ~ p(z), x_d ~ p_d(x_d | z).

The guide and log p(x) are those of the entries that were seen: q(z | x_seen), p(x_seen).

Nazabal, Olmos, Ghahramani, Valera: Handling Incomplete Heterogeneous Data using VAEs, 2020, arXiv:1807.03653.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ..common.choices import Choice, construct
from ..common.errors import UserError
from ..nn.columns import Mixed, Rows
from ..nn.networks import Decoder, Encoder
from ..priors.choice import make_prior
from .base import Pair
from .vae import Guide, Model


def table(
    *,
    data_shape: Sequence[int],
    data_mean: Tensor | None = None,
    data_scale: Tensor | None = None,
    column_classes: Sequence[int] | None = None,
    latent: int = 5,
    hidden: Sequence[int] = (50, 50),
    activation: Choice = "tanh",
    guide: Choice = "diagonal",
    prior: Choice = "standard",
) -> Pair:
    """Columns of several kinds, with missing entries as NaN.

    Args:
        data_shape: shape of one example.
        data_mean: mean of the training data, which is taken from real columns.
        data_scale: standard deviation of the training data, by which real columns are divided.
        column_classes: number of classes of each column, 0 for a real one; found in the data where it is left out.
        latent: latent dimensions.
        hidden: widths of the layers.
        activation: tanh, relu, gelu, silu, softplus or leaky_relu.
        guide: family of q(z|x): diagonal, full, flow or mixture.
        prior: family of p(z): standard, mixture, vamp, flow or laplace.

    Raises:
        UserError: data of another shape than (columns,), or numbers of classes that do not fit.

    Example:
        $ ppl-vae train table --data table --latent 3 --epochs 50 --batch-size 64 --lr 2e-3 --schedule linear
            --num-samples 1000
    """
    classes = (0,) * data_shape[0] if column_classes is None and len(data_shape) == 1 else tuple(column_classes or ())
    if tuple(data_shape) != (len(classes),) or min(classes) < 0:
        raise UserError(
            f"data_shape={tuple(data_shape)}, column_classes={classes}: give rows (columns,), and for each column its "
            f"number of classes, or 0 where it is real"
        )
    if latent < 1:
        raise UserError(f"latent={latent}: at least one latent dimension is needed")
    p = Mixed(classes, data_mean, data_scale)
    rows = Rows(p)
    encoder = Encoder((rows.features,), hidden, activation)
    decoder = Decoder(latent, data_shape, hidden[::-1], activation, multiple=p.multiple)
    head = construct("guide", guide, encoder.features, latent)
    pz = make_prior(prior, latent, nn.Sequential(encoder, head), (rows.features,), None)
    model = Model(pz, decoder, p)
    model.pictured = "columns"
    return Pair(model, Guide(nn.Sequential(rows, encoder), head))
