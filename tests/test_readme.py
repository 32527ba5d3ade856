"""Commands of README, docs and help texts are run, or parsed where they need a hub, a bucket, a GPU or hours."""

import re
import shlex
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
import typer

from penultimate.cli.main import app, run

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md")))

STANDS_FOR = {
    # Networks whose weights a hub has: a tiny one with random weights does the same steps.
    "--model resnet50.a1_in1k": "--model test_resnet --weights random",
    "--model 'vit_small_patch16_224.augreg*'": "--model test_vit",
    "--model vit_small_patch14_dinov2": "--model test_vit --weights random",
    'model="vit_small_patch14_dinov2"': 'model="test_vit", weights="random"',
    "--steps 2000": "--steps 2 --batch-size 4 --size 32",
    'model="resnet50.a1_in1k"': 'model="test_resnet", weights="random"',
}
"""Printed text -> text that runs in its place."""

ONLY_PARSED = {
    "s3://": "needs a bucket",
    "gs://": "needs a bucket",
    "--device cuda": "needs a GPU",
    "penultimate bench": "takes a minute; tests/cli/test_bench.py and tests/engine/bench run the same",
    "--cluster": "needs a cluster; tests/engine/runtime/test_ray_cluster.py runs the same",
    "data=DATA": "needs datasets and hours",
    "results/": "reads what the study before it made",
    "examples/": "needs datasets and hours",
    "my_networks": "needs a file of one's own; tests/cli/test_own_networks.py runs the template that makes one",
    "imagenet/val": "needs ImageNet",
    "caltech101": "needs Caltech-101",
    "head.safetensors": "needs a head that a probe wrote",
}
"""Part of a command -> reason why it is parsed and not run."""


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    text: str

    @property
    def name(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(*languages: str) -> list[Block]:
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in re.finditer(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            line = text[: match.start()].count("\n") + 1
            found += [Block(page, line, match[1], match[2])] if match[1] in languages else []
    return found


def commands(text: str) -> list[str]:
    """Return the ``penultimate`` commands of a shell block or help text, joining continued lines, without comments."""
    joined = re.sub(r"\\\n\s*", "", text)
    lines = [line.strip() for line in joined.splitlines()]
    return [" ".join(shlex.split(line, comments=True)) and line for line in lines if line.startswith("penultimate ")]


def stands_for(text: str) -> str:
    for printed, runs in STANDS_FOR.items():
        text = text.replace(printed, runs)
    return text


def parsed(command: str) -> None:
    """Fail unless the command line accepts the command, down to each option's type."""
    words = [word for word in shlex.split(command, comments=True)[1:] if word != "..."]
    words = list(takewhile(lambda word: word not in ("|", ">", "&&"), words))
    verb: Any = typer.main.get_command(app)
    name = "penultimate"
    while hasattr(verb, "commands") and words:
        name, *words = words
        assert name in verb.commands, command
        verb = verb.commands[name]
    verb.make_context(name, words)


@pytest.fixture
def here(photos: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a working folder with ``photos/`` in it."""
    monkeypatch.chdir(photos.parent)
    return photos.parent


@pytest.mark.parametrize("block", blocks("sh"), ids=lambda block: block.name)
def test_every_shell_block_runs_or_parses(block: Block, here: Path) -> None:
    for command in commands(block.text):
        if why := next((why for part, why in ONLY_PARSED.items() if part in command), None):
            parsed(command)
            print(f"parsed, {why}: {command}")
        else:
            assert run(shlex.split(stands_for(command), comments=True)[1:]) == 0, command


@pytest.mark.parametrize("block", blocks("python"), ids=lambda block: block.name)
def test_every_python_block_runs(block: Block, here: Path) -> None:
    from penultimate import extract

    extract("photos", store="features.zarr", model="test_resnet", weights="random", parity=False)
    exec(compile(stands_for(block.text), block.name, "exec"), {})


def verbs() -> list[tuple[str, str]]:
    """Return (verb, its help text) of every command, including those of groups."""
    found = []
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]  # a group's own
        inner = getattr(command, "commands", {"": command})
        found += [(f"{name} {part}".strip(), each.help or "") for part, each in inner.items()]
    return found


@pytest.mark.parametrize(("verb", "text"), verbs(), ids=[verb for verb, _ in verbs()])
def test_every_example_of_a_help_text_parses(verb: str, text: str) -> None:
    for command in commands(text):
        parsed(command)


def test_the_pages_have_blocks_to_run() -> None:
    assert len(blocks("sh")) > 3
    assert blocks("python")
