"""Draw the images of this folder, and the manifest that gives some of them two labels, as README.md describes."""

import csv
from pathlib import Path

import numpy as np
from PIL import Image


def draw_images() -> None:
    """Write ``images/<class>/<number>.jpg`` and one file that is no image."""
    rng = np.random.default_rng(0)
    for channel, name in enumerate(("cat", "dog", "owl")):
        folder = Path("images") / name
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(8):
            pixels = rng.normal(90, 12, (20, 20, 3))
            pixels[..., channel] += 90
            image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).quantize(64).convert("RGB")
            image.save(folder / f"{number:02d}.jpg", quality=85)
    (Path("images") / "owl" / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no image")


def write_manifest() -> None:
    """Write ``animals.csv``: path, one or two labels, split."""
    splits = ("train", "train", "train", "val", "test")
    with Path("animals.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["path", "label", "split"])
        for index, path in enumerate(sorted(Path("images").rglob("*.jpg"))):
            labels = [path.parent.name] + (["night"] if index % 3 == 0 else [])
            writer.writerow([path.as_posix(), "|".join(labels), splits[index % 5]])


if __name__ == "__main__":
    draw_images()
    write_manifest()
