"""The tree is the diagram: cli -> engine -> store, never back, and heavy packages only where they are needed."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="an unpacked sdist holds folders instead of links")
@pytest.mark.parametrize("name", ["engine", "store", "cli"])
def test_the_three_folders_are_relative_links_under_the_import_name(name: str) -> None:
    assert os.readlink(ROOT / "src" / "penultimate" / name) == f"../../{name}"
