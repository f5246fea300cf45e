"""``ImageSet``: images as one uint8 tensor on a device, and minibatches picked and binarised there.

Everything happens by index on whole tensors; no image is ever handled alone.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64, Shaped, UInt8
from torch import Tensor

from cvae_lib.data._pixels import PixelMode, as_pixels

Index = slice | Sequence[int] | Int64[Tensor, " b"] | Bool[Tensor, " n"]


def check_split(split: str) -> None:
    """Raise ValueError if there is no such part of a data set."""
    if split not in ("train", "test"):
        raise ValueError(f"split must be 'train' or 'test', not {split!r}.")


class Batch(NamedTuple):
    """A minibatch of B images.

    Attributes:
        x: pixels in [0, 1], shape (B, channels, H, W).
        y: labels, shape (B,).
        index: each image's position in its set, shape (B,).
    """

    x: Float[Tensor, "b c h w"]
    y: Int64[Tensor, " b"]
    index: Int64[Tensor, " b"]  # type: ignore[assignment]  # hides tuple.index, which nobody needs here


def _as_tensor(values: Any) -> Any:
    """Return an array of numpy, or a list, as a tensor on the CPU; a tensor or None as it is."""
    return values if values is None or isinstance(values, Tensor) else torch.as_tensor(values, device="cpu")


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Labelled images on one device, all in one tensor.

    Attributes:
        images: grey levels 0 to 255, shape (n, c, h, w).
        labels: class of each image, 0 to ``num_classes - 1``.
        name: what the set is called in figures and messages.
        attributes: further quantities per image, each of shape (n,), by name.
        masks: true where there is ink, shape (n, 1, h, w), if known.
        classes: how many classes there are; None stands for the largest label + 1.

    Raises:
        ValueError: if a tensor has the wrong dtype, shape, length, device or range.
    """

    images: UInt8[Tensor, "n c h w"]
    labels: Int64[Tensor, " n"]
    name: str
    attributes: Mapping[str, Shaped[Tensor, " n"]] = field(default_factory=dict)
    masks: Bool[Tensor, "n 1 h w"] | None = None
    classes: int | None = None

    def __post_init__(self) -> None:
        for name in ("images", "labels", "masks"):
            object.__setattr__(self, name, _as_tensor(getattr(self, name)))
        object.__setattr__(self, "attributes", {name: _as_tensor(values) for name, values in self.attributes.items()})
        if self.labels.dtype in (torch.uint8, torch.int16, torch.int32):
            object.__setattr__(self, "labels", self.labels.long())
        shape = tuple(self.images.shape)
        if self.images.dtype != torch.uint8 or self.images.ndim != 4:
            found = f"{self.images.dtype} of shape {shape}"
            raise ValueError(f"images must be uint8 of shape (n, c, h, w), not {found}.")
        if self.images.numel() == 0:
            raise ValueError(f"An ImageSet needs at least one image, and these have shape {shape}.")
        if self.labels.dtype != torch.int64:
            raise ValueError(f"labels must be int64, not {self.labels.dtype}; use labels.long().")
        for what, values in {"labels": self.labels, **self.attributes}.items():
            if values.shape != shape[:1]:
                raise ValueError(f"{what} must have shape ({shape[0]},), not {tuple(values.shape)}.")
        masks = self.masks
        if masks is not None and (masks.dtype != torch.bool or masks.shape != (shape[0], 1, *shape[2:])):
            wanted = f"bool of shape {(shape[0], 1, *shape[2:])}"
            raise ValueError(f"masks must be {wanted}, not {masks.dtype} of shape {tuple(masks.shape)}.")
        others = (self.labels, *self.attributes.values(), *(() if masks is None else (masks,)))
        if any(tensor.device != self.images.device for tensor in others):
            raise ValueError(f"Every tensor must be on {self.device} like the images; move them there first.")
        low, high = (int(label) for label in self.labels.aminmax())
        if low < 0:
            raise ValueError(f"labels must not be negative, and the smallest is {low}.")
        classes = high + 1 if self.classes is None else self.classes
        if high >= classes:
            raise ValueError(f"labels must be below classes={classes}, and the largest is {high}.")
        object.__setattr__(self, "classes", classes)

    def __len__(self) -> int:
        return self.images.shape[0]

    @property
    def device(self) -> torch.device:
        """The device of every tensor of the set."""
        return self.images.device

    @property
    def num_classes(self) -> int:
        """How many classes there are; a subset keeps the number of the whole."""
        assert self.classes is not None  # set in __post_init__
        return self.classes

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one x, the same as :attr:`image_shape`."""
        return self.image_shape

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Shape (c, h, w) of one image."""
        c, h, w = self.images.shape[1:]
        return c, h, w

    def to(self, device: str | torch.device) -> "ImageSet":
        """Return the set on ``device``."""
        attributes = {name: values.to(device) for name, values in self.attributes.items()}
        masks = None if self.masks is None else self.masks.to(device)
        images, labels = self.images.to(device), self.labels.to(device)
        return replace(self, images=images, labels=labels, attributes=attributes, masks=masks)

    def subset(self, index: Index) -> "ImageSet":
        """Return the images at ``index``: a slice, positions, or a bool tensor, true for those to keep.

        Raises:
            ValueError: if the index has the wrong type or shape, lies outside the set, or picks nothing.
        """
        if not isinstance(index, slice):
            index = self._positions(index)
        attributes = {name: values[index] for name, values in self.attributes.items()}
        masks = None if self.masks is None else self.masks[index]
        images, labels = self.images[index], self.labels[index]
        return replace(self, images=images, labels=labels, attributes=attributes, masks=masks)

    def _positions(self, index: Sequence[int] | Tensor) -> Int64[Tensor, " b"]:
        chosen = torch.as_tensor(index, device=self.device)
        if chosen.dtype == torch.bool and chosen.shape == (len(self),):
            return chosen.nonzero().squeeze(1)
        if chosen.ndim != 1 or chosen.is_floating_point() or chosen.dtype == torch.bool:
            wanted = f"integers of shape (b,) or bool of shape ({len(self)},)"
            raise ValueError(f"An index is {wanted}, not {chosen.dtype} of shape {tuple(chosen.shape)}.")
        if chosen.numel() and not 0 <= int(chosen.min()) <= int(chosen.max()) < len(self):
            raise ValueError(f"An index into {self.name} must lie between 0 and {len(self) - 1}.")
        return chosen.long()

    def split(self, *sizes: int) -> tuple["ImageSet", ...]:
        """Return consecutive parts of the given sizes, from the first image on.

        Raises:
            ValueError: if a size is below 1, or together they are more than there are images.
        """
        if min(sizes, default=1) < 1 or sum(sizes) > len(self):
            raise ValueError(f"Sizes must be at least 1 and sum to at most {len(self)}, not {sizes}.")
        ends = torch.tensor([0, *sizes], device="cpu").cumsum(0).tolist()
        return tuple(self.subset(slice(a, b)) for a, b in zip(ends[:-1], ends[1:], strict=True))

    def pixels(
        self,
        index: Int64[Tensor, " b"] | None = None,
        mode: PixelMode = "grey",
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "b c h w"]:
        """Return the images at ``index`` (None: all) as float32 in [0, 1].

        Args:
            index: positions on the set's device.
            mode: ``grey`` is v / 255; ``stochastic`` draws 0 or 1 with that probability, afresh at every
                call; ``threshold`` is 1 where v / 255 >= 0.5.
            generator: where stochastic pixels come from; None is torch's global one.

        Raises:
            ValueError: if the mode is unknown.
        """
        levels = self.images if index is None else self.images.index_select(0, index)
        return as_pixels(levels, mode, generator)

    def batches(
        self,
        batch_size: int,
        *,
        pixels: PixelMode = "stochastic",
        shuffle: bool = True,
        drop_last: bool = False,
        generator: torch.Generator | None = None,
    ) -> "Batches":
        """Return minibatches that can be gone through again and again, with their number as ``len()``.

        Each is ``(x, y, index)``: pixels, labels, and the positions in the set of the images it holds.

        Args:
            batch_size: images per minibatch.
            pixels: see :meth:`pixels`.
            shuffle: take the images in a new order each time, else as they lie.
            drop_last: leave out a last, smaller minibatch.
            generator: source of order and pixels, on the set's device; None is torch's global one.

        Raises:
            ValueError: if ``batch_size`` is below 1, or ``drop_last`` would leave nothing.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}.")
        if drop_last and batch_size > len(self):
            raise ValueError(f"drop_last leaves nothing of {len(self)} images with batch_size={batch_size}.")
        return Batches(self, batch_size, pixels, shuffle, drop_last, generator)


@dataclass(frozen=True, eq=False)
class Batches:
    """The minibatches of a set; each pass over them is shuffled and binarised afresh.

    Attributes:
        data: the set.
        batch_size: images per minibatch.
        pixels: see :meth:`ImageSet.pixels`.
        shuffle: whether each pass has an order of its own.
        drop_last: whether a last, smaller minibatch is left out.
        generator: source of order and pixels; None is torch's global one.
    """

    data: ImageSet
    batch_size: int
    pixels: PixelMode
    shuffle: bool
    drop_last: bool
    generator: torch.Generator | None

    def __len__(self) -> int:
        whole, rest = divmod(len(self.data), self.batch_size)
        return whole + (rest > 0 and not self.drop_last)

    def order(self) -> Int64[Tensor, " n"]:
        """Return positions in the order of one pass: a new permutation, or as they lie."""
        if self.shuffle:
            return torch.randperm(len(self.data), generator=self.generator, device=self.data.device)
        return torch.arange(len(self.data), device=self.data.device)

    def pick(self, index: Int64[Tensor, " b"]) -> Batch:
        """Return the minibatch of the images at ``index``, its pixels drawn afresh."""
        x = self.data.pixels(index, self.pixels, self.generator)
        return Batch(x, self.data.labels.index_select(0, index), index)

    def __iter__(self) -> Iterator[Batch]:
        for index in torch.split(self.order(), self.batch_size)[: len(self)]:
            yield self.pick(index)
