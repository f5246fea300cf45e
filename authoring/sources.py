"""From a source in percent format to the notebook a reader should get, before anything is executed."""

import hashlib
import json
import math
import re
import runpy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hosting
import jupytext

ROOT = Path(__file__).resolve().parent.parent
MEASURED = ROOT / "authoring" / "measured.json"
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
GIVEN = runpy.run_path(str(ROOT / "cvae_lib" / "course" / "checks" / "_given.py"))  # without the library around it
BLANK = 'raise NotImplementedError("your code here")'
MARKER = re.compile(r"^\s*### (BEGIN|END) (SOLUTION|HIDDEN TESTS)\s*$")
STUB = re.compile(r"^\w+(, \w+)* = \.\.\.(, \.\.\.)*( +#.*)?$")
MAP_BEGIN, MAP_END = "<!-- chapter-map -->", "<!-- /chapter-map -->"
BADGES_BEGIN, BADGES_END = "<!-- badges -->", "<!-- /badges -->"


class SourceError(ValueError):
    """A source that cannot become a notebook; the message names the place and the way out."""


@dataclass(frozen=True)
class Target:
    """One notebook to build: which source it comes from and which folder it goes to."""

    kind: str  # "notebooks", "exercises" or "solutions"; or "classroom", which is not published
    stem: str
    root: Path = ROOT

    @property
    def source(self) -> Path:
        """The percent script it is written in; blank and solution share one."""
        room = "notebooks" if self.kind == "notebooks" else "exercises"
        return self.root / "authoring" / room / f"{self.stem}.py"

    @property
    def name(self) -> str:
        """The path of the notebook inside the repository."""
        return f"{self.kind}/{self.stem}.ipynb"

    @property
    def executed(self) -> bool:
        """Whether it is published with outputs; only the blanks are not."""
        return self.kind != "exercises"


def targets(root: Path = ROOT, stems: list[str] | None = None) -> list[Target]:
    """List what the sources under `root` give, chapters first, or of it what `stems` name.

    A stem is `01_name`, which is a chapter, its exercises and their answers, or one of them, `solutions/01_name`.
    Raises SourceError for one that does not exist.
    """
    chapters = [path.stem for path in sorted((root / "authoring" / "notebooks").glob("*.py"))]
    exercises = [path.stem for path in sorted((root / "authoring" / "exercises").glob("*.py"))]
    found = [Target("notebooks", stem, root) for stem in chapters]
    found += [Target(kind, stem, root) for stem in exercises for kind in ("exercises", "solutions")]
    names = {target: {target.stem, f"{target.kind}/{target.stem}"} for target in found}
    if unknown := sorted(set(stems or []).difference(*names.values())):
        raise SourceError(f"no source is called {', '.join(unknown)}; there are: {', '.join(chapters)}")
    return [target for target in found if not stems or names[target] & set(stems)]


def expected(target: Target, edition: int = 0) -> Any:
    """Return the notebook that `target`'s source stands for: ids, metadata and text final, no outputs."""
    text = numbered(target.source.read_text(encoding="utf-8"), target.source.name, edition)
    notebook = jupytext.reads(text, fmt="py:percent")
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    notebook.metadata = type(notebook.metadata)({"kernelspec": KERNEL} | hosting.colab(target.root, target.name))
    for index, cell in enumerate(notebook.cells):
        cell["id"] = hashlib.sha256(f"{target.stem}:{index}".encode()).hexdigest()[:8]
        cell.metadata.pop("lines_to_next_cell", None)
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
            cell.source = _code(cell, target, f"{target.source.name}, cell {index + 1}")
        else:
            cell.source = fill(cell.source, target)
        if target.kind == "solutions":
            cell.metadata.pop("nbgrader", None)
    if target.kind == "exercises":
        notebook.metadata["course"] = {"blank": digest(notebook)}
    return notebook


def numbered(text: str, where: str, edition: int = 0) -> str:
    """Write an edition's numbers where a source names them: {{ 1.1 std }} in prose, GIVEN_1_1_std in code."""

    def value(match: re.Match[str]) -> str:
        number, name = f"{match['chapter']}.{match['place']}", match["name"]
        written = GIVEN["written"](number, edition) if number in GIVEN["PUBLISHED"] else {}
        if name not in written:
            raise SourceError(f"{where}: {match[0]} is not given; add it to cvae_lib/course/checks/_given.py")
        return str(written[name])

    what = r"(?P<chapter>\d+){}(?P<place>\d+){}(?P<name>\w+)"
    text = re.sub(r"\{\{ " + what.format(r"\.", " ") + r" \}\}", value, text)
    return re.sub(r"\bGIVEN_" + what.format("_", "_") + r"\b", value, text)


def digest(notebook: Any) -> str:
    """Return a fingerprint of what stands in the cells; a blank carries its own, so that an edited one is known."""
    cells = [[cell.cell_type, cell.source] for cell in notebook.cells]
    return hashlib.sha256(json.dumps(cells).encode()).hexdigest()[:16]


def holds_work(notebook: Any) -> bool:
    """Say whether a blank was written in or run since it was built: then it is somebody's, not ours."""
    built = notebook.metadata.get("course", {}).get("blank")
    run = any(cell.get("outputs") or cell.get("execution_count") for cell in notebook.cells)
    return run or built != digest(notebook)


def _code(cell: Any, target: Target, where: str) -> str:
    if cell.source.strip() == "# {{ install }}":
        if "install" not in cell.metadata.get("tags", []):
            raise SourceError(f'{where}: the install cell needs tags=["install"] on its cell line')
        return hosting.install(target.root)
    return without_marked(cell.source, target.kind, where)


def without_marked(source: str, kind: str, where: str) -> str:
    """Resolve solution and hidden-test markers for `kind`; raises SourceError where they do not pair up.

    In exercises a solution inside a block becomes a line that raises NotImplementedError; one at the top of a
    cell becomes a comment, and its names keep what the stub before it gave them, `...`. In solutions that stub
    is left out. Hidden tests stay in the source. For the classroom everything stays: nbgrader resolves it.
    """
    kept: list[str] = []
    inside = ""
    for number, line in enumerate(source.splitlines(), 1):
        marker = MARKER.match(line)
        if marker is None:
            if re.search(r"###\s*(BEGIN|END)\b", line):
                raise SourceError(f"{where}, line {number}: write markers as in '### BEGIN SOLUTION'")
            if not inside or kind == "classroom" or (inside == "SOLUTION" and kind != "exercises"):
                kept.append(line)
            continue
        edge, region = marker.groups()
        if (edge == "BEGIN") == bool(inside) or (edge == "END" and region != inside):
            raise SourceError(f"{where}, line {number}: {edge} {region} {_state(inside)}")
        inside = region if edge == "BEGIN" else ""
        if kind == "classroom":
            kept.append(line)
        if inside == "SOLUTION" and kind == "solutions" and kept and STUB.match(kept[-1]):
            kept.pop()
        if edge == "BEGIN" and region == "SOLUTION" and kind == "exercises":
            indent = line[: len(line) - len(line.lstrip())]
            kept.append(indent + BLANK if indent else "# your code here")
    if inside:
        raise SourceError(f"{where}: BEGIN {inside} is never closed")
    return "\n".join(kept)


def _state(inside: str) -> str:
    return f"stands inside {inside}, which is still open" if inside else "closes what was never opened"


def fill(text: str, target: Target) -> str:
    """Expand the placeholders in markdown; raises SourceError for one that does not exist."""
    folder = "" if target.kind == "notebooks" else "../notebooks/"
    values = {
        "badges": lambda: hosting.badges(target.root, target.name),
        "minutes": lambda: minutes(target.root, target.name),
        "chapter_map": lambda: chapter_map(target.root, folder),
        "edition": lambda: edition(target),
    }

    def value(match: re.Match[str]) -> str:
        if match[1] not in values:
            known = ", ".join(values)
            raise SourceError(f"{target.source.name}: {match[0]} is no placeholder; there are: {known}")
        return values[match[1]]()

    return re.sub(r"\{\{ (\w+) \}\}", value, text)


def edition(target: Target) -> str:
    """Say of an exercise notebook whether it is the blank or the answers, and where the other is."""
    if target.kind == "solutions":
        blank = f"[the blanks](../exercises/{target.stem}.ipynb)"
        return f"**These are worked answers.** Yours may look different and still pass. Try {blank} first."
    told = (
        "Replace each `your code here`, then run the check below it. It says what came, what was expected, on which "
        "input, and what to look at. Two hints are folded away under each task"
    )
    if target.kind == "classroom":
        return f"{told}. Hand in this notebook: the same checks mark it, on other inputs."
    return f"{told}, and there are [worked answers](../solutions/{target.stem}.ipynb)."


def measured(root: Path, name: str) -> dict[str, float]:
    """Return what was measured when the notebook last ran: minutes and peak_mb, or nothing."""
    path = root / "authoring" / "measured.json"
    everything = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return {key: value for key, value in everything.get(name, {}).items() if value is not None}


def minutes(root: Path, name: str) -> str:
    """Say how long the notebook took when it was last measured."""
    run = measured(root, name)
    if "minutes" not in run:
        return "not measured yet"
    count = math.ceil(run["minutes"])
    return f"{count} minutes" if count > 1 else "1 minute"


def _tenths(number: float, unit: str) -> str:
    """Write a number with one decimal, rounded up."""
    return f"{math.ceil(10 * number) / 10:.1f} {unit}"


def chapter_map(root: Path, folder: str) -> str:
    """Draw the table of the chapters there are, linked from a file that sees them under `folder`."""
    rows = ["| Chapter | The question | Time | Memory | Size |", "|---|---|---|---|---|"]
    for target in targets(root):
        if target.kind == "notebooks":
            title, question = heading(target)
            run, built = measured(root, target.name), root / target.name
            memory = _tenths(run["peak_mb"] / 1000, "GB") if "peak_mb" in run else ""
            size = _tenths(built.stat().st_size / 1e6, "MB") if built.exists() else ""
            link = f"[{title}]({folder}{target.stem}.ipynb)"
            rows.append(f"| {link} | {question} | {minutes(root, target.name)} | {memory} | {size} |")
    return "\n".join(rows)


def heading(target: Target) -> tuple[str, str]:
    """Return a chapter's title and its question: the first two lines of its first markdown cell."""
    notebook = jupytext.reads(target.source.read_text(encoding="utf-8"), fmt="py:percent")
    text = next((cell.source for cell in notebook.cells if cell.cell_type == "markdown"), "")
    lines = [line.strip() for line in text.splitlines() if line.strip() and "{{" not in line]
    if len(lines) < 2 or not lines[0].startswith("# "):
        raise SourceError(f"{target.source.name}: the first cell must be '# Title' and, below it, a question")
    return lines[0][2:].strip(), lines[1].strip("*_> ")


def readme(root: Path) -> str:
    """Return README.md with what stands between its markers, chapter map and badges, brought up to date."""
    text = (root / "README.md").read_text(encoding="utf-8")
    text = _between(text, MAP_BEGIN, MAP_END, chapter_map(root, "notebooks/"))
    return _between(text, BADGES_BEGIN, BADGES_END, hosting.badges(root, "notebooks/00_start_here.ipynb"))


def _between(text: str, begin: str, end: str, new: str) -> str:
    if begin not in text or end not in text:
        return text
    head, rest = text.split(begin, 1)
    return f"{head}{begin}\n{new}\n{end}{rest.split(end, 1)[1]}"
