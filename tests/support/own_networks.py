"""Small networks of a user's, good and bad, as ``support.own_networks:NAME``."""

import threading
from typing import Any

import torch
from torch import Tensor, nn

from penultimate import Preprocess

HALF: dict[str, Any] = {"size": 32, "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
Made = tuple[nn.Module, Any]


class Convolution(nn.Module):
    """The mean over space of a convolution, of which derived classes make something else."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 8, 5, stride=2)
        self.last = nn.Identity()

    def forward(self, images: Tensor) -> Any:
        return self.made_of(self.last(self.layer(images).relu().mean(dim=(2, 3))))

    def made_of(self, features_BD: Tensor) -> Any:
        return features_BD


def plain() -> Made:
    return Convolution().eval(), HALF


def cropped() -> Made:
    mean, std = HALF["mean"], HALF["std"]
    return Convolution().eval(), Preprocess(height=32, width=48, resize="crop", crop_pct=0.8, mean=mean, std=std)


def two_readouts() -> Made:
    class Two(Convolution):
        def made_of(self, features_BD: Tensor) -> Any:
            return {"penultimate": features_BD, "squares": features_BD**2}

    return Two().eval(), HALF


def in_lower_precision() -> Made:
    """A network whose own code asks for float32 and bfloat16, keeps a tensor that is no buffer, and is in float16."""

    class Lower(Convolution):
        def __init__(self) -> None:
            super().__init__()
            self.scale = torch.linspace(0.5, 1.5, 8)

        def forward(self, images: Tensor) -> Any:
            found = self.layer(images.to(self.layer.weight.dtype)).mean(dim=(2, 3)).to(torch.bfloat16).float()
            return nn.functional.linear(found.softmax(1, dtype=torch.float32), torch.diag(self.scale))

    return Lower().half().eval(), HALF


def batch_norm_in_training() -> Made:
    network = nn.Sequential(nn.Conv2d(3, 8, 5), nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    network[1].train()
    return network, HALF


def batch_statistics() -> Made:
    """Batch norm that remembers nothing: it takes the statistics of the batch in evaluation mode too."""
    norm = nn.BatchNorm2d(8, track_running_stats=False)
    return nn.Sequential(nn.Conv2d(3, 8, 5), norm, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval(), HALF


def centred_over_the_batch() -> Made:
    class Centred(Convolution):
        def made_of(self, features_BD: Tensor) -> Any:
            return features_BD - features_BD.mean(dim=0) + 1

    return Centred().eval(), HALF


def squeezed() -> Made:
    class Squeezed(Convolution):
        def made_of(self, features_BD: Tensor) -> Any:
            return features_BD.squeeze()

    return Squeezed().eval(), HALF


def random() -> Made:
    class Random(Convolution):
        def made_of(self, features_BD: Tensor) -> Any:
            return nn.functional.dropout(features_BD, 0.5, training=True)

    return Random().eval(), HALF


class Hooked(Convolution):
    """A network whose forward returns what a hook kept: two threads at once mix their images."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: Any = None
        self.layer.register_forward_hook(self.keep)

    def keep(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self.kept = output

    def forward(self, images: Tensor) -> Any:
        super().forward(images)
        return self.kept.mean(dim=(2, 3))


def hooked() -> Made:
    return Hooked().eval(), HALF


def hooked_before_the_end() -> Made:
    """What a hook kept is used up before the last layer, and only two threads inside the network at once mix it."""

    class Early(Hooked):
        def __init__(self) -> None:
            super().__init__()
            self.projection = nn.Linear(8, 8)

        def forward(self, images: Tensor) -> Any:
            return self.projection(super().forward(images))

    return Early().eval(), HALF


def hooked_and_locked() -> Made:
    class Locked(Hooked):
        def forward(self, images: Tensor) -> Any:
            with _LOCK:
                return super().forward(images)

    return Locked().eval(), HALF


_LOCK = threading.Lock()


def not_a_number() -> Made:
    class Logarithm(Convolution):
        def made_of(self, features_BD: Tensor) -> Any:
            return (features_BD - 100).log()

    return Logarithm().eval(), HALF


def nothing() -> Made:
    class Zero(Convolution):
        def made_of(self, features_BD: Tensor) -> Any:
            return features_BD * 0

    return Zero().eval(), HALF


def maps() -> Made:
    return nn.Conv2d(3, 8, 5).eval(), HALF


def whole_numbers() -> Made:
    class Whole(Convolution):
        def made_of(self, features_BD: Tensor) -> Any:
            return features_BD.long()

    return Whole().eval(), HALF


def without_penultimate() -> Made:
    class Other(Convolution):
        def made_of(self, features_BD: Tensor) -> Any:
            return {"cls": features_BD}

    return Other().eval(), HALF


def fails() -> Made:
    class Fails(Convolution):
        def made_of(self, features_BD: Tensor) -> Any:
            raise RuntimeError("this layer\nis broken")

    return Fails().eval(), HALF


def cannot_be_made() -> Made:
    raise FileNotFoundError("no file weights.pth")


def module_alone() -> Any:
    return Convolution().eval()


def of_bytes() -> Made:
    return Convolution().eval(), HALF | {"mean": (123.7, 116.3, 103.5), "std": (58.4, 57.1, 57.4)}


def another_field() -> Made:
    return Convolution().eval(), {"input_size": 32, "mean": HALF["mean"], "std": HALF["std"]}


def scaled_twice() -> Made:
    return Convolution().eval(), HALF | {"mean": (0.0, 0.0, 0.0), "std": (255.0, 255.0, 255.0)}


no_function = 3
