"""What one step is fed: pixels and conditions, this process's rows of them, in an order that can be resumed."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from cvae_lib.conditions import CompositeCondition
from cvae_lib.conditions._condition import described
from cvae_lib.data import Batch, ImageSet, PixelMode
from cvae_lib.model import CVAE
from cvae_lib.training._distributed import Share, Team

Conditions = Any  # None (the labels), tensors with a row per image, or a function of the batch


def each(tree: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Return a tensor, tuple, NamedTuple, list or dictionary of tensors with ``function`` applied to each of them."""
    if isinstance(tree, Tensor):
        return function(tree)
    if isinstance(tree, dict):
        return {key: each(part, function) for key, part in tree.items()}
    if isinstance(tree, tuple | list):
        parts = [each(part, function) for part in tree]
        return type(tree)(*parts) if hasattr(tree, "_fields") else type(tree)(parts)
    return tree


def tensors_in(tree: Any) -> list[Tensor]:
    """Return every tensor that :func:`each` sees."""
    found: list[Tensor] = []
    each(tree, lambda tensor: found.append(tensor) or tensor)  # type: ignore[func-returns-value]
    return found


class Feed:
    """A set with its conditions on the model's device and in its dtype, cut into batches.

    Args:
        model: who eats.
        data: images.
        y: what the model is told: None for the labels; a tensor of shape (n, ...), or a tuple or dictionary of such,
            one row per image; or a function of the :class:`~cvae_lib.data.Batch`.
        is_read: whether the model's condition is what reads y; an objective of one's own may take y apart before.

    Raises:
        ValueError: if images, classes or conditions do not fit the model, or a condition is not finite.
    """

    def __init__(self, model: CVAE, data: ImageSet, y: Conditions = None, is_read: bool = True) -> None:
        device = model.device
        shape = tuple(model.config.image_shape)
        if data.image_shape != shape:
            raise ValueError(
                f"The model takes images of shape {shape}, and those of {data.name} are {data.image_shape}."
            )
        if model.is_conditional and y is None and not model.config.num_classes:
            raise ValueError(
                f"The model is told {model.config.condition!r}, not labels: pass y, with a row for each image, or a "
                "function of the batch."
            )
        if model.is_conditional and y is None and data.num_classes > model.config.num_classes:
            raise ValueError(f"The data have {data.num_classes} classes, the model knows {model.config.num_classes}.")
        if y is not None and not callable(y) and not tensors_in(y):
            raise ValueError(
                "y must be a tensor with a row for each image, a tuple or dictionary of such, or a function of the "
                f"batch, not {described(y)}; a vocabulary's encode() makes a tensor of captions."
            )
        for values in tensors_in(y):
            if values.layout != torch.strided:
                raise ValueError("y must be dense, and holds a sparse tensor; pass y.to_dense().")
            count = len(values) if values.ndim else "no rows at all"
            if count != len(data):
                raise ValueError(f"y must have a row for each of the {len(data)} images, and has {count}.")
        if not callable(y):
            _check_finite(model.condition, y)
        self.condition, self.is_conditional = model.condition, model.is_conditional
        self.is_read = is_read and model.is_conditional
        if y is not None:
            self.check(y)
        self.data = data.to(device)
        self.y = each(y, lambda values: values.to(device))
        self.dtype = next(model.parameters()).dtype

    def check(self, y: Any) -> None:
        """Let the model's condition look at y on the CPU: elsewhere, and in a compiled step, it cannot ask for values.

        Raises:
            ValueError: if it cannot read y, such as a label out of range.
        """
        if self.is_read and not callable(y):
            self.condition.check(each(y, lambda values: values.cpu()))

    def meal(self, batch: Batch, share: Share | None = None) -> tuple[Tensor, Any]:
        """Return (x, y) of a batch as the model takes them, or this process's rows of them."""
        x = batch.x.to(self.dtype)
        y = None
        if self.is_conditional:
            if self.y is None:
                y = batch.y
            else:
                y = self.y(batch) if callable(self.y) else each(self.y, lambda values: values[batch.index])
        if share is not None:
            x, y = x[share.rows], each(y, lambda values: values[share.rows])
        return x, y


def _check_finite(condition: nn.Module, y: Any) -> None:
    """Look for NaN and infinity in y, but where they have a meaning for the condition that reads them."""
    if isinstance(condition, CompositeCondition) and isinstance(y, tuple) and len(y) == len(condition.parts):
        for part, values in zip(condition.parts, y, strict=True):
            _check_finite(part, values)
    elif not getattr(condition, "reads_gaps", False):
        for values in tensors_in(y):
            if values.is_floating_point() and not torch.isfinite(values).all():
                row = int((~torch.isfinite(values.flatten(1))).any(1).nonzero()[0])
                raise ValueError(
                    f"y is not finite in row {row}, so the data are at fault; repair or leave out that row."
                )


class Epochs(Feed):
    """The shuffled batches of a training set, whose place can be written down and found again.

    Attributes:
        generator: where order and pixels come from.
        begun: the generator's state before the order of the running epoch was drawn; None between epochs.
    """

    def __init__(
        self,
        model: CVAE,
        data: ImageSet,
        y: Conditions,
        is_read: bool,
        batch_size: int,
        pixels: PixelMode,
        generator: torch.Generator,
        team: Team,
    ) -> None:
        super().__init__(model, data, y, is_read)
        self.batches = self.data.batches(batch_size, pixels=pixels, generator=generator)
        self.generator = generator
        self.team = team
        self.begun: Tensor | None = None

    def __len__(self) -> int:
        return len(self.batches)

    def epoch(self, skip: int) -> Iterator[tuple[Tensor, Any, Share, Batch]]:
        """Yield (x, y, share, batch) for one epoch, leaving out the first ``skip`` batches of a resumed one."""
        now = self.generator.get_state()
        if self.begun is None:
            self.begun = now
            order = self.batches.order()
        else:
            self.generator.set_state(self.begun)
            order = self.batches.order()
            self.generator.set_state(now)
        for index in order.split(self.batches.batch_size)[skip:]:
            batch = self.batches.pick(index)
            share = self.team.share(len(index))
            yield *self.meal(batch, share if self.team.size > 1 else None), share, batch

    def finish(self) -> None:
        """End the epoch, so that the next one draws an order of its own."""
        self.begun = None


def blame(x: Tensor, batch: Batch, step: int, data: ImageSet) -> None:
    """Say which image is at fault if x is not finite or lies outside [0, 1], where the data are bounded so.

    Raises:
        ValueError: naming the step and the first such image.
    """
    rows = x.flatten(1)
    fine = (rows >= 0) & (rows <= 1) if data.bounded else rows.isfinite()
    wrong = ~fine.all(1)
    if wrong.any():
        row = int(wrong.nonzero()[0])
        kind = "outside [0, 1]" if torch.isfinite(rows[row]).all() else "NaN or infinite"
        raise ValueError(
            f"The batch of step {step} has pixels that are {kind}, first in image {int(batch.index[row])} of "
            f"{data.name}, so the data are at fault; repair or leave out that image."
        )
