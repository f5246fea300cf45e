"""Hide a part of an image and see how it could go on: the observed part chosen by hand, and many completions."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cvae_lib.conditions import Observed, ObservedCondition
from cvae_lib.course.figures import Picture, digit_grid, titled_sheets
from cvae_lib.course.panels.panel import Choice, Control, Count, Panel, Slider
from cvae_lib.model import CVAE
from cvae_lib.priors import tempered_sample

PAPER = 0.3  # how grey a pixel is shown that is not observed
SEEN = ("pixels here and there", "from the left", "from the bottom", "all but a window")


def observed_part(seen: str, share: float, shape: tuple[int, int]) -> Bool[Tensor, "1 h w"]:
    """Return which pixels are observed; a larger share observes everything that a smaller one does, and more.

    Args:
        seen: how, one of :data:`SEEN`.
        share: of the pixels, 0 to 1.
        shape: H, W.

    Raises:
        ValueError: if ``seen`` is unknown, or the share lies outside [0, 1].
    """
    if seen not in SEEN or not 0 <= share <= 1:
        raise ValueError(f"A part is seen as one of {', '.join(SEEN)}, and a share lies in [0, 1]: {seen!r}, {share}.")
    height, width = shape
    down, across = (torch.arange(size)[:, None] + 0.5 for size in shape)  # pixels are observed by their centres
    noise = torch.rand(height, width, generator=torch.Generator().manual_seed(0))
    off = torch.maximum((down / height - 0.5).abs(), (across.T / width - 0.5).abs())  # 0 in the middle, 1/2 at the rim
    wanted: dict[str, Tensor] = {
        SEEN[0]: noise < share,
        SEEN[1]: (share * width > across.T).expand(height, width),
        SEEN[2]: (down > (1 - share) * height).expand(height, width),
        SEEN[3]: off > 0.5 * (1 - share) ** 0.5,
    }
    return wanted[seen][None]


def shown(images: Float[Tensor, "n c h w"], mask: Bool[Tensor, "n 1 h w"]) -> Float[Tensor, "n c h w"]:
    """Return images as the model sees them, what is not observed in grey."""
    return torch.where(mask, images, PAPER)


@torch.no_grad()
def completed(
    model: CVAE, image: Float[Tensor, "c h w"], mask: Bool[Tensor, "1 h w"], count: int, seed: int = 0
) -> Float[Tensor, "n c h w"]:
    """Return the image with its hidden part drawn anew ``count`` times, z from p(z|y) and pixel means of p(x|z,y).

    Raises:
        ValueError: if the model's condition is no observed part.
    """
    if not isinstance(model.condition, ObservedCondition):
        raise ValueError("To complete an image, a model has to read an observed part: condition='observed'.")
    whole, known = (part.to(model.device).expand(count, *part.shape) for part in (image, mask))
    y = Observed(whole, known)
    z = tempered_sample(model.prior(y), generator=torch.Generator().manual_seed(seed))
    images: Tensor = torch.where(known, whole, model.likelihood(z, y).mean)
    return images


def draw_completions(model: CVAE, image: Float[Tensor, "c h w"], seen: str, share: float, seed: int = 0) -> Picture:
    """Draw what is seen of an image large, and ten ways to go on beside it.

    Raises:
        ValueError: if the model's condition is no observed part, ``seen`` is unknown, or the share is no share.
    """
    image, mask = image.cpu(), observed_part(seen, share, (image.shape[1], image.shape[2]))
    images = completed(model, image, mask, 10, seed).cpu()
    part = float(mask.float().mean())
    apart = float(images.flatten(1).std(0).mul(~mask.expand_as(image).flatten()).sum())
    alt = (
        f"On the left what is seen of an image, {seen}, {part:.0%} of its pixels, the rest grey; on the right ten "
        f"completions, whose hidden pixels differ by {apart:.1f} in all."
    )
    titles = [f"seen: {part:.0%}", "ten ways to go on"]
    return titled_sheets([shown(image[None], mask[None]), images], titles, alt)


def completion_sheet(
    model: CVAE, image: Float[Tensor, "c h w"], seen: str, shares: Sequence[float], seed: int = 0, count: int = 8
) -> Picture:
    """Show what the slider does: a row for each share of the pixels that is seen, with ``count`` completions.

    Raises:
        ValueError: as :func:`draw_completions` does.
    """
    rows, image = [], image.cpu()
    for share in shares:
        mask = observed_part(seen, share, (image.shape[1], image.shape[2]))
        rows += [shown(image[None], mask[None]), completed(model, image, mask, count, seed).cpu()]
    alt = (
        f"What the slider of the panel does, a row for each share of the pixels that is seen, {seen}: what is seen, "
        f"the rest grey, and {count} completions, which are the less alike the less is seen."
    )
    names = [f"{share:.0%} seen" for share in shares]
    return digit_grid(torch.cat(rows), alt, columns=1 + count, row_labels=names, size=0.6)


def completion_panel(
    model: CVAE,
    images: Float[Tensor, "n c h w"],
    names: Sequence[object],
    seen: str = SEEN[0],
    share: float = 0.1,
    seed: int = 0,
) -> Panel:
    """Return a panel that hides a part of an image and completes it: which image, which part, how much, and others.

    Args:
        images: N images to choose from; the first is on the still.
        names: what they are called.
        seen: how a part is seen at the start, and on the still.
        share: of the pixels, at the start.

    Raises:
        ValueError: if there is no name for each image, or as :func:`draw_completions` does.
    """
    if not len(images) or len(names) != len(images) or len(set(names)) != len(names):
        raise ValueError(f"The panel needs one name for each of its {len(images)} images, all different.")
    places = {name: place for place, name in enumerate(names)}

    def draw(image: object, seen: str, share: float, seed: int) -> Picture:
        return draw_completions(model, images[places[image]], seen, share, seed)

    controls: dict[str, Control] = {
        "image": Choice("image", list(names), names[0]),
        "seen": Choice("what is seen", list(SEEN), seen),
        "share": Slider("share seen", 0.0, 0.95, 0.05, share),
        "seed": Count("ten others", seed),
    }
    still = completion_sheet(model, images[0], seen, (0.0, 0.05, 0.1, 0.25, 0.5), seed)
    return Panel(draw, controls, still)
