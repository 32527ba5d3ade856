"""Networks of your own for penultimate. Save this file as my_networks.py, and in its folder:

    penultimate extract photos/ --store features.zarr --model my_networks:resnet18

Any function will do that takes no argument and returns two things: a torch.nn.Module in evaluation mode, which maps
normalised images (B, 3, H, W) float32 to vectors (B, D), and how these images are made: their size in pixels, mean and
std (of pixels between 0 and 1), or a penultimate.Preprocess where they are resized or cropped in another way.

torch's generator is seeded (--seed) while the function runs. Penultimate knows the network again by its tensors and by
its features of two fixed images: edit what it computes, and images are embedded anew.
"""

from torch import Tensor, nn

from penultimate import Preprocess

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
IMAGENET = {"size": 224, "mean": MEAN, "std": STD}


def resnet18() -> tuple[nn.Module, dict[str, object]]:
    """A network of torchvision whose class scores are left out: what went into them is the feature."""
    from torchvision.models import resnet18

    network = resnet18(weights=None)  # random; torchvision's own are weights="IMAGENET1K_V1"
    network.fc = nn.Identity()
    return network.eval(), IMAGENET


def swin_stages() -> tuple[nn.Module, Preprocess]:
    """A layer in the middle of a network of torchvision, on torchvision's own crop of the image."""
    from torchvision.models import swin_t
    from torchvision.models.feature_extraction import create_feature_extractor

    network = create_feature_extractor(swin_t(weights=None).eval(), {"features.3": "maps"})
    crop = Preprocess(height=224, width=224, resize="crop", crop_pct=224 / 232, mean=MEAN, std=STD)
    return nn.Sequential(network, MeanOfMaps()).eval(), crop


class MeanOfMaps(nn.Module):
    """The mean over all places of a map (B, H, W, D)."""

    def forward(self, found: dict[str, Tensor]) -> Tensor:
        """Return vectors (B, D)."""
        return found["maps"].mean(dim=(1, 2))


def dinov2() -> tuple[nn.Module, dict[str, object]]:
    """A vision model of transformers (pip install transformers): its class token, and the mean of its patches."""
    from transformers import Dinov2Config, Dinov2Model

    # Random weights of a small network; trained ones are Dinov2Model.from_pretrained("facebook/dinov2-small").
    network = Dinov2Model(Dinov2Config(hidden_size=192, num_hidden_layers=4, num_attention_heads=3, image_size=224))
    return ClassAndPatches(network).eval(), IMAGENET


class ClassAndPatches(nn.Module):
    """The class token of a vision transformer of transformers, followed by the mean of its patches."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return vectors (B, D) by name of readout, of which one must be called penultimate."""
        tokens = self.network(pixel_values=images).last_hidden_state
        return {"penultimate": tokens[:, 0], "patch-mean": tokens[:, 1:].mean(dim=1)}
