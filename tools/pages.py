"""Read the pages of this repository: their fenced blocks, and the commands in these."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]

PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md")))
"""Every page that people read, reports left out."""

FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
"""A fenced block: its language and its text."""


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    text: str

    @property
    def name(self) -> str:
        """Return where the block stands, as ``docs/page.md:12``."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(*languages: str, pages: tuple[Path, ...] = PAGES) -> list[Block]:
    """Return the blocks of some languages, in the order of the pages."""
    found = []
    for page in pages:
        text = page.read_text(encoding="utf-8")
        for match in FENCE.finditer(text):
            line = text[: match.start()].count("\n") + 1
            found += [Block(page, line, match[1], match[2])] if match[1] in languages else []
    return found


def commands(text: str) -> list[str]:
    """Return the ``penultimate`` commands of a shell block or help text, joining continued lines."""
    joined = re.sub(r"\\\n\s*", "", text)
    lines = [line.strip() for line in joined.splitlines()]
    return [" ".join(shlex.split(line, comments=True)) and line for line in lines if line.startswith("penultimate ")]
