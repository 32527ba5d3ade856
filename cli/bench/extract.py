"""``penultimate bench extract``: measure each part of an extraction on the user's images and name the bottleneck."""

from penultimate.cli import options
from penultimate.cli.bench.output import TURNS, BenchProgress, Images, Out, command_line, show
from penultimate.cli.output import log
from penultimate.cli.settings_option import Given, with_settings
from penultimate.engine.backbones.request import requests_of
from penultimate.engine.bench.extract import ExtractBench
from penultimate.engine.bench.extract import bench_extract as measure_extraction

_FLAGS = {
    options.WHAT: ("readouts --readout",),
    options.HOW: ("preprocess", "decoder", "precision", "compile", "batch_size --batch-size -b", *TURNS),
    options.WHERE: ("device", "workers --workers -j"),
}


@with_settings(ExtractBench, flags=_FLAGS)
def bench_extract(
    images: options.Images,
    model: options.Models,
    settings: Given,
    weights: options.Weights = "timm",
    root: options.Root = None,
    num_images: Images = None,
    seed: options.Seed = 0,
    out: Out = None,
    json: options.Json = False,
) -> None:
    """Measure decoding, the model, writing and all together, and name what holds the whole back.

    Files come from the system's cache where it has them. Of several models each is measured, and all of them from one
    decode. Of images in an object store fetching is measured too, with as many requests at once as an extraction makes
    and with one; the bottleneck may then be listing, the number of connections, or the network.

    \b
    penultimate bench extract photos/ --model resnet50.a1_in1k
    penultimate bench extract photos/ --model tf_efficientnet_lite0 --weights package --out extract.md
    penultimate bench extract photos/ --model resnet50.a1_in1k --device cuda --precision bfloat16 --json
    """
    how = ExtractBench.of(settings)
    how.check_machine()
    requests = requests_of(model, weights=weights, seed=seed, readouts=how.readouts)  # a wrong name is known first
    with BenchProgress() as progress:
        report = measure_extraction(
            images,
            requests,
            how,
            command=command_line(),
            root=root,
            num_images=num_images,
            progress=progress,
            log=log,
        )
    show(report, out=out, json=json)
