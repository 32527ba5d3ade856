"""Hooks of mkdocs: add pages that lie elsewhere or are read from the code, turn links and formulas, run the tutorial.

A link in a page is the one that works in the repository, ``../../benchmarks/results/X.md``; here it is turned to where
the file is on the site.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

import latex2mathml.converter
from command_line import command_line_page, settings_page
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pages import ROOT
from tutorial import with_output

PLACES = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "README.md": "index.md",
    "benchmarks/README.md": "results/benchmarks.md",
    **{f"examples/{path.name}": f"examples/{path.name}" for path in (ROOT / "examples").iterdir()},
    **{f"benchmarks/results/{p.name}": f"results/{p.name}" for p in sorted((ROOT / "benchmarks/results").glob("*.*"))},
}
"""File of the repository -> page or file of the site, besides what is in docs/."""

ORIGINS = {place: path for path, place in PLACES.items() if place != "index.md"}

LINK = re.compile(r"(\]\()([^)#\s]+)(#[^)\s]*)?(\))")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not in docs/."""
    for path, place in PLACES.items():
        if place in ORIGINS:
            files.append(File.generated(config, place, abs_src_path=str(ROOT / path)))
    made = {
        "reference/command-line.md": command_line_page(),
        "reference/settings.md": settings_page(),
        "results/index.md": _results(),
    }
    for place, text in made.items():
        files.append(File.generated(config, place, content=text))
    return files


def on_page_markdown(markdown: str, *, page: Page, **_: Any) -> str:
    """Run the tutorial, and turn links to files of the repository to where they are on the site."""
    place = page.file.src_uri
    if place == "tutorial.md":
        markdown = with_output(markdown)
    origin = ORIGINS.get(place, f"docs/{place}")
    return LINK.sub(lambda link: link[1] + _on_site(link[2], origin, place) + (link[3] or "") + link[4], markdown)


def on_page_content(html: str, **_: Any) -> str:
    """Turn formulas into MathML, which browsers draw by themselves."""
    inline = r'<span class="arithmatex">\\\((.+?)\\\)</span>'
    html = re.sub(inline, lambda found: _mathml(found[1], "inline"), html, flags=re.DOTALL)
    block = r'<div class="arithmatex">\s*\\\[(.+?)\\\]\s*</div>'
    return re.sub(
        block, lambda found: f'<div class="formula">{_mathml(found[1], "block")}</div>', html, flags=re.DOTALL
    )


def on_post_build(config: MkDocsConfig) -> None:
    """Fail where a page would load anything from the network."""
    loads = re.compile(
        r"<(?:script|img|iframe)[^>]* src=\"?(?:https?:)?//|<link(?=[^>]*stylesheet)[^>]* href=\"?(?:https?:)?//"
    )
    pages = [path for path in Path(config.site_dir).rglob("*.html") if loads.search(path.read_text(encoding="utf-8"))]
    if pages:
        raise PluginError(f"these pages load something from the network: {', '.join(map(str, pages))}")


def _mathml(latex: str, display: str) -> str:
    text = latex.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&").strip()
    mathml: str = latex2mathml.converter.convert(text, display=display)
    if unknown := re.findall(r"\\\w+", mathml):
        raise PluginError(f"the formula {text!r} has commands that are not known: {', '.join(unknown)}")
    return mathml


def _on_site(target: str, origin: str, place: str) -> str:
    """Return the target of a link in the file ``origin`` as seen from the page ``place``."""
    if ":" in target or target.startswith("/"):
        return target
    path = posixpath.normpath(posixpath.join(posixpath.dirname(origin), target))
    there = PLACES.get(path, path.removeprefix("docs/") if path.startswith("docs/") else None)
    return target if there is None else posixpath.relpath(there, posixpath.dirname(place) or ".")


def _results() -> str:
    """Return the list of reports, with the heading of each."""
    lines = [
        "# Reports",
        "Every number of these pages was measured by code of the repository and stands in one of these reports, with "
        "command, commit, machine and date; the same as JSON lies beside each. [How they are made](benchmarks.md).",
        "| report | values |\n|---|---|",
    ]
    rows = []
    for path in sorted((ROOT / "benchmarks/results").glob("*.md")):
        title = path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
        rows.append(f"| [{title}]({path.name}) | [JSON]({path.stem}.json) |")
    return "\n\n".join(lines) + "\n" + "\n".join(rows) + "\n"
