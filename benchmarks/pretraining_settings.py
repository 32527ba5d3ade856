"""Does a setting that helps pre-training hurt the features? Label smoothing, as in Kornblith et al. 2019, section 4.2.

A small network is trained from scratch on half of the classes of an image set, with and without label smoothing, from
several seeds. Its penultimate features of other images, of the other half of the classes, are probed, and the two
settings compared on the same test images by paired tests.

    python benchmarks/pretraining_settings.py cifar10 REPORT.md --root ../cifar10 --out smoothing/

IMAGES and --root are those of ``penultimate extract``. Asked again, it goes on where it stopped.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from penultimate.engine.analysis.statistics.compare import mcnemar_test, permutation_test
from penultimate.engine.backbones.timm_backbone import load_backbone
from penultimate.engine.bench.timing.cells import Row, texts
from penultimate.engine.bench.timing.report import Report
from penultimate.engine.extract.embed import embed_images
from penultimate.engine.extract.extractor import Extractor
from penultimate.engine.images.build import build_image_set
from penultimate.engine.images.decode.factory import default_decoder, make_decoder
from penultimate.engine.images.digest_cache import FileFingerprint
from penultimate.engine.images.image_set import ImageSet
from penultimate.engine.images.image_source import ImageSource
from penultimate.engine.images.load import load_images
from penultimate.engine.images.preprocess import Preprocess
from penultimate.engine.probe.path import RegularizationPath
from penultimate.engine.probe.protocol import run_probe
from penultimate.engine.probe.settings import ProbeSettings
from penultimate.engine.train.learner.network import load_initial_model
from penultimate.engine.train.recipe import Recipe
from penultimate.engine.train.runs.resources import Resources, ResourceSettings
from penultimate.engine.train.search.grid import Grid
from penultimate.engine.train.search.grid_search import GridSearch
from penultimate.engine.train.search.run_search import run_search
from penultimate.engine.train.world import World
from penultimate.store.feature_set import FeatureSet
from penultimate.store.feature_store import FeatureStore
from penultimate.store.trials.trial import Trial

# Shapes: N test images.


@dataclass(frozen=True, kw_only=True, slots=True)
class Experiment:
    """Everything the result depends on, apart from the images."""

    network: str = "resnet10t"
    size: int = 32
    """Side of the input, in pixels."""

    steps: int = 400
    batch_size: int = 64
    learning_rate: float = 0.1
    weight_decay: float = 5e-5
    crop_scale: tuple[float, float] = (0.3, 1.0)
    label_smoothing: tuple[float, ...] = (0.0, 0.1)
    seeds: int = 2
    pretrain: tuple[int, int, int] = (1000, 40, 500)
    """Images per class of train, val and test for training the network."""

    probe: tuple[int, int, int] = (300, 100, 500)
    """Images per class of train, val and test for probing its features."""

    def recipe(self, images: ImageSet, *, smoothing: float, seed: int) -> Recipe:
        """Return the settings of one network's training."""
        view = Preprocess(height=self.size, width=self.size, resize="whole", mean=(0.5,) * 3, std=(0.5,) * 3)
        return Recipe(
            network=self.network,
            weights="random",
            images=images.digest,
            steps=self.steps,
            batch_size=self.batch_size,
            preprocess=view,
            crop_scale=self.crop_scale,
            augmenter=default_decoder(),
            decoder=default_decoder(),
            label_smoothing=smoothing,
            eval_every=max(1, self.steps // 4),
            seed=seed,
        )


class _Rows:
    """A source of some rows of another set."""

    def __init__(self, source: ImageSource, rows: NDArray[np.int64]) -> None:
        self._source = source
        self._rows = rows.tolist()
        self.location = source.location
        self.reads_at_once = source.reads_at_once

    def read(self, index: int) -> bytes | NDArray[np.uint8]:
        return self._source.read(self._rows[index])

    def fingerprint(self, index: int) -> FileFingerprint:
        return self._source.fingerprint(self._rows[index])


def part(images: ImageSet, classes: Sequence[int], counts: Sequence[int], *, name: str) -> ImageSet:
    """Return a set of at most so many images of each class and split, in a random order of seed 0."""
    rng = np.random.default_rng(0)
    chosen: list[int] = []
    for label in classes:
        for split, count in zip(("train", "val", "test"), counts, strict=True):
            members = np.flatnonzero((images.labels_N == label) & (images.split_N == split))
            chosen += rng.permutation(members)[:count].tolist()
    rows = np.sort(np.array(chosen, dtype=np.int64))
    return build_image_set(
        name=name,
        ids=images.ids_N[rows].tolist(),
        labels_N=np.searchsorted(np.array(classes), images.labels_N[rows]),
        split_N=images.split_N[rows],
        class_names=[images.class_names[label] for label in classes],
        metric=images.metric,
        source=_Rows(images.source, rows),
        provenance={"part of": images.digest},
    )


def pretrain(images: ImageSet, experiment: Experiment, out: Path, *, smoothing: float, seed: int) -> tuple[Trial, Path]:
    """Train one network from scratch; return its Trial on its own classes, and its folder."""
    initial = load_initial_model(experiment.network, init="random", weights="timm", seed=seed)
    grid = Grid(
        learning_rates=(experiment.learning_rate,),
        weight_decays=(experiment.weight_decay,),
        steps=experiment.steps,
        batch_size=experiment.batch_size,
    )
    recipe = experiment.recipe(images, smoothing=smoothing, seed=seed)
    search = GridSearch(images=images, initial=initial, recipe=recipe, grid=grid, retrain=False)
    world = World(rank=0, size=1, device=torch.device("cpu"))
    result = run_search(search, out, Resources(world=world, settings=ResourceSettings(workers=1)))
    assert result.trial is not None
    assert result.folder is not None
    return result.trial, result.folder


def features_of(folders: Sequence[Path], images: ImageSet, experiment: Experiment, store: Path) -> list[FeatureSet]:
    """Extract features of ``images`` by each network; an image is decoded once for all of them."""
    networks = [load_backbone(experiment.network, weights=str(folder)) for folder in folders]
    decoder = make_decoder(default_decoder(), num_workers=1)
    extracted = embed_images(images, Extractor(backbones=networks, decoder=decoder), FeatureStore.create(store))
    return [each.features for each in extracted]


def correct_N(trial: Trial) -> NDArray[np.bool_]:
    """Return True for each test image that was classified correctly, (N,)."""
    right: NDArray[np.bool_] = trial.arrays["test_predictions"] == trial.arrays["test_labels"]
    return right


def compared(plain: Sequence[Trial], smoothed: Sequence[Trial]) -> dict[str, Any]:
    """Test smoothed minus plain for each seed and summed over seeds, exchanging an image's predictions together."""
    pairs = [(correct_N(b), correct_N(a)) for a, b in zip(plain, smoothed, strict=True)]
    difference_N = np.mean([b.astype(float) - a for b, a in pairs], axis=0) / len(pairs[0][0])
    return {
        "a_seed": [asdict(mcnemar_test(b, a)) for b, a in pairs],
        "over_seeds": asdict(permutation_test(difference_N, rng=np.random.default_rng(0))),
    }


def run(images: ImageSet, experiment: Experiment, out: Path) -> Mapping[str, Any]:
    """Run the whole experiment; results that are in ``out`` already are not computed again."""
    middle = len(images.class_names) // 2
    upstream = part(images, range(middle), experiment.pretrain, name=f"{images.name}-first-classes")
    downstream = part(images, range(middle, 2 * middle), experiment.probe, name=f"{images.name}-other-classes")
    runs = [(smoothing, seed) for smoothing in experiment.label_smoothing for seed in range(experiment.seeds)]
    trained = [pretrain(upstream, experiment, out, smoothing=smoothing, seed=seed) for smoothing, seed in runs]
    features = features_of([folder for _, folder in trained], downstream, experiment, out / "features.zarr")
    settings = ProbeSettings(path=RegularizationPath.paper())
    probes = [run_probe(found, settings).trial for found in features]
    rows = [
        {
            "label_smoothing": smoothing,
            "seed": seed,
            "pretraining_top1": trial.metrics["test"]["top1"],
            "probe_top1": probe.metrics["test"]["top1"],
            "probe_l2": probe.chosen["l2"],
            "probe_certified": probe.converged,
            "training_seconds": trial.wall_seconds,
        }
        for (smoothing, seed), (trial, _), probe in zip(runs, trained, probes, strict=True)
    ]
    own = [trial for trial, _ in trained]
    seeds = experiment.seeds
    return {
        "experiment": asdict(experiment),
        "pretrained_on": list(upstream.class_names),
        "probed_on": list(downstream.class_names),
        "networks": rows,
        "pretraining": compared(own[:seeds], own[seeds : 2 * seeds]),
        "probe": compared(probes[:seeds], probes[seeds : 2 * seeds]),
    }


def differences(found: Mapping[str, Any]) -> list[Row]:
    """Return a row for where the networks were trained and for the probe: the difference over seeds and by seed."""
    names = {"pretraining": "where it was trained", "probe": "probe of its features on other classes"}
    return [
        {
            "top-1": name,
            "difference over seeds, points": f"{100 * found[part]['over_seeds']['difference']:+.2f}",
            "p (permutation)": f"{found[part]['over_seeds']['p_value']:.2g}",
            **{
                f"seed {seed}, points (p, McNemar)": f"{100 * test['difference']:+.2f} ({test['p_value']:.2g})"
                for seed, test in enumerate(found[part]["a_seed"])
            },
        }
        for part, name in names.items()
    ]


def report(images: ImageSet, experiment: Experiment, out: Path) -> Report:
    """Run the experiment and return its report."""
    found = run(images, experiment, out)
    plain, smoothed = experiment.label_smoothing
    return Report(
        bench="pretraining-settings",
        title=f"Does label smoothing in pre-training hurt the features? {experiment.network} on {images.name}",
        settings={**asdict(experiment), "trained on": found["pretrained_on"], "probed on": found["probed_on"]},
        tables={
            f"Label smoothing {smoothed:g} less {plain:g}": differences(found),
            "Networks": texts(found["networks"], digits=4),
        },
        results=[found],
        not_measured=[
            "Over seeds: the two settings' predictions of an image are exchanged together. That takes the seeds as "
            "they are, so that it says nothing of other seeds.",
            "No speed should be read of the training seconds, which are those of one worker beside whatever else ran.",
        ],
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the experiment on one image set and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images")
    parser.add_argument("report", type=Path)
    parser.add_argument("--root", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="folder of networks and features, which is kept")
    usual = Experiment()
    parser.add_argument("--network", default=usual.network)
    parser.add_argument("--size", type=int, default=usual.size)
    parser.add_argument("--steps", type=int, default=usual.steps)
    parser.add_argument("--seeds", type=int, default=usual.seeds)
    given = parser.parse_args(arguments)
    experiment = Experiment(network=given.network, size=given.size, steps=given.steps, seeds=given.seeds)
    report(load_images(given.images, root=given.root), experiment, given.out).write(given.report)


if __name__ == "__main__":
    main()
