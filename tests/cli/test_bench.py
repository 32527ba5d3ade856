"""``bench`` and ``parity`` print their results and exit codes; ``extract`` keeps the result of its parity check."""

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from penultimate.cli.main import run
from penultimate.engine.backbones.timm_backbone import TimmBackbone
from penultimate.engine.extract import parity
from penultimate.engine.images import digest_cache
from penultimate.engine.images.decode.decoded_batch import Pixels
from penultimate.engine.images.sources import FileSource
from penultimate.engine.runtime.capabilities import machine
from penultimate.store.feature_store import FeatureStore

TINY = ("--model", "test_resnet", "--weights", "random", "--workers", "1", "--no-compile", "--decoder", "pillow")


def test_bench_prints_timms_columns_with_bottleneck_and_ratio(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "extract", str(photos), *TINY, "--images", "8", "--rounds", "1", "--json"]) == 0
    out, err = capsys.readouterr()
    (row,) = json.loads(out)["results"]
    timms = {"model", "infer_samples_per_sec", "infer_step_time", "infer_batch_size", "infer_img_size", "param_count"}
    assert timms | {"bottleneck", "ratio_to_ceiling", "decode_per_sec", "write_per_sec"} <= row.keys()
    assert (row["images"], row["infer_batch_size"]) == (8, 8)
    assert json.loads(out)["machine"] == machine()
    assert "not compiled, as asked" in err


def test_a_report_is_written_and_two_are_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.md", "b.md"):
        assert run(["bench", "store", ".", "--rows", "1100", "--dim", "8", "--rounds", "2", "--out", name]) == 0
    out, err = capsys.readouterr()
    assert "FeatureWriter" in out
    assert "wrote b.md and b.json" in err
    assert "Medians of 2 rounds" in err
    assert Path("a.md").read_text().startswith("# The store beside plain files")
    assert run(["bench", "compare", "a.json", "b.md", "--json"]) == 0
    compared = json.loads(capsys.readouterr().out)
    assert {change["verdict"] for change in compared["changes"]} <= {"faster", "slower", "same"}
    assert run(["bench", "compare", "a.json", "b.json"]) == 0
    assert "FeatureSet.rows_at" in capsys.readouterr().out


def test_features_are_drawn_or_read_to_be_probed(probe_store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = ["--l2", "0.01:100:3", "--rounds", "1"]
    for features in (["--shape", "120,6,3"], [str(probe_store)]):
        assert run(["bench", "probe", *features, *few, "--json"]) == 0
        report = json.loads(capsys.readouterr().out)
        assert [line["items"] for line in report["measurements"]] == [3, 3, 3, 1, 1, 1, 4]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["store", "nowhere"], "nowhere is no folder"),
        (["store", ".", "--out", "report.txt"], "ends in .md"),
        (["store", ".", "--seconds", "0"], "seconds"),
        (["probe"], "STORE or --shape"),
        (["probe", "--shape", "12"], "N,D,K"),
        (["compare", "a.json", "b.json"], "no report a.json"),
        (["gpu", "--steps", "party"], "parity"),
        (["train", ".", "-m", "resnet5O"], "resnet50"),
        (["decode", "nowhere"], "nowhere"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(
    arguments: list[str],
    expected: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["bench", *arguments]) == 2
    out, err = capsys.readouterr()
    assert (out, len(err.strip().splitlines())) == ("", 1)
    assert expected in err


@pytest.mark.slow
def test_several_models_get_a_row_each_and_one_together(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models = ("--model", "test_vit", "--precision", "float32")
    assert run(["bench", "extract", str(photos), *TINY, *models, "--images", "4", "--rounds", "1", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["results"]
    alone = ["test_resnet.random0", "test_vit.random0"]
    assert [row["model"] for row in rows] == [*alone, " + ".join(alone)]


def test_parity_passes_the_reference_itself(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["parity", str(photos), *TINY, "--precision", "float32", "--images", "4", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["passed"], row["num_images"], row["pixel_distance"]) == (True, 4, 0.0)
    assert row["machine"] == machine()


def test_bench_and_parity_read_no_image_but_their_sample(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: set[str] = set()
    original = FileSource.read

    def noted(source: FileSource, index: int) -> bytes:
        read.add(source.paths[index])
        return original(source, index)

    monkeypatch.setattr(FileSource, "read", noted)
    assert run(["bench", "extract", str(photos), *TINY, "--images", "8", "--rounds", "1"]) == 0
    assert len(read) == 8
    read.clear()
    assert run(["parity", str(photos), *TINY, "--precision", "float32", "--images", "4"]) == 0
    assert len(read) == 4


def test_parity_past_its_tolerance_says_so_and_leaves_with_1(
    photos: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(parity.COSINE_TOLERANCE, "float32", 1.5)  # which no vectors reach
    assert run(["parity", str(photos), *TINY, "--precision", "float32", "--images", "4"]) == 1
    out, err = capsys.readouterr()
    assert "test_resnet.random0" in out
    assert "too far from the reference: test_resnet.random0: smallest cosine" in err


@pytest.mark.slow
def test_extract_keeps_its_gate_and_says_where_it_fails(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "s.zarr"
    arguments = ["extract", str(photos), "--store", str(store), *TINY, "--precision", "float32"]
    with monkeypatch.context() as strict:
        strict.setitem(parity.FEATURE_TOLERANCE, "float32", -1.0)
        assert run(arguments) == 0
        assert "far from the reference (median feature distance" in capsys.readouterr().err
    (key,) = FeatureStore(store).keys()
    assert not FeatureStore(store).read(key).provenance["parity"]["passed"]
    FeatureStore(store).delete(key)
    assert run([*arguments, "--set", "parity=false"]) == 0
    assert FeatureStore(store).read(key).provenance["parity"] is None
    FeatureStore(store).delete(key)
    assert run(arguments) == 0
    provenance = FeatureStore(store).read(key).provenance
    assert provenance["parity"]["passed"]
    assert provenance["parity"]["num_images"] == 24
    assert "not compiled, as asked" in provenance["compile"]
    assert provenance["backbone"]["compiled"] is False


def test_extracting_what_is_complete_neither_compiles_nor_checks(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(digest_cache, "_SETTLED_NS", 0)  # the photographs are only just written
    arguments = ["extract", str(photos), "--store", str(tmp_path / "s.zarr"), *TINY, "--precision", "float32"]
    assert run(arguments) == 0
    capsys.readouterr()
    monkeypatch.setattr(TimmBackbone, "embed", None)
    assert run([*arguments, "--compile"]) == 0
    assert "nothing to compute" in capsys.readouterr().err


def test_a_network_is_compiled_for_the_rows_that_its_passes_have(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[int] = []
    passed: list[int] = []
    embed = TimmBackbone.embed

    def compile_for(backbone: TimmBackbone, rows: int) -> float:
        compiled.append(rows)
        return 0.0

    def counted(backbone: TimmBackbone, images_BHWC: Pixels) -> dict[str, NDArray[np.float32]]:
        passed.append(len(images_BHWC))
        return embed(backbone, images_BHWC)

    monkeypatch.setattr(TimmBackbone, "compile", compile_for)
    monkeypatch.setattr(TimmBackbone, "embed", counted)
    six = (*TINY, "--compile", "--batch-size", "6", "--set", "parity=false")
    assert run(["extract", str(photos), "--store", str(tmp_path / "s.zarr"), *six]) == 0
    assert compiled == [4]  # the largest divisor of a shard's rows that is no more than 6
    assert [rows for rows in passed if rows] == [4] * 6
