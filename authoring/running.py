"""Execute a notebook in a kernel of its own and leave only outputs that are the same the next time."""

import os
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

WIDGET = "application/vnd.jupyter.widget-view+json"
CELL_SECONDS = 1800
ENVIRONMENT = {
    "COURSE_CHECK_SEED": "1",  # checks draw their inputs afresh, and some print what they measured
    "COURSE_STRICT": "1",  # a worked answer that no longer passes its check is not published
    "COURSE_UNATTENDED": "1",
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    "PYTHONHASHSEED": "0",
}
UNSTABLE = {
    r"\b0x[0-9a-fA-F]{6,}": "shows a memory address, which changes from run to run",
    r"ipykernel_\d+": "shows a warning with the kernel's temporary file in it",
    r"\d+%\|": "stores a progress bar; pass disable= where nobody watches",
}


class RunError(RuntimeError):
    """A notebook that did not run to its end, or left an output that cannot be published."""


@dataclass(frozen=True)
class Run:
    """What executing one notebook took."""

    seconds: float
    peak_mb: int | None  # the kernel's peak resident memory; None where the system does not say


def execute(notebook: Any, folder: Path) -> Run:
    """Run `notebook` in place, from `folder`; raises RunError with the cell's number and what it raised."""
    folder.mkdir(parents=True, exist_ok=True)
    client = NotebookClient(
        notebook,
        timeout=CELL_SECONDS,
        kernel_name="python3",
        record_timing=False,
        store_widget_state=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(folder)}},
        extra_arguments=["--IPKernelApp.log_level=ERROR"],
    )
    start = time.perf_counter()
    with client.setup_kernel(env=os.environ | ENVIRONMENT):
        for index, cell in enumerate(notebook.cells):
            _execute_cell(client, cell, index)
        seconds = time.perf_counter() - start
        peak = _peak_mb(client)
    _clean(notebook)
    if found := problems(notebook):
        raise RunError("; ".join(found))
    return Run(seconds, peak)


def _execute_cell(client: NotebookClient, cell: Any, index: int) -> None:
    try:
        client.execute_cell(cell, index)
    except CellExecutionError as error:
        print(error.traceback, file=sys.stderr)
        raise RunError(f"cell {index + 1} raises {error.ename}: {error.evalue}") from None
    except CellTimeoutError:
        raise RunError(f"cell {index + 1} ran longer than {CELL_SECONDS} s") from None
    except DeadKernelError:
        raise RunError(f"the kernel died in cell {index + 1}, most often for lack of memory") from None


def _peak_mb(client: NotebookClient) -> int | None:
    """Read the kernel's high-water mark from Linux; elsewhere there is none to read."""
    provisioner = client.km.provisioner if client.km else None
    status = Path(f"/proc/{getattr(provisioner, 'pid', None)}/status")
    if not status.exists():
        return None
    peak = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
    return int(peak[1]) // 1024 if peak else None


def _clean(notebook: Any) -> None:
    """Drop what ties the notebook to this run: language details, widget state, views that have a picture."""
    notebook.metadata.pop("language_info", None)
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                output["data"].pop(WIDGET, None)


def problems(notebook: Any) -> list[str]:
    """Say what in an executed notebook may not be published: unrun cells, errors, unrepeatable outputs."""
    found = []
    runs = 0
    for number, cell in enumerate(notebook.cells, 1):
        if cell.cell_type != "code":
            continue
        runs += 1
        if cell.execution_count != runs:
            found.append(f"cell {number} was never run, or out of order")
        for output in cell.outputs:
            if output.output_type == "error":
                found.append(f"cell {number} stores an error, {output.ename}")
            if WIDGET in output.get("data", {}):
                found.append(f"cell {number} stores a widget without a picture: blank on GitHub")
            text = str(output.get("text", "")) + str(output.get("data", {}).get("text/plain", ""))
            found += [f"cell {number} {why}" for pattern, why in UNSTABLE.items() if re.search(pattern, text)]
    return found
