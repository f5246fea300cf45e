"""Real attributes as a condition: standardised, invertible, and each allowed to be unknown."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cvae_lib.conditions._condition import Condition, described, given
from cvae_lib.environment import is_cheap_to_inspect


class AttributeCondition(Condition):
    r"""Real attributes, standardised, each beside a flag that says whether it is known.

    .. math:: c_b = [k_b \odot (y_b - m) / s,\; k_b], \qquad k_{ba} = 1[y_{ba} \text{ is not NaN}]

    The flags let a network tell "not known" from "average". Mean m and standard deviation s are kept with the weights;
    until :meth:`standardise` sets them they are 0 and 1.

    Args:
        names: what the A attributes are called, in the order of y's columns.

    Raises:
        ValueError: if there is no name, or one stands twice.
    """

    allows_nan = True
    mean: Tensor
    std: Tensor

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        if isinstance(names, str) or not names or len(set(names)) < len(names):
            raise ValueError(f"Attributes need at least one name, and each its own, not {names!r}.")
        self.names, self.dim = tuple(names), 2 * len(names)
        self.register_buffer("mean", torch.zeros(len(names)))
        self.register_buffer("std", torch.ones(len(names)))

    def stack(self, attributes: Mapping[str, Tensor]) -> Float[Tensor, "n a"]:
        """Return attributes by name, shape (N,) each, as the columns of one y, e.g. those of an ``ImageSet``.

        Raises:
            ValueError: if one of the names is not there.
        """
        if missing := [name for name in self.names if name not in attributes]:
            raise ValueError(f"There is no attribute {missing[0]!r}; there are {', '.join(attributes) or 'none'}.")
        return torch.stack([attributes[name].to(self.mean.dtype) for name in self.names], dim=1)

    def _checked(self, y: Any) -> Float[Tensor, "b a"]:
        wanted = f"floating point of shape (B, {len(self.names)}) for {', '.join(self.names)}, NaN where not known"
        y = given(y, f"attributes, {wanted}")
        if not isinstance(y, Tensor) or not y.is_floating_point() or y.shape[1:] != (len(self.names),):
            raise ValueError(f"Attributes must be {wanted}, not {described(y)}.")
        if is_cheap_to_inspect(y) and bool((infinite := y.isinf().any(1)).any()):
            row = int(infinite.nonzero()[0])
            raise ValueError(f"Attributes must be finite, or NaN where not known, and row {row} is infinite.")
        return y

    @torch.no_grad()
    def standardise(self, training: Float[Tensor, "n a"]) -> "AttributeCondition":
        """Take mean and standard deviation from training data, shape (N, A), NaN left out; return this condition.

        Raises:
            ValueError: if an attribute has fewer than two different known values, or one that is infinite.
        """
        values = self._checked(training).cpu().double()  # in this order: MPS has no float64
        known = ~values.isnan()
        count = known.sum(0)
        mean = values.nan_to_num(0).sum(0) / count
        std = ((values - mean).nan_to_num(0).square().sum(0) / count).sqrt()
        for name, spread in zip(self.names, std.tolist(), strict=True):
            if not spread > 0:
                raise ValueError(f"Attribute {name!r} does not vary in these data, so it tells nothing; leave it out.")
        self.mean.copy_(mean)
        self.std.copy_(std)
        return self

    def encode(self, y: Float[Tensor, "b a"]) -> Float[Tensor, "b a"]:
        r"""Return the standardised attributes, :math:`(y - m) / s`, shape (B, A), NaN where they were NaN.

        Raises:
            ValueError: if y is None, not floating point, of another width, or (but on a GPU) infinite.
        """
        return (self._checked(y).to(self.mean.dtype) - self.mean) / self.std

    def decode(self, standardised: Float[Tensor, "b a"]) -> Float[Tensor, "b a"]:
        r"""Return attributes in their own units, :math:`m + s u`, shape (B, A): the inverse of :meth:`encode`."""
        return self.mean + self.std * standardised

    def forward(self, y: Float[Tensor, "b a"] | None) -> Float[Tensor, "b c"]:
        """Return standardised values, 0 where not known, and the flags, shape (B, 2A).

        Raises:
            ValueError: if y is None, not floating point, of another width, or (but on a GPU) infinite.
        """
        values = self.encode(y)  # type: ignore[arg-type]  # None is refused there
        known = ~values.isnan()
        return torch.cat([values.masked_fill(~known, 0), known.to(values.dtype)], dim=1)

    def check(self, y: Float[Tensor, "b a"] | None) -> None:
        """Raise ValueError as ``forward`` does."""
        self._checked(y)

    def mask_out(self, y: Float[Tensor, "b a"], where: Bool[Tensor, " b"]) -> Float[Tensor, "b a"]:
        """Return the attributes with rows of NaN where ``where`` is true."""
        return self._checked(y).masked_fill(where[:, None], math.nan)
