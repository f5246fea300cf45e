"""How long each panel of the course takes to answer, beside an empty figure of the same size, in one run.

    .venv/bin/python benchmarks/panels.py             # prints the table, writes benchmarks/results/panels.json
    .venv/bin/python benchmarks/panels.py --quick     # a rehearsal: few settings, nothing written

Runs every chapter on the fast profile and takes the panels it made: an answer costs the same after a short training. An
answer is what the kernel does between hearing of a moved control and having a new picture to send: the network, the
drawing, the PNG. The empty figure has the panel's size, one axis, and matplotlib's own way to a PNG: what a panel that
computes nothing would take with it. A chapter's panels are timed in turn, and each answer beside an empty figure, so
that a busy neighbour disturbs all alike.
"""

import argparse
import io
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["COURSE_PROFILE"] = "fast"
ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]

import drive_panels  # noqa: E402
import matplotlib.figure  # noqa: E402
import torch  # noqa: E402

from cvae_lib.course.figures.picture import DOTS_PER_INCH  # noqa: E402

RESULT = ROOT / "benchmarks" / "results" / "panels.json"
TARGET_MS = 100


def milliseconds(work: Callable[[], object]) -> float:
    """Time one call."""
    started = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - started)


def empty(size: tuple[float, float]) -> bytes:
    """Draw nothing, as everybody does: a figure with one axis, saved as PNG."""
    figure = matplotlib.figure.Figure(figsize=size, layout="constrained")
    figure.subplots()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DOTS_PER_INCH)
    return buffer.getvalue()


def moves(panel: Any, count: int) -> list[tuple[str, Any]]:
    """Return `count` single moves of single controls, each away from where the control then is."""
    asked = [(name, values[name]) for name, values in drive_panels.settings(panel) if name in panel.controls]
    random.Random(0).shuffle(asked)
    return asked[:count]


def answer(panel: Any, name: str, value: Any) -> float | None:
    """Move one control and time until the picture is there; None if it stood there already."""
    control = panel.inputs[name]
    if control.value == value:
        return None
    took = milliseconds(lambda: setattr(control, "value", value))
    if panel.error is not None:
        raise panel.error
    return took


def measured(panels: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """Time the panels in turn, and return a row for each."""
    plans = {name: moves(panel, count) for name, panel in panels.items()}
    times: dict[str, list[float]] = {name: [] for name in panels}
    bare: dict[str, list[float]] = {name: [] for name in panels}
    for turn in range(count):
        for name, panel in panels.items():
            if turn < len(plans[name]) and (took := answer(panel, *plans[name][turn])) is not None:
                times[name].append(took)
                bare[name].append(milliseconds(lambda p=panel: empty(p.first.figure.get_size_inches())))  # type: ignore[misc]
    return [
        {
            "panel": name,
            "median_ms": round(statistics.median(values), 1),
            "slowest_of_20_ms": round(statistics.quantiles(values, n=20)[-1], 1),
            "empty_figure_ms": round(statistics.median(bare[name]), 1),
            "moves": len(values),
        }
        for name, values in times.items()
    ]


def of_chapter(path: Path, count: int) -> list[dict[str, Any]]:
    """Time the panels of one chapter, in a process of its own: chapters use the same names for different things."""
    command = [sys.executable, __file__, "--chapter", str(path), "--count", str(count)]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    rows: list[dict[str, Any]] = json.loads(printed.splitlines()[-1])
    return rows


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Time the answers of every panel.")
    parser.add_argument("--quick", action="store_true", help="few settings, nothing written")
    parser.add_argument("--chapter", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--count", type=int, default=60, help="moves of each panel")
    given = parser.parse_args()
    if given.chapter:
        made = enumerate(drive_panels.made_by(str(given.chapter)), 1)
        named = {f"{given.chapter.stem[:2]}, panel {k}: {', '.join(panel.controls)}": panel for k, panel in made}
        print(json.dumps(measured(named, given.count)))
        return
    quick = given.quick
    chapters = sorted((ROOT / "notebooks").glob("*.ipynb"))
    rows = []
    print(f"{'median':>8} {'1 in 20':>8} {'empty':>8}   milliseconds, {torch.get_num_threads()} threads")
    for path in chapters:
        if "_panel(" not in path.read_text(encoding="utf-8"):
            continue
        for row in of_chapter(path, 8 if quick else given.count):
            rows.append(row)
            figures = "".join(f"{row[key]:8.1f} " for key in ("median_ms", "slowest_of_20_ms", "empty_figure_ms"))
            print(f"{figures}  {row['panel']}{'  over the target' if row['median_ms'] > TARGET_MS else ''}", flush=True)
    if not quick:
        machine = {"cores": os.cpu_count(), "threads": torch.get_num_threads(), "processor": platform.machine()}
        made_with = {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "matplotlib": matplotlib.__version__,
        }
        record = {"machine": machine | made_with, "target_ms": TARGET_MS, "panels": rows}
        RESULT.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
