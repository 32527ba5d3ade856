"""Ceilings of throughput are as documented, and a measurement with a tiny network adds up."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from penultimate.engine.backbones.request import BackboneRequest
from penultimate.engine.backbones.timm_backbone import TimmBackbone, load_backbone
from penultimate.engine.bench.throughput import Rates, Stages, Throughput, fitting_images, measure, most_images
from penultimate.engine.bench.timing.turns import Lap, Laps, TurnOptions, timed
from penultimate.engine.extract.extract import extract_job
from penultimate.engine.extract.extractor import Extractor
from penultimate.engine.extract.fetch_rates import FetchRates
from penultimate.engine.extract.prepare import ExtractionJob
from penultimate.engine.extract.settings import ExtractionSettings
from penultimate.engine.images.decode.decoded_batch import Pixels
from penultimate.engine.images.decode.pillow import PillowDecoder
from penultimate.engine.images.formats.folder import load_folder
from penultimate.engine.images.subset import sample_rows, subset
from penultimate.engine.runtime.threads import ThreadBudget
from penultimate.store.errors import DecodeError
from penultimate.store.feature_store import FeatureStore


def lap(rate: float, *, items: int = 10) -> Lap:
    seconds = items / rate
    return Lap(items=items, wall_seconds=seconds, self_seconds=seconds, other_seconds=0.0, complete=True)


def throughput(*rounds: Rates, shared_cores: bool = True) -> Throughput:
    laps = {
        name: Laps(
            name=name,
            group="a",
            warm_up=lap(getattr(rounds[0], name)),
            rounds=tuple(lap(getattr(rates, name)) for rates in rounds),
        )
        for name in ("decode", "model", "write", "end_to_end")
    }
    fetches = tuple(rates.fetch for rates in (rounds[0], *rounds) if rates.fetch is not None)
    return Throughput(
        model="a", precision="float32", num_images=10, batch_size=8, image_size=32, parameters=2_000_000,
        shared_cores=shared_cores, listing_seconds=None, num_listed=0, laps=laps, fetches=fetches,
    )  # fmt: skip


def test_the_ceiling_is_the_slowest_stage_or_on_shared_cores_all_of_them_together() -> None:
    rates = Rates(decode=100.0, model=25.0, write=1e9, end_to_end=19.0)
    assert rates.ceiling(shared_cores=False) == 25.0
    assert rates.ceiling(shared_cores=True) == pytest.approx(20.0, rel=1e-6)  # 1 / (1/100 + 1/25)
    assert rates.bottleneck() == "model"


def test_a_finding_says_what_the_ceiling_is_made_of() -> None:
    rates = Rates(decode=100.0, model=25.0, write=1e9, end_to_end=19.0)
    (shared,), (apart,) = (throughput(rates, shared_cores=each).findings() for each in (True, False))
    assert "bottleneck is model; its stages, which share the cores, allow 20.0 images/s (the ceiling, 1 / sum" in shared
    assert "bottleneck is model; its slowest stage allows 25.0 images/s (the ceiling, min(rate))." in apart


def test_the_ratio_is_that_of_a_round_and_the_rates_are_medians() -> None:
    rounds = [Rates(decode=d, model=100.0, write=1e12, end_to_end=e) for d, e in ((100, 40), (300, 75), (100, 45))]
    row = throughput(*rounds).as_dict()
    assert row["ratio_to_ceiling"] == pytest.approx(0.9)
    assert row["ratio_to_ceiling_range"] == pytest.approx([0.8, 1.0])
    assert (row["decode_per_sec"], row["end_to_end_per_sec"]) == pytest.approx((100, 45))
    assert (row["infer_samples_per_sec"], row["infer_step_time"]) == pytest.approx((100.0, 80.0))
    assert row["param_count"] == 2.0


def fetch_rates(images: float = 50.0, *, ms: float = 20.0, alone: float = 20.0, cores: float = 0.1) -> FetchRates:
    return FetchRates(
        images=images, megabytes=5.0, request_ms=ms, request_ms_alone=alone, busy_cores=cores, connections=64
    )  # fmt: skip


def test_fetching_is_limited_by_connections_until_requests_wait_for_each_other() -> None:
    assert fetch_rates(ms=24.0).limit == "connections"
    assert fetch_rates(ms=52.0).limit == "network"
    assert fetch_rates(ms=52.0, cores=0.95).limit == "cores"


def test_the_bottleneck_of_images_from_a_server_may_be_fetching_or_listing() -> None:
    rates = Rates(decode=100.0, model=90.0, write=1e9, end_to_end=19.0, fetch=fetch_rates(ms=52.0))
    assert rates.ceiling(shared_cores=True) == pytest.approx(1 / (1 / 100 + 1 / 90))
    assert rates.ceiling(shared_cores=False) == 50.0
    assert rates.bottleneck(listing=1e4) == "network"
    assert rates.bottleneck(listing=49.0) == "listing"
    row = replace(throughput(rates), listing_seconds=10.0, num_listed=100_000).as_dict()
    assert (row["requests_per_sec"], row["request_ms"], row["fetch_limit"]) == (50.0, 52.0, "network")
    assert (row["listing_per_sec"], row["bottleneck"]) == (1e4, "network")


def test_of_images_on_this_machine_nothing_is_said_of_a_server() -> None:
    row = throughput(Rates(decode=100.0, model=90.0, write=1e9, end_to_end=19.0)).as_dict()
    assert not {"requests_per_sec", "fetch_limit", "listing_seconds"} & row.keys()


def test_stages_and_the_whole_are_measured_on_the_same_images(photos: Path) -> None:
    whole = load_folder(photos, labels=False)
    images = subset(whole, sample_rows(len(whole), 12))
    backbones = [load_backbone("test_resnet", weights="random"), load_backbone("test_vit", weights="random")]
    threads = ThreadBudget(decode=1, replicas=1, per_replica=1)
    extractor = Extractor(backbones=backbones, decoder=PillowDecoder(), batch_size=4, threads=threads)
    measured = measure(images, extractor, TurnOptions(rounds=1), num_parameters=7, shared_cores=True)
    assert measured.model == "test_resnet.random0 + test_vit.random0"
    assert measured.num_images == 12
    assert len(measured.rounds) == 1
    assert [(each.name, each.items, each.complete) for each in measured.measurements()] == [
        (name, 12, True) for name in ("decode", "model", "write", "end to end")
    ]
    row = measured.as_dict()
    assert row["bottleneck"] in ("decode", "model", "write")
    assert all(row[f"{stage}_per_sec{when}"] > 0 for stage in ("decode", "model", "write", "end_to_end")
               for when in ("", "_first_round"))  # fmt: skip
    seconds = measured.laps["end_to_end"].rounds[-1].wall_seconds
    assert [each.stage for each in measured.within] == ["decode", "model", "write"]
    assert all(each.self_seconds > 0 and each.waiting_seconds >= 0 for each in measured.within)
    assert all(each.self_seconds + each.waiting_seconds <= seconds for each in measured.within)


def test_as_many_images_are_measured_as_the_seconds_allow(photos: Path) -> None:
    images = load_folder(photos, labels=False)
    threads = ThreadBudget(decode=1, replicas=1, per_replica=1)
    extractor = Extractor(
        backbones=[load_backbone("test_resnet", weights="random")],
        decoder=PillowDecoder(),
        batch_size=4,
        threads=threads,
    )
    assert fitting_images(images, extractor, TurnOptions(seconds=1e6)) == len(images)
    assert fitting_images(images, extractor, TurnOptions(seconds=1e-6)) == 8  # two batches, however little the time


def test_what_is_measured_end_to_end_passes_as_many_images_as_extract_does(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passed: list[int] = []
    embed = TimmBackbone.embed

    def counted(backbone: TimmBackbone, images_BHWC: Pixels) -> dict[str, NDArray[np.float32]]:
        passed.append(len(images_BHWC))
        return embed(backbone, images_BHWC)

    (photos / "cat" / "03.jpg").write_bytes(b"no image")
    settings = ExtractionSettings(decoder="pillow", workers=1, batch_size=8, compile=False, parity=False)
    job = ExtractionJob(requests=(BackboneRequest(model="test_resnet", weights="random"),), settings=settings)
    monkeypatch.setattr(TimmBackbone, "embed", counted)
    store = FeatureStore.create(tmp_path / "store")
    (extracted,) = extract_job(load_folder(photos), job, store)
    by_extract = [count for count in passed if count]
    extractor = job.extractor([load_backbone("test_resnet", weights="random")])
    passed.clear()
    lap = timed(Stages(load_folder(photos), extractor).contender("end_to_end"))
    assert (lap.items, lap.complete) == (extracted.features.num_rows + len(extracted.features.failed), True)
    assert [count for count in passed if count] == by_extract


def test_images_of_which_none_can_be_decoded_are_refused(photos: Path) -> None:
    for path in photos.rglob("*.jpg"):
        path.write_bytes(b"no image")
    extractor = Extractor(backbones=[load_backbone("test_resnet", weights="random")], decoder=PillowDecoder())
    with pytest.raises(DecodeError, match="not one of 24 images"):
        measure(load_folder(photos, labels=False), extractor, TurnOptions(), num_parameters=7, shared_cores=True)


def test_a_decoder_builds_its_pipeline_in_the_first_round_alone(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Building one takes as long as decoding hundreds of images on a GPU."""
    pytest.importorskip("nvidia.dali")
    from penultimate.engine.images.decode.dali_gpu import DaliGpuDecoder
    from penultimate.engine.images.decode.dali_gpu_pipeline import GpuPipeline

    built = []
    build = GpuPipeline._build

    def noting(pipeline: GpuPipeline) -> object:
        built.append(pipeline)
        return build(pipeline)

    monkeypatch.setattr(GpuPipeline, "_build", noting)
    extractor = Extractor(
        backbones=[load_backbone("test_resnet", weights="random")],
        decoder=DaliGpuDecoder(num_workers=1, device="cpu"),
        batch_size=4,
        threads=ThreadBudget(decode=1, replicas=1, per_replica=1),
    )
    images = load_folder(photos, labels=False)
    measure(images, extractor, TurnOptions(rounds=2), num_parameters=7, shared_cores=True)
    assert len(built) == 1


def test_a_gpu_is_given_images_for_seconds() -> None:
    assert most_images("cpu") == 1024
    assert most_images("cuda:1") == 16 * 1024


def test_a_subset_keeps_each_samples_own_bytes(photos: Path) -> None:
    whole = load_folder(photos, labels=False)
    rows = sample_rows(len(whole), 5)
    part = subset(whole, rows)
    assert part.ids_N.tolist() == whole.ids_N[rows].tolist()
    assert [part.source.read(i) for i in range(5)] == [whole.source.read(int(row)) for row in rows]
    assert part.digest != whole.digest
    assert sample_rows(3, 5).tolist() == [0, 1, 2]
