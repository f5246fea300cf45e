"""Drawn faces: 32x32 colour pictures with every fact about each known, and a ruler that reads the facts back."""

import math
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int64, Shaped, UInt8
from torch import Tensor

from cvae_lib.datasets.faces._parts import (
    BACKGROUND,
    FRAME,
    HAIR,
    IRIS,
    LINE,
    MOUTH,
    MOUTH_BEND,
    MOUTH_WIDTH,
    SIDE,
    SKIN,
    ages,
    between,
    frames,
    heads,
    mouth_window,
    mouths,
    skin_patch,
)
from cvae_lib.environment import named_generator, plain_defaults

NAMES = ("hair", "skin", "smile", "glasses", "age")
PARTS = ("background", "hair", "skin", "features")  # what a number in `Faces.parts` stands for
LIMITS = {"hair": (0.0, 1.0), "skin": (0.0, 1.0), "smile": (-1.0, 1.0), "glasses": (0.0, 1.0), "age": (0.0, 1.0)}
CHUNK = 256  # faces drawn at once
GRAIN = 0.04  # standard deviation of every pixel's noise

# One column of uniform random numbers per name: a longer run starts with the faces of a shorter one, and fixing one
# attribute leaves all others, and the rest of the face, as they were.
HAND = (*NAMES, "width", "length", "eye", "hue", "fade")


class Faces(NamedTuple):
    """Drawn faces and all that is true of them, one number for each of the N faces.

    Attributes:
        images: colours 0 to 255, shape (N, 3, 32, 32).
        hair: 0 fair to 1 black.
        skin: 0 light to 1 dark.
        smile: -1 mouth bent down, 0 straight, 1 bent up.
        glasses: 0 without, 1 with; nothing between.
        age: 0 no lines on forehead and cheeks, 1 deep ones.
        parts: which of :data:`PARTS` each pixel belongs to, mostly, shape (N, 32, 32).
    """

    images: UInt8[Tensor, "n 3 32 32"]
    hair: Float[Tensor, "n"]
    skin: Float[Tensor, "n"]
    smile: Float[Tensor, "n"]
    glasses: Float[Tensor, "n"]
    age: Float[Tensor, "n"]
    parts: Int64[Tensor, "n 32 32"]


class FaceMeasures(NamedTuple):
    """What :func:`measure` reads off N pictures, in the units of :class:`Faces`.

    Attributes:
        hair: 0 fair to 1 black.
        skin: 0 light to 1 dark.
        smile: -1 to 1.
        glasses: how strongly the frames are painted, near 0 or 1 on drawn faces.
        age: how deep the lines are, about 0 to 1.
    """

    hair: Float[Tensor, "n"]
    skin: Float[Tensor, "n"]
    smile: Float[Tensor, "n"]
    glasses: Float[Tensor, "n"]
    age: Float[Tensor, "n"]


@plain_defaults()
def faces(split: Literal["train", "test"] = "train", count: int | None = None, seed: int = 0) -> Faces:
    """Draw the dataset: 20,000 faces to train on or 2,000 to test on, their attributes independent and uniform.

    A third wears glasses. The first k faces are the same whatever the ``count``; train and test share no random
    numbers.

    Raises:
        ValueError: for an unknown split or a count below 1.
    """
    if split not in ("train", "test"):
        raise ValueError(f"There is no split {split!r} of the faces; ask for 'train' or 'test'.")
    count = {"train": 20_000, "test": 2_000}[split] if count is None else count
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ValueError(f"The number of faces to draw must be a whole number of at least 1, not {count!r}.")
    return _draw(count, seed, split, {})


@plain_defaults()
def draw(count: int = 1, *, seed: int = 0, **given: float | Float[Tensor, "n"]) -> Faces:
    """Draw faces; an attribute that is given is obeyed, not sampled: one number, or one per face.

    The same ``seed`` gives the same faces otherwise, so "the same face with glasses" is a second call with
    ``glasses=1``.

    Raises:
        ValueError: for a count below 1, an attribute that is none of :data:`NAMES`, or a value out of its limits.
    """
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ValueError(f"The number of faces to draw must be a whole number of at least 1, not {count!r}.")
    if unknown := [name for name in given if name not in NAMES]:
        raise ValueError(f"A face has no attribute {unknown[0]!r}; it has {', '.join(NAMES)}.")
    return _draw(count, seed, "draw", {name: _given(name, value, count) for name, value in given.items()})


def _given(name: str, value: float | Tensor, count: int) -> Float[Tensor, "n"]:
    low, high = LIMITS[name]
    found = torch.as_tensor(value, dtype=torch.float32).cpu()
    if found.shape not in ((), (count,)):
        raise ValueError(f"{name} must be one number or one per face ({count}), not of shape {tuple(found.shape)}.")
    if not bool(((found >= low) & (found <= high)).all()):
        raise ValueError(f"{name} must lie from {low:g} to {high:g}, and be no NaN.")
    return found.expand(count).clone()


def _draw(count: int, seed: int, stream: str, given: dict[str, Tensor]) -> Faces:
    uniform = torch.rand(count, len(HAND), generator=named_generator(f"faces {stream}", seed))
    hand = dict(zip(HAND, uniform.T, strict=True))
    facts = {"smile": 2 * hand["smile"] - 1, "glasses": (hand["glasses"] < 1 / 3).float()}
    facts = {name: given.get(name, facts.get(name, hand[name])) for name in NAMES}
    grain = named_generator(f"faces {stream} grain", seed)
    images = torch.empty(count, 3, SIDE, SIDE, dtype=torch.uint8)
    parts = torch.empty(count, SIDE, SIDE, dtype=torch.int64)
    for rows in torch.split(torch.arange(count), CHUNK):
        some = slice(int(rows[0]), int(rows[-1]) + 1)
        colour, parts[some] = _paint({k: v[some] for k, v in facts.items()}, {k: v[some] for k, v in hand.items()})
        speck = math.sqrt(12) * (torch.rand(colour.shape, generator=grain) - 0.5)  # mean 0, variance 1
        images[some] = (255 * (colour + GRAIN * speck)).round_().clamp_(0, 255).byte()
    return Faces(images=images, parts=parts, **{name: facts[name] for name in NAMES})


def _paint(
    facts: dict[str, Tensor], hand: dict[str, Tensor]
) -> tuple[Float[Tensor, "c 3 h w"], Int64[Tensor, "c h w"]]:
    """Lay one coat of paint over the other, and note which of the parts each pixel shows most."""
    head = heads(hand)
    skin, hair = between(SKIN, facts["skin"]), between(HAIR, facts["hair"])  # (c, 3, 1, 1)
    down = torch.linspace(0.5, -0.5, SIDE)[:, None] * hand["fade"][:, None, None, None]
    colour = between(BACKGROUND, hand["hue"]) * (1 + 0.3 * down)  # (c, 3, 32, 32)
    line = LINE * skin
    coats = [
        (head.back, hair, 1),
        (head.face, skin, 2),
        (head.fringe, hair, 1),
        (0.7 * head.nose, line, 2),
        (facts["age"][:, None, None] * ages(), line, 2),
        (head.whites, torch.ones(1, 3, 1, 1), 3),
        (head.irises, IRIS, 3),
        (mouths(facts["smile"]), MOUTH, 3),
        (facts["glasses"][:, None, None] * frames(), FRAME, 3),
    ]
    parts = torch.zeros(len(skin), SIDE, SIDE, dtype=torch.int64)
    for cover, paint, part in coats:
        colour = torch.lerp(colour, paint.expand_as(colour), cover[:, None])
        parts = torch.where(cover >= 0.5, part, parts)
    return colour, parts


@plain_defaults()
def measure(images: Shaped[Tensor, "n 3 32 32"]) -> FaceMeasures:
    r"""Read hair, skin, smile, glasses and age lines off pictures of faces: drawn, reconstructed or generated.

    Faces sit still, so each is a projection or a least-squares fit on fixed pixels, with colours as vectors:

    - skin and hair: the median colour c of a patch, :math:`t = (c - c_0) \cdot (c_1 - c_0) / |c_1 - c_0|^2` on the way
      from the lightest :math:`c_0` to the darkest :math:`c_1`;
    - glasses and age: the strength g that fits best where the paint lies, with w its cover and d its colour minus the
      skin's, :math:`g = \sum w\, (x - s) \cdot d / \sum w^2 |d|^2`;
    - smile: with m how red a pixel of the mouth's window is, the bend of the curve
      :math:`y = a - b\,(u / U)^2` that fits best with weights m, b in units of the most bent mouth.

    Args:
        images: float in [0, 1] or uint8.

    Raises:
        ValueError: for another shape or type, values outside the range, or NaN.
    """
    if images.ndim != 4 or images.shape[1:] != (3, SIDE, SIDE):
        raise ValueError(f"Faces to measure must have shape (n, 3, {SIDE}, {SIDE}), not {tuple(images.shape)}.")
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise ValueError(f"Faces to measure must be float in [0, 1] or uint8, not {images.dtype}.")
    if images.is_floating_point() and not bool(((images >= 0) & (images <= 1)).all()):
        raise ValueError("Faces to measure must lie in [0, 1], without NaN; divide by 255 or clamp them first.")
    x = images.cpu().float() / (255 if images.dtype == torch.uint8 else 1)
    rows, columns = skin_patch()
    skin = x[:, :, rows, columns].median(2).values[..., None, None]  # (n, 3, 1, 1)
    hair = x[:, :, 3:5, 13:19].flatten(2).median(2).values[..., None, None]
    return FaceMeasures(
        hair=_along(hair, HAIR),
        skin=_along(skin, SKIN),
        smile=_bend(x, skin),
        glasses=_strength(x, skin, FRAME - skin, frames()[0]),
        age=_strength(x, skin, (LINE - 1) * skin, ages()[0] * (frames()[0] == 0)),
    )


def _along(colour: Float[Tensor, "n 3 1 1"], ends: Float[Tensor, "2 3 1 1"]) -> Float[Tensor, "n"]:
    way = ends[1] - ends[0]
    return ((colour - ends[0]) * way).sum((1, 2, 3)) / way.square().sum()


def _strength(x: Tensor, skin: Tensor, paint: Tensor, cover: Float[Tensor, "h w"]) -> Float[Tensor, "n"]:
    """Fit x = skin + g * cover * paint by least squares over the pixels under the paint."""
    return (cover * (x - skin) * paint).sum((1, 2, 3)) / (cover.square() * paint.square()).sum((1, 2, 3)).clamp(1e-6)


def _bend(x: Tensor, skin: Tensor) -> Float[Tensor, "n"]:
    """Fit a parabola to the mouth, weighted by how much of its colour a pixel has."""
    rows, columns, u, y = mouth_window()
    paint = MOUTH - skin
    # Only what turns red counts: shadows and age lines make the skin darker, in its own direction.
    paint = paint - (paint * skin).sum(1, keepdim=True) / skin.square().sum(1, keepdim=True) * skin
    cover = ((x[:, :, rows, columns] - skin) * paint).sum(1) / paint.square().sum(1)  # (n, h, w)
    weight = (cover.clamp(0, 1) - 0.15).relu() + 1e-6
    total = weight.sum((1, 2))
    v = (u / MOUTH_WIDTH).square()
    mean_v, mean_y = ((weight * value).sum((1, 2)) / total for value in (v, y))
    off_v, off_y = v - mean_v[:, None, None], y - mean_y[:, None, None]
    return -(weight * off_v * off_y).sum((1, 2)) / (weight * off_v.square()).sum((1, 2)) / MOUTH_BEND
