"""Embedding and FeatureKey: what a row of features depends on, and which rows a set has."""

from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import quote

from penultimate.store.format.digest import digest_of

PENULTIMATE = "penultimate"
"""The readout of format 1: the vector that goes into the classifier. At this value it stays out of digests."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Embedding:
    """Everything besides the pixels of its sample that a row of features depends on.

    Two rows of one Embedding and of equal contents are the same row, whatever set their samples are in.
    """

    backbone: str
    """Name for people, timm's ``arch.tag``; identity is ``weights``."""

    weights: str
    """Digest of the tensors actually loaded, and of what they compute where the code is the user's own."""

    preprocess: str
    """Digest of the Preprocess."""

    decoder: str
    """Name of the decoder: ``dali`` or ``pillow``."""

    precision: str
    """Precision of the forward pass: ``float32``, ``bfloat16`` or ``float16``."""

    dtype: str
    """Dtype of the stored features: ``float32`` or ``float16``."""

    readout: str = PENULTIMATE
    """Which vector of the forward pass is kept."""

    @property
    def label(self) -> str:
        """Return the name for people of what embeds: the backbone, and the readout where it is not ``penultimate``."""
        return label_of(self.backbone, self.readout)

    @property
    def fields(self) -> dict[str, Any]:
        """Return the fields by name; the readout is among them only where it is not ``penultimate``.

        So the digests of keys and trials of format 1, which had no readout, stay what they were.
        """
        return {name: value for name, value in asdict(self).items() if (name, value) != ("readout", PENULTIMATE)}

    @property
    def digest(self) -> str:
        """Return 16 hex digits of what determines a row; the backbone's name does not."""
        return digest_of({name: value for name, value in asdict(self).items() if name != "backbone"})


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureKey(Embedding):
    """Everything that determines the numbers, ids, labels and splits of a set; any change changes the digest."""

    dataset: str
    """Name for people, for example ``caltech101``; identity is ``images``."""

    images: str
    """Digest of the ImageSet: ids, labels, splits, file contents."""

    @property
    def embedding(self) -> Embedding:
        """Return what embedded the samples, without which samples they are."""
        return Embedding(**{name: value for name, value in asdict(self).items() if name not in ("dataset", "images")})

    @property
    def digest(self) -> str:
        """Return 16 hex digits that identify the key."""
        return digest_of(self.fields)

    @property
    def path(self) -> str:
        """Return the group's path inside a store: ``<dataset>/<backbone>/<digest>``, names percent-encoded."""
        return f"{folder_of(self.dataset, self.backbone)}/{self.digest}"


def label_of(backbone: str, readout: str) -> str:
    """Return the name for people of a readout of a backbone.

    >>> label_of("resnet50", "penultimate"), label_of("resnet50", "stage:3")
    ('resnet50', 'resnet50 stage:3')
    """
    return backbone if readout == PENULTIMATE else f"{backbone} {readout}"


def folder_of(dataset: str, backbone: str) -> str:
    """Return the folder, below a store, of all that a backbone made of a dataset: both names percent-encoded."""
    return "/".join((quote(dataset, safe=""), quote(backbone, safe="")))
