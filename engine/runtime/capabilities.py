"""Tell what this machine can do; every property of it that decides how something is computed is looked up here.

The functions take nothing but the machine and one environment variable, and return yes, no or a number. Two questions
are answered elsewhere: whether zarrs is installed, in ``store.format.arrays``, for ``store`` imports nothing of
``engine``; and whether the operating system grants the matrix units, in ``kernels.library``, for only a loaded library
can tell.

**Answering as a lesser machine.** ``PENULTIMATE_CPU`` names a class of x86-64 processors, and every answer is then that
of such a machine, so that a run on a large one shows what a small one would do:

==============  ===================================================================================================
``avx2``        AVX2 and whatever has less than the next: computes in float32 alone
``avx512``      AVX-512 F, BW, DQ, VL (Skylake): float32 alone, wider
``avx512_bf16`` and bfloat16 (Cooper Lake, Zen 4): networks in bfloat16
``amx``         and matrix units (Sapphire Rapids): float16 too, Hessians in bfloat16
==============  ===================================================================================================

It can only lower: a class above the processor's own changes nothing. ``machine`` records both, in every trial.

The libraries have switches of their own, which do not reach ``torch.cpu.get_capabilities``; ``lower_libraries`` sets
them, unless the user has, so that their kernels are the lesser machine's as well. numpy's OpenBLAS reads its switch
when it is loaded and never again, torch's libraries at theirs when they first compute. Out of reach are numpy's own
loops, Pillow, DALI, zarrs and the C library: they differ in speed and nothing here asks about them. Below ``amx``,
torch's compiler may still use the matrix units of a processor that has them, in its int8 products, which no network
here has.

Importing this module loads neither numpy nor torch: ``import penultimate`` does, before anything else.
"""

import os
import platform
import shutil
import sys
import sysconfig
import warnings
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from penultimate.store.errors import InputError, UnavailableError, UnknownNameError

if TYPE_CHECKING:
    import torch

SWITCH = "PENULTIMATE_CPU"
"""Name of the environment variable that lowers the processor's class; unset or empty, it is the processor's own."""

CpuClass = Literal["avx2", "avx512", "avx512_bf16", "amx"]

CPU_CLASSES: tuple[CpuClass, ...] = get_args(CpuClass)
"""All classes of processors, lowest first."""

_FLAGS: dict[CpuClass, frozenset[str]] = {
    "amx": frozenset({"amx_tile", "amx_bf16", "avx512_bf16"}),
    "avx512_bf16": frozenset({"avx512_bf16"}),
    "avx512": frozenset({"avx512f", "avx512bw", "avx512dq", "avx512vl"}),
}
"""Class -> flags of ``/proc/cpuinfo`` that it has and the one below it lacks, highest first."""

_LIBRARIES: dict[CpuClass, dict[str, str]] = {
    "avx2": {
        "ATEN_CPU_CAPABILITY": "avx2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "OPENBLAS_CORETYPE": "Haswell",
    },
    "avx512": {
        "ATEN_CPU_CAPABILITY": "avx512",
        "MKL_ENABLE_INSTRUCTIONS": "AVX512",
        "ONEDNN_MAX_CPU_ISA": "AVX512_CORE",
        "OPENBLAS_CORETYPE": "SkylakeX",
    },
    "avx512_bf16": {
        "ATEN_CPU_CAPABILITY": "avx512",
        "MKL_ENABLE_INSTRUCTIONS": "AVX512_E3",
        "ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16",
        "OPENBLAS_CORETYPE": "Cooperlake",
    },
}
"""Class -> switches of torch, MKL, oneDNN and OpenBLAS that make their kernels those of the class."""

_PRECISION_UNITS: dict[str, frozenset[str]] = {
    "tf32": frozenset(),
    "bfloat16": frozenset({"avx512_bf16", "amx_bf16", "bf16"}),
    "float16": frozenset({"avx512_fp16", "amx_fp16", "fp16_arith"}),
}
"""Precision -> features of x86-64 and ARM, as ``torch.cpu.get_capabilities`` names them, that compute in it."""

_KERNELS, _SUFFIX = Path(__file__).parents[1] / "probe" / "kernels", sysconfig.get_config_var("EXT_SUFFIX")

EXTENSION = _KERNELS / f"_kernels{_SUFFIX}"
"""Path of the library that an installation with a C compiler makes of ``kernels.c``."""

FLOAT_EXTENSIONS: dict[CpuClass, Path] = {
    "avx512": _KERNELS / f"_float_avx512{_SUFFIX}",
    "avx2": _KERNELS / f"_float_avx2{_SUFFIX}",
}
"""Class of processors -> path of the library that an installation makes of ``float_passes.c`` for it, best first."""

_VECTORS: dict[CpuClass, frozenset[str]] = {
    "avx512": frozenset({"avx512_f", "avx512_bw", "avx512_dq", "avx512_vl"}),
    "avx2": frozenset({"avx2"}),
}
"""Class of processors -> features, as ``torch.cpu.get_capabilities`` names them, that its ``FLOAT_EXTENSIONS`` use."""


def processor_class() -> CpuClass | None:
    """Return the class of this processor, or None where it is not x86-64, or not Linux."""
    flags = set(_cpuinfo("flags").split())
    if not flags:
        return None
    return next((name for name, needed in _FLAGS.items() if needed <= flags), "avx2")


def cpu_class() -> CpuClass | None:
    """Return the class in force: the processor's, or the one in ``PENULTIMATE_CPU`` where that is lower.

    Raises UnknownNameError for a name that is no class, UnavailableError on a processor that has no class.
    """
    requested, own = os.environ.get(SWITCH), processor_class()
    if not requested:
        return own
    if requested not in CPU_CLASSES:
        raise UnknownNameError(f"class of processor for {SWITCH}", requested, CPU_CLASSES)
    if own is None:
        raise UnavailableError(
            f"{SWITCH}={requested} is a class of x86-64 processors under Linux, and this is {platform.machine()} under "
            f"{platform.system()}; unset it"
        )
    return min(requested, own, key=CPU_CLASSES.index)


def lower_libraries() -> None:
    """Make the libraries' kernels those of ``cpu_class``, where that is lower than the processor's.

    Call it before numpy and torch are loaded; otherwise it gives a RuntimeWarning. A bad ``PENULTIMATE_CPU`` is left to
    the first call of ``cpu_class`` to refuse: this runs on ``import penultimate``, before the command line could print
    an error.
    """
    with suppress(InputError):
        in_force = cpu_class()
        if in_force is None or in_force == processor_class():
            return
        missing = {name: value for name, value in _LIBRARIES[in_force].items() if name not in os.environ}
        os.environ.update(missing)
        loaded = [name for name in ("numpy", "torch") if name in sys.modules]
        if missing and loaded:
            warnings.warn(
                f"{' and '.join(loaded)} had been loaded before penultimate, so that {SWITCH}={in_force} may not reach "
                f"all kernels; import penultimate first, or set {' '.join(f'{k}={v}' for k, v in missing.items())}",
                RuntimeWarning,
                stacklevel=3,
            )


def computes_natively(precision: str, device: "torch.device") -> bool:
    """Return whether ``device`` has units for ``precision`` (``float32``, ``tf32``, ``bfloat16`` or ``float16``)."""
    if precision == "float32":
        return True
    if device.type == "cpu":
        return not _PRECISION_UNITS[precision].isdisjoint(_cpu_features())
    # Every GPU that today's torch builds support has float16 arithmetic, from Volta (7.0) on in tensor cores.
    return precision == "float16" or _is_ampere(device)


def has_bfloat16_matrix_units(device: "torch.device") -> bool:
    """Return whether products of bfloat16 matrices are faster on ``device`` than float32 ones: AMX, or an Ampere GPU.

    With AMX the covariance of 4,000 rows of 1,280 took 0.2 to 0.3 of float32's time, but 1.4 to 1.6 times as long as
    ``avx512_bf16``, 3.6 to 6.1 times as ``avx512`` and 11 to 14 times as ``avx2`` (2 cores, 3 rounds, switch lowered).
    """
    return _is_ampere(device) if device.type == "cuda" else "amx_bf16" in _cpu_features()


def has_onednn(dtype: "torch.dtype") -> bool:
    """Return whether oneDNN is in this build of torch and computes in ``dtype``, below float32, on this processor."""
    import torch

    name, supported = {
        torch.bfloat16: ("bfloat16", torch.ops.mkldnn._is_mkldnn_bf16_supported),
        torch.float16: ("float16", torch.ops.mkldnn._is_mkldnn_fp16_supported),
    }[dtype]
    here: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]  # torch does not type it
    # oneDNN says that it computes in bfloat16 on any AVX-512, where it converts to float32 and back.
    return here and computes_natively(name, torch.device("cpu")) and bool(supported())


def compiled_kernels() -> Path | None:
    """Return the path of the probe's compiled kernels, or None where they or the units they are for are missing."""
    units = {"amx_bf16", "avx512_bf16"} <= _cpu_features()
    return EXTENSION if units and EXTENSION.exists() else None


def compiled_float_kernels() -> Path | None:
    """Return the path of the probe's float32 kernels for the widest vectors here, or None where there are none."""
    found = _cpu_features()
    return next((path for name, path in FLOAT_EXTENSIONS.items() if found >= _VECTORS[name] and path.exists()), None)


def is_intel() -> bool:
    """Return whether the processor is Intel's; MKL, which multiplies for torch, takes other ways on others."""
    return _cpuinfo("vendor_id") == "GenuineIntel"


def has_compiler() -> bool:
    """Return whether the C++ compiler that ``torch.compile`` needs is installed."""
    return any(shutil.which(name) for name in ("g++", "clang++", "cl"))


def usable_cores() -> int:
    """Return the number of cores this process may run on."""
    return len(usable_processors()) or all_cores()


def all_cores() -> int:
    """Return the number of cores of this machine, those included that this process may not run on."""
    return os.cpu_count() or 1


def usable_processors() -> frozenset[int]:
    """Return the numbers of the cores this process may run on; empty where the system does not tell."""
    affinity = getattr(os, "sched_getaffinity", None)
    return frozenset(affinity(0)) if affinity else frozenset()


def machine() -> dict[str, str | int]:
    """Describe the processor, its class, usable cores, memory in GiB and operating system, but no person or host.

    ``cpu_class`` is the class in force, ``cpu_class_actual`` the processor's; both are absent where it has none.
    """
    own, in_force = processor_class(), cpu_class()
    classes = {} if own is None or in_force is None else {"cpu_class": in_force, "cpu_class_actual": own}
    name = _cpuinfo("model name") or _cpuinfo("CPU part") or platform.processor() or platform.machine()
    return {
        "processor": name,
        **classes,
        "cores": usable_cores(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": f"{platform.system()} {platform.machine()}",
    }


def _cpu_features() -> set[str]:
    """Return the features that torch finds the processor to have, without those that the class in force lacks."""
    import torch

    found = {name for name, value in torch.cpu.get_capabilities().items() if value is True}
    in_force = cpu_class()
    if in_force is None or in_force == processor_class():
        return found
    return {name for name in found if CPU_CLASSES.index(_least_class(name)) <= CPU_CLASSES.index(in_force)}


def _least_class(feature: str) -> CpuClass:
    """Return the lowest class with a feature that torch names."""
    if feature.startswith(("amx", "avx10")) or feature == "avx512_fp16":
        return "amx"
    if feature == "avx512_bf16":
        return "avx512_bf16"
    return "avx512" if feature.startswith("avx512") else "avx2"


def _is_ampere(device: "torch.device") -> bool:
    """Return whether a GPU is an Ampere (8.0) or later, the first with bfloat16 and TF32 units.

    On earlier ones ``torch.cuda.is_bf16_supported`` counts emulation.
    """
    import torch

    return torch.cuda.get_device_capability(device) >= (8, 0)


@cache
def _cpuinfo(field: str) -> str:
    """Read the value of ``field`` for the first processor of ``/proc/cpuinfo``; empty where there is none."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except FileNotFoundError:  # not Linux
        return ""
    found = (value.strip() for name, _, value in (line.partition(":") for line in lines) if name.strip() == field)
    return next(found, "")
