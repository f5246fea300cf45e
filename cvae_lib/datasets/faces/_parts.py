"""The shapes and colours faces are made of; all lengths in pixels, y pointing down."""

from functools import cache
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

SIDE = 32
CENTRE, CHIN = 15.5, 28.0
EYES, MOUTH_LINE = CHIN - 12, CHIN - 4.6  # heights of the eyes' and the mouth's middle
APART = 3.7  # from the middle to each eye
MOUTH_WIDTH, MOUTH_BEND = 4.0, 2.2  # half its width; how far the corners of the widest smile lie above its middle


def _colours(*rows: tuple[float, float, float]) -> Float[Tensor, "n 3 1 1"]:
    return torch.tensor(rows, dtype=torch.float32, device="cpu")[..., None, None]


SKIN = _colours((1.0, 0.86, 0.76), (0.40, 0.26, 0.18))  # lightest, darkest
HAIR = _colours((0.95, 0.82, 0.45), (0.07, 0.06, 0.07))
BACKGROUND = _colours((0.45, 0.45, 0.90), (0.35, 0.80, 0.80))
IRIS = _colours((0.12, 0.16, 0.30))
MOUTH, FRAME = _colours((0.80, 0.10, 0.18)), _colours((0.08, 0.08, 0.12))
LINE = 0.62  # an age line's brightness relative to the skin


def between(ends: Float[Tensor, "2 3 1 1"], t: Float[Tensor, "c"]) -> Float[Tensor, "c 3 1 1"]:
    """Mix two colours, t = 0 for the first and 1 for the second."""
    return torch.lerp(ends[:1], ends[1:], t[:, None, None, None])


@cache
def grid() -> tuple[Float[Tensor, "32 32"], Float[Tensor, "32 32"]]:
    """Return each pixel's x and y, x counted from the middle of the face."""
    steps = torch.arange(SIDE, dtype=torch.float32)
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    return x - CENTRE, y


def _ellipse(x: Tensor, y: Tensor, across: Tensor | float, down: Tensor | float) -> Tensor:
    """Return the cover of an ellipse around the origin, with an edge about a pixel wide."""
    across, down = torch.as_tensor(across), torch.as_tensor(down)
    far = torch.sqrt((x / across).square() + (y / down).square())
    return (0.5 + (1 - far) * torch.minimum(across, down)).clamp(0, 1)


def _bar(along: Tensor, beside: Tensor, start: float, end: float, width: float) -> Tensor:
    """Return the cover of a straight stroke from start to end."""
    length = torch.minimum(along - start, end - along)
    return (0.5 + length).clamp(0, 1) * (0.5 + width / 2 - beside.abs()).clamp(0, 1)


class Head(NamedTuple):
    """The covers of what every face has, shape (c, 32, 32) each."""

    back: Tensor  # hair behind the face
    face: Tensor
    fringe: Tensor  # hair in front of it
    nose: Tensor
    whites: Tensor
    irises: Tensor


def heads(hand: dict[str, Tensor]) -> Head:
    """Return the heads that a row of random numbers each stands for."""
    x, y = grid()

    def column(name: str, low: float, high: float) -> Tensor:
        return (low + (high - low) * hand[name])[:, None, None]

    width, length, eye = column("width", 8.0, 9.6), column("length", 11.0, 26.0), column("eye", 0.9, 1.3)
    middle = y - (CHIN - 11)
    face = _ellipse(x, middle, width, 11.0)
    around = _ellipse(x, middle + 1.2, width + 1.7, 13.5)
    back = around * (CHIN - 26 + length + 0.5 - y).clamp(0, 1)
    sides = x.abs() - APART
    return Head(
        back=back,
        face=face,
        fringe=around * (CHIN - 20 + 0.04 * x.square() + 0.5 - y).clamp(0, 1),
        nose=_ellipse(x, y - (CHIN - 8.6), 0.9, 1.4).expand(len(width), -1, -1),
        whites=_ellipse(sides, y - EYES, 1.5 * eye, eye),
        irises=_ellipse(sides, y - EYES, 0.75 * eye, 0.75 * eye),
    )


def mouths(smile: Float[Tensor, "c"]) -> Float[Tensor, "c 32 32"]:
    """Return the covers of mouths: strokes along a parabola, 1.3 pixels thick."""
    x, y = grid()
    bend = MOUTH_BEND * smile[:, None, None]
    curve = MOUTH_LINE + bend * (0.4 - (x / MOUTH_WIDTH).square())
    steep = 2 * bend * x / MOUTH_WIDTH**2
    across = (y - curve).abs() / (1 + steep.square()).sqrt()
    return (0.5 + 0.65 - across).clamp(0, 1) * (0.5 + MOUTH_WIDTH - x.abs()).clamp(0, 1)


@cache
def frames() -> Float[Tensor, "1 32 32"]:
    """Return the cover of a pair of glasses."""
    x, y = grid()
    sides, down = x.abs() - APART, y - EYES
    rim = (0.5 + 0.5 - (torch.hypot(sides, down) - 2.9).abs()).clamp(0, 1)
    temple = _bar(x.abs(), down, 6.8, 8.2, 0.9)
    return torch.maximum(rim, temple)[None]


@cache
def ages() -> Float[Tensor, "1 32 32"]:
    """Return the cover of the age lines: two on the forehead, one on each cheek."""
    x, y = grid()
    lines = [_bar(x, y - (CHIN - up), -half, half, 0.9) for up, half in ((16.0, 3.2), (18.0, 2.8))]
    lines.append(_bar(x.abs(), y - (CHIN - 7.0), 3.4, 6.2, 0.9))
    return torch.stack(lines).amax(0)[None]


@cache
def skin_patch() -> tuple[Int64[Tensor, "p"], Int64[Tensor, "p"]]:
    """Return rows and columns of pixels that show bare skin in every face: chin, cheeks, beside the nose."""
    x, y = grid()
    up = CHIN - y
    bare = ((up == 1) | (up == 2)) & (x.abs() < 2) | (up == 6) & (x.abs() > 5) & (x.abs() < 6)
    bare |= (up == 8) & (x.abs() > 2) & (x.abs() < 5)
    rows, columns = bare.nonzero().T
    return rows, columns


@cache
def mouth_window() -> tuple[slice, slice, Float[Tensor, "h w"], Float[Tensor, "h w"]]:
    """Return the rows and columns around the mouth, and the coordinates of their pixels."""
    rows, columns = slice(20, 27), slice(11, 21)
    x, y = grid()
    return rows, columns, x[rows, columns], y[rows, columns]
