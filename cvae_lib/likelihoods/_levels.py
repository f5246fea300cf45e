"""Distributions over grey levels: a pixel in [0, 1] that can take L equally spaced values."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, constraints

from cvae_lib.data import check_unit_interval


def _level(value: Tensor, levels: int) -> Tensor:
    """Return the nearest level's number, 0 to L - 1, as float."""
    check_unit_interval(value)
    # A pixel out of range whose value could not be asked for goes to the nearest end.
    return (value * (levels - 1)).round().clamp(0, levels - 1)


class DiscretisedLogistic(Distribution):
    r"""A logistic distribution cut into L bins, :math:`P(k) = \sigma(b_k) - \sigma(a_k)`, the outer ones open.

    .. math:: a_k, b_k = \frac{k/(L-1) \mp \Delta/2 - \mu}{s}, \quad \Delta = \frac1{L-1}, \quad
              a_0 = -\infty, \quad b_{L-1} = \infty

    The probabilities of the L levels sum to one exactly. With :math:`\sigma(b) - \sigma(a) = \sigma(b)\,\sigma(-a)\,
    (1 - e^{a-b})` the logarithm needs no special case for narrow or far-off bins.
    Source: Salimans et al. 2017, arXiv:1701.05517.

    Args:
        loc: mu, on the scale where pixels lie in [0, 1].
        log_scale: log s.
        levels: L, at least 2.
    """

    arg_constraints = {"loc": constraints.real, "log_scale": constraints.real}
    support = constraints.unit_interval

    def __init__(self, loc: Float[Tensor, "*shape"], log_scale: Float[Tensor, "*shape"], levels: int = 256) -> None:
        if levels < 2:
            raise ValueError(f"There must be at least 2 grey levels, not {levels}.")
        self.loc, self.log_scale, self.levels = loc, log_scale, levels
        super().__init__(loc.shape, validate_args=False)

    def log_prob(self, value: Float[Tensor, "*shape"]) -> Float[Tensor, "*batch"]:
        """Return the log-probability of each pixel's nearest level, nats.

        Raises:
            ValueError: if a pixel lies outside [0, 1].
        """
        k, step = _level(value, self.levels), 1 / (self.levels - 1)
        inverse = torch.exp(-self.log_scale)
        centre = k * step - self.loc
        below_upper = nn.functional.logsigmoid((centre + step / 2) * inverse)
        above_lower = nn.functional.logsigmoid(-(centre - step / 2) * inverse)
        width = torch.log(-torch.expm1(-step * inverse))
        inside = below_upper + above_lower + width
        return torch.where(k == 0, below_upper, torch.where(k == self.levels - 1, above_lower, inside))

    @property
    def mean(self) -> Float[Tensor, "*shape"]:
        r"""The mean of the levels, :math:`\Delta \sum_{k=1}^{L-1} P(X \ge k)`, exact."""
        step, inverse = 1 / (self.levels - 1), torch.exp(-self.log_scale)
        total = torch.zeros_like(self.loc)
        for k in range(1, self.levels):  # one level at a time: all at once would take L times the memory
            total = total + torch.sigmoid((self.loc - (k - 0.5) * step) * inverse)
        return total * step

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Return draws, which lie on the levels."""
        loc = self.loc.expand(torch.Size(sample_shape) + self.loc.shape)
        tiny = torch.finfo(loc.dtype).eps
        logistic = loc + torch.exp(self.log_scale) * torch.logit(torch.rand_like(loc), eps=tiny)
        return _level(logistic.clamp(0, 1), self.levels) / (self.levels - 1)


class CategoricalLevel(Distribution):
    r"""Any distribution over L grey levels, :math:`P(k) = \mathrm{softmax}(l)_k`, with level k at :math:`k/(L-1)`.

    Args:
        logits: l, the levels along the last axis.
    """

    arg_constraints = {"logits": constraints.real_vector}
    support = constraints.unit_interval

    def __init__(self, logits: Float[Tensor, "*shape l"]) -> None:
        self.logits, self.levels = logits, logits.shape[-1]
        super().__init__(logits.shape[:-1], validate_args=False)

    def log_prob(self, value: Float[Tensor, "*shape"]) -> Float[Tensor, "*batch"]:
        """Return the log-probability of each pixel's nearest level, nats.

        Raises:
            ValueError: if a pixel lies outside [0, 1].
        """
        k = _level(value, self.levels).long()
        shape = torch.broadcast_shapes(k.shape, self.batch_shape)
        chosen: Tensor = self.logits.expand(*shape, -1).gather(-1, k.expand(shape)[..., None]).squeeze(-1)
        return chosen - self.logits.logsumexp(-1)

    @property
    def mean(self) -> Float[Tensor, "*shape"]:
        """The mean of the levels."""
        grid = torch.linspace(0, 1, self.levels, device=self.logits.device, dtype=self.logits.dtype)
        # Not as a matrix product: autocast would round the probabilities to bfloat16.
        mean: Tensor = (self.logits.softmax(-1) * grid).sum(-1)
        return mean

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Return draws, which lie on the levels."""
        k = Categorical(logits=self.logits, validate_args=False).sample(torch.Size(sample_shape))
        values: Tensor = k.to(self.logits.dtype) / (self.levels - 1)
        return values
