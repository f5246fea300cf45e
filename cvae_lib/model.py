r"""The conditional variational autoencoder: three distributions, and the five modules that make them.

    q(z|x,y)   posterior, from the encoder
    p(z|y)     prior, see :mod:`cvae_lib.priors`
    p(x|z,y)   likelihood of the decoder's output, see :mod:`cvae_lib.likelihoods`

The contracts, for modules of the library and for your own. B examples, D latents; x has any event shape:

    condition(y) -> c             a :class:`cvae_lib.conditions.Condition`; c is a vector (B, C), ``Tokens`` (B, L, C)
                                  or an image (B, C, H, W), zero where y is not known; None without a condition
    encoder(x, c)                 -> (mean, log_variance) of q(z|x,y), shape (B, D) each
    decoder(z, c)                 -> output, for z of shape (B, D): whatever the likelihood reads, a tensor (B, ...) or
                                  a tuple of such
    prior(c, batch)               -> a ``Distribution``, batch shape (B,), event shape (D,)
    likelihood(output)            -> a ``Distribution`` over x, batch shape (B,), event shape that of one x

The VAE is the CVAE whose y is nothing.
"""

import dataclasses
import math
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.distributions import Distribution, Independent

from cvae_lib.conditions import Condition, Representation, Tokens, examples, on_device, repeated
from cvae_lib.config import OWN, CVAEConfig, build, compose
from cvae_lib.data import map_tensors, tensors_in
from cvae_lib.environment import sample_from
from cvae_lib.gaussians import diagonal_gaussian
from cvae_lib.priors import tempered_sample

__all__ = ["CVAE", "CVAEConfig", "Output"]


class Output(NamedTuple):
    """What ``model(x, y)`` returns: the three distributions, and the z at which the last of them was taken.

    Attributes:
        posterior: q(z|x,y).
        prior: p(z|y).
        z: (B, D), a reparameterised draw from the posterior.
        likelihood: p(x|z,y).
    """

    posterior: Independent
    prior: Distribution
    z: Float[Tensor, "b d"]
    likelihood: Distribution


class CVAE(nn.Module):
    r"""A conditional VAE, :math:`p(x|y) = \int p_\theta(x|z,y)\, p(z|y)\, dz` with encoder :math:`q_\phi(z|x,y)`.

    Sources: Kingma and Welling 2013, arXiv:1312.6114; Sohn, Lee and Yan 2015 (NeurIPS).

    Args:
        encoder: a module ``(x, c) -> (mean, log_variance)``; a :class:`CVAEConfig` in its place is the shorthand for
            :meth:`from_config`.
        decoder: a module ``(z, c) -> output``.
        condition: what y is; None for a VAE.
        prior: a module ``(c, batch) -> Distribution``; None is N(0, I), for an encoder or decoder that says its
            ``latent_dim``.
        likelihood: a module ``output -> Distribution`` over x; a :class:`cvae_lib.likelihoods.Likelihood` also says how
            stored data become x, which are else taken as they are.

    Raises:
        ValueError: if a part is missing or no module, or a setting names nothing there is.
    """

    _device_ref: Tensor

    def __init__(
        self,
        encoder: nn.Module | CVAEConfig | None = None,
        decoder: nn.Module | None = None,
        *,
        condition: Condition | None = None,
        prior: nn.Module | None = None,
        likelihood: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if condition is not None and not isinstance(condition, Condition):
            raise ValueError(
                "A condition of your own is a subclass of cvae_lib.conditions.Condition, and "
                f"{type(condition).__name__} is not."
            )
        # Moves with the module and so tells device and dtype; asking the parameters means walking through all modules.
        self.register_buffer("_device_ref", torch.empty(0), persistent=False)
        self.config: CVAEConfig | None = None
        if encoder is None or isinstance(encoder, CVAEConfig):
            if not (decoder is None and prior is None and likelihood is None):
                raise ValueError("A config says what decoder, prior and likelihood are; pass modules, or a config.")
            config = encoder or CVAEConfig()
            self.config = config if condition is None else dataclasses.replace(config, condition=OWN)
            parts = build(config, condition)
        else:
            parts = compose(encoder, decoder, condition, prior, likelihood)
        self.condition, self.likelihood_module = parts.condition, parts.likelihood
        self.encoder, self.decoder, self.prior_module = parts.encoder, parts.decoder, parts.prior

    @classmethod
    def from_config(cls, config: CVAEConfig, *, condition: Condition | None = None) -> "CVAE":
        """Return the model of the library's own parts that the settings describe.

        Args:
            config: the settings; ``CVAEConfig(num_classes=0)`` gives the VAE.
            condition: a condition of your own. The settings then say ``condition="own"``, and whoever loads the weights
                has to bring the module again.

        Raises:
            ValueError: if a setting names nothing there is, or the settings do not fit together.
        """
        return cls(config, condition=condition)

    @property
    def device(self) -> torch.device:
        """The device the parameters live on."""
        return self._device_ref.device

    @property
    def is_conditional(self) -> bool:
        """Whether the model takes a y."""
        return self.condition.dim > 0

    @property
    def num_classes(self) -> int:
        """How many labels y can be; 0 where y is no label."""
        return self.condition.num_classes

    def prepare(
        self, x: Shaped[Tensor, "b *event"], generator: torch.Generator | None = None
    ) -> Shaped[Tensor, "b *event"]:
        """Return stored data as x, in the model's dtype: binarised anew, grey or as they are, as the likelihood says.

        Raises:
            ValueError: if the likelihood cannot take such data.
        """
        prepare = getattr(self.likelihood_module, "prepare", None)
        return self._cast(x if prepare is None else prepare(x, generator))

    def _cast(self, values: Tensor) -> Tensor:
        return values.to(self._device_ref.dtype) if values.is_floating_point() else values

    def _read(self, y: Any, lead: tuple[int, ...] | None = None) -> Representation | None:
        """Return c in the model's dtype, repeated over the axes ``lead`` of x or z, the last of them the batch."""
        c = self.condition(on_device(y, self.device))
        if c is None:
            return None
        c = Tokens(self._cast(c.values), c.mask) if isinstance(c, Tokens) else self._cast(c)
        return c if lead is None else repeated(c, lead)

    def _read_for(self, network: nn.Module, y: Any, lead: tuple[int, ...]) -> Representation | None:
        """Return c for a network, or None where it reads none."""
        return self._read(y, lead) if getattr(network, "reads_condition", True) else None

    def posterior(self, x: Shaped[Tensor, "b *event"], y: Any = None) -> Independent:
        """Return q(z|x,y): event shape (D,), batch shape (B,).

        Args:
            x: data, as :meth:`prepare` gives them.
            y: what the model's condition reads, for B examples, or for one that all share.

        Raises:
            ValueError: if y is missing though the encoder reads c, x or y does not fit the model, or the encoder
                returns something else than two tensors (B, D).
        """
        if not isinstance(x, Tensor):
            raise ValueError(f"x must be a tensor, not {type(x).__name__}; torch.as_tensor(x) makes one.")
        pair = self.encoder(self._cast(x), self._read_for(self.encoder, y, (len(x),)))
        if not isinstance(pair, tuple) or len(pair) != 2 or not all(isinstance(part, Tensor) for part in pair):
            raise ValueError(f"The encoder must return (mean, log_variance), not {type(pair).__name__}.")
        mean, log_variance = pair
        if mean.ndim != 2 or mean.shape != log_variance.shape or len(mean) != len(x):
            raise ValueError(
                f"The encoder must return mean and log-variance of shape (B, D) for B = {len(x)}, not "
                f"{tuple(mean.shape)} and {tuple(log_variance.shape)}."
            )
        return diagonal_gaussian(mean, log_variance)

    def prior(self, y: Any = None, batch: int | None = None) -> Distribution:
        """Return p(z|y): event shape (D,), batch shape (B,), where B is that of y, or ``batch`` for a VAE.

        Raises:
            ValueError: if neither y nor ``batch`` says how many, or the prior returns something else than a
                distribution over B latents.
        """
        if batch is None and y is None:
            raise ValueError("Say how many: pass y, or batch=... for a model without a condition.")
        c = self._read(y, None if batch is None else (batch,))
        if batch is None:
            batch = len(on_device(y, self.device)) if c is None else examples(c)
        p = self.prior_module(c, batch)
        if not isinstance(p, Distribution):
            raise ValueError(f"The prior must return a torch Distribution, not {type(p).__name__}.")
        if tuple(p.batch_shape) != (batch,) or len(p.event_shape) != 1:
            raise ValueError(
                f"The prior must return a distribution of batch shape ({batch},) and event shape (D,), as torch's "
                f"Independent makes it, not {tuple(p.batch_shape)} and {tuple(p.event_shape)}."
            )
        return p

    def likelihood(self, z: Float[Tensor, "*k b d"], y: Any = None) -> Any:
        """Return p(x|z,y): event shape that of one x, batch shape that of z without D.

        z may carry leading axes, e.g. (K, B, D) for K samples each; y is for B examples, or for one that all share.

        Raises:
            ValueError: if y is missing though the decoder reads c, z or y does not fit the model, or decoder or
                likelihood return something else than the contract says.
        """
        if z.ndim < 2 or not z.is_floating_point():
            raise ValueError(f"z has shape (B, D), or (K, B, D) for K samples each, not {z.dtype} of {tuple(z.shape)}.")
        lead = tuple(z.shape[:-1])
        c = self._read_for(self.decoder, y, lead)  # (K*B, C)
        output = self.decoder(self._cast(z.flatten(0, -2)), c)  # (K*B, ...)
        if any(part.shape[:1] != (math.prod(lead),) for part in tensors_in(output)):
            found = ", ".join(str(tuple(part.shape)) for part in tensors_in(output))
            raise ValueError(f"The decoder must return a row for each of {math.prod(lead)} z, not shape {found}.")
        p = self.likelihood_module(map_tensors(lambda part: part.unflatten(0, lead), output))  # (K, B, ...)
        if not isinstance(p, Distribution):
            raise ValueError(f"The likelihood must return a torch Distribution over x, not {type(p).__name__}.")
        if tuple(p.batch_shape) != lead:
            raise ValueError(
                f"The likelihood must return a distribution of batch shape {lead}, that of z without D, whose event is "
                f"one whole x, as torch's Independent makes it, not of batch shape {tuple(p.batch_shape)}."
            )
        return p

    def forward(self, x: Shaped[Tensor, "b *event"], y: Any = None) -> Output:
        """Return what the objective needs: posterior, prior, one z, and the likelihood at it.

        ``elbo_terms`` takes it in place of the model where only this call is to be had, as with torch's
        ``DistributedDataParallel``.

        Raises:
            ValueError: if x or y does not fit the model.
        """
        q = self.posterior(x, y)
        z = q.rsample()  # (B, D)
        return Output(q, self.prior(y, batch=len(x)), z, self.likelihood(z, y))

    @torch.no_grad()
    def draw(
        self,
        y: Any = None,
        *,
        count: int | None = None,
        temperature: float = 1.0,
        sample: bool = False,
        generator: torch.Generator | None = None,
    ) -> Shaped[Tensor, "b *event"]:
        r"""Draw: :math:`z \sim p(z|y)`, then the mean of p(x|z,y), for images in [0, 1], or a sample of it.

        Args:
            y: one condition per drawing, such as ``[7, 7]``; or a single one, such as 7, for all of them.
            count: how many, for a VAE or a single y.
            temperature: factor on a Gaussian prior's standard deviation; below 1 gives more typical, less varied
                drawings.
            sample: draw x from p(x|z,y) instead of taking its mean, as tables and sentences need.
            generator: source of randomness; the global one if not given.

        Raises:
            ValueError: if neither y nor ``count`` says how many, y does not fit the model, or p(x|z,y) has no mean.
        """
        if y is not None and not self.is_conditional:
            raise ValueError("This model takes no y; say count=... alone.")
        if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
            raise ValueError(f"count must be a whole number of at least 1, not {count!r}.")
        if y is None and count is None:
            raise ValueError("Say how many to draw: pass y, or count=... for a model without a condition.")
        z = tempered_sample(self.prior(y, batch=count), temperature, generator)
        distribution = self.likelihood(z, y)
        if sample:
            return sample_from(distribution, generator)
        return _mean(distribution, "pass sample=True")

    @torch.no_grad()
    def reconstruct(self, x: Shaped[Tensor, "b *event"], y: Any = None) -> Shaped[Tensor, "b *event"]:
        """Encode x, decode the posterior mean; return the means of p(x|z,y), shape of x.

        Raises:
            ValueError: if y is missing for a conditional model, x or y does not fit the model, or p(x|z,y) has no mean.
        """
        return _mean(self.likelihood(self.posterior(x, y).mean, y), "draw from model.likelihood(z, y)")

    def num_parameters(self) -> int:
        """Count the trainable numbers."""
        return sum(math.prod(p.shape) for p in self.parameters() if p.requires_grad)


def _mean(p: Distribution, instead: str) -> Tensor:
    """Return the mean of p(x|z,y), or say what to do where it has none."""
    try:
        return p.mean
    except NotImplementedError:
        raise ValueError(f"A {type(p).__name__} has no mean; {instead}.") from None
