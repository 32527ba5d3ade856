"""Download the archives of datasets, check their published MD5 sums, and unpack them inside their folder."""

import stat
import tarfile
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.error import HTTPError

from penultimate.store.errors import InputError, UnavailableError


@dataclass(frozen=True, kw_only=True, slots=True)
class Download:
    """One file that a publisher serves."""

    url: str

    md5: str | None
    """MD5 sum that torchvision checks; None where it checks none."""

    into: str = "."
    """Folder, below the root, in which the file is kept and unpacked."""


def fetch(downloads: Iterable[Download], root: Path) -> None:
    """Download and unpack what is not there yet; archives are kept, so that a second call does nothing.

    Raises UnavailableError where a file cannot be downloaded or is not what was published, and InputError for an
    archive that would write outside its folder.
    """
    from torchvision.datasets.utils import download_url

    for download in downloads:
        folder = root / download.into
        name = PurePosixPath(download.url).name
        unpacked = folder / f".{name}.unpacked"
        if unpacked.exists():
            continue
        folder.mkdir(parents=True, exist_ok=True)
        try:
            download_url(download.url, str(folder), filename=name, md5=download.md5)
        except (OSError, RuntimeError) as error:  # RuntimeError: the file has another MD5
            if isinstance(error, HTTPError):
                error.close()  # it keeps the connection open
            raise UnavailableError(
                f"{download.url} cannot be downloaded ({' '.join(str(error).split())}); "
                f"fetch it by hand, put it into {str(folder)!r} and unpack it there"
            ) from error
        if name.endswith((".tar", ".tgz", ".tar.gz", ".tar.xz", ".zip")):
            unpack(folder / name, folder)
        unpacked.touch()


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a tar or zip archive into ``folder``.

    Raises InputError, before anything is written, if a member has an absolute name, leads out of the folder by
    ``..``, or is anything but a file or a folder (links, devices); also if it is no archive.
    """
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as opened:
                _refuse(archive, ((info.filename, _is_plain(info)) for info in opened.infolist()))
                opened.extractall(folder)
        else:
            with tarfile.open(archive) as tar:
                _refuse(archive, ((member.name, member.isfile() or member.isdir()) for member in tar))
                # This is an attribute because Python 3.11 before 3.11.4, Debian 12's, has no argument of that name.
                tar.extraction_filter = getattr(tarfile, "data_filter", None)
                tar.extractall(folder)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
        raise InputError(f"{str(archive)!r} cannot be unpacked: {error}") from error


def _refuse(archive: Path, members: Iterable[tuple[str, bool]]) -> None:
    for name, plain in members:
        path = PurePosixPath(name.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or (path.parts and path.parts[0].endswith(":")):
            raise InputError(f"{str(archive)!r} would write outside its folder: {name!r}; nothing was unpacked")
        if not plain:
            raise InputError(f"{str(archive)!r} holds {name!r}, which is no file or folder; nothing was unpacked")


def _is_plain(info: zipfile.ZipInfo) -> bool:
    """Return whether a member is a file or a folder; zip files made on Unix keep the mode in the upper half."""
    mode = info.external_attr >> 16
    return info.is_dir() or not mode or stat.S_ISREG(mode) or not stat.S_IFMT(mode)
