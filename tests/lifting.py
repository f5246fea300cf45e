"""Take definitions out of a built chapter, so that what the reader sees is what is tested."""

import ast
import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def lift(chapter: str, *names: str) -> dict[str, Any]:
    """Return the classes, functions and settings called `names` from the chapter; only imports run beside them."""
    cells = json.loads((ROOT / "notebooks" / f"{chapter}.ipynb").read_text(encoding="utf-8"))["cells"]
    kept: list[ast.stmt] = []
    for cell in cells:
        if cell["cell_type"] != "code" or "install" in cell["metadata"].get("tags", []):
            continue
        for statement in ast.parse("".join(cell["source"])).body:
            wanted = isinstance(statement, ast.ClassDef | ast.FunctionDef) and statement.name in names
            if isinstance(statement, ast.Assign):
                assigned = {
                    node.id for target in statement.targets for node in ast.walk(target) if isinstance(node, ast.Name)
                }
                wanted = assigned <= set(names)
            if wanted or isinstance(statement, ast.Import | ast.ImportFrom):
                kept.append(statement)
    space: dict[str, Any] = {"__name__": f"lifted_{chapter}"}
    exec(compile(ast.Module(kept, type_ignores=[]), chapter, "exec"), space)
    missing = [name for name in names if name not in space]
    assert not missing, f"{chapter} no longer defines {missing}"
    return {name: space[name] for name in names}
