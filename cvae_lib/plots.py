"""The figures of the course. Each is a :class:`Picture`: a matplotlib figure that carries its alt text."""

import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from cycler import cycler
from jaxtyping import Float, Int64
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

# Okabe and Ito's palette (2008), told apart with every common colour blindness, all legible on white.
BLUE, ORANGE, GREEN, PURPLE, SKY, RED, BLACK = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#D55E00",
    "#000000",
)
COLOURS = (BLUE, ORANGE, GREEN, PURPLE, SKY, RED, BLACK)
MARKERS = ("o", "s", "^", "D", "v", "P", "X")

STYLE: dict[str, Any] = {
    "figure.facecolor": "white",  # opaque, so that black lettering stays readable on a dark page
    "savefig.facecolor": "white",
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "axes.prop_cycle": cycler(color=COLOURS),
    "legend.frameon": False,
}
DOTS_PER_INCH = 144


class Picture:
    """A figure with its alt text, shown in notebooks as a PNG that a screen reader can name.

    Args:
        figure: the matplotlib figure.
        alt: what the figure shows, in a sentence or two, for those who cannot see it.

    Raises:
        ValueError: if the alt text is empty.
    """

    def __init__(self, figure: Figure, alt: str) -> None:
        if not alt.strip():
            raise ValueError("A picture needs alt text: say in a sentence what it shows.")
        self.figure = figure
        self.alt = " ".join(alt.split())

    def png(self) -> bytes:
        """Return the picture as PNG bytes, the same bytes for the same figure."""
        buffer = io.BytesIO()
        # The default metadata names the matplotlib version, which would make rebuilds differ for nothing.
        self.figure.savefig(buffer, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None})
        return buffer.getvalue()

    def save(self, path: str | Path) -> None:
        """Write the picture to a PNG file."""
        Path(path).write_bytes(self.png())

    def _repr_mimebundle_(
        self, include: Iterable[str] | None = None, exclude: Iterable[str] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        data = {"image/png": self.png(), "text/plain": f"[figure] {self.alt}"}
        width, height = (round(side * DOTS_PER_INCH / 1.6) for side in self.figure.get_size_inches())
        return data, {"image/png": {"alt": self.alt, "width": width, "height": height}}

    def __repr__(self) -> str:
        return f"[figure] {self.alt}"


def new_figure(
    width: float = 7.0, height: float = 3.2, columns: int = 1, rows: int = 1, **keywords: Any
) -> tuple[Figure, list[Axes]]:
    """Return a figure in the course's style and its axes, row by row."""
    with mpl.rc_context(STYLE):  # type: ignore[arg-type]  # its keys are ours
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False, **keywords)
    return figure, list(axes.flat)


def _mosaic(images: Float[Tensor, "n c h w"], columns: int, gap: int = 2) -> np.ndarray:
    """Lay images out row by row, dark ink on white paper; an incomplete last row stays white."""
    n, channels, height, width = images.shape
    rows = -(-n // columns)
    sheet = torch.ones(rows * (height + gap) - gap, columns * (width + gap) - gap, channels)
    pixels = images.detach().float().cpu().clamp(0, 1).permute(0, 2, 3, 1)  # (n, H, W, channels)
    for index in range(n):
        top, left = (index // columns) * (height + gap), (index % columns) * (width + gap)
        sheet[top : top + height, left : left + width] = pixels[index] if channels == 3 else 1 - pixels[index]
    result: np.ndarray = sheet.expand(-1, -1, 3).numpy()
    return result


def digit_grid(
    images: Float[Tensor, "n c h w"],
    alt: str,
    *,
    columns: int = 10,
    title: str = "",
    column_labels: Sequence[object] = (),
    row_labels: Sequence[object] = (),
    size: float = 0.62,
) -> Picture:
    """Show images in a grid, row by row; grey ones as dark ink on white paper.

    Args:
        images: (N, channels, H, W) in [0, 1].
        column_labels, row_labels: written above the columns and beside the rows.
        size: inches per image.

    Raises:
        ValueError: if the images are not (N, channels, H, W), or there are none.
    """
    if images.ndim != 4 or len(images) == 0:
        raise ValueError(f"A grid needs images of shape (N, channels, H, W), at least one, not {tuple(images.shape)}.")
    columns = min(columns, len(images))
    sheet = _mosaic(images, columns)
    rows = -(-len(images) // columns)
    margin = 0.35 * bool(column_labels) + 0.3 * bool(title)
    side = 0.12 * max((len(str(label)) for label in row_labels), default=0)
    figure, (axes,) = new_figure(size * columns + side + 0.1, size * rows + margin + 0.1)
    axes.imshow(sheet, interpolation="nearest")
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    pitch_x, pitch_y = images.shape[3] + 2, images.shape[2] + 2
    axes.set_xticks([pitch_x * (i + 0.5) - 1 for i in range(len(column_labels))], [str(c) for c in column_labels])
    axes.set_yticks([pitch_y * (i + 0.5) - 1 for i in range(len(row_labels))], [str(r) for r in row_labels])
    axes.tick_params(length=0, top=False, labeltop=True, bottom=False, labelbottom=False)
    if title:
        axes.set_title(title, fontsize=11)
    return Picture(figure, alt)


def curves(
    series: Mapping[str, Sequence[float]],
    alt: str,
    *,
    x: Sequence[float] | None = None,
    x_label: str = "",
    y_label: str = "",
    title: str = "",
    log_y: bool = False,
) -> Picture:
    """Show one line per series, told apart by colour and by marker.

    Args:
        series: name -> values; x defaults to 1, 2, ...
        log_y: whether the vertical axis is logarithmic.
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


def bars(values: Sequence[float], names: Sequence[object], alt: str, *, x_label: str = "", y_label: str = "") -> Picture:
    """Show one bar per name, each with its value written above it."""
    figure, (axes,) = new_figure()
    drawn = axes.bar([str(name) for name in names], list(values), color=BLUE)
    axes.bar_label(drawn, fmt="%.3g", fontsize=9)
    axes.grid(axis="x", visible=False)
    axes.set(xlabel=x_label, ylabel=y_label)
    return Picture(figure, alt)


def confusion(truth: Int64[Tensor, " n"], guess: Int64[Tensor, " n"], alt: str) -> Picture:
    """Show how often each class (row) was taken for each other (column); only the mistakes are shaded."""
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
