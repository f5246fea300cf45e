"""Cross-attention: the conditioning layer that reads a condition token by token, and its maps."""

import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cvae_lib.conditioning._slot import Conditioning, zero_linear
from cvae_lib.conditions import Representation, Tokens, without_padding


class CrossAttention(Conditioning):
    r"""Let every pixel of h look at the tokens it needs, and add what it finds.

    .. math:: h'_n = h_n + W_o \sum_l \text{softmax}_l\!\Big(\frac{(W_q h_n)^\top W_k c_l}{\sqrt{d}}\Big) W_v c_l

    in several heads of width d side by side, over the tokens that are not padding; where all are, h comes back.
    :math:`W_o` starts at zero, so that attention starts as the identity. h of shape (B, F) asks once. A vector c is one
    token, which gets all the attention there is: then this is :class:`~cvae_lib.conditioning.Addition` with
    :math:`W = W_o W_v`.
    Sources: Vaswani et al. 2017, arXiv:1706.03762; Rombach et al. 2022, arXiv:2112.10752.

    Args:
        features: F.
        condition_dim: C.
        heads: how many heads.
        head_dim: d, width of each.

    Raises:
        ValueError: if F or C is below 1.
    """

    def __init__(self, features: int, condition_dim: int, heads: int = 4, head_dim: int = 16) -> None:
        super().__init__(features, condition_dim)
        self.heads = heads
        self.query = nn.Linear(features, heads * head_dim, bias=False)
        self.key = nn.Linear(condition_dim, heads * head_dim, bias=False)
        self.value = nn.Linear(condition_dim, heads * head_dim, bias=False)
        self.output = zero_linear(heads * head_dim, features)

    def _tokens(self, h: Tensor, c: Representation) -> Tokens:
        self._check(h, c)
        if isinstance(c, Tokens):
            return Tokens(without_padding(c), c.mask)
        values = c[:, None] if c.ndim == 2 else c.flatten(2).mT  # (B, 1, C) or (B, H*W, C)
        return Tokens(values, torch.ones(values.shape[:2], dtype=torch.bool, device=c.device))

    def _split(self, rows: Float[Tensor, "b n i"]) -> Float[Tensor, "b heads n d"]:
        return rows.reshape(*rows.shape[:2], self.heads, -1).transpose(1, 2)

    def attend(
        self, h: Float[Tensor, "b f *space"], c: Representation
    ) -> tuple[Float[Tensor, "b f *space"], Float[Tensor, "b heads *spacel"]]:
        """Return h with what was found added, and where each pixel looked: (B, heads, H, W, L), or (B, heads, L).

        Over the tokens the weights sum to 1; where all is padding they are 0.

        Raises:
            ValueError: if h or c has another width or length than the layer or the other.
        """
        tokens = self._tokens(h, c)
        q = self._split(self.query(h.reshape(*h.shape[:2], -1).mT))  # (B, heads, N, d), N = H*W or 1
        k, v = self._split(self.key(tokens.values)), self._split(self.value(tokens.values))  # (B, heads, L, d)
        keep = tokens.mask[:, None, None]  # (B, 1, 1, L)
        scores = q @ k.mT / math.sqrt(q.shape[-1])  # (B, heads, N, L)
        # A row of padding alone would be 0/0 with -inf; with the lowest number it is uniform, and then masked to 0.
        weights = scores.masked_fill(~keep, torch.finfo(scores.dtype).min).softmax(-1) * keep
        found = self.output((weights @ v).transpose(1, 2).flatten(2)).mT  # (B, F, N)
        return h + found.reshape(h.shape), weights.reshape(*weights.shape[:2], *h.shape[2:], -1)

    def forward(self, h: Float[Tensor, "b f *space"], c: Representation) -> Float[Tensor, "b f *space"]:
        """Return h with what was found among the tokens added, shape of h.

        Raises:
            ValueError: if h or c has another width or length than the layer or the other.
        """
        out: Tensor = self.attend(h, c)[0]
        return out


@torch.no_grad()
def attention_maps(network: nn.Module, *inputs: Any) -> dict[str, Float[Tensor, "..."]]:
    """Run the network and return where each of its attention layers looked, by the layer's name.

    Maps have shape (B, heads, H, W, L), or (B, heads, L) in an MLP; see :meth:`CrossAttention.attend`.

    Raises:
        ValueError: if there is no attention in the network.
    """
    layers = {name: layer for name, layer in network.named_modules() if isinstance(layer, CrossAttention)}
    if not layers:
        raise ValueError("This network has no attention to look at; make it with conditioning='attention'.")
    maps: dict[str, Tensor] = {}

    def keep(name: str, layer: CrossAttention) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            maps[name] = layer.attend(*inputs)[1]

        return hook

    hooks = [layer.register_forward_pre_hook(keep(name, layer)) for name, layer in layers.items()]
    try:
        network(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return maps
