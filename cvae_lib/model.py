"""The conditional variational autoencoder: three distributions and the modules that make them.

    q(z|x,y)   posterior, the encoder's Gaussian
    p(z|y)     prior, see :mod:`cvae_lib.priors`
    p(x|z,y)   likelihood of the decoder's output, see :mod:`cvae_lib.likelihoods`

The VAE is the CVAE whose y is nothing (``num_classes=0``). What y is, how it enters the networks, and which of them
hear it are settings.
"""

import dataclasses
import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution, Independent

from cvae_lib.conditions import Condition, Representation, Tokens, as_vector, examples, make_condition, repeated
from cvae_lib.likelihoods import likelihood
from cvae_lib.networks import Placement, network_pair
from cvae_lib.priors import VampPrior, prior, tempered_sample
from cvae_lib.priors._gaussians import diagonal_gaussian


@dataclasses.dataclass(frozen=True)
class CVAEConfig:
    """The settings of a CVAE; plain values, so that a checkpoint can carry them as JSON.

    Attributes:
        num_classes: classes of the label y; 0 means no label, and without another condition the model is a VAE.
        latent_dim: D, entries of z.
        image_shape: (channels, height, width).
        hidden: widths of the encoder's hidden layers; the decoder uses them in reverse. By default four of 376
            for the MLP and (24, 48) for the convolutional network.
        how: conditioning layer, see :data:`cvae_lib.conditioning.CONDITIONINGS`.
        where: blocks told the condition: ``first``, ``every``, or block numbers from 0.
        dropout: probability of dropping a hidden unit of the networks while training.
        condition: what y is, see :data:`cvae_lib.conditions.CONDITIONS`; several may be joined: ``label+attributes``.
        condition_width: entries of a learned vector for a label (``embedding``) or a word (``caption``).
        attributes: names of the real attributes, in the order of y's columns.
        words: vocabulary of captions.
        caption_length: words a caption has at most.
        condition_in: networks told the condition: ``encoder``, ``decoder`` or ``both``.
        network: ``mlp`` or ``convolutional``.
        norm: of the convolutional network: ``group`` or ``none``.
        prior: p(z|y): ``standard``, ``gaussian``, ``mixture`` or ``vamp``, see :func:`cvae_lib.priors.prior`.
        components: M, components of the mixture, pseudo-images of the VampPrior.
        likelihood: p(x|z,y), see :data:`cvae_lib.likelihoods.LIKELIHOODS`.
        levels: grey levels of the ``logistic`` and ``categorical`` likelihoods.
    """

    num_classes: int = 10
    latent_dim: int = 32
    image_shape: tuple[int, int, int] = (1, 28, 28)
    hidden: tuple[int, ...] = None  # type: ignore[assignment]  # __post_init__ puts the network's own widths
    how: str = "concatenation"
    where: Placement = "first"
    dropout: float = 0.0
    condition: str = "label"
    condition_width: int = 32
    attributes: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    caption_length: int = 16
    condition_in: str = "both"
    network: str = "mlp"
    norm: str = "group"
    prior: str = "standard"
    components: int = 10
    likelihood: str = "bernoulli"
    levels: int = 256

    def __post_init__(self) -> None:
        if self.hidden is None:
            object.__setattr__(self, "hidden", (24, 48) if self.network == "convolutional" else (376, 376, 376, 376))
        if not {"label", "embedding"} & set(self.condition.split("+")):
            object.__setattr__(self, "num_classes", 0)  # so that nobody takes this for a model of labels

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


OWN = "own"


def _condition(config: CVAEConfig) -> Condition:
    """Return the condition the settings ask for."""
    if config.condition == OWN:
        raise ValueError("This model was made with a condition of its own; pass it again: CVAE(config, condition=...).")
    name = "none" if config.condition == "label" and not config.num_classes else config.condition
    return make_condition(name, {**dataclasses.asdict(config), "flat": config.network == "mlp"})


def _own(condition: Condition) -> Condition:
    """Return a condition somebody brought, if it is one."""
    if not isinstance(condition, Condition):
        raise ValueError(
            f"A condition of your own is a subclass of cvae_lib.conditions.Condition, and {type(condition).__name__} "
            "is not."
        )
    return condition


class CVAE(nn.Module):
    r"""A conditional VAE, :math:`p(x|y) = \int p_\theta(x|z,y)\, p(z|y)\, dz` with encoder :math:`q_\phi(z|x,y)`.

    Sources: Kingma and Welling 2013, arXiv:1312.6114; Sohn, Lee and Yan 2015 (NeurIPS).

    Args:
        config: the settings; ``CVAEConfig(num_classes=0)`` gives the VAE.
        condition: a condition module of your own, see :class:`cvae_lib.conditions.Condition`. The settings then say
            ``condition="own"``, and whoever loads the weights has to bring the module again.

    Raises:
        ValueError: if a setting names nothing there is, or the settings do not fit together.
    """

    _here: Tensor

    def __init__(self, config: CVAEConfig | None = None, condition: Condition | None = None) -> None:
        super().__init__()
        config = config or CVAEConfig()
        if condition is not None:
            config = dataclasses.replace(config, condition=OWN)
        self.config = config
        # Moves with the module and so tells device and dtype; asking the parameters means walking through all modules.
        self.register_buffer("_here", torch.empty(0), persistent=False)
        self.condition = _condition(config) if condition is None else _own(condition)
        if config.condition_in not in ("both", "encoder", "decoder"):
            raise ValueError(f"condition_in is 'both', 'encoder' or 'decoder', not {config.condition_in!r}.")
        encoder, decoder = network_pair(config.network)
        self.observation = likelihood(config.likelihood, config.levels)
        channels, *size = config.image_shape
        output_shape = (channels * int(self.observation.channels_per_pixel), *size)  # type: ignore[arg-type]
        self.encoder = encoder(config.image_shape, config.hidden, config.latent_dim, **self._slot("encoder"))
        self.decoder = decoder(config.latent_dim, config.hidden[::-1], output_shape, **self._slot("decoder"))
        self.latent_prior = prior(
            config.prior,
            config.latent_dim,
            condition_dim=self.condition.vector_dim,
            image_shape=config.image_shape,
            components=config.components,
        )

    @property
    def device(self) -> torch.device:
        """The device the parameters live on."""
        return self._here.device

    @property
    def is_conditional(self) -> bool:
        """Whether the model takes a y."""
        return self.condition.dim > 0

    def _slot(self, side: str) -> dict[str, Any]:
        """Return what one of the networks is told about the condition, and how it is built."""
        config = self.config
        settings = {
            "condition_dim": self.condition.dim if config.condition_in in ("both", side) else 0,
            "how": config.how,
            "where": config.where,
            "dropout": config.dropout,
        }
        if config.network == "convolutional":
            settings |= {"condition_is_image": self.condition.kind == "image", "norm": config.norm}
        return settings

    def _encode_pseudo(self, images: Tensor, rows: Representation | None) -> tuple[Tensor, Tensor]:
        """Encode a VampPrior's pseudo-images as the encoder is used to: with the condition only if it hears one."""
        mean, log_variance = self.encoder(images, rows if self.config.condition_in != "decoder" else None)
        return mean, log_variance

    def _read(self, y: Any, lead: tuple[int, ...] | None = None) -> Representation | None:
        """Return c in the model's dtype, repeated over the axes ``lead`` of x or z, the last of them the batch."""
        c = self.condition(y)
        if c is None:
            return None
        dtype = self._here.dtype
        c = Tokens(c.values.to(dtype), c.mask) if isinstance(c, Tokens) else c.to(dtype)
        return c if lead is None else repeated(c, lead)

    def posterior(self, x: Float[Tensor, "b ch h w"], y: Any = None) -> Independent:
        """Return q(z|x,y): event shape (D,), batch shape (B,).

        Args:
            x: images.
            y: what the model's condition reads, for B examples, or for one that all share.

        Raises:
            ValueError: if y is missing though the encoder hears it, or x or y does not fit the model.
        """
        told = self.config.condition_in != "decoder"
        return diagonal_gaussian(*self.encoder(x, self._read(y, (len(x),)) if told else None))

    def prior(self, y: Any = None, batch: int | None = None) -> Distribution:
        """Return p(z|y): event shape (D,), batch shape (B,), where B is that of y, or ``batch`` for a VAE.

        Raises:
            ValueError: if neither y nor ``batch`` says how many.
        """
        if batch is None and y is None:
            raise ValueError("Say how many: pass y, or batch=... for a model without a condition.")
        c = self._read(y, None if batch is None else (batch,))
        if batch is None:
            batch = len(y) if c is None else examples(c)
        if c is not None and not isinstance(self.latent_prior, VampPrior):
            c = as_vector(c)
        distribution: Distribution = self.latent_prior(c, batch, self._encode_pseudo)
        return distribution

    def likelihood(self, z: Float[Tensor, "*k b d"], y: Any = None) -> Independent:
        """Return p(x|z,y): event shape (channels, H, W), batch shape that of z without D.

        z may carry leading axes, e.g. (K, B, D) for K samples each; y is for B examples, or for one that all share.

        Raises:
            ValueError: if y is missing though the decoder hears it, or z or y does not fit the model.
        """
        if z.ndim < 2:
            raise ValueError(f"z has shape (B, D), or (K, B, D) for K samples each, not {tuple(z.shape)}.")
        told = self.config.condition_in != "encoder"
        c = self._read(y, z.shape[:-1]) if told else None  # (K*B, C)
        flat = z.reshape(-1, z.shape[-1])  # (K*B, D)
        output = self.decoder(flat, c).unflatten(0, z.shape[:-1])  # (K, B, numbers per pixel * channels, H, W)
        distribution: Independent = self.observation(output)
        return distribution

    @torch.no_grad()
    def draw(
        self,
        y: Any = None,
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

        Raises:
            ValueError: if neither y nor ``count`` says how many, or y does not fit the model.
        """
        z = tempered_sample(self.prior(y, batch=count), temperature, generator)
        images: Tensor = self.likelihood(z, y).mean
        return images

    @torch.no_grad()
    def reconstruct(self, x: Float[Tensor, "b ch h w"], y: Any = None) -> Float[Tensor, "b ch h w"]:
        """Encode x, decode the posterior mean; return pixel means in [0, 1], shape of x.

        Raises:
            ValueError: if y is missing for a conditional model, or x or y does not fit the model.
        """
        images: Tensor = self.likelihood(self.posterior(x, y).mean, y).mean
        return images

    def num_parameters(self) -> int:
        """Count the trainable numbers."""
        return sum(math.prod(p.shape) for p in self.parameters() if p.requires_grad)
