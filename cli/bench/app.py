"""The group of verbs ``penultimate bench``."""

import typer

from penultimate.cli.bench import compare, decode, extract, gpu, probe, store, train
from penultimate.cli.grouped_help import GroupedCommand

app = typer.Typer(
    rich_markup_mode=None,
    no_args_is_help=True,
    help="Measure on this machine: extraction, decoding, the store, probes and training, each beside its peers.",
)
for name, (verb, summary) in {
    "extract": (extract.bench_extract, "Each stage of an extraction, and its bottleneck."),
    "decode": (decode.bench_decode, "Decoders alone, by kind of file."),
    "store": (store.bench_store, "Writing, reading and look-up, beside plain files."),
    "probe": (probe.bench_probe, "The path of a probe, beside scikit-learn and cuML."),
    "train": (train.bench_train, "Updates a second, beside timm's loop."),
    "gpu": (gpu.bench_gpu, "All that runs on a GPU, in five minutes."),
    "compare": (compare.bench_compare, "What became faster or slower between two reports."),
}.items():
    app.command(name, cls=GroupedCommand, short_help=summary)(verb)
