"""Measure how extraction scales: constants on this machine, a check with a backbone that sleeps, a simulation.

    python benchmarks/scaling.py REPORT.md --rounds 5 --worker-rounds 1

The constants are requests, bytes and seconds of the store and of Ray. The check is an extraction by 1, 2 and 4 local
workers that wait and do not compute. The simulation goes to 1,000 workers and a billion images. Nothing here is
measured on a GPU or against a real object store: what stands in for that is said in ``scaling_simulation.py``.
"""

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from scaling_constants import constant_rows, constants
from scaling_simulation import SIMULATED, largest_set, tables
from scaling_workers import worker_rows, workers_that_sleep

from penultimate.engine.bench.timing.measurement import Measurement, compared, other_cores
from penultimate.engine.bench.timing.report import Report
from penultimate.engine.bench.timing.turns import TurnOptions


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, simulate and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path)
    parser.add_argument("--rounds", type=int, default=5, help="of the constants")
    parser.add_argument("--worker-rounds", type=int, default=1)
    parser.add_argument("--images", type=int, default=4096)
    parser.add_argument("--seconds", type=float, default=0.03, help="that the backbone sleeps an image")
    options = parser.parse_args(arguments)
    turns, of_workers = (TurnOptions(seconds=24 * 3600, rounds=n) for n in (options.rounds, options.worker_rounds))
    found, laps = constants(turns)
    workers = workers_that_sleep([1, 2, 4], images=options.images, seconds=options.seconds, options=of_workers)
    Report(
        bench="scaling",
        title="How extraction scales over workers",
        settings={"images": options.images, "seconds that a worker sleeps an image": options.seconds},
        measurements=[*(Measurement.of(each, unit="items/s") for each in laps), *compared(workers, unit="images/s")],
        other_cores=other_cores([*laps, *workers]),
        tables={"Constants": constant_rows(found, laps), "Workers that sleep": worker_rows(workers), **tables(found)},
        results=[asdict(found)],
        findings=[SIMULATED, largest_set(found)],
        not_measured=[
            "Requests are counted on a store in obstore's memory, where each is answered at the first attempt; a LIST "
            "reads 1,000 records.",
            "No GPU, no real object store and no network was measured: the simulation takes parameters for them.",
        ],
    ).write(options.report)


if __name__ == "__main__":
    main()
