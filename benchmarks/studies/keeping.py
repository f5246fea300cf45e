"""What the studies share: finished pieces are kept on disk, and one place writes the record."""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from cvae_lib import __version__, course, evaluation
from cvae_lib.course import records


def arguments(study: str, chapter: str) -> argparse.ArgumentParser:
    """Return a parser of where finished pieces are kept, a folder for each profile, and how long to go on."""
    parser = argparse.ArgumentParser(description=f"Record chapter {chapter}'s study.")
    parser.add_argument(
        "--kept", type=Path, default=_folder(study), metavar="FOLDER", help="where finished trainings are kept"
    )
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start no training after so many minutes")
    return parser


def all_done(lines: Iterable[str], minutes: float) -> bool:
    """Print a line for every piece as it gets done; after so many minutes stop, say so, and return False."""
    start = time.monotonic()
    for line in lines:
        print(line, flush=True)
        if time.monotonic() - start > 60 * minutes:
            print("Stopped; call again with the same folder to go on.")
            return False
    return True


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


def place(kept: Path, name: str, seed: int) -> Path:
    """Return where the piece of that name and seed is kept."""
    return kept / f"{name}-{seed}.json"


def lacking(kept: Path, names: Iterable[str], seeds: Iterable[int]) -> list[str]:
    """Return the names of which a seed is not done yet."""
    every = list(seeds)
    return [name for name in names if not all(place(kept, name, seed).exists() for seed in every)]


def named(name: str, found: dict[str, Any]) -> dict[str, Any]:
    """Return a piece's figures under its name."""
    return {f"{name}_{figure}": value for figure, value in found.items()}


def joined(kept: Path, names: Iterable[str], seed: int) -> dict[str, Any]:
    """Put one seed's figures together."""
    figures: dict[str, Any] = {"seed": seed}
    for name in names:
        figures |= named(name, read(place(kept, name, seed)))
    return figures


def compared(kept: Path, baselines: dict[str, str], seed: int) -> dict[str, Any]:
    """Put one seed's trials together, each with its gain in likelihood over its baseline, image by image."""
    found = {name: read(place(kept, name, seed)) for name in baselines}
    figures: dict[str, Any] = {"seed": seed}
    for name, baseline in baselines.items():
        values, base = (torch.tensor(found[which]["per_example"]) for which in (name, baseline))
        gap = evaluation.mean_and_error(values - base)
        own = {**found[name]["figures"], "gap": gap.mean, "gap_standard_error": gap.standard_error}
        figures |= named(name, own)
    return figures


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
