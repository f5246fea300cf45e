"""The conditional variational autoencoder: three distributions and the modules that make them.

    q(z|x,y)   posterior, the encoder's Gaussian
    p(z|y)     prior, see :mod:`cvae_lib.priors`
    p(x|z,y)   likelihood of the decoder's output, see :mod:`cvae_lib.likelihoods`

The VAE is the CVAE whose y is nothing (``num_classes=0``).
"""

import dataclasses
import math
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.distributions import Distribution, Independent

from cvae_lib._gaussians import diagonal_gaussian
from cvae_lib.conditions import LabelCondition, NoCondition
from cvae_lib.likelihoods import likelihood
from cvae_lib.networks import MLPDecoder, MLPEncoder
from cvae_lib.priors import prior, tempered_sample


@dataclasses.dataclass(frozen=True)
class CVAEConfig:
    """The settings of a CVAE; plain values, so that a checkpoint can carry them as JSON.

    Attributes:
        num_classes: classes of the label y; 0 means no condition, and the model is a VAE.
        latent_dim: D, entries of z.
        image_shape: (channels, height, width).
        hidden: widths of the encoder's hidden layers; the decoder uses them in reverse.
        how: conditioning layer, see :data:`cvae_lib.conditioning.CONDITIONINGS`.
        where: blocks told the condition: ``first`` or ``every``.
        dropout: probability of dropping a hidden unit of the networks while training.
        prior: p(z|y): ``standard``, ``gaussian``, ``mixture`` or ``vamp``, see :func:`cvae_lib.priors.prior`.
        components: M, components of the mixture, pseudo-images of the VampPrior.
        likelihood: p(x|z,y), see :data:`cvae_lib.likelihoods.LIKELIHOODS`.
        levels: grey levels of the ``logistic`` and ``categorical`` likelihoods.
    """

    num_classes: int = 10
    latent_dim: int = 32
    image_shape: tuple[int, int, int] = (1, 28, 28)
    hidden: tuple[int, ...] = (512, 512)
    how: str = "concatenation"
    where: str = "first"
    dropout: float = 0.0
    prior: str = "standard"
    components: int = 10
    likelihood: str = "bernoulli"
    levels: int = 256

    def as_dict(self) -> dict[str, Any]:
        """Return the settings as JSON-ready values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "CVAEConfig":
        """Make settings from what :meth:`as_dict` gave, after a round trip through JSON.

        Raises:
            ValueError: if a setting is unknown.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := set(values) - known:
            raise ValueError(
                f"Unknown model settings: {', '.join(sorted(unknown))}; known are {', '.join(sorted(known))}."
            )
        settings: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**settings)


class CVAE(nn.Module):
    r"""A conditional VAE, :math:`p(x|y) = \int p_\theta(x|z,y)\, p(z|y)\, dz` with encoder :math:`q_\phi(z|x,y)`.

    Sources: Kingma and Welling 2013, arXiv:1312.6114; Sohn, Lee and Yan 2015 (NeurIPS).

    Args:
        config: the settings; ``CVAEConfig(num_classes=0)`` gives the VAE.
    """

    def __init__(self, config: CVAEConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or CVAEConfig()
        self.condition: LabelCondition | NoCondition
        self.condition = LabelCondition(config.num_classes) if config.num_classes else NoCondition()
        slot = {
            "condition_dim": self.condition.dim,
            "how": config.how,
            "where": config.where,
            "dropout": config.dropout,
        }
        self.observation = likelihood(config.likelihood, config.levels)
        channels, *size = config.image_shape
        output_shape = (channels * int(self.observation.channels_per_pixel), *size)  # type: ignore[arg-type]
        self.encoder = MLPEncoder(config.image_shape, config.hidden, config.latent_dim, **slot)  # type: ignore[arg-type]
        self.decoder = MLPDecoder(config.latent_dim, config.hidden[::-1], output_shape, **slot)  # type: ignore[arg-type]
        self.latent_prior = prior(
            config.prior,
            config.latent_dim,
            condition_dim=self.condition.dim,
            image_shape=config.image_shape,
            components=config.components,
        )

    @property
    def device(self) -> torch.device:
        """The device the parameters live on."""
        return next(self.parameters()).device

    @property
    def is_conditional(self) -> bool:
        """Whether the model takes a y."""
        return self.condition.dim > 0

    def _read(self, y: Int64[Tensor, " b"] | None) -> Float[Tensor, "b c"] | None:
        c = self.condition(y)
        return None if c is None else c.to(next(self.parameters()).dtype)

    def posterior(self, x: Float[Tensor, "b ch h w"], y: Int64[Tensor, " b"] | None = None) -> Independent:
        """Return q(z|x,y): event shape (D,), batch shape (B,)."""
        return diagonal_gaussian(*self.encoder(x, self._read(y)))

    def prior(self, y: Int64[Tensor, " b"] | None = None, batch: int | None = None) -> Distribution:
        """Return p(z|y): event shape (D,), batch shape (B,), where B is len(y), or ``batch`` for a VAE.

        Raises:
            ValueError: if neither y nor ``batch`` says how many.
        """
        if batch is None:
            if y is None:
                raise ValueError("Say how many: pass y, or batch=... for a model without a condition.")
            batch = len(y)
        distribution: Distribution = self.latent_prior(self._read(y), batch, self.encoder)
        return distribution

    def likelihood(self, z: Float[Tensor, "*k b d"], y: Int64[Tensor, " b"] | None = None) -> Independent:
        """Return p(x|z,y): event shape (channels, H, W), batch shape that of z without D.

        z may carry leading axes, e.g. (K, B, D) for K samples each; y always has length B.
        """
        c = self._read(y)
        flat = z.reshape(-1, z.shape[-1])  # (K*B, D)
        if c is not None:
            c = c.expand(*z.shape[:-1], c.shape[-1]).reshape(len(flat), -1)  # (K*B, C)
        output = self.decoder(flat, c).unflatten(0, z.shape[:-1])  # (K, B, numbers per pixel * channels, H, W)
        distribution: Independent = self.observation(output)
        return distribution

    @torch.no_grad()
    def draw(
        self,
        y: Int64[Tensor, " b"] | None = None,
        *,
        count: int | None = None,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "b ch h w"]:
        r"""Draw images: :math:`z \sim p(z|y)`, then the pixel means of p(x|z,y), in [0, 1].

        Args:
            y: one condition per image; for a VAE pass ``count`` instead.
            temperature: factor on the prior's standard deviation; below 1 gives more typical, less varied images.
            generator: source of randomness; the global one if not given.
        """
        z = tempered_sample(self.prior(y, batch=count), temperature, generator)
        images: Tensor = self.likelihood(z, y).mean
        return images

    @torch.no_grad()
    def reconstruct(
        self, x: Float[Tensor, "b ch h w"], y: Int64[Tensor, " b"] | None = None
    ) -> Float[Tensor, "b ch h w"]:
        """Encode x, decode the posterior mean; return pixel means in [0, 1]."""
        images: Tensor = self.likelihood(self.posterior(x, y).mean, y).mean
        return images

    def num_parameters(self) -> int:
        """Count the trainable numbers."""
        return sum(math.prod(p.shape) for p in self.parameters() if p.requires_grad)
