"""Importance weights, and the bounds that average them before taking the logarithm."""

import copy
import math
from typing import Any, Literal

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.distributions import Distribution

from cvae_lib.objective._given import (
    LatentVariableModel,
    at_least_one,
    check_same_latents,
    log_likelihood_of,
    observed,
)

Proposal = Literal["posterior", "prior"]


def log_importance_weights(
    model: LatentVariableModel,
    x: Shaped[Tensor, "b *event"],
    y: Any = None,
    samples: int = 1,
    *,
    mask: Tensor | None = None,
    proposal: Proposal = "posterior",
) -> Float[Tensor, "k b"]:
    r"""Return K log-weights per example, :math:`\log w_{kb} = \log p(x_b|z_{kb},y_b) + \log p(z_{kb}|y_b) -
    \log q(z_{kb}|x_b,y_b)` with :math:`z_{kb} \sim q(z|x_b,y_b)`, shape (K, B), nats.

    Their log-mean-exp over K is the importance-sampled bound, their mean the ELBO. Gradients flow through the
    reparameterised z; under ``torch.no_grad`` nothing is kept. Source: Burda et al. 2016, arXiv:1509.00519.

    With ``proposal="prior"`` nobody has seen x: :math:`z_{kb} \sim p(z|y_b)`, and the weight is
    :math:`p(x_b|z_{kb},y_b)` alone. The mean of the weights is then plain Monte Carlo.

    Raises:
        ValueError: if ``samples`` is below 1, the mask does not fit, or gradients are asked through draws of a prior
            that have none.
    """
    return _weights_and_draws(model, x, y, samples, mask, proposal, path_only=False)[0]


def importance_weighted_bound(
    model: LatentVariableModel,
    x: Shaped[Tensor, "b *event"],
    y: Any = None,
    samples: int = 1,
    *,
    gradient: Literal["plain", "doubly"] = "plain",
    mask: Tensor | None = None,
    proposal: Proposal = "posterior",
) -> Float[Tensor, " b"]:
    r"""Return :math:`L_K = \log \frac1K \sum_k w_k \le \log p(x|y)` per example, nats; maximise its mean.

    It rises to log p(x|y) with K; K = 1 is the ELBO. ``plain`` differentiates it as it stands, and the encoder's
    gradient then drowns in noise as K grows. ``doubly`` reparameterises a second time: with
    :math:`\tilde w_k = w_k / \sum_j w_j`

    .. math:: \nabla_\phi L_K = E \sum_k \tilde w_k^2\, \frac{\partial \log w_k}{\partial z_k}
              \frac{\partial z_k}{\partial \phi}

    the same in expectation and much quieter. What does not go through z (decoder, prior) is alike for both.
    With ``proposal="prior"`` it is the Monte Carlo likelihood :math:`\log \frac1K \sum_k p(x|z_k,y)`,
    :math:`z_k \sim p(z|y)`, which trains a stochastic network without an encoder.
    Sources: Burda et al. 2016, arXiv:1509.00519; Tucker et al. 2018, arXiv:1810.04152; Sohn, Lee and Yan 2015 (GSNN).

    Raises:
        ValueError: if ``gradient`` is unknown, ``samples`` is below 1, the mask does not fit, or gradients are asked
            through draws of a prior that have none.
    """
    if gradient not in ("plain", "doubly"):
        raise ValueError(f"gradient is 'plain' or 'doubly', not {gradient!r}.")
    # Without an encoder there is nothing to reparameterise a second time.
    doubly = gradient == "doubly" and proposal == "posterior"
    weights, z = _weights_and_draws(model, x, y, samples, mask, proposal, path_only=doubly)  # (K, B), (K, B, D)
    bound = weights.logsumexp(0) - math.log(samples)
    if doubly and z.requires_grad:
        # The bound's own gradient weighs each path once; the hook weighs it a second time, behind z only.
        share = weights.detach().softmax(0)[..., None]  # (K, B, 1)
        z.register_hook(lambda g: share * g)
    return bound


def _weights_and_draws(
    model: LatentVariableModel,
    x: Tensor,
    y: Any,
    samples: int,
    mask: Tensor | None,
    proposal: Proposal,
    *,
    path_only: bool,
) -> tuple[Tensor, Tensor]:
    """Return the log-weights (K, B) and their z (K, B, D); with ``path_only``, q's density is a constant but for z."""
    at_least_one(samples)
    if proposal not in ("posterior", "prior"):
        raise ValueError(f"proposal is 'posterior' or 'prior', not {proposal!r}.")
    x = observed(x, mask)
    if proposal == "prior":
        z = _draws(model.prior(y, batch=len(x)), samples)
        return log_likelihood_of(model, z, x, y, mask), z
    q = model.posterior(x, y)
    z = q.rsample(torch.Size((samples,)))
    density = _detached(q) if path_only else q
    p = model.prior(y, batch=len(x))
    check_same_latents(q, p)
    log_joint = log_likelihood_of(model, z, x, y, mask) + p.log_prob(z)
    return log_joint - density.log_prob(z), z


def _draws(p: Distribution, samples: int) -> Tensor:
    """Return draws of a prior, (K, B, D), through which gradients flow where there are any."""
    size = torch.Size((samples,))
    if p.has_rsample:
        return p.rsample(size)
    if torch.is_grad_enabled():
        raise ValueError(
            "Draws of this prior have no gradient, so it would not learn; take a Gaussian one, or no_grad."
        )
    return p.sample(size)


def _detached(distribution: Distribution) -> Distribution:
    """Return the same distribution whose parameters are constants."""
    twin = copy.copy(distribution)
    for key, value in vars(distribution).items():
        if isinstance(value, Tensor):
            setattr(twin, key, value.detach())
        elif isinstance(value, Distribution):
            setattr(twin, key, _detached(value))
    return twin
