"""Build the three folders of notebooks from their sources, one way.

    python authoring/build.py [stem ...]      execute and write these notebooks, or all of them; a stem is
                                              01_name, or one of its three: solutions/01_name
    python authoring/build.py --text          bring prose, times and maps up to date where no code changed
    python authoring/build.py --check         say what is out of step, without executing anything
    python authoring/build.py --out DIR       write elsewhere
    python authoring/build.py --measure       also record minutes and memory in authoring/measured.json

A chapter, authoring/notebooks/NN_name.py, becomes notebooks/NN_name.ipynb. An exercise source,
authoring/exercises/NN_name.py, becomes a blank in exercises/ and an answer in solutions/. Placeholders in
markdown: {{ badges }}, {{ minutes }}, {{ chapter_map }}, {{ edition }}. A code cell tagged "install" that holds only
`# {{ install }}` becomes the cell that fetches the library where it is missing. README.md's chapter map is
kept between its markers. A blank that somebody has written in or run is never written over.
"""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import nbformat
import running
import sources
from sources import ROOT, Target


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns 0 when all is well and 1 when something is out of step or did not run."""
    options = _parser().parse_args(arguments)
    try:
        if options.check:
            return _report(check())
        if options.text:
            return _report(refresh(options.out))
        return build(options.stems, options.out, options.measure)
    except sources.SourceError as error:
        print(error, file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="build.py", description="Build the notebooks from their sources.")
    parser.add_argument(
        "stems", nargs="*", metavar="stem", help="as in 00_start_here or solutions/01_the_vae; all if none"
    )
    parser.add_argument("--check", action="store_true", help="only say what is out of step, in seconds")
    parser.add_argument("--text", action="store_true", help="only refresh prose where the code is unchanged")
    parser.add_argument("--measure", action="store_true", help="record minutes and memory of each notebook")
    parser.add_argument("--out", type=Path, default=ROOT, metavar="DIR", help="write below DIR")
    return parser


def build(stems: list[str], out: Path = ROOT, measure: bool = False, root: Path = ROOT) -> int:
    """Execute and write the notebooks of `stems` (all, if empty) below `out`; a failed one leaves the old."""
    if out == root and os.environ.get("COURSE_PROFILE", "full") != "full":
        return _report(["Notebooks are published at full length: unset COURSE_PROFILE, or build with --out."])
    failed = []
    for target in sources.targets(root, stems):
        try:
            _build_one(target, out, measure)
        except running.RunError as error:
            failed.append(f"{target.name}: {error}; the notebook was left as it was")
    for line in refresh(out, root):
        print(f"note: {line}")
    return _report(failed)


def _build_one(target: Target, out: Path, measure: bool) -> None:
    notebook = sources.expected(target)
    took = "not executed"
    if target.executed:
        run = running.execute(notebook, target.root / target.kind)
        took = f"{run.seconds:.0f} s"
        if measure:
            _record(target, run)
            took += f", peak {run.peak_mb} MB"
    text, path = rendered(notebook), out / target.name
    if _holds_work(target, path):
        return  # refresh() says so
    write(path, text)
    print(f"{target.name}: {took}, {len(text.encode()) / 1024:.0f} KB", flush=True)


def _holds_work(target: Target, path: Path) -> bool:
    """Say whether `path` is a blank with somebody's work in it, or one that cannot be read to find out."""
    if target.kind != "exercises" or not path.exists():
        return False
    try:
        return sources.holds_work(nbformat.read(path, as_version=4))
    except Exception:  # whatever it is, it is not what the build wrote
        return True


def _kept(target: Target) -> str:
    return (
        f"{target.name}: was edited or run since it was built, so no command writes over it; for a fresh blank "
        f"rename it to {target.stem}.mine.ipynb and run `build.py exercises/{target.stem}`"
    )


def _record(target: Target, run: running.Run) -> None:
    path = target.root / sources.MEASURED.relative_to(ROOT)
    measured = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    measured[target.name] = {"minutes": round(run.seconds / 60, 2), "peak_mb": run.peak_mb}
    write(path, json.dumps(measured, indent=1, sort_keys=True) + "\n")


def rendered(notebook: Any) -> str:
    """Return the file's text: the same notebook always gives the same bytes."""
    nbformat.validate(notebook)
    return str(nbformat.writes(notebook)).rstrip("\n") + "\n"


def write(path: Path, text: str) -> None:
    """Write `text` to `path` in one step, so that an interrupt leaves the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def refresh(out: Path = ROOT, root: Path = ROOT) -> list[str]:
    """Rewrite prose whose code is unchanged, and README's map; returns what only a run can bring in step."""
    stale = []
    for target in sources.targets(root):
        path = out / target.name
        if not path.exists():
            continue
        if _holds_work(target, path):
            stale.append(_kept(target))
            continue
        old, new = nbformat.read(path, as_version=4), sources.expected(target)
        if difference := _adopt_outputs(new, old):
            stale.append(f"{target.name}: {difference}; run `build.py {target.stem}`")
        elif (text := rendered(new)) != path.read_text(encoding="utf-8"):
            write(path, text)
            print(f"{target.name}: text refreshed")
    if out == root and (root / "README.md").exists():
        write(root / "README.md", sources.readme(root))
    return stale


def _adopt_outputs(new: Any, old: Any) -> str:
    """Give `new` the outputs of `old` where both hold the same code cells; returns why not, or nothing."""
    fresh = [cell for cell in new.cells if cell.cell_type == "code"]
    stored = [cell for cell in old.cells if cell.cell_type == "code"]
    if len(fresh) != len(stored):
        return f"has {len(stored)} code cells, its source {len(fresh)}"
    for number, (cell, other) in enumerate(zip(fresh, stored, strict=True), 1):
        # The build writes the install cell itself, and where the library is there it does nothing but say where to run.
        written = all("install" in each.metadata.get("tags", []) for each in (cell, other)) and not other.outputs
        if cell.source != other.source and not written:
            return f"code cell {number} differs from its source"
        cell.outputs, cell.execution_count = other.outputs, other.execution_count
    return ""


def check(root: Path = ROOT) -> list[str]:
    """Compare what is committed with what the sources give; returns one line for each thing out of step."""
    found = [line for target in sources.targets(root) for line in _check_one(target)]
    wanted = {target.name for target in sources.targets(root)}
    for kind in ("notebooks", "exercises", "solutions"):
        for path in sorted((root / kind).glob("*.ipynb")):
            if f"{kind}/{path.name}" not in wanted and not path.name.endswith(".mine.ipynb"):
                found.append(f"{kind}/{path.name}: has no source under authoring/")
    readme = root / "README.md"
    if readme.exists() and readme.read_text(encoding="utf-8") != sources.readme(root):
        found.append("README.md: its chapter map is out of step; run `build.py --text`")
    return found


def _check_one(target: Target) -> list[str]:
    path = target.root / target.name
    if not path.exists():
        return [f"{target.name}: was never built; run `build.py {target.stem}`"]
    if _holds_work(target, path):
        return [_kept(target)]
    text = path.read_text(encoding="utf-8")
    old, new = nbformat.reads(text, as_version=4), sources.expected(target)
    if difference := _adopt_outputs(new, old):
        return [f"{target.name}: {difference}; run `build.py {target.stem}`"]
    if rendered(new) != text:
        place = _first_difference(new, old)
        return [f"{target.name}: {place} differs from its source; run `build.py --text`"]
    return [f"{target.name}: {line}" for line in running.problems(old)] if target.executed else []


def _first_difference(new: Any, old: Any) -> str:
    for number, (cell, other) in enumerate(zip(new.cells, old.cells, strict=False), 1):
        if cell != other:
            return f"cell {number}"
    return "the number of cells" if len(new.cells) != len(old.cells) else "its metadata or layout"


def _report(lines: list[str]) -> int:
    for line in lines:
        print(line, file=sys.stderr)
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
