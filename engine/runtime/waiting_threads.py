"""How long OpenMP's threads spin where they wait for each other, said before a runtime of OpenMP is loaded.

A thread that spins keeps its core. While the process has the cores to itself that is the quickest way to wait; beside
any other work, those it waits for are not running, and it keeps them from it.
"""

import os

SPIN_COUNT = 3000
"""Looks at a lock before a thread of libgomp sleeps; libgomp's own is 300,000. Measured on both classes of processor,
alone and beside itself: ``benchmarks/results/waiting_threads_xeon2_202611.md``."""

USERS_OWN = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")
"""Environment variables by which runtimes of OpenMP are told how to wait: OpenMP's own, GCC's, Intel's and LLVM's."""


def let_waiting_threads_sleep() -> None:
    """Set ``GOMP_SPINCOUNT`` in this process's environment, unless it has any of ``USERS_OWN`` already.

    libgomp, which torch's wheels for Linux and scikit-learn's each bring along, reads it as it is loaded: a copy that
    was loaded before this call goes on as it did. Processes begun from here inherit it. No result depends on it.
    """
    if not any(name in os.environ for name in USERS_OWN):
        os.environ["GOMP_SPINCOUNT"] = str(SPIN_COUNT)
