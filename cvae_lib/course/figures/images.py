"""Images in rows and columns."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cvae_lib.course.figures.picture import Picture, new_figure

STRAY = 0.5  # how far pixels may leave [0, 1] and be cut off there: draws of a Gaussian do, bytes go further


def mosaic(images: Float[Tensor, "n c h w"], columns: int, gap: int = 2) -> np.ndarray:
    """Lay images out row by row, dark ink on white paper; an incomplete last row stays white.

    Raises:
        ValueError: if the images are no floats (N, 1 or 3, H, W), or there are none, or their pixels are far outside
            [0, 1].
    """
    if images.ndim != 4 or len(images) == 0 or images.shape[1] not in (1, 3):
        raise ValueError(
            "A grid needs images of shape (N, channels, H, W), at least one, of 1 channel (grey) or 3 (colour), not "
            f"{tuple(images.shape)}."
        )
    if not images.is_floating_point():
        raise ValueError(f"A grid needs pixels as floats in [0, 1], not {images.dtype}: divide bytes by 255.")
    n, channels, height, width = images.shape
    rows = -(-n // columns)
    sheet = torch.ones(rows * (height + gap) - gap, columns * (width + gap) - gap, channels)
    pixels = images.detach().float().cpu().permute(0, 2, 3, 1)  # (n, H, W, channels)
    low, high = (float(end) for end in pixels.aminmax())
    if not (low >= -STRAY and high <= 1 + STRAY):
        raise ValueError(
            f"A grid needs pixels in [0, 1], and these run from {low:g} to {high:g}: divide bytes by 255, undo a "
            "normalisation, or look for NaN."
        )
    pixels = pixels.clamp(0, 1)
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
        images: (N, 1, H, W) or (N, 3, H, W), floats in [0, 1]; draws that stray a little outside are cut off there.
        column_labels, row_labels: written above the columns and beside the rows.
        size: inches per image.

    Raises:
        ValueError: if the images have another shape or type, or pixels far outside [0, 1], or there are none.
    """
    columns = max(1, min(columns, len(images)))
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
