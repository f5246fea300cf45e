"""How numbers are rounded while a model trains or is judged, and what its steps are compiled to."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from types import CodeType, FunctionType
from typing import Any, Literal

import torch

from cvae_lib import course
from cvae_lib.training._rows import by_rows

Precision = Literal["auto", "float32", "bf16"]

MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")


def autocast(device: torch.device, precision: Precision) -> contextlib.AbstractContextManager[object]:
    """Return the context for a forward pass: bfloat16 products, or plain float32.

    ``auto`` is bfloat16 only where the hardware multiplies it natively.

    Raises:
        ValueError: if the precision is unknown.
    """
    if precision not in ("auto", "float32", "bf16"):
        raise ValueError(f"precision is 'auto', 'float32' or 'bf16', not {precision!r}.")
    wanted = precision == "bf16" or (precision == "auto" and course.has_native_bf16(device))
    if wanted:
        return torch.autocast(device.type, dtype=torch.bfloat16)
    if torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)  # the caller's own must not round what is asked in float32
    return contextlib.nullcontext()


def asks(device: torch.device) -> bool:
    """Say whether the loss is looked at in every step, or only once in an epoch because looking is dear."""
    return device.type != "cuda"


@contextlib.contextmanager
def repeatable(wanted: bool = True) -> Iterator[None]:
    """Have gradients of look-ups, such as learned embeddings, added up in one order; the former state afterwards.

    A compiled step on a CPU would add them up in the order in which its threads come by.
    """
    if not wanted:
        yield
        return
    was_on = torch.are_deterministic_algorithms_enabled()
    only_warned = torch.is_deterministic_algorithms_warn_only_enabled()
    memory: Any = torch.utils.deterministic
    filled = memory.fill_uninitialized_memory
    try:
        torch.use_deterministic_algorithms(True, warn_only=only_warned or not was_on)
        memory.fill_uninitialized_memory = was_on and filled  # it would only cost time
        yield
    finally:
        torch.use_deterministic_algorithms(was_on, warn_only=only_warned)
        memory.fill_uninitialized_memory = filled


def compiled(
    function: Callable[..., Any],
    how: bool | str,
    device: torch.device,
    say: Callable[[str], object] = print,
    kind: str = "",
    blocks: int = 1,
) -> Callable[..., Any]:
    """Return ``function`` through ``torch.compile``, or as it is, with a sentence why, where that cannot work.

    Args:
        function: what to compile; it is compiled when it is first called.
        how: False for not at all, True, or a mode of ``torch.compile`` such as "reduce-overhead" (CUDA graphs).
        device: where it will run. One small kernel is built there first, to see whether there is a compiler.
        say: what the sentence is passed to.
        kind: of model that it is compiled for; those of one kind share what was built, those of others do not meet it.
        blocks: into how many blocks of rows its linear layers are cut, see :mod:`cvae_lib.training._rows`.

    Raises:
        ValueError: if ``how`` is neither a bool nor a mode.
    """
    if not isinstance(how, bool) and how not in MODES:
        raise ValueError(f"compile is True, False or a mode ({', '.join(MODES)}), not {how!r}.")
    if how is False:
        return function
    mode = how if isinstance(how, str) else None
    try:
        torch.compile(lambda t: t.sin() + 1)(torch.ones(8, device=device))
    except Exception as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        say(f"torch.compile cannot build a kernel here ({reason[:150]}), so training runs uncompiled.")
        return function
    made: Callable[..., Any] = torch.compile(_apart(by_rows(function, blocks), kind), mode=mode)
    return made


def _apart(function: Callable[..., Any], kind: str) -> Callable[..., Any]:
    """Return the function with code of its own for each kind of model.

    The compiler builds at most eight versions of one piece of code and from then on runs it uncompiled: the eighth
    architecture of a study would have been slow, without an error.
    """
    if not isinstance(function, FunctionType):
        return function
    code = _code(function.__code__, kind)
    twin = FunctionType(code, function.__globals__, function.__name__, function.__defaults__, function.__closure__)
    twin.__kwdefaults__ = function.__kwdefaults__
    return twin


@functools.cache
def _code(code: CodeType, kind: str) -> CodeType:
    return code.replace()
