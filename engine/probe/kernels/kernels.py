"""CompiledMatrix: passes over features by compiled kernels, which have two sources.

``kernels.c`` is for x86 processors with AMX bfloat16. torch multiplies on AMX too, but rounds the product to bfloat16;
the kernels keep float32 sums, and multiply a float32 as two bfloat16 where a gradient needs it. ``float_passes.c`` is
for all others, in float32, compiled once for AVX2 and once for AVX-512. Between two products the softmax takes a dozen
passes over memory by torch; both sources do all that belongs to a block of rows while it is in a core's cache.
"""

import ctypes
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from penultimate.engine.runtime.capabilities import compiled_float_kernels, compiled_kernels
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


class Kernels:
    """A loaded library of compiled kernels."""

    def __init__(self, path: Path, source: Path) -> None:
        """Raise ``UnavailableError`` where the library is older than its source."""
        if source.exists() and source.stat().st_mtime > path.stat().st_mtime:
            raise UnavailableError(f"{path.name} is older than {source.name}; run 'pip install --editable .' again")
        self.library = ctypes.CDLL(str(path))  # after torch, on whose threads it then runs: both ask for libgomp.so.1
        self.library.workspace_bytes.restype = ctypes.c_int64

    def call(self, name: str, *values: Tensor | int | float | None) -> None:
        """Call a function that returns nothing."""
        getattr(self.library, name)(*map(_argument, values))

    def num_threads(self) -> int:
        """Return the number of threads that each leave sums of their own."""
        return int(self.library.num_threads())

    def workspace(self, scores: int, columns: int) -> Tensor:
        """Return memory, aligned, for so many columns of scores and of features."""
        wanted = self.library.workspace_bytes(ctypes.c_int64(scores), ctypes.c_int64(columns))
        memory = torch.empty(wanted + ALIGNMENT, dtype=torch.uint8)
        return memory[-memory.data_ptr() % ALIGNMENT :]


def amx_kernels() -> Kernels | None:
    """Return the kernels for AMX bfloat16; None on a processor without it, or where they were not compiled.

    Raises ``UnavailableError`` where they are older than their source.
    """
    path = compiled_kernels()
    return None if path is None else _amx_kernels_at(path)


def float_kernels() -> Kernels | None:
    """Return the kernels in float32 for this processor; None where none were compiled for it.

    Raises ``UnavailableError`` where they are older than their source.
    """
    path = compiled_float_kernels()
    return None if path is None else _float_kernels_at(path)


@functools.cache
def _amx_kernels_at(path: Path) -> Kernels | None:
    """Return the kernels; None where the operating system does not grant the AMX units."""
    found = Kernels(path, path.with_name("kernels.c"))
    return found if found.library.request_amx() == 0 else None


@functools.cache
def _float_kernels_at(path: Path) -> Kernels | None:
    """Return the kernels; None where the processor lacks what they were compiled for, whatever it is said to have."""
    found = Kernels(path, path.with_name("float_passes.c"))
    return found if found.library.supported() else None


class CompiledMatrix:
    """Features (N, R), R a multiple of 32, in the form that kernels read, and the passes over them; all on the CPU."""

    def __init__(self, kernels: Kernels, full: tuple[Tensor, ...], low_NR: Tensor, num_rows: int) -> None:
        """``full`` are the matrices that scores and gradients read, ``low_NR`` is that for the Hessian."""
        self.kernels, self.full, self.low_NR, self.num_rows = kernels, full, low_NR, num_rows
        self.columns = low_NR.shape[1]
        self._workspaces: dict[tuple[int, int, int], Tensor] = {}

    @classmethod
    def on_amx(cls, kernels: Kernels, matrix_NR: Tensor) -> Self:
        """Split float32 features into two bfloat16."""
        rows, columns = matrix_NR.shape
        high, low = (torch.empty(-(-rows // ROWS) * ROWS, columns, dtype=torch.bfloat16) for _ in range(2))
        kernels.call("split", matrix_NR.contiguous(), high, low, rows, columns)
        return cls(kernels, (high, low), high[:rows], rows)

    @classmethod
    def in_float32(cls, kernels: Kernels, matrix_NR: Tensor) -> Self:
        """Take float32 features as they are."""
        return cls(kernels, (matrix_NR,), matrix_NR, len(matrix_NR))

    def scores(self, weight_MR: Tensor) -> Tensor:
        """Return weight @ features.T, (M, N) float32."""
        scores_MN = torch.empty(len(weight_MR), self.num_rows)
        weight_MR, workspace = weight_MR.float().contiguous(), self._workspace(len(weight_MR))
        self.kernels.call("scores", *self.full, weight_MR, scores_MN, workspace, *scores_MN.shape, self.columns)
        return scores_MN

    def gather(self, values_MN: Tensor, scale: float) -> Tensor:
        """Return scale x values @ features, (M, R) float64; summed in float32 over no more than 4,096 rows."""
        total_MR = torch.empty(len(values_MN), self.columns, dtype=torch.float64)
        workspace = self._workspace(len(values_MN))
        inputs = *self.full, values_MN.contiguous(), None, None, None
        self.kernels.call("gather", *inputs, scale, total_MR, workspace, 1, *values_MN.shape, self.columns)
        return total_MR

    def softmax_gradient(
        self, residual_SKN: Tensor, shift_SK: Tensor, index_N: Tensor, sample_weight_N: Tensor | None
    ) -> Tensor:
        """Return the gradient of the mean softmax loss once biases have moved by ``shift_SK``, (S, K, R) float64.

        That is the mean over samples of (r + (diag(p) - p p') shift) x, to first order in the shift
        (``objective/duality_gap.py``).
        """
        strengths, classes, rows = residual_SKN.shape
        workspace, (sample_weight_N, scale) = self._workspace(strengths * classes), _weights(sample_weight_N, rows)
        gradient_SKR = torch.empty(strengths, classes, self.columns, dtype=torch.float64)
        inputs = *self.full, residual_SKN, shift_SK.float().contiguous(), index_N, sample_weight_N, scale
        self.kernels.call("gather", *inputs, gradient_SKR, workspace, strengths, classes, rows, self.columns)
        return gradient_SKR

    def softmax_hessian(
        self, residual_SKN: Tensor, index_N: Tensor, sample_weight_N: Tensor | None, direction_SKR: Tensor
    ) -> Tensor:
        """Return the Hessian of the mean softmax loss times a direction, centred over classes.

        (S, K, R) float32, multiplied at the precision of ``low_NR``.
        """
        if self.low_NR.dtype == torch.float32:
            halves_SKR = self.softmax_halves(residual_SKN, index_N, sample_weight_N, direction_SKR, halfway=False)[2]
            assert halves_SKR is not None
            return halves_SKR
        strengths, classes, rows = residual_SKN.shape
        direction_SKR, workspace = direction_SKR.float().contiguous(), self._workspace(strengths * classes)
        sample_weight_N, scale = _weights(sample_weight_N, rows)
        product_SKR = torch.empty_like(direction_SKR)
        inputs = self.low_NR, residual_SKN, index_N, sample_weight_N, scale, direction_SKR
        shape = strengths, classes, rows, self.columns
        self.kernels.call("softmax_hessian", *inputs, product_SKR, workspace, *shape)
        return product_SKR

    def softmax_halves(
        self,
        residual_SKN: Tensor,
        index_N: Tensor,
        sample_weight_N: Tensor | None,
        direction_SKR: Tensor,
        *,
        halfway: bool,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return scores (S, K, N) of a direction, its curvature (S,) float64, and the Hessian times it; in float32.

        The last, (S, K, R), is that of the mean softmax loss, centred over classes; None for a product that stops
        ``halfway``.
        """
        strengths, classes, rows = residual_SKN.shape
        direction_SKR, workspace = direction_SKR.float().contiguous(), self._workspace(strengths * classes)
        sample_weight_N, scale = _weights(sample_weight_N, rows)
        curvature_TS = torch.zeros(self.kernels.num_threads(), strengths, dtype=torch.float64)
        scores_SKN, product_SKR = torch.empty_like(residual_SKN), None if halfway else torch.empty_like(direction_SKR)
        inputs = self.low_NR, residual_SKN, index_N, sample_weight_N, scale, direction_SKR
        outputs = scores_SKN, curvature_TS, product_SKR, workspace
        self.kernels.call("softmax_halves", *inputs, *outputs, strengths, classes, rows, self.columns)
        return scores_SKN, curvature_TS.sum(0), product_SKR

    def softmax_moments(
        self, residual_SKN: Tensor, index_N: Tensor, sample_weight_N: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return the means over samples of p p' (S, K, K), and of the residual (S, K), float64."""
        strengths, classes, rows = residual_SKN.shape
        padded = -(-classes // ROWS) * ROWS
        workspace, (sample_weight_N, scale) = self._workspace(classes, padded), _weights(sample_weight_N, rows)
        joint_SKP = torch.empty(strengths, classes, padded, dtype=torch.float64)
        bias_STK = torch.zeros(strengths, self.kernels.num_threads(), classes, dtype=torch.float64)
        for residual_KN, joint_KP, bias_TK in zip(residual_SKN, joint_SKP, bias_STK, strict=True):
            inputs = residual_KN, index_N, sample_weight_N, scale
            self.kernels.call("softmax_moments", *inputs, joint_KP, bias_TK, workspace, classes, rows)
        return joint_SKP[:, :, :classes], bias_STK.sum(1)

    def softmax(self, scores_SKN: Tensor, index_N: Tensor) -> tuple[Tensor, Tensor]:
        """Return losses (S, N) and residuals (S, K, N) of float32 scores, as ``Softmax.evaluate`` does."""
        scores_SKN, residual_SKN = scores_SKN.contiguous(), torch.empty_like(scores_SKN)
        strengths, classes, rows = scores_SKN.shape
        loss_SN = torch.empty(strengths, rows)
        self.kernels.call("softmax_evaluate", scores_SKN, index_N, loss_SN, residual_SKN, strengths, classes, rows)
        return loss_SN, residual_SKN

    def softmax_space(
        self,
        first_KN: Tensor,
        others: Sequence[Tensor],
        index_N: Tensor,
        sample_weight_N: Tensor | None,
        coordinates: Sequence[float],
    ) -> tuple[float, Tensor, Tensor]:
        """Return the mean softmax loss at scores first + sum_m a_m (other_m - first), and its derivatives by ``a``.

        Takes up to ``OTHERS`` others, float32; ``coordinates`` are the a_m. The gradient (M,) and the Hessian (M, M)
        are float64.
        """
        count, (classes, rows) = len(others), first_KN.shape
        sample_weight_N, scale = _weights(sample_weight_N, rows)
        sums = torch.zeros(self.kernels.num_threads(), 1 + OTHERS + OTHERS * OTHERS, dtype=torch.float64)
        points = [*others, *[first_KN] * (OTHERS - count)]
        assert len(points) == OTHERS
        assert all(point_KN.is_contiguous() for point_KN in points)
        addresses = torch.tensor([point_KN.data_ptr() for point_KN in points])
        padded = torch.tensor([*coordinates, *[0.0] * (OTHERS - count)], dtype=torch.float64)
        inputs = first_KN, addresses, padded, index_N, sample_weight_N, scale
        self.kernels.call("softmax_space", *inputs, sums, classes, rows)
        total_Z = sums.sum(0)
        lower_MM = total_Z[1 + OTHERS :].view(OTHERS, OTHERS)[:count, :count]
        return float(total_Z[0]), total_Z[1 : 1 + count], lower_MM + lower_MM.tril(-1).T

    def low_rank_gram(self, index_KX: Tensor, inverse_KR: Tensor) -> Tensor:
        """Return A D^-1 A' of each class, A the rows at ``index_KX`` as the Hessian reads them: (K, X, X) float64."""
        gram_KXX = torch.empty(*index_KX.shape, index_KX.shape[1], dtype=torch.float64)
        self.kernels.call("low_rank_gram", self.low_NR, index_KX, inverse_KR, gram_KXX, *index_KX.shape, self.columns)
        return gram_KXX

    def low_rank_solve(self, index_KX: Tensor, inverse_KR: Tensor, inner_KXX: Tensor, residual_SKR: Tensor) -> Tensor:
        """Return (D^-1 - D^-1 A' inner A D^-1) residual, (S, K, R) float32; only ``inner_KXX`` is float64."""
        solved_SKR = torch.empty_like(residual_SKR)
        inputs = self.low_NR, index_KX, inverse_KR, inner_KXX, residual_SKR.contiguous()
        self.kernels.call("low_rank_solve", *inputs, solved_SKR, len(residual_SKR), *index_KX.shape, self.columns)
        return solved_SKR

    def _workspace(self, scores: int, columns: int | None = None) -> Tensor:
        """Return the workspace for these columns of scores and of features, made once for each number of threads."""
        key = scores, columns or self.columns, self.kernels.num_threads()
        if key not in self._workspaces:
            self._workspaces[key] = self.kernels.workspace(*key[:2])
        return self._workspaces[key]


def _weights(sample_weight_N: Tensor | None, rows: int) -> tuple[Tensor | None, float]:
    """Return the weights in float32 and the factor that makes weighted sums means."""
    return (None, 1 / rows) if sample_weight_N is None else (sample_weight_N.float(), 1.0)


def _argument(value: Tensor | int | float | None) -> object:
    if isinstance(value, Tensor):
        assert value.is_contiguous()
        return ctypes.c_void_p(value.data_ptr())
    return ctypes.c_double(value) if isinstance(value, float) else None if value is None else ctypes.c_int64(value)
