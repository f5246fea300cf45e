"""A figure that carries its alt text, in the course's one style."""

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure

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
    width: float = 7.0,
    height: float = 3.2,
    columns: int = 1,
    rows: int = 1,
    *,
    layout: Literal["constrained"] | None = "constrained",
    **keywords: Any,
) -> tuple[Figure, list[Axes]]:
    """Return a figure in the course's style and its axes, row by row; without a layout, place the axes yourself."""
    with mpl.rc_context(STYLE):  # type: ignore[arg-type]  # its keys are ours
        figure = Figure(figsize=(width, height), layout=layout)
        axes = figure.subplots(rows, columns, squeeze=False, **keywords)
    return figure, list(axes.flat)
