"""Simulate a CUDA device: tensors say ``cuda`` and compute on the CPU, and what a GPU would mind is refused or counted.

    with simulated_cuda() as cuda:
        fit_path(features_ND, labels_N, FitSettings(..., device="cuda"))
        assert cuda.syncs.within("conjugate_gradient.py") <= 3
        print(cuda.peak_bytes, cuda.peak_at, cuda.launches.total(), cuda.syncs.most_common(5))

**Refused**, as by CUDA: operations on tensors of both devices (RuntimeError naming the operation and our line), and
``numpy()`` of a CUDA tensor (TypeError).

**Counted**, each event with the lines of the package that led to it, innermost first: ``launches`` of kernels (every
operation but views and allocations); ``syncs``, where the host waits for the device (``item``, ``bool``, ``nonzero``,
masks as indices, checked factorisations, ``synchronize``, and copies to and from pageable memory unless they are
``non_blocking``); ``to_host`` and ``to_device``, copies, with ``to_host_bytes`` and ``to_device_bytes``;
``pageable``, those of the copies to the device whose memory was not pinned; ``live_bytes``, ``peak_bytes`` and
``peak_at``. Workspaces inside an operation and the fragmentation of CUDA's allocator are not counted.

**Simulated**: TF32, where the process allows it (operands of float32 products and convolutions are rounded to 10 bits
of mantissa); ``mm`` with ``out_dtype``; autocast; pinned memory; streams and events, which do nothing but count;
autograd; threads started within. Compilation, graphs and distributed backends are not.
"""

import sys
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import penultimate

CUDA = torch.device("cuda", 0)
TOTAL_BYTES = 80 * 10**9
"""Memory of the device unless another is given."""

_PACKAGE = Path(penultimate.__file__).parent
_PLACES = (*(str(_PACKAGE / name) for name in ("engine", "store", "cli")), str(_PACKAGE))

_VIEWS = {
    "view", "expand", "transpose", "slice", "select", "permute", "unsqueeze", "squeeze", "t", "as_strided",
    "detach", "alias", "unbind", "_unsafe_view", "diagonal", "split", "split_with_sizes", "reshape",
    "_reshape_alias", "narrow", "unfold", "view_as_real", "movedim", "chunk", "lift_fresh", "is_pinned", "set_",
    "resize_", "record_stream",
}  # fmt: skip
_ALLOCATIONS = {
    "empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided",
}  # fmt: skip
_SYNCS = {
    "_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "unique2", "_unique2", "unique_dim",
    "unique_consecutive", "bincount", "_linalg_check_errors", "_linalg_eigh", "_linalg_svd", "linalg_eig",
    "linalg_lstsq",
}  # fmt: skip
_PRODUCTS = {
    "mm", "bmm", "addmm", "baddbmm",
}  # fmt: skip
_AUTOCAST = {
    "linear", "conv1d", "conv2d", "conv3d", "matmul", "mm", "bmm", "addmm", "baddbmm", "__matmul__",
    "scaled_dot_product_attention",
}  # fmt: skip
_AUTOCAST_FLOAT32 = {
    "softmax", "log_softmax", "layer_norm", "cross_entropy", "binary_cross_entropy_with_logits", "group_norm",
    "exp", "log", "pow", "norm",
}  # fmt: skip


_ACCELERATOR = {
    "is_available", "device_count", "current_stream", "synchronize", "memory_allocated", "max_memory_allocated",
}  # fmt: skip
"""Answers of ``torch.cuda`` that ``torch.accelerator`` gives as well."""


class Event(NamedTuple):
    """One kind of event: the operation, and the lines of the package that led to it."""

    operation: str
    lines: tuple[str, ...]
    """``file.py:line``, innermost first."""

    def __str__(self) -> str:
        return f"{self.operation} at {' < '.join(self.lines) or 'a test'}"


class Events(Counter[Event]):
    """Number of events of each kind; ``total()`` is that of all."""

    def within(self, *files: str) -> int:
        """Return the number of events that these files of the package led to, at whatever depth."""
        return sum(count for event, count in self.items() if any(line.split(":")[0] in files for line in event.lines))

    def of(self, *operations: str) -> int:
        """Return the number of events of these operations."""
        return sum(count for event, count in self.items() if event.operation in operations)

    def table(self, rows: int = 20) -> str:
        """Return the most frequent kinds, one a line, for a failing test to show."""
        return "\n".join(f"{count:7d}  {event}" for event, count in self.most_common(rows))


class SimulatedCuda:
    """The simulated device and its counters."""

    def __init__(self, total_bytes: int = TOTAL_BYTES) -> None:
        self.total_bytes = total_bytes
        self.live_bytes = 0
        self._storages: dict[int, tuple[int, int]] = {}
        """Address of a storage -> number of tensors on it, and its bytes."""

        self._pinned: set[int] = set()
        self._lock = threading.RLock()
        self.reset()

    def reset(self) -> None:
        """Set every counter to zero, and the peak to what is alive."""
        self.launches, self.syncs, self.to_host, self.to_device, self.pageable = (Events() for _ in range(5))
        self.to_host_bytes = self.to_device_bytes = 0
        self.peak_bytes, self.peak_at = self.live_bytes, "a reset"

    def synchronized(self, operation: str) -> None:
        """Count one wait of the host."""
        self._count(self.syncs, operation)

    def tensor(self, inner: torch.Tensor) -> "CudaTensor":
        """Return a tensor of the device that has the memory of ``inner``."""
        return CudaTensor(inner, self)

    def _count(self, events: Events, operation: str) -> None:
        with self._lock:
            events[Event(operation, _lines())] += 1

    def _hold(self, tensor: torch.Tensor, storage: torch.UntypedStorage) -> None:
        with self._lock:
            key = storage._cdata
            count, num_bytes = self._storages.get(key, (0, storage.nbytes()))
            self._storages[key] = count + 1, num_bytes
            self.live_bytes += 0 if count else num_bytes
            if self.live_bytes > self.peak_bytes:
                self.peak_bytes, self.peak_at = self.live_bytes, " < ".join(_lines())
        weakref.finalize(tensor, self._release, key)

    def _release(self, key: int) -> None:
        with self._lock:
            count, num_bytes = self._storages.pop(key)
            if count > 1:
                self._storages[key] = count - 1, num_bytes
            else:
                self.live_bytes -= num_bytes

    def _copied(self, source: torch.Tensor, target: torch.Tensor, *, non_blocking: bool) -> None:
        """Count a copy between the host and the device."""
        if isinstance(source, CudaTensor):
            self._count(self.to_host, "copy")
            self.to_host_bytes += source.nbytes
            if not non_blocking:
                self.synchronized("copy to host")
            return
        self._count(self.to_device, "copy")
        self.to_device_bytes += target.nbytes
        if source.untyped_storage().data_ptr() not in self._pinned:
            self._count(self.pageable, "copy")
            self.synchronized("copy from pageable memory")
        elif not non_blocking:
            self.synchronized("copy from pinned memory")

    def _pin(self, host: torch.Tensor) -> torch.Tensor:
        if isinstance(host, CudaTensor):
            raise RuntimeError("cannot pin a CUDA tensor")
        pinned = host.clone()
        storage = pinned.untyped_storage()
        self._pinned.add(storage.data_ptr())
        weakref.finalize(storage, self._pinned.discard, storage.data_ptr())
        return pinned

    # --- one operation ---

    def run(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Run one operation of ATen, on whichever device its tensors are."""
        if torch.is_inference_mode_enabled():  # a view of a plain tensor has to be a plain tensor
            with torch.inference_mode(False), torch.no_grad():
                return self.run(func, args, kwargs)
        if func is torch.ops.prim.device.default:
            return CUDA
        if _is_composite(func):  # reached under inference_mode; elsewhere autograd has taken it apart before
            with _Dispatch(self):
                return func.decompose(*args, **kwargs)
        name = func.overloadpacket.__name__
        tensors = [value for value in _flat(args, kwargs) if isinstance(value, torch.Tensor)]
        ours = [tensor for tensor in tensors if isinstance(tensor, CudaTensor)]
        device = kwargs.get("device")
        # Where C++ copies the options of a tensor that says "meta" inside, it means the device.
        wanted = None if device is None else "cuda" if torch.device(device).type in ("cuda", "meta") else "cpu"
        if not ours and wanted != "cuda":
            return func(*args, **kwargs)
        plain_args, plain_kwargs = _each(_inner, args), {name: _each(_inner, value) for name, value in kwargs.items()}
        if "device" in plain_kwargs:
            plain_kwargs["device"] = "cpu"
        pin = bool(plain_kwargs.get("pin_memory")) and plain_kwargs.pop("pin_memory")
        if name == "_to_copy":
            return self._to_copy(func, tensors[0], wanted, plain_args, plain_kwargs)
        if name in ("copy_", "_copy_from"):
            return self._copy_into(func, args, plain_args, plain_kwargs)
        if wanted == "cpu":  # a factory such as zeros_like(of a CUDA tensor, device="cpu")
            made = func(*plain_args, **plain_kwargs)
            return self._pin(made) if pin else made
        self._refuse_mixed(name, args, tensors)
        if name in _SYNCS or (name.startswith(("index", "_index")) and _has_mask(args)):
            self.synchronized(name)
        if name not in _VIEWS and name not in _ALLOCATIONS:
            self._count(self.launches, name)
        out = _compute(func, name, plain_args, plain_kwargs)
        return self._wrapped(out, ours)

    def _wrapped(self, out: Any, ours: Sequence["CudaTensor"]) -> Any:
        """Return results as tensors of the device: the very tensor where an operation wrote into one."""
        given = {id(tensor.memory): tensor for tensor in ours}

        def wrap(value: Any) -> Any:
            if not isinstance(value, torch.Tensor):
                return value
            return given[id(value)] if id(value) in given else self.tensor(value)

        return _each(wrap, out)

    def _to_copy(self, func: Any, source: torch.Tensor, wanted: str | None, args: Any, kwargs: dict[str, Any]) -> Any:
        from_cuda = isinstance(source, CudaTensor)
        to_cuda = from_cuda if wanted is None else wanted == "cuda"
        made = func(*args, **kwargs)
        if from_cuda or to_cuda:
            self._count(self.launches, "_to_copy")
        if to_cuda:
            made = self.tensor(made)
        if from_cuda != to_cuda:
            self._copied(source, made, non_blocking=bool(kwargs.get("non_blocking")))
        return made

    def _copy_into(self, func: Any, args: Sequence[Any], plain_args: Any, kwargs: dict[str, Any]) -> Any:
        target, source = args[0], args[1]
        non_blocking = bool(kwargs.get("non_blocking") or (len(args) > 2 and args[2]))
        func(*plain_args, **kwargs)
        self._count(self.launches, "copy_")
        if isinstance(source, CudaTensor) != isinstance(target, CudaTensor):
            self._copied(source, target, non_blocking=non_blocking)
        return target

    def _refuse_mixed(self, name: str, args: Sequence[Any], tensors: Sequence[torch.Tensor]) -> None:
        """Raise RuntimeError where a host tensor is no number; indices may come from the host, and are copied."""
        host = [t for t in tensors if not isinstance(t, CudaTensor) and t.dim() > 0]
        if not host:
            return
        if name.startswith(("index", "_index")) and isinstance(args[0], CudaTensor):
            indices = [i for i in args[1] if isinstance(i, torch.Tensor)] if isinstance(args[1], (list, tuple)) else []
            if all(any(h is i for i in indices) for h in host):
                for index in host:
                    self._copied(index, index, non_blocking=False)
                return
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu! "
            f"(simulated; {Event(name, _lines())})"
        )


class CudaTensor(torch.Tensor):
    """A tensor of the simulated device, around the CPU tensor that has its memory."""

    memory: torch.Tensor
    simulated: SimulatedCuda

    @staticmethod
    def __new__(cls, inner: torch.Tensor, simulated: SimulatedCuda) -> "CudaTensor":
        made: CudaTensor = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=torch.device("meta"),  # autograd asks a CUDA tensor's device for its stream, which needs a driver
        )
        made.memory, made.simulated = inner, simulated
        simulated._hold(made, inner.untyped_storage())
        return made

    def __init__(self, inner: torch.Tensor, simulated: SimulatedCuda) -> None:
        pass

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # torch declares it to take anything
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        (simulated, *_) = [value.simulated for value in _flat(args, kwargs or {}) if isinstance(value, CudaTensor)]
        return simulated.run(func, args, kwargs or {})

    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)
    is_meta = property(lambda self: False)
    is_cpu = property(lambda self: False)

    def __repr__(self) -> str:  # type: ignore[override]  # without the option for contents
        return f"CudaTensor({tuple(self.shape)}, {self.dtype})"


class _Dispatch(TorchDispatchMode):  # type: ignore[no-untyped-call]  # of torch
    """Sends operations without a CUDA tensor, such as factories, to the device."""

    def __init__(self, simulated: SimulatedCuda) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # of torch
        self.simulated = simulated

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.simulated.run(func, args, kwargs or {})


class _Functions(TorchFunctionMode):
    """Takes the calls of torch's Python interface that never become an operation, and casts under autocast."""

    def __init__(self, simulated: SimulatedCuda) -> None:
        super().__init__()
        self.simulated = simulated

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.device:
            return func(*args, **kwargs)
        args = tuple(map(_with_index, args))  # without an index, C++ asks the driver for it
        kwargs = {key: _with_index(value) for key, value in kwargs.items()}
        name = getattr(func, "__name__", "")
        first = args[0] if args else None
        if func in (torch.tensor, torch.as_tensor, torch.asarray) or name == "new_tensor":
            return self._from_data(func, name, args, kwargs)
        if name == "tolist" and isinstance(first, CudaTensor):
            return first.cpu().tolist()
        if name in ("numpy", "__array__", "__dlpack__") and isinstance(first, CudaTensor):
            raise TypeError(
                "can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host memory "
                f"first. (simulated; {' < '.join(_lines())})"
            )
        if name == "pin_memory" and isinstance(first, torch.Tensor):
            return self.simulated._pin(first)
        if name == "is_pinned" and isinstance(first, torch.Tensor) and not isinstance(first, CudaTensor):
            return first.untyped_storage().data_ptr() in self.simulated._pinned
        if name == "record_stream":
            return None
        if name == "cuda" and isinstance(first, torch.Tensor):
            return first.to(CUDA, non_blocking=bool(kwargs.get("non_blocking")))
        if kwargs.get("pin_memory") and kwargs.get("device") in (None, "cpu", torch.device("cpu")):
            return self.simulated._pin(func(*args, **{**kwargs, "pin_memory": False}))
        if torch.is_autocast_enabled("cuda") and name in (_AUTOCAST | _AUTOCAST_FLOAT32):
            dtype = torch.get_autocast_dtype("cuda") if name in _AUTOCAST else torch.float32
            args = _each(lambda value: _cast(value, dtype), args)
            kwargs = {key: _each(lambda value: _cast(value, dtype), value) for key, value in kwargs.items()}
        return func(*args, **kwargs)

    def _from_data(self, func: Any, name: str, args: Any, kwargs: Any) -> Any:
        """Make a tensor of numbers: on the host, then copied, as torch does."""
        device = kwargs.get("device")
        if name == "new_tensor":
            on_cuda = isinstance(args[0], CudaTensor) if device is None else torch.device(device).type == "cuda"
            if not on_cuda:
                return func(*args, **kwargs)
            kwargs = {"dtype": args[0].dtype, **kwargs}
            func, args = torch.tensor, args[1:]
        elif isinstance(args[0], torch.Tensor):
            wanted = args[0].device if device is None else device
            return args[0].to(device=wanted, dtype=kwargs.get("dtype"))
        elif device is None or torch.device(device).type != "cuda":
            return func(*args, **kwargs)
        return func(*args, **{**kwargs, "device": "cpu"}).to(CUDA)


class _Stream:
    """A stream, or an event: nothing waits but the host, which is counted."""

    def __init__(self, simulated: SimulatedCuda) -> None:
        self.simulated = simulated
        self.cuda_stream = 0
        self.device = CUDA

    def synchronize(self) -> None:
        self.simulated.synchronized("synchronize")

    def record(self, stream: Any = None) -> None: ...

    def record_event(self, event: Any = None) -> "_Stream":
        return event or _Stream(self.simulated)

    def wait(self, stream: Any = None) -> None: ...

    def wait_stream(self, stream: Any) -> None: ...

    def wait_event(self, event: Any) -> None: ...

    def query(self) -> bool:
        return True

    def is_capturing(self) -> bool:
        return False

    def elapsed_time(self, end: Any) -> float:
        return 1.0

    def __enter__(self) -> "_Stream":
        return self

    def __exit__(self, *error: object) -> None: ...


@contextmanager
def simulated_cuda(total_bytes: int = TOTAL_BYTES) -> Iterator[SimulatedCuda]:
    """Make ``cuda`` a simulated device with ``total_bytes`` of memory, for this thread and those started within."""
    simulated = SimulatedCuda(total_bytes)
    start = threading.Thread.run

    def run_simulated(thread: threading.Thread) -> None:
        with _Dispatch(simulated), _Functions(simulated):
            start(thread)

    with ExitStack() as stack:
        for name, value in _interface(simulated).items():
            stack.enter_context(patch.object(torch.cuda, name, value))
            if name in _ACCELERATOR:
                stack.enter_context(patch.object(torch.accelerator, name, value))
        stack.enter_context(patch.object(threading.Thread, "run", run_simulated))
        stack.enter_context(_Dispatch(simulated))
        stack.enter_context(_Functions(simulated))
        yield simulated


def _interface(simulated: SimulatedCuda) -> dict[str, Callable[..., Any]]:
    """Return what ``torch.cuda`` answers, by name."""
    properties = SimpleNamespace(
        name="Simulated H100", total_memory=simulated.total_bytes, major=9, minor=0, multi_processor_count=132
    )
    return {
        "_lazy_init": lambda: None,
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "init": lambda: None,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": lambda device: None,
        "get_device_name": lambda device=None: properties.name,
        "get_device_capability": lambda device=None: (9, 0),
        "get_device_properties": lambda device=None: properties,
        "is_bf16_supported": lambda including_emulation=True: True,
        "mem_get_info": lambda device=None: (simulated.total_bytes - simulated.live_bytes, simulated.total_bytes),
        "memory_allocated": lambda device=None: simulated.live_bytes,
        "memory_reserved": lambda device=None: simulated.live_bytes,
        "max_memory_allocated": lambda device=None: simulated.peak_bytes,
        "empty_cache": lambda: None,
        "is_current_stream_capturing": lambda: False,
        "synchronize": lambda device=None: simulated.synchronized("synchronize"),
        "Stream": lambda *args, **kwargs: _Stream(simulated),
        "Event": lambda *args, **kwargs: _Stream(simulated),
        "current_stream": lambda device=None: _Stream(simulated),
        "default_stream": lambda device=None: _Stream(simulated),
        "stream": lambda stream: _Stream(simulated),
        "device": lambda device: _Stream(simulated),
    }


def _lines() -> tuple[str, ...]:
    """Return the lines of the package on the stack of this thread, innermost first."""
    found = []
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_filename.startswith(_PLACES):
            found.append(f"{frame.f_code.co_filename.rpartition('/')[2]}:{frame.f_lineno}")
        frame = frame.f_back  # type: ignore[assignment]  # None at the end
    return tuple(found)


@cache
def _is_composite(func: Any) -> bool:
    """Return whether an operation is made of others."""
    return torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd")


def _with_index(value: Any) -> Any:
    """Return the simulated device for ``cuda``, by whatever name; other values as they are."""
    if isinstance(value, torch.device):
        return CUDA if value.type == "cuda" else value
    return CUDA if isinstance(value, str) and value in ("cuda", "cuda:0") else value


def _flat(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[Any]:
    """Yield the arguments of an operation, those of lists among them one by one."""
    for value in (*args, *kwargs.values()):
        if isinstance(value, (list, tuple)):
            yield from value
        else:
            yield value


def _each(function: Callable[[Any], Any], value: Any) -> Any:
    """Apply a function to a value, or to each of a list or tuple, of whatever depth."""
    if isinstance(value, (list, tuple)):
        made = [_each(function, item) for item in value]
        return type(value)(*made) if hasattr(value, "_fields") else type(value)(made)
    return function(value)


def _inner(value: Any) -> Any:
    return value.memory if isinstance(value, CudaTensor) else value


def _has_mask(args: Sequence[Any]) -> bool:
    indices = args[1] if len(args) > 1 and isinstance(args[1], (list, tuple)) else ()
    return any(isinstance(i, torch.Tensor) and i.dtype in (torch.bool, torch.uint8) for i in indices)


def _cast(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, CudaTensor) and value.is_floating_point() and value.dtype != torch.float64:
        return value.to(dtype)
    return value


def _compute(func: Any, name: str, args: Any, kwargs: Any) -> Any:
    """Compute on the CPU, in TF32 where CUDA would."""
    tf32 = (name in _PRODUCTS and torch.backends.cuda.matmul.fp32_precision == "tf32") or (
        name in ("convolution", "_convolution") and torch.backends.cudnn.conv.fp32_precision == "tf32"  # type: ignore[attr-defined]
    )
    if tf32:
        args = _each(_to_tf32, args)
    if name in _PRODUCTS and func._overloadname == "dtype":  # sums that stay float32, which CUDA alone has kernels for
        *operands, out_dtype = args
        return getattr(torch, name)(*(operand.to(out_dtype) for operand in operands))
    return func(*args, **kwargs)


def _to_tf32(value: Any) -> Any:
    """Round a float32 matrix to 10 bits of mantissa, to nearest."""
    if not isinstance(value, torch.Tensor) or value.dtype != torch.float32 or value.dim() < 2:
        return value
    bits = value.contiguous().view(torch.int32)
    return ((bits + 0x1000) & ~0x1FFF).view(torch.float32).view_as(value)
