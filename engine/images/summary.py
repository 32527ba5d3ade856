"""Sum up in one line how a set of images was read: its classes, the sizes of its splits, and what was left out."""

from penultimate.engine.images.folders.file_kinds import remedy_for
from penultimate.engine.images.image_set import SPLITS, ImageSet

_CLASSES_SHOWN = 5
_KINDS_SHOWN = 6


def summary_of(images: ImageSet) -> str:
    """Return a summary for people, in one line without a full stop.

    An example: ``pets: 2 classes (cat, dog); train 12, val 4, test 4; read as one folder a class; left out: 3 .txt``.
    """
    parts = [f"{images.name}: {_classes(images)}", _sizes(images)]
    if layout := images.provenance.get("layout"):
        parts.append(f"read as {layout}")
    if left_out := images.provenance.get("left_out"):
        most = sorted(left_out.items(), key=lambda item: (-item[1], item[0]))
        others = sum(count for _, count in most[_KINDS_SHOWN:])
        shown = [f"{count:,} {kind}" for kind, count in most[:_KINDS_SHOWN]] + (
            [f"{others:,} others"] if others else []
        )
        parts.append(f"left out: {', '.join(shown)}{remedy_for(left_out)}")
    return "; ".join(parts)


def _classes(images: ImageSet) -> str:
    names = list(images.class_names)
    if not names:
        return f"{len(images):,} images without labels"
    more = ", ..." if len(names) > _CLASSES_SHOWN else ""
    return f"{len(names):,} class{'es' * (len(names) != 1)} ({', '.join(names[:_CLASSES_SHOWN])}{more})"


def _sizes(images: ImageSet) -> str:
    sizes = []
    for split in SPLITS:
        in_split_N = images.split_N == split
        if count := int(in_split_N.sum()):
            bare = (
                int((images.labels_N[in_split_N] < 0).sum()) if images.labels_N.ndim == 1 and images.class_names else 0
            )
            note = "" if not bare else " (no labels)" if bare == count else f" ({bare:,} without labels)"
            sizes.append(f"{split} {count:,}{note}")
    return ", ".join(sizes)
