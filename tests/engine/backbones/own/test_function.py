"""``package.module:function`` is found in the current folder; what is no function is refused in one line."""

import sys
from pathlib import Path

import pytest

from penultimate.engine.backbones.own.function import find_function, is_own, telling_whose
from penultimate.store.errors import InputError


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder that Python does not look into by itself."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    return tmp_path


def test_names_of_timm_and_of_its_hub_are_none_of_the_users() -> None:
    assert is_own("my_networks:resnet18")
    assert not any(map(is_own, ("resnet50.a1_in1k", "hf-hub:timm/resnet18", "hf_hub:resnet18")))


def test_a_module_or_package_of_the_current_folder_is_found(here: Path) -> None:
    (here / "found_here.py").write_text("class Made:\n    @staticmethod\n    def one(): return 1\n")
    (here / "a_package").mkdir()
    (here / "a_package" / "inner.py").write_text("def two(): return 2\n")
    assert find_function("found_here:Made.one")() == 1
    assert find_function("a_package.inner:two")() == 2


def test_a_file_never_takes_the_place_of_an_installed_package(here: Path) -> None:
    (here / "colorsys.py").write_text("def mine(): return 1\n")
    with pytest.raises(InputError, match=r"colorsys.*'mine'"):
        find_function("colorsys:mine")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("absent_module:f", "no module 'absent_module' in"),
        ("absent_module.inner:f", "no module 'absent_module' in"),
        ("support.own_networks:plan", "did you mean plain"),
        ("support.own_networks:no_function", "is of type int; expected a function"),
        ("my_networks.py:f", "did you mean my_networks:f"),
        ("./nets/mine.py:f", "did you mean nets.mine:f"),
        ("a:b:c", "expected `package.module:function`"),
        ("my-nets:f", "expected `package.module:function`"),
        (":f", "expected `package.module:function`"),
    ],
)
def test_what_is_no_function_is_refused_in_one_line(here: Path, name: str, words: str) -> None:
    with pytest.raises(InputError) as raised:
        find_function(name)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


def test_what_a_users_module_raises_is_told_with_its_line(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "broken_one.py").write_text("import json\nprint('reading')\njson.loads('{')\n")
    (here / "needs_another.py").write_text("import absent_package\n")
    with pytest.raises(InputError, match=r"broken_one cannot be imported: JSONDecodeError.*line 1 column 2"):
        find_function("broken_one:f")
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "reading\n")
    with pytest.raises(InputError, match=r"needs_another cannot be imported: ModuleNotFoundError.*absent_package"):
        find_function("needs_another:f")


def test_the_line_is_the_last_one_of_the_users_own_module() -> None:
    name = "support.own_networks:cannot_be_made"
    function = find_function(name)
    words = r"cannot be made: FileNotFoundError: no file weights.pth \(.*own_networks.py, line \d+\)"
    with pytest.raises(InputError, match=words), telling_whose(name, "cannot be made"):
        function()
