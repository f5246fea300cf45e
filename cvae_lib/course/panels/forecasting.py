"""Choose a window, hide its end, and watch the forecast widen and its fork change its mind."""

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from cvae_lib.course.figures import Fan, Picture, fan_and_end, fans
from cvae_lib.course.panels.panel import Choice, Control, Panel, Slider
from cvae_lib.environment import seeded

# From windows (N, W) and their masks, true where a value is known, to draws of the futures (M, N, T).
Forecast = Callable[[Tensor, Tensor], Tensor]
EXACT = "exact law"


def _fan(window: Float[Tensor, " w"], forecasts: Mapping[str, Forecast], name: str, hidden: int, paths: int) -> Fan:
    if name not in forecasts:
        raise ValueError(f"There is no forecaster {name!r}; there are {', '.join(forecasts)}.")
    if not 0 <= hidden < len(window):
        raise ValueError(f"Of {len(window)} values at least one must be left, so {hidden} cannot be hidden.")
    mask = torch.arange(len(window)) < len(window) - hidden
    with torch.no_grad(), seeded(0, torch.device("cpu")):
        draws = forecasts[name](window[None], mask[None])[:, 0]
        exact = forecasts[EXACT](window[None], mask[None])[:, 0] if EXACT in forecasts else None
    return Fan(f"{name}, {hidden} values hidden", window, draws, mask, paths=paths, exact=exact)


def draw_forecast(
    windows: Mapping[str, Float[Tensor, " w"]],
    forecasts: Mapping[str, Forecast],
    window: str,
    name: str,
    hidden: int,
    limits: tuple[float, float],
) -> Picture:
    """Draw the forecast of one window with its last values hidden, and the spread at the last step.

    Args:
        windows: name -> window.
        forecasts: name -> forecaster; the one called ``exact law``, if there is one, is outlined.
        window, name: which of each.
        hidden: so many values are hidden, from now backwards.
        limits: from and to, of the series' axis.

    Raises:
        ValueError: if there is no such window or forecaster, or nothing of the window would be left.
    """
    if window not in windows:
        raise ValueError(f"There is no window {window!r}; there are {', '.join(windows)}.")
    fan = _fan(windows[window], forecasts, name, hidden, 12)
    low, high = (float(fan.draws[:, -1].quantile(q)) for q in (0.1, 0.9))
    alt = (
        f"The window {window} with its last {hidden} values hidden, and the forecast of {name} as three bands with "
        f"twelve draws. At the last step eight of ten draws lie between {low:.1f} and {high:.1f}."
    )
    return fan_and_end(fan, limits, alt)


def forecast_sheet(window: Float[Tensor, " w"], forecasts: Mapping[str, Forecast], name: str) -> Picture:
    """Show what the slider does: the forecast of one window with nothing, a quarter and half of it hidden.

    Raises:
        ValueError: if there is no such forecaster.
    """
    counts = (0, len(window) // 4, len(window) // 2)
    shown = [_fan(window, forecasts, name, hidden, 6) for hidden in counts]
    said = ", ".join(
        f"{hidden} hidden: {float(fan.draws[:, -1].quantile(0.1)):.1f} to {float(fan.draws[:, -1].quantile(0.9)):.1f}"
        for hidden, fan in zip(counts, shown, strict=True)
    )
    alt = (
        f"What the panel's slider does to the forecast of {name} for one window: the more of its end is hidden, "
        f"the more the bands change. Where eight of ten draws lie at the last step: {said}."
    )
    return fans(shown, alt)


def forecast_panel(windows: Mapping[str, Float[Tensor, " w"]], forecasts: Mapping[str, Forecast]) -> Panel:
    """Return a panel that hides the end of a window and shows the forecast of what follows.

    Args:
        windows: name -> window, all equally long.
        forecasts: name -> from (windows, masks) to draws (M, N, T); one called ``exact law`` is outlined.

    Raises:
        ValueError: if there is no window or no forecaster.
    """
    if not windows or not forecasts:
        raise ValueError("The panel needs at least one window and one forecaster.")
    first, name = next(iter(windows)), next(iter(forecasts))
    still = forecast_sheet(windows[first], forecasts, name)
    widest = [_fan(window, forecasts, name, 0, 0).draws for window in windows.values()]
    ends = torch.cat([torch.cat(list(windows.values())), *[draws.flatten() for draws in widest]])
    limits = (float(ends.quantile(0.001)) - 0.5, float(ends.quantile(0.999)) + 0.5)
    controls: dict[str, Control] = {
        "window": Choice("window", list(windows), first),
        "name": Choice("forecaster", list(forecasts), name),
        "hidden": Slider("values hidden", 0, len(windows[first]) * 2 // 3, 1, 0),
    }

    def draw(window: str, name: str, hidden: float) -> Picture:
        return draw_forecast(windows, forecasts, window, name, round(hidden), limits)

    return Panel(draw, controls, still)
