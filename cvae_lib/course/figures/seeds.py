"""Figures over seeds: every run a dot, nothing hidden behind a mean."""

from collections.abc import Mapping, Sequence

from cvae_lib.course.figures.picture import BLACK, BLUE, ORANGE, Picture, new_figure


def seed_dots(
    panels: Mapping[str, Mapping[str, Sequence[float]]],
    alt: str,
    *,
    live: Mapping[str, Mapping[str, float]] | None = None,
) -> Picture:
    """Show a panel for each measure, in it a row for each model, and in the row a dot for each seed.

    Args:
        panels: measure -> model -> its figures over the seeds; every panel names the same models.
        live: measure -> model -> the figure of the run at hand, drawn as a diamond.

    Raises:
        ValueError: if there is no panel, or two of them name different models.
    """
    rows = [list(models) for models in panels.values()]
    if not rows or any(names != rows[0] for names in rows):
        raise ValueError("Every panel needs the same models in the same order, and there must be at least one panel.")
    names = rows[0]
    figure, axes = new_figure(1.6 + 2.9 * len(panels), 0.9 + 0.36 * len(names), columns=len(panels), sharey=True)
    for panel, (measure, models) in zip(axes, panels.items(), strict=True):
        for row, name in enumerate(names):
            panel.plot(models[name], [row] * len(models[name]), "o", color=BLUE, alpha=0.75, markersize=6)
            if live and name in live.get(measure, {}):
                panel.plot(
                    [live[measure][name]], [row], "D", markeredgecolor=BLACK, markerfacecolor=ORANGE, markersize=6
                )
        panel.set(xlabel=measure, ylim=(len(names) - 0.5, -0.5))
    axes[0].set_yticks(range(len(names)), names)
    return Picture(figure, alt)
