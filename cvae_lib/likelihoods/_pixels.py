"""Likelihoods over pixels: binary, Gaussian, and over grey levels.

Each needs ``channels_per_pixel`` numbers for each entry of x, so that the decoder's output has shape
(..., channels_per_pixel * channels, H, W), the numbers of one kind together; or (..., channels_per_pixel * F) for
vectors of F entries, with ``event_dims=1``.
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn
from torch.distributions import Bernoulli, Independent

from cvae_lib.data import PixelMode, as_pixels
from cvae_lib.gaussians import at_least_float32, bounded_log_variance, diagonal_gaussian
from cvae_lib.likelihoods._levels import CategoricalLevel, DiscretisedLogistic
from cvae_lib.likelihoods._likelihood import Likelihood, UnitIndependent, split_kinds


class Pixels(Likelihood):
    """What likelihoods over entries in [0, 1] share: grey levels come in as v / 255.

    Attributes:
        pixels: ``grey``, or what a subclass says, see :func:`cvae_lib.data.as_pixels`.
        event_dims: axes of one x: 3 for images (channels, H, W), 1 for vectors.
    """

    pixels: PixelMode = "grey"

    def __init__(self, event_dims: int = 3) -> None:
        super().__init__()
        self.event_dims = event_dims

    def prepare(
        self, x: Shaped[Tensor, "b *event"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "b *event"]:
        """Return grey levels, or floats in [0, 1], as pixels in [0, 1].

        Raises:
            ValueError: if x holds other whole numbers than uint8.
        """
        return as_pixels(x, self.pixels, generator)

    def fits(self, x: Shaped[Tensor, "b *event"]) -> Bool[Tensor, " b"]:
        """Return which examples lie in [0, 1]."""
        return ((x >= 0) & (x <= 1)).flatten(1).all(1)

    def describe_support(self) -> str:
        """Say in words what :meth:`fits` asks of x."""
        return "in [0, 1]"


class BernoulliPixels(Pixels):
    r"""Binary pixels, :math:`\log p(x) = \sum_i x_i \log p_i + (1-x_i) \log(1-p_i)` with :math:`p = \sigma(l)`.

    For grey x in [0, 1] the same formula is a cross-entropy, and no longer the logarithm of a normalised density:
    Loaiza-Ganem and Cunningham 2019, arXiv:1907.06845.

    Args:
        pixels: how grey levels become x: ``stochastic`` draws each pixel as 0 or 1 anew every time (Salakhutdinov and
            Murray 2008; Burda et al. 2016, arXiv:1509.00519), ``threshold`` cuts at one half, ``grey`` leaves them.
        event_dims: axes of one x.

    Raises:
        ValueError: if ``pixels`` is none of these.
    """

    def __init__(self, pixels: PixelMode = "stochastic", event_dims: int = 3) -> None:
        super().__init__(event_dims)
        if pixels not in ("stochastic", "threshold", "grey"):
            raise ValueError(f"pixels must be 'grey', 'stochastic' or 'threshold', not {pixels!r}.")
        self.pixels = pixels

    def forward(self, output: Float[Tensor, "*k"]) -> Independent:
        """Return p(x|z,y) from logits: event shape (channels, H, W)."""
        pixels = Bernoulli(logits=at_least_float32(output), validate_args=False)
        return UnitIndependent(pixels, self.event_dims, validate_args=False)


class GaussianPixels(Pixels):
    r"""Gaussian pixels, :math:`p(x) = \prod_i \mathcal N(x_i; \mu_i, \sigma_i^2)`, whose scale is learned.

    A fixed scale of one hides a beta in the objective: a learned one settles at the size of the errors. Its
    log-variance is bounded smoothly to (-10, 10). The value is a density: it can exceed zero, and depends on x's unit.
    Source: Rybkin, Daniilidis and Levine 2021, arXiv:2006.13202.

    Args:
        scale: ``global``, one learned number for all pixels, or ``pixel``, one from the decoder for each pixel.
        link: ``sigmoid`` keeps means in (0, 1), for images; ``identity`` leaves them free, for real-valued data, which
            are then taken in whatever unit they have.
        event_dims: axes of one x.

    Raises:
        ValueError: if ``scale`` or ``link`` is unknown.
    """

    START = -3.0  # log-variance: a standard deviation of about 0.2, the size of a first blurred image's error

    def __init__(
        self,
        scale: Literal["global", "pixel"] = "global",
        link: Literal["sigmoid", "identity"] = "sigmoid",
        event_dims: int = 3,
    ) -> None:
        super().__init__(event_dims)
        if scale not in ("global", "pixel") or link not in ("sigmoid", "identity"):
            raise ValueError(
                f"scale is 'global' or 'pixel' and link is 'sigmoid' or 'identity', not {scale!r} and {link!r}."
            )
        self.link = link
        self.channels_per_pixel = 1 if scale == "global" else 2
        self.raw = nn.Parameter(torch.tensor(self.START)) if scale == "global" else None

    def forward(self, output: Float[Tensor, "*k"]) -> Independent:
        """Return p(x|z,y) from means before the link, then log-variances if they are per pixel.

        Its event shape is (channels, H, W), and its log-density in nats, summed over the event.

        Raises:
            ValueError: if the number of channels does not fit.
        """
        kinds = split_kinds(output, self.channels_per_pixel, self.event_dims)
        mean = kinds.select(-self.event_dims - 1, 0)
        raw = kinds.select(-self.event_dims - 1, 1) + self.START if self.raw is None else self.raw
        mean = torch.sigmoid(mean) if self.link == "sigmoid" else mean
        pixels = diagonal_gaussian(mean, bounded_log_variance(raw), event_dims=self.event_dims)
        if self.link == "identity":
            return pixels
        return UnitIndependent(pixels.base_dist, self.event_dims, validate_args=False)

    def fits(self, x: Shaped[Tensor, "b *event"]) -> Bool[Tensor, " b"]:
        """Return which examples lie in [0, 1]; with ``link="identity"``, which are finite."""
        return super().fits(x) if self.link == "sigmoid" else Likelihood.fits(self, x)

    def describe_support(self) -> str:
        """Say in words what :meth:`fits` asks of x."""
        return super().describe_support() if self.link == "sigmoid" else "finite"


class LogisticPixels(Pixels):
    r"""Grey levels under a discretised logistic, two numbers per pixel, see :class:`DiscretisedLogistic`.

    The decoder's :math:`(r, t)` become :math:`\mu = (1 + r) / 2` and :math:`\log s = v(t)/2 - 3` with the bounded
    log-variance v: s starts at 13 of 256 levels and stays within (e^-8, e^2).
    Source: Salimans et al. 2017, arXiv:1701.05517.

    Args:
        levels: L, the number of grey levels in [0, 1].
        event_dims: axes of one x.

    Raises:
        ValueError: if there are fewer than 2 levels.
    """

    channels_per_pixel = 2

    def __init__(self, levels: int = 256, event_dims: int = 3) -> None:
        super().__init__(event_dims)
        if levels < 2:
            raise ValueError(f"There must be at least 2 grey levels, not {levels}.")
        self.levels = levels

    def forward(self, output: Float[Tensor, "*k"]) -> Independent:
        """Return p(x|z,y) from means, then scales: event shape (channels, H, W).

        Raises:
            ValueError: if the number of channels does not fit.
        """
        mean, raw = split_kinds(output, 2, self.event_dims).unbind(-self.event_dims - 1)
        pixels = DiscretisedLogistic((1 + mean) / 2, 0.5 * bounded_log_variance(raw) - 3, self.levels)
        return Independent(pixels, self.event_dims, validate_args=False)


class CategoricalPixels(Pixels):
    r"""Grey levels with a probability each, :math:`p(x_i = k/(L-1)) = \mathrm{softmax}(l_i)_k`, L numbers per pixel.

    The freest likelihood, and the most expensive. Source: van den Oord et al. 2016, arXiv:1601.06759.

    Args:
        levels: L, the number of grey levels in [0, 1].
        event_dims: axes of one x.

    Raises:
        ValueError: if there are fewer than 2 levels.
    """

    def __init__(self, levels: int = 256, event_dims: int = 3) -> None:
        super().__init__(event_dims)
        if levels < 2:
            raise ValueError(f"There must be at least 2 grey levels, not {levels}.")
        self.channels_per_pixel = levels

    def forward(self, output: Float[Tensor, "*k"]) -> Independent:
        """Return p(x|z,y) from the logits of the levels: event shape (channels, H, W).

        Raises:
            ValueError: if the number of channels does not fit.
        """
        kinds = split_kinds(output, self.channels_per_pixel, self.event_dims)
        logits = kinds.movedim(-self.event_dims - 1, -1)  # (..., channels, H, W, L)
        return Independent(CategoricalLevel(logits), self.event_dims, validate_args=False)
