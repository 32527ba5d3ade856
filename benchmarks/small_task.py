"""Make a small real task of ten classes of Caltech-101: 25 images each for train, 5 for val, at most 40 for test.

    python benchmarks/small_task.py ../shared/data/caltech101 caltech10

The classes are the first ten in alphabetical order with at least 70 images, the background left out; images are taken
in the order of their names and linked, not copied.
"""

import sys
from pathlib import Path

IMAGES_PER_CLASS = {"train": 25, "val": 5, "test": 40}
"""Number of images of each class, by split."""


def link_task(caltech: Path, folder: Path, *, classes: int = 10) -> list[str]:
    """Write ``folder/<split>/<class>/<image>``; return the names of the classes."""
    enough = sum(IMAGES_PER_CLASS.values())
    found = sorted(path for path in (caltech / "101_ObjectCategories").iterdir() if path.name != "BACKGROUND_Google")
    chosen = [path for path in found if len(list(path.glob("*.jpg"))) >= enough][:classes]
    for path in chosen:
        photos = iter(sorted(path.glob("*.jpg")))
        for split, count in IMAGES_PER_CLASS.items():
            target = folder / split / path.name
            target.mkdir(parents=True, exist_ok=True)
            for _, photo in zip(range(count), photos, strict=False):
                link = target / photo.name
                if not link.exists():
                    link.symlink_to(photo.resolve())
    return [path.name for path in chosen]


if __name__ == "__main__":
    print(*link_task(Path(sys.argv[1]), Path(sys.argv[2])))
