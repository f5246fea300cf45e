"""The conditional evidence lower bound and its relatives, term by term, in nats.

Everything is summed over dimensions; the mean over the batch is taken last, in one place (:meth:`Terms.loss`).
"""

import copy
import math
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution, Independent, kl_divergence

from cvae_lib.likelihoods import masked
from cvae_lib.objective._schedules import Constant, Cyclical, Linear, Schedule

__all__ = [
    "Constant",
    "Cyclical",
    "LatentVariableModel",
    "Linear",
    "Schedule",
    "Terms",
    "elbo_terms",
    "free_bits",
    "importance_weighted_bound",
    "kl_per_latent",
    "log_importance_weights",
]


@runtime_checkable
class LatentVariableModel(Protocol):
    """What an objective asks of a model: three distributions. :class:`cvae_lib.model.CVAE` is one."""

    def posterior(self, x: Tensor, y: Any = None) -> Distribution:
        """Return q(z|x,y): event shape (D,), batch shape (B,)."""

    def prior(self, y: Any = None, batch: int | None = None) -> Distribution:
        """Return p(z|y): event shape (D,), batch shape (B,)."""

    def likelihood(self, z: Tensor, y: Any = None) -> Independent:
        """Return p(x|z,y): event shape that of one x, batch shape that of z without D."""


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
            beta: weight of the rate, see the schedules of this room.
            floor: free bits, lambda nats per group of latents that cost nothing more, see :func:`free_bits`.
            groups: how many groups the latents form; each latent its own if not given.

        Raises:
            ValueError: if the floor is negative or the latents do not form that many equal groups.
        """
        if floor == 0 and groups is None:
            return (beta * self.rate - self.log_likelihood).mean()
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
        ValueError: if there is no closed form and no z.
    """
    factorised = False
    if isinstance(q, Independent) and isinstance(p, Independent):
        factorised, q, p = True, q.base_dist, p.base_dist
    try:
        kl = kl_divergence(q, p)
    except NotImplementedError:
        if z is None:
            raise ValueError(
                f"There is no closed-form KL from {type(q).__name__} to {type(p).__name__}: pass z drawn from q."
            ) from None
        kl = q.log_prob(z) - p.log_prob(z)
        kl = kl.mean(0) if z.ndim == 3 else kl
    return kl if factorised else kl[:, None]


def elbo_terms(
    model: LatentVariableModel,
    x: Float[Tensor, "b *event"],
    y: Any = None,
    *,
    samples: int = 1,
    mask: Tensor | None = None,
) -> Terms:
    r"""Return the terms of :math:`\log p(x|y) \ge E_q[\log p(x|z,y)] - KL(q(z|x,y)\,\|\,p(z|y))`.

    The expectation is estimated with reparameterised z; the KL is in closed form where there is one and estimated with
    the same z where not. Sources: Kingma and Welling 2013, arXiv:1312.6114; Sohn, Lee and Yan 2015.

    Args:
        model: a CVAE, or any model with its three distributions.
        x: data.
        y: the condition, as the model takes it.
        samples: draws of z per example; more lower the variance, the bound stays the same.
        mask: true where x is observed, shape (B, 1, H, W) or that of x. The bound is then one on log p of the observed
            entries, and the encoder sees zeros in place of the others.

    Raises:
        ValueError: if ``samples`` is below 1 or the mask does not fit.
    """
    _at_least_one(samples)
    x = _observed(x, mask)
    q = model.posterior(x, y)
    z = q.rsample() if samples == 1 else q.rsample(torch.Size((samples,)))  # (B, D) or (K, B, D)
    log_likelihood = _log_likelihood(model, z, x, y, mask)
    if samples > 1:
        log_likelihood = log_likelihood.mean(0)
    return Terms(log_likelihood, kl_per_latent(q, model.prior(y, batch=len(x)), z))


def log_importance_weights(
    model: LatentVariableModel,
    x: Float[Tensor, "b *event"],
    y: Any = None,
    samples: int = 1,
    *,
    mask: Tensor | None = None,
) -> Float[Tensor, "k b"]:
    r"""Return K log-weights per example, :math:`\log w_{kb} = \log p(x_b|z_{kb},y_b) + \log p(z_{kb}|y_b) -
    \log q(z_{kb}|x_b,y_b)` with :math:`z_{kb} \sim q(z|x_b,y_b)`, shape (K, B), nats.

    Their log-mean-exp over K is the importance-sampled bound, their mean the ELBO. Gradients flow through the
    reparameterised z; under ``torch.no_grad`` nothing is kept. Source: Burda et al. 2016, arXiv:1509.00519.

    Raises:
        ValueError: if ``samples`` is below 1 or the mask does not fit.
    """
    return _weights_and_draws(model, x, y, samples, mask, path_only=False)[0]


def importance_weighted_bound(
    model: LatentVariableModel,
    x: Float[Tensor, "b *event"],
    y: Any = None,
    samples: int = 1,
    *,
    gradient: Literal["plain", "doubly"] = "plain",
    mask: Tensor | None = None,
) -> Float[Tensor, " b"]:
    r"""Return :math:`L_K = \log \frac1K \sum_k w_k \le \log p(x|y)` per example, nats; maximise its mean.

    It rises to log p(x|y) with K; K = 1 is the ELBO. ``plain`` differentiates it as it stands, and the encoder's
    gradient then drowns in noise as K grows. ``doubly`` reparameterises a second time: with
    :math:`\tilde w_k = w_k / \sum_j w_j`

    .. math:: \nabla_\phi L_K = E \sum_k \tilde w_k^2\, \frac{\partial \log w_k}{\partial z_k}
              \frac{\partial z_k}{\partial \phi}

    the same in expectation and much quieter. What does not go through z (decoder, prior) is alike for both.
    Sources: Burda et al. 2016, arXiv:1509.00519; Tucker et al. 2018, arXiv:1810.04152.

    Raises:
        ValueError: if ``gradient`` is unknown, ``samples`` is below 1 or the mask does not fit.
    """
    if gradient not in ("plain", "doubly"):
        raise ValueError(f"gradient is 'plain' or 'doubly', not {gradient!r}.")
    doubly = gradient == "doubly"
    weights, z = _weights_and_draws(model, x, y, samples, mask, path_only=doubly)  # (K, B), (K, B, D)
    bound = weights.logsumexp(0) - math.log(samples)
    if doubly and z.requires_grad:
        # The bound's own gradient weighs each path once; the hook weighs it a second time, behind z only.
        share = weights.detach().softmax(0)[..., None]  # (K, B, 1)
        z.register_hook(lambda g: share * g)
    return bound


def _weights_and_draws(
    model: LatentVariableModel, x: Tensor, y: Any, samples: int, mask: Tensor | None, *, path_only: bool
) -> tuple[Tensor, Tensor]:
    """Return the log-weights (K, B) and their z (K, B, D); with ``path_only``, q's density is a constant but for z."""
    _at_least_one(samples)
    x = _observed(x, mask)
    q = model.posterior(x, y)
    z = q.rsample(torch.Size((samples,)))
    density = _detached(q) if path_only else q
    log_joint = _log_likelihood(model, z, x, y, mask) + model.prior(y, batch=len(x)).log_prob(z)
    return log_joint - density.log_prob(z), z


def _log_likelihood(model: LatentVariableModel, z: Tensor, x: Tensor, y: Any, mask: Tensor | None) -> Tensor:
    """Return log p(x|z,y), of the observed entries where there is a mask, batch shape that of z without D."""
    whole = model.likelihood(z, y)
    value: Tensor = (whole if mask is None else masked(whole, mask)).log_prob(x)
    return value


def _observed(x: Tensor, mask: Tensor | None) -> Tensor:
    """Return x with zeros where it is not observed, so that nothing hidden reaches the encoder."""
    if mask is None:
        return x
    try:
        return torch.where(mask.bool(), x, 0).view(x.shape)
    except RuntimeError:
        raise ValueError(f"A mask of shape {tuple(mask.shape)} does not go with x of shape {tuple(x.shape)}.") from None


def _detached(distribution: Distribution) -> Distribution:
    """Return the same distribution whose parameters are constants."""
    twin = copy.copy(distribution)
    for key, value in vars(distribution).items():
        if isinstance(value, Tensor):
            setattr(twin, key, value.detach())
        elif isinstance(value, Distribution):
            setattr(twin, key, _detached(value))
    return twin


def _at_least_one(samples: int) -> None:
    if samples < 1:
        raise ValueError(f"At least 1 sample is needed, not {samples}.")
