"""Figures about being asked: what was measured against what was asked, and which word was listened to."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from torch import Tensor

from cvae_lib.course.figures.picture import BLACK, BLUE, ORANGE, Picture, new_figure


def asked_and_measured(
    panels: Mapping[str, tuple[Float[Tensor, " n"], Float[Tensor, " n"]]],
    alt: str,
    *,
    ranges: Mapping[str, tuple[float, float]] | None = None,
    averages: bool = False,
) -> Picture:
    """Show a panel for each attribute: a dot for each drawing, on the dashed line where it is what was asked.

    Args:
        panels: attribute -> (asked, measured).
        ranges: attribute -> the range seen in training, shaded.
        averages: also draw the mean of what was measured at each value asked, with two standard deviations of the
            drawings to either side; the values asked must then repeat.

    Raises:
        ValueError: if there is no panel.
    """
    if not panels:
        raise ValueError("There must be at least one attribute to show.")
    figure, axes = new_figure(0.4 + 3.0 * len(panels), 3.2, columns=len(panels))
    for panel, (name, (asked, measured)) in zip(axes, panels.items(), strict=True):
        a, m = asked.detach().cpu().numpy(), measured.detach().cpu().numpy()
        ends = [float(a.min()), float(a.max())]
        if ranges and name in ranges:
            panel.axvspan(*ranges[name], color="#888888", alpha=0.18, linewidth=0)
        if averages:
            values = np.unique(a)
            means = np.array([m[a == value].mean() for value in values])
            spread = np.array([2 * m[a == value].std() for value in values])
            panel.fill_between(values, means - spread, means + spread, color=BLUE, alpha=0.25, linewidth=0)
            panel.plot(values, means, color=BLUE, marker="o", markersize=4)
        else:
            panel.plot(a, m, ".", color=BLUE, alpha=0.25, markersize=3, rasterized=True)
        panel.plot(ends, ends, "--", color=BLACK if averages else ORANGE, linewidth=1.5)
        panel.set(xlabel=f"{name} asked", ylabel=f"{name} measured")
    return Picture(figure, alt)


def word_maps(
    panels: Mapping[str, Float[Tensor, "r l"]], words: Sequence[str], rows: Sequence[object], alt: str
) -> Picture:
    """Show tables of numbers side by side, a row for each listener and a column for each word; darker is more.

    Args:
        panels: title -> (R, L) numbers of at least 0, shaded relative to the panel's largest.
        rows: names of the R rows.

    Raises:
        ValueError: if a panel is no table of as many rows and words.
    """
    if any(tuple(table.shape) != (len(rows), len(words)) for table in panels.values()):
        raise ValueError(f"Every panel needs {len(rows)} rows and {len(words)} columns, one for each word.")
    width = 0.62 * max(3, len(words)) + 0.3
    figure, axes = new_figure(1.4 + width * len(panels), 1.2 + 0.3 * len(rows), columns=len(panels), sharey=True)
    for panel, (title, table) in zip(axes, panels.items(), strict=True):
        values = table.detach().cpu().numpy()
        top = max(float(values.max()), 1e-12)
        panel.imshow(values, cmap="Blues", vmin=0, vmax=top, aspect="auto")
        panel.grid(False)
        for (row, column), value in np.ndenumerate(values):
            shade = "white" if value > 0.6 * top else BLACK
            panel.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=8, color=shade)
        panel.set_xticks(range(len(words)), words, fontsize=9, rotation=30, ha="right")
        panel.set_yticks(range(len(rows)), [str(row) for row in rows], fontsize=9)
        panel.set_title(title, fontsize=10)
    return Picture(figure, alt)
