"""The built-in dataset: digits written by a simulated pen, with every fact about each picture known."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Int64, Shaped
from torch import Tensor

from cvae_lib.datasets.strokes._records import Measures, Strokes
from cvae_lib.datasets.strokes._skeletons import CENTRE, SEGMENTS, SIDE, WARPS, fitted, placed, shaken, skeletons
from cvae_lib.environment import named_generator, plain_defaults

CHUNK = 64  # pictures drawn at once: the working set stays inside a processor's cache

# One column of uniform random numbers per name, so that every picture has a row of its own: a longer
# run starts with the pictures of a shorter one, and fixing one attribute leaves all others as they were.
HAND = (
    *("way", "thickness", "slant", "size", "x", "y", "brightness"),
    *("width", "edge", "waver", "phase", "turns"),
)
GRAIN = 0.04  # standard deviation of the ink's unevenness, relative to its level
COUNTS = {"train": 60_000, "test": 10_000}
LIMITS = {"thickness": (0.5, 6.0), "slant": (-1.0, 1.0), "size": (10.0, 24.0), "brightness": (1 / 255, 1.0)}


@plain_defaults()
def strokes(
    split: Literal["train", "test"] = "train",
    count: int | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> Strokes:
    """Draw the dataset: 60,000 digits to train on or 10,000 to test on, classes equally often, in random order.

    The first k pictures are the same whatever the ``count``; train and test share no random numbers.

    Raises:
        ValueError: for an unknown split or a count below 1.
    """
    if split not in COUNTS:
        raise ValueError(f"There is no split {split!r} of the strokes; ask for 'train' or 'test'.")
    count = COUNTS[split] if count is None else count
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ValueError(f"The number of digits to draw must be a whole number of at least 1, not {count!r}.")
    shuffles = torch.rand(-(-count // 10), 10, generator=named_generator(f"{split} labels", seed), dtype=torch.float32)
    return _draw(shuffles.argsort(1).flatten()[:count], seed, split, device, {}, GRAIN)


@plain_defaults()
def draw(
    labels: Int[Tensor, "n"] | Sequence[int],
    *,
    seed: int = 0,
    device: str | torch.device = "cpu",
    thickness: int | float | Float[Tensor, "n"] | None = None,
    slant: int | float | Float[Tensor, "n"] | None = None,
    size: int | float | Float[Tensor, "n"] | None = None,
    brightness: int | float | Float[Tensor, "n"] | None = None,
    noise: int | float = GRAIN,
) -> Strokes:
    r"""Write these digits, each by a hand of its own; an attribute that is given is obeyed, not sampled.

    A digit is a pen path :math:`p(s)` with pen radius :math:`r(s)`, on average :math:`\bar r`. Its ink at pixel u is
    :math:`b\,\sigma(u)\,(1 + \text{noise}\cdot\varepsilon_u)`, grain :math:`\varepsilon_u` of variance 1 and coverage

    .. math:: \sigma(u) = \operatorname{clip}(\tfrac12 + (1 - \min_s |u - p(s)|/r(s))\,\bar r/e,\,0,\,1)

    with a soft edge e about a pixel wide. Before shearing, every path is brought upright by its own second moments.

    Args:
        labels: N digits.
        seed: the same one gives the same hands, so "the same digit, thicker" is a second call with ``thickness=``.
        device: where they are drawn; the random numbers are the CPU's everywhere.
        thickness: 0.5 to 6 pixels; this and the next three are one number, or one per label.
        slant: -1 to 1.
        size: 10 to 24 pixels.
        brightness: 1/255 to 1.
        noise: of the ink, relative to its level, 0 to 1.

    Raises:
        ValueError: if a number lies outside its range, or a label is no whole number from 0 to 9.
    """
    asked = {"thickness": thickness, "slant": slant, "size": size, "brightness": brightness}
    if not 0 <= noise <= 1:
        raise ValueError(f"The noise must be a number from 0 to 1, not {noise!r}.")
    checked = _labels(labels)
    given = {name: _given(name, value, len(checked)) for name, value in asked.items() if value is not None}
    return _draw(checked, seed, "draw", device, given, noise)


def _labels(labels: Int[Tensor, "n"] | Sequence[int]) -> Int64[Tensor, "n"]:
    try:
        found = torch.as_tensor(labels).cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"Labels must be whole numbers from 0 to 9, not {labels!r}.") from error
    if found.is_floating_point() or found.is_complex() or found.dtype == torch.bool:
        raise ValueError(f"Labels must be whole numbers from 0 to 9, not {found.dtype}.")
    if found.ndim != 1 or len(found) == 0:
        raise ValueError(f"Labels must be a list of at least one digit, not of shape {tuple(found.shape)}.")
    low, high = int(found.min()), int(found.max())
    if low < 0 or high > 9:
        raise ValueError(f"Labels must lie from 0 to 9; these run from {low} to {high}.")
    return found.long()


def _given(name: str, value: int | float | Tensor, count: int) -> Float[Tensor, "n"]:
    low, high = LIMITS[name]
    found = torch.as_tensor(value, dtype=torch.float32).cpu()
    if found.shape not in ((), (count,)):
        raise ValueError(f"{name} must be one number or one per label ({count}), not of shape {tuple(found.shape)}.")
    if not bool(((found >= low) & (found <= high)).all()):
        raise ValueError(f"{name} must lie from {low:.3g} to {high:.3g}, and be no NaN.")
    return found.expand(count).clone()


def _normal(uniform: Tensor) -> Tensor:
    return torch.erfinv(2 * uniform - 1).mul(math.sqrt(2)).clamp(-2.3, 2.3)


def _facts(hand: dict[str, Tensor]) -> dict[str, Tensor]:
    """Attributes about as spread as in real handwriting, and independent of each other and of the class."""
    return {
        "thickness": 2.6 * torch.exp(0.25 * _normal(hand["thickness"])),
        "slant": 0.12 + 0.25 * _normal(hand["slant"]),
        "size": 19.5 + 0.8 * _normal(hand["size"]),
        "x": 3 * hand["x"] - 1.5,
        "y": 3 * hand["y"] - 1.5,
        "brightness": 1 - 0.5 * hand["brightness"] ** 2.5,
    }


def _draw(
    labels: Tensor, seed: int, stream: str, device: str | torch.device, given: dict[str, Tensor], noise: float
) -> Strokes:
    """Give each label a row of random numbers and draw, a chunk of pictures at a time."""
    columns = len(HAND) + WARPS + 2 * skeletons().points.shape[1]
    uniform = torch.rand(len(labels), columns, generator=named_generator(stream, seed), dtype=torch.float32)
    grain = named_generator(f"{stream} grain", seed)
    whole: list[Tensor] = []
    with _one_thread():
        for rows in torch.split(torch.arange(len(labels)), CHUNK):
            some = {name: value[rows] for name, value in given.items()}
            part = _draw_some(labels[rows], uniform[rows], some, torch.device(device), grain, noise)
            # filling one tensor, instead of joining parts at the end, keeps the peak of memory low
            whole = whole or [value.new_empty(len(labels), *value.shape[1:]) for value in part]
            for all_values, value in zip(whole, part, strict=True):
                all_values[rows[0] : rows[-1] + 1] = value
    return Strokes(*whole)


@contextmanager
def _one_thread() -> Iterator[None]:
    # chunks are too small to share: on a busy machine threads would mostly wait for each other
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _draw_some(
    labels: Tensor,
    uniform: Tensor,
    given: dict[str, Tensor],
    device: torch.device,
    grain: torch.Generator,
    noise: float,
) -> Strokes:
    """Choose a hand for each label, lay its path on the page, render; all choices fall on the CPU."""
    bones, hand = skeletons(), dict(zip(HAND, uniform.T, strict=False))
    fact = _facts(hand) | given
    way = (hand["way"][:, None] >= bones.chances[labels]).sum(1)
    points = shaken(bones.points[way], _normal(uniform[:, len(HAND) :]))
    path = torch.stack((bones.starts[way] @ points, bones.ends[way] @ points), 1)  # (c, 2, s, 2)
    turns = hand["phase"][:, None] + (0.4 + hand["turns"][:, None]) * torch.linspace(
        0, 1, SEGMENTS, dtype=torch.float32
    )
    pressure = 1 + 0.3 * hand["waver"][:, None] * torch.sin(2 * math.pi * turns)  # (c, s)
    thickness, width = fact["thickness"], 1.1 + 0.14 * _normal(hand["width"])
    path, pressure = fitted(path, pressure, fact["size"], thickness, fact["slant"], width)
    path = placed(path, pressure, thickness, torch.stack((fact["x"], fact["y"]), 1))

    radius, edge = pressure * thickness[:, None] / 2, 0.9 + 0.6 * hand["edge"]
    ink = _coverage(path.to(device), radius.to(device), edge.to(device))
    speck = math.sqrt(12) * (torch.rand(ink.shape, generator=grain, dtype=torch.float32) - 0.5)  # mean 0, variance 1
    facts = {name: value.to(device) for name, value in fact.items()}
    facts["x"], facts["y"] = _centre(ink[:, 0])  # margins and crossings may have moved it
    level = ink * (1 + noise * speck.to(device)) * facts["brightness"][:, None, None, None]
    images = (255 * level).round_().clamp_(0, 255).byte()
    return Strokes(images=images, labels=labels.to(device), masks=ink >= 0.5, **facts)


def _coverage(
    path: Float[Tensor, "c 2 s 2"], radius: Float[Tensor, "c s"], edge: Float[Tensor, "c"]
) -> Float[Tensor, "c 1 28 28"]:
    """How far each pixel lies under the pen: its distance to every straight piece, in units of the pen."""
    middle, step = path.mean(1), path[:, 1] - path[:, 0]
    length = step.norm(dim=2).clamp(min=1e-4)
    across = torch.stack((-step[..., 1], step[..., 0]), 2)
    axes = torch.stack((step, across), 1) / (length * radius)[:, None, :, None]  # (c, 2, s, 2)
    offset = -(axes * middle[:, None]).sum(3, keepdim=True)
    count = torch.arange(SIDE, dtype=path.dtype, device=path.device)
    pixels = torch.stack((count.repeat(SIDE), count.repeat_interleave(SIDE), torch.ones_like(count).repeat(SIDE)))
    along, beside = (torch.cat((axes, offset), 3) @ pixels).unbind(1)  # (c, s, 784) each
    beyond = along.abs_().sub_((length / radius / 2)[..., None]).relu_()
    nearest = beside.square_().addcmul_(beyond, beyond).amin(1).sqrt()  # (c, 784)
    level = 0.5 + (1 - nearest) * (radius.mean(1) / edge)[:, None]
    return level.clamp(0, 1).view(-1, 1, SIDE, SIDE)


def _centre(ink: Float[Tensor, "c h w"]) -> tuple[Float[Tensor, "c"], Float[Tensor, "c"]]:
    steps = torch.arange(SIDE, dtype=ink.dtype, device=ink.device) - CENTRE
    total = ink.sum((1, 2))
    return (ink.sum(1) * steps).sum(1) / total, (ink.sum(2) * steps).sum(1) / total


@plain_defaults()
def measure(images: Shaped[Tensor, "n 1 28 28"]) -> Measures:
    r"""Read thickness (pixels), slant (dx/dy) and brightness off any digit images: drawn, scanned, generated.

    Brightness weighs each pixel by a high power of itself: :math:`b = \sum I^{17} / \sum I^{16}`. The others see
    the ink :math:`J = \operatorname{clip}((I/b - 0.3) / 0.5,\,0,\,1)` and sum over pixels:

    - slant :math:`= -\mu_{xy}/\mu_{yy}`, central moments of J with y pointing down: leaning right is positive;
    - thickness :math:`= 4A / (P + \sqrt{P^2 - 4\pi\chi A})` from area :math:`A = \sum J`, perimeter
      :math:`P = \sum|\nabla J|` and Euler number :math:`\chi` (pieces minus holes) of J at twice the resolution. It is
      the pen's width w: a path of length L leaves :math:`A = wL + \pi\chi w^2/4` and :math:`P = 2L + \pi\chi w`
      (Steiner's formula).

    A blank picture, darker than 0.02 everywhere, measures 0, 0, 0.

    Args:
        images: float in [0, 1] or uint8.

    Raises:
        ValueError: for another shape or type, values outside the range, or NaN.
    """
    if images.ndim != 4 or images.shape[1:] != (1, SIDE, SIDE):
        raise ValueError(f"Images to measure must have shape (n, 1, 28, 28), not {tuple(images.shape)}.")
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise ValueError(f"Images to measure must be float in [0, 1] or uint8, not {images.dtype}.")
    if images.is_floating_point() and not bool(((images >= 0) & (images <= 1)).all()):
        raise ValueError("Images to measure must lie in [0, 1], without NaN; divide by 255 or clamp them first.")
    with _one_thread():
        parts = [_measure(part) for part in torch.split(images, 256)]
    return Measures(*(torch.cat(part) for part in zip(*parts, strict=True)))


def _measure(images: Shaped[Tensor, "c 1 28 28"]) -> Measures:
    image = images[:, 0] / 255 if images.dtype == torch.uint8 else images[:, 0].float()
    power = image**16
    brightness = (power * image).sum((1, 2)) / power.sum((1, 2)).clamp(min=1e-37)
    relative = image / brightness.clamp(min=0.01)[:, None, None]
    fine = F.interpolate(relative[:, None], scale_factor=2, mode="bicubic", align_corners=False)[:, 0]
    found = (_width(_core(fine)) / 2, _slant(_core(relative)), brightness)
    seen = image.amax((1, 2)) >= 0.02
    return Measures(*(torch.where(seen, value, 0) for value in found))


def _core(relative: Float[Tensor, "c h w"]) -> Float[Tensor, "c h w"]:
    return ((relative - 0.3) / 0.5).clamp(0, 1)


def _slant(ink: Float[Tensor, "c h w"]) -> Float[Tensor, "c"]:
    steps = torch.arange(ink.shape[1], dtype=ink.dtype, device=ink.device)
    ink = ink / ink.sum((1, 2), keepdim=True).clamp(min=1e-6)
    columns, rows = ink.sum(1), ink.sum(2)
    x = steps - (columns * steps).sum(1, keepdim=True)
    y = steps - (rows * steps).sum(1, keepdim=True)
    # a pixel is a square, not a point, and has a moment of its own: 1/12
    return -torch.einsum("nyx,nx,ny->n", ink, x, y) / ((rows * y * y).sum(1) + 1 / 12)


def _width(ink: Float[Tensor, "c h w"]) -> Float[Tensor, "c"]:
    ink = F.pad(ink, (1, 1, 1, 1))
    fall, rise = ink[:, 1:, 1:] - ink[:, :-1, :-1], ink[:, 1:, :-1] - ink[:, :-1, 1:]
    area, edge = ink.sum((1, 2)), ((fall**2 + rise**2) / 2).sqrt().sum((1, 2))
    # faces - edges + corners of the pixels above a level, averaged over all levels at once by taking maxima
    across, down = torch.maximum(ink[:, :, 1:], ink[:, :, :-1]), torch.maximum(ink[:, 1:], ink[:, :-1])
    corners = torch.maximum(across[:, 1:], across[:, :-1])
    euler = area - across.sum((1, 2)) - down.sum((1, 2)) + corners.sum((1, 2))
    return 4 * area / (edge + (edge**2 - 4 * math.pi * euler * area).clamp(min=0).sqrt()).clamp(min=1e-6)
