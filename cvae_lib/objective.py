"""The conditional evidence lower bound, term by term, in nats.

Everything is summed over dimensions; the mean over the batch is taken last, in one place (:meth:`Terms.loss`).
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.distributions import Independent, kl_divergence

from cvae_lib.model import CVAE


class Terms(NamedTuple):
    r"""The two terms of the bound for every example: :math:`ELBO_b = \log p(x_b|z_b,y_b) - \sum_d KL_{bd}`.

    Attributes:
        log_likelihood: (B,), log p(x|z,y) at one z drawn from q(z|x,y), summed over pixels, nats.
        kl: (B, D), KL(q(z|x,y) || p(z|y)) per latent, nats.
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

    def loss(self, beta: float = 1.0) -> Float[Tensor, ""]:
        r"""Return :math:`-\frac1B \sum_b (\log p(x_b|z_b,y_b) - \beta\, KL_b)`, what training minimises."""
        return (beta * self.rate - self.log_likelihood).mean()


def kl_per_latent(q: Independent, p: Independent) -> Float[Tensor, "b d"]:
    r"""Return KL(q || p) of two factorised distributions, latent by latent.

    For Gaussians :math:`KL = \log\frac{\sigma_p}{\sigma_q} + \frac{\sigma_q^2 + (\mu_q-\mu_p)^2}{2\sigma_p^2}
    - \frac12`, in closed form through ``torch.distributions``.
    """
    return kl_divergence(q.base_dist, p.base_dist)


def elbo_terms(model: CVAE, x: Float[Tensor, "b ch h w"], y: Int64[Tensor, " b"] | None = None) -> Terms:
    r"""Return the terms of :math:`\log p(x|y) \ge E_q[\log p(x|z,y)] - KL(q(z|x,y)\,\|\,p(z|y))`.

    The expectation is estimated with one reparameterised z per example, the KL is in closed form.
    Sources: Kingma and Welling 2013, arXiv:1312.6114; Sohn, Lee and Yan 2015.
    """
    q = model.posterior(x, y)
    z = q.rsample()  # (B, D)
    log_likelihood = model.likelihood(z, y).log_prob(x)
    return Terms(log_likelihood, kl_per_latent(q, model.prior(y, batch=len(x))))


@torch.no_grad()
def log_importance_weights(
    model: CVAE, x: Float[Tensor, "b ch h w"], y: Int64[Tensor, " b"] | None, samples: int
) -> Float[Tensor, "k b"]:
    r"""Return K log-weights per example, :math:`\log w_{kb} = \log p(x_b|z_{kb},y_b) + \log p(z_{kb}|y_b) -
    \log q(z_{kb}|x_b,y_b)` with :math:`z_{kb} \sim q(z|x_b,y_b)`, shape (K, B), nats.

    Their log-mean-exp over K is the importance-sampled bound. Source: Burda et al. 2016, arXiv:1509.00519.
    """
    q = model.posterior(x, y)
    z = q.sample((samples,))  # (K, B, D)
    weights: Tensor = model.likelihood(z, y).log_prob(x) + model.prior(y, batch=len(x)).log_prob(z) - q.log_prob(z)
    return weights
