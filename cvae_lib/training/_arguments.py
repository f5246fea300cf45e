"""What ``fit`` is given, looked at before anything happens: numbers in range, a model that can learn, images."""

import math
import os
import reprlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from cvae_lib.data import ImageSet
from cvae_lib.model import CVAE

SEEDS = 2**63  # what torch's generators take; validation and noise count on from there


def whole(name: str, value: Any, least: int | None = 1) -> Any:
    """Return a whole number as int, also one that came as 64.0 or from numpy; None stays None.

    Raises:
        ValueError: if it is no whole number, or below ``least``.
    """
    if value is None:
        return None
    bound = "" if least is None else f" of at least {least}"
    try:
        number = None if isinstance(value, bool | str | bytes) or value != int(value) else int(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        number = None
    if number is None:
        raise ValueError(f"{name} must be a whole number{bound}, not {reprlib.repr(value)}.")
    if least is not None and number < least:
        raise ValueError(f"{name} must be at least {least}, not {number}.")
    return number


def real(name: str, value: Any) -> Any:
    """Return a number as float, also one from numpy or a tensor; None stays None.

    Raises:
        ValueError: if it is no number.
    """
    if value is None:
        return None
    try:
        if isinstance(value, bool | str | bytes):
            raise TypeError
        return float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        raise ValueError(f"{name} must be a number, not {reprlib.repr(value)}.") from None


def positive(name: str, value: Any) -> Any:
    """Return a number above 0 and finite, as float; None stays None.

    Raises:
        ValueError: if it is another one, or none.
    """
    number = real(name, value)
    if number is not None and not 0 < number < math.inf:
        raise ValueError(f"{name} must be above 0 and finite, not {value}.")
    return number


def weight(name: str, value: Any) -> Any:
    """Return a number of at least 0 and finite, as float.

    Raises:
        ValueError: if it is another one, or none.
    """
    number = math.nan if value is None else real(name, value)
    if not 0 <= number < math.inf:
        raise ValueError(f"{name} must be at least 0 and finite, not {value}.")
    return number


def decay(value: Any) -> Any:
    """Return the decay of the averaged weights, as float; None stays None.

    Raises:
        ValueError: if it does not lie between 0 and 1.
    """
    number = real("ema", value)
    if number is not None and not 0 < number < 1:
        raise ValueError(f"ema must lie between 0 and 1, such as 0.999, not be {value}.")
    return number


def given(name: str, value: Any) -> Any:
    """Return a value that may not be None.

    Raises:
        ValueError: if it is None.
    """
    if value is None:
        raise ValueError(f"{name} must be a number, not None.")
    return value


def seed_of(value: Any) -> int:
    """Return a seed as int.

    Raises:
        ValueError: if torch's generators do not take it.
    """
    number: int = whole("seed", given("seed", value), None)
    if not -SEEDS <= number < SEEDS:
        raise ValueError(f"seed must lie between -2**63 and 2**63 - 1, not be {number}.")
    return number


def folder(value: Any) -> Path:
    """Return the path of a checkpoint.

    Raises:
        ValueError: if it is none.
    """
    if not isinstance(value, str | os.PathLike) or not str(value) or "\0" in str(value):
        raise ValueError(f"checkpoint must be a folder, as text or path, not {reprlib.repr(value)}.")
    return Path(value).expanduser()


def check_model(model: Any) -> None:
    """Look whether this is a model, and one that can learn.

    Raises:
        ValueError: if it is none, was compiled or wrapped, holds no numbers, or nothing in it is to be trained.
    """
    if not isinstance(model, CVAE):
        inner = [getattr(model, name, None) for name in ("_orig_mod", "module")]
        way = "pass the model itself, fit compiles (compile=True) and spreads it" if any(inner) else "build one"
        raise ValueError(f"model must be a cvae_lib.model.CVAE, not {_called(model)}; {way}.")
    if model.device.type == "meta":
        raise ValueError("The model is on the meta device and holds no numbers; build it on the CPU, fit moves it.")
    dtypes = {parameter.dtype for part in (model.encoder, model.decoder) for parameter in part.parameters()}
    if len(dtypes) > 1 or dtypes - {torch.float32, torch.float64}:
        names = " and ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))
        raise ValueError(
            f"Weights must all be float32, or all float64, to be trained, not {names}; call model.float(), and "
            "precision='bf16' multiplies in bfloat16."
        )
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError("Every parameter of the model is frozen: set requires_grad_(True) on what is to be trained.")
    if not torch.is_grad_enabled():
        raise ValueError("Gradients are switched off here; call fit outside torch.no_grad() and inference_mode().")


def check_images(name: str, data: Any) -> None:
    """Look whether these are images as the loop takes them.

    Raises:
        ValueError: if they are something else.
    """
    if not isinstance(data, ImageSet):
        raise ValueError(
            f"{name} must be a cvae_lib.data.ImageSet, not {_called(data)}; make one of uint8 images and int64 labels: "
            "ImageSet(images, labels, name)."
        )


def judged(validation: Any) -> tuple[ImageSet, Any]:
    """Return validation images and their y.

    Raises:
        ValueError: if it is neither a set nor a pair of a set and its y.
    """
    pair = validation if isinstance(validation, tuple | list) else (validation, None)
    if len(pair) != 2:
        raise ValueError(f"validation must be images, or a pair (images, y), not {len(pair)} things.")
    check_images("validation", pair[0])
    return pair[0], pair[1]


def check_function(name: str, value: Any, form: str) -> None:
    """Look whether this can be called, if it is there at all.

    Raises:
        ValueError: if it cannot.
    """
    if value is not None and not callable(value):
        raise ValueError(f"{name} must be a function {form}, not {reprlib.repr(value)}.")


def check_scale(name: str, value: Any, step: int) -> float:
    """Return what a schedule gave for a step, a number, or a tensor of one as it is.

    Raises:
        ValueError: if it is none, negative, or not finite.
    """
    if isinstance(value, float | int):
        fine = 0 <= value < math.inf
    else:
        try:
            fine = not isinstance(value, str) and 0 <= float(value) < math.inf
        except (TypeError, ValueError, RuntimeError):
            fine = False
    if not fine:
        raise ValueError(
            f"{name} must give a finite number of at least 0, and at step {step} it gave {reprlib.repr(value)}."
        )
    scale: float = value
    return scale


def beta_called(beta: Any) -> Callable[[int], Any]:
    """Return beta as a function of the step.

    Raises:
        ValueError: if it is a number out of range, or neither number nor function.
    """
    if callable(beta):
        function: Callable[[int], Any] = beta
        return function
    number = weight("beta", beta)
    return lambda step: number


def _called(value: Any) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__
