"""Encoders and decoders: networks with a conditioning slot at the entrance of every block."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cvae_lib.conditioning import conditioning

LOG_VARIANCE_BOUND = 10.0


def bounded_log_variance(raw: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    r"""Bound a log-variance smoothly, :math:`b \tanh(r / b)` with b = 10.

    Near zero this is the identity; far out it flattens without ever cutting the gradient to zero, as a hard clamp
    would, and keeps the standard deviation between exp(-5) and exp(5).
    """
    return LOG_VARIANCE_BOUND * torch.tanh(raw / LOG_VARIANCE_BOUND)


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
        where: ``first`` block only, or ``every`` block.
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
        where: str = "first",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if where not in ("first", "every"):
            raise ValueError(f"The condition can enter at the 'first' block or at 'every' block, not {where!r}.")
        widths = [in_features, *hidden]
        self.slots = nn.ModuleDict()
        self.layers = nn.ModuleList()
        for block, width in enumerate(widths):
            if condition_dim and (block == 0 or where == "every"):
                slot = conditioning(how, width, condition_dim)
                self.slots[str(block)] = slot
                width = int(slot.out_features)  # type: ignore[arg-type]  # every conditioning has this int
            self.layers.append(nn.Linear(width, [*hidden, out_features][block]))
        self.activation = nn.SiLU()
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: Float[Tensor, "b f"], c: Float[Tensor, "b c"] | None) -> Float[Tensor, "b o"]:
        """Return the outputs, shape (B, out_features)."""
        last = len(self.layers) - 1
        for block, layer in enumerate(self.layers):
            told = self.slots[str(block)](h, c) if str(block) in self.slots else h
            out = layer(told)
            if block < last:
                out = self.dropout(self.activation(out))
                # The skip over a hidden block is worth about a nat on MNIST at the same cost.
                out = h + out if block and h.shape == out.shape else out
            h = out
        return h


class MLPEncoder(nn.Module):
    """Read an image and a condition; return the mean and log-variance of q(z|x,y), shape (B, D) each."""

    def __init__(
        self,
        image_shape: Sequence[int],
        hidden: Sequence[int],
        latent_dim: int,
        *,
        condition_dim: int = 0,
        how: str = "concatenation",
        where: str = "first",
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
        self, x: Float[Tensor, "b ch h w"], c: Float[Tensor, "b c"] | None
    ) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b d"]]:
        """Return (mean, log-variance).

        Raises:
            ValueError: if the images have another shape than the encoder was made for.
        """
        if tuple(x.shape[1:]) != self.image_shape:
            raise ValueError(
                f"The encoder expects images of shape (B, {', '.join(map(str, self.image_shape))}), "
                f"not {tuple(x.shape)}."
            )
        mean, raw = self.net(x.flatten(1), c).chunk(2, dim=1)
        return mean, bounded_log_variance(raw)


class MLPDecoder(nn.Module):
    """Read a latent and a condition; return image-shaped parameters (logits), shape (B, channels, H, W)."""

    def __init__(
        self,
        latent_dim: int,
        hidden: Sequence[int],
        image_shape: Sequence[int],
        *,
        condition_dim: int = 0,
        how: str = "concatenation",
        where: str = "first",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
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

    def forward(self, z: Float[Tensor, "b d"], c: Float[Tensor, "b c"] | None) -> Float[Tensor, "b ch h w"]:
        """Return the logits."""
        logits: Tensor = self.net(z, c).unflatten(1, self.image_shape)
        return logits
