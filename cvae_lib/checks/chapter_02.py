"""Checks of chapter 02's exercises: the bound and its gap, in a story whose every term is known.

The story has one latent and one observed number: p(z|y) = N(a y, 1) and p(x|z,y) = N(w z + u y, s²). References come
from sums over a fine grid and from Gauss-Hermite quadrature, not from the formulas that the exercises ask for.
"""

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from cvae_lib.checks._given import drawn
from cvae_lib.checks._probe import Mistakes, Probe, Trial
from cvae_lib.checks._registry import exercise

TITLE = "02 · The conditional ELBO"


@exercise(
    "2.1",
    "the gap of a shifted guess, by hand",
    hints={
        "half": "The gap is twice too large: the squared distance is divided by *twice* the variance.",
        "std": "You divided by σ. The squared distance is measured in units of the variance, σ².",
        "unsquared": "The distance enters squared.",
        "above": "Your ELBO lies above log p(x|y). A bound from below cannot: subtract the gap.",
        "log p": "That is log p(x|y) itself, or the gap itself. The ELBO is the one minus the other.",
        "bits": "The gap is right in bits; the course counts in nats.",
    },
)
def _gap(probe: Probe, gap: Any, elbo: Any) -> None:
    the = drawn("2.1", probe.edition)
    centre, shift, std, log_p = the.centre, the.shift, the.std, the.log_p
    exact = float(kl_divergence(Normal(centre + shift, std), Normal(float(centre), std)))
    mistakes = {
        "half": shift**2 / std**2,
        "std": shift**2 / (2 * std),
        "unsquared": shift / (2 * std**2),
        "bits": exact / math.log(2),
    }
    probe.number(gap, exact, mistakes)
    probe.number(elbo, log_p - exact, {"above": log_p + exact, "log p": (log_p, exact)})


def _story(trial: Trial) -> SimpleNamespace:
    """Draw the four numbers of a story, none of them small or special."""

    def number(low: float, high: float) -> float:
        value = trial.uniform(low, high)
        return value if trial.uniform(0, 1) < 0.5 else -value

    return SimpleNamespace(a=number(0.5, 1.5), w=number(0.6, 1.8), u=number(0.5, 1.5), s=trial.uniform(0.4, 0.8))


def _log_joint(z: Tensor, x: Tensor, y: Tensor, story: SimpleNamespace) -> Tensor:
    """Return log p(x|z,y) + log p(z|y) by ``torch.distributions``."""
    likelihood = Normal(story.w * z + story.u * y, story.s)
    log_p: Tensor = likelihood.log_prob(x) + Normal(story.a * y, 1.0).log_prob(z)
    return log_p


def _grid_posterior(x: Tensor, y: Tensor, story: SimpleNamespace) -> tuple[Tensor, Tensor]:
    """Return the mean and variance of p(z|x,y), from its values on a fine grid."""
    z = torch.linspace(-30, 30, 60_001, dtype=torch.float64)[:, None]
    weight = _log_joint(z, x, y, story).softmax(0)  # (60001, B)
    mean = (weight * z).sum(0)
    return mean, (weight * (z - mean) ** 2).sum(0)


@exercise(
    "2.2",
    "the exact posterior",
    hints={
        "prior mean": "It pulls towards zero. The prior's mean is a·y: y stands in the prior too.",
        "decoder": "You forgot to take u·y off x. What y alone explains of x says nothing about z.",
        "std": "You returned the standard deviation. The variance is asked for.",
        "no prior": "That is what x alone says. The prior is one more witness: add its precision, 1, to w²/s².",
        "noise": "You divided by s. Precision is one over the variance: 1/s².",
        "precision": "You returned the precision. The variance is one over it.",
    },
)
def _posterior(probe: Probe, posterior: Any) -> None:
    for trial in probe.trials():
        story, b = _story(trial), trial.size(2, 4)
        x, y = 2 * trial.normal(b), trial.normal(b)
        got = [trial.tensor(part) for part in trial.pair(posterior, x=x, y=y, story=story)]
        x, y = x.double().cpu(), y.double().cpu()
        mean, variance = _grid_posterior(x, y, story)
        # The variance is the same for every x; one number for all of them is as good as a row of it.
        got = [part.expand(b) if part.numel() == 1 else part for part in got]
        bare = SimpleNamespace(**{**vars(story), "a": 0.0})
        unshifted = SimpleNamespace(**{**vars(story), "u": 0.0})
        loud = SimpleNamespace(**{**vars(story), "s": math.sqrt(story.s)})
        alone = torch.full((b,), story.s**2 / story.w**2, dtype=torch.float64)
        mistakes = {
            "prior mean": _grid_posterior(x, y, bare),
            "decoder": _grid_posterior(x, y, unshifted),
            "std": (mean, variance.sqrt()),
            "no prior": ((x - story.u * y) / story.w, alone),
            "noise": _grid_posterior(x, y, loud),
            "precision": (mean, 1 / variance),
        }
        trial.compare(
            torch.stack(_same_length(got)),
            torch.stack([mean, variance]),
            {name: torch.stack(list(wrong)) for name, wrong in mistakes.items()},
        )


def _same_length(parts: list[Tensor]) -> list[Tensor]:
    return list(torch.broadcast_tensors(*parts)) if parts[0].shape != parts[1].shape else parts


def _quadrature(mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """Return points and weights with which averages of polynomials over N(mean, variance) are exact."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(20)
    z = mean + variance.sqrt() * torch.from_numpy(nodes)[:, None]  # (20, B)
    return z, torch.from_numpy(weights / weights.sum())[:, None]


def _elbo_by_quadrature(
    x: Tensor, y: Tensor, mean: Tensor, variance: Tensor, story: SimpleNamespace
) -> tuple[Tensor, Tensor]:
    """Return E_q[log p(x|z,y)] and KL(q ‖ p(z|y)), each shape (B,)."""
    z, weight = _quadrature(mean, variance)
    q, prior = Normal(mean, variance.sqrt()), Normal(story.a * y, 1.0)
    expected = (weight * Normal(story.w * z + story.u * y, story.s).log_prob(x)).sum(0)
    return expected, (weight * (q.log_prob(z) - prior.log_prob(z))).sum(0)


@exercise(
    "2.3",
    "the ELBO of a Gaussian guess",
    hints={
        "spread": "You scored q's mean only. The cloud's own size costs w²·variance / (2 s²) more.",
        "kl sign": "The KL is added. It is a price: subtract it.",
        "prior": "Your KL goes to N(0, 1). The prior of this story is N(a·y, 1).",
        "swapped": "The KL is the wrong way round: q first, the prior second.",
        "std": "You took the variance for the standard deviation, or the reverse.",
        "constant": "It is off by the likelihood's constant, ½ log(2π s²). Without it the number is not nats.",
        "decoder": "y is missing in the likelihood: the mean of x is w·z + u·y.",
        "no kl": "That is the expected log-likelihood. What became of the KL?",
    },
)
def _elbo(probe: Probe, elbo: Any) -> None:
    for trial in probe.trials():
        story, b = _story(trial), trial.size(2, 4)
        x, y, mean, variance = 2 * trial.normal(b), trial.normal(b), trial.normal(b), trial.normal(b).exp() + 0.2
        got = trial.ask(elbo, x=x, y=y, mean=mean, variance=variance, story=story)
        x, y, mean, variance = (part.double().cpu() for part in (x, y, mean, variance))
        expected, kl = _elbo_by_quadrature(x, y, mean, variance, story)
        exact = expected - kl
        q, prior = Normal(mean, variance.sqrt()), Normal(story.a * y, 1.0)
        squared = _elbo_by_quadrature(x, y, mean, variance**2, story)
        blind = SimpleNamespace(**{**vars(story), "u": 0.0})
        mistakes: Mistakes = {
            "spread": Normal(story.w * mean + story.u * y, story.s).log_prob(x) - kl,
            "kl sign": expected + kl,
            "prior": expected - kl_divergence(q, Normal(torch.zeros(b).double(), 1.0)),
            "swapped": expected - kl_divergence(prior, q),
            "std": (squared[0] - squared[1], expected - squared[1], squared[0] - kl),
            "constant": exact + 0.5 * math.log(2 * math.pi * story.s**2),
            "decoder": _elbo_by_quadrature(x, y, mean, variance, blind)[0] - kl,
            "no kl": expected,
        }
        trial.compare(got, exact, mistakes)


@exercise(
    "2.4",
    "the K-sample bound",
    hints={
        "mean of logs": "That is the mean of the logs: it estimates the ELBO for any K. Average the weights first.",
        "log k": "It is too large by log K: the sum of the weights is there, their average is asked for.",
        "axis": "You averaged over the images. The K samples lie along the second axis, dim=1.",
        "batch": "You also averaged or summed over the images. Return one number for each, shape (B,).",
        "unstable": "Right for moderate weights, but exp of a log-weight near -1500 is 0, and its logarithm is gone. "
        "`torch.logsumexp` takes the largest one out first.",
    },
)
def _k_sample_bound(probe: Probe, k_sample_bound: Any) -> None:
    for trial in probe.trials():
        for level in (0.0, -1500.0, 1500.0):
            b, k = trial.size(2, 4), trial.size(5, 8)
            log_w = 2 * trial.normal(b, k) + level
            got = trial.ask(k_sample_bound, log_weights=log_w)
            exact = _log_mean(log_w, 1)
            mistakes: Mistakes = {
                "mean of logs": log_w.mean(1),
                "log k": exact + math.log(k),
                "axis": _log_mean(log_w, 0),
                "batch": (exact.mean(), exact.sum(), _log_mean(log_w.flatten(), 0)),
            }
            kind = "unstable" if level else "unknown"
            # Near 1500 float32 keeps four digits after the point: compare absolutely, or log K would drown.
            trial.compare(got, exact, mistakes, otherwise=kind, not_finite=kind, relative=0.0, absolute=0.01)


def _log_mean(log_w: Tensor, axis: int) -> Tensor:
    """Return the log of the mean of weights, in float64 after the largest has been divided out."""
    values = log_w.double().cpu().numpy()
    top = values.max(axis, keepdims=True)
    return torch.as_tensor(np.log(np.exp(values - top).mean(axis)) + top.squeeze(axis))


WIDTHS = ("narrower", "the same", "wider")


@exercise(
    "2.5",
    "a diagonal guess at a tilted posterior",
    hints={
        "prediction": "Predict first: one of 'narrower', 'the same', 'wider'.",
        "marginal": "1 is the posterior's own width in each direction. The climb ends elsewhere: did it run to its "
        "end, and does it minimise KL(q ‖ posterior), not the reverse?",
        "variance": "That is the variance of the best q. Its standard deviation is asked for.",
        "log": "That is the logarithm of the width. Take its exponential.",
        "unfinished": "Near, but not there: give the climb more steps.",
    },
)
def _diagonal(probe: Probe, prediction: Any, measured: Any) -> str:
    trial = probe.trial()
    if prediction not in WIDTHS:
        trial.fail("prediction", expected="a prediction", got=prediction)
    posterior = MultivariateNormal(torch.zeros(2), torch.tensor([[1.0, 0.9], [0.9, 1.0]]))
    best = float(posterior.precision_matrix[0, 0] ** -0.5)
    values = trial.tensor(measured).flatten()
    if not values.numel() or float(values.max() - values.min()) > 0.01:
        trial.fail("unfinished", expected="the same width for both latents", got=values)
    mistakes = {"marginal": 1.0, "variance": best**2, "log": math.log(best)}
    value = float(values[0])
    off = abs(value - best)
    probe.number(value, best, mistakes | ({"unfinished": value} if 0.005 < off < 0.1 else {}), tolerance=0.005)
    if prediction == "narrower":
        return f"as you predicted: {best:.2f}, and not 1."
    return (
        f"it came out narrower, {best:.2f} where the posterior's own width is 1. KL(q ‖ p) punishes q for lying "
        "where p has nothing, and a wide round cloud would."
    )


@exercise(
    "2.6",
    "an estimate that falls silent at the optimum",
    hints={
        "score": "At the exact posterior the gradient still flickers. Inside log q, detach mean and log_std.",
        "path": "z carries no gradient. The draw itself must stay reparameterised: z = mean + exp(log_std)·eps.",
        "value": "The values are not log p(x,z|y) - log q(z) at z = mean + exp(log_std)·eps.",
        "constant": "The values are off by a constant: some log-density lost its -½ log(2π) or its log σ.",
        "everything": "No gradient comes out at all: something detaches the whole result.",
    },
)
def _sticking(probe: Probe, quiet_elbo: Any) -> str:
    trial, draws = probe.trial(torch.float64), 20_000
    story = _story(trial)
    x, y = trial.normal(1).double(), trial.normal(1).double()
    centre, variance = _grid_posterior(x, y, story)

    def gradients(mean: Tensor, log_std: Tensor) -> tuple[Tensor, Tensor]:
        """Check the values, and return the gradient of each draw in mean and in log_std, each shape (S,)."""
        mean, log_std = (part.expand(draws).clone().requires_grad_() for part in (mean, log_std))
        eps = trial.normal(draws)
        given = {"x": x, "y": y, "mean": mean, "log_std": log_std, "eps": eps, "story": story}
        got = trial.ask(quiet_elbo, **given)
        z = (mean + log_std.exp() * eps).detach()
        exact = _log_joint(z, x, y, story) - Normal(mean, log_std.exp()).log_prob(z).detach()
        off = trial.tensor(got) - exact if trial.tensor(got).shape == exact.shape else None
        if off is not None and float(off.std()) < 1e-6 and abs(float(off.mean())) > 1e-3:
            trial.fail("constant", expected=exact, got=got)
        trial.compare(got, exact, otherwise="value", relative=1e-6)
        if not got.requires_grad:
            trial.fail("everything", expected="a gradient in mean and log_std", got="none")
        found = torch.autograd.grad(got.sum(), (mean, log_std), allow_unused=True)
        return tuple(torch.zeros(draws).double() if slope is None else slope for slope in found)  # type: ignore[return-value]

    off = gradients(centre + 0.8, 0.5 * variance.log() - 0.4)
    wrong_mean = (centre + 0.8).requires_grad_()
    wrong_std = (0.5 * variance.log() - 0.4).requires_grad_()
    expected, kl = _elbo_by_quadrature(x, y, wrong_mean, (2 * wrong_std).exp(), story)
    exact = torch.autograd.grad((expected - kl).sum(), (wrong_mean, wrong_std))
    for mine, slope in zip(off, exact, strict=True):
        if not trial.average(mine[:, None], slope):
            trial.fail("path", expected=f"a gradient of {float(slope):.3g} on average", got=f"{float(mine.mean()):.3g}")
    at = gradients(centre, 0.5 * variance.log())
    noise = float(torch.stack(at).abs().max())
    if noise > 1e-3:
        trial.fail("score", expected="a gradient of 0 from every draw at the exact posterior", got=f"up to {noise:.2g}")
    return "at the exact posterior every single draw has gradient zero."
