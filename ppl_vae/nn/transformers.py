"""A causal Transformer over tokens, with a cache of keys and values for draws."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from ..common.errors import UserError
from .autoregressive import outputs


class Block(nn.Module):
    """h + attention to tokens up to one's own, then h + two linear layers, each after a layer norm.

    Source: Xiong et al.: On Layer Normalization in the Transformer Architecture, 2020, arXiv:2002.04745.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.join = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, h: Tensor, cache: list[Tensor] | None = None) -> Tensor:
        """h (N, T, width); with a cache of earlier keys and values, which grows, h is the next token, (N, 1, width)."""
        q, k, v = self.qkv(self.norm(h)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (N, heads, T, d)
        if cache:
            k, v = (torch.cat(both, 2) for both in zip(cache, (k, v), strict=True))
        if cache is not None:
            cache[:] = k, v
        seen = scaled_dot_product_attention(q, k, v, is_causal=cache is None)
        h = h + self.join(seen.transpose(1, 2).flatten(2))
        out: Tensor = h + self.mlp(h)
        return out


class Transformer(nn.Module):
    """Tokens (N, T) to the logits of each given those before it, (N, T, outputs), with learned positions.

    Args:
        length: T.
        classes: values of a token.
        width: numbers for each token between blocks.
        depth: blocks.
        heads: attention heads, which divide the width.

    Source: Radford, Wu, Child, Luan, Amodei, Sutskever: Language Models are Unsupervised Multitask Learners, 2019.

    Raises:
        UserError: a width that the heads do not divide.

    Example:
        >>> net = Transformer(9, 2, width=8, depth=1, heads=2)
        >>> net(torch.zeros(5, 9)).shape
        torch.Size([5, 9, 1])
    """

    def __init__(self, length: int, classes: int, width: int = 64, depth: int = 2, heads: int = 4) -> None:
        super().__init__()
        if min(width, depth, heads) < 1 or width % heads:
            raise UserError(
                f"width={width}, depth={depth}, heads={heads}: each at least 1, and heads must divide width"
            )
        self.embed = nn.Embedding(classes, width)
        self.positions = nn.Parameter(0.02 * torch.randn(length, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        last = nn.Linear(width, outputs(classes))
        self.head = nn.Sequential(nn.LayerNorm(width), last)
        nn.init.zeros_(last.bias)
        for weight in (self.embed.weight, last.weight):
            nn.init.normal_(weight, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        h = self.positions + nn.functional.pad(self.read(tokens[:, :-1]), (0, 0, 1, 0))  # the first sees nothing
        for block in self.blocks:
            h = block(h)
        out: Tensor = self.head(h)
        return out

    def read(self, tokens: Tensor) -> Tensor:
        """Embeddings (N, T, width)."""
        out: Tensor = self.embed(tokens.long().clamp(0, self.embed.num_embeddings - 1))
        return out

    def stepwise(self) -> Callable[[Tensor, int], Tensor]:
        """A function of (tokens, i), called for i = 0, 1, ..., to the logits of token i, (N, outputs)."""
        caches: list[list[Tensor]] = [[] for _ in self.blocks]

        def step(tokens: Tensor, i: int) -> Tensor:
            h = self.positions[i].expand(len(tokens), 1, -1)
            h = h + self.read(tokens[:, i - 1 : i]) if i else h
            for block, cache in zip(self.blocks, caches, strict=True):
                h = block(h, cache)
            out: Tensor = self.head(h)[:, 0]
            return out

        return step
