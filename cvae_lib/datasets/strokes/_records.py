"""What is known of drawn digits, and what can be read off any."""

from typing import NamedTuple

from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor


class Strokes(NamedTuple):
    """Drawn digits and all that is true of them; lengths in pixels, one number for each of the N pictures.

    Attributes:
        images: white ink (up to 255) on black (0), shape (N, 1, 28, 28).
        labels: which digit, 0 to 9.
        thickness: pen width, averaged along the stroke.
        slant: horizontal shear dx/dy of the whole digit, positive leaning right, 0 upright.
        size: height of the ink.
        x: centre of mass, to the right of the picture's centre.
        y: centre of mass, below the picture's centre.
        brightness: level of full ink, in (0, 1].
        masks: which pixels the pen covered by at least half, before any grain, shape (N, 1, 28, 28).
    """

    images: UInt8[Tensor, "n 1 28 28"]
    labels: Int64[Tensor, "n"]
    thickness: Float[Tensor, "n"]
    slant: Float[Tensor, "n"]
    size: Float[Tensor, "n"]
    x: Float[Tensor, "n"]
    y: Float[Tensor, "n"]
    brightness: Float[Tensor, "n"]
    masks: Bool[Tensor, "n 1 28 28"]


class Measures(NamedTuple):
    """What :func:`cvae_lib.datasets.strokes.measure` reads off N pictures, in the units of :class:`Strokes`.

    Attributes:
        thickness: pen width, pixels.
        slant: dx/dy, positive leaning right.
        brightness: level of full ink, in (0, 1].
    """

    thickness: Float[Tensor, "n"]
    slant: Float[Tensor, "n"]
    brightness: Float[Tensor, "n"]
