"""A table of mixed columns, real, count or category, as one matrix x, and back."""

import reprlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from cvae_lib.data._columns import Column, ColumnKind, TableColumns, checked_columns

Array = npt.NDArray[Any]


@runtime_checkable
class ByColumn(Protocol):
    """Columns by name, each a list, array or tensor of shape (N,): a dictionary of such, or a pandas ``DataFrame``."""

    def keys(self) -> Any:
        """Return the names."""

    def __getitem__(self, name: Any, /) -> Any:
        """Return a column."""


class Table:
    """The columns of a table, and how its rows become x and come back.

    x has a row for each row and a column for each column: a real number in its own unit, a count as a whole number, a
    category as its code.

        table = Table.from_data(frame, kinds={"plan": "category"})
        x = table.encode(frame)
        rows = table.decode(model.draw(y, sample=True))

    Args:
        columns: in the order of x.

    Attributes:
        columns: the same.

    Raises:
        ValueError: if there is no column, or two have one name.
    """

    def __init__(self, columns: Sequence[Column]) -> None:
        self.columns = checked_columns(columns)

    @classmethod
    def from_data(cls, data: ByColumn, kinds: Mapping[str, ColumnKind] | None = None) -> "Table":
        """Look at training rows and return the table that describes them.

        A kind that is not given follows from the dtype. Floats are real. Whole numbers are counts; real, if one is
        negative; a category, if there are but two of them, such as 0 and 1. All else is a category.

        Args:
            data: a list, array or tensor of shape (N,) for each name, in a dictionary or a pandas ``DataFrame``.
            kinds: ``real``, ``count`` or ``category``, by column, where it is known.

        Raises:
            ValueError: naming column and row, if a value is missing, infinite or no count, a column does not vary, or
                ``kinds`` names a column that is not there.
        """
        arrays, kinds = _arrays(data), kinds or {}
        if absent := [name for name in kinds if name not in arrays]:
            raise ValueError(f"kinds names {absent[0]!r}, which is no column; there are {', '.join(arrays)}.")
        return cls([_described(name, values, kinds.get(name)) for name, values in arrays.items()])

    def encode(self, data: ByColumn, *, dtype: torch.dtype | None = None) -> Float[Tensor, "n f"]:
        """Return rows as x, shape (N, F); columns that the table does not have are left out.

        Args:
            data: as in :meth:`from_data`.
            dtype: of x; torch's default if None. Real numbers are rounded to it; counts and codes are exact.

        Raises:
            ValueError: naming column and row, if a column is not there, or a value is missing, infinite, no count, a
                category that the table does not know, or a count too large for the dtype.
        """
        names = [column.name for column in self.columns]
        if absent := [name for name in names if name not in map(str, data.keys())]:
            held = ", ".join(map(str, data.keys()))
            raise ValueError(f"Column {absent[0]!r} is not in these data, which have {held}.")
        arrays = _arrays(data, names)
        values = np.stack([_encoded(column, arrays[column.name]) for column in self.columns], 1)
        x = torch.from_numpy(values).to(dtype or torch.get_default_dtype())
        for place, column in enumerate(self.columns):
            rounded = x[:, place].double().numpy() != values[:, place]
            if column.kind != "real" and rounded.any():
                row = int(rounded.argmax())
                raise ValueError(
                    f"Column {column.name!r} holds {values[row, place]:.0f} in row {row}, which {x.dtype} does not "
                    "hold exactly; pass dtype=torch.float64, or call the column real."
                )
        return x

    def decode(self, x: Float[Tensor, "n f"]) -> dict[str, Array]:
        """Return x by column, the inverse of :meth:`encode`: arrays of floats, of whole numbers, of categories.

        Raises:
            ValueError: naming column and row, if x holds no such rows, as when it holds means in place of draws.
        """
        x = x.detach().cpu()
        TableColumns(self.columns).check(x)
        found: dict[str, Array] = {}
        for column, values in zip(self.columns, x.unbind(-1), strict=True):
            whole = values.numpy() if column.kind == "real" else values.long().numpy()
            found[column.name] = _as_objects(column.categories)[whole] if column.kind == "category" else whole
        return found


def _arrays(data: ByColumn, names: Sequence[str] | None = None) -> dict[str, Array]:
    """Return the columns called ``names``, or all, as arrays of one length."""
    found: dict[str, Array] = {}
    for key in data.keys():  # noqa: SIM118  # what else has keys, such as a DataFrame, may be gone through otherwise
        name = str(key)
        if names is not None and name not in names:
            continue
        values = data[key]
        array = np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values)
        if array.dtype.kind in "US" and not hasattr(values, "dtype"):
            array = np.asarray(values, dtype=object)  # NumPy would make the text 'nan' of a gap in a list of texts
        if array.ndim != 1 or not array.size:
            raise ValueError(f"Column {name!r} must have one value for each row, not shape {array.shape}.")
        # What pandas calls a category is one, also where it is a number.
        found[name] = array.astype(object) if str(getattr(values, "dtype", "")) == "category" else array
    if len({len(array) for array in found.values()}) > 1:
        rows = ", ".join(f"{name} {len(array)}" for name, array in found.items())
        raise ValueError(f"All columns must have as many rows, but they have: {rows}.")
    return found


def _described(name: str, values: Array, kind: ColumnKind | None) -> Column:
    """Return what the training rows say of a column."""
    kind = kind or _inferred(name, values)
    distinct: set[Any] = set(_without_gaps(name, values)) if kind == "category" else set()
    numbers = np.zeros(0) if kind == "category" else _numbers(name, kind, values)
    if len(distinct) == 1 or (numbers.size and not (numbers != numbers[0]).any()):
        raise ValueError(f"Column {name!r} is {values[0]} in every row, so it tells nothing; leave it out.")
    if kind == "category":
        try:
            return Column(name, kind, tuple(sorted(distinct)))
        except TypeError:  # values of several types have no order of their own
            return Column(name, kind, tuple(sorted(distinct, key=repr)))
    numbers = np.log1p(numbers) if kind == "count" else numbers
    mean, std = float(numbers.mean()), float(numbers.std())
    if float(np.abs(numbers.astype(np.float32) - numbers).max()) > 1e-3 * std:
        raise ValueError(
            f"Column {name!r} varies by {std:.3g} around {mean:.10g}, too little for float32; subtract {mean:.10g}."
        )
    return Column(name, kind, mean=mean, std=std)


def _inferred(name: str, values: Array) -> ColumnKind:
    """Return the kind that follows from the dtype, see :meth:`Table.from_data`."""
    if values.dtype.kind not in "fiubOUST":
        raise ValueError(f"Column {name!r} holds {values.dtype}, neither numbers nor categories; make it either.")
    if values.dtype.kind == "f":
        return "real"
    if values.dtype.kind not in "iu" or len(np.unique(values)) <= 2:
        return "category"
    return "count" if values.min() >= 0 else "real"


def _encoded(column: Column, values: Array) -> Array:
    """Return a column of x in float64, or say which row is at fault."""
    if column.kind != "category":
        return _numbers(column.name, column.kind, values)
    codes = {category: code for code, category in enumerate(column.categories)}
    found = _without_gaps(column.name, values)
    for row, value in enumerate(found):
        if value not in codes:
            known = reprlib.repr(list(column.categories))
            raise ValueError(f"Column {column.name!r} holds {value!r} in row {row}, which is none of {known}.")
    return np.array([codes[value] for value in found], dtype=np.float64)


def _numbers(name: str, kind: ColumnKind, values: Array) -> Array:
    """Return a real column, or one of counts, in float64, or say which row is at fault."""
    try:
        numbers = values.astype(np.float64)
    except (TypeError, ValueError):
        row = next(row for row, value in enumerate(values) if not _is_number(value))
        raise ValueError(f"Column {name!r} holds {values.tolist()[row]!r} in row {row}, which is no number.") from None
    wrong, wanted = ~np.isfinite(numbers), "not finite; fill the gap, or leave that row out"
    if kind == "count" and not wrong.any():
        wrong, wanted = (numbers < 0) | (numbers != np.round(numbers)), "no count, a whole number of at least 0"
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(f"Column {name!r} holds {values[row]} in row {row}, which is {wanted}.")
    return numbers


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def _without_gaps(name: str, values: Array) -> list[Any]:
    """Return the values as Python's own, or say which row has none."""
    found: list[Any] = values.tolist()
    for row, value in enumerate(found):
        try:
            is_missing = value is None or bool(value != value)
        except TypeError:  # pandas' NA refuses to be compared
            is_missing = True
        if is_missing:
            raise ValueError(
                f"Column {name!r} has no value in row {row}; make 'unknown' a category, or leave that row out."
            )
    return found


def _as_objects(categories: Sequence[Any]) -> Array:
    """Return the categories as an array, of objects where they are of several types."""
    array = np.empty(len(categories), dtype=object)
    array[:] = categories
    types = {type(category) for category in categories}
    return np.array(categories) if len(types) == 1 and types <= {str, bool, int, float} else array
