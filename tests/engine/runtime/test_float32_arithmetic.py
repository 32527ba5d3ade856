"""Float32 is IEEE float32, or TF32 where that is asked for, whatever the process allows; then all is as it was."""

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from penultimate.engine.runtime.devices import dtype_named
from penultimate.engine.runtime.float32_arithmetic import _set, _settings, float32_arithmetic
from penultimate.store.errors import UnavailableError

BACKENDS: Any = torch.backends


def settings() -> list[str]:
    return [setting.fp32_precision for setting in _settings()]


def older() -> tuple[Any, ...]:
    """Return the older flags, as far as torch tells them."""
    found: list[Any] = []
    for read in (
        torch.get_float32_matmul_precision,
        lambda: BACKENDS.cudnn.allow_tf32,
        lambda: BACKENDS.cuda.matmul.allow_tf32,
    ):
        try:
            found.append(read())
        except RuntimeError:
            found.append("undecided")
    return tuple(found)


def _by_newer_flags_alone() -> None:
    BACKENDS.cuda.matmul.fp32_precision = "tf32"
    BACKENDS.mkldnn.matmul.fp32_precision = "bf16"


CALLERS: dict[str, Callable[[], None]] = {
    "nothing": lambda: None,
    "matmul medium": lambda: torch.set_float32_matmul_precision("medium"),
    "convolutions off": lambda: setattr(BACKENDS.cudnn, "allow_tf32", False),
    "newer flags alone": _by_newer_flags_alone,
}
"""What a caller may have set."""


@pytest.fixture(params=CALLERS)
def _as_a_caller_left_it(request: pytest.FixtureRequest) -> Iterator[None]:
    restore = _set(tf32=False)
    restore()
    CALLERS[request.param]()
    yield
    restore()


@pytest.mark.usefixtures("_as_a_caller_left_it")
@pytest.mark.parametrize("tf32", [False, True])
def test_the_arithmetic_is_that_asked_for_and_then_the_callers(tf32: bool) -> None:
    before = settings(), older()
    with float32_arithmetic(tf32=tf32):
        assert settings() == 3 * ["tf32" if tf32 else "ieee"] + 3 * ["ieee"]
        assert older() == ("high" if tf32 else "highest", tf32, tf32)  # the compiler reads these
        with float32_arithmetic(tf32=tf32):
            pass
        assert settings()[0] == ("tf32" if tf32 else "ieee")
    assert (settings(), older()) == before


@pytest.mark.usefixtures("_as_a_caller_left_it")
def test_it_is_restored_after_an_error() -> None:
    before = settings(), older()
    with pytest.raises(ValueError, match="failed"), float32_arithmetic(tf32=True):
        raise ValueError("failed")
    assert (settings(), older()) == before


def test_threads_share_one_arithmetic_and_the_other_waits() -> None:
    """Replicas come and go at different times: none may restore the settings under another."""
    before = settings()
    entered, may_leave, other_entered = threading.Event(), threading.Event(), threading.Event()

    def first() -> None:
        with float32_arithmetic():
            entered.set()
            may_leave.wait(10)

    def other() -> None:
        with float32_arithmetic(tf32=True):
            other_entered.set()

    threads = [threading.Thread(target=first), threading.Thread(target=other)]
    threads[0].start()
    assert entered.wait(10)
    with float32_arithmetic():
        pass
    assert settings()[1] == "ieee"  # the first is still within
    threads[1].start()
    assert not other_entered.wait(0.05)
    may_leave.set()
    for thread in threads:
        thread.join(10)
    assert other_entered.is_set()
    assert settings() == before


def test_an_environment_variable_changes_nothing() -> None:
    program = (
        "import torch; from penultimate.engine.runtime.float32_arithmetic import float32_arithmetic as pinned\n"
        "assert torch.backends.cuda.matmul.fp32_precision == 'tf32'\n"
        "with pinned(): assert torch.backends.cuda.matmul.fp32_precision == 'ieee'\n"
        "assert torch.backends.cuda.matmul.fp32_precision == 'tf32'\n"
    )
    command = ["env", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE=1", sys.executable, "-c", program]
    assert subprocess.run(command, check=False).returncode == 0


def test_tf32_is_refused_in_one_line_where_there_is_no_such_gpu() -> None:
    with pytest.raises(
        UnavailableError, match=r"^tf32 is a precision of NVIDIA GPUs .* use --precision float32"
    ) as caught:
        dtype_named("tf32", torch.device("cpu"))
    assert "\n" not in str(caught.value)
