import torch
from torch import Tensor

from penultimate.engine.probe.objective.losses import LOSSES, Targets
from penultimate.engine.probe.objective.rotated_features import RotatedFeatures
from penultimate.engine.probe.objective.torch_design import TorchDesign, TorchLinearLoss

# Shapes: N samples, K classes, M other points of a space, D feature dimensions.


def space_at(dtype: torch.dtype) -> tuple[float, Tensor, Tensor]:
    """Return loss, gradient and Hessian in a space of 300,000 scores, the same numbers in each dtype."""
    generator = torch.Generator().manual_seed(0)
    first_KN = 4 * torch.randn(100, 3000, generator=generator)
    others = [first_KN + 2 * torch.randn(100, 3000, generator=generator) + 1 for _ in range(3)]
    index_N = torch.randint(100, (3000,), generator=generator)
    features_ND = torch.randn(3000, 8, generator=generator)
    design = TorchDesign(RotatedFeatures(features_ND.to(dtype), sample_weight_N=None, dtype=dtype), None)
    linear = TorchLinearLoss(design, LOSSES["softmax"], Targets(index_N, torch.empty(0, 0)))
    return linear.score_space(first_KN.to(dtype), [other_KN.to(dtype) for other_KN in others])([0.3, 0.2, 0.1])


def test_the_space_of_nodes_has_derivatives_as_exact_as_float32_allows() -> None:
    (loss, *derivatives), (wanted_loss, *wanted) = space_at(torch.float32), space_at(torch.float64)
    assert abs(loss - wanted_loss) < 1e-6 * wanted_loss
    for found, exact in zip(derivatives, wanted, strict=True):
        assert float((found - exact).norm() / exact.norm()) < 4e-6  # 2e-5 where all scores had one float32 sum
