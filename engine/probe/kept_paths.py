"""KeptPaths: the solutions of whole paths, kept beside trials, at which later probes of the same features begin.

One file, ``paths/<digest>.safetensors``, for what a path depends on besides its strengths and tolerance: the features
and their labels and splits (the key's fields), the splits it was fitted to, the loss, the transformation and the class
weights. A certificate is kept with the digest of the very numbers that it was made from, and counts for those alone;
for any others it is made anew. So a file that is missing, damaged or of other data costs time alone. They may be
removed at any time. Whoever writes last wins; a file is there as a whole.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save
from typing_extensions import override

from penultimate.engine.probe.result import UNKNOWN, Probe, SolveReport
from penultimate.store.format.digest import digest_of
from penultimate.store.format.layout import bytes_checksum
from penultimate.store.objects.objects import Objects

# Shapes: L strengths, K classes, D feature dimensions.

FOLDER = "paths"
"""Folder beside the records of a trial log."""

FORMAT = "penultimate path 2"


@dataclass(frozen=True, kw_only=True, slots=True)
class PathIdentity:
    """What the solutions of a path depend on besides strengths and tolerance."""

    features: Mapping[str, str]
    """Fields of the FeatureKey: the features, and the digest of ids, contents, labels and splits."""

    loss: str
    transform: str
    class_weight: str | None
    splits: Sequence[str] = ("train",)
    """Splits of the rows that it is fitted to."""

    @property
    def content(self) -> dict[str, Any]:
        """Return it JSON-able."""
        return {
            "features": dict(self.features),
            "loss": self.loss,
            "transform": self.transform,
            "class_weight": self.class_weight,
            "splits": list(self.splits),
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
        return replace(self, class_weight=class_weight)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class KeptSolution:
    """A solution with what its certificate was made from."""

    probe: Probe
    """The solution; its report is ``UNKNOWN`` where it was not certified."""

    data: str
    """Digest of the features, labels and weights that it was fitted to (``FeatureReader.digest``)."""

    tol: float
    """Tolerance to which it was fitted."""

    def solves(self, data: str, tol: float) -> bool:
        """Return whether it is certified to be the solution for these data within this tolerance."""
        return self.probe.report.certified and self.data == data and self.tol <= tol

    def without_costs(self) -> "KeptSolution":
        """Return the solution with a report of no cost: another trial paid."""
        report = replace(self.probe.report, steps=0, passes=0.0, curvature_passes=0.0, seconds=0.0)
        return replace(self, probe=replace(self.probe, report=report))


class PathKeeper(Protocol):
    """A place for solutions of paths."""

    def read(self, identity: PathIdentity, shape: tuple[int, int]) -> list[KeptSolution]:
        """Return solutions (K, D) = ``shape`` of this path, else of one that is near; none where there are none."""

    def keep(self, identity: PathIdentity, solutions: Sequence[KeptSolution]) -> None:
        """Keep the solutions of a path."""


class NoPaths(PathKeeper):
    """Keeps nothing."""

    @override
    def read(self, identity: PathIdentity, shape: tuple[int, int]) -> list[KeptSolution]:
        return []

    @override
    def keep(self, identity: PathIdentity, solutions: Sequence[KeptSolution]) -> None:
        pass


NO_PATHS = NoPaths()


class KeptPaths(PathKeeper):
    """The paths beside the records of one trial log, each of at most ``max_bytes``."""

    def __init__(self, objects: Objects, max_bytes: int) -> None:
        self._objects, self._max_bytes = objects, max_bytes

    @override
    def read(self, identity: PathIdentity, shape: tuple[int, int]) -> list[KeptSolution]:
        for each in identity.alike():
            if solutions := _solutions(self._objects.get(each.name), each, shape):
                return solutions
        return []

    @override
    def keep(self, identity: PathIdentity, solutions: Sequence[KeptSolution]) -> None:
        """Write the solutions, with those kept before at other strengths as far as there is room for all.

        Where there is not, these solutions alone, and of them as many as there is room for, evenly spaced.
        """
        classes, dims = solutions[0].probe.weight_KD.shape
        room = self._max_bytes // (4 * classes * (dims + 1))
        if not room:
            return
        new = {each.probe.l2 for each in solutions}
        before = _solutions(self._objects.get(identity.name), identity, (classes, dims))
        kept = [*solutions, *(each for each in before if each.probe.l2 not in new)]
        kept = sorted(kept if len(kept) <= room else solutions, key=lambda each: each.probe.l2, reverse=True)
        if len(kept) > room:
            kept = [kept[round(n)] for n in np.linspace(0, len(kept) - 1, room)]
        self._objects.put(identity.name, _content(identity, kept))


class HeldPaths(PathKeeper):
    """Holds what is to be kept until the trial is logged.

    So a probe that was killed before that begins again where it began, and ends in the same weights to the last bit.
    """

    def __init__(self, paths: KeptPaths) -> None:
        self._paths = paths
        self._held: list[tuple[PathIdentity, Sequence[KeptSolution]]] = []

    @override
    def read(self, identity: PathIdentity, shape: tuple[int, int]) -> list[KeptSolution]:
        return self._paths.read(identity, shape)

    @override
    def keep(self, identity: PathIdentity, solutions: Sequence[KeptSolution]) -> None:
        self._held.append((identity, solutions))

    def write(self) -> None:
        """Keep what was held."""
        for identity, solutions in self._held:
            self._paths.keep(identity, solutions)


def _content(identity: PathIdentity, solutions: Sequence[KeptSolution]) -> bytes:
    """Return solutions as safetensors: ``weight`` (L, K, D) and ``bias`` (L, K) float32, the rest as JSON metadata."""
    probes = [each.probe for each in solutions]
    tensors = {
        "weight": np.stack([probe.weight_KD for probe in probes]),
        "bias": np.stack([probe.bias_K for probe in probes]),
    }
    fits = [
        {"l2": probe.l2, "data": each.data, "tol": each.tol, "report": _report(probe)}
        for each, probe in zip(solutions, probes, strict=True)
    ]
    about = {"identity": identity.content, "fits": fits, "checksum": _checksum(tensors, fits)}
    return save(tensors, metadata={"format": FORMAT, "path": json.dumps(about, sort_keys=True)})


def _report(probe: Probe) -> dict[str, Any] | None:
    """Return the certificate as JSON; None where there is none."""
    return asdict(probe.report) if probe.report.certified else None


def _solutions(content: bytes | None, identity: PathIdentity, shape: tuple[int, int]) -> list[KeptSolution]:
    """Return the solutions in a file; none where it is missing, damaged, or of another path than its name says."""
    if content is None:
        return []
    try:
        tensors = load(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
        about = json.loads(header["path"])
        weight_LKD, bias_LK, fits = tensors["weight"], tensors["bias"], about["fits"]
        as_written = header["format"] == FORMAT and about["checksum"] == _checksum(tensors, fits)
        fitting = weight_LKD.shape == (len(fits), *shape) and bias_LK.shape == (len(fits), shape[0])
        if not as_written or not fitting or about["identity"] != identity.content:
            return []
        usable = np.isfinite(weight_LKD).all((1, 2)) & ~np.isnan(bias_LK).any(1)
        found = zip(weight_LKD, bias_LK, fits, usable.tolist(), strict=True)
        return [_solution(*one) for *one, use in found if use]
    except (SafetensorError, ValueError, KeyError, TypeError):
        return []


def _solution(weight_KD: NDArray[np.float32], bias_K: NDArray[np.float32], fit: Mapping[str, Any]) -> KeptSolution:
    """Return the solution of which ``fit`` is said; raises ValueError, KeyError or TypeError if that makes no sense."""
    l2, report = float(fit["l2"]), UNKNOWN if fit["report"] is None else SolveReport(**fit["report"])
    if not 0 < l2 < math.inf:
        raise ValueError(f"expected an l2 strength > 0, got {l2}")
    probe = Probe(weight_KD=weight_KD, bias_K=bias_K, l2=l2, report=report)
    return KeptSolution(probe=probe, data=str(fit["data"]), tol=float(fit["tol"]))


def _checksum(tensors: Mapping[str, NDArray[Any]], fits: Sequence[Mapping[str, Any]]) -> str:
    """Return the checksum of the arrays and of what is said of each solution."""
    said = json.dumps(fits, sort_keys=True).encode()
    return bytes_checksum(tensors["weight"].tobytes() + tensors["bias"].tobytes() + said)
