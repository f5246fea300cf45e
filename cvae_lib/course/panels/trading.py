"""Walk along a rate-distortion curve: the line of slope -beta touches it at a model, and that model draws."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from cvae_lib.course.figures import Picture, digit_grid, plane_and_sheet
from cvae_lib.course.panels.panel import Choice, Control, Panel, Slider


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


def _check(curves: Curves, images: Float[Tensor, "n c h w"], curve: str) -> None:
    if not curves or not all(curves.values()):
        raise ValueError("The panel needs at least one curve, and at least one stop on each.")
    for stop in (stop for stops in curves.values() for stop in stops):
        if stop.rebuilt.shape != images.shape or stop.drawn.shape != images.shape:
            raise ValueError(f"Every stop needs {len(images)} reconstructions and as many drawings, as large as x.")
    if curve not in curves:
        raise ValueError(f"There is no curve {curve!r}; there are {', '.join(curves)}.")


def touched(stops: Sequence[Stop], beta: float) -> Stop:
    r"""Return the stop that a line of slope -beta touches, pushed up from below: of least :math:`D + \beta R`."""
    return min(stops, key=lambda stop: _cost(stop, beta))


def draw_stop(curves: Curves, images: Float[Tensor, "n c h w"], curve: str, log_beta: float) -> Picture:
    """Draw the plane, the line of slope -beta where it touches the curve, and what the model makes that stands there.

    Args:
        curves: name -> stops.
        images: the real images behind every stop's reconstructions.
        curve: which of the curves to touch.
        log_beta: the logarithm of beta to the base 10.

    Raises:
        ValueError: if there is no curve of that name, or a stop has other pictures than the images ask for.
    """
    _check(curves, images, curve)
    beta = 10.0**log_beta
    stop = touched(curves[curve], beta)
    title = f"slope -{beta:.3g}: R {stop.rate:.1f}, D {stop.distortion:.1f}, D + beta R {_cost(stop, beta):.1f}"
    alt = (
        f"The rate-distortion plane with the curves of {' and '.join(curves)}. A line of slope -{beta:.3g} touches the "
        f"curve of {curve} at the model trained with beta {stop.beta:.3g}, rate {stop.rate:.1f} and distortion "
        f"{stop.distortion:.1f} nats. Beside it real images, that model's reconstructions, and its drawings."
    )
    points = {name: [(stop.rate, stop.distortion) for stop in stops] for name, stops in curves.items()}
    sheet = torch.cat([images, stop.rebuilt, stop.drawn])
    titles = (title, f"{curve}, beta {stop.beta:.3g}: real, rebuilt, drawn")
    return plane_and_sheet(points, (stop.rate, stop.distortion), beta, sheet, len(images), titles, alt)


def _cost(stop: Stop, beta: float) -> float:
    return stop.distortion + beta * stop.rate


def trading_sheet(curves: Curves, images: Float[Tensor, "n c h w"], curve: str) -> Picture:
    """Show what the slider does: the real images, then a row of reconstructions and one of drawings for each stop.

    Raises:
        ValueError: if there is no curve of that name, or a stop has other pictures than the images ask for.
    """
    _check(curves, images, curve)
    stops = curves[curve]
    half = (len(images) + 1) // 2
    rows, names = [torch.cat([images[:half], torch.zeros_like(images[:half])])], ["real"]
    for stop in stops:
        rows.append(torch.cat([stop.rebuilt[:half], stop.drawn[:half]]))
        names.append(f"beta {stop.beta:.3g}")
    alt = (
        f"What the slider of the panel does to {curve}, a row for each beta from {stops[0].beta:.3g} to "
        f"{stops[-1].beta:.3g}: on the left the real images above rebuilt, on the right drawings, "
        "always from the same latents."
    )
    return digit_grid(torch.cat(rows), alt, columns=2 * half, row_labels=names, size=0.6)


def trading_panel(curves: Curves, images: Float[Tensor, "n c h w"], curve: str, beta: float = 1.0) -> Panel:
    """Return a panel that turns a line of slope -beta and shows the model of the curve it touches.

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
