"""``CVAEConfig``: a CVAE of the library's own parts as plain values, and the parts that it stands for."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import nn

from cvae_lib.conditions import (
    AttributeCondition,
    CaptionCondition,
    CompositeCondition,
    Condition,
    EmbeddingCondition,
    LabelCondition,
    NoCondition,
    ObservedCondition,
    Vocabulary,
)
from cvae_lib.data import PixelMode
from cvae_lib.likelihoods import BernoulliPixels, CategoricalPixels, GaussianPixels, Likelihood, LogisticPixels
from cvae_lib.networks import (
    ConvolutionalDecoder,
    ConvolutionalEncoder,
    MLPDecoder,
    MLPEncoder,
    Placement,
    check_whole,
    check_widths,
)
from cvae_lib.priors import ConditionalGaussian, ConditionalMixture, StandardNormal, VampPrior

OWN = "own"


@dataclasses.dataclass(frozen=True)
class CVAEConfig:
    """The settings of a CVAE; plain values, so that a checkpoint can carry them as JSON.

    Attributes:
        num_classes: classes of the label y, where the condition is one; 0 means no label, and the model is a VAE.
        latent_dim: D, entries of z.
        event_shape: shape of one x: (channels, height, width) of an image, (F,) of a vector or series.
        hidden: widths of the encoder's hidden layers; the decoder uses them in reverse. None is four of 376 for the
            MLP and (24, 48) for the convolutional network.
        conditioning: how c enters, see :data:`cvae_lib.conditioning.CONDITIONINGS`.
        condition_at: blocks that c enters: ``first``, ``every``, or block numbers from 0.
        condition_to: networks that c enters: ``encoder``, ``decoder`` or ``both``.
        dropout: probability of dropping a hidden unit of the networks while training.
        condition: what y is: ``label``, ``embedding``, ``attributes``, ``caption``, ``observed`` or ``none``; several
            may be joined: ``label+attributes``.
        condition_width: entries of a learned vector for a label (``embedding``) or a word (``caption``).
        attributes: names of the real attributes, in the order of y's columns.
        words: vocabulary of captions.
        caption_length: words a caption has at most.
        network: ``mlp`` or ``convolutional``.
        norm: of the convolutional network: ``group`` or ``none``.
        prior: p(z|y): ``standard``, ``gaussian``, ``mixture`` or ``vamp``, see :mod:`cvae_lib.priors`.
        components: M, components of the mixture, pseudo-images of the VampPrior.
        likelihood: p(x|z,y): ``bernoulli``, ``gaussian``, ``gaussian_per_pixel``, ``real``, ``logistic`` or
            ``categorical``, see :mod:`cvae_lib.likelihoods`.
        levels: grey levels of the ``logistic`` and ``categorical`` likelihoods.
        pixels: how grey levels become x under ``bernoulli``: ``stochastic`` (None), ``threshold`` or ``grey``; the
            other likelihoods take them as they are.

    Raises:
        ValueError: if a number is out of range.
    """

    num_classes: int = 10
    latent_dim: int = 32
    event_shape: tuple[int, ...] = (1, 28, 28)
    hidden: tuple[int, ...] | None = None
    conditioning: str = "concatenation"
    condition_at: Placement = "first"
    condition_to: str = "both"
    dropout: float = 0.0
    condition: str = "label"
    condition_width: int = 32
    attributes: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    caption_length: int = 16
    network: str = "mlp"
    norm: str = "group"
    prior: str = "standard"
    components: int = 10
    likelihood: str = "bernoulli"
    levels: int = 256
    pixels: PixelMode | None = None

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if isinstance(value := getattr(self, field.name), list):
                object.__setattr__(self, field.name, tuple(value))
        check_whole(num_classes=self.num_classes, least=0)
        check_whole(latent_dim=self.latent_dim, condition_width=self.condition_width, components=self.components)
        check_whole(caption_length=self.caption_length)
        check_whole(levels=self.levels, least=2)
        check_widths(event_shape=self.event_shape)
        if self.hidden is not None:
            check_widths(hidden=self.hidden)
        if not self.event_shape:
            raise ValueError("event_shape must have at least one axis, such as (1, 28, 28) or (5,), not ().")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is a probability of at least 0 and below 1, not {self.dropout!r}.")
        if self.pixels is not None and self.likelihood != "bernoulli":
            raise ValueError(f"pixels belongs to the bernoulli likelihood; {self.likelihood!r} takes x as it is.")

    @property
    def widths(self) -> tuple[int, ...]:
        """The hidden widths: those given, or those that suit the network."""
        if self.hidden is not None:
            return tuple(self.hidden)
        return (24, 48) if self.network == "convolutional" else (376, 376, 376, 376)

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


class Parts(NamedTuple):
    """The modules a CVAE is made of.

    Attributes:
        encoder: ``(x, c) -> (mean, log_variance)``.
        decoder: ``(z, c) -> output``.
        condition: ``y -> c``.
        prior: ``(c, batch) -> p(z|y)``.
        likelihood: ``output -> p(x|z,y)``.
    """

    encoder: nn.Module
    decoder: nn.Module
    condition: Condition
    prior: nn.Module
    likelihood: nn.Module


def compose(
    encoder: Any, decoder: Any, condition: Condition | None, prior: nn.Module | None, likelihood: Any
) -> Parts:
    """Return modules of one's own as the parts of a CVAE, those that are not given filled in.

    Raises:
        ValueError: if a part is missing or no module, or there is a condition that no part reads.
    """
    if not isinstance(encoder, nn.Module) or not isinstance(decoder, nn.Module):
        raise ValueError("A CVAE is made of modules: CVAE(encoder, decoder, likelihood=...), or of a CVAEConfig.")
    if prior is not None and not isinstance(prior, nn.Module):
        raise ValueError(f"A prior is a module (c, batch) -> Distribution, and {type(prior).__name__} is none.")
    if not isinstance(likelihood, nn.Module):
        raise ValueError(
            "Say what p(x|z,y) is: likelihood=BernoulliPixels() for binary pixels, GaussianPixels() for grey or "
            "coloured ones, GaussianPixels(link='identity') for other numbers."
        )
    if prior is None:
        widths = [getattr(network, "latent_dim", None) for network in (encoder, decoder)]
        latents = next((width for width in widths if isinstance(width, int)), None)
        if latents is None:
            raise ValueError("Say what p(z|y) is: prior=StandardNormal(latent_dim), or another of cvae_lib.priors.")
        prior = StandardNormal(latents)
    silent = [not getattr(network, "reads_condition", True) for network in (encoder, decoder)]
    if condition is not None and condition.dim and all(silent) and isinstance(prior, StandardNormal):
        raise ValueError(
            f"Nothing in this model reads the condition: give encoder and decoder condition_dim={condition.dim}."
        )
    return Parts(encoder, decoder, condition or NoCondition(), prior, likelihood)


def build(config: CVAEConfig, condition: Condition | None = None) -> Parts:
    """Return the parts that the settings stand for.

    Args:
        condition: a condition of one's own, in place of the one that the settings name.

    Raises:
        ValueError: if a setting names nothing there is, or the settings do not fit together.
    """
    if condition is None:
        condition = _condition(config)
    if config.condition_to not in ("both", "encoder", "decoder"):
        raise ValueError(f"condition_to is 'both', 'encoder' or 'decoder', not {config.condition_to!r}.")
    if config.prior == "vamp" and config.likelihood == "real":
        raise ValueError(
            "A VampPrior's pseudo-images lie in (0, 1), and x of the real likelihood anywhere; take another."
        )
    likelihood = _likelihood(config)
    networks: dict[str, tuple[Callable[..., nn.Module], Callable[..., nn.Module]]] = {
        "mlp": (MLPEncoder, MLPDecoder),
        "convolutional": (ConvolutionalEncoder, ConvolutionalDecoder),
    }
    make_encoder, make_decoder = _chosen("network", config.network, networks)
    shape, output_shape = config.event_shape, (config.event_shape[0] * likelihood.channels_per_pixel,)
    slots = {side: _slot(config, condition, side) for side in ("encoder", "decoder")}
    encoder = make_encoder(shape, config.widths, config.latent_dim, **slots["encoder"])
    decoder = make_decoder(config.latent_dim, config.widths[::-1], output_shape + shape[1:], **slots["decoder"])
    return Parts(encoder, decoder, condition, _prior(config, condition, encoder), likelihood)


def _chosen(what: str, name: str, there_are: dict[str, Any]) -> Any:
    if name not in there_are:
        raise ValueError(f"There is no {what} {name!r}; choose from {', '.join(there_are)}.")
    return there_are[name]


def _condition(config: CVAEConfig) -> Condition:
    if not isinstance(config.condition, str):
        raise ValueError(f"condition is a name, such as 'label' or 'none', not {config.condition!r}.")
    if config.condition == OWN:
        raise ValueError("This model was made with a condition of its own; pass it again: condition=...")
    makers: dict[str, Callable[[], Condition]] = {
        "none": NoCondition,
        "label": lambda: LabelCondition(config.num_classes),
        "embedding": lambda: EmbeddingCondition(config.num_classes, config.condition_width),
        "attributes": lambda: AttributeCondition(config.attributes),
        "caption": lambda: CaptionCondition(Vocabulary(config.words, config.caption_length), config.condition_width),
        "observed": lambda: ObservedCondition(config.event_shape, flat=config.network == "mlp"),
    }
    if config.condition == "label" and not config.num_classes:
        return NoCondition()
    parts = [_chosen("condition", name, makers)() for name in config.condition.split("+")]
    return parts[0] if len(parts) == 1 else CompositeCondition(*parts)


def _likelihood(config: CVAEConfig) -> Likelihood:
    dims = len(config.event_shape)
    makers: dict[str, Callable[[], Likelihood]] = {
        "bernoulli": lambda: BernoulliPixels(config.pixels or "stochastic", dims),
        "gaussian": lambda: GaussianPixels(event_dims=dims),
        "gaussian_per_pixel": lambda: GaussianPixels("pixel", event_dims=dims),
        "real": lambda: GaussianPixels("pixel", "identity", dims),
        "logistic": lambda: LogisticPixels(config.levels, dims),
        "categorical": lambda: CategoricalPixels(config.levels, dims),
    }
    made: Likelihood = _chosen("likelihood", config.likelihood, makers)()
    return made


def _slot(config: CVAEConfig, condition: Condition, side: str) -> dict[str, Any]:
    """Return what one of the networks is to know of the condition, and how it is built."""
    settings: dict[str, Any] = {
        "condition_dim": condition.dim if config.condition_to in ("both", side) else 0,
        "conditioning": config.conditioning,
        "condition_at": config.condition_at,
        "dropout": config.dropout,
    }
    if config.network == "convolutional":
        settings |= {"condition_is_image": condition.kind == "image", "norm": config.norm}
    return settings


def _prior(config: CVAEConfig, condition: Condition, encoder: nn.Module) -> nn.Module:
    latents, width, count = config.latent_dim, condition.vector_dim, config.components
    event_shape: Sequence[int] = config.event_shape
    makers: dict[str, Callable[[], nn.Module]] = {
        "standard": lambda: StandardNormal(latents),
        "gaussian": lambda: ConditionalGaussian(latents, width),
        "mixture": lambda: ConditionalMixture(latents, width, count),
        "vamp": lambda: VampPrior(encoder, event_shape, count),
    }
    made: nn.Module = _chosen("prior", config.prior, makers)()
    return made
