"""Extractor: loaded networks and a decoder, with the settings by which they embed images, and the plans of that."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from penultimate.engine.backbones.backbone import Backbone, Identified
from penultimate.engine.images.decode.decoder import Decoder
from penultimate.engine.images.image_set import ImageSet
from penultimate.engine.runtime.threads import CPU_BATCH_SIZE, ThreadBudget
from penultimate.store.format.contents import is_unknown
from penultimate.store.format.layout import SHARD_ROWS, shard_rows_for, variable_width
from penultimate.store.key import PENULTIMATE, Embedding, FeatureKey
from penultimate.store.plan import Plan


def embedding_of(backbone: Identified, decoder: str, *, dtype: str, readout: str = PENULTIMATE) -> Embedding:
    """Return what determines the features that this backbone and decoder make of an image.

    Batch size, threads and compilation are no part of it: they choose among orders of the same sums, which moves
    features by rounding alone (parity measures it), and a run resumed with other values goes on where it was. The
    values that were used are in the provenance.
    """
    return Embedding(
        backbone=backbone.name,
        weights=backbone.weights_digest,
        preprocess=backbone.preprocess.digest,
        decoder=decoder,
        precision=backbone.precision,
        dtype=dtype,
        readout=readout,
    )


def feature_key(
    images: ImageSet, backbone: Identified, decoder: str, *, dtype: str, readout: str = PENULTIMATE
) -> FeatureKey:
    """Return the key of the features of these images, made by this backbone and decoder.

    Images whose contents are not known yet are read first.
    """
    fields = embedding_of(backbone, decoder, dtype=dtype, readout=readout).fields
    return FeatureKey(dataset=images.name, images=images.digest, **fields)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Extractor:
    """Loaded networks and a decoder, with the settings by which they embed images."""

    backbones: Sequence[Backbone]
    decoder: Decoder

    batch_size: int = CPU_BATCH_SIZE
    """Largest number of images a forward pass, lowered to a divisor of ``shard_rows`` so that a resumed run computes
    the same batches as an uninterrupted one."""

    dtype: str = "float32"
    """Dtype of the stored features, ``float32`` or ``float16``."""

    shard_rows: int | None = None
    """Number of samples in a block, the unit of work and of resumption, and of rows in one object of the store; by
    default chosen by the size of the set."""

    retry_failed: bool = False
    """Try images again that could not be decoded before, though their bytes are the same."""

    threads: ThreadBudget = field(default_factory=lambda: ThreadBudget.of("cpu"))

    notes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Label of a backbone's readout (``Embedding.label``) -> entries added to the provenance of its features."""

    @property
    def outputs(self) -> list[tuple[Backbone, str]]:
        """Return every backbone with each of its readouts: one set of features each, in this order."""
        return [(backbone, readout) for backbone in self.backbones for readout in backbone.feature_dims]

    def plans(self, images: ImageSet) -> list[Plan]:
        """Return what is to be done with ``images``, in the order of ``outputs``; nothing is read."""
        shard_rows = self.shard_rows or shard_rows_for(len(images))
        return [
            _plan(
                images,
                embedding_of(backbone, self.decoder.name, dtype=self.dtype, readout=readout),
                backbone.feature_dims[readout],
                shard_rows,
                self.retry_failed,
            )
            for backbone, readout in self.outputs
        ]

    def known_keys(self, images: ImageSet) -> list[FeatureKey] | None:
        """Return the keys of the sets that will be there, or None while the contents of some images are not known."""
        contents_N3 = images.contents.known()
        if is_unknown(contents_N3).any():
            return None
        return [plan.key(contents_N3) for plan in self.plans(images)]

    def rows_per_batch(self, images: ImageSet) -> int:
        """Return the number of images a forward pass, such that no batch spans two blocks of ``images``."""
        return rows_per_batch(self.batch_size, self.shard_rows or shard_rows_for(len(images)))

    def with_notes(self, notes: Mapping[str, Mapping[str, Any]]) -> "Extractor":
        """Return an Extractor whose notes are these besides its own."""
        labels = {*self.notes, *notes}
        return replace(self, notes={each: {**self.notes.get(each, {}), **notes.get(each, {})} for each in labels})


def rows_per_batch(batch_size: int, shard_rows: int = SHARD_ROWS) -> int:
    """Return the largest divisor of a shard's rows that is not above ``batch_size``: no batch then spans two shards.

    Kernels are chosen by batch size and may round differently, so that a batch cut elsewhere would change last bits.
    """
    return next(rows for rows in range(min(batch_size, shard_rows), 0, -1) if shard_rows % rows == 0)


@lru_cache(maxsize=128)
def _plan(images: ImageSet, embedding: Embedding, feature_dim: int, shard_rows: int, retry_failed: bool) -> Plan:
    """Make the plan of an extraction; it is cached for a cluster's worker that writes one part after the other."""
    return Plan(
        dataset=images.name,
        embedding=embedding,
        ids_M=variable_width(images.ids_N),
        labels_M=images.labels_N,
        split_M=variable_width(images.split_N),
        class_names=tuple(images.class_names),
        metric=images.metric,
        feature_dim=feature_dim,
        shard_rows=shard_rows,
        retry_failed=retry_failed,
    )
