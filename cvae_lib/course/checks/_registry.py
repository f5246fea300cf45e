"""The list of exercises, and what happens when an answer to one of them is handed in."""

import functools
import inspect
import os
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cvae_lib.course.checks._probe import Probe
from cvae_lib.course.checks._runner import OutOfTime, limited, untouched
from cvae_lib.course.checks._verdict import NotAttempted, Theirs, Verdict, Wrong, blank_name, theirs

Examine = Callable[..., str | None]


@dataclass(frozen=True)
class Exercise:
    """One exercise: its number and title, how an answer is examined, and the hint for each known mistake."""

    number: str
    title: str
    examine: Examine
    hints: Mapping[str, str]
    seconds: float

    @property
    def chapter(self) -> int:
        """The chapter it belongs to."""
        return int(self.number.split(".")[0])

    @property
    def answers(self) -> list[str]:
        """What is handed in, by name."""
        return list(inspect.signature(self.examine).parameters)[1:]


EXERCISES: dict[str, Exercise] = {}


def exercise(
    number: str, title: str, *, seconds: float = 10.0, hints: Mapping[str, str]
) -> Callable[[Examine], Examine]:
    """Enter a function into the list as the one that examines answers to exercise ``number``.

    The function gets a :class:`Probe` and the answers. It returns nothing, or a remark for an answer that passes; for
    any other it raises :class:`Wrong`, most often through the probe.
    """

    def enter(examine: Examine) -> Examine:
        EXERCISES[number] = Exercise(number, title, examine, hints, seconds)
        return examine

    return enter


def find(number: str) -> Exercise:
    """Return the exercise called ``number``.

    Raises:
        ValueError: if there is none.
    """
    if number not in EXERCISES:
        raise ValueError(f"There is no exercise {number!r}; there are {', '.join(EXERCISES)}.")
    return EXERCISES[number]


def seed() -> int:
    """Return a fresh seed for every check; ``COURSE_CHECK_SEED`` fixes it."""
    fixed = os.environ.get("COURSE_CHECK_SEED")
    return int(fixed) if fixed else secrets.randbelow(2**40)


def examined(number: str, *answer: Any, edition: int = 0) -> Verdict:
    """Examine an answer, for as long as the exercise allows, and leave everything else as it was.

    A class that works with numbers of its own names its ``edition``.

    Raises:
        ValueError: if there is no such exercise, or it wants another number of answers.
    """
    found = find(number)
    if len(answer) != len(found.answers):
        wanted = ", ".join(found.answers)
        raise ValueError(f"Exercise {number} wants check({number!r}, {wanted}), and got {len(answer)} answers.")
    say = functools.partial(Verdict, found.number, found.title)
    blank = [f"`{name}`" for name, part in zip(found.answers, answer, strict=True) if part is ...]
    if blank:
        some = f"{' and '.join(blank)} {'is' if len(blank) == 1 else 'are'} still blank"
        return say("not attempted", note=some if len(blank) < len(answer) else "")
    probe = Probe(found.hints, seed(), edition)
    try:
        with untouched():
            note = limited(lambda: found.examine(probe, *answer), found.seconds)
    except NotAttempted as met:
        cause = met.__cause__
        return say("not attempted", note=f"`{blank_name(cause)}` is still blank" if cause else "")
    except Wrong as wrong:
        return say("wrong", **wrong.found)
    except Theirs as raised:
        what, where = theirs(raised.error)
        return say("raised", on=raised.on, got=what, hint=where)
    except OutOfTime as late:
        return say("out of time", hint=_late(late))
    return say("passed", note=note or "")


def _late(late: OutOfTime) -> str:
    text = f"It did not end within {late.seconds:g} seconds. Is there a loop in it that never ends?"
    if not late.stopped:
        text += " It could not be stopped either: restart the kernel, or it goes on in the background."
    return text
