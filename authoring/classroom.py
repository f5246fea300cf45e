"""Make an nbgrader course from the exercises, and mark what comes back.

    python authoring/classroom.py release [stem ...] [--edition N] [--folder DIR]
    python authoring/classroom.py grade   [stem ...] [--minutes M] [--folder DIR]

`release` writes one assignment for each exercise notebook: source/ with the answers in it, and release/, which is what
students get. Every edition but 0 has its own numbers in what is worked out by hand, and its own seed in the hidden
tests. Submissions go to submitted/STUDENT/STEM/STEM.ipynb. `grade` marks them, writes a page of feedback for each, and
all marks to marks.csv. CLASSROOM.md tells the rest.
"""

import argparse
import csv
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import build
import nbformat
import sources
from sources import ROOT, SourceError, Target

CHECK = re.compile(r'^check\("(?P<number>\d+\.\d+)", (?P<answers>.+)\)$')

# What is run in place of the visible check when a submission is marked. Whatever the notebook did to the library,
# to `check` or to COURSE_STRICT is undone first.
HIDDEN = """
### BEGIN HIDDEN TESTS
import sys as _sys
for _name in [_name for _name in _sys.modules if _name.split(".")[0] == "cvae_lib"]:
    del _sys.modules[_name]
from cvae_lib.course.checks import grade as _grade
_grade("{number}", {answers}, edition={edition})
### END HIDDEN TESTS
"""

CONFIG = """
# Written by authoring/classroom.py, and read by every nbgrader command that is started in this folder.
import sys

sys.path.insert(0, {authoring!r})
import grading
from nbgrader import preprocessors as steps

c = get_config()
c.CourseDirectory.course_id = "cvae_{edition}"
c.CourseDirectory.root = {folder!r}
c.GenerateAssignment.preprocessors = [
    steps.LockCells, grading.ClearSolutions, steps.ClearOutput, steps.CheckCellMetadata, steps.ComputeChecksums,
    steps.SaveCells, steps.ClearHiddenTests, steps.ComputeChecksums, steps.CheckCellMetadata,
]
c.Autograde.sanitize_preprocessors = [
    steps.ClearOutput, steps.DeduplicateIds, steps.OverwriteKernelspec, grading.RestoreCells, steps.OverwriteCells,
    steps.CheckCellMetadata,
]
c.Autograde.autograde_preprocessors = [
    grading.Execute, steps.LimitOutput, steps.SaveAutoGrades, steps.AssignLatePenalties, steps.CheckCellMetadata,
]
c.RestoreCells.folder = {source!r}
""".lstrip()


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns 0 when all went well."""
    options = _parser().parse_args(arguments)
    try:
        stems = [target.stem for target in sources.targets(ROOT, options.stems) if target.kind == "exercises"]
        if options.command == "release":
            return release(options.folder.resolve(), stems, options.edition)
        return grade(options.folder.resolve(), stems, options.minutes)
    except SourceError as error:
        print(error, file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="classroom.py", description="An nbgrader course from the exercises.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, about in (("release", "write the assignments"), ("grade", "mark what was handed in")):
        command = commands.add_parser(name, help=about)
        command.add_argument("stems", nargs="*", metavar="stem", help="as in 01_the_vae; all of them if none")
        command.add_argument("--folder", type=Path, default=ROOT / "classroom", help="the nbgrader course")
    commands.choices["release"].add_argument("--edition", type=int, default=1, help="which numbers; 0 as published")
    commands.choices["grade"].add_argument("--minutes", type=float, default=5.0, help="for one cell, at most")
    return parser


def assignment(stem: str, edition: int, root: Path = ROOT) -> Any:
    """Return the source of one assignment: answers between markers, and hidden tests below each check."""
    notebook = sources.expected(Target("classroom", stem, root), edition)
    for cell in notebook.cells:
        if match := CHECK.match(cell.source):
            told = f", edition={edition}" if match["number"] in sources.GIVEN["CHOICES"] else ""
            cell.source = f'check("{match["number"]}", {match["answers"]}{told})'
            cell.source += HIDDEN.format(**match.groupdict(), edition=edition).rstrip()
        elif cell.cell_type == "markdown":  # the rest of the course does not lie beside a student's copy
            cell.source = re.sub(r"\[([^\]]+)\]\(\.\./[^)]+\)", r"\1", cell.source)
    return notebook


def release(folder: Path, stems: list[str], edition: int) -> int:
    """Write source/ and release/ below `folder`; raises SourceError where submissions wait for another edition."""
    config = CONFIG.format(
        authoring=str(ROOT / "authoring"), folder=str(folder), source=str(folder / "source"), edition=edition
    )
    path = folder / "nbgrader_config.py"
    if path.exists() and path.read_text(encoding="utf-8") != config and any((folder / "submitted").glob("*")):
        raise SourceError(f"{folder.name}: holds submissions to another edition; name another --folder")
    build.write(path, config)
    for stem in stems:
        build.write(folder / "source" / stem / f"{stem}.ipynb", build.rendered(assignment(stem, edition)))
        if _nbgrader(folder, "generate_assignment", stem, "--create", "--force"):
            return 1
        print(f"release/{stem}: edition {edition}, {_points(folder, stem)} points")
    return 0


def _points(folder: Path, stem: str) -> int:
    cells = nbformat.read(folder / "source" / stem / f"{stem}.ipynb", as_version=4).cells
    return sum(cell.metadata.get("nbgrader", {}).get("points", 0) for cell in cells)


def grade(folder: Path, stems: list[str], minutes: float) -> int:
    """Mark every submission below `folder`, write feedback and marks.csv, and print the marks."""
    failed = 0
    for stem in stems:
        if any((folder / "submitted").glob(f"*/{stem}")):
            failed |= _nbgrader(folder, "autograde", stem, "--force", f"--Execute.timeout={round(60 * minutes)}")
            failed |= _nbgrader(folder, "generate_feedback", stem, "--force")
    failed |= _nbgrader(folder, "export", "--to", str(folder / "marks.csv"))
    with (folder / "marks.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["timestamp"] or (folder / "submitted" / row["student_id"] / row["assignment"]).exists():
                print(f"{row['assignment']}  {row['student_id']}  {row['score']} of {row['max_score']}")
    return failed


def _nbgrader(folder: Path, *command: str) -> int:
    """Run an nbgrader command in the course's folder; what it says is shown only if it fails."""
    settings = {
        "COURSE_UNATTENDED": "1",
        "PYTHONPATH": _first(ROOT, "PYTHONPATH"),  # marks are this library's
        # nbgrader calls alembic by its bare name, which is found only where the environment is activated.
        "PATH": _first(Path(sys.executable).parent, "PATH"),
    }
    words = [sys.executable, "-m", "nbgrader", *command]
    done = subprocess.run(words, cwd=folder, env=os.environ | settings, text=True, capture_output=True)
    if done.returncode:
        print(f"nbgrader {' '.join(command)} failed:\n{done.stderr[-3000:]}", file=sys.stderr)
    return done.returncode


def _first(folder: Path, variable: str) -> str:
    """Return a variable that lists folders, with one more in front."""
    return os.pathsep.join(filter(None, [str(folder), os.environ.get(variable)]))


if __name__ == "__main__":
    sys.exit(main())
