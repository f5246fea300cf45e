"""Chapter 05's figures over three seeds: numbers, words, and what dropping y costs.

    python benchmarks/studies/what_y_can_be.py                # writes cvae_lib/course/records/what_y_can_be.json
    python benchmarks/studies/what_y_can_be.py --minutes 3    # starts no training after three minutes; call it again

A finished training is a file in a folder of its own (--kept), so a study that was stopped goes on where it was.
"""

import functools
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keeping
import torch
from torch import Tensor

from cvae_lib import data, evaluation, pretrained
from cvae_lib.conditions import Vocabulary
from cvae_lib.datasets import strokes
from cvae_lib.model import CVAE, CVAEConfig
from cvae_lib.training import fit

SEEDS = (0, 1, 2)
NAMES = ("thickness", "slant")
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
THICK, LEAN = ("thin", "", "thick"), ("leaning left", "", "leaning right")
NUMBERS: dict[str, Any] = {"latent_dim": 10, "hidden": (256, 256, 256), "condition_at": "every"}
SMALL: dict[str, Any] = NUMBERS | {"hidden": (192, 192)}
WORDS: dict[str, Any] = {"latent_dim": 10, "hidden": (256, 256, 256), "condition_at": (1, 2)}
TRAINING: dict[str, Any] = {"batch_size": 256, "learning_rate": 6e-3, "device": "cpu", "log_every": 1000}
NUMBER_EPOCHS, PART_EPOCHS, WORD_EPOCHS = 8, 3, 9
DROPPED = 0.2
PROTOCOL = (
    "MNIST, dynamic binarisation; MLPs of three hidden layers of 256 with skips, D = 10; y told to the blocks "
    "of both, label and standardised numbers by FiLM in all, captions by cross-attention in the two middle "
    f"ones; batch 256, one-cycle Adam 6e-3; {NUMBER_EPOCHS} epochs for numbers, {WORD_EPOCHS} for words, "
    f"{PART_EPOCHS} for dropped (label and numbers each with chance {DROPPED}), kept (never dropped) and alone "
    "(no y), these three with two layers of 192. Asked: label, thickness, slant of 3,000 test images. Words: "
    "the outer fifths; obeyed if the drawing lies on the asked side of the training median; seen: 2,000 "
    "captions as in the test set, evenly: 25 for each combination, new: 200 for each of the ten held out. nll: "
    "2,000 test images, K = 50"
)


class Digits:
    """MNIST with what the ruler reads off it, and the kind of caption each image gets, from 0 to 89."""

    def __init__(self) -> None:
        self.train, self.test = data.mnist("train"), data.mnist("test")
        self.a, self.test_a = measured(self.train.images), measured(self.test.images)
        self.low, self.middle, self.high = self.a.quantile(torch.tensor([0.2, 0.5, 0.8]), dim=0)
        self.kind, self.test_kind = self.kinds(self.train.labels, self.a), self.kinds(self.test.labels, self.test_a)

    def kinds(self, labels: Tensor, a: Tensor) -> Tensor:
        """Return the number of each combination of digit, fifths or middle of thickness and of slant."""
        level = (a > self.low).long() + (a > self.high).long()
        kind: Tensor = 9 * labels + 3 * level[:, 0] + level[:, 1]
        return kind


def measured(images: Tensor) -> Tensor:
    """Return thickness and slant, shape (N, 2)."""
    found = strokes.measure(images)
    return torch.stack([found.thickness, found.slant], dim=1)


def calibrations(names: tuple[str, ...], asked: Tensor, found: Any) -> dict[str, float]:
    """Return slope, R², error and bias of each attribute."""
    figures: dict[str, float] = {}
    for column, name in enumerate(names):
        line = evaluation.calibration(asked[:, column], getattr(found, name))
        figures |= {f"{name}_slope": line.slope, f"{name}_r2": line.r_squared}
        figures |= {f"{name}_error": line.mean_absolute_error, f"{name}_bias": line.bias}
    return figures


def numbers(seed: int, digits: Digits, epochs: int, p: float, settings: dict[str, Any]) -> dict[str, float]:
    """Train on labels and numbers, each part dropped with chance p, and measure obedience and likelihoods."""
    torch.manual_seed(seed)
    model = CVAE(CVAEConfig(condition="label+attributes", attributes=NAMES, conditioning="film", **settings))
    label, number = model.condition.parts  # type: ignore[misc]  # the parts of a CompositeCondition
    number.standardise(digits.a)

    def told(batch: data.Batch) -> tuple[Tensor, Tensor]:
        return label.drop(batch.y, p), number.drop(digits.a[batch.index], p)

    y = told if p else (digits.train.labels, digits.a)
    fit(model, digits.train, y=y, epochs=epochs, seed=seed, **TRAINING)
    order = torch.randperm(len(digits.test), generator=torch.Generator().manual_seed(0))[:3000]
    asked = digits.test_a[order]
    drawn = model.draw((digits.test.labels[order], asked), generator=torch.Generator().manual_seed(1))
    figures = calibrations(NAMES, asked, strokes.measure(drawn))
    right = pretrained.load_classifier().read(drawn) == digits.test.labels[order]
    return figures | {"control": float(right.float().mean())} | likelihoods(model, digits, bool(p))


def likelihoods(model: CVAE, digits: Digits, partly: bool) -> dict[str, float]:
    """Return -log p with everything told, and with less if the model knows what to do then."""
    some, a = digits.test.subset(slice(2000)), digits.test_a[:2000]
    unlabelled, unmeasured = torch.full_like(some.labels, -1), torch.full_like(a, math.nan)
    told = {"both": (some.labels, a)}
    if partly:
        told |= {"label": (some.labels, unmeasured), "numbers": (unlabelled, a), "nothing": (unlabelled, unmeasured)}
    return {f"nll_{what}": -evaluation.log_likelihood(model, some, samples=50, y=y).mean for what, y in told.items()}


def alone(seed: int, digits: Digits, epochs: int) -> dict[str, float]:
    """Train the same network without any y."""
    torch.manual_seed(seed)
    model = CVAE(CVAEConfig(num_classes=0, **SMALL))
    fit(model, digits.train, epochs=epochs, seed=seed, **TRAINING)
    return {"nll_nothing": -evaluation.log_likelihood(model, digits.test.subset(slice(2000)), samples=50).mean}


def words(seed: int, digits: Digits) -> dict[str, float]:
    """Train on captions without ten of the combinations, and measure obedience on both sorts."""
    captions = [
        " ".join(word for word in ("a", THICK[k // 3 % 3], DIGITS[k // 9], LEAN[k % 3]) if word) for k in range(90)
    ]
    vocabulary = Vocabulary.from_texts(captions)
    ids, new = vocabulary.encode(captions), torch.tensor([9 * digit + (0, 2, 6, 8)[digit % 4] for digit in range(10)])
    kept = (~torch.isin(digits.kind, new)).nonzero().flatten()
    torch.manual_seed(seed)
    spoken: dict[str, Any] = {"condition": "caption", "words": vocabulary.words, "caption_length": vocabulary.length}
    model = CVAE(CVAEConfig(conditioning="attention", **spoken, **WORDS))
    fit(model, digits.train.subset(kept), y=ids[digits.kind[kept]], epochs=WORD_EPOCHS, seed=seed, **TRAINING)
    old = torch.tensor([k for k in range(90) if k not in new])
    often = digits.test_kind[~torch.isin(digits.test_kind, new)][:2000]
    figures = {}
    for what, asked in (("evenly", old.repeat(25)), ("seen", often), ("new", new.repeat(200))):
        drawn = model.draw(ids[asked], generator=torch.Generator().manual_seed(1))
        level = torch.stack([asked // 3 % 3, asked % 3], dim=1) - 1
        right = (measured(drawn) - digits.middle).sign() == level
        figures[f"{what}_digit"] = float((pretrained.load_classifier().read(drawn) == asked // 9).float().mean())
        for column, name in enumerate(NAMES):
            figures[f"{what}_{name}"] = float(right[level[:, column] != 0, column].float().mean())
    return figures


PIECES: dict[str, Callable[[int, Digits], dict[str, float]]] = {
    "numbers": lambda seed, digits: numbers(seed, digits, NUMBER_EPOCHS, 0.0, NUMBERS),
    "words": words,
    "dropped": lambda seed, digits: numbers(seed, digits, PART_EPOCHS, DROPPED, SMALL),
    "kept": lambda seed, digits: numbers(seed, digits, PART_EPOCHS, 0.0, SMALL),
    "alone": lambda seed, digits: alone(seed, digits, PART_EPOCHS),
}


def work(kept: Path, only: list[str]) -> Iterator[str]:
    """Do what is not kept yet, one piece at a time, and say what was done."""
    digits = Digits()
    for name in only or PIECES:
        for seed in SEEDS:
            if found := keeping.once(keeping.place(kept, name, seed), functools.partial(PIECES[name], seed, digits)):
                yield f"{name}, seed {seed}: { {key: round(value, 3) for key, value in found.items()} }"


def write(kept: Path) -> None:
    """Write the record of every piece that is there for all seeds."""
    if missing := keeping.lacking(kept, PIECES, SEEDS):
        print(f"Not in the record yet: {', '.join(missing)}.")
    done = [name for name in PIECES if name not in missing]
    runs = [keeping.joined(kept, done, seed) for seed in SEEDS]
    keeping.record("what_y_can_be", PROTOCOL, runs, kept)


def main(arguments: list[str] | None = None) -> int:
    """Go on with the study, and record what is there for all seeds."""
    parser = keeping.arguments("what_y_can_be", "05")
    parser.add_argument("--only", nargs="*", default=[], choices=list(PIECES), help="only these pieces")
    options = parser.parse_args(arguments)
    keeping.all_done(work(options.kept, options.only), options.minutes)
    write(options.kept)
    return 0


if __name__ == "__main__":
    sys.exit(main())
