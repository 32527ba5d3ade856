"""write_whole: write what somebody reads, a page, a figure or a table, as a whole or not at all."""

from pathlib import Path

from penultimate.store.objects.durable_files import DurableFiles


def write_whole(path: Path, content: str | bytes) -> None:
    """Write or replace ``path`` with bytes, or a text in UTF-8; a kill or a full disk leaves what was there.

    Raises OSError.
    """
    written = content if isinstance(content, bytes) else content.encode()
    path = path.resolve()
    if path.exists() and not path.is_file():  # a terminal or a pipe, which can only be written to
        path.write_bytes(written)
    else:
        DurableFiles(path.parent).write(path, [written])
