"""Draw photographs and write them as JPEG files of the kinds that decoders tell apart."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

KINDS: dict[str, dict[str, Any]] = {
    "baseline 4:2:0": {"subsampling": "4:2:0"},
    "baseline 4:4:4": {"subsampling": "4:4:4"},
    "progressive": {"subsampling": "4:2:0", "progressive": True},
    "grayscale": {"mode": "L"},
    "CMYK": {"mode": "CMYK"},
}
"""Kind of JPEG -> what Pillow is told to write, and the mode of the image."""


def draw_jpeg(seed: int, *, kind: str = "baseline 4:2:0", height: int = 375, width: int = 500) -> bytes:
    """Return a JPEG file of soft shapes with some noise, whose size a photograph's would be."""
    rng = np.random.default_rng(seed)
    soft = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    noisy = np.asarray(soft, np.int16) + rng.integers(-12, 13, (height, width, 1), dtype=np.int16)
    image = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
    options = dict(KINDS[kind])
    file = io.BytesIO()
    image.convert(options.pop("mode", "RGB")).save(file, "jpeg", quality=90, **options)
    return file.getvalue()


def write_photographs(
    folder: Path, *, per_class: int, classes: int = 2, kind: str = "baseline 4:2:0", height: int = 375, width: int = 500
) -> Path:
    """Write ``folder/<class>/<number>.jpg``; few different pictures, each with bytes of its own."""
    drawn = [draw_jpeg(seed, kind=kind, height=height, width=width) for seed in range(min(16, per_class))]
    for label in range(classes):
        (folder / f"class{label}").mkdir(parents=True, exist_ok=True)
        for number in range(per_class):
            content = _with_comment(drawn[number % len(drawn)], f"{label} {number}".encode())
            (folder / f"class{label}" / f"{number:06d}.jpg").write_bytes(content)
    return folder


def _with_comment(jpeg: bytes, comment: bytes) -> bytes:
    """Put a comment behind the first marker (T.81, B.2.4.5): contents that differ are embedded each on its own."""
    return jpeg[:2] + b"\xff\xfe" + (2 + len(comment)).to_bytes(2, "big") + comment + jpeg[2:]
