"""Likelihoods: modules that turn a decoder's output into the distribution p(x|z,y) over an image.

A likelihood needs ``channels_per_pixel`` numbers for each entry of the image, so that the decoder's output has shape
(..., channels_per_pixel * channels, H, W), the numbers of one kind together. What it returns has event shape
(channels, H, W). Where some entries are not observed, :func:`masked` leaves them out.
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.distributions import Bernoulli, Distribution, Independent

from cvae_lib._variance import bounded_log_variance
from cvae_lib.likelihoods._bernoulli import BernoulliImage
from cvae_lib.likelihoods._levels import CategoricalLevel, DiscretisedLogistic
from cvae_lib.priors._gaussians import at_least_float32, diagonal_gaussian


def _kinds(output: Float[Tensor, "*k p h w"], kinds: int) -> Float[Tensor, "*k kinds ch h w"]:
    """Split a decoder's channels into the kinds of numbers a likelihood needs."""
    if output.shape[-3] % kinds:
        raise ValueError(
            f"This likelihood needs {kinds} numbers per pixel, so a multiple of {kinds} channels, "
            f"but the decoder gives {output.shape[-3]}."
        )
    split: Tensor = at_least_float32(output).unflatten(-3, (kinds, -1))
    return split


class BernoulliPixels(nn.Module):
    r"""Binary pixels, :math:`\log p(x) = \sum_i x_i \log p_i + (1-x_i) \log(1-p_i)` with :math:`p = \sigma(l)`.

    For grey x in [0, 1] the same formula is a cross-entropy, and no longer the logarithm of a normalised density:
    Loaiza-Ganem and Cunningham 2019, arXiv:1907.06845.
    """

    channels_per_pixel = 1

    def forward(self, output: Float[Tensor, "*k ch h w"]) -> Independent:
        """Return p(x|z,y) from logits: event shape (channels, H, W)."""
        pixels = Bernoulli(logits=at_least_float32(output), validate_args=False)
        return BernoulliImage(pixels, 3, validate_args=False)


class GaussianPixels(nn.Module):
    r"""Gaussian pixels, :math:`p(x) = \prod_i \mathcal N(x_i; \mu_i, \sigma_i^2)`, whose scale is learned.

    A fixed scale of one hides a beta in the objective: a learned one settles at the size of the errors. Its
    log-variance is bounded smoothly to (-10, 10). The value is a density: it can exceed zero, and depends on x's unit.
    Source: Rybkin, Daniilidis and Levine 2021, arXiv:2006.13202.

    Args:
        scale: ``global``, one learned number for all pixels, or ``pixel``, one from the decoder for each pixel.
        link: ``sigmoid`` keeps means in (0, 1), for images; ``identity`` leaves them free, for real-valued data.

    Raises:
        ValueError: if ``scale`` or ``link`` is unknown.
    """

    START = (
        -3.0
    )  # log-variance at the start: a standard deviation of about 0.2, the size of a first blurred image's error

    def __init__(
        self, scale: Literal["global", "pixel"] = "global", link: Literal["sigmoid", "identity"] = "sigmoid"
    ) -> None:
        super().__init__()
        if scale not in ("global", "pixel") or link not in ("sigmoid", "identity"):
            raise ValueError(
                f"scale is 'global' or 'pixel' and link is 'sigmoid' or 'identity', not {scale!r} and {link!r}."
            )
        self.link = link
        self.channels_per_pixel = 1 if scale == "global" else 2
        self.raw = nn.Parameter(torch.tensor(self.START)) if scale == "global" else None

    def forward(self, output: Float[Tensor, "*k p h w"]) -> Independent:
        """Return p(x|z,y) from means before the link, then log-variances if they are per pixel.

        Its event shape is (channels, H, W), and its log-density in nats, summed over the event.

        Raises:
            ValueError: if the number of channels does not fit.
        """
        kinds = _kinds(output, self.channels_per_pixel)
        mean = kinds.select(-4, 0)
        raw = kinds.select(-4, 1) + self.START if self.raw is None else self.raw
        mean = torch.sigmoid(mean) if self.link == "sigmoid" else mean
        return diagonal_gaussian(mean, bounded_log_variance(raw), event_dims=3)


class LogisticPixels(nn.Module):
    r"""Grey levels under a discretised logistic, two numbers per pixel, see :class:`DiscretisedLogistic`.

    The decoder's :math:`(r, t)` become :math:`\mu = (1 + r) / 2` and :math:`\log s = v(t)/2 - 3` with the bounded
    log-variance v: s starts at 13 of 256 levels and stays within (e^-8, e^2).
    Source: Salimans et al. 2017, arXiv:1701.05517.

    Args:
        levels: L, the number of grey levels in [0, 1].

    Raises:
        ValueError: if there are fewer than 2 levels.
    """

    channels_per_pixel = 2

    def __init__(self, levels: int = 256) -> None:
        super().__init__()
        if levels < 2:
            raise ValueError(f"There must be at least 2 grey levels, not {levels}.")
        self.levels = levels

    def forward(self, output: Float[Tensor, "*k p h w"]) -> Independent:
        """Return p(x|z,y) from means, then scales: event shape (channels, H, W).

        Raises:
            ValueError: if the number of channels does not fit.
        """
        mean, raw = _kinds(output, 2).unbind(-4)
        pixels = DiscretisedLogistic((1 + mean) / 2, 0.5 * bounded_log_variance(raw) - 3, self.levels)
        return Independent(pixels, 3, validate_args=False)


class CategoricalPixels(nn.Module):
    r"""Grey levels with a probability each, :math:`p(x_i = k/(L-1)) = \mathrm{softmax}(l_i)_k`, L numbers per pixel.

    The freest likelihood, and the dearest. Source: van den Oord et al. 2016, arXiv:1601.06759.

    Args:
        levels: L, the number of grey levels in [0, 1].

    Raises:
        ValueError: if there are fewer than 2 levels.
    """

    def __init__(self, levels: int = 256) -> None:
        super().__init__()
        if levels < 2:
            raise ValueError(f"There must be at least 2 grey levels, not {levels}.")
        self.channels_per_pixel = levels

    def forward(self, output: Float[Tensor, "*k p h w"]) -> Independent:
        """Return p(x|z,y) from the logits of the levels: event shape (channels, H, W).

        Raises:
            ValueError: if the number of channels does not fit.
        """
        logits = _kinds(output, self.channels_per_pixel).movedim(-4, -1)  # (..., channels, H, W, L)
        return Independent(CategoricalLevel(logits), 3, validate_args=False)


LIKELIHOODS: dict[str, Callable[[int], nn.Module]] = {
    "bernoulli": lambda levels: BernoulliPixels(),
    "gaussian": lambda levels: GaussianPixels(),
    "gaussian_per_pixel": lambda levels: GaussianPixels("pixel"),
    "real": lambda levels: GaussianPixels("pixel", "identity"),
    "logistic": LogisticPixels,
    "categorical": CategoricalPixels,
}


def likelihood(name: str, levels: int = 256) -> nn.Module:
    """Return the likelihood called ``name``, see :data:`LIKELIHOODS`.

    Args:
        levels: L, the number of grey levels, of ``logistic`` and ``categorical``.

    Raises:
        ValueError: if there is no likelihood of that name, or it needs more levels.
    """
    if name not in LIKELIHOODS:
        raise ValueError(f"There is no likelihood {name!r}; choose from {', '.join(LIKELIHOODS)}.")
    return LIKELIHOODS[name](levels)


class Masked(Distribution):
    r"""A factorised distribution observed in part, :math:`\log p(x_o) = \sum_{i \in o} \log p(x_i)`.

    Because the entries are independent given z, leaving factors out is exact marginalisation.
    Entries that are not observed may hold anything, NaN too. Means and draws are those of the whole.
    """

    arg_constraints: dict[str, Any] = {}

    def __init__(self, whole: Independent, observed: Bool[Tensor, "*shape"]) -> None:
        self.whole, self.observed = whole, observed
        super().__init__(whole.batch_shape, whole.event_shape, validate_args=False)

    def log_prob(self, value: Float[Tensor, "*shape"]) -> Float[Tensor, "*batch"]:
        """Return the log-probability of the observed entries, summed over them, nats."""
        # Before and after: NaN times a zero gradient would still be NaN.
        each = self.whole.base_dist.log_prob(torch.where(self.observed, value, 0))
        kept = torch.where(self.observed, each, 0)
        return kept.flatten(-self.whole.reinterpreted_batch_ndims).sum(-1)

    @property
    def mean(self) -> Tensor:
        """The mean of every entry, observed or not."""
        mean: Tensor = self.whole.mean
        return mean

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Return draws of every entry, observed or not."""
        draws: Tensor = self.whole.sample(torch.Size(sample_shape))
        return draws


def masked(whole: Independent, mask: Tensor) -> Masked:
    """Return the distribution with only the entries observed where the mask is true.

    Args:
        whole: a likelihood's distribution, batch shape (..., B), event shape (channels, H, W).
        mask: bool (or 0 and 1), shape (B, 1, H, W) or that of x; true where x is observed.

    Raises:
        ValueError: if the mask's shape does not go with the distribution's.
    """
    shape = whole.batch_shape + whole.event_shape
    try:
        fits = torch.broadcast_shapes(mask.shape, shape) == shape
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError(f"A mask of shape {tuple(mask.shape)} does not go with x of shape {tuple(shape)}.")
    return Masked(whole, mask.bool())
