"""Images in rows and columns."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cvae_lib.plots.picture import Picture, new_figure


def mosaic(images: Float[Tensor, "n c h w"], columns: int, gap: int = 2) -> np.ndarray:
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
    sheet = mosaic(images, columns)
    rows = -(-len(images) // columns)
    margin = 0.35 * bool(column_labels) + 0.3 * bool(title)
    side = 0.14 * max((len(str(label)) for label in row_labels), default=0)
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
