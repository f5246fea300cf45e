"""Diagonal Gaussians: made from what networks return, their KL divergence, and the bound on every log-variance."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Independent, Normal

LOG_VARIANCE_BOUND = 10.0


def bounded_log_variance(raw: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    r"""Bound a log-variance smoothly, :math:`b \tanh(r / b)` with b = 10.

    Near zero this is the identity; far out it flattens without ever cutting the gradient to zero, as a hard clamp
    would, and keeps the standard deviation between exp(-5) and exp(5).
    """
    return LOG_VARIANCE_BOUND * torch.tanh(raw / LOG_VARIANCE_BOUND)


def at_least_float32(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Undo autocast's half precision: variances and logarithms need the digits. Other precisions stay as they are."""
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values


def diagonal_gaussian(
    mean: Float[Tensor, "*shape"], log_variance: Float[Tensor, "*other"], event_dims: int = 1
) -> Independent:
    r"""Return :math:`\prod_i \mathcal N(\mu_i, e^{v_i})` from means and log-variances, the last axes one event.

    Args:
        mean: mu, shape (..., D) for ``event_dims=1``.
        log_variance: v, any shape that broadcasts with the mean's.
        event_dims: how many of the last axes belong to one draw.
    """
    scale = torch.exp(0.5 * at_least_float32(log_variance))
    normal = Normal(at_least_float32(mean), scale, validate_args=False)
    return Independent(normal, event_dims, validate_args=False)


def gaussian_kl(q: Normal, p: Normal) -> Float[Tensor, "*shape"]:
    r"""Return KL(q || p) entry by entry, nats: :math:`\frac12(r + (\mu_q-\mu_p)^2/\sigma_p^2 - 1 - \log r)`.

    Here r is the ratio of the variances. What ``kl_divergence`` finds by looking the two types up, to the last bit;
    the look-up itself would split a compiled step in two.
    """
    ratio = (q.scale / p.scale).pow(2)
    nats: Tensor = 0.5 * (ratio + ((q.loc - p.loc) / p.scale).pow(2) - 1 - ratio.log())
    return nats
