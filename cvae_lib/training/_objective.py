"""The loss of one step, from whatever objective, in the form that one process or several can use."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from cvae_lib.objective import Terms, elbo_terms

Objective = Callable[[Any, Tensor, Any], Terms | Tensor]  # (model, x, y) to terms, or to a bound per example


def as_terms(found: Any, rows: int, what: str) -> Terms:
    """Return what an objective gave as terms: its own, or a bound per example, which then counts as distortion.

    Raises:
        ValueError: if it gave neither, or not for every example.
    """
    if isinstance(found, Tensor):
        found = Terms(found, torch.zeros_like(found)[..., None])
    if not isinstance(found, Terms):
        raise ValueError(
            f"{what} must give Terms or a bound per example, shape ({rows},), not {type(found).__name__}."
        )
    value = found.log_likelihood
    if value.shape != (rows,):
        raise ValueError(
            f"{what} must give one bound per example, shape ({rows},), not {tuple(value.shape)}; sum over dimensions, "
            "and leave the mean over examples to fit."
        )
    return found


class Loss(nn.Module):
    """A model with its objective as one module, so that torch can compile it, or train it in several processes."""

    def __init__(self, model: nn.Module, objective: Objective | None) -> None:
        super().__init__()
        self.model, self.objective = model, objective or elbo_terms

    def forward(self, x: Tensor, y: Any, beta: float | Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss of a batch, and what the history adds up: loss, distortion and rate, (3,), nats."""
        terms = as_terms(self.objective(self.model, x, y), len(x), "objective")
        loss = terms.loss(beta)  # type: ignore[arg-type]  # a tensor only where a number would be compiled in
        with torch.no_grad():
            return loss, torch.stack([loss, -terms.log_likelihood.mean(), terms.rate.mean()])
