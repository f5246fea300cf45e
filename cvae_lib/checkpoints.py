"""The one format of checkpoints, bundled or written by training: safetensors beside a JSON card; nothing is executed.

    folder/NAME.json                    what made the model, what was measured, the checksum of the weights
    folder/NAME.1f0c….safetensors       weights, and for a run in progress its averages and the optimiser's state

The tensors are written first, under a name of their own; replacing the card then switches from the old pair to the new
one in a single step of the file system. Whatever happens before that, the old pair is whole.
"""

import contextlib
import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from cvae_lib.environment import write_atomically
from cvae_lib.model import CVAE, CVAEConfig

FORMAT = 2
PARTS = ("encoder", "decoder", "condition", "prior_module", "likelihood_module")
WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel)

Tensors = dict[str, Tensor]


class CheckpointError(RuntimeError):
    """A checkpoint is missing, damaged, of another kind than asked for, or cannot be written."""


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model inside ``torch.compile``'s or a parallel wrapper."""
    while (inner := model.module if isinstance(model, WRAPPERS) else getattr(model, "_orig_mod", None)) is not None:
        model = inner
    return model


def described(model: nn.Module) -> dict[str, Any]:
    """Return what a card says of a model: the settings that make it, if any do, and what its parts are."""
    config = getattr(model, "config", None)
    parts = {name: part for name in PARTS if isinstance(part := getattr(model, name, None), nn.Module)}
    return {
        "class": type(model).__name__,
        "settings": config.as_dict() if isinstance(config, CVAEConfig) else None,
        "parts": {name: type(part).__name__ for name, part in parts.items()},
        "values": {name: _plain_values(part) for name, part in parts.items()},
    }


def _plain_values(part: nn.Module) -> dict[str, Any]:
    """Return the numbers and words a module holds; two of one class may differ in nothing else."""
    return {k: v for k, v in vars(part).items() if k[0] != "_" and k != "training" and isinstance(v, int | float | str)}


def built(facts: dict[str, Any], weights: Tensors, where: str) -> CVAE:
    """Return the model that a card describes, in the precision of its weights, for them to be put in.

    Raises:
        CheckpointError: if the settings do not make it.
    """
    settings = facts.get("settings")
    parts = facts.get("parts", {})
    way = "build it and pass it: load_checkpoint(folder, model=...)"
    if settings is None or settings.get("condition") == "own" or facts["class"] != "CVAE":
        own = ", ".join([facts["class"], *parts.values()])
        raise CheckpointError(f"The model in {where} has parts of its own ({own}); {way}.")
    try:
        with torch.device("cpu"):
            model = CVAE(CVAEConfig.from_dict(settings))
    except ValueError as error:
        raise CheckpointError(f"The settings in {where} make no model: {error}") from error
    made = described(model)
    for name, kind in made["parts"].items():
        theirs, ours = facts.get("values", {}).get(name, {}), made["values"][name]
        other = [key for key in ours if theirs.get(key, ours[key]) != ours[key]]
        if parts.get(name, kind) != kind or other:
            there, here = (", ".join(f"{key}={values[key]!r}" for key in other) for values in (theirs, ours))
            raise CheckpointError(
                f"The model in {where} has {parts[name]}({there}) where its settings make {kind}({here}); {way}."
            )
    dtype = next((value.dtype for value in weights.values() if value.is_floating_point()), torch.float32)
    return model.to(dtype)


def load_weights(model: nn.Module, state: Tensors, where: str) -> None:
    """Put a state into a model, or say in one sentence what does not fit.

    Raises:
        CheckpointError: if a tensor is missing, left over, or of another shape or precision.
    """
    wanted = {key: (tuple(value.shape), value.dtype) for key, value in model.state_dict().items()}
    found = {key: (tuple(value.shape), value.dtype) for key, value in state.items()}
    if wrong := sorted(key for key in wanted.keys() | found.keys() if wanted.get(key) != found.get(key)):
        there, here = (" ".join(map(str, each.get(wrong[0], ("absent",)))) for each in (found, wanted))
        raise CheckpointError(
            f"The checkpoint in {where} is of another model: {wrong[0]} is {there} there and {here} here; build the "
            "model with the checkpoint's settings."
        )
    try:
        model.load_state_dict(state)
    except ValueError as error:  # a module that looks at what is loaded into it, such as the columns of a table
        raise CheckpointError(f"The checkpoint in {where} is of another model: {error}") from error


def prefixed(prefix: str, state: Tensors) -> Tensors:
    """Return the tensors under ``prefix.``, on the CPU, none sharing memory with another."""
    return {f"{prefix}.{key}": value.detach().cpu().contiguous().clone() for key, value in state.items()}


def stripped(prefix: str, tensors: Tensors) -> Tensors:
    """Return the tensors whose name begins with ``prefix.``, without it."""
    return {key.removeprefix(f"{prefix}."): value for key, value in tensors.items() if key.startswith(f"{prefix}.")}


def check_writable(folder: Path) -> None:
    """Find out before an hour of training, and not after it, whether a folder takes files.

    Raises:
        CheckpointError: if it cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise CheckpointError(
            f"Nothing can be written to {folder} ({error.strerror or error}); choose another folder."
        ) from None


def write(card: Path, facts: dict[str, Any], tensors: Tensors) -> None:
    """Write a card and its tensors in place of those that are there; on any failure the old ones stay.

    Raises:
        CheckpointError: if the folder cannot be made or written to, or the disk is full.
    """
    data = safetensors.torch.save(tensors)
    digest = hashlib.sha256(data).hexdigest()
    name = f"{card.stem}.{digest[:12]}.safetensors"
    weights = {"file": name, "bytes": len(data), "sha256": digest}
    contents = {"format": FORMAT, **facts, "torch": torch.__version__.split("+")[0], "weights": weights}
    text = json.dumps(contents, indent=1, default=float)  # numpy's numbers, and tensors of one
    try:
        write_atomically(card.parent / name, data)
        write_atomically(card, (text + "\n").encode())
    except OSError as error:
        old = "the checkpoint that was there is still whole" if card.exists() else "nothing was there before"
        raise CheckpointError(
            f"The checkpoint could not be written to {card.parent} ({error.strerror or error}); {old}; "
            "make room there or choose another folder."
        ) from None
    # Only now may the tensors of older checkpoints, or of writes that were cut off, go.
    for leftover in card.parent.glob(f"{card.stem}.*.safetensors*"):
        if leftover.name != name:
            with contextlib.suppress(OSError):
                leftover.unlink()


def read(card: Path) -> tuple[dict[str, Any], Tensors]:
    """Return what a card says and its tensors, on the CPU.

    Raises:
        CheckpointError: if it is missing, cut short, changed, or of another format.
    """
    again = f"go back to a copy of {card.parent}"
    try:
        facts: dict[str, Any] = json.loads(card.read_text(encoding="utf-8"))
        promised = facts["weights"]
        path = card.parent / Path(promised["file"]).name
        digest, is_known = promised["sha256"], facts["format"] == FORMAT
    except FileNotFoundError:
        raise CheckpointError(f"There is no checkpoint in {card.parent}: it has no {card.name}.") from None
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise CheckpointError(f"{card} cannot be read, or is no checkpoint ({error}); {again}.") from None
    if not is_known:
        raise CheckpointError(f"{card} has format {facts['format']!r}, and this cvae_lib reads format {FORMAT}.")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}); {again}.") from None
    if hashlib.sha256(data).hexdigest() != digest:
        raise CheckpointError(f"{path} was cut short or changed: its checksum is not the card's; {again}.")
    return facts, safetensors.torch.load(data)
