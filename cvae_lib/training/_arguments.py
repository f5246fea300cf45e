"""What ``fit`` is given, looked at before anything happens."""

import contextlib
import math
import numbers
import reprlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from cvae_lib.environment import at_most, settings
from cvae_lib.objective import LatentVariableModel
from cvae_lib.training._batches import Batches


def check_model(model: Any) -> None:
    """Look whether this is a model, and one that can learn.

    Raises:
        ValueError: if it is none, was compiled or wrapped, or nothing in it can be trained.
    """
    if not isinstance(model, nn.Module) or hasattr(model, "_orig_mod") or not isinstance(model, LatentVariableModel):
        raise ValueError(
            "model must be a CVAE, or a module with the methods posterior, prior and likelihood, not "
            f"{type(model).__name__}; one that is compiled or wrapped is to be passed as it was before."
        )
    dtypes = {parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()}
    if len(dtypes) != 1 or dtypes - {torch.float32, torch.float64}:
        names = " and ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes)) or "absent"
        raise ValueError(
            f"Weights must all be float32, or all float64, to be trained, not {names}; call model.float(), and "
            "precision='bf16' multiplies in bfloat16."
        )
    if any(parameter.is_meta for parameter in model.parameters()):
        raise ValueError("The model is on the meta device and holds no numbers; build it on the CPU, fit moves it.")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError("Every parameter of the model is frozen: set requires_grad_(True) on what is to be trained.")
    if not torch.is_grad_enabled():
        raise ValueError("Gradients are switched off here; call fit outside torch.no_grad() and inference_mode().")


def check_positive(**limits: Any) -> None:
    """Look whether the numbers that are given are above 0 and finite, and those that count are whole.

    Raises:
        ValueError: naming the first that is not.
    """
    for name, value in limits.items():
        if value is None and name not in ("batch_size", "learning_rate"):
            continue
        is_real = name in ("learning_rate", "clip")
        is_number = isinstance(value, numbers.Real if is_real else numbers.Integral) and not isinstance(value, bool)
        if not is_number or not 0 < value < math.inf:
            kind = "a finite number above 0" if is_real else "a whole number of at least 1"
            raise ValueError(f"{name} must be {kind}, not {reprlib.repr(value)}.")


def budget(batches: Batches, epochs: int | None, steps: int | None) -> tuple[int, int | None]:
    """Return steps in all, and steps in an epoch, or None where nobody knows.

    Raises:
        ValueError: if the data are a stream, and ``steps`` is not given, or there is nothing in them.
    """
    try:
        per_epoch = len(batches)
    except TypeError:
        if steps is None:
            raise ValueError("The data are a stream, whose length nobody knows: pass steps=...") from None
        per_epoch = None
    total = steps if steps is not None else (epochs or 40) * (per_epoch or 0)
    if not total:
        raise ValueError(f"{batches.name} gives no batch; drop_last may leave nothing.")
    return at_most(total, settings.steps), per_epoch


def weight_of(beta: float | Callable[[int], float], step: int) -> float:
    """Return beta at a step.

    Raises:
        ValueError: if it is no finite number of at least 0.
    """
    value = beta(step) if callable(beta) else beta
    try:
        if 0 <= float(value) < math.inf and not isinstance(value, str | bool):
            return float(value)
    except (TypeError, ValueError):
        pass
    raise ValueError(f"beta must be a finite number of at least 0, and at step {step} it is {reprlib.repr(value)}.")


@contextlib.contextmanager
def out_of_memory_named(device: torch.device, batch_size: int) -> Iterator[None]:
    """Say in one sentence that a batch does not fit into memory."""
    try:
        yield
    except RuntimeError as error:
        signs = ("out of memory", "can't allocate memory", "not enough memory")
        if not isinstance(error, torch.cuda.OutOfMemoryError) and not any(sign in str(error) for sign in signs):
            raise
        raise torch.cuda.OutOfMemoryError(
            f"The memory of {device} does not hold a step with batch_size={batch_size}; "
            f"try batch_size={max(1, batch_size // 2)}."
        ) from None
