"""Every step of the GPU's check runs on a CPU at tiny size, and no failure of one ends the others."""

import time
from pathlib import Path

import pytest
import torch

from penultimate.engine.bench.gpu import check as gpu
from penultimate.engine.bench.gpu.check import GpuBench, Outcome, bench_gpu, run_step
from penultimate.engine.bench.gpu.step import Found, Step
from penultimate.engine.bench.gpu.steps import STEPS
from penultimate.engine.bench.timing.report import Report, read_report
from penultimate.store.errors import InputError

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="of a machine without a GPU")
MINUTES = 120
"""Seconds for all steps together on an idle machine; each may take longer on a busy one."""


@no_gpu
@pytest.mark.slow
@pytest.mark.parametrize("name", STEPS)
def test_each_step_runs_on_a_cpu(name: str) -> None:
    pytest.importorskip("nvidia.dali")
    outcome = run_step(name, "cpu", 1.0, timeout=MINUTES)
    assert outcome.result == "done"
    assert outcome.found["measurements"] or outcome.found["findings"]
    if name != "path":  # whose only threshold is beside cuML
        assert outcome.found["thresholds"]


def fake(results: dict[str, str]) -> object:
    def run(name: str, device: str, seconds: float, *, timeout: float) -> Outcome:
        if results[name] != "done":
            return Outcome(step=name, seconds=1.0, result=results[name])
        found = Found(findings=[f"{name} found"])
        found.want(f"{name}'s speed", 2.0, least=3.0)
        return Outcome(step=name, seconds=1.0, result="done", found=found.as_dict())

    return run


@no_gpu
def test_a_failed_step_is_recorded_and_the_report_is_written_after_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "run_step", fake({"card": "done", "path": "failed: no luck", "train": "done"}))
    texts: list[str] = []
    out = tmp_path / "gpu.md"

    def keep(report: Report) -> None:
        report.write(out)
        texts.append(out.read_text())

    report = bench_gpu(GpuBench(steps=("train", "card", "path")), command=["penultimate"], keep=keep)
    assert [row["step"] for row in report.tables["Steps"]] == ["card", "path", "train"]  # in their own order
    assert "Not reached yet: path, train." in texts[0]
    assert "path: failed: no luck." in texts[1]
    assert "train found" in texts[2]
    assert "no figure says anything of a GPU" in texts[2]
    found = read_report(out)
    assert [row["verdict"] for row in found["tables"]["Thresholds"]] == ["not judged without a GPU"] * 2


def test_a_threshold_is_passed_or_failed() -> None:
    found = Found()
    found.want("speed", 3.0, least=3.0)
    found.want("time", 3.1, most=3.0)
    assert [threshold["passed"] for threshold in found.thresholds] == [True, False]


def test_a_step_that_fails_or_takes_too_long_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = run_step("nonsense", "cpu", 1.0, timeout=MINUTES)
    assert failed.result.startswith("failed: KeyError")
    began = time.perf_counter()
    assert run_step("imagenet", "cpu", 1.0, timeout=0.1).result == "stopped after 0 s"
    assert time.perf_counter() - began < 30


def test_what_a_step_found_before_it_failed_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "python"
    script.write_text('#!/bin/sh\necho \'{"findings": ["half"]}\'\necho no luck >&2\nexit 3\n')
    script.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(script))
    outcome = run_step("card", "cpu", 1.0, timeout=60)
    assert (outcome.result, outcome.found) == ("failed: no luck", {"findings": ["half"]})


def test_steps_are_chosen_by_name_and_the_long_ones_by_full() -> None:
    assert GpuBench().names == ["card", "path", "extract", "train", "imagenet", "parity"]
    assert GpuBench(full=True).names[-1] == "imagenet-full"
    assert GpuBench(steps=("parity", "card")).names == ["card", "parity"]
    with pytest.raises(InputError, match="parity"):
        GpuBench.of({"steps": ["party"]})


def test_a_step_is_tiny_on_a_cpu() -> None:
    assert Step(device="cpu", seconds=1.0).is_tiny
    assert not Step(device="cuda", seconds=1.0).is_tiny
