"""The build: one way, loud where a source is wrong, and the same bytes twice."""

import hashlib
import json
import os
import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import build
import nbformat
import pytest
import running
import sources
from sources import SourceError, Target

CHAPTER = """
# %% [markdown]
# # 1. A title
#
# *What does a seed do?*
#
# {{ badges }} Takes {{ minutes }}.
#
# {{ chapter_map }}

# %% tags=["install"]
# {{ install }}

# %%
import matplotlib.pyplot as plt
import torch

torch.manual_seed(1)
x = torch.randn(50).cumsum(0)
print(f"last {x[-1]:.3f}")
print("a second", "line")

# %%
plt.plot(x)
plt.show()
""".strip()

EXERCISE = '''
# %% [markdown]
# # Exercises

# %% nbgrader={"grade": false, "grade_id": "double", "schema_version": 3, "solution": true}
def double(x):
    """Return twice x."""
    ### BEGIN SOLUTION
    return 2 * x
    ### END SOLUTION

# %%
half = ...
### BEGIN SOLUTION
half = 0.5
### END SOLUTION

# %%
print(callable(double))
### BEGIN HIDDEN TESTS
assert double(2) == 4
### END HIDDEN TESTS
'''.strip()

README = "# Course\n\n<!-- chapter-map -->\n<!-- /chapter-map -->\n"


@pytest.fixture
def course(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small course with one chapter and one exercise, in a folder with a space in its name."""
    monkeypatch.delenv("COURSE_PROFILE", raising=False)
    root = tmp_path / "a course"
    for room, text in (("notebooks", CHAPTER), ("exercises", EXERCISE)):
        (root / "authoring" / room).mkdir(parents=True)
        (root / "authoring" / room / "01_seed.py").write_text(text)
    (root / "README.md").write_text(README)
    (root / "pyproject.toml").write_text('[tool.course]\nrepository = ""\nref = "main"\n')
    return root


def edit(path: Path, old: str, new: str) -> None:
    """Replace `old`, which must be there, in the file at `path`."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_twice_gives_the_same_bytes_and_check_agrees(course: Path) -> None:
    assert len(build.check(course)) == 4  # three notebooks never built, and README's map
    digests = []
    for _ in range(2):
        assert build.build([], course, measure=False, root=course) == 0
        paths = [course / target.name for target in sources.targets(course)] + [course / "README.md"]
        digests.append([hashlib.sha256(path.read_bytes()).hexdigest() for path in paths])
    assert digests[0] == digests[1]
    assert build.check(course) == []

    notebook = nbformat.read(course / "notebooks" / "01_seed.ipynb", as_version=4)
    assert notebook.metadata == {"kernelspec": sources.KERNEL}
    assert [cell.id for cell in notebook.cells] == [
        hashlib.sha256(f"01_seed:{index}".encode()).hexdigest()[:8] for index in range(4)
    ]
    assert "Takes not measured yet" in notebook.cells[0].source
    row = "| [1. A title](01_seed.ipynb) | What does a seed do? | not measured yet |  | 0.1 MB |"
    assert row in notebook.cells[0].source
    assert "importlib" in notebook.cells[1].source
    assert [output.output_type for output in notebook.cells[2].outputs] == ["stream"]
    assert "image/png" in notebook.cells[3].outputs[0].data
    assert "[1. A title](notebooks/01_seed.ipynb)" in (course / "README.md").read_text()

    blank = nbformat.read(course / "exercises" / "01_seed.ipynb", as_version=4)
    assert blank.cells[1].metadata.nbgrader.grade_id == "double"
    assert all(not cell.get("outputs") for cell in blank.cells)

    _each_tampering_is_named(course)


def _each_tampering_is_named(course: Path) -> None:
    """Change one thing at a time in what was built, and see `check` say which."""
    chapter, blank = course / "notebooks" / "01_seed.ipynb", course / "exercises" / "01_seed.ipynb"
    whole = {path: path.read_bytes() for path in (chapter, blank, course / "README.md")}

    def complaint(path: Path, old: str, new: str) -> str:
        edit(path, old, new)
        (line,) = build.check(course)
        path.write_bytes(whole[path])
        return line

    assert "code cell 2 differs" in complaint(chapter, "manual_seed(1)", "manual_seed(2)")
    assert "cell 1 differs" in complaint(chapter, "A title", "Another title")
    assert "never run" in complaint(chapter, '"execution_count": 2', '"execution_count": null')
    assert "memory address" in complaint(chapter, "a second line", "<object at 0x7f00deadbeef>")
    assert "progress bar" in complaint(chapter, "a second line", "epoch 3:  40%|####")
    assert "metadata" in complaint(chapter, '"kernelspec": {', '"language_info": {},\n  "kernelspec": {')
    assert "edited or run" in complaint(blank, '"execution_count": null', '"execution_count": 1')
    assert "chapter map" in complaint(course / "README.md", "What does", "What did")
    (course / "notebooks" / "02_alone.ipynb").write_bytes(whole[chapter])
    assert build.check(course) == ["notebooks/02_alone.ipynb: has no source under authoring/"]
    (course / "notebooks" / "02_alone.ipynb").unlink()

    edit(course / "authoring" / "notebooks" / "01_seed.py", "a seed do?", "a seed change?")
    assert len(build.check(course)) == 2
    assert build.refresh(course, course) == []
    assert build.check(course) == []


def test_a_cell_that_raises_leaves_the_old_notebook(course: Path, capfd: pytest.CaptureFixture[str]) -> None:
    old = course / "notebooks" / "01_seed.ipynb"
    old.parent.mkdir()
    old.write_text(build.rendered(sources.expected(Target("notebooks", "01_seed", course))))
    before = old.read_bytes()
    source = course / "authoring" / "notebooks" / "01_seed.py"
    start = CHAPTER.split("# %%\nimport matplotlib")[0]
    source.write_text(start + "# %%\nraise OSError('no digits')")
    (course / "authoring" / "exercises" / "01_seed.py").unlink()
    assert build.build(["01_seed"], course, measure=False, root=course) == 1
    assert "notebooks/01_seed.ipynb: cell 3 raises OSError: no digits" in capfd.readouterr().err
    assert old.read_bytes() == before


def test_the_fast_profile_is_never_published(course: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COURSE_PROFILE", "fast")
    assert build.build([], course, measure=False, root=course) == 1
    assert not (course / "notebooks").exists()


def test_blank_and_solution_from_one_source(course: Path) -> None:
    blank = sources.expected(Target("exercises", "01_seed", course))
    solution = sources.expected(Target("solutions", "01_seed", course))
    assert blank.cells[1].source.endswith('twice x."""\n    raise NotImplementedError("your code here")')
    assert blank.cells[2].source == "half = ...\n# your code here"
    assert solution.cells[1].source.endswith("    return 2 * x")
    assert solution.cells[2].source == "half = 0.5"
    for notebook in (blank, solution):
        assert notebook.cells[3].source == "print(callable(double))"
        assert not any("###" in cell.source for cell in notebook.cells)
    assert "nbgrader" not in solution.cells[1].metadata


@pytest.mark.parametrize(
    ("stub", "dropped"),
    [
        ("half = ...", True),
        ("gap, bound = ..., ...  # nats", True),
        ("half = ... if late else 1", False),
        ("half = 0", False),
        ("# first", False),
    ],
)
def test_a_solution_drops_the_stub_it_replaces_and_nothing_else(stub: str, dropped: bool) -> None:
    source = f"{stub}\n### BEGIN SOLUTION\nhalf = 0.5\n### END SOLUTION"
    assert (stub in sources.without_marked(source, "solutions", "somewhere")) != dropped
    assert stub in sources.without_marked(source, "exercises", "somewhere")


def test_each_edition_says_which_it_is_and_where_the_other_is(course: Path) -> None:
    edit(course / "authoring" / "exercises" / "01_seed.py", "# # Exercises", "# # Exercises\n#\n# {{ edition }}")
    blank, solution = (sources.expected(Target(kind, "01_seed", course)) for kind in ("exercises", "solutions"))
    assert "../solutions/01_seed.ipynb" in blank.cells[0].source
    assert "worked answers.**" in solution.cells[0].source and "../exercises/01_seed.ipynb" in solution.cells[0].source


# --- a student's work ---------------------------------------------------------------------------------------


def answered(path: Path) -> None:
    """Answer one exercise in the notebook at `path`, as Jupyter saves it."""
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[1].source = notebook.cells[1].source.replace(sources.BLANK, "return x + x")
    notebook.metadata["language_info"] = {"name": "python"}
    nbformat.write(notebook, path)


def annotated(path: Path) -> None:
    """Write between the cells, in markdown only."""
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.insert(1, nbformat.v4.new_markdown_cell("My own notes."))
    nbformat.write(notebook, path)


def executed(path: Path) -> None:
    """Run a cell, without writing anything."""
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[1].execution_count = 1
    nbformat.write(notebook, path)


def emptied(path: Path) -> None:
    """Delete every cell but the first."""
    notebook = nbformat.read(path, as_version=4)
    notebook.cells = notebook.cells[:1]
    nbformat.write(notebook, path)


def broken(path: Path) -> None:
    """Leave something that is no notebook, as a full disk does."""
    path.write_text(path.read_text()[:200])


@pytest.mark.parametrize("work", [answered, annotated, executed, emptied, broken])
def test_no_command_writes_over_a_blank_with_work_in_it(
    work: Callable[[Path], None], course: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (course / "authoring" / "notebooks" / "01_seed.py").unlink()
    assert build.build([], course, root=course) == 0
    mine, solution = (course / kind / "01_seed.ipynb" for kind in ("exercises", "solutions"))
    work(mine)
    before = mine.read_bytes()
    capsys.readouterr()
    # The course moves on: its source has changed, and everything is built again in every way there is.
    edit(course / "authoring" / "exercises" / "01_seed.py", "Return twice x", "Return x, twice")
    assert build.build([], course, root=course) == 0
    assert build.build(["01_seed"], course, root=course) == 0
    assert "edited or run since it was built" in capsys.readouterr().out
    assert mine.read_bytes() == before and "Return x, twice" in solution.read_text()
    assert build.refresh(course, course) and mine.read_bytes() == before
    (line,) = build.check(course)
    assert "exercises/01_seed.ipynb: was edited or run" in line

    ((name, stem),) = re.findall(r"rename it to (\S+) and run `build.py (\S+)`", line)
    kept = mine.rename(mine.with_name(name))
    assert build.build([stem], course, root=course) == 0 and build.check(course) == []
    assert kept.read_bytes() == before


def git(folder: Path, command: str) -> subprocess.CompletedProcess[str]:
    """Run a git command as somebody with no settings of their own."""
    nobody = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    who = ["-c", "user.name=somebody", "-c", "user.email=somebody@example.org"]
    words = ["git", "-C", str(folder), *who, *shlex.split(command)]
    return subprocess.run(words, env=os.environ | nobody, text=True, capture_output=True)


def published(course: Path, text: str) -> None:
    """Build the course with another task in its exercise, and commit it."""
    edit(course / "authoring" / "exercises" / "01_seed.py", "Return", text)
    assert build.build([], course, root=course) == 0
    assert git(course, "add .").returncode == git(course, "commit -m next").returncode == 0


def test_an_update_keeps_work_and_the_readme_says_how(course: Path, tmp_path: Path) -> None:
    readme = (sources.ROOT / "README.md").read_text()
    (steps,) = re.findall(r"```\n(mv exercises/.*?)```", readme, re.S)
    steps = steps.replace("01_the_vae", "01_seed").splitlines()
    (course / "authoring" / "notebooks" / "01_seed.py").unlink()
    (course / ".gitignore").write_text((sources.ROOT / ".gitignore").read_text())
    assert git(course, "init").returncode == 0
    published(course, "Return now")
    student = tmp_path / "student"
    assert git(tmp_path, f"clone '{course}' student").returncode == 0
    mine = student / "exercises" / "01_seed.ipynb"
    answered(mine)
    before = mine.read_bytes()

    edit(course / "README.md", "# Course", "# The course")
    assert git(course, "commit -a -m elsewhere").returncode == 0
    assert git(student, "pull").returncode == 0 and mine.read_bytes() == before

    published(course, "Return soon")
    refused = git(student, "pull")
    assert refused.returncode and "exercises/01_seed.ipynb" in refused.stderr and mine.read_bytes() == before
    for step in steps:
        if step.startswith("git "):
            done = git(student, step.removeprefix("git "))
        else:
            done = subprocess.run(shlex.split(step), cwd=student, text=True, capture_output=True)
        assert done.returncode == 0, done.stderr
    assert mine.with_name("01_seed.mine.ipynb").read_bytes() == before
    assert "Return soon" in mine.read_text() and build.check(student) == []
    assert git(student, "status --porcelain").stdout == ""


def test_a_blank_nobody_touched_follows_its_source(course: Path) -> None:
    (course / "authoring" / "notebooks" / "01_seed.py").unlink()
    assert build.build([], course, root=course) == 0
    blank = course / "exercises" / "01_seed.ipynb"
    notebook = nbformat.read(blank, as_version=4)
    notebook.metadata["language_info"] = {"name": "python"}  # opened in Jupyter and saved, no more
    nbformat.write(notebook, blank)
    assert "metadata" in build.check(course)[0]
    edit(course / "authoring" / "exercises" / "01_seed.py", "Return twice x", "Return x, twice")
    assert build.build([], course, root=course) == 0
    assert "Return x, twice" in blank.read_text() and build.check(course) == []


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("### BEGIN SOLUTION\nx = 1", "never closed"),
        ("x = 1\n### END SOLUTION", "never opened"),
        ("### BEGIN SOLUTION\n### BEGIN SOLUTION\n### END SOLUTION", "still open"),
        ("### BEGIN SOLUTION\n### BEGIN HIDDEN TESTS\n### END HIDDEN TESTS\n### END SOLUTION", "still open"),
        ("### BEGIN SOLUTION\n### END HIDDEN TESTS", "still open"),
        ("### BEGIN SOLUTIONS\n### END SOLUTIONS", "write markers as"),
        ("x = 1  ### BEGIN SOLUTION\n### END SOLUTION", "write markers as"),
    ],
)
@pytest.mark.parametrize("kind", ["exercises", "solutions"])
def test_markers_that_do_not_pair_up_are_refused(source: str, message: str, kind: str) -> None:
    with pytest.raises(SourceError, match=message):
        sources.without_marked(source, kind, "somewhere")


def test_the_one_setting_gives_badges_and_install_source(course: Path) -> None:
    target = Target("notebooks", "01_seed", course)
    assert "appear here once" in sources.expected(target).cells[0].source
    (course / "pyproject.toml").write_text('[tool.course]\nrepository = "someone/a-course"\nref = "v1"\n')
    notebook = sources.expected(target)
    assert "/v2/gh/someone/a-course/v1?urlpath=lab/tree/notebooks/01_seed.ipynb" in notebook.cells[0].source
    assert "/github/someone/a-course/blob/v1/notebooks/01_seed.ipynb" in notebook.cells[0].source
    assert "git+https://github.com/someone/a-course@v1" in notebook.cells[1].source


def test_a_changed_install_cell_needs_no_new_run(course: Path) -> None:
    assert build.build(["notebooks/01_seed"], course, root=course) == 0
    outputs = nbformat.read(course / "notebooks" / "01_seed.ipynb", as_version=4).cells[2].outputs
    edit(course / "pyproject.toml", 'repository = ""', 'repository = "someone/a-course"')
    (complaint,) = [line for line in build.check(course) if line.startswith("notebooks")]
    assert "run `build.py --text`" in complaint
    assert [line for line in build.refresh(course, course) if line.startswith("notebooks")] == []
    notebook = nbformat.read(course / "notebooks" / "01_seed.ipynb", as_version=4)
    assert "someone/a-course@main" in notebook.cells[1].source and notebook.cells[2].outputs == outputs != []


def test_colab_is_asked_for_a_gpu_where_the_settings_say_so(course: Path) -> None:
    (course / "pyproject.toml").write_text(
        '[tool.course]\nrepository = ""\nref = "main"\ngpu = ["notebooks/01_seed.ipynb"]\n'
    )
    metadata = {kind: sources.expected(Target(kind, "01_seed", course)).metadata for kind in ("notebooks", "solutions")}
    assert metadata["notebooks"]["accelerator"] == "GPU" and metadata["notebooks"]["colab"] == {"gpuType": "T4"}
    assert metadata["solutions"] == {"kernelspec": sources.KERNEL}


@pytest.mark.parametrize(
    ("stems", "kinds"),
    [
        ([], ["notebooks", "exercises", "solutions"]),
        (["01_seed"], ["notebooks", "exercises", "solutions"]),
        (["solutions/01_seed", "exercises/01_seed"], ["exercises", "solutions"]),
    ],
)
def test_one_notebook_of_a_stem_can_be_built_alone(stems: list[str], kinds: list[str], course: Path) -> None:
    assert [target.kind for target in sources.targets(course, stems)] == kinds


def test_minutes_come_from_the_measurement(course: Path) -> None:
    run = running.Run(seconds=130.0, peak_mb=900)
    build._record(Target("notebooks", "01_seed", course), run)
    assert sources.minutes(course, "notebooks/01_seed.ipynb") == "3 minutes"
    stored = json.loads((course / "authoring" / "measured.json").read_text())
    assert stored == {"notebooks/01_seed.ipynb": {"minutes": 2.17, "peak_mb": 900}}
    (course / "notebooks").mkdir()
    (course / "notebooks" / "01_seed.ipynb").write_bytes(bytes(1_230_000))
    assert sources.chapter_map(course, "").endswith("| 3 minutes | 0.9 GB | 1.3 MB |")
    build._record(Target("notebooks", "01_seed", course), running.Run(seconds=20.0, peak_mb=None))
    assert sources.chapter_map(course, "").endswith("| 1 minute |  | 1.3 MB |")  # no memory where the system tells none


def test_unknown_names_are_refused(course: Path) -> None:
    for wrong in ("07_none", "solutions/07_none", "01_seed.ipynb"):
        with pytest.raises(SourceError, match=f"no source is called {wrong}"):
            sources.targets(course, [wrong])
    edit(course / "authoring" / "notebooks" / "01_seed.py", "{{ minutes }}", "{{ hours }}")
    with pytest.raises(SourceError, match="no placeholder"):
        sources.expected(Target("notebooks", "01_seed", course))
