"""Answers to the exercises of chapter 04."""

import math

import torch
import torch.nn.functional as F
from torch import nn

RIGHT, WRONG = {}, {}

RIGHT["4.1"] = [("integers", (2560, 17664, 8832)), ("floats", (2560.0, 17664.0, 8832.0))]
WRONG["4.1"] = [
    ("one of two", "γ alone", (1280, 17664, 8832)),
    ("biases", "biases of FiLM", (2816, 17664, 8832)),
    ("square", "features to features", (32768, 17664, 8832)),
    ("biases", "biases of attention", (2560, 17984, 8832)),
    ("one head", "one head of width 16", (2560, 4416, 8832)),
    ("no output", "W_o forgotten", (2560, 9472, 8832)),
    ("once", "two matrices", (2560, 8832, 8832)),
    ("question", "W_q alone", (2560, 17664, 8192)),
    ("key", "W_k alone", (2560, 17664, 640)),
    ("all", "all of it", (2560, 17664, 17664)),
    ("one head", "one head idle", (2560, 17664, 2208)),
]


class Two(nn.Module):
    """FiLM by two layers, and every way to get it wrong."""

    one, bias, zero, scale, shift, shared, mixed = 1.0, False, True, 1.0, 1.0, False, False

    def __init__(self, features, numbers):
        super().__init__()
        width = 1 if self.shared else features
        self.gamma, self.beta = (nn.Linear(numbers, width, bias=self.bias) for _ in range(2))
        if self.zero:
            for parameter in self.parameters():
                nn.init.zeros_(parameter)

    def forward(self, h, c):
        c = c.mean(0, keepdim=True) if self.mixed else c
        return (self.one + self.scale * self.gamma(c)) * h + self.shift * self.beta(c)


def film(**settings):
    return type("Changed", (Two,), settings)


class Exponential(Two):
    def forward(self, h, c):
        return torch.addcmul(self.beta(c), self.gamma(c).exp(), h)


class Shared(nn.Module):
    """FiLM by one layer behind a hidden one, of which ``zeros`` start at zero."""

    zeros = 1

    def __init__(self, features, numbers):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(numbers, 32, bias=False), nn.Tanh(), nn.Linear(32, 2 * features, bias=False))
        for layer in (self.net[2], self.net[0])[: self.zeros]:
            nn.init.zeros_(layer.weight)

    def forward(self, h, c):
        gamma, beta = self.net(c).chunk(2, 1)
        return h + gamma * h + beta


RIGHT["4.2"] = [
    ("two layers", (Two,)),
    ("an exponential", (Exponential,)),
    ("a hidden layer", (Shared,)),
]
WRONG["4.2"] = [
    ("instance", "a layer for its class", (Two(8, 3),)),
    ("model", "a function", (lambda features, numbers: lambda h, c: h,)),
    ("silent", "no 1 +, started at zero", (film(one=0.0),)),
    ("without 1", "no 1 +, started at random", (film(one=0.0, zero=False),)),
    ("start", "started at random", (film(zero=False),)),
    ("start", "started at random, with biases", (film(zero=False, bias=True),)),
    ("deaf", "two zero layers", (type("TwoZeros", (Shared,), {"zeros": 2}),)),
    ("deaf", "nothing in it", (lambda features, numbers: _Nothing(),)),
    ("no scale", "addition", (film(scale=0.0),)),
    ("no shift", "only a scale", (film(shift=0.0),)),
    ("one for all", "one γ for all features", (film(shared=True),)),
    ("batch", "the mean condition", (film(mixed=True),)),
    ("unknown y", "with biases", (film(bias=True),)),
]


class _Nothing(nn.Module):
    def forward(self, h, c):
        return h


def scores_of(q, keys, scale=None):
    return (keys @ q[:, :, None])[..., 0] / (math.sqrt(q.shape[1]) if scale is None else scale)


def looking(weights_of):
    """Return an answer that weighs the values by ``weights_of(q, keys)``."""

    def answer(q, keys, values):
        weights = weights_of(q, keys)
        return (weights[..., None] * values).sum(1), weights

    return answer


def one_by_one(q, keys, values):
    weights = torch.stack(
        [torch.softmax(torch.stack([k @ a for k in ks]) / len(a) ** 0.5, 0) for a, ks in zip(q, keys, strict=True)]
    )
    return torch.stack([w @ v for w, v in zip(weights, values, strict=True)]), weights


def built_in(q, keys, values):
    found = F.scaled_dot_product_attention(q[:, None], keys, values)[:, 0]
    return found, scores_of(q, keys).softmax(-1)


def exponentials(q, keys, top=lambda scores: 0.0):
    e = (scores_of(q, keys) - top(scores_of(q, keys))).exp()
    return e / e.sum(1, keepdim=True)


def hard(q, keys):
    s = scores_of(q, keys)
    return F.one_hot(s.argmax(1), s.shape[1]).to(s.dtype)


def right_weights(q, keys):
    return scores_of(q, keys).softmax(1)


def best_value(q, keys, values):
    weights = right_weights(q, keys)
    return values[torch.arange(len(q)), weights.argmax(1)], weights


RIGHT["4.3"] = [
    ("products of matrices", (looking(right_weights),)),
    ("a loop", (one_by_one,)),
    ("built in", (built_in,)),
    ("in float64", (lambda *a: looking(right_weights)(*(part.double() for part in a)),)),
]
WRONG["4.3"] = [
    ("axis", "softmax over the batch", (looking(lambda q, k: scores_of(q, k).softmax(0)),)),
    ("unscaled", "no √d", (looking(lambda q, k: scores_of(q, k, 1).softmax(1)),)),
    ("width", "d for √d", (looking(lambda q, k: scores_of(q, k, q.shape[1]).softmax(1)),)),
    ("no softmax", "bare scores", (looking(scores_of),)),
    ("uniform", "the mean", (looking(lambda q, k: torch.full(k.shape[:2], 1 / k.shape[1])),)),
    ("keys", "keys averaged", (lambda q, k, v: (looking(right_weights)(q, k, k)[0], right_weights(q, k)),)),
    ("order", "weights first", (lambda *a: looking(right_weights)(*a)[::-1],)),
    ("best", "one-hot weights", (looking(hard),)),
    ("best", "the best value", (best_value,)),
    ("unstable", "exp and sum", (looking(exponentials),)),
    ("one maximum", "the largest of all", (looking(lambda q, k: exponentials(q, k, torch.max)),)),
]


def normal(h, axis=1, correction=0, eps=1e-5):
    return (h - h.mean(axis, keepdim=True)) / (h.var(axis, correction=correction, keepdim=True) + eps).sqrt()


def row_by_row(h, gamma, beta):
    rows = []
    for x, g, b in zip(h, gamma, beta, strict=True):
        mean = sum(x) / len(x)
        variance = sum((v - mean) ** 2 for v in x) / len(x)
        rows.append(
            torch.stack([(1 + c) * (v - mean) / (variance + 1e-5) ** 0.5 + d for v, c, d in zip(x, g, b, strict=True)])
        )
    return torch.stack(rows)


def rms(h, gamma, beta):
    return (1 + gamma) * h / (h.square().mean(1, keepdim=True) + 1e-5).sqrt() + beta


RIGHT["4.4"] = [
    ("layer_norm", (lambda h, g, b: (1 + g) * F.layer_norm(h, h.shape[1:]) + b,)),
    ("a formula", (lambda h, g, b: torch.addcmul(b + normal(h), g, normal(h)),)),
    ("a loop", (row_by_row,)),
    ("in float64", (lambda h, g, b: (1 + g.double()) * normal(h.double()) + b,)),
]
WRONG["4.4"] = [
    ("batch", "dim=0", (lambda h, g, b: (1 + g) * normal(h, 0) + b,)),
    ("batch", "BatchNorm1d", (lambda h, g, b: (1 + g) * nn.BatchNorm1d(h.shape[1], affine=False)(h) + b,)),
    ("everything", "one mean for all", (lambda h, g, b: (1 + g) * normal(h, (0, 1)) + b,)),
    ("unbiased", "var as it is", (lambda h, g, b: (1 + g) * normal(h, 1, 1) + b,)),
    (
        "variance",
        "no root",
        (lambda h, g, b: (1 + g) * (h - h.mean(1, keepdim=True)) / (h.var(1, correction=0, keepdim=True) + 1e-5) + b,),
    ),
    ("without 1", "γ alone", (lambda h, g, b: g * normal(h) + b,)),
    ("before", "normalised last", (lambda h, g, b: normal((1 + g) * h + b),)),
    ("not centred", "root mean square", (rms,)),
    ("eps", "no eps", (lambda h, g, b: (1 + g) * normal(h, eps=0.0) + b,)),
]

GUESS = ["last, attention", "last, concatenation"]


def corners(decode, z, w, a, b):
    return decode(z, a), decode(z, b), decode(w, a), decode(w, b)


def together(function):
    return lambda *given: function(*corners(*given))


def in_one_call(decode, z, w, a, b):
    za, zb, wa, wb = decode(torch.cat([z, z, w, w]), torch.cat([a, b, a, b])).chunk(4)
    return ((za - zb) - (wa - wb)).abs().mean((1, 2, 3))


def pair_by_pair(decode, z, w, a, b):
    rows = [part.split(1) for part in (z, w, a, b)]
    return torch.cat([in_one_call(decode, *four) for four in zip(*rows, strict=True)])


def mean(images):
    return images.flatten(1).mean(1)


RIGHT["4.5"] = [
    ("in one call", (GUESS, in_one_call)),
    ("pair by pair, a set", (set(GUESS), pair_by_pair)),
    ("another prediction", (("last, FiLM",), together(lambda p, q, r, s: mean((p - q - r + s).abs())))),
    ("no name", ([], in_one_call)),
]
WRONG["4.5"] = [
    ("prediction", "a number", (2, in_one_call)),
    ("prediction", "other names", (["last"], in_one_call)),
    ("one difference", "z alone", (GUESS, together(lambda p, q, r, s: mean((p - q).abs())))),
    ("signs", "w the other way", (GUESS, together(lambda p, q, r, s: mean((p - q + r - s).abs())))),
    ("signs", "all added", (GUESS, together(lambda p, q, r, s: mean((p + q + r + s).abs())))),
    ("signs", "a minus too many", (GUESS, together(lambda p, q, r, s: mean((p - q - r - s).abs())))),
    (
        "abs first",
        "of the differences",
        (GUESS, together(lambda p, q, r, s: mean(((p - q).abs() - (r - s).abs()).abs()))),
    ),
    ("no abs", "bare mean", (GUESS, together(lambda p, q, r, s: mean(p - q - r + s)))),
    ("sum", "over pixels", (GUESS, together(lambda p, q, r, s: (p - q - r + s).abs().flatten(1).sum(1)))),
    ("squared", "squares", (GUESS, together(lambda p, q, r, s: mean((p - q - r + s).square())))),
    ("batch", "mean of all", (GUESS, together(lambda p, q, r, s: (p - q - r + s).abs().mean()))),
]
