"""Between two digits: the label mixed in the decoder's condition, the style mixed in z."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from cvae_lib.course.figures import Picture, digit_grid, titled_sheets
from cvae_lib.course.panels.panel import Choice, Control, Count, Panel, Slider
from cvae_lib.course.panels.styles import drawn_latents, label_count
from cvae_lib.model import CVAE


@torch.no_grad()
def blended(
    model: CVAE, labels: tuple[int, int], label_mix: Float[Tensor, " r"], style_mix: Float[Tensor, " r"], seed: int = 0
) -> Float[Tensor, "r ch h w"]:
    r"""Return images between two labels and two latents, one for each row of the two mixes.

    .. math:: c = (1 - w)\, c_a + w\, c_b, \qquad z = m + \cos(\tfrac{\pi t}{2})\, \epsilon_a
              + \sin(\tfrac{\pi t}{2})\, \epsilon_b

    with the means of p(z|a) and p(z|b) mixed in m as the labels are. Cosine and sine keep z as far from the centre as a
    draw from the prior is, where a straight line would pass too close to it. Source: White 2016, arXiv:1609.04468.

    Args:
        labels: a and b.
        label_mix: w, from 0 (all a) to 1 (all b), a weight on the rows that the condition module makes of the labels.
        style_mix: t, from 0 (the first latent) to 1 (the second).
        seed: draws the two latents.

    Raises:
        ValueError: if the model cannot be asked for a label, or has no such label.
    """
    count = label_count(model)
    if not all(0 <= label < count for label in labels):
        raise ValueError(f"This model draws the labels 0 to {count - 1}, not {labels[0]} and {labels[1]}.")
    y = torch.tensor(labels, device=model.device)
    rows = model.condition(y)  # (2, C)
    w, t = label_mix.to(rows)[:, None], style_mix.to(rows)[:, None]  # (R, 1) each
    mean = model.prior(y).mean  # (2, D)
    first, second = drawn_latents(model, y, seed) - mean  # (D,) each
    z = torch.lerp(mean[0], mean[1], w) + torch.cos(math.pi / 2 * t) * first + torch.sin(math.pi / 2 * t) * second
    # The decoder reads rows, not labels, so a mixed row goes straight to it.
    images: Tensor = model.likelihood_module(model.decoder(z, torch.lerp(rows[0], rows[1], w))).mean
    return images


def blend_digits(model: CVAE, first: int, second: int, label_mix: float, style_mix: float, seed: int = 0) -> Picture:
    """Draw a digit between two: the first, the mixture, the second.

    Args:
        label_mix: 0 for the first label, 1 for the second.
        style_mix: 0 for the first digit's style, 1 for the second's.
        seed: draws the two styles.

    Raises:
        ValueError: if the model cannot be asked for a label, or has no such label.
    """
    label, style = torch.tensor([0.0, label_mix, 1.0]), torch.tensor([0.0, style_mix, 1.0])
    images = blended(model, (first, second), label, style, seed)
    titles = [f"a {first}", f"label {label_mix:.2f}, style {style_mix:.2f}", f"a {second}"]
    alt = (
        f"A {first} in one handwriting on the left, a {second} in another on the right, and between them a digit whose "
        f"label is {label_mix:.0%} of the way and whose style is {style_mix:.0%} of the way."
    )
    return titled_sheets([image[None] for image in images], titles, alt)


def blend_sheet(model: CVAE, first: int, second: int, seed: int = 0) -> Picture:
    """Show the whole plane that the two mixes span: five label mixes down, seven style mixes across.

    Raises:
        ValueError: if the model cannot be asked for a label, or has no such label.
    """
    down, across = torch.linspace(0, 1, 5), torch.linspace(0, 1, 7)
    images = blended(model, (first, second), down.repeat_interleave(len(across)), across.repeat(len(down)), seed)
    alt = (
        f"What the two sliders of the panel do: from top to bottom the label goes from {first} to {second}, from left "
        "to right the handwriting goes from one style to another. The panel shows any point between."
    )
    return digit_grid(
        images,
        alt,
        columns=len(across),
        column_labels=[f"{mix:.2f}" for mix in across.tolist()],
        row_labels=[f"{mix:.2f}" for mix in down.tolist()],
        size=0.6,
    )


def blend_panel(model: CVAE, first: int = 5, second: int = 6, seed: int = 0) -> Panel:
    """Return a panel that mixes two labels and two styles, each with its own slider.

    Raises:
        ValueError: if the model cannot be asked for a label, or has no such label.
    """
    digits = range(label_count(model))
    controls: dict[str, Control] = {
        "first": Choice("first digit", digits, first),
        "second": Choice("second digit", digits, second),
        "label_mix": Slider("label: first to second", 0.0, 1.0, 0.05, 0.5),
        "style_mix": Slider("style: first to second", 0.0, 1.0, 0.05, 0.5),
        "seed": Count("two other styles", seed),
    }

    def draw(first: int, second: int, label_mix: float, style_mix: float, seed: int) -> Picture:
        return blend_digits(model, first, second, label_mix, style_mix, seed)

    return Panel(draw, controls, blend_sheet(model, first, second, seed))
