"""Networks of MADE and PixelCNN, whose weights are masked so that the logits of a step depend on those before it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, pad

from ..common.choices import Choice, construct
from .autoregressive import outputs
from .networks import glorot


class MaskedLinear(nn.Linear):
    """A linear layer under M masks, (M, out, in): h (1 or M, N, in) to (M, N, out)."""

    masks: Tensor

    def __init__(self, masks: Tensor, saved: bool) -> None:
        super().__init__(masks.shape[2], masks.shape[1])
        self.register_buffer("masks", masks, persistent=saved)

    def forward(self, h: Tensor, which: Tensor | None = None) -> Tensor:
        masks = self.masks if which is None else self.masks.index_select(0, which)
        out: Tensor = h @ (self.weight * masks).mT + self.bias
        return out


class Made(nn.Module):
    """Tokens (N, T) to logits (M, N, T, outputs) of M masks; in training to those of one mask, drawn for each pass.

    Unit k of a layer has a degree, and is joined to the units of the layer below whose degree is not larger (in the
    last layer: is smaller). The degree of an input is its rank in the order.

    Args:
        order: for each mask the tokens from first to last, (M, T).
        classes: values of a token.
        hidden: widths of the layers.
        act: the activation.

    Source: Germain, Gregor, Murray, Larochelle: MADE: Masked Autoencoder for Distribution Estimation, 2015,
    arXiv:1502.03509.

    Example:
        >>> Made(torch.arange(9).unsqueeze(0), 2, (20,))(torch.zeros(5, 9)).shape
        torch.Size([1, 5, 9, 1])
    """

    order: Tensor

    def __init__(self, order: Tensor, classes: int, hidden: Sequence[int], act: Choice = "relu") -> None:
        super().__init__()
        many, length = order.shape
        self.classes, self.outputs = classes, outputs(classes)
        saved = many > 1 or not torch.equal(order[0], torch.arange(length))
        self.register_buffer("order", order, persistent=saved)
        degrees = [order.argsort(1)]
        for width in hidden:
            even = torch.arange(width) * max(length - 1, 1) // width
            degrees.append(even.expand(many, width))
            if many > 1:  # drawn for each mask, from the least of the layer below
                low = degrees[-2].amin(1, keepdim=True)
                degrees[-1] = low + (torch.rand(many, width) * (max(length - 1, 1) - low)).long()
        layers = [MaskedLinear(b.unsqueeze(2) >= a.unsqueeze(1), saved) for a, b in pairwise(degrees)]
        ends = degrees[0].repeat_interleave(self.outputs, 1)
        self.layers = nn.ModuleList(layers)
        self.last = MaskedLinear(ends.unsqueeze(2) > degrees[-1].unsqueeze(1), saved)
        self.activations = nn.ModuleList(construct("activation", act) for _ in hidden)
        glorot(self)

    def forward(self, tokens: Tensor) -> Tensor:
        which = None
        if self.training and len(self.order) > 1:
            which = torch.randint(len(self.order), (1,), device=tokens.device)
        h = (tokens / (self.classes - 1)).unsqueeze(0)
        for layer, activation in zip(self.layers, self.activations, strict=True):
            h = activation(layer(h, which))
        out: Tensor = self.last(h, which).unflatten(-1, (-1, self.outputs))
        return out


class MaskedConv(nn.Conv2d):
    """A convolution over the columns up to one's own, (1, 1 + radius); channels of one's own column by their group.

    Group g there depends on groups below g (``strict``) or up to g.
    """

    mask: Tensor

    def __init__(self, inner: Tensor, outer: Tensor, radius: int, strict: bool) -> None:
        super().__init__(len(inner), len(outer), (1, 1 + radius))
        mask = torch.ones(len(outer), len(inner), 1, 1 + radius, dtype=torch.bool)
        mask[..., -1] = (outer[:, None] > inner if strict else outer[:, None] >= inner).unsqueeze(-1)
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, h: Tensor) -> Tensor:
        return conv2d(pad(h, (self.mask.shape[-1] - 1, 0)), self.weight * self.mask, self.bias)


class Gated(nn.Module):
    """One layer of two stacks: v sees the rows above, h also the numbers before in its own row. No blind spot.

    .. math:: \\tanh(a) \\odot \\sigma(b)

    is the activation of both; v goes into h, and never back.
    """

    def __init__(self, inner: Tensor, groups: Tensor, radius: int, first: bool) -> None:
        super().__init__()
        self.radius, self.first = radius, first
        twice = groups.repeat(2)
        self.v = nn.Conv2d(len(inner), len(twice), (1 + radius, 1 + 2 * radius))
        self.h = MaskedConv(inner, twice, radius, strict=first)
        self.down = nn.Conv2d(len(twice), len(twice), 1)
        self.out = MaskedConv(groups, groups, 0, strict=False)

    def forward(self, v: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        r = self.radius
        v = self.v(pad(v, (r, r, r, 0)))
        out = self.out(_gate(self.h(h) + self.down(v)))
        return _gate(v), out if self.first else h + out


def _gate(h: Tensor) -> Tensor:
    a, b = h.chunk(2, 1)
    return a.tanh() * b.sigmoid()


class PixelCNN(nn.Module):
    """Tokens (N, T) of an image, by rows, columns and channels, to logits (N, T, outputs).

    Args:
        shape: channels, height and width.
        classes: values of a number.
        features: numbers for each channel and place between layers.
        layers: gated layers.
        radius: a layer sees as many rows above, and columns to both sides.

    Source: van den Oord, Kalchbrenner, Vinyals, Espeholt, Graves, Kavukcuoglu: Conditional Image Generation with
    PixelCNN Decoders, 2016, arXiv:1606.05328.

    Example:
        >>> PixelCNN((1, 3, 3), 2, features=4, layers=2)(torch.zeros(5, 9)).shape
        torch.Size([5, 9, 1])
    """

    def __init__(
        self, shape: tuple[int, int, int], classes: int, features: int = 32, layers: int = 5, radius: int = 1
    ) -> None:
        super().__init__()
        self.shape, self.classes = shape, classes
        inner = torch.arange(shape[0])
        groups = inner.repeat_interleave(features)
        stacks = [
            Gated(inner, groups, radius, True),
            *(Gated(groups, groups, radius, False) for _ in range(layers - 1)),
        ]
        self.layers = nn.ModuleList(stacks)
        ends = inner.repeat_interleave(outputs(classes))
        self.head = nn.Sequential(
            nn.ReLU(), MaskedConv(groups, groups, 0, False), nn.ReLU(), MaskedConv(groups, ends, 0, False)
        )
        glorot(self)

    def forward(self, tokens: Tensor) -> Tensor:
        channels, height, width = self.shape
        h = (tokens / (self.classes - 1) - 0.5).reshape(-1, height, width, channels).movedim(-1, 1)
        v = pad(h, (0, 0, 1, -1))  # each row sees the one above
        for layer in self.layers:
            v, h = layer(v, h)
        out: Tensor = self.head(h)  # (N, channels * outputs, height, width)
        return out.movedim(1, -1).reshape(len(tokens), -1, out.shape[1] // channels)
