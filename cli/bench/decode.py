"""``penultimate bench decode``: measure decoders alone, by kind of file."""

from penultimate.cli import options
from penultimate.cli.bench.output import TURNS, BenchProgress, Images, Out, command_line, show
from penultimate.cli.settings_option import Given, with_settings
from penultimate.engine.bench.decode import DecodeBench
from penultimate.engine.bench.decode import bench_decode as measure_decoding

_FLAGS = {options.WHAT: ("size",), options.HOW: TURNS, options.WHERE: ("device", "workers --workers -j")}


@with_settings(DecodeBench, flags=_FLAGS)
def bench_decode(
    images: options.Images,
    settings: Given,
    root: options.Root = None,
    num_images: Images = None,
    out: Out = None,
    json: options.Json = False,
) -> None:
    """Read, decode and resize images by every decoder that is here: Pillow, DALI and torchvision, by kind of file.

    \b
    penultimate bench decode photos/
    penultimate bench decode photos/ --device cuda --workers 16 --out decode.md
    """
    how = DecodeBench.of(settings)
    with BenchProgress() as progress:
        report = measure_decoding(
            images, how, command=command_line(), root=root, num_images=num_images, progress=progress
        )
    show(report, out=out, json=json)
