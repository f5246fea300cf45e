"""Answers that have to be run or trained first: what the notebooks hand in, and models that went wrong."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sources
import torch
from sources import Target
from torch import nn

from cvae_lib import checks, data

ROOT = Path(__file__).resolve().parent.parent.parent
STEMS = [path.stem for path in sorted((ROOT / "authoring" / "exercises").glob("*.py"))]


def code_cells(kind, stem):
    """Return the code cells of an exercise notebook as its source gives them, without the install step."""
    cells = sources.expected(Target(kind, stem, ROOT)).cells
    return [cell for cell in cells if cell.cell_type == "code" and "install" not in cell.metadata.get("tags", [])]


def handed_in(kind) -> dict[str, tuple[Any, ...]]:
    """Run every exercise notebook of a kind, and return what it hands to each check."""
    answers: dict[str, tuple[Any, ...]] = {}
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng(devices=[]):
        patch.setattr(checks, "check", lambda number, *answer: answers.update({number: answer}))
        for stem in STEMS:
            space = {"__name__": stem}
            for index, cell in enumerate(code_cells(kind, stem)):
                exec(compile(cell.source, f"<{stem}, code cell {index + 1}>", "exec"), space)
    return answers


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


def wrong_models(solutions):
    """Return rows of (number, mistake, how it came about, answers) whose answers are trained models."""
    floor, silent = solutions["1.7"]
    prediction, honest, lied_to = solutions["3.6"]
    new = type(honest)
    images = data.digits("train").subset(slice(2000)).pixels().double()
    p, entropy = images.mean(0), lambda q: torch.special.entr(q) + torch.special.entr(1 - q)
    return [
        ("1.7", "bits", "log to base 2", (float(floor) / np.log(2), silent)),
        ("1.7", "pixel mean", "mean over pixels", (entropy(p).mean(), silent)),
        ("1.7", "one grey", "one p for all pixels", (784 * entropy(p.mean()), silent)),
        ("1.7", "each image", "entropy first, mean after", (entropy(images).sum((1, 2, 3)).mean(), silent)),
        ("1.7", "untrained", "not trained", (floor, trained(0))),
        ("1.7", "rate", "trained with beta 1", (floor, trained(3))),
        ("3.6", "prediction", "in per cent", (10.0, honest, lied_to)),
        ("3.6", "untrained", "not trained", (prediction, new(), new())),
        ("3.6", "same", "one model trained twice", (prediction, lied_to, lied_to)),
        ("3.6", "positions", "no index", (prediction, Changed(lied_to), lied_to)),
        ("3.6", "deaf", "some labels wrong", (prediction, shifted(honest, 4), lied_to)),
        ("3.6", "not shuffled", "the same labels twice", (prediction, honest, solutions["3.7"][0])),
        ("3.6", "exchanged", "in the wrong order", (prediction, lied_to, honest)),
        ("3.7", "untrained", "not trained", (new(),)),
        ("3.7", "deaf", "labels shifted", (shifted(solutions["3.7"][0], 0),)),
        ("3.7", "unknown label", "-1 never met", (honest,)),
        ("3.7", "stuck", "z ignored without a label", (Stuck(solutions["3.7"][0]),)),
        *wrong_listeners(*solutions["4.6"]),
        *wrong_guides(*solutions["5.6"], honest),
    ]
