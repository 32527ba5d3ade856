"""Probe features of any size as the verb does, beside scikit-learn's SGD with the processor time that the probe took.

    python benchmarks/large_probe.py REPORT.md --work FOLDER --rows 1000000 --dim 1024 --classes 100
    python benchmarks/large_probe.py REPORT.md --work FOLDER --rows 2000000 --dim 2048 --classes 10 --dtype float16

Features are drawn in pieces and written into a store below FOLDER, unless they are there: classes that overlap, with a
spectrum that falls as 1/rank; nine rows in ten are train. ``penultimate probe`` runs in a process of its own without a
word about memory, whose peak is told by the system. So does ``SGDClassifier(loss="log_loss")``, one strength alone, the
one that the probe chose, fed with batches of the same store until it has used as much processor time. Its loss is one
against rest; accuracy is of test, and the softmax objective of train is computed for both, for SGD's weights also at
the factor that makes it least.
"""

import argparse
import json
import os
import resource
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from penultimate.engine.bench.features import drawn_contents, drawn_plan
from penultimate.engine.bench.timing.measurement import cores_of_others
from penultimate.engine.bench.timing.report import Report
from penultimate.engine.bench.timing.turns import timed_call
from penultimate.engine.runtime.free_memory import free_memory_bytes
from penultimate.store.feature_set import FeatureSet
from penultimate.store.feature_store import FeatureStore

# Shapes: N samples, B of them in a batch, D feature dimensions, K classes.

SPLITS = ("train",) * 18 + ("val", "test")
"""Splits that samples take turns in."""

APART = 0.4
"""Standard deviation of a class's centre, in a tenth of the dimensions, where a sample's own is 1."""

PIECE_ROWS, BATCH_ROWS = 8192, 4096

FACTORS = np.geomspace(1e-2, 10, 31)
"""Factors on SGD's weights of which the best is taken."""

PLAIN = 20
"""Index of the factor 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """Size of the features that are drawn."""

    rows: int
    dim: int
    classes: int
    dtype: str

    @property
    def folder(self) -> str:
        return f"{self.rows}x{self.dim}x{self.classes}-{self.dtype}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Ran:
    """A process that has ended."""

    printed: str
    seconds: float
    processor_seconds: float
    peak_bytes: int
    other_cores: float | None
    lines: tuple[str, ...]
    """Lines on stderr."""


def drawn_store(size: Size, work: Path) -> FeatureStore:
    """Return a store of drawn features, written in pieces if it is not there."""
    labels_N = np.random.default_rng(1).permutation(np.arange(size.rows) % size.classes)
    plan, contents_N3 = drawn_plan(labels_N, size.dim, splits=SPLITS), drawn_contents(size.rows)
    plan = replace(plan, embedding=replace(plan.embedding, dtype=size.dtype))
    store = FeatureStore.create(work / size.folder)
    if plan.key(contents_N3) in list(store.keys()):
        return store
    rng = np.random.default_rng(2)
    scale_D = 1 / np.sqrt(1 + np.arange(size.dim, dtype=np.float32))
    centres_KD = APART * rng.standard_normal((size.classes, size.dim)) * (rng.random((size.classes, size.dim)) < 0.1)
    with store.writer(plan, provenance={}) as writer:
        for first in range(0, size.rows, PIECE_ROWS):
            samples = np.arange(first, min(first + PIECE_ROWS, size.rows))
            features_BD = np.random.default_rng([3, first]).standard_normal((len(samples), size.dim), dtype=np.float32)
            features_BD += centres_KD.astype(np.float32)[labels_N[samples]]
            features_BD *= scale_D
            needed = writer.offer(samples, contents_N3[samples])
            writer.append(samples[needed], features_BD[needed].astype(size.dtype))
    return store


def run(*command: str) -> Ran:
    """Run a command to its end."""
    with TemporaryDirectory() as scratch:
        out, err = Path(scratch) / "out", Path(scratch) / "err"

        def to_its_end() -> tuple[int, resource.struct_rusage]:
            with out.open("wb") as stdout, err.open("wb") as stderr:
                process = subprocess.Popen(command, stdout=stdout, stderr=stderr)
                _, status, used = os.wait4(process.pid, 0)
                process.returncode = os.waitstatus_to_exitcode(status)  # which wait4 has taken from it
            return process.returncode, used

        (code, used), lap = timed_call(to_its_end)
        lines = tuple(err.read_text().splitlines())
        if code:
            raise RuntimeError(f"{shlex.join(command)} failed:\n" + "\n".join(lines))
        return Ran(
            printed=out.read_text(),
            seconds=lap.wall_seconds,
            processor_seconds=used.ru_utime + used.ru_stime,
            peak_bytes=used.ru_maxrss * 1024,
            other_cores=cores_of_others([lap]),
            lines=lines,
        )


def sgd(store: str, l2: float, seconds: float) -> dict[str, Any]:
    """Fit SGD for this processor time; return accuracy, objectives and passes. Runs in a process of its own."""
    from sklearn.linear_model import SGDClassifier

    features = _only_set(FeatureStore(store))
    train = features.labelled_rows("train")
    classes = np.arange(len(features.class_names))
    model = SGDClassifier(loss="log_loss", alpha=l2 / len(train), n_jobs=-1, random_state=0)
    began, rows = time.process_time(), 0
    while time.process_time() - began < seconds:
        for rows_B, batch_BD in features.batches(BATCH_ROWS, rows=train):
            model.partial_fit(batch_BD.astype(np.float32), features.labels[rows_B], classes=classes)
            rows += len(rows_B)
            if time.process_time() - began >= seconds:
                break
    weight_KD, bias_K = model.coef_.astype(np.float32), model.intercept_.astype(np.float32)
    return {
        "accuracy": accuracy(features, weight_KD, bias_K),
        "objectives": objectives(features, weight_KD, bias_K, l2, FACTORS),
        "passes": rows / len(train),
        "processor_seconds": time.process_time() - began,
    }


def accuracy(features: FeatureSet, weight_KD: NDArray[np.float32], bias_K: NDArray[np.float32]) -> float:
    """Return the fraction of test that is classified rightly."""
    test = features.labelled_rows("test")
    right = [
        (scores_BK.argmax(1) == labels_B).sum() for scores_BK, labels_B in _scores(features, test, weight_KD, bias_K)
    ]
    return float(sum(right) / len(test))


def objectives(
    features: FeatureSet,
    weight_KD: NDArray[np.float32],
    bias_K: NDArray[np.float32],
    l2: float,
    factors: Sequence[float] | NDArray[np.float64] = (1.0,),
) -> list[float]:
    """Return the softmax objective of train, (sum of losses + l2/2 ||W||^2) / N, at factors on weights and biases."""
    train, total_F = features.labelled_rows("train"), np.zeros(len(factors))
    for scores_BK, labels_B in _scores(features, train, weight_KD, bias_K):
        true_B = scores_BK[np.arange(len(labels_B)), labels_B]
        for n, factor in enumerate(factors):
            total_F[n] += (logsumexp(factor * scores_BK, axis=1) - factor * true_B).sum()
    square = float(np.square(weight_KD.astype(np.float64)).sum())
    return [
        float(total + l2 / 2 * factor**2 * square) / len(train) for total, factor in zip(total_F, factors, strict=True)
    ]


def _scores(
    features: FeatureSet, rows: NDArray[np.int64], weight_KD: NDArray[np.float32], bias_K: NDArray[np.float32]
) -> Iterator[tuple[NDArray[np.float32], NDArray[Any]]]:
    for rows_B, batch_BD in features.batches(BATCH_ROWS, rows=rows):
        yield batch_BD.astype(np.float32) @ weight_KD.T + bias_K, features.labels[rows_B]


def _only_set(store: FeatureStore) -> FeatureSet:
    (key,) = store.keys()
    return store.read(key)


def probe(store: FeatureStore, l2: str, work: Path) -> dict[str, Any]:
    """Probe the features as the verb does; return what it took, and its trial."""
    free = free_memory_bytes()
    with TemporaryDirectory(dir=work) as trials:
        ran = run(
            *(sys.executable, "-m", "penultimate", "probe", store.address, "--trials", trials, "--l2", l2, "--json")
        )
        (record,) = (json.loads(line) for line in (Path(trials) / "trials.jsonl").read_text().splitlines())
    return {"ran": asdict(ran), "free": free, "record": record}


def measure(size: Size, work: Path, l2: str, *, until: str) -> Report | None:
    """Do the steps that are not done yet; return the report once all are."""
    store = drawn_store(size, work)
    if until == "drawn":
        return None
    kept = work / f"{size.folder}.json"
    if not kept.exists():
        kept.write_text(json.dumps(probe(store, l2, work)))
    if until == "probed":
        return None
    found = json.loads(kept.read_text())
    probed, record = Ran(**found["ran"]), found["record"]
    fits = record["history"]
    path = [each for each in fits if each["fitted_on"] == "train"]
    chosen = next(each for each in path if each["l2"] == record["chosen"]["l2"])
    other = run(sys.executable, __file__, "--sgd", store.address, repr(chosen["l2"]), str(probed.processor_seconds))
    peer = json.loads(other.printed)
    return Report(
        bench="large_probe",
        title=f"The probe of {size.rows:,} x {size.dim:,} features of {size.classes} classes",
        settings={
            "rows": size.rows,
            "of train": len(_only_set(store).labelled_rows("train")),
            "features": size.dim,
            "classes": size.classes,
            "dtype": size.dtype,
            "GB on disk": round(size.rows * size.dim * np.dtype(size.dtype).itemsize / 1e9, 1),
            "GB free before": round(found["free"] / 1e9, 1),
            "strengths": l2,
        },
        other_cores=max((ran.other_cores for ran in (probed, other) if ran.other_cores is not None), default=None),
        tables={
            "Once each, in a process of its own": [
                _row(f"penultimate probe, {len(path)} strengths and the refit", probed, record["value"], chosen),
                _row("SGDClassifier, one strength", other, peer["accuracy"], {"objective": peer["objectives"][PLAIN]}),
            ]
        },
        findings=[*_of_the_probe(record), _of_sgd(peer, chosen)],
        not_measured=[
            "Processor time is over all threads.",
            "Drawing and writing the features is not counted. Every process ran once.",
        ],
    )


def _of_the_probe(record: Mapping[str, Any]) -> list[str]:
    fits = record["history"]
    certified = sum(each["status"] == "certified" for each in fits)
    gap = max(each["gap"] / each["objective"] for each in fits)
    notes = list(record["notes"]) or ["the features were held in memory"]
    return [
        *(f"{note[0].upper()}{note[1:]}." for note in notes),
        f"{certified} of {len(fits)} fits are certified; the largest gap is {gap:.1e} of the objective.",
    ]


def _of_sgd(peer: Mapping[str, Any], chosen: Mapping[str, Any]) -> str:
    least = int(np.argmin(peer["objectives"]))
    above = peer["objectives"][least] / chosen["objective"] - 1
    return (
        f"The chosen l2 is {chosen['l2']:.3g}; objectives are of train at that strength. SGD saw train "
        f"{peer['passes']:.2f} times. Its weights times {FACTORS[least]:.2g}, where that is least, have the objective "
        f"{peer['objectives'][least]:.4f}, {above:.1%} above the probe's."
    )


def _row(name: str, ran: Ran, value: float, fit: Mapping[str, Any]) -> dict[str, str]:
    return {
        "what": name,
        "wall s": f"{ran.seconds:,.0f}",
        "processor s": f"{ran.processor_seconds:,.0f}",
        "peak GB": f"{ran.peak_bytes / 1e9:.1f}",
        "test %": f"{100 * value:.2f}",
        "objective": f"{fit['objective']:.4f}",
    }


def main(arguments: Sequence[str]) -> None:
    """Measure and write the report, or do SGD's part of it."""
    if arguments[:1] == ["--sgd"]:
        print(json.dumps(sgd(arguments[1], float(arguments[2]), float(arguments[3]))))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--dtype", choices=("float32", "float16"), default="float32")
    parser.add_argument("--l2", default="1:10000:5")
    parser.add_argument("--until", choices=("drawn", "probed", "reported"), default="reported")
    given = parser.parse_args(arguments)
    size = Size(rows=given.rows, dim=given.dim, classes=given.classes, dtype=given.dtype)
    given.work.mkdir(exist_ok=True)
    report = measure(size, given.work, given.l2, until=given.until)
    if report is not None:
        report.write(given.report)


if __name__ == "__main__":
    main(sys.argv[1:])
