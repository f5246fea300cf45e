"""A likelihood of which only a part was observed."""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.distributions import Distribution, Independent

from cvae_lib.data import check_unit_interval
from cvae_lib.likelihoods._likelihood import UnitIndependent


class Masked(Distribution):
    r"""A factorised distribution observed in part, :math:`\log p(x_o) = \sum_{i \in o} \log p(x_i)`.

    Because the entries are independent given z, leaving factors out is exact marginalisation.
    Entries that are not observed may hold anything, NaN too. Means and draws are those of the whole.
    """

    arg_constraints: dict[str, Any] = {}

    def __init__(self, whole: Independent, observed: Bool[Tensor, "*shape"]) -> None:
        self.whole, self.observed = whole, observed
        super().__init__(whole.batch_shape, whole.event_shape, validate_args=False)

    def log_prob(self, value: Float[Tensor, "*shape"]) -> Float[Tensor, "*batch"]:
        """Return the log-probability of the observed entries, summed over them, nats."""
        # Before and after: NaN times a zero gradient would still be NaN.
        known = torch.where(self.observed, value, 0)
        if isinstance(self.whole, UnitIndependent):
            check_unit_interval(known)
        kept = torch.where(self.observed, self.whole.base_dist.log_prob(known), 0)
        return kept.flatten(-self.whole.reinterpreted_batch_ndims).sum(-1)

    @property
    def mean(self) -> Tensor:
        """The mean of every entry, observed or not."""
        mean: Tensor = self.whole.mean
        return mean

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Return draws of every entry, observed or not."""
        draws: Tensor = self.whole.sample(torch.Size(sample_shape))
        return draws


def masked(whole: Independent, mask: Tensor) -> Masked:
    """Return the distribution with only the entries observed where the mask is true.

    Args:
        whole: a likelihood's distribution, batch shape (..., B), event shape that of x.
        mask: bool (or 0 and 1), shape (B, 1, H, W) or that of x; true where x is observed.

    Raises:
        ValueError: if the entries are not independent given z, or the mask's shape does not go with x.
    """
    if not isinstance(whole, Independent):
        raise ValueError(f"Only a likelihood of independent entries can be masked, not {type(whole).__name__}.")
    shape = whole.batch_shape + whole.event_shape
    try:
        fits = torch.broadcast_shapes(mask.shape, shape) == shape
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError(f"A mask of shape {tuple(mask.shape)} does not go with x of shape {tuple(shape)}.")
    return Masked(whole, mask.bool())
