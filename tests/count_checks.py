"""Count the exercises and their checks, and see how many known wrong answers get the hint that is theirs.

    python tests/count_checks.py [chapter ...]

Answers come from tests/answers: right ones of every kind, the published solutions included, and known wrong ones.
Exits with 1 if a right answer does not pass, or a wrong one is not met with its own hint.
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":
    here = Path(__file__).resolve().parent
    sys.path[:0] = [str(here.parent), str(here.parent / "authoring"), str(here)]
    os.environ.setdefault("COURSE_PROFILE", "fast")

from answers import RIGHT, WRONG
from answers.models import of_chapter, wrong_models

from cvae_lib.course.checks import examined, numbers
from cvae_lib.course.checks._registry import EXERCISES


@dataclass
class Count:
    """What there is of one chapter, or of all."""

    exercises: int = 0
    right: int = 0
    passed: int = 0
    wrong: int = 0
    caught: int = 0

    def __add__(self, other: "Count") -> "Count":
        return Count(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))


def count(chapter, missed):
    """Examine every known answer to a chapter's exercises; append a line to ``missed`` for each that surprises."""
    total, solutions, models = Count(), of_chapter("solutions", chapter), wrong_models(chapter)
    for number in numbers(chapter):
        total.exercises += 1
        for how, answer in [("the solution", solutions[number]), *RIGHT.get(number, [])]:
            verdict = examined(number, *answer)
            total.right, total.passed = total.right + 1, total.passed + (verdict.status == "passed")
            if verdict.status != "passed":
                missed.append(f"{number} right, {how}: {verdict.status} {verdict.mistake}")
        rows = WRONG.get(number, []) + [row[1:] for row in models if row[0] == number]
        for mistake, how, answer in rows:
            verdict = examined(number, *answer)
            caught = verdict.status == "wrong" and verdict.hint == EXERCISES[number].hints[mistake]
            total.wrong, total.caught = total.wrong + 1, total.caught + caught
            if not caught:
                missed.append(f"{number} wrong, {how}: {verdict.status} {verdict.mistake}, not {mistake}")
    return total


def main(chapters):
    """Print one line for each chapter and one for all; return 1 if an answer was not met as it should be."""
    missed, total = [], Count()
    known = sorted({entry.chapter for entry in EXERCISES.values()})
    print("chapter  exercises  checks  right answers  passed  wrong answers  caught with their own hint")
    for chapter in [int(name) for name in chapters] or known:
        found = count(chapter, missed)
        total += found
        print(row(f"{chapter:02d}", found))
    print(row("all", total))
    print(*missed, sep="\n", end="\n" if missed else "")
    return 1 if missed else 0


def row(name, found):
    """Return one line of the table; every exercise has one check."""
    cells = (found.exercises, found.exercises, found.right, found.passed, found.wrong, found.caught)
    widths = (9, 6, 13, 6, 13, 26)
    return f"{name:<7}" + "".join(f"  {cell:>{width}}" for cell, width in zip(cells, widths, strict=True))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
