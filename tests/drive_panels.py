"""Move every control of every panel over its whole range, without a browser: found by running, so none is forgotten.

    python drive_panels.py NOTEBOOK [PLACES]

Runs the notebook in this process, then drives each panel that it made; PLACES limits it to so many values of each
control, from end to end. Exits with 1 at the first setting that shows an
error, and for a control that never changes the picture.
"""

import itertools
import random
import sys
from collections.abc import Iterator
from typing import Any

from cvae_lib.course.panels import Choice, Count, Panel, Slider, Text

EVERY = 10**6
CORNERS = 16  # of all the ways to have every control at one of its ends


def positions(control: Any, widget: Any = None) -> list[Any]:
    """Return every value a control can have; of what has no end, a few. A kind unknown here is asked itself."""
    if isinstance(control, Choice):
        return list(control.options)
    if isinstance(control, Slider):
        steps = round((control.high - control.low) / control.step)
        return [min(control.low + i * control.step, control.high) for i in range(steps + 1)]
    if isinstance(control, Count):
        return [control.start, control.start + 1, 10**6]
    if isinstance(control, Text):
        words = control.start.split()
        return [control.start, " ".join(reversed(words)), *words]
    if hasattr(widget, "min") and hasattr(widget, "max"):
        return list(range(widget.min, widget.max + 1, widget.step))
    if hasattr(widget, "options"):
        return [option[1] if isinstance(option, tuple) else option for option in widget.options]
    raise TypeError(f"drive_panels.py does not know how to move a {type(control).__name__}; teach it in positions().")


def ends(control: Any, widget: Any = None) -> list[Any]:
    """Return the first and the last of a control's values."""
    places = positions(control, widget)
    return [places[0], places[-1]]


def thinned(values: list[Any], places: int) -> list[Any]:
    """Return so many of the values at most, evenly from the first to the last."""
    if len(values) <= places:
        return values
    return [values[i * (len(values) - 1) // (places - 1)] for i in range(places)]


def settings(panel: Panel, places: int = EVERY) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield values for all controls: each moved alone over its range, then many at their ends; with what is moved."""
    panel.live()
    inputs = panel.inputs
    for name, control in panel.controls.items():
        for value in thinned(positions(control, inputs[name]), places):
            yield name, panel.start() | {name: value}
    corners = list(itertools.product(*(ends(control, inputs[name]) for name, control in panel.controls.items())))
    for values in random.Random(0).sample(corners, min(CORNERS, places, len(corners))):
        yield "the corners", dict(zip(panel.controls, values, strict=True))


def shown(panel: Panel, values: dict[str, Any]) -> str:
    """Set the panel's controls as a reader would, and return what it shows; raises what the panel caught."""
    for name, value in values.items():
        panel.inputs[name].value = value
    if panel.error is not None:
        raise panel.error
    return str(panel.picture.value)


def drive(panel: Panel, places: int = EVERY) -> int:
    """Drive one panel; returns how many settings were tried."""
    seen: dict[str, set[str]] = {}
    count = 0
    for moved, values in settings(panel, places):
        try:
            seen.setdefault(moved, set()).add(shown(panel, values))
        except Exception as error:
            raise AssertionError(f"{panel!r}: {type(error).__name__} at {values}: {error}") from error
        count += 1
    still = [name for name in panel.controls if len(seen[name]) < 2]
    assert not still, f"{panel!r}: {still} never change the picture"
    return count


def made_by(path: str) -> list[Panel]:
    """Run the notebook at `path` in this process and return the panels it made; raises RuntimeError if it stops."""
    import run_cells

    panels: list[Panel] = []
    make = Panel.__init__

    def registered(self: Panel, *given: Any, **named: Any) -> None:
        make(self, *given, **named)
        panels.append(self)

    Panel.__init__ = registered  # type: ignore[method-assign]
    try:
        if run_cells.main(path):
            raise RuntimeError(f"{path} does not run to its end")
    finally:
        Panel.__init__ = make  # type: ignore[method-assign]
    return panels


def main(path: str, places: str = str(EVERY)) -> int:
    """Run the notebook at `path` and drive its panels; print how much was tried."""
    for panel in made_by(path):
        print(f"driven: {drive(panel, int(places))} settings of {', '.join(panel.controls)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
