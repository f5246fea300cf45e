"""The story of chapter 02's exercises, in which every term is known, and references for what is asked about it.

It has one latent and one observed number: p(z|y) = N(a y, 1) and p(x|z,y) = N(w z + u y, s²). References come from
sums over a fine grid and from Gauss-Hermite quadrature, not from the formulas that the exercises ask for.
"""

from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Normal

from cvae_lib.course.checks._probe import Trial


def drawn_story(trial: Trial) -> SimpleNamespace:
    """Draw the four numbers of a story, none of them small or special."""

    def number(low: float, high: float) -> float:
        value = trial.uniform(low, high)
        return value if trial.uniform(0, 1) < 0.5 else -value

    return SimpleNamespace(a=number(0.5, 1.5), w=number(0.6, 1.8), u=number(0.5, 1.5), s=trial.uniform(0.4, 0.8))


def log_joint(z: Tensor, x: Tensor, y: Tensor, story: SimpleNamespace) -> Tensor:
    """Return log p(x|z,y) + log p(z|y) by ``torch.distributions``."""
    likelihood = Normal(story.w * z + story.u * y, story.s)
    log_p: Tensor = likelihood.log_prob(x) + Normal(story.a * y, 1.0).log_prob(z)
    return log_p


def posterior_on_a_grid(x: Tensor, y: Tensor, story: SimpleNamespace) -> tuple[Tensor, Tensor]:
    """Return the mean and variance of p(z|x,y), from its values on a fine grid."""
    z = torch.linspace(-30, 30, 60_001, dtype=torch.float64)[:, None]
    weight = log_joint(z, x, y, story).softmax(0)  # (60001, B)
    mean = (weight * z).sum(0)
    return mean, (weight * (z - mean) ** 2).sum(0)


def but(story: SimpleNamespace, **numbers: float) -> SimpleNamespace:
    """Return the story with some of its numbers changed."""
    return SimpleNamespace(**{**vars(story), **numbers})


def _quadrature(mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """Return points and weights with which averages of polynomials over N(mean, variance) are exact."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(20)
    z = mean + variance.sqrt() * torch.from_numpy(nodes)[:, None]  # (20, B)
    return z, torch.from_numpy(weights / weights.sum())[:, None]


def elbo_by_quadrature(
    x: Tensor, y: Tensor, mean: Tensor, variance: Tensor, story: SimpleNamespace
) -> tuple[Tensor, Tensor]:
    """Return E_q[log p(x|z,y)] and KL(q ‖ p(z|y)), each shape (B,)."""
    z, weight = _quadrature(mean, variance)
    q, prior = Normal(mean, variance.sqrt()), Normal(story.a * y, 1.0)
    expected = (weight * Normal(story.w * z + story.u * y, story.s).log_prob(x)).sum(0)
    return expected, (weight * (q.log_prob(z) - prior.log_prob(z))).sum(0)


def plain_gradients(
    eps: Tensor, x: Tensor, y: Tensor, mean: Tensor, log_std: Tensor, story: SimpleNamespace
) -> tuple[Tensor, ...]:
    """Return the gradients of the estimate in which nothing is detached, of each draw in mean and in log_std."""
    mean, log_std = (part.expand(len(eps)).clone().requires_grad_() for part in (mean, log_std))
    z = mean + log_std.exp() * eps
    value = log_joint(z, x, y, story) - Normal(mean, log_std.exp()).log_prob(z)
    return torch.autograd.grad(value.sum(), (mean, log_std))
