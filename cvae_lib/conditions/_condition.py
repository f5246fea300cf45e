"""What every condition has in common, and the three forms of c that networks can read."""

from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from cvae_lib.data import map_tensors, tensors_in
from cvae_lib.environment import is_cheap_to_inspect

MISSING = -1

Kind = Literal["none", "vector", "tokens", "image"]


class Tokens(NamedTuple):
    """A sequence of vectors with its padding mask; what stands under the padding is never read.

    Attributes:
        values: (B, L, C), one vector per position.
        mask: (B, L), true where there is a token, false where there is padding.
    """

    values: Float[Tensor, "b l c"]
    mask: Bool[Tensor, "b l"]


# What a network reads: a vector (B, C), tokens, or an image (B, C, H, W).
Representation = Float[Tensor, "b ..."] | Tokens


def examples(c: Representation) -> int:
    """Return B, for how many examples c speaks."""
    return len(c.values if isinstance(c, Tokens) else c)


def masked_mean(c: Tokens) -> Float[Tensor, "b c"]:
    r"""Return the mean of the tokens that are not padding, :math:`\sum_l m_l v_l / \sum_l m_l`, or 0: shape (B, C)."""
    count = c.mask.sum(1, keepdim=True).clamp_min(1)
    return without_padding(c).sum(1) / count


def without_padding(c: Tokens) -> Float[Tensor, "b l c"]:
    """Return the values with zeros under the padding, whatever stood there, even NaN."""
    return c.values.masked_fill(~c.mask[..., None], 0)


def as_vector(c: Representation) -> Float[Tensor, "b c"]:
    """Return c as one vector per example, for whoever reads nothing else: tokens by their mean, an image flat."""
    return masked_mean(c) if isinstance(c, Tokens) else c.flatten(1)


def repeated(c: Representation, lead: tuple[int, ...]) -> Tensor | Tokens:
    """Repeat c over the axes in front of the batch, and lay them out as one: (K, B) becomes K*B rows.

    Raises:
        ValueError: if c speaks for neither one example nor B.
    """
    if examples(c) not in (1, lead[-1]):
        raise ValueError(f"y is for {examples(c)} examples, but x or z has {lead[-1]}; they must agree.")
    if isinstance(c, Tokens):
        return Tokens(_repeated_rows(c.values, lead), _repeated_rows(c.mask, lead))
    return _repeated_rows(c, lead)


def _repeated_rows(tensor: Tensor, lead: tuple[int, ...]) -> Tensor:
    return tensor.expand(*lead, *tensor.shape[1:]).reshape(-1, *tensor.shape[1:])


def on_device(y: Any, device: torch.device) -> Any:
    """Return y on a device: a number, an array, or a list of numbers or of such lists as a tensor; None stays None."""
    if _is_numbers(y) or (hasattr(y, "__array__") and not isinstance(y, Tensor)):
        y = torch.as_tensor(list(y) if isinstance(y, range) else y, device=device)
    y = y[None] if isinstance(y, Tensor) and y.ndim == 0 else y
    return map_tensors(lambda part: part.to(device), y)


def _is_numbers(y: Any) -> bool:
    """Say whether y is a number, or a list of numbers or of such lists."""
    if isinstance(y, list):
        return bool(y) and all(_is_numbers(value) for value in y)
    return isinstance(y, int | float | range) and not isinstance(y, bool)


class Condition(nn.Module):
    """A module that turns raw y into c, what a network reads; the base of all conditions, and of your own.

    To bring your own, subclass this, set ``dim`` and ``kind``, write ``forward`` and ``mask_out``, and pass an
    instance as ``CVAE(..., condition=...)``. One law makes it fit everything else: for an example of which nothing is
    known, c is zero (or all padding). Every conditioning layer then does what it would do in a network without y.

    Attributes:
        dim: width of c: C of a vector (B, C), of tokens (B, L, C) or of an image (B, C, H, W); 0 for no condition.
        kind: ``vector``, ``tokens``, ``image`` or ``none``.
        num_classes: how many labels y can be; 0 where y is no label.
        allows_nan: whether NaN in y has a meaning, as for an attribute that is not known; else training refuses it.
    """

    dim: int
    kind: Kind = "vector"
    num_classes: int = 0
    allows_nan: bool = False

    @property
    def vector_dim(self) -> int:
        """Width of c as one vector, see :func:`as_vector`; a condition that gives images has to say how large."""
        return self.dim

    def forward(self, y: Any) -> Representation | None:
        """Return c for raw y; zero, or all padding, where y is missing."""
        raise NotImplementedError("A condition needs a forward(y) that returns what the networks read.")

    def check(self, y: Any) -> None:
        """Look at all of y before training, on the CPU, where asking for a value costs nothing.

        Raises:
            ValueError: if ``forward`` could not read it; here, if y is not finite, unless NaN has a meaning.
        """
        self.check_finite(y)

    def check_finite(self, y: Any) -> None:
        """Look for NaN and infinity in y, unless NaN has a meaning for this condition.

        Raises:
            ValueError: naming the first row that is not finite.
        """
        if self.allows_nan:
            return
        for values in tensors_in(y):
            if values.is_floating_point() and not torch.isfinite(values).all():
                row = int((~torch.isfinite(values.reshape(len(values), -1))).any(1).nonzero()[0])
                raise ValueError(
                    f"y is not finite in row {row}, so the data are at fault; repair or leave out that row."
                )

    def mask_out(self, y: Any, where: Bool[Tensor, " b"]) -> Any:
        """Return y with the examples missing at which ``where`` is true."""
        raise NotImplementedError("This condition cannot be dropped; give it a mask_out(y, where).")

    def drop(self, y: Any, probability: float, generator: torch.Generator | None = None) -> Any:
        r"""Return y with each example missing with the given probability, independently.

        A model trained so knows p(x|z,y) and p(x|z) at once, as guidance needs. Source: Ho and Salimans 2022,
        arXiv:2207.12598.

        Raises:
            ValueError: if the probability lies outside [0, 1].
        """
        if not 0 <= probability <= 1:
            raise ValueError(f"The probability of dropping y lies between 0 and 1, and {probability} does not.")
        if not (found := tensors_in(y)):
            raise ValueError(f"y must be made of tensors to be dropped, and this is {type(y).__name__}.")
        first = found[0]
        coins = torch.rand(len(first), generator=generator, device=generator.device if generator else first.device)
        return self.mask_out(y, (coins < probability).to(first.device))


def given(y: Any, what: str) -> Any:
    """Return y, or say that it is missing and what it should have been."""
    if y is None:
        raise ValueError(f"This model is conditional: pass y, {what}.")
    return y


def described(y: object) -> str:
    """Say what y is, for messages: dtype and shape of a tensor, else its type."""
    return f"{y.dtype} of shape {tuple(y.shape)}" if isinstance(y, Tensor) else type(y).__name__


def checked_labels(y: Int64[Tensor, " b"] | None, classes: int) -> Int64[Tensor, " b"]:
    """Return labels, or say in one sentence what is wrong with them."""
    y = given(y, f"int64 labels of shape (B,) in 0..{classes - 1}")
    if isinstance(y, Tensor) and y.ndim == 1 and y.dtype in (torch.int32, torch.int16, torch.uint8):
        y = y.long()
    if not isinstance(y, Tensor) or y.dtype != torch.int64 or y.ndim != 1:
        way = "labels.long().flatten() makes whole numbers of shape (B, 1) so, one_hot.argmax(1) one-hot rows"
        raise ValueError(f"Labels must be int64 of shape (B,), not {described(y)}; {way}.")
    if is_cheap_to_inspect(y):  # elsewhere a label out of range counts as missing
        least, most = (int(end) for end in y.aminmax())
        if least < MISSING or most >= classes:
            raise ValueError(
                f"Labels must lie in 0..{classes - 1} (or -1 for missing), but run from {least} to {most}."
            )
    return y
