"""What nbgrader does not do by itself when it marks a submission that somebody has tampered with.

Three steps that ``nbgrader_config.py``, as classroom.py writes it, puts among nbgrader's own. A mark depends on cells
that the learner had in hand, so they are put back before anything runs; and a cell that kills or blocks the kernel
costs its own exercise, not the whole submission.
"""

from pathlib import Path
from typing import Any

import nbformat
import sources
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbclient.util import run_sync
from nbgrader.preprocessors import Execute as NbgraderExecute
from nbgrader.preprocessors import NbGraderPreprocessor
from traitlets import Unicode

ANSWERS_AFTER = 5  # seconds in which an idle kernel says that it is there
ROUNDS = 4  # a submission that brings the kernel down more often than this is left at that

# exit() in a notebook ends the kernel after its cell, so that the cells below would never be marked.
NO_EXIT = "get_ipython().ask_exit = lambda: print('exit() would end the notebook, and is ignored here.')"


class ClearSolutions(NbGraderPreprocessor):  # type: ignore[misc]
    """Make the blanks by the course's own rule: a value left open stays `...`, and runs."""

    def preprocess_cell(self, cell: Any, resources: Any, cell_index: int) -> tuple[Any, Any]:
        """Blank one solution cell."""
        if cell.metadata.get("nbgrader", {}).get("solution"):
            where = f"{resources['nbgrader']['notebook']}, cell {cell_index + 1}"
            cell.source = sources.without_marked(cell.source, "exercises", where)
        return cell, resources


class RestoreCells(NbGraderPreprocessor):  # type: ignore[misc]
    """Put back what marks depend on: deleted checks, their points, and that they run at all."""

    folder = Unicode(help="the folder with the source of each assignment").tag(config=True)

    def preprocess(self, nb: Any, resources: Any) -> tuple[Any, Any]:
        """Restore one submission; a deleted check comes back as late as it can, below whatever answers it."""
        names = resources["nbgrader"]
        path = Path(self.folder) / names["assignment"] / f"{names['notebook']}.ipynb"
        marked = {_id(cell): cell for cell in nbformat.read(path, as_version=4).cells if _id(cell)}
        for cell in nb.cells:
            cell.metadata.pop("tags", None)  # one of them lets a cell go unrun, and an unrun check counts as passed
            if _id(cell) in marked:
                cell.metadata["nbgrader"] = marked[_id(cell)].metadata.nbgrader.copy()
            else:
                cell.metadata.pop("nbgrader", None)
        present = [_id(cell) for cell in nb.cells]
        at = len(nb.cells)
        for name, cell in reversed(marked.items()):
            if name in present:
                at = present.index(name)
            elif cell.metadata.nbgrader.grade:
                nb.cells.insert(at, cell)
                present.insert(at, name)
        return nb, resources


def _id(cell: Any) -> str:
    return str(cell.metadata.get("nbgrader", {}).get("grade_id", ""))


class Execute(NbgraderExecute):  # type: ignore[misc]
    """Run a submission to its end, whatever is in it."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.left_out: set[int] = set()
        self.at = 0

    def preprocess(self, nb: Any, resources: Any = None, km: Any = None) -> tuple[Any, Any]:
        """Run all cells; leave one out that brings the kernel down, and run the others again in a fresh one."""
        self.left_out = set()
        for _ in range(ROUNDS):
            try:
                return super().preprocess(nb, resources, km)  # type: ignore[no-any-return]
            except (DeadKernelError, CellTimeoutError):  # the latter, if even an interrupt brought no answer
                self.left_out.add(self.at)
        self.left_out = set(range(len(nb.cells)))
        for index, cell in enumerate(nb.cells):
            self.preprocess_cell(cell, resources, index)
        return nb, resources

    def preprocess_cell(self, cell: Any, resources: Any, cell_index: int) -> tuple[Any, Any]:
        """Run one cell, unless it is one to be left out; in a check, keep a warning from counting as a failure."""
        self.at = cell_index
        if cell_index == 0 and self.kc is not None:
            self.wait_for_reply(self.kc.execute(NO_EXIT, silent=True))
        if cell_index in self.left_out:
            if cell.cell_type == "code":
                text = "This cell ended or blocked the kernel, and was left out."
                cell.outputs = [nbformat.v4.new_output("error", ename="LeftOut", evalue=text, traceback=[text])]
            return cell, resources
        cell, resources = super().preprocess_cell(cell, resources, cell_index)
        outputs = cell.get("outputs", [])
        if any(output.get("ename") == "CellTimeoutError" for output in outputs):
            self._still_there()
        if cell.metadata.get("nbgrader", {}).get("grade"):
            for output in outputs:
                if output.output_type == "stream":
                    output.name = "stdout"
        return cell, resources

    def _still_there(self) -> None:
        """Raise DeadKernelError if the interrupt did not bring the kernel back."""
        try:
            run_sync(self.kc.wait_for_ready)(timeout=ANSWERS_AFTER)
        except RuntimeError:
            raise DeadKernelError("an endless loop that cannot be interrupted") from None
