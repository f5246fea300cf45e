"""Gates on the repository as a whole: in step, floors, import, no addresses, and how a notebook reads."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import build
import hosting
import nbformat
import pytest
import sources

ROOT = Path(__file__).resolve().parent.parent

# The rooms, each of which may import only from those above it; first the library, then the course.
FLOORS = [
    "gaussians",
    "environment",
    "datasets",
    "data",
    "conditions",
    "conditioning",
    "networks",
    "likelihoods",
    "priors",
    "config",
    "model",
    "objective",
    "checkpoints",
    "training",
    "evaluation",
    "pretrained",
    "course.profile",
    "course.report",
    "course",  # what the package itself hands on
    "course.laboratory",
    "course.records",
    "course.figures",
    "course.panels",
    "course.checks",
]
TOP = {"__init__", "__main__"}  # the package's own name, and the command that stands on every room of the library

LIBRARY = sorted((ROOT / "cvae_lib").rglob("*.py"))
ROOMS = ("notebooks", "exercises", "solutions")
NOTEBOOKS = [path for room in ROOMS for path in sorted((ROOT / room).glob("*.ipynb")) if ".mine." not in path.name]
EXECUTED = [path for path in NOTEBOOKS if path.parent.name != "exercises"]


def name(path: Path) -> str:
    """Return a path as it reads from the top of the repository."""
    return path.relative_to(ROOT).as_posix()


def test_notebooks_are_in_step_with_their_sources() -> None:
    assert build.check() == []


# --- the library's floors -----------------------------------------------------------------------------------


def room(module: str) -> str:
    """Return the room that a module belongs to, as in ``data`` for ``cvae_lib.data._imageset``."""
    first, second = (*module.split(".")[1:], "", "")[:2]
    return f"course.{second}" if first == "course" and f"course.{second}" in FLOORS else first


def module(path: Path) -> str:
    """Return the name under which a file of the library is imported."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported(path: Path) -> set[str]:
    """Return the rooms that a file imports from, wherever in the file it does."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name(path)} imports relatively; write the full name, from cvae_lib"
            in_rooms = node.module in ("cvae_lib", "cvae_lib.course")
            found |= {f"{node.module}.{alias.name}" if in_rooms else str(node.module) for alias in node.names}
    return {room(found_name) for found_name in found if found_name.startswith("cvae_lib.")}


def test_every_room_is_there_and_every_file_is_in_one() -> None:
    rooms = {room(module(path)) for path in LIBRARY} - {""} - TOP
    assert rooms == set(FLOORS)


@pytest.mark.parametrize("path", LIBRARY, ids=name)
def test_each_file_imports_only_from_rooms_above_its_own(path: Path) -> None:
    own = room(module(path))
    last = "pretrained" if own in TOP | {""} else own
    allowed = set(FLOORS[: FLOORS.index(last) + 1])
    assert imported(path) <= allowed, f"{own} may not know of {', '.join(sorted(imported(path) - allowed))}"


def test_the_library_works_without_the_course() -> None:
    modules = [module(path) for path in LIBRARY if not module(path).startswith("cvae_lib.course")]
    assert len(modules) > 50
    script = f"import sys, {', '.join(modules)}; print(*[m for m in sys.modules if m.startswith('cvae_lib.course')])"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, text=True, capture_output=True)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


@pytest.mark.parametrize(
    ("line", "rooms"),
    [
        ("from cvae_lib import course, data", {"course", "data"}),
        ("from cvae_lib.course import FAST, panels", {"course", "course.panels"}),
        ("def late():\n    import cvae_lib.course.checks._probe", {"course.checks"}),
        ("from cvae_lib.data._imageset import Batch", {"data"}),
        ("import torch", set()),
    ],
)
def test_what_counts_as_an_import(line: str, rooms: set[str], tmp_path: Path) -> None:
    (tmp_path / "some.py").write_text(line)
    assert imported(tmp_path / "some.py") == rooms


@pytest.mark.parametrize("path", [*LIBRARY, *sorted((ROOT / "authoring").glob("*.py"))], ids=name)
def test_no_file_is_longer_than_300_lines(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= 300, f"{lines} lines"


def test_every_file_of_the_library_is_installed_with_it() -> None:
    table = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    patterns = table["package-data"]["cvae_lib"]
    folder = ROOT / "cvae_lib"
    files = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    others = [path for path in files if path.suffix != ".py"]
    assert any(path.parts[:2] == ("course", "records") for path in others)
    assert [path for path in others if not any(path.match(pattern) for pattern in patterns)] == []
    assert table["packages"]["find"]["include"] == ["cvae_lib*"]
    packages = {folder / path.parent for path in files if path.suffix == ".py"}  # found by their __init__.py
    assert [package for package in packages if not (package / "__init__.py").exists()] == []


def test_importing_the_library_does_not_load_pictures_or_notebooks() -> None:
    script = (
        "import sys, cvae_lib, cvae_lib.model, cvae_lib.objective; "
        "print(*sorted({name.split('.')[0] for name in sys.modules}))"
    )
    loaded = set(subprocess.check_output([sys.executable, "-c", script], cwd=ROOT, text=True).split())
    assert "torch" in loaded
    assert not loaded & {"torchvision", "matplotlib", "PIL", "IPython", "ipywidgets", "jupyterlab"}


def test_shape_annotations_are_checked_while_testing() -> None:
    from cvae_lib import objective
    from cvae_lib.datasets import strokes

    for module in (objective, strokes):
        assert type(module.__loader__).__module__.startswith("jaxtyping"), f"{module.__name__} is not checked"


# --- nothing that only this machine understands -------------------------------------------------------------

MACHINE = re.compile(r"(?<![\w.])/(?:work|root|home/\w+|Users/\w+)/|[A-Z]:\\Users\\")
ADDRESS = re.compile(r"-(?:-extra)?-index-[u]rl|--find-[l]inks|https?://[^\s)\"']*/(?:simple|pypi)\b")


def text_files() -> list[Path]:
    """Return what git tracks or would add, without what cannot be read as text."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True
    )
    if listing.returncode:
        pytest.skip("this is no git checkout, so there is no list of its files")
    binary = {".png", ".npy", ".npz", ".pt", ".safetensors", ".gz"}
    paths = (ROOT / line for line in listing.stdout.decode().split("\0") if line)
    return [path for path in paths if path.is_file() and path.suffix not in binary]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("see /{home}/someone/x", True),
        ('"/{root}/x"', True),
        ("a/work/b", False),
        ("pip install --extra-{index}-url x", True),
        ("http://host/root/{simple}", True),
        ("https://pypi.org/project/x", False),
    ],
)
def test_what_counts_as_an_address_of_this_machine(text: str, found: bool) -> None:
    text = text.replace("{", "").replace("}", "")  # the braces keep this list itself out of what it looks for
    assert bool(MACHINE.search(text) or ADDRESS.search(text)) == found


def test_no_file_holds_a_path_of_this_machine_or_a_registry_address() -> None:
    found = []
    for path in text_files():
        text = path.read_text(encoding="utf-8", errors="replace")
        if match := MACHINE.search(text) or ADDRESS.search(text):
            found.append(f"{name(path)}: {match[0]}")
    assert found == []


# --- how a notebook reads -----------------------------------------------------------------------------------


def every(paths: list[Path]) -> Any:
    """Run a test once for each notebook, or skip it while there is none."""
    none = [pytest.param(None, marks=pytest.mark.skip(reason="no notebook is built yet"))]
    return pytest.mark.parametrize("path", paths or none, ids=name if paths else None)


def read(path: Path) -> Any:
    """Return the notebook at `path`."""
    return nbformat.read(path, as_version=4)


def prose(cell: Any) -> str:
    """Return a markdown cell's text without its fenced and inline code."""
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```", "", cell.source, flags=re.M | re.S))


@every(EXECUTED)
def test_every_picture_is_described_and_captioned(path: Path) -> None:
    cells = read(path).cells
    for number, cell in enumerate(cells, 1):
        pictures = [output for output in cell.get("outputs", []) if "image/png" in output.get("data", {})]
        for picture in pictures:
            alt = picture.metadata.get("image/png", {}).get("alt", "")
            assert len(alt) > 20, f"cell {number}: the picture has no alt text"
            assert alt in picture.data.get("text/plain", ""), f"cell {number}: text/plain lacks the alt text"
        if pictures:
            caption = cells[number].source if cells[number:] and cells[number].cell_type == "markdown" else ""
            assert re.search(r"^\*Figure ", caption, re.M), f"cell {number}: no '*Figure ' in the cell below"


@every(NOTEBOOKS)
def test_headings_go_down_one_step_at_a_time(path: Path) -> None:
    text = "\n".join(prose(cell) for cell in read(path).cells if cell.cell_type == "markdown")
    levels = [len(marks) for marks in re.findall(r"^(#{1,6}) ", text, re.M)]
    assert levels[:1] == [1] and levels.count(1) == 1, f"one title, and first: {levels}"
    assert all(below <= above + 1 for above, below in zip(levels, levels[1:], strict=False)), levels


@every(NOTEBOOKS)
def test_a_notebook_is_light_and_its_cells_are_short(path: Path) -> None:
    assert path.stat().st_size < 1_500_000
    long = [len(cell.source.splitlines()) for cell in read(path).cells if cell.cell_type == "code"]
    assert max(long, default=0) <= 25


@pytest.mark.parametrize(
    "target", [each for each in sources.targets(ROOT) if each.executed], ids=lambda each: each.name
)
def test_a_notebook_was_measured_and_keeps_to_its_budget(target: sources.Target) -> None:
    run = sources.measured(ROOT, target.name)
    assert 0 < run["minutes"] <= 3 and 100 < run["peak_mb"] < 1500


def test_all_notebooks_together_take_half_an_hour_at_most() -> None:
    assert sum(sources.measured(ROOT, target.name).get("minutes", 0) for target in sources.targets(ROOT)) <= 30


LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)[^)]*\)")


def dead_links(text: str, folder: Path) -> list[str]:
    """Return the links of a text that lead nowhere in the repository, and pictures without a word."""
    anchors = {title.strip().replace(" ", "-") for title in re.findall(r"^#{1,6} (.*)$", text, re.M)}
    anchors |= {anchor.lower() for anchor in anchors}
    dead = []
    for picture, label, link in LINK.findall(text):
        place, _, anchor = link.partition("#")
        if picture and not label.strip():
            dead.append(f"{link} has no alt text")
        elif re.match(r"\w+:", link):
            continue
        elif (place and not (folder / place).exists()) or (not place and anchor not in anchors):
            dead.append(f"{link} leads nowhere")
    return dead


@every(NOTEBOOKS)
def test_links_in_notebooks_resolve(path: Path) -> None:
    text = "\n\n".join(prose(cell) for cell in read(path).cells if cell.cell_type == "markdown")
    assert dead_links(text, path.parent) == []


@pytest.mark.parametrize("path", sorted(ROOT.glob("*.md")) or [None], ids=str)
def test_links_in_the_readme_resolve(path: Path | None) -> None:
    if path is None:
        pytest.skip("there is no README yet")
    assert dead_links(path.read_text(encoding="utf-8"), ROOT) == []


# What Binder and Colab are pointed to: the path in the repository behind the setting's repository and ref.
POINTS = re.compile(
    r"https://(?:mybinder\.org/v2/gh/{0}\?urlpath=lab/tree/|colab\.research\.google\.com/github/{1}/)([^)\s]+)\)"
)


def pointed_to(text: str, settings: dict[str, Any]) -> list[str]:
    """Return the files that the text's links to Binder and Colab open, if they agree with the settings."""
    place = re.escape(settings["repository"])
    ref = re.escape(settings["ref"])
    return re.findall(POINTS.pattern.replace("{0}", f"{place}/{ref}").replace("{1}", f"{place}/blob/{ref}"), text)


def test_the_setting_is_complete_and_names_what_there_is() -> None:
    settings = hosting.settings(ROOT)
    assert re.fullmatch(r"([\w.-]+/[\w.-]+)?", settings["repository"]) and settings["ref"]
    assert [path for path in settings["gpu"] if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("published", [True, False])
def test_links_to_binder_and_colab_open_a_file_of_the_repository(
    published: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = hosting.settings(ROOT)
    if published:
        settings |= {"repository": "some.one/a-course", "ref": "v1.0"}
        monkeypatch.setattr(hosting, "settings", lambda root: settings)
    texts = {target.name: sources.expected(target).cells[0].source for target in sources.targets(ROOT)}
    texts["README.md"] = sources.readme(ROOT)
    for place, text in texts.items():
        if settings["repository"]:
            wanted = "notebooks/00_start_here.ipynb" if place == "README.md" else place
            assert pointed_to(text, settings) == [wanted, wanted] and (ROOT / wanted).is_file(), place
        else:
            assert "Links to Binder and Colab appear here once" in text, place
            assert not re.search(r"\]\(https://(mybinder|colab)", text), place


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("# A title\n[up](#A-title) [up](#a-title) [x](https://example.org/x)", 0),
        ("[gone](nothing.md)", 1),
        ("[gone](#nowhere)", 1),
        ("![](here.md)", 1),
        ("![words](here.md) [part](here.md#part)", 0),
    ],
)
def test_what_counts_as_a_dead_link(text: str, count: int, tmp_path: Path) -> None:
    (tmp_path / "here.md").write_text("")
    assert len(dead_links(text, tmp_path)) == count
