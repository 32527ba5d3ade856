"""RunOptions: the options of a training run that need no resolving; its Recipe keeps them as they were given.

The docstring of a field is its help text, in ``penultimate settings train`` as well.
"""

from typing import Annotated, Literal

from pydantic import Field

from penultimate.engine.runtime.devices import PrecisionName
from penultimate.engine.runtime.option_types import Positive
from penultimate.engine.runtime.strict import Strict

LossName = Literal["softmax", "sigmoid"]
DecoderName = Literal["dali", "dali-gpu", "pillow"]

Fraction = Annotated[float, Field(ge=0, lt=1)]
OpenFraction = Annotated[float, Field(gt=0, lt=1)]


class RunOptions(Strict):
    """Optimiser, augmentation, regularisation and arithmetic of one run.

    The defaults are those of Kornblith et al. 2019 where it prints them, and of follow-ups that say they follow it.
    """

    momentum: OpenFraction = 0.9
    """Nesterov momentum of SGD."""

    decay_all: bool = False
    """Decay biases and batch-norm parameters too, which timm's optimiser factory leaves out."""

    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Updates over which the learning rate rises linearly from 0, under the cosine; fewer than the steps."""

    crop_ratio: tuple[Positive, Positive] = (3 / 4, 4 / 3)
    """Least and greatest width / height of a random crop."""

    flip: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Probability of a horizontal flip."""

    label_smoothing: Fraction = 0.0
    """Fraction of the target that is spread evenly over all classes (Szegedy et al. 2016)."""

    dropout: Fraction | None = None
    """Probability of dropout before the classifier; by default the network's own."""

    auxiliary_head: bool = False
    """Train the network's auxiliary classifiers too, with the loss weight of their paper."""

    batch_norm_scale: bool = True
    """Let batch norm learn its scale; false fixes the scale at 1."""

    ema_decay: OpenFraction | None = None
    """Decay of a moving average of the weights, which is then evaluated and kept; by default there is none."""

    precision: PrecisionName = "float32"
    """Arithmetic of the network. Below float32 by autocast: weights stay float32, as does the training of depthwise
    convolutions on a CPU. tf32, on GPUs alone, is float32 with coarser products."""

    channels_last: bool = True
    """Keep images and weights in channels-last memory layout."""

    compile: bool = False
    """Compile the training step with torch.compile."""
