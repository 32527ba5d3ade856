"""Start ``penultimate`` in a process of its own without the seconds that importing takes.

A fork server has imported everything once and computed nothing; each command is a fork of it, so a real process that
can be sent any signal.
"""

import multiprocessing
import os
import resource
import signal
import sys
import time
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from penultimate.cli.main import run

_FORK_SERVER = multiprocessing.get_context("forkserver")
_FORK_SERVER.set_forkserver_preload(
    ["support.command", "timm", "nvidia.dali.fn", "penultimate.engine.images.decode.dali"]
)


def start(
    arguments: list[str], log: Path, *, largest_file: int | None = None, sync_seconds: float = 0.0
) -> ForkServerProcess:
    """Begin ``penultimate <arguments>``; stderr goes to the end of ``log``, stdout nowhere.

    ``largest_file`` bytes may be written to one file; a sync of the disk takes ``sync_seconds`` more.
    """
    process = _FORK_SERVER.Process(target=_main, args=(arguments, log, largest_file, sync_seconds))
    process.start()
    return process


def finish(process: ForkServerProcess, *, within: float = 120.0) -> int:
    """Return its exit code, negative for a signal; fail if it does not end."""
    process.join(within)
    assert process.exitcode is not None, f"still running after {within} s"
    return process.exitcode


def _main(arguments: list[str], log: Path, largest_file: int | None, sync_seconds: float) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job has it ignored
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    if largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    sync = os.fsync

    def slow_sync(fd: Any) -> None:
        time.sleep(sync_seconds)
        sync(fd)

    os.fsync = slow_sync
    sys.exit(run(arguments))
