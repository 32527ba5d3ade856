"""``bench gpu``: one command for a machine with a GPU, most informative steps first, in at most five minutes.

Each step is a process with a timeout of its own. One that fails is recorded with its message, and the next begins; the
report is written again after every step, so that whatever ends the run leaves what was found. Without a GPU all steps
run at tiny sizes on the CPU, and the report says so.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import torch

from penultimate.engine.bench.gpu.steps import STEPS
from penultimate.engine.bench.timing.cells import Row
from penultimate.engine.bench.timing.measurement import Measurement
from penultimate.engine.bench.timing.report import Report
from penultimate.engine.bench.timing.turns import Progress, no_progress
from penultimate.engine.runtime.option_types import Positive, one_of
from penultimate.engine.runtime.strict import Strict

_LONG = ("imagenet-full",)
"""Steps that only ``full`` runs, beyond the seconds."""

_LONG_SECONDS = 1800.0
_PARTS = {"card": 1, "path": 3, "extract": 5, "train": 3, "imagenet": 3, "parity": 2}
"""Step -> its part of the seconds."""

_START_SECONDS = 20.0
"""Seconds that a step may take besides its part, to import and to build what it measures."""

_TINY_SECONDS = 2.0
"""Seconds that a step measures for at tiny sizes."""

_TINY_TIMEOUT = 100.0


class GpuBench(Strict):
    """All options of ``penultimate bench gpu``."""

    seconds: Positive = 300.0
    """Seconds for all steps together; those that would begin later are left out."""

    steps: tuple[Annotated[str, one_of("step", STEPS)], ...] = ()
    """Steps to run: card, path, extract, train, imagenet, parity, imagenet-full; by default all but the last."""

    full: bool = False
    """Run the long steps too: 45 strengths at ImageNet's size."""

    @property
    def names(self) -> list[str]:
        """Return the steps to run, in their order."""
        chosen = self.steps or tuple(name for name in STEPS if name not in _LONG)
        return [name for name in STEPS if name in chosen or (self.full and name in _LONG)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What became of one step."""

    step: str
    seconds: float
    result: str
    """``done``, or why there is nothing."""

    found: Mapping[str, Any] = field(default_factory=dict)
    """What ``Found.as_dict`` gave last; of a step that did not end, after its last part."""


def bench_gpu(
    options: GpuBench,
    *,
    command: Sequence[str],
    progress: Progress = no_progress,
    log: Callable[[str], None] = lambda line: None,
    keep: Callable[[Report], object] = lambda report: None,
) -> Report:
    """Run the steps one after the other; ``keep`` is called with the report so far after each."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    began, outcomes = time.perf_counter(), list[Outcome]()
    report = _report(outcomes, options, device, command)
    for name in options.names:
        spent = time.perf_counter() - began
        progress(name, spent, options.seconds)
        outcomes.append(_run(name, device, options.seconds, options.seconds - spent))
        log(f"{name}: {outcomes[-1].result}, {outcomes[-1].seconds:.0f} s")
        report = _report(outcomes, options, device, command)
        keep(report)
    return report


def _run(name: str, device: str, seconds: float, left: float) -> Outcome:
    if device == "cpu":
        return run_step(name, device, _TINY_SECONDS, timeout=_TINY_TIMEOUT)
    if name in _LONG:
        return run_step(name, device, _LONG_SECONDS, timeout=_LONG_SECONDS)
    part = max(1.0, (seconds - len(_PARTS) * _START_SECONDS) * _PARTS[name] / sum(_PARTS.values()))
    if left < _START_SECONDS:
        return Outcome(step=name, seconds=0.0, result="not run: no seconds were left")
    return run_step(name, device, part, timeout=min(left, 2 * part + _START_SECONDS))


def run_step(name: str, device: str, seconds: float, *, timeout: float) -> Outcome:
    """Run one step in a process of its own; a failure or a timeout becomes its result, what it found until then stays.

    Such a process has lines of JSON on its stdout, of which the last is all that it found.
    """
    began = time.perf_counter()
    command = [sys.executable, "-m", "penultimate.engine.bench.gpu.steps", name, device, str(seconds)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        out, err = process.communicate(timeout=timeout)
        result = (
            "done" if process.returncode == 0 else f"failed: {_last_line(err) or f'exit code {process.returncode}'}"
        )
    except subprocess.TimeoutExpired:
        out, result = _end(process), f"stopped after {timeout:.0f} s"
    except BaseException:  # Ctrl-C: the step's session does not hear it
        _end(process)
        raise
    told = _last_line(out)
    found = json.loads(told) if told.startswith("{") else {}
    return Outcome(step=name, seconds=time.perf_counter() - began, result=result, found=found)


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1]


def _end(process: "subprocess.Popen[str]") -> str:
    """End a step with all that it started; return what it has printed."""
    os.killpg(process.pid, signal.SIGKILL)
    return process.communicate()[0]


def _report(outcomes: Sequence[Outcome], options: GpuBench, device: str, command: Sequence[str]) -> Report:
    found = [outcome.found for outcome in outcomes if outcome.found]
    is_tiny = device == "cpu"
    thresholds = [threshold for each in found for threshold in each["thresholds"]]
    tables: dict[str, list[Row]] = {
        "Thresholds": [_threshold_row(threshold, is_tiny=is_tiny) for threshold in thresholds],
        "Steps": [{"step": each.step, "result": each.result, "seconds": f"{each.seconds:.0f}"} for each in outcomes],
    }
    waiting = [name for name in options.names if name not in {outcome.step for outcome in outcomes}]
    where = "No GPU here: every step ran at tiny size on the CPU, and no figure says anything of a GPU."
    return Report(
        bench="gpu",
        title="A dry run without a GPU" if is_tiny else f"On {torch.cuda.get_device_name()}",
        command=command,
        settings={"device": device, "seconds": options.seconds, "steps": options.names},
        measurements=[Measurement.from_dict(line) for each in found for line in each["measurements"]],
        other_cores=max((busy for each in found if (busy := each["other_cores"]) is not None), default=None),
        findings=[*([where] if is_tiny else []), *(sentence for each in found for sentence in each["findings"])],
        not_measured=[
            *(f"{outcome.step}: {outcome.result}." for outcome in outcomes if outcome.result != "done"),
            *([f"Not reached yet: {', '.join(waiting)}."] if waiting else []),
            *dict.fromkeys(sentence for each in found for sentence in each["not_measured"]),
        ],
        tables={title: rows for title, rows in tables.items() if rows},
        results=[{"step": each.step, "result": each.result, "seconds": each.seconds} for each in outcomes]
        + [dict(threshold) for threshold in thresholds],
    )


def _threshold_row(threshold: Mapping[str, Any], *, is_tiny: bool) -> Row:
    verdict = "not judged without a GPU" if is_tiny else "passed" if threshold["passed"] else "FAILED"
    return {
        "threshold": threshold["what"],
        "measured": threshold["value"],
        "wanted": threshold["wanted"],
        "verdict": verdict,
    }
