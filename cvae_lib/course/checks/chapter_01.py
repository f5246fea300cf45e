"""Checks of chapter 01's exercises: the pieces of a VAE, and the VAE they make."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Normal, kl_divergence

from cvae_lib import data
from cvae_lib.course.checks._autoencoder import HINTS, built, check_decode, check_terms, gaussian, method, sees_logits
from cvae_lib.course.checks._given import drawn
from cvae_lib.course.checks._probe import Mistakes, Probe, model_copy
from cvae_lib.course.checks._registry import exercise
from cvae_lib.course.checks._sampling import check_noise, slopes
from cvae_lib.course.checks._verdict import shown

TITLE = "01 · The VAE"


@exercise(
    "1.1",
    "the price of a cloud, by hand",
    hints={
        "std": "You took the standard deviation for the variance. Formula (1.3) wants σ², and σ is given.",
        "half": "Twice too much: what became of the ½ in front of the sum?",
        "mean": "Half of it: you averaged over the two latents. (1.3) sums over them.",
        "log sign": "Look at the sign of log σ²: a wider cloud says less about z, and that makes it cheaper.",
        "bits": "That is right in bits. The course counts in nats: the logarithm is the natural one.",
        "swapped": "That is the KL the other way round, from the prior to the cloud. It is another number.",
        "one": "That is the share of one latent only. The two shares are added.",
    },
)
def _price(probe: Probe, nats: Any) -> None:
    the = drawn("1.1", probe.edition)
    q = Normal(torch.tensor([the.mean, 0.0]), torch.tensor([1.0, the.std]))
    p = Normal(torch.zeros(2), torch.ones(2))
    shares = kl_divergence(q, p)  # (2,)
    exact = float(shares.sum())
    mistakes = {
        "std": float(kl_divergence(Normal(q.mean, q.variance.sqrt().sqrt()), p).sum()),
        "half": 2 * exact,
        "mean": exact / 2,
        "log sign": exact + math.log(the.std**2),
        "bits": exact / math.log(2),
        "swapped": float(kl_divergence(p, q).sum()),
        "one": float(shares[1]),
    }
    probe.number(nats, exact, mistakes)


@exercise(
    "1.2",
    "a sample that gradients can pass",
    hints={
        "variance": "The noise is scaled by the variance. σ is its square root: exp(log_variance / 2).",
        "log variance": "The noise is scaled by log_variance itself. It is a logarithm, and can be negative; σ cannot.",
        "unscaled": "The noise has the same width for every latent. Multiply it by σ.",
        "mean": "It returns the mean: there is no noise in it.",
        "shared": "Every image gets the same noise. Draw a number for each entry of `mean`: `torch.randn_like(mean)`.",
        "shared latents": "All latents of one image get the same noise. Draw one number for each entry of `mean`.",
        "uniform": "The noise is not normal. `torch.rand` is uniform between 0 and 1; `torch.randn` is normal.",
        "seeded": "Two calls gave the same noise. Do not fix the seed inside the function.",
        "detached": "No gradient, or a wrong one, reaches `mean` or `log_variance`. `.sample()`, `.detach()`, "
        "`.item()` and `torch.no_grad()` cut it off.",
    },
)
def _reparameterise(probe: Probe, reparameterise: Any) -> None:
    for trial in probe.trials():
        b, d = trial.size(3, 6), trial.size(2, 4)
        mean, log_variance = trial.normal(b, d).requires_grad_(), trial.normal(b, d).requires_grad_()
        z = trial.ask(reparameterise, mean=mean, log_variance=log_variance)
        again = trial.ask(reparameterise, mean=mean, log_variance=log_variance)
        if trial.tensor(z).shape != mean.shape:
            trial.compare(z, mean)
        if torch.allclose(trial.tensor(z), trial.tensor(mean)):
            trial.fail("mean")
        if torch.equal(trial.tensor(z), trial.tensor(again)):
            trial.fail("seeded")
        check_noise(trial, reparameterise)
        found = slopes(z, mean, log_variance)
        if found is None:
            trial.fail("detached", expected="gradients for mean and log_variance", got="none")
        trial.compare(found[0], torch.ones(b, d), otherwise="detached", not_finite="detached")
        trial.compare(found[1], 0.5 * (z - mean), otherwise="detached", not_finite="detached")


@exercise(
    "1.3",
    "the KL between any two Gaussians",
    hints={
        "sign": "Right size, wrong sign. A KL is never negative.",
        "swapped": "That is KL(prior ‖ q): the two are the wrong way round.",
        "standard": "That is the KL to N(0, I). This one goes to N(prior_mean, exp(prior_log_variance)).",
        "log std": "You took the log-variance for the logarithm of σ. The variance is exp(log_variance) itself.",
        "mean": "You averaged over the latents. Nats add up: sum over them.",
        "batch": "You also summed or averaged over the images. Return one number for each image, shape (B,).",
        "half": "Twice too much: what became of the ½?",
        "squared distance": "The squared distance between the means is to be divided by the *prior's* variance.",
    },
)
def _gaussian_kl(probe: Probe, gaussian_kl: Any) -> None:
    for trial in probe.trials():
        b, d = trial.size(2, 4), trial.size(2, 5)
        m, v, n, w = (trial.normal(b, d) for _ in range(4))
        got = trial.ask(gaussian_kl, mean=m, log_variance=v, prior_mean=n, prior_log_variance=w)
        q, p = Normal(m.double(), v.double().mul(0.5).exp()), Normal(n.double(), w.double().mul(0.5).exp())
        exact = kl_divergence(q, p).sum(1)  # (B,)
        narrow_q, narrow_p = Normal(m.double(), v.double().exp()), Normal(n.double(), w.double().exp())
        undivided = 0.5 * (q.mean - p.mean).square() * (1 - 1 / p.variance)
        mistakes: Mistakes = {
            "sign": -exact,
            "swapped": kl_divergence(p, q).sum(1),
            "standard": kl_divergence(q, Normal(torch.zeros_like(q.mean), torch.ones_like(q.mean))).sum(1),
            "log std": kl_divergence(narrow_q, narrow_p).sum(1),
            "mean": exact / d,
            "half": 2 * exact,
            "squared distance": exact + undivided.sum(1),
            "batch": (exact.sum(), exact.mean()),
        }
        trial.compare(got, exact, mistakes)


@exercise(
    "1.4",
    "the distortion of binary pixels",
    hints={
        "sign": "That is the log-likelihood. The distortion is minus that: nats still to pay.",
        "mean": "You averaged over the pixels. That is β = number of pixels in disguise, see (1.5): sum over them.",
        "batch": "You summed or averaged over the images too. Return one number for each image, shape (B,).",
        "sigmoid": "The logits went through a sigmoid twice. `binary_cross_entropy_with_logits` wants bare logits.",
        "squared": "That is a squared error. For pixels that are 0 or 1 the distortion is -log Bernoulli.",
        "unstable": "Right for small logits, wrong for logits near ±60: the sigmoid becomes exactly 0 or 1 there, and "
        "its logarithm breaks down. Work from the logits: `F.softplus` or `binary_cross_entropy_with_logits`.",
    },
)
def _distortion(probe: Probe, distortion: Any) -> None:
    for trial in probe.trials():
        for width in (1.5, 60.0):
            shape = (trial.size(2, 4), 1, trial.size(3, 5), trial.size(3, 5))
            logits, x = trial.normal(*shape).clamp(-2, 2) * width, trial.bits(*shape)
            got = trial.ask(distortion, logits=logits, x=x)
            exact = -Bernoulli(logits=logits.double()).log_prob(x.double()).sum((1, 2, 3))  # (B,)
            p = logits.double().sigmoid()
            twice = -Bernoulli(logits=p).log_prob(x.double()).sum((1, 2, 3))
            squared = (p - x.double()).square().sum((1, 2, 3))
            mistakes: Mistakes = {
                "sign": -exact,
                "mean": exact / logits[0].numel(),
                "sigmoid": twice,
                "squared": squared,
                "batch": (exact.sum(), exact.mean()),
            }
            kind = "unstable" if width > 2 else "unknown"
            trial.compare(got, exact, mistakes, otherwise=kind, not_finite=kind)


@exercise(
    "1.5",
    "which β is this, by hand",
    hints={
        "as written": "That is what stands in the code. The other term was divided by a large number: undo that.",
        "channels": "You counted the pixels. A colour image has three numbers for each.",
        "weight": "That is the number of values in an image. The KL also had a weight of its own.",
        "divided": "You divided by the number of values. Multiply the whole loss by it instead.",
        "inverse": "That is 1/β: it stands before the KL once the other term stands alone.",
        "chapter": "784 is the number of pixels of the chapter's images. These are larger, and in colour.",
    },
)
def _beta(probe: Probe, beta: Any) -> str:
    the = drawn("1.5", probe.edition)
    values, weight = 3 * the.side**2, the.weight
    mistakes = {
        "as written": weight,
        "channels": weight * the.side**2,
        "weight": float(values),
        "divided": weight / values,
        "inverse": 1 / (weight * values),
        "chapter": weight * 784,
    }
    probe.number(beta, weight * values, mistakes)
    times = f"The rate counts {weight * values:.2g} times, not {weight:g} times."
    return f"{times} (A sum of squared errors is nats for variance ½.)"


@exercise("1.6", "a VAE of your own pieces", seconds=30.0, hints=HINTS)
def _vae(probe: Probe, vae: Any) -> None:
    for index in range(2):
        trial = probe.trial(index=index)
        x = (trial.normal(trial.size(3, 5), 1, 28, 28) > 0.7).to(trial.dtype)
        model = built(trial, vae, x=x)
        check_decode(trial, model, x=x)
        check_terms(trial, model, x=x)


@exercise(
    "1.7",
    "what a VAE does when β is 784",
    seconds=60.0,
    hints={
        "bits": "That is right in bits; the course counts in nats.",
        "pixel mean": "That is the average over the pixels. Sum over them.",
        "one grey": "That is for one grey for all pixels. Give each pixel the probability that suits it best.",
        "each image": "That is what remains if every image may have its own best picture. Here one picture serves all.",
        "untrained": "This model draws worse than one fixed picture does: it is not trained, or not on these images.",
        "rate": "Its rate is far from zero: β does not weigh the rate. The loss is distortion + β · rate.",
    },
)
def _silent(probe: Probe, floor: Any, model: Any) -> str:
    images = data.digits("train").subset(slice(2000))
    p = images.pixels().double().flatten(1)  # (N, 784)
    mean = p.mean(0)

    def entropy(probability: Tensor) -> Tensor:
        nats: Tensor = Bernoulli(probs=probability).entropy()
        return nats

    exact = float(entropy(mean).sum())
    mistakes = {
        "bits": exact / math.log(2),
        "pixel mean": exact / p.shape[1],
        "one grey": float(entropy(p.mean()) * p.shape[1]),
        "each image": float(entropy(p).sum(1).mean()),
    }
    probe.number(floor, exact, mistakes, name="floor", tolerance=0.5)
    trial = probe.trial()
    model = model_copy(model, trial)
    x = images.pixels(torch.arange(500), "stochastic", trial.random)
    sees_logits(trial, model, trial.normal(*gaussian(trial, method(trial, model, "encode"), x=x[:20])[0].shape))
    with torch.no_grad():
        distortion, rate = (float(part.mean()) for part in trial.pair(method(trial, model, "terms"), x=x))
    trial.on = "the first 500 images"
    measured = f"rate {rate:.1f}, distortion {distortion:.1f} nats"
    if distortion > exact + 100:
        trial.fail("untrained", expected=f"a distortion near {exact:.0f} nats", got=measured)
    if rate > 1:
        trial.fail("rate", expected="a rate near 0", got=measured)
    return f"measured: {measured}; the best single picture costs {exact:.1f}. Nothing is sent through z."


@exercise(
    "1.8",
    "a quieter score function",
    hints={
        "plain": "Right on average, and as noisy as without a baseline. Subtract from f what the *other* draws got.",
        "biased": "The baseline contains the draw's own f, which pulls the average towards zero by the factor 1 - 1/S. "
        "Leave the own draw out, or multiply by S / (S - 1).",
        "sign": "The sign is wrong: it points downhill. The score of N(mean, I) is z - mean.",
        "sum": "You summed over the draws. The estimate is their average.",
        "path": "It seems to differentiate f. This f is a step function: its slope is zero almost everywhere.",
        "still": "Every call gives the same estimate. Draw z afresh, without fixing the seed.",
    },
)
def _score(probe: Probe, score_gradient: Any) -> str:
    trial, draws, calls = probe.trial(), 4, (500, 2500)
    mean = 0.3 * trial.normal(2)

    def reward(z: Tensor) -> Tensor:  # (S, D) -> (S,): steps, whose slope is zero wherever there is one
        return 20.0 + 5.0 * (z > 0).to(z.dtype).sum(1) + 0.0 * z.sum(1)

    exact = 5.0 * Normal(0.0, 1.0).log_prob(mean.double()).exp()  # (D,)

    def estimate() -> Tensor:
        value = trial.tensor(trial.ask(score_gradient, f=reward, mean=mean, draws=draws))
        if value.shape != mean.shape:
            trial.compare(value, mean)
        return value

    on = f"f(z) = 20 + 5 · (number of positive entries), mean = {shown(mean)}, draws = {draws}"
    got = torch.stack([estimate() for _ in range(calls[0])])
    trial.on = on
    if not got.any() or not got.isfinite().all():
        trial.fail("path", expected=exact, got=got[0])
    if float(got.std()) == 0 or bool((got == got[0]).all()):
        trial.fail("still", expected="another estimate each time", got=got[0])
    candidates = {"sign": -exact, "sum": exact * draws, "biased": exact * (1 - 1 / draws)}
    for more in (0, calls[1]):  # a gross mistake shows early; a bias of a quarter needs all of them
        got = torch.cat([got, *(estimate()[None] for _ in range(more))])
        trial.on = on
        known = [name for name, wrong in candidates.items() if trial.average(got, wrong)]
        if not trial.average(got, exact) and (more or len(known) == 1):
            trial.fail(known[0] if known else "unknown", expected=exact, got=got.mean(0))
    z = mean.double() + trial.normal(len(got), draws, 2).double()
    plain = (reward(z.flatten(0, 1)).view(-1, draws, 1) * (z - mean.double())).mean(1)
    quieter = float(plain.var(0).sum() / got.var(0).sum())
    if quieter < 2:
        trial.fail("plain", expected="a variance at most half as large", got=f"{1 / quieter:.2f} times as large")
    return f"variance {quieter:.0f} times smaller than without a baseline."
