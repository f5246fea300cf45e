"""Panels: pictures that follow sliders in a live notebook, and stand still with alt text everywhere else.

Behind each panel is a plain function of plain values that returns a :class:`cvae_lib.course.figures.Picture`.
"""

from cvae_lib.course.panels.attributes import attribute_panel, attribute_sheet, draw_attributes
from cvae_lib.course.panels.blending import blend_digits, blend_panel, blend_sheet, blended
from cvae_lib.course.panels.bound import bound_panel, bound_sheet, draw_bound
from cvae_lib.course.panels.captions import caption_panel, caption_sheet, draw_caption
from cvae_lib.course.panels.completing import (
    SEEN,
    completed,
    completion_panel,
    completion_sheet,
    draw_completions,
    observed_part,
    shown,
)
from cvae_lib.course.panels.drawing import draw_digit, draw_panel, style_sheet
from cvae_lib.course.panels.forecasting import draw_forecast, forecast_panel, forecast_sheet
from cvae_lib.course.panels.panel import Choice, Count, Panel, Slider, Text
from cvae_lib.course.panels.priors import best_gaussian, draw_prior, prior_panel, prior_sheet, split_rate
from cvae_lib.course.panels.styles import style_directions, with_style
from cvae_lib.course.panels.trading import Stop, draw_stop, trading_panel, trading_sheet
from cvae_lib.course.panels.training import draw_training, training_panel, training_sheet

__all__ = [
    "SEEN",
    "Choice",
    "Count",
    "Panel",
    "Slider",
    "Stop",
    "Text",
    "attribute_panel",
    "attribute_sheet",
    "best_gaussian",
    "blend_digits",
    "blend_panel",
    "blend_sheet",
    "blended",
    "bound_panel",
    "bound_sheet",
    "caption_panel",
    "caption_sheet",
    "completed",
    "completion_panel",
    "completion_sheet",
    "draw_attributes",
    "draw_bound",
    "draw_caption",
    "draw_completions",
    "draw_digit",
    "draw_forecast",
    "draw_panel",
    "draw_prior",
    "draw_stop",
    "draw_training",
    "forecast_panel",
    "forecast_sheet",
    "observed_part",
    "prior_panel",
    "prior_sheet",
    "shown",
    "split_rate",
    "style_directions",
    "style_sheet",
    "trading_panel",
    "trading_sheet",
    "training_panel",
    "training_sheet",
    "with_style",
]
