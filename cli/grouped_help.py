"""Group the options in ``--help``: what a verb works on, how, and where."""

from typing import Any

from typer.core import TyperCommand

_UNGROUPED = "Options"


class GroupedCommand(TyperCommand):
    """A verb whose ``--help`` lists options under the headings that their ``rich_help_panel`` names.

    Typer groups them only in its boxes of markup, which cut examples and read square brackets as colours.
    """

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write a section for the arguments and one for each heading, in the order in which they are declared."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            usual = "Arguments" if parameter.param_type_name == "argument" else _UNGROUPED
            heading = getattr(parameter, "rich_help_panel", None) or usual
            if (record := parameter.get_help_record(ctx)) is not None:
                sections.setdefault(heading, []).append(record)
        for heading in sorted(sections, key=_UNGROUPED.__eq__):  # those without a heading come last
            with formatter.section(heading):
                formatter.write_dl(sections[heading])
