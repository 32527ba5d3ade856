"""Recipe: everything the result of one training run depends on, as one frozen value with a digest."""

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from penultimate.engine.images.preprocess import Preprocess
from penultimate.engine.runtime.option_types import Count, Positive
from penultimate.engine.runtime.strict import Seed
from penultimate.engine.train.options import LossName, RunOptions
from penultimate.store.errors import InputError
from penultimate.store.format.digest import digest_of


class Recipe(RunOptions):
    """One run, every option resolved. Names and values of its fields make its digest: neither may change.

    Building one from values that are not allowed raises pydantic's ValidationError, a ValueError; ``replace`` and
    ``from_dict`` raise InputError, one line.
    """

    network: str
    """Architecture, as ``create_network`` takes it."""

    weights: str
    """Digest of the initial tensors without the classifier; ``random`` for those drawn from ``seed``."""

    images: str
    """Digest of the ImageSet."""

    splits: tuple[str, ...] = ("train",)
    """Splits trained on: ``("train",)`` while settings are chosen, then ``("train", "val")``."""

    shots: Count | None = None
    """Images a class, drawn from ``seed``; None trains on all."""

    steps: Count = 20_000
    """Parameter updates; the cosine ends here."""

    batch_size: Count = 256
    """Images an update, over all devices together."""

    learning_rate: Positive = 0.01
    """Learning rate at the top of the cosine, for the whole batch."""

    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """The paper's lambda: the fraction that one update at the full learning rate takes off a weight. The optimiser is
    given lambda / learning_rate, the coefficient of 1/2 ||w||^2 beside the mean loss."""

    preprocess: Preprocess
    """Preprocess of evaluation; training takes its size, interpolation, mean and std."""

    crop_scale: tuple[Positive, Annotated[float, Field(gt=0, le=1)]] = (0.08, 1.0)
    """Least and greatest fraction of the image's area that a random crop covers (Szegedy et al. 2015; torchvision)."""

    augmenter: str = "dali"
    """Library that makes training images: ``dali`` (on the device that trains) or ``pillow``."""

    decoder: str = "dali"
    """Library that makes evaluation images."""

    loss: LossName = "softmax"
    """``softmax`` cross-entropy, or one ``sigmoid`` for each class, summed over classes; means over the batch."""

    eval_every: Count
    """Updates between evaluations; the last update is always followed by one."""

    seed: Seed = 0
    """Seed of the new classifier, the order, the crops, the flips, dropout, and the subset of ``shots``."""

    @model_validator(mode="after")
    def _ranges_are_in_order(self) -> Self:
        if self.warmup_steps >= self.steps:
            raise InputError(f"warmup_steps must be in [0, {self.steps}), got {self.warmup_steps}")
        for name in ("crop_scale", "crop_ratio"):
            low, high = getattr(self, name)
            if low > high:
                raise InputError(f"{name} must be a range, the lower end first, got {[low, high]}")
        return self

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON holds them; ``from_dict`` gives an equal Recipe."""
        values = self.model_dump(mode="json")
        if not self.preprocess.exif_orientation:  # as in Preprocess.as_dict: digests were stored before it came
            del values["preprocess"]["exif_orientation"]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build the Recipe that ``as_dict`` described. Raises InputError if a field is missing or unknown."""
        return cls.of(values, origin="this is no recipe of this version of penultimate")

    @property
    def digest(self) -> str:
        """Return 16 hex digits, which name the folder of the run."""
        return digest_of(self.as_dict())

    def differences(self, other: "Recipe") -> dict[str, tuple[Any, Any]]:
        """Return the fields in which the two differ, with the value of each."""
        pairs = {name: (getattr(self, name), getattr(other, name)) for name in type(self).model_fields}
        return {name: (mine, theirs) for name, (mine, theirs) in pairs.items() if mine != theirs}

    def evaluates_after(self, step: int) -> bool:
        """Return True if an evaluation follows after ``step`` updates."""
        return step == self.steps or step % self.eval_every == 0
