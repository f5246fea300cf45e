"""What y is: modules that turn a raw condition into c, the tensors that a network reads.

A condition has a width ``dim`` and a ``kind``: it maps raw y to a vector (B, dim), to ``Tokens`` (B, L, dim) or to an
image (B, dim, H, W). "No condition" has width 0. Whatever the kind, y can be missing for any example: then c is zero
(or all padding) there, and every conditioning layer does what it would do in a network without y.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from cvae_lib.conditions._attributes import AttributeCondition
from cvae_lib.conditions._captions import CaptionCondition, Vocabulary
from cvae_lib.conditions._condition import (
    MISSING,
    Condition,
    Kind,
    Representation,
    Tokens,
    as_vector,
    checked_labels,
    described,
    examples,
    given,
    masked_mean,
    on_device,
    repeated,
    without_padding,
)

__all__ = [
    "MISSING",
    "AttributeCondition",
    "CaptionCondition",
    "CompositeCondition",
    "Condition",
    "EmbeddingCondition",
    "Kind",
    "LabelCondition",
    "NoCondition",
    "Observed",
    "ObservedCondition",
    "Representation",
    "Tokens",
    "Vocabulary",
    "as_vector",
    "examples",
    "masked_mean",
    "on_device",
    "repeated",
    "without_padding",
]


class NoCondition(Condition):
    """No condition at all: c has no entries, and the CVAE becomes the VAE."""

    dim = 0
    kind: Kind = "none"

    def forward(self, y: object = None) -> None:
        """Ignore y, whatever it is."""
        return None

    def drop(self, y: Any, probability: float, generator: torch.Generator | None = None) -> Any:
        """Return y as it is: nobody reads it."""
        return y


class _OfLabels(Condition):
    """What both conditions on a label have in common."""

    num_classes: int

    def check(self, y: Int64[Tensor, " b"] | None) -> None:
        """Raise ValueError as ``forward`` does."""
        checked_labels(y, self.num_classes)

    def mask_out(self, y: Int64[Tensor, " b"], where: Bool[Tensor, " b"]) -> Int64[Tensor, " b"]:
        """Return the labels with ``MISSING`` where ``where`` is true."""
        return checked_labels(y, self.num_classes).masked_fill(where, MISSING)


class LabelCondition(_OfLabels):
    r"""A class label as a one-hot row, :math:`c_{bk} = 1[y_b = k]`; a missing label, -1, is a row of zeros.

    Args:
        num_classes: how many classes there are; labels run from 0 to ``num_classes - 1``.

    Raises:
        ValueError: if ``num_classes`` is below 1.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"A label needs at least 1 class, not {num_classes}.")
        self.dim = self.num_classes = num_classes

    def forward(self, y: Int64[Tensor, " b"] | None) -> Float[Tensor, "b c"]:
        """Return the one-hot rows of y, shape (B, num_classes); ``MISSING`` (-1) gives zeros.

        Raises:
            ValueError: if y is None, not an int64 vector, or out of range; on a GPU, which would have to wait for the
                answer, a label out of range counts as missing.
        """
        y = checked_labels(y, self.dim)
        # One comparison serves as encoding, and leaves -1 as a row of zeros without a branch.
        return (y[:, None] == torch.arange(self.dim, device=y.device)).float()  # (B, num_classes)


class EmbeddingCondition(_OfLabels):
    r"""A class label as a learned vector, :math:`c_b = E_{y_b}`; a missing label, -1, is a row of zeros.

    Args:
        num_classes: how many classes there are.
        width: C, entries of a label's vector.

    Raises:
        ValueError: if either is below 1.
    """

    def __init__(self, num_classes: int, width: int) -> None:
        super().__init__()
        if num_classes < 1 or width < 1:
            raise ValueError(f"An embedding needs at least 1 class and 1 entry, not {num_classes} and {width}.")
        self.num_classes, self.dim = num_classes, width
        self.embed = nn.Embedding(num_classes, width)

    def forward(self, y: Int64[Tensor, " b"] | None) -> Float[Tensor, "b c"]:
        """Return the vectors of the labels, shape (B, C); ``MISSING`` (-1) gives zeros.

        Raises:
            ValueError: if y is None, not an int64 vector, or out of range; on a GPU, which would have to wait for the
                answer, a label out of range counts as missing.
        """
        y = checked_labels(y, self.num_classes)
        known = (y >= 0) & (y < self.num_classes)
        vectors: Tensor = self.embed(y * known) * known[:, None]
        return vectors


class Observed(NamedTuple):
    """The known part of an image.

    Attributes:
        image: (B, channels, H, W); what it holds where the mask is false is never read, NaN included.
        mask: (B, 1, H, W), true where a pixel is known.
    """

    image: Float[Tensor, "b ch h w"]
    mask: Bool[Tensor, "b 1 h w"]


class ObservedCondition(Condition):
    r"""The known part of an image and where it is, :math:`c = [m \odot x,\; m]` along the channels, for any mask m.

    Nothing observed is a missing y. Sources: Pathak et al. 2016, arXiv:1604.07379; Ivanov, Figurnov and Vetrov 2019,
    arXiv:1806.02382.

    Args:
        image_shape: (channels, H, W).
        flat: give c as one vector (B, (channels + 1) H W), for MLPs, instead of an image (B, channels + 1, H, W).

    Raises:
        ValueError: if the shape is not that of an image.
    """

    allows_nan = True

    def __init__(self, image_shape: Sequence[int], flat: bool = False) -> None:
        super().__init__()
        if len(image_shape) != 3:
            raise ValueError(f"What can be observed in part is an image (channels, H, W), not {tuple(image_shape)}.")
        channels, height, width = image_shape
        self.image_shape, self.flat = (channels, height, width), flat
        self.dim = (channels + 1) * (height * width if flat else 1)
        self.kind = "vector" if flat else "image"

    @property
    def vector_dim(self) -> int:
        """Width of c laid flat: (channels + 1) H W."""
        channels, height, width = self.image_shape
        return (channels + 1) * height * width

    def _checked(self, y: Any) -> Observed:
        channels, height, width = self.image_shape
        wanted = f"Observed(image (B, {channels}, {height}, {width}), mask (B, 1, {height}, {width}) of bool)"
        y = given(y, wanted)
        if not isinstance(y, Observed):
            raise ValueError(f"An observed part must be {wanted}, not {described(y)}.")
        fits = y.image.is_floating_point() and tuple(y.image.shape[1:]) == self.image_shape
        if not fits or y.mask.dtype != torch.bool or tuple(y.mask.shape) != (len(y.image), 1, height, width):
            raise ValueError(
                f"An observed part must be {wanted}, not image {described(y.image)} and mask {described(y.mask)}."
            )
        return y

    def forward(self, y: Observed | None) -> Float[Tensor, "b ..."]:
        """Return the image with unknown pixels at 0, and the mask: (B, channels + 1, H, W), or flat.

        Raises:
            ValueError: if y is None or of another kind or shape, or the mask is not bool.
        """
        image, mask = self._checked(y)
        c = torch.cat([image.masked_fill(~mask, 0), mask.to(image.dtype)], dim=1)
        return c.flatten(1) if self.flat else c

    def check(self, y: Observed | None) -> None:
        """Raise ValueError as ``forward`` does, and where a known pixel is NaN or infinite."""
        image, mask = self._checked(y)
        bad = (~image.isfinite() & mask).flatten(1).any(1)
        if bad.any():
            raise ValueError(f"The observed part is not finite in row {int(bad.nonzero()[0])}; mask those pixels out.")

    def mask_out(self, y: Observed, where: Bool[Tensor, " b"]) -> Observed:
        """Return y with nothing observed in the examples where ``where`` is true."""
        image, mask = self._checked(y)
        return Observed(image, mask & ~where[:, None, None, None])


class CompositeCondition(Condition):
    r"""Several conditions at once, their vectors side by side, :math:`c = [c_1, c_2, \dots]`; y is a tuple.

    Each part of y can be missing by itself; :meth:`drop` makes all of them miss together.

    Args:
        parts: the conditions, in the order of y.

    Raises:
        ValueError: if a part gives no vector.
    """

    def __init__(self, *parts: Condition) -> None:
        super().__init__()
        if not parts or any(part.kind != "vector" for part in parts):
            raise ValueError("Only conditions that give vectors can be joined: labels, embeddings, attributes.")
        self.parts = nn.ModuleList(parts)
        self.dim = sum(part.dim for part in parts)

    def _checked(self, y: Any) -> tuple[Any, ...]:
        y = given(y, f"a tuple of {len(self.parts)}, one for each condition")
        if not isinstance(y, tuple) or len(y) != len(self.parts):
            raise ValueError(
                f"This condition has {len(self.parts)} parts: y must be a tuple of as many, not {described(y)}."
            )
        return y

    def forward(self, y: tuple[Any, ...] | None) -> Float[Tensor, "b c"]:
        """Return the parts' vectors side by side, shape (B, C).

        Raises:
            ValueError: if y is no tuple of as many, its parts differ in length, or one of them is wrong.
        """
        vectors = [part(value) for part, value in zip(self.parts, self._checked(y), strict=True)]
        if len({len(vector) for vector in vectors}) > 1:
            raise ValueError(f"The parts of y must have one length, not {[len(vector) for vector in vectors]}.")
        return torch.cat(vectors, dim=1)

    def check(self, y: tuple[Any, ...] | None) -> None:
        """Let every part look at its own."""
        for part, value in zip(self.parts, self._checked(y), strict=True):
            part.check(value)  # type: ignore[operator]

    def check_finite(self, y: Any) -> None:
        """Let every part look at its own, where y comes in parts."""
        if isinstance(y, tuple) and len(y) == len(self.parts):
            for part, value in zip(self.parts, y, strict=True):
                part.check_finite(value)  # type: ignore[operator]
        else:
            super().check_finite(y)

    def mask_out(self, y: tuple[Any, ...], where: Bool[Tensor, " b"]) -> tuple[Any, ...]:
        """Return y with every part missing in the examples where ``where`` is true."""
        parts = zip(self.parts, self._checked(y), strict=True)
        return tuple(part.mask_out(value, where) for part, value in parts)  # type: ignore[operator]
