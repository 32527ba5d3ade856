"""Head: a fitted probe with its class names and the features it belongs to, as one safetensors file."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from penultimate.engine.probe.objective.losses import LOSSES
from penultimate.engine.probe.result import Probe
from penultimate.engine.probe.transform import AS_STORED, LEARNT, FeatureTransform
from penultimate.engine.runtime.whole_file import write_whole
from penultimate.engine.scoring.outputs import probabilities
from penultimate.store.errors import InputError
from penultimate.store.key import FeatureKey

# Shapes: N samples, D feature dimensions, K classes.

FORMAT = "penultimate head 2"
"""Format of a head without a transformation: that of before, without a temperature, and a temperature."""

TRANSFORMING = "penultimate head 3"
"""Format of a head whose features are transformed first, which older versions must not read as if they were not."""

FORMATS = ("penultimate head 1", FORMAT, TRANSFORMING)
"""Formats that are read; a head of the first has the temperature 1."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Head:
    """A linear classifier of the features of one key."""

    weight_KD: NDArray[np.float32]
    bias_K: NDArray[np.float32]
    class_names: tuple[str, ...]
    loss: str
    l2: float
    features: Mapping[str, str]
    """Fields of the FeatureKey: the head scores only features of the same weights, preprocess and precision."""

    temperature: float = 1.0
    """Number by which scores are divided before they become probabilities, > 0: fitted on val, so that these are
    calibrated (``engine.scoring.temperature``)."""

    transform: FeatureTransform = AS_STORED
    """What is done to features, as stored, before they are scored."""

    def __post_init__(self) -> None:
        classes = len(self.class_names)
        if self.weight_KD.ndim != 2 or self.weight_KD.shape[0] != classes or self.bias_K.shape != (classes,):
            raise InputError(
                f"expected weights ({classes}, D) and {classes} biases for {classes} class names, "
                f"got {self.weight_KD.shape} and {self.bias_K.shape}"
            )
        if self.loss not in LOSSES:
            raise InputError(f"expected a loss of {', '.join(LOSSES)}, got {self.loss!r}")
        if not 0 < self.temperature < np.inf:
            raise InputError(f"expected a temperature > 0, got {self.temperature!r}")

    @classmethod
    def of(
        cls,
        probe: Probe,
        key: FeatureKey,
        *,
        class_names: tuple[str, ...],
        loss: str,
        temperature: float = 1.0,
        transform: FeatureTransform = AS_STORED,
    ) -> Self:
        """Make the head of a probe that was fitted to transformed features."""
        return cls(
            weight_KD=probe.weight_KD,
            bias_K=probe.bias_K,
            class_names=class_names,
            loss=loss,
            l2=probe.l2,
            features=key.fields,
            temperature=temperature,
            transform=transform,
        )

    def scores(self, features_ND: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """Return decision values (N, K) of features as a network gives them."""
        if features_ND.ndim != 2 or features_ND.shape[1] != self.weight_KD.shape[1]:
            raise InputError(
                f"this head scores features (N, {self.weight_KD.shape[1]}) of {self.features['backbone']}, "
                f"got shape {features_ND.shape}"
            )
        transformed_ND = np.asarray(self.transform.apply(features_ND), np.float32)
        scores_NK: NDArray[np.float32] = transformed_ND @ self.weight_KD.T + self.bias_K
        return scores_NK

    def predict(self, features_ND: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
        """Return the index (N,) of the highest score; its name is ``class_names[index]``."""
        index_N: NDArray[np.int64] = self.scores(features_ND).argmax(1)
        return index_N

    def probabilities(self, features_ND: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Return calibrated probabilities (N, K): softmax of the scores over ``temperature``, or a sigmoid a class.

        Raises ``InputError`` for a squared hinge, which has none.
        """
        return self.probabilities_of(self.scores(features_ND))

    def probabilities_of(self, scores_NK: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the probabilities that scores by this head stand for, as ``probabilities`` does."""
        return probabilities(scores_NK.astype(np.float64), self.loss, temperature=self.temperature)

    def save(self, path: str | Path) -> None:
        """Write ``content`` to a file, as a whole. Raises OSError."""
        write_whole(Path(path), self.content())

    def content(self) -> bytes:
        """Return the head as safetensors: ``weight`` (K, D) and ``bias`` (K,) float32, the rest as JSON metadata.

        ``mean`` and ``scale`` (D,) are there where features are standardized first.
        """
        about = {
            "class_names": list(self.class_names),
            "loss": self.loss,
            "l2": self.l2,
            "temperature": self.temperature,
            "features": dict(self.features),
        }
        tensors = {"weight": np.ascontiguousarray(self.weight_KD), "bias": np.ascontiguousarray(self.bias_K)}
        version = FORMAT
        if self.transform.name != "none":
            version, about["transform"] = TRANSFORMING, self.transform.name
            tensors |= self.transform.arrays
        return save(tensors, metadata={"format": version, "head": json.dumps(about, sort_keys=True)})

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a file that ``save`` wrote; raises ``InputError`` for any other."""
        if Path(path).is_dir():
            raise InputError(f"{path} is a folder, a head is a file{_heads_in(Path(path))}")
        try:
            with safe_open(path, "numpy") as file:
                metadata = file.metadata() or {}
                if metadata.get("format") not in FORMATS:
                    raise InputError(f"{path} is no head of this package (format {metadata.get('format')!r})")
                weight_KD, bias_K = file.get_tensor("weight"), file.get_tensor("bias")
                learnt = {name: file.get_tensor(name) for name in LEARNT if name in file.keys()}  # noqa: SIM118  # no dict
        except FileNotFoundError as error:
            raise InputError(f"no head at {path}") from error
        except SafetensorError as error:
            raise InputError(f"{path} is not a safetensors file with weight and bias: {error}") from error
        about = json.loads(metadata["head"])
        about["class_names"] = tuple(about["class_names"])
        about["transform"] = FeatureTransform.of(about.get("transform", "none"), learnt)
        return cls(weight_KD=weight_KD, bias_K=bias_K, **about)


def _heads_in(folder: Path) -> str:
    """Return what to give instead of a folder: heads in it, or in the ``heads`` of a trial log."""
    found = sorted([*folder.glob("*.safetensors"), *folder.glob("heads/*.safetensors")])
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    return (
        f": {', '.join(map(str, found[:3]))}{more}"
        if found
        else "; `penultimate probe` writes TRIALS/heads/*.safetensors"
    )
