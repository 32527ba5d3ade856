"""Simulate other processors, whatever this machine has."""

from typing import Any

import pytest
import torch

from penultimate.engine.runtime import capabilities
from penultimate.engine.runtime.capabilities import SWITCH, CpuClass

_AVX512 = {"avx512_f": True, "avx512_bw": True, "avx512_dq": True, "avx512_vl": True}

TORCH: dict[CpuClass, dict[str, Any]] = {
    "avx2": {"architecture": "x86_64", "avx2": True},
    "avx512": {"architecture": "x86_64", "avx2": True, **_AVX512},
    "avx512_bf16": {"architecture": "x86_64", "avx2": True, **_AVX512, "avx512_bf16": True},
    "amx": {
        "architecture": "x86_64", "avx2": True, **_AVX512, "avx512_bf16": True, "avx512_fp16": True, "amx_bf16": True,
    },
}  # fmt: skip
"""Class of processors -> part of the result of ``torch.cpu.get_capabilities`` there."""

FLAGS: dict[CpuClass, str] = {
    "avx2": "fpu sse4_2 avx avx2 fma",
    "avx512": "fpu sse4_2 avx avx2 fma avx512f avx512dq avx512cd avx512bw avx512vl",
    "avx512_bf16": "fpu sse4_2 avx avx2 fma avx512f avx512dq avx512cd avx512bw avx512vl avx512_vnni avx512_bf16",
    "amx": "fpu avx2 avx512f avx512dq avx512bw avx512vl avx512_bf16 amx_bf16 avx512_fp16 amx_tile amx_int8",
}
"""Class of processors -> part of the flags in ``/proc/cpuinfo`` there."""


def pretend(monkeypatch: pytest.MonkeyPatch, processor: CpuClass, *, switch: str = "") -> None:
    """Simulate a machine with ``processor``, and set ``PENULTIMATE_CPU`` to ``switch``.

    Answers change, kernels do not: what a lesser processor lacks still works where it is used all the same, and what
    it has beyond this one is emulated by torch, slowly.
    """
    answers = {"flags": FLAGS[processor], "model name": f"A processor with {processor}"}
    monkeypatch.setattr(capabilities, "_cpuinfo", lambda field: answers.get(field, ""))
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: TORCH[processor])
    monkeypatch.setenv(SWITCH, switch)
