"""The static site: everything converted, everything linked, nothing fetched, and readable in light and dark."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import equations
import nbformat
import pytest
import sources
import website
from bs4 import BeautifulSoup
from contrast import contrast, luminance
from sources import ROOT, SourceError

CHAPTER = """
# %% [markdown]
# # 01 · A title
#
# *A question?*
#
# <details><summary>Answer</summary>
# It is $a < b$.
# </details>
#
# See [below](#the-end) and [the front](../README.md).
#
# $$\\log p(x) \\ge \\mathrm{ELBO} \\tag{1.1}$$

# %% tags=["install"]
# {{ install }}

# %%
price = "$5 and $6"

# %% [markdown]
# ## The end
#
# [![Badge](https://example.org/badge.svg)](https://example.org)
""".strip()


@pytest.fixture(scope="module")
def pages(course_site: Path) -> dict[str, BeautifulSoup]:
    """Its pages: path -> parsed."""
    found = sorted(course_site.rglob("*.html"))
    return {path.relative_to(course_site).as_posix(): BeautifulSoup(path.read_text(), "html.parser") for path in found}


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A course of one chapter."""
    root = tmp_path / "course"
    (root / "authoring" / "notebooks").mkdir(parents=True)
    (root / "notebooks").mkdir()
    (root / "README.md").write_text("# A course\n\n[First](notebooks/01_one.ipynb) [terms](LICENSE)\n")
    (root / "LICENSE").write_text("As you like.")
    (root / "pyproject.toml").write_text('[tool.course]\nrepository = ""\nref = "main"\n')
    written(root, CHAPTER)
    return root


def written(root: Path, text: str) -> None:
    """Write the chapter's source and the notebook that is built of it."""
    (root / "authoring" / "notebooks" / "01_one.py").write_text(text)
    notebook = sources.expected(sources.Target("notebooks", "01_one", root))
    nbformat.write(notebook, root / "notebooks" / "01_one.ipynb")


def cells(target: sources.Target) -> Any:
    """Return the cells a page is made of."""
    if target.kind == "exercises":
        return sources.expected(target).cells
    return nbformat.read(ROOT / target.name, as_version=4).cells


def addresses(page: BeautifulSoup) -> Iterator[tuple[str, str]]:
    """Yield what a page refers to, with the name of the element."""
    for element in page.find_all(True):
        for name in ("href", "src", "srcset", "action", "data", "poster"):
            if element.get(name):
                yield str(element.name), str(element[name])


def test_every_notebook_has_its_page_and_its_place_in_the_sidebar(pages: dict[str, BeautifulSoup]) -> None:
    wanted = {f"{target.kind}/{target.stem}.html" for target in sources.targets(ROOT)}
    assert set(pages) == wanted | {"index.html", "CLASSROOM.html"}
    for path, page in pages.items():
        sidebar = page.find("nav", id="sidebar")
        places = [
            (Path(path).parent / str(link["href"])).as_posix()
            for link in sidebar.find_all("a")
            if link["href"][0] != "#"
        ]
        reached = {Path(*_resolved(place)).as_posix() for place in places}
        assert reached == set(pages), path
        (current,) = sidebar.find_all("a", attrs={"aria-current": "page"})
        anchors = [unquote(link["href"][1:]) for link in sidebar.find_all("a") if link["href"][0] == "#"]
        assert anchors == [heading["id"] for heading in page.find("main").find_all("h2")]


def _resolved(place: str) -> list[str]:
    parts: list[str] = []
    for part in place.split("/"):
        if part == "..":
            parts.pop()
        elif part != ".":
            parts.append(part)
    return parts


def test_chapters_lead_to_one_another_in_their_order(pages: dict[str, BeautifulSoup]) -> None:
    path, seen = "index.html", []
    while True:
        seen.append(path)
        link = pages[path].find("a", rel="next")
        if link is None:
            break
        path = "/".join(_resolved((Path(path).parent / link["href"]).as_posix()))
        back = pages[path].find("a", rel="prev")
        assert "/".join(_resolved((Path(path).parent / back["href"]).as_posix())) == seen[-1]
    chapters = [f"notebooks/{target.stem}.html" for target in sources.targets(ROOT) if target.kind == "notebooks"]
    assert seen == ["index.html", *chapters, "CLASSROOM.html"]


def test_nothing_is_fetched_from_elsewhere(course_site: Path, pages: dict[str, BeautifulSoup]) -> None:
    for path, page in pages.items():
        for element, address in addresses(page):
            if element != "a":  # a reader may follow a link; nothing else may leave the folder
                assert re.match(r"data:|(?!\w+:|//)", address), f"{path}: {element} {address[:80]}"
        assert not re.search(r"url\(|@import", " ".join(str(style) for style in page.find_all("style")))
    assert not re.search(r"url\(|@import|http", (course_site / "style.css").read_text())
    assert "http" not in (course_site / "course.js").read_text()


def test_every_link_inside_the_site_arrives(course_site: Path, pages: dict[str, BeautifulSoup]) -> None:
    anchors = {path: {str(each["id"]) for each in page.find_all(id=True)} for path, page in pages.items()}
    for path, page in pages.items():
        for element, address in addresses(page):
            if re.match(r"\w+:", address):
                continue
            place, _, anchor = address.partition("#")
            file = (course_site / path).parent / unquote(place) if place else course_site / path
            assert file.exists(), f"{path}: {element} {address}"
            name = file.resolve().relative_to(course_site.resolve()).as_posix()
            assert not anchor or unquote(anchor) in anchors[name], f"{path}: {address}"
            assert not place.endswith((".ipynb", ".md")), f"{path}: {address}"


def test_every_picture_comes_with_its_alt_text_and_its_caption(pages: dict[str, BeautifulSoup]) -> None:
    for target in sources.targets(ROOT):
        outputs = [output for cell in cells(target) for output in cell.get("outputs", [])]
        wanted = [each.metadata["image/png"]["alt"] for each in outputs if "image/png" in each.get("data", {})]
        images = pages[f"{target.kind}/{target.stem}.html"].find("main").find_all("img")
        assert [image["alt"] for image in images] == wanted
        for image in images:
            caption = image.find_parent("figure").find("figcaption")
            assert caption.get_text().startswith("Figure "), image["alt"]


def test_every_equation_is_mathml_with_its_number(pages: dict[str, BeautifulSoup]) -> None:
    total = 0
    for target in sources.targets(ROOT):
        prose = "\n\n".join(cell.source for cell in cells(target) if cell.cell_type == "markdown")
        prose = re.sub(r"```.*?```|`[^`\n]*`", "", prose, flags=re.S)
        display = re.findall(r"\$\$.+?\$\$", prose, re.S)
        inline = re.findall(r"\$[^$]+\$", re.sub(r"\$\$.+?\$\$", "", prose, flags=re.S))
        main = pages[f"{target.kind}/{target.stem}.html"].find("main")
        assert len(main.find_all("math", attrs={"display": "block"})) == len(display)
        assert len(main.find_all("math")) == len(display) + len(inline)
        numbers = [tag.get_text() for tag in main.find_all(class_="number")]
        assert numbers == [f"({number})" for number in re.findall(r"\\tag\{(.+?)\}", prose)]
        left = "".join(text for text in main.find_all(string=True) if not text.find_parent(["code", "pre"]))
        assert "$" not in left and "\\" not in left
        total += len(display) + len(inline)
    assert total > 100


def test_pages_have_one_title_a_language_and_headings_in_order(pages: dict[str, BeautifulSoup]) -> None:
    for path, page in pages.items():
        assert page.html["lang"] == "en" and len(page.title.get_text()) > 5
        levels = [int(heading.name[1]) for heading in page.find("main").find_all(re.compile(r"^h[1-6]$"))]
        assert levels[0] == 1 and levels.count(1) == 1, path
        assert all(below <= above + 1 for above, below in zip(levels, levels[1:], strict=False)), path
        for control in page.find_all(["input", "button"]):
            assert control.get_text().strip() or page.find("label", attrs={"for": control["id"]})


def test_exercises_are_blank_and_the_search_does_not_give_answers_away(
    course_site: Path, pages: dict[str, Any]
) -> None:
    text = (course_site / website.INDEX).read_text(encoding="utf-8")
    sections = json.loads(text.removeprefix("window.COURSE_INDEX = ").rstrip().rstrip(";"))
    for section in sections:
        page = pages[section["page"]]
        assert section["heading"] and (not section["anchor"] or page.find(id=section["anchor"]))
        if section["page"].startswith("solutions/"):
            assert section["text"] == section["code"] == ""
    for path, page in pages.items():
        headings = page.find("main").find_all(["h1", "h2", "h3"])
        assert len([each for each in sections if each["page"] == path]) == len(headings)
        if path.startswith("exercises/"):
            assert page.find("main").find("img") is None and "your code here" in page.get_text()


@pytest.mark.parametrize(
    ("latex", "parts"),
    [
        (r"\mathcal N(0, I)", ["<mi>\U0001d4a9</mi>"]),
        (r"\mathbb E_q", ["<mi>\U0001d53c</mi>"]),
        (r"z \sim q", ["<mo>\u223c</mo>"]),
        (r"\log p(x)", ['<mi>log</mi><mspace width="0.167em"></mspace><mi>p</mi>']),
        (r"2\log(x)", ['<mn>2</mn><mspace width="0.167em"></mspace><mi>log</mi><mo stretchy="false">(</mo>']),
        (r"\log_2 x", ['<mn>2</mn></msub><mspace width="0.167em"></mspace><mi>x</mi>']),
        (r"\mathrm{KL}(q)", ["<mtext>KL</mtext>"]),
        (r"\operatorname{diag}(s)", ["<mi>diag</mi><mo"]),
        (r"x\!y", ['width="-0.167em"']),
        (r"\begin{aligned} a &= b \\[4pt] &= c \end{aligned}", ["<mtable", "<mi>b</mi></mtd></mtr><mtr>"]),
        (r"\Big\{ x", [">{</mo>"]),
        (r"p \Big\| q \big\Vert r", ['1.623em">‖</mo>', '1.2em">‖</mo>']),
    ],
)
def test_equations_are_said_in_what_browsers_know(latex: str, parts: list[str]) -> None:
    made = equations.mathml(latex, display=True)
    assert made["alttext"] == latex and made["display"] == "block"
    for part in parts:
        assert part in str(made).replace(" </", "</"), str(made)


# --- colours ------------------------------------------------------------------------------------------------


def test_contrast_is_measured_as_the_guidelines_do() -> None:
    assert contrast("#000", "#ffffff") == pytest.approx(21)
    assert contrast("#767676", "#fff") == pytest.approx(4.54, abs=0.01)  # the guidelines' own example


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_text_and_code_stand_out_from_their_ground(mode: str) -> None:
    style = (website.HERE / "website" / "style.css").read_text(encoding="utf-8")
    palettes = [dict(re.findall(r"--(\w+): (#\w+);", block)) for block in re.findall(r":root \{(.+?)\}", style, re.S)]
    colours = palettes[mode == "dark"]
    assert set(palettes[0]) == set(palettes[1]) and luminance(colours["page"]) > 0.5 or mode == "dark"
    for text in ("text", "soft", "link"):
        for ground in ("page", "shade", "mark"):
            assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
    rules = website.highlighting().split("@media")[mode == "dark"]
    coloured = re.findall(r"\.highlight \.(\w+) \{[^}]*?(?<!-)color: (#\w{3,6})", rules)
    assert len(coloured) > 20
    assert {name: value for name, value in coloured if contrast(value, colours["code"]) < 4.5} == {}


# --- what cannot be published stops it ----------------------------------------------------------------------


def test_a_small_course_becomes_a_site_twice_over(small: Path, tmp_path: Path) -> None:
    out = tmp_path / "a site"
    assert website.make(out, small) == website.make(out, small) == 2
    page = BeautifulSoup((out / "notebooks" / "01_one.html").read_text(), "html.parser").find("main")
    inside, numbered = page.find_all("math")
    assert inside["alttext"] == "a < b" and inside.find_parent("details")  # raw HTML is searched for equations, too
    assert numbered["display"] == "block" and page.find(class_="number").get_text() == "(1.1)"
    assert [link["href"] for link in page.find_all("a")] == ["#The-end", "../index.html", "https://example.org"]
    assert page.find("img") is None and "Badge" in page.get_text()
    assert '"$5 and $6"' in page.get_text()  # code is left alone
    assert "fetches the library" in page.find("details", class_="install").summary.get_text()
    assert (out / "LICENSE").read_text() == "As you like."


def test_a_folder_of_the_repository_is_named_without_a_link(small: Path, tmp_path: Path) -> None:
    (small / "starting points").mkdir()
    (small / "README.md").write_text("# A course\n\nSee [starting points](starting%20points) and [terms](LICENSE).\n")
    website.make(tmp_path / "out", small)
    main = BeautifulSoup((tmp_path / "out" / "index.html").read_text(), "html.parser").main
    assert main is not None and "See starting points and terms." in main.get_text()
    links = {link.get_text(): link["href"] for link in main.find_all("a")}
    assert links["terms"] == "LICENSE" and "starting points" not in links


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("$a < b$", r"$a \nosuch b$", r"not known: \\nosuch"),
        ("$a < b$", r"$\frac{a$", "cannot be converted"),
        ("$a < b$", "$a & b$", "not known: &"),
        ("$a < b$", "$a < b", "a dollar without its other half"),
        ("#the-end", "gone.ipynb", "gone.ipynb leads nowhere"),
        ("[below]", "![](../LICENSE) [below]", "no alt text"),
    ],
)
def test_what_would_not_work_stops_the_build_with_its_place(
    old: str, new: str, message: str, small: Path, tmp_path: Path
) -> None:
    assert old in CHAPTER
    written(small, CHAPTER.replace(old, new))
    with pytest.raises(SourceError, match=r"notebooks/01_one.ipynb: .*" + message):
        website.make(tmp_path / "site", small)
    assert not (tmp_path / "site").exists()


def test_a_folder_that_holds_something_else_is_left_alone(small: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine"
    out.mkdir()
    (out / "thesis.txt").write_text("Irreplaceable.")
    with pytest.raises(SourceError, match="holds something that is no course site"):
        website.make(out, small)
    assert (out / "thesis.txt").exists()
    (small / "notebooks" / "01_one.ipynb").unlink()
    with pytest.raises(SourceError, match="was never built"):
        website.make(tmp_path / "other", small)
