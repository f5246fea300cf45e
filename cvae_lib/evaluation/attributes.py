"""Attribute calibration: is what comes out what was asked for, by the right amount?"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cvae_lib.environment import at_most, evaluation_mode, settings


@dataclass(frozen=True)
class Calibration:
    """The straight line through measured against asked values, and the errors themselves.

    Slope and R² have no unit; everything else is in the attribute's own.

    Attributes:
        slope: 1 is right; below 1 too little of what was asked for comes out, at 0 nothing of it.
        slope_error: its standard error.
        intercept: measured where 0 is asked.
        intercept_error: its standard error.
        r_squared: share of the variance of what was measured that the line explains.
        mean_absolute_error: of measured against asked, not against the line.
        mean_absolute_error_error: its standard error.
        bias: mean of measured minus asked.
        bias_error: its standard error.
        asked: (N,), the values asked for.
        measured: (N,), the values found.
    """

    slope: float
    slope_error: float
    intercept: float
    intercept_error: float
    r_squared: float
    mean_absolute_error: float
    mean_absolute_error_error: float
    bias: float
    bias_error: float
    asked: Float[Tensor, " n"]
    measured: Float[Tensor, " n"]

    def __str__(self) -> str:
        return (
            f"slope {self.slope:.3f} ± {self.slope_error:.3f}, "
            f"intercept {self.intercept:.3f} ± {self.intercept_error:.3f}, R² {self.r_squared:.3f}, "
            f"mean absolute error {self.mean_absolute_error:.3f} ± {self.mean_absolute_error_error:.3f}, "
            f"bias {self.bias:+.3f} ± {self.bias_error:.3f} ({len(self.asked)} drawings)"
        )


def calibration(asked: Float[Tensor, " n"], measured: Float[Tensor, " n"]) -> Calibration:
    r"""Fit measured against asked by least squares, and average the errors.

    With a for asked, m for measured, bars for means and :math:`S_{aa} = \sum_n (a_n - \bar a)^2`:

    .. math:: \text{slope } b = \frac{\sum_n (a_n - \bar a)(m_n - \bar m)}{S_{aa}}, \quad
              \text{intercept } c = \bar m - b \bar a, \quad
              s^2 = \frac{\sum_n (m_n - c - b a_n)^2}{N - 2},

    .. math:: SE_b = \frac{s}{\sqrt{S_{aa}}}, \quad
              SE_c = s \sqrt{\tfrac1N + \tfrac{\bar a^2}{S_{aa}}}, \quad
              R^2 = 1 - \frac{(N-2)\, s^2}{\sum_n (m_n - \bar m)^2}

    and :math:`\text{bias} = \bar m - \bar a`, :math:`\text{MAE} = \frac1N \sum_n |m_n - a_n|`. The standard errors
    take the spread around the line to be the same everywhere. R² is 0 where nothing that was measured varies.

    Raises:
        ValueError: if the two differ in length, there are fewer than 3 values, one is not finite, or only one
            value was asked for.

    Source: ordinary least squares, any textbook of statistics.
    """
    if asked.ndim != 1 or asked.shape != measured.shape:
        raise ValueError(f"asked and measured must both be (N,), not {tuple(asked.shape)} and {tuple(measured.shape)}.")
    a, m = asked.detach().cpu().double(), measured.detach().cpu().double()
    count = len(a)
    if count < 3:
        raise ValueError(f"A line with its error needs at least 3 values, not {count}.")
    for what, values in (("asked", a), ("measured", m)):
        if not bool(values.isfinite().all()):
            bad = int((~values.isfinite()).sum())
            raise ValueError(f"{bad} of the {count} {what} values are NaN or infinite; leave those drawings out.")
    if bool((a == a[0]).all()):
        raise ValueError("Only one value was asked for, so there is no slope; ask for at least two.")
    across, up = a - a.mean(), m - m.mean()
    spread = float(across.square().sum())
    slope = float(across @ up) / spread
    intercept = float(m.mean()) - slope * float(a.mean())
    left, total = float((up - slope * across).square().sum()), float(up.square().sum())
    noise = math.sqrt(left / (count - 2))
    off = m - a
    return Calibration(
        slope=slope,
        slope_error=noise / math.sqrt(spread),
        intercept=intercept,
        intercept_error=noise * math.sqrt(1 / count + float(a.mean()) ** 2 / spread),
        r_squared=1 - left / total if total else 0.0,
        mean_absolute_error=float(off.abs().mean()),
        mean_absolute_error_error=float(off.abs().std()) / math.sqrt(count),
        bias=float(off.mean()),
        bias_error=float(off.std()) / math.sqrt(count),
        asked=a.float(),
        measured=m.float(),
    )


def control_calibration(
    draw: Callable[[Tensor], Tensor],
    measure: Callable[[Tensor], Tensor],
    asked: Float[Tensor, " n"],
    *,
    batch_size: int = 500,
) -> Calibration:
    r"""Ask for values, draw, measure the drawings, and calibrate: :math:`m_n = \text{measure}(\text{draw}(a_n))`.

    It knows nothing of the model or of its condition: ``draw`` builds y from the values asked for. For slant::

        control_calibration(lambda a: model.draw(condition(a)), lambda x: measure(x).slant, asked)

    Where ``draw`` or ``measure`` is a module, it is in evaluation mode meanwhile.

    Args:
        draw: from (b,) values asked for to b drawings.
        measure: from b drawings to (b,) values.
        asked: (N,), repeated values are welcome; under a limit on examples some of them are taken, evenly spaced.
        batch_size: drawings at a time, which bounds the memory.

    Raises:
        ValueError: if ``measure`` does not give one number for each drawing, or as :func:`calibration` does.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}.")
    count = at_most(len(asked), settings.examples)
    asked = asked[torch.linspace(0, len(asked) - 1, count).round().long().to(asked.device)]
    found = []
    with evaluation_mode(draw, measure):
        for part in asked.split(batch_size):
            values = measure(draw(part))
            if values.shape != part.shape:
                shape = tuple(values.shape)
                raise ValueError(f"measure must give {len(part)} numbers for {len(part)} drawings, not {shape}.")
            found.append(values.cpu())
    return calibration(asked, torch.cat(found))
