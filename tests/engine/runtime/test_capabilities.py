"""Each ability of the machine is found or not, and the switch makes it answer as a lesser machine would."""

import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.processors import TORCH, pretend

from penultimate.engine.probe.objective.make_design import ProductPrecision, fast_low_precision, make_design
from penultimate.engine.runtime import capabilities
from penultimate.engine.runtime.capabilities import (
    CPU_CLASSES,
    SWITCH,
    CpuClass,
    compiled_float_kernels,
    compiled_kernels,
    computes_natively,
    cpu_class,
    has_bfloat16_matrix_units,
    has_compiler,
    has_onednn,
    lower_libraries,
    machine,
    processor_class,
    usable_cores,
)
from penultimate.engine.runtime.devices import dtype_named
from penultimate.store.errors import UnavailableError, UnknownNameError

pytestmark = pytest.mark.capability

CPU = torch.device("cpu")
LIBRARY_SWITCHES = ("ATEN_CPU_CAPABILITY", "MKL_ENABLE_INSTRUCTIONS", "ONEDNN_MAX_CPU_ISA", "OPENBLAS_CORETYPE")
classes = pytest.mark.parametrize("processor", CPU_CLASSES)


@classes
def test_a_processor_is_of_the_highest_class_whose_instructions_it_has(
    processor: CpuClass, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, processor)
    assert (processor_class(), cpu_class()) == (processor, processor)


@classes
@pytest.mark.parametrize("requested", CPU_CLASSES)
def test_the_switch_lowers_and_never_raises(
    processor: CpuClass, requested: CpuClass, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, processor, switch=requested)
    assert cpu_class() == CPU_CLASSES[min(CPU_CLASSES.index(processor), CPU_CLASSES.index(requested))]
    assert processor_class() == processor


@pytest.mark.parametrize("lowered", [False, True], ids=["own", "lowered"])
@pytest.mark.parametrize(
    ("named", "bfloat16", "float16", "matrix_units"),
    [
        ("avx2", False, False, False),
        ("avx512", False, False, False),
        ("avx512_bf16", True, False, False),
        ("amx", True, True, True),
    ],
)
def test_each_class_computes_in_its_precisions_by_itself_and_where_it_is_asked_for(
    named: CpuClass, bfloat16: bool, float16: bool, matrix_units: bool, lowered: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, "amx" if lowered else named, switch=named)
    assert computes_natively("float32", CPU)
    assert computes_natively("bfloat16", CPU) == bfloat16
    assert computes_natively("float16", CPU) == float16
    assert has_bfloat16_matrix_units(CPU) == matrix_units
    assert fast_low_precision(CPU) == (torch.bfloat16 if matrix_units else None)


def test_what_torch_finds_counts_where_nothing_is_lowered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Find float16 in a virtual machine that has it without matrix units, whatever the processor's class."""
    pretend(monkeypatch, "avx512_bf16")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: TORCH["avx512_bf16"] | {"avx512_fp16": True})
    assert computes_natively("float16", CPU)
    monkeypatch.setenv(SWITCH, "avx512")
    assert not computes_natively("float16", CPU)


@pytest.mark.parametrize(("capability", "expected"), [((7, 0), False), ((8, 0), True), ((9, 0), True)])
def test_a_gpu_has_bfloat16_from_ampere_on_and_float16_always(
    capability: tuple[int, int], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, "avx2")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    gpu = torch.device("cuda", 0)
    assert computes_natively("bfloat16", gpu) == has_bfloat16_matrix_units(gpu) == expected
    assert computes_natively("float16", gpu)


@pytest.mark.parametrize("is_built", [False, True])
@pytest.mark.parametrize("in_torch", [False, True])
def test_onednn_computes_below_float32_where_it_is_built_in_and_the_processor_does(
    in_torch: bool, is_built: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: is_built)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: in_torch)
    pretend(monkeypatch, "avx512_bf16")
    assert has_onednn(torch.bfloat16) == (in_torch and is_built)
    pretend(monkeypatch, "avx512")
    assert not has_onednn(torch.bfloat16)


@pytest.mark.parametrize("compiled", [False, True])
def test_compiled_kernels_are_there_where_they_were_compiled_and_for_a_processor_with_their_units(
    compiled: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extension = tmp_path / "_kernels.so"
    monkeypatch.setattr(capabilities, "EXTENSION", extension)
    if compiled:
        extension.touch()
    pretend(monkeypatch, "amx")
    assert compiled_kernels() == (extension if compiled else None)
    pretend(monkeypatch, "amx", switch="avx512_bf16")
    assert compiled_kernels() is None


def test_float32_kernels_are_those_of_the_widest_vectors_for_which_they_were_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extensions: dict[CpuClass, Path] = {"avx512": tmp_path / "avx512.so", "avx2": tmp_path / "avx2.so"}
    monkeypatch.setattr(capabilities, "FLOAT_EXTENSIONS", extensions)
    pretend(monkeypatch, "avx512_bf16")
    assert compiled_float_kernels() is None
    for path in extensions.values():
        path.touch()
    assert compiled_float_kernels() == extensions["avx512"]
    pretend(monkeypatch, "avx512_bf16", switch="avx2")
    assert compiled_float_kernels() == extensions["avx2"]
    pretend(monkeypatch, "avx512")
    extensions["avx512"].unlink()
    assert compiled_float_kernels() == extensions["avx2"]


@pytest.mark.parametrize("name", ["g++", "clang++", None])
def test_a_compiler_is_what_the_path_holds(name: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda requested: f"/usr/bin/{requested}" if requested == name else None)
    assert has_compiler() == (name is not None)


def test_cores_are_those_of_the_process_else_those_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {2, 5, 7}, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert usable_cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    assert usable_cores() == 64
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_cores() == 1


def test_the_record_tells_the_class_answered_as_from_the_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, "amx")
    whole = machine()
    assert (whole["cpu_class"], whole["cpu_class_actual"]) == ("amx", "amx")
    assert whole["processor"] == "A processor with amx"
    pretend(monkeypatch, "amx", switch="avx2")
    assert machine() == {**whole, "cpu_class": "avx2"}


def test_a_processor_without_a_class_has_none_in_the_record_and_refuses_the_switch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(capabilities, "_cpuinfo", lambda field: "")
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"architecture": "aarch64", "bf16": True})
    monkeypatch.delenv(SWITCH, raising=False)
    assert computes_natively("bfloat16", CPU)
    assert not computes_natively("float16", CPU)
    assert "cpu_class" not in machine()
    monkeypatch.setenv(SWITCH, "avx2")
    with pytest.raises(UnavailableError, match=r"PENULTIMATE_CPU=avx2 .* this is arm64 .*; unset it"):
        cpu_class()


def test_a_refusal_says_whether_it_is_the_processor_or_the_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, "avx2")
    with pytest.raises(UnavailableError, match=r"^this processor has no bfloat16 units .* use --precision float32$"):
        dtype_named("bfloat16", CPU)
    pretend(monkeypatch, "amx", switch="avx2")
    with pytest.raises(UnavailableError, match=r"^this processor, taken for avx2 \(PENULTIMATE_CPU\), has no bfloat16"):
        dtype_named("bfloat16", CPU)


def test_a_name_that_is_no_class_is_refused_with_those_that_are(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, "amx", switch="AVX3")
    with pytest.raises(UnknownNameError, match=r"for PENULTIMATE_CPU named 'AVX3'; known: amx, avx2, avx512"):
        cpu_class()


@pytest.fixture
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unset the switches of all libraries, and remove those that a test sets after it."""
    for name in LIBRARY_SWITCHES:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.mark.usefixtures("unset")
def test_the_libraries_are_lowered_only_where_the_switch_lowers_and_the_user_has_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for processor, switch in (("amx", ""), ("amx", "amx"), ("avx2", "avx512"), ("amx", "no class")):
        pretend(monkeypatch, processor, switch=switch)  # type: ignore[arg-type]  # a tuple's literals are strings
        lower_libraries()
        assert not any(name in os.environ for name in LIBRARY_SWITCHES)
    monkeypatch.setenv("MKL_ENABLE_INSTRUCTIONS", "SSE4_2")
    pretend(monkeypatch, "amx", switch="avx2")
    with pytest.warns(RuntimeWarning, match="numpy and torch had been loaded before penultimate"):
        lower_libraries()
    assert [os.environ[name] for name in LIBRARY_SWITCHES] == ["avx2", "SSE4_2", "AVX2", "Haswell"]
    lower_libraries()  # without a warning: as in a process that this one starts


SCRIPT = """
import json
import penultimate
import numpy, torch, threadpoolctl
from penultimate.engine.probe.objective.losses import LOSSES
from penultimate.engine.probe.objective.make_design import choose_precision, make_design
from penultimate.engine.runtime.capabilities import machine
cpu = torch.device("cpu")
precision = choose_precision(1 << 30, LOSSES["softmax"], cpu)
torch.manual_seed(0)
print(json.dumps({
    "torch": torch.backends.cpu.get_cpu_capability(),
    "numpy": [lib["architecture"] for lib in threadpoolctl.threadpool_info() if lib["internal_api"] == "openblas"],
    "design": make_design(torch.randn(100, 40), sample_weight_N=None, precision=precision).precision,
    "class": machine()["cpu_class"],
}))
"""


@pytest.mark.skipif(processor_class() is None, reason="no x86-64 processor under Linux: the switch has no class for it")
def test_in_a_process_of_its_own_the_switch_reaches_answers_and_kernels() -> None:
    environment = {name: value for name, value in os.environ.items() if name not in LIBRARY_SWITCHES}
    environment[SWITCH] = "avx2"
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=True, timeout=600
    )
    found = json.loads(done.stdout)
    assert found["class"] == "avx2"
    assert found["design"] == "float32/float32"
    assert found["torch"] in ("AVX2", "DEFAULT")  # the second where there is not even that
    assert set(found["numpy"]) <= {"Haswell", "Zen", "Sandybridge", "Nehalem"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("switch", "said"),
    [
        pytest.param(
            "avx2",
            "has no bfloat16 units and would emulate them slowly; use --precision float32",
            marks=pytest.mark.skipif(processor_class() is None, reason="the switch has no class for this processor"),
        ),
        ("avx3", "no class of processor for PENULTIMATE_CPU named 'avx3'; did you mean avx2"),
    ],
)
def test_on_the_command_line_what_cannot_be_is_one_line_and_exit_code_2(
    switch: str, said: str, photos: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "penultimate", "extract", str(photos), "--store", str(tmp_path / "store")]
    done = subprocess.run(
        [*command, "--model", "test_resnet", "--weights", "random", "--precision", "bfloat16"],
        env={**os.environ, SWITCH: switch}, capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert said in done.stderr


def test_a_design_is_of_the_precision_of_its_class(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, "avx512_bf16")
    precision = ProductPrecision(torch.float32, fast_low_precision(CPU))
    design = make_design(torch.randn(100, 40), sample_weight_N=None, precision=precision)
    assert design.precision == "float32/float32"
