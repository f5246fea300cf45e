"""Priors beside what they have to cover: the aggregate posterior along one latent, and in the plane."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from torch import Tensor
from torch.distributions import Distribution, Normal

from cvae_lib.course.figures.live import placed
from cvae_lib.course.figures.picture import BLACK, BLUE, ORANGE, Picture, new_figure

SHADE = "#888888"
ROWS = (("rate", "rate", BLACK), ("mismatch", "mismatch", "#8a5a00"), ("information", "information", BLUE))


def _densities(axes: Axes, grid: Tensor, posteriors: Normal, prior: Normal, shown: int = 12) -> None:
    """Draw the aggregate as a grey hill, the prior over it, and a few posteriors at half height for their place."""
    with torch.no_grad():
        each = posteriors.log_prob(grid[:, None].to(posteriors.loc)).exp().cpu()  # (G, N)
        over, grid = prior.log_prob(grid.to(prior.loc)).exp().cpu(), grid.cpu()
    axes.fill_between(grid, each.mean(1), color=SHADE, alpha=0.45, linewidth=0)
    some = each[:, torch.linspace(0, each.shape[1] - 1, min(shown, each.shape[1])).long()]
    axes.plot(grid, 0.5 * some / some.max() * each.mean(1).max(), color=BLUE, linewidth=0.8, alpha=0.7)
    axes.plot(grid, over, color=ORANGE, linewidth=2.5)
    axes.set(xlim=(float(grid[0]), float(grid[-1])), ylim=(0, None), yticks=[])


def prior_meter(
    grid: Float[Tensor, " g"], posteriors: Normal, prior: Normal, nats: Mapping[str, float], ceiling: float, alt: str
) -> Picture:
    """Show posteriors of one latent, their aggregate and a prior, and a column of nats: information and mismatch.

    Args:
        grid: values of z that are shown.
        posteriors: batch shape (N,), those of the images of one condition.
        prior: one Gaussian.
        nats: ``rate``, ``mismatch`` and ``information``.
        ceiling: nats at the top of the column; what is higher is cut off there.
    """
    figure, (hill, column) = placed(6.2, 2.9, [(0.2, 0.45, 3.1, 2.3), (3.5, 0.3, 2.6, 2.4)])
    _densities(hill, grid, posteriors, prior)
    ends = [float(grid[0]), 0.0, float(grid[-1])]
    hill.set_xticks(ends, [f"{end:.0f}" for end in ends])
    hill.set_xlabel("z")
    column.axis("off")
    floor, top = nats["information"], min(nats["rate"], ceiling)
    column.fill_between([0.05, 0.95], 0, floor, color=BLUE, linewidth=0)
    column.fill_between([0.05, 0.95], floor, top, facecolor=ORANGE, hatch="///", edgecolor="white", linewidth=0)
    column.plot([-0.05, 1.05], [top, top], color=BLACK, linewidth=2.5)
    column.set(xlim=(-0.1, 4), ylim=(0, 1.04 * ceiling))
    for row, (key, name, colour) in enumerate(ROWS):
        place: dict[str, Any] = {"transform": column.transAxes, "color": colour, "va": "center", "fontsize": 12}
        column.text(0.34, 0.9 - 0.2 * row, name, **place)
        column.text(1.0, 0.9 - 0.2 * row, f"{nats[key]:.2f}", ha="right", **place)
    return Picture(figure, alt)


def prior_stills(
    grid: Float[Tensor, " g"], posteriors: Normal, priors: Sequence[Normal], titles: Sequence[str], alt: str
) -> Picture:
    """Show the same aggregate under one prior after another, a panel for each with its title."""
    figure, panels = new_figure(2.6 * len(priors), 2.4, columns=len(priors), sharey=True)
    for axes, prior, title in zip(panels, priors, titles, strict=True):
        _densities(axes, grid, posteriors, prior)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("z")
    return Picture(figure, alt)


def prior_maps(
    panels: Mapping[str, tuple[Float[Tensor, "n 2"], Distribution]], alt: str, *, reach: float | None = None
) -> Picture:
    """Show draws from the aggregate posterior in the plane as dots, and the prior's density as contours over them.

    The contours lie where the density is a half, a tenth and a hundredth of its peak.

    Args:
        panels: title -> (draws, prior); the prior has event shape (2,) and batch shape (1,) or ().
        reach: half the width of a window around 0; by default each panel shows its own draws and the prior's bulk.

    Raises:
        ValueError: if there is no panel.
    """
    if not panels:
        raise ValueError("There must be at least one panel to show.")
    figure, axes = new_figure(2.5 * len(panels), 2.8, columns=len(panels))
    for panel, (title, (draws, prior)) in zip(axes, panels.items(), strict=True):
        points = draws.detach().cpu()
        with torch.no_grad():
            covered = torch.cat([points, prior.sample(torch.Size((500,))).reshape(-1, 2).cpu()])
            low, high = covered.quantile(0.002, dim=0), covered.quantile(0.998, dim=0)
            half = 0.7 * float((high - low).max()) if reach is None else reach
            centre = (low + high) / 2 if reach is None else torch.zeros(2)
            line = torch.linspace(-half, half, 161)
            across, up = centre[0] + line, centre[1] + line
            plane = torch.cartesian_prod(across, up)  # (G * G, 2), first entry z1
            density = prior.log_prob(plane[:, None].to(draws)).reshape(161, 161).cpu()
        panel.plot(points[:, 0], points[:, 1], ".", color=BLUE, alpha=0.35, markersize=2.5, rasterized=True)
        relative = (density - density.max()).exp().T  # rows are z2
        panel.contour(across, up, relative, levels=[0.01, 0.1, 0.5], colors=ORANGE, linewidths=1.5)
        panel.set(xlim=(across[0], across[-1]), ylim=(up[0], up[-1]), aspect="equal", xlabel="$z_1$")
        panel.set_title(title, fontsize=10)
        panel.grid(False)
    axes[0].set_ylabel("$z_2$")
    return Picture(figure, alt)
