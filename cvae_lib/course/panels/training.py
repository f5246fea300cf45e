"""Play recorded trainings back: what weight, floor and schedule of the rate do to a latent that may fall silent."""

from collections.abc import Mapping, Sequence
from typing import Any

from cvae_lib.course.figures import Picture, training_meter, training_sheets
from cvae_lib.course.panels.panel import Choice, Control, Panel, Slider

Run = Mapping[str, Any]
SETTINGS = ("beta", "floor", "schedule")


def _options(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """Return the values each setting takes; every combination must have been recorded."""
    options = {name: list(dict.fromkeys(run[name] for run in runs)) for name in SETTINGS}
    count = len({tuple(run[name] for name in SETTINGS) for run in runs})
    if not runs or count < len(options["beta"]) * len(options["floor"]) * len(options["schedule"]):
        raise ValueError("The panel plays recorded trainings and needs one for every combination of its settings.")
    return options


def _asked(runs: Sequence[Run], beta: float, floor: float, schedule: str) -> Run:
    """Return the first training with these settings."""
    for run in runs:
        if (run["beta"], run["floor"], run["schedule"]) == (beta, floor, schedule):
            return run
    raise ValueError(f"No training was recorded with beta {beta}, free bits {floor} and annealing {schedule}.")


def _rate(run: Run) -> list[float]:
    return [sum(row) for row in run["kl"]]


def _top(runs: Sequence[Run]) -> tuple[float, float]:
    """Return the largest rate, and the largest KL of one latent, over all trainings but for their first moments."""
    rates = [max(_rate(run)[2:], default=0.0) for run in runs]
    single = [max((max(row) for row in run["kl"][2:]), default=0.0) for run in runs]
    return max(1.0, round(1.1 * max(rates))), max(0.5, round(1.1 * max(single), 1))


def draw_training(runs: Sequence[Run], beta: float, floor: float, schedule: str, step: float) -> Picture:
    """Draw a recorded training up to a step: rate and information so far, and every latent's KL at that step.

    Args:
        runs: trainings with ``beta``, ``floor``, ``schedule``, and per look ``step``, ``kl`` (a list of D numbers),
            ``information``, ``active`` and ``distortion``, as ``records.load("collapse_training")["runs"]`` has them.
        beta: weight of the rate at its height.
        floor: free bits per latent, nats.
        schedule: ``none``, ``linear`` or ``cyclical``.
        step: the last look before it is shown.

    Raises:
        ValueError: if there is no training with these settings.
    """
    run = _asked(runs, beta, floor, schedule)
    now = max((index for index, at in enumerate(run["step"]) if at <= step), default=0)
    kl, rate, information = run["kl"][now], _rate(run), run["information"]
    facts = (
        f"step {run['step'][now]}: rate {rate[now]:.2f}, I(x;z|y) at least {information[now]:.2f}, "
        f"active {run['active'][now]} of {len(kl)}, distortion {run['distortion'][now]:.1f}"
    )
    alt = f"Training with beta {beta:g}, free bits {floor:g} and annealing {schedule}. At {facts} nats."
    lines = {"rate": rate, "I(x;z|y), at least": information}
    return training_meter(run["step"], lines, now, kl, _top(runs), facts, alt)


def training_sheet(runs: Sequence[Run]) -> Picture:
    """Show the rate over every recorded training, a chart for each floor and schedule, a line for each weight.

    Raises:
        ValueError: if a combination of the settings was not recorded.
    """
    options = _options(runs)
    panels: dict[str, dict[str, list[float]]] = {}
    ends: list[str] = []
    for floor in options["floor"]:
        for schedule in options["schedule"]:
            asked = [_asked(runs, beta, floor, schedule) for beta in options["beta"]]
            title = f"free bits {floor:g}, annealing {schedule}"
            panels[title] = {f"β = {run['beta']:g}": _rate(run) for run in asked}
            ends.append(f"{title}: " + " and ".join(f"{_rate(run)[-1]:.1f} at beta {run['beta']:g}" for run in asked))
    alt = (
        "What the slider of the panel moves through: the rate over recorded trainings, a chart for each setting. "
        f"It ends, in nats, at: {'; '.join(ends)}."
    )
    return training_sheets(
        panels, runs[0]["step"], alt, top=_top(runs)[0], columns=len(options["schedule"]), unit="rate, nats"
    )


def training_panel(runs: Sequence[Run]) -> Panel:
    """Return a player of recorded trainings: choose weight, free bits and annealing, and move through the steps.

    Args:
        runs: see :func:`draw_training`.

    Raises:
        ValueError: if a combination of the settings was not recorded.
    """
    options, steps = _options(runs), runs[0]["step"]
    controls: dict[str, Control] = {
        "beta": Choice("weight beta", options["beta"], options["beta"][0]),
        "floor": Choice("free bits per latent", options["floor"], options["floor"][0]),
        "schedule": Choice("annealing", options["schedule"], options["schedule"][0]),
        "step": Slider("step", steps[0], steps[-1], step=steps[1] - steps[0], start=steps[-1]),
    }

    def draw(beta: float, floor: float, schedule: str, step: float) -> Picture:
        return draw_training(runs, beta, floor, schedule, step)

    return Panel(draw, controls, training_sheet(runs))
