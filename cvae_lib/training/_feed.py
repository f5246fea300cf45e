"""What one step is fed: pixels and conditions, this process's rows of them, in an order that can be resumed."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from cvae_lib.conditions import as_vector
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


@torch.no_grad()
def _first_unread(model: CVAE, y: Conditions, rows: Tensor) -> int | None:
    """Return the first of the rows of y of which the model's condition makes no finite numbers, None if there is none.

    To some conditions NaN says that a value is not known: an attribute nobody measured, a pixel nobody saw.
    """
    try:
        c = as_vector(model.condition(each(y, lambda values: values[rows.to(values.device)].to(model.device))))
        fine = bool(torch.isfinite(c).all())
    except Exception:  # what a condition raises depends on the condition, and a y for somebody's own objective on that
        fine = False
    if fine:
        return None
    if len(rows) == 1:
        return int(rows)
    return next((row for one in rows.split(1) if (row := _first_unread(model, y, one)) is not None), None)


class Feed:
    """A set with its conditions on the model's device and in its dtype, cut into batches.

    Args:
        model: who eats.
        data: images.
        y: what the model is told: None for the labels; a tensor of shape (n, ...), or a tuple or dictionary of such,
            one row per image; or a function of the :class:`~cvae_lib.data.Batch`.

    Raises:
        ValueError: if images, classes or conditions do not fit the model, or a condition is not finite where its
            module gives NaN no meaning.
    """

    def __init__(self, model: CVAE, data: ImageSet, y: Conditions = None) -> None:
        device = model.device
        shape = tuple(model.config.image_shape)
        if data.image_shape != shape:
            raise ValueError(
                f"The model takes images of shape {shape}, and those of {data.name} are {data.image_shape}."
            )
        if model.is_conditional and y is None and data.num_classes > model.config.num_classes:
            raise ValueError(f"The data have {data.num_classes} classes, the model knows {model.config.num_classes}.")
        for values in tensors_in(y):
            if len(values) != len(data):
                raise ValueError(f"y must have a row for each of the {len(data)} images, and has {len(values)}.")
        for values in tensors_in(y):
            if not values.is_floating_point() or torch.isfinite(values).all():
                continue
            for rows in (~torch.isfinite(values.flatten(1))).any(1).nonzero()[:, 0].split(1000):
                if (row := _first_unread(model, y, rows)) is not None:
                    raise ValueError(
                        f"y is not finite in row {row}, so the data are at fault; repair or leave out that row."
                    )
        self.data = data.to(device)
        self.y = each(y, lambda values: values.to(device))
        self.is_conditional = model.is_conditional
        self.dtype = next(model.parameters()).dtype

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
        *,
        batch_size: int,
        pixels: PixelMode,
        generator: torch.Generator,
        team: Team,
    ) -> None:
        super().__init__(model, data, y)
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
