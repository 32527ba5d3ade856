"""MatrixUnits: passes over features on a CPU's bfloat16 matrix units (AMX), in compiled code.

torch multiplies on these units too, but rounds the product to bfloat16; and between two products the softmax takes a
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

# Shapes: N samples, K classes, S strengths, M = S x K columns of scores, R columns of the turned design.

ROWS = 32
"""The units take so many rows at once: N is filled up with zeros."""

ROUNDING = 2.0**-17
"""Of a float32 as two bfloat16, relative."""

OTHERS = 3
"""Points besides the first, at most, that span a space: those of a start (``chain.py``) do."""

ALIGNMENT = 64


def library() -> ctypes.CDLL | None:
    """The compiled passes; None on a machine without such units, or where no C compiler was at hand to compile them.

    Raises ``UnavailableError`` where they were compiled from another source than this one.
    """
    path = compiled_kernels()
    return None if path is None else _library_at(path)


@functools.cache
def _library_at(path: Path) -> ctypes.CDLL | None:
    """None where the operating system does not grant the units."""
    source = path.with_name("kernels.c")
    if source.exists() and source.stat().st_mtime > path.stat().st_mtime:
        raise UnavailableError(f"{path.name} is older than {source.name}; run 'pip install --editable .' again")
    found = ctypes.CDLL(str(path))  # after torch, on whose threads it then runs: both ask for libgomp.so.1
    found.room_bytes.restype = ctypes.c_int64
    return found if found.request_units() == 0 else None


class MatrixUnits:
    """Features (N, R), float32, kept as two bfloat16, and the passes over them. Everything is on the CPU."""

    def __init__(self, matrix_NR: Tensor) -> None:
        """R is a multiple of 32; there is a ``library``."""
        self.num_rows, self.columns = matrix_NR.shape
        padded = -(-self.num_rows // ROWS) * ROWS
        self._high, self._low = (torch.empty(padded, self.columns, dtype=torch.bfloat16) for _ in range(2))
        self._room = torch.empty(0, dtype=torch.uint8)
        _call("split", matrix_NR.contiguous(), self._high, self._low, self.num_rows, self.columns)

    @property
    def high_NR(self) -> Tensor:
        """The features, rounded to bfloat16."""
        return self._high[: self.num_rows]

    def scores(self, weight_MR: Tensor) -> Tensor:
        """weight @ features.T, (M, N) float32."""
        scores_MN = torch.empty(len(weight_MR), self.num_rows)
        weight_MR, room = weight_MR.float().contiguous(), self._room_for(len(weight_MR))
        _call("scores", self._high, self._low, weight_MR, scores_MN, room, *scores_MN.shape, self.columns)
        return scores_MN

    def gather(self, values_MN: Tensor, scale: float) -> Tensor:
        """scale x values @ features, (M, R) float64; in float32 over no more than 4,096 rows."""
        total_MR = torch.empty(len(values_MN), self.columns, dtype=torch.float64)
        room, inputs = self._room_for(len(values_MN)), (self._high, self._low, values_MN.contiguous(), None, None, None)
        _call("gather", *inputs, scale, total_MR, room, 1, *values_MN.shape, self.columns)
        return total_MR

    def softmax_gradient(
        self, residual_SKN: Tensor, shift_SK: Tensor, index_N: Tensor, share_N: Tensor | None
    ) -> Tensor:
        """Gradient of the mean softmax loss once biases have moved by ``shift_SK``, (S, K, R) float64.

        The mean over samples of (r + (diag(p) - p p') shift) x, to first order in the shift (``certificate.py``).
        """
        strengths, classes, rows = residual_SKN.shape
        room, (share_N, scale) = self._room_for(strengths * classes), _shares(share_N, rows)
        gradient_SKR = torch.empty(strengths, classes, self.columns, dtype=torch.float64)
        inputs = self._high, self._low, residual_SKN, shift_SK.float().contiguous(), index_N, share_N, scale
        _call("gather", *inputs, gradient_SKR, room, strengths, classes, rows, self.columns)
        return gradient_SKR

    def softmax_hessian(
        self, residual_SKN: Tensor, index_N: Tensor, share_N: Tensor | None, direction_SKR: Tensor
    ) -> Tensor:
        """Hessian of the mean softmax loss times a direction, (S, K, R) float32, multiplied in bfloat16."""
        strengths, classes, rows = residual_SKN.shape
        direction_SKR, room = direction_SKR.float().contiguous(), self._room_for(strengths * classes)
        share_N, scale = _shares(share_N, rows)
        product_SKR = torch.empty_like(direction_SKR)
        inputs = residual_SKN, index_N, share_N, scale, direction_SKR
        _call("softmax_hessian", self._high, *inputs, product_SKR, room, strengths, classes, rows, self.columns)
        return product_SKR

    def softmax_moments(self, residual_SKN: Tensor, index_N: Tensor, share_N: Tensor | None) -> tuple[Tensor, Tensor]:
        """Mean over samples of p p' (S, K, K), and of the residual (S, K), float64."""
        strengths, classes, rows = residual_SKN.shape
        padded = -(-classes // ROWS) * ROWS
        self._room = _room(self._room, classes, padded)
        share_N, scale = _shares(share_N, rows)
        joint_SKX = torch.empty(strengths, classes, padded, dtype=torch.float64)
        bias_STK = torch.zeros(strengths, _loaded().num_threads(), classes, dtype=torch.float64)
        for residual_KN, joint_KX, bias_TK in zip(residual_SKN, joint_SKX, bias_STK, strict=True):
            inputs = residual_KN, index_N, share_N, scale
            _call("softmax_moments", *inputs, joint_KX, bias_TK, self._room, classes, rows)
        return joint_SKX[:, :, :classes], bias_STK.sum(1)

    def curved_middle(self, index_KM: Tensor, inverse_KR: Tensor) -> Tensor:
        """A D A' of each class, A the rows at ``index_KM`` in bfloat16, D a diagonal: (K, M, M) float64."""
        middle_KMM = torch.empty(*index_KM.shape, index_KM.shape[1], dtype=torch.float64)
        _call("curved_middle", self._high, index_KM, inverse_KR, middle_KMM, *index_KM.shape, self.columns)
        return middle_KMM

    def curved_solve(self, index_KM: Tensor, inverse_KR: Tensor, middle_KMM: Tensor, residual_SKR: Tensor) -> Tensor:
        """What ``CurvedRows`` returns, float32; of its parts only ``middle_KMM`` is float64."""
        solved_SKR = torch.empty_like(residual_SKR)
        inputs = self._high, index_KM, inverse_KR, middle_KMM, residual_SKR.contiguous()
        _call("curved_solve", *inputs, solved_SKR, len(residual_SKR), *index_KM.shape, self.columns)
        return solved_SKR

    def _room_for(self, columns: int) -> Tensor:
        self._room = _room(self._room, columns, self.columns)
        return self._room


def _room(room: Tensor, scores: int, columns: int) -> Tensor:
    """``room`` if it is enough for so many columns of scores and of features, else a larger one, aligned."""
    wanted = _loaded().room_bytes(ctypes.c_int64(scores), ctypes.c_int64(columns))
    if len(room) >= wanted:
        return room
    room = torch.empty(wanted + ALIGNMENT, dtype=torch.uint8)
    return room[-room.data_ptr() % ALIGNMENT :]


def softmax(scores_SKN: Tensor, index_N: Tensor) -> tuple[Tensor, Tensor]:
    """As ``Softmax.evaluate``: losses (S, N) and residuals (S, K, N) of float32 scores on the CPU."""
    scores_SKN, residual_SKN = scores_SKN.contiguous(), torch.empty_like(scores_SKN)
    strengths, classes, rows = scores_SKN.shape
    loss_SN = torch.empty(strengths, rows)
    _call("softmax_evaluate", scores_SKN, index_N, loss_SN, residual_SKN, strengths, classes, rows)
    return loss_SN, residual_SKN


def softmax_space(
    first_KN: Tensor, others: Sequence[Tensor], index_N: Tensor, share_N: Tensor | None, at: Sequence[float]
) -> tuple[float, Tensor, Tensor]:
    """Mean softmax loss at scores first + sum_m at_m (other_m - first), its gradient (M,) and Hessian (M, M) by ``at``.

    Up to ``OTHERS`` others, float32 on the CPU; results are float64.
    """
    count, (classes, rows) = len(others), first_KN.shape
    share_N, scale = _shares(share_N, rows)
    sums = torch.zeros(_loaded().num_threads(), 1 + OTHERS + OTHERS * OTHERS, dtype=torch.float64)
    points = [*others, *[first_KN] * (OTHERS - count)]
    assert len(points) == OTHERS
    assert all(point_KN.is_contiguous() for point_KN in points)
    places = torch.tensor([point_KN.data_ptr() for point_KN in points])
    coordinates = torch.tensor([*at, *[0.0] * (OTHERS - count)], dtype=torch.float64)
    _call("softmax_space", first_KN, places, coordinates, index_N, share_N, scale, sums, classes, rows)
    total_X = sums.sum(0)
    lower_MM = total_X[1 + OTHERS :].view(OTHERS, OTHERS)[:count, :count]
    return float(total_X[0]), total_X[1 : 1 + count], lower_MM + lower_MM.tril(-1).T


def _shares(share_N: Tensor | None, rows: int) -> tuple[Tensor | None, float]:
    """Of samples, and what their sum is multiplied by."""
    return (None, 1 / rows) if share_N is None else (share_N.float(), 1.0)


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
