"""A CVAE that is linear and Gaussian throughout, so that everything a diagnostic estimates has a closed form.

Data u of P numbers, latent z of D numbers, label y:

    q(z|u,y) = N(A u + b_y, diag(s^2)),  p(z|y) = N(m_y, I),  p(u|z,y) = N(W z + v_y, t^2 I)

It has the three distributions and nothing else: no parameters, no ``prepare``, no ``is_conditional``.
"""

import torch
from torch.distributions import Independent, Normal

LABELS = 64


class LinearGaussian:
    """The model above; every argument is a float64 tensor, and what is left out is zero or one."""

    num_classes = LABELS

    def __init__(self, encode, scale, *, decode=None, noise=1.0, encode_y=None, prior_mean=None, decode_y=None):
        latents, width = encode.shape
        zeros = torch.zeros(LABELS, latents, dtype=torch.float64)
        self.encode, self.scale, self.noise = encode, scale, noise
        self.decode = torch.zeros(width, latents, dtype=torch.float64) if decode is None else decode
        self.encode_y = zeros if encode_y is None else encode_y
        self.prior_mean = zeros if prior_mean is None else prior_mean
        self.decode_y = torch.zeros(LABELS, width, dtype=torch.float64) if decode_y is None else decode_y

    @staticmethod
    def _label(y, count):
        return torch.zeros(count, dtype=torch.int64) if y is None else y

    def posterior(self, x, y=None):
        mean = x @ self.encode.T + self.encode_y[self._label(y, len(x))]
        return Independent(Normal(mean, self.scale.expand_as(mean)), 1)

    def prior(self, y=None, batch=None):
        mean = self.prior_mean[self._label(y, batch)]
        return Independent(Normal(mean, torch.ones_like(mean)), 1)

    def likelihood(self, z, y=None):
        return Independent(Normal(z @ self.decode.T + self.decode_y[self._label(y, z.shape[-2])], self.noise), 1)


def matrix(*rows):
    """Return a float64 matrix."""
    return torch.tensor(rows, dtype=torch.float64)


def normals(*shape, seed=0):
    """Return float64 standard normal numbers."""
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
