"""Diagrams of the mathematics: graphical models, and Gaussians in the plane."""

import math
from collections.abc import Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.patches import Circle, FancyArrowPatch
from torch.distributions import MultivariateNormal

from cvae_lib.course.figures.picture import BLACK, BLUE, Picture, new_figure

PLACES = {"z": (0.0, 1.0), "x": (0.0, -1.0), "y": (1.7, 0.0)}
RADIUS = 0.38


def _arrow(axes: Axes, start: str, end: str, dashed: bool) -> None:
    """Draw an arrow between two nodes, from rim to rim; dashed ones bend aside, beside the solid one they reverse."""
    (x0, y0), (x1, y1) = PLACES[start], PLACES[end]
    length = math.hypot(x1 - x0, y1 - y0)
    dx, dy = (x1 - x0) / length * RADIUS, (y1 - y0) / length * RADIUS
    style = (
        {"linestyle": (0, (4, 3)), "color": BLUE, "connectionstyle": "arc3,rad=0.38"} if dashed else {"color": BLACK}
    )
    arrow = FancyArrowPatch(
        (x0 + dx, y0 + dy),
        (x1 - dx, y1 - dy),
        arrowstyle="-|>",
        mutation_scale=14,
        linewidth=1.4,
        shrinkA=0,
        shrinkB=0,
        **style,
    )
    axes.add_patch(arrow)


def graphical_models(alt: str) -> Picture:
    """Draw the VAE, the CVAE with a fixed prior and the CVAE with a conditional prior as directed graphs.

    Solid arrows are the generative model; dashed ones the encoder. Shaded nodes are observed.
    """
    graphs = {
        "VAE": (["zx"], ["xz"]),
        "CVAE, fixed prior": (["zx", "yx"], ["xz", "yz"]),
        "CVAE, conditional prior": (["zx", "yx", "yz"], ["xz", "yz"]),
    }
    figure, panels = new_figure(8.4, 3.0, columns=3)
    for axes, (title, (solid, dashed)) in zip(panels, graphs.items(), strict=True):
        nodes = sorted({node for edge in solid for node in edge})
        for node in nodes:
            shade = "white" if node == "z" else "#dddddd"
            axes.add_patch(Circle(PLACES[node], RADIUS, facecolor=shade, edgecolor=BLACK, linewidth=1.4))
            axes.text(*PLACES[node], f"${node}$", ha="center", va="center", fontsize=15)
        for edge in solid:
            _arrow(axes, edge[0], edge[1], dashed=False)
        for edge in dashed:
            _arrow(axes, edge[0], edge[1], dashed=True)
        axes.set(xlim=(-1.2, 2.4), ylim=(-1.6, 1.6), aspect="equal", title=title)
        axes.axis("off")
    return Picture(figure, alt)


def ellipse(gaussian: MultivariateNormal, deviations: float) -> torch.Tensor:
    """Return 100 points at so many standard deviations from the mean of a Gaussian in the plane, shape (100, 2)."""
    angle = torch.linspace(0, 2 * math.pi, 100, dtype=gaussian.mean.dtype)
    circle = torch.stack([angle.cos(), angle.sin()], dim=1)
    return (gaussian.mean + deviations * circle @ gaussian.scale_tril.T).detach()


def gaussian_stills(
    target: MultivariateNormal, others: Sequence[MultivariateNormal], captions: Sequence[str], alt: str
) -> Picture:
    """Show Gaussians in the plane, each beside the same target: ellipses at one and two standard deviations."""
    figure, panels = new_figure(2.3 * len(others), 2.9, columns=len(others), sharex=True, sharey=True)
    for axes, gaussian, caption in zip(panels, others, captions, strict=True):
        for deviations in (1.0, 2.0):
            ring = ellipse(target, deviations)
            axes.fill(ring[:, 0], ring[:, 1], color="#888888", alpha=0.3, linewidth=0)
            ring = ellipse(gaussian, deviations)
            axes.plot(ring[:, 0], ring[:, 1], color=BLUE)
        axes.set(aspect="equal", xlabel="$z_1$")
        axes.set_title(caption, fontsize=10)
    panels[0].set_ylabel("$z_2$")
    return Picture(figure, alt)
