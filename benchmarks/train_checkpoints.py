"""Train what comes with the library: a class-conditional CVAE of MNIST, and the classifiers that read digits.

    make checkpoints                                     # all of them; needs MNIST (see CVAE_DATA)
    .venv/bin/python benchmarks/train_checkpoints.py mnist-classifier

Each is stored as float16 with a card of measured figures. The figures are those of the rounded weights.
"""

import hashlib
import sys
from collections.abc import Callable
from typing import Any

import torch

from cvae_lib import __version__, data, pretrained
from cvae_lib.course import figures
from cvae_lib.evaluation import accuracy, control_accuracy, log_likelihood, train_classifier
from cvae_lib.model import CVAE, CVAEConfig
from cvae_lib.training import fit

MNIST_LICENCE = "MNIST: Y. LeCun, C. Cortes, C. J. C. Burges; CC BY-SA 3.0"
CVAE_TRAINING: dict[str, Any] = {"epochs": 100, "batch_size": 256, "learning_rate": 4e-3, "seed": 0}
VAE_TRAINING: dict[str, Any] = {"batch_size": 512, "learning_rate": 6e-3, "seed": 0}  # as chapter 03 trains its CVAE
CLASSIFIER_TRAINING: dict[str, Any] = {"epochs": 8, "batch_size": 256, "learning_rate": 3e-3, "seed": 0}


def provenance(images: data.ImageSet, licence: str) -> dict[str, Any]:
    """Say which data a model saw: how many, and the SHA-256 of their pixels and labels."""
    digest = hashlib.sha256(images.images.numpy().tobytes() + images.labels.numpy().tobytes()).hexdigest()
    return {"name": images.name, "images": len(images), "sha256_of_pixels_and_labels": digest, "licence": licence}


def versions() -> dict[str, str]:
    """Name the software a model was trained with."""
    return {"cvae_lib": __version__, "torch": torch.__version__.split("+")[0]}


def mnist_cvae() -> None:
    """Train the CVAE that draws digits in chapter 00 and on the command line."""
    train, test = data.mnist("train"), data.mnist("test")
    torch.manual_seed(CVAE_TRAINING["seed"])
    model = CVAE(CVAEConfig(hidden=(376,) * 4))
    fit(model, train, device="cpu", **CVAE_TRAINING)
    pretrained.round_to_half(model)
    likelihood = log_likelihood(model, test, samples=100)
    control = control_accuracy(model, pretrained.load_classifier("mnist-classifier"), count=10_000)
    print(f"log p(x|y) {likelihood}; control {control}")
    pretrained.save(
        model,
        "mnist-cvae",
        {
            "what": "class-conditional VAE of MNIST digits, standard normal prior, Bernoulli pixels",
            "data": provenance(train, MNIST_LICENCE),
            "training": {**CVAE_TRAINING, "pixels": "stochastic", "precision": "bf16 products where native"},
            "measured": {
                "protocol": "10,000 MNIST test images, binarised once with seed 0; importance sampling, K = 100, "
                "float32; control: 1,000 prior samples per digit read by mnist-classifier",
                "conditional_nll_nats": round(-likelihood.mean, 3),
                "standard_error_nats": round(likelihood.standard_error, 3),
                "control_accuracy": round(control.accuracy, 4),
                "control_accuracy_per_digit": [round(float(share), 3) for share in control.per_class],
            },
            "versions": versions(),
        },
    )


def vae(images: Callable[..., data.ImageSet], name: str, licence: str, epochs: int) -> None:
    """Train the VAE that chapter 03 compares its CVAE with: the same networks and seed, no label."""
    train, test = images("train"), images("test")
    recipe = {"epochs": epochs, **VAE_TRAINING}
    torch.manual_seed(recipe["seed"])
    model = CVAE(CVAEConfig(num_classes=0, hidden=(256,) * 4))
    fit(model, train, device="cpu", **recipe)
    pretrained.round_to_half(model)
    likelihood = log_likelihood(model, test, samples=100)
    print(f"{name}: log p(x) {likelihood}")
    pretrained.save(
        model,
        name,
        {
            "what": f"VAE of {train.name} digits, standard normal prior, Bernoulli pixels",
            "data": provenance(train, licence),
            "training": {**recipe, "pixels": "stochastic", "precision": "bf16 products where native"},
            "measured": {
                "protocol": "10,000 test images, binarised once with seed 0; importance sampling, K = 100, float32",
                "nll_nats": round(-likelihood.mean, 3),
                "standard_error_nats": round(likelihood.standard_error, 3),
            },
            "versions": versions(),
        },
    )


def mnist_cvae_picture() -> None:
    """Draw the README's picture: ten digits of each class, in the order they come."""
    asked = torch.arange(10).repeat_interleave(10)
    drawn = pretrained.load_cvae("mnist-cvae").draw(asked, generator=torch.Generator().manual_seed(0))
    picture = figures.digit_grid(drawn, "Ten drawings of each digit, a row for every digit from 0 to 9.", columns=10)
    picture.save(pretrained.WEIGHTS / "mnist-cvae.png")


def classifier(images: Callable[..., data.ImageSet], name: str, licence: str) -> None:
    """Train and store a classifier of one dataset."""
    train, test = images("train"), images("test")
    model = train_classifier(train, device="cpu", **CLASSIFIER_TRAINING)
    pretrained.round_to_half(model)
    share = accuracy(model, test)
    print(f"{name}: accuracy {share:.4f}")
    pretrained.save(
        model,
        name,
        {
            "what": f"convolutional classifier of {train.name} digits, used to read generated images",
            "data": provenance(train, licence),
            "training": CLASSIFIER_TRAINING,
            "measured": {"protocol": "10,000 grey test images", "accuracy": round(share, 4)},
            "versions": versions(),
        },
    )


TRAIN = {
    "mnist-classifier": lambda: classifier(data.mnist, "mnist-classifier", MNIST_LICENCE),
    "strokes-classifier": lambda: classifier(data.strokes, "strokes-classifier", "made by this library; MIT"),
    "mnist-vae": lambda: vae(data.mnist, "mnist-vae", MNIST_LICENCE, epochs=34),
    "strokes-vae": lambda: vae(data.strokes, "strokes-vae", "made by this library; MIT", epochs=10),
    "mnist-cvae": mnist_cvae,
    "mnist-cvae-picture": mnist_cvae_picture,
}

if __name__ == "__main__":
    for name in sys.argv[1:] or TRAIN:
        if name not in TRAIN:
            sys.exit(f"There is no checkpoint {name!r}; choose from {', '.join(TRAIN)}.")
        TRAIN[name]()
