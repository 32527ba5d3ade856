"""write_whole: write a text that somebody reads, a page or a report, as a whole or not at all."""

from pathlib import Path

from penultimate.store.objects.durable_files import DurableFiles


def write_whole(path: Path, text: str) -> None:
    """Write or replace ``path`` with ``text`` in UTF-8; a kill or a full disk leaves what was there. Raises OSError."""
    path = path.resolve()
    if path.exists() and not path.is_file():  # a terminal or a pipe, which can only be written to
        path.write_text(text, encoding="utf-8")
    else:
        DurableFiles(path.parent).write(path, [text.encode()])
