"""Early stopping: a criterion that is the same number for the same weights, and the best weights so far."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from cvae_lib import course
from cvae_lib._streams import seeded
from cvae_lib.conditions._condition import described
from cvae_lib.data import PixelMode
from cvae_lib.model import CVAE
from cvae_lib.objective import Terms, elbo_terms
from cvae_lib.training._distributed import Team
from cvae_lib.training._feed import Feed
from cvae_lib.training._numerics import Precision, autocast

ROWS = 1000  # images judged at a time


Objective = Callable[[CVAE, Tensor, Any], Terms | Tensor]
Measure = Callable[[CVAE, Tensor, Any, Any], tuple[Tensor, Tensor]]  # from a model, x, y and beta


def terms_of(found: Any, rows: int, what: str) -> Terms:
    """Return what an objective gave as terms: its own, or a bound per image, which then counts as distortion.

    Raises:
        ValueError: if it gave neither, or not for every image.
    """
    if isinstance(found, Tensor):
        found = Terms(found, torch.zeros_like(found)[..., None])
    if not isinstance(found, Terms):
        raise ValueError(f"{what} must give Terms or a bound per image, shape ({rows},), not {described(found)}.")
    value = found.log_likelihood
    if value.shape != (rows,):
        raise ValueError(
            f"{what} must give one bound per image, shape ({rows},), not {tuple(value.shape)}; sum over dimensions, "
            "and leave the mean over images to fit."
        )
    return found


def measured(objective: Objective) -> Measure:
    """Return a function of (model, x, y, beta) that gives the loss of a batch, and what the history adds up.

    That is loss, distortion and rate, shape (3,), nats per image. One function, so that one graph can hold all of it.
    """

    def measure(model: CVAE, x: Tensor, y: Any, beta: Any) -> tuple[Tensor, Tensor]:
        terms = terms_of(objective(model, x, y), len(x), "objective")
        loss = terms.loss(beta)
        with torch.no_grad():
            return loss, torch.stack([loss, -terms.log_likelihood.mean(), terms.rate.mean()])

    return measure


def with_tensor_beta(measure: Measure) -> Measure:
    """Return the same with beta as a tensor, but where it is 1: for each new number a graph would be made anew."""

    def measure_it(model: CVAE, x: Tensor, y: Any, beta: Any) -> tuple[Tensor, Tensor]:
        if isinstance(beta, int | float) and beta != 1:
            beta = torch.tensor(beta, dtype=x.dtype, device=x.device)
        return measure(model, x, y, beta)

    return measure_it


@torch.no_grad()
def mean_loss(
    model: CVAE, feed: Feed, pixels: PixelMode, precision: Precision, seed: int, criterion: Objective | None = None
) -> float:
    """Return minus the mean bound, nats per image: the same pixels and latent noise at every call with this seed."""
    was_training = model.training
    model.eval()
    limit = course.capped(len(feed.data), course.FAST_IMAGES)
    total, seen = 0.0, 0
    with seeded(seed, feed.data.device) as generator:
        for batch in feed.data.batches(min(ROWS, limit), pixels=pixels, shuffle=False, generator=generator):
            x, y = feed.meal(batch)
            with autocast(feed.data.device, precision):
                found = (criterion or elbo_terms)(model, x, y)
            # A bound is summed as it is, not less a rate of 0: the same number, and no more work.
            terms = terms_of(found, len(x), "criterion")
            total -= float((found if isinstance(found, Tensor) else terms.elbo).sum())
            seen += len(x)
            if seen >= limit:
                break
    model.train(was_training)
    return total / seen


class Watch:
    """Judges the weights after every epoch, keeps the best, and says when they have not improved for too long.

    Args:
        feed: validation images and their conditions.
        patience: epochs without a new best after which to stop; None never stops, and keeps nothing.
        criterion: the bound to judge by; the ELBO if None.
    """

    def __init__(
        self,
        feed: Feed,
        patience: int | None,
        pixels: PixelMode,
        precision: Precision,
        seed: int,
        criterion: Objective | None = None,
    ) -> None:
        self.feed, self.patience, self.criterion = feed, patience, criterion
        self.pixels, self.precision, self.seed = pixels, precision, seed
        self.least = float("inf")
        self.best_epoch: int | None = None
        self.best: dict[str, Tensor] = {}

    def look(self, model: CVAE, epoch: int, team: Team) -> float:
        """Judge the weights at the end of an epoch, counted from 1; keep them if they are the best so far."""
        value = 0.0
        if team.rank == 0:
            value = mean_loss(model, self.feed, self.pixels, self.precision, self.seed, self.criterion)
        value = team.agreed(value)
        if self.patience is not None and value < self.least and math.isfinite(value):
            best = {key: tensor.detach().clone() for key, tensor in model.state_dict().items()}
            self.best, self.least, self.best_epoch = best, value, epoch
        return value

    def is_over(self, epoch: int) -> bool:
        """Say whether the last ``patience`` epochs brought nothing better."""
        return self.patience is not None and self.best_epoch is not None and epoch - self.best_epoch >= self.patience


def floats(model: nn.Module) -> list[Tensor]:
    """Return every parameter and floating-point buffer, detached: what an average is taken of."""
    return [t.detach() for t in [*model.parameters(), *model.buffers()] if t.is_floating_point()]
