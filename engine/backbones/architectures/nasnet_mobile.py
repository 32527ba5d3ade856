"""NASNet-A Mobile (4 @ 1056) from timm's NASNet cells, as timm itself has NASNet-A Large only.

Zoph et al., "Learning Transferable Architectures for Scalable Image Recognition" (CVPR 2018); stem of 32
filters, 4 cells a stage and no skipped input of the reduction cells, as in TF-Slim's ``mobile_imagenet_config``.
Cells are named as in R. Cadene's conversion of TF-Slim's weights, so that its checkpoint fits.
"""

from typing import Any

from torch import Tensor, nn

from penultimate.engine.backbones.architectures.network import PooledNetwork

# Shapes: B images, H x W pixels.

FILTERS = 44
"""Number of filters of the first normal cells; the last cell gives 24 times as many, 1056."""

STEM_FILTERS = 32
CELLS_A_STAGE = 4


class NASNetAMobile(PooledNetwork):
    """NASNet-A Mobile, whose penultimate layer is the last cell's 1056 channels after ReLU, averaged over space."""

    def __init__(self, *, num_classes: int = 1000, dropout: float = 0.0, pretrained_cfg: dict[str, Any]) -> None:
        from timm.models.nasnet import CellStem0, CellStem1, ReductionCell0, ReductionCell1

        feature_dim = 24 * FILTERS
        super().__init__(
            feature_dim=feature_dim, num_classes=num_classes, dropout=dropout, pretrained_cfg=pretrained_cfg
        )
        self.conv0 = nn.Sequential()
        self.conv0.add_module("conv", nn.Conv2d(3, STEM_FILTERS, 3, stride=2, bias=False))
        self.conv0.add_module("bn", nn.BatchNorm2d(STEM_FILTERS, eps=1e-3))
        self.cell_stem_0 = CellStem0(STEM_FILTERS, num_channels=FILTERS // 4, pad_type="same")
        self.cell_stem_1 = CellStem1(STEM_FILTERS, num_channels=FILTERS // 2, pad_type="same")
        self._add_stage(0, FILTERS, left=FILTERS, right=2 * FILTERS)
        self.reduction_cell_0 = ReductionCell0(**_widths(6 * FILTERS, 6 * FILTERS, 2 * FILTERS))
        self._add_stage(6, 2 * FILTERS, left=6 * FILTERS, right=8 * FILTERS)
        self.reduction_cell_1 = ReductionCell1(**_widths(12 * FILTERS, 12 * FILTERS, 4 * FILTERS))
        self._add_stage(12, 4 * FILTERS, left=12 * FILTERS, right=16 * FILTERS)
        self.act = nn.ReLU()

    def forward_features(self, x: Tensor) -> Tensor:
        """Turn images (B, 3, H, W) into maps (B, 1056, H / 32, W / 32)."""
        stem: Tensor = self.conv0(x)
        previous: Tensor = self.cell_stem_0(stem)
        x = self.cell_stem_1(stem, previous)
        previous, x = self._through_stage(0, previous, x)
        previous, x = x, self.reduction_cell_0(x, previous)
        previous, x = self._through_stage(6, previous, x)
        previous, x = x, self.reduction_cell_1(x, previous)
        _, x = self._through_stage(12, previous, x)
        maps: Tensor = self.act(x)
        return maps

    def _add_stage(self, first: int, filters: int, *, left: int, right: int) -> None:
        """Add a first cell, whose left input is twice as large as its right, and then normal cells."""
        from timm.models.nasnet import FirstCell, NormalCell

        widths = _widths(left, right, filters) | {"out_chs_left": filters // 2}
        self.add_module(f"cell_{first}", FirstCell(**widths))
        left, right = right, 6 * filters
        for index in range(first + 1, first + CELLS_A_STAGE):
            self.add_module(f"cell_{index}", NormalCell(**_widths(left, right, filters)))
            left = right

    def _through_stage(self, first: int, previous: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        for index in range(first, first + CELLS_A_STAGE):
            previous, x = x, self.get_submodule(f"cell_{index}")(x, previous)
        return previous, x


def _widths(left: int, right: int, out: int) -> dict[str, Any]:
    """Return the channels of a cell's two inputs and of its branches, as arguments of timm's cells."""
    return {
        "in_chs_left": left,
        "out_chs_left": out,
        "in_chs_right": right,
        "out_chs_right": out,
        "pad_type": "same",
    }
