"""Small things people meet: names that clash, a folder for a head, a model's name before the images, orientation."""

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.store_cases import small_job
from support.trial_cases import trial_of

from penultimate.cli.main import run
from penultimate.engine.analysis.dataset_names import told_apart
from penultimate.store.feature_store import FeatureStore
from penultimate.store.trials.trial_log import TrialLog

TINY = ("--weights", "random", "--workers", "1", "--no-compile", "--decoder", "pillow", "--no-cache")


def test_two_datasets_of_one_name_are_told_apart_in_every_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = TrialLog.create(tmp_path / "trials")
    for images, wrong in (("aaaaaaaa11111111", 10), ("bbbbbbbb22222222", 20)):
        log.append(trial_of(dataset="images", wrong=range(wrong), features={"images": images}))
    log.append(trial_of(dataset="other"))
    assert run(["show", str(tmp_path / "trials")]) == 0
    out = capsys.readouterr().out
    assert "images (aaaaaaaa)" in out
    assert "images (bbbbbbbb)" in out
    assert "other (" not in out
    apart = told_apart(log.trials())
    assert [trial.id for trial in apart] == [trial.id for trial in log.trials()]
    assert told_apart(apart) == apart


def test_two_folders_of_one_name_are_told_apart_in_a_store(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = str(tmp_path / "s.zarr")
    command = ["--store", store, "--model", "test_resnet", *TINY, "--set", "parity=false"]
    assert run(["extract", str(photos), *command]) == 0
    (photos / "cat" / "00.jpg").unlink()
    assert run(["extract", str(photos), *command]) == 0
    capsys.readouterr()
    assert run(["store", "ls", store]) == 0
    out = capsys.readouterr().out
    assert all(f"photos ({key.images[:8]})" in out for key in FeatureStore(store).keys())  # noqa: SIM118


def test_an_extraction_that_is_not_complete_is_listed_beside_sets_of_its_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, job = FeatureStore.create(tmp_path / "store"), small_job()
    job.write(store)
    job.part(range(40)).write(store)
    begun = replace(job, embedding=replace(job.embedding, weights="0123456789abcdef"))
    with begun.writer(store) as writer:
        begun.append(writer, np.arange(16))
    assert run(["store", "ls", str(tmp_path / "store")]) == 0
    lines = [line.split("│") for line in capsys.readouterr().out.splitlines() if "insects" in line]
    complete_of = {dataset.strip(): complete.strip() for _, dataset, *_, complete, _ in lines}
    sets = {f"insects/2024 ({key.images[:8]})": "yes" for key in store.keys()}  # noqa: SIM118
    assert len(sets) == 2
    assert complete_of == {**sets, "insects/2024": "no"}  # whose images have no digest yet


def test_a_dataset_is_called_what_people_call_it(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = str(tmp_path / "s.zarr")
    for name in ([], ["--name", "cats & owls"]):
        assert run(["extract", str(photos), "--store", store, "--model", "test_resnet", *TINY, *name]) == 0
    capsys.readouterr()
    assert run(["store", "ls", store]) == 0
    assert "photos (" not in capsys.readouterr().out  # other names and one digest
    keys = FeatureStore(store).keys()
    assert sorted(key.dataset for key in keys) == ["cats & owls", "photos"]
    assert len({key.images for key in keys}) == 1
    assert run(["probe", store, "--trials", str(tmp_path / "t"), "--dataset", "cats*", "--l2", "1e-2:1:2"]) == 0
    assert "cats & owls" in capsys.readouterr().out


@pytest.mark.parametrize("verb", ["extract", "parity", "bench extract", "train"])
def test_the_name_of_a_model_and_its_weights_are_checked_before_the_images(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outputs = {"extract": ["--store", str(tmp_path / "s")], "train": ["--out", str(tmp_path / "runs")]}.get(verb, [])
    pointer, page, folder = tmp_path / "pointer.safetensors", tmp_path / "page.pth", tmp_path / "transformers"
    pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    page.write_text("<!DOCTYPE html><html></html>")
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "vit"}')
    for given, says in (
        (["--model", "resnet5o"], "resnet50"),
        (["--model", "resnet18", "--weights", "absent.pth"], "no weights file absent.pth"),
        (["--model", "resnet18", "--weights", str(pointer)], "git lfs pull"),
        (["--model", "resnet18", "--weights", str(page)], "a web page"),
        (["--model", "resnet18", "--weights", str(folder)], "a model of transformers (vit)"),
    ):
        assert run([*verb.split(), str(tmp_path / "nowhere"), *given, *outputs]) == 2
        assert says in capsys.readouterr().err


def test_a_trial_log_given_for_a_head_is_answered_with_its_heads(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    heads = tmp_path / "trials" / "heads"
    heads.mkdir(parents=True)
    assert run(["predict", str(photos), "--head", str(tmp_path / "trials")]) == 2
    assert "is a folder, a head is a file; `penultimate probe` writes" in capsys.readouterr().err
    for name in "abcd":
        (heads / f"{name}.safetensors").touch()
    assert run(["predict", str(photos), "--head", str(tmp_path / "trials")]) == 2
    err = capsys.readouterr().err
    assert f"{heads / 'a.safetensors'}" in err
    assert "and 1 more" in err


@pytest.mark.slow
def test_orientation_is_another_preprocess_and_predictions_follow_it(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for path in photos.rglob("*.jpg"):
        content = io.BytesIO()
        with Image.open(io.BytesIO(path.read_bytes())) as image:
            image.save(content, "JPEG", exif=exif, quality=95)
        path.write_bytes(content.getvalue())
    store, trials = str(tmp_path / "s.zarr"), tmp_path / "t"
    for kind in ("paper", "paper-exif"):
        command = ["extract", str(photos), "--store", store, "--model", "test_resnet", *TINY, "--preprocess", kind]
        assert run(command) == 0
    opened = FeatureStore(store)
    stored, upright = (opened.read(key) for key in opened.keys())  # noqa: SIM118
    assert stored.key.preprocess != upright.key.preprocess
    assert not np.allclose(stored.features, upright.features, rtol=1e-2)
    assert {each.provenance["preprocess"].get("exif_orientation") for each in (stored, upright)} == {
        None,
        True,
    }
    assert run(["probe", store, "--trials", str(trials), "--l2", "1e-2:1:2"]) == 0
    for trial in TrialLog(trials).trials():
        capsys.readouterr()
        head = trials / "heads" / f"{trial.id}.safetensors"
        assert run(["predict", str(photos), "--head", str(head), *TINY[:-1], "--json"]) == 0
        found = {row["id"]: row["class"] for row in json.loads(capsys.readouterr().out)}
        names = ["cat", "dog", "owl"]
        kept = zip(trial.arrays["test_ids"].tolist(), trial.arrays["test_predictions"].tolist(), strict=True)
        assert all(found[id_] == names[index] for id_, index in kept)


def test_float16_that_cannot_hold_some_features_is_said_with_what_to_do(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from safetensors.torch import save_file

    from penultimate.engine.backbones.architectures.networks import create_network

    model = create_network("test_resnet")
    state = {name: tensor.clone().contiguous() for name, tensor in model.state_dict().items()}
    last = max(
        name for name in state if (name.startswith("layer4") and name.endswith("bn3.bias")) or name.endswith("bn2.bias")
    )
    state[last] += 1e6
    save_file(state, tmp_path / "large.safetensors")
    options = [
        "--model",
        "test_resnet",
        "--weights",
        str(tmp_path / "large.safetensors"),
        *TINY[2:],
        "--set",
        "parity=false",
    ]
    command = ["extract", str(photos), "--store", str(tmp_path / "s"), *options]
    assert run([*command, "--set", "dtype=float16"]) == 2
    assert "--dtype float32" in capsys.readouterr().err
    assert run(command) == 0
    assert "NaN" not in capsys.readouterr().err
