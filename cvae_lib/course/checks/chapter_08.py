"""Checks of chapter 08's exercises: two bills, what they trade for, and what a condition saves of them."""

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Bernoulli, Normal, kl_divergence

from cvae_lib.course.checks._given import drawn
from cvae_lib.course.checks._probe import Mistakes, Probe
from cvae_lib.course.checks._registry import exercise
from cvae_lib.course.checks._verdict import shown

TITLE = "08 · The rate–distortion dial"


@exercise(
    "8.1",
    "a beta by accident, by hand",
    hints={
        "inverse": "Upside down. The mean over more numbers shrinks its term by more: the *other* one gains weight.",
        "pixels": "Only the distortion is averaged in that answer. The rate is averaged too, over the latents.",
        "latents": "That is how many latents there are. How many pixels are there to each?",
        "side": "An image has side times side pixels.",
        "variance": "That is σ². The standard deviation is asked for.",
        "no half": "A Gaussian's -log p has a half in front of the squared error: divide by 2σ², not by σ².",
        "beta": "That is the β of the first loss. Which σ has the same effect as a β?",
        "sums": "That σ belongs to two sums. Here both are means, over a different number of things.",
    },
)
def _accident(probe: Probe, beta: Any, sigma: Any) -> None:
    the = drawn("8.1", probe.edition)
    pixels, latents = the.side**2, the.latents
    # By autograd: what one more nat of rate weighs against one more of distortion, in each loss.
    bills = torch.ones(pixels, dtype=torch.float64, requires_grad=True)
    rates = torch.ones(latents, dtype=torch.float64, requires_grad=True)
    by_pixel, by_latent = torch.autograd.grad(bills.mean() + rates.mean(), (bills, rates))
    exact = float(by_latent[0] / by_pixel[0])
    mistakes = {"inverse": 1 / exact, "pixels": pixels, "latents": latents, "side": the.side / latents}
    probe.number(beta, exact, mistakes)
    # An error of e² costs e²/2σ² nats, and e² in the squared loss: it is the bound where β is 1.
    variance = exact / 2
    wrong = {"variance": variance, "no half": exact**0.5, "beta": exact, "inverse": variance**-0.5}
    wrong |= {"pixels": (pixels / 2) ** 0.5, "sums": 0.5**0.5}
    probe.number(sigma, variance**0.5, wrong)


@exercise(
    "8.2",
    "two bills for every image",
    hints={
        "order": "The two are in the wrong order: distortion first, then rate.",
        "one decoding": "You averaged logits, or pictures, first. -log p is not linear in them: take it for each draw.",
        "one draw": "Only one of the K draws is in it. Average over all of them.",
        "unstable": "Not for a logit of 40: there the sigmoid is exactly 1. Work from the logits, as in 1.4.",
        "bound": "That is -log of the mean likelihood, exercise 2.4. The distortion is the mean of -log p.",
        "draws summed": "You summed over the draws. The distortion is an average over them.",
        "pixel mean": "Averaged over the pixels: that is another β, as in 8.1. Sum over them.",
        "sign": "The distortion has the wrong sign: it is minus the log-likelihood.",
        "batch": "You averaged over the images. One bill for each is asked for, shape (B,).",
        "standard": "That is the rate to N(0, I). The prior is given, and its mean and width count.",
        "exchanged": "KL(p || q): the first place belongs to what you average over, the posterior.",
        "log std": "The log-variances were taken for logarithms of standard deviations: σ² is exp(log_variance).",
        "rate mean": "The rate is averaged over the latents. Sum over them.",
        "no half": "Twice too much: the KL of two Gaussians has a half in front.",
    },
)
def _bills(probe: Probe, two_bills: Any) -> None:
    for trial in probe.trials():
        k, b, d, side = trial.size(3, 5), trial.size(4, 6), trial.size(2, 4), trial.size(3, 5)
        logits, x = 2 * trial.normal(k, b, 1, side, side), trial.bits(b, 1, side, side)
        logits[0, 0, 0, 0, 0], x[0, 0, 0, 0] = 40.0, 0.0  # sure, and wrong
        mean, log_variance = trial.normal(b, d), 0.7 * trial.normal(b, d) - 1
        prior_mean, prior_log_variance = trial.normal(b, d), 0.7 * trial.normal(b, d)
        given = {"logits": logits, "x": x, "mean": mean, "log_variance": log_variance}
        given |= {"prior_mean": prior_mean, "prior_log_variance": prior_log_variance}
        first, second = (trial.tensor(part) for part in trial.pair(two_bills, **given))
        o, a, m, v, pm, pv = (part.double().cpu() for part in given.values())
        log_p = Bernoulli(logits=o).log_prob(a.expand_as(o)).flatten(2).sum(2)  # (K, B)
        exact, means = -log_p.mean(0), (o.mean(0), o.sigmoid().mean(0).logit())
        clamped = F.binary_cross_entropy(logits.sigmoid(), x.expand_as(logits), reduction="none")
        q, p = Normal(m, (v / 2).exp()), Normal(pm, (pv / 2).exp())
        rate = kl_divergence(q, p).sum(1)
        mistakes: Mistakes = {
            "order": rate,
            "one decoding": tuple(-Bernoulli(logits=mid).log_prob(a).flatten(1).sum(1) for mid in means),
            "one draw": (-log_p[0], -log_p[-1]),
            "unstable": clamped.flatten(2).sum(2).mean(0),
            "bound": math.log(k) - log_p.logsumexp(0),
            "draws summed": k * exact,
            "pixel mean": exact / side**2,
            "sign": -exact,
            "batch": exact.mean(),
        }
        trial.compare(first, exact, mistakes, not_finite="unstable")
        wrong: Mistakes = {
            "no half": 2 * rate,
            "standard": kl_divergence(q, Normal(torch.zeros_like(m), 1.0)).sum(1),
            "exchanged": kl_divergence(p, q).sum(1),
            "log std": kl_divergence(Normal(m, v.exp()), Normal(pm, pv.exp())).sum(1),
            "rate mean": rate / d,
            "batch": rate.mean(),
        }
        trial.compare(second, rate, wrong)


CULPRIT = 4.0  # of the five models in the exercise's table


@exercise(
    "8.3",
    "beta, read off a curve",
    hints={
        "sign": "The curve falls, so the bare slope is negative. Beta is minus the slope, (8.3).",
        "inverse": "Upside down: beta is distortion for rate, not rate for distortion.",
        "unsorted": "Neighbours in the table need not be neighbours on the curve. Sort by the rate first.",
        "backwards": "Right, but from the largest rate to the smallest. The smallest comes first.",
        "ratio": "That is D/R of each model. A slope belongs to two models: differences of both.",
        "positive": "A badly trained model can cost more at a higher rate. Then minus the slope is negative: leave it.",
        "apart": "Sort both by the rate, in one order. By distortion, or each for itself, other numbers meet.",
        "culprit": "Not that one. It stands at an end of *every* pair whose slope lies outside its two betas, (8.6).",
    },
)
def _slopes(probe: Probe, read_off: Any, culprit: Any) -> str:
    for trial in probe.trials():
        n = trial.size(5, 7)
        # Points of a curve whose slope is known: D = c e^(-R/k), neither sorted nor evenly spaced.
        gaps = [trial.uniform(1.0, 4.0) for _ in range(n)]
        order = torch.randperm(n, generator=trial.random)
        while torch.equal(order, order.sort().values) or torch.equal(order, order.sort(descending=True).values):
            order = torch.randperm(n, generator=trial.random)
        rate = torch.tensor(gaps).double().cumsum(0)
        distortion = 60 + 90 * (-rate / trial.uniform(5.0, 9.0)).exp()
        bad = trial.size(1, n - 2)  # one model is beaten by its neighbour, at both bills
        distortion[bad] = distortion[bad - 1] + trial.uniform(1.0, 4.0)
        r, d = rate.numpy(), distortion.numpy()
        exact = torch.from_numpy(np.array([(d[i] - d[i + 1]) / (r[i + 1] - r[i]) for i in range(n - 1)]))
        mixed, mixed_d = rate[order], distortion[order]
        jumble = -mixed_d.diff() / mixed.diff()
        lower, costs = distortion.sort(descending=True)
        by_cost = -lower.diff() / rate[costs].diff()
        given = {"rates": mixed.to(trial.device, trial.dtype), "distortions": mixed_d.to(trial.device, trial.dtype)}
        mistakes: Mistakes = {
            "sign": (-exact, -exact.flip(0), -jumble),
            "inverse": (1 / exact, -1 / exact, 1 / jumble),
            "unsorted": jumble,
            "backwards": exact.flip(0),
            "ratio": (distortion / rate, mixed_d / mixed),
            "positive": (exact.abs(), exact.clamp(min=0)),
            "apart": (-lower.diff() / rate.diff(), -lower.flip(0).diff() / rate.diff(), by_cost, by_cost.flip(0)),
        }
        trial.compare(trial.ask(read_off, **given), exact, mistakes, relative=3e-3)
    trial = probe.trial()
    named = trial.tensor(culprit)
    trial.on = "the five models of the table"
    if named.numel() != 1 or float(named) != CULPRIT:
        trial.fail("culprit", expected="the beta of one of the five models", got=shown(culprit))
    return "both pairs it stands in have a slope that is out of bounds; without it all are in order."


@exercise(
    "8.4",
    "what y buys at a given rate",
    hints={
        "prediction": 'Predict first: "falls", "rises" or "stays".',
        "equal shares": "You gave every direction the same rate. The widest deserves more, the faintest none.",
        "one direction": "You spent all of it on the largest. As soon as its error is down to the next, share.",
        "twice": "You got twice as much for the rate, or half: *half* the logarithm is its price, (8.4).",
        "bits": "That reads the rate in bits, where a bit halves the width. The course counts in nats.",
        "drowned": "Directions under water have the error λ, not more, and the rate 0, not less. Yours have not.",
        "sent only": "Directions that are not sent are missing from the error. They keep all of their variance.",
        "level": "That is the water level. The error is the sum of min(λ, θ) over all directions.",
        "above": "That is what lies above the water, what is sent. The error is what is left: min(λ, θ).",
        "averaged": "You averaged over the directions. The squared error is a sum over them, (8.4).",
        "wrong half": "Your search ran to an end. Where the price is above R, the level is too low: a new lower end.",
        "first": "You took the first variance for the largest. They come in any order: `spread.max()`.",
    },
)
def _saving(probe: Probe, prediction: Any, least_error: Any) -> str:
    if prediction not in ("falls", "rises", "stays"):
        probe.trial().fail("prediction", expected="one of the three words", got=shown(prediction))
    for trial in probe.trials():
        n = trial.size(4, 6)
        spread = torch.tensor([8.0, 3.0, 1.0, 0.1] + [trial.uniform(0.02, 2.0) for _ in range(n - 4)])
        spread = (spread * trial.uniform(0.7, 1.5)).roll(trial.size(1, 3)).to(trial.device, trial.dtype)
        for rate in (trial.uniform(1.0, 1.6), 0.0, 6.0):
            got = trial.ask(least_error, spread=spread, rate=rate)
            lam = np.sort(spread.double().cpu().numpy())[::-1]

            def best(nats: float, lam: Any = lam) -> tuple[float, float]:
                """Return error and level: no search, but the largest number of directions that all get some rate."""
                for k in range(len(lam), 0, -1):
                    level = math.exp((float(np.log(lam[:k]).sum()) - 2 * nats) / k)
                    if level <= lam[k - 1]:
                        break
                return k * level + float(lam[k:].sum()), level

            error, level = best(rate)
            everything = len(lam) * math.exp((float(np.log(lam).sum()) - 2 * rate) / len(lam))
            one = float(lam[0]) * math.exp(-2 * rate) + float(lam[1:].sum())
            mistakes: Mistakes = {
                "equal shares": _number(float((lam * math.exp(-2 * rate / len(lam))).sum())),
                "one direction": _number(one),
                "twice": (_number(best(2 * rate)[0]), _number(best(rate / 2)[0])),
                "bits": _number(best(rate * math.log(2))[0]),
                "drowned": (_number(everything), _number(float(np.minimum(lam, everything / len(lam)).sum()))),
                "sent only": _number(error - float(lam[lam <= level].sum())),
                "level": _number(level),
                "above": _number(float(lam.sum()) - error),
                "averaged": _number(error / len(lam)),
                "wrong half": (_number(float(lam.sum())), _number(0.0)),
                "first": _number(float(np.minimum(lam, float(spread[0])).sum())),
            }
            trial.compare(got, _number(error), mistakes, relative=3e-3, absolute=2e-3)
    said = "As you predicted, it falls" if prediction == "falls" else f"It falls; you said it {prediction}"
    return (
        f"{said}. With rate to spare everything is sent anyway. What grows is the *rate* that y saves, up to I(x; y)."
    )


def _number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


@exercise(
    "8.5",
    "a gap that counts",
    hints={
        "no entropy": "The gap is not divided by the factor's entropy. Factors of many values would count more.",
        "latent entropy": "You divided by what the latent has, or knows. It is the factor's entropy that counts.",
        "log bins": "You divided by the logarithm of the number of values. Values are not equally frequent: take H(v).",
        "axis": "You compared two factors in one latent. It is two latents that are compared, for each factor.",
        "no gap": "That is the best latent alone. A second one that knows as much must spoil the score.",
        "worst": "You subtracted the worst latent, or the mean. It is the second best.",
        "summed": "You summed over the factors. It is a mean.",
        "pooled": "One fraction of two sums. Every factor has a fraction of its own, and they are averaged.",
        "pairs": "Different pairs were given the same number. `a * (b.max() + 1) + b` gives each its own.",
        "each": "Return one number: the mean over the factors.",
    },
)
def _gap(probe: Probe, gap: Any) -> None:
    trial = probe.trial()
    for dims, kinds in ((trial.size(4, 5), 3), (3, 2)):
        n = 1500
        factors = torch.stack([_uneven(trial, n, 4 + 2 * k) for k in range(kinds)], 1)
        codes = []
        for d in range(dims):
            truth = factors[:, d % kinds]
            lied = torch.rand(n, generator=trial.random) < trial.uniform(0.1 + 0.1 * d, 0.2 + 0.1 * d)
            codes.append(torch.where(lied, torch.randint(6, (n,), generator=trial.random), truth))
        code = torch.stack(codes, 1)
        got = trial.ask(gap, codes=code, factors=factors)
        trial.on = f"{n} images, {dims} latents and {kinds} factors, in bins"
        z, v = code.numpy(), factors.numpy()
        table = np.array([[_known(z[:, d], v[:, k]) for k in range(kinds)] for d in range(dims)])  # (D, K)
        steps = ([1] * kinds, v.max(0).tolist())  # too small to keep pairs apart
        merged = [np.sort([[_known(a, b, n) for b, n in zip(v.T, few, strict=True)] for a in z.T], 0) for few in steps]
        entropy = np.array([_known(v[:, k], v[:, k]) for k in range(kinds)])
        own = np.array([_known(z[:, d], z[:, d]) for d in range(dims)])
        ranked, best = np.sort(table, 0)[::-1], table.argmax(0)
        gaps, across = ranked[0] - ranked[1], np.sort(table, 1)[:, ::-1]
        bins = np.log([v[:, k].max() + 1 for k in range(kinds)])
        found: dict[str, Any] = {
            "no entropy": (gaps.mean(), gaps.mean() / math.log(2)),
            "latent entropy": ((gaps / own[best]).mean(), (gaps / ranked[0]).mean()),
            "log bins": ((gaps / bins).mean(),),
            "axis": (
                ((across[:, 0] - across[:, 1]) / own).mean(),
                (across[:, 0] - across[:, 1]).mean(),
                ((across[:, 0] - across[:, 1]) / entropy[table.argmax(1)]).mean(),
            ),
            "no gap": ((ranked[0] / entropy).mean(),),
            "worst": [((ranked[0] - low) / entropy).mean() for low in (ranked[-1], table.mean(0), ranked[1:].mean(0))],
            "summed": ((gaps / entropy).sum(),),
            "pooled": (gaps.sum() / entropy.sum(),),
            "pairs": [((few[-1] - few[-2]) / entropy).mean() for few in merged],
        }
        mistakes = {name: tuple(_number(float(value)) for value in values) for name, values in found.items()}
        mistakes["each"] = (torch.from_numpy(gaps / entropy),)
        trial.compare(got, _number(float((gaps / entropy).mean())), mistakes)


def _uneven(trial: Any, n: int, values: int) -> Tensor:
    """Draw whole numbers of which the small ones are the frequent ones; each value comes up."""
    weights = 1.0 / torch.arange(1, values + 1)
    drawn_now = torch.multinomial(weights, n - values, replacement=True, generator=trial.random)
    return torch.cat([torch.arange(values), drawn_now])


def _known(a: Any, b: Any, step: int = 0) -> float:
    """Return I(a; b) = H(a) + H(b) - H(a, b) from counts, nats, or with pairs numbered a * step + b."""

    def entropy(rows: Any) -> float:
        share = np.unique(rows, axis=0, return_counts=True)[1] / len(rows)
        return float(-(share * np.log(share)).sum())

    return entropy(a) + entropy(b) - entropy(a * step + b if step else np.stack([a, b], 1))
