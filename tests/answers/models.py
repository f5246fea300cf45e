"""Answers that have to be run or trained first: what the notebooks hand in, and models that went wrong."""

import copy
import functools
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sources
import torch
from sources import Target
from torch import nn
from torch.distributions import Normal, kl_divergence

from answers import chapter_07, chapter_08
from cvae_lib import data, pretrained
from cvae_lib.course import checks

ROOT = Path(__file__).resolve().parent.parent.parent
STEMS = [path.stem for path in sorted((ROOT / "authoring" / "exercises").glob("*.py"))]


def code_cells(kind, stem):
    """Return the code cells of an exercise notebook as its source gives them, without the install step."""
    cells = sources.expected(Target(kind, stem, ROOT)).cells
    return [cell for cell in cells if cell.cell_type == "code" and "install" not in cell.metadata.get("tags", [])]


def handed_in(kind, stems=None) -> dict[str, tuple[Any, ...]]:
    """Run exercise notebooks of a kind, all if none is named, and return what they hand to each check."""
    answers: dict[str, tuple[Any, ...]] = {}
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng(devices=[]):
        patch.setattr(checks, "check", lambda number, *answer: answers.update({number: answer}))
        for stem in STEMS if stems is None else stems:
            space = {"__name__": stem}
            for index, cell in enumerate(code_cells(kind, stem)):
                exec(compile(cell.source, f"<{stem}, code cell {index + 1}>", "exec"), space)
    return answers


@functools.cache
def of_chapter(kind, chapter) -> dict[str, tuple[Any, ...]]:
    """Return what the notebook of one chapter hands in; it is run once, whoever asks."""
    return handed_in(kind, [stem for stem in STEMS if int(stem[:2]) == chapter])


def trained(epochs, beta=1.0):
    """Return chapter 01's VAE, trained for a while; made from its solution's own cells."""
    space = {"__name__": "lifted"}
    for cell in code_cells("solutions", "01_the_vae"):
        if re.search(r"^(import|from|def|class) ", cell.source, re.M):
            exec(cell.source, space)
    return space["train"](space["VAE"](), space["images"], beta=beta, epochs=epochs) if epochs else space["VAE"]()


class Stuck(nn.Module):
    """A model that draws the same picture whenever it is not told what to draw."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        self.encode, self.terms = model.encode, model.terms

    def decode(self, z, y):
        return self.model.decode(torch.where(y[:, None] < 0, 0.0, z), y)


class Changed(nn.Module):
    """A trained model of which one method does something else."""

    def __init__(self, model, **methods):
        super().__init__()
        self.model = model
        self.encode, self.decode, self.terms = model.encode, model.decode, model.terms
        for name, method in methods.items():
            setattr(self, name, method)


def shifted(model, first):
    """Return a model that draws the next digit when it is asked for one from ``first`` on."""
    return Changed(model, decode=lambda z, y: model.decode(z, torch.where(y < first, y, (y + 1) % 10)))


def wrong_listeners(listening):
    """Return rows for 4.6: models that hear y in the wrong places, or not."""
    encode, decode = listening.encode, listening.decode
    stencils = torch.randn(10, 1, 28, 28)
    return [
        ("4.6", "untrained", "not trained", (type(listening)(),)),
        ("4.6", "encoder", "y left out", (Changed(listening, encode=lambda x, y: encode(x, 0 * y)),)),
        ("4.6", "decoder", "y left out", (Changed(listening, decode=lambda z, y: decode(z, 0 * y)),)),
        ("4.6", "stencil", "told last", (Changed(listening, decode=lambda z, y: decode(z, 0 * y) + stencils[y]),)),
        ("4.6", "deaf", "labels shifted", (Changed(listening, decode=lambda z, y: decode(z, (y + 1) % 10)),)),
    ]


def wrong_guides(both, guided, weight, honest):
    """Return rows for 5.6: ways to mix two answers, and models and weights that do not help."""

    def mixed(mix, unknown=-1):
        return lambda model, z, y, w: mix(model.decode(z, torch.full_like(y, unknown)), model.decode(z, y), w)

    rows = [
        ("probabilities", "after the sigmoid", mixed(lambda n, t, w: n.sigmoid() + w * (t.sigmoid() - n.sigmoid()))),
        ("means", "sigmoid at the end", mixed(lambda n, t, w: (n + w * (t - n)).sigmoid())),
        ("other scale", "weight from 1", mixed(lambda n, t, w: t + w * (t - n))),
        ("reversed", "the other way", mixed(lambda n, t, w: t + w * (n - t))),
        ("class zero", "0 for unknown", mixed(lambda n, t, w: n + w * (t - n), unknown=0)),
    ]
    found = [("5.6", mistake, how, (both, answer, weight)) for mistake, how, answer in rows]
    return [
        *found,
        ("5.6", "deaf", "not trained", (type(both)(), guided, weight)),
        ("5.6", "never hidden", "-1 never met", (honest, guided, weight)),
        ("5.6", "weight", "no guidance", (both, guided, 1.0)),
        ("5.6", "weight", "timid", (both, guided, 0.5)),
    ]


def wrong_vaes(floor, silent):
    """Return rows for 1.7: prices of one picture, and models that still send something."""
    images = data.digits("train").subset(slice(2000)).pixels().double()
    p, entropy = images.mean(0), lambda q: torch.special.entr(q) + torch.special.entr(1 - q)
    return [
        ("1.7", "bits", "log to base 2", (float(floor) / np.log(2), silent)),
        ("1.7", "pixel mean", "mean over pixels", (entropy(p).mean(), silent)),
        ("1.7", "one grey", "one p for all pixels", (784 * entropy(p.mean()), silent)),
        ("1.7", "each image", "entropy first, mean after", (entropy(images).sum((1, 2, 3)).mean(), silent)),
        ("1.7", "untrained", "not trained", (floor, trained(0))),
        ("1.7", "rate", "trained with beta 1", (floor, trained(3))),
    ]


def wrong_conditionals(prediction, honest, lied_to, unsure):
    """Return rows for 3.6 and 3.7: models that are not asked, not told, or told wrongly."""
    new = type(honest)
    return [
        ("3.6", "prediction", "in per cent", (10.0, honest, lied_to)),
        ("3.6", "untrained", "not trained", (prediction, new(), new())),
        ("3.6", "same", "one model trained twice", (prediction, lied_to, lied_to)),
        ("3.6", "positions", "no index", (prediction, Changed(lied_to), lied_to)),
        ("3.6", "deaf", "some labels wrong", (prediction, shifted(honest, 4), lied_to)),
        ("3.6", "not shuffled", "the same labels twice", (prediction, honest, unsure)),
        ("3.6", "exchanged", "in the wrong order", (prediction, lied_to, honest)),
        ("3.7", "untrained", "not trained", (new(),)),
        ("3.7", "deaf", "labels shifted", (shifted(unsure, 0),)),
        ("3.7", "unknown label", "-1 never met", (honest,)),
        ("3.7", "stuck", "z ignored without a label", (Stuck(unsure),)),
    ]


def wrong_rates(guess, rates):
    """Return rows for 6.4: what comes out where (6.3) or (6.1) is taken wrongly."""
    fixed, one, each = (float(rate) for rate in rates)
    some = data.digits("test").subset(slice(2000))
    with torch.no_grad():
        q = pretrained.load_cvae().posterior(some.pixels(mode="threshold"), some.labels)
    m, variance, y = q.mean, q.variance, some.labels

    def mean_rate(inside=1.0, between=1.0, swapped=False):
        nats = []
        for label in range(10):
            rows = y == label
            if not rows.any():
                continue
            mine = m[rows]
            p = Normal(mine.mean(0), (inside * variance[rows].mean(0) + between * mine.var(0, correction=0)).sqrt())
            pair = Normal(mine, variance[rows].sqrt()), p
            nats.append(kl_divergence(*(pair[::-1] if swapped else pair)).sum(1))
        return float(torch.cat(nats).mean())

    return [
        ("6.4", "prediction", "in per cent", (10.0, rates)),
        ("6.4", "three", "two rates", (guess, (fixed, each))),
        ("6.4", "order", "best first", (guess, (each, one, fixed))),
        ("6.4", "forgets", "one for all, twice", (guess, (fixed, one, one))),
        ("6.4", "inside", "clouds only", (guess, (fixed, one, mean_rate(between=0.0)))),
        ("6.4", "between", "centres only", (guess, (fixed, one, mean_rate(inside=0.0)))),
        ("6.4", "swapped", "KL(p, q)", (guess, _swapped_rates(m, variance, fixed, mean_rate(swapped=True)))),
        ("6.4", "mean", "over the latents", (guess, tuple(rate / m.shape[1] for rate in (fixed, one, each)))),
        ("6.4", "deviation", "around the mean of all", (guess, (fixed, one, _astray(m, variance, y)))),
    ]


def _swapped_rates(m, variance, fixed, each):
    p = Normal(m.mean(0), (variance + (m - m.mean(0)) ** 2).mean(0).sqrt())
    return fixed, float(kl_divergence(p, Normal(m, variance.sqrt())).sum(1).mean()), each


def _astray(m, variance, y):
    centres = torch.stack([m[y == label].mean(0) if (y == label).any() else m[0] * 0 for label in range(10)])
    p = Normal(centres[y], (variance + (m - m.mean(0)) ** 2).mean(0).sqrt())
    return float(kl_divergence(Normal(m, variance.sqrt()), p).sum(1).mean())


def changed(model, **methods):
    """Return a model of the same class and weights of which some methods do something else."""
    other = type("Changed", (type(model),), methods)()
    other.load_state_dict(model.state_dict())
    return other


def with_rate(rate, part=torch.Tensor.clone):
    """Return a ``terms`` with another rate of (q, p); ``part`` is what is done to the prior's two tensors."""

    def terms(self, x, y):
        mean, v = self.encode(x, y)
        logits = self.told(self.z(mean, v), y)
        p = Normal(part(self.prior(y)[0]), (0.5 * part(self.prior(y)[1])).exp())
        distortion = nn.functional.binary_cross_entropy_with_logits(logits, x, reduction="none")
        return distortion.flatten(1).sum(1), rate(Normal(mean, (0.5 * v).exp()), p)

    return terms


def wrong_priors(model):
    """Return rows for 6.5: models whose prior is not taught, or does not listen."""
    new = type(model)
    keep = {"told": new.decode, "z": lambda self, mean, v: mean + (0.5 * v).exp() * torch.randn_like(mean)}

    def nats(q, p):
        return kl_divergence(q, p).sum(1)

    still = copy.deepcopy(model)
    for parameter in still.prior_module.out.parameters():
        nn.init.zeros_(parameter)
    rows = {
        ("encoder", "y left out"): {"encode": lambda self, x, y: new.encode(self, x, 0 * y)},
        ("decoder", "y left out"): {"decode": lambda self, z, y: new.decode(self, z, 0 * y)},
        ("forgets", "one prior for all"): {"prior": lambda self, y: new.prior(self, 0 * y)},
        ("runaway", "no bound"): {"prior": lambda self, y: (new.prior(self, y)[0], 20 + new.prior(self, y)[1])},
        ("deaf", "labels shifted"): keep
        | {"terms": with_rate(nats), "decode": lambda self, z, y: new.decode(self, z, (y + 1) % 10)},
        ("swapped", "KL(p, q)"): keep | {"terms": with_rate(lambda q, p: nats(p, q))},
        ("standard", "KL to N(0, I)"): keep | {"terms": with_rate(lambda q, p: nats(q, Normal(0 * p.loc, 1.0)))},
        ("rate", "mean over latents"): keep | {"terms": with_rate(lambda q, p: kl_divergence(q, p).mean(1))},
        ("cut off", "prior detached"): keep | {"terms": with_rate(nats, torch.Tensor.detach)},
    }
    found = [("6.5", mistake, how, (changed(model, **methods),)) for (mistake, how), methods in rows.items()]
    return [*found, ("6.5", "untrained", "not trained", (new(),)), ("6.5", "still", "not in the optimiser", (still,))]


WRONG_MODELS = {
    1: lambda mine: wrong_vaes(*mine["1.7"]),
    3: lambda mine: wrong_conditionals(*mine["3.6"], *mine["3.7"]),
    4: lambda mine: wrong_listeners(*mine["4.6"]),
    5: lambda mine: wrong_guides(*mine["5.6"], of_chapter("solutions", 3)["3.6"][1]),
    6: lambda mine: wrong_rates(*mine["6.4"]) + wrong_priors(*mine["6.5"]),
    7: lambda mine: chapter_07.wrong_cures(*mine["7.6"]),
    8: lambda mine: chapter_08.wrong_dials(*mine["8.6"]),
}


@functools.cache
def wrong_models(chapter):
    """Return rows of (number, mistake, how it came about, answers) whose answers are trained models."""
    return WRONG_MODELS[chapter](of_chapter("solutions", chapter)) if chapter in WRONG_MODELS else []
