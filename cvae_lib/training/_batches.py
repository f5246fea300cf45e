"""What training is fed: minibatches checked, prepared, and on the model's device."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from cvae_lib.data import (
    Batch,
    Data,
    Examples,
    ImageSet,
    Minibatches,
    TensorSet,
    as_pixels,
    map_tensors,
    raw,
    rows_of,
    tensors_in,
)

Conditions = Any  # None (what the data give), tensors with a row per example, or a function of the batch


class Batches(Minibatches):
    """The minibatches of one training, as its model takes them.

    Args:
        model: whose ``prepare``, condition, device and precision count.
        data: as for :class:`cvae_lib.data.Minibatches`, like the other arguments.
        y: in place of the data's own: tensors with a row for each example, or a function of the batch.
        reads_y: whether y goes to the model's condition as it is, which then checks it beforehand.

    Raises:
        ValueError: if data or conditions do not fit the model, or a condition is not finite.
    """

    def __init__(
        self,
        model: nn.Module,
        data: Data,
        y: Conditions = None,
        batch_size: int = 256,
        generator: torch.Generator | None = None,
        *,
        reads_y: bool = True,
        rank: int = 0,
        size: int = 1,
    ) -> None:
        parameter = next(model.parameters())
        self.model, self.device, self.dtype = model, parameter.device, parameter.dtype
        super().__init__(data, batch_size, self.device, generator, rank=rank, size=size)
        self.pixels = generator
        if size > 1 and generator is not None:  # the order is shared, the pixels are not
            self.pixels = torch.Generator(self.device).manual_seed(generator.initial_seed() + 1 + rank)
        self.name = getattr(self.data, "name", "the data")
        self.is_conditional: bool | None = getattr(model, "is_conditional", None)  # None: a model that does not say
        self._check_x()
        self.y = self._checked(y, reads_y)

    def _check_x(self) -> None:
        wanted = getattr(getattr(self.model, "config", None), "event_shape", None)
        if self.is_in_memory and wanted is not None and tuple(wanted) != self.data.event_shape:
            raise ValueError(
                f"The model takes x of shape {tuple(wanted)}, and those of {self.name} are {self.data.event_shape}."
            )

    def _checked(self, y: Conditions, reads_y: bool) -> Conditions:
        """Return y on the model's device, once model and condition have been held against it."""
        if self.is_conditional is False:
            if y is not None:
                raise ValueError("The model takes no y, so y=... would be ignored; leave it out.")
            return None
        if callable(y) or (y is None and not self.is_in_memory):
            return y
        if not self.is_in_memory:
            raise ValueError("A Dataset or DataLoader brings its own y; leave y=... out, or make it a function.")
        if y is None and isinstance(self.data, ImageSet):
            classes = getattr(self.model, "num_classes", self.data.num_classes)
            if not classes:
                raise ValueError(
                    "The model's condition reads no labels: pass y, with a row for each image, or a function of the "
                    "batch."
                )
            if self.data.num_classes > classes:
                raise ValueError(f"The data have {self.data.num_classes} classes, the model knows {classes}.")
        x, own = raw(self.data)
        told = own if y is None else TensorSet(x, y, self.name).y  # which counts the rows
        if told is None and self.is_conditional is None:
            return None
        if not tensors_in(told):
            raise ValueError(
                "The model is conditional: y must be a tensor with a row for each example, a tuple or dictionary of "
                f"such, or a function of the batch, not {type(told).__name__}; a vocabulary's encode() makes captions "
                "one."
            )
        for values in tensors_in(told):
            if values.layout != torch.strided:
                raise ValueError("y must be dense, and holds a sparse tensor; pass y.to_dense().")
        if (condition := getattr(self.model, "condition", None)) is not None:
            # On the CPU: elsewhere, and in a compiled step, a condition cannot look at values.
            on_cpu = map_tensors(lambda values: values.cpu(), told)
            (condition.check if reads_y else condition.check_finite)(on_cpu)
        return None if y is None else map_tensors(lambda values: values.to(self.device), told)

    def prepared_epoch(self, number: int) -> Iterator[Batch]:
        """Yield the batches of an epoch, counted from 0, as the model takes them."""
        for found in self.epoch(number):
            x, y = self.prepared(found)
            yield Batch(x, y, found.index)  # type: ignore[arg-type]  # a loader gives no index

    def prepared(self, found: Examples) -> tuple[Tensor, Any]:
        """Return x as the model takes it and y as its condition reads it, on its device.

        Raises:
            ValueError: if a conditional model is given no y.
        """
        x, y = (map_tensors(lambda values: values.to(self.device, non_blocking=True), part) for part in found[:2])
        # A model that does not say how it takes stored data gets grey levels as pixels, and the rest as it is.
        prepare = getattr(self.model, "prepare", lambda x, _: as_pixels(x) if x.dtype == torch.uint8 else x)
        x = prepare(x, self.pixels)
        x = x.to(self.dtype) if x.is_floating_point() else x
        if self.is_conditional is False:
            return x, None
        if callable(self.y):
            y = self.y(Batch(x, y, found.index))  # type: ignore[arg-type]
        elif self.y is not None:
            y = rows_of(self.y, found.index)  # type: ignore[arg-type]  # only for data in memory
        if y is None and self.is_conditional:
            raise ValueError("The model is conditional, and the data give no y: let them give (x, y).")
        return x, y

    def check(self, batch: Batch, step: int) -> None:
        """Say which example is at fault if the likelihood has no value for its x.

        Raises:
            ValueError: naming the step and the first such example.
        """
        likelihood = getattr(self.model, "likelihood_module", None)
        fits = getattr(likelihood, "fits", lambda x: x.flatten(1).isfinite().all(1))(batch.x)
        if not bool(fits.all()):
            row = int((~fits).nonzero()[0])
            where = f"example {row} of the batch" if batch.index is None else f"example {int(batch.index[row])}"
            support = getattr(likelihood, "describe_support", lambda: "finite")()
            wrong = f"not {support}" if bool(batch.x[row].isfinite().all()) else "NaN or infinite"
            if not bool(fits.any()):
                raise ValueError(
                    f"No x in the batch of step {step} of {self.name} is {support}: divide bytes by 255, undo a "
                    "normalisation, or take a likelihood for such numbers."
                )
            raise ValueError(
                f"The batch of step {step} has x that is {wrong}, first in {where} of {self.name}, so the data are at "
                "fault; repair or leave out that example."
            )
