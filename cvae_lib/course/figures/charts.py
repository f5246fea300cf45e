"""Lines, bars, scatter and counts."""

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from cvae_lib.course.figures.picture import BLUE, COLOURS, MARKERS, Picture, new_figure


def curves(
    series: Mapping[str, Sequence[float]],
    alt: str,
    *,
    x: Sequence[float] | None = None,
    x_label: str = "",
    y_label: str = "",
    title: str = "",
    log_x: bool = False,
    log_y: bool = False,
) -> Picture:
    """Show one line per series, told apart by colour and by marker.

    Args:
        series: name -> values; x defaults to 1, 2, ...
        log_x, log_y: whether that axis is logarithmic.
    """
    figure, (axes,) = new_figure()
    for (name, values), colour, marker in zip(series.items(), COLOURS, MARKERS, strict=False):
        across = list(x) if x is not None else list(range(1, len(values) + 1))
        axes.plot(
            across,
            list(values),
            color=colour,
            marker=marker,
            markevery=max(1, len(values) // 8),
            markersize=5,
            label=name,
        )
    axes.set(xlabel=x_label, ylabel=y_label, title=title)
    if log_x:
        axes.set_xscale("log")
    if log_y:
        axes.set_yscale("log")
    axes.legend()
    return Picture(figure, alt)


def latent_map(points: Float[Tensor, "n 2"], labels: Int64[Tensor, " n"], alt: str) -> Picture:
    """Show points of a two-dimensional latent space, coloured by class, each class named at its median."""
    figure, (axes,) = new_figure(6.4, 5.4)
    shades = mpl.colormaps["tab10"].colors  # type: ignore[attr-defined]  # a listed map has its colours
    for label in range(int(labels.max()) + 1):
        mine = points[labels == label].detach().cpu()
        if len(mine) == 0:
            continue
        axes.scatter(mine[:, 0], mine[:, 1], s=3, alpha=0.5, linewidths=0, color=shades[label % 10])
        centre = mine.median(0).values
        badge = {"boxstyle": "circle,pad=0.15", "facecolor": "white", "edgecolor": shades[label % 10], "alpha": 0.9}
        axes.text(float(centre[0]), float(centre[1]), str(label), ha="center", va="center", bbox=badge)
    axes.set(xlabel="$z_1$", ylabel="$z_2$", aspect="equal")
    return Picture(figure, alt)


def bars(
    values: Sequence[float], names: Sequence[object], alt: str, *, x_label: str = "", y_label: str = ""
) -> Picture:
    """Show one bar per name, each with its value written above it."""
    figure, (axes,) = new_figure()
    drawn = axes.bar([str(name) for name in names], list(values), color=BLUE)
    axes.bar_label(drawn, fmt="%.3g", fontsize=9)
    axes.grid(axis="x", visible=False)
    axes.set(xlabel=x_label, ylabel=y_label)
    return Picture(figure, alt)


def confusion(truth: Int64[Tensor, " n"], guess: Int64[Tensor, " n"], alt: str) -> Picture:
    """Show how often each class (row) was taken for each other (column); only the mistakes are shaded."""
    truth, guess = truth.cpu(), guess.cpu()
    classes = int(torch.maximum(truth.max(), guess.max())) + 1
    counts = torch.bincount(truth * classes + guess, minlength=classes**2).view(classes, classes)
    mistakes = counts.clone().fill_diagonal_(0)
    figure, (axes,) = new_figure(5.4, 4.6)
    axes.imshow(mistakes.numpy(), cmap="Blues", vmax=max(1.0, 1.6 * float(mistakes.max())))
    axes.grid(False)
    for row in range(classes):
        for column in range(classes):
            if count := int(counts[row, column]):
                axes.text(column, row, str(count), ha="center", va="center", fontsize=9)
    axes.set_xticks(range(classes))
    axes.set_yticks(range(classes))
    axes.set(xlabel="read as", ylabel="true digit")
    return Picture(figure, alt)
