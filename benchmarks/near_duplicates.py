"""Measure finding near-duplicates among many rows: time, memory and recall of planted copies.

    python benchmarks/near_duplicates.py REPORT.md exact:100000x1280 projected:100000x1280 projected:1000000x512

Rows are synthetic: a centre for each of 1,000 classes, each of 20 kinds of variation within classes, and noise, made
positive as pooled activations are. A hundredth of them are copies of others, moved by a twentieth to a fifth of the
usual distance. Each measurement is one process of its own; memory is its peak resident set while it searches (Linux).
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penultimate.engine.bench.timing.cells import Row, fraction
from penultimate.engine.bench.timing.measurement import cores_of_others
from penultimate.engine.bench.timing.memory import forget_peak, peak_bytes
from penultimate.engine.bench.timing.report import Report
from penultimate.engine.bench.timing.turns import timed_call
from penultimate.engine.neighbors.duplicates import Neighborhood, Search
from penultimate.engine.neighbors.unit_rows import scale_to_unit

# Shapes: N rows, D feature dimensions, K classes, C copies.

_CLASSES, _VARIATIONS = 1_000, 20
_BATCH = 65_536


def synthetic(num_rows: int, dims: int, *, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return unit rows (N, D), and the original of each copy, (C, 2): copy and original."""
    rng = np.random.default_rng(seed)
    centers_KD = rng.normal(size=(_CLASSES, dims)).astype(np.float32)
    variations = rng.normal(size=(_VARIATIONS, dims)).astype(np.float32)
    rows_ND = np.empty((num_rows, dims), np.float32)
    for start in range(0, num_rows, _BATCH):
        part = rows_ND[start : start + _BATCH]
        noise = rng.standard_normal(part.shape, np.float32)
        strengths = rng.standard_normal((len(part), _VARIATIONS), np.float32)
        part[:] = centers_KD[rng.integers(_CLASSES, size=len(part))] + 0.3 * strengths @ variations + noise
    np.maximum(rows_ND, 0, out=rows_ND)
    order = rng.permutation(num_rows)[: 2 * max(1, num_rows // 100)].reshape(-1, 2)
    moves = rng.uniform(0.05, 0.2, size=(len(order), 1)).astype(np.float32)
    originals = rows_ND[order[:, 1]]
    rows_ND[order[:, 0]] = originals + moves * rng.standard_normal(originals.shape, np.float32) * originals.std(
        1, keepdims=True
    )
    scale_to_unit(rows_ND)
    return rows_ND, order


def measure(search: Search, num_rows: int, dims: int) -> dict[str, Any]:
    """Find the copies; return seconds, memory and what was found."""
    rows_ND, copies_C2 = synthetic(num_rows, dims)
    before = forget_peak()
    hood, neighbors = timed_call(lambda: Neighborhood.of(rows_ND, search=search))
    pairs, paired = timed_call(hood.pairs)
    found = set(zip(pairs.first_P.tolist(), pairs.second_P.tolist(), strict=True))
    planted = {(min(pair), max(pair)) for pair in copies_C2.tolist()}
    return {
        "search": search,
        "rows": num_rows,
        "dims": dims,
        "seconds_neighbors": neighbors.wall_seconds,
        "seconds_pairs": paired.wall_seconds,
        "other_cores": cores_of_others([neighbors, paired]),
        "mib_before": before / 2**20,
        "mib_peak": peak_bytes() / 2**20,
        "mib_rows": rows_ND.nbytes / 2**20,
        "copies": len(planted),
        "copies_found": len(found & planted),
        "pairs": len(found),
        "recall_rows": None if hood.recall is None else hood.recall.num_rows,
        "recall_found": None if hood.recall is None else hood.recall.num_found,
    }


def report(records: Sequence[Mapping[str, Any]]) -> Report:
    """Return the report of some measurements."""
    least = min(each["mib_before"] - each["mib_rows"] for each in records)
    return Report(
        bench="near-duplicates",
        title="Finding near-duplicates among many rows",
        settings={"rows": "synthetic, with planted copies", "classes": _CLASSES, "variations": _VARIATIONS},
        other_cores=max((each["other_cores"] for each in records if each["other_cores"] is not None), default=None),
        tables={"Near-duplicates among many rows": [_cells(each) for each in records]},
        results=records,
        findings=[
            "Rows that are noise have hardly a nearest neighbour, so that a projection finds few; copies have.",
            "The tests show exact results equal to brute force.",
        ],
        not_measured=[
            "One run each, each in a process of its own. Where other programs took cores meanwhile, seconds are upper "
            "bounds; that touches neither memory nor counts.",
            "Memory is the peak resident set of the process while it searches, without the rows themselves; before it "
            f"searches, {least:,.0f} MiB are the interpreter's and torch's.",
        ],
    )


def _cells(found: Mapping[str, Any]) -> Row:
    sampled, others = found["recall_rows"], found["other_cores"]
    return {
        "search": found["search"],
        "rows": f"{found['rows']:,} x {found['dims']:,}",
        "seconds: neighbours": f"{found['seconds_neighbors']:,.0f}",
        "seconds: pairs": f"{found['seconds_pairs']:,.1f}",
        "cores that others took": "" if others is None else f"{others:.2f}",
        "MiB of rows": f"{found['mib_rows']:,.0f}",
        "MiB besides": f"{found['mib_peak'] - found['mib_rows']:,.0f}",
        "copies found (95 %)": fraction(found["copies_found"], found["copies"], decimals=2),
        "other pairs": f"{found['pairs'] - found['copies_found']:,}",
        "nearest neighbour found, of a sample": fraction(found["recall_found"], sampled, decimals=2)
        if sampled
        else "every pair compared",
    }


def main(arguments: Sequence[str]) -> None:
    """Measure each search in a process of its own and write the report, or be one of these processes."""
    if arguments[:1] == ["--measure"]:
        search, rows, dims = arguments[1:]
        print(json.dumps(measure(search, int(rows), int(dims))))  # type: ignore[arg-type]  # as it was asked for
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path)
    parser.add_argument("searches", nargs="+", metavar="SEARCH:ROWSxDIMS", help="such as exact:100000x1280")
    given = parser.parse_args(arguments)
    records = []
    for each in given.searches:
        search, _, size = each.partition(":")
        command = [sys.executable, __file__, "--measure", search, *size.split("x")]
        records.append(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout))
    report(records).write(given.report)


if __name__ == "__main__":
    main(sys.argv[1:])
