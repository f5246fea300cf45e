"""How y enters a network: layers with one signature, ``(h, c) -> h``, and your own.

``h`` holds features, shape (B, F) or (B, F, H, W). ``c`` is what a condition gives, in any of its forms:

- a vector (B, C), the same at every pixel of h;
- ``Tokens`` (B, L, C): attention reads them one by one, the other layers read their mean without the padding;
- an image (B, C, H, W) as large as h, read pixel by pixel; attention takes each of its pixels for a token.

A layer may widen h, so the next one asks for ``out_features``. No layer has a bias beside c: where c is zero, or all
padding, each does what it would do in a network without y.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cvae_lib.conditioning._attention import CrossAttention, attention_maps
from cvae_lib.conditioning._slot import Conditioning, along_features, over_space, zero_linear
from cvae_lib.conditions import Representation

__all__ = [
    "CONDITIONINGS",
    "Addition",
    "Concatenation",
    "ConditionalBatchNorm",
    "Conditioning",
    "CrossAttention",
    "FiLM",
    "Maker",
    "attention_maps",
    "make_conditioning",
]


class Concatenation(Conditioning):
    r"""Append the condition to the features, :math:`h' = [h, c]`; over an image, c is repeated at every pixel.

    Source: Mirza and Osindero 2014, arXiv:1411.1784.
    """

    def __init__(self, features: int, condition_dim: int) -> None:
        super().__init__(features, condition_dim)
        self.out_features = features + condition_dim

    def forward(self, h: Float[Tensor, "b f *space"], c: Representation) -> Float[Tensor, "b g *space"]:
        """Return h with c appended along the feature axis: (B, F + C, ...).

        Raises:
            ValueError: if h or c has another width, length or size than the layer or the other.
        """
        rows = over_space(self._rows(h, c), h)
        return torch.cat([h, rows.expand(*rows.shape[:2], *h.shape[2:]).to(h.dtype)], dim=1)


class Addition(Conditioning):
    r"""Embed the condition and add it, :math:`h' = h + W c`; over an image, the same at every pixel.

    W is a linear layer without bias, (F, C). Source: Dumoulin et al. 2018, doi:10.23915/distill.00011, who call it
    conditional biasing.
    """

    def __init__(self, features: int, condition_dim: int) -> None:
        super().__init__(features, condition_dim)
        self.embed = nn.Linear(condition_dim, features, bias=False)

    def forward(self, h: Float[Tensor, "b f *space"], c: Representation) -> Float[Tensor, "b f *space"]:
        """Return h plus the embedded condition, shape of h.

        Raises:
            ValueError: if h or c has another width, length or size than the layer or the other.
        """
        return h + over_space(along_features(self.embed, self._rows(h, c)), h)


class FiLM(Conditioning):
    r"""Scale and shift each feature by the condition, :math:`h' = (1 + \gamma(c)) h + \beta(c)`.

    Gamma and beta are linear in c, without bias, and start at zero: FiLM starts as the identity, and stays it where
    c is zero. Sources: Perez et al. 2018, arXiv:1709.07871; for images c, Park et al. 2019, arXiv:1903.07291.
    """

    def __init__(self, features: int, condition_dim: int) -> None:
        super().__init__(features, condition_dim)
        self.modulate = zero_linear(condition_dim, 2 * features)

    def forward(self, h: Float[Tensor, "b f *space"], c: Representation) -> Float[Tensor, "b f *space"]:
        """Return the modulated features, shape of h.

        Raises:
            ValueError: if h or c has another width, length or size than the layer or the other.
        """
        gamma, beta = along_features(self.modulate, self._rows(h, c)).chunk(2, dim=1)  # (B, F) each
        # (1 + gamma) h + beta in two passes over h instead of three.
        return torch.addcmul(h + over_space(beta, h), over_space(gamma, h), h)


class ConditionalBatchNorm(Conditioning):
    r"""Batch normalisation whose scale and shift are corrected by the condition.

    .. math:: h' = (\gamma + \Delta\gamma(c)) \, \frac{h - \mu}{\sqrt{\sigma^2 + \epsilon}} + \beta + \Delta\beta(c)

    with mean and variance over the batch (and space) while training, and their running averages afterwards. The
    corrections are linear in c, without bias, and start at zero: it starts as plain batch normalisation, and stays it
    where c is zero. Sources: de Vries et al. 2017, arXiv:1707.00683; Ioffe and Szegedy 2015, arXiv:1502.03167.
    """

    def __init__(self, features: int, condition_dim: int) -> None:
        super().__init__(features, condition_dim)
        self.norm = nn.BatchNorm1d(features, affine=False)
        self.weight, self.bias = nn.Parameter(torch.ones(features)), nn.Parameter(torch.zeros(features))
        self.modulate = zero_linear(condition_dim, 2 * features)

    def forward(self, h: Float[Tensor, "b f *space"], c: Representation) -> Float[Tensor, "b f *space"]:
        """Return the normalised and modulated features, shape of h.

        Raises:
            ValueError: if h or c has another width, length or size than the layer or the other, or a single vector
                comes while training.
        """
        gamma, beta = along_features(self.modulate, self._rows(h, c)).chunk(2, dim=1)  # (B, F) each
        if self.training and h.numel() == self.features:
            raise ValueError("Batch norm cannot train on one example at a time: take a larger batch, or model.eval().")
        # One kind of module for both: to BatchNorm1d space is one more axis, however many it had.
        normalised = self.norm(h.flatten(2) if h.ndim > 2 else h).reshape(h.shape)
        weight, bias = (over_space(own[None], gamma) for own in (self.weight, self.bias))
        modulated: Tensor = over_space(weight + gamma, h) * normalised + over_space(bias + beta, h)
        return modulated


Maker = Callable[[int, int], nn.Module]  # from features F and condition width C to a layer (h, c) -> h

CONDITIONINGS: dict[str, Callable[[int, int], Conditioning]] = {
    "concatenation": Concatenation,
    "addition": Addition,
    "film": FiLM,
    "batchnorm": ConditionalBatchNorm,
    "attention": CrossAttention,
}


def make_conditioning(kind: str | Maker, features: int, condition_dim: int) -> nn.Module:
    """Return a conditioning layer for F features and a condition of width C.

    Args:
        kind: a name of :data:`CONDITIONINGS`, or a function that makes a layer of your own:
            ``(features, condition_dim) -> layer``; one that widens h says its ``out_features``.

    Raises:
        ValueError: if there is no layer of that name, or a width is below 1.
    """
    if callable(kind):
        return kind(features, condition_dim)
    if kind not in CONDITIONINGS:
        raise ValueError(f"There is no conditioning {kind!r}; choose from {', '.join(CONDITIONINGS)}.")
    return CONDITIONINGS[kind](features, condition_dim)
