"""Run docs/tutorial.md, the one source of the tutorial, and make the notebook of it.

``python tools/tutorial.py`` writes docs/tutorial.ipynb; a test holds that it is in step. The build of the pages runs
the blocks in order and puts what they print below them.
"""

import contextlib
import io
import json
import shlex
import tempfile
from collections.abc import Iterator
from typing import Any

from pages import FENCE, ROOT, commands

PAGE = ROOT / "docs" / "tutorial.md"
NOTEBOOK = PAGE.with_suffix(".ipynb")

RUN = ("python", "sh")
"""Languages of the blocks that are run."""


def with_output(page: str) -> str:
    """Run the blocks of the page in an empty folder and return the page with what they print below them.

    Raises what a block of Python raises, and RuntimeError where a command fails.
    """
    names: dict[str, Any] = {"__name__": "tutorial"}
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        return FENCE.sub(lambda match: match[0] + _as_block(_run(match[1], match[2], names)), page)


def notebook(page: str) -> str:
    """Return the page as a notebook (nbformat 4.5) that has not been run: a cell a block, and one a text between."""
    cells: list[dict[str, Any]] = [
        {
            "cell_type": kind,
            "id": f"cell-{number}",
            "metadata": {},
            "source": text.strip("\n").splitlines(keepends=True),
        }
        | ({"execution_count": None, "outputs": []} if kind == "code" else {})
        for number, (kind, text) in enumerate(_cells(page))
    ]
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    document = {"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def _run(language: str, text: str, names: dict[str, Any]) -> str:
    """Run one block and return what it prints to stdout; other languages are not run."""
    from penultimate.cli.main import run

    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        if language == "python":
            exec(compile(text, str(PAGE), "exec"), names)
        for command in commands(text) if language == "sh" else ():
            if run(shlex.split(command, comments=True)[1:]):
                raise RuntimeError(f"{PAGE.name}: `{command}` failed; its message is above")
    return printed.getvalue()


def _as_block(printed: str) -> str:
    return f'\n\n```text title="prints"\n{printed.rstrip()}\n```' if printed.strip() else ""


def _cells(page: str) -> Iterator[tuple[str, str]]:
    """Yield (kind of cell, text)."""
    end = 0
    for match in FENCE.finditer(page):
        if match[1] not in RUN:
            continue
        if text := page[end : match.start()].strip():
            yield "markdown", text
        yield "code", match[2] if match[1] == "python" else _in_shell(match[2])
        end = match.end()
    if text := page[end:].strip():
        yield "markdown", text


def _in_shell(text: str) -> str:
    """Return a shell block as a cell: ``%pip`` for pip, ``!`` before every other line but one that is continued."""
    lines, continued = [], False
    for line in text.splitlines():
        mark = "" if continued or not line.strip() else "%" if line.startswith("pip ") else "!"
        lines.append(mark + line)
        continued = line.endswith("\\")
    return "\n".join(lines)


if __name__ == "__main__":
    NOTEBOOK.write_text(notebook(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
