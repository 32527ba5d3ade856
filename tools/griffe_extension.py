"""Give mkdocstrings the docstrings of the package as Markdown."""

import sys
from pathlib import Path
from typing import Any

import griffe

sys.path.append(str(Path(__file__).parent))  # griffe loads this file alone
from docstrings import as_markdown


class MarkdownDocstrings(griffe.Extension):  # type: ignore[misc]  # only the extra `docs` has griffe
    """Rewrite the docstring of every object when it is loaded."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite its docstring, if it has one."""
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value)
