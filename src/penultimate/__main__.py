"""``python -m penultimate`` and the command ``penultimate``: the command line, also what torchrun starts.

Its imports take seconds (torch, scipy, zarr), and Ctrl-C among them would end in a traceback from the middle of a
library. Nothing has begun by then, so the process leaves at once.
"""

import os
import signal
from types import FrameType

_INTERRUPTED = 130
"""Exit code of ``cli.main`` after Ctrl-C, repeated because ``cli.main`` cannot be imported yet."""


def main() -> None:
    """Run the command line and leave with its exit code."""
    before = signal.signal(signal.SIGINT, _leave)
    from penultimate.cli.main import main as command_line

    signal.signal(signal.SIGINT, before)
    command_line()


def _leave(number: int, frame: FrameType | None) -> None:
    # Not an exception: libraries that try one import after another would catch it and go on.
    os.write(2, b"penultimate: interrupted before anything had begun\n")
    os._exit(_INTERRUPTED)


if __name__ == "__main__":
    main()
