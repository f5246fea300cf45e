"""Instant feedback on the exercises: what was expected, what came, on which input, and what to look at.

An answer is compared with an independent reference (``torch.distributions``, autograd, quadrature, or many draws) on
inputs of random size and values, never with the published solution. What a check finds it prints; it raises only
under ``COURSE_STRICT=1``, for grading. It runs the answer for a limited time and leaves random numbers, models and
settings of the notebook as they were.
"""

import os
from typing import TYPE_CHECKING, Any

from cvae_lib.course.checks import (
    _progress,
    chapter_01,
    chapter_02,
    chapter_03,
    chapter_04,
    chapter_04_models,  # noqa: F401  (entering its exercises is what it is imported for)
    chapter_05,
    chapter_05_models,  # noqa: F401
    chapter_06,
    chapter_06_models,  # noqa: F401
    chapter_07,
    chapter_07_models,  # noqa: F401
    chapter_08,
    chapter_08_models,  # noqa: F401
)
from cvae_lib.course.checks._registry import EXERCISES, examined
from cvae_lib.course.checks._verdict import Verdict, say

if TYPE_CHECKING:
    from cvae_lib.course.figures import Picture

__all__ = ["CheckFailed", "Verdict", "check", "examined", "grade", "numbers", "progress"]

_CHAPTERS = (chapter_01, chapter_02, chapter_03, chapter_04, chapter_05, chapter_06, chapter_07, chapter_08)
_TITLES = {int(module.__name__[-2:]): module.TITLE for module in _CHAPTERS}


class CheckFailed(AssertionError):
    """An answer that did not pass where it had to; the message is what is otherwise printed."""


def check(number: str, *answer: Any, edition: int = 0) -> None:
    """Check the answer to an exercise and print what was found.

    Args:
        number: of the exercise, such as ``"1.2"``.
        answer: what the exercise asks for, most often one number, function or class.
        edition: whose numbers the exercise is about; 0 for the course as published.

    Raises:
        ValueError: if there is no such exercise, or it wants another number of answers.
        CheckFailed: under ``COURSE_STRICT=1``, if the answer does not pass.
    """
    verdict = examined(number, *answer, edition=edition)
    failed = os.environ.get("COURSE_STRICT") == "1" and verdict.status != "passed"
    if not failed:
        say(str(verdict))
    if verdict.status != "not attempted":
        _progress.record(number, verdict.status == "passed")
    if failed:
        raise CheckFailed(str(verdict))


def grade(number: str, *answer: Any, edition: int = 0) -> None:
    """Check an answer as :func:`check` does, for a mark: raise if it does not pass, print and remember nothing.

    Raises:
        ValueError: if there is no such exercise, or it wants another number of answers.
        CheckFailed: if the answer does not pass.
    """
    verdict = examined(number, *answer, edition=edition)
    if verdict.status != "passed":
        raise CheckFailed(str(verdict))


def progress(chapter: int | None = None) -> "Picture":
    """Draw what has been done so far, of one chapter or of all; it is kept across restarts, in a file of yours.

    Raises:
        ValueError: if the chapter has no exercises.
    """
    if chapter is not None and chapter not in _TITLES:
        raise ValueError(f"Chapter {chapter} has no exercises; chapters {', '.join(map(str, _TITLES))} have.")
    return _progress.picture(chapter, _TITLES)


def numbers(chapter: int | None = None) -> list[str]:
    """Return the numbers of the exercises, of one chapter or of all."""
    return [entry.number for entry in EXERCISES.values() if chapter in (None, entry.chapter)]
