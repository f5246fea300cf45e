"""Bundled checkpoints: weights as safetensors beside a JSON card that says where they come from.

Loading runs no code from the file, and refuses weights whose checksum is not the card's.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn

from cvae_lib._files import write_atomically
from cvae_lib.course import pick_device
from cvae_lib.evaluation import Judge
from cvae_lib.model import CVAE, CVAEConfig
from cvae_lib.training._checkpoint import CheckpointError as CheckpointError

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


def _load(name: str, kind: str, folder: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    contents = card(name, folder)
    if contents.get("kind") != kind:
        raise CheckpointError(f"Checkpoint {name!r} holds a {contents.get('kind')}, not a {kind}.")
    try:
        data = (folder / f"{name}.safetensors").read_bytes()
    except OSError as error:
        raise CheckpointError(
            f"The weights of {name!r} cannot be read ({error.strerror}); install the library again."
        ) from error
    if hashlib.sha256(data).hexdigest() != contents.get("sha256"):
        raise CheckpointError(
            f"The weights of {name!r} differ from their card's checksum, so they were cut short or "
            "changed; install the library again."
        )
    weights = safetensors.torch.load(data)
    return contents, {key: value.float() if value.is_floating_point() else value for key, value in weights.items()}


def load_cvae(name: str = "mnist-cvae", *, device: str | torch.device = "cpu", folder: Path = WEIGHTS) -> CVAE:
    """Return a bundled CVAE, ready to draw, in float32.

    Raises:
        CheckpointError: if it is missing, damaged, or no CVAE.
    """
    contents, weights = _load(name, "cvae", folder)
    model = CVAE(CVAEConfig.from_dict(contents["architecture"]))
    model.load_state_dict(weights)
    return model.to(pick_device(device)).eval()


def load_judge(name: str = "mnist-judge", *, device: str | torch.device = "cpu", folder: Path = WEIGHTS) -> Judge:
    """Return a bundled digit classifier.

    Raises:
        CheckpointError: if it is missing, damaged, or no judge.
    """
    contents, weights = _load(name, "judge", folder)
    judge = Judge(contents["architecture"]["classes"])
    judge.load_state_dict(weights)
    return judge.to(pick_device(device)).eval()


def save(model: nn.Module, name: str, kind: str, facts: dict[str, Any], folder: Path = WEIGHTS) -> None:
    """Store a model as float16 safetensors with its card; ``facts`` are the card's contents but for kind and checksum.

    Half precision halves the file; measurements on the card should be taken after :func:`round_to_half`.
    """
    tensors = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    weights = {key: value.half() if value.is_floating_point() else value for key, value in tensors.items()}
    data = safetensors.torch.save(weights)
    contents = {
        "name": name,
        "kind": kind,
        **facts,
        "stored_as": "float16",
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    write_atomically(folder / f"{name}.safetensors", data)
    write_atomically(folder / f"{name}.json", (json.dumps(contents, indent=2) + "\n").encode())


@torch.no_grad()
def round_to_half(model: nn.Module) -> None:
    """Round every weight to what float16 can hold, so that what is measured is what is stored."""
    for tensor in [*model.parameters(), *model.buffers()]:
        if tensor.is_floating_point():
            tensor.copy_(tensor.half().to(tensor.dtype))
