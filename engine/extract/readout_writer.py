"""ReadoutWriter takes one readout's features of the samples that lack them; a backbone's writers share its passes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from penultimate.engine.backbones.backbone import Backbone
from penultimate.engine.images.contents import Contents
from penultimate.engine.images.decode.decoded_batch import Pixels
from penultimate.store.format.contents import is_known
from penultimate.store.writer.feature_writer import FeatureWriter

# Shapes: N samples, B images of a batch, E of them that are embedded, D feature dimensions.


@dataclass(frozen=True, slots=True)
class Embedded:
    """The features that one pass of a backbone gave."""

    samples_E: NDArray[np.int64]
    features: Mapping[str, NDArray[np.float32]]
    """Features (E, D) by name of readout."""

    @classmethod
    def joined(cls, parts: Sequence["Embedded"]) -> "Embedded":
        """Return the features of several passes of one backbone, one or more, as if one pass had given them."""
        if len(parts) == 1:
            return parts[0]
        features = {name: np.concatenate([part.features[name] for part in parts]) for name in parts[0].features}
        return cls(np.concatenate([part.samples_E for part in parts]), features)


class ReadoutWriter:
    """The writer of one readout of a backbone, and the samples that still lack it."""

    def __init__(self, readout: str, writer: FeatureWriter, contents: Contents) -> None:
        """Offer the writer every missing sample whose content is known without reading it."""
        self.readout = readout
        self.writer = writer
        self._contents = contents
        missing = writer.missing_samples
        self._needed_N = np.zeros(writer.plan.num_samples, np.bool_)
        self._needed_N[missing] = True
        self._unread_N = self._needed_N.copy()
        contents_N3 = contents.known()
        self._offer(missing[is_known(contents_N3[missing])])

    @property
    def needed_N(self) -> NDArray[np.bool_]:
        """Return of every sample of the set whether it is to be embedded here, as far as that is known."""
        return self._needed_N

    @property
    def num_unread(self) -> int:
        """Return the number of samples of which only reading tells whether they are needed."""
        return int(self._unread_N.sum())

    def offer_read(self, samples_B: NDArray[np.int64]) -> None:
        """Offer the writer those of these samples, all read by now, that it was not offered before."""
        self._offer(samples_B[self._unread_N[samples_B]])

    def write(self, embedded: Embedded, failed: Mapping[int, str]) -> None:
        """Write the features of those samples that it needs, and the reasons of those that failed."""
        needed_E = self._needed_N[embedded.samples_E]
        failed = {sample: reason for sample, reason in failed.items() if self._needed_N[sample]}
        features_ED = embedded.features[self.readout]
        needed = embedded.samples_E[needed_E]
        with np.errstate(over="ignore"):  # what float16 cannot hold is counted by the writer, and logged
            kept_ED = features_ED if needed_E.all() else features_ED[needed_E]
            stored_ED = kept_ED.astype(self.writer.plan.embedding.dtype, copy=False)
        self.writer.append(needed, stored_ED, failed)
        self._needed_N[[*needed, *failed]] = False

    def fail(self, failed: Mapping[int, str]) -> None:
        """Write the reasons why some samples could not be read."""
        nothing = np.empty((0, self.writer.plan.feature_dim), np.float32)
        self.write(Embedded(np.empty(0, np.int64), {self.readout: nothing}), failed)

    def _offer(self, samples: NDArray[np.int64]) -> None:
        if len(samples):
            self._unread_N[samples] = False
            self._needed_N[samples] = self.writer.offer(samples, self._contents.at(samples))


@dataclass(frozen=True, slots=True)
class BackboneWriters:
    """A backbone, and the writers of those of its readouts that some samples lack.

    Each may lack other samples. Those that any of them lacks are embedded, in one pass for all.
    """

    backbone: Backbone
    writers: Sequence[ReadoutWriter]

    @property
    def needed_N(self) -> NDArray[np.bool_]:
        """Return of every sample of the set whether any readout needs it, as far as that is known."""
        needed_N: NDArray[np.bool_] = np.logical_or.reduce([each.needed_N for each in self.writers])
        return needed_N

    def needs(self, samples_B: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which of these samples any readout needs, (B,)."""
        needed_B: NDArray[np.bool_] = np.logical_or.reduce([each.needed_N[samples_B] for each in self.writers])
        return needed_B

    def embed(self, samples_B: NDArray[np.int64], view: Pixels) -> Embedded:
        """Return the features of those images of a batch that any readout needs, given all of its pixels."""
        needed_B = self.needs(samples_B)
        pixels = view if needed_B.all() else view[np.flatnonzero(needed_B)]
        return Embedded(samples_B[needed_B], self.backbone.embed(pixels))

    def write(self, embedded: Embedded, failed: Mapping[int, str]) -> None:
        """Give every writer what it needs of the features, and the reasons of the samples that failed."""
        for each in self.writers:
            each.write(embedded, failed)
