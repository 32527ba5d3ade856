"""What somebody reads is written as a whole, or what was there stays."""

import os
from pathlib import Path
from typing import Any

import pytest

from penultimate.engine.runtime.whole_file import write_whole


def test_a_text_is_written_and_replaced_also_through_a_link(tmp_path: Path) -> None:
    page, link = tmp_path / "page.html", tmp_path / "link.html"
    link.symlink_to(page)
    for text in ("first", "a second, caf\u00e9"):
        write_whole(link, text)
        assert page.read_text(encoding="utf-8") == text
    assert link.is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.html", "page.html"]


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.html"
    write_whole(page, "first")

    def full(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "writev", full)
    with pytest.raises(OSError, match=r"No space left.*page\.html"):
        write_whole(page, "second")
    assert page.read_text() == "first"
    assert list(tmp_path.iterdir()) == [page]


def test_what_is_no_file_is_written_to(tmp_path: Path) -> None:
    write_whole(Path("/dev/null"), "text")
    assert Path("/dev/null").is_char_device()
