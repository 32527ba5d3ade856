from pathlib import Path

import pandas as pd
import pytest

from penultimate.engine.analysis.accuracy_table import read_accuracy_table
from penultimate.store.errors import InputError

PERCENT = "model,imagenet,cars,dtd\na,70,50.5,60\nb,75,55,62.5\nc,80,0.9,70\n"


def _file(folder: Path, content: str, name: str = "table.csv") -> Path:
    path = folder / name
    path.write_text(content)
    return path


def test_percentages_become_fractions_and_are_said_to_be(tmp_path: Path) -> None:
    table = read_accuracy_table(_file(tmp_path, PERCENT))
    assert (table.models, table.datasets) == (("a", "b", "c"), ("cars", "dtd"))
    assert table.imagenet_M.tolist() == pytest.approx([0.7, 0.75, 0.8])
    assert table.accuracy_MD[:, 0] == pytest.approx([0.505, 0.55, 0.009])
    assert table.unit == "percent (largest value 80)"


def test_fractions_and_percentages_are_the_same_table(tmp_path: Path) -> None:
    frame = pd.read_csv(_file(tmp_path, PERCENT), index_col=0)
    (frame / 100).to_csv(tmp_path / "fractions.csv")
    fractions = read_accuracy_table(tmp_path / "fractions.csv")
    assert fractions.unit == "fraction (largest value 0.8)"
    assert fractions.accuracy_MD == pytest.approx(read_accuracy_table(tmp_path / "table.csv").accuracy_MD)


@pytest.mark.parametrize("index", [True, False])
def test_parquet_is_read_with_models_as_index_or_as_column(tmp_path: Path, index: bool) -> None:
    frame = pd.read_csv(_file(tmp_path, PERCENT), index_col=0 if index else None)
    frame.to_parquet(tmp_path / "table.parquet")
    assert read_accuracy_table(tmp_path / "table.parquet").models == ("a", "b", "c")


def test_columns_may_be_chosen_and_the_unit_told(tmp_path: Path) -> None:
    low = _file(tmp_path, "top1,name,x,y,note\n0.5,a,0.2,0.3,n\n0.7,b,0.4,0.5,n\n0.8,c,0.9,1,n\n")
    table = read_accuracy_table(low, imagenet="top1", model_column="name", datasets=["y"], unit="percent")
    assert table.models == ("a", "b", "c")
    assert table.accuracy_MD[:, 0] == pytest.approx([0.003, 0.005, 0.01])
    assert table.unit == "percent (as told)"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (PERCENT.replace("imagenet", "imagnet"), "no column of .* named 'imagenet'; did you mean imagnet"),
        (PERCENT.replace("62.5", "n/a?"), "column 'dtd' has 'n/a\\?' for b"),
        (PERCENT.replace("62.5", ""), "column 'dtd' has an empty cell for b"),
        (PERCENT.replace("62.5", "162.5"), "b has 162.5 on dtd; expected 0 to 100"),
        (PERCENT.replace("62.5", "-1"), "b has -1 on dtd"),
        (PERCENT.replace("c,80", "b,80"), "one row, found several of b"),
        (PERCENT.replace("c,80,0.9,70\n", ""), "at least 3 models"),
        (PERCENT.replace("cars", "dtd"), "several columns named 'dtd'"),
        (PERCENT.replace("c,80", ",80"), "row 3 of .* has no name"),
        ("model,imagenet,x\na,70,0.2\nb,71,0.4\nc,72,0.9\n", "no value of x is above 1 while imagenet reaches 72"),
        ("model,imagenet\na,70\nb,71\nc,72\n", "0 datasets"),
        ("", "cannot be read as a table"),
        ("model,imagenet,x\n", "0 rows"),
        ("a,b,c\n1,2\n3,4,5,6\n", "cannot be read as a table"),
    ],
)
def test_what_is_no_complete_table_is_refused_in_one_line(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_accuracy_table(_file(tmp_path, content))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no table at"):
        read_accuracy_table(tmp_path / "nowhere.csv")


def test_what_only_calls_itself_parquet_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read as a table"):
        read_accuracy_table(_file(tmp_path, PERCENT, "table.parquet"))


def test_imagenet_is_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'imagenet' is ImageNet"):
        read_accuracy_table(_file(tmp_path, PERCENT), datasets=["imagenet", "cars"])


def test_a_column_of_averages_is_pointed_out(tmp_path: Path) -> None:
    frame = pd.read_csv(_file(tmp_path, PERCENT))
    frame["sun397"] = [40.0, 30.0, 60.0]
    frame["mean"] = frame[["cars", "dtd", "sun397"]].mean(axis=1).round(1)
    frame.to_csv(tmp_path / "with_mean.csv", index=False)
    table = read_accuracy_table(tmp_path / "with_mean.csv")
    assert table.datasets == ("cars", "dtd", "sun397", "mean")
    assert [note.split("'")[1] for note in table.notes] == ["mean"]
    assert read_accuracy_table(tmp_path / "with_mean.csv", datasets=["cars", "dtd", "sun397"]).notes == ()
