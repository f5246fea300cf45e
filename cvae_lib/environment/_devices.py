"""Devices, the precision of products on them, and the mode of a model while it is judged."""

import contextlib
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from cvae_lib.environment._settings import settings

Precision = Literal["auto", "float32", "bf16"]


def pick_device(name: str | torch.device = "auto") -> torch.device:
    """Return the device called ``name``; ``auto`` is what the settings say, else CUDA, then MPS, then CPU.

    Raises:
        ValueError: if the name is unknown or this machine has no such device.
    """
    if isinstance(name, str) and name == "auto":
        name = settings.device or "auto"
    if isinstance(name, str) and name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError) as error:
        raise ValueError(f"There is no device {str(name)!r} here; use 'auto' or 'cpu'.") from error
    return device


def has_native_bf16(device: torch.device) -> bool:
    """Say whether ``device`` multiplies bfloat16 matrices in hardware, so that autocast pays."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    if device.type == "cpu":
        # torch has no public name for these. A version that lacks them is taken to lack the feature.
        asks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        return any(getattr(torch.cpu, ask, lambda: False)() for ask in asks)
    return False


def autocast(device: torch.device, precision: Precision) -> contextlib.AbstractContextManager[object]:
    """Return the context for a forward pass: bfloat16 products, or plain float32.

    ``auto`` is bfloat16 only where the hardware multiplies it natively.

    Raises:
        ValueError: if the precision is unknown.
    """
    if precision not in ("auto", "float32", "bf16"):
        raise ValueError(f"precision is 'auto', 'float32' or 'bf16', not {precision!r}.")
    if precision == "bf16" or (precision == "auto" and has_native_bf16(device)):
        return torch.autocast(device.type, dtype=torch.bfloat16)
    if torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)  # the caller's own must not round what is asked in float32
    return contextlib.nullcontext()


@contextlib.contextmanager
def evaluation_mode(
    *models: object, device: torch.device | None = None, precision: Precision = "float32"
) -> Iterator[None]:
    """Put models into evaluation mode, without gradients, in float32 unless asked; each module's mode is restored.

    Args:
        models: what is judged; what is no ``nn.Module`` has no mode, and is left alone.
        device: where they are; that of the first parameter if None.
        precision: of the products.
    """
    modules = [part for model in models if isinstance(model, nn.Module) for part in model.modules()]
    modes = [part.training for part in modules]
    if device is None:
        tensors = (t for model in models if isinstance(model, nn.Module) for t in [*model.parameters()][:1])
        device = next((t.device for t in tensors), torch.device("cpu"))
    try:
        for part in modules:
            part.training = False
        with torch.no_grad(), autocast(device, precision):
            yield
    finally:
        for part, mode in zip(modules, modes, strict=True):
            part.training = mode


@contextlib.contextmanager
def plain_defaults() -> Iterator[None]:
    """Make new tensors float32 on the CPU, whatever :func:`torch.set_default_dtype` or a default device say outside.

    A context, and a decorator of what draws data: the same seed gives the same data in every program.
    """
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.device("cpu"):
            yield
    finally:
        torch.set_default_dtype(dtype)


def is_cheap_to_inspect(values: Tensor) -> bool:
    """Say whether there are numbers, and looking at them costs next to nothing.

    A GPU would have to be waited for, a function that is being compiled would be split in two, and inside
    :func:`torch.func.vmap` no single value can be asked for; there what is out of range has to be taken as it comes.
    """
    if values.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    try:
        return values.data_ptr() != 0
    except RuntimeError:  # the stand-ins of torch.func have no numbers of their own
        return False
