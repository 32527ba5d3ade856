"""Set how long OpenMP's threads spin while they wait for each other, before a runtime of OpenMP is loaded.

A thread that spins keeps its core. While the process has the cores to itself that is the quickest way to wait; beside
any other work, those it waits for are not running, and it keeps them from it.
"""

import os

SPIN_COUNT = 10_000
"""Number of times a thread of libgomp looks at a lock before it sleeps; libgomp's own default is 300,000. Fewer cost
time on an idle machine, more cost time beside other work: ``benchmarks/waiting_threads.py`` measures both. With 3,000 a
path alone took a tenth longer on an EPYC with AVX2, and a fifth on a Xeon with AMX."""

USERS_OWN = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")
"""Environment variables that tell runtimes of OpenMP how to wait: OpenMP's own, GCC's, Intel's and LLVM's."""


def let_waiting_threads_sleep() -> None:
    """Set ``GOMP_SPINCOUNT`` in this process's environment, unless it has any of ``USERS_OWN`` already.

    libgomp, which torch's wheels for Linux and scikit-learn's each bring along, reads it as it is loaded: a copy that
    was loaded before this call is not changed. Processes started from here inherit it. No result depends on it.
    """
    if not any(name in os.environ for name in USERS_OWN):
        os.environ["GOMP_SPINCOUNT"] = str(SPIN_COUNT)
