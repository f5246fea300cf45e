"""The models of the quadrants' study, alike in their decoder: a CVAE, one with z but no encoder, one without z."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from cvae_lib.conditions import Condition
from cvae_lib.data import PixelMode
from cvae_lib.likelihoods import BernoulliPixels
from cvae_lib.model import CVAE
from cvae_lib.networks import MLPDecoder, MLPEncoder
from cvae_lib.priors import ConditionalMixture, StandardNormal


class Pixels(Condition):
    """The observed pixels in a row."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.dim = count

    def forward(self, y: Tensor) -> Tensor:
        """Return the grey levels as they are, shape (B, O)."""
        return y


class Unrecognised(CVAE):
    """A network whose z nobody infers from x: q(z|x,y) is p(z|y), and the encoder is a module that does nothing."""

    def posterior(self, x: Tensor, y: Any = None) -> Distribution:  # type: ignore[override]
        """Return p(z|y)."""
        return self.prior(y, batch=len(x))


class Deterministic(Unrecognised):
    """A network from y to the logits of x: the same decoder at z = 0, whatever z is given."""

    def likelihood(self, z: Tensor, y: Any = None) -> Any:
        """Return p(x|y)."""
        return super().likelihood(torch.zeros_like(z), y)


KINDS: dict[str, type[CVAE]] = {"cvae": CVAE, "deterministic": Deterministic, "gsnn": Unrecognised}


def made(
    kind: str,
    observed: int,
    *,
    latent_dim: int,
    hidden: tuple[int, ...],
    dropout: float,
    components: int,
    pixels: PixelMode,
) -> CVAE:
    """Return an untrained model of 28 x 28 images.

    Args:
        kind: ``cvae``, ``gsnn`` or ``deterministic``.
        observed: how many pixels are observed; the others are x, in one row.
        latent_dim: D.
        hidden: widths of the decoder's hidden layers.
        dropout: of encoder and decoder, while training.
        components: of the CVAE's prior, a mixture told y; the others have N(0, I).
        pixels: how grey levels become x.
    """
    shape = (1, 1, 784 - observed)
    settings: dict[str, Any] = {"condition_dim": observed, "dropout": dropout}
    parts: dict[str, Any] = {"condition": Pixels(observed), "likelihood": BernoulliPixels(pixels)}
    encoder: nn.Module = nn.Identity()
    decoder = MLPDecoder(latent_dim, hidden, shape, **settings)
    parts["prior"] = StandardNormal(latent_dim)
    if kind == "cvae":
        # A shallower encoder takes a fifth off the time of a step, and costs nothing that could be measured.
        encoder = MLPEncoder(shape, hidden[:2], latent_dim, **settings)
        parts["prior"] = ConditionalMixture(latent_dim, observed, components)
    return KINDS[kind](encoder, decoder, **parts)
