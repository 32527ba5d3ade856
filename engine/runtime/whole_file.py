"""write_whole: write what somebody reads, a page, a figure or a table, as a whole or not at all."""

from pathlib import Path

from penultimate.store.objects.durable_files import DurableFiles


def write_whole(path: Path, content: str | bytes) -> None:
    """Write or replace ``path`` with bytes, or a text in UTF-8; a kill or a full disk leaves what was there.

    Raises OSError, which names it.
    """
    written = content if isinstance(content, bytes) else content.encode()
    target = path.resolve()
    try:
        if target.exists() and not target.is_file():  # a terminal or a pipe, which can only be written to
            target.write_bytes(written)
        else:
            DurableFiles(target.parent).write(target, [written])
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
