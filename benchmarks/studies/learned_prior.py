"""Chapter 06's figures over three seeds: four priors for a label, three ways to use one for an observed quadrant.

    python benchmarks/studies/learned_prior.py                # writes cvae_lib/course/records/learned_prior.json
    python benchmarks/studies/learned_prior.py --minutes 3    # starts no training after three minutes; call it again

A finished training is a file in a folder of its own (--kept), so a study that was stopped goes on where it was.
"""

import dataclasses
import functools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keeping
import torch
from torch import Tensor

from cvae_lib import data, evaluation, pretrained
from cvae_lib.conditions import Condition
from cvae_lib.model import CVAE, CVAEConfig
from cvae_lib.objective import elbo_terms
from cvae_lib.priors import ConditionalMixture
from cvae_lib.training import fit

SEEDS = (0, 1, 2)
SHORT, SCARCE = 1000, 800  # steps
FEW = 500  # images
LEASH = 1.0
BASE: dict[str, Any] = {"latent_dim": 16, "hidden": (192, 192), "conditioning": "film", "condition_at": "every"}
PROTOCOL = (
    "MNIST, dynamic binarisation; MLPs of two hidden layers of 192, D = 16, y by FiLM to every block of encoder and "
    f"decoder unless said otherwise; {SHORT} steps, batch 256, one-cycle Adam 4e-3; 2,000 "
    "test images, K = 50; gap: log-likelihood above the fixed prior's on the same images; rate: on the test images. "
    "Mixture and VampPrior have 10 components, the latter started at real images; still: the mixture is the same for "
    "every y. Digit: y is the label; control over 2,000 drawings. Quadrant: y is the lower left quadrant in grey "
    "levels, x the rest, the quadrant blank; alone: the decoder is not told y. "
    f"Few: {FEW} training images, {SCARCE} steps, y by concatenation; leash: minus {LEASH:g} KL(p(z|y) || N(0, I)) in "
    "the objective; early: stopped by 500 other images, patience 30 epochs; widest: the largest sigma of p(z|y) over "
    "the test conditions"
)


class Quadrant(Condition):
    """The lower left quadrant of an image, its 196 grey levels in [0, 1]."""

    dim = 196

    def forward(self, y: Tensor) -> Tensor:
        """Return the grey levels as they are, shape (B, 196)."""
        return y


def quadrant(digits: data.ImageSet) -> tuple[data.ImageSet, Tensor]:
    """Return the images with their lower left quadrant blank, and that quadrant, shape (N, 196)."""
    images = digits.images.clone()
    y = images[:, 0, 14:, :14].flatten(1).float() / 255
    images[:, :, 14:, :14] = 0
    return dataclasses.replace(digits, images=images), y


@dataclasses.dataclass(frozen=True)
class Trial:
    """One training: its settings beside the base, its task and its length."""

    settings: dict[str, Any]
    quadrant: bool = False
    steps: int = SHORT
    images: int | None = None  # of the training set; all if None
    baseline: str = "digit_standard"
    leash: float = 0.0
    stops_early: bool = False
    still: bool = False  # whether the prior, a mixture, is the same for every y


PRIORS = ("standard", "gaussian", "mixture", "vamp")
ALONE = {"prior": "gaussian", "condition_to": "encoder"}
DIGIT = {f"digit_{prior}": Trial({"prior": prior}) for prior in PRIORS}
QUADRANT = {
    f"quadrant_{name}": Trial(settings, quadrant=True, baseline="quadrant_standard")
    for name, settings in {
        "standard": {},
        "gaussian": {"prior": "gaussian"},
        "mixture": {"prior": "mixture"},
        "alone": ALONE,
    }.items()
}
STILL = {
    f"{task}_still": dataclasses.replace({**DIGIT, **QUADRANT}[f"{task}_mixture"], still=True)
    for task in ("digit", "quadrant")
}
LESS = {
    f"few_{name}": Trial(
        {**settings, "conditioning": "concatenation"}, True, SCARCE, FEW, "few_standard", leash=leash, stops_early=early
    )
    for name, settings, leash, early in (
        ("standard", {}, 0.0, False),
        ("gaussian", {"prior": "gaussian"}, 0.0, False),
        ("gaussian_leash", {"prior": "gaussian"}, LEASH, False),
        ("alone", ALONE, 0.0, False),
        ("alone_leash", ALONE, LEASH, False),
        ("alone_early", ALONE, 0.0, True),
    )
}
TRIALS = {**DIGIT, **QUADRANT, **STILL, **LESS}
BASELINES = {name: trial.baseline for name, trial in TRIALS.items()}


def train(trial: Trial, seed: int, sets: dict[str, data.ImageSet]) -> dict[str, Any]:
    """Train one model and measure it; returns its figures, and the log-likelihood of every test image."""
    torch.manual_seed(seed)
    config = CVAEConfig(**{**BASE, **trial.settings})
    model = CVAE(config, condition=Quadrant() if trial.quadrant else None)
    images, test = sets["train"], sets["test"].subset(slice(2000))
    if trial.still:
        prior = ConditionalMixture(config.latent_dim, 0, config.components)
        parts: dict[str, Any] = {"condition": model.condition, "prior": prior, "likelihood": model.likelihood_module}
        model = CVAE(model.encoder, model.decoder, **parts)
    if trial.images is not None:
        images = images.subset(slice(trial.images))
    (images, y), (test, test_y) = map(quadrant, (images, test)) if trial.quadrant else ((images, None), (test, None))
    if trial.settings.get("prior") == "vamp":
        model.prior_module.start_from(images.pixels(torch.arange(config.components)))  # type: ignore[operator]
    settings: dict[str, Any] = {"steps": trial.steps, "learning_rate": 4e-3, "seed": seed, "log_every": 10_000}
    if trial.leash:
        settings["objective"] = functools.partial(leashed, strength=trial.leash)
    if trial.stops_early:
        settings |= {"validation": quadrant(sets["train"].subset(slice(50_000, 50_000 + FEW))), "patience": 30}
    history = fit(model, images, y=y, device="cpu", **settings)
    ll = evaluation.log_likelihood(model, test, samples=50, y=test_y)
    figures = {"parameters": model.num_parameters(), "nll": -ll.mean, "training_loss": history.loss[-1]}
    seen, seen_y = images.subset(slice(2000)), images.labels if y is None else y
    figures["training_rate"] = rate(model, seen, seen_y[:2000])
    figures["rate"] = rate(model, test, test.labels if test_y is None else test_y)
    if test_y is not None:
        figures["widest"] = float(model.prior(test_y).stddev.detach().max())
    else:
        figures["control"] = evaluation.control_accuracy(model, pretrained.load_classifier(), count=2000).accuracy
    return {"figures": figures, "per_example": [round(value, 4) for value in ll.per_example.tolist()]}


def leashed(model: CVAE, x: Tensor, y: Tensor, strength: float) -> Tensor:
    """Return the ELBO minus a multiple of KL(p(z|y) || N(0, I)), which holds the prior near the standard normal."""
    p = model.prior(y)
    away = 0.5 * (p.mean.square() + p.variance - 1 - p.variance.log()).sum(1)
    return elbo_terms(model, x, y).elbo - strength * away


@torch.no_grad()
def rate(model: CVAE, test: data.ImageSet, y: Tensor) -> float:
    """Return the mean of log q(z|x,y) - log p(z|y), one draw for each image: defined alike for every prior."""
    generator = torch.Generator().manual_seed(0)
    x = test.pixels(mode="stochastic", generator=generator)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        q = model.posterior(x, y)
        z = q.sample()
    return float((q.log_prob(z) - model.prior(y).log_prob(z)).mean())


def work(trials: dict[str, Trial], sets: dict[str, data.ImageSet], kept: Path) -> Iterator[str]:
    """Do what is not kept yet, one piece at a time, and say what was done."""
    for seed in SEEDS:
        for name, trial in trials.items():
            piece = functools.partial(train, trial, seed, sets)
            if found := keeping.once(keeping.place(kept, name, seed), piece):
                yield f"{name}, seed {seed}: {found['figures']}"


def main(arguments: list[str] | None = None) -> int:
    """Go on with the study, and write the record when all of it is there."""
    parser = keeping.arguments("learned_prior", "06")
    parser.add_argument("--only", default="", metavar="NAME", help="do only the trials whose names begin so")
    options = parser.parse_args(arguments)
    trials = {name: trial for name, trial in TRIALS.items() if name.startswith(options.only)}
    sets = {"train": data.mnist("train"), "test": data.mnist("test")}
    if not keeping.all_done(work(trials, sets, options.kept), options.minutes):
        return 0
    if not options.only:
        keeping.record(
            "learned_prior", PROTOCOL, [keeping.compared(options.kept, BASELINES, seed) for seed in SEEDS], options.kept
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
