"""From the LaTeX of the chapters to MathML that browsers draw by themselves: latex2mathml, and what it leaves to do.

Browsers know MathML Core only: no letter styles by attribute, no named widths, no space around the name of a function.
"""

import re
from typing import Any

from bs4 import BeautifulSoup, Tag
from latex2mathml.converter import convert

THIN = "0.167em"
# Said in the words that latex2mathml has.
SPELLINGS = (
    (r"\\(begin|end)\{aligned\}", r"\\\1{align*}"),
    (r"\\\\\[[^\]]*\]", r"\\\\"),  # extra space between lines
    (r"\\math(bb|cal|bf)\s+([A-Za-z0-9])", r"\\math\1{\2}"),
    (r"\\mathrm\{([A-Za-z]{2,})\}", r"\\text{\1}"),  # a word, and not a product of upright letters
    (r"\\(arg|argmin|argmax)\b", r"\\operatorname{\1}"),
    (r"\\([Bb]igg?[lrm]?)\\(?:\||Vert\b)", r"\\\1‖"),
)
SCRIPTS = ("msub", "msup", "msubsup", "munder", "mover", "munderover")
OPENING = tuple("([{|∥‖⟨")
MARKS = re.compile(r"\\\w+|[$&\\]")


def mathml(latex: str, display: bool) -> Tag:
    """Return an equation as an element; raises ValueError for one that is not understood wholly."""
    said = latex.strip()
    if len(re.findall(r"(?<!\\)\{", said)) != len(re.findall(r"(?<!\\)\}", said)):
        raise ValueError(f"the equation {said!r} cannot be converted: its braces do not pair up")
    for pattern, spelling in SPELLINGS:
        said = re.sub(pattern, spelling, said)
    try:
        made: Any = convert(said, display="block" if display else "inline").replace(r"\{", "{").replace(r"\}", "}")
    except Exception as error:  # the converter has many kinds
        raise ValueError(f"the equation {latex.strip()!r} cannot be converted: {type(error).__name__}") from None
    math = BeautifulSoup(made, "html.parser").find("math")
    assert isinstance(math, Tag)
    for element in math.find_all(["mi", "mo"]):
        _mend(element)
    for space in math.find_all("mspace", width="negativethinmathspace"):
        space["width"] = f"-{THIN}"
    if unknown := MARKS.search(math.get_text()):
        raise ValueError(f"the equation {latex.strip()!r} has something in it that is not known: {unknown[0]}")
    if math.find(None, {"linebreak": True}) or math.find(mathvariant=re.compile("script|double|fraktur|sans|mono")):
        raise ValueError(f"the equation {latex.strip()!r} has a line break or letters that browsers do not draw")
    math["alttext"] = " ".join(latex.split())
    return math


def _mend(element: Tag) -> None:
    text = element.get_text()
    if text == "~":
        element.name, element.string = "mo", "\u223c"
    elif re.fullmatch(r"[A-Za-z]{2,}", text):  # the name of a function stands off from its argument
        element.name = "mi"
        whole = element
        while isinstance(whole.parent, Tag) and whole.parent.name in SCRIPTS and whole.find_previous_sibling() is None:
            whole = whole.parent
        after, before = whole.find_next_sibling(), whole.find_previous_sibling()
        if after is not None and not after.get_text().startswith(OPENING) and after.name != "mspace":
            whole.insert_after(_thin())
        if before is not None and before.name not in ("mo", "mspace"):
            whole.insert_before(_thin())


def _thin() -> Tag:
    return BeautifulSoup("", "html.parser").new_tag("mspace", attrs={"width": THIN})
