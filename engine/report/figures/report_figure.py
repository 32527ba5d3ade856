"""Hold a drawn figure with its numbers and the text shown for each point under the mouse, and save it."""

import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from penultimate.engine.report.figures.style import ON_PAGE, style
from penultimate.engine.runtime.whole_file import write_whole

_SVG = "http://www.w3.org/2000/svg"
DOTS_PER_INCH = 200

ON_SCREEN = 1.6
"""Largest scale of a figure on a page, in CSS pixels for each point: its 8-point text is at most 13 pixels high."""


SMALL_INCHES = 4.2
"""Width of a figure that fits beside another one."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ReportFigure:
    """A figure of the report, with its numbers and hover texts."""

    name: str
    """Name of its files, without ending: ``figure2_probe``."""

    title: str
    caption: str
    """Caption: the meaning of points and marks, and the method behind error bars."""

    figure: Figure
    numbers: Mapping[str, pd.DataFrame]
    """Tables of everything drawn: the points under ``""``, anything else under its own name (``lines``)."""

    hover: Mapping[str, str]
    """Id of a point (matplotlib's gid) -> the text that describes it."""

    @property
    def is_small(self) -> bool:
        """Return whether it fits on a phone, and beside others on a desk."""
        return float(self.figure.get_figwidth()) <= SMALL_INCHES

    def save(self, folder: Path) -> list[Path]:
        """Write PNG, PDF and the numbers as CSV into ``folder``; the same numbers give the same bytes.

        Raises OSError.
        """
        folder.mkdir(parents=True, exist_ok=True)
        files: dict[Path, str | bytes] = {}
        with style():
            for ending, metadata in (("png", {"Software": None}), ("pdf", {"CreationDate": None})):
                files[folder / f"{self.name}.{ending}"] = figure_bytes(self.figure, ending, metadata)
        for part, table in self.numbers.items():
            files[folder / f"{self.name}{'_' if part else ''}{part}.csv"] = table.to_csv(index=False)
        for path, content in files.items():
            write_whole(path, content)
        return list(files)

    def svg(self) -> str:
        """Return the figure as one ``<svg>`` element for a page: as wide as its column, points with titles."""
        buffer = io.StringIO()
        with style(), mpl.rc_context({"svg.hashsalt": self.name}):  # ids differ between figures of one page
            self.figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
        ElementTree.register_namespace("", _SVG)
        ElementTree.register_namespace("xlink", "http://www.w3.org/1999/xlink")
        root = ElementTree.fromstring(buffer.getvalue())
        points = float(root.attrib.pop("width").removesuffix("pt"))
        del root.attrib["height"]
        root.set("style", f"--natural: {points * ON_SCREEN:.0f}px")
        root.set("role", "img")
        root.set("aria-label", self.title)
        for metadata in root.findall(f"{{{_SVG}}}metadata"):
            root.remove(metadata)
        for element in root.iter(f"{{{_SVG}}}g"):
            text = self.hover.get(element.get("id", ""))
            if text is not None:
                element.set("class", "point")
                element.set("id", f"{self.name}-{element.get('id')}")
                title = ElementTree.Element(f"{{{_SVG}}}title")
                title.text = text
                element.insert(0, title)
        return _recoloured(ElementTree.tostring(root, encoding="unicode"))


def figure_bytes(figure: Figure, ending: str, metadata: Mapping[str, str | None] | None = None) -> bytes:
    """Return the figure as a file with this ending would hold it: a full disk is no business of matplotlib's."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=ending, dpi=DOTS_PER_INCH, metadata=dict(metadata or {}))
    return buffer.getvalue()


def _recoloured(svg: str) -> str:
    """Return the picture with the page's colours, which are others where the reader prefers dark pages."""
    for name, colour in ON_PAGE.items():
        svg = re.sub(f"(?<=: ){colour}(?![0-9a-f])", f"var(--{name})", svg, flags=re.IGNORECASE)
    return svg
