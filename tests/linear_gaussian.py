"""A CVAE that is linear and Gaussian throughout, so that everything a diagnostic estimates has a closed form.

Data u of P numbers, latent z of D numbers, label y:

    q(z|u,y) = N(A u + b_y, diag(s^2)),  p(z|y) = N(m_y, I),  p(u|z,y) = N(W z + v_y, t^2 I)

An ImageSet holds bytes, not numbers; so image n carries its place n in a table of u, in two pixels.
"""

import torch
from torch.distributions import Independent, Normal

from cvae_lib.data import ImageSet
from cvae_lib.model import CVAE, CVAEConfig


def numbered(labels: torch.Tensor, classes: int | None = None) -> ImageSet:
    """Return images whose two pixels are the high and low byte of their place."""
    place = torch.arange(len(labels))
    images = torch.stack((place // 256, place % 256), 1).to(torch.uint8).view(-1, 1, 1, 2)
    return ImageSet(images, labels, "numbered", classes=classes)


class _Linear:
    """p(u|z,y), whose log_prob takes the images that carry the places."""

    def __init__(self, mean, table, noise):
        self.mean, self.table, self.noise = mean, table, noise

    def log_prob(self, x):
        return Independent(Normal(self.mean, self.noise), 1).log_prob(self.table[LinearGaussian.place(x)])


class LinearGaussian(CVAE):
    """The model above; every argument is a float64 tensor, and what is left out is zero or one."""

    def __init__(self, u, encode, scale, *, decode=None, noise=1.0, shift=None, prior_mean=None, told=None):
        latents, classes = len(encode), 0 if shift is None and prior_mean is None and told is None else 64
        super().__init__(CVAEConfig(num_classes=classes, latent_dim=latents, hidden=(2,), image_shape=(1, 1, 2)))
        self.double()
        zeros = torch.zeros(64, latents, dtype=torch.float64)
        self.u, self.encode, self.scale, self.noise = u, encode, scale, noise
        self.decode = torch.zeros(u.shape[1], latents, dtype=torch.float64) if decode is None else decode
        self.shift = zeros if shift is None else shift
        self.prior_mean = zeros if prior_mean is None else prior_mean
        self.told = torch.zeros(64, u.shape[1], dtype=torch.float64) if told is None else told

    @staticmethod
    def place(x):
        """Read the place of each image in the table."""
        high, low = (255 * x).round().long().flatten(1).unbind(1)
        return 256 * high + low

    @staticmethod
    def _label(y, count):
        return torch.zeros(count, dtype=torch.int64) if y is None else y

    def posterior(self, x, y=None):
        mean = self.u[self.place(x)] @ self.encode.T + self.shift[self._label(y, len(x))]
        return Independent(Normal(mean, self.scale.expand_as(mean)), 1)

    def prior(self, y=None, batch=None):
        mean = self.prior_mean[self._label(y, batch)]
        return Independent(Normal(mean, torch.ones_like(mean)), 1)

    def likelihood(self, z, y=None):
        return _Linear(z @ self.decode.T + self.told[self._label(y, z.shape[-2])], self.u, self.noise)


def matrix(*rows):
    """Return a float64 matrix."""
    return torch.tensor(rows, dtype=torch.float64)


def normals(*shape, seed=0):
    """Return float64 standard normal numbers."""
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
