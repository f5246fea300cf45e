"""Anything that gives (x, y): whole tensors, an ``ImageSet``, a ``Dataset`` or a ``DataLoader``."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Int64, Shaped
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils.data import DataLoader, Dataset

from cvae_lib.data._imageset import ImageSet


class Examples(NamedTuple):
    """Some examples as a set or a loader gives them, before x is prepared.

    Attributes:
        x: (B, *event), as stored: grey levels, numbers, tokens.
        y: the conditions, a tensor with a row for each example, a tuple or dictionary of such, or None.
        index: (B,), their positions in the set; None from a loader, which does not tell.
    """

    x: Shaped[Tensor, "b *event"]
    y: Any
    index: Int64[Tensor, " b"] | None  # type: ignore[assignment]  # hides tuple.index, which nobody needs here


def map_tensors(function: Callable[[Tensor], Any], y: Any) -> Any:
    """Return y, a tensor or a tuple, list or dictionary of such, with ``function`` applied to each tensor."""
    return pytree.tree_map_only(Tensor, function, y)


def tensors_in(y: Any) -> list[Tensor]:
    """Return every tensor in y."""
    return [leaf for leaf in pytree.tree_leaves(y) if isinstance(leaf, Tensor)]


def rows_of(y: Any, index: Tensor | slice) -> Any:
    """Return y for the examples at ``index``, tensor by tensor where y is made of several."""
    return map_tensors(lambda values: values[index], y)


@dataclass(frozen=True, eq=False)
class TensorSet:
    """Examples held in memory as whole tensors.

    Attributes:
        x: (n, *event), of any event shape, as it is stored.
        y: a tensor with a row for each example, a tuple or dictionary of such, or None.
        name: what the set is called in messages.

    Raises:
        ValueError: if x is no tensor or empty, or a part of y has another number of rows.
    """

    x: Shaped[Tensor, "n *event"]
    y: Any = None
    name: str = "the data"

    def __post_init__(self) -> None:
        object.__setattr__(self, "x", _as_tensor(self.x, "x"))
        if isinstance(self.y, list) and not tensors_in(self.y):  # of numbers, which would else count as so many parts
            object.__setattr__(self, "y", _as_tensor(self.y, "y"))
        elif self.y is not None:
            object.__setattr__(self, "y", pytree.tree_map(lambda part: _as_tensor(part, "y"), self.y))
        if self.x.ndim < 2 or not self.x.numel():
            raise ValueError(f"x must have a row for each example, shape (n, ...), not {tuple(self.x.shape)}.")
        for values in tensors_in(self.y):
            if values.ndim < 1 or len(values) != len(self.x):
                rows = len(values) if values.ndim else "no rows"
                raise ValueError(f"y must have a row for each of the {len(self.x)} examples, and has {rows}.")

    def __len__(self) -> int:
        return len(self.x)

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one x."""
        return tuple(self.x.shape[1:])

    @property
    def device(self) -> torch.device:
        """The device of x."""
        return self.x.device

    def to(self, device: str | torch.device) -> "TensorSet":
        """Return the set on ``device``."""
        return replace(self, x=self.x.to(device), y=map_tensors(lambda values: values.to(device), self.y))

    def subset(self, index: slice | Tensor) -> "TensorSet":
        """Return the examples at ``index``."""
        return replace(self, x=self.x[index], y=rows_of(self.y, index))


InMemory = ImageSet | TensorSet
Data = InMemory | Tensor | tuple[Any, ...] | Dataset[Any] | DataLoader[Any]  # what training and judging take


def _as_tensor(values: Any, what: str) -> Tensor:
    try:
        return values if isinstance(values, Tensor) else torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(
            f"{what} must be a tensor, or an array that makes one, not {type(values).__name__}."
        ) from None


def as_source(data: Data, what: str = "data") -> InMemory | Dataset[Any] | DataLoader[Any]:
    """Return data in one of four forms: an ``ImageSet``, a :class:`TensorSet`, a ``Dataset`` or a ``DataLoader``.

    Args:
        data: one of these, a tensor x, or a pair (x, y).
        what: its name in messages.

    Raises:
        ValueError: if it is something else.
    """
    if isinstance(data, ImageSet | TensorSet | DataLoader | Dataset):
        return data
    if isinstance(data, tuple | list) and len(data) == 2:
        return TensorSet(_as_tensor(data[0], "x"), data[1])
    if isinstance(data, Tensor) or hasattr(data, "__array__"):
        return TensorSet(_as_tensor(data, "x"))
    raise ValueError(
        f"{what} must be tensors (x, y), an ImageSet, a Dataset or a DataLoader, not {type(data).__name__}."
    )


def unpacked(batch: Any) -> tuple[Tensor, Any]:
    """Return (x, y) of what a ``Dataset`` or ``DataLoader`` gives: x alone, (x, y), or x and the parts of y.

    Raises:
        ValueError: if it gives something else.
    """
    if isinstance(batch, Tensor):
        return batch, None
    if isinstance(batch, tuple | list) and batch and isinstance(batch[0], Tensor):
        return batch[0], batch[1] if len(batch) == 2 else tuple(batch[1:]) or None
    raise ValueError(f"A loader must give x, or a pair (x, y), of tensors, not {type(batch).__name__}.")


def in_memory(data: Data, what: str = "data") -> InMemory:
    """Return all of the data as whole tensors; a loader is gone through once, and its batches are put together.

    Raises:
        ValueError: if there is nothing in it, or it gives something else than (x, y).
    """
    source = as_source(data, what)
    if isinstance(source, ImageSet | TensorSet):
        return source
    # A generator of its own, since a loader otherwise draws a seed from the caller's random stream.
    loader = source if isinstance(source, DataLoader) else DataLoader(source, 256, generator=torch.Generator())
    parts = [unpacked(batch) for batch in loader]
    if not parts:
        raise ValueError(f"{what} has no examples.")
    flat = [pytree.tree_flatten(y) for _, y in parts]
    y = None
    if tensors_in(parts[0][1]):
        leaves = [torch.cat(column) for column in zip(*(found for found, _ in flat), strict=True)]
        y = pytree.tree_unflatten(leaves, flat[0][1])
    return TensorSet(torch.cat([x for x, _ in parts]), y)


def in_order(data: InMemory, batch_size: int) -> Iterator[Examples]:
    """Go through a set in its own order."""
    x, y = raw(data)
    for index in torch.arange(len(data), device=data.device).split(batch_size):
        yield Examples(x[index], rows_of(y, index), index)


def raw(data: InMemory) -> tuple[Tensor, Any]:
    """Return x and y as a set stores them: grey levels and labels of images."""
    return (data.images, data.labels) if isinstance(data, ImageSet) else (data.x, data.y)
