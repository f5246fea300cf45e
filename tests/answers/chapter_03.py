"""Answers to the exercises of chapter 03."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.distributions import Categorical, Normal, kl_divergence

from answers.chapter_01 import WRONG_DECODERS, WRONG_TERMS, Right, std_of, with_decode, with_terms

RIGHT, WRONG = {}, {}

RIGHT["3.1"] = [("two digits", (1.22,)), ("a tensor", (torch.tensor(1.2238),))]
WRONG["3.1"] = [
    ("bits", "log to base 2", (1.77,)),
    ("no doubt", "ln 4", (1.386,)),
    ("every image", "not halved", (1.06,)),
    ("doubt", "H(y|x)", (0.1625,)),
    ("ten", "ln 10", (2.14,)),
    ("added", "plus", (1.55,)),
]


def hot(y, classes):
    return (y.unsqueeze(1) == torch.arange(classes)).to(torch.get_default_dtype())


def by_rows(y, classes):
    rows = torch.zeros(len(y), classes)
    for row, label in zip(rows, y.tolist(), strict=True):
        if label >= 0:
            row[label] = 1
    return rows


RIGHT["3.2"] = [
    ("a comparison", (hot,)),
    ("a loop", (by_rows,)),
    ("one_hot, masked", (lambda y, c: F.one_hot(y.clamp(min=0), c) * (y >= 0).float()[:, None],)),
    ("one column more, cut off", (lambda y, c: F.one_hot(y + 1, c + 1)[:, 1:].double(),)),
]
WRONG["3.2"] = [
    ("wraps", "rows of the identity", (lambda y, c: torch.eye(c)[y],)),
    ("clamped", "clamp", (lambda y, c: F.one_hot(y.clamp(min=0), c).float(),)),
    ("integers", "not floats", (lambda y, c: hot(y, c).long(),)),
    ("bools", "the comparison itself", (lambda y, c: y[:, None] == torch.arange(c),)),
    ("transposed", "classes first", (lambda y, c: hot(y, c).T,)),
    ("plain", "one number", (lambda y, c: y[:, None].float(),)),
    ("columns", "always ten", (lambda y, c: hot(y, 10),)),
    ("shifted", "from 1", (lambda y, c: (y[:, None] == torch.arange(1, c + 1)).float(),)),
    ("shifted", "from -1", (lambda y, c: (y[:, None] == torch.arange(-1, c - 1)).float(),)),
    ("shifted", "a column for unknown", (lambda y, c: F.one_hot(y + 1, c + 1).float(),)),
]


class Hears(Right):
    """A conditional VAE that is right: an embedding before the encoder, one-hot rows after z."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(10, 20)
        self.body = nn.Sequential(nn.Linear(20 + 784, 64), nn.Tanh())
        self.out = nn.Sequential(nn.Linear(3 + 10, 64), nn.ReLU(), nn.Linear(64, 784))

    def encode(self, x, y):
        h = self.body(torch.cat([self.embed(y), x.flatten(1)], 1))
        return self.mean(h), self.log_variance(h)

    def decode(self, z, y):
        return self.out(torch.cat([F.one_hot(y, 10).float(), z], 1)).unflatten(1, (1, 28, 28))

    def terms(self, x, y):
        mean, log_variance = self.encode(x, y)
        q = Normal(mean, std_of(log_variance))
        return self.distortion(self.decode(q.rsample(), y), x), kl_divergence(q, Normal(0.0, 1.0)).sum(1)


class Added(Hears):
    """Another way in: the label is added to a hidden layer."""

    def __init__(self):
        super().__init__()
        self.add = nn.Embedding(10, 64)
        self.body, self.last = nn.Linear(784, 64), nn.Linear(64, 784)
        self.out = nn.Linear(3, 64)

    def encode(self, x, y):
        h = torch.tanh(self.body(x.flatten(1)) + self.add(y))
        return self.mean(h), self.log_variance(h)

    def decode(self, z, y):
        return self.last(torch.relu(self.out(z) + self.add(y))).view(-1, 1, 28, 28)


class DeafEncoder(Hears):
    def encode(self, x, y):
        return super().encode(x, torch.zeros_like(y))


class DeafDecoder(Hears):
    def decode(self, z, y):
        return super().decode(z, torch.zeros_like(y))


class PlainNumber(Hears):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(1 + 784, 64), nn.Tanh())

    def encode(self, x, y):
        h = self.body(torch.cat([y[:, None].float(), x.flatten(1)], 1))
        return self.mean(h), self.log_variance(h)


RIGHT["3.3"] = [("embedding and one-hot", (Hears,)), ("added to a hidden layer", (Added,))]
WRONG["3.3"] = [(mistake, how, (with_terms(function, Hears),)) for mistake, how, function in WRONG_TERMS]
WRONG["3.3"] += [
    ("encoder", "y left out of the encoder", (DeafEncoder,)),
    ("decoder", "y left out of the decoder", (DeafDecoder,)),
    ("plain", "y as one number", (PlainNumber,)),
    ("model", "no nn.Module", (type("Bare", (), {}),)),
    ("instance", "a model for its class", (Hears(),)),
]
WRONG["3.3"] += [(mistake, how, (with_decode(function, Hears),)) for mistake, how, function in WRONG_DECODERS]


def shifted(table, log_prior):
    joint = table + log_prior
    top = joint.amax(1, keepdim=True)
    return (joint - top).exp().sum(1).log() + top.squeeze(1)


RIGHT["3.4"] = [
    ("logsumexp", (lambda t, p: torch.logsumexp(t + p[None], dim=-1),)),
    ("largest out first", (shifted,)),
    ("image by image", (lambda t, p: torch.stack([(row + p).logsumexp(0) for row in t]),)),
    ("in float64", (lambda t, p: (t.double() + p.double()).logsumexp(1),)),
]
WRONG["3.4"] = [
    ("mean of logs", "weighted mean of logs", (lambda t, p: (p.exp() * t).sum(1),)),
    ("mean of logs", "mean of logs", (lambda t, p: t.mean(1),)),
    ("no prior", "prior left out", (lambda t, p: t.logsumexp(1),)),
    ("uniform", "divided by C", (lambda t, p: t.logsumexp(1) - torch.tensor(t.shape[1]).log(),)),
    ("axis", "dim=0", (lambda t, p: (t + p).logsumexp(0),)),
    ("prior as is", "probabilities added", (lambda t, p: (t + p.exp()).logsumexp(1),)),
    ("unstable", "exp, sum, log", (lambda t, p: (t.exp() * p.exp()).sum(1).log(),)),
    ("one maximum", "the largest of all images", (lambda t, p: t.max() + ((t - t.max()).exp() @ p.exp()).log(),)),
    ("product", "logarithms multiplied", (lambda t, p: (t * p).logsumexp(1),)),
    ("product", "multiplied and added", (lambda t, p: t @ p,)),
    ("best", "largest term", (lambda t, p: (t + p).amax(1),)),
]


def normalised(weights):
    return weights / weights.sum(1, keepdim=True)


RIGHT["3.5"] = [
    ("softmax", (lambda t, p: torch.softmax(t + p, -1),)),
    ("Categorical", (lambda t, p: Categorical(logits=t + p).probs,)),
    ("by Bayes' rule", (lambda t, p: (t + p - shifted(t, p)[:, None]).exp(),)),
    ("in float64", (lambda t, p: (t.double() + p.double()).softmax(1),)),
]
WRONG["3.5"] = [
    ("axis", "dim=0", (lambda t, p: (t + p).softmax(0),)),
    ("no prior", "prior left out", (lambda t, p: t.softmax(1),)),
    ("prior as is", "probabilities added", (lambda t, p: (t + p.exp()).softmax(1),)),
    ("log", "log_softmax", (lambda t, p: (t + p).log_softmax(1),)),
    ("joint", "not normalised", (lambda t, p: (t + p).exp(),)),
    ("label", "argmax", (lambda t, p: (t + p).argmax(1),)),
    ("joint", "weighed after the softmax", (lambda t, p: t.softmax(1) * p.exp(),)),
    ("one maximum", "the largest of all images", (lambda t, p: normalised((t - t.max()).exp() * p.exp()),)),
    ("unstable", "exp first", (lambda t, p: (t + p).exp() / (t + p).exp().sum(1, keepdim=True),)),
]
