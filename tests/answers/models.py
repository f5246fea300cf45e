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
        ("3.6", "deaf", "not trained", (prediction, new(), new())),
        ("3.6", "not shuffled", "the same labels twice", (prediction, honest, honest)),
        ("3.6", "exchanged", "in the wrong order", (prediction, lied_to, honest)),
        ("3.7", "deaf", "not trained", (new(),)),
        ("3.7", "unknown label", "-1 never met", (honest,)),
        ("3.7", "stuck", "z ignored without a label", (Stuck(solutions["3.7"][0]),)),
    ]
