"""Numbers printed in Kornblith et al. 2019 that an analysis needs."""

from collections.abc import Mapping
from types import MappingProxyType

TRAIN_SIZES: Mapping[str, int] = MappingProxyType(
    {
        "food101": 75_750,
        "cifar10": 50_000,
        "cifar100": 50_000,
        "birdsnap": 47_386,
        "sun397": 19_850,
        "cars": 8_144,
        "aircraft": 6_667,
        "voc2007": 5_011,
        "dtd": 3_760,
        "pets": 3_680,
        "caltech101": 3_060,
        "flowers": 2_040,
    }
)
"""Training images (train + val) by dataset: Kornblith et al. 2019, table 1. Seven are under 10,000."""
