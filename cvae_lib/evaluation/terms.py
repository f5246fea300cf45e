"""Where a model stands in the rate-distortion plane."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cvae_lib.data import ImageSet, PixelMode
from cvae_lib.evaluation._estimate import Estimate, mean_and_error
from cvae_lib.evaluation._examples import Examples, examples
from cvae_lib.model import CVAE
from cvae_lib.objective import elbo_terms
from cvae_lib.training import seeded


@dataclass(frozen=True)
class RateDistortion:
    """A point of the plane, in nats per image.

    Attributes:
        rate: R, what sending z costs somebody who knows the prior (and y).
        distortion: D, what correcting the pixels costs after that.
        total: R + D, the negative ELBO, from the same draws.
        kl_per_latent: (D,), the rate latent by latent, or (1,), all together, where the prior ties them.
    """

    rate: Estimate
    distortion: Estimate
    total: Estimate
    kl_per_latent: Float[Tensor, " d"]

    def loss(self, beta: float) -> float:
        r"""Return :math:`D + \beta R`, what training with this beta minimises."""
        return self.distortion.mean + beta * self.rate.mean

    def __str__(self) -> str:
        return f"rate {self.rate}, distortion {self.distortion}, together {self.total} nats"


def rate_distortion(
    model: CVAE, data: ImageSet, *, y: Any = None, pixels: PixelMode = "stochastic", seed: int = 0
) -> RateDistortion:
    r"""Measure the two terms of the ELBO on data, each with its standard error over images.

    .. math:: R = E\,KL\big(q(z|x,y)\,\|\,p(z|y)\big), \qquad D = -E\,E_{q(z|x,y)} \log p(x|z,y)

    The distortion is at one z for each image; the same seed gives the same pixels and noise whatever the model.
    For every model :math:`H(x|y) - D \le I_q(x;z|y) \le R`.

    Args:
        y: (N, ...), or a tuple of such, the condition of each image where it is not the label.

    Raises:
        ValueError: if ``y`` does not fit the data or the model.

    Source: Alemi et al. 2018, arXiv:1711.00464.
    """
    return measured_terms(examples(model, data, y=y, pixels=pixels, seed=seed))


@torch.no_grad()
def measured_terms(seen: Examples) -> RateDistortion:
    """Return rate and distortion of the examples at hand."""
    rate, likelihood, columns = [], [], []
    with seeded(seen.seed, seen.model.device):
        for x, condition, _ in seen.batches(1000):
            terms = elbo_terms(seen.model, x, condition)
            rate.append(terms.rate.cpu())
            likelihood.append(terms.log_likelihood.cpu())
            columns.append(terms.kl.cpu().double().sum(0))
    rates, distortions = torch.cat(rate), -torch.cat(likelihood)
    kl = torch.stack(columns).sum(0) / len(seen)
    return RateDistortion(
        mean_and_error(rates), mean_and_error(distortions), mean_and_error(rates + distortions), kl.float()
    )
