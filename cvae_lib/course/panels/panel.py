"""A panel: controls, a plain function that draws a picture from their values, and a still for where nothing moves.

Nothing here needs ipywidgets until a panel is shown live; without it, and on a static page, the still is shown.
"""

import base64
import html
import importlib.util
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cvae_lib.course.figures import Picture
from cvae_lib.course.figures.picture import BLUE

WIDGET = "application/vnd.jupyter.widget-view+json"
CSS_CLASS = "cvae-panel"
NO_WIDGETS = "This panel stands still here: run `pip install ipywidgets` and restart the kernel to move it."


@dataclass(frozen=True)
class Slider:
    """A number between two ends, moved by mouse or arrow keys.

    Args:
        label: what it is called beside the control.
        low: lower end.
        high: upper end.
        step: from one position to the next.
        start: where it stands at first.

    Raises:
        ValueError: if the label is empty, or not low <= start <= high with a step above 0.
    """

    label: str
    low: float
    high: float
    step: float
    start: float

    def __post_init__(self) -> None:
        _named(self.label)
        if not (self.low <= self.start <= self.high and self.step > 0):
            raise ValueError(f"The slider {self.label!r} needs low <= start <= high and a step above 0.")

    def widget(self, layout: Any) -> Any:
        """Return it as an ipywidget."""
        import ipywidgets

        return ipywidgets.FloatSlider(
            description=self.label,
            min=self.low,
            max=self.high,
            step=self.step,
            value=self.start,
            readout_format=".2f",
            style={"handle_color": BLUE},  # its own white handle is hard to find on a white page
            layout=layout,
        )


@dataclass(frozen=True)
class Choice:
    """One of a few values, chosen from a list.

    Args:
        label: what it is called beside the control.
        options: the values.
        start: the one chosen at first.

    Raises:
        ValueError: if the label is empty, or ``start`` is not among the options.
    """

    label: str
    options: Sequence[Any]
    start: Any

    def __post_init__(self) -> None:
        _named(self.label)
        if self.start not in self.options:
            raise ValueError(f"The choice {self.label!r} starts at {self.start!r}, which is not among its options.")

    def widget(self, layout: Any) -> Any:
        """Return it as an ipywidget."""
        import ipywidgets

        return ipywidgets.Dropdown(
            description=self.label,
            options=list(self.options),
            value=self.start,
            layout=layout,
        )


@dataclass(frozen=True)
class Count:
    """A button whose value is a whole number that grows by 1 with each press: a seed for "another one".

    Args:
        label: what stands on it.
        start: the number at first.

    Raises:
        ValueError: if the label is empty.
    """

    label: str
    start: int = 0

    def __post_init__(self) -> None:
        _named(self.label)

    def widget(self, layout: Any) -> Any:
        """Return it as an ipywidget; its ``value`` is a trait like that of the others."""
        import ipywidgets
        import traitlets

        button = ipywidgets.Button(description=self.label, layout=layout)
        button.add_traits(value=traitlets.Int(self.start))

        def press(_: Any) -> None:
            button.value += 1

        button.on_click(press)
        return button


@dataclass(frozen=True)
class Text:
    """A line of text, read when Enter is pressed or the box is left.

    Args:
        label: what it is called beside the control.
        start: the text at first.

    Raises:
        ValueError: if the label is empty.
    """

    label: str
    start: str = ""

    def __post_init__(self) -> None:
        _named(self.label)

    def widget(self, layout: Any) -> Any:
        """Return it as an ipywidget."""
        import ipywidgets

        return ipywidgets.Text(description=self.label, value=self.start, continuous_update=False, layout=layout)


Control = Slider | Choice | Count | Text


def _named(label: str) -> None:
    if not label.strip():
        raise ValueError("Every control needs a label that can be read.")


class Panel:
    """A picture that follows its controls in a live notebook, and a still that says the same where nothing runs.

    Args:
        draw: called with the controls' values by name; returns the picture they ask for.
        controls: name -> control, in the order in which they are shown.
        still: what is shown without a kernel: on GitHub, in print, without ipywidgets. Its alt text should say what
            moving would show.

    Attributes:
        inputs: name -> the ipywidget of the control, once the panel is live.
        picture: the ipywidget that shows the picture, and
        message: the one that shows an error as a sentence; None before the panel is live.
        error: what the last setting raised; None if it could be drawn.

    Raises:
        Exception: whatever ``draw`` raises at the values the controls start with. Later errors are shown in the panel.
    """

    def __init__(self, draw: Callable[..., Picture], controls: Mapping[str, Control], still: Picture) -> None:
        self.draw, self.controls, self.still = draw, dict(controls), still
        self.first = draw(**self.start())
        self.error: Exception | None = None
        self.inputs: dict[str, Any] = {}
        self.picture: Any = None
        self.message: Any = None
        self._box: Any = None

    def start(self) -> dict[str, Any]:
        """Return the values the controls start with."""
        return {name: control.start for name, control in self.controls.items()}

    def live(self) -> Any:
        """Return the panel as one ipywidget, made on the first call.

        Raises:
            ImportError: if ipywidgets is not installed.
        """
        if self._box is None:
            self._box = self._build()
        return self._box

    def _build(self) -> Any:
        import ipywidgets

        layout = ipywidgets.Layout(width="auto", max_width="100%")
        self.inputs = {name: control.widget(layout) for name, control in self.controls.items()}
        room = f"{0.5 * max(len(control.label) for control in self.controls.values()) + 1:.0f}em"
        for widget in self.inputs.values():
            if widget.has_trait("tooltip"):
                widget.tooltip = widget.description
            if hasattr(widget.style, "description_width"):
                widget.style.description_width = room  # the same for all, so that the sliders are equally long
        self.picture = ipywidgets.HTML(_image(self.first))
        self.message = ipywidgets.HTML()
        for control in self.inputs.values():
            control.observe(self.refresh, names="value")
        left = ipywidgets.VBox(
            list(self.inputs.values()), layout=ipywidgets.Layout(width="24em", max_width="100%", margin="0 1em 0 0")
        )
        right = ipywidgets.VBox([self.picture, self.message], layout=ipywidgets.Layout(max_width="100%"))
        # Wraps on a narrow page, so that the picture moves below the controls instead of out of sight.
        wrapping = ipywidgets.Layout(display="flex", flex_flow="row wrap", align_items="center")
        box = ipywidgets.Box([left, right], layout=wrapping)
        box.add_class(CSS_CLASS)
        return box

    def refresh(self, change: object = None) -> None:
        """Draw the picture again; an error is kept in ``error`` and shown as a sentence, and the picture stays."""
        values = {name: widget.value for name, widget in self.inputs.items()}
        try:
            picture = self.draw(**values)
        except Exception as error:  # whatever it is, the reader should see it in the panel and not in a log
            self.error = error
            self.message.value = _alert(error)
        else:
            self.error = None
            self.message.value = ""
            self.picture.value = _image(picture)

    def _repr_mimebundle_(
        self, include: Iterable[str] | None = None, exclude: Iterable[str] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        data, metadata = self.still._repr_mimebundle_()
        if importlib.util.find_spec("ipywidgets") is None:
            print(NO_WIDGETS)
        else:
            # Written out, because ipywidgets 7, which Colab has, makes no bundle of its own.
            data[WIDGET] = {"version_major": 2, "version_minor": 0, "model_id": self.live().model_id}
        return data, metadata

    def __repr__(self) -> str:
        return repr(self.still)


def _image(picture: Picture) -> str:
    """Return the picture as an HTML element with its alt text, which ipywidgets' own image cannot carry."""
    data, metadata = picture._repr_mimebundle_()
    source = base64.b64encode(data["image/png"]).decode()
    width = metadata["image/png"]["width"]
    return (
        f'<img alt="{html.escape(picture.alt)}" src="data:image/png;base64,{source}" decoding="sync" '
        f'style="display: block; width: {width}px; max-width: 100%; height: auto">'
    )


def _alert(error: Exception) -> str:
    """Return the error's first line as an HTML sentence that a screen reader announces."""
    lines = str(error).strip().splitlines() or [f"it stopped with {type(error).__name__}"]
    return f'<p role="alert"><b>This setting cannot be drawn:</b> {html.escape(lines[0])}</p>'
