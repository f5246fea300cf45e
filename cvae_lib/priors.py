"""Priors over the latent: modules that map a condition to the distribution p(z|y)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Independent, Normal


class StandardNormal(nn.Module):
    r"""The fixed prior :math:`p(z|y) = \mathcal N(0, I_D)`, whatever y is."""

    zero: Tensor

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        # A buffer, so that the distribution follows the model's device and dtype; never stored, it has no content.
        self.register_buffer("zero", torch.zeros(()), persistent=False)

    def forward(self, c: Float[Tensor, "b c"] | None, batch: int) -> Independent:
        """Return p(z|y) for a batch: event shape (D,), batch shape (B,)."""
        zeros = self.zero.expand(batch, self.latent_dim)
        return Independent(Normal(zeros, torch.ones_like(zeros), validate_args=False), 1, validate_args=False)
