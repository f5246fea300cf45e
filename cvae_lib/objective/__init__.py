"""The conditional evidence lower bound and its relatives, term by term, in nats.

Everything is summed over dimensions; the mean over the batch is taken last, in one place (:meth:`Terms.loss`).
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal, kl_divergence

from cvae_lib.gaussians import gaussian_kl
from cvae_lib.objective._given import (
    LatentVariableModel,
    at_least_one,
    check_same_latents,
    log_likelihood_of,
    log_prob_of_rows,
    observed,
)
from cvae_lib.objective._importance import Proposal, importance_weighted_bound, log_importance_weights
from cvae_lib.objective._schedules import BetaSchedule, Constant, Cyclical, Linear

__all__ = [
    "BetaSchedule",
    "Constant",
    "Cyclical",
    "LatentVariableModel",
    "Linear",
    "Proposal",
    "Terms",
    "elbo_terms",
    "free_bits",
    "importance_weighted_bound",
    "kl_per_latent",
    "log_importance_weights",
]


class Terms(NamedTuple):
    r"""The two terms of the bound for every example: :math:`ELBO_b = \log p(x_b|z_b,y_b) - \sum_d KL_{bd}`.

    Attributes:
        log_likelihood: (B,), log p(x|z,y) at z drawn from q(z|x,y), summed over pixels, nats.
        kl: (B, D), KL(q(z|x,y) || p(z|y)) per latent, nats; (B, 1), all latents together, where the prior ties them.
    """

    log_likelihood: Float[Tensor, " b"]
    kl: Float[Tensor, "b d"]

    @property
    def rate(self) -> Float[Tensor, " b"]:
        """KL summed over the latents, nats per example."""
        return self.kl.sum(-1)

    @property
    def elbo(self) -> Float[Tensor, " b"]:
        """The bound on log p(x|y), nats per example."""
        return self.log_likelihood - self.rate

    def loss(self, beta: float = 1.0, floor: float = 0.0, groups: int | None = None) -> Float[Tensor, ""]:
        r"""Return :math:`-\frac1B \sum_b (\log p(x_b|z_b,y_b) - \beta\, KL_b)`, what training minimises.

        Args:
            beta: weight of the rate, see :class:`Linear` and :class:`Cyclical`.
            floor: free bits, lambda nats per group of latents that cost nothing more, see :func:`free_bits`.
            groups: how many groups the latents form; each latent its own if not given.

        Raises:
            ValueError: if the floor is negative or the latents do not form that many equal groups.
        """
        if floor == 0 and groups is None:
            rate = self.rate if isinstance(beta, int | float) and beta == 1 else beta * self.rate
            return (rate - self.log_likelihood).mean()
        return beta * free_bits(self.kl, floor, groups) - self.log_likelihood.mean()


def free_bits(kl: Float[Tensor, "b d"], floor: float, groups: int | None = None) -> Float[Tensor, ""]:
    r"""Return the rate with a floor under each group of latents, :math:`\sum_g \max(\lambda, \frac1B\sum_b KL_{bg})`.

    The floor acts on the mean over the batch of each group by itself, before groups are added: a group below it gets no
    gradient, the others get theirs in full. Put under the mean over latents it would be one floor for all, and a
    single busy latent could pay for the silence of the rest.
    Source: Kingma et al. 2016, arXiv:1606.04934.

    Args:
        kl: (B, D), nats, as in :class:`Terms`.
        floor: lambda, nats per group.
        groups: how many groups of D / groups neighbours; each latent its own if not given.

    Raises:
        ValueError: if the floor is negative or the latents do not form that many equal groups.
    """
    latents = kl.shape[1]
    groups = latents if groups is None else groups
    if not floor >= 0:
        raise ValueError(f"Free bits are at least 0 nats, not {floor}.")
    if groups < 1 or latents % groups:
        raise ValueError(f"The KL of {latents} latents cannot be split into {groups} equal groups.")
    mean = kl.unflatten(1, (groups, -1)).sum(-1).mean(0)  # (groups,)
    rate: Tensor = mean.clamp_min(floor).sum()
    return rate


def kl_per_latent(q: Distribution, p: Distribution, z: Float[Tensor, "*k b d"] | None = None) -> Float[Tensor, "b n"]:
    r"""Return KL(q || p) per latent, in closed form where ``torch.distributions`` knows one, else sampled.

    For Gaussians :math:`KL = \log\frac{\sigma_p}{\sigma_q} + \frac{\sigma_q^2 + (\mu_q-\mu_p)^2}{2\sigma_p^2}
    - \frac12`. Without a closed form the estimate is :math:`\log q(z) - \log p(z)` at the z given, averaged over K:
    unbiased, also in its gradient, and negative now and then.

    Args:
        q: factorised or not, batch shape (B,), event shape (D,).
        p: likewise.
        z: reparameterised draws from q, shape (B, D) or (K, B, D); needed only without a closed form.

    Returns:
        (B, D) if both factorise over the latents, else (B, 1).

    Raises:
        ValueError: if there is no closed form and no z, or q and p are not over the same latents.
    """
    check_same_latents(q, p)
    factorised = False
    if isinstance(q, Independent) and isinstance(p, Independent):
        factorised, q, p = True, q.base_dist, p.base_dist
    try:
        kl = gaussian_kl(q, p) if isinstance(q, Normal) and isinstance(p, Normal) else kl_divergence(q, p)
    except NotImplementedError:
        if z is None:
            raise ValueError(
                f"There is no closed-form KL from {type(q).__name__} to {type(p).__name__}: pass z drawn from q."
            ) from None
        kl = q.log_prob(z) - p.log_prob(z)
        kl = kl.mean(0) if z.ndim == 3 else kl
    return kl if factorised else kl[:, None]


def elbo_terms(
    model: Any,
    x: Shaped[Tensor, "b *event"],
    y: Any = None,
    *,
    samples: int = 1,
    mask: Tensor | None = None,
) -> Terms:
    r"""Return the terms of :math:`\log p(x|y) \ge E_q[\log p(x|z,y)] - KL(q(z|x,y)\,\|\,p(z|y))`.

    The expectation is estimated with reparameterised z; the KL is in closed form where there is one and estimated with
    the same z where not. Sources: Kingma and Welling 2013, arXiv:1312.6114; Sohn, Lee and Yan 2015.

    Args:
        model: a CVAE, or any model with its three distributions; or a wrapper around a CVAE, such as
            ``DistributedDataParallel``, whose call gives :class:`cvae_lib.model.Output`.
        x: data, as ``model.prepare`` gives them.
        y: the condition, as the model takes it.
        samples: draws of z per example; more lower the variance, the bound stays the same.
        mask: true where x is observed, shape (B, 1, H, W) or that of x. The bound is then one on log p of the observed
            entries, and the encoder sees zeros in place of the others.

    Raises:
        ValueError: if ``samples`` is below 1, the mask does not fit, or x is nothing that p(x|z,y) has a value for.
    """
    at_least_one(samples)
    if not isinstance(model, LatentVariableModel):  # a wrapper, such as DistributedDataParallel, that has the call only
        if samples != 1 or mask is not None:
            raise ValueError("A wrapped model gives one z and no mask; pass the model inside it.")
        q, p, z, likelihood = model(x, y)
        return Terms(log_prob_of_rows(likelihood, x, z.shape[:-1]), kl_per_latent(q, p, z))
    x = observed(x, mask)
    q = model.posterior(x, y)
    z = q.rsample() if samples == 1 else q.rsample(torch.Size((samples,)))  # (B, D) or (K, B, D)
    log_likelihood = log_likelihood_of(model, z, x, y, mask)
    if samples > 1:
        log_likelihood = log_likelihood.mean(0)
    return Terms(log_likelihood, kl_per_latent(q, model.prior(y, batch=len(x)), z))
