"""A mean with its standard error, the form in which every estimate is returned."""

import math
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor


class Estimate(NamedTuple):
    """A mean with its standard error.

    The unit is that of the values: nats for a likelihood or an information, the observation's for a forecast's score.

    Attributes:
        mean: mean over the examples.
        standard_error: sample standard deviation over the square root of their number; where examples are not
            independent, what the function that made it says.
        per_example: (N,), the values themselves, in the order of the data, for paired comparisons.
    """

    mean: float
    standard_error: float
    per_example: Float[Tensor, " n"]

    def __str__(self) -> str:
        return f"{self.mean:.2f} ± {self.standard_error:.2f}"


def mean_and_error(values: Float[Tensor, " n"]) -> Estimate:
    r"""Return the mean of N independent values and its standard error, :math:`s / \sqrt N`; NaN for a single value.

    s is the sample standard deviation; computed in float64 on the CPU, wherever the values are.
    """
    values = values.detach().cpu().double()  # in this order: MPS has no float64
    error = float(values.std() / math.sqrt(len(values))) if len(values) > 1 else math.nan
    return Estimate(float(values.mean()), error, values.float())
