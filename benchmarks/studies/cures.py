"""Chapter 07's cures for a z that falls silent: objectives, encoders, decoders, and which model goes with which."""

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from masked import Forgetful, Masked, Painter, Skipping
from torch import Tensor, nn

from cvae_lib.conditions import Condition
from cvae_lib.environment import at_most, settings
from cvae_lib.model import CVAE
from cvae_lib.networks import MLPEncoder
from cvae_lib.objective import (
    BetaSchedule,
    Constant,
    Cyclical,
    Linear,
    Terms,
    elbo_terms,
    free_bits,
    importance_weighted_bound,
)

LEAD, STEPS = 250, 750  # the decoder's steps without z, then those of the whole model
LATENTS, IMAGE = 8, (1, 14, 14)
FLOOR = 0.25  # nats per latent: free bits, delta-VAE and batch norm promise the same
EVERY = 75  # steps from one look at a training to the next


class Order(Condition):
    """Several things told by number, each a one-hot row; -1 where it is not told."""

    def __init__(self, *sizes: int) -> None:
        super().__init__()
        self.sizes, self.dim = sizes, sum(sizes)

    def forward(self, y: Tensor) -> Tensor:
        """Return the one-hot rows side by side for y of shape (B, number of things)."""
        rows = [F.one_hot(part + 1, size + 1)[:, 1:] for part, size in zip(y.T, self.sizes, strict=True)]
        return torch.cat(rows, 1).float()

    def mask_out(self, y: Tensor, where: Tensor) -> Tensor:
        """Return y with nothing told where ``where`` is true."""
        return y.masked_fill(where[:, None], -1)


def steps() -> int:
    """Return how many steps the whole model takes: fewer on the fast profile."""
    return at_most(STEPS, settings.steps)


class Watched:
    """The ELBO with a weight and free bits, that looks at the model every so many steps."""

    def __init__(self, beta: float, floor: float, schedule: str, look: Callable[[CVAE], dict[str, Any]]) -> None:
        total = steps()
        schedules: dict[str, BetaSchedule] = {
            "none": Constant(beta),
            "linear": Linear(total // 2, end=beta),
            "cyclical": Cyclical(4 * total // 5, end=beta),
        }
        self.beta = schedules[schedule]
        self.floor, self.look, self.step = floor, look, 0
        self.seen: list[dict[str, Any]] = []

    def __call__(self, model: CVAE, x: Tensor, y: Any) -> Tensor:
        """Return minus the loss, the same for every image."""
        if self.step % EVERY == 0:
            self.seen.append({"step": self.step, **self.look(model)})
        terms = elbo_terms(model, x, y)
        loss = terms.loss(self.beta(self.step), self.floor)
        self.step += 1
        return -loss.expand(len(x))


def without_z(model: CVAE, x: Tensor, y: Any) -> Tensor:
    """Return log p(x|0,y): what a decoder learns before there is a z."""
    value: Tensor = model.likelihood(torch.zeros(len(x), LATENTS), y).log_prob(x)
    return value


def with_floor(model: CVAE, x: Tensor, y: Any) -> Tensor:
    """Return the bound with free bits, for ``fit``."""
    terms = elbo_terms(model, x, y)
    return terms.log_likelihood - free_bits(terms.kl, FLOOR)


class Aggressive:
    """In the first half, let only the encoder learn in four steps of five (He et al. 2019, arXiv:1901.05534)."""

    def __init__(self, steps: int) -> None:
        self.step, self.until = 0, steps // 2

    def __call__(self, model: CVAE, x: Tensor, y: Any) -> Terms:
        """Return the terms; the decoder's weights are held in an encoder's step."""
        held = self.step < self.until and self.step % 5 > 0
        self.step += 1
        for parameter in model.decoder.parameters():
            parameter.requires_grad_(not held)
        return elbo_terms(model, x, y)


class Normed(nn.Module):
    r"""An encoder whose means have variance :math:`\gamma^2` over every batch (Zhu et al. 2020, arXiv:2004.12585)."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.norm = encoder, nn.BatchNorm1d(LATENTS, affine=False)

    def forward(self, x: Tensor, c: Any) -> tuple[Tensor, Tensor]:
        """Return (mean, log-variance)."""
        mean, log_variance = self.encoder(x, c)
        return (2 * FLOOR) ** 0.5 * self.norm(mean.float()), log_variance


class Committed(nn.Module):
    r"""An encoder that can promise less than delta nats per latent to nobody (Razavi et al. 2019, arXiv:1901.03416).

    Their simplest family: a variance of at most s, where :math:`\frac12(s - 1 - \ln s) = \delta`.
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        low, high = 1e-6, 1.0
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if (middle - 1) / 2 - torch.tensor(middle).log() / 2 > FLOOR else (low, middle)
        self.most = high

    def forward(self, x: Tensor, c: Any) -> tuple[Tensor, Tensor]:
        """Return (mean, log-variance)."""
        mean, raw = self.encoder(x, c)
        return mean, float(torch.tensor(self.most).log()) - F.softplus(raw.float())


def built(decoder: type[Masked] = Masked, hidden: int = 512, encoder: type[nn.Module] | None = None) -> Painter:
    """Return an untrained painter, its encoder wrapped in ``encoder`` where one is given."""
    condition = Order(10, 5, 5)
    reads: nn.Module = MLPEncoder(IMAGE, (128, 128), LATENTS, condition_dim=condition.dim)
    if encoder is not None:
        reads = encoder(reads)
    pixels = IMAGE[1] * IMAGE[2]
    return Painter(reads, decoder(pixels, hidden, LATENTS, condition.dim), condition, LATENTS, IMAGE)


def recipes() -> dict[str, tuple[Callable[[], Painter], dict[str, Any]]]:
    """Return for each row of the table how the model is made, and what ``fit`` is told; made anew, for some count."""
    total = steps()
    return {
        "plain": (built, {}),
        "together": (built, {"lead": 0}),
        "linear": (built, {"beta": Linear(total // 2)}),
        "cyclical": (built, {"beta": Cyclical(4 * total // 5)}),
        "free_bits": (built, {"objective": with_floor}),
        "y_dropped": (built, {"y_dropped": 0.5}),
        "small": (functools.partial(built, hidden=64), {}),
        "forgetful": (functools.partial(built, decoder=Forgetful), {}),
        "aggressive": (built, {"objective": Aggressive(total)}),
        "delta": (functools.partial(built, encoder=Committed), {}),
        "batch_norm": (functools.partial(built, encoder=Normed), {}),
        "skip": (functools.partial(built, decoder=Skipping), {}),
        "importance": (built, {"objective": lambda model, x, y: importance_weighted_bound(model, x, y, 8)}),
    }


CURES = tuple(recipes())
