"""Run a notebook's code cells in this process, with IPython but no kernel and no sockets: used by the gates.

    python run_cells.py NOTEBOOK [CELLS]

CELLS limits the run to the first so many code cells. Exits with 1 at the first cell that raises.
"""

import json
import sys
from pathlib import Path

from IPython.core.interactiveshell import InteractiveShell


def main(path: str, limit: str = "1000000") -> int:
    """Run the cells of the notebook at `path` in order; print what they print."""
    shell = InteractiveShell.instance(history_length=0)
    notebook = json.loads(Path(path).read_text(encoding="utf-8"))
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    for number, source in enumerate(cells[: int(limit)], 1):
        if not shell.run_cell(source).success:
            print(f"{path}: code cell {number} raised", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
