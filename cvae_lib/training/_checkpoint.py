"""Checkpoints on disk: a folder with tensors as safetensors and everything else as JSON; nothing in it is executed.

    folder/checkpoint.json            settings, step, history, random states, and the checksums of both files
    folder/step-000150-1f0c….safetensors   weights, averages, optimiser moments

The tensors are written first, under a name of their own; replacing the JSON file then switches from the old pair
to the new one in a single step of the file system. Whatever happens before that, the old pair is whole.
"""

import base64
import contextlib
import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
import torch
from torch import Tensor

import cvae_lib
from cvae_lib import course
from cvae_lib._files import write_atomically
from cvae_lib.model import CVAE, CVAEConfig
from cvae_lib.training._history import History

CARD = "checkpoint.json"
FORMAT = 1

Tensors = dict[str, Tensor]


class CheckpointError(RuntimeError):
    """A checkpoint is missing, damaged, of another kind than asked for, or cannot be written.

    Attributes:
        history: of a run that came to its end and could not be saved; None otherwise.
    """

    history: History | None = None


def save_checkpoint(folder: str | Path, model: CVAE, history: History | None = None) -> None:
    """Write a model, and the history of its training, into a folder; what was there stays until this is whole.

    This keeps weights, for use or for further training from them. To be able to continue a run exactly, let
    :func:`cvae_lib.training.fit` write the checkpoint.

    Raises:
        CheckpointError: if it cannot be written, for example because the disk is full.
    """
    facts = {"architecture": model.config.as_dict(), "history": (history or History()).to_json()}
    write(Path(folder), facts, prefixed("model", model.state_dict()))


def load_checkpoint(
    folder: str | Path,
    *,
    weights: Literal["final", "live", "ema", "best"] = "final",
    model: CVAE | None = None,
    device: str | torch.device = "cpu",
) -> tuple[CVAE, History]:
    """Return the model of a checkpoint, ready to draw, and the history of its training.

    Args:
        folder: where :func:`save_checkpoint` or ``fit(..., checkpoint=folder)`` wrote it.
        weights: ``live`` are those the optimiser moves, ``ema`` their moving average, ``best`` those early stopping
            keeps; ``final`` are the ones a run that ends here would leave: best, else ema, else live.
        model: what to put the weights into, if settings alone do not make it: a model with parts of your own.
        device: where the model shall be.

    Raises:
        CheckpointError: if it is missing, cut short, edited, of a newer format, or has no such weights.
    """
    facts, tensors = read(Path(folder))
    kinds = {"live": "model", "ema": "ema", "best": "best"}
    held = [name for name, prefix in kinds.items() if any(key.startswith(f"{prefix}.") for key in tensors)]
    if "live" not in held:
        raise CheckpointError(f"The checkpoint in {folder} holds no weights; go back to a copy of it.")
    if weights != "final" and weights not in held:
        raise CheckpointError(f"The checkpoint in {folder} holds no {weights!r} weights, only {' and '.join(held)}.")
    chosen = next(name for name in ("best", "ema", "live") if name in held) if weights == "final" else weights
    if model is None:
        model = CVAE(CVAEConfig.from_dict(facts["architecture"]))
    state = stripped(kinds[chosen], tensors)
    # A state without a float is of no model, which is said below.
    model.to(next((value.dtype for value in state.values() if value.is_floating_point()), torch.float32))
    load_weights(model, state, folder)
    return model.to(course.pick_device(device)).eval(), History.from_json(facts["history"])


def load_weights(model: torch.nn.Module, state: Tensors, folder: str | Path) -> None:
    """Put a state into a model, or say in one sentence what does not fit.

    Raises:
        CheckpointError: if a tensor is missing, left over, or of another shape.
    """
    wanted = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    found = {key: tuple(value.shape) for key, value in state.items()}
    if wrong := sorted(key for key in wanted.keys() | found.keys() if wanted.get(key) != found.get(key)):
        one = wrong[0]
        raise CheckpointError(
            f"The checkpoint in {folder} is of another model: {one} is {found.get(one, 'absent')} there "
            f"and {wanted.get(one, 'absent')} here; build the model with the checkpoint's settings."
        )
    model.load_state_dict(state)


def differences(ours: dict[str, Any], theirs: dict[str, Any]) -> str:
    """Return which settings differ, as ``name=theirs, not ours``; empty if none does."""
    ours = json.loads(json.dumps(ours))
    names = [name for name in {**theirs, **ours} if theirs.get(name) != ours.get(name)]
    return " and ".join(f"{name}={theirs.get(name)!r}, not {ours.get(name)!r}" for name in names)


def prefixed(prefix: str, state: Tensors) -> Tensors:
    """Return the tensors under ``prefix.``, on the CPU, none sharing memory with another."""
    return {f"{prefix}.{key}": value.detach().cpu().contiguous().clone() for key, value in state.items()}


def stripped(prefix: str, tensors: Tensors) -> Tensors:
    """Return the tensors whose name begins with ``prefix.``, without it."""
    return {key.removeprefix(f"{prefix}."): value for key, value in tensors.items() if key.startswith(f"{prefix}.")}


def as_text(state: Tensor) -> str:
    """Return the state of a random generator, bytes, as text for JSON."""
    return base64.b64encode(bytes(state.tolist())).decode()


def from_text(text: str) -> Tensor:
    """Return the state of a random generator from its text."""
    return torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8).clone()


def check_writable(folder: Path) -> None:
    """Write an empty file and take it away again, so that a run does not learn at its end that it cannot be saved.

    Raises:
        CheckpointError: if the folder cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=folder, prefix=f"{CARD}-probe")
        os.close(handle)
        os.unlink(name)
    except FileExistsError:
        raise CheckpointError(f"{folder} is a file, and a checkpoint needs a folder; choose another name.") from None
    except OSError as error:
        raise CheckpointError(
            f"Nothing can be written to {folder} ({error.strerror or error}), so nothing was begun; "
            "free some space there or choose another folder."
        ) from None


def exists(folder: Path) -> bool:
    """Say whether a checkpoint has ever been completed in the folder."""
    return (folder / CARD).exists()


def write(folder: Path, facts: dict[str, Any], tensors: Tensors) -> None:
    """Write a checkpoint in place of the one that is there; on any failure the old one stays.

    Raises:
        CheckpointError: if the folder cannot be made or written to, or the disk is full.
    """
    data = safetensors.torch.save(tensors)
    digest = hashlib.sha256(data).hexdigest()
    name = f"step-{facts.get('step', 0):06d}-{digest[:12]}.safetensors"
    card = {
        "format": FORMAT,
        **facts,
        "versions": {"cvae_lib": cvae_lib.__version__, "torch": torch.__version__},
        "weights": {"file": name, "bytes": len(data), "sha256": digest},
    }
    try:
        write_atomically(folder / name, data)
        text = json.dumps({**card, "checksum": _checksum(card)}, indent=1, allow_nan=False)
        write_atomically(folder / CARD, text.encode())
    except OSError as error:
        old = "the checkpoint that was there is still whole" if exists(folder) else "nothing was there before"
        raise CheckpointError(
            f"The checkpoint could not be written to {folder} ({error.strerror or error}); {old}; "
            "free some space there or choose another folder."
        ) from None
    # Only now may the tensors of older checkpoints, or of writes that were cut off, go.
    for leftover in (*folder.glob("step-*.safetensors*"), *folder.glob(f"{CARD}?*")):
        if leftover.name != name:
            with contextlib.suppress(OSError):
                leftover.unlink()


def read(folder: Path) -> tuple[dict[str, Any], Tensors]:
    """Return what a checkpoint says and its tensors, on the CPU.

    Raises:
        CheckpointError: if it is missing, cut short, edited, or of a newer format.
    """
    card = _read_card(folder)
    promised = card["weights"]
    path = folder / Path(promised["file"]).name
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}); go back to a copy of {folder}.") from None
    if len(data) != promised["bytes"]:
        raise CheckpointError(
            f"{path} was cut short or extended: it has {len(data)} of {promised['bytes']} bytes; "
            f"go back to a copy of {folder}."
        )
    if hashlib.sha256(data).hexdigest() != promised["sha256"]:
        raise CheckpointError(
            f"{path} was changed after it was written, its checksum is another; go back to a copy of {folder}."
        )
    try:
        return card, safetensors.torch.load(data)
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"{path} holds no tensors ({error}); go back to a copy of {folder}.") from None


def _read_card(folder: Path) -> dict[str, Any]:
    path = folder / CARD
    try:
        card: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        checksum = card.pop("checksum")
    except FileNotFoundError:
        raise CheckpointError(f"There is no checkpoint in {folder}: it has no {CARD}.") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}).") from None
    except (ValueError, AttributeError, KeyError, TypeError):
        raise CheckpointError(f"{path} is cut short, or no checkpoint at all; go back to a copy of {folder}.") from None
    if _checksum(card) != checksum:
        raise CheckpointError(
            f"{path} was changed after it was written, its checksum is another; go back to a copy of {folder}."
        )
    if card.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} has format {card.get('format')!r} and this cvae_lib reads format {FORMAT}; "
            f"use version {card.get('versions', {}).get('cvae_lib', 'that wrote it')}."
        )
    for name, keys in (("architecture", ()), ("weights", ("file", "bytes", "sha256")), ("history", None)):
        part = card.get(name)
        if part is None or (keys is not None and not (isinstance(part, dict) and part.keys() >= set(keys))):
            raise CheckpointError(f"{path} does not say the {name} it should; go back to a copy of {folder}.")
    return card


def _checksum(card: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(card, sort_keys=True).encode()).hexdigest()
