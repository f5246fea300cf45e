"""What every likelihood has in common: the contract, and what is checked of x."""

from typing import Any

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn
from torch.distributions import Distribution, Independent

from cvae_lib.data import check_unit_interval
from cvae_lib.gaussians import at_least_float32


class Likelihood(nn.Module):
    """A module that turns a decoder's output into p(x|z,y); the base of all, and of your own.

    To bring your own, subclass this and write ``forward``. ``prepare`` says how stored data become the x that the
    model is trained and judged on, once for both; as it stands here, x is taken as it is.

    Attributes:
        channels_per_pixel: how many numbers the decoder gives for each entry of x, along the first axis of the event.
    """

    channels_per_pixel: int = 1

    def forward(self, output: Any) -> Distribution:
        """Return p(x|z,y): event shape that of one x, batch shape that of z without D."""
        raise NotImplementedError("A likelihood needs a forward(output) that returns a distribution over x.")

    def prepare(
        self, x: Shaped[Tensor, "b *event"], generator: torch.Generator | None = None
    ) -> Shaped[Tensor, "b *event"]:
        """Return stored x as the model takes it; ``generator`` is for what is drawn on the way."""
        return x

    def fits(self, x: Shaped[Tensor, "b *event"]) -> Bool[Tensor, " b"]:
        """Return which prepared examples p(x|z,y) has a value for: those that are finite."""
        return torch.isfinite(x).flatten(1).all(1)

    def describe_support(self) -> str:
        """Say in words what :meth:`fits` asks of x."""
        return "finite"


def split_kinds(output: Float[Tensor, "*k"], kinds: int, event_dims: int) -> Float[Tensor, "*j"]:
    """Split the first axis of the event into the kinds of numbers a likelihood needs: (..., kinds, channels, ...).

    Raises:
        ValueError: if that axis is no multiple of them.
    """
    if output.shape[-event_dims] % kinds:
        raise ValueError(
            f"This likelihood needs {kinds} numbers per pixel, so a multiple of {kinds} channels, "
            f"but the decoder gives {output.shape[-event_dims]}."
        )
    split: Tensor = at_least_float32(output).unflatten(-event_dims, (kinds, -1))
    return split


class UnitIndependent(Independent):
    """Independent entries in [0, 1]; ``log_prob`` refuses what lies outside, where looking costs nothing."""

    def log_prob(self, value: Float[Tensor, "*shape"]) -> Float[Tensor, "*batch"]:
        """Return the log-probability, summed over the event, nats.

        Raises:
            ValueError: if an entry lies outside [0, 1] or is NaN (on the CPU, and not while compiling).
        """
        check_unit_interval(value)
        nats: Tensor = super().log_prob(value)  # type: ignore[no-untyped-call]
        return nats
