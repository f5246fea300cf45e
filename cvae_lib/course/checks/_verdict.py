"""What a check found, and how it says so."""

import linecache
import sys
import sysconfig
import textwrap
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

import cvae_lib

Status = Literal["passed", "wrong", "not attempted", "raised", "out of time"]

SHOWN = 6  # entries of a tensor that are printed; of more than this many, only the first
FOLD = textwrap.TextWrapper(width=84, break_long_words=False, break_on_hyphens=False)  # fits a narrow notebook
HEADLINES = {
    "passed": "passed",
    "wrong": "not right yet",
    "not attempted": "not attempted yet",
    "raised": "stopped in your code",
    "out of time": "took too long",
}


@dataclass(frozen=True)
class Verdict:
    """What a check found.

    Attributes:
        number: of the exercise, such as ``1.2``.
        title: of the exercise.
        status: whether it passed, and if not, in which way.
        mistake: the known mistake it was recognised as, by its short name; empty for none.
        on: the input it was tried on.
        expected: what should have come.
        got: what came.
        hint: what to look at.
        note: what a check that passed has to add.
    """

    number: str
    title: str
    status: Status
    mistake: str = ""
    on: str = ""
    expected: str = ""
    got: str = ""
    hint: str = ""
    note: str = ""

    def __str__(self) -> str:
        lines = [f"{self.number} {HEADLINES[self.status]}: {self.title}"]
        for name in ("on", "expected", "got", "hint", "note"):
            if text := getattr(self, name):
                first, *rest = FOLD.wrap(text) if name in ("hint", "note") else text.splitlines()
                lines += [f"  {name:<9} {first}", *(f"  {'':<9} {line}" for line in rest)]
        return "\n".join(lines)


class NotAttempted(Exception):
    """A blank was met; the message names it, if it is not the exercise itself."""


class Wrong(Exception):
    """An answer that is not right; carries what :class:`Verdict` needs."""

    def __init__(self, hint: str, *, mistake: str = "", on: str = "", expected: str = "", got: str = "") -> None:
        super().__init__(hint)
        self.found = {"hint": hint, "mistake": mistake, "on": on, "expected": expected, "got": got}


class Theirs(Exception):
    """An exception out of the learner's own code."""

    def __init__(self, error: BaseException, on: str) -> None:
        super().__init__(str(error))
        self.error, self.on = error, on


def say(text: str) -> None:
    """Print a text, with question marks for what the terminal has no letters for."""
    try:
        print(text)
    except UnicodeEncodeError:
        encoding = sys.stdout.encoding or "ascii"
        print(text.encode(encoding, "replace").decode(encoding))


def shown(value: Any) -> str:
    """Return a value as one short line: numbers to four digits, of a large tensor its shape and its beginning."""
    if isinstance(value, Tensor):
        data = value.detach().cpu()
        if data.ndim == 0:
            return shown(data.item())
        if data.numel() <= SHOWN:
            return str(_rounded(data.tolist()))
        start = ", ".join(shown(entry) for entry in data.flatten()[:SHOWN].tolist())
        return f"shape {tuple(data.shape)}, begins {start}, ..."
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, tuple | list):
        rest = f", ... {len(value)} in all" if len(value) > SHOWN else ""
        return "(" + ", ".join(shown(entry) for entry in value[:SHOWN]) + rest + ")"
    if isinstance(value, str | int | bool | None):
        return repr(value)
    named = [f"{name} = {shown(entry)}" for name, entry in vars(value).items()] if hasattr(value, "__dict__") else []
    return ", ".join(named) if named and all(len(text) < 40 for text in named) else f"a {type(value).__name__}"


def _rounded(values: Any) -> Any:
    if isinstance(values, list):
        return [_rounded(value) for value in values]
    return float(f"{values:.4g}") if isinstance(values, float) else values


def dtype_name(dtype: torch.dtype) -> str:
    """Return ``float32`` for ``torch.float32``."""
    return str(dtype).removeprefix("torch.")


_FOREIGN = (sysconfig.get_path("stdlib"), str(Path(cvae_lib.__file__).parent), "<frozen")
_INSTALLED = {"site-packages", "dist-packages"}  # wherever packages lie: of the environment, the system, or the user


def theirs(error: BaseException) -> tuple[str, str]:
    """Return an exception as a learner should see it: what was raised, and the line of theirs it came from."""
    message = (str(error).strip() or "no message").splitlines()[0]
    what = f"{type(error).__name__}: {message[:200]}"
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if not _is_foreign(frame.filename)]
    if not own or own[-1].lineno is None:
        return what, ""
    line = own[-1].line or linecache.getline(own[-1].filename, own[-1].lineno)
    return what, f"line {own[-1].lineno} of `{own[-1].name}`:  {line.strip()[:120]}"


def blank_name(error: BaseException) -> str:
    """Return the name of the function whose blank raised ``NotImplementedError``."""
    frames = traceback.extract_tb(error.__traceback__)
    return frames[-1].name if frames else ""


def raised_as_blank(error: BaseException) -> bool:
    """Say whether ``NotImplementedError`` comes from a learner's own line, and not from a library that refuses."""
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and not _is_foreign(frames[-1].filename)


def _is_foreign(filename: str) -> bool:
    return filename.startswith(_FOREIGN) or not _INSTALLED.isdisjoint(Path(filename).parts)
