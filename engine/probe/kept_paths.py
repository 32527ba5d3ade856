"""KeptPaths: the solutions of whole paths, kept beside trials, at which later probes of the same features begin.

One file, ``paths/<digest>.safetensors``, for what a path depends on besides its strengths and tolerance: the features
and their labels and splits (the key's fields), the loss, the transformation and the class weights. Nothing depends on
these files: a probe that begins at one makes every certificate anew from the data, and one that is missing, damaged or
of other data costs time alone. They may be removed at any time. Whoever writes last wins; a file is there as a whole.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save
from typing_extensions import override

from penultimate.engine.probe.result import UNKNOWN, Probe
from penultimate.store.format.digest import digest_of
from penultimate.store.format.layout import bytes_checksum
from penultimate.store.objects.objects import Objects

# Shapes: L strengths, K classes, D feature dimensions.

FOLDER = "paths"
"""Folder beside the records of a trial log."""

FORMAT = "penultimate path 1"


@dataclass(frozen=True, kw_only=True, slots=True)
class PathIdentity:
    """What the solutions of a path depend on besides strengths and tolerance."""

    features: Mapping[str, str]
    """Fields of the FeatureKey: the features, and the digest of ids, contents, labels and splits."""

    loss: str
    transform: str
    class_weight: str | None

    @property
    def content(self) -> dict[str, Any]:
        """Return it JSON-able."""
        return {
            "features": dict(self.features),
            "loss": self.loss,
            "transform": self.transform,
            "class_weight": self.class_weight,
        }

    @property
    def name(self) -> str:
        """Return the name of its file."""
        return f"{FOLDER}/{digest_of(self.content)}.safetensors"

    def alike(self) -> list["PathIdentity"]:
        """Return this one and those whose solutions are near, nearest first: of the other class weights."""
        others = [None, "balanced"]
        others.remove(self.class_weight)
        return [self, *(self.weighted(each) for each in others)]

    def weighted(self, class_weight: str | None) -> "PathIdentity":
        """Return the identity with other class weights."""
        return PathIdentity(features=self.features, loss=self.loss, transform=self.transform, class_weight=class_weight)


class PathKeeper(Protocol):
    """A place for solutions of paths."""

    def read(self, identity: PathIdentity, shape: tuple[int, int]) -> list[Probe]:
        """Return solutions (K, D) = ``shape`` of this path, else of one that is near; none where there are none."""

    def keep(self, identity: PathIdentity, probes: Sequence[Probe]) -> None:
        """Keep the solutions of a path."""


class NoPaths(PathKeeper):
    """Keeps nothing."""

    @override
    def read(self, identity: PathIdentity, shape: tuple[int, int]) -> list[Probe]:
        return []

    @override
    def keep(self, identity: PathIdentity, probes: Sequence[Probe]) -> None:
        pass


NO_PATHS = NoPaths()


class KeptPaths(PathKeeper):
    """The paths beside the records of one trial log, each of at most ``max_bytes``."""

    def __init__(self, objects: Objects, max_bytes: int) -> None:
        self._objects, self._max_bytes = objects, max_bytes

    @override
    def read(self, identity: PathIdentity, shape: tuple[int, int]) -> list[Probe]:
        for each in identity.alike():
            if probes := _probes(self._objects.get(each.name), each, shape):
                return probes
        return []

    @override
    def keep(self, identity: PathIdentity, probes: Sequence[Probe]) -> None:
        """Write the solutions, with those kept before at other strengths as far as there is room for all.

        Where there is not, these solutions alone, and of them as many as there is room for, evenly spaced.
        """
        shape = probes[0].weight_KD.shape
        room = self._max_bytes // (4 * shape[0] * (shape[1] + 1))
        if not room:
            return
        new = {probe.l2 for probe in probes}
        before = _probes(self._objects.get(identity.name), identity, (shape[0], shape[1]))
        kept = [*probes, *(probe for probe in before if probe.l2 not in new)]
        kept = sorted(kept if len(kept) <= room else probes, key=lambda probe: probe.l2, reverse=True)
        if len(kept) > room:
            kept = [kept[round(n)] for n in np.linspace(0, len(kept) - 1, room)]
        self._objects.put(identity.name, _content(identity, kept))


class HeldPaths(PathKeeper):
    """Holds what is to be kept until the trial is logged.

    So a probe that was killed before that begins again where it began, and ends in the same weights to the last bit.
    """

    def __init__(self, paths: KeptPaths) -> None:
        self._paths = paths
        self._held: list[tuple[PathIdentity, Sequence[Probe]]] = []

    @override
    def read(self, identity: PathIdentity, shape: tuple[int, int]) -> list[Probe]:
        return self._paths.read(identity, shape)

    @override
    def keep(self, identity: PathIdentity, probes: Sequence[Probe]) -> None:
        self._held.append((identity, probes))

    def write(self) -> None:
        """Keep what was held."""
        for identity, probes in self._held:
            self._paths.keep(identity, probes)


def _content(identity: PathIdentity, probes: Sequence[Probe]) -> bytes:
    """Return solutions as safetensors: ``weight`` (L, K, D) and ``bias`` (L, K) float32, the rest as JSON metadata."""
    tensors = {
        "weight": np.stack([probe.weight_KD for probe in probes]),
        "bias": np.stack([probe.bias_K for probe in probes]),
    }
    l2 = [probe.l2 for probe in probes]
    about = {"identity": identity.content, "l2": l2, "checksum": _checksum(tensors, l2)}
    return save(tensors, metadata={"format": FORMAT, "path": json.dumps(about, sort_keys=True)})


def _probes(content: bytes | None, identity: PathIdentity, shape: tuple[int, int]) -> list[Probe]:
    """Return the solutions in a file; none where it is missing, damaged, or of another path than its name says."""
    if content is None:
        return []
    try:
        tensors = load(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
        about = json.loads(header["path"])
        weight_LKD, bias_LK, l2 = tensors["weight"], tensors["bias"], tuple(map(float, about["l2"]))
        as_written = header["format"] == FORMAT and about["checksum"] == _checksum(tensors, l2)
        ours = about["identity"] == identity.content
    except (SafetensorError, ValueError, KeyError, TypeError):
        return []
    if not as_written or not ours or weight_LKD.shape != (len(l2), *shape) or bias_LK.shape != (len(l2), shape[0]):
        return []
    usable = np.isfinite(weight_LKD).all((1, 2)) & ~np.isnan(bias_LK).any(1)
    return [
        Probe(weight_KD=weight_KD, bias_K=bias_K, l2=value, report=UNKNOWN)
        for weight_KD, bias_K, value, use in zip(weight_LKD, bias_LK, l2, usable.tolist(), strict=True)
        if use and 0 < value < math.inf
    ]


def _checksum(tensors: Mapping[str, NDArray[Any]], l2: Sequence[float]) -> str:
    arrays = [tensors["weight"], tensors["bias"], np.array(l2)]
    return bytes_checksum(b"".join(array.tobytes() for array in arrays))
