"""What it costs not to be able to ask: rejection from a VAE against a request to a CVAE, over three seeds.

    python benchmarks/studies/rejection.py      # writes cvae_lib/course/records/rejection.json

A finished seed is a file in a folder of its own (--kept), so a study that was stopped goes on where it was.
Seconds are compared as a ratio, both measured in one run: drawing and judging until twenty images are acceptable.
"""

import functools
import sys
import time
from typing import Any

import keeping
import torch

from cvae_lib import course, data, pretrained
from cvae_lib.evaluation import Classifier
from cvae_lib.model import CVAE, CVAEConfig
from cvae_lib.training import fit

SEEDS = (0, 1, 2)
WANTED, AT_ONCE, CERTAIN, HUNTS = 20, 20, 0.9, 20
PROTOCOL = (
    "MNIST; VAE and CVAE alike: 256-256 SiLU MLPs, D = 20, 8 epochs; draw 20 at a time and judge them until 20 are "
    "read as the digit with probability >= 0.9; mean over 20 hunts per digit"
)


@torch.no_grad()
def hunt(model: CVAE, classifier: Classifier, digit: int, generator: torch.Generator) -> tuple[int, float]:
    """Draw until enough are acceptable; return drawings and seconds."""
    most = course.capped(10**9, 100)  # a model of the fast profile may never draw the digit
    started, found, drawn = time.perf_counter(), 0, 0
    while found < WANTED and drawn < most:
        y = torch.full((AT_ONCE,), digit) if model.is_conditional else None
        images = model.draw(y, count=AT_ONCE, generator=generator)
        good = classifier(images).softmax(1)[:, digit] >= CERTAIN
        # The hunt ends with the image that completes the order, so drawings count up to that one.
        needed = int(good.cumsum(0).ge(WANTED - found).float().argmax()) + 1
        drawn += needed if found + int(good.sum()) >= WANTED else AT_ONCE
        found += int(good.sum())
    return drawn, time.perf_counter() - started


def run(seed: int, train: data.ImageSet, classifier: Classifier) -> dict[str, Any]:
    """Train both models with one seed; hunt for every digit."""
    figures: dict[str, list[tuple[float, float]]] = {}
    for name, classes in (("rejection", 0), ("conditional", 10)):
        torch.manual_seed(seed)
        model = CVAE(CVAEConfig(num_classes=classes, latent_dim=20, hidden=(256, 256)))
        fit(model, train, epochs=8, learning_rate=4e-3, seed=seed, device="cpu")
        generator = torch.Generator().manual_seed(seed)
        hunts = [[hunt(model, classifier, digit, generator) for _ in range(HUNTS)] for digit in range(10)]
        figures[name] = [(sum(d for d, _ in h) / HUNTS, sum(s for _, s in h) / HUNTS) for h in hunts]
    found = {
        "seed": seed,
        "rejection_draws_7": figures["rejection"][7][0],
        "conditional_draws_7": figures["conditional"][7][0],
        "seconds_ratio_7": figures["rejection"][7][1] / figures["conditional"][7][1],
        "rejection_draws_worst": max(drawn for drawn, _ in figures["rejection"]),
        "conditional_draws_worst": max(drawn for drawn, _ in figures["conditional"]),
    }
    return {key: round(value, 3) for key, value in found.items()}


def main(arguments: list[str] | None = None) -> int:
    """Go on with the study, and write the record when every seed is there."""
    options = keeping.arguments("rejection", "01").parse_args(arguments)
    train, classifier = data.mnist("train"), pretrained.load_classifier()
    files = [options.kept / f"{seed}.json" for seed in SEEDS]
    lines = (
        str(keeping.once(file, functools.partial(run, seed, train, classifier)) or f"seed {seed} is kept")
        for seed, file in zip(SEEDS, files, strict=True)
    )
    if not keeping.all_done(lines, options.minutes):
        return 0
    keeping.record("rejection", PROTOCOL, [keeping.read(file) for file in files], options.kept)
    return 0


if __name__ == "__main__":
    sys.exit(main())
