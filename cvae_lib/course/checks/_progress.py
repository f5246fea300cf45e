"""What has been done: kept in a small file of the user's, outside the course, so that it survives a restart."""

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cvae_lib.course.checks._registry import EXERCISES
from cvae_lib.course.checks._verdict import say
from cvae_lib.course.profile import profile
from cvae_lib.environment import write_atomically

if TYPE_CHECKING:
    from cvae_lib.course.figures import Picture

State = Literal["passed", "tried"]

# What this process has seen, by the file it belongs in, for where nothing may or can be written; and what was said.
_here: dict[Path | None, dict[str, State]] = {}
_announced: set[Path | None] = set()


def state_file() -> Path | None:
    """Return where progress is kept: ``CVAE_STATE``, else the user's folder for such things; None without a home."""
    if os.environ.get("CVAE_STATE"):
        folder = Path(os.environ["CVAE_STATE"])
    elif sys.platform == "win32":
        folder = Path(os.environ.get("LOCALAPPDATA", "~/AppData/Local")) / "cvae_lib"
    elif sys.platform == "darwin":
        folder = Path("~/Library/Application Support/cvae_lib")
    else:
        folder = Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state") / "cvae_lib"
    try:
        return folder.expanduser() / "progress.json"
    except RuntimeError:  # containers and batch jobs: no HOME, and a user id that nobody knows
        return None


def _is_kept() -> bool:
    """Say whether a file is used: not when notebooks are built, tested or graded, unless a folder is named."""
    if os.environ.get("CVAE_STATE"):
        return True
    strict, unattended = (os.environ.get(name) == "1" for name in ("COURSE_STRICT", "COURSE_UNATTENDED"))
    return not strict and not unattended and profile() == "full"


def recorded() -> dict[str, State]:
    """Return what is known of each exercise by number: ``passed``, ``tried``, or nothing."""
    file, stored = state_file(), None
    if file is not None and _is_kept():
        try:
            stored = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            stored = None  # not there yet, or cut short: then only this process's own is known
    kept = stored if isinstance(stored, dict) else {}
    merged = {**kept, **_here.get(file, {})} | {number: "passed" for number, state in kept.items() if state == "passed"}
    return {number: state for number, state in merged.items() if state in ("passed", "tried")}


def record(number: str, passed: bool) -> None:
    """Enter that an exercise was passed or tried; once passed, it stays passed.

    Where nothing can be written it is known to this process alone, which one printed line then says.
    """
    known, file = recorded(), state_file()
    state: State = "passed" if passed or known.get(number) == "passed" else "tried"
    _here.setdefault(file, {})[number] = state
    if known.get(number) == state or not _is_kept():
        return
    if file is None:
        _announce(file, "there is no home folder; name a folder in CVAE_STATE")
        return
    try:
        write_atomically(file, json.dumps(known | {number: state}, indent=1, sort_keys=True).encode())
    except OSError as error:
        _announce(file, f"{file.parent} cannot be written ({error.strerror})")


def _announce(file: Path | None, why: str) -> None:
    if file not in _announced:
        say(f"Progress is kept for this session only: {why}.")
    _announced.add(file)


def picture(chapter: int | None, titles: Mapping[int, str]) -> "Picture":
    """Draw one row of boxes per chapter: a tick for passed, a dot for tried, an empty box for the rest."""
    from cvae_lib.course.figures import Picture, new_figure
    from cvae_lib.course.figures.picture import BLACK, GREEN, ORANGE

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
