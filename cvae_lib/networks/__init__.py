"""Encoders and decoders: networks with a conditioning slot at the entrance of every block.

An encoder reads an image and c and returns the mean and log-variance of q(z|x,y), a decoder reads z and c and returns
image-shaped logits. Both come as MLPs (here) and as convolutional networks, chosen by name.
"""

import math
from collections.abc import Callable, Sequence

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from cvae_lib._variance import LOG_VARIANCE_BOUND, bounded_log_variance
from cvae_lib.conditioning import conditioning
from cvae_lib.conditions import Representation
from cvae_lib.networks._blocks import (
    Placement,
    check_images,
    check_latents,
    told,
)
from cvae_lib.networks._convolutional import ConvolutionalDecoder, ConvolutionalEncoder

__all__ = [
    "LOG_VARIANCE_BOUND",
    "MLP",
    "NETWORKS",
    "ConvolutionalDecoder",
    "ConvolutionalEncoder",
    "MLPDecoder",
    "MLPEncoder",
    "Placement",
    "bounded_log_variance",
    "network_pair",
]


class MLP(nn.Module):
    r"""A multilayer perceptron whose blocks (slot, linear, SiLU) can each be told the condition.

    The first block is :math:`h_1 = \mathrm{SiLU}(W_1 [x, c] + b_1)`; later hidden blocks of equal width add to what
    comes in, :math:`h_{i+1} = h_i + \mathrm{SiLU}(W h_i + b)` (He et al. 2016, arXiv:1512.03385).

    Args:
        in_features: width of the input.
        hidden: widths of the hidden layers.
        out_features: width of the output, which has no activation.
        condition_dim: width C of the condition; 0 leaves every slot empty.
        how: name of the conditioning layer, see :data:`cvae_lib.conditioning.CONDITIONINGS`.
        where: ``first`` block only, ``every`` block, or block numbers: block 0 reads the input, the last gives the
            output.
        dropout: probability of dropping a hidden unit while training.

    Raises:
        ValueError: if ``where`` or ``how`` is unknown.
    """

    def __init__(
        self,
        in_features: int,
        hidden: Sequence[int],
        out_features: int,
        *,
        condition_dim: int = 0,
        how: str = "concatenation",
        where: Placement = "first",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        widths = [in_features, *hidden]
        chosen = told(where, len(widths))
        self.slots = nn.ModuleDict()
        self.layers = nn.ModuleList()
        for block, width in enumerate(widths):
            if condition_dim and block in chosen:
                slot = conditioning(how, width, condition_dim)
                self.slots[str(block)] = slot
                width = slot.out_features
            self.layers.append(nn.Linear(width, [*hidden, out_features][block]))
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: Float[Tensor, "b f"], c: Representation | None) -> Float[Tensor, "b o"]:
        """Return the outputs, shape (B, out_features), of inputs (B, in_features) and c.

        Raises:
            ValueError: if a block hears the condition, and c is missing or of another width or length.
        """
        layers, slots = self.layers, self.slots
        last = len(layers) - 1
        for block, layer in enumerate(layers):
            out = layer(slots[str(block)](h, c) if str(block) in slots else h)
            if block < last:
                out = F.silu(out)
                out = self.dropout(out) if self.dropout.p else out
                # The skip over a hidden block is worth about a nat on MNIST at the same cost.
                out = h + out if block and h.shape == out.shape else out
            h = out
        return h


class MLPEncoder(nn.Module):
    """Read an image and a condition; return the mean and log-variance of q(z|x,y), shape (B, D) each.

    Args:
        image_shape: (channels, H, W), of any size.
        hidden: widths of the hidden layers.
        latent_dim: D.
        condition_dim: width C of the condition; this and the rest as in :class:`MLP`.
        how: name of the conditioning layer.
        where: blocks told the condition.
        dropout: probability of dropping a hidden unit while training.

    Raises:
        ValueError: if ``where`` or ``how`` is unknown.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        hidden: Sequence[int],
        latent_dim: int,
        *,
        condition_dim: int = 0,
        how: str = "concatenation",
        where: Placement = "first",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.image_shape = tuple(image_shape)
        self.net = MLP(
            math.prod(image_shape),
            hidden,
            2 * latent_dim,
            condition_dim=condition_dim,
            how=how,
            where=where,
            dropout=dropout,
        )

    def forward(
        self, x: Float[Tensor, "b ch h w"], c: Representation | None
    ) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b d"]]:
        """Return (mean, log-variance).

        Raises:
            ValueError: if the images have another shape than the encoder was made for, or c another width.
        """
        check_images(x, self.image_shape)
        mean, raw = self.net(x.flatten(1), c).chunk(2, dim=1)
        return mean, bounded_log_variance(raw)


class MLPDecoder(nn.Module):
    """Read a latent and a condition; return image-shaped parameters (logits), shape (B, channels, H, W).

    Args:
        latent_dim: D.
        hidden: widths of the hidden layers.
        image_shape: (channels, H, W) of what is returned, of any size.
        condition_dim: width C of the condition; this and the rest as in :class:`MLP`.
        how: name of the conditioning layer.
        where: blocks told the condition.
        dropout: probability of dropping a hidden unit while training.

    Raises:
        ValueError: if ``where`` or ``how`` is unknown.
    """

    def __init__(
        self,
        latent_dim: int,
        hidden: Sequence[int],
        image_shape: Sequence[int],
        *,
        condition_dim: int = 0,
        how: str = "concatenation",
        where: Placement = "first",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.image_shape = tuple(image_shape)
        self.net = MLP(
            latent_dim,
            hidden,
            math.prod(image_shape),
            condition_dim=condition_dim,
            how=how,
            where=where,
            dropout=dropout,
        )

    def forward(self, z: Float[Tensor, "b d"], c: Representation | None) -> Float[Tensor, "b ch h w"]:
        """Return the logits.

        Raises:
            ValueError: if z or c has another width than the decoder was made for.
        """
        check_latents(z, self.latent_dim)
        logits: Tensor = self.net(z, c).unflatten(1, self.image_shape)
        return logits


NETWORKS: dict[str, tuple[Callable[..., nn.Module], Callable[..., nn.Module]]] = {
    "mlp": (MLPEncoder, MLPDecoder),
    "convolutional": (ConvolutionalEncoder, ConvolutionalDecoder),
}


def network_pair(name: str) -> tuple[Callable[..., nn.Module], Callable[..., nn.Module]]:
    """Return the encoder's and the decoder's class called ``name``.

    Raises:
        ValueError: if there is no network of that name.
    """
    if name not in NETWORKS:
        raise ValueError(f"There is no network {name!r}; choose from {', '.join(NETWORKS)}.")
    return NETWORKS[name]
