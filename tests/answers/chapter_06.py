"""Answers to the exercises of chapter 06."""

import math

import torch
import torch.nn.functional as F
from torch import nn
from torch.distributions import Normal

RIGHT, WRONG = {}, {}

RIGHT["6.1"] = [("two digits", (1.58, 1.15, 1.94)), ("tensors", (torch.tensor(1.5811), torch.tensor([1.1513]), 1.9431))]
WRONG["6.1"] = [
    ("variance", "σ²", (2.5, 1.15, 1.94)),
    ("inside", "one cloud", (0.5, 1.15, 1.94)),
    ("between", "centres only", (1.5, 1.15, 1.94)),
    ("added", "s + half", (2.0, 1.15, 1.94)),
    ("unbiased", "N - 1", (2.179, 1.15, 1.94)),
    ("swapped", "KL(p, q), best", (1.58, 7.849, 1.94)),
    ("bits", "log to base 2, best", (1.58, 1.661, 1.94)),
    ("twice", "no ½, best", (1.58, 2.303, 1.94)),
    ("one image", "the first", (1.58, 1.15, 0.443)),
    ("one image", "the second", (1.58, 1.15, 3.443)),
    ("centre", "square of the mean", (1.58, 1.15, 0.818)),
    ("swapped", "KL(p, q), standard", (1.58, 1.15, 7.307)),
    ("twice", "both images", (1.58, 1.15, 3.886)),
    ("bits", "log to base 2, standard", (1.58, 1.15, 2.803)),
]


class Prior(nn.Module):
    """A moving prior with two heads, and every way to get it wrong."""

    zero_bias, zeros, hears, mixed, width = True, 1, True, False, None
    bound = staticmethod(lambda r: 10 * (r / 10).tanh())
    finish = staticmethod(lambda w: w)

    def __init__(self, latents, numbers):
        super().__init__()
        self.read = nn.Linear(numbers, 32)
        self.mean, self.raw = nn.Linear(32, latents), nn.Linear(32, self.width or latents)
        self.latents = latents
        for layer in (self.mean, self.raw, self.read)[: (0, 2, 3)[self.zeros]]:
            nn.init.zeros_(layer.weight)
            if self.zero_bias:
                nn.init.zeros_(layer.bias)

    def forward(self, c):
        c = c if self.hears else torch.zeros_like(c)
        c = c.pow(2).mean(0, keepdim=True).expand_as(c) + c.mean(0) if self.mixed else c
        h = torch.relu(self.read(c))
        return self.mean(h), self.finish(self.bound(self.raw(h)).expand(-1, self.latents))


def prior(**settings):
    return type("Changed", (Prior,), {k: staticmethod(s) if callable(s) else s for k, s in settings.items()})


class Flat(nn.Module):
    """A prior without a hidden layer, bounded by a sigmoid."""

    def __init__(self, latents, numbers):
        super().__init__()
        self.out = nn.Linear(numbers, 2 * latents, bias=False)
        nn.init.zeros_(self.out.weight)

    def forward(self, c):
        mean, raw = self.out(c).chunk(2, 1)
        return mean, 20 * torch.sigmoid(raw / 5) - 10


class Still(Prior):
    """Only the mean moves; one width for every c."""

    def forward(self, c):
        mean, w = super().forward(c)
        return mean, w * 0 + self.raw.bias.mean()


class Nothing(nn.Module):
    def __init__(self, latents, numbers):
        super().__init__()
        self.latents = latents

    def forward(self, c):
        return c.new_zeros(len(c), self.latents), c.new_zeros(len(c), self.latents)


RIGHT["6.2"] = [
    ("two heads", (Prior,)),
    ("no hidden layer, a sigmoid", (Flat,)),
    ("softsign", (prior(bound=lambda r: 10 * F.softsign(r / 10)),)),
]
WRONG["6.2"] = [
    ("model", "a function", (lambda latents, numbers: lambda c: (c, c),)),
    ("width", "σ returned", (prior(finish=lambda w: (0.5 * w).exp()),)),
    ("width", "σ² returned", (prior(finish=torch.exp),)),
    ("start", "started at random", (prior(zeros=0),)),
    ("start", "bias left at random", (prior(zero_bias=False),)),
    ("start", "softplus for the width", (prior(bound=F.softplus),)),
    ("deaf", "nothing in it", (Nothing,)),
    ("forgets", "c not used", (prior(hears=False),)),
    ("forgets", "two zero layers: only the last bias learns", (prior(zeros=2),)),
    ("batch", "the mean condition", (prior(mixed=True),)),
    ("no width", "a width for all c", (Still,)),
    ("one width", "one number for all latents", (prior(width=1),)),
    ("runaway", "no bound", (prior(bound=lambda r: r),)),
    ("loose", "tanh(r / 100)", (prior(bound=lambda r: 100 * (r / 100).tanh()),)),
    ("tight", "tanh(r)", (prior(bound=torch.tanh),)),
    ("clamped", "clamp", (prior(bound=lambda r: r.clamp(-10, 10)),)),
]


def parts(z, mean, w, square=0.5, front=0.5, constant=0.5, power=1.0):
    far = (z[:, None] - mean) ** 2 / (power * w).exp()
    return -square * far - front * w - constant * math.log(2 * math.pi)  # (B, N, D)


def clouds(z, mean, w, **changed):
    return parts(z, mean, w, **changed).sum(2)


def averaged(each):
    return each.logsumexp(1) - math.log(each.shape[1])


def point_by_point(z, mean, w):
    rows = []
    for point in z:
        each = torch.stack([Normal(m, (v / 2).exp()).log_prob(point).sum() for m, v in zip(mean, w, strict=True)])
        rows.append(each.max() + (each - each.max()).exp().mean().log())
    return torch.stack(rows)


RIGHT["6.3"] = [
    ("logsumexp", (lambda z, m, w: averaged(clouds(z, m, w)),)),
    ("point by point, largest taken out", (point_by_point,)),
    ("in float64", (lambda z, m, w: averaged(clouds(z.double(), m.double(), w.double())),)),
]
WRONG["6.3"] = [
    ("underflow", "exp, mean, log", (lambda z, m, w: clouds(z, m, w).exp().mean(1).log(),)),
    ("underflow", "with 1e-30 added", (lambda z, m, w: (clouds(z, m, w).exp().mean(1) + 1e-30).log(),)),
    ("sum", "no 1/N", (lambda z, m, w: clouds(z, m, w).logsumexp(1),)),
    ("mean of logs", "log first", (lambda z, m, w: clouds(z, m, w).mean(1),)),
    ("best", "closest cloud", (lambda z, m, w: clouds(z, m, w).amax(1),)),
    ("one by one", "no new axis", (lambda z, m, w: Normal(m[: len(z)], (w[: len(z)] / 2).exp()).log_prob(z).sum(1),)),
    ("axis", "over the points", (lambda z, m, w: clouds(z, m, w).logsumexp(0) - math.log(len(z)),)),
    ("constant", "no 2π", (lambda z, m, w: averaged(clouds(z, m, w, constant=0)),)),
    ("normaliser", "no log-variance in front", (lambda z, m, w: averaged(clouds(z, m, w, front=0)),)),
    ("log std", "e^v as σ", (lambda z, m, w: averaged(clouds(z, m, w, front=1, power=2)),)),
    ("half", "squares not halved", (lambda z, m, w: averaged(clouds(z, m, w, square=1)),)),
    ("latents mean", "mean over latents", (lambda z, m, w: averaged(clouds(z, m, w)) / z.shape[1],)),
    ("latents first", "each latent mixed alone", (lambda z, m, w: averaged(parts(z, m, w)).sum(1),)),
    ("sign", "minus", (lambda z, m, w: -averaged(clouds(z, m, w)),)),
]
