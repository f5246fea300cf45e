"""Checks of chapter 02's exercises: the bound and its gap, in a story whose every term is known."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from cvae_lib.course.checks._given import drawn
from cvae_lib.course.checks._probe import Mistakes, Probe
from cvae_lib.course.checks._registry import exercise
from cvae_lib.course.checks._story import (
    but,
    drawn_story,
    elbo_by_quadrature,
    log_joint,
    plain_gradients,
    posterior_on_a_grid,
)

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
def _gap(probe: Probe, gap: Any, bound: Any) -> None:
    the = drawn("2.1", probe.edition)
    centre, shift, std, log_p = the.centre, the.shift, the.std, the.log_p
    exact = float(kl_divergence(Normal(centre + shift, std), Normal(float(centre), std)))
    mistakes = {
        "half": shift**2 / std**2,
        "std": shift**2 / (2 * std),
        "unsquared": shift / (2 * std**2),
        "bits": exact / math.log(2),
    }
    probe.number(gap, exact, mistakes, name="gap")
    probe.number(bound, log_p - exact, {"above": log_p + exact, "log p": (log_p, exact)}, name="bound")


@exercise(
    "2.2",
    "the exact posterior",
    hints={
        "prior mean": "It pulls towards zero. The prior's mean is a·y: y stands in the prior too.",
        "decoder": "You forgot to take u·y off x. What y alone explains of x says nothing about z.",
        "std": "You returned the standard deviation. The variance is asked for.",
        "no prior": "That is what x alone says. The prior is one more witness: add its precision, 1, to w²/s².",
        "noise": "You divided by s, in the variance or in the mean. Precision is one over the variance: 1/s².",
        "precision": "You returned the precision. The variance is one over it.",
        "prior precision": "s²/w² is how wide x alone leaves z. The prior's precision, 1, adds to w²/s².",
        "w": "The observation's precision, seen from z, is w²/s²: w enters squared.",
        "w in the mean": "A w is missing in the mean: what x says about z weighs w·(x - u·y)/s².",
        "mean unscaled": "The mean is not yet a mean: multiply the sum of what both say by the variance.",
        "swapped": "Right, but the variance comes first. Return the mean, then the variance.",
        "one number": "Right, but shape (B,) is asked for, and code below relies on it. "
        "`torch.full_like(mean, variance)` makes one number for each x.",
    },
)
def _posterior(probe: Probe, posterior: Any) -> None:
    for trial in probe.trials():
        story, b = drawn_story(trial), trial.size(2, 4)
        x, y = 2 * trial.normal(b), trial.normal(b)
        got = trial.pair(posterior, x=x, y=y, story=story)
        x, y = x.double().cpu(), y.double().cpu()
        mean, variance = posterior_on_a_grid(x, y, story)
        w, s, left = story.w, story.s, x - story.u * y
        # What the witnesses say, and how sure they are: right, and as it is often written.
        said, sure = story.a * y + w * left / s**2, 1 + w**2 / s**2
        short, alone = story.a * y + w * left / s, w**2 / s**2

        slips = {
            "no prior": [(left / w, alone)],
            "prior precision": [(said / alone, alone), (mean, alone)],
            "noise": [(short / sure, sure), *((top / (1 + w**2 / s), 1 + w**2 / s) for top in (short, said, mean))],
            "w": [(said / (1 + w / s**2), 1 + w / s**2), (mean, 1 + w / s**2)],
            "w in the mean": [((story.a * y + left / s**2) / sure, sure)],
            "mean unscaled": [(said, sure)],
        }
        mistakes = {
            "prior mean": [posterior_on_a_grid(x, y, but(story, a=0.0))],
            "decoder": [posterior_on_a_grid(x, y, but(story, u=0.0))],
            "std": [(mean, variance.sqrt())],
            "precision": [(mean, 1 / variance)],
            "swapped": [(variance, mean)],
        } | {name: [(c, torch.full_like(c, 1 / precision)) for c, precision in pairs] for name, pairs in slips.items()}
        values = [trial.tensor(part) for part in got]
        single = [part.numel() == 1 and part.shape != mean.shape for part in values]
        filled = [part.expand(b) if one else part for part, one in zip(values, single, strict=True)]
        trial.compare_parts(filled, {"mean": mean, "variance": variance}, mistakes)
        if any(single):
            trial.fail("one number", expected=f"variance of shape ({b},)", got=got[single.index(True)])


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
        "sign": "Right size, wrong sign: that is the loss, which is minus the ELBO.",
        "noise": "The decoder's noise is s² where it should be s: `Normal` takes the standard deviation.",
    },
)
def _elbo(probe: Probe, elbo: Any) -> None:
    for trial in probe.trials():
        story, b = drawn_story(trial), trial.size(2, 4)
        x, y, mean, variance = 2 * trial.normal(b), trial.normal(b), trial.normal(b), trial.normal(b).exp() + 0.2
        got = trial.ask(elbo, x=x, y=y, mean=mean, variance=variance, story=story)
        x, y, mean, variance = (part.double().cpu() for part in (x, y, mean, variance))
        expected, kl = elbo_by_quadrature(x, y, mean, variance, story)
        exact = expected - kl
        q, prior = Normal(mean, variance.sqrt()), Normal(story.a * y, 1.0)
        squared = elbo_by_quadrature(x, y, mean, variance**2, story)
        mistakes: Mistakes = {
            "spread": Normal(story.w * mean + story.u * y, story.s).log_prob(x) - kl,
            "kl sign": expected + kl,
            "prior": expected - kl_divergence(q, Normal(torch.zeros(b).double(), 1.0)),
            "swapped": expected - kl_divergence(prior, q),
            "std": (squared[0] - squared[1], expected - squared[1], squared[0] - kl),
            "constant": exact + 0.5 * math.log(2 * math.pi * story.s**2),
            "decoder": elbo_by_quadrature(x, y, mean, variance, but(story, u=0.0))[0] - kl,
            "no kl": expected,
            "sign": -exact,
            "noise": elbo_by_quadrature(x, y, mean, variance, but(story, s=story.s**2))[0] - kl,
        }
        trial.compare(got, exact, mistakes)


@exercise(
    "2.4",
    "the K-sample bound",
    hints={
        "mean of logs": "That is the mean of the logs: it estimates the ELBO for any K. Average the weights first.",
        "log k": "It is too large by log K: the sum of the weights is there, their average is asked for.",
        "divided": "You divided the logarithm by K. Dividing the sum by K takes log K off its logarithm.",
        "axis": "You averaged over the images. The K samples lie along the second axis, dim=1.",
        "batch": "You also averaged or summed over the images. Return one number for each, shape (B,).",
        "unstable": "Right for moderate weights, but exp of a log-weight near -1500 is 0, and its logarithm is gone. "
        "`torch.logsumexp` takes the largest one out first.",
        "one maximum": "Right while the images are alike, wrong for one that is far less likely than the others: take "
        "out one maximum per image, `log_weights.max(dim=1, keepdim=True).values`, not one for all.",
    },
)
def _k_sample_bound(probe: Probe, k_sample_bound: Any) -> None:
    for trial in probe.trials():
        for level, apart in ((0.0, 0.0), (-1500.0, 0.0), (1500.0, 0.0), (0.0, -900.0)):
            b, k = trial.size(2, 4), trial.size(5, 8)
            rows = torch.arange(b, device=trial.device, dtype=trial.dtype)[:, None]
            log_w = 2 * trial.normal(b, k) + level + apart * rows
            got = trial.ask(k_sample_bound, log_weights=log_w)
            exact = _log_mean(log_w, 1)
            mistakes: Mistakes = {
                "mean of logs": log_w.mean(1),
                "log k": exact + math.log(k),
                "divided": _log_mean(log_w, 1, divided=True),
                "axis": _log_mean(log_w, 0),
                "batch": (exact.mean(), exact.sum(), _log_mean(log_w.flatten(), 0)),
            }
            kind = "unstable" if level else "one maximum" if apart else "unknown"
            # Near 1500 float32 keeps four digits after the point: compare absolutely, or log K would drown.
            trial.compare(got, exact, mistakes, otherwise=kind, not_finite=kind, relative=0.0, absolute=0.01)


def _log_mean(log_w: Tensor, axis: int, divided: bool = False) -> Tensor:
    """Return the log of the mean of weights, in float64 after the largest has been divided out.

    ``divided`` makes it the log of their sum, divided by their number.
    """
    values = log_w.double().cpu().numpy()
    top = values.max(axis, keepdims=True)
    log_sum = np.log(np.exp(values - top).sum(axis)) + top.squeeze(axis)
    many = values.shape[axis]
    return torch.as_tensor(log_sum / many if divided else log_sum - math.log(many))


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
        "too much": "You cut too much: z keeps its gradient inside log q too. Detach mean and log_std there, not z "
        "and not the whole density.",
        "value": "The values are not log p(x,z|y) - log q(z) at z = mean + exp(log_std)·eps.",
        "constant": "The values are off by a constant: some log-density lost its -½ log(2π) or its log σ.",
        "everything": "No gradient comes out at all: something detaches the whole result.",
    },
)
def _sticking(probe: Probe, quiet_elbo: Any) -> str:
    trial, draws = probe.trial(torch.float64), 20_000
    story = drawn_story(trial)
    x, y = trial.normal(1).double(), trial.normal(1).double()
    centre, variance = posterior_on_a_grid(x, y, story)

    def gradients(mean: Tensor, log_std: Tensor) -> tuple[Tensor, Tensor]:
        """Check the values, and return the gradient of each draw in mean and in log_std, each shape (S,)."""
        mean, log_std = (part.expand(draws).clone().requires_grad_() for part in (mean, log_std))
        eps = trial.normal(draws)
        given = {"x": x, "y": y, "mean": mean, "log_std": log_std, "eps": eps, "story": story}
        got = trial.ask(quiet_elbo, **given)
        z = (mean + log_std.exp() * eps).detach()
        exact = log_joint(z, x, y, story) - Normal(mean, log_std.exp()).log_prob(z).detach()
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
    expected, kl = elbo_by_quadrature(x, y, wrong_mean, (2 * wrong_std).exp(), story)
    exact = torch.autograd.grad((expected - kl).sum(), (wrong_mean, wrong_std))
    right = [trial.average(mine[:, None], slope) for mine, slope in zip(off, exact, strict=True)]
    if not all(right):
        # Of log q, what reaches log_std through z is 1 on average, and what reaches the mean is 0.
        entropy = right[0] and trial.average(off[1][:, None], exact[1] - 1)
        place = right.index(False)
        trial.fail(
            "too much" if entropy else "path",
            expected=f"a gradient of {float(exact[place]):.3g} in {('mean', 'log_std')[place]} on average",
            got=f"{float(off[place].mean()):.3g}",
        )
    at = gradients(centre, 0.5 * variance.log())
    noise = float(torch.stack(at).abs().max())
    if noise > 1e-3:
        trial.fail("score", expected="a gradient of 0 from every draw at the exact posterior", got=f"up to {noise:.2g}")
    narrow = 0.5 * variance.log() + math.log(0.3)
    plain = plain_gradients(trial.normal(draws), x, y, centre, narrow, story)
    ratios = [float(mine.var() / other.var()) for mine, other in zip(gradients(centre, narrow), plain, strict=True)]
    return (
        "at the exact posterior every single draw has gradient zero. Far from it that can turn round: with a q 0.3 "
        f"times as wide as the posterior its variance is about {ratios[0]:.0f} times that of the plain estimate in "
        f"mean, and {ratios[1]:.0f} times in log_std."
    )
