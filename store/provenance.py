"""Record what a stored number was made with: library versions, and the commit of this package."""

import platform
import subprocess
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_PACKAGES = (
    "penultimate",
    "torch",
    "torchvision",
    "timm",
    "nvidia-dali-cuda130",
    "pillow",
    "numpy",
    "scipy",
    "scikit-learn",
    "zarr",
    "zarrs",
    "cuml-cu13",
)


@cache
def library_versions() -> dict[str, str]:
    """Return the versions of Python and of the installed libraries on which a number can depend."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


@cache
def source_commit() -> str:
    """Return the git commit of the package's checkout (``-dirty`` if changed), else ``version <version>``."""
    root = Path(__file__).resolve().parents[1]
    installed = f"version {library_versions().get('penultimate', 'unknown')}"
    if not (root / ".git").exists():
        return installed
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        described = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):  # no git here, or one that does not trust this folder
        return installed
    return described.stdout.strip()


def utc_now() -> str:
    """Return the current time in UTC as ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
