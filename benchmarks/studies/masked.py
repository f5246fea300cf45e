"""A decoder that can do without z, small: pixels one after another, each told those before it (chapter 07's, as MADE).

Source: Germain, Gregor, Murray and Larochelle 2015, arXiv:1502.03509.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cvae_lib.conditions import Condition
from cvae_lib.likelihoods import BernoulliPixels
from cvae_lib.model import CVAE
from cvae_lib.priors import StandardNormal


class Masked(nn.Module):
    """Logits of every pixel from z, c and the pixels before it, in one pass: what lies ahead is masked out."""

    ins: Tensor
    outs: Tensor

    def __init__(self, pixels: int, hidden: int, latents: int, numbers: int, voice: int = 64) -> None:
        super().__init__()
        place, seen = torch.arange(pixels), torch.arange(hidden) * pixels // hidden
        self.register_buffer("ins", (place < seen[:, None]).float())  # (H, P): a unit reads its first `seen` pixels
        self.register_buffer("outs", (seen <= place[:, None]).float())  # (P, H): and helps with those after them
        self.voice = nn.Sequential(nn.Linear(latents, voice), nn.SiLU(), nn.Linear(voice, voice), nn.SiLU())
        self.hear = nn.Linear(voice + numbers, hidden, bias=False)
        self.read, self.write = nn.Linear(pixels, hidden), nn.Linear(hidden, pixels)

    def told(self, z: Tensor, c: Tensor) -> Tensor:
        """Return what z and c say to the hidden units, shape (..., B, H)."""
        heard: Tensor = self.hear(torch.cat([self.voice(z), c.expand(*z.shape[:-1], -1)], -1))
        return heard

    def forward(self, x: Tensor, z: Tensor, c: Tensor) -> Tensor:
        """Return logits (..., B, P) for pixels x (B, P)."""
        h = torch.relu(F.linear(x, self.read.weight * self.ins, self.read.bias) + self.told(z, c))
        return F.linear(h, self.write.weight * self.outs, self.write.bias)

    def paint(self, z: Tensor, c: Tensor, coins: Tensor) -> Tensor:
        """Draw pixel after pixel, each 1 where its coin in [0, 1) lies below its probability: (..., B, P)."""
        ins, outs = self.read.weight * self.ins, self.write.weight * self.outs
        before = self.told(z, c) + self.read.bias  # what the hidden units have heard so far, (..., B, H)
        x = torch.zeros(*z.shape[:-1], len(outs))
        for i in range(len(outs)):
            chance = torch.sigmoid(torch.relu(before) @ outs[i] + self.write.bias[i])
            x[..., i] = (coins[..., i] < chance).float()
            before = before + x[..., i, None] * ins[:, i]
        return x


class Skipping(Masked):
    """The same with z told to the hidden units directly as well (Dieng et al. 2019, arXiv:1807.04863)."""

    def __init__(self, pixels: int, hidden: int, latents: int, numbers: int) -> None:
        super().__init__(pixels, hidden, latents, numbers)
        self.skip = nn.Linear(latents, hidden, bias=False)

    def told(self, z: Tensor, c: Tensor) -> Tensor:
        """Return what z and c say to the hidden units, shape (..., B, H)."""
        heard: Tensor = super().told(z, c) + self.skip(z)
        return heard


class Forgetful(Masked):
    """The same with half of the pixels before hidden while training (Bowman et al. 2016, arXiv:1511.06349)."""

    def forward(self, x: Tensor, z: Tensor, c: Tensor) -> Tensor:
        """Return logits (..., B, P) for pixels x (B, P), of which half are not seen in training."""
        return super().forward(x * (torch.rand_like(x) < 0.5) if self.training else x, z, c)


class PixelByPixel:
    """p(x|z,y) as objectives and reports ask for it."""

    def __init__(self, decoder: Masked, z: Tensor, c: Tensor, image_shape: tuple[int, int, int]) -> None:
        self.decoder, self.z, self.c, self.image_shape = decoder, z, c, image_shape

    def log_prob(self, x: Tensor) -> Tensor:
        """Return the sum over i of log p(x_i | x_<i, z, y), nats."""
        logits = self.decoder(x.flatten(1), self.z, self.c)
        value: Tensor = BernoulliPixels()(logits.unflatten(-1, self.image_shape)).log_prob(x)
        return value

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Draw images of zeros and ones."""
        coins = torch.rand(*self.z.shape[:-1], len(self.decoder.outs), generator=generator)
        drawn: Tensor = self.decoder.paint(self.z, self.c, coins).unflatten(-1, self.image_shape)
        return drawn

    @property
    def mean(self) -> Tensor:
        """The mean of four drawings with the same coins for everybody: they differ only by what z and y do."""
        coins = torch.rand(4, len(self.decoder.outs), generator=torch.Generator().manual_seed(0))
        drawn = [self.decoder.paint(self.z, self.c, row) for row in coins]
        mean: Tensor = torch.stack(drawn).mean(0).unflatten(-1, self.image_shape)
        return mean


class Painter(CVAE):
    """A CVAE whose decoder draws pixel by pixel; binary pixels, standard normal prior."""

    def __init__(
        self,
        encoder: nn.Module,
        decoder: Masked,
        condition: Condition,
        latents: int,
        image_shape: tuple[int, int, int],
    ) -> None:
        prior, pixels = StandardNormal(latents), BernoulliPixels()
        super().__init__(encoder, decoder, condition=condition, prior=prior, likelihood=pixels)
        self.image_shape = image_shape

    def likelihood(self, z: Tensor, y: Any = None) -> Any:
        """Return p(x|z,y), a :class:`PixelByPixel`."""
        return PixelByPixel(self.decoder, z, self.condition(y), self.image_shape)  # type: ignore[arg-type]
