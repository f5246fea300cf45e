"""How y enters a network: layers with one signature, ``(h, c) -> h``, chosen by name.

``h`` holds features, shape (B, F) or (B, F, H, W); ``c`` is the condition, shape (B, C). A layer may widen h,
so the next one asks for ``out_features``.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn


def _over_space(rows: Float[Tensor, "b f"], h: Tensor) -> Tensor:
    """Give rows (B, F) as many trailing axes of length one as h has, so that they broadcast over space."""
    return rows.reshape(*rows.shape, *([1] * (h.ndim - 2)))


class Concatenation(nn.Module):
    r"""Append the condition to the features, :math:`h' = [h, c]`; over an image, c is repeated at every pixel."""

    def __init__(self, features: int, condition_dim: int) -> None:
        super().__init__()
        self.out_features = features + condition_dim

    def forward(self, h: Float[Tensor, "b f *space"], c: Float[Tensor, "b c"]) -> Float[Tensor, "b g *space"]:
        """Return h with c appended along the feature axis: (B, F + C, ...)."""
        return torch.cat([h, _over_space(c, h).expand(*c.shape, *h.shape[2:]).to(h.dtype)], dim=1)


class Addition(nn.Module):
    r"""Embed the condition and add it, :math:`h' = h + W c`."""

    def __init__(self, features: int, condition_dim: int) -> None:
        super().__init__()
        self.out_features = features
        self.embed = nn.Linear(condition_dim, features, bias=False)

    def forward(self, h: Float[Tensor, "b f *space"], c: Float[Tensor, "b c"]) -> Float[Tensor, "b f *space"]:
        """Return h plus the embedded condition, shape of h."""
        return h + _over_space(self.embed(c), h)


class FiLM(nn.Module):
    r"""Scale and shift each feature by the condition, :math:`h' = (1 + \gamma(c)) h + \beta(c)`.

    The layer that makes gamma and beta starts at zero, so FiLM starts as the identity.
    Source: Perez et al. 2018, arXiv:1709.07871.
    """

    def __init__(self, features: int, condition_dim: int) -> None:
        super().__init__()
        self.out_features = features
        self.modulate = nn.Linear(condition_dim, 2 * features)
        nn.init.zeros_(self.modulate.weight)
        nn.init.zeros_(self.modulate.bias)

    def forward(self, h: Float[Tensor, "b f *space"], c: Float[Tensor, "b c"]) -> Float[Tensor, "b f *space"]:
        """Return the modulated features, shape of h."""
        gamma, beta = self.modulate(c).chunk(2, dim=1)  # (B, F) each
        return (1 + _over_space(gamma, h)) * h + _over_space(beta, h)


CONDITIONINGS: dict[str, Callable[[int, int], nn.Module]] = {
    "concatenation": Concatenation,
    "addition": Addition,
    "film": FiLM,
}


def conditioning(name: str, features: int, condition_dim: int) -> nn.Module:
    """Return the conditioning layer called ``name`` for F features and a condition of width C.

    Raises:
        ValueError: if there is no layer of that name.
    """
    if name not in CONDITIONINGS:
        raise ValueError(f"There is no conditioning {name!r}; choose from {', '.join(CONDITIONINGS)}.")
    return CONDITIONINGS[name](features, condition_dim)
