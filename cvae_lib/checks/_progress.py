"""What has been done: kept in a small file of the user's, outside the course, so that it survives a restart."""

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cvae_lib import course
from cvae_lib._files import write_atomically
from cvae_lib.checks._registry import EXERCISES

if TYPE_CHECKING:
    from cvae_lib.plots import Picture

State = Literal["passed", "tried"]

_here: dict[str, State] = {}  # what this process has seen, for where nothing may or can be written


def state_file() -> Path:
    """Return where progress is kept: ``CVAE_STATE``, else the user's folder for such things."""
    if os.environ.get("CVAE_STATE"):
        folder = Path(os.environ["CVAE_STATE"])
    elif sys.platform == "win32":
        folder = Path(os.environ.get("LOCALAPPDATA", "~/AppData/Local")) / "cvae_lib"
    elif sys.platform == "darwin":
        folder = Path("~/Library/Application Support/cvae_lib")
    else:
        folder = Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state") / "cvae_lib"
    return folder.expanduser() / "progress.json"


def _is_kept() -> bool:
    """Say whether a file is used: not when notebooks are built, tested or graded, unless a folder is named."""
    if os.environ.get("CVAE_STATE"):
        return True
    strict, unattended = (os.environ.get(name) == "1" for name in ("COURSE_STRICT", "COURSE_UNATTENDED"))
    return not strict and not unattended and course.profile() == "full"


def recorded() -> dict[str, State]:
    """Return what is known of each exercise by number: ``passed``, ``tried``, or nothing."""
    stored: object = None
    if _is_kept():
        try:
            stored = json.loads(state_file().read_text(encoding="utf-8"))
        except (OSError, ValueError):
            stored = None  # not there yet, or cut short: then only this process's own is known
    kept = stored if isinstance(stored, dict) else {}
    merged = {**kept, **_here} | {number: "passed" for number, state in kept.items() if state == "passed"}
    return {number: state for number, state in merged.items() if state in ("passed", "tried")}


def record(number: str, passed: bool) -> None:
    """Enter that an exercise was passed or tried; once passed, it stays passed."""
    known = recorded()
    state: State = "passed" if passed or known.get(number) == "passed" else "tried"
    _here[number] = state
    if known.get(number) == state or not _is_kept():
        return
    try:
        text = json.dumps(known | {number: state}, indent=1, sort_keys=True)
        write_atomically(state_file(), text.encode())
    except OSError as error:
        print(f"Progress is kept for this session only: {state_file().parent} cannot be written ({error.strerror}).")


def picture(chapter: int | None, titles: Mapping[int, str]) -> "Picture":
    """Draw one row of boxes per chapter: a tick for passed, a dot for tried, an empty box for the rest."""
    from cvae_lib.plots import Picture, new_figure
    from cvae_lib.plots.picture import BLACK, GREEN, ORANGE

    known = recorded()
    chapters = [chapter] if chapter is not None else sorted(titles)
    tried = any(known.get(entry.number) == "tried" for entry in EXERCISES.values() if entry.chapter in chapters)
    figure, (axes,) = new_figure(7.0, 0.35 + 0.62 * len(chapters) + 0.3 * tried)
    sentences = []
    for row, wanted in enumerate(chapters):
        mine = [entry for entry in EXERCISES.values() if entry.chapter == wanted]
        done = [entry.number for entry in mine if known.get(entry.number) == "passed"]
        for column, entry in enumerate(mine):
            state = known.get(entry.number)
            face = {"passed": GREEN, "tried": ORANGE}.get(state or "", "white")
            mark = {"passed": "✓", "tried": "•"}.get(state or "", "")
            box = {"boxstyle": "round,pad=0.35", "facecolor": face, "edgecolor": BLACK, "alpha": 0.9}
            ink = "white" if state == "passed" else BLACK
            axes.text(column, -row, f"{entry.number}{mark:>2}", ha="center", va="center", bbox=box, color=ink)
        axes.text(-0.9, -row, titles[wanted], ha="right", va="center")
        names = f" ({', '.join(done)})" if done else ""
        sentences.append(f"chapter {wanted:02d}: {len(done)} of {len(mine)} exercises done{names}")
    width = max(sum(entry.chapter == wanted for entry in EXERCISES.values()) for wanted in chapters)
    if tried:
        axes.text(-0.25, 0.4 - len(chapters), "✓  passed     •  tried, not passed yet", va="center")
    axes.set(xlim=(-5.0, max(width, 8) - 0.4), ylim=(0.6 - len(chapters) - 0.5 * tried, 0.6))
    axes.axis("off")
    return Picture(figure, "Progress. " + "; ".join(sentences).capitalize() + ".")
