"""Answers to the exercises of chapter 01."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.distributions import Bernoulli, Independent, MultivariateNormal, Normal, kl_divergence

RIGHT, WRONG = {}, {}

RIGHT["1.1"] = [
    ("two digits", (3.40,)),
    ("all digits", (3.4013877,)),
    ("a tensor", (torch.tensor([3.4014]),)),
    ("a numpy number", (np.float32(3.4014),)),
]
WRONG["1.1"] = [
    ("std", "variance 3", (0.95,)),
    ("half", "no ½", (6.80,)),
    ("mean", "averaged", (1.70,)),
    ("log sign", "plus log", (5.60,)),
    ("bits", "log to base 2", (4.91,)),
    ("swapped", "KL(p, q)", (1.15,)),
    ("one", "second latent only", (2.90,)),
]


def std_of(log_variance):
    return torch.exp(0.5 * log_variance)


def one_by_one(mean, log_variance):
    rows = []
    for m, v in zip(mean, log_variance, strict=True):
        rows.append(torch.stack([a + math.e ** (b / 2) * torch.randn(()) for a, b in zip(m, v, strict=True)]))
    return torch.stack(rows)


def without_gradient(mean, log_variance):
    with torch.no_grad():
        return mean + std_of(log_variance) * torch.randn_like(mean)


def always_the_same(mean, log_variance):
    torch.manual_seed(0)
    return mean + std_of(log_variance) * torch.randn_like(mean)


RIGHT["1.2"] = [
    ("rsample", (lambda m, v: Normal(m, std_of(v)).rsample(),)),
    ("a root", (lambda mu, s: mu + s.exp().sqrt() * torch.randn(mu.shape),)),
    ("mirrored", (lambda m, v: m - (v / 2).exp() * torch.empty_like(m).normal_(),)),
    ("full covariance", (lambda m, v: MultivariateNormal(m, torch.diag_embed(v.exp())).rsample(),)),
    ("a loop", (one_by_one,)),
    ("in float32", (lambda m, v: m.float() + std_of(v.float()) * torch.randn(m.shape, dtype=torch.float32),)),
]
WRONG["1.2"] = [
    ("variance", "exp without ½", (lambda m, v: m + v.exp() * torch.randn_like(m),)),
    ("log variance", "no exp", (lambda m, v: m + v * torch.randn_like(m),)),
    ("unscaled", "no σ", (lambda m, v: m + torch.randn_like(m) + 0 * v,)),
    ("mean", "no noise", (lambda m, v: m + 0 * v,)),
    ("shared", "randn(D)", (lambda m, v: m + std_of(v) * torch.randn(m.shape[1]),)),
    ("shared latents", "randn(B, 1)", (lambda m, v: m + std_of(v) * torch.randn(len(m), 1),)),
    ("uniform", "rand", (lambda m, v: m + std_of(v) * torch.rand_like(m),)),
    ("uniform", "rand, stretched", (lambda m, v: m + std_of(v) * (torch.rand_like(m) - 0.5) * 12**0.5,)),
    ("seeded", "manual_seed inside", (always_the_same,)),
    ("detached", "sample", (lambda m, v: Normal(m, std_of(v)).sample(),)),
    ("detached", "no_grad", (without_gradient,)),
    ("detached", "σ detached", (lambda m, v: m + std_of(v).detach() * torch.randn_like(m),)),
]


def gaussians(m, v, n, w):
    return Normal(m, std_of(v)), Normal(n, std_of(w))


def terms(m, v, n, w):
    return w - v + (v - w).exp() + (m - n) ** 2 / w.exp() - 1


def looped(m, v, n, w):
    out = []
    for b in range(len(m)):
        total = 0.0
        for d in range(m.shape[1]):
            s, t = math.exp(float(v[b, d]) / 2), math.exp(float(w[b, d]) / 2)
            total += math.log(t / s) + (s**2 + float(m[b, d] - n[b, d]) ** 2) / (2 * t**2) - 0.5
        out.append(total)
    return torch.tensor(out)


RIGHT["1.3"] = [
    ("closed form", (lambda m, v, n, w: 0.5 * terms(m, v, n, w).sum(-1),)),
    ("torch.distributions", (lambda *a: kl_divergence(*gaussians(*a)).sum(1),)),
    ("Independent", (lambda *a: kl_divergence(*(Independent(p, 1) for p in gaussians(*a))),)),
    ("a loop", (looped,)),
    ("in float64", (lambda *a: 0.5 * terms(*(t.double() for t in a)).sum(1),)),
]
WRONG["1.3"] = [
    ("sign", "turned over", (lambda *a: -0.5 * terms(*a).sum(1),)),
    ("swapped", "KL(p, q)", (lambda m, v, n, w: 0.5 * terms(n, w, m, v).sum(1),)),
    ("standard", "prior ignored", (lambda m, v, n, w: 0.5 * (m**2 + v.exp() - 1 - v).sum(1),)),
    ("log std", "exp(2 v)", (lambda m, v, n, w: 0.5 * terms(m, 2 * v, n, 2 * w).sum(1),)),
    ("mean", "mean over latents", (lambda *a: 0.5 * terms(*a).mean(1),)),
    ("batch", "sum of everything", (lambda *a: 0.5 * terms(*a).sum(),)),
    ("batch", "mean over images", (lambda *a: 0.5 * terms(*a).sum(1).mean(),)),
    ("half", "no ½", (lambda *a: terms(*a).sum(1),)),
    (
        "squared distance",
        "not divided",
        (lambda m, v, n, w: 0.5 * (w - v + (v - w).exp() + (m - n) ** 2 - 1).sum(1),),
    ),
]


def bce(logits, x, reduction="none"):
    return F.binary_cross_entropy_with_logits(logits, x, reduction=reduction)


def pixel_by_pixel(logits, x):
    out = []
    for image, truth in zip(logits, x, strict=True):
        pairs = zip(image.flatten(), truth.flatten(), strict=True)
        out.append(sum(-F.logsigmoid(a if b == 1 else -a) for a, b in pairs))
    return torch.stack(out)


def through_probabilities(logits, x):
    p = torch.sigmoid(logits)
    return -(x * p.log() + (1 - x) * (1 - p).log()).flatten(1).sum(1)


RIGHT["1.4"] = [
    ("bce with logits", (lambda logits, x: bce(logits, x).flatten(1).sum(1),)),
    ("three axes", (lambda logits, x: bce(logits, x).sum((1, 2, 3)),)),
    ("torch.distributions", (lambda logits, x: -Bernoulli(logits=logits).log_prob(x).flatten(1).sum(1),)),
    ("pixel by pixel", (pixel_by_pixel,)),
    ("in float64", (lambda logits, x: bce(logits.double(), x.double()).flatten(1).sum(1),)),
]
WRONG["1.4"] = [
    ("sign", "log-likelihood", (lambda logits, x: -bce(logits, x).flatten(1).sum(1),)),
    ("mean", "mean over pixels", (lambda logits, x: bce(logits, x).flatten(1).mean(1),)),
    ("batch", "reduction sum", (lambda logits, x: bce(logits, x, "sum"),)),
    ("batch", "sum divided by B", (lambda logits, x: bce(logits, x, "sum") / len(x),)),
    ("sigmoid", "sigmoid first", (lambda logits, x: bce(logits.sigmoid(), x).flatten(1).sum(1),)),
    ("squared", "squared error", (lambda logits, x: (logits.sigmoid() - x).square().flatten(1).sum(1),)),
    ("unstable", "logs of probabilities", (through_probabilities,)),
]

RIGHT["1.5"] = [("exact", (3.072,)), ("two digits", (3.07,))]
WRONG["1.5"] = [
    ("as written", "the weight", (0.00025,)),
    ("channels", "64 x 64", (1.024,)),
    ("weight", "all values", (12288,)),
    ("divided", "weight over values", (0.00025 / 12288,)),
    ("inverse", "one over it", (0.3255,)),
    ("chapter", "784", (0.196,)),
]


class Right(nn.Module):
    """A VAE that is right, written otherwise than the solution."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(784, 64), nn.Tanh())
        self.mean, self.log_variance = nn.Linear(64, 3), nn.Linear(64, 3)
        self.out = nn.Sequential(nn.Linear(3, 64), nn.ReLU(), nn.Linear(64, 784))

    def encode(self, x):
        h = self.body(x.view(len(x), -1))
        return self.mean(h), self.log_variance(h)

    def decode(self, z):
        return self.out(z).unflatten(1, (1, 28, 28))

    def distortion(self, logits, x):
        return -Bernoulli(logits=logits).log_prob(x).sum((1, 2, 3))

    def terms(self, x):
        q = Normal(self.encode(x)[0], std_of(self.encode(x)[1]))
        rate = kl_divergence(q, Normal(0.0, 1.0)).sum(1)
        return self.distortion(self.decode(q.rsample()), x), rate


class Looped(Right):
    def terms(self, x):
        pairs = [Right.terms(self, piece) for piece in x.split(1 if len(x) < 100 else 40)]  # a loop over 2,000 is slow
        return torch.cat([a for a, _ in pairs]), torch.cat([b for _, b in pairs])


def with_terms(function, base=Right):
    """Return a class of VAE whose ``terms`` is ``function(model, x, mean, log_variance, distortion, rate)``."""

    class Changed(base):
        def terms(self, x, *y):
            mean, log_variance = self.encode(x, *y)
            noise = torch.randn_like(mean)

            def distortion(z):
                return self.distortion(self.decode(z, *y), x)

            rate = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(1)
            return function(mean, log_variance, noise, distortion, rate)

    return Changed


def sample(mean, log_variance, noise):
    return mean + std_of(log_variance) * noise


# What goes wrong in `terms`, for the VAE here and for the conditional one of chapter 03.
WRONG_TERMS = [
    ("order", "rate first", lambda m, v, e, d, r: (r, d(sample(m, v, e)))),
    ("rate sign", "minus KL", lambda m, v, e, d, r: (d(sample(m, v, e)), -r)),
    ("rate mean", "mean over latents", lambda m, v, e, d, r: (d(sample(m, v, e)), r / m.shape[1])),
    ("rate", "no log term", lambda m, v, e, d, r: (d(sample(m, v, e)), r + 0.5 * v.sum(1))),
    ("batch", "means of both", lambda m, v, e, d, r: (d(sample(m, v, e)).mean(), r.mean())),
    ("batch", "mean of the rate", lambda m, v, e, d, r: (d(sample(m, v, e)), r.mean())),
    ("pixel mean", "mean over pixels", lambda m, v, e, d, r: (d(sample(m, v, e)) / 784, r)),
    ("distortion sign", "log-likelihood", lambda m, v, e, d, r: (-d(sample(m, v, e)), r)),
    ("distortion", "half of it", lambda m, v, e, d, r: (0.5 * d(sample(m, v, e)), r)),
    ("no sample", "decode the mean", lambda m, v, e, d, r: (d(m), r)),
    ("shared", "one noise", lambda m, v, e, d, r: (d(sample(m, v, e[:1])), r)),
    ("variance", "exp without ½", lambda m, v, e, d, r: (d(m + v.exp() * e), r)),
    ("detached", "sample()", lambda m, v, e, d, r: (d(sample(m, v, e).detach()), r)),
    ("log variance", "no exp", lambda m, v, e, d, r: (d(m + v * e), r)),
    ("one loss", "the sum", lambda m, v, e, d, r: d(sample(m, v, e)) + r),
    ("one loss", "the mean of the sum", lambda m, v, e, d, r: (d(sample(m, v, e)) + r).mean()),
]


def with_decode(function, base=Right):
    """Return a class of VAE whose ``decode`` returns ``function(logits)``."""
    return type("Changed", (base,), {"decode": lambda self, *given: function(base.decode(self, *given))})


# What goes wrong in `decode`, for both.
WRONG_DECODERS = [
    ("no logits", "a sigmoid at the end", torch.sigmoid),
    ("rectified", "a ReLU at the end", torch.relu),
    ("flat", "rows of 784", lambda logits: logits.flatten(1)),
    ("flat", "no channel", lambda logits: logits[:, 0]),
]

RIGHT["1.6"] = [("two heads, torch.distributions", (Right,)), ("image by image", (Looped,))]
WRONG["1.6"] = [(mistake, how, (with_terms(function),)) for mistake, how, function in WRONG_TERMS]
WRONG["1.6"] += [(mistake, how, (with_decode(function),)) for mistake, how, function in WRONG_DECODERS]
WRONG["1.6"] += [("model", "no nn.Module", (type("Bare", (), {}),)), ("instance", "a model for its class", (Right(),))]


def leave_one_out(f, mean, draws):
    z = mean + torch.randn(draws, mean.numel())
    value = f(z)
    return ((value - value.mean())[:, None] * (z - mean)).sum(0) / (draws - 1)


def baseline_from_other_draws(f, mean, draws):
    z, other = mean + torch.randn(draws, len(mean)), mean + torch.randn(1000, len(mean))
    return ((f(z) - f(other).mean())[:, None] * (z - mean)).mean(0)


def antithetic(f, mean, draws):
    eps = torch.randn(draws // 2, len(mean))
    return (0.5 * (f(mean + eps) - f(mean - eps))[:, None] * eps).mean(0)


def score(f, mean, draws, baseline=lambda value: 0.0):
    z = mean + torch.randn(draws, len(mean))
    value = f(z)
    return (value - baseline(value))[:, None] * (z - mean)


def through_f(f, mean, draws):
    mean = mean.clone().requires_grad_()
    f(mean + torch.randn(draws, len(mean))).mean().backward()
    return mean.grad


def frozen(f, mean, draws):
    torch.manual_seed(1)
    return leave_one_out(f, mean, draws)


RIGHT["1.8"] = [
    ("leave one out, folded", (leave_one_out,)),
    ("more draws for the baseline", (baseline_from_other_draws,)),
    ("mirrored pairs", (antithetic,)),
]
WRONG["1.8"] = [
    ("plain", "no baseline", (lambda f, m, s: score(f, m, s).mean(0),)),
    ("biased", "mean of all", (lambda f, m, s: score(f, m, s, torch.mean).mean(0),)),
    ("sign", "downhill", (lambda f, m, s: -leave_one_out(f, m, s),)),
    ("sum", "summed over draws", (lambda f, m, s: s * leave_one_out(f, m, s),)),
    ("path", "autograd through f", (through_f,)),
    ("still", "manual_seed inside", (frozen,)),
]
