"""What the studies share: finished pieces are kept on disk, and one place writes the record."""

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from cvae_lib import __version__, course, records


def arguments(study: str, chapter: str) -> argparse.ArgumentParser:
    """Return a parser that knows where a study keeps its finished pieces: a folder for each profile."""
    parser = argparse.ArgumentParser(description=f"Record chapter {chapter}'s study.")
    parser.add_argument(
        "--kept", type=Path, default=_folder(study), metavar="FOLDER", help="where finished trainings are kept"
    )
    return parser


def once(path: Path, piece: Callable[[], dict[str, Any]]) -> dict[str, Any] | None:
    """Do a piece and keep what it found, or return None if it is kept already."""
    if path.exists():
        return None
    path.parent.mkdir(parents=True, exist_ok=True)
    found = piece()
    path.write_text(json.dumps(found), encoding="utf-8")
    return found


def read(path: Path) -> dict[str, Any]:
    """Return what a finished piece found."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def record(study: str, protocol: str, runs: list[dict[str, Any]], kept: Path | None = None) -> None:
    """Write the record, to four digits; a rehearsal on the fast profile leaves the real one alone."""
    write(study, study, protocol, [{key: round(value, 4) for key, value in run.items()} for run in runs], kept)


def write(name: str, study: str, protocol: str, runs: list[dict[str, Any]], kept: Path | None = None) -> None:
    """Write a record of a study under a name of its own, its runs as they are."""
    target = {}
    if course.profile() == "fast":
        target["folder"] = kept or _folder(study)
        target["folder"].mkdir(parents=True, exist_ok=True)
    path = records.write(
        name,
        command=f"python benchmarks/studies/{study}.py",
        protocol=protocol,
        versions={"cvae_lib": __version__, "torch": torch.__version__.split("+")[0]},
        runs=runs,
        **target,
    )
    print(f"wrote {path.name}")


def _folder(study: str) -> Path:
    return Path(tempfile.gettempdir()) / f"{study}-{course.profile()}"
