"""The figures of the course. Each is a :class:`Picture`: a matplotlib figure that carries its alt text."""

from cvae_lib.course.figures.aggregates import prior_maps, prior_meter, prior_stills
from cvae_lib.course.figures.asked import asked_and_measured, word_maps
from cvae_lib.course.figures.charts import bars, confusion, curves, latent_map
from cvae_lib.course.figures.diagrams import gaussian_stills, graphical_models
from cvae_lib.course.figures.forecasts import Fan, fan_and_end, fans, timeline
from cvae_lib.course.figures.images import digit_grid
from cvae_lib.course.figures.live import bound_meter, bound_sweeps, titled_sheets, training_meter, training_sheets
from cvae_lib.course.figures.picture import COLOURS, MARKERS, Picture, new_figure
from cvae_lib.course.figures.plane import plane_and_sheet, rate_distortion_plane
from cvae_lib.course.figures.seeds import seed_dots

__all__ = [
    "COLOURS",
    "MARKERS",
    "Fan",
    "Picture",
    "asked_and_measured",
    "bars",
    "bound_meter",
    "bound_sweeps",
    "confusion",
    "curves",
    "digit_grid",
    "fan_and_end",
    "fans",
    "gaussian_stills",
    "graphical_models",
    "latent_map",
    "new_figure",
    "plane_and_sheet",
    "prior_maps",
    "prior_meter",
    "prior_stills",
    "rate_distortion_plane",
    "seed_dots",
    "timeline",
    "titled_sheets",
    "training_meter",
    "training_sheets",
    "word_maps",
]
