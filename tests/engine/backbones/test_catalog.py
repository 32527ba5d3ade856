"""Patterns into names, and what a listing says of a network."""

from pathlib import Path

import pytest

from penultimate.engine.backbones.catalog import describe, listed, match_models
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


def test_a_row_tells_the_sizes_of_the_network() -> None:
    row = describe("resnet50")
    # He et al. 2016 with torchvision's published 25,557,032 parameters, less the classifier's 2048 * 1000 + 1000.
    assert (row.input_size, row.feature_dim, row.parameters) == (224, 2048, 25_557_032 - 2_049_000)
    assert listed("tf_efficientnet_lite2").input_size == 260
