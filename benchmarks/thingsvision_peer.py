"""Run thingsvision's own extraction where the versions it pins (torch 2.0, TensorFlow, NumPy 1) cannot be installed.

Its code for PyTorch networks is used as published; what it imports for TensorFlow networks, never called here, is
replaced by empty modules. Install it beside the environment: ``pip install --no-deps --target FOLDER thingsvision``.
"""

import sys
import tempfile
import types
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import numpy as np

_NOT_CALLED = (
    "tensorflow",
    "torchtyping",
    "h5py",
    "numba",
    "dreamsim",
    "keras",
    "open_clip",
    "ftfy",
    "regex",
    "requests",
    "skimage",
)


class _Empty(types.ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        any_kind = classmethod(lambda cls, item: cls)  # TensorType["b", "d"] is an annotation there
        return type(name, (), {"__class_getitem__": any_kind, "list_physical_devices": staticmethod(lambda kind: [])})


class _Finder(MetaPathFinder, Loader):
    def find_spec(self, name: str, path: Sequence[str] | None = None, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(name, self, is_package=True) if name.split(".")[0] in _NOT_CALLED else None

    def create_module(self, spec: ModuleSpec) -> types.ModuleType:
        return _Empty(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        module.__path__ = []


def thingsvision_runner(
    installed: Path, images: Path, arch: str, transform: Any, *, batch_size: int
) -> Callable[[], int]:
    """Return a function that embeds every image below ``images`` once and returns their number."""
    sys.path.append(str(installed))
    sys.meta_path.append(_Finder())
    setattr(np, "AxisError", np.exceptions.AxisError)  # noqa: B010  # its name before NumPy 2
    from thingsvision import get_extractor
    from thingsvision.utils.data import DataLoader, ImageDataset

    extractor = get_extractor(model_name=arch, source="timm", device="cpu", pretrained=False)
    dataset = ImageDataset(root=str(images), out_path=tempfile.mkdtemp(), backend="pt", transforms=transform)

    def run() -> int:
        batches = DataLoader(dataset=dataset, batch_size=batch_size, backend="pt")
        return len(extractor.extract_features(batches=batches, module_name="global_pool", flatten_acts=True))

    return run
