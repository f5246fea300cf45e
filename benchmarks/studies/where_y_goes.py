"""Chapter 04's figures over three seeds: four ways in, where in the network, which network, and a list as y.

    python benchmarks/studies/where_y_goes.py                # writes cvae_lib/course/records/where_y_goes.json
    python benchmarks/studies/where_y_goes.py --minutes 3    # starts no training after three minutes; call it again

A finished training is a file in a folder of its own (--kept), so a study that was stopped goes on where it was.
"""

import dataclasses
import functools
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keeping
import torch
import torch.nn.functional as F
from torch import Tensor

from cvae_lib import course, data, evaluation, pretrained
from cvae_lib.conditions import Condition
from cvae_lib.model import CVAE, CVAEConfig
from cvae_lib.objective import elbo_terms
from cvae_lib.training import fit

SEEDS = (0, 1, 2)
SHORT, LONG = 4, 12  # epochs
LOUDNESS = 8
WAYS = ("concatenation", "addition", "film", "batchnorm", "attention")
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
BASE: dict[str, Any] = {"latent_dim": 20, "hidden": (192, 192), "condition_at": "every"}
BASE |= {"conditioning": "concatenation"}
PROTOCOL = (
    "MNIST, dynamic binarisation; MLPs of two hidden layers, D = 20, y told to every block of encoder and decoder "
    "unless said otherwise; width 192, or for other ways the one that brings the parameters closest to those of "
    f"concatenation; {SHORT} epochs ({LONG} where it says long), batch 256, one-cycle Adam 4e-3; 3,000 test images, "
    "K = 50 (20 for shuffled y); control over 2,000 drawings; gap: log-likelihood above concatenation's on the same "
    "images; time: median over interleaved rounds of a training step against concatenation's. Loud: concatenation "
    f"whose weights for y start {LOUDNESS} times as large. Pairs: two digits side by side, 60,000 of them, tokens told "
    "by word and position; exact: both digits read as asked, 1,000 drawings"
)


class SideBySide(Condition):
    """Two words as two one-hot rows in one vector, shape (B, 20): every place has numbers of its own."""

    dim = 20

    def forward(self, y: Tensor) -> Tensor:
        """Return both one-hot rows of word numbers 1 to 10, shape (B, 2)."""
        return F.one_hot(y - 1, 10).flatten(1).float()


@dataclasses.dataclass(frozen=True)
class Trial:
    """One training: its settings beside the base, its epochs, whether the images are pairs."""

    settings: dict[str, Any]
    epochs: int = SHORT
    pairs: bool = False
    matched: bool = False  # whether the width follows from the parameters of the baseline
    side_by_side: bool = False
    loudness: int = 1  # how many times larger than usual concatenation's weights for y start

    def model(self) -> CVAE:
        """Return the untrained model, its width adjusted if it has to match."""
        if not self.matched:
            return self._made(BASE["hidden"][0])
        wanted = CVAE(CVAEConfig(**{**BASE, **self._words()})).num_parameters()
        widths = sorted(range(96, 200, 2), key=lambda width: abs(self._made(width).num_parameters() - wanted))
        return self._made(widths[0])

    def _words(self) -> dict[str, Any]:
        return {"condition": "caption", "words": WORDS, "caption_length": 2} if self.pairs else {}

    def _made(self, width: int) -> CVAE:
        settings = {**BASE, **self._words(), **self.settings, "hidden": (width, width)}
        model = CVAE(CVAEConfig(**settings), condition=SideBySide() if self.side_by_side else None)
        if self.loudness != 1:
            nets: Any = (model.encoder.net, model.decoder.net)
            for layer in (*nets[0].layers, *nets[1].layers):
                layer.weight.data[:, -10:] *= self.loudness
        return model


CONTEST = {way: Trial({"conditioning": way}, matched=True) for way in WAYS}
LOUD = {"loud": Trial({}, matched=True, loudness=LOUDNESS)}
PLACES = {
    "attention_wide": Trial({"conditioning": "attention"}),
    "first": Trial({"condition_at": "first"}),
    "last": Trial({"condition_at": (2,)}),
    "film_last": Trial({"condition_at": (2,), "conditioning": "film"}),
    "none": Trial({"num_classes": 0}),
    "encoder": Trial({"condition_to": "encoder"}),
    "decoder": Trial({"condition_to": "decoder"}),
    "encoder_prior": Trial({"condition_to": "encoder", "prior": "gaussian"}),
    "decoder_prior": Trial({"condition_to": "decoder", "prior": "gaussian"}),
    "both_prior": Trial({"prior": "gaussian"}),
}
PAIRS = {
    **{
        f"pair_{way}": Trial({"conditioning": way}, pairs=True, matched=True)
        for way in ("concatenation", "film", "attention")
    },
    "pair_side_by_side": Trial({}, pairs=True, matched=True, side_by_side=True),
}
LONGER = {f"{name}_long": dataclasses.replace(trial, epochs=LONG) for name, trial in {**CONTEST, **LOUD}.items()}
TRIALS = {**CONTEST, **LOUD, **PLACES, **PAIRS, **LONGER}


def two_digits(digits: data.ImageSet, seed: int) -> tuple[data.ImageSet, Tensor]:
    """Return images of two digits side by side, and their word numbers 1 to 10, shape (N, 2)."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.stack([torch.randperm(len(digits), generator=generator) for _ in range(2)])  # (2, N)
    # The outer four columns of a digit are empty; the other 20 are squeezed into half the picture.
    narrow = F.interpolate(digits.pixels()[..., 4:24], size=(28, 14), mode="area")
    images = torch.cat([narrow[order[0]], narrow[order[1]]], dim=3).mul(255).round().byte()
    a, b = digits.labels[order]
    return data.ImageSet(images, 10 * a + b, f"pairs of {digits.name}", classes=100), torch.stack([a, b], 1) + 1


@torch.no_grad()
def pair_control(model: CVAE) -> tuple[float, float]:
    """Ask ten times for each of the hundred pairs; return the shares read as asked, and read in either order."""
    classifier = pretrained.load_classifier()
    asked = torch.cartesian_prod(torch.arange(10), torch.arange(10)).repeat(10, 1)
    drawn = model.draw(asked + 1, generator=torch.Generator().manual_seed(0))  # (1000, 1, 28, 28)
    halves = torch.cat(drawn.chunk(2, dim=3))  # (2000, 1, 28, 14)
    wide = F.pad(F.interpolate(halves, size=(28, 20), mode="bilinear"), (4, 4))
    read = torch.stack(classifier.read(wide).chunk(2), 1)  # (1000, 2)
    exact = (read == asked).all(1)
    return float(exact.float().mean()), float((exact | (read.flip(1) == asked).all(1)).float().mean())


def train(trial: Trial, seed: int, sets: dict[str, data.ImageSet]) -> dict[str, Any]:
    """Train one model and measure it; returns its figures, and the log-likelihood of every test image."""
    torch.manual_seed(seed)
    model = trial.model()
    images, test, y, test_y = sets["train"], sets["test"], None, None
    if trial.pairs:
        (images, y), (test, test_y) = two_digits(images, 0), two_digits(test, 1)
    history = fit(model, images, y=y, epochs=trial.epochs, learning_rate=4e-3, seed=seed, device="cpu", log_every=1000)
    some, some_y = test.subset(slice(3000)), None if test_y is None else test_y[:3000]
    ll = evaluation.log_likelihood(model, some, samples=50, y=some_y)
    figures = {"parameters": model.num_parameters(), "nll": -ll.mean, "training_loss": history.loss[-1]}
    if model.is_conditional:
        figures["y_used"] = evaluation.is_y_used(model, some, samples=20, y=some_y).likelihood_lost.mean
    if trial.pairs:
        figures["exact"], figures["either_order"] = pair_control(model)
    elif model.is_conditional:
        figures["control"] = evaluation.control_accuracy(model, pretrained.load_classifier(), count=2000).accuracy
    return {"figures": figures, "per_example": [round(value, 4) for value in ll.per_example.tolist()]}


def times(seed: int, test: data.ImageSet, rounds: int = 12, steps: int = 10) -> dict[str, Any]:
    """Time training steps of all ways in turn, so that whatever else the machine does falls on all of them."""
    torch.manual_seed(seed)
    models = {way: CONTEST[way].model().train() for way in WAYS}
    optimisers = {way: torch.optim.Adam(model.parameters(), fused=True) for way, model in models.items()}
    x, y = test.pixels(torch.arange(256), "stochastic"), test.labels[:256]
    taken: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(course.capped(rounds, 2)):
        for way, model in models.items():
            start = time.perf_counter()
            for _ in range(course.capped(steps, 2)):
                optimisers[way].zero_grad()
                elbo_terms(model, x, y).loss().backward()
                optimisers[way].step()
            taken[way].append(time.perf_counter() - start)
    pairs = {way: zip(taken[way], taken["concatenation"], strict=True) for way in WAYS}
    return {"figures": {way: statistics.median(mine / base for mine, base in pairs[way]) for way in WAYS}}


def work(sets: dict[str, data.ImageSet], kept: Path) -> Iterator[str]:
    """Do what is not kept yet, one piece at a time, and say what was done."""
    for seed in SEEDS:
        for name in ("times", *TRIALS):
            piece = (
                functools.partial(times, seed, sets["test"])
                if name == "times"
                else functools.partial(train, TRIALS[name], seed, sets)
            )
            if found := keeping.once(keeping.place(kept, name, seed), piece):
                yield f"{name}, seed {seed}: {found['figures']}"


def baseline(name: str) -> str:
    """Return the trial of concatenation that differs from this one in nothing else."""
    trial = TRIALS[name]
    return ("pair_" if trial.pairs else "") + "concatenation" + ("_long" if trial.epochs == LONG else "")


def run(seed: int, kept: Path) -> dict[str, Any]:
    """Put one seed's figures together, with differences to concatenation image by image."""
    figures = keeping.compared(kept, {name: baseline(name) for name in TRIALS}, seed)
    ratios = keeping.read(keeping.place(kept, "times", seed))["figures"]
    return figures | {f"{way}_time": ratio for way, ratio in ratios.items()}


def main(arguments: list[str] | None = None) -> int:
    """Go on with the study, and write the record when all of it is there."""
    options = keeping.arguments("where_y_goes", "04").parse_args(arguments)
    sets = {"train": data.mnist("train"), "test": data.mnist("test")}
    if not keeping.all_done(work(sets, options.kept), options.minutes):
        return 0
    keeping.record("where_y_goes", PROTOCOL, [run(seed, options.kept) for seed in SEEDS], options.kept)
    return 0


if __name__ == "__main__":
    sys.exit(main())
