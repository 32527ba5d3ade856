"""Measure how much longer a probe takes beside other work, and how much longer scikit-learn's does.

    python benchmarks/probe_company.py REPORT.md --features FOLDER
    PENULTIMATE_CPU=avx2 python benchmarks/probe_company.py REPORT.md --features FOLDER

Ours is the whole regularisation path, scikit-learn's one strength, which takes about as long. Each is timed alone, two
at once until both are done, and beside a program that keeps one core busy. All take turns in every round; each is a
process of its own that has fitted once before. FOLDER holds X.npy (N, D) and y.npy (N,).
"""

import os

os.environ.pop("OPENBLAS_CORETYPE", None)  # some machines preset it, which slows scikit-learn
import penultimate  # noqa: F401  # before numpy, so that PENULTIMATE_CPU reaches scikit-learn's BLAS

# isort: split
import argparse
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import numpy as np
from waiting_threads import Pair, Work, probe, serve

from penultimate.engine.bench.timing.cells import Row, median_and_range
from penultimate.engine.bench.timing.measurement import SECONDS, compared, other_cores
from penultimate.engine.bench.timing.processes import started
from penultimate.engine.bench.timing.report import Report
from penultimate.engine.bench.timing.turns import Contender, Laps, TurnOptions, take_turns

OURS, THEIRS = "penultimate, the path", "scikit-learn float64, one strength"

ALONE, TWO, BUSY = "Alone", "Two at once", "Beside a busy core"

L2 = 0.316


def scikit_learn(work: Work) -> Callable[[], object]:
    """Return a function that fits one strength at scikit-learn's default tolerance."""
    from sklearn.linear_model import LogisticRegression

    features_ND, labels_N = np.load(work.features / "X.npy").astype(np.float64), np.load(work.features / "y.npy")
    return lambda: LogisticRegression(C=1 / L2, max_iter=10_000).fit(features_ND, labels_N)


FITS: dict[str, Callable[[Work], Callable[[], object]]] = {OURS: probe, THEIRS: scikit_learn}


@contextmanager
def busy_core() -> Iterator[subprocess.Popen[bytes]]:
    """Start a program that would keep a core busy, and stop it until it is told to go on."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    process.send_signal(signal.SIGSTOP)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def beside(busy: "subprocess.Popen[bytes]", turn: Callable[[], Iterator[int]]) -> Iterator[int]:
    """Do a turn while the other program works."""
    busy.send_signal(signal.SIGCONT)
    try:
        yield from turn()
    finally:
        busy.send_signal(signal.SIGSTOP)


def measure(work: Work, options: TurnOptions) -> list[Laps]:
    """Time both alone, two at once, and beside a busy core, in turns; return the laps in that order."""
    with ExitStack() as stack:
        busy = stack.enter_context(busy_core())
        pairs = {
            name: Pair(*(stack.enter_context(started(serve, FITS[name], work)) for _ in range(2))) for name in FITS
        }
        for pair in pairs.values():
            pair.wait()
        contenders = [
            *(Contender(name=name, group=ALONE, run=pair.alone, items=1) for name, pair in pairs.items()),
            *(Contender(name=name, group=TWO, run=pair.both, items=2) for name, pair in pairs.items()),
            *(
                Contender(name=name, group=BUSY, run=partial(beside, busy, pair.alone), items=1)
                for name, pair in pairs.items()
            ),
        ]
        return take_turns(contenders, options)


def ratios(laps: Sequence[Laps]) -> list[Row]:
    """Return for both how many times as long they take in company, median, least and most over rounds."""
    of = {(each.group, each.name): [lap.wall_seconds for lap in each.rounds] for each in laps}
    rows: list[Row] = []
    for name in FITS:
        row: Row = {"what": name}
        for group in (TWO, BUSY):
            found = [slow / fast for slow, fast in zip(of[group, name], of[ALONE, name], strict=True)]
            row[f"{group.lower()}, over alone"] = median_and_range(found)
        rows.append(row)
    return rows


def report(work: Work, options: TurnOptions) -> Report:
    """Measure, and return the report."""
    laps = measure(work, options)
    alone = [each for each in laps if each.group == ALONE]
    return Report(
        bench="probe-company",
        title="A probe beside other work",
        settings={"features": list(np.load(work.features / "X.npy", mmap_mode="r").shape), "l2": L2},
        measurements=compared(laps, unit=SECONDS),
        other_cores=other_cores(alone),
        tables={"How many times as long it takes": ratios(laps)},
        not_measured=["Not measured: more than two at once, other numbers of cores."],
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path)
    parser.add_argument("--features", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args(arguments)
    work = Work(features=given.features, images=given.features)
    report(work, TurnOptions(seconds=24 * 3600, rounds=given.rounds)).write(given.report)


if __name__ == "__main__":
    main()
