"""Write the reference of the command line and of all settings as Markdown, from the very declarations."""

import re
from collections.abc import Iterator
from typing import Any

import typer

from penultimate.cli.main import app
from penultimate.cli.settings import MODELS
from penultimate.cli.settings_option import described


def command_line_page() -> str:
    """Return a page with every verb: its help text, arguments and options."""
    root: Any = typer.main.get_command(app)
    parts = [
        "# Command line",
        "Made from the declarations that `--help` prints. Data goes to stdout, messages to stderr; exit code 0: done, "
        "1: a run failed, 2: wrong usage or input, 130: interrupted. `--set NAME=VALUE` reaches every one of "
        "[a verb's settings](settings.md).",
    ]
    return "\n\n".join([*parts, *_sections(root, typer.Context(root, info_name="penultimate"))]) + "\n"


def settings_page() -> str:
    """Return a page with the settings of every verb."""
    parts = [
        "# Settings",
        "Every setting is declared once. A verb takes it as a flag or by `--set NAME=VALUE`, a study's YAML by its "
        "name, and Python as a keyword argument. `penultimate settings VERB` prints the same.",
    ]
    for verb, model in MODELS.items():
        rows = [[f"`{row['name']}`", row["type"], row["default"], row["help"]] for row in described(model)]
        name = verb.replace("bench-", "bench ")
        parts += [f"## {name}", _table(["setting", "type", "default", "meaning"], rows)]
    return "\n\n".join(parts) + "\n"


def _sections(group: Any, context: typer.Context) -> Iterator[str]:
    """Yield the section of every command below ``group``."""
    for name, command in group.commands.items():
        inner = typer.Context(command, info_name=name, parent=context)
        yield f"## {inner.command_path.removeprefix('penultimate ')}"
        yield _help(command.help or "")
        if hasattr(command, "commands"):
            yield from (
                text.replace("## ", "### ", 1) if text.startswith("## ") else text for text in _sections(command, inner)
            )
        if not getattr(command, "commands", None) or command.invoke_without_command:
            yield _usage(command, inner)
            yield _options(command, inner)


def _usage(command: Any, context: typer.Context) -> str:
    return f"```text\n{context.command_path} {' '.join(command.collect_usage_pieces(context))}\n```"


def _options(command: Any, context: typer.Context) -> str:
    """Return the parameters as a table, grouped as in ``--help``."""
    groups: dict[str, list[list[str]]] = {}
    for parameter in command.get_params(context):
        kind = "Arguments" if parameter.param_type_name == "argument" else "Options"
        heading = getattr(parameter, "rich_help_panel", None) or kind
        if (record := parameter.get_help_record(context)) is not None and "--help" not in record[0]:
            groups.setdefault(heading, []).append([f"`{record[0]}`", record[1]])
    return "\n\n".join(_table([heading, "meaning"], rows) for heading, rows in groups.items())


def _help(text: str) -> str:
    """Return a help text as Markdown: paragraphs, and what follows a ``\\b`` as a block of commands."""
    parts = []
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        if "\b" in paragraph:
            lines = paragraph.replace("\b", "").strip("\n").splitlines()
            parts.append("```sh\n" + "\n".join(lines) + "\n```")
        else:
            parts.append(_escaped(" ".join(paragraph.split())))
    return "\n\n".join(parts)


def _table(columns: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(_cell(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def _cell(text: str) -> str:
    """Return the text of a cell on one line; within code Python-Markdown takes a ``|`` for itself."""
    text = " ".join(text.split())
    return text if text.startswith("`") else re.sub(r"\|(?=(?:[^`]*`[^`]*`)*[^`]*$)", r"\\|", _escaped(text))


def _escaped(text: str) -> str:
    """Return a text with what Markdown would take for markup escaped; single backticks stay."""
    return re.sub(r"([*_<>\[\]])(?=(?:[^`]*`[^`]*`)*[^`]*$)", r"\\\1", text.replace("``", "`"))
