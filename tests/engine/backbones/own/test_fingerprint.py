"""A network is known again on every machine, and an edit of what it computes gives it another identity."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from penultimate.engine.backbones.loading.weights import load_network
from penultimate.engine.backbones.own.checks import checked_features
from penultimate.engine.backbones.own.exact import exact_pass, weights_in_float64
from penultimate.engine.backbones.own.fingerprint import DECIMALS, digest_of_fingerprint, fingerprint_of
from penultimate.engine.backbones.own.fixed_images import fixed_image
from penultimate.engine.backbones.own.own_network import OwnNetwork, preprocess_from

VIEW = preprocess_from({"size": 64, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}, "a test")


class Small(nn.Module):
    """Convolutions, a depthwise one, a norm in float32 and attention; ``edit`` changes what it computes at the end."""

    def __init__(self, edit: Callable[[Tensor], Tensor] = lambda x: x) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 8, stride=8)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.norm = nn.LayerNorm(16)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.edit = edit

    def forward(self, images: Tensor) -> Tensor:
        maps = self.patches(images)
        tokens = (maps + self.depthwise(maps)).flatten(2).transpose(1, 2)
        tokens = self.norm(tokens.float())
        found: Tensor = self.attention(tokens, tokens, tokens, need_weights=False)[0]
        return self.edit(found.mean(dim=1))


def small(edit: Callable[[Tensor], Tensor] = lambda x: x) -> OwnNetwork:
    generator = np.random.default_rng(0)
    network = Small(edit).eval()
    for tensor in network.parameters():  # not torch's own drawing, whose last bits depend on the processor
        tensor.data = torch.from_numpy(generator.normal(0, 0.3, tensor.shape).astype(np.float32))
    return OwnNetwork(network, VIEW)


def numbers(network: OwnNetwork) -> dict[str, list[float]]:
    return fingerprint_of(checked_features(network, "a test"))


EDITS: dict[str, Callable[[Tensor], Tensor]] = {
    "activation": lambda x: x.relu(),
    "scaled": lambda x: 1.00001 * x,
    "normalised": lambda x: nn.functional.normalize(x, dim=1),
    "shifted": lambda x: x + 1e-4,
    "permuted": lambda x: x.flip(1),
    "two features exchanged": lambda x: torch.cat([x[:, 1:2], x[:, :1], x[:, 2:]], dim=1),
    "cut": lambda x: x[:, :-1],
    "repeated": lambda x: torch.cat([x, x], dim=1),
    "negated": lambda x: -x,
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_of_what_is_computed_changes_the_fingerprint(edit: str) -> None:
    assert digest_of_fingerprint(numbers(small(EDITS[edit]))) != digest_of_fingerprint(numbers(small()))


def test_code_that_computes_the_same_does_not() -> None:
    rewritten = small(lambda x: (x.double() @ torch.eye(16, dtype=torch.float64) + 0.0).to(x.dtype))
    assert numbers(rewritten) == numbers(small())


def test_edited_tensors_change_the_other_half_of_the_identity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    module = "from torch import nn\nclass M(nn.Conv2d):\n"
    forward = "    def forward(self, x): return super().forward(x).mean((2, 3)){}\n"
    function = "def f(): return M(3, 4, 5).eval(), {'size': 32, 'mean': (0, 0, 0), 'std': (1, 1, 1)}\n"
    digests = []
    for number, edit in enumerate(["", "  # a remark", ".relu() + 1"]):
        (tmp_path / f"edited_{number}.py").write_text(module + forward.format(edit) + function)
        digests.append(load_network(f"edited_{number}:f", weights="timm", seed=0).digest.split("-"))
    assert digests[0] == digests[1]
    assert digests[0][0] == digests[2][0]
    assert digests[0][1] != digests[2][1]
    other = load_network("edited_0:f", weights="timm", seed=1).digest.split("-")
    assert other[0] != digests[0][0]
    assert other[1] != digests[0][1]


PROCESSORS: dict[str, dict[str, str]] = {
    "one thread": {"OMP_NUM_THREADS": "1"},
    "three threads": {"OMP_NUM_THREADS": "3"},
    "AVX2": {"ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
    "no vectors": {"ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE", "ONEDNN_MAX_CPU_ISA": "SSE41"},
}


@pytest.mark.slow
@pytest.mark.parametrize("processor", PROCESSORS)
def test_other_processors_and_threads_move_features_far_less_than_the_rounding(processor: str, tmp_path: Path) -> None:
    code = (
        "import sys, numpy as np, torch; sys.path[:0] = sys.argv[2:]; from test_fingerprint import small, in_float32\n"
        "from penultimate.engine.backbones.own.checks import checked_features\n"
        "np.savez(sys.argv[1], exact=checked_features(small(), 'a test')['penultimate'].numpy(), single=in_float32())"
    )
    folders = [str(Path(__file__).parent), str(Path(__file__).parents[3])]
    command = [sys.executable, "-c", code, str(tmp_path / "there.npz"), *folders]
    subprocess.run(command, env=os.environ | PROCESSORS[processor], check=True)
    there = np.load(tmp_path / "there.npz")
    here = checked_features(small(), "a test")["penultimate"].numpy()
    distance = np.linalg.norm(there["exact"] - here) / np.linalg.norm(here)
    # A thousandth of a thousandth of the step between two roundings; in float32 it may be more than a tenth of it.
    assert distance < 10.0**-DECIMALS * 1e-6
    assert np.linalg.norm(there["single"] - here) / np.linalg.norm(here) > 1e-8
    assert fingerprint_of({"penultimate": torch.from_numpy(there["exact"])}) == numbers(small())


def in_float32() -> Any:
    images = torch.from_numpy(np.stack([fixed_image(64, 64, number) for number in (0, 1)])).permute(0, 3, 1, 2)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (VIEW.mean, VIEW.std))
    with torch.inference_mode():
        return small()((images / 255 - mean) / std)["penultimate"].numpy()


def test_fixed_images_are_the_same_bytes_everywhere() -> None:
    import hashlib

    found = hashlib.sha256(np.stack([fixed_image(48, 64, number) for number in (0, 1)]).tobytes()).hexdigest()
    assert found == "cbeeb84b9f6d232a3d4fe3253facd2edaf461f5f8f268ef16a218caf59b05edb"


def test_a_pass_in_float64_leaves_the_network_as_it_was() -> None:
    network = small()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    pointers = [tensor.data_ptr() for tensor in network.parameters()]
    checked_features(network, "a test")
    assert torch.get_default_dtype() == torch.float32
    assert pointers == [tensor.data_ptr() for tensor in network.parameters()]
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert not any(module._forward_hooks for module in network.modules())


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(6, 6, 3, groups=6),
        nn.Conv2d(6, 6, 3, groups=6, stride=2, padding=1, bias=False),
        nn.Conv2d(6, 6, (3, 5), groups=6, stride=(2, 1), padding=(0, 2), dilation=(2, 1)),
        nn.Conv2d(6, 6, 7, groups=6, padding="same"),
        nn.Conv2d(6, 12, 3, groups=6),
        nn.Conv2d(6, 6, 3, groups=2),
        nn.ConvTranspose2d(6, 6, 3, groups=6),
    ],
    ids=repr,
)
def test_convolutions_in_float64_are_torchs_own(layer: nn.Module) -> None:
    images = torch.randn(2, 6, 17, 19, dtype=torch.float64)
    with weights_in_float64(layer):
        found = exact_pass(layer, images)
        with torch.no_grad():
            expected = layer(images)
    torch.testing.assert_close(found.clone(), expected, rtol=1e-12, atol=1e-12)
