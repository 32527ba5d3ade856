"""Read Food-101, FGVC Aircraft, Stanford Cars, DTD and Flowers-102 through torchvision's classes.

The classes read the annotations; the ``loader`` they take returns the path instead of pixels, so that no image is
opened. torchvision wants each dataset in a folder of its own naming; a link of that name to wherever the
publisher's archive was unpacked gives it one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from penultimate.engine.images.datasets.annotation_index import AnnotationIndex
from penultimate.store.errors import InputError

# Shapes: N samples.


@dataclass(frozen=True, kw_only=True, slots=True)
class TorchvisionSet:
    """The class by which torchvision reads one dataset, and its arguments."""

    class_name: str
    """Name of the class in ``torchvision.datasets``."""

    folder: str
    """Folder below its root in which that class looks."""

    splits: Mapping[str, str]
    """Name of a split in torchvision -> its name here."""

    options: Mapping[str, Any] = field(default_factory=dict)

    def read(self, base: Path) -> AnnotationIndex:
        """Read the annotations below ``base``, the publisher's unpacked archive; raise InputError if that fails."""
        from torchvision import datasets

        reader = getattr(datasets, self.class_name)
        with TemporaryDirectory() as folder:
            link = Path(folder) / self.folder
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(base.resolve(), target_is_directory=True)
            try:
                read = {split: reader(folder, split=split, loader=Path, **self.options) for split in self.splits}
            except (OSError, RuntimeError, KeyError, ValueError, TypeError, IndexError) as error:
                raise InputError(
                    f"torchvision's {self.class_name} cannot read {str(base)!r}: {' '.join(str(error).split())}"
                ) from error
            rows = [
                (path.relative_to(link).as_posix(), self.splits[split], int(label))
                for split, dataset in read.items()
                for path, label in (dataset[index] for index in range(len(dataset)))
            ]
        return AnnotationIndex.of(base, rows, [str(name) for name in next(iter(read.values())).classes])


_TWO = {"train": "train", "test": "test"}
_THREE = {"train": "train", "val": "val", "test": "test"}

FOOD101 = TorchvisionSet(class_name="Food101", folder="food-101", splits=_TWO)
AIRCRAFT = TorchvisionSet(
    class_name="FGVCAircraft", folder="fgvc-aircraft-2013b", splits=_THREE, options={"annotation_level": "variant"}
)
CARS = TorchvisionSet(class_name="StanfordCars", folder="stanford_cars", splits=_TWO)
DTD = TorchvisionSet(class_name="DTD", folder="dtd/dtd", splits=_THREE, options={"partition": 1})
FLOWERS = TorchvisionSet(class_name="Flowers102", folder="flowers-102", splits=_THREE)
