import pytest

from penultimate.engine.runtime.partition import WHOLE, Partition
from penultimate.store.errors import InputError


@pytest.mark.parametrize("num_items", [0, 2, 3, 20])
def test_all_partitions_together_hold_every_item_once_in_order(num_items: int) -> None:
    items = list(range(num_items))
    parts = [Partition.parse(f"{index}/3").of(items) for index in range(3)]
    assert [item for part in parts for item in part] == items
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_the_only_partition_is_the_whole() -> None:
    assert Partition.parse("0/1") == WHOLE
    assert WHOLE.of("abc") == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("4/4", "counts from 0: expected 0/4 to 3/4, got 4/4"),
        ("1/1", "counts from 0"),
        ("0/0", "counts from 0: expected 0/1, got 0/0"),
        ("1", "such as 0/2"),
        ("-1/2", "such as 0/2"),
        ("a/b", "such as 0/2"),
    ],
)
def test_what_is_no_partition_is_refused_loudly(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Partition.parse(text)
