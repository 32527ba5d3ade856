"""Measure finding near-duplicates among many rows: time, memory and recall of planted copies.

    python benchmarks/near_duplicates.py exact 100000 --out near.jsonl
    python benchmarks/near_duplicates.py projected 100000 --out near.jsonl
    python benchmarks/near_duplicates.py projected 1000000 --dims 512 --out near.jsonl
    python benchmarks/near_duplicates.py table --out near.jsonl > REPORT.md

Rows are synthetic: a centre for each of 1,000 classes, each of 20 kinds of variation within classes, and noise, made
positive as pooled activations are. A hundredth of them are copies of others, moved by a twentieth to a fifth of the
usual distance. Each measurement is one process of its own; memory is its peak resident set while it searches (Linux).
"""

import argparse
import json
import shlex
import sys
import time
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from penultimate.engine.bench.timing.processor_time import ProcessorClock
from penultimate.engine.neighbors.duplicates import Neighborhood, Search
from penultimate.engine.neighbors.unit_rows import scale_to_unit
from penultimate.engine.runtime.capabilities import machine
from penultimate.store.provenance import library_versions, source_commit, utc_now

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
    before = _forget_peak()
    clock, began = ProcessorClock(), time.perf_counter()
    hood = Neighborhood.of(rows_ND, search=search)
    neighbors = time.perf_counter()
    pairs = hood.pairs()
    ended, others = time.perf_counter(), clock.read().others
    found = set(zip(pairs.first_P.tolist(), pairs.second_P.tolist(), strict=True))
    planted = {(min(pair), max(pair)) for pair in copies_C2.tolist()}
    return {
        "search": search,
        "rows": num_rows,
        "dims": dims,
        "seconds_neighbors": neighbors - began,
        "seconds_pairs": ended - neighbors,
        "other_cores": None if others is None else others / (ended - began),
        "mib_before": before,
        "mib_peak": _memory("VmHWM"),
        "mib_rows": rows_ND.nbytes / 2**20,
        "copies": len(planted),
        "copies_found": len(found & planted),
        "pairs": len(found),
        "recall_rows": None if hood.recall is None else hood.recall.num_rows,
        "recall_found": None if hood.recall is None else hood.recall.num_found,
        "machine": machine(),
        "commit": source_commit(),
        "created": utc_now(),
        "torch": library_versions()["torch"],
        "command": shlex.join(["python", *sys.argv]),
    }


def _forget_peak() -> float:
    """Begin to measure the peak resident set anew (proc(5), clear_refs); return the MiB that are resident now."""
    Path("/proc/self/clear_refs").write_text("5")
    return _memory("VmRSS")


def _memory(field: str) -> float:
    """Return a field of this process's status in MiB."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field)]
    return int(line.split()[1]) / 1024


def table(records: list[dict[str, Any]]) -> str:
    """Return the report as Markdown."""
    about = records[-1]
    lines = [
        f"| {each['search']} | {each['rows']:,} x {each['dims']:,} | {each['seconds_neighbors']:,.0f} | "
        f"{each['seconds_pairs']:,.1f} | {each['other_cores']:.2f} | "
        f"{each['mib_rows']:,.0f} | {each['mib_peak'] - each['mib_rows']:,.0f} | "
        f"{_share(each['copies_found'], each['copies'])} | {each['pairs'] - each['copies_found']:,} | "
        f"{_share(each['recall_found'], each['recall_rows']) if each['recall_rows'] else 'every pair compared'} |"
        for each in records
    ]
    return (
        "# Near-duplicates among many rows\n\n"
        + "\n".join(f"    {each['command']}" for each in records)
        + f"\n\nOne run each, each in a process of its own; {about['machine']['processor']}, "
        f"{about['machine']['cores']} cores; torch {about['torch']}, commit {about['commit']}, {about['created']}. "
        "Synthetic rows with planted copies (the script says how they are made). Memory is the peak resident set of "
        "the process while it searches, without the rows themselves; before it searches, "
        f"{min(each['mib_before'] - each['mib_rows'] for each in records):,.0f} MiB are the interpreter's and torch's. "
        "Rows that are noise have hardly a nearest neighbour, so that a projection finds few; copies have. Where other "
        "programs took cores meanwhile, seconds are upper bounds; that touches neither memory nor counts. The tests "
        "show exact results equal to brute force. Written by the script.\n\n"
        "| search | rows | seconds: neighbours | seconds: pairs | cores that others took | MiB of rows | "
        "MiB besides | copies found (95 %) | other pairs | nearest neighbour found, of a sample |\n"
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n" + "\n".join(lines) + "\n"
    )


def _share(found: int, total: int) -> str:
    interval = binomtest(found, total).proportion_ci(method="wilson")
    return f"{found:,} of {total:,} ({100 * interval.low:.2f} to {100 * interval.high:.2f} %)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=[*get_args(Search), "table"])
    parser.add_argument("rows", nargs="?", type=int, default=100_000)
    parser.add_argument("--dims", type=int, default=1_280)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    if arguments.what == "table":
        print(table([json.loads(line) for line in arguments.out.read_text().splitlines()]), end="")
        return
    record = measure(arguments.what, arguments.rows, arguments.dims)
    with arguments.out.open("a") as file:
        file.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
