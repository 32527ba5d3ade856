"""Tell the kind of a file by its name, or by its first bytes where the name does not decide.

A kind is IMAGE, TAR, ... below, or, for what no reader takes, a few words for people: ``.txt``, ``hidden``.
"""

import os
import re
from collections.abc import Iterable
from importlib.util import find_spec

from PIL import features

IMAGE = "image"
TAR = "tar"
PARQUET = "parquet"
"""Kind of a Parquet file whose schema was not read yet; with images in it, its kind becomes PARQUET_IMAGES."""

PARQUET_IMAGES = "parquet images"
HIDDEN = "hidden"
SYSTEM = "system"
"""Kind of the files that operating systems and file servers leave in folders."""

STORE = "Zarr store"
TRIALS = "trial log"
RUN = "training run"
FIGURES = "folder of figures"
COMPRESSED_TARS = (".tar.gz", ".tgz", ".tar.xz", ".tar.bz2", ".tar.zst")

UNDECIDED = ""
"""Kind of a file whose name does not tell its kind, so that its first bytes must."""

HEAD_BYTES = 32
"""Number of bytes at the beginning of a file that ``kind_of_content`` looks at."""

HEIC_SUFFIXES = (".heic", ".heif", ".hif")
AVIF_SUFFIXES = (".avif", ".avifs")
READS_HEIC = find_spec("pillow_heif") is not None
"""True if the library of the extra ``heic`` is installed."""

READS_AVIF = "avif" in features.modules and bool(features.check_module("avif"))
"""True if Pillow reads AVIF, as it does from 11.3 on where its build has the library."""

_JPEG = ("jpg", "jpeg", "jpe", "jfif", "mpo")
_OTHER = ("png", "webp", "bmp", "gif", "tif", "tiff", "ppm", "pgm", "pbm", "pnm", "jp2", "j2k", "tga", "qoi")
IMAGE_SUFFIXES = frozenset(
    [f".{kind}" for kind in (*_JPEG, *_OTHER)]
    + (list(HEIC_SUFFIXES) if READS_HEIC else [])
    + (list(AVIF_SUFFIXES) if READS_AVIF else [])
)
"""Suffixes, in lower case, of files that are images by their names."""

UNREADABLE_IMAGES = frozenset({*HEIC_SUFFIXES, *AVIF_SUFFIXES, ".cr2", ".cr3", ".nef", ".arw", ".dng"}) - IMAGE_SUFFIXES
"""Suffixes of images whose pixels no installed library reads."""

_REMEDIES = dict.fromkeys(HEIC_SUFFIXES, "pip install 'penultimate[heic]' reads HEIC") | dict.fromkeys(
    AVIF_SUFFIXES, "Pillow 11.3 or later reads AVIF"
)

_SYSTEM_NAMES = frozenset(
    {"__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found", "__pycache__"}
    | {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"}
)
_NO_IMAGES = frozenset(
    f".{kind}"
    for kind in (
        *(
            "txt",
            "md",
            "rst",
            "csv",
            "tsv",
            "json",
            "jsonl",
            "ndjson",
            "xml",
            "yaml",
            "yml",
            "toml",
            "ini",
            "html",
            "htm",
        ),
        *(
            "pdf",
            "doc",
            "docx",
            "xls",
            "xlsx",
            "ppt",
            "pptx",
            "svg",
            "psd",
            "ico",
            "zip",
            "gz",
            "tgz",
            "xz",
            "bz2",
            "zst",
        ),
        *("7z", "rar", "npy", "npz", "mat", "pkl", "pickle", "pt", "pth", "safetensors", "ckpt", "onnx", "h5", "hdf5"),
        *("tfrecord", "lmdb", "mdb", "db", "sqlite", "arrow", "feather", "py", "ipynb", "sh", "log", "bin", "dat"),
        *("mp4", "mov", "avi", "mkv", "webm", "mp3", "wav", "flac", "url", "lnk", "part", "partial", "crdownload"),
        *("cls", "cr2", "cr3", "nef", "arw", "dng", "heic", "heif", "hif", "avif", "avifs"),
    )
)
"""Suffixes of files that are never opened to see whether they are images after all."""


def remedy_for(kinds: Iterable[str]) -> str:
    """Return how to have the images read that no installed library reads, in brackets; empty text if it is not known.

    >>> remedy_for([".txt", ".nef"])
    ''
    """
    remedies = sorted({_REMEDIES[kind] for kind in UNREADABLE_IMAGES.intersection(kinds) if kind in _REMEDIES})
    return f" ({'; '.join(remedies)})" if remedies else ""


def kind_of_name(name: str) -> str:
    """Return the kind that a file's or a folder's name tells, or UNDECIDED if it tells none.

    >>> kind_of_name("cat.JPG"), kind_of_name("notes.txt"), kind_of_name(".DS_Store"), kind_of_name("cat")
    ('image', '.txt', 'hidden', '')
    """
    if name.startswith("."):
        return HIDDEN
    lower = name.lower()
    suffix = os.path.splitext(lower)[1]
    if suffix in IMAGE_SUFFIXES:
        return IMAGE
    if lower in _SYSTEM_NAMES:
        return SYSTEM
    if suffix in (".tar", ".parquet"):
        return TAR if suffix == ".tar" else PARQUET
    compressed = next((ending for ending in COMPRESSED_TARS if lower.endswith(ending)), None)
    return compressed or (suffix if suffix in _NO_IMAGES else UNDECIDED)


def kind_of_content(name: str, head: bytes) -> str:
    """Return the kind of a file whose name does not tell it, by ``head``, its first HEAD_BYTES bytes.

    >>> kind_of_content("0a1b2c", b"GIF89a"), kind_of_content("README", b"A set"), kind_of_content("a.rar5", b"Rar!")
    ('image', 'without suffix', '.rar5')
    """
    if (ending := _image_ending(head)) is not None:
        return IMAGE if ending in IMAGE_SUFFIXES else ending
    suffix = os.path.splitext(name.lower())[1]
    return suffix if re.fullmatch(r"\.\w{1,12}", suffix) else "without suffix"


def kind_of_file(path: str | os.PathLike[str]) -> str:
    """Return the kind of a file by its first bytes; raise OSError if it cannot be opened."""
    with open(path, "rb") as file:
        return kind_of_content(os.path.basename(path), file.read(HEAD_BYTES))


_SIGNATURES = (
    (re.compile(rb"\xff\xd8\xff"), ".jpg"),
    (re.compile(rb"\x89PNG\r\n\x1a\n"), ".png"),
    (re.compile(rb"GIF8[79]a"), ".gif"),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), ".webp"),
    (re.compile(rb"BM....\0\0\0\0", re.DOTALL), ".bmp"),
    (re.compile(rb"II\*\0|MM\0\*"), ".tif"),
    (re.compile(rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51"), ".jp2"),
    (re.compile(rb"P[1-6]\s+(#|\d)"), ".pnm"),
    (re.compile(rb"qoif"), ".qoi"),
    (re.compile(rb"....ftypavi[fs]", re.DOTALL), ".avif"),
    (re.compile(rb"....ftyp(hei[cxms]|hevc|mif1|msf1)", re.DOTALL), ".heic"),
)
"""Magic numbers with the suffixes of their formats, each from its specification.

The brands behind ``ftyp`` are those of ISO/IEC 14496-12 and 23008-12."""


def _image_ending(head: bytes) -> str | None:
    return next((ending for pattern, ending in _SIGNATURES if pattern.match(head)), None)


def kind_of_folder(names: set[str]) -> str | None:
    """Return STORE, TRIALS, RUN or FIGURES for a folder with such names in it, and None for any other.

    A figure ``a`` is always written as ``a.png`` and ``a.pdf`` with its numbers in ``a.csv`` or ``a_<part>.csv``.
    """
    if names & {"zarr.json", ".zgroup", ".zarray"}:
        return STORE
    if "trials.jsonl" in names:
        return TRIALS
    if {"recipe.json", "log.jsonl"} <= names:
        return RUN
    drawn = [name.removesuffix(".png") for name in names if name.endswith(".png")]
    tables = [name for name in names if name.endswith(".csv")]
    figures = all(
        f"{stem}.pdf" in names and any(map(re.compile(re.escape(stem) + r"(_.*)?\.csv").fullmatch, tables))
        for stem in drawn
    )
    return FIGURES if drawn and tables and figures else None
