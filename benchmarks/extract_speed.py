"""Compare images per second, end to end: penultimate, timm with a DataLoader and Pillow, and thingsvision.

    python benchmarks/extract_speed.py FOLDER --model tf_efficientnet_lite0 --images 512 --rounds 3

Every contender embeds the same images (the whole image to the network's input, bicubic) with the same architecture,
random weights, on the same cores, in a process of its own; contenders take turns in every round. A process embeds the
images twice: the second pass is the warm rate, the first, with all that has to be built or compiled, the cold one.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

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


def timed(run: Callable[[], int]) -> dict[str, float]:
    """Time two passes, the first cold: images per second of both, and of the second also per second of CPU time.

    Processor time (of this process and its workers) is what the work costs whoever else uses the cores; ``cores`` is
    how many of them the second pass had, which is under their number where others were at work.
    """
    rates = []
    for _ in range(2):
        wall, busy = time.perf_counter(), processor_seconds()
        num_images = run()
        wall, busy = time.perf_counter() - wall, processor_seconds() - busy
        rates.append(num_images / wall)
    return {"cold": rates[0], "warm": rates[1], "cores": busy / wall, "per_core": num_images / busy}


def processor_seconds() -> float:
    """Return user and system time, in seconds, of this process and of its children that have ended."""
    return sum(
        used.ru_utime + used.ru_stime
        for used in (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    )


def linked_sample(folder: Path, num_images: int, target: Path) -> int:
    """Link to images evenly spaced in ``folder``, as one class; return their number."""
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    chosen = [found[i] for i in np.unique(np.linspace(0, len(found) - 1, min(num_images, len(found))).astype(int))]
    (target / "all").mkdir(parents=True)
    for number, path in enumerate(chosen):
        (target / "all" / f"{number:06d}.jpg").symlink_to(path.resolve())
    return len(chosen)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="tf_efficientnet_lite0")
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", type=Path, help="folder thingsvision was installed into")
    parser.add_argument("--only", action="append", help="a contender, as printed; repeats")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one:
        print(json.dumps(timed(runner(options.one, options.folder, options.model, options.peers))))
        return
    contenders = options.only or [c for c in CONTENDERS if options.peers or not c.startswith("thingsvision")]
    rates: dict[str, list[dict[str, float]]] = {contender: [] for contender in contenders}
    with tempfile.TemporaryDirectory() as scratch:
        num_images = linked_sample(options.folder, options.images, Path(scratch))
        for _ in range(options.rounds):
            for contender in contenders:
                command = [sys.executable, __file__, scratch, "--model", options.model, "--one", contender]
                command += ["--peers", str(options.peers)] if options.peers else []
                output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
                rates[contender].append(json.loads(output.splitlines()[-1]))
                print(f"{contender}: {rates[contender][-1]}", file=sys.stderr, flush=True)
    print(f"{options.model}, {num_images} images, {options.rounds} rounds")
    print("| contender | images/s warm (least - most) | cold | images/s of one core | cores it had |")
    for contender, results in rates.items():
        warm = sorted(result["warm"] for result in results)
        cold, per_core, cores = (median(result[name] for result in results) for name in ("cold", "per_core", "cores"))
        range_text = f"{median(warm):.1f} ({warm[0]:.1f} - {warm[-1]:.1f})"
        print(f"| {contender} | {range_text} | {cold:.1f} | {per_core:.1f} | {cores:.2f} |")


if __name__ == "__main__":
    main(sys.argv[1:])
