"""Hold the figures of README and docs to the results they come from: ``make verify-numbers``.

docs/numbers.yaml says, a page at a time, where its figures are from:

    README.md:
      measured:
        - text: "takes {} s, scikit-learn {} s"     # {} stands for a figure; line breaks do not matter
          of: probe_xeon2_202611 > Seconds for the path > Caltech-101     # optional: what all paths below begin with
          numbers: ["ours, tolerance 1e-4 [median]", "scikit-learn, default tolerance"]    # tools/reports.py: lookup
      stated: ["264 pictures"]                      # definitions, settings, other people's results: not measured here

Each text stands in its page once, with its figures those of the results, rounded to the digits that are printed. Every
other figure of the page is in a text of ``stated``, there or under ``everywhere``. A figure is a number with a decimal
point, with three or more digits, with a unit behind it, or alone in a cell of a table; code and links are left out.

``python tools/verify_numbers.py --renew`` writes the figures of the results into the pages.
"""

import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pages import PAGES, ROOT
from reports import lookup

SOURCES = ROOT / "docs" / "numbers.yaml"

UNITS = "%|s|ms|µs|us|kB|KB|MB|GB|KiB|MiB|GiB|images/s|points|times|seconds|minutes|hours"

_NUMBER = r"-?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?"

FIGURE = re.compile(
    r"(?<![\w.,])(?:"
    r"\d[\d,]*\.\d+(?:e[+-]?\d+)?|\d+e[+-]?\d+|\d{1,3}(?:,\d{3})+|\d{3,}"  # 1.5, 1e-6, 1,280, 264
    rf"|\d+(?=\s(?:{UNITS})(?!\w))|(?<=\| )\d+(?= \|)"  # 12 s, a cell of a table
    r")(?![\w.]*\w)"
)

_HIDDEN = re.compile(
    r"^```.*?^```$|^ {4,}[^\n|]*$|`[^`\n]*`|(?<=\]\()[^)]*|<!--.*?-->|\$\$.*?\$\$|\$[^$\n]+\$", re.MULTILINE | re.DOTALL
)
"""Code, targets of links, comments and formulas."""


@dataclass(frozen=True)
class Difference:
    """A figure that is not that of its result."""

    span: tuple[int, int]
    printed: str
    value: float
    path: str

    @property
    def renewed(self) -> str:
        """Return the value with as many digits as are printed."""
        return _like(self.printed, self.value)


def check(page: str, sources: Mapping[str, Any], everywhere: list[str]) -> tuple[list[Difference], list[str]]:
    """Return the figures of a page that differ from their results, and sentences on all else that is wrong."""
    differences: list[Difference] = []
    problems: list[str] = []
    covered: list[tuple[int, int]] = []
    for entry in sources.get("measured", ()):
        found = list(re.finditer(_pattern(entry["text"]), page))
        paths = [" > ".join(filter(None, (entry.get("of"), path))) for path in entry["numbers"]]
        if len(found) != 1 or len(paths) != found[0].re.groups:
            problems.append(f"{entry['text']!r} stands {len(found)} times, and {len(paths)} numbers are named for it")
            continue
        for group, path in enumerate(paths, start=1):
            covered.append(found[0].span(group))
            try:
                value = lookup(path)
            except KeyError as error:
                problems.append(str(error.args[0]))
                continue
            if _like(found[0][group], value) != found[0][group]:
                differences.append(Difference(found[0].span(group), found[0][group], value, path))
    shown = _HIDDEN.sub(lambda hidden: re.sub(r"[^\n]", " ", hidden[0]), page)
    for text in sources.get("stated", ()):
        spans = [found.span() for found in re.finditer(_pattern(text), page)]
        covered += spans
        if not spans:
            problems.append(f"{text!r} is stated in docs/numbers.yaml and does not stand in the page any more")
    covered += [found.span() for pattern in everywhere for found in re.finditer(pattern, shown)]
    for figure in FIGURE.finditer(shown):
        if not any(start <= figure.start() and figure.end() <= end for start, end in covered):
            line = page[: figure.start()].count("\n") + 1
            around = " ".join(page[max(0, figure.start() - 30) : figure.end() + 20].split())
            problems.append(f"line {line}: {figure[0]!r} in '{around}' has no source")
    return differences, problems


def renewed(page: str, differences: list[Difference]) -> str:
    """Return the page with the figures of the results."""
    for difference in sorted(differences, key=lambda each: -each.span[0]):
        start, end = difference.span
        page = page[:start] + difference.renewed + page[end:]
    return page


def checked_pages() -> Iterator[tuple[Path, Mapping[str, Any], list[str]]]:
    """Yield each page with its sources and what is stated everywhere; those under ``unchecked`` are left out."""
    sources = yaml.safe_load(SOURCES.read_text(encoding="utf-8"))
    pages = {str(page.relative_to(ROOT)): page for page in PAGES}
    unknown = sources["pages"].keys() - pages.keys() | sources["unchecked"].keys() - pages.keys()
    if unknown:
        raise KeyError(f"docs/numbers.yaml names pages that are not there: {', '.join(sorted(unknown))}")
    for name, page in pages.items():
        if name not in sources["unchecked"]:
            yield page, sources["pages"].get(name, {}), sources["everywhere"]


def _pattern(text: str) -> str:
    words = [re.escape(part).replace(r"\{\}", f"({_NUMBER})") for part in text.split()]
    return r"\s+".join(words)


def _like(printed: str, value: float) -> str:
    """Return a value with the form of a printed number: its decimals, its thousands, its exponent."""
    mantissa, _, exponent = printed.partition("e")
    decimals = len(mantissa.partition(".")[2])
    if exponent:
        digits, power = f"{value:.{decimals}e}".split("e")
        return f"{digits}e{int(power)}"
    return f"{value:,.{decimals}f}" if "," in mantissa or abs(value) < 1000 else f"{value:.{decimals}f}"


def main() -> int:
    """Print what is wrong, or renew the pages; return the exit code."""
    wrong = 0
    for page, sources, everywhere in checked_pages():
        text = page.read_text(encoding="utf-8")
        differences, problems = check(text, sources, everywhere)
        name = page.relative_to(ROOT)
        if "--renew" in sys.argv:
            page.write_text(renewed(text, differences), encoding="utf-8")
        else:
            problems += [f"{d.printed} is printed, and {d.renewed} is at {d.path}" for d in differences]
        for problem in problems:
            print(f"{name}: {problem}", file=sys.stderr)
        wrong += len(problems)
    if wrong:
        print("docs/numbers.yaml says where figures are from; tools/verify_numbers.py how", file=sys.stderr)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
