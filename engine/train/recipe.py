"""Recipe: everything the outcome of one training run depends on, as one frozen value with a digest."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Self

from penultimate.engine.images.preprocess import Preprocess
from penultimate.store.errors import InputError
from penultimate.store.format.digest import digest_of

LossName = Literal["softmax", "sigmoid"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """One run. Defaults are Kornblith et al. 2019 where it prints them, and follow-ups that say they follow it.

    The defaults that no text of theirs prints are ours and can be changed: crop range, warm-up (none), which
    parameters are decayed.
    """

    network: str
    """Architecture, as ``create_network`` takes it."""

    weights: str
    """Digest of the tensors it starts from, classifier left out; ``random`` for those drawn from ``seed``."""

    images: str
    """Digest of the ImageSet."""

    splits: tuple[str, ...] = ("train",)
    """Trained on: ``("train",)`` while choosing settings, then ``("train", "val")``."""

    shots: int | None = None
    """Images a class, drawn from ``seed``; None trains on all."""

    steps: int = 20_000
    """Parameter updates; the cosine ends here."""

    batch_size: int = 256
    """Images an update, over all devices together."""

    learning_rate: float = 0.01
    """At the top of the cosine, for the whole batch; > 0."""

    weight_decay: float = 0.0
    """The paper's lambda, >= 0: what one update at the full learning rate takes off a weight, as a share of it. The
    optimiser is given lambda / learning_rate, the coefficient of 1/2 ||w||^2 beside the mean loss."""

    decay_all: bool = False
    """Whether biases and batch-norm parameters are decayed too; timm's optimiser factory leaves them out."""

    momentum: float = 0.9
    """Nesterov's."""

    warmup_steps: int = 0
    """Updates over which the learning rate rises from 0 along a line; the cosine goes on beneath them."""

    preprocess: Preprocess
    """How evaluation makes the input; training takes its size, interpolation, mean and std."""

    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Range of the share of the image's area that a random crop covers (Szegedy et al. 2015; torchvision's default)."""

    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Range of a random crop's width / height."""

    flip: float = 0.5
    """Probability of a horizontal flip."""

    augmenter: str = "dali"
    """What makes training images: ``dali`` (on the device that trains) or ``pillow``."""

    decoder: str = "dali"
    """What makes evaluation images."""

    loss: LossName = "softmax"
    """``softmax`` cross-entropy, or a ``sigmoid`` a class (one-vs-rest) summed over classes; means over the batch."""

    label_smoothing: float = 0.0
    """Share of the target spread evenly over all classes (Szegedy et al. 2016), in [0, 1)."""

    dropout: float | None = None
    """Probability before the classifier; None is the network's own."""

    auxiliary_head: bool = False
    """Whether the network's auxiliary classifiers (``auxiliary.HEADS``) are trained along, with their loss weight."""

    batch_norm_scale: bool = True
    """Whether batch norm learns its scale; False fixes it at 1."""

    precision: str = "float32"
    """What the network computes in; below float32 by autocast, weights stay float32, and on a CPU so does the training
    of depthwise convolutions (``depthwise``)."""

    channels_last: bool = True
    compile: bool = False
    """Whether torch.compile makes the training step."""

    ema_decay: float | None = None
    """Of an exponential moving average of the weights, which is then what is evaluated; None keeps none."""

    eval_every: int
    """Updates between evaluations; the last update is always followed by one."""

    seed: int = 0
    """Of the new classifier, the order, the crops, the flips, dropout, and the subset of ``shots``."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "eval_every"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        _require(self.shots is None or self.shots >= 1, "shots", self.shots, "at least 1")
        _require(self.learning_rate > 0, "learning_rate", self.learning_rate, "> 0")
        _require(self.weight_decay >= 0, "weight_decay", self.weight_decay, ">= 0")
        _require(0 < self.momentum < 1, "momentum", self.momentum, "in (0, 1)")
        _require(0 <= self.warmup_steps < self.steps, "warmup_steps", self.warmup_steps, f"in [0, {self.steps})")
        _require(0 < self.crop_scale[0] <= self.crop_scale[1] <= 1, "crop_scale", self.crop_scale, "a range in (0, 1]")
        _require(0 < self.crop_ratio[0] <= self.crop_ratio[1], "crop_ratio", self.crop_ratio, "a range above 0")
        _require(0 <= self.flip <= 1, "flip", self.flip, "in [0, 1]")
        _require(self.loss in ("softmax", "sigmoid"), "loss", self.loss, "softmax or sigmoid")
        _require(0 <= self.label_smoothing < 1, "label_smoothing", self.label_smoothing, "in [0, 1)")
        _require(self.dropout is None or 0 <= self.dropout < 1, "dropout", self.dropout, "in [0, 1)")
        _require(self.ema_decay is None or 0 < self.ema_decay < 1, "ema_decay", self.ema_decay, "in (0, 1)")
        _require(self.seed >= 0, "seed", self.seed, ">= 0")

    def as_dict(self) -> dict[str, Any]:
        """JSON-able; ``from_dict`` gives an equal Recipe."""
        values: dict[str, Any] = _with_lists(asdict(self) | {"preprocess": self.preprocess.as_dict()})
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """What ``as_dict`` gave. Raises InputError if a field is missing or unknown."""
        given: dict[str, Any] = _with_tuples(dict(values))
        try:
            return cls(preprocess=Preprocess(**given.pop("preprocess")), **given)
        except (TypeError, KeyError) as error:
            raise InputError(f"this is no recipe of this version of penultimate: {error!r}") from error

    @property
    def digest(self) -> str:
        """16 hex digits; names the folder of the run."""
        return digest_of(self.as_dict())

    def differences(self, other: "Recipe") -> dict[str, tuple[Any, Any]]:
        """Fields in which the two differ, with the value of each."""
        pairs = {f.name: (getattr(self, f.name), getattr(other, f.name)) for f in fields(self)}
        return {name: (mine, theirs) for name, (mine, theirs) in pairs.items() if mine != theirs}

    def evaluates_after(self, step: int) -> bool:
        """Whether ``step`` updates are followed by an evaluation."""
        return step == self.steps or step % self.eval_every == 0


def _require(holds: bool, name: str, value: object, expected: str) -> None:
    if not holds:  # NaN compares false, so it is refused too
        raise InputError(f"{name} must be {expected}, got {value!r}")


def _with_lists(value: Any) -> Any:
    """JSON has no tuples."""
    if isinstance(value, dict):
        return {name: _with_lists(part) for name, part in value.items()}
    return [_with_lists(part) for part in value] if isinstance(value, tuple) else value


def _with_tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _with_tuples(part) for name, part in value.items()}
    return tuple(_with_tuples(part) for part in value) if isinstance(value, list) else value
