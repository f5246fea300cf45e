"""Fans, the long record and the forecasting panel: what they draw, what they say, and what they refuse."""

import math

import numpy as np
import pytest
import torch

from cvae_lib.course import figures, panels


def fan(**more):
    draws = torch.randn(200, 6, generator=torch.Generator().manual_seed(0))
    return figures.Fan("a window", torch.arange(10.0) / 10, draws, **more)


def lines(axes):
    return {line.get_label(): line for line in axes.get_lines()}


def test_a_fan_shows_the_bands_of_its_draws_and_hides_what_is_hidden():
    mask = torch.arange(10) < 7
    shown = fan(mask=mask, future=torch.ones(6), paths=3, lines={"mean": torch.zeros(6)}, exact=torch.randn(50, 6))
    (axes,) = figures.fans([shown], "A fan of a forecast, for a test.").figure.axes
    window = lines(axes)["window"].get_ydata()
    np.testing.assert_allclose(window[:7], shown.window[:7].numpy())
    assert np.isnan(window[7:]).all() and list(lines(axes)["hidden"].get_xdata()) == [-2, -1, 0]
    for band, level in zip(axes.collections, (0.95, 0.8, 0.5), strict=True):
        height = band.get_paths()[0].vertices
        ahead = height[height[:, 0] == 3][:, 1]
        low, high = (float(shown.draws[:, 2].quantile((1 + sign * level) / 2)) for sign in (-1, 1))
        assert ahead.min() == pytest.approx(low) and ahead.max() == pytest.approx(high)
        assert band.get_label() == f"{level:.0%} of the draws"
    assert list(lines(axes)["what came"].get_xdata()) == [1, 2, 3, 4, 5, 6]
    drawn = [line for line in axes.get_lines() if line.get_linewidth() == 0.7]
    assert len(drawn) == 3 and "80%, exact law" in lines(axes) and "mean" in lines(axes)


def test_fans_share_their_scale_and_one_legend():
    picture = figures.fans([fan(), fan(bands=False, paths=2), fan(), fan()], "Four fans, for a test.", columns=3)
    axes = picture.figure.axes
    assert len(axes) == 6 and len({place.get_ylim() for place in axes[:4]}) == 1
    assert not axes[4].axison and len(picture.figure.legends) == 1
    assert not axes[1].collections
    with pytest.raises(ValueError, match="at least one window"):
        figures.fans([], "None.")


def test_a_timeline_marks_the_weeks_without_a_value():
    values = torch.arange(50.0)
    values[[4, 20]] = math.nan
    years, fitted = 1958 + torch.arange(50.0), {"fit": (1960, 1970)}
    picture = figures.timeline(years, values, "A record with two holes.", spans=fitted)
    (axes,) = picture.figure.axes
    assert list(axes.get_lines()[1].get_xdata()) == [1962, 1978]
    assert [text.get_text() for text in axes.texts] == ["fit"]


# --- the panel ----------------------------------------------------------------------------------------------


def steady(windows, mask):
    """The last value seen, and noise that grows with what is hidden."""
    count = mask.sum(1)
    last = windows.gather(1, count[:, None] - 1)
    return last + (1 + (~mask).sum(1))[:, None] * torch.randn(100, len(windows), 5)


def exact(windows, mask):
    return torch.zeros(100, len(windows), 5) + torch.randn(100, 1, 1)


@pytest.fixture
def windows():
    return {"falling": torch.arange(12.0).flip(0), "rising": torch.arange(12.0)}


def test_the_panel_hides_the_end_of_a_window(windows):
    panel = panels.forecast_panel(windows, {"steady": steady, "exact law": exact})
    assert panel.start() == {"window": "falling", "name": "steady", "hidden": 0}
    first = panel.draw(window="rising", name="steady", hidden=0.0)
    later = panel.draw(window="rising", name="steady", hidden=5.0)
    assert "last 0 values hidden" in first.alt and "last 5 values hidden" in later.alt
    assert first.png() == panel.draw(window="rising", name="steady", hidden=0.0).png()  # a slider that does not flicker
    left = later.figure.axes[0]
    assert np.isnan(lines(left)["window"].get_ydata()[-5:]).all()
    ends = [panel.draw(window="rising", name="exact law", hidden=h).alt.split("between")[1] for h in (0.0, 5.0)]
    assert ends[0] == ends[1]  # nothing hidden matters to it
    panel.live()
    for name, control in panel.controls.items():
        assert panel.inputs[name].description == control.label and panel.inputs[name].value == control.start
    assert "slider" in panel.still.alt and "panel" in panel.still.alt and len(panel.still.figure.axes) == 3


def test_the_panel_leaves_the_readers_random_numbers_alone(windows):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    panels.draw_forecast(windows, {"steady": steady}, "rising", "steady", 2, (-9.0, 9.0))
    assert torch.equal(torch.rand(2), expected)


def test_forecasts_that_cannot_be_drawn_are_refused(windows):
    tell = {"steady": steady}
    with pytest.raises(ValueError, match="no window 'flat'; there are falling, rising"):
        panels.draw_forecast(windows, tell, "flat", "steady", 0, (0.0, 1.0))
    with pytest.raises(ValueError, match="no forecaster 'oracle'; there are steady"):
        panels.draw_forecast(windows, tell, "rising", "oracle", 0, (0.0, 1.0))
    with pytest.raises(ValueError, match="so 12 cannot be hidden"):
        panels.draw_forecast(windows, tell, "rising", "steady", 12, (0.0, 1.0))
    with pytest.raises(ValueError, match="at least one window and one forecaster"):
        panels.forecast_panel(windows, {})
