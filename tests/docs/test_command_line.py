"""The reference of the command line has every verb, option and setting, as they are declared."""

import re
from typing import Any

import typer
from command_line import command_line_page, settings_page

from penultimate.cli.main import app
from penultimate.cli.settings import MODELS


def test_every_verb_and_option_stands_in_the_reference() -> None:
    page = command_line_page()
    root: Any = typer.main.get_command(app)
    for name, command in root.commands.items():
        for inner_name, inner in getattr(command, "commands", {"": command}).items():
            heading = re.escape(f"{name} {inner_name}".strip())
            section = re.search(rf"^##+ {heading}\n(.*?)(?=^##+ |\Z)", page, re.MULTILINE | re.DOTALL)
            assert section is not None, heading
            for option in (flag for parameter in inner.params for flag in parameter.opts if flag.startswith("--")):
                assert option == "--help" or f"{option}" in section[1], f"{heading} {option}"


def test_examples_are_blocks_and_stars_are_no_markup() -> None:
    page = command_line_page()
    assert "```sh\npenultimate extract photos/ --store features.zarr --model resnet50.a1_in1k\n" in page
    assert "\b" not in page
    assert page.count("```") % 2 == 0


def test_every_setting_stands_in_its_table() -> None:
    page = settings_page()
    for model in MODELS.values():
        for name in model.model_fields:
            assert f"| `{name}` |" in page
    rows = [line for line in page.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {5}
