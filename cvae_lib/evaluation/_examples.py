"""Data as one model takes them: the same x in the same order at every pass, and who shares a condition with whom."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from cvae_lib.conditions import Observed
from cvae_lib.data import Data, TensorSet, as_pixels, in_memory, in_order, raw, tensors_in
from cvae_lib.environment import at_most, settings
from cvae_lib.objective import LatentVariableModel


def device_of(model: object) -> torch.device:
    """Return the device of the first parameter; the CPU where there is none."""
    parameter = _first_parameter(model)
    return torch.device("cpu") if parameter is None else parameter.device


def _first_parameter(model: object) -> Tensor | None:
    return next(model.parameters(), None) if isinstance(model, nn.Module) else None


def prepared(model: object, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Return stored x as the model takes it, in its precision.

    A model that does not say how, by a method ``prepare(x, generator)``, gets grey levels as pixels in [0, 1] and other
    data as they are.
    """
    if (prepare := getattr(model, "prepare", None)) is not None:
        x = prepare(x, generator)
    elif x.dtype == torch.uint8:
        x = as_pixels(x)
    return _cast(model, x)


def prepared_in_grey(model: object, x: Tensor) -> Tensor:
    """Return x as :func:`prepared` does, but where that would draw binary pixels, the grey levels, their mean."""
    is_drawn = getattr(getattr(model, "likelihood_module", None), "pixels", None) == "stochastic"
    return _cast(model, as_pixels(x)) if is_drawn else prepared(model, x)


def _cast(model: object, x: Tensor) -> Tensor:
    parameter = _first_parameter(model)
    return x if parameter is None or not x.is_floating_point() else x.to(parameter.dtype)


def labelled(data: Data) -> tuple[Tensor, Int64[Tensor, " n"]]:
    """Return x as stored, and the labels.

    Raises:
        ValueError: if the data have no labels.
    """
    x, labels = raw(in_memory(data))
    if not isinstance(labels, Tensor) or labels.ndim != 1 or labels.dtype != torch.int64:
        raise ValueError(
            "Every example needs a label: pass an ImageSet, or (x, labels) with int64 labels of shape (n,)."
        )
    return x, labels


@dataclass(frozen=True)
class Examples:
    """Data for one model.

    Attributes:
        model: any model with the three distributions.
        data: x as stored, and the condition of each example, on the model's device; y is None for a VAE.
        seed: of what is drawn to prepare x.
        given_groups: (N,), on the CPU: the caller's groups, if there are any.
    """

    model: LatentVariableModel
    data: TensorSet
    seed: int
    given_groups: Int64[Tensor, " n"] | None = None

    def __len__(self) -> int:
        return len(self.data)

    @property
    def y(self) -> Any:
        """The condition of each example, (N, ...), or a tuple or dictionary of such; None for a VAE."""
        return self.data.y

    @property
    def device(self) -> torch.device:
        """The model's device."""
        return self.data.device

    @cached_property
    def groups(self) -> Int64[Tensor, " n"]:
        """Equal numbers for equal conditions, NaN being equal to NaN, all zero for a VAE; or the caller's groups."""
        if self.given_groups is not None:
            return self.given_groups
        if self.y is None:
            return torch.zeros(len(self), dtype=torch.int64)
        # What stands where nothing is observed is no part of y.
        is_masked = isinstance(self.y, Observed)
        y = Observed(self.y.image.masked_fill(~self.y.mask, 0), self.y.mask) if is_masked else self.y
        table = torch.cat([values.cpu().reshape(len(self), -1).double() for values in tensors_in(y)], dim=1)
        if bool((unknown := table.isnan()).any()):
            # NaN equals nothing, itself neither, and sorting by it puts equal rows apart.
            table = torch.cat([table.masked_fill(unknown, 0), unknown.to(table.dtype)], dim=1)
        groups: Tensor = table.unique(dim=0, return_inverse=True)[1]
        return groups

    def batches(self, size: int, *, grey: bool = False) -> Iterator[tuple[Tensor, Any, Tensor]]:
        """Go through (x, y, index) in the order of the data.

        Args:
            size: examples at a time.
            grey: leave out the drawing of binary pixels, see :func:`prepared_in_grey`.
        """
        # A stream of their own: what the model draws must not shift the pixels.
        stream = torch.Generator(self.device).manual_seed(self.seed)
        for x, y, index in in_order(self.data, size):
            assert index is not None  # data in memory have one
            yield prepared_in_grey(self.model, x) if grey else prepared(self.model, x, stream), y, index


def examples(
    model: LatentVariableModel,
    data: Data,
    *,
    y: Any = None,
    groups: Int64[Tensor, " n"] | None = None,
    seed: int = 0,
    reads_y: bool = True,
) -> Examples:
    """Pair the data, at most ``environment.settings.examples`` of them, with the conditions that the model takes.

    Args:
        model: any model with the three distributions; one that does not say whether it ``is_conditional`` gets the y
            that there is.
        data: tensors (x, y), an ``ImageSet``, a ``Dataset`` or a ``DataLoader``.
        y: the conditions, in place of the data's own.
        groups: which examples count as having the same y.
        seed: of what is drawn to prepare x.
        reads_y: whether the conditions are needed; if not, those of the data are left alone.

    Raises:
        ValueError: if the model lacks a distribution, ``y`` or ``groups`` have not one row per example, a conditional
            model has no y, or a VAE is given one.
    """
    if not all(callable(getattr(model, name, None)) for name in ("posterior", "prior", "likelihood")):
        raise ValueError(
            "model must be a CVAE, or have the methods posterior, prior and likelihood, and "
            f"{type(model).__name__} lacks one; a model that is wrapped is to be passed as it was before."
        )
    source = in_memory(data)
    x, own = raw(source)
    is_conditional = bool(getattr(model, "is_conditional", y is not None or own is not None))
    if y is not None and not is_conditional:
        raise ValueError("This model takes no y; leave it out.")
    y = (own if y is None else y) if is_conditional and reads_y else None
    if is_conditional and reads_y and not tensors_in(y := TensorSet(x, y, source.name).y):
        raise ValueError("The model is conditional, and the data give no y: let them be (x, y), or pass y=...")
    if groups is not None and len(groups) != len(x):
        raise ValueError(f"groups needs one entry per example, {len(x)}, not {len(groups)}.")
    some = slice(at_most(len(x), settings.examples))
    shown = TensorSet(x, y, source.name).subset(some).to(device_of(model))
    return Examples(model, shown, seed, None if groups is None else groups[some].cpu())
