"""Posterior collapse: one report that joins the diagnostics and says in words what they mean."""

from dataclasses import dataclass
from typing import Any

from jaxtyping import Float, Int64
from torch import Tensor

from cvae_lib.data import Data, in_memory
from cvae_lib.environment import evaluation_mode
from cvae_lib.evaluation._estimate import Estimate
from cvae_lib.evaluation._examples import examples
from cvae_lib.evaluation.information import Information, mutual_information
from cvae_lib.evaluation.terms import rate_distortion
from cvae_lib.evaluation.use import ActiveUnits, YUse, ZUse, active_units, is_y_used, is_z_used
from cvae_lib.objective import LatentVariableModel

LITTLE = 0.1  # nats per example; less than this is as good as nothing


def _clear(estimate: Estimate) -> bool:
    """Say whether an estimate is above ``LITTLE``, and above twice its standard error."""
    return estimate.mean > LITTLE and not estimate.mean <= 2 * estimate.standard_error


@dataclass(frozen=True)
class CollapseReport:
    """Are z and y used? Prints as a table with a verdict.

    Attributes:
        rate: KL(q(z|x,y) || p(z|y)), nats per example.
        distortion: -log p(x|z,y) at a z from q(z|x,y), nats per example.
        kl_per_latent: (D,), the rate latent by latent, nats; None where the prior does not factorise.
        active: the latents whose posterior mean moves with the data.
        information: I(x;z|y) with its cap, and KL(q(z|y) || p(z|y)); None where no two examples share their y.
        z_used: what z does to the output.
        y_used: what y does to the likelihood; None for a VAE.
    """

    rate: Estimate
    distortion: Estimate
    kl_per_latent: Float[Tensor, " d"] | None
    active: ActiveUnits
    information: Information | None
    z_used: ZUse
    y_used: YUse | None

    @property
    def symptoms(self) -> tuple[str, ...]:
        """What speaks for a collapse of the whole latent, in words; empty if nothing does."""
        found = []
        if self.active.count == 0:
            found.append("no latent is active")
        if self.information is not None and not _clear(self.information.lower):
            found.append("z tells nothing about x")
        if not _clear(self.z_used.likelihood_lost):
            found.append("the decoder does as well with the z of another example")
        return tuple(found)

    @property
    def latent_verdict(self) -> str:
        r"""``collapsed``, ``partly collapsed`` or ``alive``.

        - collapsed: at least one of: no latent is active; I(x;z|y) (its lower bound) is not clear; the likelihood
          lost when z is swapped is not clear. *Clear* is above 0.1 nat per example and above two standard errors.
        - partly collapsed: none of these, but at least one latent is not active.
        - alive: none of these, and every latent is active.
        """
        if self.symptoms:
            return "collapsed"
        return "alive" if self.active.count == len(self.active.variances) else "partly collapsed"

    @property
    def condition_verdict(self) -> str:
        """``used``, ``ignored``, or ``none`` for a VAE.

        It is used if the likelihood lost when y is swapped is clear, as at :attr:`latent_verdict`.
        """
        if self.y_used is None:
            return "none"
        return "used" if _clear(self.y_used.likelihood_lost) else "ignored"

    @property
    def verdict(self) -> str:
        """Both verdicts, with their reasons, in one sentence."""
        idle = len(self.active.variances) - self.active.count
        why = {
            "collapsed": f" ({' and '.join(self.symptoms)})",
            "partly collapsed": f" ({idle} of {len(self.active.variances)} latents idle)",
            "alive": "",
        }[self.latent_verdict]
        y = {"none": "there is no y", "used": "y is used", "ignored": "y is ignored"}[self.condition_verdict]
        return f"z is {self.latent_verdict}{why}; {y}."

    def __str__(self) -> str:
        inside = "" if self.active.within_y is None else f"{self.active.count_within_y} among examples of the same y"
        rows = [
            ("rate KL(q(z|x,y) || p(z|y))", f"{self.rate}", "nats"),
            ("distortion -log p(x|z,y)", f"{self.distortion}", "nats"),
            ("active latents", f"{self.active.count} of {len(self.active.variances)}", inside),
        ]
        if self.kl_per_latent is not None:
            ordered = self.kl_per_latent.sort(descending=True).values
            shown = " ".join(f"{value:.2f}" for value in ordered[:6].tolist())
            rows.append(("KL per latent, largest first", shown + (" ..." if len(ordered) > 6 else ""), "nats"))
        if self.information is None:
            rows.append(("mutual information I(x;z|y)", "unknown", "no two examples share their y"))
        else:
            known = self.information
            reached = ", reached: use more data" if known.saturated else ""
            rows += [
                ("mutual information I(x;z|y), at least", f"{known.lower}", f"nats, cap {known.cap:.2f}{reached}"),
                ("mutual information I(x;z|y), at most", f"{known.upper}", "nats"),
                ("aggregate KL(q(z|y) || p(z|y))", f"{known.aggregate_kl}", "nats"),
            ]
        change, whose = self.z_used.output_change, "same y" if self.z_used.within_y else "any y"
        rows += [
            ("change of E[x|z,y] with another z", f"{change.mean:.3f} ± {change.standard_error:.3f}", "per entry"),
            (f"lost with the z of another example, {whose}", f"{self.z_used.likelihood_lost}", "nats"),
        ]
        if self.y_used is not None:
            rows.append(("lost with the y of another example", f"{self.y_used.likelihood_lost}", "nats"))
        wide, broad = (max(len(row[column]) for row in rows) for column in (0, 1))
        return "\n".join([*(f"{a:<{wide}}  {b:>{broad}}  {c}".rstrip() for a, b, c in rows), self.verdict])


def collapse_report(
    model: LatentVariableModel,
    data: Data,
    *,
    threshold: float = 0.01,
    samples: int = 20,
    y: Any = None,
    groups: Int64[Tensor, " n"] | None = None,
    seed: int = 0,
) -> CollapseReport:
    r"""Measure rate, active units, I(x;z|y), the use of z and the use of y, and judge them.

    The rules behind the verdicts are written at :attr:`CollapseReport.latent_verdict` and
    :attr:`CollapseReport.condition_verdict`. For a continuous y, I(x;z|y) needs ``groups``, see
    :func:`mutual_information`; without them it is left out and the other symptoms decide.

    Args:
        model: a CVAE, or any model with the three distributions.
        data: tensors (x, y), an ``ImageSet``, a ``Dataset`` or a ``DataLoader``.
        threshold: variance above which a latent is active, see :func:`active_units`.
        samples: K of the likelihoods in :func:`is_y_used`.
        y: (N, ...), or a tuple of such, the condition of each example in place of the data's own.
        groups: (N,), which examples count as having the same y, instead of those of equal y.
        seed: fixes the binarisation, where there is one, and the draws of z.

    Raises:
        ValueError: if there are fewer than two examples, or ``y`` or ``groups`` do not fit.

    Sources: Bowman et al. 2016, arXiv:1511.06349, for the collapse; Burda et al. 2016, arXiv:1509.00519; Hoffman
    and Johnson 2016; Alemi et al. 2018, arXiv:1711.00464, for rate and distortion.
    """
    data = in_memory(data)  # once: a loader may come in another order each time
    with evaluation_mode(model):
        active = active_units(model, data, threshold, y=y, seed=seed)
        terms = rate_distortion(model, data, y=y, seed=seed)
        seen = examples(model, data, y=y, groups=groups, seed=seed)
        shared = seen.groups.unique().numel() < len(seen)
        information = mutual_information(model, data, y=y, groups=groups, seed=seed) if shared else None
        z_used = is_z_used(model, data, y=y, groups=groups, seed=seed)
        y_used = None if seen.y is None else is_y_used(model, data, samples=samples, y=y, seed=seed)
    kl_per_latent = terms.kl_per_latent if len(terms.kl_per_latent) == len(active.variances) else None
    return CollapseReport(terms.rate, terms.distortion, kl_per_latent, active, information, z_used, y_used)
