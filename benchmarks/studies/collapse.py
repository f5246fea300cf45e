"""Chapter 07's figures over three seeds: a z that falls silent, what wakes it, and what that costs.

    python benchmarks/studies/collapse.py                # writes cvae_lib/course/records/collapse*.json
    python benchmarks/studies/collapse.py --minutes 3    # starts no training after three minutes; call it again

A finished training is a file in a folder of its own (--kept), so a study that was stopped goes on where it was.
"""

import functools
import itertools
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keeping
import torch
import torch.nn.functional as F
from cures import CURES, FLOOR, LATENTS, LEAD, STEPS, Watched, built, recipes, without_z
from masked import Painter
from torch import Tensor

from cvae_lib import course, data, evaluation
from cvae_lib.datasets import strokes
from cvae_lib.environment import evaluation_mode, seeded
from cvae_lib.model import CVAE, CVAEConfig
from cvae_lib.objective import Terms, elbo_terms
from cvae_lib.training import fit

SEEDS = (0, 1, 2)
BATCH, RATE = 256, 1e-2
HANDS = 4
PLAYER = tuple(itertools.product((1.0, 0.5), (0.0, FLOOR), ("none", "linear", "cyclical")))
PROTOCOL = (
    "Painters: MNIST at 14 x 14 (2 x 2 means), dynamic binarisation; y: digit, fifth of thickness, fifth of slant; "
    f"encoder MLP of two layers of 128, D = {LATENTS}, masked decoder of 512 hidden units (64 where it says small); "
    f"{LEAD} steps of the decoder without z (none where it says together), then {STEPS} of the whole, {BATCH} images "
    "each, one-cycle Adam 1e-2. On the 10,000 test images: rate, active units; on the first 2,000: z swapped between "
    "images of equal y, log-likelihood with K = 50; I(x;z|y): lower and upper bound on the 60,000 training images, "
    "about 240 of equal y; diversity: mean distance of 20 binary drawings of each of the 50 commonest y, over that of "
    "binarised training images. Time: processor time of a training step over the plain painter's, one thread, median "
    "over 8 rounds of 5 steps taken in turn. Catalogue: 10 digits x 3 widths x 3 slants by "
    f"{HANDS} hands at 14 x 14 (told, untold: binarised at every step; hands: threshold, the hand not told), y one "
    "label, MLP of one layer of 128 told in every block, D = 8, 400 steps without z, then 600, one-cycle Adam 1e-2. "
    "Trainings: looks every 75 steps with z, rate and distortion on 2,000, active "
    "units and I(x;z|y) on 10,000 test images, about 40 of equal y"
)


def halved(digits: data.ImageSet) -> data.ImageSet:
    """Return the images at 14 x 14, each pixel the mean of four."""
    small = F.avg_pool2d(digits.images.float(), 2).round().byte()
    return data.ImageSet(small, digits.labels, digits.name, classes=digits.classes)


def orders(digits: data.ImageSet, edges: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return digit, fifth of thickness and fifth of slant, shape (N, 3), and the edges of the fifths, (2, 4)."""
    found = strokes.measure(digits.images)
    columns = torch.stack([found.thickness, found.slant])  # (2, N)
    if edges is None:
        edges = columns.quantile(torch.tensor([0.2, 0.4, 0.6, 0.8]), dim=1).T.contiguous()
    fifths = torch.searchsorted(edges, columns)  # (2, N)
    return torch.stack([digits.labels, *fifths], 1), edges


class Digits:
    """Training and test images at half size with their orders, made once."""

    def __init__(self) -> None:
        train, test = data.mnist("train"), data.mnist("test")  # a record must not fall back
        self.y, edges = orders(train)
        self.test_y, _ = orders(test, edges)
        self.train, self.test = halved(train), halved(test)


def rate_and_distortion(model: CVAE, images: data.ImageSet, y: Tensor) -> tuple[list[float], float]:
    """Return the KL of every latent and -log p(x|z,y), nats per image, always with the same pixels and noise."""
    x = model.prepare(images.images, torch.Generator().manual_seed(0))
    with evaluation_mode(model), seeded(0, model.device):
        terms = elbo_terms(model, x, y)
    return terms.kl.mean(0).tolist(), -float(terms.log_likelihood.mean())


def z_lost(model: CVAE, images: data.ImageSet, y: Tensor) -> float:
    """Return what swapping z between images of equal y costs, nats per image."""
    return evaluation.is_z_used(model, images, y=y).likelihood_lost.mean


def diversity(model: Painter, digits: Digits) -> float:
    """Return how far apart 20 drawings of one y lie, for the 50 commonest y, relative to real images of it."""
    kinds, kind = digits.y.unique(dim=0, return_inverse=True)
    common = torch.bincount(kind).topk(50).indices
    asked = common.repeat_interleave(20)
    with torch.no_grad(), seeded(0, model.device):
        y = kinds[asked]
        drawn = model.likelihood(model.prior(y).sample(), y).sample()
    some = torch.cat([(kind == one).nonzero()[:100, 0] for one in common])
    real = digits.train.pixels(some, "stochastic", torch.Generator().manual_seed(0))
    return evaluation.relative_diversity(drawn, asked, real, kind[some]).ratio


def painter(name: str, seed: int, made: Callable[[], Digits]) -> dict[str, Any]:
    """Train one row of the table, and measure it."""
    digits = made()
    make, extra = recipes()[name]
    torch.manual_seed(seed)
    model, extra = make(), dict(extra)
    share, lead = extra.pop("y_dropped", 0.0), extra.pop("lead", LEAD)
    told: Any = (lambda batch: model.condition.drop(digits.y[batch.index], share)) if share else digits.y
    settings: dict[str, Any] = {"y": told, "learning_rate": RATE, "device": "cpu", "log_every": 1000}
    if lead:
        fit(model, digits.train, steps=lead, objective=without_z, seed=seed + 100, **settings)
    fit(model, digits.train, steps=STEPS + LEAD - lead, seed=seed, **settings, **extra)
    some, some_y = digits.test.subset(slice(2000)), digits.test_y[:2000]
    kl, distortion = rate_and_distortion(model, digits.test, digits.test_y)
    known = evaluation.mutual_information(model, digits.train, y=digits.y)
    return {
        "rate": sum(kl),
        "distortion": distortion,
        "active": evaluation.active_units(model, digits.test, y=digits.test_y).count,
        "information": known.lower.mean,
        "information_upper": known.upper.mean,
        "cap": known.cap,
        "z_lost": z_lost(model, some, some_y),
        "nll": -evaluation.log_likelihood(model, some, samples=50, y=some_y).mean,
        "diversity": diversity(model, digits),
    }


def times(seed: int, made: Callable[[], Digits], rounds: int = 8, steps: int = 5) -> dict[str, Any]:
    """Return processor time of a training step over that of the plain painter, median over rounds taken in turn."""
    digits = made()
    x, y = digits.test.pixels(torch.arange(BATCH), "stochastic"), digits.test_y[:BATCH]
    torch.manual_seed(seed)
    rows: dict[str, Any] = {}
    for name, (make, extra) in recipes().items():
        model, share = make(), extra.get("y_dropped", 0.0)
        optimiser = torch.optim.Adam(model.parameters(), fused=True)
        rows[name] = model.train(), extra.get("objective", elbo_terms), optimiser, share
    taken: dict[str, list[float]] = {name: [] for name in rows}
    for _ in range(course.capped(rounds, 2)):
        for name, (model, objective, optimiser, share) in rows.items():
            start = time.process_time()
            for _ in range(steps):
                told = model.condition.drop(y, share) if share else y
                found = objective(model, x, told)
                optimiser.zero_grad()
                (found.loss() if isinstance(found, Terms) else -found.mean()).backward()
                optimiser.step()
            taken[name].append(time.process_time() - start)
    pairs = {name: zip(taken[name], taken["plain"], strict=True) for name in rows}
    return {name: statistics.median(mine / base for mine, base in pairs[name]) for name in rows}


def watched(beta: float, floor: float, schedule: str, seed: int, made: Callable[[], Digits]) -> dict[str, Any]:
    """Train with a weight, a floor and a schedule, and return what was seen on the way."""
    digits = made()
    some, some_y = digits.test.subset(slice(2000)), digits.test_y[:2000]

    def look(model: CVAE) -> dict[str, Any]:
        kl, distortion = rate_and_distortion(model, some, some_y)
        active = evaluation.active_units(model, digits.test, y=digits.test_y).count
        known = evaluation.mutual_information(model, digits.test, y=digits.test_y)
        return {"kl": kl, "distortion": distortion, "active": active, "information": known.lower.mean}

    torch.manual_seed(seed)
    model, objective = built(), Watched(beta, floor, schedule, look)
    settings: dict[str, Any] = {"y": digits.y, "learning_rate": RATE, "device": "cpu", "log_every": 1000}
    fit(model, digits.train, steps=LEAD, objective=without_z, seed=seed + 100, **settings)
    fit(model, digits.train, steps=STEPS, objective=objective, seed=seed, **settings)
    return {"seen": [*objective.seen, {"step": objective.step, **look(model)}]}


def catalogue(hands: int) -> tuple[data.ImageSet, Tensor]:
    """Return every digit in three widths and three slants by each of some hands, labelled 0 to 89, and the hand."""
    images, order, hand_of = [], [], []
    for width, slant, hand in itertools.product(range(3), range(3), range(hands)):
        looks: dict[str, Any] = {"thickness": 1.8 + width, "slant": -0.4 + 0.5 * slant, "brightness": 1.0}
        images.append(strokes.draw(torch.arange(10), seed=hand, noise=0, **looks).images)
        order += [30 * width + 10 * slant + digit for digit in range(10)]
        hand_of += 10 * [hand]
    drawn = data.ImageSet(torch.cat(images), torch.tensor(order), f"catalogue of {hands} hands", classes=90)
    return halved(drawn), torch.tensor(hand_of)


def with_hand(images: data.ImageSet, hand: Tensor, hands: int) -> data.ImageSet:
    """Return the same pictures with labels that tell the hand too."""
    return data.ImageSet(images.images, hands * images.labels + hand, images.name, classes=hands * images.num_classes)


def reader(hands: int, told: bool, pixels: data.PixelMode, seed: int) -> dict[str, Any]:
    """Train on a catalogue, with the hand told or not, and measure rate, information and the use of z."""
    images, hand = catalogue(hands)
    images = with_hand(images, hand, hands) if told else images
    torch.manual_seed(seed)
    shape: dict[str, Any] = {"latent_dim": LATENTS, "hidden": (128,), "event_shape": (1, 14, 14)}
    model = CVAE(CVAEConfig(num_classes=images.num_classes, condition_at="every", pixels=pixels, **shape))
    settings: dict[str, Any] = {"learning_rate": RATE, "device": "cpu", "log_every": 10_000}
    fit(model, images, steps=400, objective=without_z, seed=seed + 100, **settings)
    fit(model, images, steps=600, seed=seed, **settings)
    if told:  # four copies, so that there are others of equal y; they differ by their coins
        images = images.subset(torch.arange(len(images)).repeat_interleave(4))
    kl, _ = rate_and_distortion(model, images, images.labels)
    used = evaluation.is_z_used(model, images)
    found = {
        "rate": sum(kl),
        "active": evaluation.active_units(model, images).count,
        "z_lost": used.likelihood_lost.mean,
        "z_change": used.output_change.mean,
    }
    if told or hands > 1:
        found["information"] = evaluation.mutual_information(model, images, samples=10).lower.mean
    return found


READERS: dict[str, tuple[int, bool, data.PixelMode]] = {
    "told": (HANDS, True, "stochastic"),
    "untold": (HANDS, False, "stochastic"),
    **{f"hands_{hands}": (hands, False, "threshold") for hands in (1, 2, 4, 8, 16)},
}


def pieces(kept: Path) -> Iterator[tuple[Path, Callable[[], dict[str, Any]]]]:
    """List what there is to do, and where what was found is kept."""
    made = functools.cache(Digits)  # not before a piece asks for them
    for seed in SEEDS:
        for name, settings in READERS.items():
            yield kept / f"reader-{name}-{seed}.json", functools.partial(reader, *settings, seed)
        for name in CURES:
            yield kept / f"{name}-{seed}.json", functools.partial(painter, name, seed, made)
        yield kept / f"times-{seed}.json", functools.partial(times, seed, made)
        for setting in PLAYER if seed == 0 else PLAYER[:1]:
            path = kept / f"player-{'-'.join(map(str, setting))}-{seed}.json"
            yield path, functools.partial(watched, *setting, seed, made)


def run(seed: int, kept: Path) -> dict[str, Any]:
    """Put one seed's figures together."""
    figures: dict[str, Any] = {"seed": seed}
    for prefix, names in (("", CURES), ("reader-", READERS)):
        for name in names:
            figures |= keeping.named(name, keeping.read(keeping.place(kept, f"{prefix}{name}", seed)))
    ratios = keeping.read(keeping.place(kept, "times", seed))
    return figures | {f"{name}_time": ratio for name, ratio in ratios.items()}


def record_training(kept: Path) -> None:
    """Write what the panel plays: a training for every setting, and the plain one for every seed."""
    runs: list[dict[str, Any]] = []
    for seed in SEEDS:
        for beta, floor, schedule in PLAYER if seed == 0 else PLAYER[:1]:
            seen = keeping.read(kept / f"player-{beta}-{floor}-{schedule}-{seed}.json")["seen"]
            columns = {key: [rounded(row[key]) for row in seen] for key in seen[0]}
            runs.append({"seed": seed, "beta": beta, "floor": floor, "schedule": schedule, **columns})
    keeping.write("collapse_training", "collapse", PROTOCOL, runs, kept)


def rounded(value: Any) -> Any:
    """Return numbers, and lists of them, to three digits."""
    return [rounded(each) for each in value] if isinstance(value, list) else round(value, 3)


def main(arguments: list[str] | None = None) -> int:
    """Go on with the study, and write the records when all of it is there."""
    parser = keeping.arguments("collapse", "07")
    parser.add_argument("--backwards", action="store_true", help="last piece first, to work beside another process")
    options = parser.parse_args(arguments)
    to_do = list(pieces(options.kept))
    if options.backwards:
        to_do.reverse()
    done = (path.stem for path, piece in to_do if keeping.once(path, piece) is not None)
    if not keeping.all_done(done, options.minutes):
        return 0
    keeping.record("collapse", PROTOCOL, [run(seed, options.kept) for seed in SEEDS], options.kept)
    record_training(options.kept)
    return 0


if __name__ == "__main__":
    sys.exit(main())
