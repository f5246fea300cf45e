"""Make a static site of the whole course: chapters, exercises as blanks, answers, search; no server, no network.

    python authoring/website.py [--out DIR]      make it, in site/ unless said otherwise, and open site/index.html

nbconvert turns notebooks into pages with the template in authoring/website/. What a page would fetch from elsewhere is
replaced: equations become MathML, pictures of other hosts their alt text. What cannot be converted stops the build.
"""

import argparse
import json
import os
import posixpath
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote, unquote

import nbformat
import sources
from bs4 import BeautifulSoup, Tag
from equations import mathml
from nbconvert import HTMLExporter
from pygments.formatters import HtmlFormatter
from sources import ROOT, SourceError, Target

HERE = Path(__file__).resolve().parent
COURSE = "Conditional VAEs"
INDEX = "search-index.js"
LIGHT, DARK = "xcode", "monokai"  # of pygments; the tests measure their contrast
MATH = re.compile(r"\$\$(?P<display>.+?)\$\$|\$(?P<inline>[^$]+?)\$", re.S)
NUMBER = re.compile(r"\\tag\{([^}]*)\}")
LONG = 30  # characters: an inline equation that may be wider than a phone
WIDE = 560  # pixels: a picture whose lettering would be too small on a phone, and that scrolls there
NO_MATH = ("code", "pre", "script", "style")
LABELS = {"exercises": "Exercises", "solutions": "Worked answers"}


@dataclass(eq=False)
class Page:
    """One page: where it lies below the site, its notebook, and its neighbours."""

    path: str
    source: str  # the file it is made of, from the top of the repository
    notebook: Any
    label: str  # what the sidebar calls it
    title: str
    before: "Page | None" = None
    after: "Page | None" = None

    def to(self, path: str) -> str:
        """Return the way from this page to another path of the site."""
        return posixpath.relpath(path or ".", posixpath.dirname(self.path) or ".") + ("/" if not path else "")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns 0 when the site was made."""
    parser = argparse.ArgumentParser(prog="website.py", description="Make a static site of the course.")
    parser.add_argument("--out", type=Path, default=ROOT / "site", metavar="DIR", help="write it there")
    out = parser.parse_args(arguments).out
    try:
        pages = make(out)
    except SourceError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{pages} pages; open {os.path.relpath(out / 'index.html')} in a browser")
    return 0


def make(out: Path, root: Path = ROOT) -> int:
    """Write the site to `out`, replacing one that lies there, and return how many pages it has.

    Raises SourceError for a folder that holds something else, a notebook that was never built, and for an equation, a
    link or a picture that would not work.
    """
    if out.exists() and any(out.iterdir()) and not (out / INDEX).exists():
        raise SourceError(f"{out}: holds something that is no course site; name an empty folder")
    groups = _groups(root)
    pages = [page for group in groups for page in group]
    part = out.with_name(out.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    sections: list[dict[str, str]] = []
    for page in pages:
        soup = _page(page, pages, groups, root, part)
        sections += _sections(page, soup)
        _write(part / page.path, str(soup))
    _write(part / INDEX, f"window.COURSE_INDEX = {json.dumps(sections, ensure_ascii=False, indent=0)};\n")
    _write(part / "style.css", (HERE / "website" / "style.css").read_text(encoding="utf-8") + highlighting())
    shutil.copyfile(HERE / "website" / "course.js", part / "course.js")
    shutil.rmtree(out, ignore_errors=True)
    part.rename(out)
    return len(pages)


def _groups(root: Path) -> list[list[Page]]:
    """Return the pages of the sidebar: a chapter with its exercises and answers, before them the front page."""
    groups = [[_prose("README.md", "index.html", "About the course", root)]]
    targets = sources.targets(root)
    for chapter in (target for target in targets if target.kind == "notebooks"):
        belonging = [target for target in targets if target.stem == chapter.stem]
        groups.append([_of(target, LABELS.get(target.kind, sources.heading(target)[0])) for target in belonging])
    if (root / "CLASSROOM.md").exists():
        groups.append([_prose("CLASSROOM.md", "CLASSROOM.html", "Teaching with it", root)])
    # One reads chapters through, and goes from an exercise to its chapter's neighbours.
    spine = [group[0] for group in groups]
    for group, before, after in zip(groups, [None, *spine], [*spine[1:], None], strict=False):
        for page in group:
            page.before = before if page is group[0] else group[0]
            page.after = after
    return groups


def _of(target: Target, label: str) -> Page:
    path = target.root / target.name
    if target.kind == "exercises":  # the blank as published, and not what somebody wrote into it
        notebook = sources.expected(target)
    elif path.exists():
        notebook = nbformat.read(path, as_version=4)
    else:
        raise SourceError(f"{target.name}: was never built; run `build.py {target.stem}`")
    return Page(f"{target.kind}/{target.stem}.html", target.name, notebook, label, _title(notebook, target.name))


def _prose(name: str, path: str, label: str, root: Path) -> Page:
    """Make a page of a markdown file: a notebook of one cell."""
    text = (root / name).read_text(encoding="utf-8")
    cell = nbformat.v4.new_markdown_cell(re.sub(r"<!--.*?-->\n?", "", text, flags=re.S))
    notebook = nbformat.v4.new_notebook(cells=[cell])
    return Page(path, name, notebook, label, _title(notebook, name))


def _title(notebook: Any, name: str) -> str:
    """Return the heading a notebook begins with."""
    text = notebook.cells[0].source.lstrip() if notebook.cells else ""
    if not text.startswith("# "):
        raise SourceError(f"{name}: does not begin with a title")
    return str(text.splitlines()[0][2:].strip())


def _page(page: Page, pages: list[Page], groups: list[list[Page]], root: Path, out: Path) -> BeautifulSoup:
    """Convert one page, and put its headings into its sidebar."""
    exporter = HTMLExporter(template_name="website", extra_template_basedirs=[str(HERE)])
    html, _ = exporter.from_notebook_node(page.notebook, resources={"page": page, "groups": groups, "course": COURSE})
    soup = BeautifulSoup(html, "html.parser")
    for link in soup.find_all("a", class_="anchor-link"):
        link.decompose()
    main = _tag(soup.find("main"))
    for heading in main.find_all(re.compile(r"^h\d$")):
        heading["id"] = unquote(str(heading["id"]))
    if here := soup.find("ul", class_="here"):
        for heading in main.find_all("h2"):
            item, link = soup.new_tag("li"), soup.new_tag("a", href=f"#{quote(str(heading['id']))}")
            link.string = heading.get_text().strip()
            item.append(link)
            here.append(item)
    try:
        _equations(main, soup)
        _links(main, page, pages, root, out)
        _pictures(main, soup)
    except ValueError as error:
        raise SourceError(f"{page.source}: {error}") from None
    for table in main.find_all("table"):  # scrolls by itself on a narrow screen, also from the keyboard
        table.wrap(soup.new_tag("div", attrs={"class": "scroll", "tabindex": "0"}))
    for block in main.find_all("pre"):
        block["tabindex"] = "0"
    return soup


def _tag(found: Any) -> Tag:
    if not isinstance(found, Tag):
        raise SourceError("authoring/website/index.html.j2: a page has no main part, or an equation no element")
    return found


def _equations(main: Tag, soup: BeautifulSoup) -> None:
    """Replace what stands between dollars by MathML, wherever a page shows text."""
    for text in main.find_all(string=re.compile(r"\$|\\begin\{")):
        if text.find_parent(NO_MATH):
            continue
        written = str(text)
        left = MATH.sub("", written)
        if "$" in left or "\\begin{" in left:
            raise ValueError(f"a dollar without its other half, or an environment outside dollars: {left.strip()!r}")
        pieces: list[Any] = []
        end = 0
        for match in MATH.finditer(written):
            pieces += [written[end : match.start()], _equation(match, soup)]
            end = match.end()
        text.replace_with(*(piece for piece in [*pieces, written[end:]] if piece != ""))


def _equation(match: re.Match[str], soup: BeautifulSoup) -> Tag:
    latex = match["display"] or match["inline"]
    number = NUMBER.search(latex)
    latex = NUMBER.sub("", latex)
    made = mathml(latex, bool(match["display"]))
    if not match["display"]:
        if len(latex) > LONG:
            made["class"] = "long"
        return made
    box = soup.new_tag("span", attrs={"class": "equation", "tabindex": "0"})
    box.append(made)
    if number:
        tag = soup.new_tag("span", attrs={"class": "number"})
        tag.string = f"({number[1]})"
        box.append(tag)
    return box


def _links(main: Tag, page: Page, pages: list[Page], root: Path, out: Path) -> None:
    """Point links to notebooks at their pages, and copy other files of the repository that are linked."""
    made_of = {other.source: other for other in pages}
    anchors = {str(each["id"]).lower(): str(each["id"]) for each in main.find_all(id=True)}
    folder = PurePosixPath(page.source).parent
    for tag in main.find_all(["a", "img"]):
        name = "href" if tag.name == "a" else "src"
        address = str(tag.get(name, ""))
        if re.match(r"[a-z]+:", address):
            continue
        place, _, anchor = address.partition("#")
        if not place:
            tag[name] = "#" + quote(anchors.get(unquote(anchor).lower(), anchor))
            continue
        wanted = posixpath.normpath(folder / unquote(place))
        if wanted in made_of:
            tag[name] = quote(page.to(made_of[wanted].path)) + ("#" + anchor if anchor else "")
        elif (root / wanted).is_file() and not wanted.startswith(".."):
            (out / wanted).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / wanted, out / wanted)
            tag[name] = quote(page.to(wanted))
        elif tag.name == "a" and (root / wanted).is_dir() and not wanted.startswith(".."):
            tag.unwrap()  # a folder has no page to open, so that only its name stays
        else:
            raise ValueError(f"the link {address} leads nowhere")


def _pictures(main: Tag, soup: BeautifulSoup) -> None:
    """Leave no picture without alt text and none of another host; join each figure with its caption."""
    for image in main.find_all("img"):
        alt = str(image.get("alt", "")).strip()
        if not alt or alt.startswith("No description"):
            raise ValueError("a picture has no alt text")
        if re.match(r"(https?:)?//", str(image["src"])):
            image.replace_with(alt)
    for caption in main.find_all("p"):
        picture = caption.find_previous("img")
        if re.match(r"Figure [\w.]+", caption.get_text()) and picture and not picture.find_parent("figure"):
            figure = picture.wrap(soup.new_tag("figure"))
            caption.name = "figcaption"
            figure.append(caption.extract())
            if int(str(picture.get("width", "0"))) > WIDE:
                picture.wrap(soup.new_tag("div", attrs={"class": "scroll", "tabindex": "0"}))


def _sections(page: Page, soup: BeautifulSoup) -> list[dict[str, str]]:
    """Return what the search knows of a page, heading by heading; of the answers only the headings."""
    label = page.label if page.label not in LABELS.values() else f"{page.label}, {page.path.split('/')[1][:2]}"
    found: list[dict[str, str]] = []
    for element in _tag(soup.find("main")).find_all(["h1", "h2", "h3", "p", "li", "td", "th", "figcaption", "pre"]):
        if element.name in ("h1", "h2", "h3") or not found:
            heading = element.get_text().strip()
            found.append({"page": page.path, "label": label, "title": page.title, "heading": heading})
            found[-1] |= {"anchor": str(element.get("id", "")), "text": "", "code": ""}
        elif not page.path.startswith("solutions/") and not element.find_parent(["p", "li", "td", "details"]):
            part = "code" if element.name == "pre" else "text"
            found[-1][part] += " ".join(_words(element).split()) + " "
    return found


def _words(element: Tag) -> str:
    """Return an element's text with equations as they are written."""
    copy = BeautifulSoup(str(element), "html.parser")
    for equation in copy.find_all("math"):
        equation.replace_with(str(equation["alttext"]))
    return copy.get_text()


def highlighting() -> str:
    """Return the colours of code, for light and for dark pages."""
    light = HtmlFormatter(style=LIGHT).get_style_defs(".highlight")
    dark = HtmlFormatter(style=DARK).get_style_defs(".highlight")
    rules = ["\n".join(re.findall(r"^\.highlight \.(?!hll|err)\w+ \{.*", css, re.M)) for css in (light, dark)]
    return f"\n{rules[0]}\n@media (prefers-color-scheme: dark) {{\n{rules[1]}\n}}\n"


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
