"""A class's round: release, three submissions, marks and feedback, without a browser."""

import csv

import nbformat
import pytest

pytest.importorskip("nbgrader", reason="the extra 'classroom' is not installed")

import classroom
import sources

STEM, EDITION = "02_the_conditional_elbo", 7
SECONDS = 25  # for one cell; the endless loop below costs as much
DEAF = "while True:\n    try:\n        while True:\n            pass\n    except BaseException:\n        pass"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A released course of one assignment, in a folder with a space in its name."""
    made = tmp_path_factory.mktemp("a class")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COURSE_PROFILE", "fast")
        assert classroom.main(["release", STEM, "--edition", str(EDITION), "--folder", str(made)]) == 0
    return made


def notebook(folder, kind):
    return nbformat.read(folder / kind / STEM / f"{STEM}.ipynb", as_version=4)


def mark_of(cell):
    return cell.metadata.get("nbgrader", {})


def test_what_students_get_holds_no_answers_and_no_hidden_tests(folder):
    source, released = notebook(folder, "source"), notebook(folder, "release")
    text = "\n".join(cell.source for cell in released.cells)
    assert "###" not in text and "_grade" not in text and "](../" not in text and "solutions" not in text
    solved = sources.expected(sources.Target("solutions", STEM), EDITION).cells
    blanks = sources.expected(sources.Target("exercises", STEM), EDITION).cells
    for cell, answer, blank, whole in zip(released.cells, solved, blanks, source.cells, strict=True):
        if mark_of(cell).get("solution"):
            assert cell.source == blank.source != answer.source
            assert "### BEGIN SOLUTION" in whole.source
        if mark_of(cell).get("grade"):
            assert cell.metadata["editable"] is cell.metadata["deletable"] is False
            assert "### BEGIN HIDDEN TESTS" in whole.source and whole.source.startswith(cell.source)
    assert f'check("2.1", gap, bound, edition={EDITION})' in text and 'check("2.2", posterior)' in text
    assert "\\mathcal N(0,\\, 0.8^2)" in text and "0.3" not in text.split("## 2.2")[0].split("## 2.1")[1]


def submit(folder, student, change):
    """Hand in the released notebook after `change`, which gets its cells and the answers by the cells' names."""
    submitted = notebook(folder, "release")
    answers = {
        mark_of(cell)["grade_id"]: sources.without_marked(cell.source, "solutions", student)
        for cell in notebook(folder, "source").cells
        if mark_of(cell).get("solution")
    }
    change(submitted.cells, answers)
    path = folder / "submitted" / student / STEM / f"{STEM}.ipynb"
    path.parent.mkdir(parents=True)
    nbformat.write(submitted, path)


def place(cells, name):
    return next(index for index, cell in enumerate(cells) if mark_of(cell).get("grade_id") == name)


def answer(cells, answers, *names):
    for name in names:
        cells[place(cells, f"exercise-{name}")].source = answers[f"exercise-{name}"]


def right(cells, answers):
    answer(cells, answers, *(name.removeprefix("exercise-") for name in answers))


def half(cells, answers):
    """2.1 to 2.3 right, a known mistake in 2.4, the rest not attempted."""
    answer(cells, answers, "2-1", "2-2", "2-3")
    at = cells[place(cells, "exercise-2-4")]
    at.source = at.source.replace(sources.BLANK, "return log_weights.mean(1)")


def sabotaged(cells, answers):
    """2.3 and 2.6 right, 2.1 copied from the published answers, and every trick to get the rest for nothing."""
    published = sources.expected(sources.Target("solutions", STEM)).cells
    cells[place(cells, "exercise-2-1")].source = published[place(cells, "exercise-2-1")].source
    answer(cells, answers, "2-3", "2-6")
    del cells[place(cells, "check-2-2")]
    del cells[place(cells, "check-2-3")]  # of a right answer: its points are not lost
    edited = cells[place(cells, "check-2-4")]
    edited.source = 'print("2.4 passed")'
    edited.metadata["nbgrader"] |= {"points": 50, "grade": False, "locked": False}
    cells[place(cells, "check-2-5")].metadata["tags"] = ["skip-execution"]
    fool = (
        "import os\nfrom cvae_lib.course import checks\nos.environ['COURSE_STRICT'] = '0'\n"
        "checks.grade = checks.check = check = lambda *a, **b: None\n"
        "checks.examined = checks._registry.examined = lambda *a, **b: checks.Verdict('', '', 'passed')"
    )
    first = place(cells, "exercise-2-2")
    added = [fool, "exit()", "quit()", "import sys\nsys.exit(0)", "import os\nos._exit(0)", DEAF]
    cells[first:first] = [nbformat.v4.new_code_cell(source) for source in added]


POINTS = {"right": 11, "half": 5, "sabotaged": 4}


@pytest.fixture(scope="module")
def marks(folder):
    """The marks of the three, by student and by check."""
    for change in (right, half, sabotaged):
        submit(folder, change.__name__, change)
    before = {path: path.read_bytes() for path in (folder / "submitted").rglob("*.ipynb")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COURSE_PROFILE", "fast")
        patch.setenv("COURSE_STRICT", "0")
        assert classroom.main(["grade", STEM, "--minutes", str(SECONDS / 60), "--folder", str(folder)]) == 0
    assert {path: path.read_bytes() for path in before} == before
    with (folder / "marks.csv").open() as file:
        return {row["student_id"]: float(row["score"]) for row in csv.DictReader(file)}


def test_each_gets_the_marks_the_answers_are_worth(marks):
    assert marks == POINTS


def test_feedback_says_what_the_checks_found(folder, marks):
    pages = {name: (folder / "feedback" / name / STEM / f"{STEM}.html").read_text() for name in POINTS}
    assert "not attempted yet" not in pages["right"]
    assert "That is the mean of the logs" in pages["half"] and "not attempted yet" in pages["half"]
    assert "was left out" in pages["sabotaged"] and "exit() would end the notebook" in pages["sabotaged"]


def test_another_edition_does_not_mix_with_submissions(folder, marks, capsys):
    assert classroom.main(["release", STEM, "--edition", "8", "--folder", str(folder)]) == 1
    assert "name another --folder" in capsys.readouterr().err
    assert f"edition={EDITION}" in (folder / "source" / STEM / f"{STEM}.ipynb").read_text()
    assert classroom.main(["release", STEM, "--edition", str(EDITION), "--folder", str(folder)]) == 0


def test_a_name_that_is_no_exercise_is_refused(tmp_path, capsys):
    assert classroom.main(["release", "09_nothing", "--folder", str(tmp_path)]) == 1
    assert "no source is called 09_nothing" in capsys.readouterr().err
