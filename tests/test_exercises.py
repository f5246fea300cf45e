"""The exercise notebooks: they run blank and solved, say what they ask, and no update loses what is in them."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import sources
from answers.models import STEMS
from sources import Target

from cvae_lib.course import checks
from cvae_lib.course.checks._registry import EXERCISES

ROOT = Path(__file__).resolve().parent.parent
RUNNER = ROOT / "tests" / "run_cells.py"
WRONG_BY_HAND = 'from cvae_lib.course.checks import check\ncheck("1.1", 6.8)'


def run(path, tmp_path, **environment):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("COURSE_")}
    kept |= {"COURSE_PROFILE": "fast", "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg", "PYTHONPATH": str(ROOT)}
    kept |= {"IPYTHONDIR": str(tmp_path / "ipython"), "CVAE_STATE": str(tmp_path / "state")} | environment
    command = [sys.executable, str(RUNNER), str(path)]
    return subprocess.run(command, env=kept, cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


# A class of their own, because workers share tests by class: these are long. The solutions run under nbval, strictly.


@pytest.mark.parametrize("stem", STEMS)
class TestBlank:
    def test_a_blank_notebook_runs_from_top_to_bottom_and_nothing_is_attempted(self, stem, tmp_path):
        done = run(ROOT / "exercises" / f"{stem}.ipynb", tmp_path)
        assert done.returncode == 0, done.stdout[-3000:]
        numbers = checks.numbers(int(stem[:2]))
        assert [line.split()[0] for line in done.stdout.splitlines() if " not attempted yet" in line] == numbers
        assert not (tmp_path / "state").exists()


def test_a_check_that_fails_stops_a_strict_run(tmp_path):
    """What the gate for solutions rests on."""
    (tmp_path / "wrong.ipynb").write_text(
        json.dumps({"cells": [{"cell_type": "code", "source": WRONG_BY_HAND}], "metadata": {}})
    )
    assert run(tmp_path / "wrong.ipynb", tmp_path).returncode == 0
    strict = run(tmp_path / "wrong.ipynb", tmp_path, COURSE_STRICT="1")
    assert strict.returncode == 1 and "CheckFailed" in strict.stdout
    assert "COURSE_STRICT=1" in (ROOT / "Makefile").read_text().split("\ntest:")[1].split("\n\n")[0]


@pytest.mark.parametrize("stem", STEMS)
def test_a_solution_asks_every_check(stem):
    cells = sources.expected(Target("solutions", stem, ROOT)).cells
    asked = [re.findall(r'^check\("([\d.]+)", ', cell.source, re.M) for cell in cells if cell.cell_type == "code"]
    assert sum(asked, []) == checks.numbers(int(stem[:2]))


@pytest.mark.parametrize("stem", STEMS)
def test_every_exercise_has_number_title_difficulty_minutes_check_and_two_hints(stem):
    cells = sources.expected(Target("exercises", stem, ROOT)).cells
    text = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    code = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
    numbers = checks.numbers(int(stem[:2]))
    assert len(numbers) >= 4
    parts = re.split(r"^## (?=\d+\.\d+ · )", text, flags=re.M)[1:]
    assert [part.split(" · ")[0] for part in parts] == numbers
    minutes, kinds = 0, []
    for number, part in zip(numbers, parts, strict=True):
        kind, took = re.search(r"^\*([\w, ]+) · [★☆]{3} · (\d+) minutes\*$", part, re.M).groups()
        kinds.append(kind)
        minutes += int(took)
        assert part.count("<details>") == part.count("</details>") == 2
        assert f'check("{number}", ' in code
    assert {"By hand", "Implement", "Predict, then measure", "Open stretch"} == set(kinds)
    assert f"about {minutes} minutes" in text


def test_grading_marks_stand_on_every_answer_and_every_check():
    for stem in STEMS:
        source = sources.expected(Target("exercises", stem, ROOT))
        marks = [cell.metadata.get("nbgrader") for cell in source.cells]
        for cell, mark in zip(source.cells, marks, strict=True):
            if cell.cell_type == "code" and ("your code here" in cell.source or "check(" in cell.source):
                assert mark is not None, cell.source
                assert mark["solution"] == ("your code here" in cell.source)
                assert mark["grade"] == mark["locked"] == cell.source.startswith("check(")
        names = [mark["grade_id"] for mark in marks if mark]
        assert len(set(names)) == len(names)


def prose(kind, stem):
    return "\n\n".join(
        cell.source for cell in sources.expected(Target(kind, stem, ROOT)).cells if cell.cell_type == "markdown"
    )


@pytest.mark.parametrize("stem", STEMS)
def test_a_chapter_ends_with_the_door_to_its_exercises_and_they_lead_back(stem):
    (door,) = re.findall(r"^\*\*Exercises:\*\* \[.+\]\((.+)\)\.$", prose("notebooks", stem), re.M)
    assert door == f"../exercises/{stem}.ipynb"
    for kind in ("exercises", "solutions"):
        assert (ROOT / kind / f"{stem}.ipynb").is_file()
        assert f"(../notebooks/{stem}.ipynb)" in prose(kind, stem)


@pytest.mark.parametrize("stem", STEMS)
def test_the_equations_that_tasks_and_hints_name_are_in_the_chapters(stem):
    numbered = set(re.findall(r"\\tag\{(.+?)\}", "".join(prose("notebooks", chapter) for chapter in STEMS)))
    hints = [hint for number in checks.numbers(int(stem[:2])) for hint in EXERCISES[number].hints.values()]
    named = set(re.findall(r"\((\d+\.\d+)\)", prose("exercises", stem) + "".join(hints)))
    assert named and named <= numbered


def test_the_instructors_table_has_the_minutes_and_points_of_the_sources():
    rows = re.findall(r"^\| (\d\d) · .* \| (\d+) \| (\d+) \| ", (ROOT / "CLASSROOM.md").read_text(), re.M)
    wanted = []
    for stem in STEMS:
        marks = [cell.metadata.get("nbgrader", {}) for cell in sources.expected(Target("exercises", stem, ROOT)).cells]
        (minutes,) = re.findall(r"about (\d+) minutes", prose("exercises", stem))
        wanted.append((stem[:2], minutes, str(sum(mark.get("points", 0) for mark in marks))))
    assert rows == wanted
