"""What a column of a table is: its kind, its constants, and which numbers it allows."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from cvae_lib.environment import is_cheap_to_inspect

ColumnKind = Literal["real", "count", "category"]


@dataclass(frozen=True)
class Column:
    """One column of a table, in plain values: ``dataclasses.asdict`` makes JSON of it, ``Column(**values)`` reads it.

    Attributes:
        name: what it is called.
        kind: ``real``; ``count``, a whole number of at least 0; or ``category``.
        categories: what a category can be; the code of each is its place here, from 0.
        mean: mean over the training rows: of the values where they are real, of log(1 + n) where they are counts.
        std: standard deviation of the same.

    Raises:
        ValueError: if the kind is unknown, a category has not two different values, or ``std`` is not above 0.
    """

    name: str
    kind: ColumnKind
    categories: Sequence[Any] = ()
    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "categories", tuple(self.categories))  # a list, where it comes from JSON
        distinct = len(set(self.categories))
        if self.kind not in get_args(ColumnKind):
            raise ValueError(f"Column {self.name!r} is 'real', 'count' or 'category', not {self.kind!r}.")
        if self.kind == "category" and (distinct < 2 or distinct < len(self.categories)):
            raise ValueError(f"Column {self.name!r} needs at least two categories, all different: {self.categories!r}.")
        if self.kind != "category" and self.categories:
            raise ValueError(f"Column {self.name!r} has categories, which only kind='category' has.")
        if not (math.isfinite(self.mean) and 0 < self.std < math.inf):
            raise ValueError(f"Column {self.name!r} needs a finite mean and std above 0, not {self.mean}, {self.std}.")


def checked_columns(columns: Sequence[Column]) -> tuple[Column, ...]:
    """Return the columns of a table.

    Raises:
        ValueError: if there is none, or two have one name.
    """
    names = [column.name for column in columns]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"A table needs at least one column, and each its own name, not {names}.")
    return tuple(columns)


class TableColumns(nn.Module):
    """What encoders and likelihoods know of a table: places and constants as buffers, and what is no entry of it.

    A checkpoint carries the constants, and a mark for each column: loading it into a model of other columns is refused.

    Args:
        columns: in the order of x.

    Attributes:
        columns: the same.
        mean: (F,), see :class:`Column`.
        std: (F,), likewise.
        real: places of the real columns in x.
        count: places of the counts.
        category: places of the categories.
        order: brings these three, laid one after the other, back into the order of x.

    Raises:
        ValueError: if there is no column, or two have one name.
    """

    mean: Tensor
    std: Tensor
    lowest: Tensor
    highest: Tensor
    real: Tensor
    count: Tensor
    category: Tensor
    order: Tensor

    def __init__(self, columns: Sequence[Column]) -> None:
        super().__init__()
        self.columns = checked_columns(columns)
        self.register_buffer("mean", torch.tensor([column.mean for column in columns]))
        self.register_buffer("std", torch.tensor([column.std for column in columns]))
        ends = {"real": (-math.inf, math.inf), "count": (0.0, math.inf)}
        spans = [ends.get(column.kind, (0.0, len(column.categories) - 1.0)) for column in columns]
        self.register_buffer("lowest", torch.tensor([low for low, _ in spans]), persistent=False)
        self.register_buffer("highest", torch.tensor([high for _, high in spans]), persistent=False)
        places = []
        for kind in get_args(ColumnKind):
            places.append(torch.tensor([place for place, column in enumerate(columns) if column.kind == kind]).long())
            self.register_buffer(kind, places[-1], persistent=False)
        self.register_buffer("order", torch.cat(places).argsort(), persistent=False)

    @property
    def sizes(self) -> list[int]:
        """How many categories each category column has, in the order of x."""
        return [len(column.categories) for column in self.columns if column.kind == "category"]

    def fits(self, x: Float[Tensor, "*batch f"]) -> Bool[Tensor, "*batch f"]:
        """Return which entries are what their column says: finite, a whole number of at least 0, a code."""
        whole = (x == x.round()) | (self.lowest < 0)
        return x.isfinite() & whole & (x >= self.lowest) & (x <= self.highest)

    def check(self, x: Float[Tensor, "*batch f"]) -> None:
        """Look whether x is of this width, and for entries that do not fit, where looking costs nothing.

        Raises:
            ValueError: naming column and row of the first that does not.
        """
        if not x.is_floating_point() or x.shape[-1] != len(self.columns):
            raise ValueError(f"A row of this table is {len(self.columns)} floats, not {x.dtype} of {tuple(x.shape)}.")
        if is_cheap_to_inspect(x) and not bool((fits := self.fits(x)).all()):
            row, place = (~fits).flatten(0, -2).nonzero()[0].tolist()
            column, value = self.columns[place], float(x.flatten(0, -2)[row, place])
            wanted = {"real": "finite", "count": "a whole number of at least 0"}
            due = wanted.get(column.kind, f"a code from 0 to {len(column.categories) - 1}")
            raise ValueError(f"Column {column.name!r} must be {due}, and is {value:g} in row {row}.")

    def get_extra_state(self) -> Int64[Tensor, " f"]:
        """Return a mark for each column, made of its name, kind and categories."""
        texts = [repr((column.name, column.kind, column.categories)) for column in self.columns]
        digests = [hashlib.sha256(text.encode()).digest()[:8] for text in texts]
        return torch.tensor([int.from_bytes(digest, "big", signed=True) for digest in digests])

    def set_extra_state(self, state: Int64[Tensor, " f"]) -> None:
        """Hold the marks of weights that are loaded against those of the columns.

        Raises:
            ValueError: naming the first column that is another than the weights were trained with.
        """
        own = self.get_extra_state()
        if state.shape != own.shape:
            raise ValueError(f"These weights are for a table of {len(state)} columns, and this one has {len(own)}.")
        if others := (state.cpu() != own).nonzero().flatten().tolist():
            raise ValueError(
                f"Column {self.columns[others[0]].name!r} is not the one that these weights were trained with: its "
                "name, kind or categories are others."
            )
