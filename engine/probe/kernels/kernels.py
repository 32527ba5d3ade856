"""AmxMatrix: passes over features by compiled kernels for x86 processors with AMX bfloat16.

torch multiplies on AMX too, but rounds the product to bfloat16; and between two products the softmax takes a
dozen passes over memory. ``kernels.c`` keeps float32 sums, multiplies a float32 as two bfloat16 where a gradient
needs it, and does all that belongs to a block of rows while the block is in a core's cache.
"""

import ctypes
import functools
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from penultimate.engine.runtime.capabilities import EXTENSION, compiled_kernels
from penultimate.store.errors import UnavailableError

# Shapes: N samples, K classes, P of them padded, S strengths, M = S x K columns of scores (points of a space besides
# the first, in softmax_space), R columns of the rotated features, T threads, X rows of each class, Z numbers.

ROWS = 32
"""Rows are padded with zeros to a multiple of this."""

ROUNDING = 2.0**-17
"""Relative rounding error of a float32 kept as two bfloat16."""

OTHERS = 3
"""Largest number of points besides the first that span a score space: the four nodes of a start do."""

ALIGNMENT = 64


def library() -> ctypes.CDLL | None:
    """Return the compiled kernels; None on a processor without AMX bfloat16, or where they were not compiled.

    Raises ``UnavailableError`` where they are older than their source.
    """
    path = compiled_kernels()
    return None if path is None else _library_at(path)


@functools.cache
def _library_at(path: Path) -> ctypes.CDLL | None:
    """Return the compiled library; None where the operating system does not grant the AMX units."""
    source = path.with_name("kernels.c")
    if source.exists() and source.stat().st_mtime > path.stat().st_mtime:
        raise UnavailableError(f"{path.name} is older than {source.name}; run 'pip install --editable .' again")
    found = ctypes.CDLL(str(path))  # after torch, on whose threads it then runs: both ask for libgomp.so.1
    found.workspace_bytes.restype = ctypes.c_int64
    return found if found.request_amx() == 0 else None


class AmxMatrix:
    """Features (N, R), float32, kept as two bfloat16, and the passes over them; everything is on the CPU."""

    def __init__(self, matrix_NR: Tensor) -> None:
        """Split ``matrix_NR``, whose R is a multiple of 32; there must be a ``library``."""
        self.num_rows, self.columns = matrix_NR.shape
        padded = -(-self.num_rows // ROWS) * ROWS
        self._high, self._low = (torch.empty(padded, self.columns, dtype=torch.bfloat16) for _ in range(2))
        self._workspace = torch.empty(0, dtype=torch.uint8)
        _call("split", matrix_NR.contiguous(), self._high, self._low, self.num_rows, self.columns)

    @property
    def high_NR(self) -> Tensor:
        """Return the features, rounded to bfloat16."""
        return self._high[: self.num_rows]

    def scores(self, weight_MR: Tensor) -> Tensor:
        """Return weight @ features.T, (M, N) float32."""
        scores_MN = torch.empty(len(weight_MR), self.num_rows)
        weight_MR, workspace = weight_MR.float().contiguous(), self._workspace_for(len(weight_MR))
        _call("scores", self._high, self._low, weight_MR, scores_MN, workspace, *scores_MN.shape, self.columns)
        return scores_MN

    def gather(self, values_MN: Tensor, scale: float) -> Tensor:
        """Return scale x values @ features, (M, R) float64; summed in float32 over no more than 4,096 rows."""
        total_MR = torch.empty(len(values_MN), self.columns, dtype=torch.float64)
        workspace = self._workspace_for(len(values_MN))
        inputs = self._high, self._low, values_MN.contiguous(), None, None, None
        _call("gather", *inputs, scale, total_MR, workspace, 1, *values_MN.shape, self.columns)
        return total_MR

    def softmax_gradient(
        self, residual_SKN: Tensor, shift_SK: Tensor, index_N: Tensor, sample_weight_N: Tensor | None
    ) -> Tensor:
        """Return the gradient of the mean softmax loss once biases have moved by ``shift_SK``, (S, K, R) float64.

        That is the mean over samples of (r + (diag(p) - p p') shift) x, to first order in the shift
        (``objective/duality_gap.py``).
        """
        strengths, classes, rows = residual_SKN.shape
        workspace, (sample_weight_N, scale) = self._workspace_for(strengths * classes), _weights(sample_weight_N, rows)
        gradient_SKR = torch.empty(strengths, classes, self.columns, dtype=torch.float64)
        inputs = self._high, self._low, residual_SKN, shift_SK.float().contiguous(), index_N, sample_weight_N, scale
        _call("gather", *inputs, gradient_SKR, workspace, strengths, classes, rows, self.columns)
        return gradient_SKR

    def softmax_hessian(
        self, residual_SKN: Tensor, index_N: Tensor, sample_weight_N: Tensor | None, direction_SKR: Tensor
    ) -> Tensor:
        """Return the Hessian of the mean softmax loss times a direction, centred over classes.

        (S, K, R) float32, multiplied in bfloat16.
        """
        strengths, classes, rows = residual_SKN.shape
        direction_SKR, workspace = direction_SKR.float().contiguous(), self._workspace_for(strengths * classes)
        sample_weight_N, scale = _weights(sample_weight_N, rows)
        product_SKR = torch.empty_like(direction_SKR)
        inputs = residual_SKN, index_N, sample_weight_N, scale, direction_SKR
        _call("softmax_hessian", self._high, *inputs, product_SKR, workspace, strengths, classes, rows, self.columns)
        return product_SKR

    def softmax_moments(
        self, residual_SKN: Tensor, index_N: Tensor, sample_weight_N: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return the means over samples of p p' (S, K, K), and of the residual (S, K), float64."""
        strengths, classes, rows = residual_SKN.shape
        padded = -(-classes // ROWS) * ROWS
        self._workspace = _large_enough(self._workspace, classes, padded)
        sample_weight_N, scale = _weights(sample_weight_N, rows)
        joint_SKP = torch.empty(strengths, classes, padded, dtype=torch.float64)
        bias_STK = torch.zeros(strengths, _loaded().num_threads(), classes, dtype=torch.float64)
        for residual_KN, joint_KP, bias_TK in zip(residual_SKN, joint_SKP, bias_STK, strict=True):
            inputs = residual_KN, index_N, sample_weight_N, scale
            _call("softmax_moments", *inputs, joint_KP, bias_TK, self._workspace, classes, rows)
        return joint_SKP[:, :, :classes], bias_STK.sum(1)

    def low_rank_gram(self, index_KX: Tensor, inverse_KR: Tensor) -> Tensor:
        """Return A D^-1 A' of each class, A the rows at ``index_KX`` in bfloat16: (K, X, X) float64."""
        gram_KXX = torch.empty(*index_KX.shape, index_KX.shape[1], dtype=torch.float64)
        _call("low_rank_gram", self._high, index_KX, inverse_KR, gram_KXX, *index_KX.shape, self.columns)
        return gram_KXX

    def low_rank_solve(self, index_KX: Tensor, inverse_KR: Tensor, inner_KXX: Tensor, residual_SKR: Tensor) -> Tensor:
        """Return (D^-1 - D^-1 A' inner A D^-1) residual, (S, K, R) float32; only ``inner_KXX`` is float64."""
        solved_SKR = torch.empty_like(residual_SKR)
        inputs = self._high, index_KX, inverse_KR, inner_KXX, residual_SKR.contiguous()
        _call("low_rank_solve", *inputs, solved_SKR, len(residual_SKR), *index_KX.shape, self.columns)
        return solved_SKR

    def _workspace_for(self, columns: int) -> Tensor:
        self._workspace = _large_enough(self._workspace, columns, self.columns)
        return self._workspace


def _large_enough(workspace: Tensor, scores: int, columns: int) -> Tensor:
    """Return ``workspace`` if it is enough for these columns of scores and of features, else a larger one, aligned."""
    wanted = _loaded().workspace_bytes(ctypes.c_int64(scores), ctypes.c_int64(columns))
    if len(workspace) >= wanted:
        return workspace
    workspace = torch.empty(wanted + ALIGNMENT, dtype=torch.uint8)
    return workspace[-workspace.data_ptr() % ALIGNMENT :]


def softmax(scores_SKN: Tensor, index_N: Tensor) -> tuple[Tensor, Tensor]:
    """Return losses (S, N) and residuals (S, K, N) of float32 scores on the CPU, as ``Softmax.evaluate`` does."""
    scores_SKN, residual_SKN = scores_SKN.contiguous(), torch.empty_like(scores_SKN)
    strengths, classes, rows = scores_SKN.shape
    loss_SN = torch.empty(strengths, rows)
    _call("softmax_evaluate", scores_SKN, index_N, loss_SN, residual_SKN, strengths, classes, rows)
    return loss_SN, residual_SKN


def softmax_space(
    first_KN: Tensor,
    others: Sequence[Tensor],
    index_N: Tensor,
    sample_weight_N: Tensor | None,
    coordinates: Sequence[float],
) -> tuple[float, Tensor, Tensor]:
    """Return the mean softmax loss at scores first + sum_m a_m (other_m - first), and its derivatives by ``a``.

    Takes up to ``OTHERS`` others, float32 on the CPU; ``coordinates`` are the a_m. The gradient (M,) and the Hessian
    (M, M) are float64.
    """
    count, (classes, rows) = len(others), first_KN.shape
    sample_weight_N, scale = _weights(sample_weight_N, rows)
    sums = torch.zeros(_loaded().num_threads(), 1 + OTHERS + OTHERS * OTHERS, dtype=torch.float64)
    points = [*others, *[first_KN] * (OTHERS - count)]
    assert len(points) == OTHERS
    assert all(point_KN.is_contiguous() for point_KN in points)
    addresses = torch.tensor([point_KN.data_ptr() for point_KN in points])
    padded = torch.tensor([*coordinates, *[0.0] * (OTHERS - count)], dtype=torch.float64)
    _call("softmax_space", first_KN, addresses, padded, index_N, sample_weight_N, scale, sums, classes, rows)
    total_Z = sums.sum(0)
    lower_MM = total_Z[1 + OTHERS :].view(OTHERS, OTHERS)[:count, :count]
    return float(total_Z[0]), total_Z[1 : 1 + count], lower_MM + lower_MM.tril(-1).T


def _weights(sample_weight_N: Tensor | None, rows: int) -> tuple[Tensor | None, float]:
    """Return the weights in float32 and the factor that makes weighted sums means."""
    return (None, 1 / rows) if sample_weight_N is None else (sample_weight_N.float(), 1.0)


def _loaded() -> ctypes.CDLL:
    found = _library_at(EXTENSION)
    assert found is not None
    return found


def _call(name: str, *values: Tensor | int | float | None) -> None:
    getattr(_loaded(), name)(*map(_argument, values))


def _argument(value: Tensor | int | float | None) -> object:
    if isinstance(value, Tensor):
        assert value.is_contiguous()
        return ctypes.c_void_p(value.data_ptr())
    return ctypes.c_double(value) if isinstance(value, float) else None if value is None else ctypes.c_int64(value)
