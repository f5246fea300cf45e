"""``help()``: every public name says what it is, and what it says of arguments, fields, errors and others holds."""

import ast
import importlib
import inspect
import pkgutil
import re
import textwrap
from collections.abc import Iterator
from typing import Any

import cvae_lib

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(cvae_lib.__path__, "cvae_lib.")
    # The files that examine a chapter's answers are not there to be imported.
    if not re.search(r"\._|\.checks\.", module.name)
)
SECTION = re.compile(r"^(Args|Attributes|Raises):\n((?:    .*\n|\n)*)", re.MULTILINE)
ENTRY = re.compile(r"^    (\w[\w, ]*): ", re.MULTILINE)
REFERENCE = re.compile(r":(?:func|class|meth|mod|data|attr):`~?([\w.]+)`")


def members(owner: type) -> Iterator[tuple[str, Any]]:
    """Yield the methods and properties that a class adds itself, without an underscore."""
    for name, value in vars(owner).items():
        function = value.fget if isinstance(value, property) else inspect.unwrap(getattr(value, "__func__", value))
        if not name.startswith("_") and inspect.isfunction(function) and function.__module__.startswith("cvae_lib"):
            yield name, function


def public() -> Iterator[tuple[str, Any, Any]]:
    """Yield (full name, what it is, the class or module somebody finds it in) for all that somebody may call."""
    seen = set()
    for path in MODULES:
        module = importlib.import_module(path)
        yield path, module, module
        for name in getattr(module, "__all__", None) or [each for each in vars(module) if not each.startswith("_")]:
            value = getattr(module, name)
            value = inspect.unwrap(value) if callable(value) else value
            ours = (inspect.isclass(value) or inspect.isfunction(value)) and value.__module__.startswith("cvae_lib")
            here = hasattr(module, "__all__") or ours and value.__module__.startswith(path)
            if not ours or not here or value in seen:
                continue
            seen.add(value)
            yield f"{path}.{name}", value, module
            for own, part in members(value) if inspect.isclass(value) else ():
                yield f"{path}.{name}.{own}", part, value


NAMES = list(public())


def doc(value: Any) -> str:
    return inspect.cleandoc(vars(value).get("__doc__") or value.__doc__ or "") + "\n"


def told(value: Any, *titles: str) -> list[str]:
    """Return the names that sections of a docstring explain."""
    text = "".join(body for title, body in SECTION.findall(doc(value)) if title in titles)
    return [name.strip() for names in ENTRY.findall(text) for name in names.split(",")]


def test_the_list_holds_the_names_a_reader_looks_for():
    wanted = ("training.fit", "model.CVAE.draw", "objective.Terms.loss", "evaluation.collapse_report", "data.ImageSet")
    assert {f"cvae_lib.{name}" for name in wanted} <= {name for name, _, _ in NAMES}


def test_every_docstring_begins_with_a_sentence():
    first = {name: doc(value).split("\n\n")[0].strip() for name, value, _ in NAMES}
    assert [
        name for name, text in first.items() if len(text) < 15 or text[-1] not in ".:?" or text.count("\n") > 3
    ] == []


def test_every_error_that_is_raised_in_sight_is_told():
    untold = []
    for name, value, _ in NAMES:
        if inspect.isfunction(value):
            tree = ast.parse(textwrap.dedent(inspect.getsource(value)))
            raised = [node.exc for node in ast.walk(tree) if isinstance(node, ast.Raise)]
            called = [error.func for error in raised if isinstance(error, ast.Call)]
            kinds = {error.id for error in called if isinstance(error, ast.Name) and not error.id.startswith("_")}
            untold += [f"{name}: {kind}" for kind in kinds if kind not in doc(value)]
    # These speak to who writes a condition or a likelihood of their own, and say how in the class's docstring.
    assert [each for each in untold if "NotImplementedError" not in each] == []


def test_every_argument_that_is_explained_is_there():
    strangers = []
    for name, value, _ in NAMES:
        if told(value, "Args"):
            strangers += [
                f"{name}: {each}" for each in set(told(value, "Args")) - set(inspect.signature(value).parameters)
            ]
    assert strangers == []


def test_every_field_of_a_record_is_explained():
    unexplained = []
    for name, value, _ in NAMES:
        fields = getattr(value, "_fields", None) or getattr(value, "__dataclass_fields__", {})
        own = [field for field in fields if field in vars(value).get("__annotations__", {})] if fields else []
        unexplained += [f"{name}: {each}" for each in own if each not in told(value, "Attributes", "Args")]
    assert [each for each in unexplained if not each.endswith(": bounded")] == []  # a constant of the class


def test_every_name_that_is_referred_to_exists():
    lost = []
    for name, value, home in NAMES:
        places = (value, home, inspect.getmodule(value))
        lost += [f"{name}: {target}" for target in REFERENCE.findall(doc(value)) if not leads(target, places)]
    assert lost == []


def leads(target: str, places: tuple[Any, ...]) -> bool:
    """Whether a name leads somewhere, from where it is written or, in full, from the top."""
    parts = target.split(".")
    if any(reached(place, parts) for place in places):
        return True
    for length in range(len(parts), 0, -1):
        try:
            return reached(importlib.import_module(".".join(parts[:length])), parts[length:])
        except ImportError:
            continue
    return False


def reached(place: Any, parts: list[str]) -> bool:
    for part in parts:
        if not hasattr(place, part) and part not in getattr(place, "__annotations__", {}):
            return False
        place = getattr(place, part, None)
    return True
