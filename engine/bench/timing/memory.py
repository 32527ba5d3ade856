"""Measure the memory of this process: what is resident now, and the peak since it was last forgotten (Linux)."""

from pathlib import Path


def forget_peak() -> int:
    """Begin to measure the peak anew (proc(5), clear_refs); return the bytes that are resident now."""
    Path("/proc/self/clear_refs").write_text("5")
    return _bytes("VmRSS")


def peak_bytes() -> int:
    """Return the most bytes that were resident since the peak was last forgotten."""
    return _bytes("VmHWM")


def _bytes(field: str) -> int:
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field)]
    return int(line.split()[1]) * 1024
