"""Pictures quick enough to follow a slider: no layout engine and hardly any ticks, which take most of the time."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from torch import Tensor
from torch.distributions import MultivariateNormal

from cvae_lib.course.figures.diagrams import ellipse
from cvae_lib.course.figures.images import mosaic
from cvae_lib.course.figures.picture import BLUE, COLOURS, ORANGE, Picture, new_figure


def placed(width: float, height: float, places: Sequence[tuple[float, float, float, float]]) -> tuple[Any, list[Axes]]:
    """Return a figure and axes without ticks at the given places (left, bottom, width, height), in inches."""
    figure, panels = new_figure(width, height, columns=len(places), layout=None)
    for axes, (left, bottom, across, up) in zip(panels, places, strict=True):
        axes.set_position((left / width, bottom / height, across / width, up / height))
        axes.set_xticks([])
        axes.set_yticks([])
    return figure, panels


def titled_sheets(sheets: Sequence[Float[Tensor, "_ c h w"]], titles: Sequence[str], alt: str) -> Picture:
    """Show grids of images side by side, each in at most five columns and all of one height, with a title above each.

    A sheet of one image is therefore drawn large.
    """
    drawn = [mosaic(sheet, min(5, len(sheet))) for sheet in sheets]
    height, gap, top = 1.6, 0.3, 0.3
    widths = [height * sheet.shape[1] / sheet.shape[0] for sheet in drawn]
    places, left = [], 0.1
    for width in widths:
        places.append((left, 0.05, width, height))
        left += width + gap
    figure, panels = placed(left - gap + 0.1, height + top + 0.05, places)
    for axes, sheet, title in zip(panels, drawn, titles, strict=True):
        axes.imshow(sheet, interpolation="nearest", aspect="auto")
        axes.set_title(title, fontsize=10, pad=5)
        axes.axis("off")
    return Picture(figure, alt)


def bound_meter(
    target: MultivariateNormal,
    q: MultivariateNormal,
    nats: Mapping[str, float],
    bottom: float,
    window: tuple[float, float, float, float],
    alt: str,
) -> Picture:
    """Show a Gaussian q beside its target in the plane, and a column of nats: the ELBO, the gap above it, the ceiling.

    Args:
        target, q: as ellipses at one and two standard deviations; the target filled grey, q in blue.
        nats: ``elbo``, ``gap`` and ``log_p``.
        bottom: nats at the foot of the column.
        window: (left, right, low, high), the part of the plane that is shown.
    """
    figure, (plane, column) = placed(6.2, 2.9, [(0.35, 0.4, 2.4, 2.4), (3.2, 0.25, 2.9, 2.5)])
    for deviations in (1.0, 2.0):
        plane.fill(*ellipse(target, deviations).T, color="#888888", alpha=0.3, linewidth=0)
        plane.plot(*ellipse(q, deviations).T, color=BLUE)
    plane.plot(*target.mean, marker="+", color="black", markersize=9)
    plane.plot(*q.mean, marker="o", color=BLUE, markersize=4)
    left, right, low, high = window
    plane.set(xlim=(left, right), ylim=(low, high), xlabel="z\u2081", ylabel="z\u2082")

    elbo, ceiling = max(nats["elbo"], bottom), nats["log_p"]
    column.axis("off")
    column.hlines([ceiling - below for below in range(1, int(ceiling - bottom) + 1)], 0, 1, colors="#cccccc", lw=0.8)
    column.fill_between([0.05, 0.95], elbo, ceiling, facecolor=ORANGE, hatch="///", edgecolor="white", linewidth=0)
    column.plot([-0.05, 1.05], [ceiling, ceiling], color="black", linewidth=2.5)
    column.plot([-0.05, 1.05], [elbo, elbo], color=BLUE, linewidth=4)
    column.set(xlim=(-0.1, 4), ylim=(bottom, ceiling + 0.06 * (ceiling - bottom)))
    rows = (("black", "log p(x|y)", ceiling), ("#8a5a00", "gap", nats["gap"]), (BLUE, "ELBO", nats["elbo"]))
    for row, (colour, name, value) in enumerate(rows):
        place: dict[str, Any] = {"transform": column.transAxes, "color": colour, "va": "center", "fontsize": 12}
        column.text(0.36, 0.9 - 0.2 * row, name, **place)
        column.text(1.0, 0.9 - 0.2 * row, f"{value:.2f}", ha="right", **place)
    return Picture(figure, alt)


def bound_sweeps(
    panels: Sequence[tuple[str, Sequence[float], Mapping[str, Sequence[float]]]], log_p: float, alt: str
) -> Picture:
    """Show the ELBO as one thing about q is moved and the rest stays exact, under the ceiling log p(x|y).

    Args:
        panels: for each, what is moved, its values, and name -> ELBO at each of them.
    """
    figure, drawn = new_figure(7.0, 2.8, columns=len(panels), sharey=True)
    for axes, (label, values, lines) in zip(drawn, panels, strict=True):
        axes.axhline(log_p, color="black", linestyle="--", label="log p(x|y)")
        for (name, elbo), colour, style in zip(lines.items(), COLOURS, ("-", "-.", ":"), strict=False):
            axes.plot(np.asarray(values), np.asarray(elbo), color=colour, linestyle=style, label=name)
        axes.set(xlabel=label)
        axes.legend(fontsize=9, loc="lower center", frameon=False)
    drawn[0].set_ylabel("nats")
    return Picture(figure, alt)


def training_meter(
    steps: Sequence[float],
    lines: Mapping[str, Sequence[float]],
    now: int,
    columns: Sequence[float],
    tops: tuple[float, float],
    title: str,
    alt: str,
) -> Picture:
    """Show a training up to one of its steps, the rest in grey, and beside it a column for each latent at that step.

    Args:
        steps: at which the training was looked at.
        lines: name -> what was seen at each of them, nats.
        now: which of them is shown, counted from 0.
        columns: nats of every latent at that step.
        tops: nats at the top of the two charts, so that they do not jump from one setting to the next.
    """
    figure, (curve, bars) = placed(7.0, 2.7, [(0.6, 0.5, 3.6, 1.8), (4.8, 0.5, 2.1, 1.8)])
    styles = zip(COLOURS, ("-", "--", "-."), strict=False)
    for row, ((name, values), (colour, style)) in enumerate(zip(lines.items(), styles, strict=False)):
        curve.plot(steps, values, color="#cccccc", linestyle=style, linewidth=1)
        curve.plot(steps[: now + 1], values[: now + 1], color=colour, linestyle=style, linewidth=2.2)
        curve.plot(steps[now], values[now], color=colour, marker="o")
        # A legend would take a quarter of the time of the whole picture.
        at = 0.93 - 0.13 * row
        curve.plot([0.03, 0.1], [at, at], color=colour, linestyle=style, linewidth=2.2, transform=curve.transAxes)
        curve.text(0.12, at, name, transform=curve.transAxes, va="center", fontsize=9)
    curve.set(xlim=(0, steps[-1]), ylim=(-0.03 * tops[0], tops[0]), xlabel="step", ylabel="nats")
    curve.set_xticks([0, steps[-1]])
    curve.set_yticks([0, tops[0]])
    bars.bar(range(1, len(columns) + 1), columns, color=BLUE)
    bars.set(ylim=(0, tops[1]), xlabel="KL of each latent", xlim=(0.3, len(columns) + 0.7))
    bars.set_yticks([0, tops[1]])
    figure.text(0.6 / 7.0, 2.45 / 2.7, title, fontsize=10)
    return Picture(figure, alt)


def training_sheets(
    panels: Mapping[str, Mapping[str, Sequence[float]]],
    steps: Sequence[float],
    alt: str,
    *,
    top: float | None = None,
    columns: int = 3,
    unit: str = "",
) -> Picture:
    """Show small charts over the same steps, a line for each name.

    Args:
        panels: title -> name -> values at the steps; every chart has the same names.
        top: where all charts end, from 0 on; each has a scale of its own if not given.
        columns: charts in a row.
        unit: written beside the first chart of every row.
    """
    rows = -(-len(panels) // columns)
    figure, drawn = new_figure(7.4, 0.6 + 1.6 * rows, columns=columns, rows=rows, sharex=True, sharey=top is not None)
    for axes, (title, lines) in zip(drawn, panels.items(), strict=True):
        for (name, values), colour, style in zip(lines.items(), COLOURS, ("-", "--", "-."), strict=False):
            axes.plot(steps, values, color=colour, linestyle=style, label=name)
        axes.set_title(title, fontsize=9)
        if top is not None:
            axes.set_ylim(-0.03 * top, top)
    drawn[0].legend(fontsize=9, frameon=False)
    for axes in drawn[::columns]:
        axes.set_ylabel(unit)
    for axes in drawn[-columns:]:
        axes.set_xlabel("step")
    return Picture(figure, alt)
