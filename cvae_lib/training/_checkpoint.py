"""Keeping a trained model in a folder, and getting it back."""

from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from cvae_lib.checkpoints import (
    CheckpointError,
    built,
    described,
    load_weights,
    prefixed,
    read,
    stripped,
    unwrapped,
    write,
)
from cvae_lib.environment import pick_device
from cvae_lib.training._history import History

CARD = "checkpoint.json"


def save_checkpoint(folder: str | Path, model: nn.Module, history: History | None = None) -> None:
    """Write a model, and the history of its training, into a folder; what was there stays until this is whole.

    This keeps weights, for use or for further training from them. To be able to continue a run exactly, let
    :func:`cvae_lib.training.fit` write the checkpoint.

    Args:
        folder: where to; made if it is not there.
        model: any module; a compiled or wrapped one is taken out of its wrapping.
        history: of its training.

    Raises:
        CheckpointError: if it cannot be written, for example because the disk is full.
    """
    model = unwrapped(model)
    write(
        Path(folder).expanduser() / CARD,
        {"model": described(model), "history": (history or History()).to_json()},
        prefixed("model", model.state_dict()),
    )


def load_checkpoint(
    folder: str | Path,
    *,
    weights: Literal["final", "live", "ema", "best"] = "final",
    model: nn.Module | None = None,
    device: str | torch.device = "cpu",
) -> tuple[Any, History]:
    """Return the model of a checkpoint, ready to draw, and the history of its training.

    Args:
        folder: where :func:`save_checkpoint` or ``fit(..., checkpoint=folder)`` wrote it.
        weights: ``live`` are those the optimiser moves, ``ema`` their moving average, ``best`` those early stopping
            keeps; ``final`` are the ones a run that ends here would leave: best, else ema, else live.
        model: what to put the weights into, where settings alone do not make it: a model with parts of your own.
        device: where the model shall be.

    Raises:
        CheckpointError: if it is missing, damaged or of another format, has no such weights, or its model has parts
            that settings do not make and ``model`` is not given.
    """
    facts, tensors = read(Path(folder).expanduser() / CARD)
    kinds = {"live": "model", "ema": "ema", "best": "best"}
    held = [name for name, prefix in kinds.items() if any(key.startswith(f"{prefix}.") for key in tensors)]
    if weights != "final" and weights not in held:
        raise CheckpointError(f"The checkpoint in {folder} holds no {weights!r} weights, only {' and '.join(held)}.")
    chosen = next(name for name in ("best", "ema", "live") if name in held) if weights == "final" else weights
    found = stripped(kinds[chosen], tensors)
    model = built(facts["model"], found, str(folder)) if model is None else unwrapped(model)
    load_weights(model, found, str(folder))
    return model.to(pick_device(device)).eval(), History.from_json(facts["history"])
