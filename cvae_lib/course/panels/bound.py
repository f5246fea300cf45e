"""Move q against the exact posterior, and watch the bound and its gap."""

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, kl_divergence

from cvae_lib.course.figures import Picture, bound_meter, bound_sweeps
from cvae_lib.course.panels.panel import Control, Panel, Slider

Bound = Callable[[MultivariateNormal], Tensor]

SHIFT = (-1.0, 1.0)
SCALE = (0.2, 2.0)


def moved(posterior: MultivariateNormal, shift: Sequence[float], scale: float) -> MultivariateNormal:
    r"""Return the posterior moved and stretched, :math:`\mathcal N(m + \delta,\ \sigma^2 \Sigma)`.

    Raises:
        ValueError: if the posterior does not lie in the plane, or the scale is not above 0.
    """
    if tuple(posterior.mean.shape) != (2,):
        raise ValueError(f"The panel shows a plane: z needs 2 entries and no batch, not {tuple(posterior.mean.shape)}.")
    if scale <= 0:
        raise ValueError(f"The scale stretches standard deviations and must be above 0, not {scale}.")
    return MultivariateNormal(
        posterior.mean + posterior.mean.new_tensor(shift), scale_tril=scale * posterior.scale_tril
    )


def draw_bound(
    posterior: MultivariateNormal, elbo: Bound, log_p: float, shift_1: float, shift_2: float, scale: float
) -> Picture:
    r"""Draw q beside the posterior, and :math:`\mathrm{ELBO} + \mathrm{KL}(q \,\|\, p(z|x,y)) = \log p(x|y)`.

    Args:
        posterior: the exact p(z|x,y), in the plane.
        elbo: gives the ELBO of a Gaussian q, nats.
        log_p: log p(x|y), nats.
        shift_1, shift_2: how far q's mean lies from the posterior's along each entry of z.
        scale: q's standard deviations over the posterior's.

    Raises:
        ValueError: if the posterior does not lie in the plane, or the scale is not above 0.
    """
    q = moved(posterior, (shift_1, shift_2), scale)
    nats = {"elbo": float(elbo(q)), "gap": float(kl_divergence(q, posterior)), "log_p": log_p}
    (x, y), (across, up) = posterior.mean.tolist(), posterior.stddev.tolist()
    reach = max(SHIFT) + 2.1 * max(SCALE) * max(across, up)  # so that q's outer ellipse is always whole
    alt = (
        f"The posterior's ellipses in grey and q's in blue, q shifted by {shift_1:.2f} and {shift_2:.2f} and scaled by "
        f"{scale:.2f}. ELBO {nats['elbo']:.2f} nats, gap {nats['gap']:.2f}, log p(x|y) {log_p:.2f}."
    )
    window = (x - reach, x + reach, y - reach, y + reach)
    return bound_meter(posterior, q, nats, log_p - _widest_gap(posterior), window, alt)


def _widest_gap(posterior: MultivariateNormal) -> float:
    """Return the largest gap the controls can make, so that the column of nats has room for it: a convex function."""
    corners = [moved(posterior, shift, scale) for shift in itertools.product(SHIFT, SHIFT) for scale in SCALE]
    return 1.05 * max(float(kl_divergence(q, posterior)) for q in corners)


def bound_sheet(posterior: MultivariateNormal, elbo: Bound, log_p: float) -> Picture:
    """Show what each slider does to the ELBO while the others leave q exact: it touches log p(x|y) once.

    Raises:
        ValueError: if the posterior does not lie in the plane.
    """
    shifts, scales = torch.linspace(*SHIFT, 41).tolist(), torch.linspace(*SCALE, 37).tolist()
    first = [float(elbo(moved(posterior, (shift, 0), 1))) for shift in shifts]
    second = [float(elbo(moved(posterior, (0, shift), 1))) for shift in shifts]
    scaled = [float(elbo(moved(posterior, (0, 0), scale))) for scale in scales]
    alt = (
        "What the sliders of the panel do to the ELBO, as two charts under a dashed line at log p(x|y). Shifting q "
        "along either entry of z gives a parabola, stretching it a curve that is steeper on the narrow side near 0 and "
        "falls steadily on the wide side. Each touches the line once: at shift 0 and at scale 1, the exact posterior."
    )
    panels = [("shift of q's mean", shifts, {"along $z_1$": first, "along $z_2$": second})]
    panels.append(("scale of q", scales, {"ELBO": scaled}))
    return bound_sweeps(panels, log_p, alt)


def bound_panel(posterior: MultivariateNormal, elbo: Bound, log_p: float | Tensor) -> Panel:
    """Return a panel that moves and stretches q against the exact posterior, with ELBO, gap and log p(x|y) beside it.

    Args:
        posterior: the exact p(z|x,y), in the plane.
        elbo: gives the ELBO of a Gaussian q, nats: one you wrote, or
            ``lambda q: laboratory.elbo(x, y, q.expand((1,)))[0]``.
        log_p: log p(x|y), nats.

    Raises:
        ValueError: if the posterior does not lie in the plane.
    """
    ceiling = float(log_p)
    controls: dict[str, Control] = {
        "shift_1": Slider("shift along z1", *SHIFT, step=0.05, start=0.5),
        "shift_2": Slider("shift along z2", *SHIFT, step=0.05, start=-0.5),
        "scale": Slider("scale", *SCALE, step=0.1, start=1.4),
    }

    def draw(shift_1: float, shift_2: float, scale: float) -> Picture:
        return draw_bound(posterior, elbo, ceiling, shift_1, shift_2, scale)

    return Panel(draw, controls, bound_sheet(posterior, elbo, ceiling))
