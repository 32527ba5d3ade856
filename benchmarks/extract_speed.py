"""Compare images per second, end to end: penultimate, timm with a DataLoader and Pillow, and thingsvision.

    python benchmarks/extract_speed.py FOLDER REPORT.md --model tf_efficientnet_lite0 --images 512 --rounds 3

Every contender embeds the same images (the whole image to the network's input, bicubic) with the same architecture,
random weights, on the same cores, in a process of its own; contenders take turns in every round. The first pass of a
process, with all that has to be built or compiled, is its cold rate.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from penultimate.engine.bench.timing.measurement import compared, other_cores
from penultimate.engine.bench.timing.processes import Turns, started
from penultimate.engine.bench.timing.report import Report
from penultimate.engine.bench.timing.turns import Contender, Laps, TurnOptions, take_turns

CONTENDERS = (
    "thingsvision float32 batch 32",
    "timm+DataLoader float32 batch 64",
    "timm+DataLoader float32 batch 16",
    "timm+DataLoader bfloat16 batch 16",
    "penultimate float32 eager",
    "penultimate float32 compiled",
    "penultimate bfloat16 eager",
    "penultimate bfloat16 compiled",
)


def runner(contender: str, images: Path, arch: str, peers: Path | None) -> Callable[[], int]:
    """A function that embeds every image once."""
    name, *how = contender.split()
    if name == "penultimate":
        return penultimate_runner(images, arch, precision=how[0], compiled=how[1] == "compiled")
    if name == "thingsvision":
        if peers is None:
            raise SystemExit("thingsvision needs --peers, the folder it was installed into")
        from thingsvision_peer import thingsvision_runner

        return thingsvision_runner(peers, images, arch, transform_of(arch), batch_size=int(how[2]))
    return timm_runner(images, arch, precision=how[0], batch_size=int(how[2]))


def penultimate_runner(images: Path, arch: str, *, precision: Any, compiled: bool) -> Callable[[], int]:
    from penultimate.engine.backbones.timm_backbone import load_backbone
    from penultimate.engine.extract.embed import embed_images
    from penultimate.engine.extract.extractor import Extractor
    from penultimate.engine.images.decode.factory import default_decoder, make_decoder
    from penultimate.engine.images.formats.folder import load_folder
    from penultimate.engine.runtime.malloc import keep_freed_memory
    from penultimate.engine.runtime.threads import ThreadBudget, default_batch_size
    from penultimate.store.feature_store import FeatureStore

    keep_freed_memory()  # as the command line does
    threads, batch_size = ThreadBudget.of("cpu"), default_batch_size("cpu")
    backbone = load_backbone(arch, weights="random", precision=precision)
    image_set = load_folder(images, labels=False)
    to_compile = [backbone] if compiled else []

    def run() -> int:
        with threads.in_force():
            while to_compile:
                to_compile.pop().compile(batch_size)
        with tempfile.TemporaryDirectory() as folder:
            decoder = make_decoder(default_decoder(), num_workers=threads.decode)
            store = FeatureStore.create(Path(folder) / "store")
            (extracted,) = embed_images(
                image_set,
                Extractor(backbones=[backbone], decoder=decoder, batch_size=batch_size, threads=threads),
                store,
            )
            return extracted.features.num_rows

    return run


def timm_runner(images: Path, arch: str, *, precision: str, batch_size: int) -> Callable[[], int]:
    """Return a function that embeds as most scripts do: ImageFolder, DataLoader, one worker per core, no_grad."""
    import timm
    import torch
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder

    dataset = ImageFolder(str(images), transform=transform_of(arch))
    model: Any = timm.create_model(arch).eval()
    workers = torch.get_num_threads()

    def run() -> int:
        features = []
        with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bfloat16"):
            for pixels, _ in DataLoader(dataset, batch_size=batch_size, num_workers=workers):
                output = model.forward_head(model.forward_features(pixels), pre_logits=True)
                features.append(output.float().numpy())
        return len(np.concatenate(features))

    return run


def transform_of(arch: str) -> Any:
    """Return the transform of the whole image to the network's input, as ``--preprocess paper`` has it."""
    from timm.models import get_pretrained_cfg
    from torchvision import transforms

    config = get_pretrained_cfg(arch)
    assert config is not None, "known to timm: the networks here are its own"
    return transforms.Compose(
        [
            transforms.Resize(config.input_size[1:], transforms.InterpolationMode.BICUBIC),
            transforms.ToTensor(),
            transforms.Normalize(config.mean, config.std),
        ]
    )


def embed(contender: str, images: Path, arch: str, peers: Path | None, turns: Turns) -> None:
    """Embed every image once a turn; runs in a process of its own. The first turn is cold."""
    run = runner(contender, images, arch, peers)
    turns.ready()
    while True:
        turns.over(run())


def linked_sample(folder: Path, num_images: int, target: Path) -> int:
    """Link to images evenly spaced in ``folder``, as one class; return their number."""
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    chosen = [found[i] for i in np.unique(np.linspace(0, len(found) - 1, min(num_images, len(found))).astype(int))]
    (target / "all").mkdir(parents=True)
    for number, path in enumerate(chosen):
        (target / "all" / f"{number:06d}.jpg").symlink_to(path.resolve())
    return len(chosen)


def measure(
    images: Path, arch: str, contenders: Sequence[str], options: TurnOptions, *, num_images: int, peers: Path | None
) -> list[Laps]:
    """Let the contenders take turns, each in a process of its own."""
    with ExitStack() as stack:
        remotes = {name: stack.enter_context(started(embed, name, images, arch, peers)) for name in contenders}
        for remote in remotes.values():
            remote.end()  # loaded
        sides = [
            Contender(name=name, group="Extraction", run=remote.turn, items=num_images)
            for name, remote in remotes.items()
        ]
        return take_turns(sides, options)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("report", type=Path)
    parser.add_argument("--model", default="tf_efficientnet_lite0")
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3600.0)
    parser.add_argument("--peers", type=Path, help="folder thingsvision was installed into")
    parser.add_argument("--only", action="append", help="a contender, as printed; repeats")
    options = parser.parse_args(arguments)
    contenders = options.only or [c for c in CONTENDERS if options.peers or not c.startswith("thingsvision")]
    turns = TurnOptions(seconds=options.seconds, rounds=options.rounds)
    with tempfile.TemporaryDirectory() as scratch:
        sample = Path(scratch)
        num_images = linked_sample(options.folder, options.images, sample)
        laps = measure(sample, options.model, contenders, turns, num_images=num_images, peers=options.peers)
    Report(
        bench="extract-speed",
        title="Extraction beside timm with a DataLoader, and thingsvision",
        settings={"model": options.model, "images": num_images, "weights": "random"},
        measurements=compared(laps, unit="images/s"),
        other_cores=other_cores(laps),
        findings=["The warm-up is the cold rate, with all that has to be built or compiled."],
    ).write(options.report)


if __name__ == "__main__":
    main(sys.argv[1:])
