"""Figures of forecasts: a window, what may follow as bands or as paths, and what did follow; and a long record."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from torch import Tensor

from cvae_lib.course.figures.picture import BLACK, BLUE, COLOURS, GREEN, ORANGE, Picture, new_figure

BANDS = ((0.95, 0.16), (0.8, 0.2), (0.5, 0.3))  # level and shade, widest first
STYLES = ("--", ":", "-.")
NAVY = "#00395C"  # darker than the bands it is drawn over


class Fan(NamedTuple):
    """One window with a forecast.

    Attributes:
        title: above the panel.
        window: the past; entries at which the mask is false are not drawn, but marked at the foot.
        draws: futures drawn, (M, T).
        mask: true where a value of the window is known; all of them if None.
        future: what came.
        paths: show the first so many draws as lines.
        bands: show the central 50, 80 and 95 % of the draws, step by step.
        lines: name -> one future, such as a point forecast.
        exact: futures drawn from the known law; their central 80 % is outlined.
    """

    title: str
    window: Float[Tensor, " w"]
    draws: Float[Tensor, "m t"]
    mask: Bool[Tensor, " w"] | None = None
    future: Float[Tensor, " t"] | None = None
    paths: int = 0
    bands: bool = True
    lines: Mapping[str, Float[Tensor, " t"]] = {}  # never written to
    exact: Float[Tensor, "m t"] | None = None


def fans(panels: Sequence[Fan], alt: str, *, columns: int = 3, y_label: str = "", height: float = 2.4) -> Picture:
    """Show windows side by side with their forecasts, all on one scale.

    Raises:
        ValueError: if there is no panel.
    """
    if not panels:
        raise ValueError("There must be at least one window to show.")
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = new_figure(0.6 + 2.9 * columns, 0.5 + height * rows, columns, rows, sharex=True, sharey=True)
    for place, fan in zip(axes, panels, strict=False):
        draw_fan(place, fan)
    for place in axes[len(panels) :]:
        place.axis("off")
    for place in axes[-columns:]:
        place.set_xlabel("steps from now")
    for place in axes[::columns]:
        place.set_ylabel(y_label)
    named: dict[str, Artist] = {}
    for place in axes:
        named |= dict(zip(*reversed(place.get_legend_handles_labels()), strict=True))
    if named:
        many = min(2 * columns - 1, len(named))
        figure.legend(named.values(), named, fontsize=9, loc="outside lower center", ncols=many, frameon=False)
    return Picture(figure, alt)


def draw_fan(axes: Axes, fan: Fan) -> None:
    """Draw one window and its forecast."""
    past = np.arange(1 - len(fan.window), 1)
    ahead = np.arange(1, fan.draws.shape[1] + 1)
    window = fan.window.detach().cpu().double()
    if fan.mask is not None:
        window = torch.where(fan.mask.cpu(), window, torch.nan)
    draws = fan.draws.detach().cpu()
    for level, shade in BANDS if fan.bands else ():
        low, high = (draws.quantile((1 + sign * level) / 2, dim=0) for sign in (-1, 1))
        axes.fill_between(ahead, low, high, color=BLUE, alpha=shade, linewidth=0, label=f"{level:.0%} of the draws")
    for row, path in enumerate(draws[: fan.paths]):
        axes.plot(ahead, path, color=NAVY, linewidth=0.7, alpha=0.65, label="draws" if row == 0 else None)
    if fan.exact is not None:
        for row, sign in enumerate((-1, 1)):
            edge = fan.exact.detach().cpu().quantile((1 + 0.8 * sign) / 2, dim=0)
            axes.plot(ahead, edge, color=ORANGE, linestyle="--", label="80%, exact law" if row == 0 else None)
    axes.plot(past, window, color=BLACK, marker="o", markersize=2, linewidth=1.2, label="window")
    if bool(window.isnan().any()):
        foot = np.full(int(window.isnan().sum()), 0.03)
        where = past[window.isnan().numpy()]
        axes.plot(where, foot, "x", color=BLACK, markersize=4, transform=axes.get_xaxis_transform(), label="hidden")
    if fan.future is not None:
        axes.plot(ahead, fan.future.detach().cpu(), color=GREEN, linewidth=1.8, label="what came")
    for (name, line), colour, style in zip(fan.lines.items(), (ORANGE, *COLOURS[3:]), STYLES, strict=False):
        axes.plot(ahead, line.detach().cpu(), color=colour, linestyle=style, linewidth=2.2, label=name)
    axes.set_title(fan.title, fontsize=10)


def fan_and_end(fan: Fan, window: tuple[float, float], alt: str) -> Picture:
    """Show one fan, and beside it how its draws are spread at the last step, the exact law's outlined; for panels.

    Args:
        window: from and to, of the series.
    """
    width, height = 7.6, 2.9
    figure, (left, right) = new_figure(width, height, columns=2, layout=None)
    draw_fan(left, fan)
    left.set_position((0.45 / width, 0.42 / height, 5.0 / width, 2.2 / height))
    left.set(ylim=window)
    left.set_xlabel("steps from now", fontsize=9, labelpad=1)
    left.tick_params(labelsize=8)
    left.set_yticks([])
    right.set_position((5.6 / width, 0.42 / height, 1.9 / width, 2.2 / height))
    edges = np.linspace(*window, 41)
    bins = {"orientation": "horizontal", "density": True}
    right.hist(fan.draws[:, -1].detach().cpu().numpy(), edges, color=BLUE, alpha=0.6, **bins)  # type: ignore[arg-type]
    if fan.exact is not None:
        end = fan.exact[:, -1].detach().cpu().numpy()
        right.hist(end, edges, color=ORANGE, histtype="step", linewidth=1.5, **bins)  # type: ignore[arg-type]
    right.set(ylim=window, xticks=[], yticks=[])
    right.set_title("last step", fontsize=10)
    return Picture(figure, alt)


def timeline(
    years: Float[Tensor, " n"],
    values: Float[Tensor, " n"],
    alt: str,
    *,
    spans: Mapping[str, tuple[float, float]] | None = None,
    y_label: str = "",
) -> Picture:
    """Show a long record, its missing weeks as ticks along the foot, and the parts into which it is split.

    Args:
        spans: name -> from and to, in years.
    """
    figure, (axes,) = new_figure(7.4, 2.8)
    when, what = years.detach().cpu().numpy(), values.detach().cpu().numpy()
    axes.plot(when, what, color=BLUE, linewidth=0.9)
    gone = when[np.isnan(what)]
    axes.plot(gone, np.full(len(gone), 0.03), "|", color=BLACK, markersize=9, transform=axes.get_xaxis_transform())
    for row, (name, (low, high)) in enumerate((spans or {}).items()):
        axes.axvspan(low, high, color="#888888", alpha=0.08 + 0.12 * (row % 2), linewidth=0)
        axes.text((low + high) / 2, 0.96, name, transform=axes.get_xaxis_transform(), ha="center", va="top", fontsize=9)
    axes.set(xlabel="year", ylabel=y_label)
    return Picture(figure, alt)
