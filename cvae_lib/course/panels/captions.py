"""Ask in words: a box for a caption, and what the model draws for it."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from cvae_lib.conditions import CaptionCondition
from cvae_lib.course.figures import Picture, digit_grid, titled_sheets
from cvae_lib.course.panels.panel import Control, Count, Panel, Text
from cvae_lib.course.panels.styles import decoder_reads_condition
from cvae_lib.model import CVAE
from cvae_lib.priors import tempered_sample


def _reader(model: CVAE) -> CaptionCondition:
    condition = model.condition
    if not isinstance(condition, CaptionCondition) or not decoder_reads_condition(model):
        raise ValueError("This panel asks in words, and this model's decoder reads something else, if any.")
    return condition


@torch.no_grad()
def _images(model: CVAE, captions: Sequence[str], count: int, seed: int) -> Float[Tensor, "r c h w"]:
    """Return ``count`` images for each caption in turn; the same number of the same caption has the same z."""
    ids = _reader(model).ids(list(captions))
    noise = torch.Generator().manual_seed(seed)
    z = tempered_sample(model.prior(ids[:1].expand(count, -1)), generator=noise).repeat(len(captions), 1)
    images: Tensor = model.likelihood(z, ids.repeat_interleave(count, 0)).mean
    return images


def draw_caption(model: CVAE, caption: str, seed: int = 0) -> Picture:
    """Draw what a caption says, once large and ten times more beside it.

    Raises:
        ValueError: if the model reads no captions, or the caption has a word it does not know, too many, or none.
    """
    words = _reader(model).vocabulary.encode([caption])
    if not words.any():
        raise ValueError("Write at least one word; it knows " + ", ".join(_reader(model).vocabulary.words) + ".")
    images = _images(model, [caption], 11, seed)
    alt = f"What the model draws for the caption “{caption}”: one image large, and ten others beside it."
    return titled_sheets([images[:1], images[1:]], ["drawn", "and ten others"], alt)


def caption_sheet(model: CVAE, captions: Sequence[str], seed: int = 0, count: int = 7) -> Picture:
    """Show a row of images for each caption; images of one column come from one z.

    Raises:
        ValueError: if the model reads no captions, or one of them has a word it does not know.
    """
    alt = (
        "What the box of the panel does: a row of drawings for each of the captions "
        f"{'; '.join(captions)}. Each column has the same z."
    )
    return digit_grid(_images(model, captions, count, seed), alt, columns=count, row_labels=captions, size=0.6)


def caption_panel(model: CVAE, captions: Sequence[str], seed: int = 0) -> Panel:
    """Return a panel with a box for a caption, drawn when Enter is pressed, and "ten others".

    Args:
        captions: the first is what the box starts with; all of them are on the still.

    Raises:
        ValueError: if the model reads no captions, there is none, or one of them has a word it does not know.
    """
    if not captions:
        raise ValueError("The panel needs at least one caption to start with.")

    def draw(caption: str, seed: int) -> Picture:
        return draw_caption(model, caption, seed)

    controls: dict[str, Control] = {"caption": Text("caption", captions[0]), "seed": Count("ten others", seed)}
    return Panel(draw, controls, caption_sheet(model, captions, seed))
