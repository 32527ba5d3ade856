"""FeatureTransform: what is done to features before a linear probe sees them, fitted on the rows of train."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray

from penultimate.store.errors import InputError

# Shapes: N samples, B of them, D feature dimensions.

CONSTANT = 1e-7
"""Standard deviation, relative to the mean, up to which a feature counts as constant: float32 tells no more."""


TransformName = Literal["none", "l2", "standardize"]

TRANSFORMS: tuple[TransformName, ...] = get_args(TransformName)
"""Names of all transformations."""

LEARNT = ("mean", "scale")
"""Names of the arrays that a transformation may have learnt."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FeatureTransform:
    """A transformation of features by name, with what it learnt from train.

    ``none`` leaves features as the network gave them, as the paper does. ``l2`` divides every sample by its Euclidean
    norm; a sample of zeros stays as it is. ``standardize`` subtracts each feature's mean over train and divides by its
    standard deviation; one that is constant on train is divided by 1.
    """

    name: str = "none"

    mean_D: NDArray[np.float32] | None = None
    """Means over train; None except for ``standardize``."""

    scale_D: NDArray[np.float32] | None = None
    """Standard deviations over train, > 0; None except for ``standardize``."""

    def __post_init__(self) -> None:
        learns, learnt = self.name == "standardize", self.mean_D is not None and self.scale_D is not None
        if self.name not in TRANSFORMS or learns != learnt:
            raise InputError(
                f"expected a transformation of {', '.join(TRANSFORMS)}, the last with mean and scale, got "
                f"{self.name!r} with {', '.join(self.arrays) or 'neither'}"
            )

    @classmethod
    def of(cls, name: str, arrays: Mapping[str, NDArray[np.float32]]) -> Self:
        """Return the transformation of this name with the ``arrays`` that it had learnt."""
        return cls(name=name, mean_D=arrays.get("mean"), scale_D=arrays.get("scale"))

    @property
    def arrays(self) -> dict[str, NDArray[np.float32]]:
        """Return what it learnt by name, each (D,) float32; empty but for ``standardize``."""
        learnt = {"mean": self.mean_D, "scale": self.scale_D}
        return {name: array for name, array in learnt.items() if array is not None}

    @classmethod
    def fitted(cls, name: str, batches: Callable[[], Iterable[NDArray[Any]]]) -> Self:
        """Return the transformation of this name, fitted on ``batches()`` (B, D), which are read only if it learns."""
        if name != "standardize":
            return cls(name=name)
        origin_D, total_D, square_D, count = None, np.zeros(()), np.zeros(()), 0
        for batch_BD in batches():
            values_BD = batch_BD.astype(np.float64)
            origin_D = values_BD.mean(0) if origin_D is None else origin_D  # sums about it do not cancel
            values_BD -= origin_D
            total_D, square_D = total_D + values_BD.sum(0), square_D + np.square(values_BD).sum(0)
            count += len(batch_BD)
        assert origin_D is not None, "train has rows"
        shift_D = total_D / count
        mean_D = origin_D + shift_D
        deviation_D = np.sqrt(np.maximum(square_D / count - shift_D**2, 0))
        scale_D = np.where(deviation_D > CONSTANT * np.abs(mean_D), deviation_D, 1.0)
        return cls(name=name, mean_D=mean_D.astype(np.float32), scale_D=scale_D.astype(np.float32))

    def apply(self, features_BD: NDArray[Any]) -> NDArray[Any]:
        """Return the features transformed, (B, D) float32; those of ``none`` as they are."""
        if self.name == "none":
            return features_BD
        values_BD: NDArray[np.float32] = features_BD.astype(np.float32)
        if self.name == "l2":
            norm_B1 = np.linalg.norm(values_BD, axis=1, keepdims=True)
            values_BD /= np.where(norm_B1 > 0, norm_B1, 1)
            return values_BD
        assert self.mean_D is not None
        assert self.scale_D is not None
        values_BD -= self.mean_D
        values_BD /= self.scale_D
        return values_BD


AS_STORED = FeatureTransform()
"""The transformation that leaves features as they are."""
