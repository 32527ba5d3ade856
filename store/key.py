"""FeatureKey: everything stored features depend on, and the digest that names their group."""

from dataclasses import asdict, dataclass
from urllib.parse import quote

from penultimate.store.format.digest import digest_of


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureKey:
    """Everything that determines the numbers in one group; changing any field changes the digest."""

    dataset: str
    """Name for people, for example ``caltech101``; identity is ``images``."""

    images: str
    """Digest of the ImageSet: ids, labels, splits, file contents."""

    backbone: str
    """Name for people, timm's ``arch.tag``; identity is ``weights``."""

    weights: str
    """Digest of the tensors actually loaded."""

    preprocess: str
    """Digest of the Preprocess."""

    decoder: str
    """Name of the decoder: ``dali`` or ``pillow``."""

    precision: str
    """Precision of the forward pass: ``float32``, ``bfloat16`` or ``float16``."""

    dtype: str
    """Dtype of the stored features: ``float32`` or ``float16``."""

    @property
    def digest(self) -> str:
        """Return 16 hex digits that identify the key."""
        return digest_of(asdict(self))

    @property
    def path(self) -> str:
        """Return the group's path inside a store: ``<dataset>/<backbone>/<digest>``, names percent-encoded."""
        return "/".join((quote(self.dataset, safe=""), quote(self.backbone, safe=""), self.digest))
