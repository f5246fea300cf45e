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
    return log_prob_of_rows(model.likelihood(z, y), x, z.shape[:-1], mask)


def log_prob_of_rows(whole: Distribution, x: Tensor, rows: torch.Size, mask: Tensor | None = None) -> Tensor:
    """Return log p(x|z,y), of the observed entries where there is a mask, one number for each z.

    Args:
        whole: p(x|z,y).
        x: (B, *event).
        rows: the shape of z without D, (B,) or (K, B).
        mask: true where x is observed.

    Raises:
        ValueError: if the likelihood's event is not one whole x.
    """
    event = getattr(whole, "event_shape", x.shape[1:])
    if event != x.shape[1:]:  # torch would stretch one over the other
        raise ValueError(
            f"The event of p(x|z,y) has shape {tuple(event)} and one x {tuple(x.shape[1:])}; the likelihood's event "
            "must be one whole x, as torch's Independent makes it."
        )
    value: Tensor = (whole if mask is None else masked(whole, mask)).log_prob(x)  # type: ignore[arg-type]
    if value.shape != rows:
        raise ValueError(
            f"log p(x|z,y) has shape {tuple(value.shape)} where one number for each z is due, {tuple(rows)}; the "
            "likelihood's event must be one whole x, as torch's Independent makes it."
        )
    return value


def check_same_latents(q: Distribution, p: Distribution) -> None:
    """Raise ValueError if q(z|x,y) and p(z|y) are not over the same latents; torch would stretch one over the other."""
    if q.event_shape != p.event_shape:
        raise ValueError(
            f"The encoder's q(z|x,y) and the prior p(z|y) are over latents of shapes {tuple(q.event_shape)} and "
            f"{tuple(p.event_shape)}; they must be the same."
        )


def observed(x: Tensor, mask: Tensor | None) -> Tensor:
    """Return x with zeros where it is not observed, so that nothing hidden reaches the encoder."""
    if mask is None:
        return x
    try:
        return torch.where(mask.bool(), x, 0).view(x.shape)
    except RuntimeError:
        raise ValueError(f"A mask of shape {tuple(mask.shape)} does not go with x of shape {tuple(x.shape)}.") from None


def at_least_one(samples: int) -> None:
    if not isinstance(samples, int) or samples < 1:
        raise ValueError(f"At least 1 sample is needed, and a whole number of them, not {samples!r}.")
