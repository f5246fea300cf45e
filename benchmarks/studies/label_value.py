"""Chapter 03's figures over three seeds: what a label is worth, in nats, in obedience, and in what z forgets.

    python benchmarks/studies/label_value.py             # writes cvae_lib/course/records/label_value.json
    python benchmarks/studies/label_value.py --seed 1    # only this seed; its figures are kept for the others to join

A finished seed is a file in a folder of its own (--kept), so a study that was stopped goes on where it was.
"""

import functools
import math
import sys
from typing import Any

import keeping
import torch

from cvae_lib import data, evaluation, pretrained
from cvae_lib.model import CVAE, CVAEConfig
from cvae_lib.training import fit

SEEDS = (0, 1, 2)
HIDDEN = (256,) * 4
TRAINING: dict[str, Any] = {"epochs": 34, "batch_size": 512, "learning_rate": 6e-3}
PROTOCOL = (
    "MNIST, dynamic binarisation; four hidden layers of 256 with skips, D = 32; the CVAE is told its label by FiLM in "
    "every block; 34 epochs, batch 512, one-cycle Adam 6e-3; likelihoods of 10,000 test images, marginal and Bayes' "
    "rule on every fifth of them, K = 100; control: 10,000 drawings"
)


def run(seed: int, train: data.ImageSet, test: data.ImageSet) -> dict[str, Any]:
    """Train a VAE and a CVAE with one seed and measure both."""
    models = []
    for classes in (0, 10):
        torch.manual_seed(seed)
        models.append(CVAE(CVAEConfig(num_classes=classes, hidden=HIDDEN, conditioning="film", condition_at="every")))
        fit(models[-1], train, seed=seed, device="cpu", **TRAINING)
    vae, cvae = models
    ll_vae, ll_cvae = (evaluation.log_likelihood(model, test, samples=100) for model in models)
    fifth = test.subset(slice(None, None, 5))
    table = evaluation.class_log_likelihoods(cvae, fifth, samples=100)
    marginal = table.logsumexp(1) - math.log(10)
    labels = fifth.labels[: len(table)]  # the fast profile looks at fewer images
    own = table.gather(1, labels[:, None])[:, 0]
    gain = evaluation.mean_and_error(marginal - evaluation.log_likelihood(vae, fifth, samples=100).per_example)
    some = train.subset(slice(10_000))
    probes = []
    for model in models:
        known, asked = (evaluation.posterior_means(model, images) for images in (some, test))
        probes.append(evaluation.linear_probe(known, some.labels[: len(known)], asked, test.labels[: len(asked)]))
    return {
        "seed": seed,
        "vae_nll": -ll_vae.mean,
        "cvae_nll": -ll_cvae.mean,
        "marginal_nll": -float(marginal.mean()),
        "cvae_nll_fifth": -float(own.mean()),
        "marginal_gain": gain.mean,
        "marginal_gain_standard_error": gain.standard_error,
        "label_worth": float((own - marginal).mean()),
        "control": evaluation.control_accuracy(cvae, pretrained.load_classifier(), count=10_000).accuracy,
        "probe_vae": probes[0],
        "probe_cvae": probes[1],
        "bayes_accuracy": float((table.argmax(1) == labels).float().mean()),
    }


def main(arguments: list[str] | None = None) -> int:
    """Go on with the study, and write the record when every seed is there."""
    parser = keeping.arguments("label_value", "03")
    parser.add_argument("--seed", type=int, choices=SEEDS, help="only this one")
    options = parser.parse_args(arguments)
    train, test = data.mnist("train"), data.mnist("test")
    files = [options.kept / f"{seed}.json" for seed in SEEDS]
    lines = (
        str(keeping.once(file, functools.partial(run, seed, train, test)) or f"seed {seed} is kept")
        for seed, file in zip(SEEDS, files, strict=True)
        if options.seed in (None, seed)
    )
    if not keeping.all_done(lines, options.minutes):
        return 0
    if all(file.exists() for file in files):
        keeping.record("label_value", PROTOCOL, [keeping.read(file) for file in files], options.kept)
    return 0


if __name__ == "__main__":
    sys.exit(main())
