"""Chapter 08's figures over three seeds: the rate-distortion curves of VAE and CVAE, and beta against disentanglement.

    python benchmarks/studies/rate_distortion.py                # writes cvae_lib/course/records/rate_distortion.json
    python benchmarks/studies/rate_distortion.py --minutes 2    # starts no training after two minutes; call it again

A finished training is a file in a folder of its own (--kept), so a study that was stopped goes on where it was.
"""

import functools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keeping
import torch
from torch import Tensor

from cvae_lib import data, evaluation, pretrained
from cvae_lib.environment import seeded
from cvae_lib.model import CVAE, CVAEConfig
from cvae_lib.objective import Linear
from cvae_lib.training import fit

SEEDS = (0, 1, 2)
MODELS = {"vae": 0, "cvae": 10}  # labels told
BETAS = (0.1, 1, 3, 10, 20, 30, 40)
COLD = 30  # the beta that is also trained from the first step on
STEPS, BATCH = 940, 256  # four epochs of MNIST
SHAPE: dict[str, Any] = {"latent_dim": 16, "hidden": (256, 256), "conditioning": "film", "condition_at": "every"}
FACTORS = ("thickness", "slant", "x", "y")
FACTOR_BETAS = (1, 2, 4, 8, 16)
FACTOR_RISING = (4, 8)  # the betas that are also reached by a rise from 1
FACTOR_SHAPE: dict[str, Any] = SHAPE | {"latent_dim": 8}
FACTOR_IMAGES, FACTOR_STEPS = 20_000, 700
PROTOCOL = (
    "MNIST, dynamic binarisation; MLPs of two hidden layers of 256, D = 16, the label told by FiLM to every block of "
    f"the CVAE; {STEPS} steps of {BATCH}, one-cycle Adam 4e-3; beta above 1 rises from 1 in a straight line over the "
    "first 60% of the steps, cold: at its value from the first step on. R and D on 10,000 test images with one z each; "
    "I(x;z|y) on 2,000 of them; legible: 1,000 drawings the judge reads with probability >= 0.9; control: those read "
    "as asked; kept: 2,000 reconstructions read as the image's label; diversity: within a label, against data. Factors:"
    f" a CVAE told the digit, {FACTOR_IMAGES} strokes, D = 8, {FACTOR_STEPS} steps, beta at its value from the first "
    "step on unless it says rising; MIG of draws from q on 10,000 others in 20 bins for "
    f"{', '.join(FACTORS)}; r2: of each factor read linearly off the posterior means"
)


def name_of(model: str, beta: float) -> str:
    """Return how a figure of this model is called in the record."""
    return f"{model}_{beta:g}"


def rising(beta: float, steps: int) -> float | Linear:
    """Return beta, or a rise to it from 1 over the first 60% of the steps."""
    return beta if beta <= 1 else Linear(round(0.6 * steps), 1.0, float(beta))


def trained(
    images: data.ImageSet, classes: int, beta: float | Linear, steps: int, seed: int, shape: dict[str, Any]
) -> CVAE:
    """Train one model."""
    torch.manual_seed(seed)
    model = CVAE(CVAEConfig(num_classes=classes, **shape))
    fit(
        model,
        images,
        steps=steps,
        batch_size=BATCH,
        learning_rate=4e-3,
        beta=beta,
        seed=seed,
        device="cpu",
        log_every=1000,
    )
    return model.eval()


@torch.no_grad()
def place(model: CVAE, test: data.ImageSet) -> dict[str, float]:
    """Return where the model stands in the plane, label by label too, and what of its rate is information."""
    found = evaluation.rate_distortion(model, test)
    figures = {"R": found.rate.mean, "D": found.distortion.mean}
    labels = test.labels[: len(found.rate.per_example)]
    figures |= {f"R_of_{label}": float(found.rate.per_example[labels == label].mean()) for label in range(10)}
    told = evaluation.mutual_information(model, test.subset(slice(2000)))
    figures |= {"I_lower": told.lower.mean, "I_upper": told.upper.mean}
    return figures | {"active": evaluation.active_units(model, test).count}


@torch.no_grad()
def pictures(model: CVAE, test: data.ImageSet) -> dict[str, float]:
    """Return how legible and how varied its drawings are, and how often a reconstruction keeps the label."""
    classifier = pretrained.load_classifier()
    some = test.subset(slice(2000))
    y = some.labels if model.is_conditional else None
    asked = torch.arange(10).repeat(100)
    drawn = model.draw(asked if model.is_conditional else None, count=1000, generator=torch.Generator().manual_seed(0))
    legible = float((classifier(drawn).softmax(1).max(1).values >= 0.9).float().mean())
    kept = float((classifier.read(model.reconstruct(some.pixels(), y)) == some.labels).float().mean())
    figures = {"legible": legible, "kept": kept}
    if model.is_conditional:
        figures["control"] = float((classifier.read(drawn) == asked).float().mean())
        figures["diversity"] = evaluation.diversity(model, test).ratio
    return figures


def sweep(model: str, beta: float, cold: bool, seed: int, sets: dict[str, data.ImageSet]) -> dict[str, float]:
    """Train one model at one beta on MNIST and measure it."""
    weight = beta if cold else rising(beta, STEPS)
    made = trained(sets["train"], MODELS[model], weight, STEPS, seed, SHAPE)
    return place(made, sets["test"]) | pictures(made, sets["test"])


@torch.no_grad()
def codes(model: CVAE, images: data.ImageSet) -> tuple[Tensor, Tensor]:
    """Return a draw from q for each image, and the mean of q, (N, D) each."""
    drawn, means = [], []
    pixels = torch.Generator().manual_seed(0)
    with seeded(0, model.device):
        for batch in images.batches(1000, shuffle=False, generator=pixels):
            q = model.posterior(batch.x, batch.y if model.is_conditional else None)
            drawn.append(q.sample())
            means.append(q.mean)
    return torch.cat(drawn), torch.cat(means)


def explained(means: Tensor, values: Tensor) -> float:
    """Return the share of a factor's variance that a linear reader of the means finds."""
    ones = torch.cat([means, torch.ones(len(means), 1)], 1).double()
    off = values.double() - ones @ torch.linalg.lstsq(ones, values.double()[:, None]).solution[:, 0]
    return 1 - float(off.var() / values.double().var())


def factors(beta: float, rises: bool, seed: int, sets: dict[str, data.ImageSet]) -> dict[str, float]:
    """Train a CVAE at one beta on strokes and score how its latents share the factors."""
    weight = rising(beta, FACTOR_STEPS) if rises else beta
    made = trained(sets["strokes"], MODELS["cvae"], weight, FACTOR_STEPS, seed, FACTOR_SHAPE)
    others = sets["other strokes"]
    drawn, means = codes(made, others)
    truth = {name: others.attributes[name] for name in FACTORS}
    score = evaluation.mutual_information_gap(drawn, truth)
    found = evaluation.rate_distortion(made, others)
    figures = {"R": found.rate.mean, "D": found.distortion.mean, "mig": score.mig}
    figures |= {f"gap_{name}": gap for name, gap in zip(FACTORS, score.gaps.tolist(), strict=True)}
    figures |= {"mig_of_means": evaluation.mutual_information_gap(means, truth).mig}
    figures |= {f"told_{name}": share for name, share in zip(FACTORS, score.explained.tolist(), strict=True)}
    figures |= {f"r2_{name}": explained(means, truth[name]) for name in FACTORS}
    return figures | {"active": evaluation.active_units(made, others).count}


def pieces(sets: dict[str, data.ImageSet]) -> Iterator[tuple[str, int, Any]]:
    """Name every piece with its seed and what does it."""
    for seed in SEEDS:
        for model in MODELS:
            for beta in BETAS:
                yield name_of(model, beta), seed, functools.partial(sweep, model, beta, False, seed, sets)
            yield f"{name_of(model, COLD)}_cold", seed, functools.partial(sweep, model, COLD, True, seed, sets)
    for seed in SEEDS:
        for beta in FACTOR_BETAS:
            yield f"factors_{beta:g}", seed, functools.partial(factors, beta, False, seed, sets)
        for beta in FACTOR_RISING:
            yield f"factors_{beta:g}_rising", seed, functools.partial(factors, beta, True, seed, sets)


def work(sets: dict[str, data.ImageSet], kept: Path, only: str) -> Iterator[str]:
    """Do what is not kept yet, one piece at a time, and say what was done."""
    for name, seed, piece in pieces(sets):
        if name.startswith(only) and (found := keeping.once(keeping.place(kept, name, seed), piece)):
            yield f"{name}, seed {seed}: { {key: round(value, 3) for key, value in found.items()} }"


def main(arguments: list[str] | None = None) -> int:
    """Go on with the study, and write the record when all of it is there."""
    parser = keeping.arguments("rate_distortion", "08")
    parser.add_argument("--only", default="", help="only pieces whose name begins like this")
    options = parser.parse_args(arguments)
    sets = {"train": data.mnist("train"), "test": data.mnist("test")}
    sets |= {"strokes": data.strokes("train", count=FACTOR_IMAGES), "other strokes": data.strokes("test")}
    if not keeping.all_done(work(sets, options.kept, options.only), options.minutes):
        return 0
    names = list(dict.fromkeys(name for name, _, _ in pieces(sets)))
    if missing := keeping.lacking(options.kept, names, SEEDS):
        print(f"Not done yet: {', '.join(sorted(missing))}.")
        return 0
    runs = [keeping.joined(options.kept, names, seed) for seed in SEEDS]
    keeping.record("rate_distortion", PROTOCOL, runs, options.kept)
    return 0


if __name__ == "__main__":
    sys.exit(main())
