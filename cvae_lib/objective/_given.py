"""What every objective asks of a model and of its arguments."""

from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.distributions import Distribution

from cvae_lib.likelihoods import masked


@runtime_checkable
class LatentVariableModel(Protocol):
    """What an objective asks of a model: three distributions. :class:`cvae_lib.model.CVAE` is one."""

    def posterior(self, x: Tensor, y: Any = None) -> Distribution:
        """Return q(z|x,y): event shape (D,), batch shape (B,)."""

    def prior(self, y: Any = None, batch: int | None = None) -> Distribution:
        """Return p(z|y): event shape (D,), batch shape (B,)."""

    def likelihood(self, z: Tensor, y: Any = None) -> Distribution:
        """Return p(x|z,y): event shape that of one x, batch shape that of z without D."""


def log_likelihood_of(model: LatentVariableModel, z: Tensor, x: Tensor, y: Any, mask: Tensor | None) -> Tensor:
    """Return log p(x|z,y), of the observed entries where there is a mask, batch shape that of z without D."""
    whole = model.likelihood(z, y)
    value: Tensor = (whole if mask is None else masked(whole, mask)).log_prob(x)  # type: ignore[arg-type]
    return rows_like(value, x)


def rows_like(value: Tensor, x: Tensor) -> Tensor:
    """Return a log-likelihood, or say that it is not one number for each example.

    Raises:
        ValueError: if the likelihood's event is not one whole x.
    """
    if value.shape[-1:] != x.shape[:1] or value.ndim > 2:
        raise ValueError(
            f"log p(x|z,y) has shape {tuple(value.shape)} where one number for each of {len(x)} examples is due; the "
            "likelihood's event must be one whole x, as torch's Independent makes it."
        )
    return value


def observed(x: Tensor, mask: Tensor | None) -> Tensor:
    """Return x with zeros where it is not observed, so that nothing hidden reaches the encoder."""
    if mask is None:
        return x
    try:
        return torch.where(mask.bool(), x, 0).view(x.shape)
    except RuntimeError:
        raise ValueError(f"A mask of shape {tuple(mask.shape)} does not go with x of shape {tuple(x.shape)}.") from None


def at_least_one(samples: int) -> None:
    if samples < 1:
        raise ValueError(f"At least 1 sample is needed, not {samples}.")
