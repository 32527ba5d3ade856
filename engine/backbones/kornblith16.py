"""The sixteen networks of Kornblith et al. 2019 by name, with the sizes published of each.

The paper retrained all of them alike (batch-norm scale, no label smoothing, dropout or auxiliary head); its
weights were not released. The default weights here are the nearest published ones, so ImageNet accuracies
differ from the paper's, and for some (MobileNets) so does the recipe.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class PaperNetwork:
    """One network of the paper, as built here."""

    paper_name: str

    model: str
    """``arch.tag`` of the default weights; their ImageNet top-1 is in imagenet_top1.csv."""

    penultimate: str
    """Name of the module whose output, averaged over space, is the feature; the network's last before pooling."""

    feature_dim: int
    """Number D of features."""

    input_size: int
    """Height and width of the input in pixels."""

    parameters: int
    """Published number of parameters with a classifier of 1000 classes, exactly as printed."""

    source: str
    """Publication in which that number is printed."""

    counts_statistics: bool = False
    """True if that number counts batch norm's running mean and variance as parameters, as Keras does."""

    counts_biases: bool = False
    """True if that number counts a bias beside batch norm, as Caffe's convolutions have it; it shifts only the mean of
    the batch norm and is left out here."""

    switches: tuple[str, ...] = ("batch-norm scale", "dropout")
    """Training settings studied by the paper (section 4.1) that this network has."""


_ALL_SWITCHES = ("batch-norm scale", "dropout", "auxiliary head")
_TORCHVISION = "torchvision, num_params of the weights' metadata"
_KERAS = "Keras Applications, parameters"

KORNBLITH16 = (
    PaperNetwork(
        paper_name="Inception v1",
        model="inception_v1.tv_in1k",
        penultimate="inception5b",
        feature_dim=1024,
        input_size=224,
        parameters=6_624_904,
        source=_TORCHVISION,
        switches=_ALL_SWITCHES,
    ),
    PaperNetwork(
        paper_name="BN-Inception",
        model="bn_inception.caffe_in1k",
        penultimate="inception_5b",
        feature_dim=1024,
        input_size=224,
        parameters=11_295_240,
        source="osmr/imgclsmob, bninception of its PyTorch and Chainer models",
        counts_biases=True,
        switches=_ALL_SWITCHES,
    ),
    PaperNetwork(
        paper_name="Inception v3",
        model="inception_v3.tf_in1k",
        penultimate="Mixed_7c",
        feature_dim=2048,
        input_size=299,
        parameters=23_834_568,
        source="torchvision, inception_v3 without its auxiliary head (27,161,264 with it)",
        switches=_ALL_SWITCHES,
    ),
    PaperNetwork(
        paper_name="Inception v4",
        model="inception_v4.tf_in1k",
        penultimate="features",
        feature_dim=1536,
        input_size=299,
        parameters=42_679_816,
        source="osmr/imgclsmob, inceptionv4; Keras Hub, inception_v4_imagenet",
        switches=_ALL_SWITCHES,
    ),
    PaperNetwork(
        paper_name="Inception-ResNet v2",
        model="inception_resnet_v2.tf_in1k",
        penultimate="conv2d_7b",
        feature_dim=1536,
        input_size=299,
        parameters=55_843_464,
        source="osmr/imgclsmob, inceptionresnetv2",
        switches=_ALL_SWITCHES,
    ),
    PaperNetwork(
        paper_name="ResNet-50",
        model="resnet50.tv_in1k",
        penultimate="layer4",
        feature_dim=2048,
        input_size=224,
        parameters=25_557_032,
        source=_TORCHVISION,
    ),
    PaperNetwork(
        paper_name="ResNet-101",
        model="resnet101.tv_in1k",
        penultimate="layer4",
        feature_dim=2048,
        input_size=224,
        parameters=44_549_160,
        source=_TORCHVISION,
    ),
    PaperNetwork(
        paper_name="ResNet-152",
        model="resnet152.tv_in1k",
        penultimate="layer4",
        feature_dim=2048,
        input_size=224,
        parameters=60_192_808,
        source=_TORCHVISION,
    ),
    PaperNetwork(
        paper_name="DenseNet-121",
        model="densenet121.tv_in1k",
        penultimate="features",
        feature_dim=1024,
        input_size=224,
        parameters=7_978_856,
        source=_TORCHVISION,
    ),
    PaperNetwork(
        paper_name="DenseNet-169",
        model="densenet169.tv_in1k",
        penultimate="features",
        feature_dim=1664,
        input_size=224,
        parameters=14_149_480,
        source=_TORCHVISION,
    ),
    PaperNetwork(
        paper_name="DenseNet-201",
        model="densenet201.tv_in1k",
        penultimate="features",
        feature_dim=1920,
        input_size=224,
        parameters=20_013_928,
        source=_TORCHVISION,
    ),
    PaperNetwork(
        paper_name="MobileNet v1",
        model="mobilenetv1_100.ra4_e3600_r224_in1k",
        penultimate="blocks",
        feature_dim=1024,
        input_size=224,
        parameters=4_253_864,
        source=_KERAS,
        counts_statistics=True,
    ),
    PaperNetwork(
        paper_name="MobileNet v2",
        model="mobilenetv2_100.ra_in1k",
        penultimate="bn2",
        feature_dim=1280,
        input_size=224,
        parameters=3_504_872,
        source=_TORCHVISION,
    ),
    PaperNetwork(
        paper_name="MobileNet v2 (1.4)",
        model="mobilenetv2_140.ra_in1k",
        penultimate="bn2",
        feature_dim=1792,
        input_size=224,
        parameters=6_156_712,
        source="Keras Applications, MobileNetV2(alpha=1.4)",
        counts_statistics=True,
    ),
    PaperNetwork(
        paper_name="NASNet-A Mobile",
        model="nasnetamobile.tf_in1k",
        penultimate="act",
        feature_dim=1056,
        input_size=224,
        parameters=5_326_716,
        source=_KERAS,
        counts_statistics=True,
        switches=_ALL_SWITCHES,
    ),
    PaperNetwork(
        paper_name="NASNet-A Large",
        model="nasnetalarge.tf_in1k",
        penultimate="act",
        feature_dim=4032,
        input_size=331,
        parameters=88_949_818,
        source=_KERAS,
        counts_statistics=True,
        switches=_ALL_SWITCHES,
    ),
)
"""The networks in the paper's order."""
