"""Validation and early stopping: a criterion that is the same number for the same weights, and the best weights."""

import math

from torch import Tensor, nn

from cvae_lib import environment
from cvae_lib.data import Data, in_memory, in_order
from cvae_lib.environment import evaluation_mode, seeded
from cvae_lib.objective import elbo_terms
from cvae_lib.training._batches import Batches, Conditions
from cvae_lib.training._objective import Objective, as_terms

ROWS = 1000  # examples judged at a time


class EarlyStopping:
    """Judges the weights after every epoch, keeps the best, and says when they have not improved for too long.

    The criterion is minus the mean ELBO of held-out examples, nats per example, in float32 and always with the same
    pixels and latent noise (common random numbers).

    Args:
        model: who is judged, for its device.
        data: held-out examples, in any form that :func:`fit` takes.
        y: their conditions, as in :func:`fit`.
        patience: epochs without a new best after which to stop; None never stops, and keeps nothing.
        seed: of pixels and noise.
        criterion: a bound to judge by, in the form of an objective; the ELBO if None.

    Raises:
        ValueError: if the data do not fit the model.
    """

    def __init__(
        self,
        model: nn.Module,
        data: Data,
        y: Conditions = None,
        patience: int | None = None,
        seed: int = 0,
        criterion: Objective | None = None,
    ) -> None:
        self.batches = Batches(model, in_memory(data, "validation"), y, reads_y=criterion is None)
        self.patience, self.seed, self.criterion = patience, seed, criterion
        self.least = math.inf
        self.best_epoch: int | None = None
        self.best: dict[str, Tensor] = {}

    def judge(self, model: nn.Module) -> float:
        """Return minus the mean bound, nats per example: the same number for the same weights."""
        batches = self.batches
        count = environment.at_most(len(batches.data), environment.settings.examples)
        total = 0.0
        with seeded(self.seed, batches.device) as generator, evaluation_mode(model, device=batches.device):
            for found in in_order(batches.data.subset(slice(count)), ROWS):
                batches.pixels = generator
                x, y = batches.prepared(found)
                bound = (self.criterion or elbo_terms)(model, x, y)
                terms = as_terms(bound, len(x), "criterion")
                total -= float((bound if isinstance(bound, Tensor) else terms.elbo).sum())
        return total / count

    def keep_if_best(self, model: nn.Module, value: float, epoch: int) -> None:
        """Keep the weights at the end of an epoch, counted from 1, if they are the best so far."""
        if self.patience is not None and value < self.least and math.isfinite(value):
            self.best = {key: tensor.detach().clone() for key, tensor in model.state_dict().items()}
            self.least, self.best_epoch = value, epoch

    def is_over(self, epoch: int) -> bool:
        """Say whether the last ``patience`` epochs brought nothing better."""
        return self.patience is not None and self.best_epoch is not None and epoch - self.best_epoch >= self.patience
