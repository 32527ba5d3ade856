"""The simulated device refuses and counts what a CUDA device would, and computes what the CPU does."""

import threading

import numpy as np
import pytest
import torch
from support.simulated_cuda import SimulatedCuda, simulated_cuda


def test_results_are_the_cpu_s_and_say_cuda() -> None:
    host = torch.randn(5, 3)
    with simulated_cuda():
        device = host.to("cuda")
        product = device @ device.T
        assert (product.device, product.is_cuda) == (torch.device("cuda", 0), True)
        assert torch.zeros(2, device="cuda").is_cuda
        assert torch.tensor([1.0, 2.0], device=product.device).is_cuda
        assert device.new_tensor([1.0]).is_cuda
        assert torch.zeros_like(device).is_cuda
        assert not torch.zeros_like(device, device="cpu").is_cuda
        back = product.cpu()
        assert not back.is_cuda
    torch.testing.assert_close(back, host @ host.T)


def test_mixed_devices_are_refused_but_for_numbers() -> None:
    with simulated_cuda():
        device = torch.ones(3, device="cuda")
        assert (device * torch.tensor(2.0)).is_cuda
        for host in (torch.ones(3), torch.ones(3, dtype=torch.float64)):
            with pytest.raises(RuntimeError, match="same device"):
                device + host
        with pytest.raises(TypeError, match="numpy"):
            device.numpy()
        with pytest.raises(TypeError, match="numpy"):
            np.asarray(device)


def test_waits_of_the_host_are_counted() -> None:
    with simulated_cuda() as cuda:
        device = torch.arange(4.0, device="cuda")
        cuda.reset()
        for waits in (
            lambda: float(device[0]),
            lambda: bool((device > 1).all()),
            lambda: device.tolist(),
            lambda: device[device > 1],
            lambda: device.nonzero(),
            lambda: device.cpu(),
            lambda: torch.linalg.solve(torch.eye(4, device="cuda"), device),
            lambda: torch.cuda.synchronize(),
            lambda: torch.tensor([1.0], device="cuda"),
        ):
            before = cuda.syncs.total()
            waits()
            assert cuda.syncs.total() == before + 1, cuda.syncs.table()
        before = cuda.syncs.total()
        torch.linalg.cholesky_ex(torch.eye(4, device="cuda"))
        _ = (device * 2).sum().sqrt()
        device.to("cpu", non_blocking=True)
        assert cuda.syncs.total() == before, cuda.syncs.table()


def test_launches_copies_and_pinned_memory_are_counted() -> None:
    with simulated_cuda() as cuda:
        pinned = torch.zeros(10).pin_memory()
        assert pinned.is_pinned()
        device = pinned.to("cuda", non_blocking=True)
        assert (cuda.to_device.total(), cuda.pageable.total(), cuda.syncs.total()) == (1, 0, 0)
        torch.zeros(10).to("cuda")
        assert (cuda.to_device.total(), cuda.pageable.total(), cuda.to_device_bytes) == (2, 1, 80)
        cuda.reset()
        _ = device.view(2, 5).T[1:]
        assert cuda.launches.total() == 0
        device.add_(1).mul_(2)
        assert cuda.launches.of("add_", "mul_") == cuda.launches.total() == 2
        device.cpu()
        assert (cuda.to_host.total(), cuda.to_host_bytes) == (1, 40)


def held(cuda: SimulatedCuda) -> tuple[int, int]:
    return cuda.live_bytes, cuda.peak_bytes


def test_live_bytes_are_those_of_storages_not_of_views() -> None:
    with simulated_cuda() as cuda:
        device = torch.zeros(100, dtype=torch.float64, device="cuda")
        half = device[:50]
        assert held(cuda) == (800, 800)
        doubled = device * 2
        assert held(cuda) == (1600, 1600)
        del doubled, device
        assert held(cuda) == (800, 1600)
        del half
        assert held(cuda) == (0, 1600)


def test_autograd_and_modules_run_on_it() -> None:
    torch.manual_seed(0)
    layer = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
    inputs, labels = torch.randn(6, 4), torch.arange(6) % 2
    torch.nn.functional.cross_entropy(layer(inputs), labels).backward()  # type: ignore[no-untyped-call]  # of torch
    (first, *_) = [parameter.grad for parameter in layer.parameters()]
    assert first is not None
    wanted = first.clone()
    layer.zero_grad()
    with simulated_cuda():
        layer = layer.to("cuda")
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
        loss = torch.nn.functional.cross_entropy(layer(inputs.to("cuda")), labels.to("cuda"))
        loss.backward()  # type: ignore[no-untyped-call]  # of torch
        (found, *_) = [parameter.grad for parameter in layer.parameters()]
        assert found is not None
        assert found.is_cuda
        torch.testing.assert_close(found.cpu(), wanted)
        optimizer.step()
        with torch.autocast("cuda", torch.bfloat16):
            assert layer(inputs.to("cuda")).dtype == torch.bfloat16


def test_networks_run_on_it_in_inference_mode() -> None:
    """What takes a view of a parameter there, as a class token does, is neither refused nor differentiated."""
    token = torch.nn.Parameter(torch.randn(1, 3))
    convolution = torch.nn.Conv2d(3, 3, 2, bias=False)
    images = torch.randn(2, 3, 4, 4)
    with simulated_cuda(), torch.inference_mode():
        on_device = torch.nn.Parameter(token.to("cuda"))
        found = torch.cat([on_device.expand(2, -1), convolution.cuda()(images.cuda()).mean((2, 3))]).cpu()
        assert not found.requires_grad
        assert found.numpy().shape == (4, 3)


def test_tf32_rounds_float32_products_only_where_it_is_allowed() -> None:
    host = torch.randn(20, 30)
    before = torch.backends.cuda.matmul.fp32_precision
    with simulated_cuda():
        device = host.to("cuda")
        torch.backends.cuda.matmul.fp32_precision = "ieee"
        try:
            assert torch.equal((device @ device.T).cpu(), host @ host.T)
            torch.backends.cuda.matmul.fp32_precision = "tf32"
            error = ((device @ device.T).cpu() - host @ host.T).norm() / (host @ host.T).norm()
            assert 1e-5 < error < 1e-3
        finally:
            torch.backends.cuda.matmul.fp32_precision = before


def test_a_sum_of_bfloat16_products_may_stay_float32() -> None:
    host = torch.randn(20, 30).bfloat16()
    with simulated_cuda():
        device = host.to("cuda")
        found = torch.mm(device, device.T, out_dtype=torch.float32)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.cpu(), host.float() @ host.float().T)


def test_threads_started_within_have_the_device() -> None:
    found = []
    with simulated_cuda() as cuda:
        thread = threading.Thread(target=lambda: found.append(torch.ones(2, device="cuda").is_cuda))
        thread.start()
        thread.join()
        assert cuda.launches.total() == 1
    assert found == [True]
    assert not torch.cuda.is_available() or torch.cuda.device_count() > 0


def test_lines_of_the_package_are_named_innermost_first() -> None:
    from penultimate.engine.probe.objective.torch_design import blockwise_product

    with simulated_cuda() as cuda:
        matrix = torch.ones(3, 3, device="cuda")
        blockwise_product(matrix, matrix)
        assert cuda.launches.within("torch_design.py") >= 2
        assert cuda.launches.within("newton.py") == 0
