"""Turn docstrings into Markdown for the reference: code in double backticks, doctests and literal blocks.

Sections (Parameters, Returns, ...) are parsed by griffe.
"""

import textwrap

FIXTURES = {'getfixture("photos")': 'Path("photos")', 'getfixture("probe_store")': '"features.zarr"'}
"""What a doctest takes from pytest -> what a reader has."""


def as_markdown(text: str) -> str:
    """Return a docstring with fenced blocks in place of doctests and of what follows a ``::``."""
    made: list[str] = []
    code: list[str] = []
    language = ""
    for line in [*text.splitlines(), None]:
        inside = line is not None and (line.startswith("    ") or not line if language == "python" else bool(line))
        if language and not inside:
            made += ["", f"```{language}", *_shown(code), "```", ""]
            code, language = [], ""
        if line is None:
            break
        if not language and line.startswith(">>>"):
            language = "pycon"
        if language:
            code.append(line)
        elif line.endswith("::"):
            made.append(line.removesuffix("::").rstrip().replace("``", "`"))
            language = "python"
        else:
            made.append(line.replace("``", "`"))
    return "\n".join(made)


def _shown(code: list[str]) -> list[str]:
    """Return lines of code without the indent and the blank lines around them."""
    text = textwrap.dedent("\n".join(code)).strip("\n")
    for fixture, shown in FIXTURES.items():
        text = text.replace(fixture, shown)
    return text.splitlines()
