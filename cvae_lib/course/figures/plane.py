"""The rate-distortion plane: curves of models, straight lines of equal cost, and one point with its pictures."""

from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from torch import Tensor

from cvae_lib.course.figures.images import mosaic
from cvae_lib.course.figures.picture import BLACK, COLOURS, MARKERS, ORANGE, Picture, new_figure

Points = Sequence[tuple[float, float]]  # (rate, distortion), nats
Window = tuple[tuple[float, float], tuple[float, float]]  # from and to, of the rate and of the distortion


def rate_distortion_plane(
    curves: Mapping[str, Points],
    alt: str,
    *,
    dots: Mapping[str, Points] | None = None,
    labels: Mapping[str, Sequence[str]] | None = None,
    tangents: Sequence[tuple[float, float, float, str]] = (),
    distortion: str = "distortion D, nats",
    dots_name: str = "",
    inset: Window | None = None,
) -> Picture:
    """Show curves in the plane, rate to the right and distortion upwards.

    Args:
        curves: name -> points in order, joined by a line.
        dots: name of a curve -> points drawn over it in its colour, diamonds without a line.
        labels: name of a curve -> a word beside each of its points.
        tangents: (rate, distortion, beta, name) for straight lines of slope -beta through a point.
        distortion: what the upward axis says.
        dots_name: what the legend calls the diamonds.
        inset: (from, to) of the rate and of the distortion: that corner again, enlarged, in the middle of the figure.

    Raises:
        ValueError: if there is no curve, or dots or labels name one that is not there.
    """
    if not curves or not {*(dots or {}), *(labels or {})} <= set(curves):
        raise ValueError("The plane needs at least one curve, and dots and labels must name curves that are there.")
    figure, (axes,) = new_figure(7.0, 4.2)
    outside = {name: [*map(_word_outside(inset), words, curves[name])] for name, words in (labels or {}).items()}
    _points(axes, curves, dots or {}, outside)
    window = axes.get_xlim(), axes.get_ylim()
    for (rate, height, beta, name), style in zip(tangents, cycle(("--", ":", "-."))):
        axes.plot(*_tangent(axes, rate, height, beta), color=BLACK, linestyle=style, linewidth=1, label=name)
    axes.set(xlim=window[0], ylim=window[1], xlabel="rate R, nats", ylabel=distortion)
    handles, names = axes.get_legend_handles_labels()
    if dots_name:
        handles.append(Line2D([], [], marker="D", linestyle="", color="white", markeredgecolor=BLACK, markersize=7))
    axes.legend(handles, [*names, dots_name] if dots_name else names, fontsize=9)
    if inset:
        corner = axes.inset_axes((0.3, 0.44, 0.36, 0.52))
        _points(corner, curves, dots or {}, labels or {})
        corner.set(xlim=inset[0], ylim=inset[1])
        corner.tick_params(labelsize=8)
    return Picture(figure, alt)


def _word_outside(corner: Window | None) -> Callable[[str, tuple[float, float]], str]:
    """Return what keeps the word of a point, unless the enlarged corner will say it."""

    def kept(word: str, point: tuple[float, float]) -> str:
        within = corner and all(low <= value <= high for value, (low, high) in zip(point, corner, strict=True))
        return "" if within else word

    return kept


def _points(
    axes: Axes, curves: Mapping[str, Points], dots: Mapping[str, Points], labels: Mapping[str, Sequence[str]]
) -> None:
    """Draw the curves, their diamonds and the words beside them: above the first curve, below the others."""
    for row, ((name, points), colour, marker) in enumerate(zip(curves.items(), COLOURS, MARKERS, strict=False)):
        rates, distortions = zip(*points, strict=True)
        size = 0 if len(points) == 2 or len(points) >= 30 else 8 if len(points) == 1 else 4  # two: a straight line
        line = "" if len(points) == 1 else "-"
        axes.plot(rates, distortions, color=colour, marker=marker, markersize=size, linestyle=line, label=name)
        for rate, height in dots.get(name, ()):
            axes.plot(rate, height, "D", color=colour, markeredgecolor=BLACK, markersize=7, zorder=3)
        place: dict[str, Any] = {"xytext": (-6, -13), "ha": "right"} if row else {"xytext": (6, 6)}
        for word, (rate, height) in zip(labels.get(name, ()), points, strict=False):
            axes.annotate(word, (rate, height), textcoords="offset points", fontsize=8, annotation_clip=True, **place)


def _tangent(axes: Axes, rate: float, height: float, beta: float) -> tuple[list[float], list[float]]:
    """Return the line of slope -beta through a point, over the whole width."""
    ends = list(axes.get_xlim())
    return ends, [height - beta * (end - rate) for end in ends]


def plane_and_sheet(
    curves: Mapping[str, Points],
    here: tuple[float, float],
    beta: float,
    sheet: Float[Tensor, "n c h w"],
    columns: int,
    titles: tuple[str, str],
    alt: str,
) -> Picture:
    """Show the curves with one point on them and its line of equal cost, and beside it the pictures of that point.

    Args:
        curves: name -> points; drawn thin.
        here: (rate, distortion) of the point.
        beta: the line through it has slope -beta.
        sheet: images, row by row.
        titles: above the plane and above the pictures.
    """
    width, height = 8.2, 3.0
    figure, (plane, pictures) = new_figure(width, height, columns=2, layout=None)
    styles = ("solid", "dashed", "dashdot", "dotted")
    for row, ((name, points), colour, style) in enumerate(zip(curves.items(), COLOURS, styles, strict=False)):
        rates, heights = np.asarray(points).T
        plane.plot(rates, heights, color=colour, linestyle=style, marker="o", markersize=3, linewidth=1)
        beside: dict[str, Any] = {"transform": plane.transAxes, "ha": "right", "fontsize": 9}
        plane.text(0.97, 0.9 - 0.09 * row, f"{name}, {style}", color=colour, **beside)
    window = plane.get_xlim(), plane.get_ylim()
    plane.plot(*_tangent(plane, *here, beta), color=BLACK, linewidth=0.8)
    plane.plot(*here, "D", color=ORANGE, markeredgecolor=BLACK, markersize=9, zorder=3)
    # Two round numbers and no grid: ticks are what takes the time to draw.
    for axis, (low, high) in zip((plane.xaxis, plane.yaxis), window, strict=True):
        axis.set_ticks([10 * float(np.ceil(low / 10)), 10 * float(np.floor(high / 10))])
    plane.grid(visible=False)
    plane.set(xlim=window[0], ylim=window[1])
    plane.set_xlabel("rate, nats", fontsize=10, labelpad=-8)
    plane.set_ylabel("distortion, nats", fontsize=10, labelpad=-16)
    plane.set_title(titles[0], fontsize=10, pad=5)
    plane.set_position((0.5 / width, 0.35 / height, 3.3 / width, 2.35 / height))
    drawn = mosaic(sheet, columns)
    across = min(4.2, 2.4 * drawn.shape[1] / drawn.shape[0])
    up = across * drawn.shape[0] / drawn.shape[1]
    pictures.imshow(drawn, interpolation="nearest", aspect="auto")
    pictures.set_title(titles[1], fontsize=10, pad=5)
    pictures.axis("off")
    pictures.set_position((3.95 / width, (1.5 - up / 2) / height, across / width, up / height))
    return Picture(figure, alt)
