"""Walk along a rate-distortion curve: where beta puts the model, and what it draws there."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from cvae_lib.plots import Picture, digit_grid, plane_and_sheet
from cvae_lib.widgets.panel import Choice, Control, Panel, Slider


class Stop(NamedTuple):
    """A trained model on the curve, as what the panel shows of it.

    Attributes:
        beta: what it was trained with.
        rate: nats.
        distortion: nats.
        rebuilt: reconstructions of the same images at every stop, (N, channels, H, W).
        drawn: drawings, as many, from the same latents at every stop.
    """

    beta: float
    rate: float
    distortion: float
    rebuilt: Float[Tensor, "n c h w"]
    drawn: Float[Tensor, "n c h w"]


Curves = Mapping[str, Sequence[Stop]]


def _checked(curves: Curves, images: Float[Tensor, "n c h w"]) -> None:
    if not curves or not all(curves.values()):
        raise ValueError("The panel needs at least one curve, and at least one stop on each.")
    for stop in (stop for stops in curves.values() for stop in stops):
        if stop.rebuilt.shape != images.shape or stop.drawn.shape != images.shape:
            raise ValueError(f"Every stop needs {len(images)} reconstructions and as many drawings, as large as x.")


def nearest(stops: Sequence[Stop], log_beta: float) -> Stop:
    r"""Return the stop whose beta is nearest on a logarithmic scale, :math:`\min |\log_{10}\beta - b|`."""
    return min(stops, key=lambda stop: abs(float(torch.tensor(stop.beta).log10()) - log_beta))


def draw_stop(curves: Curves, images: Float[Tensor, "n c h w"], curve: str, log_beta: float) -> Picture:
    """Draw the plane with the stop nearest to beta, its line of slope -beta, and what the model makes there.

    Raises:
        ValueError: if there is no curve of that name, or a stop has other pictures than the images ask for.
    """
    _checked(curves, images)
    if curve not in curves:
        raise ValueError(f"There is no curve {curve!r}; there are {', '.join(curves)}.")
    stop = nearest(curves[curve], log_beta)
    words = f"beta {stop.beta:.3g}: R {stop.rate:.1f} + D {stop.distortion:.1f} = {stop.rate + stop.distortion:.1f}"
    alt = (
        f"The rate-distortion plane with the curves of {' and '.join(curves)}, a mark on {curve} at {words} nats and a "
        f"line of slope -{stop.beta:.3g} through it. Beside it real images, their reconstructions there, and drawings."
    )
    points = {name: [(stop.rate, stop.distortion) for stop in stops] for name, stops in curves.items()}
    sheet = torch.cat([images, stop.rebuilt, stop.drawn])
    titles = (words, f"{curve}: real, rebuilt, drawn")
    return plane_and_sheet(points, (stop.rate, stop.distortion), stop.beta, sheet, len(images), titles, alt)


def trading_sheet(curves: Curves, images: Float[Tensor, "n c h w"], curve: str) -> Picture:
    """Show what the slider does: the real images, then a row of reconstructions and one of drawings for each stop.

    Raises:
        ValueError: if there is no curve of that name, or a stop has other pictures than the images ask for.
    """
    _checked(curves, images)
    if curve not in curves:
        raise ValueError(f"There is no curve {curve!r}; there are {', '.join(curves)}.")
    stops = curves[curve]
    half = (len(images) + 1) // 2
    rows, names = [torch.cat([images[:half], images[:half]])], ["real, twice"]
    for stop in stops:
        rows.append(torch.cat([stop.rebuilt[:half], stop.drawn[:half]]))
        names.append(f"beta {stop.beta:.3g}")
    alt = (
        f"What the slider of the panel does to {curve}, a row for each beta from {stops[0].beta:.3g} to "
        f"{stops[-1].beta:.3g}: on the left the same real images rebuilt, on the right drawings from the same latents."
    )
    return digit_grid(torch.cat(rows), alt, columns=2 * half, row_labels=names, size=0.6)


def trading_panel(curves: Curves, images: Float[Tensor, "n c h w"], curve: str, beta: float = 1.0) -> Panel:
    """Return a panel with a slider for beta and a choice of curve; it shows the nearest model that was trained.

    Args:
        curves: name -> stops, in the order of beta.
        images: the real images behind every stop's reconstructions.
        curve: the one to start with, and the one on the still.
        beta: where to start.

    Raises:
        ValueError: if there is no curve of that name, or a stop has other pictures than the images ask for.
    """
    still = trading_sheet(curves, images, curve)
    logs = torch.tensor([stop.beta for stops in curves.values() for stop in stops]).log10()
    low, high = float(logs.min()), float(logs.max())
    start = min(max(float(torch.tensor(beta).log10()), low), high)
    controls: dict[str, Control] = {
        "curve": Choice("model", list(curves), curve),
        "log_beta": Slider("log10 of beta", low, high, (high - low) / 20 or 1.0, start),
    }

    def draw(curve: str, log_beta: float) -> Picture:
        return draw_stop(curves, images, curve, log_beta)

    return Panel(draw, controls, still)
