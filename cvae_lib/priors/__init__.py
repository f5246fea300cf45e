"""Priors over the latent: modules that map a condition to the distribution p(z|y).

All have one signature, ``prior(c, batch)``: c is what the condition gives, a vector (B, C), tokens or an image, or None
for a model without one; ``batch`` is B. What they return has batch shape (B,) and event shape (D,).
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Independent, MixtureSameFamily, Normal

from cvae_lib.conditions import Representation, Tokens, as_vector, without_padding
from cvae_lib.data import as_pixels, check_unit_interval
from cvae_lib.environment import sample_from
from cvae_lib.gaussians import at_least_float32, bounded_log_variance, diagonal_gaussian
from cvae_lib.networks import check_whole

__all__ = ["ConditionalGaussian", "ConditionalMixture", "StandardNormal", "VampPrior", "tempered_sample"]


class StandardNormal(nn.Module):
    r"""The fixed prior :math:`p(z|y) = \mathcal N(0, I_D)`, whatever y is.

    Source: Kingma and Welling 2013, arXiv:1312.6114.

    Args:
        latent_dim: D; 0 for a model without z.

    Raises:
        ValueError: if D is no whole number of at least 0.
    """

    zero: Tensor
    one: Tensor

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        check_whole(latent_dim=latent_dim, least=0)
        self.latent_dim = latent_dim
        # Buffers, so that the distribution follows the model's device and dtype; never stored, they have no content.
        self.register_buffer("zero", torch.zeros(()), persistent=False)
        self.register_buffer("one", torch.ones(()), persistent=False)

    def forward(self, c: Representation | None, batch: int) -> Independent:
        """Return p(z|y) for a batch: event shape (D,), batch shape (B,)."""
        shape = batch, self.latent_dim
        mean, scale = (at_least_float32(number).expand(shape) for number in (self.zero, self.one))
        unit = Normal(mean, scale, validate_args=False)
        return Independent(unit, 1, validate_args=False)


class _Head(nn.Module):
    """A small network from c to a prior's parameters that starts at ``start`` for every c; without c, just numbers."""

    def __init__(self, condition_dim: int, hidden: int, start: Float[Tensor, " o"]) -> None:
        super().__init__()
        self.condition_dim = condition_dim
        self.out = nn.Linear(hidden, len(start)) if condition_dim else None
        if self.out is None:
            self.start = nn.Parameter(start)
            return
        self.read = nn.Linear(condition_dim, hidden)
        nn.init.zeros_(self.out.weight)
        self.out.bias = nn.Parameter(start)

    def forward(self, c: Representation | None, batch: int) -> Float[Tensor, "b o"]:
        if self.out is None:
            return self.start.expand(batch, -1)
        c = None if c is None else as_vector(c)
        if c is None or c.shape != (batch, self.condition_dim):
            given = "nothing" if c is None else f"shape {tuple(c.shape)}"
            raise ValueError(
                f"This prior depends on y: it needs the condition as ({batch}, {self.condition_dim}), not {given}."
            )
        parameters: Tensor = self.out(nn.functional.silu(self.read(c)))
        return parameters


class ConditionalGaussian(nn.Module):
    r"""A Gaussian that moves with the condition, :math:`p(z|y) = \mathcal N(\mu(y), \mathrm{diag}\,\sigma^2(y))`.

    Mean and log-variance come from c through one hidden layer; the log-variance is bounded smoothly, so that the prior
    can neither collapse to a point nor run away. It starts at the standard normal for every y. Without a condition
    it is one learned Gaussian. Source: Sohn, Lee and Yan 2015 (NeurIPS), "Learning structured output representation".

    Args:
        latent_dim: D.
        condition_dim: width C of the condition; 0 for a model without one.
        hidden: width of the hidden layer.

    Raises:
        ValueError: if D or the width is below 1.
    """

    def __init__(self, latent_dim: int, condition_dim: int = 0, hidden: int = 64) -> None:
        super().__init__()
        check_whole(latent_dim=latent_dim, hidden=hidden)
        self.head = _Head(condition_dim, hidden, torch.zeros(2 * latent_dim))

    def forward(self, c: Representation | None, batch: int) -> Independent:
        """Return p(z|y): event shape (D,), batch shape (B,).

        Raises:
            ValueError: if c is missing, or as one vector of another shape than (B, C).
        """
        mean, raw = self.head(c, batch).chunk(2, dim=1)
        return diagonal_gaussian(mean, bounded_log_variance(raw))


def _mixture(logits: Tensor, mean: Tensor, log_variance: Tensor) -> MixtureSameFamily:
    """Return the mixture of M Gaussians: logits (B, M), mean and log-variance (B, M, D)."""
    weights = Categorical(logits=at_least_float32(logits), validate_args=False)
    return MixtureSameFamily(weights, diagonal_gaussian(mean, log_variance), validate_args=False)


class ConditionalMixture(nn.Module):
    r"""A mixture of Gaussians, :math:`p(z|y) = \sum_m \pi_m(y)\, \mathcal N(\mu_m(y), \mathrm{diag}\,\sigma_m^2(y))`.

    It starts with equal weights and components spread so that the whole has mean 0 and variance 1 in expectation:
    equal components would get equal gradients and never part. There is no closed-form KL to it.
    Sources: Bishop 1994, "Mixture density networks"; as a prior Dilokthanakul et al. 2016, arXiv:1611.02648.

    Args:
        latent_dim: D.
        condition_dim: width C of the condition; 0 for a model without one.
        components: M.
        hidden: width of the hidden layer.

    Raises:
        ValueError: if there is not at least one component, or D or the width is below 1.
    """

    SPREAD = 0.25  # the share of the starting variance that lies between the components

    def __init__(self, latent_dim: int, condition_dim: int = 0, components: int = 10, hidden: int = 64) -> None:
        super().__init__()
        if components < 1:
            raise ValueError(f"A mixture needs at least 1 component, not {components}.")
        check_whole(latent_dim=latent_dim, hidden=hidden)
        self.components, self.latent_dim = components, latent_dim
        mean = math.sqrt(self.SPREAD) * torch.randn(components, latent_dim)
        start = torch.stack([mean, torch.full_like(mean, math.log(1 - self.SPREAD))])  # (2, M, D)
        self.head = _Head(condition_dim, hidden, torch.cat([torch.zeros(components), start.flatten()]))

    def forward(self, c: Representation | None, batch: int) -> MixtureSameFamily:
        """Return p(z|y): event shape (D,), batch shape (B,).

        Raises:
            ValueError: if c is missing, or as one vector of another shape than (B, C).
        """
        parameters = self.head(c, batch)
        logits, rest = parameters[:, : self.components], parameters[:, self.components :]
        mean, raw = rest.unflatten(1, (2, self.components, self.latent_dim)).unbind(1)  # (B, M, D) each
        return _mixture(logits, mean, bounded_log_variance(raw))


class VampPrior(nn.Module):
    r"""The posterior, averaged over learned pseudo-images, :math:`p(z|y) = \frac1M \sum_m q(z|u_m, y)`.

    The best prior for the ELBO is the aggregate posterior, and this is an affordable likeness of it. With a condition
    the pseudo-images are read together with each y that occurs; how many there are is a number for which a GPU is
    waited for in every step. Source: Tomczak and Welling 2018, arXiv:1705.07120.

    Args:
        encoder: the model's own, which reads the pseudo-images; it stays the model's part, not this prior's.
        event_shape: shape of one x.
        components: M, the number of pseudo-images; cost and memory grow with it.

    Raises:
        ValueError: if there is not at least one component.
    """

    def __init__(self, encoder: nn.Module, event_shape: Sequence[int], components: int = 10) -> None:
        super().__init__()
        if components < 1:
            raise ValueError(f"A VampPrior needs at least 1 pseudo-image, not {components}.")
        self._encoder = (encoder,)  # in a tuple, so that its weights are not registered a second time
        # Dark and all different, through a sigmoid so that training keeps them within [0, 1].
        self.raw = nn.Parameter(torch.randn(components, *event_shape) - 2)

    @property
    def pseudo_images(self) -> Float[Tensor, "m *image"]:
        """The M images u_m, each entry in (0, 1)."""
        return torch.sigmoid(self.raw)

    @torch.no_grad()
    def start_from(self, images: Shaped[Tensor, "m *image"]) -> None:
        """Set the pseudo-images to real ones, as many as there are components, a usual start for this prior.

        Args:
            images: grey levels, or floats in [0, 1].

        Raises:
            ValueError: if their number, shape or range does not fit.
        """
        images = as_pixels(images)
        check_unit_interval(images)
        if images.shape != self.raw.shape:
            raise ValueError(f"The pseudo-images have shape {tuple(self.raw.shape)}, not {tuple(images.shape)}.")
        # Away from 0 and 1, where the sigmoid has no slope.
        self.raw.copy_(torch.logit(images, eps=0.02))

    def forward(self, c: Representation | None, batch: int) -> MixtureSameFamily:
        """Return p(z|y): event shape (D,), batch shape (B,), for c in any form the encoder reads."""
        (encode,) = self._encoder
        count = len(self.raw)
        if c is None:
            mean, log_variance = (part.expand(batch, -1, -1) for part in encode(self.pseudo_images, None))
        else:
            first, place = _distinct(c)  # (U,), (B,): ten labels need ten passes, not one for each example
            images = self.pseudo_images.repeat(len(first), *[1] * (self.raw.ndim - 1))  # (U*M, ...)
            parts = c if isinstance(c, Tokens) else (c,)
            again = [part[first].repeat_interleave(count, dim=0) for part in parts]  # (U*M, ...)
            rows = Tokens(*again) if isinstance(c, Tokens) else again[0]
            mean, log_variance = (  # (B, M, D) each
                part.unflatten(0, (len(first), count))[place] for part in encode(images, rows)
            )
        return _mixture(mean.new_zeros(batch, count), mean, log_variance)


def _distinct(c: Representation) -> tuple[Int64[Tensor, " u"], Int64[Tensor, " b"]]:
    """Return where each of the distinct examples of c stands first, and which of them each example of c is."""
    # Words and padding, too, have to be the same for two captions to be the same.
    rows = torch.cat([without_padding(c).flatten(1), c.mask], 1) if isinstance(c, Tokens) else c.flatten(1)
    found, place = torch.unique(rows.detach(), dim=0, return_inverse=True)
    first = torch.full((len(found),), len(rows), device=rows.device, dtype=place.dtype)
    first.scatter_reduce_(0, place, torch.arange(len(rows), device=rows.device), "amin")
    return first, place


def tempered_sample(
    p: Distribution, temperature: float = 1.0, generator: torch.Generator | None = None
) -> Float[Tensor, "b d"]:
    r"""Draw z from p(z|y), shape (B, D): from a Gaussian as :math:`z = \mu + \tau\,\sigma\,\epsilon`.

    From a mixture of Gaussians one component is picked by its weights, and z is drawn from that. Any other
    distribution draws by its own ``sample``; it has no standard deviation that a temperature could scale.

    Args:
        p: what a prior returned: event shape (D,), batch shape (B,).
        temperature: tau, factor on the standard deviations; a mixture's weights stay as they are.
        generator: source of randomness, on whatever device; the global one if not given.

    Raises:
        ValueError: if the temperature is no number of at least 0, or not 1 for a prior that is not Gaussian.
    """
    if not 0 <= temperature < math.inf:
        raise ValueError(f"temperature must be a finite number of at least 0, not {temperature}.")
    device = generator.device if generator else None
    if isinstance(p, MixtureSameFamily) and _is_gaussian(p.component_distribution):
        weights: Tensor = p.mixture_distribution.probs
        chosen = torch.multinomial(weights.to(device or weights.device), 1, generator=generator).to(weights.device)
        index = chosen[..., None].expand(*chosen.shape, p.event_shape[0])  # (B, 1, D)
        normal: Any = p.component_distribution.base_dist  # type: ignore[attr-defined]
        mean, scale = normal.loc.gather(1, index).squeeze(1), normal.scale.gather(1, index).squeeze(1)  # (B, D) each
    elif _is_gaussian(p):
        mean, scale = p.base_dist.loc, p.base_dist.scale  # type: ignore[attr-defined]
    elif temperature != 1:
        raise ValueError(f"A temperature scales Gaussians, and this prior gives a {type(p).__name__}; leave it at 1.")
    else:
        return sample_from(p, generator)
    noise = torch.randn(mean.shape, generator=generator, device=device or mean.device, dtype=mean.dtype).to(mean.device)
    sample: Tensor = mean + temperature * scale * noise
    return sample


def _is_gaussian(p: Distribution) -> bool:
    """Say whether p is a diagonal Gaussian; a subclass of ``Normal`` may draw in a way of its own."""
    return isinstance(p, Independent) and type(p.base_dist) is Normal
