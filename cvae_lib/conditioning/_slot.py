"""What every conditioning layer has in common: what it checks, and how it lays c over the features."""

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from cvae_lib.conditions import Representation, Tokens, examples, masked_mean


def zero_linear(inputs: int, outputs: int) -> nn.Linear:
    """Return a linear layer without bias whose weights start at zero."""
    layer = nn.Linear(inputs, outputs, bias=False)
    nn.init.zeros_(layer.weight)
    return layer


def over_space(rows: Float[Tensor, "b f *same"], h: Tensor) -> Tensor:
    """Give rows (B, F) as many trailing axes of length one as h has, so that they broadcast over space."""
    return rows.reshape(*rows.shape, *([1] * (h.ndim - rows.ndim)))


def along_features(layer: nn.Module, rows: Float[Tensor, "b c *space"]) -> Float[Tensor, "b f *space"]:
    """Apply a linear layer along the feature axis, which stands second: pixel by pixel to an image."""
    return layer(rows) if rows.ndim == 2 else layer(rows.movedim(1, -1)).movedim(-1, 1)  # type: ignore[no-any-return]


class Conditioning(nn.Module):
    """A layer ``(h, c) -> h`` for F features and a condition of width C; the base of all of them.

    Args:
        features: F, of h: (B, F) or (B, F, H, W).
        condition_dim: C, of c: a vector (B, C), tokens (B, L, C) or an image (B, C, H, W).

    Attributes:
        out_features: features of the h it returns.

    Raises:
        ValueError: if F or C is below 1.
    """

    def __init__(self, features: int, condition_dim: int) -> None:
        super().__init__()
        if features < 1 or condition_dim < 1:
            raise ValueError(f"A conditioning needs features and a condition to read, not {features}, {condition_dim}.")
        self.features, self.condition_dim, self.out_features = features, condition_dim, features

    def _check(self, h: Tensor, c: Any) -> None:
        if not isinstance(c, Tensor | Tokens):
            raise ValueError(f"{type(self).__name__} needs a condition c, and {type(c).__name__} is none.")
        width = c.values.shape[-1] if isinstance(c, Tokens) else c.shape[1]
        if h.shape[1] != self.features or width != self.condition_dim:
            raise ValueError(
                f"{type(self).__name__} was made for {self.features} features and a condition of width "
                f"{self.condition_dim}, not {h.shape[1]} and {width}."
            )
        if examples(c) != len(h):
            raise ValueError(f"The condition is for {examples(c)} examples and the features are of {len(h)}.")

    def _rows(self, h: Tensor, c: Representation) -> Float[Tensor, "b c *space"]:
        """Return c as rows (B, C), or as an image of the size of h; tokens become their mean."""
        self._check(h, c)
        rows = masked_mean(c) if isinstance(c, Tokens) else c
        if rows.ndim > 2 and rows.shape[2:] != h.shape[2:]:
            raise ValueError(
                f"A condition of shape {tuple(rows.shape)} does not lie on features of shape {tuple(h.shape)}: "
                "an image must be as large as they are, and flat for an MLP."
            )
        return rows
