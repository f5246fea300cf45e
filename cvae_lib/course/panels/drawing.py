"""Ask for a digit and move its style: the class, three directions of z, and another z for the rest."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from cvae_lib.course.figures import Picture, digit_grid, titled_sheets
from cvae_lib.course.panels.panel import Choice, Control, Count, Panel, Slider
from cvae_lib.course.panels.styles import drawn_latents, label_count, style_directions, with_style
from cvae_lib.model import CVAE

REACH = 3.0  # standard deviations to either side


@torch.no_grad()
def _images(model: CVAE, directions: Tensor, y: Tensor, seed: int, styles: Tensor) -> Float[Tensor, "r ch h w"]:
    """Return one image for each row of y and styles, all from the z that the seed draws for the first label."""
    z = drawn_latents(model, y[:1], seed)  # (1, D)
    moved = with_style(z, model.prior(y[:1]).mean, directions, styles)  # (R, D)
    images: Tensor = model.likelihood(moved, y).mean
    return images


def draw_digit(
    model: CVAE, directions: Float[Tensor, "s d"], digit: int, style: Sequence[float], seed: int = 0
) -> Picture:
    """Draw one digit large, and beside it all labels from the same z.

    Args:
        directions: of z, as :func:`style_directions` gives them.
        style: S coordinates of z along them, in standard deviations of a standard normal prior.
        seed: draws what of z the directions leave open.

    Raises:
        ValueError: if the model cannot be asked for a label, has no such label, or the style has another length.
    """
    labels = label_count(model)
    if not 0 <= digit < labels:
        raise ValueError(f"This model draws the labels 0 to {labels - 1}, and {digit} is not one of them.")
    if len(style) != len(directions):
        raise ValueError(f"A style is {len(directions)} numbers, one for each direction, not {len(style)}.")
    y = torch.tensor([digit, *range(labels)], device=model.device)  # (1 + labels,)
    styles = directions.new_tensor([list(style)]).expand(len(y), -1)
    images = _images(model, directions, y, seed, styles)
    where = ", ".join(f"{value:+.2f}" for value in style)
    alt = f"A {digit} drawn large at style {where}, and beside it the labels 0 to {labels - 1} from the same z."
    return titled_sheets([images[:1], images[1:]], [f"a {digit}", "the same z under every label"], alt)


def style_sheet(model: CVAE, directions: Float[Tensor, "s d"], digit: int, seed: int = 0) -> Picture:
    """Show what each style slider does to one digit, the others at 0: a row for each, seven positions from -3 to 3."""
    positions = torch.linspace(-REACH, REACH, 7).to(directions)
    y = torch.full((len(positions),), digit, device=model.device)
    rows = [
        _images(model, directions, y, seed, torch.outer(positions, axis))
        for axis in torch.eye(len(directions)).to(directions)
    ]
    alt = (
        f"What the sliders of the panel do, one row for each style: a {digit} changes from left to right as that "
        f"slider goes from {-REACH:.0f} to {REACH:.0f}, the others at 0."
    )
    return digit_grid(
        torch.cat(rows),
        alt,
        columns=len(positions),
        column_labels=[f"{position:+.0f}" if position else "0" for position in positions.tolist()],
        row_labels=[f"style {row + 1}" for row in range(len(directions))],
        size=0.7,
    )


def draw_panel(model: CVAE, digit: int = 7, seed: int = 0) -> Panel:
    """Return a panel that draws digits on request: which one, three style sliders, and "another one".

    The sliders set z along the directions that change the picture most; the button draws the rest of z anew.

    Raises:
        ValueError: if the model cannot be asked for a label, or not for this digit.
    """
    directions = style_directions(model)
    controls: dict[str, Control] = {"digit": Choice("digit", range(label_count(model)), digit)}
    for number in range(1, len(directions) + 1):
        controls[f"style_{number}"] = Slider(f"style {number}", -REACH, REACH, 0.25, 0.0)
    controls["seed"] = Count("another one", seed)

    def draw(digit: int, seed: int, **styles: float) -> Picture:
        return draw_digit(model, directions, digit, list(styles.values()), seed)

    return Panel(draw, controls, style_sheet(model, directions, digit, seed))
