"""Real-valued series: a real record of 44 years, its stand-in, and windows of either."""

import csv
import importlib.util
import math
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cvae_lib.data._download import DataUnavailable, first_line
from cvae_lib.environment import plain_defaults

WEEKS_PER_YEAR = 365.25 / 7


class Weekly(NamedTuple):
    """A weekly record; NaN where no value was measured.

    Attributes:
        values: in ``unit``.
        years: when, as in 1958.24.
        name: what was measured, for figures.
        unit: of the values.
    """

    values: Float[Tensor, " n"]
    years: Float[Tensor, " n"]
    name: str
    unit: str


@plain_defaults()
def co2() -> Weekly:
    """Load the weekly CO2 of Mauna Loa, March 1958 to December 2001: 2,284 weeks, in 59 of which nothing was measured.

    The record is in the public domain and comes with statsmodels, whose file is read without importing it.

    Raises:
        DataUnavailable: if statsmodels is not installed, or its file cannot be read.

    Source: Keeling and Whorf 2004, Scripps Institution of Oceanography, by the Carbon Dioxide Information Analysis
    Center (Oak Ridge National Laboratory); continuous measurements, averaged by week.
    """
    found = importlib.util.find_spec("statsmodels")
    if found is None or not found.submodule_search_locations:
        raise DataUnavailable(
            "statsmodels, which has the CO2 record, is not installed", "run `pip install statsmodels`"
        )
    path = Path(next(iter(found.submodule_search_locations))) / "datasets" / "co2" / "co2.csv"
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [row["co2"] for row in csv.DictReader(file)]
        values = torch.tensor([float(value) if value else math.nan for value in rows], dtype=torch.float64)
    except (OSError, KeyError, ValueError) as error:
        cause = f"statsmodels' CO2 record cannot be read ({first_line(error)})"
        raise DataUnavailable(cause, "run `pip install --force-reinstall statsmodels`") from error
    return Weekly(values.float(), _years(len(values)), "CO2", "ppm")


def weekly() -> Weekly:
    """Load the CO2 record or, where it cannot be had, simulate one like it, which a printed line then announces."""
    try:
        return co2()
    except DataUnavailable as error:
        print(f"No CO2 record; using a simulated one. {error.cause}; to change that, {error.remedy}.")
        return simulated_weekly()


@plain_defaults()
def simulated_weekly(weeks: int = 2284, seed: int = 0) -> Weekly:
    r"""Simulate a weekly record that rises, has seasons and gaps: the stand-in for :func:`co2`.

    .. math:: v_t = 315 + 0.8\,a + 0.012\,a^2 + 3 \sin 2\pi a + 0.8 \cos 4\pi a + u_t, \qquad u_t = 0.9\,u_{t-1} + e_t

    with a the years since the start and :math:`e_t \sim N(0, 0.25^2)`; one week in forty is missing.

    Raises:
        ValueError: if there is not at least one week.
    """
    if weeks < 1:
        raise ValueError(f"A record needs at least 1 week, not {weeks}.")
    generator = torch.Generator().manual_seed(seed)
    noise = 0.25 * torch.randn(weeks, generator=generator, dtype=torch.float64)
    wander = torch.zeros(weeks, dtype=torch.float64)
    for t in range(weeks):
        wander[t] = 0.9 * wander[t - 1] + noise[t] if t else noise[t]
    age = torch.arange(weeks, dtype=torch.float64) / WEEKS_PER_YEAR
    turn = 2 * math.pi * age
    values = 315 + 0.8 * age + 0.012 * age**2 + 3 * turn.sin() + 0.8 * (2 * turn).cos() + wander
    values[torch.rand(weeks, generator=generator) < 1 / 40] = math.nan
    return Weekly(values.float(), _years(weeks), "simulated record", "units")


def _years(weeks: int) -> Float[Tensor, " n"]:
    # The first week ends on 29 March 1958.
    return (1958 + 87.5 / 365.25 + torch.arange(weeks, dtype=torch.float64) / WEEKS_PER_YEAR).float()


def sliding(values: Float[Tensor, " n"], window: int, horizon: int) -> tuple[Tensor, Tensor, Bool[Tensor, "k w"]]:
    """Cut a record into every window and what followed it.

    Returns:
        windows (K, window), futures (K, horizon), and the mask of the windows, true where a value was measured; NaN
        stays where it was. K is n - window - horizon + 1, and entry k begins at step k: neighbours overlap.

    Raises:
        ValueError: if the record is too short for one window and its future.
    """
    if window < 1 or horizon < 1 or len(values) < window + horizon:
        raise ValueError(f"A record of {len(values)} steps holds no window of {window} with a future of {horizon}.")
    both = values.unfold(0, window + horizon, 1)  # (K, window + horizon)
    windows, futures = both[:, :window].contiguous(), both[:, window:].contiguous()
    return windows, futures, windows.isfinite()
