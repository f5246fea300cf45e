"""How every log-variance is bounded: those of posteriors, priors and likelihoods."""

import torch
from jaxtyping import Float
from torch import Tensor

LOG_VARIANCE_BOUND = 10.0


def bounded_log_variance(raw: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    r"""Bound a log-variance smoothly, :math:`b \tanh(r / b)` with b = 10.

    Near zero this is the identity; far out it flattens without ever cutting the gradient to zero, as a hard clamp
    would, and keeps the standard deviation between exp(-5) and exp(5).
    """
    return LOG_VARIANCE_BOUND * torch.tanh(raw / LOG_VARIANCE_BOUND)
