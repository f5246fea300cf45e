"""Chapter 09's table: the quadrants of MNIST by a deterministic network, a GSNN and a CVAE, over three seeds.

    python benchmarks/studies/quadrants.py                # writes cvae_lib/course/records/quadrants.json
    python benchmarks/studies/quadrants.py --minutes 3    # starts no piece after three minutes; call it again
    python benchmarks/studies/quadrants.py --backwards    # last pieces first, to work beside the first

Trained models and finished pieces lie in a folder of their own (--kept), so a study that was stopped goes on where it
was. The task is that of Sohn, Lee and Yan 2015 (NeurIPS), "Learning structured output representation using deep
conditional generative models"; which quadrants are observed follows its public reproductions.

The recipe was chosen with the bottom left observed, seed 0, on 2,000 validation images (K = 100, grey levels, nats):

    68.8  two layers of 768, N(0, I) as prior, dropout 0.1, trained on binarised pixels, 12 epochs; on grey ones: 68.0
    67.4  four layers of 512; with the observed pixels binarised too: 68.1
    65.5  and a mixture of 10 as prior, twice the learning rate, 10 epochs
    64.1  and batches of 128, grey pixels, no dropout; with small affine warps of the training images: 65.6
    63.6  and 30 components, a shallower encoder, 11 epochs; 18 epochs: 63.3; with dropout 0.1: 63.8
    63.0  and three epochs more on the importance-weighted bound

Before the last line and the dropout were settled, the test figure of an earlier recipe had been seen once: 62.85.
"""

import functools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keeping
import torch
from quadrant_models import made
from torch import Tensor

from cvae_lib import course, data, evaluation
from cvae_lib.model import CVAE
from cvae_lib.objective import Proposal, importance_weighted_bound
from cvae_lib.training import fit, load_checkpoint, save_checkpoint

SEEDS = (0, 1, 2)
QUADRANTS = (1, 2, 3)
KINDS = ("cvae", "deterministic", "gsnn")
BASE: dict[str, Any] = {"latent_dim": 48, "hidden": (512,) * 4, "dropout": 0.05, "components": 30}
RATE, EMA, PATIENCE = 3e-3, 0.999, 3
EPOCHS = {"cvae": (18, 17, 14), "deterministic": (7, 7, 7), "gsnn": (5, 5, 5)}  # for 1, 2 and 3 quadrants
TIGHTER, TIGHTER_RATE, LAST = 5, 1.5e-3, 4  # samples of the bound that the CVAE climbs on in its last epochs
BATCH = {"cvae": 128, "deterministic": 128, "gsnn": 256}
FEW, MORE, MANY = 5, 20, 1000  # samples of the GSNN: trained with, stopped by, judged by
FEWER, SUBSET, CURVE, COMPLETIONS = 2500, 500, 100, 20
PRIOR_COUNTS, IMPORTANCE_COUNTS = (1, 10, 100, 1000, 10_000), (1, 10, 100, 1000)
ENDINGS: dict[str, data.PixelMode] = {"": "grey", "_stochastic": "stochastic"}
PROTOCOL = (
    "MNIST, 50,000 training, 10,000 validation and 10,000 test images; observed: bottom left (1), left half (2), all "
    "but bottom right (3), in grey levels; nll: -log p of the unobserved pixels only, summed, nats, with grey levels "
    "as targets, or each pixel drawn once as 0 or 1, the same for every model (stochastic). Everybody trains on grey "
    f"levels. Decoder: MLP, {len(BASE['hidden'])} hidden layers of {BASE['hidden'][0]} with skips, told y at its "
    f"entrance, dropout {BASE['dropout']:g}; CVAE: encoder of two, D = {BASE['latent_dim']}, p(z|y) a mixture of "
    f"{BASE['components']} Gaussians told y, ELBO, in the last {LAST} epochs the importance-weighted bound "
    f"with {TIGHTER} samples; GSNN: z from N(0, I), no encoder, Monte Carlo likelihood with {FEW} samples; "
    f"deterministic: the decoder at z = 0. One-cycle Adam {RATE:g} (last epochs: cosine from {TIGHTER_RATE:g}), bf16 "
    f"where there is any, averaged weights (decay {EMA:g}). Epochs for (1, 2, 3): CVAE {EPOCHS['cvae']} before the "
    f"last, GSNN {EPOCHS['gsnn']}, deterministic {EPOCHS['deterministic']}, batches of {BATCH['cvae']} (last epochs "
    f"{2 * BATCH['cvae']}), {BATCH['gsnn']}, {BATCH['deterministic']}; the weights of the best epoch by what is "
    f"trained on the validation images, stopped after {PATIENCE} without a better one. nll: CVAE by "
    f"importance sampling, K = 100, all test images (stochastic: {FEWER:,}); GSNN by {MANY:,} draws from its prior, "
    f"{SUBSET} test images; deterministic exact, all of them; subsets are the first in a random order; evaluated in "
    "float32. prior_K, importance_K: both estimators on "
    f"{CURVE} test images, draws nested; over: paired gain of the CVAE. spread, distance: {COMPLETIONS} completions "
    f"(pixel means) of each of {CURVE} test images, in the "
    "bottom right quadrant, which is never observed: mean over images of the pixels' root mean variance, and of the "
    "mean distance of two completions"
)
Piece = tuple[Path, Callable[[], dict[str, Any]], Path | None]


def seen(quadrants: int) -> Tensor:
    """Return which pixels are observed, bool (28, 28): bottom left; left half; all but the bottom right."""
    mask = torch.zeros(28, 28, dtype=torch.bool)
    mask[14:, :14] = True
    mask[:14, :14] = quadrants > 1
    mask[:14, 14:] = quadrants > 2
    return mask


def task(digits: data.ImageSet, quadrants: int) -> tuple[data.ImageSet, Tensor]:
    """Return the unobserved pixels as images of one row, and y, the grey levels of the observed ones, (N, 196 q)."""
    mask, pixels = seen(quadrants).flatten(), digits.images.flatten(1)
    rest = pixels[:, ~mask][:, None, None].contiguous()  # (N, 1, 1, 784 - 196 q)
    return data.ImageSet(rest, digits.labels, digits.name, classes=10), pixels[:, mask].float() / 255


def whole(x: Tensor, y: Tensor, quadrants: int) -> Tensor:
    """Put unobserved pixels x (..., 1, 1, U) and observed ones y (..., O) together: images (..., 1, 28, 28)."""
    mask = seen(quadrants).flatten()
    images = x.new_zeros(*x.shape[:-3], 784)
    images[..., ~mask], images[..., mask] = x.flatten(-3), y.to(x.dtype).expand(*x.shape[:-3], -1)
    filled: Tensor = images.unflatten(-1, (1, 28, 28))
    return filled


def built(kind: str, quadrants: int, pixels: data.PixelMode = "grey", **smaller: Any) -> CVAE:
    """Return an untrained model: ``cvae``, ``gsnn`` or ``deterministic``; ``smaller`` settings replace the study's."""
    return made(kind, int(seen(quadrants).sum()), pixels=pixels, **{**BASE, **smaller})


def recipe(kind: str, quadrants: int) -> list[dict[str, Any]]:
    """Return how a kind is trained, each stage as arguments of ``fit``."""
    first: dict[str, Any] = {"epochs": EPOCHS[kind][quadrants - 1], "batch_size": BATCH[kind], "learning_rate": RATE}
    always = {"ema": EMA, "patience": PATIENCE}
    if kind == "deterministic":
        return [first | always]
    if kind == "gsnn":
        climb = functools.partial(importance_weighted_bound, samples=FEW, proposal="prior")
        judge = functools.partial(importance_weighted_bound, samples=MORE, proposal="prior")
        return [first | always | {"objective": climb, "criterion": judge}]
    tighter = functools.partial(importance_weighted_bound, samples=TIGHTER, gradient="doubly")
    last: dict[str, Any] = {
        "epochs": LAST,
        "batch_size": 2 * BATCH[kind],
        "learning_rate": TIGHTER_RATE,
        "schedule": "cosine",
    }
    return [first | always, last | always | {"objective": tighter, "criterion": tighter}]


def sets(quadrants: int) -> dict[str, tuple[data.ImageSet, Tensor]]:
    """Return the task's 50,000 training, 10,000 validation and 10,000 test images, each with its y."""
    digits = data.mnist("train")
    held_out = len(digits) // 6
    train, validation = digits.split(len(digits) - held_out, held_out)
    test = data.mnist("test")  # in an order of its own: the first of MNIST's test images are harder than the last
    test = test.subset(torch.randperm(len(test), generator=torch.Generator().manual_seed(0)))
    parts = {"train": train, "validation": validation, "test": test}
    return {name: task(part, quadrants) for name, part in parts.items()}


def train(kind: str, quadrants: int, seed: int, folder: Path) -> dict[str, Any]:
    """Train a model, to be stopped and taken up again at any epoch; its weights stay in the folder."""
    have = sets(quadrants)
    torch.manual_seed(seed)
    model = built(kind, quadrants)
    images, y = have["train"]
    found: dict[str, Any] = {"parameters": model.num_parameters(), "epochs": 0, "seconds": 0.0}
    for number, settings in enumerate(recipe(kind, quadrants)):
        kept: dict[str, Any] = {"checkpoint": folder / f"stage {number}", "resume": True, "seed": seed + 100 * number}
        history = fit(model, images, y=y, validation=have["validation"], **kept, **settings)
        found["epochs"] += history.best_epoch
        found["seconds"] += history.seconds[-1]
        found["validation"] = min(history.validation)
    save_checkpoint(folder / "trained", model)
    return found


def loaded(kind: str, quadrants: int, folder: Path, pixels: data.PixelMode = "grey") -> CVAE:
    """Return a trained model, to be asked about pixels of this kind."""
    model: CVAE
    model, _ = load_checkpoint(folder / "trained", model=built(kind, quadrants, pixels), device="auto")
    return model


def likelihood(kind: str, quadrants: int, folder: Path) -> dict[str, Any]:
    """Return log p(x|y) of test images, one by one, under both treatments of the pixels, and the CVAE's ELBO."""
    test, y = sets(quadrants)["test"]
    samples = {"cvae": 100, "gsnn": MANY, "deterministic": 1}[kind]
    proposal: Proposal = "posterior" if kind == "cvae" else "prior"
    found: dict[str, Any] = {"per_example": {}}
    for ending, pixels in ENDINGS.items():
        count = {"cvae": FEWER if ending else len(test), "gsnn": SUBSET, "deterministic": len(test)}[kind]
        model, some, told = loaded(kind, quadrants, folder, pixels), test.subset(slice(count)), y[:count]
        ll = evaluation.log_likelihood(model, some, samples=samples, proposal=proposal, y=told)
        found |= {f"nll{ending}": -ll.mean, f"nll{ending}_error": ll.standard_error}
        found["per_example"][f"log_likelihood{ending}"] = [round(value, 3) for value in ll.per_example.tolist()]
        if kind == "cvae":
            found[f"elbo{ending}"] = evaluation.rate_distortion(model, some, y=told).total.mean
    return found


def convergence(kind: str, quadrants: int, folder: Path) -> dict[str, Any]:
    """Return what three estimators of -log p(x|y) say of the same images as their samples grow."""
    model, (test, y) = loaded(kind, quadrants, folder), sets(quadrants)["test"]
    some, y = test.subset(slice(CURVE)), y[:CURVE]
    found = {"elbo_few": evaluation.rate_distortion(model, some, y=y).total.mean}
    for name, counts in (("prior", PRIOR_COUNTS), ("importance", IMPORTANCE_COUNTS)):
        proposal: Proposal = "prior" if name == "prior" else "posterior"
        curve = evaluation.likelihood_by_samples(model, some, counts, proposal=proposal, y=y)
        found |= {f"{name}_{count}": -point.mean for count, point in zip(counts, curve, strict=True)}
        found[f"{name}_{counts[-1]}_error"] = curve[-1].standard_error
    return found


@torch.no_grad()
def spread(kind: str, quadrants: int, folder: Path) -> dict[str, Any]:
    """Return how much completions of one image differ in its bottom right quadrant, which nobody ever observes."""
    model, (_, y) = loaded(kind, quadrants, folder), sets(quadrants)["test"]
    torch.manual_seed(0)
    deviations, distances = [], []
    for row in y[: course.capped(CURVE, 10)].to(model.device):  # (O,)
        drawn = model.draw(row.expand(COMPLETIONS, -1))  # (COMPLETIONS, 1, 1, U), pixel means
        corner = whole(drawn, row, quadrants)[:, 0, 14:, 14:]
        deviations.append(float(corner.var(0).mean().sqrt()))
        distances.append(evaluation.mean_pairwise_distance(corner).mean)
    return {"spread": sum(deviations) / len(deviations), "distance": sum(distances) / len(distances)}


def pieces(kept: Path) -> tuple[list[Piece], list[Piece]]:
    """List the trainings, and what is asked of the trained: where each is kept, what it does, what it waits for."""
    every = [(kind, quadrants, seed) for kind in KINDS for seed in SEEDS for quadrants in QUADRANTS]
    folders = {each: kept / f"{each[0]}_{each[1]}-{each[2]}" for each in every}
    done = {each: keeping.place(kept, f"{each[0]}_{each[1]}_training", each[2]) for each in every}
    trainings: list[Piece] = [(done[each], functools.partial(train, *each, folders[each]), None) for each in every]
    questions: list[Piece] = []
    for question, kinds in ((likelihood, KINDS), (spread, ("cvae",)), (convergence, ("cvae",))):
        for kind, quadrants, seed in every:
            if kind in kinds:
                path = keeping.place(kept, f"{kind}_{quadrants}_{question.__name__}", seed)
                each = (kind, quadrants, seed)
                questions.append((path, functools.partial(question, kind, quadrants, folders[each]), done[each]))
    return trainings, questions


def work(to_do: list[Piece]) -> Iterator[str]:
    """Do what is not kept yet and can be done, one piece at a time, and say what was found."""
    for path, piece, waits_for in to_do:
        if (waits_for is None or waits_for.exists()) and (found := keeping.once(path, piece)):
            figures = {key: round(value, 3) for key, value in found.items() if not isinstance(value, dict)}
            yield f"{path.stem}: {figures}"


def run(seed: int, kept: Path) -> dict[str, Any]:
    """Put one seed's figures together, each row's difference from the CVAE's image by image."""
    figures: dict[str, Any] = {"seed": seed}
    for quadrants in QUADRANTS:
        values: dict[str, dict[str, Tensor]] = {}
        for kind in KINDS:
            name = f"{kind}_{quadrants}"
            for what in ("training", "likelihood", "convergence", "spread"):
                path = keeping.place(kept, f"{name}_{what}", seed)
                if path.exists():
                    found = keeping.read(path)
                    each, _ = found.pop("per_example", {}), found.pop("seconds", None)  # time is the machine's
                    values.setdefault(kind, {}).update({key: torch.tensor(column) for key, column in each.items()})
                    figures |= keeping.named(name, found)
        for other in KINDS[1:]:
            for ending in ENDINGS:
                ours, theirs = (values[each][f"log_likelihood{ending}"] for each in ("cvae", other))
                count = min(len(ours), len(theirs))
                gain = evaluation.mean_and_error(ours[:count] - theirs[:count])
                key = f"cvae_{quadrants}_over_{other}{ending}"
                figures |= {key: gain.mean, f"{key}_error": gain.standard_error}
    return figures


def main(arguments: list[str] | None = None) -> int:
    """Go on with the study, and write the record when all of it is there."""
    parser = keeping.arguments("quadrants", "09")
    parser.add_argument("--backwards", action="store_true", help="last pieces first, to work beside another process")
    options = parser.parse_args(arguments)
    trainings, questions = pieces(options.kept)
    if options.backwards:
        trainings = [piece for kind in KINDS for piece in trainings[::-1] if piece[0].name.startswith(kind)]
        questions.reverse()
    if not keeping.all_done(work(trainings + questions), options.minutes):
        return 0
    if not all(path.exists() for path, _, _ in trainings + questions):
        print("Another process has not finished its pieces; call again.")
        return 0
    keeping.record("quadrants", PROTOCOL, [run(seed, options.kept) for seed in SEEDS], options.kept)
    return 0


if __name__ == "__main__":
    sys.exit(main())
