"""``penultimate bench gpu``: one command for a machine with a GPU."""

from penultimate.cli import options
from penultimate.cli.bench.output import BenchProgress, Out, command_line, show
from penultimate.cli.output import log
from penultimate.cli.settings_option import Given, with_settings
from penultimate.engine.bench.gpu.check import GpuBench
from penultimate.engine.bench.gpu.check import bench_gpu as measure_gpu


@with_settings(GpuBench, flags={options.HOW: ("steps", "full", "seconds")})
def bench_gpu(settings: Given, out: Out = None, json: options.Json = False) -> None:
    """Check and measure all that runs on a GPU, in at most five minutes; needs no images and no network.

    The steps: the card and one JPEG decoded on it; probes as large as CIFAR-10 and Flowers, beside cuML; extraction by
    three networks; training; a probe at an eighth of ImageNet; decoding of every kind of JPEG. A step that fails is
    recorded and the next begins. Without a GPU all run at tiny sizes on the CPU, and the report says so.

    \b
    penultimate bench gpu --out gpu_h100_202611.md
    penultimate bench gpu --steps path,extract --json
    penultimate bench gpu --full --out gpu_h100_202611.md
    """
    how = GpuBench.of(settings)
    with BenchProgress() as progress:
        report = measure_gpu(
            how,
            command=command_line(),
            progress=progress,
            log=log,
            keep=lambda so_far: None if out is None else so_far.write(out),
        )
    show(report, out=out, json=json)
