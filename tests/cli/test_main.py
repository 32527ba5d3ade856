"""Commands exit with the right code, one line on stderr and data on stdout."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
import zarr

from penultimate.cli.main import app, run
from penultimate.store.feature_store import FeatureStore

SHARED = {
    "--device", "--workers", "--seed", "--json", "--root", "--weights", "--decoder", "--shard",
    "--val-fraction", "--test-fraction", "--label-column", "--multi-label",
}  # fmt: skip
TINY = ("--model", "test_resnet", "--weights", "random", "--workers", "1")


def _one_line(capsys: pytest.CaptureFixture[str]) -> str:
    out, err = capsys.readouterr()
    *said, error = err.strip().splitlines()
    assert out == ""
    assert len(said) <= 1, err  # what the images were read as, where that was known before the fault
    assert not any(line.startswith("penultimate: ") for line in said)
    assert error.startswith("penultimate: ")
    return error


@pytest.mark.parametrize(
    "verb",
    [
        (),
        ("extract",),
        ("probe",),
        ("show",),
        ("store", "verify"),
        ("models",),
        ("demo",),
        ("analyze",),
        ("report",),
        ("train",),
        ("predict",),
        ("study", "init"),
        ("study", "run"),
    ],
)
def test_every_help_shows_an_example(verb: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*verb, "--help"]) == 0
    assert f"penultimate {' '.join(verb)}".strip() in capsys.readouterr().out.replace("Usage: penultimate", "")


def test_extract_then_ls_prints_the_same_key_as_json(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = str(tmp_path / "s.zarr")
    assert run(["extract", str(photos), "--store", store, *TINY, "--json"]) == 0
    extracted = json.loads(capsys.readouterr().out)
    assert run(["store", "ls", store, "--json"]) == 0
    (listed,) = json.loads(capsys.readouterr().out)
    assert [row["digest"] for row in extracted] == [listed["digest"]]
    assert (listed["rows"], listed["total"], listed["complete"]) == (24, 24, True)
    assert run(["store", "verify", store]) == 0


def test_extracting_again_computes_nothing(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["extract", str(photos), "--store", str(tmp_path / "s.zarr"), *TINY]
    assert run(command) == 0
    (shard,) = (tmp_path / "s.zarr").rglob("features/c/0/0")
    before = shard.stat().st_mtime_ns
    assert run(command) == 0
    assert shard.stat().st_mtime_ns == before


def test_an_undecodable_image_is_left_out_by_name_and_the_others_stay(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "dog" / "03.jpg").write_bytes(b"not an image")
    assert run(["extract", str(photos), "--store", str(tmp_path / "s.zarr"), *TINY]) == 0
    assert "left out dog/03.jpg" in capsys.readouterr().err
    store = FeatureStore(tmp_path / "s.zarr")
    features = store.read(store.keys()[0])
    assert features.features.shape[0] == len(features.ids) == 23
    assert "dog/03.jpg" not in features.ids.tolist()


def test_all_images_undecodable_is_a_failed_run(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in photos.rglob("*.jpg"):
        path.write_bytes(path.name.encode() * 9)
    assert run(["extract", str(photos), "--store", str(tmp_path / "s.zarr"), *TINY]) == 1
    assert "none of the 24 images" in capsys.readouterr().err
    assert FeatureStore(tmp_path / "s.zarr").keys() == []


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["extract", "{tmp}/nowhere", "--store", "{tmp}/s", *TINY], "no folder"),
        (["extract", "{tmp}/empty", "--store", "{tmp}/s", *TINY], "no images in"),
        (["extract", "{photos}", "--store", "{tmp}/s", "--model", "resnet5O"], "resnet50"),
        (["extract", "{few}", "--store", "{tmp}/s", *TINY], "owl"),
        (["extract", "caltech102", "--store", "{tmp}/s", *TINY], "caltech101"),
        (["extract", "caltech101", "--store", "{tmp}/s", *TINY], "--root"),
        (["extract", "{photos}", "--store", "{tmp}/empty.txt", *TINY], "empty.txt"),
        (["extract", "{photos}", "--store", "{tmp}/s", "--model", "test_resnet", "--weights", "{tmp}/w.pth"], "w.pth"),
        (["extract", "{photos}", "--store", "{tmp}/s", "--model", "test_resnet", "--weights", "{tmp}/odd.pth"], "odd"),
        (["extract", "{photos}", "--store", "{tmp}/nowhere/s", *TINY], "nowhere"),
        (["extract", "{photos}", "--store", "{tmp}/s", *TINY, "--device", "cuda"], "CUDA"),
        (["extract", "{photos}", "--store", "{tmp}/s", *TINY, "--test-fraction", "0.95"], "leave something for train"),
        (["extract", "{tmp}/m.csv", "--store", "{tmp}/s", *TINY], "label"),
        (["extract", "{photos}", "--stor", "{tmp}/s", *TINY], "--stor"),
        (["extract", "{photos}", "--store", "{tmp}/s", *TINY, "--precision", "int4"], "int4"),
        (["extract", "{photos}", "--store", "{tmp}/s", *TINY, "--batch-size", "0"], "batch_size"),
        (["store", "ls", "{tmp}/empty"], "empty"),
        (["store", "ls", "{tmp}/nowhere"], "extract"),
        (["probe", "{tmp}/empty", "--trials", "{tmp}/t"], "empty"),
        (["show", "{tmp}/empty"], "empty"),
        (["extrct"], "extrct"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(
    arguments: list[str], expected: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.txt").touch()
    torch.save({"conv1.weight": torch.zeros(3)}, tmp_path / "odd.pth")
    few = shutil.copytree(photos, tmp_path / "few")
    for path in sorted((few / "owl").iterdir())[2:]:
        path.unlink()
    (tmp_path / "m.csv").write_text("path,klass\nphotos/cat/00.jpg,cat\n")
    if "cuda" in arguments and torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    filled = [argument.format(tmp=tmp_path, photos=photos, few=few) for argument in arguments]
    assert run(filled) == 2
    assert expected in _one_line(capsys)


def test_a_flipped_byte_is_named_and_exit_code_1(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["extract", str(photos), "--store", str(tmp_path / "s.zarr"), *TINY]) == 0
    (shard,) = (tmp_path / "s.zarr").rglob("features/c/0/0")
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    capsys.readouterr()
    assert run(["store", "verify", str(tmp_path / "s.zarr")]) == 1
    out, err = capsys.readouterr()
    assert "features" in out
    assert "1 findings" in err


def test_what_extract_wrote_opens_with_plain_zarr(photos: Path, tmp_path: Path) -> None:
    assert run(["extract", str(photos), "--store", str(tmp_path / "s.zarr"), *TINY]) == 0
    store = FeatureStore(tmp_path / "s.zarr")
    key = store.keys()[0]
    group = zarr.open_group(tmp_path / "s.zarr", mode="r")
    (source,) = store.info(key)["sources"]
    row_M = np.asarray(zarr.open_array(tmp_path / "s.zarr" / key.path / "row", mode="r")[:])
    features_RD = np.asarray(zarr.open_array(tmp_path / "s.zarr" / source["path"] / "features", mode="r")[:])
    assert f"{key.path}/ids" in group
    np.testing.assert_array_equal(features_RD[row_M], store.read(key).features)
    assert np.isfinite(store.read(key).features).all()


@pytest.mark.slow
def test_a_closed_pipe_is_no_error() -> None:
    script = f"{sys.executable} -m penultimate models 'tf_*' | head -1"
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {script}"], capture_output=True, text=True, check=False)
    assert done.stderr == ""


def test_ctrl_c_while_it_is_still_importing_is_one_line_and_130() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "penultimate", "models"]  # says each import once it is done
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if line.rstrip().endswith(" numpy"):
            process.send_signal(signal.SIGINT)
            break
    said = [line for line in process.stderr if not line.startswith("import time:")]
    process.stderr.close()
    assert process.wait() == 130
    assert said == ["penultimate: interrupted before anything had begun\n"]


def test_an_option_has_one_help_text_in_all_verbs() -> None:
    said: dict[str, set[str]] = {}
    for command in typer.main.get_command(app).commands.values():  # type: ignore[attr-defined]  # a group's own
        for option in getattr(command, "params", ()):
            for name in option.opts:
                if name in SHARED and getattr(option, "help", None):
                    said.setdefault(name, set()).add(option.help.split(" [default")[0])
    assert {name: texts for name, texts in said.items() if len(texts) > 1} == {}
    assert said.keys() == SHARED


def test_no_verb_has_more_than_26_options() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]  # a group's own
    counts = {
        name: len([p for p in getattr(c, "params", ()) if p.param_type_name == "option"])
        for name, c in commands.items()
    }
    assert {name: count for name, count in counts.items() if count > 26} == {}
