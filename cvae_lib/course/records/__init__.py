"""Recorded studies: figures measured over several seeds by the scripts in ``benchmarks/studies``, never typed.

A record is a JSON file ``{"study", "command", "protocol", "versions", "runs": [{"seed": 0, "figure": 1.2}, ...]}``.
"""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

FOLDER = Path(__file__).parent


class Band(NamedTuple):
    """A figure over seeds.

    Attributes:
        mean: over the seeds, in the figure's unit.
        spread: sample standard deviation over the seeds; NaN for a single one.
        seeds: how many there are.
    """

    mean: float
    spread: float
    seeds: int

    def __str__(self) -> str:
        return f"{self.mean:.3g} ± {self.spread:.2g}" if abs(self.mean) < 1 else f"{self.mean:.2f} ± {self.spread:.2f}"


def load(name: str, folder: Path = FOLDER) -> dict[str, Any]:
    """Return a recorded study.

    Raises:
        FileNotFoundError: if there is none of that name; says which there are.
    """
    path = folder / f"{name}.json"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in folder.glob("*.json"))) or "none"
        raise FileNotFoundError(f"There is no recorded study {name!r}; there are: {known}.")
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return record


def band(record: dict[str, Any], figure: str) -> Band:
    """Return mean and spread over the seeds of one figure of a record.

    Raises:
        KeyError: if no run has a figure of that name.
    """
    values = [float(run[figure]) for run in record["runs"]]
    mean = sum(values) / len(values)
    spread = math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1)) if len(values) > 1 else math.nan
    return Band(mean, spread, len(values))


def write(
    name: str,
    *,
    command: str,
    protocol: str,
    versions: dict[str, str],
    runs: list[dict[str, Any]],
    folder: Path = FOLDER,
) -> Path:
    """Store a study's figures; called by the study's own script only."""
    path = folder / f"{name}.json"
    record = {"study": name, "command": command, "protocol": protocol, "versions": versions, "runs": runs}
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return path
