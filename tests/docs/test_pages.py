"""Commands of README, docs and help texts are run, or parsed where they need a hub, a bucket, a GPU or hours.

A page is a story: its blocks run in order, in one folder with photographs and their features, and one namespace.
"""

import re
import shlex
import shutil
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
import typer
from pages import PAGES, ROOT, Block, blocks, commands
from support.photographs import write_photos

import penultimate
from penultimate.cli.main import app, run

TUTORIAL = ROOT / "docs" / "tutorial.md"
"""It has a test of its own."""

STANDS_FOR = {
    # Networks whose weights a hub has: a tiny one with random weights does the same steps.
    "--model resnet50.a1_in1k": "--model test_resnet --weights random",
    "--model 'vit_small_patch16_224.augreg*'": "--model test_vit",
    "--model 'vit_base_patch32_clip_224.openai'": "--model test_vit2 --weights random",
    "--model vit_small_patch14_dinov2": "--model test_vit --weights random",
    'model="vit_small_patch14_dinov2"': 'model="test_vit", weights="random"',
    'model="resnet50.a1_in1k"': 'model="test_resnet", weights="random"',
    # Fewer updates, images and strengths.
    "--steps 2000": "--steps 2 --batch-size 4 --size 32",
    "--steps 1250,5000": "--steps 2,4 --batch-size 4 --size 32",
    "steps=2000": "steps=2, batch_size=4, size=32",
    "--shots 1,2,5,10": "--shots 1,2 --l2 0.01:100:5",
    "shots=[1, 2, 5, 10]": 'shots=[1, 2], l2="0.01:100:5"',
}
"""Printed text -> text that runs in its place."""

ONLY_PARSED = {
    "s3://": "needs a bucket",
    "gs://": "needs a bucket",
    "--device cuda": "needs a GPU",
    "penultimate bench": "takes a minute; tests/cli/test_bench.py and tests/engine/bench run the same",
    "--cluster": "needs a cluster; tests/engine/runtime/test_ray_cluster.py runs the same",
    "--out results": "takes minutes; tests/cli/test_study.py runs studies",
    "results/": "reads what the study before it made",
    "examples/": "needs datasets and hours",
    "my_networks": "needs a file of one's own; tests/cli/test_own_networks.py runs the template that makes one",
    "imagenet/val": "needs ImageNet",
    "caltech101": "needs Caltech-101",
    "head.safetensors": "needs a head that a probe wrote",
    "models vit_small_patch14_dinov2": "lists a network of a hub",
    "sbatch": "needs Slurm",
}
"""Part of a command -> reason why it is parsed and not run."""

NOT_RUN = {
    "def resnet18():": "defines a function of the reader's; tests/cli/test_own_networks.py runs the template with it",
}
"""Beginning of a block of Python -> reason why it is compiled and not run."""


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


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with ``photos/`` in it and the store ``features.zarr`` of their features."""
    folder = tmp_path_factory.mktemp("pages")
    write_photos(folder / "photos")
    penultimate.extract(
        folder / "photos", store=folder / "features.zarr", model="test_resnet", weights="random", parity=False
    )
    return folder


@pytest.fixture
def here(prepared: Path, page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a copy of that folder the working folder, without the store where the page makes one of that name."""
    text = page.read_text(encoding="utf-8")
    made = "--store features.zarr" in text or 'store="features.zarr"' in text
    ignored = shutil.ignore_patterns("features.zarr") if made else None
    shutil.copytree(prepared, tmp_path / "here", ignore=ignored)
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def runs_or_parses(block: Block, names: dict[str, Any]) -> None:
    if block.language == "python":
        code = compile(stands_for(block.text), block.name, "exec")
        if not any(block.text.startswith(beginning) for beginning in NOT_RUN):
            exec(code, names)
    for command in commands(block.text) if block.language == "sh" else ():
        if why := next((why for part, why in ONLY_PARSED.items() if part in command), None):
            parsed(command)
            print(f"parsed, {why}: {command}")
        else:
            assert run(shlex.split(stands_for(command), comments=True)[1:]) == 0, f"{block.name}: {command}"


PAGES_WITH_BLOCKS = [page for page in PAGES if page != TUTORIAL and blocks("sh", "python", pages=(page,))]


LONG = {"readouts.md", "few-shot.md", "coming-from.md"}
"""Pages that take seconds, which ``make test`` leaves out."""


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=pytest.mark.slow if page.name in LONG else ()) for page in PAGES_WITH_BLOCKS],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_every_block_of_a_page_runs_or_parses(page: Path, here: Path) -> None:
    names: dict[str, Any] = {}
    for block in blocks("sh", "python", pages=(page,)):
        runs_or_parses(block, names)


@pytest.mark.parametrize("block", blocks("yaml"), ids=lambda block: block.name)
def test_every_study_of_a_page_is_one(block: Block, tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(block.text, encoding="utf-8")
    assert penultimate.read_study(tmp_path / "study.yaml").datasets


def verbs() -> list[tuple[str, str]]:
    """Return (verb, its help text) of every command, including those of groups."""
    found = []
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]  # a group's own
        inner = getattr(command, "commands", {"": command})
        found += [(f"{name} {part}".strip(), each.help or "") for part, each in inner.items()]
    return found


@pytest.mark.parametrize(("verb", "text"), verbs(), ids=[verb for verb, _ in verbs()])
def test_every_example_of_a_help_text_parses(verb: str, text: str) -> None:
    examples = list(commands(text))
    assert examples, f"{verb} has no example"
    for command in examples:
        parsed(command)


def test_the_pages_have_blocks_to_run() -> None:
    assert len(blocks("sh")) > 3
    assert blocks("python")
    assert blocks("yaml")


def test_every_language_of_a_block_is_one_that_is_run_or_shown() -> None:
    languages = {match[1] for page in PAGES for match in re.finditer(r"^```(\w+)", page.read_text(), re.MULTILINE)}
    assert languages <= {"sh", "python", "yaml", "text"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_to_a_file_leads_to_one(page: Path) -> None:
    """``make docs`` checks anchors and what is made when the pages are built; this, what a reader of the files sees."""
    targets = re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
    made = {ROOT / "docs" / "reference" / name for name in ("command-line.md", "settings.md")}
    missing = [
        target
        for target in targets
        if ":" not in target and not (page.parent / target).exists() and (page.parent / target).resolve() not in made
    ]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_test_that_a_page_names_is_there(page: Path) -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", page.read_text(encoding="utf-8"))
    for file, test in named:
        assert (ROOT / file).is_file(), file
        assert not test or f"def {test}(" in (ROOT / file).read_text(encoding="utf-8"), f"{file}::{test}"


def test_every_public_name_stands_on_one_page_of_the_reference() -> None:
    reference = "\n".join(path.read_text() for path in (ROOT / "docs/reference/api").glob("*.md"))
    shown = re.findall(r"^::: penultimate\.(\w+)$", reference, re.MULTILINE)
    assert sorted(shown) == sorted(name for name in penultimate.__all__ if name != "errors")
    assert "::: penultimate.store.errors" in reference
