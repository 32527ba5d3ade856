"""Archives are unpacked inside their folder or not at all."""

import hashlib
import io
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from penultimate.engine.images.datasets.downloads import Download, fetch, unpack
from penultimate.engine.images.datasets.paper12 import download_dataset
from penultimate.store.errors import InputError, UnavailableError


def tar_of(path: Path, *members: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        tar.addfile(_file("images/good.jpg"), io.BytesIO(b"good"))
        for member in members:
            tar.addfile(member, io.BytesIO(b"evil") if member.isfile() else None)
    return path


def _file(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.size = kind, link, 4 * (kind == tarfile.REGTYPE)
    return member


@pytest.mark.parametrize(
    "member",
    [
        _file("../evil.jpg"),
        _file("images/../../evil.jpg"),
        _file("/tmp/evil.jpg"),
        _file("link", tarfile.SYMTYPE, "/etc/passwd"),
        _file("link", tarfile.SYMTYPE, "images/good.jpg"),
        _file("hard", tarfile.LNKTYPE, "images/good.jpg"),
        _file("pipe", tarfile.FIFOTYPE),
    ],
    ids=lambda member: f"{member.name}-{member.type.decode()}",
)
def test_a_tar_that_reaches_outside_or_holds_links_is_refused_before_anything_is_written(
    tmp_path: Path, member: tarfile.TarInfo
) -> None:
    archive = tar_of(tmp_path / "a.tar.gz", member)
    (tmp_path / "into").mkdir()
    with pytest.raises(InputError, match="nothing was unpacked"):
        unpack(archive, tmp_path / "into")
    assert list((tmp_path / "into").iterdir()) == []
    assert not (tmp_path / "evil.jpg").exists()


def test_a_zip_is_held_to_the_same(tmp_path: Path) -> None:
    for number, name in enumerate(("../evil.txt", "/evil.txt", "C:\\evil.txt")):
        with zipfile.ZipFile(tmp_path / f"{number}.zip", "w") as opened:
            opened.writestr(name, "evil")
        with pytest.raises(InputError, match="nothing was unpacked"):
            unpack(tmp_path / f"{number}.zip", tmp_path)
    link = zipfile.ZipInfo("link")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as opened:
        opened.writestr(link, "/etc/passwd")
    with pytest.raises(InputError, match="no file or folder"):
        unpack(tmp_path / "link.zip", tmp_path)
    with zipfile.ZipFile(tmp_path / "good.zip", "w") as opened:
        opened.writestr("lists/a.txt", "good")
    unpack(tmp_path / "good.zip", tmp_path)
    assert (tmp_path / "lists" / "a.txt").read_text() == "good"


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"nothing")
    with pytest.raises(InputError, match="cannot be unpacked"):
        unpack(tmp_path / "a.tar", tmp_path)


@pytest.fixture
def publisher(tmp_path: Path) -> Iterator[str]:
    """Serve ``tmp_path`` on this machine, and give the server's address."""

    class Quiet(SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=str(tmp_path))

        def log_message(self, format: str, *values: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_download_is_checked_unpacked_and_not_fetched_again(tmp_path: Path, publisher: str) -> None:
    archive = tar_of(tmp_path / "published.tar.gz")
    md5 = hashlib.md5(archive.read_bytes(), usedforsecurity=False).hexdigest()
    download = Download(url=f"{publisher}/published.tar.gz", md5=md5, into="pets")
    fetch([download], tmp_path / "root")
    assert (tmp_path / "root" / "pets" / "images" / "good.jpg").read_bytes() == b"good"
    archive.unlink()
    fetch([download], tmp_path / "root")


@pytest.mark.parametrize("name", ["published.tar.gz", "absent.tar.gz"])
def test_a_download_that_is_another_or_cannot_be_had_says_what_to_do(tmp_path: Path, publisher: str, name: str) -> None:
    tar_of(tmp_path / "published.tar.gz")
    with pytest.raises(UnavailableError, match="fetch it by hand") as raised:
        fetch([Download(url=f"{publisher}/{name}", md5="0" * 32)], tmp_path / "root")
    assert "\n" not in str(raised.value)


def test_a_dataset_that_nobody_serves_is_answered_with_where_it_is_and_how_it_must_look(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match=r"no longer served.*cars_train/"):
        download_dataset("cars", tmp_path)
