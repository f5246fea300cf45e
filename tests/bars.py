"""A set of images so simple that training takes a second, and small models of it, shared by the tests of training."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal

from cvae_lib.data import ImageSet
from cvae_lib.model import CVAE, CVAEConfig


def bars(count: int = 256, level: int = 255) -> ImageSet:
    """Return images of one bright column each, whose place is the label: a condition that says everything."""
    labels = torch.arange(count) % 4
    images = torch.zeros(count, 1, 6, 4, dtype=torch.uint8)
    images[torch.arange(count), 0, :, labels] = level
    return ImageSet(images, labels, "bars", classes=4)


def small(**changes: Any) -> CVAE:
    """Return a model of bars, always with the same weights."""
    torch.manual_seed(0)
    return CVAE(CVAEConfig(**{"num_classes": 4, "latent_dim": 2, "hidden": (32,), "event_shape": (1, 6, 4), **changes}))


class LinearGaussian(nn.Module):
    """A class that shares nothing with CVAE but its three distributions, linear so that log p(x|y) has a closed form.

    p(z|y) = N(m_y, I), p(x|z,y) = N(W z + b, s^2 I), and a linear encoder.
    """

    SCALE = 0.5

    def __init__(self, features: int = 6, latents: int = 2, classes: int = 4) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encode, self.decode = nn.Linear(features, latents), nn.Linear(latents, features)
        self.spread, self.middle = nn.Parameter(torch.zeros(latents)), nn.Embedding(classes, latents)

    def posterior(self, x: Tensor, y: Any = None) -> Independent:
        mean = self.encode(x)
        return Independent(Normal(mean, self.spread.exp().expand_as(mean)), 1)

    def prior(self, y: Any = None, batch: int | None = None) -> Independent:
        mean = self.middle(y)
        return Independent(Normal(mean, torch.ones_like(mean)), 1)

    def likelihood(self, z: Tensor, y: Any = None) -> Independent:
        return Independent(Normal(self.decode(z), self.SCALE), 1)


def weights(model: nn.Module) -> list[Tensor]:
    """Return a copy of everything a model has learned."""
    return [value.detach().clone() for value in model.state_dict().values()]


def same(one: nn.Module | list[Tensor], other: nn.Module | list[Tensor]) -> bool:
    """Say whether two models have the same weights, bit for bit."""
    pair = [weights(found) if isinstance(found, nn.Module) else found for found in (one, other)]
    return all(torch.equal(a, b) for a, b in zip(*pair, strict=True))


class RaisesAt:
    """A function that does as another one does, but raises at its n-th call."""

    def __init__(self, function: Any, call: int, error: BaseException | None = None) -> None:
        self.function, self.call, self.calls, self.error = function, call, 0, error or KeyboardInterrupt()

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        self.calls += 1
        if self.calls == self.call:
            raise self.error
        return self.function(*arguments, **keywords)


def in_turn(data: tuple[Tensor, Tensor], batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Go through (x, y) in the order in which they lie."""
    return zip(data[0].split(batch_size), data[1].split(batch_size), strict=True)
