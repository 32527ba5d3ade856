"""Within ``ieee_float32`` products are float32's, and afterwards the process has its own settings again."""

from collections.abc import Iterator

import pytest
import torch

from penultimate.engine.runtime.float32 import ieee_float32


@pytest.fixture
def allowed() -> Iterator[None]:
    """Allow what ``torch.set_float32_matmul_precision("medium")`` does."""
    of_gpu, of_cpu = torch.backends.cuda.matmul, torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = settings()
    of_gpu.fp32_precision, of_cpu.fp32_precision = "tf32", "bf16"
    yield
    of_gpu.fp32_precision, of_cpu.fp32_precision = before


def settings() -> tuple[str, str]:
    return torch.backends.cuda.matmul.fp32_precision, torch.backends.mkldnn.matmul.fp32_precision  # type: ignore[attr-defined]


def test_settings_are_pinned_within_and_restored_after(allowed: None) -> None:
    with ieee_float32():
        assert settings() == ("ieee", "ieee")
    assert settings() == ("tf32", "bf16")
    with pytest.raises(KeyError), ieee_float32():
        raise KeyError
    assert settings() == ("tf32", "bf16")


def test_products_are_float32_s_whatever_is_allowed(allowed: None) -> None:
    """On a CPU with AMX the product is off by 2e-3 where bfloat16 is allowed."""
    matrix = torch.randn(600, 1280, generator=torch.Generator().manual_seed(0))
    wanted = matrix.double() @ matrix.double().T
    with ieee_float32():
        assert float((matrix @ matrix.T - wanted).norm() / wanted.norm()) < 2e-6
