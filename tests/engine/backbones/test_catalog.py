"""Patterns are expanded to names of networks, and a listing describes each."""

from pathlib import Path

import pytest

from penultimate.engine.backbones.catalog import SETS, describe, listed, match_models, model_set
from penultimate.engine.backbones.imagenet import imagenet_table
from penultimate.store.errors import InputError, UnknownNameError


def test_names_globs_and_list_files_give_names_in_order_each_once(tmp_path: Path) -> None:
    models = tmp_path / "mine.txt"
    models.write_text("resnet50.tv_in1k  # torchvision's\n\ntf_efficientnet_lite[01]\n")
    assert match_models(["tf_efficientnet_lite1", str(models), "resnet50.tv*"]) == [
        "tf_efficientnet_lite1",
        "resnet50.tv_in1k",
        "tf_efficientnet_lite0",
        "resnet50.tv2_in1k",
    ]


def test_what_matches_nothing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("# nothing\n")
    for pattern, error in (
        ("resnet5o", UnknownNameError),
        ("resnet50.tv3_in1k", UnknownNameError),
        ("no_such*", UnknownNameError),
        (str(tmp_path / "absent.txt"), InputError),
        (str(tmp_path / "empty.txt"), InputError),
    ):
        with pytest.raises(error):
            match_models([pattern])


def test_a_set_is_ours_by_name_or_a_file_of_the_users(tmp_path: Path) -> None:
    assert len(model_set("kornblith16")) == 16
    assert match_models(["kornblith16"]) == list(SETS["kornblith16"])
    contents = {
        "a.txt": "bn_inception\nresnet50.tv*\n",
        "a.csv": "note,model\nx,bn_inception\ny,resnet50.tv*\n",
        "a.yaml": "- bn_inception\n- resnet50.tv*\n",
        "a.yml": "models: [bn_inception, resnet50.tv*]\n",
    }
    for name, content in contents.items():
        (tmp_path / name).write_text(content)
        assert model_set(str(tmp_path / name)) == ["bn_inception", "resnet50.tv2_in1k", "resnet50.tv_in1k"], name


def test_a_set_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("name\nresnet50\n")
    (tmp_path / "a.yaml").write_text("models: resnet50\n")
    (tmp_path / "b.yaml").write_text("[resnet50\n")
    for name in ("a.csv", "a.yaml", "b.yaml", "absent.csv"):
        with pytest.raises(InputError, match="list of models") as raised:
            model_set(str(tmp_path / name))
        assert "\n" not in str(raised.value)
    with pytest.raises(UnknownNameError, match="kornblith16"):
        model_set("kornblith")


def test_globs_find_the_networks_that_timm_lacks() -> None:
    assert match_models(["nasnet*"]) == ["nasnetalarge", "nasnetamobile"]
    assert match_models(["nasnet*.*"]) == ["nasnetalarge.tf_in1k", "nasnetamobile.tf_in1k"]


def test_a_row_tells_the_sizes_of_the_network_and_the_accuracy_of_its_weights() -> None:
    table = imagenet_table()
    row = describe("resnet50.tv_in1k", table)
    # He et al. 2016 with torchvision's published 25,557,032 parameters, less the classifier's 2048 * 1000 + 1000.
    assert (row.input_size, row.feature_dim, row.parameters) == (224, 2048, 25_557_032 - 2_049_000)
    assert (row.network, row.penultimate) == ("ResNet-50", "layer4")
    assert row.imagenet_top1 == pytest.approx(0.76156)
    assert row.imagenet_source == "timm results-imagenet.csv, copied 2026-11-22"
    assert describe("resnet50", table).weights == "resnet50.a1_in1k"
    quick = listed("tf_efficientnet_lite2", table)
    assert (quick.input_size, quick.feature_dim, quick.weights) == (260, None, "tf_efficientnet_lite2.in1k")
    assert listed("bn_inception", table).network == "BN-Inception"
    assert listed("test_vit", {}).imagenet_top1 is None
