"""The table of ImageNet accuracies is read, and a user's own table overrides it."""

from pathlib import Path

import pytest

from penultimate.engine.backbones.imagenet import imagenet_top1
from penultimate.store.errors import InputError


def test_the_table_holds_fractions_as_printed() -> None:
    top1 = imagenet_top1()
    assert top1["resnet50.tv_in1k"] == pytest.approx(0.76156)
    assert [round(100 * top1[f"tf_efficientnet_lite{i}"], 2) for i in range(3)] == [74.85, 76.67, 77.47]
    assert all(0.5 < value < 1.0 for value in top1.values())


def test_a_users_rows_come_first(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("model,top1,note\nresnet50.tv_in1k,75.5,measured\nmynet.best,81\n")
    top1 = imagenet_top1(tmp_path / "mine.csv")
    assert (top1["resnet50.tv_in1k"], top1["mynet.best"]) == (0.755, 0.81)
    assert top1["resnet101.tv_in1k"] == imagenet_top1()["resnet101.tv_in1k"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("name,top1\nresnet50,76\n", "columns model and top1"),
        ("model,top1\nresnet50,0.76\n", "looks like a fraction"),
        ("model,top1\nresnet50,n/a\n", "between 0 and 100"),
        ("model,top1\nresnet50\n", "between 0 and 100"),
        ("", "it has none"),
    ],
)
def test_a_table_that_is_none_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "mine.csv").write_text(content)
    with pytest.raises(InputError, match=message):
        imagenet_top1(tmp_path / "mine.csv")
    with pytest.raises(InputError, match="cannot be read"):
        imagenet_top1(tmp_path / "absent.csv")
