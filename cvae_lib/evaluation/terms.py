"""Where a model stands in the rate-distortion plane."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cvae_lib.data import Data
from cvae_lib.environment import evaluation_mode, seeded
from cvae_lib.evaluation._estimate import Estimate, mean_and_error
from cvae_lib.evaluation._examples import examples
from cvae_lib.objective import LatentVariableModel, elbo_terms


@dataclass(frozen=True)
class RateDistortion:
    """A point of the plane, in nats per example.

    Attributes:
        rate: R, what sending z costs somebody who knows the prior (and y).
        distortion: D, what correcting the decoded x costs after that.
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


def rate_distortion(model: LatentVariableModel, data: Data, *, y: Any = None, seed: int = 0) -> RateDistortion:
    r"""Measure the two terms of the ELBO on data, each with its standard error over examples.

    .. math:: R = E\,KL\big(q(z|x,y)\,\|\,p(z|y)\big), \qquad D = -E\,E_{q(z|x,y)} \log p(x|z,y)

    The distortion is at one z for each example; the same seed gives the same pixels and noise whatever the model.
    For every model :math:`H(x|y) - D \le I_q(x;z|y) \le R`.

    Args:
        model: a CVAE, or any model with the three distributions.
        data: tensors (x, y), an ``ImageSet``, a ``Dataset`` or a ``DataLoader``.
        y: (N, ...), or a tuple of such, the condition of each example in place of the data's own.
        seed: fixes the binarisation, where there is one, and the draws of z.

    Raises:
        ValueError: if ``y`` does not fit the data or the model.

    Source: Alemi et al. 2018, arXiv:1711.00464.
    """
    rates, log_likelihoods, columns = [], [], []
    with evaluation_mode(model):
        seen = examples(model, data, y=y, seed=seed)
        with seeded(seed, seen.device):
            for x, condition, _ in seen.batches(1000):
                terms = elbo_terms(model, x, condition)
                rates.append(terms.rate.cpu())
                log_likelihoods.append(terms.log_likelihood.cpu())
                columns.append(terms.kl.cpu().double().sum(0))
    rate, distortion = torch.cat(rates), -torch.cat(log_likelihoods)
    kl = (torch.stack(columns).sum(0) / len(seen)).float()
    return RateDistortion(mean_and_error(rate), mean_and_error(distortion), mean_and_error(rate + distortion), kl)
