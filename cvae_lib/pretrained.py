"""Bundled checkpoints: weights beside a card that says where they come from, see :mod:`cvae_lib.checkpoints`.

Loading runs no code from the file, and refuses weights whose checksum is not the card's.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cvae_lib.checkpoints import CheckpointError as CheckpointError
from cvae_lib.checkpoints import Tensors, built, described, load_weights, prefixed, read, stripped, write
from cvae_lib.environment import pick_device
from cvae_lib.evaluation import Classifier
from cvae_lib.model import CVAE

WEIGHTS = Path(__file__).parent / "weights"


def available(folder: Path = WEIGHTS) -> list[str]:
    """Return the names of the checkpoints that come with the library."""
    return sorted(path.stem for path in folder.glob("*.json"))


def card(name: str, folder: Path = WEIGHTS) -> dict[str, Any]:
    """Return a checkpoint's model card: data, architecture, training, measurements, licence, checksum.

    Raises:
        CheckpointError: if there is no such checkpoint or its card cannot be read.
    """
    path = folder / f"{name}.json"
    if not path.is_file():
        raise CheckpointError(f"There is no checkpoint {name!r}; there are {', '.join(available(folder)) or 'none'}.")
    try:
        contents: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"The card {path.name} is not readable JSON; install the library again.") from error
    return contents


def _read(name: str, kind: str, folder: Path) -> tuple[dict[str, Any], Tensors]:
    """Return what the card says of the model, and its weights in float32."""
    found = card(name, folder).get("model", {}).get("class")
    if found != kind:
        raise CheckpointError(f"Checkpoint {name!r} holds a {found}, not a {kind}.")
    contents, tensors = read(folder / f"{name}.json")
    weights = stripped("model", tensors)
    return contents["model"], {k: v.float() if v.is_floating_point() else v for k, v in weights.items()}


def load_cvae(name: str = "mnist-cvae", *, device: str | torch.device = "cpu", folder: Path = WEIGHTS) -> CVAE:
    """Return a bundled CVAE, ready to draw, in float32.

    Raises:
        CheckpointError: if it is missing, damaged, or no CVAE.
    """
    facts, weights = _read(name, "CVAE", folder)
    model = built(facts, weights, name)
    load_weights(model, weights, name)
    return model.to(pick_device(device)).eval()


def load_classifier(
    name: str = "mnist-classifier", *, device: str | torch.device = "cpu", folder: Path = WEIGHTS
) -> Classifier:
    """Return a bundled digit classifier, ready to read, in float32.

    Raises:
        CheckpointError: if it is missing, damaged, or no classifier.
    """
    facts, weights = _read(name, "Classifier", folder)
    classifier = Classifier(facts["settings"]["classes"]).float()
    load_weights(classifier, weights, name)
    return classifier.to(pick_device(device)).eval()


def save(model: CVAE | Classifier, name: str, facts: dict[str, Any], folder: Path = WEIGHTS) -> None:
    """Store a model in half precision with its card; ``facts`` are what the card says beside model and checksum.

    Half precision halves the file; measurements on the card should be taken after :func:`round_to_half`.

    Raises:
        CheckpointError: if it cannot be written.
    """
    about = described(model)
    if isinstance(model, Classifier):
        about["settings"] = {"classes": model.classes}
    halves = {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    contents = {"name": name, **facts, "model": about, "stored_as": "float16"}
    write(folder / f"{name}.json", contents, prefixed("model", halves))


@torch.no_grad()
def round_to_half(model: nn.Module) -> None:
    """Round every weight to what float16 can hold, so that what is measured is what is stored."""
    for tensor in [*model.parameters(), *model.buffers()]:
        if tensor.is_floating_point():
            tensor.copy_(tensor.half().to(tensor.dtype))
