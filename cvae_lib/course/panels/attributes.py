"""Ask by numbers: a slider for each attribute, a choice of label if there is one, and what a ruler reads off."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cvae_lib.conditions import AttributeCondition, CompositeCondition, EmbeddingCondition, LabelCondition
from cvae_lib.course.figures import Picture, digit_grid, titled_sheets
from cvae_lib.course.panels.panel import Choice, Control, Count, Panel, Slider
from cvae_lib.course.panels.styles import decoder_reads_condition
from cvae_lib.model import CVAE
from cvae_lib.priors import tempered_sample

Ruler = Callable[[Tensor], Any]  # from images to something that has each attribute under its name
REACH = 2.0  # standard deviations of the training data to either side, where no limits are given
OTHERS = 10


def asked_for(model: CVAE) -> tuple[AttributeCondition, int]:
    """Return the model's attribute condition, and how many labels it is asked for beside it, often 0.

    Raises:
        ValueError: if the decoder reads no attributes, or something beside them that is no label.
    """
    condition = model.condition
    parts = list(condition.parts) if isinstance(condition, CompositeCondition) else [condition]
    if decoder_reads_condition(model) and isinstance(parts[-1], AttributeCondition):
        if len(parts) == 1:
            return parts[-1], 0
        if len(parts) == 2 and isinstance(parts[0], LabelCondition | EmbeddingCondition):
            return parts[-1], parts[0].num_classes
    raise ValueError("This panel asks for attributes, with a label or without; this model's decoder reads no such y.")


@torch.no_grad()
def _images(model: CVAE, rows: Float[Tensor, "r a"], label: int, seed: int) -> Float[Tensor, "r c h w"]:
    """Return an image for each row of attributes, each from a z of its own, the same for the same seed."""
    _, labels = asked_for(model)
    values = rows.to(model.device)
    y = (torch.full((len(rows),), label, device=model.device), values) if labels else values
    images: Tensor = model.likelihood(tempered_sample(model.prior(y), 1.0, torch.Generator().manual_seed(seed)), y).mean
    return images


def draw_attributes(
    model: CVAE, values: Mapping[str, float], label: int = 0, seed: int = 0, measure: Ruler | None = None
) -> Picture:
    """Draw one image large with the attributes asked for, and ten others with the same ones beside it.

    Args:
        values: attribute -> value, in its own units.
        measure: reads the attributes back, such as :func:`cvae_lib.datasets.strokes.measure`; the mean
            over all eleven is shown.

    Raises:
        ValueError: if the model cannot be asked for attributes, has others than these, or no such label.
    """
    condition, labels = asked_for(model)
    if set(values) != set(condition.names):
        raise ValueError(f"This model is asked for {', '.join(condition.names)}, not for {', '.join(values)}.")
    if labels and not 0 <= label < labels:
        raise ValueError(f"This model draws the labels 0 to {labels - 1}, and {label} is not one of them.")
    row = torch.tensor([[values[name] for name in condition.names]])
    images = _images(model, row.expand(1 + OTHERS, -1), label, seed)
    read = None if measure is None else measure(images)
    words = [
        f"{name} {values[name]:.2f}" + ("" if read is None else f" (measured {float(getattr(read, name).mean()):.2f})")
        for name in condition.names
    ]
    what = f"a {label}" if labels else "one image"
    alt = f"{what} drawn large, and ten others with the same order beside it: {', '.join(words)}."
    title = ", ".join(f"{name} {float(getattr(read, name).mean()):.2f}" for name in condition.names) if read else ""
    titles = [what, f"measured: {title}" if title and len(condition.names) < 4 else "the same order"]
    return titled_sheets([images[:1], images[1:]], titles, alt)


def attribute_sheet(
    model: CVAE, limits: Mapping[str, Sequence[float]], label: int = 0, seed: int = 0, count: int = 7
) -> Picture:
    """Show what each slider does while the others stay in the middle: a row for each, all from one z.

    Raises:
        ValueError: if the model cannot be asked for attributes.
    """
    condition, _ = asked_for(model)
    middle = torch.tensor([sum(limits[name]) / 2 for name in condition.names])
    images = []
    for column, name in enumerate(condition.names):
        for value in torch.linspace(limits[name][0], limits[name][1], count):
            row = middle.clone()
            row[column] = value
            images.append(_images(model, row[None], label, seed))
    alt = (
        "What the sliders of the panel do, one row for each attribute: from left to right it goes from its lowest to "
        "its highest setting, the others in the middle, the rest of the image from the same z."
    )
    return digit_grid(torch.cat(images), alt, columns=count, row_labels=condition.names, size=0.7)


def attribute_panel(
    model: CVAE,
    *,
    limits: Mapping[str, Sequence[float]] | None = None,
    label: int = 0,
    seed: int = 0,
    measure: Ruler | None = None,
) -> Panel:
    """Return a panel with a slider for each attribute, a choice of label if the model has any, and "another one".

    Args:
        limits: attribute -> (lowest, highest); two standard deviations of the training data around their mean if None.
        label: the one to start with.
        measure: reads the attributes back off the images.

    Raises:
        ValueError: if the model cannot be asked for attributes, or not for this label.
    """
    condition, labels = asked_for(model)
    spread = zip(condition.names, condition.mean.tolist(), condition.std.tolist(), strict=True)
    ends = {name: (mean - REACH * std, mean + REACH * std) for name, mean, std in spread} | dict(limits or {})
    controls: dict[str, Control] = {"label": Choice("label", range(labels), label)} if labels else {}
    for name in condition.names:
        low, high = ends[name]
        controls[name] = Slider(name, low, high, (high - low) / 20, (low + high) / 2)
    controls["seed"] = Count("another one", seed)

    def draw(seed: int, label: int = 0, **values: float) -> Picture:
        return draw_attributes(model, values, label, seed, measure)

    return Panel(draw, controls, attribute_sheet(model, ends, label, seed))
